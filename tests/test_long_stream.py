"""Long streams: which outputs go wrong with time, and how long counters last."""

import numpy as np
import pytest

from conftest import DEMO_MODEL, tiny_encoder
from zipquant.audio import frame_store
from zipquant.evaluation import long_stream
from zipquant.model import contract
from zipquant.model.streaming import OnnxEncoder

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
    assert not long_stream.examine(steady)["wrong"]
    drifting = steady - np.linspace(0, 15, CHUNKS)
    found = long_stream.examine(drifting)
    assert found["wrong"]
    assert found["loss_db"] == pytest.approx(10, abs=6)
    assert found["slope_db_per_chunk"] == pytest.approx(-15 / CHUNKS, rel=0.5)


def test_small_loss_good_turn_and_start_are_no_drift():
    time = np.linspace(0, 1, CHUNKS)
    calm = speech_like(0, spread=0.1)
    assert not long_stream.examine(calm - 2 * time)["wrong"]
    assert not long_stream.examine(calm + 15 * time)["wrong"]
    start = np.where(np.arange(CHUNKS) < long_stream.WARM_UP, 60, calm)
    assert not long_stream.examine(start)["wrong"]
    # Hardly right at any time, though it does not get worse.
    assert long_stream.examine(calm - 22)["wrong"]
    # A counter that saturates in the middle: right before, wrong after.
    assert long_stream.examine(np.where(time < 0.5, calm, calm - 12))["wrong"]


def test_exact_and_silent_chunks_do_not_count():
    levels = speech_like(1) - np.linspace(0, 15, CHUNKS)
    levels[::7] = np.inf
    levels[3::11] = -np.inf
    found = long_stream.examine(levels)
    assert found["wrong"] and found["sqnr_db"][0] is None
    for few in ([np.inf] * CHUNKS, [30.0] * 20):
        found = long_stream.examine(few)
        assert (found["wrong"], found["loss_db"]) == (False, None)


def test_stream_is_joined_and_repeated(tmp_path):
    first, second = np.zeros((5, 2), "f4"), np.ones((3, 2), "f4")
    for name, frames in (("a", first), ("b", second)):
        with frame_store.FrameWriter(tmp_path / name) as writer:
            writer.add("empty", np.zeros((0, 2), "f4"))
            writer.add(name, frames)
    paths = [tmp_path / "a", tmp_path / "b"]
    expected = np.concatenate([first, second, first[:4]])
    np.testing.assert_array_equal(long_stream.joined(paths, 12), expected)
    with frame_store.FrameWriter(tmp_path / "none"):
        pass
    assert len(long_stream.joined([tmp_path / "none"], 12)) == 0


def test_every_state_is_compared_and_a_wrong_counter_is_told(tmp_path):
    path = tiny_encoder(tmp_path / "tiny.onnx")
    model = contract.inspect(path)
    exact = OnnxEncoder(path, model)

    class Saturating(OnnxEncoder):
        def run(self, x, states):
            encoder_out, (cache, count) = super().run(x, states)
            return encoder_out, [cache, np.minimum(count, 40)]

    frames = np.random.default_rng(0).normal(-8, 3, (400, 80)).astype("f4")
    levels, counters = long_stream.compare(exact, exact, model, frames)
    assert counters == {"new_processed_lens": True}
    assert set(levels) == {"encoder_out", "new_cached_x"}
    assert np.isinf(levels["encoder_out"]).all()
    levels, counters = long_stream.compare(exact, Saturating(path, model), model, frames)
    assert counters == {"new_processed_lens": False}
    assert (
        levels["encoder_out"][5] == np.inf > levels["encoder_out"][50] > levels["encoder_out"][-1]
    )
    # 40 frames are 10 chunks, so the counter of the 11th is the first that is wrong
    assert np.isinf(levels["new_cached_x"]).all()


def test_limit_of_float16_counters_follows_from_the_model(demo_contract):
    limit = long_stream.counter_limit(OnnxEncoder(DEMO_MODEL, demo_contract), demo_contract)
    # 16 of 32 frames a chunk in the fastest stack: 50 a second.
    assert (limit["state"], limit["frames_per_chunk"]) == ("cached_len_0", 16)
    assert limit["exact_minutes"] == pytest.approx(2048 / 50 / 60)
    assert limit["end_minutes"] == pytest.approx(65504 / 50 / 60)
