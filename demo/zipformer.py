"""A small streaming Zipformer (version 1) encoder in PyTorch.

The architecture follows "Zipformer: a faster and better encoder for automatic speech recognition"
(Yao et al., 2023) in its first, streaming form: a convolutional front end, stacks that run at
different frame rates, and in every layer three feed-forward modules, a running mean, self-attention
with relative positions and left context, and two causal convolution modules.

The encoder works on chunks of ``decode_chunk_len`` feature frames and hands its memory on as
explicit states. Several chunks may be given in one call, which is what training does: every module
then computes exactly what it would have computed chunk by chunk, because attention sees the same
windows and the other modules look back only.

Notation in the shapes: N batch, T frames, D model width, H heads, U frames of one chunk in a stack,
C chunks in a call, L left context plus U.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

STATE_KINDS = ("len", "avg", "key", "val", "val2", "conv1", "conv2")
EMBED_LOOKAHEAD = (
    7  # feature frames that the three convolutions of the front end need beyond 2 per output frame
)


@dataclass(frozen=True)
class ZipformerConfig:
    """The sizes of an encoder. The defaults are the demo model, ``large()`` one of about 20 M
    parameters.
    """

    feature_dim: int = 80
    dim: int = 96
    feedforward_dim: int = 256
    attention_dim: int = 96
    heads: int = 4
    position_dim: int = 4  # per head
    kernel: int = 31
    layers: tuple[int, ...] = (1, 1, 1, 1, 1)
    downsampling: tuple[int, ...] = (1, 2, 4, 8, 2)
    left_context: int = 64  # frames of 20 ms, as the first stack sees them
    decode_chunk_len: int = 32  # feature frames of 10 ms
    embed_channels: tuple[int, int, int] = (8, 32, 64)
    joiner_dim: int = 128
    dropout: float = 0.1

    @staticmethod
    def large() -> ZipformerConfig:
        """The widths and states of a full-size model in about 20 M parameters, for benchmarks."""
        return ZipformerConfig(
            dim=384,
            feedforward_dim=512,
            attention_dim=192,
            heads=8,
            layers=(1, 2, 2, 1, 2),
            embed_channels=(8, 32, 128),
            joiner_dim=512,
        )

    @property
    def stacks(self) -> int:
        """Number of stacks."""
        return len(self.layers)

    @property
    def segment(self) -> int:
        """T: feature frames of one encoder call (39 for chunks of 32)."""
        return self.decode_chunk_len + EMBED_LOOKAHEAD

    @property
    def left_contexts(self) -> tuple[int, ...]:
        """Left context of every stack in frames of its own rate."""
        return tuple(self.left_context // d for d in self.downsampling)

    def state_shape(self, kind: str, stack: int, batch: int) -> tuple[int, ...]:
        """Shape of one state of one stack."""
        layers, left = self.layers[stack], self.left_contexts[stack]
        return {
            "len": (layers, batch),
            "avg": (layers, batch, self.dim),
            "key": (layers, left, batch, self.attention_dim),
            "val": (layers, left, batch, self.attention_dim // 2),
            "val2": (layers, left, batch, self.attention_dim // 2),
            "conv1": (layers, batch, self.dim, self.kernel - 1),
            "conv2": (layers, batch, self.dim, self.kernel - 1),
        }[kind]

    def state_names(self) -> list[str]:
        """Names of all states in the order in which the encoder takes and returns them."""
        return [f"cached_{kind}_{s}" for kind in STATE_KINDS for s in range(self.stacks)]

    def initial_states(self, batch: int) -> list[Tensor]:
        """Zero states for ``batch`` new streams; ``cached_len`` is int64, all others float32."""
        return [
            torch.zeros(
                self.state_shape(kind, s, batch),
                dtype=torch.int64 if kind == "len" else torch.float32,
            )
            for kind in STATE_KINDS
            for s in range(self.stacks)
        ]

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a checkpoint."""
        return asdict(self)


def double_swish(x: Tensor) -> Tensor:
    """DoubleSwish of the paper: ``x * sigmoid(x - 1)``."""
    return x * torch.sigmoid(x - 1.0)


def shrink(linear: nn.Linear | nn.Conv1d, factor: float = 0.25) -> nn.Linear | nn.Conv1d:
    """Scale the first weights of a module's last projection, so that every residual branch starts
    small.
    """
    with torch.no_grad():
        linear.weight *= factor
        if linear.bias is not None:
            linear.bias *= factor
    return linear


def to_lanes(x: Tensor, size: int) -> Tensor:
    """Lay the chunks of a sequence beside each other: (C*size, N, D) to (size, C*N, D)."""
    chunks = int(x.size(0)) // size
    if chunks == 1:
        return x
    dim = x.size(2)
    return x.reshape(chunks, size, -1, dim).transpose(0, 1).reshape(size, -1, dim)


def from_lanes(x: Tensor, chunks: int) -> Tensor:
    """Undo ``to_lanes``: (size, C*N, D) to (C*size, N, D)."""
    if chunks == 1:
        return x
    size, _, dim = x.shape
    return x.reshape(size, chunks, -1, dim).transpose(0, 1).reshape(chunks * size, -1, dim)


def left_windows(cache: Tensor, new: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What each chunk of ``new`` may attend to, and the cache for the next call.

    ``cache`` is (left, N, D), ``new`` (C*size, N, D). Returns windows (left + size, C*N, D) and the
    last ``left`` frames of both together.
    """
    left = int(cache.size(0))
    whole = torch.cat([cache, new], dim=0)
    if int(new.size(0)) == size:
        return whole, whole[size:]
    windows = whole.unfold(0, left + size, size).permute(3, 0, 1, 2)  # (L, C, N, D)
    return windows.reshape(left + size, -1, new.size(2)), whole[-left:]


def relative_positions(dim: int, left: int, size: int) -> Tensor:
    """Sinusoids (left + 2*size - 1, dim) for the offsets ``left + size - 1`` down to ``-(size -
    1)``.

    An offset is the query's frame minus the key's. Formula: Vaswani et al. 2017, section 3.5, on
    signed offsets.
    """
    offsets = torch.arange(left + size - 1, -size, -1, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))
    table = torch.zeros(offsets.size(0), dim)
    table[:, 0::2] = torch.sin(offsets * rates)
    table[:, 1::2] = torch.cos(offsets * rates)
    return table


def relative_shift(scores: Tensor, size: int, length: int) -> Tensor:
    """Pick each query's own offsets: (N, H, size, length + size - 1) to (N, H, size, length).

    Query i meets key j at column ``size - 1 - i + j`` of the offset table. In an exported graph
    this is a GatherElements, as in published models; in training a slice of the flattened rows is
    cheaper and the same.
    """
    if torch.onnx.is_in_onnx_export():
        rows = torch.arange(size - 1, -1, -1)[:, None] + torch.arange(length)[None, :]
        return torch.gather(scores, 3, rows.expand(scores.size(0), scores.size(1), -1, -1))
    width = length + size - 1
    flat = scores.flatten(2)[:, :, size - 1 : size - 1 + size * (width - 1)]
    return flat.unflatten(2, (size, width - 1))[..., :length]


class BasicNorm(nn.Module):
    """``x / sqrt(mean(x^2) + exp(eps))`` over the last axis, with ``eps`` learned: the paper's
    layer norm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.tensor(math.log(0.25)))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, same shape out."""
        return x * (x.pow(2).mean(dim=-1, keepdim=True) + self.eps.exp()).pow(-0.5)


class FeedForward(nn.Module):
    """Linear, DoubleSwish, dropout, linear."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = shrink(nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(T, N, D) to (T, N, D)."""
        return self.down(self.dropout(double_swish(self.up(x))))


class Pooling(nn.Module):
    """Projection of the mean of all frames of the stream so far."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = shrink(nn.Linear(dim, dim, bias=False))

    def forward(self, x: Tensor, count: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, N, D), count (N) int64 and mean (N, D) of the frames before. Returns output, new
        count, new mean.
        """
        frames = int(x.size(0))
        total = torch.cumsum(x, dim=0) + (mean * count.unsqueeze(1).to(x.dtype)).unsqueeze(0)
        seen = torch.arange(1, frames + 1).unsqueeze(1) + count.unsqueeze(0)  # (T, N)
        means = total / seen.to(x.dtype).unsqueeze(2)
        return self.proj(means), count + frames, means[-1]


class Attention(nn.Module):
    """Self-attention within a chunk and its left context; the weights serve a second set of values
    too.
    """

    def __init__(self, config: ZipformerConfig, size: int) -> None:
        super().__init__()
        self.size = size
        self.heads = config.heads
        self.dim = config.attention_dim
        self.position_dim = config.heads * config.position_dim
        value_dim = self.dim // 2
        self.in_proj = nn.Linear(config.dim, 2 * self.dim + value_dim + self.position_dim)
        self.pos_proj = nn.Linear(config.dim, self.position_dim, bias=False)
        self.out_proj = shrink(nn.Linear(value_dim, config.dim))
        self.in_proj2 = nn.Linear(config.dim, value_dim, bias=False)
        self.out_proj2 = shrink(nn.Linear(value_dim, config.dim))
        self.dropout = nn.Dropout(config.dropout)

    def split_heads(self, x: Tensor) -> Tensor:
        """(T, N, H*d) to (N, H, T, d)."""
        frames, dim = int(x.size(0)), int(x.size(2))
        return x.reshape(frames, -1, self.heads, dim // self.heads).permute(1, 2, 0, 3)

    def weigh(self, weights: Tensor, values: Tensor, chunks: int) -> Tensor:
        """weights (C*N, H, U, L) and values (L, C*N, V) to (C*U, N, V)."""
        mixed = torch.matmul(weights, self.split_heads(values)).permute(2, 0, 1, 3)
        return from_lanes(mixed.reshape(self.size, -1, self.dim // 2), chunks)

    def forward(
        self, x: Tensor, positions: Tensor, key_cache: Tensor, value_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (C*U, N, D), positions (left + 2U - 1, D), caches (left, N, .).

        Returns output (C*U, N, D), weights (C*N, H, U, L) and the new caches.
        """
        chunks = int(x.size(0)) // self.size
        value_dim = self.dim // 2
        parts = (self.dim, self.dim, value_dim, self.position_dim)
        query, key, value, place = self.in_proj(x).split(parts, dim=2)
        keys, key_cache = left_windows(key_cache, key, self.size)
        values, value_cache = left_windows(value_cache, value, self.size)
        length = int(keys.size(0))
        query = self.split_heads(to_lanes(query, self.size)) * (self.dim // self.heads) ** -0.5
        place = self.split_heads(to_lanes(place, self.size))
        table = self.pos_proj(positions).reshape(-1, self.heads, self.position_dim // self.heads)
        by_place = torch.matmul(place, table.permute(1, 2, 0))
        scores = torch.matmul(query, self.split_heads(keys).transpose(2, 3))
        scores = scores + relative_shift(by_place, self.size, length)
        weights = self.dropout(scores.softmax(dim=-1))
        return self.out_proj(self.weigh(weights, values, chunks)), weights, key_cache, value_cache

    def forward2(self, x: Tensor, weights: Tensor, value_cache: Tensor) -> tuple[Tensor, Tensor]:
        """The second values under the same weights: x (C*U, N, D) to output and new cache (left, N,
        V).
        """
        values, value_cache = left_windows(value_cache, self.in_proj2(x), self.size)
        chunks = int(x.size(0)) // self.size
        return self.out_proj2(self.weigh(weights, values, chunks)), value_cache


class Convolution(nn.Module):
    """Pointwise, gated linear unit, causal depthwise convolution over a cache, DoubleSwish,
    pointwise.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.gate = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.out = shrink(nn.Conv1d(dim, dim, 1))

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, N, D), cache (N, D, kernel - 1). Returns output (T, N, D) and the new cache."""
        value, gate = self.gate(x.permute(1, 2, 0)).chunk(2, dim=1)
        whole = torch.cat([cache, value * torch.sigmoid(gate)], dim=2)
        y = self.out(double_swish(self.depthwise(whole)))
        return y.permute(2, 0, 1), whole[:, :, int(x.size(0)) :]


class Layer(nn.Module):
    """One Zipformer layer with a learned bypass around it."""

    def __init__(self, config: ZipformerConfig, size: int) -> None:
        super().__init__()
        dim, hidden = config.dim, config.feedforward_dim
        self.feed_forward1 = FeedForward(dim, hidden, config.dropout)
        self.pooling = Pooling(dim)
        self.attention = Attention(config, size)
        self.conv1 = Convolution(dim, config.kernel)
        self.feed_forward2 = FeedForward(dim, hidden, config.dropout)
        self.conv2 = Convolution(dim, config.kernel)
        self.feed_forward3 = FeedForward(dim, hidden, config.dropout)
        self.norm = BasicNorm()
        self.bypass = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, x: Tensor, positions: Tensor, states: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """x (T, N, D) and this layer's seven states in the order of STATE_KINDS; returns the same
        two.
        """
        count, mean, key, value, value2, conv1, conv2 = states
        original = x
        x = x + self.feed_forward1(x)
        pooled, count, mean = self.pooling(x, count, mean)
        x = x + pooled
        attended, weights, key, value = self.attention(x, positions, key, value)
        x = x + attended
        convolved, conv1 = self.conv1(x, conv1)
        x = x + convolved
        x = x + self.feed_forward2(x)
        attended, value2 = self.attention.forward2(x, weights, value2)
        x = x + attended
        convolved, conv2 = self.conv2(x, conv2)
        x = x + convolved
        x = self.norm(x + self.feed_forward3(x))
        x = original + (x - original) * self.bypass
        return x, [count, mean, key, value, value2, conv1, conv2]


class Downsample(nn.Module):
    """Weighted mean of each group of frames, the weights by softmax over a learned query."""

    def __init__(self, dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.query = nn.Parameter(torch.randn(dim) * dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(T, N, D) to (T / factor, N, D); T is a multiple of factor."""
        frames, dim = int(x.size(0)), int(x.size(2))
        groups = x.reshape(frames // self.factor, self.factor, -1, dim)
        weights = (groups * self.query).sum(dim=-1, keepdim=True).softmax(dim=1)
        return (groups * weights).sum(dim=1)


class Upsample(nn.Module):
    """Repeat every frame, with a learned offset for each place within the group."""

    def __init__(self, dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.randn(factor, 1, dim) * 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(T, N, D) to (T * factor, N, D)."""
        frames, dim = int(x.size(0)), int(x.size(2))
        return (x.unsqueeze(1) + self.bias).reshape(frames * self.factor, -1, dim)


class Combine(nn.Module):
    """Learned weighting of two streams: ``w * a + (1 - w) * b``."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two tensors of one shape to a third."""
        return b + (a - b) * self.weight


class Stack(nn.Module):
    """Layers at one frame rate, between downsampling and upsampling, combined with the stack's
    input.
    """

    def __init__(self, config: ZipformerConfig, index: int) -> None:
        super().__init__()
        factor = config.downsampling[index]
        size = config.decode_chunk_len // 2 // factor
        self.layers = nn.ModuleList(Layer(config, size) for _ in range(config.layers[index]))
        self.down = Downsample(config.dim, factor) if factor > 1 else None
        self.up = Upsample(config.dim, factor) if factor > 1 else None
        self.combine = Combine(0.3) if factor > 1 else None
        table = relative_positions(config.dim, config.left_contexts[index], size)
        self.register_buffer("positions", table, persistent=False)

    def forward(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """x (T, N, D) and the stack's seven states, each with the layers as first axis; returns the
        same two.
        """
        y = x if self.down is None else self.down(x)
        new_states = []
        for i, layer in enumerate(self.layers):
            y, layer_states = layer(y, self.positions, [s[i] for s in states])
            new_states.append(layer_states)
        if self.up is not None:
            y = self.combine(x, self.up(y))
        return y, [torch.stack(kind) for kind in zip(*new_states, strict=True)]


class Embed(nn.Module):
    """Three convolutions over log-mel features: 2F + 7 frames of 10 ms to F vectors, one every 20
    ms.
    """

    # log-mel energies of samples in [-1, 1] lie between -16 and 4: bring them near zero mean and
    # unit variance
    shift, scale = 8.0, 0.25

    def __init__(self, config: ZipformerConfig) -> None:
        super().__init__()
        first, second, third = config.embed_channels
        self.conv1 = nn.Conv2d(1, first, 3, padding=(0, 1))
        self.conv2 = nn.Conv2d(first, second, 3, stride=2)
        self.conv3 = nn.Conv2d(second, third, 3, stride=(1, 2))
        bins = ((config.feature_dim - 1) // 2 - 1) // 2
        self.out = nn.Linear(third * bins, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, F) log-mel features to ((T - 7) / 2, N, D)."""
        y = ((x + self.shift) * self.scale).unsqueeze(1)
        y = double_swish(self.conv1(y))
        y = double_swish(self.conv2(y))
        y = double_swish(self.conv3(y))
        channels, frames, bins = int(y.size(1)), int(y.size(2)), int(y.size(3))
        y = y.permute(2, 0, 1, 3).reshape(frames, -1, channels * bins)
        return self.dropout(self.out(y))


class Encoder(nn.Module):
    """The whole encoder, with the projection into the joiner's width at its end."""

    def __init__(self, config: ZipformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config)
        self.stacks = nn.ModuleList(Stack(config, i) for i in range(config.stacks))
        self.skip_from = skip_connections(config.downsampling)
        self.skips = nn.ModuleDict({str(i): Combine(0.5) for i in self.skip_from})
        self.down = Downsample(config.dim, 2)
        self.out = nn.Linear(config.dim, config.joiner_dim)

    def forward(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Encode C chunks.

        x is (N, C * decode_chunk_len + 7, F); the states are those of
        ``ZipformerConfig.initial_states`` or of the call before. Returns (N, C * decode_chunk_len /
        4, joiner_dim), one vector every 40 ms, and the new states.
        """
        count = self.config.stacks
        y = self.embed(x)
        outputs: list[Tensor] = []
        new_states: list[list[Tensor]] = []
        for i, stack in enumerate(self.stacks):
            if i in self.skip_from:
                y = self.skips[str(i)](outputs[self.skip_from[i]], y)
            y, stack_states = stack(y, states[i::count])
            outputs.append(y)
            new_states.append(stack_states)
        encoded = self.out(self.down(y).transpose(0, 1))
        return encoded, [new_states[s][k] for k in range(len(STATE_KINDS)) for s in range(count)]


def skip_connections(downsampling: tuple[int, ...]) -> dict[int, int]:
    """For a stack after a coarser one: the latest earlier stack at least as fine as itself."""
    skips = {}
    for i in range(2, len(downsampling)):
        if downsampling[i - 1] > downsampling[i]:
            finer = [j for j in range(i - 1) if downsampling[j] <= downsampling[i]]
            if finer:
                skips[i] = finer[-1]
    return skips
