"""Zipformer2 transducers and CTC models: from real rows to the simulator, through one contract."""

from pathlib import Path

import numpy as np
import pytest

from helpers import lstm
from helpers.audio import make_audio
from helpers.builds import build, calibrate, errors
from helpers.models import tiny_ctc, zipformer2_like_encoder
from zipquant.audio import features
from zipquant.model import contract, counters
from zipquant.model.streaming import OnnxEncoder, stream


def transducer(path: Path) -> Path:
    return zipformer2_like_encoder(path)


def narrow_transducer(path: Path) -> Path:
    return zipformer2_like_encoder(path, batch=1, counter="int32")


def ctc(path: Path) -> Path:
    return tiny_ctc(path, tokens=6, counter="int32")


@pytest.mark.parametrize("make", [transducer, narrow_transducer, ctc])
def test_int8_build_has_float16_borders_and_simulates_like_the_original(tmp_path, make):
    model = make(tmp_path / "encoder.onnx")
    shape = calibrate(tmp_path, model)
    record = build(tmp_path, model)
    types = record["inputs"] | record["outputs"]
    assert types.pop("processed_lens") == types.pop("new_processed_lens") == "int64"
    assert set(types.values()) == {"float16"} and "embed_states" in types
    assert record["refusals"] == []
    assert "model_type=zipformer2" in record["custom_string"].split(";")
    figures = errors(tmp_path, model, shape, record)
    assert figures.loc["new_processed_lens", "max_error"] == 0
    # A wrong layout of a 4-D state, or a lost one, falls far below. The encoder output is compared
    # without its constant part, which is most of it with random weights.
    levels = figures.drop("new_processed_lens")["sqnr_db"]
    assert levels.drop(shape.encoder_out).min() > 25 and levels[shape.encoder_out] > 14


def test_an_lstm_is_built_in_int8_and_simulates_like_the_original(tmp_path):
    model = Path(lstm.write(tmp_path / "lstm")["encoder"])
    shape = calibrate(tmp_path, model)
    record = build(tmp_path, model)
    assert set(record["inputs"]) == {"x", "state0", "state1"}
    assert set((record["inputs"] | record["outputs"]).values()) == {"float16"}
    assert record["refusals"] == []
    assert "model_type=lstm" in record["custom_string"].split(";")
    assert errors(tmp_path, model, shape, record)["sqnr_db"].min() > 15


def test_widened_counter_changes_nothing_else(tmp_path):
    model = narrow_transducer(tmp_path / "narrow.onnx")
    counters.widen(model, tmp_path / "wide.onnx")
    narrow, wide = (contract.inspect(tmp_path / f"{name}.onnx") for name in ("narrow", "wide"))
    frames = features.fbank(make_audio(2))
    steps = zip(
        stream(OnnxEncoder(model, narrow), narrow, [frames]),
        stream(OnnxEncoder(tmp_path / "wide.onnx", wide), wide, [frames]),
        strict=True,
    )
    counter = [state.tensor.name for state in narrow.states].index("processed_lens")
    for a, b in steps:
        assert a.new_states[counter].dtype == np.int32
        assert b.new_states[counter].dtype == np.int64
        for x, y in zip(
            [a.encoder_out, *a.new_states], [b.encoder_out, *b.new_states], strict=True
        ):
            np.testing.assert_array_equal(x, y)


def test_outputs_in_another_order_are_put_right_for_the_runtime(tmp_path):
    import onnx

    model = transducer(tmp_path / "encoder.onnx")
    proto = onnx.load(model)
    first, *rest = proto.graph.output
    del proto.graph.output[:]
    proto.graph.output.extend([first, *reversed(rest)])
    onnx.save(proto, model)
    shape = calibrate(tmp_path, model)
    record = build(tmp_path, model, dtype="float16")
    content = (tmp_path / "variant/encoder.rknn").read_bytes()[: 1 << 16]
    places = [content.index(f'"{name}":'.encode()) for name in shape.outputs]
    assert places == sorted(places)
    assert errors(tmp_path, model, shape, record)["sqnr_db"].min() > 40
