"""Whether an output goes wrong with time."""

import numpy as np
import pytest

from zipquant.evaluation import drift

CHUNKS = 190


def speech_like(seed: int, spread: float = 3.0) -> np.ndarray:
    """Return SQNR of a state that is right: 30 dB, with changes that last several chunks."""
    random = np.random.default_rng(seed)
    level = 0.0
    levels = []
    for _ in range(CHUNKS):
        level = 0.8 * level + random.normal(0, 0.6 * spread)
        levels.append(30 + level)
    return np.array(levels)


@pytest.mark.parametrize("seed", range(40))
def test_changing_loudness_is_no_drift_and_a_steady_loss_is(seed):
    steady = speech_like(seed)
    assert not drift.examine(steady)["wrong"]
    drifting = steady - np.linspace(0, 15, CHUNKS)
    found = drift.examine(drifting)
    assert found["wrong"]
    assert found["loss_db"] == pytest.approx(10, abs=6)
    assert found["slope_db_per_chunk"] == pytest.approx(-15 / CHUNKS, rel=0.5)


def test_small_loss_good_turn_and_start_are_no_drift():
    time = np.linspace(0, 1, CHUNKS)
    calm = speech_like(0, spread=0.1)
    assert not drift.examine(calm - 2 * time)["wrong"]
    assert not drift.examine(calm + 15 * time)["wrong"]
    start = np.where(np.arange(CHUNKS) < drift.WARM_UP, 60, calm)
    assert not drift.examine(start)["wrong"]
    # Hardly right at any time, though it does not get worse.
    assert drift.examine(calm - 22)["wrong"]
    # A counter that saturates in the middle: right before, wrong after.
    assert drift.examine(np.where(time < 0.5, calm, calm - 12))["wrong"]


def test_exact_and_silent_chunks_do_not_count():
    levels = speech_like(1) - np.linspace(0, 15, CHUNKS)
    levels[::7] = np.inf
    levels[3::11] = -np.inf
    found = drift.examine(levels)
    assert found["wrong"] and found["sqnr_db"][0] is None
    for few in ([np.inf] * CHUNKS, [30.0] * 20):
        found = drift.examine(few)
        assert (found["wrong"], found["loss_db"]) == (False, None)


def test_nan_is_wrong_however_short_the_stream():
    levels = speech_like(1)
    levels[3] = np.nan
    found = drift.examine(levels)
    assert found["wrong"] and found["broken_chunks"] == 1 and found["sqnr_db"][3] is None
    assert drift.examine([np.inf, np.nan])["wrong"]
