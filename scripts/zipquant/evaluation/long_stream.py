"""Whether a variant stays right over one long stream: the error of every state against time."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from zipquant.audio.frame_store import FrameReader
from zipquant.evaluation import encoder_error
from zipquant.jobs import files
from zipquant.jobs.progress import Progress
from zipquant.model.contract import Contract
from zipquant.model.streaming import Encoder, OnnxEncoder, stream
from zipquant.toolkit import rknn_toolkit

FRAMES_PER_SECOND = 100
"""A feature frame each 10 ms."""

WARM_UP = 8
"""Chunks at the beginning that do not count: caches and means fill there."""

BLOCKS = 12
"""The rest is cut into so many blocks, whose medians are compared: neighbouring chunks have much of
their error in common, so they are no independent measurements."""

LOSS_DB = 3.0
"""What a state must lose from the first third to the last to be named: its error is twice as strong
then."""

HARMLESS_DB = 40.0
"""SQNR above which a loss does no harm: float16 itself begins near 60 dB, int8 near 30."""

FLOOR_DB = 10.0
"""Below it an output is named whether it drifts or not: the error is a third of the value. A mean
whose counter stands still is like that after the first seconds already, and hardly gets worse."""

CHANCE = 0.05
"""Chance that blocks without a trend pass for ones that fall."""

EXACT = 2**11
"""Up to here float16 holds every whole number (11 bits of precision)."""

LARGEST = 65504
"""The largest number that float16 holds."""


def run(
    model: str | Path,
    prepared: str | Path,
    contract_file: str | Path,
    features: Sequence[str | Path],
    work: str | Path,
    seconds: float,
    output: str | Path,
) -> None:
    """Run a variant over one long stream of evaluation audio, and write how its error develops.

    Args:
        model: the float encoder's ONNX file.
        prepared: the ONNX file that the variant was built from.
        contract_file: its contract.
        features: the feature files of the evaluation audio, all shards; the utterances are joined
            in order, and repeated until the stream is long enough.
        work: the variant's folder, with build.json.
        seconds: how long the stream is; 0 for none.
        output: the JSON file to write: `seconds` and `chunks` of the stream, by
            float output in `outputs` what `examine` returns, by counter in `counters` whether it
            was exact, and in `wrong` the outputs that go wrong with time. For a variant that could
            not be built, or without audio, there are no chunks.

    Raises:
        UserError: a file is damaged, or the simulator failed.
    """
    contract = Contract.load(contract_file)
    build = files.read_json(Path(work) / "build.json")
    frames = np.zeros((0, contract.x.shape[2]), dtype=np.float32)
    if seconds and "failure" not in build:
        frames = joined(features, round(seconds * FRAMES_PER_SECOND))
    chunks = contract.chunk_count(len(frames))
    result = {"seconds": len(frames) / FRAMES_PER_SECOND, "chunks": chunks}
    if not chunks:
        files.write_json(output, result | {"outputs": {}, "counters": {}, "wrong": []})
        return
    encoder_error.check_built(work, build)
    candidate = rknn_toolkit.Simulator(
        Path(prepared), contract, Path(work), build["platform"], build["dtype"]
    )
    noise, exact = compare(OnnxEncoder(model, contract), candidate, contract, frames)
    outputs = {name: examine(levels) for name, levels in noise.items()}
    wrong = [name for name, found in outputs.items() if found["wrong"]]
    files.write_json(output, result | {"outputs": outputs, "counters": exact, "wrong": wrong})


def joined(features: Sequence[str | Path], count: int) -> np.ndarray:
    """Return `count` frames of utterances joined in order, and repeated as often as needed.

    Returns:
        float32 (count, bins); fewer frames only if there are none at all.
    """
    found: list[np.ndarray] = []
    total = 0
    while total < count:
        before = total
        for frames in _utterances(features):
            found.append(frames[: count - total])
            total += len(found[-1])
            if total == count:
                break
        if total == before:
            break
    return np.concatenate(found) if found else np.zeros((0, 0), dtype=np.float32)


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
        By output of float type its SQNR in dB for each chunk, infinite where it is exact; and by
        output of integer type, the counters, whether it was exact in all chunks.
    """
    progress = Progress("chunks", contract.chunk_count(len(frames)))
    types = {state.next_output: state.tensor.dtype for state in contract.states}
    levels: dict[str, list[float]] = {}
    exact: dict[str, bool] = {}
    states: list[np.ndarray] = []
    for step in stream(reference, contract, [frames]):
        x, *float_states = step.inputs
        encoder_out, states = candidate.run(x, states if step.chunk else float_states)
        expected, got = [step.encoder_out, *step.new_states], [encoder_out, *states]
        for name, a, b in zip(contract.outputs, expected, got, strict=True):
            if types.get(name, "float32") == "float32":
                sums = encoder_error.compare(a, b)
                level = float(encoder_error.sqnr(sums["signal"], sums["noise"]))
                levels.setdefault(name, []).append(level)
            else:
                exact[name] = exact.get(name, True) and bool(np.array_equal(a, b))
        progress.advance()
    return levels, exact


def examine(levels: Sequence[float]) -> dict[str, Any]:
    """Tell whether an output goes wrong with time, from its SQNR chunk by chunk.

    After `WARM_UP` chunks, the medians of `BLOCKS` blocks are taken. The output goes wrong if it
    loses more than `LOSS_DB` from the first third of the blocks to the last, and if their order
    falls more steadily than chance would have it (Mann and Kendall's test of a trend, one-sided,
    at `CHANCE`). The first keeps out what is too small to matter, the second what is loud and
    quiet speech in turn. A steady loss is found as well as a single step. An output whose last
    third is below `FLOOR_DB` goes wrong in any case; one above `HARMLESS_DB` in none.

    Args:
        levels: SQNR in dB; not finite where a chunk is exact, or silent in the float model.

    Returns:
        `sqnr_db` by chunk (None where not finite), the medians `first_db` and `last_db` of the
        first and last third, `loss_db` between them, `slope_db_per_chunk` (Theil and Sen), the
        test's `p_value`, and `wrong`. Those are None, and `wrong` is False, where there are too few
        chunks to tell.
    """
    shown = [round(level, 2) if math.isfinite(level) else None for level in levels]
    counted = np.array(levels[WARM_UP:], dtype=float)
    places = np.arange(len(counted))[np.isfinite(counted)]
    counted = counted[places]
    unknown = dict.fromkeys(("first_db", "last_db", "loss_db", "slope_db_per_chunk", "p_value"))
    if len(counted) < 2 * BLOCKS:
        return {"sqnr_db": shown, **unknown, "wrong": False}
    medians = np.array([np.median(block) for block in np.array_split(counted, BLOCKS)])
    middles = np.array([np.median(block) for block in np.array_split(places, BLOCKS)])
    slope = scipy.stats.theilslopes(medians, middles).slope
    p_value = scipy.stats.kendalltau(middles, medians, alternative="less").pvalue
    third = BLOCKS // 3
    first, last = float(np.median(medians[:third])), float(np.median(medians[-third:]))
    return {
        "sqnr_db": shown,
        "first_db": first,
        "last_db": last,
        "loss_db": first - last,
        "slope_db_per_chunk": float(slope),
        "p_value": float(p_value),
        "wrong": bool(
            (first - last > LOSS_DB and p_value < CHANCE and last < HARMLESS_DB) or last < FLOOR_DB
        ),
    }


def counter_limit(encoder: Encoder, contract: Contract) -> dict[str, Any] | None:
    """Return how long a stream may be if its frame counters are computed in float16.

    Args:
        encoder: the float model; it runs two chunks of zeros.
        contract: its contract.

    Returns:
        The fastest counter: its input's name `state`, the `frames_per_chunk` that it counts, the
        minutes `exact_minutes` after which float16 rounds it, and `end_minutes` after which it
        overflows. None where no state counts.
    """
    zeros = [state.tensor.zeros() for state in contract.states]
    _, first = encoder.run(contract.x.zeros(), zeros)
    # What the encoder makes of its own states must not change them.
    _, second = encoder.run(contract.x.zeros(), [state.copy() for state in first])
    steps = {
        state.tensor.name: float(np.max(after - before))
        for state, before, after in zip(contract.states, first, second, strict=True)
        if state.tensor.dtype != "float32"
    }
    fastest = max(steps, key=steps.__getitem__, default=None)
    if fastest is None or steps[fastest] <= 0:
        return None
    minutes = contract.chunk_shift / FRAMES_PER_SECOND / 60 / steps[fastest]
    return {
        "state": fastest,
        "frames_per_chunk": steps[fastest],
        "exact_minutes": EXACT * minutes,
        "end_minutes": LARGEST * minutes,
    }


def _utterances(features: Sequence[str | Path]) -> Iterator[np.ndarray]:
    for path in features:
        with FrameReader(path) as reader:
            for position, count in enumerate(reader.frame_counts):
                if count:
                    yield reader.frames(position)
