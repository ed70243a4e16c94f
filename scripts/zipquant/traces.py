"""Traces: all chunks of a shard with the states the float model really had."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from zipquant import files
from zipquant.contract import Contract
from zipquant.features import FRAMES_PER_SECOND
from zipquant.frame_store import FrameReader
from zipquant.progress import Progress
from zipquant.streaming import OnnxEncoder, stream
from zipquant.trace_store import TraceWriter

RANGES = ("min", "max", "rms")
"""What the table says of each tensor of a chunk."""


def trace_shard(
    model: str | Path,
    contract_file: str | Path,
    features: str | Path,
    trace: str | Path,
    table: str | Path,
    lanes: int,
) -> None:
    """Stream a shard's utterances through the float model and store every chunk.

    Args:
        model: the encoder's ONNX file.
        contract_file: its contract.
        features: the shard's feature file.
        trace: the trace file to write.
        table: the Parquet table to write, one row a chunk: `utterance`, `chunk`, `row` in the
            trace file, `time` of its first frame in seconds, `energy` (mean log-mel value), and
            of each input and the encoder output `.min`, `.max` and `.rms`.
        lanes: utterances a call of the model.

    Raises:
        UserError: the model cannot be run, or the feature file is damaged.
    """
    contract = Contract.load(contract_file)
    encoder = OnnxEncoder(model, contract)
    with FrameReader(features) as reader:
        chunks = [contract.chunk_count(count) for count in reader.frame_counts]
        first_rows = list(itertools.accumulate(chunks, initial=0))
        rows = first_rows[-1]
        # Longest first: the lanes stay full until near the end.
        order = sorted(range(len(chunks)), key=lambda position: -chunks[position])
        steps = stream(encoder, contract, (reader.frames(p) for p in order), lanes)
        names = [*(tensor.name for tensor in contract.inputs), contract.encoder_out]
        ranges = np.empty((rows, len(names), len(RANGES)))
        energy = np.empty(rows)
        progress = Progress("chunks", rows)
        with TraceWriter(trace, contract, rows) as writer:
            for step in steps:
                row = first_rows[order[step.utterance]] + step.chunk
                writer.write(row, step.inputs)
                energy[row] = step.inputs[0].mean()
                ranges[row] = [_range(array) for array in (*step.inputs, step.encoder_out)]
                progress.advance()
        chunk = [index for count in chunks for index in range(count)]
        frame = pd.DataFrame(
            {
                "utterance": np.repeat(np.array(reader.ids, dtype=object), chunks),
                "chunk": chunk,
                "row": np.arange(rows),
                "time": np.array(chunk) * contract.chunk_shift / FRAMES_PER_SECOND,
                "energy": energy,
            }
        )
    columns = [f"{name}.{kind}" for name in names for kind in RANGES]
    measured = pd.DataFrame(ranges.reshape(rows, -1), columns=columns)
    with files.atomic(table) as temporary:
        pd.concat([frame, measured], axis=1).to_parquet(temporary, index=False)


def _range(array: np.ndarray) -> tuple[float, float, float]:
    values = array.astype(np.float64)
    return values.min(), values.max(), np.sqrt(np.mean(np.square(values)))
