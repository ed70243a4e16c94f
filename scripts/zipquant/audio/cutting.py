"""Cutting long recordings at pauses into utterances."""

import itertools
from collections.abc import Sequence

import numpy as np

from zipquant.audio.reading import FRAME

WINDOW = 0.2
"""Seconds over which the loudness is averaged, so that the gap within a word is no pause."""

EARLIEST = 0.5
"""Share of the longest allowed length before which no cut is looked for."""


def cuts(loudness: np.ndarray, longest: float) -> list[float]:
    """Return where to cut a recording so that no part is longer than allowed.

    Greedy: each cut is at the quietest place between half of the longest length and all of it.

    Args:
        loudness: root mean square of each `FRAME` seconds.
        longest: seconds that a part may have at most; at least a second.

    Returns:
        The times of the cuts, in seconds, without the beginning and the end.
    """
    size = max(1, round(WINDOW / FRAME))
    smooth = np.convolve(loudness, np.ones(size) / size, mode="same")
    most, found, start = round(longest / FRAME), [], 0
    while len(smooth) - start > most:
        first = start + round(EARLIEST * most)
        start = first + int(np.argmin(smooth[first : start + most]))
        found.append(start * FRAME)
    return found


def parts(loudness: np.ndarray, longest: float) -> Sequence[tuple[float, float | None]]:
    """Return the parts of a recording, each from and to; the last one to the end (None)."""
    edges = [0.0, *(round(time, 2) for time in cuts(loudness, longest)), None]
    return list(itertools.pairwise(edges))
