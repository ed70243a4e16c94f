"""Whether the audio can serve: what makes a calibration set or an evaluation say little."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zipquant.audio.index import Entry
from zipquant.audio.reading import IS_SILENT
from zipquant.board.fbank import SAMPLE_RATE
from zipquant.evaluation.drift import WARM_UP

SILENT_SHARE = 0.5
"""Part of a set's files that may be silent."""

LEVEL_DB = 20.0
"""How far the loudness of the two sets may differ. Speakers and microphones differ by less."""

NARROW_SHARE = 0.5
"""Part of a set's files that makes it one of narrow-band audio, of less than `SAMPLE_RATE`."""


def describe(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return what the usable files of a set are like.

    Returns:
        `used`; `silent`, how many of them; `level_db`, the median of the others (None without
        any); `rate`, the most frequent sample rate in Hz (None without any file); `narrow`, the
        share of files of less than 16 kHz.
    """
    loud = [float(entry.level) for entry in entries if IS_SILENT not in entry.warning]
    rates = [int(entry.rate) for entry in entries]
    return {
        "used": len(entries),
        "silent": len(entries) - len(loud),
        "level_db": float(np.median(loud)) if loud else None,
        "rate": max(set(rates), key=rates.count, default=None),
        "narrow": sum(rate < SAMPLE_RATE for rate in rates) / max(1, len(rates)),
    }


def examine(
    audio: Mapping[str, Mapping[str, Any]], last_chunks: Mapping[str, int | None], shift: float
) -> list[dict[str, Any]]:
    """Return why the audio cannot serve.

    Args:
        audio: what `describe` says of each set, `calibration` and `evaluation`.
        last_chunks: the largest chunk number in each set; None where it has no chunk.
        shift: seconds from a chunk to the next.

    Returns:
        For each fault its `kind`: `silent`, `level`, `narrow` or `short`; the `set` that it is of,
        and the numbers that go with it.
    """
    found: list[dict[str, Any]] = []
    for name, facts in audio.items():
        if facts["used"] and facts["silent"] >= SILENT_SHARE * facts["used"]:
            counts = {key: facts[key] for key in ("silent", "used")}
            found.append({"kind": "silent", "set": name, **counts})
    calibration, evaluation = (audio.get(name) for name in ("calibration", "evaluation"))
    if calibration and evaluation:
        found += _differences(calibration, evaluation)
    for name, last in last_chunks.items():
        if last is not None and last + 1 < WARM_UP:
            seconds = {"seconds": (last + 1) * shift, "needed_seconds": WARM_UP * shift}
            found.append({"kind": "short", "set": name, "chunks": last + 1, **seconds})
    return found


def _differences(
    calibration: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    levels = calibration["level_db"], evaluation["level_db"]
    if None not in levels and abs(levels[0] - levels[1]) > LEVEL_DB:
        quiet = "evaluation" if levels[1] < levels[0] else "calibration"
        found.append({"kind": "level", "set": quiet, "low_db": min(levels), "high_db": max(levels)})
    narrow = [facts["narrow"] >= NARROW_SHARE for facts in (calibration, evaluation)]
    if narrow[0] != narrow[1]:
        rates = {"calibration_rate": calibration["rate"], "evaluation_rate": evaluation["rate"]}
        found.append(
            {"kind": "narrow", "set": "calibration" if narrow[0] else "evaluation", **rates}
        )
    return found
