"""One long stream: how it is made, and what is compared along it."""

import numpy as np

from helpers.models import tiny_encoder
from zipquant.audio import frame_store
from zipquant.evaluation import long_stream
from zipquant.model import contract
from zipquant.model.streaming import OnnxEncoder


def test_stream_is_joined_and_repeated(tmp_path):
    first, second = np.zeros((5, 2), "f4"), np.ones((3, 2), "f4")
    with frame_store.FrameWriter(tmp_path / "some") as writer:
        writer.add("empty", np.zeros((0, 2), "f4"))
        writer.add("a", first)
        writer.add("b", second)
    expected = np.concatenate([first, second, first[:4]])
    with frame_store.FrameReader(tmp_path / "some") as reader:
        np.testing.assert_array_equal(long_stream.joined(reader, 0.12), expected)
        assert len(long_stream.joined(reader, 0)) == 0
    with frame_store.FrameWriter(tmp_path / "none"):
        pass
    with frame_store.FrameReader(tmp_path / "none") as reader:
        assert len(long_stream.joined(reader, 12)) == 0


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
    assert levels["encoder_out"][5] == np.inf > levels["encoder_out"][50]
    # 40 frames are 10 chunks, so the counter of the 11th is the first that is wrong
    assert np.isinf(levels["new_cached_x"]).all()
