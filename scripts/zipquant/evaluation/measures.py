"""What evaluation tables mean: their modes, and the figures that follow from their rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from zipquant.model.noise import sqnr

ONE_STEP = "one step"
"""The variant gets the float model's states for each chunk: the error of a single call."""

FREE_RUNNING = "free-running"
"""The variant gets its own states: the error as it adds up on a board."""

SIMULATOR = "simulator"
"""In a time file, what ran a variant that was on no board."""


def summarize(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return SQNR (dB), cosine and largest error of each group of an evaluation table.

    Args:
        table: a table of `evaluate`.
        by: the columns that make a group, such as mode and output.
    """
    groups = table.groupby(list(by), sort=False)
    sums = groups[["signal", "power", "dot", "noise"]].sum()
    norm = np.sqrt(sums["signal"] * sums["power"])
    # Two silent outputs are equal, though their cosine is 0 / 0.
    cosine = np.where(norm > 0, sums["dot"] / norm.where(norm > 0, 1), 1.0 * (sums["noise"] == 0))
    return pd.DataFrame(
        {
            "sqnr_db": sqnr(sums["signal"], sums["noise"]),
            "cosine": cosine,
            "max_error": groups["max_error"].max(),
        },
        index=sums.index,
    ).reset_index()
