"""The streaming loop against a plain loop over one utterance."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from conftest import DEMO_MODEL, make_audio, zipformer2_like_encoder
from zipquant.audio import features
from zipquant.model import contract, streaming


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


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Encoders of three kinds: the demo's, a Zipformer2's interface, and a fixed batch of 1."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "demo": DEMO_MODEL,
        "zipformer2": zipformer2_like_encoder(folder / "zipformer2.onnx"),
        "fixed batch": zipformer2_like_encoder(folder / "fixed.onnx", batch=1),
    }


@pytest.fixture(scope="session")
def expected(models):
    """What the plain loop gives for each model: inputs and outputs by utterance and chunk."""
    found = {}
    for name, model in models.items():
        shape = contract.inspect(model)
        found[name] = {
            (utterance, chunk): call
            for utterance, frames in enumerate(utterances())
            for chunk, call in enumerate(
                plain_loop(model, frames, shape.chunk_frames, shape.chunk_shift)
            )
        }
    return found


@pytest.mark.parametrize("lanes", [1, 2, 3, 16])
@pytest.mark.parametrize("name", ["demo", "zipformer2", "fixed batch"])
def test_lanes_are_bit_identical_to_one_utterance_at_a_time(models, expected, name, lanes):
    shape = contract.inspect(models[name])
    encoder = streaming.OnnxEncoder(models[name], shape)
    seen = set()
    for step in streaming.stream(encoder, shape, utterances(), lanes):
        inputs, outputs = expected[name][step.utterance, step.chunk]
        seen.add((step.utterance, step.chunk))
        for tensor, array in zip(shape.inputs, step.inputs, strict=True):
            np.testing.assert_array_equal(array, inputs[tensor.name])
            assert (array.dtype, array.shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(step.encoder_out, outputs[shape.encoder_out])
        for state, array in zip(shape.states, step.new_states, strict=True):
            np.testing.assert_array_equal(array, outputs[state.next_output])
    assert seen == set(expected[name])
    assert len(seen) > 30


def test_free_lanes_take_the_next_utterance_at_once(models):
    shape = contract.inspect(models["zipformer2"])
    encoder = streaming.OnnxEncoder(models["zipformer2"], shape)
    counts = [shape.chunk_count(len(frames)) for frames in utterances()]
    sizes = [
        len(batch.chunks) for batch in streaming.stream_batches(encoder, shape, utterances(), 2)
    ]
    assert sum(sizes) == sum(counts)
    # Both lanes are busy until no utterance waits; then one may be left alone.
    alone = sizes.count(1)
    assert sizes == [2] * (len(sizes) - alone) + [1] * alone
    assert alone < max(counts)


def test_model_with_fixed_batch_runs_one_lane(models):
    shape = contract.inspect(models["fixed batch"])
    encoder = streaming.OnnxEncoder(models["fixed batch"], shape)
    batches = streaming.stream_batches(encoder, shape, utterances(), 8)
    assert {batch.x.shape[0] for batch in batches} == {1}
