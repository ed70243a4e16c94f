"""Running means among the states, found in graphs as they are exported."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.places import DEMO_MODEL, ROOT
from zipquant.model import contract, counters
from zipquant.model.streaming import OnnxEncoder
from zipquant.toolkit.quantized_graph import Graph

EXPORTS = ROOT.parent / "shared/icefall"

needs_exports = pytest.mark.skipif(
    not EXPORTS.is_dir(), reason="needs the folder shared/icefall beside the project"
)

MEANS = [f"new_cached_avg_{stack}" for stack in range(5)]


def test_demo_has_five_means():
    assert list(Graph(DEMO_MODEL).running_means()) == MEANS


def test_sum_as_a_product_of_matrices_is_a_mean(tmp_path):
    """rknn-toolkit2 2.2.0 writes sums and what is added to them as one product with a triangle."""
    path = tmp_path / "mean.onnx"
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["hidden"]),
        helper.make_node("Mul", ["avg", "len"], ["before"]),
        helper.make_node("exMatMul", ["triangle", "hidden", "before"], ["whole"], c_type="add"),
        helper.make_node("Div", ["whole", "count"], ["new_avg"]),
        helper.make_node("exMatMul", ["square", "hidden", "before"], ["mixed"], c_type="add"),
        helper.make_node("Div", ["mixed", "count"], ["no_avg"]),
    ]
    shapes = {"x": [1, 4, 1, 3], "avg": [1, 4, 1, 3], "len": [1, 4, 1, 1], "count": [1, 4, 1, 1]}
    inputs = [value(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [value(name, TensorProto.FLOAT, [1, 4, 1, 3]) for name in ("new_avg", "no_avg")]
    triangle = np.triu(np.ones((4, 4), "f4")).reshape(1, 4, 1, 4)
    weights = {
        "weight": np.ones((4, 4, 1, 1), "f4"),
        "triangle": triangle,
        "square": np.ones_like(triangle),
    }
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "mean", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), path)
    found = Graph(path).running_means()
    assert list(found) == ["new_avg"]
    assert set(found["new_avg"]) == {"new_avg", "whole", "before"}


def test_count_by_a_range_of_the_shape_hides_no_mean(tmp_path):
    """icefall exports arange(1, length + 1) as a Range, its end as the Shape of an activation."""
    path = tmp_path / "mean.onnx"
    value = helper.make_tensor_value_info

    def constant(name: str, kind: int, numbers: list) -> onnx.TensorProto:
        shape = [len(numbers)] if isinstance(numbers, list) else []
        return helper.make_tensor(name, kind, shape, numbers if shape else [numbers])

    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["hidden"]),
        helper.make_node("CumSum", ["hidden", "axis"], ["sums"]),
        helper.make_node("Shape", ["hidden"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["counts"]),
        helper.make_node("Cast", ["counts"], ["float_counts"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["float_counts", "len"], ["all_counts"]),
        helper.make_node("Unsqueeze", ["all_counts", "axes"], ["column"]),
        helper.make_node("Mul", ["avg", "len"], ["before"]),
        helper.make_node("Add", ["sums", "before"], ["whole"]),
        helper.make_node("Div", ["whole", "column"], ["new_avg"]),
        helper.make_node("MatMul", ["new_avg", "weight"], ["out"]),
    ]
    inputs = [
        value(n, TensorProto.FLOAT, s) for n, s in (("x", [4, 3]), ("avg", [3]), ("len", [1]))
    ]
    outputs = [value(name, TensorProto.FLOAT, [4, 3]) for name in ("out", "new_avg")]
    constants = [
        helper.make_tensor("weight", TensorProto.FLOAT, [3, 3], [0.1] * 9),
        *(constant(n, TensorProto.INT64, v) for n, v in (("axis", 0), ("first", 0), ("zero", 0))),
        *(constant(n, TensorProto.INT64, v) for n, v in (("one", 1), ("axes", [1]))),
    ]
    graph = helper.make_graph(nodes, "mean", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), path)
    found = Graph(path).running_means()
    # What a layer makes of a mean is none.
    assert list(found) == ["new_avg"]
    assert {"sums", "counts"} <= set(found["new_avg"]) and "hidden" not in found["new_avg"]


@needs_exports
def test_means_of_a_real_export_are_found_and_limit_a_stream():
    (path,) = EXPORTS.glob("zipformer/encoder-*-1.onnx")
    assert list(Graph(path).running_means()) == MEANS
    model = contract.inspect(path)
    limit = counters.counter_limit(OnnxEncoder(path, model), model)
    assert limit["state"].startswith("cached_len_") and 0 < limit["exact_minutes"] < 2
    assert limit["end_minutes"] == pytest.approx(limit["exact_minutes"] * 65504 / 2048)


@needs_exports
@pytest.mark.parametrize("name", ["zipformer2/encoder", "zipformer2-ctc/ctc"])
def test_zipformer2_has_no_mean(name):
    paths = [path for path in EXPORTS.glob(f"{name}-*.onnx") if "int8" not in path.name]
    assert [Graph(path).running_means() for path in paths] == [{}]
