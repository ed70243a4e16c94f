"""Which choice along an order is taken, with what is measured made up."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from zipquant.variants import float16_choices
from zipquant.variants.float16_choices import (
    LEAST_MEASURED,
    MOST_MEASURED,
    Choices,
    Target,
    decibel,
)
from zipquant.variants.float16_order import Step


class MadeUp:
    """Measures what an encoder would give whose noise is not quite what was predicted."""

    def __init__(self, noises, losses=None):
        self._noises, self._losses = noises, losses
        self.count = 0

    def measure(self, float16):
        self.count += 1
        place = len(float16) - 1
        loss = self._losses[place] if self._losses else None
        return {"sqnr_db": decibel(self._noises[place]), "wer_loss": loss}


def choices(noises, target_sqnr=None, losses=None, limit=None, predicted=None):
    predicted = predicted or noises
    names = [frozenset({f"tensor {n}"}) for n in range(len(noises))]
    start, *steps = (
        Step((n,) if n else (), name, noise, 1 - n / 1000, n / 1000)
        for n, (name, noise) in enumerate(zip(names, predicted, strict=True))
    )
    yardstick = MadeUp(noises, losses)
    return Choices(start, steps, yardstick, Target(target_sqnr, limit, 0.0)), yardstick


def falling(count, weights=0.0):
    """Noise that falls by 0.1 dB a step, over some that no step takes away."""
    return [10 ** (-2.5 - 0.01 * n) + weights for n in range(count)]


@pytest.mark.parametrize("target", [26.0, 33.3, 39.0])
@pytest.mark.parametrize("weights", [0.0, 5e-5])
def test_first_choice_that_meets_the_target_is_found_with_few_measured(target, weights):
    # The prediction lacks a part of the noise and is a decibel too good.
    noises = [1.25 * noise for noise in falling(200, weights)]
    found, yardstick = choices(noises, target, predicted=falling(200))
    chosen = found.find()
    first = next(n for n, noise in enumerate(noises) if decibel(noise) >= target)
    assert found.is_met(chosen)
    assert first <= chosen and decibel(noises[chosen]) < target + 0.15
    assert yardstick.count == len(found.measured) <= 7
    assert all(not found.is_met(n) for n in found.measured if n < chosen)


def test_nothing_more_becomes_float16_where_the_target_is_met_at_once():
    found, _ = choices(falling(50), 20.0)
    assert found.find() == 0 and found.is_met(0)
    assert found.float16(0) == {"tensor 0"}


def test_best_choice_is_taken_where_none_meets_the_target():
    noises = falling(50)
    noises[-1] = noises[20]  # the last one is not the best
    found, _ = choices(noises, 60.0)
    chosen = found.find()
    assert not found.is_met(chosen)
    assert len(found.measured) == LEAST_MEASURED
    assert noises[chosen] == min(noises[n] for n in found.measured)


def test_words_are_searched_for_by_halves():
    losses = [max(0.0, 5.0 - 0.05 * n) for n in range(120)]
    found, yardstick = choices(falling(120), losses=losses, limit=2.0)
    chosen = found.find()
    assert found.is_met(chosen) and losses[chosen] <= 2.0
    assert chosen - 60 <= 2 and yardstick.count <= MOST_MEASURED


def test_both_targets_must_be_met():
    losses = [0.0 if n >= 80 else 3.0 for n in range(120)]
    found, _ = choices(falling(120), 28.0, losses=losses, limit=1.0)
    chosen = found.find()
    assert found.is_met(chosen) and 80 <= chosen <= 82
    found, _ = choices(falling(120), 35.0, losses=losses, limit=1.0)
    assert found.find() == pytest.approx(100, abs=1)


def test_order_without_steps_has_one_choice():
    found, yardstick = choices([1e-3], 40.0)
    assert found.find() == 0 and yardstick.count == 1
    assert not math.isinf(found.measured[0]["sqnr_db"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_output_that_is_not_finite_is_no_good_choice(value, monkeypatch):
    encoded = [np.arange(24, dtype="f4").reshape(6, 4)]
    audio = SimpleNamespace(utterances=[np.zeros((50, 80), "f4")], encoded=encoded)
    found = [np.full((6, 4), value, "f4")]
    monkeypatch.setattr(float16_choices, "encode", lambda *_: found)
    monkeypatch.setattr(float16_choices, "EmulatedEncoder", lambda *_: None)
    yardstick = float16_choices.Yardstick(None, None, audio, None)
    measured = yardstick.measure(())
    assert measured["sqnr_db"] == -100
    assert not Target(-50.0, None, 0.0).is_met(measured)
