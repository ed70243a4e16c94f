"""How a state moves from chunk to chunk: most are windows that slide, found by bit equality."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Slide:
    """A state's window keeps all but the first `step` positions of an axis, and gains new ones.

    Attributes:
        axis: the axis that slides, counted from the end (-1 is the last), so that it is the same
            whether or not an axis of lanes stands before the state's own.
        length: positions of that axis.
        step: positions that are new at each chunk: 0 for a state that stays the same, `length`
            for one that keeps nothing.
    """

    axis: int
    length: int
    step: int

    def kept(self, before: np.ndarray) -> np.ndarray:
        """Return the part of a window that the next window keeps."""
        return before[self._cut(self.step, None)]

    def taken_over(self, after: np.ndarray) -> np.ndarray:
        """Return the part of a window that the one before should have held."""
        return after[self._cut(None, self.length - self.step)]

    def fresh(self, window: np.ndarray) -> np.ndarray:
        """Return the new part of a window."""
        return window[self._cut(self.length - self.step, None)]

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the window at the end of a window and the new parts that follow it."""
        return np.concatenate(parts, axis=self.axis)[self._cut(-self.length, None)]

    def holds(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Return whether one window continues another bit for bit, or those of all lanes do.

        Args:
            before: the windows in their own order of axes, with or without an axis of lanes.
            after: the windows that follow, of the same shape.
        """
        kept, taken = (a.reshape(-1, math.prod(a.shape[self.axis :])) for a in (before, after))
        cut = kept.shape[1] // self.length * self.step
        if cut == kept.shape[1]:
            return True
        return bool((opaque(kept[:, cut:]) == opaque(taken[:, : kept.shape[1] - cut])).all())

    def _cut(self, start: int | None, stop: int | None) -> tuple:
        return (..., slice(start, stop), *(slice(None),) * (-self.axis - 1))


def bits(array: np.ndarray) -> np.ndarray:
    """Return an array as unsigned integers, whose equality is that of the bits.

    Unlike the numbers': -0.0 equals 0.0, and NaN nothing.
    """
    return array.view(f"u{array.itemsize}")


def opaque(array: np.ndarray) -> np.ndarray:
    """Return a view in which all numbers along the last axis are one item of bytes.

    Where that axis is short, numpy copies and compares such items several times as fast.
    """
    return array.view(f"V{array.shape[-1] * array.itemsize}")[..., 0]


def find(windows: Sequence[np.ndarray]) -> Slide:
    """Find the axis and step by which consecutive windows of a state slide.

    Args:
        windows: the state before consecutive chunks of one utterance.

    Returns:
        The slide that leaves the least to be stored; one that keeps nothing if none holds.
    """
    windows = [bits(np.ascontiguousarray(window)) for window in windows]
    size, shape = windows[0].size, windows[0].shape
    best, least = Slide(-1, shape[-1], shape[-1]), size * (len(windows) - 1)
    for axis, length in zip(range(-len(shape), 0), shape, strict=True):
        holds = [set(_steps(before, after, axis)) for before, after in itertools.pairwise(windows)]
        for step in sorted(set().union(*holds)):
            # Where a slide does not hold, the whole window is stored.
            stored = sum(size * step // length if step in steps else size for steps in holds)
            if stored < least:
                best, least = Slide(axis, length, step), stored
    return best


def _steps(before: np.ndarray, after: np.ndarray, axis: int) -> list[int]:
    """Return all steps below the axis' length by which `after` continues `before`."""
    length = after.shape[axis]
    others = tuple(other for other in range(-after.ndim, 0) if other != axis)
    # Only where the first position of one is found in the other can the rest follow.
    starts = (before == after.take([0], axis)).all(axis=others)
    return [
        step
        for step in np.flatnonzero(starts).tolist()
        if np.array_equal(
            Slide(axis, length, step).kept(before), Slide(axis, length, step).taken_over(after)
        )
    ]
