"""Counters of 32 bits at a model's border, made such of 64 bits.

sherpa-onnx's RKNN runtime takes float16 and int64 alone, and rknn-toolkit2 keeps an int32 input as
it is. Inside, the model goes on with 32 bits.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def widen(path: str | Path, output: str | Path) -> None:
    """Write a model whose int32 inputs and outputs are int64, the same in all else.

    Args:
        path: the ONNX file.
        output: the ONNX file to write.
    """
    model = onnx.load(path)
    graph = model.graph
    inner: dict[str, str] = {}
    before, after = [], []
    for value in graph.input:
        if _narrow(value):
            inner[value.name] = f"{value.name}_int32"
            before.append(_cast(value.name, inner[value.name], TensorProto.INT32))
    for value in graph.output:
        if _narrow(value):
            inner[value.name] = f"{value.name}_int32"
            after.append(_cast(inner[value.name], value.name, TensorProto.INT64))
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inner.get(name, name) for name in names]
    for value in (*graph.input, *graph.output):
        if value.name in inner:
            value.type.tensor_type.elem_type = TensorProto.INT64
    described = [value for value in graph.value_info if value.name not in inner]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.value_info.extend(described)
    onnx.save(model, output)


def _narrow(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.INT32


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=kind)
