"""Frames of the utterances of a shard in one HDF5 file: log-mel features, or encoder outputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from zipquant.jobs import files

FORMAT = "v110"
"""HDF5's file format since 1.10, which has checksums of the file's own structures."""

CHECKED = {"fletcher32": True, **hdf5plugin.Bitshuffle(nelems=1 << 16, cname="lz4")}
"""Compression, and HDF5's Fletcher-32 checksum of every block, so that damage becomes an error.

Bits are shuffled before LZ4, since float32 values that lie together share their upper ones; the
lower ones are noise. zstd saves another 1 % of the size, and takes a third more time to write."""

BLOCK_FRAMES = 128
"""Frames of a block: a few blocks an utterance."""


class FrameWriter:
    """Writes a frame file; the file appears under its name only when the block succeeds."""

    def __init__(self, path: str | Path):
        self._atomic = files.atomic(path)
        self._ids: list[str] = []
        self._counts: list[int] = []
        self._frames: h5py.Dataset | None = None

    def __enter__(self) -> "FrameWriter":
        self._file = h5py.File(self._atomic.__enter__(), "w", libver=FORMAT)
        return self

    def add(self, utterance_id: str, frames: np.ndarray) -> None:
        """Append one utterance, float32 of shape (frames, width); none may be empty."""
        if self._frames is None and len(frames):
            width = frames.shape[1]
            self._frames = self._file.create_dataset(
                "frames",
                (0, width),
                "f4",
                maxshape=(None, width),
                chunks=(BLOCK_FRAMES, width),
                **CHECKED,
            )
        if len(frames):
            start = len(self._frames)
            self._frames.resize(start + len(frames), axis=0)
            self._frames[start:] = frames
        self._ids.append(utterance_id)
        self._counts.append(len(frames))

    def __exit__(self, *exception) -> None:
        if exception[0] is None:
            ids = [name.encode("utf-8", "surrogateescape") for name in self._ids]
            # Of one length: HDF5 keeps strings of any length where they have no checksum.
            width = max(map(len, ids), default=1)
            for name, values in (
                ("utterance", np.array(ids, dtype=f"S{width}")),
                ("frame_count", np.array(self._counts, dtype=np.int64)),
            ):
                # Only what is in blocks has checksums.
                blocks = {"chunks": (max(1, len(values)),), "maxshape": (None,)}
                self._file.create_dataset(name, data=values, **blocks, **CHECKED)
        self._file.close()
        self._atomic.__exit__(*exception)


class FrameReader:
    """Reads a frame file; only the frames that are asked for are unpacked.

    Attributes:
        ids: the utterances, in the order of the file.
        frame_counts: frames of each utterance.
    """

    def __init__(self, path: str | Path):
        self._path = path
        with damage(path):
            self._file = h5py.File(path, "r")
            names = self._file["utterance"][:]
            self.frame_counts: list[int] = self._file["frame_count"][:].tolist()
            # Not there where all utterances are empty.
            self._frames = self._file["frames"] if sum(self.frame_counts) else None
        self.ids: list[str] = [name.decode("utf-8", "surrogateescape") for name in names]
        self._ends = np.cumsum([0, *self.frame_counts])

    def frames(self, position: int) -> np.ndarray:
        """Return the utterance at `position`, float32 of shape (frames, width).

        An empty utterance has the shape (0, 0).

        Raises:
            UserError: the file is damaged.
        """
        if not self.frame_counts[position]:
            return np.zeros((0, 0), dtype=np.float32)
        with damage(self._path):
            return self._frames[self._ends[position] : self._ends[position + 1]]

    def copy_to(self, file: h5py.File) -> None:
        """Copy the frames into another HDF5 file, as they are: compressed, with their checksums."""
        if self._frames is None:
            return
        # h5py's own copy of a dataset (H5Ocopy of HDF5 2.0) corrupts memory on this format.
        shape = {"maxshape": self._frames.maxshape, "chunks": self._frames.chunks}
        frames = file.create_dataset("frames", self._frames.shape, "f4", **shape, **CHECKED)
        with damage(self._path):
            copy_blocks(self._frames, frames)

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()


def copy_blocks(source: h5py.Dataset, target: h5py.Dataset) -> None:
    """Copy a tape to one of the same shape and blocks, block by block in order, not unpacked."""
    for start in range(0, source.shape[0], source.chunks[0]):
        skipped_filters, content = source.id.read_direct_chunk((start, 0))
        target.id.write_direct_chunk((start, 0), content, skipped_filters)


@contextmanager
def damage(path: str | Path) -> Iterator[None]:
    """Turn an error that h5py raises when it reads a damaged file into `files.damaged`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise files.damaged(path, error) from None
