"""Counters among a model's states: their type at the border, and how far float16 counts.

sherpa-onnx's RKNN runtime takes float16 and int64 alone, and rknn-toolkit2 keeps an int32 input as
it is. So counters of 32 bits are made such of 64 bits; inside, the model goes on with 32 bits.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from zipquant.board.fbank import FRAMES_PER_SECOND
from zipquant.model.contract import Contract
from zipquant.model.streaming import Encoder

EXACT = 2**11
"""Up to here float16 holds every whole number (11 bits of precision)."""

LARGEST = 65504
"""The largest number that float16 holds."""


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


def counter_limit(encoder: Encoder, contract: Contract) -> dict[str, Any] | None:
    """Return how long a stream may be if its frame counters are computed in float16.

    Args:
        encoder: the float model; it runs two chunks of zeros.
        contract: its contract.

    Returns:
        The fastest counter: its input's name `state`, the `frames_per_chunk` that it counts, the
        minutes `exact_minutes` after which float16 rounds it, and `end_minutes` after which it
        overflows. None where no state counts.
    """
    zeros = [state.tensor.zeros() for state in contract.states]
    _, first = encoder.run(contract.x.zeros(), zeros)
    # What the encoder makes of its own states must not change them.
    _, second = encoder.run(contract.x.zeros(), [state.copy() for state in first])
    steps = {
        state.tensor.name: float(np.max(after - before))
        for state, before, after in zip(contract.states, first, second, strict=True)
        if state.tensor.dtype != "float32"
    }
    fastest = max(steps, key=steps.__getitem__, default=None)
    if fastest is None or steps[fastest] <= 0:
        return None
    minutes = contract.chunk_shift / FRAMES_PER_SECOND / 60 / steps[fastest]
    return {
        "state": fastest,
        "frames_per_chunk": steps[fastest],
        "exact_minutes": EXACT * minutes,
        "end_minutes": LARGEST * minutes,
    }


def _narrow(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.INT32


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=kind)
