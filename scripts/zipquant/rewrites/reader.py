"""What matchers of both versions have in common: streams, linear layers, residual connections."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import onnx

from zipquant.rewrites.graph import Graph, Mismatch

Module = TypeVar("Module")
T = TypeVar("T")


@dataclass(frozen=True)
class Linear:
    """y = x weight + bias; weight (in, out), bias (out) or None."""

    weight: np.ndarray
    bias: np.ndarray | None

    def part(self, begin: int, end: int) -> "Linear":
        """Return the layer that makes some of the outputs."""
        bias = None if self.bias is None else self.bias[begin:end]
        return Linear(self.weight[:, begin:end], bias)


class UnknownStream(Mismatch):
    """No module is known that makes a stream."""


class Reader(Generic[Module]):
    """Reads the modules of a stream from its end back to the features.

    A subclass has a method for each module that may make a stream: it takes the name of the
    module's output and returns the module, or raises Mismatch.

    Attributes:
        graph: the encoder's graph.
        modules: by the tensor that a module makes, the module; in the order of computation.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.modules: dict[str, Module] = {}

    def forms(self) -> tuple[Callable[[str], Module], ...]:
        """Return the methods of the modules that may make a stream, in the order of trial."""
        raise NotImplementedError

    def stream(self, name: str) -> str:
        """Read what makes a stream (frames, 1, channels), and all before it."""
        if name in self.graph.weights or name in self.graph.inputs:
            raise Mismatch(f"{name} is no stream")
        if name in self.modules:
            return name
        reasons = []
        for form in self.forms():
            try:
                module = form(name)
            except UnknownStream:
                raise  # this module is known; what it reads is not
            except Mismatch as mismatch:
                reasons.append(f"no {form.__name__}, as {mismatch}")
                continue
            self.modules[name] = module
            return name
        raise UnknownStream(f"{name} is {'; '.join(reasons)}")

    def whole(self, name: str) -> str:
        """Return what a tensor is a view of, also by slices that take all."""
        while True:
            name = self.graph.peel(name)
            if not self.graph.made_by(name, "Slice"):
                return name
            try:
                whole, axis, begin, end = self.graph.slice_of(name)
            except Mismatch:
                return name
            if begin != 0 or end != self.graph.shape(whole)[axis]:
                return name
            name = whole

    def linear(self, name: str) -> tuple[str, Linear]:
        """Read MatMul, Gemm or 1x1 Conv with a weight: what it reads, and itself."""
        graph = self.graph
        node = graph.node(graph.peel(name), "Add", "MatMul", "Conv", "Gemm")
        if node.op_type in ("Conv", "Gemm"):
            return node.input[0], self._linear_with_bias(node)
        bias = None
        if node.op_type == "Add":
            product, bias = graph.operands(node.output[0], "Add")
            node = graph.node(graph.peel(product), "MatMul")
        x, weight = node.input
        if x in graph.weights:
            raise Mismatch(f"{name} multiplies a weight with a tensor")
        weight = graph.weight(weight)
        if weight.ndim != 2 or (bias is not None and bias.size != weight.shape[1]):
            raise Mismatch(f"{name} is no linear layer")
        return x, Linear(weight, None if bias is None else bias.reshape(-1))

    def _linear_with_bias(self, node: onnx.NodeProto) -> Linear:
        graph = self.graph
        weight = graph.weight(node.input[1])
        bias = graph.weight(node.input[2]) if len(node.input) > 2 else None
        if node.op_type == "Gemm" and not graph.attribute(node, "transB", 0):
            return Linear(weight, bias)
        if node.op_type == "Conv" and (weight[0, 0].size != 1 or self.grouped(node)):
            raise Mismatch(f"{node.output[0]} is no convolution of one frame")
        return Linear(weight.reshape(weight.shape[:2]).T, bias)

    def grouped(self, node: onnx.NodeProto) -> bool:
        """Return whether a convolution has groups of channels."""
        return self.graph.attribute(node, "group", 1) != 1

    def projection(self, name: str) -> tuple[str, Linear]:
        """Read a linear layer, or a part of the outputs of one."""
        name = self.graph.peel(name)
        if not self.graph.made_by(name, "Slice", "Split"):
            return self.linear(name)
        whole, axis, begin, end = self.graph.slice_of(name)
        if axis != len(self.graph.shape(whole)) - 1:
            raise Mismatch(f"{name} is cut on another axis than the last")
        x, linear = self.linear(whole)
        return x, linear.part(begin, end)

    def residual(self, name: str, branch: Callable[[str], tuple[str, T]]) -> tuple[str, T]:
        """Read x + branch(x): x, and what the branch is."""
        node = self.graph.node(self.whole(name), "Add")
        reason = None
        for x, other in (node.input, node.input[::-1]):
            try:
                source, found = branch(self.graph.peel(other))
            except Mismatch as mismatch:
                reason = reason or mismatch
                continue
            if self.whole(source) == self.whole(x):
                return x, found
        raise reason or Mismatch(f"{name} adds two tensors that do not belong together")

    def interpolation(self, name: str) -> tuple[str, str, np.ndarray]:
        """Read a + (b - a) w: a, b, and w, one value or one for each channel."""
        node = self.graph.node(name, "Add")
        for a, scaled in (node.input, node.input[::-1]):
            if not self.graph.made_by(scaled, "Mul"):
                continue
            difference, weight = self.graph.operands(scaled, "Mul")
            if not self.graph.made_by(difference, "Sub"):
                continue
            b, subtracted = self.graph.producers[difference].input
            if self.whole(subtracted) == self.whole(a):
                return a, b, weight.reshape(-1)
        raise Mismatch(f"{name} is no weighted mean of two tensors")
