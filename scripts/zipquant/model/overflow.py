"""Where a float model leaves the range of float16."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from zipquant.model.contract import Contract
from zipquant.model.counters import LARGEST
from zipquant.model.streaming import OnnxEncoder, stream

CHUNKS = 8
"""Chunks that are looked at; what overflows does so on any speech."""

MASKS = {"Where", "Constant", "ConstantOfShape"}
"""Operators whose large numbers stand for minus infinity, in the masks of attention: it changes
nothing that they become infinite in float16."""


def find(model: str | Path, contract: Contract, frames: np.ndarray) -> dict[str, Any] | None:
    """Return the first tensor of the float model whose values float16 does not hold.

    Args:
        model: the ONNX file.
        contract: its contract.
        frames: features of an utterance, float32 (frames, bins); its beginning is run.

    Returns:
        Its name `tensor` and its largest absolute `value`; None where all tensors stay below
        `LARGEST`, or there is no chunk.
    """
    length = contract.chunk_frames + (CHUNKS - 1) * contract.chunk_shift
    largest: dict[str, float] = {}
    session, names = _open(model)
    for step in stream(OnnxEncoder(model, contract), contract, [frames[:length]]):
        feeds = {t.name: a for t, a in zip(contract.inputs, step.inputs, strict=True)}
        for name, value in zip(names, session.run(names, feeds), strict=True):
            if value.dtype == np.float32 and value.size:
                finite = np.abs(value[np.isfinite(value)])
                largest[name] = max(largest.get(name, 0.0), float(finite.max(initial=0)))
    beyond = (name for name in names if largest.get(name, 0.0) > LARGEST)
    first = next(beyond, None)
    return None if first is None else {"tensor": first, "value": largest[first]}


def _open(model: str | Path) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """Open a model so that it gives every tensor that it computes; return those in order."""
    proto = onnx.load(model)
    names = list(_computed(proto.graph))
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Nothing is fused away, and the file's names stay.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ), names


def _computed(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        if node.op_type not in MASKS:
            yield from filter(None, node.output)
