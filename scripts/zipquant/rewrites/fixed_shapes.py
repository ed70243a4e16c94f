"""Computing once what depends on the shapes of tensors alone, which are known with a batch of 1."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

_TYPES = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.INT64: np.int64}


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every tensor that depends on shapes alone turned into a constant.

    Folding of constants leaves the Shape nodes of tensors that an exporter reshapes by computed
    sizes, as those of Zipformer2. The model is run once, so its inputs must have fixed shapes.
    """
    folded = onnx.ModelProto.FromString(model.SerializeToString())
    graph = folded.graph
    weights = {tensor.name for tensor in graph.initializer}
    varying = {value.name for value in graph.input} - weights
    for node in graph.node:
        if node.op_type != "Shape" and varying & set(node.input):
            varying |= set(node.output)
    kept = [node for node in graph.node if varying & set(node.output)]
    read = {name for node in kept for name in node.input if name}
    fixed = sorted(read - varying - weights)
    graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in zip(fixed, run_zeros(folded, fixed), strict=True)
    )
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]
    return folded


def run_zeros(model: onnx.ModelProto, names: list[str]) -> list[np.ndarray]:
    """Return some of a model's tensors, computed for inputs that are all zeros."""
    inputs = {
        value.name: np.zeros(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim],
            _TYPES.get(value.type.tensor_type.elem_type, np.int32),
        )
        for value in model.graph.input
    }
    return run(model, names, inputs) if names else []


def run(
    model: onnx.ModelProto, names: list[str], inputs: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """Return some of a model's tensors for given inputs; other nodes are left out."""
    wanted, nodes = set(names), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            nodes.append(node)
    graph = helper.make_graph(
        nodes[::-1],
        "part",
        [value for value in model.graph.input if value.name in wanted],
        [onnx.ValueInfoProto(name=name) for name in names],
        [tensor for tensor in model.graph.initializer if tensor.name in wanted],
    )
    part = helper.make_model(graph, opset_imports=list(model.opset_import))
    part.ir_version = model.ir_version
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(names, {i.name: inputs[i.name] for i in session.get_inputs()})
