"""Accuracy of a built variant against the float model, chunk by chunk, output by output."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from zipquant import files, rknn_toolkit
from zipquant.contract import Contract
from zipquant.errors import UserError
from zipquant.feature_store import FeatureReader
from zipquant.progress import Progress
from zipquant.streaming import Encoder, OnnxEncoder, stream

ONE_STEP = "one step"
"""The variant gets the float model's states for each chunk: the error of a single call."""

FREE_RUNNING = "free-running"
"""The variant gets its own states: the error as it adds up on a board."""


def compare(reference: np.ndarray, candidate: np.ndarray) -> dict[str, float]:
    """Return the sums from which SQNR and cosine of any group of chunks follow.

    Returns:
        `signal` and `power`: sum of squares of reference and candidate; `dot`: of their products;
        `noise`: of their difference; `max_error`: the largest absolute difference.
    """
    a = reference.astype(np.float64).ravel()
    b = candidate.astype(np.float64).ravel()
    difference = b - a
    return {
        "signal": float(a @ a),
        "power": float(b @ b),
        "dot": float(a @ b),
        "noise": float(difference @ difference),
        "max_error": float(np.abs(difference).max()),
    }


def sqnr(signal: np.ndarray | pd.Series, noise: np.ndarray | pd.Series) -> np.ndarray:
    """Return the signal to quantization noise ratio in dB; infinite where there is no noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(np.asarray(signal, dtype=float) / np.asarray(noise, dtype=float))
    return np.where(np.asarray(noise) == 0, np.inf, ratio)


def evaluate(
    reference: Encoder,
    candidate: Encoder,
    contract: Contract,
    utterances: Iterable[tuple[str, np.ndarray]],
    total: int = 0,
) -> pd.DataFrame:
    """Run utterances through both models and compare every output of every chunk.

    Args:
        reference: the float model.
        candidate: the variant.
        contract: the contract of both.
        utterances: id and features of each utterance.
        total: how many chunks they have together, for the progress lines.

    Returns:
        One row for each utterance, chunk, mode (`ONE_STEP`, `FREE_RUNNING`) and output, with the
        columns of `compare`.
    """
    records = []
    progress = Progress("chunks", total)
    for utterance_id, frames in utterances:
        states: list[np.ndarray] = []
        for step in stream(reference, contract, [frames]):
            x, *float_states = step.inputs
            expected = [step.encoder_out, *step.new_states]
            one_step = candidate.run(x, float_states)
            # Both modes begin with the same zeros, so the first chunk is run once.
            free = candidate.run(x, states) if step.chunk else one_step
            states = free[1]
            for mode, (encoder_out, new_states) in ((ONE_STEP, one_step), (FREE_RUNNING, free)):
                got = [encoder_out, *new_states]
                for name, a, b in zip(contract.outputs, expected, got, strict=True):
                    key = (utterance_id, step.chunk, mode, name)
                    records.append((*key, *compare(a, b).values()))
            progress.advance()
    key = ["utterance", "chunk", "mode", "output"]
    return pd.DataFrame(records, columns=[*key, "signal", "power", "dot", "noise", "max_error"])


def evaluate_shard(
    model: str | Path,
    contract_file: str | Path,
    features: str | Path,
    work: str | Path,
    output: str | Path,
    max_chunks: int,
) -> None:
    """Evaluate a variant in the toolkit's simulator on a shard of the evaluation audio.

    Args:
        model: the float encoder's ONNX file.
        contract_file: its contract.
        features: the shard's feature file.
        work: the variant's folder, with build.json.
        output: the Parquet table to write, see `evaluate`.
        max_chunks: at most so many chunks of each utterance; 0 for all.

    Raises:
        UserError: a file is damaged, or the simulator failed.
    """
    contract = Contract.load(contract_file)
    work = Path(work)
    build = files.read_json(work / "build.json")
    if files.sha256(work / "encoder.rknn") != build["rknn_sha256"]:
        raise UserError(f"{work} has been changed since it was built: delete it and run again")
    # So many frames make max_chunks chunks.
    longest = contract.chunk_frames + 1 + (max_chunks - 1) * contract.chunk_shift
    with FeatureReader(features) as reader:
        counts = [min(n, longest) if max_chunks else n for n in reader.frame_counts]
        total = sum(contract.chunk_count(count) for count in counts)
        utterances = ((name, reader.frames(i)[: counts[i]]) for i, name in enumerate(reader.ids))
        simulator = None
        if total:  # else there is nothing to build one for
            simulator = rknn_toolkit.Simulator(
                Path(model), contract, work, build["platform"], build["dtype"]
            )
        reference = OnnxEncoder(model, contract)
        table = evaluate(reference, simulator, contract, utterances, total)
    with files.atomic(output) as temporary:
        table.to_parquet(temporary, index=False)


def summarize(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return SQNR (dB), cosine and largest error of each group of an evaluation table.

    Args:
        table: a table of `evaluate`.
        by: the columns that make a group, such as mode and output.
    """
    groups = table.groupby(list(by), sort=False)
    sums = groups[["signal", "power", "dot", "noise"]].sum()
    norm = np.sqrt(sums["signal"] * sums["power"])
    # Two silent outputs are equal, though their cosine is 0 / 0.
    cosine = np.where(norm > 0, sums["dot"] / norm.where(norm > 0, 1), 1.0 * (sums["noise"] == 0))
    return pd.DataFrame(
        {
            "sqnr_db": sqnr(sums["signal"], sums["noise"]),
            "cosine": cosine,
            "max_error": groups["max_error"].max(),
        },
        index=sums.index,
    ).reset_index()
