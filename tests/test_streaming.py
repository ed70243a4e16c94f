"""The streaming loop and the trace files against a plain loop over one utterance."""

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from conftest import DEMO_MODEL, make_audio, tiny_encoder
from zipquant import contract, features, streaming, traces
from zipquant.errors import UserError
from zipquant.frame_store import FrameWriter
from zipquant.trace_store import TraceReader


def plain_loop(model, frames, chunk_frames, chunk_shift):
    """Stream one utterance the plain way; yield inputs and outputs of every call by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options)
    shapes = {
        i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()
    }
    kinds = {i.name: np.int64 if "int64" in i.type else np.float32 for i in session.get_inputs()}
    states = {name: np.zeros(shapes[name], kinds[name]) for name in shapes if name != "x"}
    names = [output.name for output in session.get_outputs()]
    processed = 0
    while processed + chunk_frames < len(frames):
        inputs = {"x": frames[None, processed : processed + chunk_frames], **states}
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        yield inputs, outputs
        states = {name: outputs[f"new_{name}"] for name in states}
        processed += chunk_shift


def utterances():
    """Features of utterances of 0 to 12 chunks, in an order that refills lanes mid-way."""
    return [
        features.fbank(make_audio(seconds, seed))
        for seed, seconds in enumerate((1.5, 4.0, 0.2, 0.9, 2.6, 0.05, 3.1, 0.41))
    ]


@pytest.mark.parametrize("lanes", [1, 2, 3, 16])
def test_lanes_are_bit_identical_to_one_utterance_at_a_time(demo_contract, lanes):
    encoder = streaming.OnnxEncoder(DEMO_MODEL, demo_contract)
    audio = utterances()
    steps = {
        (step.utterance, step.chunk): step
        for step in streaming.stream(encoder, demo_contract, audio, lanes)
    }
    count = 0
    for utterance, frames in enumerate(audio):
        for chunk, (inputs, outputs) in enumerate(plain_loop(DEMO_MODEL, frames, 39, 32)):
            step = steps[utterance, chunk]
            count += 1
            for tensor, array in zip(demo_contract.inputs, step.inputs, strict=True):
                np.testing.assert_array_equal(array, inputs[tensor.name])
            np.testing.assert_array_equal(step.encoder_out, outputs["encoder_out"])
            for state, array in zip(demo_contract.states, step.new_states, strict=True):
                np.testing.assert_array_equal(array, outputs[state.next_output])
    assert len(steps) == count > 30


def test_model_with_fixed_batch_runs_one_lane(tmp_path):
    model = tiny_encoder(tmp_path / "e.onnx", batch=1)
    fixed = contract.inspect(model)
    encoder = streaming.OnnxEncoder(model, fixed)
    steps = list(streaming.stream(encoder, fixed, utterances()[:2], lanes=8))
    expected = [out for f in utterances()[:2] for _, out in plain_loop(model, f, 9, 4)]
    assert len(steps) == len(expected)
    for step, outputs in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(step.encoder_out, outputs["encoder_out"])


def test_trace_gives_back_every_row_bit_equal(tmp_path, demo_contract):
    demo_contract.save(tmp_path / "model.json")
    audio = utterances()
    with FrameWriter(tmp_path / "f.h5") as writer:
        for number, frames in enumerate(audio):
            writer.add(f"u{number}", frames)
    traces.trace_shard(
        DEMO_MODEL,
        tmp_path / "model.json",
        tmp_path / "f.h5",
        tmp_path / "t.h5",
        tmp_path / "t.parquet",
        lanes=3,
    )
    table = pd.read_parquet(tmp_path / "t.parquet").set_index(["utterance", "chunk"])
    count = 0
    with TraceReader(tmp_path / "t.h5", demo_contract) as reader:
        for number, frames in enumerate(audio):
            for chunk, (inputs, outputs) in enumerate(plain_loop(DEMO_MODEL, frames, 39, 32)):
                count += 1
                entry = table.loc[(f"u{number}", chunk)]
                for tensor, array in zip(
                    demo_contract.inputs, reader.row(int(entry["row"])), strict=True
                ):
                    np.testing.assert_array_equal(array, inputs[tensor.name])
                    assert array.dtype == inputs[tensor.name].dtype
                    assert entry[f"{tensor.name}.min"] == array.min()
                    assert entry[f"{tensor.name}.max"] == array.max()
                assert entry["encoder_out.max"] == outputs["encoder_out"].max()
                assert entry["time"] == pytest.approx(0.32 * chunk)
    assert len(table) == count


def test_damaged_trace_is_named(tmp_path, demo_contract):
    demo_contract.save(tmp_path / "model.json")
    with FrameWriter(tmp_path / "f.h5") as writer:
        writer.add("u", utterances()[1])
    arguments = [tmp_path / name for name in ("model.json", "f.h5", "t.h5", "t.parquet")]
    traces.trace_shard(DEMO_MODEL, *arguments, lanes=1)
    content = bytearray((tmp_path / "t.h5").read_bytes())
    content[-len(content) // 3] ^= 0xFF
    (tmp_path / "t.h5").write_bytes(content)
    with (
        pytest.raises(UserError, match=r"t\.h5 is damaged"),
        TraceReader(tmp_path / "t.h5", demo_contract) as reader,
    ):
        for row in range(12):
            reader.row(row)


def test_failed_trace_leaves_no_file(tmp_path, demo_contract):
    demo_contract.save(tmp_path / "model.json")
    with FrameWriter(tmp_path / "f.h5") as writer:
        writer.add("u", utterances()[1])
    bad = tiny_encoder(tmp_path / "e.onnx")
    arguments = [tmp_path / name for name in ("model.json", "f.h5", "t.h5", "t.parquet")]
    with pytest.raises(UserError, match="onnxruntime cannot run"):
        traces.trace_shard(bad, *arguments, lanes=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.onnx", "f.h5", "model.json"]
