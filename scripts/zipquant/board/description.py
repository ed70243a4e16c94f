"""What a bundle says of itself, checked before anything is run from it on a board."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zipquant.errors import UserError

MODEL = "encoder.json"
"""What the encoder takes, beside it in the bundle; see `zipquant.bundle.describe`."""

MANIFEST = "manifest.json"
"""What the bundle holds: `files`, with `bytes` and `sha256` of each."""

AGAIN = "copy the whole bundle to the board again"

MOST_FRAMES, MOST_VALUES, MOST_SECONDS = 10_000, 1 << 28, 600
"""Bounds of a chunk, of a state, and of the silence behind an utterance."""

BINS = 80
"""Mel bins that every published streaming Zipformer takes, and sherpa-onnx computes unless told."""

FEATURES = ("fbank", "whisper")
"""The features that an encoder may take: log-mel as in kaldi, or those of Whisper."""

DTYPES = ("float32", "float16", "int64", "int32", "int8")


def check_files(folder: Path) -> None:
    """Compare every file of a bundle with its manifest.

    Raises:
        UserError: one is missing or damaged, or the manifest is.
    """
    listed = _read_json(folder / MANIFEST).get("files")
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{folder / MANIFEST}: it lists no files; {AGAIN}")
    for name, entry in listed.items():
        path = folder / name
        expected = entry.get("sha256") if isinstance(entry, dict) else None
        if not path.is_file():
            raise UserError(f"{path} is missing: {AGAIN}")
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise UserError(f"{path} is not what {MANIFEST} lists, it is damaged: {AGAIN}")


def read(folder: Path) -> dict[str, Any]:
    """Return what the encoder of a bundle takes, every value checked.

    Raises:
        UserError: a value is missing or cannot be right.
    """
    model = _read_json(folder / MODEL)
    for name, is_right in RULES.items():
        if name not in model or not is_right(model[name]):
            given = json.dumps(model[name])[:60] if name in model else "missing"
            raise UserError(f"{folder / MODEL}: {name} cannot be right ({given}); {AGAIN}")
    if model["chunk_shift"] > model["chunk_frames"]:
        raise UserError(f"{folder / MODEL}: chunk_shift is more than chunk_frames; {AGAIN}")
    return model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {AGAIN}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON, it is damaged: {AGAIN}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object, it is damaged: {AGAIN}")
    return value


def _is_count(value: Any, most: int = MOST_FRAMES) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_silence(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= MOST_SECONDS  # NaN is not


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("name"), str)
        and value.get("dtype") in DTYPES
        and isinstance(value.get("shape"), list)
        and all(_is_count(size, MOST_VALUES) for size in value["shape"])
        and math.prod(value["shape"]) <= MOST_VALUES
    )


RULES: dict[str, Callable[[Any], bool]] = {
    "chunk_frames": _is_count,
    "chunk_shift": _is_count,
    "bins": _is_count,
    "features": lambda value: value in FEATURES,
    "context": lambda value: value is None or _is_count(value, 100),
    "channels": lambda value: value in ("mean", "first"),
    "tail_padding": _is_silence,
    "states": lambda value: isinstance(value, list) and all(map(_is_state, value)),
}
"""Of each value of `MODEL`, whether it can be right."""
