"""Which chunks are left out as broken audio: those that reach much further than sound audio."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from zipquant.calibration import ranges
from zipquant.model.contract import Contract

PASSAGE = 32
"""Chunks of an utterance that are judged together, about 10 s: what several words reach."""


FEWEST_PASSAGES = 3
"""With fewer there is no telling which of them is the odd one."""


NEAR, FAR = 2.0, 3.0
"""Widths of the typical passage beyond it: nearer is never an outlier, further always is."""


APART = 0.5
"""Widths that a chunk between the two may go beyond the second of all utterances."""


LOUDER = 5.0
"""Natural-log units above the loudest chunk of the typical passage, 22 dB."""


@dataclass(frozen=True)
class OutlierLimits:
    """How far a chunk of sound audio may reach, see `find_limits`.

    Attributes:
        names: the tensors that are judged.
        limits: in the form of `ranges.reach`; infinite where nothing can be said.
        loudness: the same for the chunk's energy.
    """

    names: tuple[str, ...]
    limits: np.ndarray
    loudness: float

    def judge(self, table: pd.DataFrame) -> pd.Series:
        """Return why each chunk of a shard is left out; an empty text where it is not.

        With a chunk that reaches beyond the limits, the rest of its passage is left out, and all
        that follows in the utterance: what is broken in one place is not to be trusted around it,
        and the later states come from it.
        """
        reasons = np.full(len(table), "", dtype=object)
        if not len(table):
            return pd.Series(reasons, index=table.index)
        beyond = ranges.reach(table, self.names) - self.limits
        for row in np.flatnonzero(beyond.max(axis=1) > 0):
            side, tensor = divmod(int(beyond[row].argmax()), len(self.names))
            column = f"{self.names[tensor]}.{('max', 'min')[side]}"
            reasons[row] = f"{column} is {table[column].iloc[row]:.4g}"
        for row in np.flatnonzero(table["energy"] > self.loudness):
            reasons[row] = f"energy is {table['energy'].iloc[row]:.4g}"
        passages = table[["utterance", "chunk"]].assign(reason=reasons)
        passages["passage"] = passages["chunk"] // PASSAGE
        # The first outlier of each utterance speaks for all that it takes with it.
        first = passages[passages["reason"] != ""].sort_values("chunk").groupby("utterance").first()
        begin = passages["utterance"].map(first["passage"])
        reason = passages["utterance"].map(first["reason"])
        return reason.where(passages["passage"] >= begin, "").astype(object)


def find_limits(tables: Callable[[], Iterable[pd.DataFrame]], contract: Contract) -> OutlierLimits:
    """Find out how far sound audio reaches, robust against broken recordings among it.

    The typical passage (`PASSAGE` chunks of one utterance) is the median over all passages, on each
    side of each tensor. A chunk that goes beyond it

    - by more than `FAR` times its width is an outlier: it alone would make the steps of an 8 bit
      scale four times as coarse as the typical passage needs;
    - by more than `NEAR` times its width is one if it stands alone, so goes `APART` further than
      every other utterance: a loud voice has company, a broken file has not;
    - by `LOUDER` in its energy is one, since log-mel values grow slowly with loudness.

    Silence is never an outlier: every stream has it. A median holds as long as fewer than half of
    the passages are broken.

    Measured with read Mandarin, recorded digits at 8 kHz and espeak-ng: mixed with each other at
    any share, sound speech goes 2.3 widths and 3.8 units of energy beyond at most, and 1.4 widths
    unmixed. Samples not scaled to [-1, 1] go 5.4 widths and 20 units beyond, clipped speech and
    noise at full scale 6 to 12 units; test tones and steps of the offset 1.3 to 4 widths, so that
    some of these stay in.

    The states of first chunks are no part of the typical passage: they are zeros, and in short
    recordings there are many of them.

    Args:
        tables: gives the chunk tables of all shards, one after the other.
        contract: the model's contract.
    """
    skipped = ranges.counters(contract)
    names = tuple(name for name in ranges.tensors(contract) if name not in skipped)
    states = np.isin(names, [state.tensor.name for state in contract.states])
    passages = [pd.DataFrame(columns=range(2 * len(names) + 1), dtype=float)]
    utterances = [np.empty((0, 2 * len(names)))]
    for table in (piece for whole in tables() for piece in ranges.pieces(whole)):
        values = ranges.reach(table, names)
        first = table["chunk"].to_numpy() == 0
        values[np.ix_(first, np.tile(states, 2))] = np.nan
        frame = pd.DataFrame(values)
        frame[frame.shape[1]] = table["energy"].to_numpy(np.float64)
        name = table["utterance"].to_numpy()
        passages.append(frame.groupby([name, table["chunk"].to_numpy() // PASSAGE]).max())
        utterances.append(frame.iloc[:, :-1].groupby(name).max().to_numpy())
        utterances = [_furthest_two(np.concatenate(utterances))]
    found = pd.concat(passages, ignore_index=True)
    if len(found) < FEWEST_PASSAGES:
        return OutlierLimits(names, np.full(2 * len(names), np.inf), np.inf)
    typical = found.median().to_numpy()
    usual, loudest = typical[:-1], typical[-1]
    wide = np.tile(ranges.width(usual), 2)
    company = utterances[0][0] + APART * wide
    limits = np.clip(company, usual + NEAR * wide, usual + FAR * wide)
    # A state that is the same everywhere, or that first chunks alone have, shows nothing.
    return OutlierLimits(names, np.where(wide > 0, limits, np.inf), loudest + LOUDER)


def _furthest_two(values: np.ndarray) -> np.ndarray:
    """Return the second largest and the largest value of each column; NaN counts as smallest."""
    return np.sort(np.where(np.isnan(values), -np.inf, values), axis=0)[-2:]
