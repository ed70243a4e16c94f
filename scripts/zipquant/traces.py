"""Traces: all chunks of a shard with the states the float model really had."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from zipquant import files
from zipquant.contract import Contract
from zipquant.feature_store import FeatureReader
from zipquant.features import FRAMES_PER_SECOND
from zipquant.progress import Progress
from zipquant.streaming import OnnxEncoder, Step, stream
from zipquant.trace_store import TraceWriter


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
    names = [tensor.name for tensor in contract.inputs]
    records: dict[int, dict] = {}
    with FeatureReader(features) as reader:
        chunks = [contract.chunk_count(count) for count in reader.frame_counts]
        first_rows = list(itertools.accumulate(chunks, initial=0))
        # Longest first: the lanes stay full until near the end.
        order = sorted(range(len(chunks)), key=lambda position: -chunks[position])
        steps = stream(encoder, contract, (reader.frames(p) for p in order), lanes)
        progress = Progress("chunks", first_rows[-1])
        with TraceWriter(trace, contract, first_rows[-1]) as writer:
            for step in steps:
                position = order[step.utterance]
                row = first_rows[position] + step.chunk
                writer.write(row, step.inputs)
                records[row] = {
                    "utterance": reader.ids[position],
                    "chunk": step.chunk,
                    "row": row,
                    "time": step.chunk * contract.chunk_shift / FRAMES_PER_SECOND,
                    "energy": float(step.inputs[0].mean()),
                    **_ranges(names, contract.encoder_out, step),
                }
                progress.advance()
    frame = pd.DataFrame([records[row] for row in sorted(records)])
    if frame.empty:  # a shard without usable audio still has a table that can be read
        frame = pd.DataFrame(columns=["utterance", "chunk", "row", "time", "energy"])
    with files.atomic(table) as temporary:
        frame.to_parquet(temporary, index=False)


def _ranges(names: list[str], encoder_out: str, step: Step) -> dict[str, float]:
    ranges = {}
    for name, array in zip([*names, encoder_out], [*step.inputs, step.encoder_out], strict=True):
        values = array.astype(np.float64, copy=False)
        ranges[f"{name}.min"] = float(values.min())
        ranges[f"{name}.max"] = float(values.max())
        ranges[f"{name}.rms"] = float(np.sqrt(np.mean(np.square(values))))
    return ranges
