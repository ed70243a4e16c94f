"""The trace file of a shard: every chunk with the states before it, one HDF5 file.

HDF5 (h5py) because a single file gives checksummed, compressed blocks with random access, and
because equal content makes equal bytes: zip-based stores put the time of day into the file.
"""

from pathlib import Path

import h5py
import numpy as np

from zipquant import files
from zipquant.contract import Contract
from zipquant.frame_store import CHECKED, damaged

BLOCK_BYTES = 16384
"""Rows of small tensors share a block of about this size; larger rows have a block each."""


class TraceWriter:
    """Writes a trace file; the file appears under its name only when the block succeeds.

    Args:
        path: the file to write.
        contract: the model's contract.
        rows: how many chunks the shard has.
    """

    def __init__(self, path: str | Path, contract: Contract, rows: int):
        self._atomic = files.atomic(path)
        self._contract = contract
        self._rows = rows

    def __enter__(self) -> "TraceWriter":
        self._file = h5py.File(self._atomic.__enter__(), "w")
        self._inputs = []
        for tensor in self._contract.inputs:
            row_bytes = tensor.zeros().nbytes
            block = max(1, min(self._rows, BLOCK_BYTES // row_bytes))
            self._inputs.append(
                self._file.create_dataset(
                    tensor.name,
                    (self._rows, *tensor.shape),
                    tensor.dtype,
                    chunks=(block, *tensor.shape),
                    **CHECKED,
                )
            )
        return self

    def write(self, row: int, inputs: list[np.ndarray]) -> None:
        """Store one chunk: x and the states before it, in the contract's order, batch axis 1."""
        for dataset, array in zip(self._inputs, inputs, strict=True):
            dataset[row] = array

    def __exit__(self, *exception) -> None:
        self._file.close()
        self._atomic.__exit__(*exception)


class TraceReader:
    """Gives back single chunks of a trace file without unpacking the others."""

    def __init__(self, path: str | Path, contract: Contract):
        self._path = path
        self._names = [tensor.name for tensor in contract.inputs]
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise damaged(path, error) from None

    def row(self, row: int) -> list[np.ndarray]:
        """Return x and the states before the chunk, in the contract's order, batch axis 1.

        Raises:
            UserError: the file is damaged.
        """
        try:
            return [self._file[name][row] for name in self._names]
        except (OSError, KeyError) as error:
            raise damaged(self._path, error) from None

    def __enter__(self) -> "TraceReader":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()
