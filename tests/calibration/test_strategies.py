"""Strategies of sampling, range coverage, and outliers of broken audio."""

import itertools

import numpy as np
import pandas as pd
import pytest
import soundfile

from helpers.models import made_up_table, tiny_encoder
from helpers.places import DEMO_MODEL, ROOT, SHARED_SPEECH, needs_shared_speech
from zipquant.audio import features, manifest, reading
from zipquant.audio.frame_store import FrameWriter
from zipquant.calibration import outliers, ranges, sampling, strategies
from zipquant.model import contract
from zipquant.traces import tracing

NAMES = ("x", "cached_x", "processed_lens", "encoder_out")


@pytest.fixture
def model(tmp_path):
    return contract.inspect(tiny_encoder(tmp_path / "e.onnx"))


@pytest.fixture
def table(model):
    """Chunks of 40 utterances of two speakers, 1 to 12 chunks each."""
    parts = [made_up_table(model, f"s{u % 2}/u{u}", u % 12 + 1, seed=u) for u in range(40)]
    whole = pd.concat(parts, ignore_index=True)
    whole["row"] = range(len(whole))
    return whole


def split(table, shards):
    """Split a table into shards as the workflow does, in another order of the rows."""
    number = table["utterance"].map(lambda name: manifest.shard_of(name, shards))
    found = []
    for shard in range(shards):
        part = table[number == shard].iloc[::-1].reset_index(drop=True)
        found.append(part.assign(row=range(len(part))))
    return found


def choose(tables, strategy, rows, seed=1):
    chosen = strategies.STRATEGIES[strategy](tables, rows, seed, NAMES)
    return [(chunk.utterance, chunk.chunk) for chunk in chosen]


def covered(table, names, tensors=NAMES):
    index = table.set_index(["utterance", "chunk"])
    rows = ranges.reach(index.loc[names], tensors).max(axis=0)
    return ranges.coverage(rows, ranges.reach(table, tensors).max(axis=0))


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
@pytest.mark.parametrize("rows", [1, 7, 60, 10_000])
def test_no_strategy_depends_on_shards_or_order(table, strategy, rows):
    expected = choose([table], strategy, rows)
    for shards in (1, 3, 16):
        assert choose(split(table, shards), strategy, rows) == expected
    assert len(expected) == len(set(expected)) <= rows


@pytest.mark.parametrize("strategy", ["all", "uniform", "stratified", "coverage"])
def test_every_chunk_is_taken_when_there_are_few(table, strategy):
    everything = sorted(zip(table["utterance"], table["chunk"], strict=True))
    assert sorted(choose([table], strategy, 10_000)) == everything


def test_snapshot_takes_start_middle_and_end(table):
    chosen = choose([table], "snapshot", 10_000)
    assert [chunk for name, chunk in chosen if name == "s1/u11"] == [0, 6, 11]
    assert [chunk for name, chunk in chosen if name == "s1/u1"] == [0, 1]
    assert [chunk for name, chunk in chosen if name == "s0/u0"] == [0]


def test_stratified_takes_kinds_by_share_and_sources_in_turn(table):
    # A third speaker with few chunks would hardly be drawn by chance.
    table = pd.concat([table, *split(table[table["utterance"] == "s0/u8"], 1)])
    table = table.reset_index(drop=True)
    table.loc[table.index[-9:], "utterance"] = "rare/u"
    loudest = table.groupby("utterance")["energy"].transform("max")
    silent = table["energy"] < loudest - strategies.SILENCE
    kinds = np.where(table["chunk"] == 0, "start", np.where(silent, "silence", "speech"))
    kind = dict(zip(zip(table["utterance"], table["chunk"], strict=True), kinds, strict=True))
    chosen = choose([table], "stratified", 40)
    counts = pd.Series([kind[name] for name in chosen]).value_counts()
    assert counts.to_dict() == {"speech": 28, "silence": 8, "start": 4}
    sources = pd.Series(
        [name.split("/")[0] for name, c in chosen if kind[name, c] == "speech"]
    ).value_counts()
    rare = sum(kind[key] == "speech" for key in kind if key[0] == "rare/u")
    assert sources["rare"] == rare
    assert abs(sources["s0"] - sources["s1"]) <= 1


def test_stratified_fills_up_where_a_kind_runs_out(model):
    single = pd.concat([made_up_table(model, f"u{u}", 1, seed=u) for u in range(9)])
    assert len(choose([single], "stratified", 6)) == 6


def test_coverage_spans_every_tensor_with_few_rows(table):
    chosen = choose([table], "coverage", 30)
    spanning = next(n for n in range(1, 30) if covered(table, chosen[:n]).min() == 1)
    assert spanning < 15
    assert covered(table, choose([table], "uniform", 30)).min() < 1
    # What follows is a uniform sample.
    rest = [name for name in choose([table], "uniform", 30) if name not in chosen[:spanning]]
    assert chosen[spanning:] == rest[: 30 - spanning]


def test_coverage_takes_greedily_the_best_of_all_chunks(table):
    # The pool of candidates leaves none out: checked against a search through all chunks.
    chosen = choose(split(table, 5), "coverage", 4)
    names = list(zip(table["utterance"], table["chunk"], strict=True))
    for count in range(1, 5):
        head = chosen[: count - 1]
        best = max(covered(table, [*head, name]).mean() for name in names)
        assert covered(table, chosen[:count]).mean() == pytest.approx(best, abs=1e-12)


def test_utterance_inside_the_covered_ranges_displaces_nothing_of_coverage(model, table):
    before = choose([table], "coverage", 60)
    greedy = next(n for n in range(1, 60) if covered(table, before[:n]).min() == 1)
    quiet = table[table["utterance"] == "s1/u11"].copy()
    quiet["utterance"] = "s1/new"
    for name in NAMES:
        middle = table[f"{name}.min"].median()
        quiet[f"{name}.min"] = quiet[f"{name}.max"] = middle
    after = choose([pd.concat([table, quiet])], "coverage", 60)
    assert after[:greedy] == before[:greedy]
    brought = [name for name in after if name[0] == "s1/new"]
    assert 0 < len(brought) < 12
    assert set(after) - set(brought) < set(before)


def test_coverage_of_a_range_is_its_share(table):
    whole = np.array([4.0, 1.0, 7.0, 0.0, 0.0, -7.0])  # 0..4, 0..1, and a constant 7
    rows = np.array([3.0, 0.5, 7.0, -1.0, -0.5, -7.0])  # 1..3, 0.5..0.5, 7
    np.testing.assert_allclose(ranges.coverage(rows, whole), [0.5, 0.0, 1.0])
    beyond = np.array([90.0, -3.0, 7.0, 50.0, 5.0, -7.0])  # -50..90, -5..-3, 7
    np.testing.assert_allclose(ranges.coverage(beyond, whole), [1.0, 0.0, 1.0])


# Outliers


def judged(model, tables):
    limits = outliers.find_limits(lambda: iter(tables), model)
    table = pd.concat(tables, ignore_index=True)
    reasons = limits.judge(table)
    return [
        (utterance, chunk, reason)
        for utterance, chunk, reason in zip(
            table["utterance"], table["chunk"], reasons, strict=True
        )
        if reason
    ]


def test_sound_chunks_are_no_outliers(model, table):
    assert judged(model, split(table, 4)) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("x.max", 30.0), ("cached_x.min", -1e4), ("encoder_out.max", 1e6), ("energy", 8.0)],
)
def test_outlier_is_left_out_with_its_utterance(model, table, column, value):
    table.loc[(table["utterance"] == "s1/u11") & (table["chunk"] == 4), column] = value
    found = judged(model, split(table, 3))
    assert sorted(chunk for _, chunk, _ in found) == list(range(12))
    assert {name for name, _, _ in found} == {"s1/u11"}
    assert all(reason.startswith(f"{column} is ") for _, _, reason in found)


def test_long_stream_is_left_out_from_the_passage_of_the_outlier_on(model, table):
    stream = made_up_table(model, "stream", 100, seed=99)
    stream.loc[40, "x.max"] = 60.0
    found = judged(model, [table, stream])
    assert sorted(chunk for _, chunk, _ in found) == list(range(32, 100))


def test_counter_of_a_long_stream_is_no_outlier(model, table):
    table.loc[table["utterance"] == "s1/u11", "processed_lens.max"] = 1e6
    assert judged(model, [table]) == []


def test_many_broken_utterances_do_not_hide_each_other(model, table):
    broken = table["utterance"].isin(sorted(set(table["utterance"]))[:15])
    table.loc[broken, "cached_x.max"] = 1e3
    found = judged(model, [table])
    assert {name for name, _, _ in found} == set(table["utterance"][broken])


def test_loud_voice_with_company_is_kept_and_without_is_not(model, table):
    typical = table.groupby("utterance")["x.max"].max().median()
    width = typical - table.groupby("utterance")["x.min"].min().median()
    for names, expected in ((("s1/u11",), {"s1/u11"}), (("s1/u11", "s1/u23"), set())):
        some = table.copy()
        some.loc[some["utterance"].isin(names), "x.max"] = typical + 2.8 * width
        assert {name for name, _, _ in judged(model, [some])} == expected


def test_two_passages_are_too_few_to_judge(model):
    two = [made_up_table(model, name, 5, seed) for seed, name in enumerate("ab")]
    two[0].loc[3, "x.max"] = 1e3
    assert judged(model, two) == []


def traced(folder, model_file, recordings):
    """Trace recordings (samples by name) with a real model; return model.json and the table."""
    contract.inspect(model_file).save(folder / "model.json")
    with FrameWriter(folder / "f.h5") as writer:
        for name, samples in recordings.items():
            padded = np.concatenate([samples, np.zeros(10560, np.float32)])
            writer.add(name, features.fbank(padded.astype(np.float32)))
    arguments = [folder / name for name in ("model.json", "f.h5", "t.h5", "t.parquet")]
    tracing.trace_shard(model_file, *arguments, lanes=16)
    return folder / "model.json", folder / "t.parquet"


def broken_recordings(samples):
    """Return a recording as broken equipment and software would leave it."""
    random = np.random.default_rng(0)
    return {
        "clipped": np.clip(100 * samples, -1, 1),
        "noise": random.uniform(-1, 1, len(samples)),
        "unscaled": 32768 * samples,
    }


@pytest.mark.parametrize("source", ["demo", pytest.param("mandarin", marks=needs_shared_speech)])
def test_coverage_with_50_rows_reaches_uniform_with_200_and_never_takes_broken_audio(
    tmp_path, source
):
    where = {"demo": ROOT / "demo/audio/calibration.tsv", "mandarin": SHARED_SPEECH / "mandarin"}
    found = manifest.read(str(where[source]))
    recordings = {utterance.id: reading.load(utterance.path) for utterance in found}
    broken = broken_recordings(next(iter(recordings.values())))
    model_json, table = traced(tmp_path, DEMO_MODEL, recordings | broken)
    figures = {}
    for strategy, rows in itertools.product(strategies.STRATEGIES, (50, 200)):
        outputs = [tmp_path / name for name in ("sample.tsv", "coverage.tsv", "outliers.tsv")]
        sampling.sample([table], model_json, *outputs, sampling.Draw(strategy, rows, 0))
        assert not {chunk.utterance for chunk in sampling.read(outputs[0])} & set(broken)
        left_out = pd.read_csv(outputs[2], sep="\t")
        assert set(left_out["utterance"]) == set(broken)
        written = pd.read_csv(outputs[1], sep="\t").set_index("tensor")
        assert len(written) == 37
        figures[strategy, rows] = written["coverage"].mean(), written["coverage"].min()
    assert figures["coverage", 50][0] >= figures["uniform", 200][0]
    assert figures["coverage", 50][1] >= figures["uniform", 200][1]
    assert figures["uniform", 50][1] < figures["coverage", 50][1]


def test_coverage_file_agrees_with_the_rows(tmp_path, demo_contract):
    recordings = {"a": broken_recordings(np.full(32000, 1e-4, np.float32))["noise"] * 0.05}
    recordings |= {"b": soundfile.read(ROOT / "demo/audio/calibration/cali-01.wav")[0]}
    model_json, path = traced(tmp_path, DEMO_MODEL, recordings)
    outputs = [tmp_path / name for name in ("sample.tsv", "coverage.tsv", "outliers.tsv")]
    sampling.sample([path], model_json, *outputs, sampling.Draw("uniform", 3, 0))
    table = pd.read_parquet(path).set_index(["utterance", "chunk"])
    rows = table.loc[[(c.utterance, c.chunk) for c in sampling.read(outputs[0])]]
    for entry in pd.read_csv(outputs[1], sep="\t", float_precision="round_trip").itertuples():
        low, high = table[f"{entry.tensor}.min"].min(), table[f"{entry.tensor}.max"].max()
        assert (entry.min, entry.max) == (low, high)
        assert entry.rows_min == rows[f"{entry.tensor}.min"].min()
        assert entry.rows_max == rows[f"{entry.tensor}.max"].max()
        share = (entry.rows_max - entry.rows_min) / (high - low)
        assert entry.coverage == pytest.approx(share)
