"""Choices of float16 layers along an order: which is the first that will do, with few measured."""

import itertools
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zipquant.model.contract import Contract
from zipquant.model.noise import varying_power
from zipquant.recognition import error_rates
from zipquant.variants.emulation import EmulatedEncoder, Emulation
from zipquant.variants.float16_order import Step
from zipquant.variants.search_audio import Audio, encode

LEAST_MEASURED = 4
"""Choices that are measured to draw the curve."""

MOST_MEASURED = 9
"""Choices that are measured to find the first that meets the target."""

CLOSE = 0.1
"""In dB: a choice that is nearer to the target, or to one that misses it, is taken."""


LARGEST = 1e10
"""Noise, as a share of the signal's power, that stands for all that is worse."""


@dataclass(frozen=True)
class Target:
    """What the search must reach.

    Attributes:
        target_sqnr: of the encoder output, free-running, in dB; None for no such target.
        target_wer_loss: words of the float model's own text that may differ, in per cent; or None.
        most_time_added: what a call may take longer on a board than in plain int8, as a share.
    """

    target_sqnr: float | None
    target_wer_loss: float | None
    most_time_added: float

    def is_met(self, measured: Mapping[str, Any]) -> bool:
        """Whether a measured choice is good enough."""
        return (self.target_sqnr is None or quality(measured) >= self.target_sqnr) and (
            self.target_wer_loss is None or measured["wer_loss"] <= self.target_wer_loss
        )


class Yardstick:
    """Measures choices in the emulation, free-running, on calibration audio.

    Args:
        emulation: the quantized encoder.
        contract: its contract.
        audio: what to measure on.
        recognize: makes texts of encoder outputs, for a target in words; else None.
    """

    def __init__(
        self,
        emulation: Emulation,
        contract: Contract,
        audio: Audio,
        recognize: Callable[[Sequence[np.ndarray]], list[str]] | None,
    ):
        self._emulation, self._contract, self._audio = emulation, contract, audio
        self._recognize = recognize
        self._texts = recognize(audio.encoded) if recognize else []
        self._power = sum(map(varying_power, audio.encoded))

    def measure(self, float16: Collection[str]) -> dict[str, float | None]:
        """Return `sqnr_db` of the encoder output, and `wer_loss` in per cent where it is asked
        for, with some tensors in float16."""
        encoder = EmulatedEncoder(self._emulation, self._contract, float16)
        found = encode(encoder, self._contract, self._audio.utterances)
        noise = sum(
            float(((a.astype(float) - b) ** 2).sum())
            for a, b in zip(self._audio.encoded, found, strict=True)
        )
        loss = None
        if self._recognize:
            counts = error_rates.count(self._texts, self._recognize(found), "word")
            loss = error_rates.rate(counts)["rate"]
        # NaN is no better than the largest noise.
        share = noise / self._power if np.isfinite(noise) else LARGEST
        return {"sqnr_db": decibel(min(share, LARGEST)), "wer_loss": loss}


class Choices:
    """The first so many steps of an order, for every number of them; each is measured once.

    Args:
        start: what there is before the first step: what stays in float16 in any case.
        steps: the order.
        yardstick: what measures a choice.
        target: what is to be reached.
        curve: whether more choices are measured than the search needs, to show them as a curve.

    Attributes:
        measured: what was measured, by number of steps.
    """

    def __init__(
        self,
        start: Step,
        steps: Sequence[Step],
        yardstick: Yardstick,
        target: Target,
        curve: bool = True,
    ):
        self._states = [start, *steps]
        self._yardstick, self._target = yardstick, target
        self._curve = curve
        self.measured: dict[int, dict[str, Any]] = {}

    def float16(self, count: int) -> set[str]:
        """Return the tensors that are float16 after some steps."""
        return set().union(*(state.tensors for state in self._states[: count + 1]))

    def find(self) -> int:
        """Return the first choice that meets the target, else the best one."""
        low, high, count = -1, None, 0
        while count is not None and len(self.measured) < MOST_MEASURED:
            if self._meets(count):
                high = count
            else:
                low = count
            count = self._next(low, high)
        if self._curve:
            self._fill()
        met = [count for count in self.measured if self._meets(count)]
        if met:
            return min(met)
        # Nothing that is allowed is enough: the best of it.
        return max(self.measured, key=lambda n: (quality(self.measured[n]), -n))

    def is_met(self, count: int) -> bool:
        """Whether a measured choice meets the target."""
        return self._target.is_met(self.measured[count])

    def _meets(self, count: int) -> bool:
        if count not in self.measured:
            state, float16 = self._states[count], self.float16(count)
            self.measured[count] = {
                "grids": sum(len(entry.gone) for entry in self._states[: count + 1]),
                "float16_tensors": len(float16),
                "int8_macs_share": state.int8_macs_share,
                "time_added": state.time_added,
                "predicted_sqnr_db": decibel(state.remaining),
                **self._yardstick.measure(float16),
            }
            print(f"search: {self.measured[count]}", file=sys.stderr, flush=True)
        return self.is_met(count)

    def _next(self, low: int, high: int | None) -> int | None:
        """Return what to measure next, between one that misses and one that meets the target.

        Args:
            low: the last that is known to miss it; -1 for none.
            high: the first that is known to meet it; None for none.

        Returns:
            None where nothing more is to be found.
        """
        last = len(self._states) - 1
        if low == last or (high is not None and self._is_close(low, high)):
            return None
        open_ = range(low + 1, last + 1 if high is None else high)
        wanted = self._target.target_sqnr
        if wanted is None or quality(self.measured[low]) >= wanted:  # words are what is missing
            return last if high is None else self._between(low, high)
        enough = (n for n in open_ if quality({"sqnr_db": decibel(self._expected(n))}) >= wanted)
        return next(enough, last if high is None else None)

    def _is_close(self, low: int, high: int) -> bool:
        if high - low <= 1:
            return True
        wanted = self._target.target_sqnr
        if wanted is not None and self._target.target_wer_loss is None:
            return quality(self.measured[high]) - wanted < CLOSE
        return self._gap(low, high) < CLOSE

    def _gap(self, low: int, high: int) -> float:
        """Return the predicted difference between two choices in dB."""
        noises = [max(self._states[n].remaining, 1e-30) for n in (low, high)]
        return 10 * math.log10(noises[0] / noises[1])

    def _between(self, low: int, high: int) -> int:
        """Return the choice that is predicted halfway, in dB, between two."""
        half = self._gap(low, high) / 2
        return min(range(low + 1, high), key=lambda n: abs(self._gap(low, n) - half))

    def _expected(self, count: int) -> float:
        """Return the noise to expect: the predicted one, corrected by what was measured nearby."""
        predicted = self._states[count].remaining
        known = [
            (-math.log(self._states[n].remaining), -math.log(10) / 10 * found["sqnr_db"])
            for n, found in sorted(self.measured.items())
            if self._states[n].remaining > 0 and found["sqnr_db"] is not None
        ]
        if not known or predicted <= 0:
            return predicted
        places = [place for place, _ in known]
        corrections = [place + noise for place, noise in known]
        return predicted * math.exp(np.interp(-math.log(predicted), places, corrections))

    def _fill(self) -> None:
        """Measure more choices, where the curve has its widest gaps."""
        while len(self.measured) < LEAST_MEASURED:
            counts = sorted(self.measured)
            pairs = [(a, b) for a, b in itertools.pairwise(counts) if b - a > 1]
            if not pairs:
                return
            self._meets(self._between(*max(pairs, key=lambda pair: self._gap(*pair))))


def quality(measured: Mapping[str, Any]) -> float:
    """Return the SQNR of a choice in dB; infinite without noise, which JSON cannot say."""
    return math.inf if measured["sqnr_db"] is None else measured["sqnr_db"]


def decibel(noise: float) -> float | None:
    """Return a noise, as a share of the signal's power, as SQNR in dB; None where there is none."""
    return -10 * math.log10(noise) if noise > 0 else None
