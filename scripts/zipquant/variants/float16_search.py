"""The search for the layers that must stay in float16, so that the rest can be int8.

The rounding of each tensor is tried alone in the emulation. What each one adds to the error of the
encoder output, and what it costs to keep those in float16 that compute and read it, give an order;
along it, ever more layers become float16 until the target is met.
"""

import hashlib
import heapq
import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from zipquant.audio.frame_store import FrameReader
from zipquant.jobs.progress import Progress
from zipquant.model.contract import Contract
from zipquant.model.noise import varying_power
from zipquant.model.streaming import OnnxEncoder, stream
from zipquant.recognition import error_rates
from zipquant.toolkit.quantized_graph import Graph, read_scales
from zipquant.variants.emulation import EmulatedEncoder, Emulation, UnknownOperator

MOVES = {"Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze"}
"""Operators that compute nothing: what they give lies on the same grid as what they take."""

LANES = 64
"""Tensors that are tried at once. More takes more memory, and is hardly faster."""

TRIED_CHUNKS = 40
"""Chunks that each tensor is tried on: free-running, so some utterances from their beginning. The
order hardly changes with more."""

COMPARED_CHUNKS = 600
"""Chunks that each step of the search is measured on."""

POINTS = 10
"""Steps that are measured to draw the curve; a few more close in on the target."""

NEGLIGIBLE = 1e-3
"""Tensors that add less than this share of all noise are left as they are."""

FAITHFUL = 1e-3
"""How far, as a share of the range, the emulation may be off the float model without rounding. Its
operators either are the toolkit's, and differ by float32's rounding, or are not."""


@dataclass(frozen=True)
class Target:
    """What the search must reach.

    Attributes:
        target_sqnr: of the encoder output, free-running, in dB; None for no such target.
        target_wer_loss: words of the float model's own text that may differ, in per cent; or None.
        least_int8_macs: share of multiply-accumulates that stay in int8 at least, 0 to 1.
    """

    target_sqnr: float | None
    target_wer_loss: float | None
    least_int8_macs: float


@dataclass(frozen=True)
class Grid:
    """Tensors with the same numbers on the same scale: one is made, the others are moved copies.

    Attributes:
        tensors: their names, what is computed first.
        operator: what computes the first; empty for a constant.
        closure: names of the first output of each node that must be float16 for this rounding to
            go: all that make and all that read these tensors.
    """

    tensors: tuple[str, ...]
    operator: str
    closure: frozenset[str]


class Audio:
    """The utterances that the search is done on, and what the float model makes of them.

    Args:
        features: feature files of calibration audio.
        contract: the encoder's contract.
        reference: the float model.
    """

    def __init__(self, features: Sequence[str | Path], contract: Contract, reference: OnnxEncoder):
        self.utterances: list[np.ndarray] = []
        chunks = 0
        for path, position in _drawn(features, contract):
            with FrameReader(path) as reader:
                frames = reader.frames(position)
            self.utterances.append(frames)
            chunks += contract.chunk_count(len(frames))
            if chunks >= COMPARED_CHUNKS:
                break
        self.chunks = chunks
        self.encoded = encode(reference, contract, self.utterances)


def _drawn(features: Iterable[str | Path], contract: Contract) -> list[tuple[str, int]]:
    """Return file and position of utterances in an order that is the same for any shards."""

    def entries() -> Iterable[tuple[bytes, str, int]]:
        for path in features:
            with FrameReader(path) as reader:
                counts = zip(reader.ids, reader.frame_counts, strict=True)
                for position, (name, count) in enumerate(counts):
                    if contract.chunk_count(count):
                        key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
                        yield key, str(path), position

    # An utterance has a chunk at least, so there is no need of more.
    return [(path, place) for _, path, place in heapq.nsmallest(COMPARED_CHUNKS, entries())]


def encode(
    encoder: Any, contract: Contract, utterances: Sequence[np.ndarray], lanes: int = 16
) -> list[np.ndarray]:
    """Return the encoder outputs of utterances, each float32 (frames, dim)."""
    found: list[list[np.ndarray]] = [[] for _ in utterances]
    for step in stream(encoder, contract, utterances, lanes):
        found[step.utterance].append(step.encoder_out.reshape(-1, step.encoder_out.shape[-1]))
    return [np.concatenate(chunks) for chunks in found]


def grids(graph: Graph, emulation: Emulation) -> list[Grid]:
    """Return the quantized tensors of a graph, those that share their grid together."""
    scales = emulation.scales
    leader: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    constants = [name for name in graph.weights if name in scales and name in emulation.readers]
    computed = [name for node in graph.nodes for name in node.output if name in scales]
    for name in (*constants, *computed):
        node = graph.producers.get(name)
        source = node.input[0] if node is not None and node.op_type in MOVES else None
        first = leader.get(source, name) if source else name
        if first != name and scales[first] != scales[name]:
            first = name
        leader[name] = first
        members.setdefault(first, []).append(name)
    found = []
    for first, names in members.items():
        nodes = [graph.producers[name] for name in names if name in graph.producers]
        nodes += [node for name in names for node in emulation.readers.get(name, [])]
        # Integers, and what leaves the graph, are in no closure: they have no precision to choose.
        closure = frozenset(n.output[0] for n in nodes if any(o in scales for o in n.output))
        operator = graph.producers[first].op_type if first in graph.producers else ""
        found.append(Grid(tuple(names), operator, closure))
    return found


class Search:
    """The search on one model; see `search`, which is what to call.

    Args:
        graph: the toolkit's graph.
        emulation: its emulation.
        contract: the encoder's contract.
        audio: what to measure on.
        fixed: tensors that stay in float16 in any case.
    """

    def __init__(
        self,
        graph: Graph,
        emulation: Emulation,
        contract: Contract,
        audio: Audio,
        fixed: Collection[str],
    ):
        self._graph, self._emulation, self._contract = graph, emulation, contract
        self._audio, self._fixed = audio, frozenset(fixed)
        self._grids = grids(graph, emulation)
        self._outputs = {node.output[0]: tuple(node.output) for node in graph.nodes}
        self._cost = {node.output[0]: self._cost_of(node) for node in graph.nodes}
        self._power = sum(map(varying_power, audio.encoded))

    def sensitivities(self) -> list[float]:
        """Return the noise that each grid alone adds, as a share of the encoder output's power."""
        tried, chunks = [], 0
        for frames in self._audio.utterances:
            tried.append(frames)
            chunks += self._contract.chunk_count(len(frames))
            if chunks >= TRIED_CHUNKS:
                break
        present = [i for i, grid in enumerate(self._grids) if self._is_rounded(grid, self._fixed)]
        noise = [0.0] * len(self._grids)
        progress = Progress("tensors", len(present))
        signal = sum(map(varying_power, self._audio.encoded[: len(tried)]))
        for start in range(0, len(present), LANES):
            lanes = present[start : start + LANES]
            only = [self._grids[i].tensors for i in lanes]
            power = np.zeros(len(lanes))
            for frames, expected in zip(tried, self._audio.encoded, strict=False):
                power += self._noise(frames, expected, only)
            for i, value in zip(lanes, power, strict=True):
                noise[i] = float(value) / signal
            progress.advance(len(lanes))
        return noise

    def order(self, noise: Sequence[float], least_int8_macs: float) -> list[tuple[int, set[str]]]:
        """Return grids in the order in which they become float16, each with the tensors added.

        Each time the grid is taken whose noise is largest for what its closure costs: its
        multiply-accumulates, and an operation for each number that it gives.

        Args:
            noise: what `sensitivities` returns.
            least_int8_macs: grids that would take the share in int8 below this are passed over.
        """
        total, float16, steps = sum(noise), set(self._fixed), []
        open_ = {i for i, value in enumerate(noise) if value > NEGLIGIBLE * total}
        while open_:
            open_ = {i for i in open_ if self._is_rounded(self._grids[i], float16)}
            best, gain = None, 0.0
            for i in sorted(open_):
                new = [first for first in self._grids[i].closure if first not in float16]
                worth = noise[i] / max(sum(self._cost[first] for first in new), 1)
                if worth > gain:
                    best, gain = i, worth
            if best is None:
                break
            open_.discard(best)
            added = {
                name
                for first in self._grids[best].closure
                for name in self._outputs[first]
                if name in self._emulation.scales and name not in float16
            }
            if self._graph.int8_macs_share(float16 | added) >= least_int8_macs:
                float16 |= added
                steps.append((best, added))
        return steps

    def remaining(self, noise: Sequence[float], float16: Collection[str]) -> float:
        """Return the noise that is left with some tensors in float16, if noises simply add up."""
        pairs = zip(self._grids, noise, strict=True)
        return sum(value for grid, value in pairs if value and self._is_rounded(grid, float16))

    def measure(self, float16: Collection[str]) -> tuple[float, list[np.ndarray]]:
        """Return the SQNR of the encoder output in dB, free-running, and the encoder outputs."""
        encoder = EmulatedEncoder(self._emulation, self._contract, float16)
        found = encode(encoder, self._contract, self._audio.utterances)
        noise = sum(
            float(((a.astype(float) - b) ** 2).sum())
            for a, b in zip(self._audio.encoded, found, strict=True)
        )
        return decibel(noise / self._power), found

    def table(self, noise: Sequence[float], float16: Collection[str]) -> list[dict[str, Any]]:
        """Return each grid with its noise, largest first, and what became of it."""
        rows = [
            {
                "tensor": grid.tensors[0],
                "operator": grid.operator,
                "sqnr_db": decibel(value),
                "float16": not self._is_rounded(grid, float16),
            }
            for grid, value in zip(self._grids, noise, strict=True)
            if value
        ]
        return sorted(rows, key=lambda row: row["sqnr_db"])

    def name(self, grid: int) -> str:
        """Return the name of a grid's first tensor."""
        return self._grids[grid].tensors[0]

    def _cost_of(self, node: onnx.NodeProto) -> int:
        return self._graph.macs(node) + sum(
            math.prod(self._graph.shapes.get(name, ())) for name in node.output
        )

    def _is_rounded(self, grid: Grid, float16: Collection[str]) -> bool:
        return any(self._emulation.is_rounded(name, float16) for name in grid.tensors)

    def _noise(
        self, frames: np.ndarray, expected: np.ndarray, only: Sequence[Collection[str]]
    ) -> np.ndarray:
        """Return the squared error of the encoder output of one utterance, of each lane."""
        contract, lanes = self._contract, len(only)
        states = [
            np.broadcast_to(state.tensor.zeros(), (lanes, *state.tensor.shape))
            for state in contract.states
        ]
        chunks = contract.chunk_count(len(frames))
        parts = expected.reshape(chunks, 1, -1)
        power = np.zeros(lanes)
        for chunk in range(chunks):
            first = chunk * contract.chunk_shift
            x = frames[None, first : first + contract.chunk_frames]
            x = np.broadcast_to(x, (lanes, *x.shape))
            encoder_out, states = self._emulation.run(x, states, self._fixed, only)
            power += ((encoder_out.reshape(lanes, -1).astype(float) - parts[chunk]) ** 2).sum(1)
        return power


def search(
    graph_file: str | Path,
    config_file: str | Path,
    model: str | Path,
    contract: Contract,
    features: Sequence[str | Path],
    fixed: Collection[str],
    target: Target,
    per_channel: bool,
    recognize: Callable[[Sequence[np.ndarray]], list[str]] | None = None,
) -> dict[str, Any]:
    """Find the layers that stay in float16 so that a quantized encoder meets a target.

    Args:
        graph_file: the toolkit's graph, from the first step of a hybrid quantization.
        config_file: the scales of its tensors.
        model: the float encoder's ONNX file.
        contract: its contract.
        features: feature files of the calibration audio, which the search is done on.
        fixed: tensors that stay in float16 in any case.
        target: what is to be reached.
        per_channel: whether each channel of a weight has a scale of its own.
        recognize: makes texts of encoder outputs, for a target in words; else None.

    Returns:
        `float16`, the tensors to keep besides the fixed ones; `met`, whether the target is; what
        the search was done on and has seen: `utterances`, `chunks`, `steps` (measured choices, by
        rising number of float16 layers), `chosen` (which of them), `tensors` (`Search.table`).
        Where the graph cannot be emulated, `unavailable` says why, and nothing else is there but
        an empty `float16`.

    Raises:
        UserError: a file is damaged.
    """
    graph = Graph(graph_file)
    reference = OnnxEncoder(model, contract)
    audio = Audio(features, contract, reference)
    if not audio.chunks:
        return _unavailable("the calibration audio gives no chunk")
    try:
        emulation = Emulation(graph, read_scales(config_file), contract, per_channel)
        error = _check(emulation, reference, contract, audio)
    except UnknownOperator as unknown:
        return _unavailable(f"the toolkit's graph holds {unknown}, which is not emulated yet")
    if not error <= FAITHFUL:
        return _unavailable(f"the emulated graph is not the float model: {error:.1e} of its range")
    found = Search(graph, emulation, contract, audio, fixed)
    noise = found.sensitivities()
    order = found.order(noise, target.least_int8_macs)
    texts = recognize(audio.encoded) if recognize else None
    steps: dict[int, dict[str, Any]] = {}

    def measure(count: int) -> dict[str, Any]:
        if count not in steps:
            float16 = set(fixed).union(*(added for _, added in order[:count]))
            sqnr, encoded = found.measure(float16)
            steps[count] = {
                "grids": count,
                "float16_tensors": len(float16),
                "int8_macs_share": graph.int8_macs_share(float16),
                "predicted_sqnr_db": decibel(found.remaining(noise, float16)),
                "sqnr_db": sqnr,
                "wer_loss": _wer(texts, recognize(encoded)) if recognize else None,
            }
            print(f"search: {steps[count]}", file=sys.stderr, flush=True)
        return steps[count]

    def meets(count: int) -> bool:
        step = measure(count)
        return (target.target_sqnr is None or quality(step) >= target.target_sqnr) and (
            target.target_wer_loss is None or step["wer_loss"] <= target.target_wer_loss
        )

    points = sorted({round(p) for p in np.linspace(0, len(order), POINTS)})
    met = [count for count in points if meets(count)]
    if met:
        high = met[0]
        low = max((count for count in points if count < high), default=high)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if meets(middle) else (middle, high)
    else:
        # Nothing that is allowed is enough: take the best of it.
        high = max(points, key=lambda count: (quality(measure(count)), -count))
    float16 = set().union(*(added for _, added in order[:high]))
    return {
        "met": bool(met),
        "target_sqnr": target.target_sqnr,
        "target_wer_loss": target.target_wer_loss,
        "least_int8_macs": target.least_int8_macs,
        "utterances": len(audio.utterances),
        "chunks": audio.chunks,
        "steps": [steps[count] for count in sorted(steps)],
        "chosen": sorted(steps).index(high),
        "order": [found.name(grid) for grid, _ in order[:high]],
        "tensors": found.table(noise, float16 | set(fixed)),
        "float16": sorted(float16),
    }


def quality(step: Mapping[str, Any]) -> float:
    """Return the SQNR of a step in dB; infinite where there is no noise, which JSON cannot say."""
    return math.inf if step["sqnr_db"] is None else step["sqnr_db"]


def decibel(noise: float) -> float | None:
    """Return a noise, as a share of the signal's power, as SQNR in dB; None where there is none."""
    return -10 * math.log10(noise) if noise > 0 else None


def _unavailable(reason: str) -> dict[str, Any]:
    return {"unavailable": reason, "float16": []}


def _wer(texts: Sequence[str], found: Sequence[str]) -> float:
    return error_rates.rate(error_rates.count(texts, found, "word"))["rate"]


def _check(emulation: Emulation, reference: OnnxEncoder, contract: Contract, audio: Audio) -> float:
    """Return the largest error of the emulation without rounding, over an utterance's chunks."""
    errors = [
        emulation.check(step.inputs[0], step.inputs[1:], step.encoder_out)
        for step in stream(reference, contract, audio.utterances[:1])
    ]
    return max(errors)
