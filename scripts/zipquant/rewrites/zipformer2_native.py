"""A streaming Zipformer2 written again in the form that the RKNN compiler makes few layers of.

The recipes are those of `zipformer_native`; what Zipformer2 adds: Swoosh as Softplus and an added
depthwise convolution, the mask of a stream's first chunks as one more channel of queries and keys,
one set of attention weights for three kinds of values.
"""

import functools
from collections.abc import Callable

import numpy as np
import onnx

from zipquant.model.contract import Contract
from zipquant.rewrites import fixed_shapes, zipformer2
from zipquant.rewrites.channels_first import Writer
from zipquant.rewrites.graph import Graph, Mismatch
from zipquant.rewrites.reader import Linear
from zipquant.rewrites.zipformer2_caches import Cache, Caches

KERNEL = 16
"""The widest kernel that the compiler does not split."""

MASKED = 7.0
"""Root of what is taken from the scores of masked frames: exp(-49) is nothing beside float32, and a
channel of +-7 does not widen the ranges of queries and keys much, as -1000 would in int8."""


def rewrite(model: onnx.ModelProto, graph: Graph, contract: Contract) -> onnx.ModelProto:
    """Write a Zipformer2 again; see `npu_native.rewrite`.

    Raises:
        Mismatch: the model is no Zipformer2 of a known form.
    """
    folded = fixed_shapes.fold(model)
    encoder = zipformer2.match(Graph(folded), contract.encoder_out)
    return _Emitter(folded, encoder, contract).model(model)


class _Emitter:
    def __init__(self, folded: onnx.ModelProto, encoder: zipformer2.Encoder, contract: Contract):
        self.folded = folded
        self.encoder = encoder
        self.contract = contract
        self.writer = Writer()
        self.streams: dict[str, str] = {}
        self.masks: dict[str, str] = {}
        self.next = {state.tensor.name: state.next_output for state in contract.states}
        self.shapes = {state.tensor.name: state.tensor.shape for state in contract.states}
        self.layers = [m for m in encoder.modules.values() if isinstance(m, zipformer2.Layer)]
        self.caches = Caches(
            self.writer,
            [
                Cache(name, self.next.pop(name), self.shapes[name], layer.frames)
                for layer in self.layers
                for name in layer.caches
            ],
        )

    def model(self, original: onnx.ModelProto) -> onnx.ModelProto:
        counters = [s.tensor for s in self.contract.states if not s.tensor.dtype.startswith("f")]
        if len(counters) != 1:
            raise Mismatch(f"{len(counters)} of the states are counters, not one")
        self.count(counters[0].name, np.dtype(counters[0].dtype))
        numbers: dict[str, int] = {}
        for name, module in self.encoder.modules.items():
            kind = type(module).__name__.lower()
            number = numbers[kind] = numbers.get(kind, -1) + 1
            with self.writer.scope(f"{kind}.{number}" if kind != "embedding" else kind):
                self.streams[name] = getattr(self, kind)(module)
        self.caches.write()
        with self.writer.scope("out"):
            self.out()
        if self.next:
            raise Mismatch(f"no layer has the states {', '.join(self.next)}")
        return self.writer.model(original)

    def count(self, counter: str, dtype: np.dtype) -> None:
        """Write the frame counter and, for all layers together, the mask that depends on it."""
        writer, output = self.writer, self.next.pop(counter)
        with writer.scope("counter"):
            zero = {counter: np.zeros(self.shapes[counter], dtype)}
            step = fixed_shapes.run(self.folded, [output], zero)[0].astype(dtype)
            writer.op("Add", counter, writer.weight(step, "step"), output=output)
            kinds = {(m.attention.mask, m.attention.heads) for m in self.layers if m.attention.mask}
            rate = self.layers[0].frames
            full = max(self.shapes[m.attention.cache][0] * rate // m.frames for m in self.layers)
            for heads in sorted({heads for _, heads in kinds}):
                names = sorted(mask for mask, count in kinds if count == heads)
                self.mask(counter, dtype, names, heads, full)

    def mask(self, counter: str, dtype: np.dtype, names: list[str], heads: int, full: int) -> None:
        """Write what takes masked frames out of the keys of all layers with so many heads."""
        writer = self.writer
        last = [np.full(0, 0)] * len(names)
        for count in range(full + 1):
            value = {counter: np.full(self.shapes[counter], count, dtype)}
            for i, masked in enumerate(fixed_shapes.run(self.folded, names, value)):
                masked = masked.reshape(-1).astype(bool)
                last[i] = np.where(masked, count, last[i] if count else -1)
        joined = np.tile(np.concatenate(last), (heads, 1, 1, 1)).astype(dtype)
        flags = writer.op("LessOrEqual", counter, writer.weight(joined, "last_masked"))
        channel = writer.scaled(writer.op("Cast", flags, to=onnx.TensorProto.FLOAT), -MASKED)
        pieces = writer.split(channel, [len(part) for part in last], 3)
        self.masks |= {f"{name} {heads}": piece for name, piece in zip(names, pieces, strict=True)}

    def embedding(self, module: zipformer2.Embedding) -> str:
        writer = self.writer
        frames, bins = self.contract.x.shape[1:]
        x = writer.reshape(module.x, [1, 1, frames, bins])
        for conv, swoosh in module.convs:
            x = self.shifted(self.conv2d(x, conv), swoosh)
            x = self.swoosh(x, swoosh, len(conv.weight))
        cache = self.shapes[module.cache]
        channels, left = cache[1], cache[2]
        whole = writer.concat([module.cache, x], 2)
        y = self.conv2d(self.conv2d(whole, module.depthwise), module.up)
        y = self.shifted(y, module.swoosh)
        y = self.conv2d(self.swoosh(y, module.swoosh, len(module.up.weight)), module.down)
        frames = self.layers[0].frames
        writer.slice(whole, frames, frames + left, 2, output=self.next.pop(module.cache))
        y = writer.add(writer.slice(x, 0, frames, 2), y)
        y = writer.reshape(writer.transpose(y, [0, 1, 3, 2]), [1, channels * cache[3], 1, frames])
        return self.norm(self.linear(y, module.out), module.norm)

    def conv2d(self, x: str, conv: zipformer2.Conv2d) -> str:
        return self.writer.conv(x, conv.weight, conv.bias, conv.strides, conv.pads, conv.group)

    def linear(self, x: str, linear: Linear) -> str:
        return self.writer.linear(x, linear.weight, linear.bias)

    def shifted(self, x: str, swoosh: zipformer2.Swoosh) -> str:
        """x - shift, which the compiler takes into the bias of the convolution before it.

        It is not put there here, because onnxruntime would then add the convolution up from the
        shift, and lose digits.
        """
        return self.writer.op("Sub", x, self.writer.weight(np.float32(swoosh.shift), "shift"))

    def swoosh(self, shifted: str, swoosh: zipformer2.Swoosh, channels: int) -> str:
        """Swoosh of x, given x - shift."""
        weight = np.full((channels, 1, 1), -swoosh.slope)
        bias = np.full(channels, -swoosh.slope * swoosh.shift - swoosh.offset)
        straight = self.writer.depthwise(shifted, weight, bias)
        return self.writer.add(self.writer.op("Softplus", shifted), straight)

    def norm(self, x: str, norm: zipformer2.BiasNorm) -> str:
        writer, channels = self.writer, norm.bias.size
        centred = writer.op("Sub", x, writer.weight(norm.bias.reshape(1, -1, 1, 1), "bias"))
        square = writer.op("Pow", centred, writer.weight(np.array(2, np.float32), "two"))
        mean = writer.conv(square, np.full((1, channels, 1, 1), 1 / channels / norm.scale**2))
        root = writer.op("Pow", mean, writer.weight(np.array(-0.5, np.float32), "power"))
        return writer.op("Mul", x, root)

    def layer(self, layer: zipformer2.Layer) -> str:
        source = self.streams[layer.source]
        frames, heads = layer.frames, layer.attention.heads
        with self.writer.scope("attention"):
            query, key = self.attention(layer.attention, source, frames)
        x = self.feed_forward("feed_forward1", layer.feed_forward1, source)
        with self.writer.scope("nonlin"):
            x = self.nonlin(layer.nonlin, x, (query, key), frames)
        with self.writer.scope("values1"):
            mixed = functools.partial(self.mix, query, key)
            x = self.values(layer.values1, x, heads, frames, mixed)
        x = self.convolution("conv1", layer.conv1, x, frames)
        x = self.feed_forward("feed_forward2", layer.feed_forward2, x)
        x = self.weighted(source, x, layer.bypass_middle)
        with self.writer.scope("values2"):
            mixed = functools.partial(self.mix_transposed, query, key)
            x = self.values(layer.values2, x, heads, frames, mixed)
        x = self.convolution("conv2", layer.conv2, x, frames)
        x = self.feed_forward("feed_forward3", layer.feed_forward3, x)
        with self.writer.scope("norm"):
            return self.weighted(source, self.norm(x, layer.norm), layer.bypass)

    def weighted(self, a: str, b: str, share: np.ndarray) -> str:
        """a (1 - share) + b share."""
        kept = self.writer.depthwise(a, (1 - share)[:, None, None])
        return self.writer.add(kept, self.writer.depthwise(b, share[:, None, None]))

    def feed_forward(self, name: str, module: zipformer2.FeedForward, x: str) -> str:
        with self.writer.scope(name):
            up = self.shifted(self.linear(x, module.up), module.swoosh)
            y = self.swoosh(up, module.swoosh, module.up.weight.shape[1])
            return self.writer.add(x, self.linear(y, module.down))

    def attention(self, attention: zipformer2.Attention, x: str, frames: int) -> tuple[str, str]:
        """Queries (heads, channels, frames) and keys (heads, channels, left + frames).

        Their product is the scores. Channels are the head's own, then for each query frame its
        place channels, which meet the positions shifted for that frame and are zeros for the other
        frames, then the mask's.
        """
        writer, heads = self.writer, attention.heads
        _, places, _, length = attention.positions.shape
        own = attention.key.weight.shape[1] // heads
        masked = 0 if attention.mask is None else 1
        channels = own + frames * places + masked
        width = len(attention.query.weight)
        weight = np.zeros((width, heads, channels), np.float32)
        bias = np.zeros((heads, channels), np.float32)
        chosen = np.ones((heads, channels, frames), np.float32)
        weight[:, :, :own] = attention.query.weight.reshape(width, heads, own)
        bias[:, :own] = zipformer2.bias_of(attention.query).reshape(heads, own)
        for frame in range(frames):
            part = slice(own + frame * places, own + (frame + 1) * places)
            weight[:, :, part] = attention.place.weight.reshape(width, heads, places)
            bias[:, part] = zipformer2.bias_of(attention.place).reshape(heads, places)
            chosen[:, part] = np.eye(frames)[frame]
        if masked:
            bias[:, -1] = MASKED
        query = writer.linear(x, weight.reshape(width, -1), bias.reshape(-1))
        query = writer.scaled(query, chosen.reshape(1, -1, 1, frames))
        query = writer.reshape(query, [heads, channels, frames])
        keys = self.caches.join(attention.cache, self.linear(x, attention.key))
        table = attention.positions.transpose(0, 2, 1, 3).reshape(heads, -1, 1, length)
        parts = [writer.reshape(keys, [heads, own, 1, length]), writer.weight(table, "positions")]
        if masked:
            parts.append(self.masks[f"{attention.mask} {heads}"])
        return query, writer.reshape(writer.concat(parts, 1), [heads, channels, length])

    def mix(self, query: str, key: str, values: str) -> str:
        """Values (heads, channels, length) under attention weights: (heads, channels, frames).

        The compiler makes one layer of it, exSDPAttention.
        """
        writer = self.writer
        scores = writer.op("MatMul", writer.transpose(key, [0, 2, 1]), query)
        return writer.op("MatMul", values, writer.op("Softmax", scores, axis=1))

    def mix_transposed(self, query: str, key: str, values: str) -> str:
        """The same in other words: the same again would be merged with `mix`, and not fused."""
        writer = self.writer
        scores = writer.op("MatMul", writer.transpose(query, [0, 2, 1]), key)
        weights = writer.op("Softmax", scores, axis=-1)
        mixed = writer.op("MatMul", weights, writer.transpose(values, [0, 2, 1]))
        return writer.transpose(mixed, [0, 2, 1])

    def values(
        self,
        module: zipformer2.Values,
        x: str,
        heads: int,
        frames: int,
        mix: Callable[[str], str],
    ) -> str:
        channels = module.proj.weight.shape[1]
        whole = self.caches.join(module.cache, self.linear(x, module.proj))
        values = self.writer.reshape(whole, [heads, channels // heads, -1])
        mixed = self.writer.reshape(mix(values), [1, channels, 1, frames])
        return self.writer.add(x, self.linear(mixed, module.out))

    def nonlin(
        self, module: zipformer2.NonlinAttention, x: str, scored: tuple[str, str], frames: int
    ) -> str:
        writer = self.writer
        channels = module.value.weight.shape[1]
        gate = writer.op("Tanh", self.linear(x, module.gate))
        new = writer.op("Mul", self.linear(x, module.value), gate)
        whole = self.caches.join(module.cache, new)
        first = [writer.slice(tensor, 0, 1, 0) for tensor in scored]
        mixed = self.mix(*first, writer.reshape(whole, [1, channels, -1]))
        mixed = writer.reshape(mixed, [1, channels, 1, frames])
        scaled = writer.op("Mul", self.linear(x, module.scale), mixed)
        return writer.add(x, self.linear(scaled, module.out))

    def convolution(self, name: str, module: zipformer2.Convolution, x: str, frames: int) -> str:
        writer = self.writer
        with writer.scope(name):
            channels = module.out.weight.shape[0]
            new = writer.gated(self.linear(x, module.gate), channels)
            whole = self.caches.join(module.cache, new)
            weight, bias = module.causal
            causal = writer.depthwise(whole, weight[:, None], bias - module.swoosh.shift)
            chunk = self.chunkwise(new, *module.chunk, frames)
            chunk = writer.scaled(chunk, module.scale[None, :, None])
            y = self.swoosh(writer.add(chunk, causal), module.swoosh, channels)
            return writer.add(x, self.linear(y, module.out))

    def chunkwise(self, x: str, weight: np.ndarray, bias: np.ndarray, frames: int) -> str:
        """A depthwise convolution with zeros around the chunk, in kernels that are not split."""
        radius = weight.shape[1] // 2
        reach = min(radius, frames - 1)
        weight = weight[:, None, radius - reach : radius + reach + 1]
        depthwise = self.writer.depthwise
        if weight.shape[2] <= KERNEL or reach >= KERNEL:
            return depthwise(x, weight, bias, pads=(0, reach, 0, reach))
        past = depthwise(x, weight[..., : reach + 1], bias, pads=(0, reach, 0, 0))
        future = weight[..., reach:].copy()
        future[..., 0] = 0
        return self.writer.add(past, depthwise(x, future, pads=(0, 0, 0, reach)))

    def down(self, module: zipformer2.Down) -> str:
        channels = self.width(module.source)
        weight = np.tile(module.weights, (channels, 1, 1))
        return self.writer.depthwise(
            self.streams[module.source], weight, strides=(1, module.weights.size)
        )

    def width(self, stream: str) -> int:
        """Number of channels of a stream."""
        module = self.encoder.modules[stream]
        if isinstance(module, zipformer2.Channels):
            return sum(end - begin for _, begin, end in module.parts)
        if isinstance(module, zipformer2.Embedding):
            return module.norm.bias.size
        if isinstance(module, zipformer2.Layer):
            return module.bypass.size
        return module.share.size if isinstance(module, zipformer2.Up) else self.width(module.source)

    def length(self, stream: str) -> int:
        """Number of frames of a stream."""
        module = self.encoder.modules[stream]
        if isinstance(module, zipformer2.Layer):
            return module.frames
        if isinstance(module, zipformer2.Up):
            return self.length(module.source) * module.factor
        raise Mismatch(f"{stream} has an unknown number of frames")

    def up(self, module: zipformer2.Up) -> str:
        share = module.share
        weight = np.tile(share[:, None, None, None], (1, 1, 1, module.factor))
        repeated = self.writer.transposed_conv(
            self.streams[module.source], weight, strides=(1, module.factor), group=share.size
        )
        around = self.streams[module.around]
        return self.writer.add(repeated, self.writer.depthwise(around, (1 - share)[:, None, None]))

    def channels(self, module: zipformer2.Channels) -> str:
        writer, made = self.writer, []
        frames = max(self.length(source) for source, _, _ in module.parts if source is not None)
        for source, begin, end in module.parts:
            if source is None:
                made.append(
                    writer.weight(np.zeros((1, end - begin, 1, frames), np.float32), "zeros")
                )
            elif (begin, end) == (0, self.width(source)):
                made.append(self.streams[source])
            else:
                made.append(writer.slice(self.streams[source], begin, end, 1))
        return writer.concat(made, 1)

    def out(self) -> None:
        writer, encoder = self.writer, self.encoder
        y = self.linear(self.streams[encoder.stream], encoder.out)
        width = encoder.out.weight.shape[1]
        final = self.contract.encoder_out
        y = writer.reshape(y, [1, width, -1])
        if encoder.log_softmax:
            y = writer.transpose(y, [0, 2, 1])
            # rknn-toolkit2 2.3.2 looks for this axis in a permutation: -1 is not in it.
            writer.op("LogSoftmax", y, axis=2, output=final)
        else:
            writer.transpose(y, [0, 2, 1], output=final)
