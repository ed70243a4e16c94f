"""The choice of the best variant: accuracy, then size or speed, and the reasons."""

import json

import numpy as np
import pytest

from zipquant.errors import UserError
from zipquant.evaluation import choice
from zipquant.recognition import error_rates


def entry(name: str, errors: list[int] | None, size: float, **known) -> choice.Entry:
    """Return a candidate with its errors in utterances of 10 words, and its size in MB."""
    counts = errors and error_rates.Counts(np.array(errors), np.full(len(errors), 10))
    rate = counts and error_rates.rate(counts)["rate"]
    return choice.Entry(name, round(size * 1e6), counts=counts, error_rate=rate, **known)


def names(entries: list[choice.Entry], prefer: str = "size", loadable: bool = True) -> list[str]:
    return [e.variant for e in choice.decide(entries, "word error rate", prefer, loadable)[0]]


NONE, ONE, MANY = [0] * 30, [1] + [0] * 29, [2] * 30
"""Errors of 30 utterances: none, one that may be chance, and many that are not."""


def test_clear_difference_in_accuracy_decides_before_size():
    entries = [entry("small", MANY, 3), entry("large", NONE, 9)]
    ranked, why = choice.decide(entries, "word error rate", "size", True)
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
    assert names(entries, prefer="speed") == ["fast", "small", "good", "bad"]
    _, why = choice.decide(entries, "word error rate", "size", True)
    assert (
        why[-1] == "of these 3, small is the smallest (good 7.00 MB, small 5.00 MB, fast 6.00 MB)"
    )


def test_of_files_of_a_size_the_one_with_less_noise_is_taken():
    entries = [entry("a", NONE, 5, sqnr_db=30.0), entry("b", NONE, 5.02, sqnr_db=33.0)]
    assert names(entries) == ["b", "a"]


def test_what_sherpa_onnx_refuses_comes_last_unless_all_are_refused():
    refused = entry("refused", NONE, 3, refusals=["'Unsupported tensor type': x of type int8"])
    entries = [refused, entry("fit", ONE, 5)]
    ranked, why = choice.decide(entries, "word error rate", "size", True)
    assert [e.variant for e in ranked] == ["fit", "refused"]
    assert why[-1].startswith("refused is passed over, because a stock sherpa-onnx refuses it: 'Un")
    assert names(entries, loadable=False) == ["refused", "fit"]
    ranked, why = choice.decide([refused], "word error rate", "size", True)
    assert [e.variant for e in ranked] == ["refused"]
    assert why[-1].startswith("a stock sherpa-onnx refuses every candidate")


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


def test_no_candidate_left_is_an_error_that_names_every_failure(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(
            json.dumps({"platform": "rk3588", "dtype": "w8a8", "failure": f"no memory for {name}"})
        )
    with pytest.raises(UserError, match="a could not be built: no memory for a; b could not be"):
        choice.write(
            *(["a", "b"], ["a", "b"], [tmp_path / "a", tmp_path / "b"], [], "model.json"),
            *([], None, "size", True, tmp_path / "best.json"),
        )
