"""Accuracy of a built variant against the float model, chunk by chunk, output by output."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from zipquant import files, rknn_toolkit
from zipquant.contract import Contract
from zipquant.frame_store import FrameReader, FrameWriter
from zipquant.progress import Progress
from zipquant.streaming import Encoder, OnnxEncoder, stream

ONE_STEP = "one step"
"""The variant gets the float model's states for each chunk: the error of a single call."""

FREE_RUNNING = "free-running"
"""The variant gets its own states: the error as it adds up on a board."""

SCHEMA = pyarrow.schema(
    [
        ("utterance", pyarrow.string()),
        ("chunk", pyarrow.int32()),
        ("mode", pyarrow.string()),
        ("output", pyarrow.string()),
        *((name, pyarrow.float64()) for name in ("signal", "power", "dot", "noise", "max_error")),
    ]
)
"""Columns of an evaluation table."""


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
    one_step_chunks: int = 0,
    total: int = 0,
) -> Iterator[tuple[str, np.ndarray, list[tuple]]]:
    """Run utterances through both models and compare every output of every chunk.

    Args:
        reference: the float model.
        candidate: the variant.
        contract: the contract of both.
        utterances: id and features of each utterance.
        one_step_chunks: chunks of each utterance that are run one step too, spread evenly over
            it; 0 for all.
        total: how many chunks they have together, for the progress lines.

    Yields:
        For each utterance its id, the candidate's free-running encoder output, float32
        (frames, dim), and its rows of the table of `evaluate_shard`.
    """
    progress = Progress("chunks", total)
    for utterance_id, frames in utterances:
        count = contract.chunk_count(len(frames))
        picked = set(range(count))
        if one_step_chunks:
            spread = np.linspace(0, count - 1, min(one_step_chunks, count))
            picked = set(spread.round().astype(int).tolist())
        states: list[np.ndarray] = []
        encoded: list[np.ndarray] = []
        rows: list[tuple] = []
        for step in stream(reference, contract, [frames]):
            x, *float_states = step.inputs
            expected = [step.encoder_out, *step.new_states]
            # Both modes begin with the same zeros, so the first chunk is run once.
            free = candidate.run(x, states if step.chunk else float_states)
            states = free[1]
            encoded.append(as_frames(free[0]))
            runs = [(FREE_RUNNING, free)]
            if step.chunk in picked:
                one_step = candidate.run(x, float_states) if step.chunk else free
                runs.insert(0, (ONE_STEP, one_step))
            for mode, (encoder_out, new_states) in runs:
                got = [encoder_out, *new_states]
                for name, a, b in zip(contract.outputs, expected, got, strict=True):
                    rows.append((utterance_id, step.chunk, mode, name, *compare(a, b).values()))
            progress.advance()
        yield utterance_id, _join(encoded), rows


def as_frames(encoder_out: np.ndarray) -> np.ndarray:
    """Return the encoder output of one chunk and one utterance as float32 (frames, dim)."""
    return encoder_out.reshape(-1, encoder_out.shape[-1]).astype(np.float32, copy=False)


def evaluate_shard(
    model: str | Path,
    contract_file: str | Path,
    features: str | Path,
    work: str | Path,
    table_file: str | Path,
    encoded_file: str | Path,
    one_step_chunks: int,
) -> None:
    """Evaluate a variant in the toolkit's simulator on a shard of the evaluation audio.

    Args:
        model: the float encoder's ONNX file.
        contract_file: its contract.
        features: the shard's feature file.
        work: the variant's folder, with build.json.
        table_file: the Parquet table to write: one row for each utterance, chunk, mode (`ONE_STEP`,
            `FREE_RUNNING`) and output, with the columns of `compare`.
        encoded_file: the frame file to write, of the free-running encoder outputs.
        one_step_chunks: see `evaluate`.

    Raises:
        UserError: a file is damaged, or the simulator failed.
    """
    contract = Contract.load(contract_file)
    work = Path(work)
    build = files.read_json(work / "build.json")
    with (
        FrameReader(features) as reader,
        FrameWriter(encoded_file) as writer,
        files.atomic(table_file) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, SCHEMA) as table,
    ):
        total = sum(contract.chunk_count(count) for count in reader.frame_counts)
        utterances = ((name, reader.frames(i)) for i, name in enumerate(reader.ids))
        simulator = None
        if total:  # else there is nothing to build one for
            simulator = rknn_toolkit.Simulator(
                Path(model), contract, work, build["platform"], build["dtype"]
            )
        reference = OnnxEncoder(model, contract)
        compared = evaluate(reference, simulator, contract, utterances, one_step_chunks, total)
        for utterance_id, encoded, rows in compared:
            writer.add(utterance_id, encoded)
            columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
            table.write_table(pyarrow.table(columns, schema=SCHEMA))


def encode_shard(
    model: str | Path,
    contract_file: str | Path,
    features: str | Path,
    encoded_file: str | Path,
    lanes: int,
) -> None:
    """Run the float encoder over a shard of the evaluation audio.

    Args:
        model: the encoder's ONNX file.
        contract_file: its contract.
        features: the shard's feature file.
        encoded_file: the frame file to write, of the encoder outputs.
        lanes: see `streaming.stream`.

    Raises:
        UserError: a file is damaged.
    """
    contract = Contract.load(contract_file)
    encoder = OnnxEncoder(model, contract)
    with FrameReader(features) as reader, FrameWriter(encoded_file) as writer:
        counts = [contract.chunk_count(count) for count in reader.frame_counts]
        progress = Progress("chunks", sum(counts))
        encoded: list[list[np.ndarray]] = [[] for _ in counts]
        written = 0

        def write_finished() -> None:
            # Lanes end out of turn; the file keeps the order of the features.
            nonlocal written
            while written < len(counts) and len(encoded[written]) == counts[written]:
                writer.add(reader.ids[written], _join(encoded[written]))
                encoded[written].clear()
                written += 1

        utterances = (reader.frames(i) for i in range(len(reader.ids)))
        for step in stream(encoder, contract, utterances, lanes):
            encoded[step.utterance].append(as_frames(step.encoder_out))
            progress.advance()
            write_finished()
        write_finished()


def _join(encoded: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(encoded) if encoded else np.zeros((0, 0), dtype=np.float32)


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
