"""The table of a shard's chunks, one row each: all that sampling needs to know, as Parquet."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zipquant.jobs import files

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
    with (
        files.atomic(path) as temporary,
        pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
    ):
        start = 0
        for block in measured:
            row = np.arange(start, start + len(block))
            chunk = row - first_rows[owners[row]]
            arrays = [known.take(pa.array(owners[row])), chunk, row, chunk * seconds, *block.T]
            writer.write_table(pa.table(list(map(pa.array, arrays)), schema))
            start += len(block)


def read(path: str | Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table, or some columns of it.

    Raises:
        UserError: the file is damaged; see `files.damaged`.
    """
    try:
        # A job compares the whole file with its record before; this is for other readers.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns).to_pandas()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise files.damaged(path, error) from None


def _type(column: str) -> pa.DataType:
    known = {"utterance": pa.string(), "chunk": pa.int64(), "row": pa.int64()}
    return known.get(column, pa.float64())
