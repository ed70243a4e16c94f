"""The choice of the best variant: fitness, accuracy, then size or speed, and the reasons."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers.models import tiny_encoder
from zipquant.errors import UserError
from zipquant.evaluation import choice, encoder_error
from zipquant.evaluation.choice import Rule
from zipquant.evaluation.verdict import Evidence, Judgement, Limits, Status
from zipquant.model import contract
from zipquant.recognition import error_rates
from zipquant.toolkit import layer_costs
from zipquant.toolkit.layer_costs import ESTIMATED, Range
from zipquant.toolkit.layer_table import COMPILER, Layer, Table

LIMITS = Limits(most_points_lost=1.0, most_text_changed=3.0, least_sqnr=15)


def entry(
    name: str, errors: list[int] | None, size: float, sqnr_db: float | None = None, **known
) -> choice.Entry:
    """Return a candidate with its errors in utterances of 10 words, and its size in MB."""
    counts = errors and error_rates.Counts(np.array(errors), np.full(len(errors), 10))
    rate = counts and error_rates.rate(counts)["rate"]
    evidence = Evidence(chunks=100, sqnr_db=sqnr_db)
    size = round(size * 1e6)
    return choice.Entry(name, size, evidence=evidence, counts=counts, error_rate=rate, **known)


def judged(name: str, status: Status, quantized: bool = True, **known) -> choice.Entry:
    """Return a candidate that was judged already."""
    judgement = Judgement(status, (), Evidence(chunks=100), LIMITS)
    return entry(name, None, 5, quantized=quantized, judgement=judgement, **known)


def names(entries: list[choice.Entry], rule: Rule = Rule()) -> list[str]:  # noqa: B008
    return [e.variant for e in choice.decide(entries, "word error rate", rule)[0]]


NONE, ONE, MANY = [0] * 30, [1] + [0] * 29, [2] * 30
"""Errors of 30 utterances: none, one that may be chance, and many that are not."""


def test_clear_difference_in_accuracy_decides_before_size():
    entries = [entry("small", MANY, 3), entry("large", NONE, 9)]
    ranked, why = choice.decide(entries, "word error rate", Rule())
    assert [e.variant for e in ranked] == ["large", "small"]
    assert why[0] == "large has the lowest word error rate, 0.00 %"
    assert why[1].startswith("small has +20.00 points (95 % interval +20.00 to +20.00), which is w")


def test_difference_that_may_be_chance_leaves_the_choice_to_size_or_speed():
    entries = [
        entry("good", NONE, 7, int8_macs=0.90),
        entry("small", ONE, 5, int8_macs=0.95),
        entry("fast", ONE, 6, int8_macs=0.99),
        entry("bad", MANY, 4, int8_macs=1.0),
    ]
    assert names(entries) == ["small", "fast", "good", "bad"]
    assert names(entries, Rule(prefer="speed")) == ["fast", "small", "good", "bad"]
    # Where the time is known of all, it decides, whatever the share in int8.
    for candidate, ms in zip(entries, (9, 8, 14, 5), strict=True):
        candidate.chunk_ms, candidate.timed = Range(ms, 2 * ms), "estimated"
    assert names(entries, Rule(prefer="speed")) == ["small", "good", "fast", "bad"]
    _, why = choice.decide(entries, "word error rate", Rule(prefer="speed"))
    assert why[-1] == (
        f"of these 3, small takes the least time, {ESTIMATED} "
        "(good 9.0 to 18.0 ms, small 8.0 to 16.0 ms, fast 14.0 to 28.0 ms)"
    )
    entries[1].chunk_ms = None
    assert names(entries, Rule(prefer="speed")) == ["fast", "small", "good", "bad"]
    _, why = choice.decide(entries, "word error rate", Rule())
    assert (
        why[-1] == "of these 3, small is the smallest (good 7.00 MB, small 5.00 MB, fast 6.00 MB)"
    )


def test_of_files_of_a_size_the_one_with_less_noise_is_taken():
    entries = [entry("a", NONE, 5, sqnr_db=30.0), entry("b", NONE, 5.02, sqnr_db=33.0)]
    assert names(entries) == ["b", "a"]


def test_what_sherpa_onnx_refuses_comes_last_unless_all_are_refused():
    refused = entry("refused", NONE, 3, refusals=["'Unsupported tensor type': x of type int8"])
    entries = [refused, entry("fit", ONE, 5)]
    ranked, why = choice.decide(entries, "word error rate", Rule())
    assert [e.variant for e in ranked] == ["fit", "refused"]
    assert why[-1].startswith("refused is passed over, because a stock sherpa-onnx cannot use it")
    assert names(entries, Rule(loadable=False)) == ["refused", "fit"]
    ranked, why = choice.decide([refused], "word error rate", Rule())
    assert [e.variant for e in ranked] == ["refused"]
    assert why[-1].startswith("a stock sherpa-onnx can use no candidate")


def test_without_texts_the_encoder_output_decides():
    entries = [
        entry("a", None, 5, sqnr_db=31.0),
        entry("b", None, 4, sqnr_db=31.2),
        entry("c", None, 3, sqnr_db=25.0),
    ]
    assert names(entries) == ["b", "a", "c"]
    assert names([entry("a", None, 5), entry("b", None, 6, sqnr_db=1.0)]) == ["b", "a"]


def test_errors_are_counted_against_transcripts_or_the_float_models_text():
    texts = {
        "float": {"u1": "one two", "u2": "six"},
        "a": {"u1": "one", "u2": "six"},
        "b": {"u1": "one two", "u2": "six"},
    }
    entries = [entry("a", None, 5), entry("b", None, 5)]
    measure = choice.count(entries, texts, {})
    assert measure == "word error rate against the float model's text"
    assert [e.error_rate for e in entries] == [pytest.approx(100 / 3), 0]
    assert choice.count(entries, texts, {"u1": "One", "u9": "of no evaluated one"}) == (
        "word error rate"
    )
    assert [e.error_rate for e in entries] == [0, 100]


@pytest.mark.parametrize(
    ("int8", "fp16", "best"),
    [
        (Status.FIT, Status.FIT, "int8"),
        (Status.NOT_SHOWN, Status.FIT, "int8"),
        (Status.UNKNOWN, Status.UNKNOWN, "int8"),
        (Status.DOUBTFUL, Status.NOT_SHOWN, "int8"),
        (Status.DOUBTFUL, Status.FIT, "fp16"),
        (Status.UNFIT, Status.FIT, "fp16"),
        (Status.UNFIT, Status.NOT_SHOWN, "fp16"),
        (Status.UNFIT, Status.DOUBTFUL, "fp16"),
        (Status.UNFIT, Status.UNFIT, "int8"),
    ],
)
def test_float16_is_chosen_only_where_int8_will_not_do(int8, fp16, best):
    entries = [judged("fp16", fp16, quantized=False), judged("int8", int8)]
    assert names(entries)[0] == best


def test_unfit_variant_is_not_chosen_for_its_size():
    entries = [judged("small", Status.UNFIT), judged("large", Status.NOT_SHOWN)]
    entries[0].bytes = 1
    ranked, why = choice.decide(entries, "SQNR", Rule())
    assert ranked[0].variant == "large"
    assert why[0] == "large is the only quantized variant left"


def test_float16_alone_is_a_candidate():
    assert names([judged("fp16", Status.UNFIT, quantized=False)]) == ["fp16"]


def table_of(path, noise: float, broken: int) -> None:
    """Write an evaluation table of two chunks and two outputs."""
    rows = []
    for chunk in range(2):
        for output in ("encoder_out", "new_cached_x"):
            bad = broken if chunk == 1 else 0
            sums = (100.0, 100.0, 100.0, np.nan if bad else noise, 0.1, float(bad))
            rows.append(("u", chunk, "free-running", output, *sums))
    pd.DataFrame(rows, columns=encoder_error.SCHEMA.names).to_parquet(path)


@pytest.fixture
def run(tmp_path):
    """Return what chooses among made-up variants: (dtype, noise, broken values, text) by name."""
    tiny = contract.inspect(tiny_encoder(tmp_path / "tiny.onnx"))
    tiny.save(tmp_path / "model.json")

    def written(variants: dict, own: list[str], transcripts: list[str] | None = None) -> dict:
        builds, tables, texts = [], [], []

        def text_of(name: str, said: list[str]) -> None:
            texts.append(tmp_path / f"{name}.tsv")
            lines = [f"u{number}\t{text}\t" for number, text in enumerate(said)]
            texts[-1].write_text("\n".join(["utterance\ttext\ttokens", *lines]) + "\n")

        if own is not None:
            text_of("float", own)
        for name, (dtype, noise, broken, said) in variants.items():
            builds.append(tmp_path / f"{name}.json")
            build = {"platform": "rk3588", "dtype": dtype, "bytes": 5_000_000, "refusals": []}
            builds[-1].write_text(json.dumps(build))
            tables.append(tmp_path / f"{name}.parquet")
            table_of(tables[-1], noise, broken)
            if own is not None:
                text_of(name, said)
        manifest = None
        if transcripts:
            manifest = tmp_path / "manifest.tsv"
            lines = [f"u{n}\tu{n}.wav\t{text}" for n, text in enumerate(transcripts)]
            for number in range(len(transcripts)):
                (tmp_path / f"u{number}.wav").touch()
            manifest.write_text("\n".join(["id\tpath\ttext", *lines]) + "\n")
        choice.write(
            choice.Models(list(variants), builds, tables, [], []),
            tmp_path / "model.json",
            *(texts, manifest, Rule(), LIMITS, None, tmp_path / "best.json"),
        )
        return json.loads((tmp_path / "best.json").read_text())

    return written


SAID = ["one two three four"] * 400
BAD = ["one two"] * 400


def test_int8_that_loses_too_many_words_gives_way_to_float16(run):
    best = run({"int8": ("w8a8", 0.1, 0, BAD), "fp16": ("float16", 1e-4, 0, SAID)}, SAID, SAID)
    assert (best["best"], best["status"]) == ("fp16", "fit")
    assert best["judgements"]["int8"]["why"] == ["loss"]
    assert "int8 loses 50.0 points WER against float (1 point is allowed)" in best["why"]


def test_nan_is_never_the_best_however_good_its_text(run):
    best = run({"fp16": ("float16", 0.0, 3, SAID), "int8": ("w8a8", 0.1, 0, SAID)}, SAID)
    assert best["best"] == "int8"
    assert best["judgements"]["fp16"]["evidence"]["broken_chunks"] == 1
    assert "fp16 gives NaN or infinity in 1 of 2 chunks" in best["why"]
    (row,) = (row for row in best["table"] if row["variant"] == "fp16")
    assert row["sqnr_db"] is None and row["status"] == "unfit"
    alone = run({"fp16": ("float16", 0.0, 3, SAID)}, SAID)
    assert (alone["best"], alone["status"]) == ("fp16", "unfit")


def test_without_text_or_words_nothing_is_claimed(run):
    variants = {"int8": ("w8a8", 0.1, 0, None)}
    assert run(variants, None)["status"] == "unknown"
    silent = run({"int8": ("w8a8", 0.1, 0, [""] * 9)}, [""] * 9)
    assert (silent["status"], silent["judgements"]["int8"]["why"]) == ("unknown", ["no words"])
    failing = run({"int8": ("w8a8", 0.1, 0, BAD)}, [""] * 400, SAID)
    assert failing["judgements"]["int8"]["why"] == ["float fails"]


def test_few_utterances_show_nothing(run):
    best = run({"int8": ("w8a8", 0.1, 0, SAID[:8])}, SAID[:8], SAID[:8])
    assert best["status"] == "not shown"
    assert best["judgements"]["int8"]["needed"] == 75


def test_no_candidate_left_is_an_error_that_names_every_failure(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(
            json.dumps({"platform": "rk3588", "dtype": "w8a8", "failure": f"no memory for {name}"})
        )
    with pytest.raises(UserError, match="a could not be built: no memory for a; b could not be"):
        choice.write(
            choice.Models(["a", "b"], [tmp_path / "a", tmp_path / "b"], [], [], []),
            *("model.json", [], None, Rule(), LIMITS, None, tmp_path / "best.json"),
        )


def test_time_is_the_boards_where_it_ran_there_and_else_estimated(tmp_path):
    shape = "(1,8)"
    layer = Layer(0, "Conv", "INT8", "NPU", shape, shape, 10, 10, 10, None, "", "")
    layers = [tmp_path / f"{name}.tsv" for name in ("board", "none")]
    for path in layers:
        Table((layer,) * 100, 4, COMPILER).write(path)
    times = []
    for number, target in enumerate(["rk3588", "rk3588", "simulator", "simulator"]):
        times.append(tmp_path / f"{number}.json")
        found = {"target": target, "chunks": 9, "median_ms": 30.0 + number, "p95_ms": 40.0}
        times[-1].write_text(json.dumps(found))
    models = choice.Models(["board", "none"], [], ["t"] * 4, times, layers)
    costs = layer_costs.costs("rk3588")
    assert models.time(0, costs) == ((30.0, 31.0), "measured")
    price, label = models.time(1, costs)
    assert (
        price == layer_costs.price(Table.read(layers[1]), costs)
        and label == choice.TIMED[ESTIMATED]
    )
    assert models.time(1, None) == (None, "")
