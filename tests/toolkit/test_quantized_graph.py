"""What stays in float16 in the toolkit's graph."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zipquant.toolkit.quantized_graph import Graph


def test_part_of_a_cache_that_stays_is_float16_up_to_the_output(tmp_path):
    """The old frames are cut from the cache and joined with new ones, which the layers read too."""
    node, info = helper.make_node, helper.make_tensor_value_info
    cuts = numpy_helper.from_array(np.array([2, 6], np.int64), "cuts")
    nodes = [
        node("exDataConvert", ["cache"], ["cache_int8"]),
        node("Reshape", ["cache_int8", "shape"], ["inside"]),
        node("Split", ["inside", "cuts"], ["dropped", "kept"], axis=1),
        node("exDataConvert", ["x"], ["x_int8"]),
        node("Relu", ["x_int8"], ["heard"]),
        node("Sigmoid", ["heard"], ["new"]),
        node("Transpose", ["new"], ["turned"], perm=[0, 1]),
        node("Concat", ["kept", "turned"], ["next_int8"], axis=1),
        node("exDataConvert", ["next_int8"], ["next"]),
        node("Concat", ["inside", "new"], ["seen"], axis=1),
        node("Tanh", ["seen"], ["out_int8"]),
        node("exDataConvert", ["out_int8"], ["out"]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", floats, [1, 2]), info("cache", floats, [1, 8])],
        [info("out", floats, [1, 10]), info("next", floats, [1, 8])],
        [cuts, numpy_helper.from_array(np.array([1, 8], np.int64), "shape")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    found = set(Graph(tmp_path / "g.onnx").borders())
    # What the layers read too stays as it was; so does all that is computed.
    assert found == {"inside", "heard", "next", "out", "dropped", "kept", "next_int8", "turned"}
