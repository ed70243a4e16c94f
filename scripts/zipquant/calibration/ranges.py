"""How far the tensors of a chunk reach: outliers of broken audio, and what a choice of rows covers.

Everything is computed from the chunk tables of the traces, a shard at a time.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from zipquant.model.contract import Contract


def tensors(contract: Contract) -> tuple[str, ...]:
    """Return the tensors that count for coverage: every input, and the encoder output."""
    return (*(tensor.name for tensor in contract.inputs), contract.encoder_out)


def counters(contract: Contract) -> frozenset[str]:
    """Return the integer inputs: they count frames, so audio cannot make outliers of them."""
    return frozenset(t.name for t in contract.inputs if not t.dtype.startswith("float"))


def reach(table: pd.DataFrame, names: Iterable[str]) -> np.ndarray:
    """Return how far each chunk reaches on both sides of each tensor.

    Args:
        table: a chunk table with the columns `<name>.max` and `<name>.min`.
        names: the tensors.

    Returns:
        float64, shape (chunks, 2 * tensors): the maxima, then the minima with their signs changed,
        so that more is further out on both sides and the sum of both is the width.
    """
    names = list(names)
    upper = table[[f"{name}.max" for name in names]].to_numpy(np.float64)
    lower = table[[f"{name}.min" for name in names]].to_numpy(np.float64)
    return np.hstack([upper, -lower])


def pieces(table: pd.DataFrame, rows: int = 512) -> Iterator[pd.DataFrame]:
    """Yield a chunk table in pieces of whole utterances, so that work on it takes little memory.

    Args:
        table: a chunk table, the chunks of each utterance together.
        rows: how many rows a piece has at least, but the last.
    """
    names = table["utterance"].to_numpy()
    start = 0
    for end in [*(np.flatnonzero(names[1:] != names[:-1]) + 1), len(table)]:
        if end - start >= rows or end == len(table):
            yield table.iloc[start:end]
            start = end


def width(reached: np.ndarray) -> np.ndarray:
    """Return the widths of ranges in the form of `reach`; the last axis is halved."""
    sides = reached.shape[-1] // 2
    return reached[..., :sides] + reached[..., sides:]


def coverage(reached: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return which part of each tensor's whole range is covered, 0 to 1.

    Args:
        reached: how far the chosen rows reach, shape (2 * tensors,), see `reach`.
        whole: how far all chunks reach, the same shape.

    Returns:
        Shape (tensors,); 1 for a tensor that never changes.
    """
    full = width(whole)
    covered = np.clip(width(np.minimum(reached, whole)), 0, None)
    return np.where(full > 0, covered / np.where(full > 0, full, 1), 1.0)
