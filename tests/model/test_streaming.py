"""The streaming loop against a plain loop over one utterance."""

import numpy as np
import pytest

from helpers.streams import utterances
from zipquant.model import contract, streaming


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
