"""Export the demo transducer to ONNX with the metadata that sherpa-onnx reads, and check the
result.

python demo/export.py --checkpoint last.pt --out models/demo
python demo/export.py --seed 1 --out models/demo                 # random weights
python demo/export.py --scale large --out large                  # encoder only, about 20 M
parameters
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from transducer import CONTEXT, TOKENS, Transducer
from zipformer import Encoder, ZipformerConfig

OPSET = 13
CHECKED_CHUNKS = 6
TOLERANCE = 1e-3  # largest absolute difference between onnxruntime and PyTorch


class EncoderPort(nn.Module):
    """The encoder with its states as separate arguments and results, as an ONNX graph has them."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """x (N, T, F) and the states in order; returns encoder_out (N, T', joiner_dim) and the new
        states.
        """
        encoded, new_states = self.encoder(x, list(states))
        return (encoded, *new_states)


def batch_axes(config: ZipformerConfig) -> dict[str, dict[int, str]]:
    """The batch axis of every encoder input and output."""
    axes = {"x": {0: "N"}, "encoder_out": {0: "N"}}
    for name in config.state_names():
        axis = 2 if name.startswith(("cached_key", "cached_val")) else 1
        axes[name] = axes[f"new_{name}"] = {axis: "N"}
    return axes


def encoder_metadata(config: ZipformerConfig) -> dict[str, str]:
    """What sherpa-onnx reads from a streaming Zipformer encoder; lists have one entry per stack."""

    def per_stack(values: tuple[int, ...] | int) -> str:
        values = values if isinstance(values, tuple) else (values,) * config.stacks
        return ",".join(str(v) for v in values)

    return {
        "model_type": "zipformer",
        "version": "1",
        "model_author": "zipquant",
        "comment": "demo model: English digits",
        "T": str(config.segment),
        "decode_chunk_len": str(config.decode_chunk_len),
        "num_encoder_layers": per_stack(config.layers),
        "encoder_dims": per_stack(config.dim),
        "attention_dims": per_stack(config.attention_dim),
        "cnn_module_kernels": per_stack(config.kernel),
        "left_context_len": per_stack(config.left_contexts),
    }


def fix_output_shapes(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], axes: dict[str, dict[int, str]]
) -> None:
    """Give every output axis but the batch its number; the tracer leaves invented names on some."""
    for value in model.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axis not in axes[value.name]:
                dim.dim_value = shapes[value.name][axis]


def export_module(
    module: nn.Module,
    args: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
    metadata: dict[str, str],
) -> None:
    """Write one ONNX file; it appears under its name only when it is complete."""
    temporary = path.with_name(f".{path.name}.part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every size that becomes a constant
        torch.onnx.export(
            module,
            args,
            temporary,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        with torch.no_grad():
            results = module(*args)
    results = results if isinstance(results, tuple) else (results,)
    shapes = {name: tuple(r.shape) for name, r in zip(outputs, results, strict=True)}
    model = onnx.load(temporary)
    fix_output_shapes(model, shapes, axes)
    onnx.checker.check_model(model, full_check=True)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, temporary)
    os.replace(temporary, path)


def open_session(path: Path) -> ort.InferenceSession:
    """An onnxruntime session on the CPU with one thread and without its warnings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check_encoder(encoder: Encoder, path: Path) -> float:
    """Stream random features through both runtimes; returns the largest difference of any output or
    state.
    """
    config, session, worst = encoder.config, open_session(path), 0.0
    names = config.state_names()
    for batch in (1, 3):
        states = config.initial_states(batch)
        fed = {n: s.numpy() for n, s in zip(names, states, strict=True)}
        generator = torch.Generator().manual_seed(batch)
        for _ in range(CHECKED_CHUNKS):
            x = torch.randn(batch, config.segment, config.feature_dim, generator=generator) * 3 - 8
            with torch.no_grad():
                encoded, states = encoder(x, states)
            results = session.run(None, {"x": x.numpy(), **fed})
            fed = dict(zip(names, results[1:], strict=True))
            for ours, theirs in zip([encoded, *states], results, strict=True):
                if tuple(ours.shape) != theirs.shape:
                    raise RuntimeError(f"shape {theirs.shape} from onnxruntime, not {ours.shape}")
                worst = max(worst, float(np.abs(ours.numpy() - theirs).max()))
    return worst


def export_encoder(encoder: Encoder, path: Path) -> float:
    """Export and check the encoder; returns the largest difference from PyTorch."""
    config = encoder.config
    names = config.state_names()
    # a batch of 2, so that the tracer does not take the batch axis for one of the fixed axes of
    # size 1
    x = torch.zeros(2, config.segment, config.feature_dim)
    export_module(
        EncoderPort(
            encoder
        ).eval(),  # the exporter would put the encoder back into the wrapper's mode
        (x, *config.initial_states(2)),
        path,
        ["x", *names],
        ["encoder_out", *(f"new_{n}" for n in names)],
        batch_axes(config),
        encoder_metadata(config),
    )
    return check_encoder(encoder, path)


def export_decoder_and_joiner(model: Transducer, out: Path) -> float:
    """Export and check decoder and joiner; returns the largest difference from PyTorch."""
    width = model.config.joiner_dim
    tokens = torch.tensor([[-1, 0], [0, 1], [10, 10]])
    export_module(
        model.decoder,
        (tokens,),
        out / "decoder.onnx",
        ["y"],
        ["decoder_out"],
        {"y": {0: "N"}, "decoder_out": {0: "N"}},
        {"context_size": str(CONTEXT), "vocab_size": str(len(TOKENS))},
    )
    pair = torch.randn(3, width), torch.randn(3, width)
    names = ["encoder_out", "decoder_out"]
    export_module(
        model.joiner,
        pair,
        out / "joiner.onnx",
        names,
        ["logit"],
        {n: {0: "N"} for n in (*names, "logit")},
        {"joiner_dim": str(width)},
    )
    with torch.no_grad():
        decoded, logit = model.decoder(tokens), model.joiner(*pair)
    (decoded2,) = open_session(out / "decoder.onnx").run(None, {"y": tokens.numpy()})
    fed = {n: p.numpy() for n, p in zip(names, pair, strict=True)}
    (logit2,) = open_session(out / "joiner.onnx").run(None, fed)
    return float(max(np.abs(decoded - decoded2).max(), np.abs(logit - logit2).max()))


def export_all(model: Transducer, out: Path) -> float:
    """Write encoder, decoder, joiner and tokens into ``out``; returns the largest difference from
    PyTorch.
    """
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    worst = max(
        export_encoder(model.encoder, out / "encoder.onnx"),
        export_decoder_and_joiner(model, out),
    )
    lines = "".join(f"{token} {i}\n" for i, token in enumerate(TOKENS))
    (out / "tokens.txt").write_text(lines, encoding="utf-8")
    return worst


def load_checkpoint(path: Path) -> Transducer:
    """The averaged model of a checkpoint that train.py wrote."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["config"].items()}
    model = Transducer(ZipformerConfig(**config))
    model.load_state_dict(saved["average"])
    return model


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export the demo model to ONNX.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--checkpoint", type=Path, help="of train.py; random weights without it")
    parser.add_argument("--seed", type=int, default=1, help="of the random weights")
    parser.add_argument("--scale", choices=["demo", "large"], default="demo")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.scale == "large":
        encoder = Encoder(ZipformerConfig.large()).eval()
        worst = export_encoder(encoder, args.out / "encoder.onnx")
    else:
        model = (
            load_checkpoint(args.checkpoint) if args.checkpoint else Transducer(ZipformerConfig())
        )
        worst = export_all(model, args.out)
        encoder = model.encoder
    if not worst < TOLERANCE:
        raise SystemExit(f"onnxruntime differs from PyTorch by {worst:.2g}")
    size = sum(p.numel() for p in encoder.parameters()) / 1e6
    print(
        f"{args.out}: encoder of {size:.2f} M parameters, onnxruntime within {worst:.1e} of PyTorch"
    )


if __name__ == "__main__":
    main()
