"""The search for the layers that must stay in float16, so that the rest can be int8.

One backward pass through the emulation estimates what the rounding of each tensor adds to the error
of the encoder output. With the time that float16 adds on a board, changes of type included, that
gives an order. Along it ever more layers become float16; few choices are measured, each on a better
guess than the one before, until the first that meets the target is found.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zipquant.model.contract import Contract
from zipquant.model.noise import varying_power
from zipquant.model.streaming import OnnxEncoder
from zipquant.toolkit.quantized_graph import Graph, read_scales
from zipquant.variants import sensitivity
from zipquant.variants.board_time import LIKE, BoardTime, Price, price_of
from zipquant.variants.emulation import Emulation, UnknownOperator
from zipquant.variants.float16_choices import Choices, Target, Yardstick, decibel
from zipquant.variants.float16_order import Order
from zipquant.variants.grids import Grid, grids, rounded_first
from zipquant.variants.search_audio import Audio, encode

TRIED_CHUNKS = 96
"""Chunks that the backward pass goes over: the order hardly changes with more."""

TRIED_LENGTH = 16
"""Chunks of each utterance, 5 s: errors have time to act on what follows, and lanes stay full."""

MEASURED = 12
"""Roundings that are measured by themselves: those with much noise, or with errors of many steps,
where the estimate may be wrong."""

FAITHFUL = 1e-3
"""How far, as a share of the range, the emulation may be off the float model without rounding. Its
operators either are the toolkit's, and differ by float32's rounding, or are not."""


@dataclass(frozen=True)
class Request:
    """What is searched for, and on what.

    Attributes:
        model: the float encoder's ONNX file.
        contract: its contract.
        features: feature files of the calibration audio, which the search is done on.
        target: what is to be reached.
        per_channel: whether each channel of a weight has a scale of its own.
        recognize: makes texts of encoder outputs, for a target in words; else None.
        price: what layers cost on the board.
        curve: see `float16_choices.Choices`.
    """

    model: str | Path
    contract: Contract
    features: Sequence[str | Path]
    target: Target
    per_channel: bool
    recognize: Callable[[Sequence[np.ndarray]], list[str]] | None = None
    price: Price = field(default_factory=lambda: price_of(LIKE))
    curve: bool = True


def search(
    graph_file: str | Path, config_file: str | Path, fixed: Collection[str], request: Request
) -> dict[str, Any]:
    """Find the layers that stay in float16 so that a quantized encoder meets a target.

    Args:
        graph_file: the toolkit's graph, from the first step of a hybrid quantization.
        config_file: the scales of its tensors.
        fixed: tensors that stay in float16 in any case.
        request: what to search for.

    Returns:
        `float16`, the tensors to keep besides the fixed ones; `met`, whether the target is; what
        the search was done on and has seen: `utterances`, `chunks`, `steps` (measured choices, by
        rising number of float16 layers), `chosen` (which of them), `order` (the roundings that were
        taken away, the first one first), `tensors` (each rounding, the worst first), `times`, the
        kind of the price. Where the graph cannot be emulated, `unavailable` says why, and
        nothing else is there but an empty `float16`.

    Raises:
        UserError: a file is damaged.
    """
    graph, contract, fixed = Graph(graph_file), request.contract, frozenset(fixed)
    reference = OnnxEncoder(request.model, contract)
    audio = Audio(request.features, contract, reference)
    if not audio.chunks:
        return _unavailable("the calibration audio gives no chunk")
    if not 0 < sum(map(varying_power, audio.encoded)) < np.inf:
        return _unavailable("the float model's output never changes, or is not finite")
    try:
        emulation = Emulation(graph, read_scales(config_file), contract, request.per_channel)
        roundings = Roundings(graph, emulation, fixed)
        error = roundings.measure(contract, reference, audio)
    except UnknownOperator as unknown:
        return _unavailable(f"the toolkit's graph holds {unknown}, which is not emulated yet")
    if not error <= FAITHFUL:
        return _unavailable(f"the emulated graph is not the float model: {error:.1e} of its range")
    time = BoardTime(graph, emulation, request.price)
    order = Order(graph, emulation, roundings.grids, roundings.noise, time, fixed)
    start, steps = order.start(), order.find(request.target.most_time_added)
    yardstick = Yardstick(emulation, contract, audio, request.recognize)
    choices = Choices(start, steps, yardstick, request.target, request.curve)
    chosen = choices.find()
    float16 = choices.float16(chosen)
    measured = [
        step | time.describe(choices.float16(count))
        for count, step in sorted(choices.measured.items())
    ]
    return {
        "met": choices.is_met(chosen),
        "target_sqnr": request.target.target_sqnr,
        "target_wer_loss": request.target.target_wer_loss,
        "most_time_added": request.target.most_time_added,
        "times": request.price.kind,
        "utterances": len(audio.utterances),
        "chunks": audio.chunks,
        "steps": measured,
        "chosen": sorted(choices.measured).index(chosen),
        "order": [roundings.grids[i].tensors[0] for step in steps[:chosen] for i in step.gone],
        "tensors": roundings.table(float16),
        "float16": sorted(float16 - fixed),
    }


class Roundings:
    """The roundings of a quantized encoder, and what each adds to its output.

    Args:
        graph: the toolkit's graph.
        emulation: its emulation.
        fixed: tensors that stay in float16 in any case.

    Attributes:
        grids: what is rounded as one.
        noise: what each of them adds to the encoder output, as a share of the power of its part
            that varies; 0 before `measure`.
    """

    def __init__(self, graph: Graph, emulation: Emulation, fixed: frozenset[str]):
        self._emulation, self._fixed = emulation, fixed
        self.grids: list[Grid] = grids(graph, emulation)
        self.noise = [0.0] * len(self.grids)
        self._places = rounded_first(graph, emulation, self.grids, fixed)

    def measure(self, contract: Contract, reference: OnnxEncoder, audio: Audio) -> float:
        """Estimate the noises, and measure some, see `sensitivity`.

        Returns:
            How far the emulation without rounding is off the float model, as a share of its range.

        Raises:
            UnknownOperator: the graph holds an operator that is not emulated.
        """
        tried = audio.beginnings(contract, TRIED_CHUNKS, TRIED_LENGTH)
        expected = encode(reference, contract, tried)
        signal = sum(map(varying_power, expected))
        places, emulation = self._places, self._emulation
        found = sensitivity.measure(
            emulation, contract, reference, tried, list(places), self._fixed
        )
        self.noise, doubt = [0.0] * len(self.grids), [0.0] * len(self.grids)
        for name, noise in found.noise.items():
            self.noise[places[name]] += noise / signal
            doubt[places[name]] += noise * found.largest[name]
        worst = sorted(range(len(self.grids)), key=lambda i: -doubt[i])[:MEASURED]
        alone = [self.grids[i].tensors for i in worst]
        powers = sensitivity.alone(emulation, contract, tried, expected, alone, self._fixed)
        for i, power in zip(worst, powers, strict=True):
            self.noise[i] = float(power) / signal
        return found.error

    def table(self, float16: Collection[str]) -> list[dict[str, Any]]:
        """Return each rounding with its noise, the largest first, and whether it is gone."""
        rows = [
            {
                "tensor": grid.tensors[0],
                "operator": grid.operator,
                "sqnr_db": decibel(noise),
                "float16": not grid.is_rounded(self._emulation, float16),
            }
            for grid, noise in zip(self.grids, self.noise, strict=True)
            if noise
        ]
        return sorted(rows, key=lambda row: row["sqnr_db"])


def _unavailable(reason: str) -> dict[str, Any]:
    return {"unavailable": reason, "float16": []}
