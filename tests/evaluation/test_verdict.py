"""Whether a variant is fit for use, case by case."""

import math

import numpy as np
import pytest

from zipquant.evaluation import verdict
from zipquant.evaluation.verdict import Evidence, Judgement, Limits, Loss, Status
from zipquant.recognition.error_rates import Counts

LIMITS = Limits(most_points_lost=1.0, most_text_changed=3.0, least_sqnr=15)


def loss(points: float, low: float, high: float, utterances: int = 400, **changes) -> Loss:
    known = {"words": 5.0, "transcribed": True, "metric": "WER"} | changes
    return Loss(points, low, high, utterances, **known)


def judged(sqnr_db: float | None = 30.0, broken: int = 0, **known) -> Judgement:
    return verdict.judge(Evidence(40, broken, sqnr_db, **known), LIMITS)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (loss(0.2, -0.3, 0.8), Status.FIT),
        (loss(0.2, -0.3, 1.2), Status.NOT_SHOWN),
        (loss(1.4, 0.7, 2.1), Status.DOUBTFUL),
        (loss(2.4, 1.7, 3.1), Status.UNFIT),
        (loss(-2.0, -3.0, -1.0), Status.FIT),
        (loss(2.0, 1.5, 2.5, transcribed=False), Status.FIT),
        (loss(2.0, 1.5, 3.5, transcribed=False), Status.NOT_SHOWN),
        (loss(6.0, 5.0, 7.0, transcribed=False), Status.UNFIT),
    ],
)
def test_loss_of_text_against_its_limit(found, status):
    assert judged(loss=found).status == status


def test_sqnr_and_nan_make_a_variant_unfit_whatever_its_text():
    fine = loss(0.0, 0.0, 0.2)
    low = judged(12.0, loss=fine)
    assert (low.status, low.why) == (Status.UNFIT, ("sqnr",))
    assert verdict.reasons(low) == [
        "has an encoder output of 12.0 dB (at least 15 dB is asked for)"
    ]
    broken = judged(None, broken=12, loss=fine)
    assert (broken.status, broken.why) == (Status.UNFIT, ("broken",))
    assert verdict.reasons(broken) == ["gives NaN or infinity in 12 of 40 chunks"]
    # A state may be broken while the encoder output is whole.
    assert judged(40.0, broken=1, loss=fine).status == Status.UNFIT
    assert judged(math.inf, loss=fine).status == Status.FIT


def test_nothing_is_claimed_without_text_words_or_chunks():
    assert judged().why == ("no text",)
    assert judged(unmeasured="no words").why == ("no words",)
    assert verdict.judge(Evidence(0), LIMITS).why == ("no chunk",)
    for found in (judged(), verdict.judge(Evidence(0), LIMITS)):
        assert found.status == Status.UNKNOWN
    # But what is too bad is so without text, too.
    assert judged(3.0).status == Status.UNFIT


def test_no_limit_is_none():
    none = Limits(None, None, None)
    found = verdict.judge(Evidence(40, 0, 1.0, loss(90.0, 80.0, 99.0)), none)
    assert found.status == Status.FIT
    assert verdict.judge(Evidence(40, 2, None, loss(0, 0, 0)), none).status == Status.UNFIT


def counts(errors: list[int], words: int = 5) -> Counts:
    return Counts(np.array(errors), np.full(len(errors), words))


def test_eight_utterances_without_a_difference_show_nothing_and_it_says_how_many_would():
    same = counts([0] * 8)
    found = verdict.loss_of(same, same, "word", True)
    # 3 of 8 utterances may still lose a word of 5.
    assert (found.points, found.low) == (0, 0)
    assert found.high == pytest.approx(100 * 3 / 8 / 5)
    judgement = verdict.judge(Evidence(40, 0, 30.0, found), LIMITS)
    assert (judgement.status, judgement.needed) == (Status.NOT_SHOWN, 60)
    enough = counts([0] * 60)
    found = verdict.loss_of(enough, enough, "word", True)
    assert verdict.judge(Evidence(300, 0, 30.0, found), LIMITS).status == Status.FIT


def test_as_many_utterances_as_were_named_do_tell():
    random = np.random.default_rng(0)
    float_errors = random.binomial(1, 0.1, 4000)
    more = random.binomial(1, 0.03, 4000)

    def judge(count: int) -> Judgement:
        ours, theirs = counts((float_errors + more)[:count]), counts(float_errors[:count])
        found = verdict.loss_of(ours, theirs, "word", True)
        return verdict.judge(Evidence(40, 0, 30.0, found), LIMITS)

    few = judge(80)
    assert few.status == Status.NOT_SHOWN and 80 < few.needed < 2000
    assert judge(2 * few.needed).status == Status.FIT


def test_all_wrong_in_few_utterances_is_enough_to_refuse():
    """Calibrated with silence: 100 % WER on the demo's two utterances."""
    found = verdict.loss_of(counts([5, 5]), counts([0, 0]), "word", True)
    assert found.low > 20
    one = verdict.loss_of(counts([5]), counts([0]), "word", True)
    assert (one.points, one.high) == (100, 100) and one.low == pytest.approx(5)


def test_loss_as_large_as_the_limit_needs_no_number():
    assert verdict.needed(loss(1.0, 0.5, 1.5), 1.0) is None
    assert verdict.needed(loss(0.0, 0.0, 1.5), 0.0) is None
    assert verdict.needed(loss(0.9999, 0.5, 1.5), 1.0) is None
    assert verdict.needed(loss(0.5, 0.0, 2.5, 100), 1.0) == 1600


def test_judgement_survives_json():
    for found in (judged(loss=loss(0.2, -0.3, 1.2)), judged(math.inf), judged(None, broken=3)):
        assert Judgement.from_dict(found.as_dict()) == found
