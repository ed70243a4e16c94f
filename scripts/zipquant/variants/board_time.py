"""The time of a quantized encoder on a board, predicted from the graph before it is built.

The compiler makes a layer of each node, but for those that it joins, and a layer more wherever a
tensor is kept in one type and read in the other: all readers of that tensor share it. So the layers
of any choice of float16 tensors are known without a build, on the demo's encoder to the last one.
What each costs, `layer_costs` says.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx

from zipquant.toolkit import layer_costs
from zipquant.toolkit.layer_costs import Costs, Load
from zipquant.toolkit.quantized_graph import CONVERT, MATMUL, SYMMETRIC, Graph
from zipquant.variants.emulation import Emulation

LIKE = "rk3588"
"""Platform whose costs are taken where there are none, as weights of layers against each other."""

ESTIMATED, OWN, RELATIVE = "estimated", "own", "relative"
"""Where the costs of layers are from: public figures, the user, or another platform, `LIKE`."""


@dataclass(frozen=True)
class Price:
    """What layers cost.

    Attributes:
        costs: of the board, or of the one that stands for it.
        kind: where these are from; times that are `RELATIVE` are good for comparing alone.
    """

    costs: Costs
    kind: str


def price_of(platform: str, own: Mapping[str, float] | None = None) -> Price:
    """Return what layers cost on a platform; see `layer_costs.costs`."""
    costs = layer_costs.costs(platform, own)
    if costs is None:
        return Price(layer_costs.costs(LIKE), RELATIVE)
    return Price(costs, OWN if own else ESTIMATED)


@dataclass(frozen=True)
class Tie:
    """A tensor that costs a change of type where its maker and its readers are of different ones.

    Attributes:
        name: its name.
        maker: the layer that makes it, named by its first output.
        readers: those that read it.
        ms: what it costs then.
    """

    name: str
    maker: str
    readers: tuple[str, ...]
    ms: float


class BoardTime:
    """Predicts what a call of a quantized encoder takes, for any choice of float16 tensors.

    Args:
        graph: the toolkit's graph.
        emulation: its emulation, which knows what is computed in which type.
        price: of layers.
    """

    def __init__(self, graph: Graph, emulation: Emulation, price: Price):
        self.price = price
        self._graph, self._emulation = graph, emulation
        self._nodes = {node.output[0]: node for node in graph.nodes}
        self._joined = graph.joined()
        self._borders = 2 * len(graph.outputs)  # as many inputs: features for encoder_out, states
        self._tensors = [name for name in graph.producers if self._is_kept(name)]
        self._readers = {name: self._readers_of(name) for name in self._tensors}
        self._sizes = {n: math.prod(graph.shapes.get(n, ())) for n in self._tensors}
        # Bytes that a reader reads, by the bytes of a number.
        self._reads = {
            n: {width: layer_costs.laid_out(graph.shapes.get(n, ()), width) for width in (1, 2)}
            for n in self._tensors
        }
        self._weights = {name: self._weights_of(node) for name, node in self._nodes.items()}
        self._beside = {name: self._tensors_beside(node) for name, node in self._nodes.items()}

    def load(self, float16: Collection[str]) -> Load:
        """Return what a call has that costs time.

        Args:
            float16: the tensors that stay in float16.
        """
        nodes = (self._node(name, float16) for name in self._nodes)
        tensors = (self._tensor(name, float16) for name in self._tensors)
        return Load(borders=self._borders).plus(*nodes, *tensors)

    def ms(self, float16: Collection[str]) -> float:
        """Return the time of a call by the mean of the fits, to compare choices by."""
        return layer_costs.mean_ms(self.load(float16), self.price.costs)

    def added(self, layers: Collection[str], float16: set[str]) -> float:
        """Return how much longer a call takes when layers become float16, less than 0 if less long.

        Args:
            layers: named by their first outputs; they compute in int8 so far.
            float16: the tensors that stay in float16; the same when this returns.

        Returns:
            Milliseconds, by the mean of the fits.
        """
        nodes = list(layers)
        tensors = set().union(*(self._beside[name] for name in nodes))
        before = self._part(nodes, tensors, float16)
        with self.with_layers(nodes, float16):
            after = self._part(nodes, tensors, float16)
        costs = self.price.costs
        return layer_costs.mean_ms(after, costs) - layer_costs.mean_ms(before, costs)

    @contextmanager
    def with_layers(self, layers: Iterable[str], float16: set[str]) -> Iterator[None]:
        """Have layers in float16 for a while."""
        more = self.outputs(layers) - float16
        float16 |= more
        try:
            yield
        finally:
            float16 -= more

    def outputs(self, layers: Iterable[str]) -> set[str]:
        """Return the tensors that layers give and that have a type to choose."""
        scales = self._emulation.scales
        return {n for layer in layers for n in self._nodes[layer].output if n in scales}

    def alone(self, layer: str) -> float:
        """Return what a layer takes longer in float16 for its bytes alone, in ms."""
        if self._nodes[layer].op_type in (CONVERT, SYMMETRIC):
            return 0.0
        kept = [name for name in self._beside[layer] if name not in self._joined]
        made = self._nodes[layer].output
        reads = [self._reads[name] for name in kept if name not in made]
        more = self._weights[layer] + sum(self._sizes[name] for name in kept if name in made)
        more += sum(read[2] - read[1] for read in reads)
        return layer_costs.mean_ms(Load(moved=more), self.price.costs)

    def ties(self) -> list[Tie]:
        """Return what costs a change of type where types differ; inputs of the model are none."""
        found = []
        for name in self._tensors:
            maker = self._graph.producers[name]
            readers = tuple(node.output[0] for node in self._readers[name])
            if self._graph.is_input(maker) or not readers:
                continue
            extra = Load(conversions=1, moved=self._changed(name))
            if name in self._joined:  # and is then a layer of its own
                extra = extra.plus(Load(npu_layers=1, moved=self._passed_on(name)))
            ms = layer_costs.mean_ms(extra, self.price.costs)
            found.append(Tie(name, maker.output[0], readers, ms))
        return found

    def int8_layers(self, float16: Collection[str]) -> list[str]:
        """Return the layers that compute in int8, named by their first outputs."""
        return [name for name, node in self._nodes.items() if self._is_int8(node, float16)]

    def beside(self, layers: Iterable[str], float16: Collection[str]) -> set[str]:
        """Return the int8 layers that read or make the same tensors as some layers do."""
        tensors = set().union(*(self._beside[name] for name in layers))
        found = {node.output[0] for name in tensors for node in self._readers[name]}
        found |= {self._graph.producers[n].output[0] for n in tensors if n in self._graph.producers}
        return {name for name in found if self._is_int8(self._nodes[name], float16)}

    def describe(self, float16: Collection[str]) -> dict[str, Any]:
        """Return what a report says of a choice.

        Args:
            float16: the tensors that stay in float16.

        Returns:
            `layers`, `conversions` among them, and `predicted_ms`, the two ends of a range, or None
            where times are relative.
        """
        load = self.load(float16)
        return {
            "layers": int(load.npu_layers + load.cpu_layers + load.conversions),
            "conversions": int(load.conversions),
            "predicted_ms": list(layer_costs.time(load, self.price.costs))
            if self.price.kind != RELATIVE
            else None,
        }

    def _part(self, nodes: Iterable[str], tensors: Iterable[str], float16: Collection[str]) -> Load:
        parts = [self._node(name, float16) for name in nodes]
        parts += [self._tensor(name, float16) for name in tensors]
        return Load().plus(*parts)

    def _node(self, name: str, float16: Collection[str]) -> Load:
        """What a layer has for itself: its dispatch, and its weights."""
        node = self._nodes[name]
        if node.op_type in (CONVERT, SYMMETRIC):  # one is part of a border, the other in no file
            return Load()
        if not self._is_typed(node):
            return Load(cpu_layers=1)  # integers are counted there
        width = 1 if self._is_int8(node, float16) else 2
        return Load(npu_layers=1, moved=width * self._weights[name])

    def _tensor(self, name: str, float16: Collection[str]) -> Load:
        """What a tensor has for itself: being written, read, and changed into the other type."""
        maker, size = self._graph.producers[name], self._sizes[name]
        narrow = [self._is_int8(node, float16) for node in self._readers[name]]
        # An input is float16 where all that read it are.
        is_input = self._graph.is_input(maker)
        kept_narrow = any(narrow) if is_input else self._is_int8(maker, float16)
        if name in self._joined and narrow == [kept_narrow]:
            return Load(npu_layers=-1)  # one layer makes and reads it
        reads = self._reads[name]
        moved = (1 if kept_narrow else 2) * size + sum(reads[1 if n else 2] for n in narrow)
        if all(entry == kept_narrow for entry in narrow):
            return Load(moved=moved)
        if name in self._joined:
            moved = self._passed_on(name)
        return Load(conversions=1, moved=moved + self._changed(name))

    def _changed(self, name: str) -> float:
        """Bytes that a change of type moves, the mean of both directions, so that ties add up.

        The layer reads a tensor and writes it in the other type. What is float16 of it is read in
        groups of 16 numbers, as int8 is, by the layer or by those behind it.
        """
        reads = self._reads[name]
        into_int8 = 2 * reads[1] + self._sizes[name]
        into_float16 = reads[1] + 2 * self._sizes[name] + 2 * reads[1] - reads[2]
        return (into_int8 + into_float16) / 2

    def _passed_on(self, name: str) -> float:
        """Bytes of a tensor that is written in one type and read once in the other, likewise."""
        return 1.5 * self._sizes[name] + sum(self._reads[name].values()) / 2

    def _is_int8(self, node: onnx.NodeProto, float16: Collection[str]) -> bool:
        return self._emulation.is_int8(node, float16)

    def _is_typed(self, node: onnx.NodeProto) -> bool:
        return any(name in self._emulation.scales for name in node.output)

    def _is_kept(self, name: str) -> bool:
        """Whether a tensor is computed, kept somewhere, and has a type to choose."""
        maker = self._graph.producers[name]
        is_given = name in maker.output and name not in self._graph.outputs  # not within attention
        return is_given and name in self._emulation.scales and maker.op_type != SYMMETRIC

    def _readers_of(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, each once; an output of the model is one."""
        found: dict[str, onnx.NodeProto] = {}
        for node in self._emulation.readers.get(name, []):
            if node.op_type == SYMMETRIC:  # stands for the product behind it
                node = self._emulation.readers[node.output[0]][0]
            if node.op_type == CONVERT or self._is_typed(node):  # not where integers come out
                found[node.output[0]] = node
        return [node for node in found.values() if name in node.input or node.op_type == MATMUL]

    def _weights_of(self, node: onnx.NodeProto) -> int:
        constants = [name for name in node.input if name in self._graph.weights]
        return sum(math.prod(self._graph.shapes[name]) for name in constants)

    def _tensors_beside(self, node: onnx.NodeProto) -> set[str]:
        """The tensors whose cost may change with the type of a node."""
        names = [n.removesuffix(f" {SYMMETRIC}") for n in (*node.input, *node.output)]
        return {name for name in names if name in self._readers}
