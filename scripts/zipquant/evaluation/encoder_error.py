"""Accuracy of a built variant against the float model, chunk by chunk, output by output."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow
import pyarrow.parquet

from zipquant.audio.frame_store import FrameReader, FrameWriter
from zipquant.evaluation import emulation_check, long_stream
from zipquant.evaluation.measures import EMULATION, FREE_RUNNING, ONE_STEP, SIMULATOR, SUMS
from zipquant.jobs import files
from zipquant.jobs.progress import Progress
from zipquant.model import overflow
from zipquant.model.contract import Contract
from zipquant.model.noise import channel_means, compare
from zipquant.model.streaming import Batch, Encoder, OnnxEncoder, lane_of, stream_batches
from zipquant.recognition.encoding import as_frames, join
from zipquant.toolkit.variant_folder import TOOLKIT
from zipquant.variants.emulation import UnknownOperator
from zipquant.variants.histograms import RANGES, Histograms
from zipquant.variants.opening import Place, open_emulation, open_encoder
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
        seconds: how long each chunk took, in their order; chunks of one call share its time.
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
        self.seconds += [(time.perf_counter() - start) / len(x)] * len(x)
        return result

    def summary(self) -> dict[str, float]:
        """Return how many `chunks` ran, and median, 95th percentile and maximum in ms."""
        found = {"chunks": len(self.seconds)}
        if self.seconds:
            parts = np.percentile(self.seconds, [50, 95, 100]) * 1000
            names = ("median_ms", "p95_ms", "max_ms")
            found |= dict(zip(names, parts.round(2).tolist(), strict=True))
        return found


class Utterances(Protocol):
    """Features of utterances, such as a `FrameReader`.

    Attributes:
        ids: names of the utterances.
        frame_counts: frames of each.
    """

    ids: Sequence[str]
    frame_counts: Sequence[int]

    def frames(self, position: int) -> np.ndarray:
        """Return those at a position, float32 (frames, bins)."""


@dataclass(frozen=True)
class Compared:
    """One utterance in both models.

    Attributes:
        utterance: its id.
        encoded: the candidate's free-running encoder output, float32 (frames, dim).
        rows: its rows of the table of `evaluate_shard`.
    """

    utterance: str
    encoded: np.ndarray
    rows: list[tuple]


def evaluate(
    reference: Encoder,
    candidate: Encoder,
    contract: Contract,
    utterances: Utterances,
    one_step_chunks: int = 0,
    lanes: int = 1,
    watch: Callable[[Sequence[np.ndarray]], None] | None = None,
) -> Iterator[Compared]:
    """Run utterances through both models and compare every output of every chunk.

    Args:
        reference: the float model.
        candidate: the variant.
        contract: the contract of both.
        utterances: their features, which are fetched twice each, when a lane is free.
        one_step_chunks: chunks of each utterance that are run one step too, spread evenly over
            it; 0 for all.
        lanes: utterances that one call of each model carries; 1 for the simulator and the board.
        watch: is called with the inputs of the float model, x and the states, for each call.

    Yields:
        The utterances in their order; those without a chunk have no rows.
    """
    counts = [contract.chunk_count(frames) for frames in utterances.frame_counts]
    progress = Progress("chunks", sum(counts))
    waiting = {
        position: _Comparison(utterances.ids[position], contract, _spread(count, one_step_chunks))
        for position, count in enumerate(counts)
    }
    done = {position for position, count in enumerate(counts) if not count}
    written = 0
    # Both run the same chunks of the same utterances in each call.
    pairs = zip(
        *(
            stream_batches(encoder, contract, map(utterances.frames, range(len(counts))), lanes)
            for encoder in (reference, candidate)
        ),
        strict=True,
    )
    for expected, free in pairs:
        if watch:
            watch([expected.x, *expected.states])
        _run_one_step(candidate, contract, expected, free, waiting)
        for position, utterance in enumerate(expected.utterances):
            waiting[utterance].add_free(expected, free, position)
        progress.advance(len(expected.utterances))
        done.update(u for u, last in zip(expected.utterances, expected.last, strict=True) if last)
        # Lanes end out of turn.
        while written in done:
            yield waiting.pop(written).result()
            written += 1
    while written in done:
        yield waiting.pop(written).result()
        written += 1


class _Comparison:
    """One utterance while it runs.

    Args:
        name: its id.
        contract: the contract of both models.
        picked: the chunks that are run one step too.
    """

    def __init__(self, name: str, contract: Contract, picked: frozenset[int]):
        self.name, self.picked = name, picked
        self._contract = contract
        self._axes = [state.tensor.batch_axis for state in contract.states]
        self._encoded: list[np.ndarray] = []
        self._rows: list[tuple] = []
        self._outputs: list[tuple[int, str, np.ndarray, np.ndarray]] = []

    def add_free(self, expected: Batch, got: Batch, position: int) -> None:
        """Add what a lane of a free-running call gave."""
        self._encoded.append(as_frames(got.encoder_out[position : position + 1]))
        self._add(FREE_RUNNING, expected, got.encoder_out, got.new_states, (position, position))

    def add_one_step(
        self,
        expected: Batch,
        encoder_out: np.ndarray,
        new_states: Sequence[np.ndarray],
        positions: tuple[int, int],
    ) -> None:
        """Add what a lane gave with the float model's states.

        Args:
            expected: the call of the float model.
            encoder_out: what the variant gave.
            new_states: the states that it gave.
            positions: the lane of the float model, and that of the variant.
        """
        self._add(ONE_STEP, expected, encoder_out, new_states, positions)

    def _add(
        self,
        mode: str,
        expected: Batch,
        encoder_out: np.ndarray,
        new_states: Sequence[np.ndarray],
        positions: tuple[int, int],
    ) -> None:
        mine, its = positions
        chunk = expected.chunks[mine]
        self._outputs.append(
            (chunk, mode, expected.encoder_out[mine : mine + 1], encoder_out[its : its + 1])
        )
        pairs = zip(
            self._contract.outputs[1:], self._axes, expected.new_states, new_states, strict=True
        )
        for name, axis, a, b in pairs:
            sums = compare(lane_of(a, axis, mine), lane_of(b, axis, its))
            self._rows.append((self.name, chunk, mode, name, *sums.values()))

    def result(self) -> Compared:
        """Return the whole utterance."""
        first = _encoder_rows(self.name, self._contract.encoder_out, self._outputs)
        return Compared(self.name, join(self._encoded), [*first, *self._rows])


def _spread(count: int, most: int) -> frozenset[int]:
    """Return `most` of `count` chunks, spread evenly; 0 for all."""
    if not most:
        return frozenset(range(count))
    return frozenset(np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist())


def _run_one_step(
    candidate: Encoder,
    contract: Contract,
    expected: Batch,
    free: Batch,
    waiting: Mapping[int, _Comparison],
) -> None:
    """Run the picked chunks of a call with the float model's states."""
    picked = [
        position
        for position, utterance in enumerate(expected.utterances)
        if expected.chunks[position] in waiting[utterance].picked
    ]
    # Both modes begin with the same zeros, so the first chunk is run once.
    for position in picked:
        if not expected.chunks[position]:
            both, comparison = (position, position), waiting[expected.utterances[position]]
            comparison.add_one_step(expected, free.encoder_out, free.new_states, both)
    picked = [position for position in picked if expected.chunks[position]]
    if not picked:
        return
    axes = [state.tensor.batch_axis for state in contract.states]
    states = [
        state.copy() if axis is None else np.take(state, picked, axis=axis)
        for state, axis in zip(expected.states, axes, strict=True)
    ]
    encoder_out, new_states = candidate.run(expected.x[picked], states)
    for lane, position in enumerate(picked):
        comparison = waiting[expected.utterances[position]]
        comparison.add_one_step(expected, encoder_out, new_states, (position, lane))


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


@dataclass(frozen=True)
class Models:
    """The float model and what a variant was built from.

    Attributes:
        float32: the encoder's ONNX file.
        prepared: the ONNX file that the variant was built from.
        contract: the file of its contract.
        folder: the variant's folder, with build.json.
    """

    float32: str | Path
    prepared: str | Path
    contract: str | Path
    folder: str | Path


@dataclass(frozen=True)
class Tables:
    """The files that `evaluate_shard` writes; None for those that are not wanted.

    Attributes:
        table: Parquet, one row for each utterance, chunk, mode (`ONE_STEP`, `FREE_RUNNING`) and
            output, with the columns of `SCHEMA`.
        encoded: frame file of the free-running encoder outputs.
        time: JSON, of what ran the variant, how long a chunk took, see `Timed`, in `emulation`
            whether the emulation gives the same, see `emulation_check.check`, and if any output
            was NaN or infinite because the model leaves float16, of that `overflow`, see
            `overflow.find`.
        histograms: JSON, of the float model's inputs over the calibrated ranges of the variant
            (`Histograms`).
        stream: JSON, of one long stream, see `long_stream.run`.
    """

    table: str | Path
    encoded: str | Path
    time: str | Path | None = None
    histograms: str | Path | None = None
    stream: str | Path | None = None


@dataclass(frozen=True)
class Amount:
    """How much is evaluated.

    Attributes:
        one_step_chunks: see `evaluate`.
        long_stream: seconds of one long stream; 0 for none.
    """

    one_step_chunks: int
    long_stream: float = 0


def evaluate_shard(
    models: Models,
    features: str | Path,
    tables: Tables,
    amount: Amount,
    place: Place | None = None,
) -> None:
    """Evaluate a variant on a shard of evaluation audio, and on one long stream made of it.

    The variant is opened once: setting up the simulator takes as long as a minute of audio or more.
    One that could not be built gives files without content. One that cannot be emulated runs in
    the simulator, and the time file says so.

    Args:
        models: the float model and the variant.
        features: the shard's feature file.
        tables: the files to write.
        amount: how much is evaluated.
        place: where the variant runs; None for the simulator.

    Raises:
        UserError: a file is damaged, the simulator failed, there is no such board, or the
            emulation does not give what the simulator gives.
    """
    contract = Contract.load(models.contract)
    folder, place = Path(models.folder), place or Place()
    failed = Build.load(folder).failure is not None
    histograms = Histograms()
    if not failed:
        histograms = Histograms.read([folder / TOOLKIT / RANGES]).empty()
    reference = OnnxEncoder(models.float32, contract)
    with FrameReader(features) as reader:
        used = not failed and any(map(contract.chunk_count, reader.frame_counts))
        # Without audio there is nothing to open one for.
        opened = _Opened(None, place.target or SIMULATOR)
        if used:
            opened = _open(models, contract, reference, reader, place)
        candidate, timed = opened.encoder, Timed(opened.encoder)
        watch = partial(histograms.add, contract)
        steps = amount.one_step_chunks
        compared = evaluate(reference, timed, contract, reader, steps, opened.lanes, watch)
        broken = _write(() if failed else compared, tables)
        cause = {}
        if broken is not None:
            cause = {"overflow": overflow.find(models.float32, contract, reader.frames(broken))}
        frames = long_stream.joined(reader, amount.long_stream if used else 0)
        stream = long_stream.run(reference, candidate, contract, frames)
        agreement = opened.agreement
        if used and opened.target == SIMULATOR:
            given = (folder, contract, reference, reader, tables.encoded)
            agreement = emulation_check.check(*given)
    if problem := (agreement or {}).get("problem"):
        # The line that is repeated at the end of the run.
        print(f"error: variant {folder.name}: {problem}", file=sys.stderr)
    ran = {"target": opened.target, "device_id": place.device_id}
    ran["emulation"] = agreement
    for path, value in (
        (tables.time, ran | timed.summary() | cause),
        (tables.histograms, histograms.as_json()),
        (tables.stream, stream),
    ):
        if path:
            files.write_json(path, value)


@dataclass(frozen=True)
class _Opened:
    """A variant that is to be evaluated.

    Attributes:
        encoder: the variant; None where there is nothing to run.
        target: what runs it, as the time file says it.
        lanes: utterances that one call carries.
        agreement: of the emulation with the simulator, see `emulation_check.tie`.
    """

    encoder: Encoder | None
    target: str = SIMULATOR
    lanes: int = 1
    agreement: dict | None = None


def _open(
    models: Models, contract: Contract, reference: Encoder, reader: FrameReader, place: Place
) -> _Opened:
    """Open a variant where it is to run; in the emulation only if that holds on this audio."""
    encoder = open_encoder(models.folder, models.prepared, contract, place)
    if not place.emulated:
        return _Opened(encoder, place.target or SIMULATOR)
    try:
        emulated = open_emulation(models.folder, contract)
        if emulated is None:
            return _Opened(encoder)
        agreement = emulation_check.tie(contract, reference, reader, encoder, emulated)
    except UnknownOperator:
        # Noted in the time file by the check of the simulator.
        return _Opened(encoder)
    return _Opened(emulated, EMULATION, place.lanes, agreement)


def _write(compared: Iterable[Compared], tables: Tables) -> int | None:
    """Write what was compared; return the first utterance with NaN, by its position."""
    broken = None
    with (
        FrameWriter(tables.encoded) as writer,
        files.atomic(tables.table) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, SCHEMA) as table,
    ):
        for position, found in enumerate(compared):
            if broken is None and any(row[-1] for row in found.rows):
                broken = position
            writer.add(found.utterance, found.encoded)
            columns = list(zip(*found.rows, strict=True)) or [()] * len(SCHEMA)
            table.write_table(pyarrow.table(columns, schema=SCHEMA))
    return broken
