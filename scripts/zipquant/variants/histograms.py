"""Histograms of a model's inputs over their calibrated ranges: of fixed size, and mergeable.

All counts are integers, so the sum over shards is the same in any order and for any number of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zipquant.jobs import files
from zipquant.model.contract import Contract

RANGES = "ranges.json"
"""File that a build leaves beside the toolkit's: the calibrated range of each input, with the
histogram of the calibration rows over it."""

INSIDE = 40
"""Bins between the ends of the calibrated range."""

BESIDE = 10
"""Bins as wide as those on either side of it; what lies further out has a bin of its own."""


@dataclass
class Histogram:
    """Values of one tensor.

    Attributes:
        low: lower end of the calibrated range.
        high: upper end.
        counts: values below all bins, in each bin from left to right, and above all bins.
        below: values below `low`, exactly.
        above: values above `high`, exactly.
        least: the smallest value; None where there was none.
        most: the largest value.
    """

    low: float
    high: float
    counts: list[int] = field(default_factory=lambda: [0] * (INSIDE + 2 * BESIDE + 2))
    below: int = 0
    above: int = 0
    least: float | None = None
    most: float | None = None

    @property
    def total(self) -> int:
        """All values."""
        return sum(self.counts)

    @property
    def outside(self) -> float:
        """Share of the values outside of the calibrated range, 0 to 1."""
        return (self.below + self.above) / max(1, self.total)

    def edges(self) -> np.ndarray:
        """Return the edges of the bins, without those at either end that have but one."""
        steps = np.arange(-BESIDE, INSIDE + BESIDE + 1)
        return self.low + steps * (self._width / INSIDE)

    def add(self, values: np.ndarray) -> None:
        """Count some more values, of any shape."""
        values = np.asarray(values, dtype=np.float64).ravel()
        if not len(values):
            return
        place = np.floor((values - self.low) * (INSIDE / self._width)) + (BESIDE + 1)
        place = np.clip(place, 0, len(self.counts) - 1)
        # What rounding put beyond an end that it does not exceed.
        place = np.where(values >= self.low, np.maximum(place, BESIDE + 1), place)
        place = np.where(values <= self.high, np.minimum(place, BESIDE + INSIDE), place)
        found = np.bincount(place.astype(np.intp), minlength=len(self.counts))
        self._join(
            found.tolist(),
            int((values < self.low).sum()),
            int((values > self.high).sum()),
            float(values.min()),
            float(values.max()),
        )

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another histogram of the same range.

        Raises:
            ValueError: its range is another.
        """
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError(f"({self.low}, {self.high}) is not ({other.low}, {other.high})")
        self._join(other.counts, other.below, other.above, other.least, other.most)

    @property
    def _width(self) -> float:
        return (self.high - self.low) or 1.0

    def _join(self, counts: Sequence[int], below: int, above: int, least, most) -> None:
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
        self.below += below
        self.above += above
        self.least = min((v for v in (self.least, least) if v is not None), default=None)
        self.most = max((v for v in (self.most, most) if v is not None), default=None)


class Histograms(dict[str, Histogram]):
    """The histograms of some inputs, by name."""

    @classmethod
    def of(cls, ranges: Mapping[str, tuple[float, float]]) -> "Histograms":
        """Return empty histograms for inputs with these calibrated ranges."""
        return cls({name: Histogram(low, high) for name, (low, high) in ranges.items()})

    @classmethod
    def read(cls, paths: Iterable[str | Path]) -> "Histograms":
        """Read files that `write` has written, and add them up.

        Raises:
            UserError: a file is damaged.
        """
        found = cls()
        for path in paths:
            for name, entry in files.read_json(path).items():
                if name in found:
                    found[name].merge(Histogram(**entry))
                else:
                    found[name] = Histogram(**entry)
        return found

    def empty(self) -> "Histograms":
        """Return empty histograms of the same ranges."""
        return Histograms.of({name: (entry.low, entry.high) for name, entry in self.items()})

    def add(self, contract: Contract, inputs: Sequence[np.ndarray]) -> None:
        """Count the values of one call; inputs without a histogram are passed over.

        Args:
            contract: the model's contract.
            inputs: x and the states, in the contract's order.
        """
        for tensor, array in zip(contract.inputs, inputs, strict=True):
            if tensor.name in self:
                self[tensor.name].add(array)

    def write(self, path: str | Path) -> None:
        """Write them as JSON."""
        files.write_json(path, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return them as plain values."""
        return {name: asdict(entry) for name, entry in self.items()}
