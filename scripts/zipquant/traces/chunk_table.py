"""The table of a shard's chunks, one row each: all that sampling needs to know, as Parquet."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zipquant.jobs import files

DIGESTS = b"zipquant.digests"
"""Key of the file's metadata that holds a hash of each column's values as JSON. Parquet itself has
checksums of its pages, but none of what says where they are and what type they have."""

DIGEST_BYTES = 8

BLOCK_ROWS = 4096
"""Rows that are in memory at once while a table is written."""


def write(
    path: str | Path,
    ids: Sequence[str],
    counts: Sequence[int],
    seconds: float,
    columns: Sequence[str],
    measured: Iterator[np.ndarray],
) -> None:
    """Write a table: `utterance`, `chunk`, `row` in the trace file, `time`, and what was measured.

    Args:
        path: the Parquet file to write.
        ids: the shard's utterances, in the order of the trace file.
        counts: how many chunks each has.
        seconds: from the beginning of a chunk to that of the next.
        columns: names of what was measured of each chunk.
        measured: blocks of `BLOCK_ROWS` rows, the last one shorter, float64 (rows, columns).
    """
    known = pa.array(ids, pa.string())
    owners = np.repeat(np.arange(len(counts)), counts)
    first_rows = np.cumsum([0, *counts])
    names = ["utterance", "chunk", "row", "time", *columns]
    schema = pa.schema([(name, _type(name)) for name in names])
    digests = {name: hashlib.blake2b(digest_size=DIGEST_BYTES) for name in schema.names}
    with files.atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        start = 0
        for block in measured:
            row = np.arange(start, start + len(block))
            chunk = row - first_rows[owners[row]]
            arrays = [known.take(pa.array(owners[row])), chunk, row, chunk * seconds, *block.T]
            table = pa.table(list(map(pa.array, arrays)), schema)
            for name in schema.names:
                digests[name].update(_content(table[name]))
            writer.write_table(table)
            start += len(block)
        found = {name: digest.hexdigest() for name, digest in digests.items()}
        writer.add_key_value_metadata({DIGESTS: json.dumps(found)})


def read(path: str | Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table, or some columns of it.

    Raises:
        UserError: the file is damaged; see `files.damaged`.
    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns)
            expected = json.loads((file.metadata.metadata or {}).get(DIGESTS, b"{}"))
        if expected and columns is None and table.column_names != list(expected):
            raise ValueError("its columns have other names")
        for name in table.column_names if expected else ():
            digest = hashlib.blake2b(_content(table[name]), digest_size=DIGEST_BYTES).hexdigest()
            if digest != expected[name] or table[name].type != _type(name):
                raise ValueError(f"the checksum of column {name} is wrong")
        return table.to_pandas()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise files.damaged(path, error) from None


def _type(column: str) -> pa.DataType:
    known = {"utterance": pa.string(), "chunk": pa.int64(), "row": pa.int64()}
    return known.get(column, pa.float64())


def _content(column: pa.ChunkedArray) -> bytes:
    if pa.types.is_string(column.type):
        return b"".join(value.as_buffer().to_pybytes() + b"\0" for value in column)
    return column.to_numpy().tobytes()
