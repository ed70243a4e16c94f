"""Whether an output goes wrong with time, judged by its error chunk by chunk."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

WARM_UP = 8
"""Chunks at the beginning that do not count: caches and means fill there."""

BLOCKS = 12
"""The rest is cut into so many blocks, whose medians are compared: neighbouring chunks have much of
their error in common, so they are no independent measurements."""

LOSS_DB = 3.0
"""What a state must lose from the first third to the last to be named: its error is twice as strong
then."""

HARMLESS_DB = 40.0
"""SQNR above which a loss does no harm: float16 itself begins near 60 dB, int8 near 30."""

FLOOR_DB = 10.0
"""Below it an output is named whether it drifts or not: the error is a third of the value. A mean
whose counter stands still is like that after the first seconds already, and hardly gets worse."""

CHANCE = 0.05
"""Chance that blocks without a trend pass for ones that fall."""


def examine(levels: Sequence[float]) -> dict[str, Any]:
    """Tell whether an output goes wrong with time, from its SQNR chunk by chunk.

    After `WARM_UP` chunks, the medians of `BLOCKS` blocks are taken. The output goes wrong if it
    loses more than `LOSS_DB` from the first third of the blocks to the last, and if their order
    falls more steadily than chance would have it (Mann and Kendall's test of a trend, one-sided,
    at `CHANCE`). The first keeps out what is too small to matter, the second what is loud and
    quiet speech in turn. A steady loss is found as well as a single step. An output whose last
    third is below `FLOOR_DB` goes wrong in any case, and so does one that is NaN in any chunk; one
    above `HARMLESS_DB` goes wrong in none.

    Args:
        levels: SQNR in dB; infinite where a chunk is exact, or silent in the float model; NaN where
            the variant gives NaN or infinity.

    Returns:
        `sqnr_db` by chunk (None where not finite), `broken_chunks` (how many are NaN), the medians
        `first_db` and `last_db` of the first and last third, `loss_db` between them,
        `slope_db_per_chunk` (Theil and Sen), the test's `p_value`, and `wrong`. Medians and test
        are None where there are too few chunks to tell; then nothing but NaN is `wrong`.
    """
    shown = [round(level, 2) if math.isfinite(level) else None for level in levels]
    broken = sum(math.isnan(level) for level in levels)
    counted = np.array(levels[WARM_UP:], dtype=float)
    places = np.arange(len(counted))[np.isfinite(counted)]
    counted = counted[places]
    unknown = dict.fromkeys(("first_db", "last_db", "loss_db", "slope_db_per_chunk", "p_value"))
    if len(counted) < 2 * BLOCKS:
        return {"sqnr_db": shown, "broken_chunks": broken, **unknown, "wrong": broken > 0}
    medians = np.array([np.median(block) for block in np.array_split(counted, BLOCKS)])
    middles = np.array([np.median(block) for block in np.array_split(places, BLOCKS)])
    from scipy.stats import kendalltau, theilslopes  # slow to load, and of use only here

    slope = theilslopes(medians, middles).slope
    p_value = kendalltau(middles, medians, alternative="less").pvalue
    third = BLOCKS // 3
    first, last = float(np.median(medians[:third])), float(np.median(medians[-third:]))
    return {
        "sqnr_db": shown,
        "broken_chunks": broken,
        "first_db": first,
        "last_db": last,
        "loss_db": first - last,
        "slope_db_per_chunk": float(slope),
        "p_value": float(p_value),
        "wrong": bool(
            broken
            or (first - last > LOSS_DB and p_value < CHANCE and last < HARMLESS_DB)
            or last < FLOOR_DB
        ),
    }
