"""A streaming Zipformer (version 1) written for the NPU: channels first, few and fused layers."""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import onnx

from zipquant.model.contract import Contract
from zipquant.rewrites import zipformer
from zipquant.rewrites.channels_first import Writer
from zipquant.rewrites.graph import Graph, Mismatch
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
        streams: dict[str, str] = {}
        self.means: list[str] = []
        self.new_conv: dict[tuple[int, int], str] = {}
        self.new_caches: list[tuple[str, str, str]] = []
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
                streams[name] = name
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

    def _conv_caches(self) -> list[tuple[str, str]]:
        """For each convolution (first of all layers, then second) what its kernel's rows see.

        A kernel above `LARGEST_KERNEL` is laid in two rows. The first row sees the frames before
        those of the second, all from the cache, with a zero in front where the kernel is odd.
        """
        w, kernel, channels = self.writer, self.kernel, self.channels
        number = 2 * len(self.layers)
        self.half = half = (kernel + 1) // 2
        self.odd = odd = 2 * half - kernel
        left = kernel - 1
        caches = w.concat([*self.names("conv1"), *self.names("conv2")], 0)
        zero = w.weight(np.zeros((number, 1, channels, odd), np.float32), "zero")
        if odd:
            caches = w.concat([zero, caches], 3)
        width = left + odd
        caches = w.reshape(w.transpose(caches, (1, 2, 0, 3)), (1, channels, 1, number * width))
        firsts, seconds = [], []
        for frames in self.frames * 2:
            first = frames + half - 1
            firsts += [first] + ([width - first] if width > first else [])
            seconds += [half, width - half]
        first = iter(w.split(caches, firsts, 3))
        second = iter(w.split(caches, seconds, 3))
        found = []
        for frames in self.frames * 2:
            one = next(first)
            if width > frames + half - 1:
                next(first)
            next(second)
            found.append((one, next(second)))
        return found

    def _attention_caches(self) -> list[tuple[str, ...]]:
        """For each layer the keys, values and second values, of the frames before."""
        w = self.writer
        width = self.key_size + 2 * self.value_size
        natural = [
            w.reshape(w.concat(names, 3), (1, -1, 1, width))
            for names in zip(
                self.names("key"), self.names("value"), self.names("value2"), strict=True
            )
        ]
        self.natural = w.concat(natural, 1)  # (1, all frames, 1, width)
        first = w.transpose(self.natural, (0, 3, 2, 1))
        sizes = [self.key_size, self.value_size, self.value_size]
        self.cuts = []
        for layer in self.layers:
            left = layer.attention.positions.shape[3] - layer.frames
            self.cuts += [layer.frames, left - layer.frames]
        lefts = [sum(self.cuts[2 * i : 2 * i + 2]) for i in range(len(self.layers))]
        kinds = [w.split(part, lefts, 3) for part in w.split(first, sizes, 1)]
        return list(zip(*kinds, strict=True))

    def _layer(self, number, layer: Layer, x: str, caches, conv_caches) -> str:
        w = self.writer
        source = x
        with w.scope("feed_forward1"):
            x = self._feed_forward(layer.feed_forward1, x)
        with w.scope("pooling"):
            x = self._pooling(number, layer, x)
        with w.scope("attention"):
            x, shared, new = self._attention(layer, x, caches)
        with w.scope("conv1"):
            x = self._convolution(layer.conv1, x, (number, 0), conv_caches)
        with w.scope("feed_forward2"):
            x = self._feed_forward(layer.feed_forward2, x)
        with w.scope("attention2"):
            x, new2 = self._attention2(layer, x, shared, caches[2])
        with w.scope("conv2"):
            x = self._convolution(layer.conv2, x, (number, 1), conv_caches)
        with w.scope("feed_forward3"):
            x = self._feed_forward(layer.feed_forward3, x)
        self.new_caches.append((*new, new2))
        with w.scope("norm"):
            return self._norm(layer, x, source)

    def _feed_forward(self, module: FeedForward, x: str) -> str:
        w = self.writer
        hidden = w.double_swish(w.linear(x, module.up.weight, module.up.bias))
        return w.add(x, w.linear(hidden, module.down.weight, module.down.bias))

    def _pooling(self, number: int, layer: Layer, x: str) -> str:
        w = self.writer
        ones = np.ones((self.channels, 1, layer.frames), np.float32)
        sums = w.depthwise(x, ones, pads=(0, layer.frames - 1, 0, 0))
        means = w.add(w.op("Mul", sums, self.inverse[number]), self.before[number])
        self.means.append(means)
        proj = layer.pooling.proj
        return w.add(x, w.linear(means, proj.weight, proj.bias))

    def _attention(self, layer: Layer, x: str, caches):
        """Attention by head: queries hold the part that meets the positions once for each frame.

        A constant mask keeps in each frame's query the copy that is its own; the keys are joined
        with the positions as each query frame sees them.
        """
        w, attention, heads = self.writer, layer.attention, self.heads
        frames, length = attention.positions.shape[2:]
        query, place = attention.query, attention.place
        size, places = query.weight.shape[1] // heads, place.weight.shape[1] // heads

        def by_head(matrix: np.ndarray) -> np.ndarray:
            """(in, heads * size) and (in, heads * places) to (in, heads, size + frames * places)."""
            content = matrix[:, : heads * size].reshape(-1, heads, size)
            other = matrix[:, heads * size :].reshape(-1, heads, places)
            return np.concatenate([content, np.tile(other, (1, 1, frames))], axis=2)

        weight = by_head(np.concatenate([query.weight, place.weight], axis=1))
        bias = [np.zeros(p.weight.shape[1]) if p.bias is None else p.bias for p in (query, place)]
        bias = by_head(np.concatenate(bias)[None])
        total = weight.shape[2]
        mask = np.ones((heads, total, frames), np.float32)
        mask[:, size:] = np.repeat(np.eye(frames), places, axis=0)
        q = w.linear(x, weight.reshape(weight.shape[0], -1), bias.reshape(-1))
        q = w.reshape(w.scaled(q, mask.reshape(1, -1, 1, frames)), (heads, total, frames))
        new_key = w.linear(x, attention.key.weight, attention.key.bias)
        new_value = w.linear(x, layer.values.proj.weight, layer.values.proj.bias)
        key = w.concat([caches[0], new_key], 3)
        # (heads, place channels, frames, length) to (heads, frames * place channels, 1, length)
        table = attention.positions.transpose(0, 2, 1, 3).reshape(heads, -1, 1, length)
        key = w.concat([w.reshape(key, (heads, size, 1, length)), w.weight(table, "positions")], 1)
        key = w.reshape(key, (heads, total, length))
        value = w.concat([caches[1], new_value], 3)
        value = w.reshape(value, (heads, -1, length))
        scores = w.op("MatMul", w.transpose(key, (0, 2, 1)), q)
        mixed = w.op("MatMul", value, w.op("Softmax", scores, axis=1))
        mixed = w.reshape(mixed, (1, self.value_size, 1, frames))
        out = layer.values.out
        x = w.add(x, w.linear(mixed, out.weight, out.bias))
        return x, (q, key), (new_key, new_value)

    def _attention2(self, layer: Layer, x: str, shared: tuple[str, str], cache) -> tuple[str, str]:
        """The second values; the scores are spelt transposed, or the compiler shares the first."""
        w, (q, key) = self.writer, shared
        frames, length = layer.attention.positions.shape[2:]
        new = w.linear(x, layer.values2.proj.weight, layer.values2.proj.bias)
        value = w.reshape(w.concat([cache, new], 3), (self.heads, -1, length))
        weights = w.op("Softmax", w.op("MatMul", w.transpose(q, (0, 2, 1)), key), axis=-1)
        mixed = w.op("MatMul", weights, w.transpose(value, (0, 2, 1)))
        mixed = w.reshape(w.transpose(mixed, (0, 2, 1)), (1, self.value_size, 1, frames))
        out = layer.values2.out
        return w.add(x, w.linear(mixed, out.weight, out.bias)), new

    def _convolution(self, module: Convolution, x: str, place: tuple[int, int], caches) -> str:
        w, number = self.writer, place[0]
        gate = w.linear(x, module.gate.weight, module.gate.bias)
        new = w.gated(gate, self.channels)
        self.new_conv[place] = new
        first, second = caches[place[1] * len(self.layers) + number]
        rows = w.concat([first, w.concat([second, new], 3)], 2)
        weight = np.zeros((self.channels, 2 * self.half), np.float32)
        weight[:, self.odd :] = module.depthwise
        weight = weight.reshape(self.channels, 2, self.half)
        y = w.double_swish(w.depthwise(rows, weight, module.depthwise_bias))
        return w.add(x, w.linear(y, module.out.weight, module.out.bias))

    def _norm(self, layer: Layer, x: str, source: str) -> str:
        """source (1 - b) + x b (mean(x^2) + eps)^-0.5, with b in the mean and eps."""
        w, b, channels = self.writer, layer.bypass, self.channels
        mean = np.full((channels, 1), 1 / channels / b**2, np.float32)
        square = w.op("Pow", x, w.weight(np.array(2.0, np.float32), "two"))
        scale = w.linear(square, mean, np.array([layer.eps / b**2]))
        scale = w.op("Pow", scale, w.weight(np.array(-0.5, np.float32), "exponent"))
        kept = w.depthwise(source, np.full((channels, 1, 1), 1 - b))
        return w.add(w.op("Mul", x, scale), kept)

    def _embedding(self, module: Embedding) -> str:
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
        return w.linear(x, module.out.weight, module.out.bias)

    def _down(self, module: Down, x: str) -> str:
        w, factor, channels = self.writer, module.factor, self.channels
        place = np.eye(factor, dtype=np.float32)
        score = (module.query[None, :, None, None] * place[:, None, None]).astype(np.float32)
        weights = w.op("Softmax", w.conv(x, score, strides=(1, factor)), axis=1)
        # To each frame its own weight, for all channels alike.
        spread = np.repeat(place[:, None, None], channels, axis=1)
        weights = w.transposed_conv(weights, spread, strides=(1, factor))
        ones = np.ones((channels, 1, factor), np.float32)
        return w.depthwise(w.op("Mul", x, weights), ones, strides=(1, factor))

    def _mix(self, module: Mix, streams: dict[str, str]) -> str:
        w = self.writer
        total = None
        for name, weight in module.terms:
            up = self.encoder.modules[name]
            if isinstance(up, Up):
                term = self._up(up, streams[up.source], weight, self.graph.shape(name)[0])
            elif weight == 0:
                continue
            elif weight == 1:
                term = streams[name]
            else:
                term = w.depthwise(streams[name], np.full((self.channels, 1, 1), weight))
            total = term if total is None else w.add(total, term)
        return total

    def _up(self, module: Up, x: str, weight: float, frames: int) -> str:
        w, (factor, channels) = self.writer, module.offset.shape
        copies = np.full((channels, 1, 1, factor), weight)
        x = w.transposed_conv(x, copies, strides=(1, factor), group=channels)
        offset = np.tile(module.offset.T * weight, (1, frames // factor))
        return w.add(x, w.weight(offset[None, :, None].astype(np.float32), "offset"))

    def _out(self, x: str) -> None:
        w, out = self.writer, self.encoder.out
        y = w.linear(x, out.weight, out.bias)
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
        w = self.writer
        rest = w.split(self.natural, self.cuts, 1)[1::2]
        parts = [w.concat([new[kind] for new in self.new_caches], 3) for kind in range(3)]
        new = w.split(w.transpose(w.concat(parts, 1), (0, 3, 2, 1)), self.frames, 1)
        pieces = [piece for pair in zip(rest, new, strict=True) for piece in pair]
        lefts = [sum(self.cuts[2 * i : 2 * i + 2]) for i in range(len(self.layers))]
        stacks, begin = [], 0
        for count in self.stacks:
            stacks.append(sum(lefts[begin : begin + count]))
            begin += count
        sizes = [self.key_size, self.value_size, self.value_size]
        whole = w.split(w.concat(pieces, 1), stacks, 1)
        names = zip(*(self.outputs(kind) for kind in ("key", "value", "value2")), strict=True)
        for stack, count, frames, outputs in zip(whole, self.stacks, stacks, names, strict=True):
            stack = w.reshape(stack, (count, frames // count, 1, sum(sizes)))
            w.split(stack, sizes, 3, outputs)

    def _new_conv_caches(self) -> None:
        w = self.writer
        places = [(number, which) for which in (0, 1) for number in range(len(self.layers))]
        new = w.concat([self.new_conv[place] for place in places], 3)
        new = iter(w.split(w.transpose(new, (0, 2, 1, 3)), self.frames * 2, 3))
        frames = iter(self.frames * 2)
        for kind in ("conv1", "conv2"):
            for name, output, count in zip(
                self.names(kind), self.outputs(kind), self.stacks, strict=True
            ):
                step = [next(frames) for _ in range(count)][0]
                kept = w.slice(name, step, self.kernel - 1, 3)
                w.concat([kept, w.concat([next(new) for _ in range(count)], 0)], 3, output)
