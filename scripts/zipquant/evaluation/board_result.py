"""What `transcribe.py --benchmark` has measured on a board."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zipquant.board.measuring import FORMAT
from zipquant.errors import UserError

AGAIN = "run transcribe.py --benchmark on the board again, or set evaluation.board_result to null"

NETWORKS = ("encoder.rknn", "encoder-plain.rknn", "decoder.rknn", "joiner.rknn")

MOST_MS, MOST_MB, MOST_CELSIUS = 60_000, 1_000_000, 200
"""Bounds of what a board can have shown."""


@dataclass(frozen=True)
class BoardResult:
    """A file that was checked.

    Attributes:
        path: the file.
        content: what it holds, see `measuring.result`.
    """

    path: str
    content: Mapping[str, Any]

    @property
    def board(self) -> str:
        """What the board is called."""
        return self.content["machine"].get("board", "a board")

    def of(self, sha256: str | None) -> dict[str, Any] | None:
        """Return what a network took, by the hash of its .rknn; None if it was not measured."""
        entries = self.content["networks"].values()
        return next((entry for entry in entries if entry["sha256"] == sha256), None)

    def check_encoder(self, built: Iterable[str | None]) -> None:
        """Refuse it where none of the encoders of a run was measured.

        Args:
            built: the hashes of their .rknn files.

        Raises:
            UserError: it is of another encoder.
        """
        if not any(self.of(sha256) for sha256 in built if sha256):
            raise UserError(
                f"{self.path} was measured with an encoder that this run has not built: set "
                "evaluation.board_result to null, and measure the new bundle on the board"
            )

    def summary(self) -> dict[str, Any]:
        """Return what the report says of the board at the end: memory and temperature."""
        after = self.content["after"]
        return {
            "board": self.board,
            "machine": dict(self.content["machine"]),
            "peak_mb": after.get("peak_mb"),
            "celsius": max(after["celsius"].values(), default=None),
        }


def read(path: str | Path) -> BoardResult:
    """Read a file, every value checked.

    Raises:
        UserError: it is missing, is none of these files, or a value cannot be right.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {AGAIN}") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not what transcribe.py --benchmark writes: {AGAIN}")
    for where, value, is_right in _values(content):
        if not is_right(value):
            given = json.dumps(value)[:60] if value is not None else "missing"
            raise UserError(f"{path}: {where} cannot be right ({given}): {AGAIN}")
    return BoardResult(str(path), content)


def _values(content: Mapping[str, Any]) -> Iterable[tuple[str, Any, Callable[[Any], bool]]]:
    """Yield each value that is relied on, where it stands, and what it must be."""
    yield "machine", content.get("machine"), _is_texts
    networks = content.get("networks")
    yield "networks", networks, lambda value: isinstance(value, dict) and bool(value)
    for name, entry in networks.items():
        where = f"networks.{name}"
        yield where, entry, lambda value, name=name: name in NETWORKS and isinstance(value, dict)
        sha256 = entry.get("sha256")
        yield f"{where}.sha256", sha256, lambda v: bool(re.fullmatch("[0-9a-f]{64}", str(v)))
        yield f"{where}.calls", entry.get("calls"), lambda v: _is_number(v, 1, 1e9)
        for key in ("median_ms", "p95_ms", "max_ms", "first_ms", "last_ms"):
            yield f"{where}.{key}", entry.get(key), lambda v: _is_number(v, 1e-6, MOST_MS)
        order = [entry["median_ms"], entry["p95_ms"], entry["max_ms"]]
        yield f"{where}: median, 95 % and most", order, lambda v: v == sorted(v)
    after = content.get("after")
    yield "after", after, lambda v: isinstance(v, dict)
    yield "after.peak_mb", after.get("peak_mb", 1), lambda v: _is_number(v, 0.1, MOST_MB)
    yield "after.celsius", after.get("celsius"), _are_celsius


def _is_number(value: Any, least: float, most: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and least <= value <= most


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _are_celsius(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(_is_number(number, -100, MOST_CELSIUS) for number in value.values())
