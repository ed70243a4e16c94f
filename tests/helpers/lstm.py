"""A small streaming LSTM transducer of random weights, with the interface of icefall's recipe.

The recipe is `lstm_transducer_stateless2`: nine frames a call, one vector out, and the states of
all layers in two tensors. Gates are spelt out, since ONNX's LSTM has no projection.
"""

import shutil
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from helpers.places import DEMO_MODEL

LAYERS, WIDTH, HIDDEN, FRAMES, SHIFT = 3, 64, 128, 9, 4


class Layer(nn.Module):
    """An LSTM with a projection."""

    def __init__(self):
        super().__init__()
        self.from_x = nn.Linear(WIDTH, 4 * HIDDEN)
        self.from_h = nn.Linear(WIDTH, 4 * HIDDEN, bias=False)
        self.projection = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        take, keep, fresh, give = (self.from_x(x) + self.from_h(h)).chunk(4, dim=-1)
        c = torch.sigmoid(keep) * c + torch.sigmoid(take) * torch.tanh(fresh)
        return self.projection(torch.sigmoid(give) * torch.tanh(c)), c


def norm(x: Tensor) -> Tensor:
    """BasicNorm."""
    return x * ((x**2).mean(-1, keepdim=True) + 0.25) ** -0.5


class Encoder(nn.Module):
    """Convolutions that make one vector of nine frames, and the layers.

    Args:
        size: of the output's vectors.
    """

    def __init__(self, size: int):
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3, stride=2), nn.Conv2d(16, 16, 3, stride=2)]
        )
        self.embed, self.out = nn.Linear(16 * 18, WIDTH), nn.Linear(WIDTH, size)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.feeds = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH))
                for _ in range(LAYERS)
            ]
        )

    def forward(self, x: Tensor, state0: Tensor, state1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # About the mean and spread of log-mel energies, so that random weights show speech.
        x = x.unsqueeze(1) / 4 + 2
        for conv in self.convs:
            x = nn.functional.silu(conv(x))
        x = norm(self.embed(x.flatten(1)))
        hs, cs = [], []
        for number, (layer, feed) in enumerate(zip(self.layers, self.feeds, strict=True)):
            h, c = layer(x, state0[number], state1[number])
            hs.append(h)
            cs.append(c)
            x = norm(x + h)
            x = norm(x + feed(x))
        return 4 * self.out(x).unsqueeze(1), torch.stack(hs), torch.stack(cs)


def write(folder: Path) -> dict[str, str]:
    """Write the encoder beside the demo's decoder, joiner and tokens; return their paths."""
    torch.manual_seed(3)
    encoder = Encoder(128).eval()
    for weights in encoder.parameters():
        if weights.ndim > 1:
            weights.data *= 2
    states = torch.zeros(LAYERS, 1, WIDTH), torch.zeros(LAYERS, 1, HIDDEN)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "encoder-epoch-99-avg-1.onnx"
    names = ["state0", "state1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder,
            (torch.zeros(1, FRAMES, 80), *states),
            str(path),
            dynamo=False,
            opset_version=11,
            input_names=["x", *names],
            output_names=["encoder_out", *(f"new_{name}" for name in names)],
            dynamic_axes={"x": {0: "N"}, "encoder_out": {0: "N"}}
            | {name: {1: "N"} for name in (*names, *(f"new_{name}" for name in names))},
        )
    model = onnx.load(path)
    sizes = {"num_encoder_layers": LAYERS, "d_model": WIDTH, "rnn_hidden_size": HIDDEN}
    sizes |= {"T": FRAMES, "decode_chunk_len": SHIFT}
    metadata = {"model_type": "lstm", "version": "1"} | {k: str(v) for k, v in sizes.items()}
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    found = {"encoder": str(path)}
    for part in ("decoder", "joiner"):
        found[part] = str(folder / f"{part}-epoch-99-avg-1.onnx")
        shutil.copy(DEMO_MODEL.with_name(f"{part}.onnx"), found[part])
    return found | {"tokens": str(shutil.copy(DEMO_MODEL.with_name("tokens.txt"), folder))}
