"""What a board is, how warm and how full it is, and how long it takes: for a small JSON file.

Everything is read from Linux' own files; what a board does not show is left out.
"""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "zipquant board result 1"
"""The value of `format` in the file."""

WARM_UP = 5
"""Calls after which times count."""

ROOT = Path("/")


def times(seconds: Sequence[float]) -> dict[str, float]:
    """Return what calls took: how many count, median, 95th percentile and most, in ms.

    `first_ms` and `last_ms` are the medians of the first and the last third: a board that gets too
    warm slows down.
    """
    counted = 1000 * np.array(seconds[WARM_UP:] or seconds)
    third = max(1, len(counted) // 3)
    found = {
        "median_ms": np.median(counted),
        "p95_ms": np.percentile(counted, 95),
        "max_ms": counted.max(),
        "first_ms": np.median(counted[:third]),
        "last_ms": np.median(counted[-third:]),
    }
    return {"calls": len(counted)} | {name: round(float(ms), 3) for name, ms in found.items()}


def machine(root: Path = ROOT) -> dict[str, str]:
    """Return what the board and its software are called, as far as they say."""
    found = {
        "board": _text(root / "proc/device-tree/model"),
        "npu_driver": _text(root / "sys/kernel/debug/rknpu/version"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    return {name: text for name, text in found.items() if text}


def state(root: Path = ROOT) -> dict[str, Any]:
    """Return how the board is at the moment.

    Returns:
        `rss_mb` and `peak_mb`, the memory of this process, in 10^6 bytes; `celsius`, by the name of
        the place; `npu_load`, which only root can read.
    """
    status = dict(
        line.split(":", 1) for line in _text(root / "proc/self/status").splitlines() if ":" in line
    )
    found: dict[str, Any] = {}
    for name, key in (("rss_mb", "VmRSS"), ("peak_mb", "VmHWM")):
        # "VmRSS:   123456 kB", of 1024 bytes.
        if number := status.get(key, "").split():
            found[name] = round(int(number[0]) * 1024 / 1e6, 1)
    found["celsius"] = {
        _text(zone / "type") or zone.name: round(int(reading) / 1000, 1)
        for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))
        if (reading := _text(zone / "temp")).lstrip("-").isdigit()
    }
    if load := _text(root / "sys/kernel/debug/rknpu/load"):
        found["npu_load"] = load
    return found


def result(
    bundle: Path,
    seconds: Mapping[str, Sequence[float]],
    before: Mapping[str, Any],
    versions: str = "",
) -> dict[str, Any]:
    """Return what a benchmark has found, for JSON.

    Args:
        bundle: the bundle's folder.
        seconds: how long each call of each network took, by the name of its file.
        before: `state` before the first call.
        versions: what the runtime says of itself.
    """
    return {
        "format": FORMAT,
        "manifest_sha256": _sha256(bundle / "manifest.json"),
        "machine": machine() | ({"runtime": versions} if versions else {}),
        "networks": {
            name: {"sha256": _sha256(bundle / name), **times(found)}
            for name, found in seconds.items()
        },
        "before": dict(before),
        "after": state(),
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""
