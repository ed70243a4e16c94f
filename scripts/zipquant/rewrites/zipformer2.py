"""What a streaming Zipformer2 is made of, read from its graph.

The encoder is read from its output back to the features. Modules are those of icefall's recipe
`zipformer` in its streaming form: Yao et al., "Zipformer: A faster and better encoder for automatic
speech recognition", 2023.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from zipquant.rewrites.graph import Graph, Mismatch
from zipquant.rewrites.reader import Linear, Reader


@dataclass(frozen=True)
class Swoosh:
    """log(1 + exp(x - shift)) - slope x - offset: SwooshL or SwooshR."""

    shift: float
    slope: float
    offset: float


@dataclass(frozen=True)
class FeedForward:
    """Linear, Swoosh, linear."""

    up: Linear
    swoosh: Swoosh
    down: Linear


@dataclass(frozen=True)
class Values:
    """Values under all heads' attention weights: projection, cache, output projection."""

    proj: Linear
    cache: str
    out: Linear


@dataclass(frozen=True)
class NonlinAttention:
    """tanh(gate) * value under the first head's attention weights, times scale, projected."""

    gate: Linear
    value: Linear
    scale: Linear
    cache: str
    out: Linear


@dataclass(frozen=True)
class Attention:
    """Attention weights with relative positions.

    Attributes:
        query: projection to queries.
        key: projection to keys.
        place: projection to what meets the positions.
        positions: (heads, place channels, frames, left + frames) by query and key frame.
        cache: the keys of the frames before.
        mask: boolean tensor that is true for frames before the stream's begin; None for none.
    """

    query: Linear
    key: Linear
    place: Linear
    positions: np.ndarray
    cache: str
    mask: str | None

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.positions.shape[0]


@dataclass(frozen=True)
class Convolution:
    """Gated linear unit, a causal and a chunkwise depthwise convolution, Swoosh, linear.

    Attributes:
        gate: projection to values and gates, one after the other.
        causal: (channels, kernel) over the cache and the chunk, and its bias (channels).
        chunk: (channels, kernel) over the chunk alone, zeros around it, and its bias.
        scale: (channels, frames), a factor of the chunkwise convolution.
        swoosh: the activation.
        out: the output projection.
        cache: the frames before the chunk.
    """

    gate: Linear
    causal: tuple[np.ndarray, np.ndarray]
    chunk: tuple[np.ndarray, np.ndarray]
    scale: np.ndarray
    swoosh: Swoosh
    out: Linear
    cache: str


@dataclass(frozen=True)
class BiasNorm:
    """x * mean((x - bias)^2)^-0.5 * scale; bias (channels)."""

    bias: np.ndarray
    scale: float


@dataclass(frozen=True)
class Layer:
    """One layer: modules in the order in which they are applied.

    `bypass_middle` and `bypass` (channels) are the share of what goes through the modules.
    """

    source: str
    attention: Attention
    feed_forward1: FeedForward
    nonlin: NonlinAttention
    values1: Values
    conv1: Convolution
    feed_forward2: FeedForward
    bypass_middle: np.ndarray
    values2: Values
    conv2: Convolution
    feed_forward3: FeedForward
    norm: BiasNorm
    bypass: np.ndarray

    @property
    def frames(self) -> int:
        """Frames of a chunk, at this layer's rate."""
        return self.attention.positions.shape[2]

    @property
    def caches(self) -> tuple[str, ...]:
        """The states of the layer."""
        modules = (self.nonlin, self.values1, self.conv1, self.values2, self.conv2)
        return (self.attention.cache, *(module.cache for module in modules))


@dataclass(frozen=True)
class Conv2d:
    """A convolution in two dimensions: weight, bias and the attributes of ONNX."""

    weight: np.ndarray
    bias: np.ndarray
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    group: int


@dataclass(frozen=True)
class Embedding:
    """The front end: convolutions over time and bins, ConvNeXt with a cache, linear, norm.

    Attributes:
        x: the features.
        convs: the first convolutions, each with the Swoosh behind it.
        depthwise: over the cache and what `convs` give.
        up: first pointwise convolution of ConvNeXt, with a Swoosh behind it.
        down: the second one; its result is added to what `convs` give, its future cut off.
        swoosh: between `up` and `down`.
        cache: frames before the chunk.
        out: from (channels, bins) to the stream.
        norm: norm at the end.
    """

    x: str
    convs: tuple[tuple[Conv2d, Swoosh], ...]
    depthwise: Conv2d
    up: Conv2d
    swoosh: Swoosh
    down: Conv2d
    cache: str
    out: Linear
    norm: BiasNorm


@dataclass(frozen=True)
class Down:
    """Weighted sum of each group of frames; weights (factor)."""

    source: str
    weights: np.ndarray


@dataclass(frozen=True)
class Up:
    """Each frame of `source` repeated, mixed with `around`; `share` (channels) is `source`'s."""

    source: str
    around: str
    factor: int
    share: np.ndarray


@dataclass(frozen=True)
class Channels:
    """Parts of the channels of streams joined; a source of None stands for `end` zeros."""

    parts: tuple[tuple[str | None, int, int], ...]


Module = Layer | Embedding | Down | Up | Channels


@dataclass(frozen=True)
class Encoder:
    """The whole encoder: by tensor the module that makes it, each after those that it reads.

    Attributes:
        modules: what makes each stream.
        stream: the last stream.
        out: the last linear layer.
        log_softmax: whether log-probabilities are given, as by a CTC model.
    """

    modules: dict[str, Module]
    stream: str
    out: Linear
    log_softmax: bool


def match(graph: Graph, encoder_out: str) -> Encoder:
    """Read a Zipformer2 from its graph.

    Args:
        graph: the graph, with no shape computed in it.
        encoder_out: name of the encoder's output.

    Raises:
        Mismatch: it is another encoder, or one of a form that is not known.
    """
    return _Matcher(graph).encoder(encoder_out)


class _Matcher(Reader[Module]):
    def forms(self) -> tuple[Callable[[str], Module], ...]:
        return self.layer, self.up, self.down, self.channels, self.embedding

    def encoder(self, name: str) -> Encoder:
        name = self.graph.peel(name)
        log_softmax = self.graph.made_by(name, "LogSoftmax")
        if log_softmax:
            name = self.graph.peel(self.graph.node(name, "LogSoftmax").input[0])
        stream, out = self.linear(name)
        return Encoder(self.modules, self.stream(self.whole(stream)), out, log_softmax)

    def sort(self, pair: Sequence[str], operator: str) -> tuple[str, str]:
        """Of two tensors, the one that comes from an operator, and the other."""
        for first, second in (pair, pair[::-1]):
            if self.graph.made_by(self.graph.peel(first), operator):
                return first, second
        raise Mismatch(f"neither {pair[0]} nor {pair[1]} comes from {operator}")

    def bypass(self, name: str) -> tuple[str, str, np.ndarray]:
        """a + (b - a) w: a, b, and w for each channel."""
        a, b, weight = self.interpolation(name)
        return a, b, np.broadcast_to(weight, [self.graph.shape(name)[-1]])

    def swoosh(self, name: str) -> tuple[str, Swoosh]:
        """Read SwooshL or SwooshR, whatever form log(1 + exp(.)) has."""
        outer = self.graph.node(name, "Sub")
        inner = self.graph.node(outer.input[0], "Sub")
        x, slope = self.graph.operands(inner.input[1], "Mul")
        shifts, reached = [], {inner.input[0]}
        for _ in range(8):  # Where, Log, Add, Exp and the like lie between
            nodes = [self.graph.producers[tensor] for tensor in reached & set(self.graph.producers)]
            shifts += [n.input[1] for n in nodes if n.op_type == "Sub" and n.input[0] == x]
            reached = {tensor for node in nodes for tensor in node.input} - {x}
        if not shifts:
            raise Mismatch(f"{name} is no Swoosh")
        shift, offset = self.graph.scalar(shifts[0]), self.graph.scalar(outer.input[1])
        return x, Swoosh(shift, float(slope.reshape(-1)[0]), offset)

    def layer(self, name: str) -> Layer:
        source, normed, bypass = self.bypass(name)
        x, norm = self.norm(normed)
        x, feed_forward3 = self.residual(x, self.feed_forward)
        x, conv2 = self.residual(x, self.convolution)
        x, (values2, again) = self.residual(x, self.values)
        around, x, bypass_middle = self.bypass(self.whole(x))
        x, feed_forward2 = self.residual(x, self.feed_forward)
        x, conv1 = self.residual(x, self.convolution)
        x, (values1, softmax) = self.residual(x, self.values)
        x, (nonlin, first) = self.residual(x, self.nonlin)
        x, feed_forward1 = self.residual(x, self.feed_forward)
        scored, attention = self.attention(softmax)
        if {softmax, again, first} != {softmax}:
            raise Mismatch(f"the layer of {name} has two kinds of attention weights")
        if {self.whole(tensor) for tensor in (source, around, x, scored)} != {self.whole(x)}:
            raise Mismatch(f"{name} goes around something that is no layer")
        return Layer(
            source=self.stream(self.whole(source)),
            attention=attention,
            feed_forward1=feed_forward1,
            nonlin=nonlin,
            values1=values1,
            conv1=conv1,
            feed_forward2=feed_forward2,
            bypass_middle=bypass_middle,
            values2=values2,
            conv2=conv2,
            feed_forward3=feed_forward3,
            norm=norm,
            bypass=bypass,
        )

    def norm(self, name: str) -> tuple[str, BiasNorm]:
        graph = self.graph
        node = graph.node(self.whole(name), "Mul")
        for x, factors in (node.input, node.input[::-1]):
            if not self.graph.made_by(factors, "Mul"):
                continue
            power, scale = graph.operands(factors, "Mul")
            mean = graph.node(graph.node(power, "Pow").input[0], "ReduceMean")
            centred = graph.node(graph.node(mean.input[0], "Pow", "Mul").input[0], "Sub")
            if centred.input[0] == x and scale.size == 1:
                bias = graph.weight(centred.input[1]).reshape(-1)
                return x, BiasNorm(bias, float(scale.reshape(())))
        raise Mismatch(f"{name} is no BiasNorm")

    def feed_forward(self, name: str) -> tuple[str, FeedForward]:
        x, down = self.linear(name)
        x, swoosh = self.swoosh(self.graph.peel(x))
        x, up = self.linear(x)
        return x, FeedForward(up, swoosh, down)

    def cached(self, name: str) -> tuple[str, str]:
        """The state that a chunk is joined to, and the chunk."""
        cache, new = self.graph.node(self.graph.peel(name), "Concat").input
        cache = self.graph.peel(cache)
        if cache not in self.graph.inputs:
            raise Mismatch(f"{cache} is no state")
        return cache, self.graph.peel(new)

    def values(self, name: str) -> tuple[str, tuple[Values, str]]:
        x, out = self.linear(name)
        weights, values = self.graph.node(self.graph.peel(x), "MatMul").input
        softmax = self.graph.node(self.graph.peel(weights), "Softmax").output[0]
        cache, new = self.cached(values)
        x, proj = self.linear(new)
        return x, (Values(proj, cache, out), softmax)

    def nonlin(self, name: str) -> tuple[str, tuple[NonlinAttention, str]]:
        graph = self.graph
        x, out = self.linear(name)
        product = graph.node(graph.peel(x), "Mul")
        mixed, scale = self.sort(product.input, "MatMul")
        weights, values = graph.node(graph.peel(mixed), "MatMul").input
        softmax, axis, begin, end = graph.slice_of(graph.peel(weights))
        if (axis, begin, end) != (0, 0, 1):
            raise Mismatch(f"{name} does not go by the first head's attention weights")
        cache, new = self.cached(values)
        gated = graph.node(new, "Mul")
        gate, value = self.sort(gated.input, "Tanh")
        x, gate = self.projection(graph.node(graph.peel(gate), "Tanh").input[0])
        _, value = self.projection(value)
        _, scale = self.projection(scale)
        return x, (NonlinAttention(gate, value, scale, cache, out), softmax)

    def attention(self, softmax: str) -> tuple[str, Attention]:
        graph, mask = self.graph, None
        scores = graph.peel(graph.node(softmax, "Softmax").input[0])
        if self.graph.made_by(scores, "Where"):
            mask, _, scores = graph.producers[scores].input
        scores = graph.node(graph.peel(scores), "Add")
        by_place, by_key = self.sort(scores.input, "GatherElements")
        query, key = graph.node(graph.peel(by_key), "MatMul").input
        cache, new = self.cached(key)
        x, keys = self.projection(new)
        _, queries = self.projection(query)
        gather = graph.node(graph.peel(by_place), "GatherElements")
        place, table = graph.node(graph.peel(gather.input[0]), "MatMul").input
        _, places = self.projection(place)
        index, table = graph.weight(gather.input[1]), graph.weight(table)
        frames, length = graph.shape(by_key)[-2:]
        table = table.reshape(-1, *table.shape[-2:])  # (heads, place channels, offsets)
        index = index.reshape(table.shape[0], frames, length)
        positions = np.take_along_axis(table[:, :, None], index[:, None], axis=3)
        return x, Attention(queries, keys, places, positions, cache, mask)

    def convolution(self, name: str) -> tuple[str, Convolution]:
        graph = self.graph
        x, out = self.linear(name)
        x, swoosh = self.swoosh(graph.peel(x))
        parts = graph.node(graph.peel(x), "Add")
        scaled, causal = self.sort(parts.input, "Mul")
        chunk, scale = graph.operands(scaled, "Mul")
        causal, chunk = graph.node(causal, "Conv"), graph.node(chunk, "Conv")
        cache, new = self.cached(causal.input[0])
        if self.graph.made_by(new, "Where"):  # padding, which a stream has none of
            new = graph.peel(graph.producers[new].input[2])
        product = graph.node(new, "Mul")
        gate, value = self.sort(product.input, "Sigmoid")
        source, values = self.projection(value)
        _, gates = self.projection(graph.node(graph.peel(gate), "Sigmoid").input[0])
        channels = out.weight.shape[0]
        linear = Linear(
            np.concatenate([values.weight, gates.weight], 1),
            np.concatenate([bias_of(values), bias_of(gates)]),
        )
        return source, Convolution(
            linear,
            self.depthwise(causal),
            self.depthwise(chunk),
            np.broadcast_to(scale, (1, channels, graph.shape(new)[0]))[0],
            swoosh,
            out,
            cache,
        )

    def depthwise(self, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
        """Weight (channels, kernel) and bias (channels) of a depthwise convolution over time."""
        weight = self.graph.weight(node.input[1])
        if weight.ndim != 3 or weight.shape[1] != 1:
            raise Mismatch(f"{node.output[0]} is no depthwise convolution over time")
        bias = self.graph.weight(node.input[2]) if len(node.input) > 2 else None
        return weight[:, 0], np.zeros(len(weight), np.float32) if bias is None else bias

    def up(self, name: str) -> Up:
        around, repeated, share = self.bypass(name)
        source = self.whole(repeated)
        factor = self.graph.shape(name)[0] // self.graph.shape(source)[0]
        if factor < 2:
            raise Mismatch(f"{name} does not repeat the frames of {source}")
        return Up(self.stream(source), self.stream(self.whole(around)), factor, share)

    def down(self, name: str) -> Down:
        graph = self.graph
        grouped, weights = graph.operands(graph.node(name, "ReduceSum").input[0], "Mul")
        if weights.size != graph.shape(grouped)[1]:
            raise Mismatch(f"{name} weighs channels by themselves")
        return Down(self.stream(self.whole(grouped)), weights.reshape(-1))

    def channels(self, name: str) -> Channels:
        graph = self.graph
        node = graph.node(name, "Concat", "Slice", "Pad")
        if node.op_type == "Pad":
            source, sizes = node.input[0], graph.weight(node.input[1]).reshape(2, -1)
            if sizes[:, :-1].any() or sizes[0, -1]:
                raise Mismatch(f"{name} pads something else than channels")
            return Channels((self._part(source), (None, 0, int(sizes[1, -1]))))
        if node.op_type == "Slice":
            return Channels((self._part(name),))
        if graph.attribute(node, "axis") % len(graph.shape(name)) != len(graph.shape(name)) - 1:
            raise Mismatch(f"{name} joins something else than channels")
        return Channels(tuple(self._part(tensor) for tensor in node.input))

    def _part(self, name: str) -> tuple[str | None, int, int]:
        if name in self.graph.weights:
            if self.graph.weight(name).any():
                raise Mismatch(f"{name} are channels that are constant, but not zeros")
            return None, 0, self.graph.weight(name).shape[-1]
        name = self.whole(name)
        if not self.graph.made_by(name, "Slice"):
            return self.stream(name), 0, self.graph.shape(name)[-1]
        whole, axis, begin, end = self.graph.slice_of(name)
        if axis != len(self.graph.shape(whole)) - 1:
            raise Mismatch(f"{name} is cut on another axis than the last")
        return self.stream(self.whole(whole)), begin, end

    def embedding(self, name: str) -> Embedding:
        graph = self.graph
        x, norm = self.norm(name)
        x, out = self.linear(x)
        branches = graph.node(graph.peel(x), "Add")
        branch, sliced = self.sort(branches.input, "Conv")
        x, down = self.conv2d(branch)
        x, swoosh = self.swoosh(x)
        x, up = self.conv2d(x)
        x, depthwise = self.conv2d(x)
        cache, x = self.cached(x)
        if not self.graph.made_by(sliced, "Slice") or graph.slice_of(sliced)[0] != x:
            raise Mismatch(f"{name} has no ConvNeXt")
        convs: list[tuple[Conv2d, Swoosh]] = []
        while x not in graph.inputs:
            x, activation = self.swoosh(x)
            x, conv = self.conv2d(x)
            convs.insert(0, (conv, activation))
            x = graph.peel(x)
        return Embedding(x, tuple(convs), depthwise, up, swoosh, down, cache, out, norm)

    def conv2d(self, name: str) -> tuple[str, Conv2d]:
        graph = self.graph
        node = graph.node(name, "Conv")
        weight = graph.weight(node.input[1])
        if weight.ndim != 4:
            raise Mismatch(f"{name} is no convolution in two dimensions")
        bias = graph.weight(node.input[2]) if len(node.input) > 2 else np.zeros(len(weight))
        return node.input[0], Conv2d(
            weight,
            np.asarray(bias, np.float32),
            tuple(graph.attribute(node, "strides", (1, 1))),
            tuple(graph.attribute(node, "pads", (0, 0, 0, 0))),
            graph.attribute(node, "group", 1),
        )


def bias_of(linear: Linear) -> np.ndarray:
    zeros = np.zeros(linear.weight.shape[1], np.float32)
    return zeros if linear.bias is None else linear.bias
