"""Whether a variant stays right over one long stream: the error of every state against time."""

import itertools
from typing import Any

import numpy as np

from zipquant.audio.frame_store import FrameReader
from zipquant.board.fbank import FRAMES_PER_SECOND
from zipquant.evaluation import drift
from zipquant.jobs.progress import Progress
from zipquant.model import noise
from zipquant.model.contract import Contract
from zipquant.model.streaming import Encoder, stream
from zipquant.recognition.encoding import as_frames


def run(
    reference: Encoder, candidate: Encoder | None, contract: Contract, frames: np.ndarray
) -> dict[str, Any]:
    """Run a variant over one long stream, and return how its error develops.

    Args:
        reference: the float model.
        candidate: the variant; None where there is nothing to run.
        contract: the contract of both.
        frames: features of the stream, float32 (frames, bins).

    Returns:
        `seconds` and `chunks` of the stream, by float output in `outputs` what `drift.examine`
        returns, by counter in `counters` whether it was exact, and in `wrong` the outputs that go
        wrong with time. Without audio there are no chunks.
    """
    chunks = contract.chunk_count(len(frames)) if candidate else 0
    result = {"seconds": len(frames) / FRAMES_PER_SECOND, "chunks": chunks}
    if not chunks:
        return result | {"outputs": {}, "counters": {}, "wrong": []}
    levels, exact = compare(reference, candidate, contract, frames)
    outputs = {name: drift.examine(found) for name, found in levels.items()}
    wrong = [name for name, found in outputs.items() if found["wrong"]]
    return result | {"outputs": outputs, "counters": exact, "wrong": wrong}


def joined(utterances: FrameReader, seconds: float) -> np.ndarray:
    """Return the frames of utterances joined in their order, and repeated as often as needed.

    Args:
        utterances: a feature file.
        seconds: how much is needed.

    Returns:
        float32 (frames, bins); fewer frames than asked for only if there are none at all.
    """
    count, total = round(seconds * FRAMES_PER_SECOND), 0
    pieces: list[np.ndarray] = []
    spoken = [i for i, frames in enumerate(utterances.frame_counts) if frames]
    for position in itertools.cycle(spoken):
        if total >= count:
            break
        pieces.append(utterances.frames(position)[: count - total])
        total += len(pieces[-1])
    return np.concatenate(pieces) if pieces else np.zeros((0, 0), dtype=np.float32)


def compare(
    reference: Encoder, candidate: Encoder, contract: Contract, frames: np.ndarray
) -> tuple[dict[str, list[float]], dict[str, bool]]:
    """Run one stream through both models, each with its own states.

    Args:
        reference: the float model.
        candidate: the variant.
        contract: the contract of both.
        frames: features, float32 (frames, bins).

    Returns:
        By output of float type its SQNR in dB for each chunk, infinite where it is exact and NaN
        where the variant gives NaN or infinity; and by output of integer type, the counters,
        whether it was exact in all chunks.
    """
    progress = Progress("chunks", contract.chunk_count(len(frames)))
    types = {state.next_output: state.tensor.dtype for state in contract.states}
    levels: dict[str, list[float]] = {contract.encoder_out: []}
    outputs: list[tuple[np.ndarray, np.ndarray]] = []
    exact: dict[str, bool] = {}
    states: list[np.ndarray] = []
    for step in stream(reference, contract, [frames]):
        x, *float_states = step.inputs
        encoder_out, states = candidate.run(x, states if step.chunk else float_states)
        outputs.append((as_frames(step.encoder_out), as_frames(encoder_out)))
        for name, a, b in zip(contract.outputs[1:], step.new_states, states, strict=True):
            if types[name] == "float32":
                levels.setdefault(name, []).append(_level(a, b))
            else:
                exact[name] = exact.get(name, True) and bool(np.array_equal(a, b))
        progress.advance()
    if outputs:
        constant = noise.channel_means(np.concatenate([a for a, _ in outputs]))
        levels[contract.encoder_out] = [_level(a, b, constant) for a, b in outputs]
    return levels, exact


def _level(a: np.ndarray, b: np.ndarray, constant: np.ndarray | float = 0.0) -> float:
    sums = noise.compare(a, b, constant)
    return float(noise.sqnr(sums["signal"], sums["noise"]))
