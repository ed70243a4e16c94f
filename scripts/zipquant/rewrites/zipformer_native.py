"""A streaming Zipformer (version 1) written for the NPU: channels first, few and fused layers."""

from collections.abc import Callable
from itertools import groupby, pairwise

import numpy as np
import onnx

from zipquant.model.contract import Contract
from zipquant.rewrites import zipformer
from zipquant.rewrites.channels_first import Writer
from zipquant.rewrites.graph import Graph, Mismatch
from zipquant.rewrites.reader import Linear
from zipquant.rewrites.zipformer import (
    Convolution,
    Down,
    Embedding,
    Encoder,
    Entry,
    FeedForward,
    Layer,
    Mix,
    Up,
)

LARGEST_KERNEL = 16
"""A kernel side above this is split by the toolkit into several layers."""

SMALLEST_SCALE = 0.25
"""Streams may be carried divided by no less: float16 squares 256 at most."""

Stream = tuple[str, float]
"""A stream that is carried divided by a factor, which the weights around it make good for."""

KINDS: dict[str, Callable[[Layer], Entry]] = {
    "count": lambda layer: layer.pooling.count,
    "mean": lambda layer: layer.pooling.mean,
    "key": lambda layer: layer.attention.key_cache,
    "value": lambda layer: layer.values.cache,
    "value2": lambda layer: layer.values2.cache,
    "conv1": lambda layer: layer.conv1.cache,
    "conv2": lambda layer: layer.conv2.cache,
}
"""The states of a layer by kind."""


def rewrite(model: onnx.ModelProto, graph: Graph, contract: Contract) -> onnx.ModelProto:
    """Write a Zipformer again for the NPU.

    Args:
        model: the encoder with a batch of 1 and its constants folded.
        graph: what `Graph` has read of it.
        contract: its contract.

    Raises:
        Mismatch: it is no Zipformer of the form that is known.
    """
    encoder = zipformer.match(graph, contract.encoder_out)
    native = _Native(model, graph, contract, encoder)
    native.write()
    return native.writer.model(model)


class _Native:
    """One rewriting; tensors are named after what they hold.

    Layers are numbered in the order in which they run, which is that of the states as well.
    """

    def __init__(self, model: onnx.ModelProto, graph: Graph, contract: Contract, encoder: Encoder):
        self.writer = Writer()
        self.model, self.graph, self.contract, self.encoder = model, graph, contract, encoder
        self.layers = encoder.layers
        self.frames = [layer.frames for layer in self.layers]
        self.states = {kind: self._states(kind) for kind in KINDS}
        self.next = {state.tensor.name: state.next_output for state in contract.states}
        first = self.layers[0]
        self.channels = first.channels
        self.heads = first.attention.heads
        self.key_size = first.attention.key.weight.shape[1]
        self.value_size = first.values.proj.weight.shape[1]
        self.kernel = first.conv1.depthwise.shape[1]
        self.half = (self.kernel + 1) // 2
        self.odd = 2 * self.half - self.kernel
        self.lefts = [layer.attention.positions.shape[3] - layer.frames for layer in self.layers]
        self._check()

    def _states(self, kind: str) -> list[tuple[str, int]]:
        """The inputs of a kind, and how many layers each holds, in the order of the layers."""
        entries = [KINDS[kind](layer) for layer in self.layers]
        states = [(name, len(list(group))) for name, group in groupby(e[0] for e in entries)]
        if entries != [(name, i) for name, count in states for i in range(count)]:
            raise Mismatch(f"the states of kind {kind} are not in the order of the layers")
        for name, count in states:
            if self.graph.shape(name)[0] != count:
                raise Mismatch(f"{name} holds more layers than the model has")
        return states

    def _check(self) -> None:
        """Refuse what the caches cannot be handled together for."""
        sizes = {
            (
                layer.channels,
                layer.attention.heads,
                layer.attention.key.weight.shape[1],
                layer.values.proj.weight.shape[1],
                layer.values2.proj.weight.shape[1],
                layer.conv1.depthwise.shape[1],
                layer.conv2.depthwise.shape[1],
            )
            for layer in self.layers
        }
        if len(sizes) != 1:
            raise Mismatch("layers have different widths, heads or kernels")
        counts = {tuple(count for _, count in states) for states in self.states.values()}
        if len(counts) != 1:
            raise Mismatch("states of different kinds are stacked in different ways")
        self.stacks = counts.pop()
        self.stacked = max(self.stacks) > 1
        known = {name for states in self.states.values() for name, _ in states}
        others = {state.tensor.name for state in self.contract.states} - known
        if others:
            raise Mismatch(f"it has states of other kinds ({', '.join(sorted(others))})")

    def names(self, kind: str) -> list[str]:
        """Inputs of a kind."""
        return [name for name, _ in self.states[kind]]

    def outputs(self, kind: str) -> list[str]:
        """Outputs with the next values of a kind."""
        return [self.next[name] for name in self.names(kind)]

    def write(self) -> None:
        """Write the whole graph."""
        w = self.writer
        with w.scope("counters"):
            self._counters()
        with w.scope("conv_caches"):
            conv_caches = self._conv_caches()
        with w.scope("attention_caches"):
            caches = self._attention_caches()
        streams: dict[str, Stream] = {}
        self.means: list[str] = []
        self.new_conv: dict[tuple[int, int], str] = {}
        self.new_caches: list[tuple[str, str]] = []
        number = 0
        for name, module in self.encoder.modules.items():
            if isinstance(module, Layer):
                with w.scope(f"layers.{number}"):
                    streams[name] = self._layer(
                        number, module, streams[module.source], caches[number], conv_caches
                    )
                number += 1
            elif isinstance(module, Embedding):
                with w.scope("embed"):
                    streams[name] = self._embedding(module)
            elif isinstance(module, Down):
                with w.scope("down"):
                    streams[name] = self._down(module, streams[module.source])
            elif isinstance(module, Up):
                # Written with the sum that it goes into.
                continue
            else:
                with w.scope("combine"):
                    streams[name] = self._mix(module, streams)
        with w.scope("out"):
            self._out(streams[self.encoder.stream])
        with w.scope("new_means"):
            self._new_means()
        with w.scope("new_attention_caches"):
            self._new_attention_caches()
        with w.scope("new_conv_caches"):
            self._new_conv_caches()

    def _counters(self) -> None:
        """Counters, 1 / (count + t) of each frame t, and the means' part that does not grow.

        The mean over all frames so far is sum / (count + t) + mean * count / (count + t), and
        count / (count + t) is 1 - t / (count + t): no product grows with the stream.
        """
        w, frames = self.writer, self.frames
        number, total = len(self.layers), sum(self.frames)
        counts = w.concat(self.names("count"), 0)
        steps = w.weight(np.array(frames, np.int64)[:, None], "frames")
        w.split(w.op("Add", counts, steps), self.stacks, 0, self.outputs("count"))
        counts = w.op("Cast", counts, to=onnx.TensorProto.FLOAT)
        counts = w.reshape(counts, (1, number, 1, 1))
        of_layer = np.repeat(np.eye(number, dtype=np.float32), frames, axis=1)  # (layers, total)
        place = np.concatenate([np.arange(1, size + 1) for size in frames]).astype(np.float32)
        seen = w.linear(counts, of_layer, place)
        inverse = w.op("Pow", seen, w.weight(np.array(-1.0, np.float32), "exponent"))
        inverse = w.reshape(inverse, (1, 1, 1, total))
        kept = w.op(
            "Sub",
            w.weight(of_layer[None, :, None], "layer_of_frame"),
            w.scaled(inverse, (of_layer * place)[None, :, None]),
        )  # (1, layers, 1, total)
        kept = w.reshape(kept, (1, number, total))
        means = w.concat(self.names("mean"), 0)  # (layers, 1, channels)
        means = w.transpose(w.reshape(means, (1, number, self.channels)), (0, 2, 1))
        before = w.reshape(w.op("MatMul", means, kept), (1, self.channels, 1, total))
        self.inverse = w.split(inverse, frames, 3)
        self.before = w.split(before, frames, 3)

    def _conv_caches(self) -> dict[tuple[int, int], tuple[str, str]]:
        """For each convolution (layer, first or second) what its kernel's rows see.

        A kernel above `LARGEST_KERNEL` is laid in two rows. The first row sees the frames before
        those of the second, all from the cache, with a zero in front where the kernel is odd.
        """
        w, channels, left = self.writer, self.channels, self.kernel - 1
        self._order_conv_caches()
        number = len(self.conv_order)
        half, odd = self.half, self.odd
        caches = w.concat([name for name, _ in self.conv_states], 0)
        if odd:
            zero = w.weight(np.zeros((number, 1, channels, odd), np.float32), "zero")
            caches = w.concat([zero, caches], 3)
        width = left + odd
        self.old_conv = w.transpose(caches, (1, 2, 0, 3))  # (1, channels, convolutions, width)
        caches = w.reshape(self.old_conv, (1, channels, 1, number * width))
        firsts, seconds = [], []
        for layer, _ in self.conv_order:
            first = self.frames[layer] + half - 1
            firsts += [first] + ([width - first] if width > first else [])
            seconds += [half, width - half]
        first, second = iter(w.split(caches, firsts, 3)), iter(w.split(caches, seconds, 3))
        found = {}
        for place in self.conv_order:
            row = next(first)
            if width > self.frames[place[0]] + half - 1:
                next(first)
            next(second)
            found[place] = row, next(second)
        return found

    def _order_conv_caches(self) -> None:
        """Order states and convolutions so that those of equally many frames are together."""
        ends = list(pairwise(np.cumsum([0, *self.stacks])))
        stacks = sorted(range(len(ends)), key=lambda stack: -self.frames[ends[stack][0]])
        self.conv_states, self.conv_order = [], []
        for _, group in groupby(stacks, key=lambda stack: self.frames[ends[stack][0]]):
            members = list(group)
            for which, kind in enumerate(("conv1", "conv2")):
                for stack in members:
                    self.conv_states.append(self.states[kind][stack])
                    self.conv_order += [(layer, which) for layer in range(*ends[stack])]

    def _attention_caches(self) -> list[tuple[str, str]]:
        """For each layer its keys and values (heads, both, 1, frames before), and second values."""
        w, heads = self.writer, self.heads
        sizes = [self.key_size, self.value_size, self.value_size]
        kinds = ("key", "value", "value2")
        if self.stacked:
            stacks = [
                w.reshape(w.concat(names, 3), (1, -1, 1, sum(sizes)))
                for names in zip(*(self.names(kind) for kind in kinds), strict=True)
            ]
            self.old = [w.concat(stacks, 1)]  # (1, all frames, 1, all kinds)
            parts = w.split(self.old[0], sizes, 3)
        else:
            self.old = parts = [w.concat(self.names(kind), 1) for kind in kinds]
        per_head = [size // heads for size in sizes]
        parts = [
            w.reshape(part, (1, sum(self.lefts), heads, size))
            for part, size in zip(parts, per_head, strict=True)
        ]
        caches = w.transpose(w.concat(parts, 3), (2, 3, 0, 1))  # (heads, sizes, 1, all frames)
        caches = w.split(caches, [sum(per_head[:2]), per_head[2]], 1)
        both = [w.split(part, self.lefts, 3) for part in caches]
        return list(zip(*both, strict=True))

    def _layer(self, number: int, layer: Layer, stream: Stream, caches, conv_caches) -> Stream:
        w = self.writer
        x, scale = stream
        with w.scope("feed_forward1"):
            x = self._feed_forward(layer.feed_forward1, x, scale)
        with w.scope("pooling"):
            x = self._pooling(number, layer, x, scale)
        with w.scope("attention"):
            x, shared, new = self._attention(layer, x, scale, caches[0])
        with w.scope("conv1"):
            x = self._convolution(layer.conv1, x, scale, (number, 0), conv_caches)
        with w.scope("feed_forward2"):
            x = self._feed_forward(layer.feed_forward2, x, scale)
        with w.scope("attention2"):
            x, new2 = self._attention2(layer, x, scale, shared, caches[1])
        with w.scope("conv2"):
            x = self._convolution(layer.conv2, x, scale, (number, 1), conv_caches)
        with w.scope("feed_forward3"):
            x = self._feed_forward(layer.feed_forward3, x, scale)
        self.new_caches.append((new, new2))
        with w.scope("norm"):
            return self._norm(layer, x, stream)

    def _into(self, x: str, linear: Linear, scale: float) -> str:
        """A linear layer that reads a stream carried divided by `scale`."""
        return self.writer.linear(x, linear.weight * scale, linear.bias)

    def _back(self, x: str, y: str, linear: Linear, scale: float) -> str:
        """x + linear(y), for a stream x carried divided by `scale`."""
        w = self.writer
        bias = None if linear.bias is None else linear.bias / scale
        return w.add(x, w.linear(y, linear.weight / scale, bias))

    def _feed_forward(self, module: FeedForward, x: str, scale: float) -> str:
        hidden = self.writer.double_swish(self._into(x, module.up, scale))
        return self._back(x, hidden, module.down, scale)

    def _pooling(self, number: int, layer: Layer, x: str, scale: float) -> str:
        w = self.writer
        ones = np.full((self.channels, 1, layer.frames), scale, np.float32)
        sums = w.depthwise(x, ones, pads=(0, layer.frames - 1, 0, 0))
        means = w.add(w.op("Mul", sums, self.inverse[number]), self.before[number])
        self.means.append(means)
        return self._back(x, means, layer.pooling.proj, scale)

    def _attention(self, layer: Layer, x: str, scale: float, cache: str):
        """Attention by head, keys and values in one tensor: of each head its keys, its values.

        Queries hold zeros where the values are, and the part that meets the positions once for each
        frame; a constant mask keeps in each frame's query the copy that is its own. Keys and values
        are joined with the positions as each query frame sees them. The output projection takes no
        notice of the weighted keys.
        """
        w, attention, heads = self.writer, layer.attention, self.heads
        frames, length = attention.positions.shape[2:]
        query, key, place, value = (
            _by_head(part, heads, scale)
            for part in (attention.query, attention.key, attention.place, layer.values.proj)
        )
        places = place.weight.shape[2]
        nothing = Linear(np.zeros_like(value.weight), np.zeros_like(value.bias))
        copies = [query, nothing, *[place] * frames, key, value]
        sizes = [part.weight.shape[2] for part in copies]
        kept, fresh = sum(sizes[:-2]), sum(sizes[-2:])
        weight = np.concatenate([part.weight for part in copies], axis=2)
        bias = np.concatenate([part.bias for part in copies], axis=1)
        mask = np.ones((heads, kept + fresh, frames), np.float32)
        mask[:, fresh:kept] = np.repeat(np.eye(frames), places, axis=0)
        both = w.linear(x, weight.reshape(weight.shape[0], -1), bias.reshape(-1))
        both = w.scaled(both, mask.reshape(1, -1, 1, frames))
        both = w.reshape(both, (heads, kept + fresh, 1, frames))
        q, new = w.split(both, [kept, fresh], 1)
        values = w.concat([cache, new], 3)
        # (heads, place channels, frames, length) to (heads, frames * place channels, 1, length)
        table = attention.positions.transpose(0, 2, 1, 3).reshape(heads, -1, 1, length)
        keys = w.concat([values, w.weight(table, "positions")], 1)
        q, keys = w.reshape(q, (heads, kept, frames)), w.reshape(keys, (heads, kept, length))
        values = w.reshape(values, (heads, fresh, length))
        scores = w.op("MatMul", w.transpose(keys, (0, 2, 1)), q)
        mixed = w.op("MatMul", values, w.op("Softmax", scores, axis=1))
        mixed = w.reshape(mixed, (1, heads * fresh, 1, frames))
        out = layer.values.out.weight.reshape(heads, -1, self.channels)
        wide = np.zeros((heads, fresh, self.channels), np.float32)
        wide[:, fresh - out.shape[1] :] = out
        out = Linear(wide.reshape(-1, self.channels), layer.values.out.bias)
        return self._back(x, mixed, out, scale), (q, keys), new

    def _attention2(
        self, layer: Layer, x: str, scale: float, shared: tuple[str, str], cache: str
    ) -> tuple[str, str]:
        """The second values; the scores are spelt transposed, or the compiler shares the first."""
        w, (q, keys) = self.writer, shared
        frames, length = layer.attention.positions.shape[2:]
        new = self._into(x, layer.values2.proj, scale)
        new = w.reshape(new, (self.heads, -1, 1, frames))
        values = w.reshape(w.concat([cache, new], 3), (self.heads, -1, length))
        weights = w.op("Softmax", w.op("MatMul", w.transpose(q, (0, 2, 1)), keys), axis=-1)
        mixed = w.op("MatMul", weights, w.transpose(values, (0, 2, 1)))
        mixed = w.reshape(w.transpose(mixed, (0, 2, 1)), (1, self.value_size, 1, frames))
        return self._back(x, mixed, layer.values2.out, scale), new

    def _convolution(
        self, module: Convolution, x: str, scale: float, place: tuple[int, int], caches
    ) -> str:
        w = self.writer
        new = w.gated(self._into(x, module.gate, scale), self.channels)
        self.new_conv[place] = new
        first, second = caches[place]
        rows = w.concat([first, w.concat([second, new], 3)], 2)
        weight = np.zeros((self.channels, 2 * self.half), np.float32)
        weight[:, self.odd :] = module.depthwise
        weight = weight.reshape(self.channels, 2, self.half)
        y = w.double_swish(w.depthwise(rows, weight, module.depthwise_bias))
        return self._back(x, y, module.out, scale)

    def _norm(self, layer: Layer, x: str, source: Stream) -> Stream:
        """source (1 - b) + b x (mean(x^2) + eps)^-0.5.

        Spelt over the last axis, with a factor for each channel, the norm is one layer (exNorm).
        """
        w, b = self.writer, layer.bypass
        kept, scale = self._weighed(source[0], source[1] * (1 - b))
        x = w.transpose(x, (0, 2, 3, 1))
        mean = w.op("ReduceMean", w.op("Mul", x, x), axes=[3], keepdims=1)
        mean = w.add(mean, w.weight(np.array(layer.eps / source[1] ** 2, np.float32), "eps"))
        root = w.op("Pow", mean, w.weight(np.array(-0.5, np.float32), "exponent"))
        y = w.scaled(w.op("Mul", x, root), np.full(self.channels, b / scale))
        return w.add(kept, w.transpose(y, (0, 3, 1, 2))), scale

    def _weighed(self, x: str, weight: float) -> Stream:
        """weight x, carried divided by the weight itself unless that would make large numbers."""
        if weight >= SMALLEST_SCALE:
            return x, weight
        w = self.writer
        return w.depthwise(x, np.full((self.channels, 1, 1), weight)), 1.0

    def _embedding(self, module: Embedding) -> Stream:
        """The convolutions as they are, then the linear layer over all channels and bins."""
        w = self.writer
        needed, nodes = {module.tensor}, []
        for node in reversed(self.model.graph.node):
            if needed & set(node.output):
                needed |= set(node.input)
                nodes.append(node)
        for node in reversed(nodes):
            w.copy(node)
        for name in sorted(needed & set(self.graph.weights)):
            w.take(name, self.graph.weights[name])
        _, channels, frames, bins = self.graph.shape(module.tensor)
        x = w.transpose(module.tensor, (0, 1, 3, 2))
        x = w.reshape(x, (1, channels * bins, 1, frames))
        return w.linear(x, module.out.weight, module.out.bias), 1.0

    def _down(self, module: Down, stream: Stream) -> Stream:
        w, factor, channels = self.writer, module.factor, self.channels
        x, scale = stream
        place = np.eye(factor, dtype=np.float32)
        score = module.query[None, :, None, None] * place[:, None, None] * scale
        weights = w.op("Softmax", w.conv(x, score, strides=(1, factor)), axis=1)
        # To each frame its own weight, for all channels alike.
        spread = np.repeat(place[:, None, None], channels, axis=1)
        weights = w.transposed_conv(weights, spread, strides=(1, factor))
        ones = np.ones((channels, 1, factor), np.float32)
        return w.depthwise(w.op("Mul", x, weights), ones, strides=(1, factor)), scale

    def _mix(self, module: Mix, streams: dict[str, Stream]) -> Stream:
        """A weighted sum: the first stream that is no `Up` as it is, what else is added fitted."""
        w, modules = self.writer, self.encoder.modules
        terms = [(name, weight) for name, weight in module.terms if weight]
        terms.sort(key=lambda term: isinstance(modules[term[0]], Up))
        total, scale = None, 1.0
        for name, weight in terms:
            if isinstance(modules[name], Up):
                frames = self.graph.shape(name)[0]
                term = self._up(modules[name], streams, weight / scale, frames)
            elif total is None:
                term, scale = self._weighed(streams[name][0], weight * streams[name][1])
            else:
                factor = weight * streams[name][1] / scale
                term = w.depthwise(streams[name][0], np.full((self.channels, 1, 1), factor))
            total = term if total is None else w.add(total, term)
        return total, scale

    def _up(self, module: Up, streams: dict[str, Stream], weight: float, frames: int) -> str:
        w, (factor, channels) = self.writer, module.offset.shape
        x, scale = streams[module.source]
        copies = np.full((channels, 1, 1, factor), weight * scale)
        x = w.transposed_conv(x, copies, strides=(1, factor), group=channels)
        offset = np.tile(module.offset.T * weight, (1, frames // factor))
        return w.add(x, w.weight(offset[None, :, None].astype(np.float32), "offset"))

    def _out(self, stream: Stream) -> None:
        w = self.writer
        y = self._into(stream[0], self.encoder.out, stream[1])
        _, frames, size = self.graph.shape(self.contract.encoder_out)
        y = w.reshape(y, (1, size, frames))
        w.transpose(y, (0, 2, 1), output=self.contract.encoder_out)

    def _new_means(self) -> None:
        """The last frame's mean of each layer."""
        w, number = self.writer, len(self.layers)
        last = np.cumsum(self.frames) - 1
        pick = np.zeros((sum(self.frames), number), np.float32)
        pick[last, range(number)] = 1
        means = w.transpose(w.concat(self.means, 3), (0, 3, 2, 1))  # (1, frames, 1, channels)
        means = w.reshape(w.linear(means, pick), (number, 1, self.channels))
        w.split(means, self.stacks, 0, self.outputs("mean"))

    def _new_attention_caches(self) -> None:
        w, heads, frames = self.writer, self.heads, self.frames
        sizes = [self.key_size, self.value_size, self.value_size]
        new = [w.concat([pair[i] for pair in self.new_caches], 3) for i in (0, 1)]
        new = w.transpose(w.concat(new, 1), (2, 3, 0, 1))  # (1, all new frames, heads, sizes)
        new = w.split(new, [size // heads for size in sizes], 3)
        new = [
            w.reshape(part, (1, sum(frames), 1, size))
            for part, size in zip(new, sizes, strict=True)
        ]
        outputs = [self.outputs(kind) for kind in ("key", "value", "value2")]
        if not self.stacked:
            for old, part, names in zip(self.old, new, outputs, strict=True):
                w.split(self._shifted(old, part), self.lefts, 1, names)
            return
        whole = self._shifted(self.old[0], w.concat(new, 3))
        ends = np.cumsum([0, *self.stacks])
        totals = [sum(self.lefts[a:b]) for a, b in pairwise(ends)]
        for piece, count, total, names in zip(
            w.split(whole, totals, 1),
            self.stacks,
            totals,
            zip(*outputs, strict=True),
            strict=True,
        ):
            w.split(w.reshape(piece, (count, total // count, 1, sum(sizes))), sizes, 3, names)

    def _shifted(self, old: str, new: str) -> str:
        """The frames before of each layer (axis 1) but its first, and then its new ones."""
        w, steps = self.writer, zip(self.frames, self.lefts, strict=True)
        cuts = [count for size, left in steps for count in (size, left - size)]
        kept, new = w.split(old, cuts, 1)[1::2], w.split(new, self.frames, 1)
        return w.concat([part for both in zip(kept, new, strict=True) for part in both], 1)

    def _new_conv_caches(self) -> None:
        """All caches without their first frames, and then the new ones; by number of frames.

        One Split into the pieces of all layers would do for a few of them. With twenty the compiler
        loses itself in the layouts of pieces that go from a Split into a Concat.
        """
        w, left = self.writer, self.kernel - 1
        groups, wholes = [], []
        for frames, group in groupby(self.conv_order, key=lambda place: self.frames[place[0]]):
            groups.append((frames, list(group)))
        olds = w.split(self.old_conv, [len(group) for _, group in groups], 2)
        for old, (frames, group) in zip(olds, groups, strict=True):
            kept = w.slice(old, self.odd + frames, self.odd + left, 3)
            new = w.concat([self.new_conv[place] for place in group], 2)
            wholes.append(w.concat([kept, new], 3))
        whole = w.transpose(w.concat(wholes, 2), (2, 0, 1, 3))
        counts = [count for _, count in self.conv_states]
        w.split(whole, counts, 0, [self.next[name] for name, _ in self.conv_states])


def _by_head(linear: Linear, heads: int, scale: float) -> Linear:
    """The weight (in, out) as (in, heads, out of a head), the bias as (heads, out of a head)."""
    weight = (linear.weight * scale).reshape(linear.weight.shape[0], heads, -1)
    bias = np.zeros(linear.weight.shape[1]) if linear.bias is None else linear.bias
    return Linear(weight, bias.reshape(heads, -1).astype(np.float32))
