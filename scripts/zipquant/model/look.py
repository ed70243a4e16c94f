"""A quick look into an ONNX file: what it is for, its precision, and where its weights are."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from zipquant.model.precision import Precision, detect, external_files, plain_name


@dataclass(frozen=True)
class Look:
    """What a look into an ONNX file shows without its weights.

    Attributes:
        axes: how many axes each input has.
        ctc: whether its first output may be scores of tokens, see `is_ctc`.
        precision: see `precision.detect`.
        external: see `precision.external_files`.
    """

    axes: tuple[int, ...] = ()
    ctc: bool = False
    precision: Precision | None = None
    external: tuple[Path, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is one file in float32, as the toolkit takes it."""
        return self.precision is None and not self.external


def look(path: str | Path) -> Look:
    """Look into an ONNX file; once, as long as it stays as it is.

    Returns:
        What it is; nothing of a file that is no ONNX model.
    """
    try:
        state = os.stat(path)
        return _look(str(path), state.st_mtime_ns, state.st_size)
    except (DecodeError, ValueError, OSError):
        return Look()


@cache
def _look(path: str, time: int, size: int) -> Look:
    model = onnx.load(path, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    output = model.graph.output[0].name if model.graph.output else ""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Look(
        tuple(len(value.type.tensor_type.shape.dim) for value in inputs),
        is_ctc(output, metadata),
        detect(model),
        tuple(external_files(path, model)),
    )


def is_ctc(output: str, metadata: Mapping[str, str]) -> bool:
    """Return whether an encoder's output may be scores of tokens, by its name and metadata.

    icefall and sherpa-onnx call a transducer's `encoder_out`, and write "ctc" into the metadata of
    the others.
    """
    words = " ".join(metadata.get(key, "") for key in ("model_type", "comment"))
    return "ctc" in words.lower() or "encoder_out" not in output


def float32_beside(path: str | Path) -> Path | None:
    """Return the float32 file that lies beside a model of another precision; None without one."""
    path = Path(path)
    for other in sorted(path.parent.glob("*.onnx")):
        same = plain_name(other.name) == plain_name(path.name)
        if same and other.name != path.name and look(other).plain and look(other).axes:
            return other
    return None
