"""Where a float model leaves the range of float16."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from helpers.places import DEMO_MODEL
from zipquant.model import contract, overflow

FRAMES = np.random.default_rng(0).normal(-8, 3, (300, 80)).astype("f4")


def scaled(path, factor: float):
    """Write the demo encoder with its output multiplied by a factor, and divided again."""
    model = onnx.load(DEMO_MODEL)
    out = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["small" if name == out else name for name in node.output]
        node.input[:] = ["small" if name == out else name for name in node.input]
    numbers = {"factor": factor, "inverse": 1 / factor}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(number), name) for name, number in numbers.items()
    )
    for inputs, output in ((["small", "factor"], "large"), (["large", "inverse"], out)):
        model.graph.node.append(helper.make_node("Mul", inputs, [output], name=f"make_{output}"))
    onnx.save(model, path)
    return path


def test_tensor_that_float16_does_not_hold_is_named_with_its_value(tmp_path):
    path = scaled(tmp_path / "large.onnx", 1e6)
    found = overflow.find(path, contract.inspect(path), FRAMES)
    assert found["tensor"] == "large"
    assert found["value"] > 65504


@pytest.mark.parametrize("frames", [FRAMES, FRAMES[:5]])
def test_nothing_is_named_where_all_fits_or_nothing_runs(demo_contract, frames):
    assert overflow.find(DEMO_MODEL, demo_contract, frames) is None
