"""The global sample and the calibration set."""

import itertools

import numpy as np
import pandas as pd
import pytest

from helpers.models import made_up_table, tiny_encoder
from zipquant.audio import manifest
from zipquant.audio.frame_store import FrameWriter
from zipquant.calibration import sampling, strategies
from zipquant.calibration.dataset import write as write_dataset
from zipquant.errors import UserError
from zipquant.model import contract, streaming
from zipquant.traces import tracing

CHUNKS = [(f"speaker{u % 7}/u{u}", chunk) for u in range(60) for chunk in range(u % 9 + 1)]


def tables(chunks, shards):
    """Split chunks into shard tables the way the workflow does."""
    split = [[] for _ in range(shards)]
    for utterance, chunk in chunks:
        split[manifest.shard_of(utterance, shards)].append((utterance, chunk))
    return [
        pd.DataFrame(
            {
                "utterance": [u for u, _ in shard],
                "chunk": [c for _, c in shard],
                "row": range(len(shard)),
            }
        )
        for shard in split
    ]


def names(chosen):
    return [(chunk.utterance, chunk.chunk) for chunk in chosen]


@pytest.mark.parametrize("shards", [1, 2, 5, 64])
def test_sample_does_not_depend_on_shards_or_order(shards):
    expected = names(strategies.uniform(tables(CHUNKS, 3), 40, seed=1))
    assert names(strategies.uniform(tables(CHUNKS, shards), 40, seed=1)) == expected
    assert names(strategies.uniform(tables(CHUNKS[::-1], shards), 40, seed=1)) == expected


def test_smaller_sample_is_the_head_of_a_larger_one():
    large = names(strategies.uniform(tables(CHUNKS, 3), 100, seed=1))
    assert names(strategies.uniform(tables(CHUNKS, 3), 20, seed=1)) == large[:20]


def test_sample_is_without_replacement_and_takes_all_when_few():
    chosen = names(strategies.uniform(tables(CHUNKS, 3), 10_000, seed=1))
    assert sorted(chosen) == sorted(CHUNKS)


def test_added_utterance_displaces_no_more_rows_than_it_brings():
    before = names(strategies.uniform(tables(CHUNKS, 3), 50, seed=1))
    more = [("new", chunk) for chunk in range(30)]
    after = names(strategies.uniform(tables(CHUNKS + more, 3), 50, seed=1))
    brought = [name for name in after if name[0] == "new"]
    kept = [name for name in after if name[0] != "new"]
    assert kept == before[: len(kept)]
    assert len(brought) + len(kept) == 50
    assert 0 < len(brought) < 20


def test_sample_is_uniform():
    # Each chunk's share of 2,000 draws is binomial; five standard deviations bound all of them.
    few = CHUNKS[:50]
    counts = dict.fromkeys(few, 0)
    for seed in range(2000):
        for name in names(strategies.uniform(tables(few, 4), 10, seed)):
            counts[name] += 1
    deviation = 5 * np.sqrt(2000 * 0.2 * 0.8)
    assert max(counts.values()) < 400 + deviation
    assert min(counts.values()) > 400 - deviation


def test_no_chunk_at_all_is_refused(tmp_path):
    model = contract.inspect(tiny_encoder(tmp_path / "e.onnx"))
    model.save(tmp_path / "model.json")
    made_up_table(model, "a", 0).to_parquet(tmp_path / "t.parquet")
    outputs = [tmp_path / name for name in ("s.tsv", "c.tsv", "o.tsv")]
    for strategy in strategies.STRATEGIES:
        with pytest.raises(UserError, match="not a single chunk"):
            sampling.sample(
                [tmp_path / "t.parquet"],
                tmp_path / "model.json",
                *outputs,
                sampling.Draw(strategy, 10, 0),
            )
    assert not any(path.exists() for path in outputs)


@pytest.fixture
def written(tmp_path):
    """A calibration set of the tiny encoder: 6 chunks of two utterances in two shards."""
    model = contract.inspect(tiny_encoder(tmp_path / "e.onnx"))
    model.save(tmp_path / "model.json")
    random = np.random.default_rng(0)
    frames = []
    rows = {}
    encoder = streaming.OnnxEncoder(tmp_path / "e.onnx", model)
    for shard, utterance in enumerate(("a", "b")):
        # 18 frames are 3 chunks of the tiny encoder.
        speech = random.normal(-8, 3, (18, 80)).astype(np.float32)
        with FrameWriter(tmp_path / f"{shard}.features.h5") as writer:
            writer.add(utterance, speech)
        inputs = ("e.onnx", "model.json", f"{shard}.features.h5")
        outputs = (f"{shard}.h5", f"{shard}.parquet")
        tracing.trace_shard(*(tmp_path / name for name in inputs + outputs), lanes=1)
        for step in streaming.stream(encoder, model, [speech]):
            rows[utterance, step.chunk] = step.inputs
        frames.append(tmp_path / f"{shard}.parquet")
    outputs = [tmp_path / name for name in ("sample.tsv", "coverage.tsv", "outliers.tsv")]
    sampling.sample(frames, tmp_path / "model.json", *outputs, sampling.Draw("uniform", 6, 7))
    stored = [tmp_path / "0.h5", tmp_path / "1.h5"]
    dataset = tmp_path / "dataset.txt"
    write_dataset(
        tmp_path / "sample.tsv", stored, tmp_path / "model.json", dataset, tmp_path / "arrays"
    )
    return model, dataset, rows


def test_rows_are_the_sampled_chunks_in_onnx_order(written):
    _, dataset, rows = written
    chosen = names(sampling.read(dataset.with_name("sample.tsv")))
    lines = dataset.read_text().splitlines()
    assert len(lines) == len(chosen) == 6
    for name, line in zip(chosen, lines, strict=True):
        for path, array in zip(line.split(" "), rows[name], strict=True):
            stored = np.load(dataset.parent / path)
            np.testing.assert_array_equal(stored, array)
            assert stored.dtype == array.dtype


def test_equal_arrays_are_stored_once(written):
    _, dataset, rows = written
    different = {array.tobytes() for row in rows.values() for array in row}
    assert len(list((dataset.parent / "arrays").iterdir())) == len(different) < 18


def test_same_input_gives_the_same_bytes(written, tmp_path):
    _, dataset, _ = written
    again = tmp_path / "again"
    write_dataset(
        tmp_path / "sample.tsv",
        [tmp_path / "0.h5", tmp_path / "1.h5"],
        tmp_path / "model.json",
        again / "dataset.txt",
        again / "arrays",
    )
    assert (again / "dataset.txt").read_bytes() == dataset.read_bytes()
    for path in (tmp_path / "arrays").iterdir():
        assert (again / "arrays" / path.name).read_bytes() == path.read_bytes()


def test_priorities_do_not_collide():
    several = itertools.product(("a", "a1", "ab"), range(300))
    assert len({strategies.priority(0, *chunk) for chunk in several}) == 900


def test_strategy_can_be_registered_from_outside(written, tmp_path, monkeypatch):
    """Those who need another order of chunks register it; sampling is not touched."""

    def last_first(tables, rows, seed, tensors=()):
        chunks = strategies.everything(tables, 10**6, seed)
        return sorted(chunks, key=lambda chunk: -chunk.chunk)[:rows]

    monkeypatch.setitem(strategies.STRATEGIES, "last-first", last_first)
    folder = written[1].parent
    frames = [folder / f"{shard}.parquet" for shard in range(2)]
    outputs = [tmp_path / f"again-{name}.tsv" for name in ("sample", "coverage", "outliers")]
    draw = sampling.Draw("last-first", 3, 0)
    sampling.sample(frames, folder / "model.json", *outputs, draw)
    assert [chunk.chunk for chunk in sampling.read(outputs[0])] == [2, 2, 1]
