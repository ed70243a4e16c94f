"""What evaluation tables mean: their modes, and the figures that follow from their rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from zipquant.model.noise import sqnr

ONE_STEP = "one step"
"""The variant gets the float model's states for each chunk: the error of a single call."""

FREE_RUNNING = "free-running"
"""The variant gets its own states: the error as it adds up on a board."""

SIMULATOR, EMULATION = "simulator", "emulation"
"""In a time file, what ran a variant that was on no board."""

ENGINES = (SIMULATOR, EMULATION)
"""What a variant runs in on this machine."""

SUMS = ("signal", "power", "dot", "noise", "max_error", "broken")
"""Columns of an evaluation table with numbers, see `noise.compare`."""


def on_board(target: str) -> bool:
    """Whether the `target` of a time file is a board."""
    return target not in ENGINES


def summarize(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return how exact each group of an evaluation table is.

    Args:
        table: a table of `encoder_error.evaluate_shard`.
        by: the columns that make a group, such as mode and output.

    Returns:
        A row for each group: `sqnr_db`, `cosine`, `max_error`, and in how many of its rows a value
        is NaN or infinite, `broken_chunks`. Where there is any, the others are NaN.
    """
    broken = (table["broken"] > 0).astype(int)
    groups = table.assign(broken_chunks=broken).groupby(list(by), sort=False)
    sums = groups[["signal", "power", "dot", "noise", "broken_chunks"]].sum()
    whole = sums["broken_chunks"] == 0
    # pandas leaves NaN out of a sum, which would make a broken output look exact.
    sums[["power", "dot", "noise"]] = sums[["power", "dot", "noise"]].where(whole)
    norm = np.sqrt(sums["signal"] * sums["power"])
    # Two silent outputs are equal, though their cosine is 0 / 0.
    cosine = np.where(norm > 0, sums["dot"] / norm.where(norm > 0, 1), 1.0 * (sums["noise"] == 0))
    cosine = np.where(whole, cosine, np.nan)
    return pd.DataFrame(
        {
            "sqnr_db": sqnr(sums["signal"], sums["noise"]),
            "cosine": cosine,
            "max_error": groups["max_error"].max().where(whole),
            "broken_chunks": sums["broken_chunks"],
        },
        index=sums.index,
    ).reset_index()
