"""Accuracy of a built variant against the float model, chunk by chunk, output by output."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from zipquant.audio.frame_store import FrameReader, FrameWriter
from zipquant.evaluation.measures import FREE_RUNNING, ONE_STEP, SIMULATOR, SUMS
from zipquant.jobs import files
from zipquant.jobs.progress import Progress
from zipquant.model.contract import Contract
from zipquant.model.noise import channel_means, compare
from zipquant.model.streaming import Encoder, OnnxEncoder, stream
from zipquant.recognition.encoding import as_frames, join
from zipquant.toolkit.variant_folder import TOOLKIT
from zipquant.variants.histograms import RANGES, Histograms
from zipquant.variants.opening import Place, open_encoder
from zipquant.variants.record import Build

SCHEMA = pyarrow.schema(
    [
        ("utterance", pyarrow.string()),
        ("chunk", pyarrow.int32()),
        ("mode", pyarrow.string()),
        ("output", pyarrow.string()),
        *((name, pyarrow.float64()) for name in SUMS),
    ]
)
"""Columns of an evaluation table."""


class Timed:
    """An encoder whose calls are timed.

    Args:
        encoder: the encoder.

    Attributes:
        seconds: how long each call took, in their order.
    """

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self.seconds: list[float] = []

    def run(
        self, x: np.ndarray, states: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one chunk; see `streaming.Encoder.run`."""
        start = time.perf_counter()
        result = self._encoder.run(x, states)
        self.seconds.append(time.perf_counter() - start)
        return result

    def summary(self) -> dict[str, float]:
        """Return how many `chunks` ran, and median, 95th percentile and maximum in ms."""
        found = {"chunks": len(self.seconds)}
        if self.seconds:
            parts = np.percentile(self.seconds, [50, 95, 100]) * 1000
            names = ("median_ms", "p95_ms", "max_ms")
            found |= dict(zip(names, parts.round(2).tolist(), strict=True))
        return found


def evaluate(
    reference: Encoder,
    candidate: Encoder,
    contract: Contract,
    utterances: Iterable[tuple[str, np.ndarray]],
    one_step_chunks: int = 0,
    total: int = 0,
    watch: Callable[[Sequence[np.ndarray]], None] | None = None,
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
        watch: is called with the inputs of the float model, x and the states, for each chunk.

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
        outputs: list[tuple[int, str, np.ndarray, np.ndarray]] = []
        for step in stream(reference, contract, [frames]):
            if watch:
                watch(step.inputs)
            x, *float_states = step.inputs
            expected = step.encoder_out
            # Both modes begin with the same zeros, so the first chunk is run once.
            free = candidate.run(x, states if step.chunk else float_states)
            states = free[1]
            encoded.append(as_frames(free[0]))
            runs = [(FREE_RUNNING, free)]
            if step.chunk in picked:
                one_step = candidate.run(x, float_states) if step.chunk else free
                runs.insert(0, (ONE_STEP, one_step))
            for mode, (encoder_out, new_states) in runs:
                outputs.append((step.chunk, mode, expected, encoder_out))
                pairs = zip(contract.outputs[1:], step.new_states, new_states, strict=True)
                for name, a, b in pairs:
                    rows.append((utterance_id, step.chunk, mode, name, *compare(a, b).values()))
            progress.advance()
        first = _encoder_rows(utterance_id, contract.encoder_out, outputs)
        yield utterance_id, join(encoded), [*first, *rows]


def _encoder_rows(
    utterance_id: str, name: str, outputs: Sequence[tuple[int, str, np.ndarray, np.ndarray]]
) -> list[tuple]:
    """Return the rows of the encoder output, which is compared without its constant part.

    Args:
        utterance_id: the utterance.
        name: the output.
        outputs: of each run its chunk, its mode, and what the float model and the variant gave.
    """
    if not outputs:
        return []
    chunks = {chunk: as_frames(expected) for chunk, _, expected, _ in outputs}
    constant = channel_means(np.concatenate(list(chunks.values())))
    return [
        (utterance_id, chunk, mode, name, *compare(chunks[chunk], as_frames(b), constant).values())
        for chunk, mode, _, b in outputs
    ]


def evaluate_shard(
    model: str | Path,
    prepared: str | Path,
    contract_file: str | Path,
    features: str | Path,
    work: str | Path,
    table_file: str | Path,
    encoded_file: str | Path,
    one_step_chunks: int,
    target: str | None = None,
    device_id: str | None = None,
    time_file: str | Path | None = None,
    histograms_file: str | Path | None = None,
) -> None:
    """Evaluate a variant in the toolkit's simulator, or on a board, on a shard of evaluation audio.

    A variant that could not be built gives files without content.

    Args:
        model: the float encoder's ONNX file.
        prepared: the ONNX file that the variant was built from.
        contract_file: its contract.
        features: the shard's feature file.
        work: the variant's folder, with build.json.
        table_file: the Parquet table to write: one row for each utterance, chunk, mode (`ONE_STEP`,
            `FREE_RUNNING`) and output, with the columns of `compare`.
        encoded_file: the frame file to write, of the free-running encoder outputs.
        one_step_chunks: see `evaluate`.
        target: the platform of a connected board; None for the simulator.
        device_id: see `opening.Place`.
        time_file: the JSON file to write, of what ran it and how long a chunk took, see `Timed`;
            None for none.
        histograms_file: the JSON file to write, of the float model's inputs over the calibrated
            ranges of the variant (`Histograms`); None for none.

    Raises:
        UserError: a file is damaged, the simulator failed, or there is no such board.
    """
    contract = Contract.load(contract_file)
    work = Path(work)
    failed = Build.load(work).failure is not None
    histograms = Histograms()
    if not failed and histograms_file:
        histograms = Histograms.read([work / TOOLKIT / RANGES]).empty()
    with (
        FrameReader(features) as reader,
        FrameWriter(encoded_file) as writer,
        files.atomic(table_file) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, SCHEMA) as table,
    ):
        names = [] if failed else reader.ids
        total = sum(contract.chunk_count(reader.frame_counts[i]) for i in range(len(names)))
        utterances = ((name, reader.frames(i)) for i, name in enumerate(names))
        # Without audio there is nothing to open one for.
        place = Place(target, device_id)
        candidate = open_encoder(work, prepared, contract, place) if total else None
        timed = Timed(candidate)
        reference = OnnxEncoder(model, contract)
        watch = partial(histograms.add, contract)
        compared = evaluate(reference, timed, contract, utterances, one_step_chunks, total, watch)
        for utterance_id, encoded, rows in compared:
            writer.add(utterance_id, encoded)
            columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
            table.write_table(pyarrow.table(columns, schema=SCHEMA))
    if time_file:
        ran = {"target": target or SIMULATOR, "device_id": device_id}
        files.write_json(time_file, ran | timed.summary())
    if histograms_file:
        histograms.write(histograms_file)
