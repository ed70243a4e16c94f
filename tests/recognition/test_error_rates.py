"""Error rates and their intervals."""

import random

import pytest

from zipquant.errors import UserError
from zipquant.recognition import error_rates


def test_counts_are_substitutions_deletions_and_insertions():
    references = ["one two three", "six", "", "我们去"]
    hypotheses = ["one three three four", "Six", "two", "我去"]
    found = error_rates.count(references, hypotheses, "word")
    assert found.errors.tolist() == [2, 0, 1, 1]
    assert found.units.tolist() == [3, 1, 0, 3]
    characters = error_rates.count(["ab c"], ["ab d"], "character")
    assert (characters.errors.tolist(), characters.units.tolist()) == ([1], [3])


def test_rate_is_of_all_units_and_its_interval_holds_it():
    references = ["one two three four"] * 30
    hypotheses = ["one two three four"] * 20 + ["one two three five"] * 10
    found = error_rates.rate(error_rates.count(references, hypotheses, "word"))
    assert found["rate"] == pytest.approx(100 * 10 / 120)
    low, high = found["interval"]
    assert low < found["rate"] < high
    # the standard error of a share of 1/3 of 30 utterances is 8.6 %, a quarter of that in words
    assert high - low == pytest.approx(2 * 1.96 * 8.6 / 4, rel=0.15)


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = random.Random(1)
    covered = 0
    for _ in range(60):
        wrong = [generator.random() < 0.2 for _ in range(80)]
        hypotheses = ["no" if bad else "yes" for bad in wrong]
        low, high = error_rates.rate(error_rates.count(["yes"] * 80, hypotheses, "word"))[
            "interval"
        ]
        covered += low <= 20 <= high
    assert 51 <= covered <= 60


def test_paired_difference_is_sharper_than_the_rates():
    references = ["a b c d"] * 40
    weak = ["x x c d" if i % 2 else "a b c d" for i in range(40)]
    weaker = [text.replace("d", "y") if i < 4 else text for i, text in enumerate(weak)]
    baseline = error_rates.count(references, weak, "word")
    counts = error_rates.count(references, weaker, "word")
    found = error_rates.difference(counts, baseline)
    assert found["points"] == pytest.approx(100 * 4 / 160)
    low, high = found["interval"]
    assert low >= 0
    wide = error_rates.rate(counts)["interval"]
    assert high - low < (wide[1] - wide[0]) / 2


def test_nothing_wrong_in_few_utterances_is_no_proof():
    same = error_rates.count(["a", "b"], ["a", "b"], "word")
    assert error_rates.rate(same)["interval"] is None
    assert error_rates.difference(same, same)["interval"] is None
    share = error_rates.share([True, True])
    assert (share["share"], share["interval"][1]) == (100, 100)
    assert share["interval"][0] < 40


def test_differences_are_marked():
    assert error_rates.marked("one two three", "one four three five") == [
        ("equal", "one"),
        ("substitute", "four"),
        ("equal", "three"),
        ("insert", "five"),
    ]
    assert error_rates.marked("one two", "two") == [("delete", "one"), ("equal", "two")]


TEXTS = {
    "float": {"u1": "one two", "u2": "six"},
    "a": {"u1": "one", "u2": "six"},
    "b": {"u1": "one two", "u2": "six"},
}


def test_without_transcripts_float_is_the_reference():
    scores = error_rates.score(TEXTS, {})
    assert scores["transcribed"] == 0
    assert scores["models"]["float"]["transcript"] is None
    assert scores["models"]["a"]["float"]["word"]["rate"] == pytest.approx(100 / 3)
    assert scores["models"]["a"]["same"]["same"] == 1


def test_transcripts_of_some_utterances_are_enough():
    scores = error_rates.score(TEXTS, {"u1": "One", "u9": "not evaluated"})
    assert scores["transcribed"] == 1
    assert scores["models"]["a"]["transcript"]["word"]["rate"] == 0
    assert scores["models"]["a"]["transcript"]["word"]["difference"]["points"] == -100


def test_chinese_is_scored_in_characters():
    assert error_rates.score({"float": {"u": "我们"}}, {"u": "你们"})["unit"] == "character"
    assert error_rates.score(TEXTS, {})["unit"] == "word"


def test_texts_of_other_utterances_are_refused():
    with pytest.raises(UserError, match="the texts of a are of other utterances"):
        error_rates.score({"float": {"u": "x"}, "a": {"v": "x"}}, {})
