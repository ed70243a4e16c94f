"""What a streaming Zipformer (version 1) is made of, read from its graph.

The encoder is read from its output back to the features. Modules are those of Yao et al. 2023 in
the streaming form of icefall's pruned_transducer_stateless7_streaming.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zipquant.rewrites.graph import Graph, Mismatch
from zipquant.rewrites.reader import Linear, Reader, UnknownStream

Entry = tuple[str, int]
"""A layer's part of a state: the graph's input, and the index on its first axis."""


@dataclass(frozen=True)
class FeedForward:
    """Linear, DoubleSwish, linear."""

    up: Linear
    down: Linear


@dataclass(frozen=True)
class Pooling:
    """Projection of the mean of all frames so far."""

    proj: Linear
    mean: Entry
    count: Entry


@dataclass(frozen=True)
class Values:
    """Values under attention weights: their projection, cache and output projection."""

    proj: Linear
    cache: Entry
    out: Linear


@dataclass(frozen=True)
class Attention:
    """Attention weights with relative positions.

    Attributes:
        query: projection to queries, scaled.
        key: projection to keys.
        place: projection to what meets the positions.
        positions: (heads, place channels, frames, left + frames) by query and key frame.
        key_cache: the keys of the frames before.
    """

    query: Linear
    key: Linear
    place: Linear
    positions: np.ndarray
    key_cache: Entry

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.positions.shape[0]


@dataclass(frozen=True)
class Convolution:
    """Pointwise, gated, depthwise over a cache, DoubleSwish, pointwise."""

    gate: Linear
    depthwise: np.ndarray  # (channels, kernel)
    depthwise_bias: np.ndarray | None
    out: Linear
    cache: Entry


@dataclass(frozen=True)
class Layer:
    """One layer: modules in the order in which they are applied, norm and bypass at the end."""

    source: str
    frames: int
    feed_forward1: FeedForward
    pooling: Pooling
    attention: Attention
    values: Values
    conv1: Convolution
    feed_forward2: FeedForward
    values2: Values
    conv2: Convolution
    feed_forward3: FeedForward
    eps: float
    bypass: float

    @property
    def channels(self) -> int:
        """Width of the stream."""
        return self.feed_forward1.up.weight.shape[0]


@dataclass(frozen=True)
class Embedding:
    """The front end: original nodes up to `tensor` (1, channels, frames, bins), then a linear."""

    tensor: str
    out: Linear


@dataclass(frozen=True)
class Down:
    """Mean of each group of `factor` frames, weighted by softmax over a query (channels)."""

    source: str
    factor: int
    query: np.ndarray


@dataclass(frozen=True)
class Up:
    """Each frame repeated, with an offset (factor, channels) for each place in the group."""

    source: str
    offset: np.ndarray


@dataclass(frozen=True)
class Mix:
    """Weighted sum of streams."""

    terms: tuple[tuple[str, float], ...]


Module = Layer | Embedding | Down | Up | Mix


@dataclass(frozen=True)
class Encoder:
    """The whole encoder: by tensor the module that makes it, each after those that it reads."""

    modules: dict[str, Module]
    stream: str
    out: Linear

    @property
    def layers(self) -> list[Layer]:
        """All layers in the order in which they run."""
        return [module for module in self.modules.values() if isinstance(module, Layer)]


def match(graph: Graph, encoder_out: str) -> Encoder:
    """Read a Zipformer from its graph.

    Args:
        graph: the graph, its constants folded.
        encoder_out: name of the encoder's output.

    Raises:
        Mismatch: it is another encoder, or one of a form that is not known.
    """
    return _Matcher(graph).encoder(encoder_out)


class _Matcher(Reader[Module]):
    def forms(self) -> tuple[Callable[[str], Module], ...]:
        return self.layer, self.embedding, self.mix, self.up, self.down

    def encoder(self, name: str) -> Encoder:
        stream, out = self.linear(name)
        return Encoder(self.modules, self.stream(self.graph.peel(stream)), out)

    def mean_of_two(self, name: str) -> tuple[str, str, float]:
        """a + (b - a) w: a, b, w."""
        a, b, weight = self.interpolation(name)
        if weight.size != 1:
            raise Mismatch(f"{name} weighs each channel by itself")
        return a, b, float(weight[0])

    def layer(self, name: str) -> Layer:
        source, normed, bypass = self.mean_of_two(name)
        x, eps = self.norm(normed)
        try:
            return self.modules_of(x, source, eps, bypass)
        except UnknownStream:
            raise
        except Mismatch as mismatch:
            raise UnknownStream(f"in the layer that ends in {name}, {mismatch}") from None

    def modules_of(self, x: str, source: str, eps: float, bypass: float) -> Layer:
        """Read a layer from what its norm reads back to its source."""
        end = x
        x, feed_forward3 = self.residual(x, self.feed_forward)
        x, conv2 = self.residual(x, self.convolution)
        x, (values2, softmax) = self.residual(x, self.values)
        x, feed_forward2 = self.residual(x, self.feed_forward)
        x, conv1 = self.residual(x, self.convolution)
        x, (values, again) = self.residual(x, self.values)
        if softmax != again:
            raise Mismatch(f"the two values before {end} have different attention weights")
        pooled, attention = self.attention(softmax)
        if self.graph.peel(pooled) != self.graph.peel(x):
            raise Mismatch(f"the attention weights of {x} are of another layer")
        x, pooling = self.residual(x, self.pooling)
        x, feed_forward1 = self.residual(x, self.feed_forward)
        if self.graph.peel(x) != self.graph.peel(source):
            raise Mismatch(f"the bypass of {end} does not begin at {x}")
        return Layer(
            source=self.stream(self.graph.peel(source)),
            frames=attention.positions.shape[2],
            feed_forward1=feed_forward1,
            pooling=pooling,
            attention=attention,
            values=values,
            conv1=conv1,
            feed_forward2=feed_forward2,
            values2=values2,
            conv2=conv2,
            feed_forward3=feed_forward3,
            eps=eps,
            bypass=bypass,
        )

    def norm(self, name: str) -> tuple[str, float]:
        """x * (mean(x^2) + eps)^-0.5: x and eps."""
        node = self.graph.node(name, "Mul")
        for x, scale in (node.input, node.input[::-1]):
            power = self.graph.producers.get(scale)
            if power is None or power.op_type != "Pow":
                continue
            if self.graph.scalar(power.input[1]) != -0.5:
                continue
            mean, eps = self.graph.operands(power.input[0], "Add")
            square = self.graph.node(self.graph.node(mean, "ReduceMean").input[0], "Mul", "Pow")
            if square.input[0] != x or eps.size != 1:
                continue
            return x, float(eps.reshape(()))
        raise Mismatch(f"{name} is no division by the root of the mean square")

    def feed_forward(self, name: str) -> tuple[str, FeedForward]:
        x, down = self.linear(name)
        x, up = self.linear(self.graph.double_swish(x))
        return x, FeedForward(up, down)

    def convolution(self, name: str) -> tuple[str, Convolution]:
        graph = self.graph
        x, out = self.linear(name)
        depthwise = graph.node(graph.double_swish(graph.peel(x)), "Conv")
        weight = graph.weight(depthwise.input[1])
        if weight.shape[1] != 1 or not self.grouped(depthwise):
            raise Mismatch(f"{depthwise.output[0]} is no depthwise convolution")
        bias = graph.weight(depthwise.input[2]) if len(depthwise.input) > 2 else None
        cache, gated = graph.node(graph.peel(depthwise.input[0]), "Concat").input
        gate, value = graph.pair(graph.peel(gated), "Mul", "Sigmoid")
        whole, _, begin, _ = graph.slice_of(value)
        if begin != 0 or graph.slice_of(graph.node(gate, "Sigmoid").input[0])[0] != whole:
            raise Mismatch(f"{gated} is no gated linear unit")
        x, linear = self.linear(whole)
        entry = graph.entry_of(cache)
        return x, Convolution(linear, weight.reshape(weight.shape[0], -1), bias, out, entry)

    def values(self, name: str) -> tuple[str, tuple[Values, str]]:
        graph = self.graph
        x, out = self.linear(name)
        weights, values = graph.node(graph.peel(x), "MatMul").input
        softmax = graph.node(graph.peel(weights), "Softmax").output[0]
        cache, new = graph.node(graph.peel(values), "Concat").input
        x, proj = self.projection(new)
        return x, (Values(proj, graph.entry_of(cache), out), softmax)

    def attention(self, softmax: str) -> tuple[str, Attention]:
        graph = self.graph
        scores = graph.peel(graph.node(softmax, "Softmax").input[0])
        by_place, by_key = graph.pair(scores, "Add", "GatherElements")
        query, key = graph.node(by_key, "MatMul").input
        cache, new = graph.node(graph.peel(key), "Concat").input
        x, keys = self.projection(new)
        # Queries are scaled, before or after the heads are split, or not at all.
        query, factor = graph.peel(query), 1.0
        if graph.node(query, "Mul", "Slice", "Split", "Add").op_type == "Mul":
            query, scale = graph.operands(query, "Mul")
            factor = float(scale.reshape(()))
        _, queries = self.projection(query)
        bias = None if queries.bias is None else queries.bias * factor
        gather = graph.node(by_place, "GatherElements")
        place, table = graph.node(graph.peel(gather.input[0]), "MatMul").input
        _, places = self.projection(place)
        index, table = graph.weight(gather.input[1]), graph.weight(table)
        frames, length = graph.shape(by_key)[-2:]
        table = table.reshape(-1, *table.shape[-2:])  # (heads, place channels, offsets)
        index = index.reshape(table.shape[0], frames, length)
        positions = np.take_along_axis(table[:, :, None], index[:, None], axis=3)
        attention = Attention(
            query=Linear(queries.weight * factor, bias),
            key=keys,
            place=places,
            positions=positions,
            key_cache=graph.entry_of(cache),
        )
        return x, attention

    def pooling(self, name: str) -> tuple[str, Pooling]:
        graph = self.graph
        x, proj = self.linear(name)
        means = graph.peel(x)
        if graph.made_by(means, "Div"):
            total, seen = map(graph.peel, graph.node(means, "Div").input)
        else:
            seen, total = graph.pair(means, "Mul", "Reciprocal")
        sums, before = graph.pair(total, "Add", "CumSum")
        _, mean = graph.pair(before, "Mul", "Cast")
        source = graph.node(sums, "CumSum").input[0]
        return source, Pooling(proj, graph.entry_of(mean), self.counter(seen))

    def counter(self, name: str) -> Entry:
        """The counter among the states that a number of frames is counted up from."""
        graph = self.graph
        node = graph.node(graph.peel(name), "Reciprocal", "Cast", "Add")
        while node.op_type != "Add":
            node = graph.node(graph.peel(node.input[0]), "Reciprocal", "Cast", "Add")
        return graph.entry_of(graph.operands(node.output[0], "Add")[0])

    def mix(self, name: str) -> Mix:
        graph = self.graph
        try:
            a, b, weight = self.mean_of_two(name)
            terms = [(a, 1 - weight), (b, weight)]
        except Mismatch:
            terms = [self._term(part) for part in graph.node(name, "Add").input]
        return Mix(tuple((self.stream(self._whole(x)), weight) for x, weight in terms))

    def _term(self, name: str) -> tuple[str, float]:
        node = self.graph.producers.get(name)
        if node is None or node.op_type != "Mul":
            return name, 1.0
        x, weight = self.graph.operands(name, "Mul")
        if weight.size != 1:
            raise Mismatch(f"{name} weighs each channel by itself")
        return x, float(weight.reshape(()))

    def _whole(self, name: str) -> str:
        """What a slice that takes all is a slice of."""
        node = self.graph.producers.get(name)
        if node is None or node.op_type != "Slice":
            return name
        whole, axis, begin, end = self.graph.slice_of(name)
        if begin != 0 or end != self.graph.shape(whole)[axis]:
            raise Mismatch(f"{name} leaves frames out")
        return whole

    def up(self, name: str) -> Up:
        graph = self.graph
        repeated, offset = graph.operands(graph.peel(name), "Add")
        channels = graph.shape(name)[-1]
        source = graph.peel(repeated)
        factor = offset.size // channels
        if factor < 2 or graph.shape(name)[0] != factor * graph.shape(source)[0]:
            raise Mismatch(f"{name} does not repeat the frames of {source}")
        return Up(self.stream(source), offset.reshape(factor, channels))

    def down(self, name: str) -> Down:
        graph = self.graph
        product = graph.node(graph.peel(name), "ReduceSum").input[0]
        factors = graph.node(product, "Mul").input
        groups, softmax = sorted(factors, key=lambda name: graph.made_by(name, "Softmax"))
        scores = graph.node(graph.node(softmax, "Softmax").input[0], "ReduceSum").input[0]
        same, query = graph.operands(scores, "Mul")
        if same != groups:
            raise Mismatch(f"{name} weighs frames by other frames")
        factor = graph.shape(groups)[1]
        return Down(self.stream(graph.peel(groups)), factor, query.reshape(-1))

    def embedding(self, name: str) -> Embedding:
        graph = self.graph
        x, out = self.linear(graph.peel(name))
        tensor = graph.peel(x)
        if len(graph.shape(tensor)) != 4 or tensor in graph.inputs:
            raise Mismatch(f"{name} does not come from a convolution in two dimensions")
        return Embedding(tensor, out)
