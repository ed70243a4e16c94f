"""The trace file of a shard: every chunk with the states before it, one HDF5 file of tapes.

Consecutive states overlap: a cache of 64 frames that takes 16 new ones with each chunk holds 48 of
the chunk before. So a row of the file, its *record*, holds of each state only what is new, and a
window is put together from the last few records of its utterance. What is new is found by
comparing bits (`slides`). Where a state does not continue the one before, its whole window is
stored, as an *anchor*; the windows after it begin there. Every utterance begins with zeros, which
need no storing. The features are a tape by nature, and are stored as the utterances' frames.

HDF5 (h5py), because one file gives compressed blocks with random access, a checksum of each block
and of its own structures (since format 1.10), and because equal content makes equal bytes: zip
stores like zarr's put the time of day into the file, and have no checksum of their directory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

import h5py
import numpy as np

from zipquant.audio.frame_store import CHECKED, FORMAT, FrameReader, copy_blocks, damage
from zipquant.jobs import files
from zipquant.model.contract import Contract, Tensor
from zipquant.model.streaming import Batch
from zipquant.traces.measures import Measures
from zipquant.traces.slides import Slide, bits, opaque

BLOCK_BYTES = 256 * 1024
"""Consecutive records of an utterance share a block of at most about this size: larger blocks cost
less time when written, smaller ones less when a row is read."""

BLOCK_RECORDS = 16
"""And at most so many records, since the last block of an utterance is filled up with zeros."""

ANCHOR_WORDS, NUMBERS = 4096, 4096
"""Entries of a block of the other tapes."""


class _Field:
    """One state's part of the records, which are arrays of 32-bit words.

    Attributes:
        tensor: the state.
        slide: how its window moves.
        words: where its new part lies in a record.
        shape: of the new part.
        size: words of the whole window.
    """

    def __init__(self, tensor: Tensor, slide: Slide, start: int):
        window = tensor.zeros()
        fresh = slide.fresh(window)
        self.tensor, self.slide, self.shape = tensor, slide, fresh.shape
        self.words = slice(start, start + fresh.nbytes // 4)
        self.size = window.nbytes // 4
        axis = tensor.batch_axis
        if axis is None:
            self._order, self._index = tuple(range(window.ndim)), (None,)
        else:
            self._order = (axis, *(a for a in range(window.ndim) if a != axis))
            self._index = (slice(None),) * (axis + 1) + (None,)

    def lanes_first(self, array: np.ndarray) -> np.ndarray:
        """Return a view whose first axis counts lanes, with the tensor's own axes behind it."""
        return array.transpose(self._order)[self._index]


class _Layout:
    """Where each state's new part lies in a record, and how many records share a block."""

    def __init__(self, contract: Contract, slides: Sequence[Slide]):
        self.fields: list[_Field] = []
        self.words = 0
        for state, slide in zip(contract.states, slides, strict=True):
            self.fields.append(_Field(state.tensor, slide, self.words))
            self.words = self.fields[-1].words.stop
        # HDF5 has no blocks of no words.
        self.words = max(1, self.words)
        self.block = max(1, min(BLOCK_RECORDS, BLOCK_BYTES // (4 * self.words)))


class _Index:
    """Which rows, records and frames belong to which utterance.

    Each count is a running sum: entry u is where utterance u begins, the last one is the total.
    """

    def __init__(self, contract: Contract, frame_counts: Sequence[int], block: int):
        chunks = np.array([contract.chunk_count(count) for count in frame_counts], dtype=np.int64)
        self.rows = np.cumsum([0, *chunks])
        self.records = np.cumsum([0, *(-(-chunks // block) * block)])
        self.frames = np.cumsum([0, *frame_counts])


@contextmanager
def create(
    path: str | Path,
    contract: Contract,
    slides: Sequence[Slide],
    features: FrameReader,
) -> Iterator["TraceWriter"]:
    """Write a trace file, which appears under its name only when the block succeeds.

    Args:
        path: the file to write.
        contract: the model's contract.
        slides: how each state slides, in the contract's order.
        features: the shard's features; the trace file keeps their order of utterances.
    """
    spool_path = Path(path).with_name(f".{Path(path).stem}.spool.h5")
    with (
        files.atomic(path) as temporary,
        h5py.File(temporary, "w", libver=FORMAT) as file,
        h5py.File(spool_path, "w", libver=FORMAT) as spool,
    ):
        # Without a name the spool is gone as soon as this process is, however it ends.
        spool_path.unlink()
        writer = TraceWriter(file, spool, contract, slides, features)
        yield writer
        writer.finish()


class TraceWriter:
    """Writes a trace file; made by `create`.

    Chunks come as the lanes give them. A spool file beside the trace file takes the blocks in that
    order; at the end they are copied, compressed as they are, in the order of the utterances. So
    the trace file's bytes do not depend on the lanes, and memory holds one block a lane.
    """

    def __init__(
        self,
        file: h5py.File,
        spool: h5py.File,
        contract: Contract,
        slides: Sequence[Slide],
        features: FrameReader,
    ):
        self._file, self._spool = file, spool
        self._contract = contract
        self._slides = slides
        self._layout = _Layout(contract, slides)
        self._records = np.empty((0, self._layout.words), dtype="u4")
        self._blocks: dict[int, np.ndarray] = {}
        self._breaks: dict[int, list[int]] = {}
        self._anchors: list[tuple[int, int, int]] = []
        features.copy_to(file)
        self._frame_counts = features.frame_counts
        self._index = _Index(contract, self._frame_counts, self._layout.block)
        shape = (self._index.records[-1], self._layout.words)
        self._final, self._spooled = (
            _tape(target, "records", shape, "u4", self._layout.block) for target in (file, spool)
        )
        self._spooled_words = _tape(spool, "anchor_words", (0,), "u4", ANCHOR_WORDS)

    def write(
        self,
        utterances: Sequence[int],
        batch: Batch,
        measures: Measures | None = None,
    ) -> None:
        """Store the chunks of a batch.

        Args:
            utterances: of each lane, the utterance's position in the file.
            batch: the chunks; those of one utterance have to come in order.
            measures: is told what is new of each state, while that is still in the processor's
                cache: the states of all lanes are larger than it is.
        """
        lanes = len(utterances)
        if lanes > len(self._records):
            self._records = np.zeros((lanes, self._layout.words), dtype="u4")
        records = self._records[:lanes]
        breaks: list[tuple[int, int]] = []
        if measures:
            measures.begin(utterances)
        for position, field in enumerate(self._layout.fields):
            fresh = records[:, field.words].view(field.tensor.dtype).reshape(lanes, *field.shape)
            if fresh.size:
                source = field.slide.fresh(field.lanes_first(batch.states[position]))
                opaque(fresh)[:] = opaque(source)
            if measures:
                measures.add(position, fresh)
            breaks += [(lane, position) for lane in self._broken(position, batch)]
        block = self._layout.block
        for lane, (utterance, chunk) in enumerate(zip(utterances, batch.chunks, strict=True)):
            for state in self._breaks.pop(utterance, ()):
                field = self._layout.fields[state]
                window = np.ascontiguousarray(field.lanes_first(batch.states[state])[lane])
                if measures:
                    measures.replace(lane, state, window)
                self._write_anchor(self._index.rows[utterance] + chunk, state, window)
                records[lane, field.words] = 0
            start = self._index.records[utterance] + chunk // block * block
            if block == 1:
                self._spooled[start] = records[lane]
                continue
            if chunk % block == 0:
                self._blocks[utterance] = np.zeros((block, self._layout.words), dtype="u4")
            self._blocks[utterance][chunk % block] = records[lane]
            if batch.last[lane] or (chunk + 1) % block == 0:
                self._spooled[start : start + block] = self._blocks.pop(utterance)
        for lane, position in breaks:
            self._breaks.setdefault(utterances[lane], []).append(position)

    def finish(self) -> None:
        """Put everything in its order; all chunks have to be written."""
        copy_blocks(self._spooled, self._final)
        self._anchors.sort()
        words = _tape(self._file, "anchor_words", (0,), "u4", ANCHOR_WORDS)
        for _, state, place in self._anchors:
            size = self._layout.fields[state].size
            _append(words, self._spooled_words[place : place + size])
        for name, numbers in (
            ("frame_count", self._frame_counts),
            ("anchor_row", [row for row, _, _ in self._anchors]),
            ("anchor_state", [state for _, state, _ in self._anchors]),
        ):
            _append(_tape(self._file, name, (0,), "i8", NUMBERS), np.array(numbers, dtype="i8"))
        slides = [astuple(slide) for slide in self._slides]
        _append(_tape(self._file, "slides", (0, 3), "i8", NUMBERS), np.array(slides, dtype="i8"))

    def _broken(self, position: int, batch: Batch) -> list[int]:
        """Return the lanes whose next chunk's state does not continue that of this chunk."""
        field = self._layout.fields[position]
        before, after = batch.states[position], batch.new_states[position]
        if field.slide.holds(before, after):
            return []
        kept = bits(field.slide.kept(field.lanes_first(before)))
        taken = bits(field.slide.taken_over(field.lanes_first(after)))
        return [
            lane
            for lane, is_last in enumerate(batch.last)
            if not is_last and not np.array_equal(kept[lane], taken[lane])
        ]

    def _write_anchor(self, row: int, state: int, window: np.ndarray) -> None:
        place = len(self._spooled_words)
        _append(self._spooled_words, window.reshape(-1).view("u4"))
        self._anchors.append((int(row), state, place))


class TraceReader:
    """Gives back single chunks of a trace file without unpacking the others.

    Raises:
        UserError: the file is damaged, or of another model.
    """

    def __init__(self, path: str | Path, contract: Contract):
        self._path = path
        self._contract = contract
        with damage(path):
            self._file = h5py.File(path, "r")
            slides = [Slide(*numbers) for numbers in self._file["slides"][:].tolist()]
            self._layout = _Layout(contract, slides)
            counts = self._file["frame_count"][:].tolist()
            self._index = _Index(contract, counts, self._layout.block)
            self._anchors = self._read_anchors()

    def row(self, row: int) -> list[np.ndarray]:
        """Return x and the states before the chunk, in the contract's order, batch axis 1.

        Args:
            row: the chunk's number, counted through the utterances of the file.

        Raises:
            UserError: the file is damaged.
        """
        utterance = int(np.searchsorted(self._index.rows, row, side="right")) - 1
        chunk = row - int(self._index.rows[utterance])
        frame = self._index.frames[utterance] + chunk * self._contract.chunk_shift
        sources = [self._source(row, chunk, state) for state in range(len(self._layout.fields))]
        first = min(begin for begin, _ in sources)
        place = self._index.records[utterance] + chunk - (row - first)
        with damage(self._path):
            # No more than these are unpacked.
            frames = self._file["frames"][frame : frame + self._contract.chunk_frames]
            records = self._file["records"][place : place + row - first + 1]
            windows = [
                self._window(state, anchor, records[begin - first :])
                for state, (begin, anchor) in enumerate(sources)
            ]
        return [self._contract.chunk(frames)[None], *windows]

    def _source(self, row: int, chunk: int, state: int) -> tuple[int, int | None]:
        """Return the first row whose record a state's window takes, and the anchor before it."""
        slide = self._layout.fields[state].slide
        records = -(-slide.length // slide.step) if slide.step else chunk + 1
        begin = row + 1 - min(records, chunk + 1)
        rows, places = self._anchors[state]
        last = int(np.searchsorted(rows, row, side="right")) - 1
        if last >= 0 and rows[last] >= begin:
            return int(rows[last]) + 1, int(places[last])
        # A state that stays the same has no records.
        return (begin if slide.step else row + 1), None

    def _window(self, state: int, anchor: int | None, records: np.ndarray) -> np.ndarray:
        field = self._layout.fields[state]
        window = field.tensor.zeros()
        if anchor is not None:
            content = self._file["anchor_words"][anchor : anchor + field.size]
            window = content.view(window.dtype).reshape(window.shape)
        fresh = np.ascontiguousarray(records[:, field.words]).view(window.dtype)
        return field.slide.joined([window, *fresh.reshape(len(records), *field.shape)])

    def _read_anchors(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each state, the rows of its anchors and where their words begin."""
        rows, states = self._file["anchor_row"][:], self._file["anchor_state"][:]
        sizes = np.array([field.size for field in self._layout.fields])
        places = np.cumsum(sizes[states]) - sizes[states]
        of_state = [states == state for state in range(len(sizes))]
        return [(rows[mask], places[mask]) for mask in of_state]

    def __enter__(self) -> "TraceReader":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()


def _tape(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, block: int
) -> h5py.Dataset:
    return file.create_dataset(
        name, shape, dtype, maxshape=(None, *shape[1:]), chunks=(block, *shape[1:]), **CHECKED
    )


def _append(tape: h5py.Dataset, rows: np.ndarray) -> None:
    if not len(rows):
        return
    start = len(tape)
    tape.resize(start + len(rows), axis=0)
    tape[start:] = rows
