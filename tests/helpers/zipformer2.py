"""A streaming Zipformer2 of any widths with random weights, as an exporter writes it to ONNX.

It computes what icefall's recipe `zipformer` does in streaming form (Yao et al. 2023), so that
forms are tested that no export at hand has: heads that differ between stacks, long chunks, factors
of the chunkwise convolution that are not 1.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

LEFT = 32
"""Frames of left context at 50 Hz."""

QUERY, PLACE, VALUE = 8, 4, 6
"""Channels of a head: queries and keys, positions, values."""


@dataclass(frozen=True)
class Sizes:
    """Widths, layers, heads, kernels and downsampling of each stack; frames of a chunk at 50 Hz."""

    widths: tuple[int, ...] = (16, 24, 40, 24)
    layers: tuple[int, ...] = (1, 2, 1, 1)
    heads: tuple[int, ...] = (2, 2, 4, 2)
    kernels: tuple[int, ...] = (31, 15, 15, 31)
    factors: tuple[int, ...] = (1, 2, 4, 2)
    frames: int = 16


def swoosh(x: Tensor, shift: float, offset: float) -> Tensor:
    """SwooshL or SwooshR, in the form that layers have in an export."""
    shifted = x - shift
    total = (1.0 + shifted.exp()).log()
    return torch.where(total == float("inf"), shifted, total) - 0.08 * x - offset


class Embed(nn.Module):
    """Convolutions over frames and bins, ConvNeXt with a cache, linear, norm."""

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, 4, 3, padding=(0, 1)),
                nn.Conv2d(4, 8, 3, stride=2),
                nn.Conv2d(8, 16, 3, stride=(1, 2)),
            ]
        )
        self.depthwise = nn.Conv2d(16, 16, 7, groups=16, padding=(0, 3))
        self.up, self.down = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1)
        self.out, self.norm = nn.Linear(16 * 19, width), Norm(width)

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unsqueeze(1)
        for conv in self.convs:
            x = swoosh(conv(x), 1.0, 0.3132616877555847)
        frames = x.size(2) - cache.size(2)
        whole = torch.cat([cache, x], dim=2)
        kept = whole[:, :, frames : frames + cache.size(2)]
        x = x[:, :, :frames] + self.down(swoosh(self.up(self.depthwise(whole)), 4.0, 0.035))
        x = x.transpose(1, 2).reshape(1, frames, -1)
        return self.norm(self.out(x)).permute(1, 0, 2), kept


class Norm(nn.Module):
    """BiasNorm."""

    def __init__(self, width: int):
        super().__init__()
        self.bias = nn.Parameter(0.2 * torch.randn(width))
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * (((x - self.bias) ** 2).mean(dim=-1, keepdim=True) ** -0.5 * self.scale.exp())


class Bypass(nn.Module):
    """Share of what goes around."""

    def __init__(self, width: int):
        super().__init__()
        self.share = nn.Parameter(0.4 + 0.4 * torch.rand(width))

    def forward(self, around: Tensor, x: Tensor) -> Tensor:
        return around + (x - around) * self.share


class Conv(nn.Module):
    """Gated linear unit, causal and chunkwise depthwise convolution."""

    def __init__(self, width: int, kernel: int, frames: int):
        super().__init__()
        self.gate, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.causal = nn.Conv1d(width, width, (kernel + 1) // 2, groups=width)
        self.chunk = nn.Conv1d(width, width, kernel, groups=width, padding=kernel // 2)
        self.scale = nn.Parameter(1 + 0.2 * torch.randn(width, frames))
        self.left = kernel // 2

    def forward(self, x: Tensor, cache: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.gate(x).chunk(2, dim=2)
        x = (value * gate.sigmoid()).permute(1, 2, 0)
        x = x.masked_fill(mask.unsqueeze(1).expand_as(x), 0.0)
        whole = torch.cat([cache, x], dim=2)
        x = self.chunk(whole[..., self.left :]) * self.scale + self.causal(whole)
        return self.out(swoosh(x.permute(2, 0, 1), 1.0, 0.3132616877555847)), whole[
            ..., -self.left :
        ]


class Layer(nn.Module):
    """One layer; `left` frames of left context at its rate."""

    def __init__(self, width: int, heads: int, kernel: int, frames: int, left: int):
        super().__init__()
        self.heads, self.frames, self.left = heads, frames, left
        self.scores = nn.Linear(width, heads * (2 * QUERY + PLACE))
        self.positions = nn.Parameter(torch.randn(heads, 1, PLACE, 2 * frames - 1 + left))
        hidden = 3 * width // 4
        self.ups = nn.ModuleList(nn.Linear(width, n) for n in (width, 2 * width, 3 * width))
        self.downs = nn.ModuleList(nn.Linear(n, width) for n in (width, 2 * width, 3 * width))
        self.nonlin_in, self.nonlin_out = nn.Linear(width, 3 * hidden), nn.Linear(hidden, width)
        self.values_in = nn.ModuleList(nn.Linear(width, heads * VALUE) for _ in range(2))
        self.values_out = nn.ModuleList(nn.Linear(heads * VALUE, width) for _ in range(2))
        self.convs = nn.ModuleList(Conv(width, kernel, frames) for _ in range(2))
        self.middle, self.around, self.norm = Bypass(width), Bypass(width), Norm(width)

    def weights(self, x: Tensor, cache: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attention weights (heads, 1, frames, left + frames)."""
        heads, frames = self.heads, self.frames
        scores = self.scores(x)
        query, key = scores[..., : heads * QUERY], scores[..., heads * QUERY : 2 * heads * QUERY]
        place = scores[..., 2 * heads * QUERY :]
        key = torch.cat([cache, key], dim=0)
        length = self.left + frames
        query = query.reshape(frames, 1, heads, QUERY).permute(2, 1, 0, 3)
        place = place.reshape(frames, 1, heads, PLACE).permute(2, 1, 0, 3)
        scores = query @ key.reshape(length, 1, heads, QUERY).permute(2, 1, 3, 0)
        by_place = (place @ self.positions).reshape(heads * frames, -1)
        rows = torch.arange(frames - 1, -1, -1).repeat(heads).unsqueeze(-1)
        by_place = by_place.gather(1, rows + torch.arange(length))
        scores = scores + by_place.reshape(heads, 1, frames, length)
        scores = scores.masked_fill(mask.unsqueeze(1), -1000)
        return scores.softmax(dim=-1), key[-self.left :]

    def mixed(self, weights: Tensor, values: Tensor) -> Tensor:
        """Values (length, 1, channels) under attention weights."""
        values = values.reshape(self.left + self.frames, 1, len(weights), -1).permute(2, 1, 0, 3)
        return (weights @ values).permute(2, 1, 0, 3).reshape(self.frames, 1, -1)

    def feed_forward(self, number: int, x: Tensor) -> Tensor:
        return x + self.downs[number](swoosh(self.ups[number](x), 4.0, 0.035))

    def forward(self, x: Tensor, caches: list[Tensor], mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        source = x
        weights, key = self.weights(x, caches[0], mask)
        new = mask[:, self.left :]
        x = self.feed_forward(0, x)
        gate, value, scale = self.nonlin_in(x).chunk(3, dim=2)
        new_nonlin = (gate.tanh() * value).reshape(self.frames, 1, 1, -1).permute(2, 1, 0, 3)
        nonlin = torch.cat([caches[1], new_nonlin], dim=2)
        first = (weights[:1] @ nonlin).permute(2, 1, 0, 3).reshape(self.frames, 1, -1)
        x = x + self.nonlin_out(first * scale)
        values = [torch.cat([caches[2], self.values_in[0](x)], dim=0)]
        x = x + self.values_out[0](self.mixed(weights, values[0]))
        y, conv1 = self.convs[0](x, caches[4], new)
        x = self.middle(source, self.feed_forward(1, x + y))
        values.append(torch.cat([caches[3], self.values_in[1](x)], dim=0))
        x = x + self.values_out[1](self.mixed(weights, values[1]))
        y, conv2 = self.convs[1](x, caches[5], new)
        x = self.around(source, self.norm(self.feed_forward(2, x + y)))
        kept = [key, nonlin[:, :, -self.left :], *(value[-self.left :] for value in values)]
        return x, [*kept, conv1, conv2]


class Zipformer2(nn.Module):
    """The encoder; states as icefall's exports have them."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.embed = Embed(sizes.widths[0])
        self.stacks = nn.ModuleList(
            nn.ModuleList(
                Layer(width, heads, kernel, sizes.frames // factor, LEFT // factor)
                for _ in range(layers)
            )
            for width, layers, heads, kernel, factor in zip(
                sizes.widths,
                sizes.layers,
                sizes.heads,
                sizes.kernels,
                sizes.factors,
                strict=True,
            )
        )
        self.weights = nn.ParameterList(torch.randn(factor) for factor in (*sizes.factors, 2))
        self.combine = nn.ModuleList(Bypass(width) for width in sizes.widths)
        self.out = nn.Linear(max(sizes.widths), 20)

    def down(self, x: Tensor, weights: Tensor) -> Tensor:
        x = x.reshape(x.size(0) // len(weights), len(weights), 1, x.size(2))
        return (x * weights.softmax(dim=0).unsqueeze(-1).unsqueeze(-1)).sum(dim=1)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        *caches, embed, seen = states
        x, embed = self.embed(x, embed)
        past = (seen.unsqueeze(1) <= torch.arange(LEFT)).flip(1)
        mask = torch.cat([past, torch.zeros(1, x.size(0), dtype=torch.bool)], dim=1)
        made, after, number = [], [], 0
        for i, (stack, width) in enumerate(zip(self.stacks, self.sizes.widths, strict=True)):
            x = functional.pad(x, (0, width - x.size(2))) if width > x.size(2) else x[..., :width]
            around, factor = x, self.sizes.factors[i]
            x = x if factor == 1 else self.down(x, self.weights[i])
            for layer in stack:
                x, new = layer(x, caches[6 * number : 6 * number + 6], mask[:, ::factor])
                after, number = after + new, number + 1
            if factor > 1:
                x = x.unsqueeze(1).expand(x.size(0), factor, 1, width).reshape(-1, 1, width)
                x = self.combine[i](around, x)
            made.append(x)
        parts, width = [made[-1]], self.sizes.widths[-1]
        for x in made[-2::-1]:
            if x.size(2) > width:
                parts, width = [*parts, x[..., width:]], x.size(2)
        x = self.down(torch.cat(parts, dim=-1), self.weights[-1]).permute(1, 0, 2)
        return (self.out(x), *after, embed, seen + self.sizes.frames)

    def states(self) -> dict[str, Tensor]:
        """The states by name, at the begin of a stream."""
        made, number = {}, 0
        for stack in self.stacks:
            for layer in stack:
                width, left = layer.middle.share.numel(), layer.left
                shapes = {
                    "key": (left, 1, layer.heads * QUERY),
                    "nonlin_attn": (1, 1, left, 3 * width // 4),
                    "val1": (left, 1, layer.heads * VALUE),
                    "val2": (left, 1, layer.heads * VALUE),
                    "conv1": (1, width, layer.convs[0].left),
                    "conv2": (1, width, layer.convs[0].left),
                }
                made |= {f"cached_{k}_{number}": torch.zeros(s) for k, s in shapes.items()}
                number += 1
        made["embed_states"] = torch.zeros(1, 16, 3, 19)
        return made | {"processed_lens": torch.zeros(1, dtype=torch.int64)}


def export(path: Path, sizes: Sizes) -> Path:
    """Write a Zipformer2 with random weights as an ONNX file with the metadata of icefall's."""
    torch.manual_seed(3)
    model = Zipformer2(sizes).eval()
    states = model.states()
    names = list(states)
    frames = 2 * sizes.frames + 13
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the tracer takes for constants, rightly
        torch.onnx.export(
            model,
            (torch.randn(1, frames, 80), *states.values()),
            path,
            input_names=["x", *names],
            output_names=["encoder_out", *(f"new_{name}" for name in names)],
            opset_version=13,
            dynamo=False,
        )
    written = onnx.load(path)
    metadata = {"model_type": "zipformer2", "T": frames, "decode_chunk_len": 2 * sizes.frames}
    onnx.helper.set_model_props(written, {key: str(value) for key, value in metadata.items()})
    onnx.save(written, path)
    return path
