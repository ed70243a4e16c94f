"""What the table says of each chunk: its energy, and the ranges of its tensors."""

from collections.abc import Sequence
from math import gcd

import numpy as np

from zipquant.board import whisper
from zipquant.model.contract import Contract
from zipquant.model.streaming import Batch
from zipquant.traces.slides import Slide

RANGES = ("min", "max", "rms")
"""What the table says of each tensor of a chunk."""

SPAN = 128
"""At least so many numbers are compared or added at once, where there are as many: the axis that
slides is the last one of some states, and a few numbers at a time cost several times as long."""


class _Parts:
    """A state's window as parts of which each chunk drops the first and gains new ones.

    Attributes:
        all: parts of a window.
        new: parts that come with each chunk.
        size: numbers of a window.
    """

    def __init__(self, shape: Sequence[int], slide: Slide):
        positions = gcd(slide.length, slide.step)
        self.all, self.new = slide.length // positions, slide.step // positions
        self.size = int(np.prod(shape))
        self._before = int(np.prod(shape[: len(shape) + slide.axis]))
        self._part = self.size // self._before // self.all

    def ranges(self, array: np.ndarray, parts: int) -> np.ndarray:
        """Return min, max and sum of squares of each part, float64 of shape (lanes, parts, 3).

        The order of every sum is that of the tensor's elements, so the result depends neither on
        the number of lanes nor on their order.

        Args:
            array: of shape (lanes, *shape), where the sliding axis holds so many parts.
            parts: how many.
        """
        lanes, row = len(array), parts * self._part
        if array.dtype != np.float32:
            array = array.astype(np.float64)
        if self._part < SPAN:
            rows = max(n for n in range(1, 1 + max(1, SPAN // row)) if self._before % n == 0)
            values = array.reshape(lanes, self._before // rows, rows * row)
            squares = np.einsum("lbv,lbv->lv", values, values)
            axis = 1
        else:
            rows = self._before
            values = array.reshape(lanes, rows, parts, self._part)
            squares = np.einsum("lbpv,lbpv->lbp", values, values)
            axis = 3
        result = np.empty((lanes, parts, len(RANGES)))
        for kind, (ufunc, reduced) in enumerate(
            (
                (np.minimum, np.minimum.reduce(values, axis=axis)),
                (np.maximum, np.maximum.reduce(values, axis=axis)),
                (np.add, squares.astype(np.float64)),
            )
        ):
            of_rows = ufunc.reduce(reduced.reshape(lanes, rows, -1), axis=1)
            result[:, :, kind] = ufunc.reduce(of_rows.reshape(lanes, parts, -1), axis=2)
        return result


class Measures:
    """Measures chunks from what is new in them: most of a window was in the one before.

    Args:
        contract: the model's contract.
        slides: how each state slides, in the contract's order.
    """

    def __init__(self, contract: Contract, slides: Sequence[Slide]):
        self._contract = contract
        self._fields = [
            _Parts(state.tensor.shape, slide)
            for state, slide in zip(contract.states, slides, strict=True)
        ]
        self._starts = np.cumsum([0, *(field.all for field in self._fields)])
        self._sizes = np.array([field.size for field in self._fields])
        self._utterances: list[int] = []
        self._parts = np.zeros((0, self._starts[-1], len(RANGES)))

    def begin(self, utterances: Sequence[int]) -> None:
        """Begin a batch: give the utterance of each lane; a new one begins with zeros."""
        known = {utterance: lane for lane, utterance in enumerate(self._utterances)}
        parts = np.zeros((len(utterances), *self._parts.shape[1:]))
        for lane, utterance in enumerate(utterances):
            if utterance in known:
                parts[lane] = self._parts[known[utterance]]
        self._utterances, self._parts = list(utterances), parts

    def add(self, state: int, fresh: np.ndarray) -> None:
        """Add what is new of a state before the batch's chunks.

        Args:
            state: its number, from 0.
            fresh: all lanes, of shape (lanes, *shape).
        """
        field = self._fields[state]
        if not field.new:
            return
        parts = self._parts[:, self._starts[state] : self._starts[state + 1]]
        parts[:, : -field.new] = parts[:, field.new :].copy()
        parts[:, -field.new :] = field.ranges(fresh, field.new)

    def replace(self, lane: int, state: int, window: np.ndarray) -> None:
        """Say what a state is that does not continue the one before; after `add`.

        Args:
            lane: where it is so.
            state: its number, from 0.
            window: the whole of it, of the lane alone.
        """
        field = self._fields[state]
        parts = self._parts[lane, self._starts[state] : self._starts[state + 1]]
        parts[:] = field.ranges(window[None], field.all)[0]

    def values(self, batch: Batch) -> np.ndarray:
        """Return what the table holds of the batch, once the states are added.

        Returns:
            float64 of shape (lanes, 1 + 3 * tensors): the mean of x as natural logarithm of mel
            energy, then min, max and rms of each input and of the encoder output.
        """
        lanes = len(batch.x)
        values = np.empty((lanes, 1 + len(RANGES) * (len(self._fields) + 2)))
        energy = batch.x.reshape(lanes, -1).mean(axis=1, dtype=np.float64)
        whispers = self._contract.features == "whisper"
        values[:, 0] = whisper.to_natural(energy) if whispers else energy
        columns = values[:, 1:].reshape(lanes, -1, len(RANGES))
        if self._fields:
            ufuncs = (np.minimum, np.maximum, np.add)
            for kind, ufunc in enumerate(ufuncs):
                ufunc.reduceat(
                    self._parts[:, :, kind], self._starts[:-1], axis=1, out=columns[:, 1:-1, kind]
                )
            columns[:, 1:-1, 2] = np.sqrt(columns[:, 1:-1, 2] / self._sizes)
        for place, array in ((0, batch.x), (-1, batch.encoder_out)):
            width = array.shape[-1]
            whole = _Parts(array.shape[1:], Slide(-1, width, width))
            columns[:, place] = whole.ranges(array, 1)[:, 0]
            columns[:, place, 2] = np.sqrt(columns[:, place, 2] / whole.size)
        return values
