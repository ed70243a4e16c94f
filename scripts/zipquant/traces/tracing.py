"""Traces: all chunks of a shard with the states the float model really had."""

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from zipquant.audio.frame_store import FrameReader
from zipquant.board.fbank import FRAMES_PER_SECOND
from zipquant.jobs.progress import Progress
from zipquant.model.contract import Contract
from zipquant.model.streaming import Encoder, OnnxEncoder, stream, stream_batches
from zipquant.traces import chunk_table, slides, store
from zipquant.traces.measures import RANGES, Measures

PROBED_CHUNKS = 4
"""So many chunks of the longest utterance show how the states slide; the store checks all."""


def trace_shard(
    model: str | Path,
    contract_file: str | Path,
    features: str | Path,
    trace: str | Path,
    table: str | Path,
    lanes: int,
    threads: int = 1,
) -> None:
    """Stream a shard's utterances through the float model and store every chunk.

    Memory is bounded by the lanes and by the longest utterance, not by the shard.

    Args:
        model: the encoder's ONNX file.
        contract_file: its contract.
        features: the shard's feature file.
        trace: the trace file to write.
        table: the Parquet table to write, one row a chunk: `utterance`, `chunk`, `row` in the
            trace file, `time` of its first frame in seconds, `energy` (mean log-mel value), and
            of each input and the encoder output `.min`, `.max` and `.rms`.
        lanes: utterances a call of the model.
        threads: of onnxruntime, see `OnnxEncoder`.

    Raises:
        UserError: the model cannot be run, or the feature file is damaged.
    """
    contract = Contract.load(contract_file)
    encoder = OnnxEncoder(model, contract, threads)
    with FrameReader(features) as reader, tempfile.TemporaryFile() as measured:
        counts = [contract.chunk_count(count) for count in reader.frame_counts]
        if short := counts.count(0):
            print(
                f"warning: {short} of {len(counts)} utterances are shorter than one chunk of the "
                "model and give none",
                file=sys.stderr,
            )
        first_rows = list(itertools.accumulate(counts, initial=0))
        # Longest first: the lanes stay full until near the end.
        order = sorted(range(len(counts)), key=lambda position: -counts[position])
        found = find_slides(encoder, contract, [reader.frames(p) for p in order[:1]])
        progress = Progress("chunks", first_rows[-1])
        finished = 0
        measures = Measures(contract, found)
        with store.create(trace, contract, found, reader) as writer:
            longest_first = (reader.frames(position) for position in order)
            for batch in stream_batches(encoder, contract, longest_first, lanes):
                utterances = [order[position] for position in batch.utterances]
                writer.write(utterances, batch, measures)
                rows = [first_rows[u] + c for u, c in zip(utterances, batch.chunks, strict=True)]
                for row, values in zip(rows, measures.values(batch), strict=True):
                    os.pwrite(measured.fileno(), values.tobytes(), row * values.nbytes)
                finished += sum(batch.last)
                progress.advance(len(rows), f" ({finished} of {len(counts)} utterances)")
        names = [*(tensor.name for tensor in contract.inputs), contract.encoder_out]
        columns = ["energy", *(f"{name}.{kind}" for name in names for kind in RANGES)]
        chunk_table.write(
            table,
            reader.ids,
            counts,
            contract.chunk_shift / FRAMES_PER_SECOND,
            columns,
            _blocks(measured, first_rows[-1], len(columns)),
        )


def find_slides(
    encoder: Encoder, contract: Contract, utterances: Sequence[np.ndarray]
) -> list[slides.Slide]:
    """Find how each state slides, from the first chunks of some utterances.

    Args:
        encoder: the model.
        contract: its contract.
        utterances: their features, float32 of shape (frames, bins).

    Returns:
        A slide for each state, in the contract's order.
    """
    enough = contract.chunk_frames + (PROBED_CHUNKS - 1) * contract.chunk_shift + 1
    probes = [frames[:enough] for frames in utterances]
    states = [step.inputs[1:] for step in stream(encoder, contract, probes)]
    zeros = [state.tensor.zeros() for state in contract.states]
    return [slides.find(windows) for windows in zip(*(states or [zeros]), strict=True)]


def _blocks(file: IO, rows: int, columns: int) -> Iterator[np.ndarray]:
    """Give back rows of float64 numbers in blocks for `chunk_table.write`."""
    for start in range(0, rows, chunk_table.BLOCK_ROWS):
        count = min(chunk_table.BLOCK_ROWS, rows - start)
        content = os.pread(file.fileno(), count * columns * 8, start * columns * 8)
        yield np.frombuffer(content).reshape(count, columns)
