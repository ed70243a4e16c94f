"""Whether a variant stays right over one long stream: the error of every state against time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from zipquant.audio.frame_store import FrameReader
from zipquant.board.fbank import FRAMES_PER_SECOND
from zipquant.evaluation import drift
from zipquant.jobs import files
from zipquant.jobs.progress import Progress
from zipquant.model import noise
from zipquant.model.contract import Contract
from zipquant.model.streaming import Encoder, OnnxEncoder, stream
from zipquant.recognition.encoding import as_frames
from zipquant.variants.opening import open_encoder
from zipquant.variants.record import Build


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
        output: the JSON file to write: `seconds` and `chunks` of the stream, by float output in
            `outputs` what `drift.examine` returns, by counter in `counters` whether it was exact,
            and in `wrong` the outputs that go wrong with time. For a variant that could not be
            built, or without audio, there are no chunks.

    Raises:
        UserError: a file is damaged, or the simulator failed.
    """
    contract = Contract.load(contract_file)
    frames = np.zeros((0, contract.x.shape[2]), dtype=np.float32)
    if seconds and Build.load(work).failure is None:
        frames = joined(features, round(seconds * FRAMES_PER_SECOND))
    chunks = contract.chunk_count(len(frames))
    result = {"seconds": len(frames) / FRAMES_PER_SECOND, "chunks": chunks}
    if not chunks:
        files.write_json(output, result | {"outputs": {}, "counters": {}, "wrong": []})
        return
    candidate = open_encoder(work, prepared, contract)
    levels, exact = compare(OnnxEncoder(model, contract), candidate, contract, frames)
    outputs = {name: drift.examine(found) for name, found in levels.items()}
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


def _utterances(features: Sequence[str | Path]) -> Iterator[np.ndarray]:
    for path in features:
        with FrameReader(path) as reader:
            for position, count in enumerate(reader.frame_counts):
                if count:
                    yield reader.frames(position)
