"""Which chunks calibrate: one global sample over all shards."""

import hashlib
import heapq
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from zipquant import chunk_table, files
from zipquant.errors import UserError


@dataclass(frozen=True, order=True)
class Chunk:
    """A chunk that may be sampled, ordered by priority.

    Attributes:
        priority: a keyed hash; the smallest are sampled. Ties are broken by name.
        utterance: the utterance's id.
        chunk: the chunk's index in it.
        shard: which trace file holds it.
        row: where in that file.
    """

    priority: int
    utterance: str
    chunk: int
    shard: int
    row: int


def priority(seed: int, utterance: str, chunk: int) -> int:
    """Return a chunk's priority: 64 bits of BLAKE2b over its name, keyed by the seed.

    The priority depends on nothing else, so neither on shards, order nor other audio. The n
    smallest priorities are a uniform sample without replacement of all chunks (bottom-k sampling:
    Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007).
    """
    name = utterance.encode("utf-8", "surrogateescape") + b"\0" + str(chunk).encode()
    digest = hashlib.blake2b(name, digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big")


def uniform(tables: Sequence[pd.DataFrame], rows: int, seed: int) -> list[Chunk]:
    """Draw a uniform sample of all chunks, smallest priority first.

    Args:
        tables: the chunk tables of all shards (columns `utterance`, `chunk`, `row`), in the order
            of the shards; an iterable is read one table at a time.
        rows: how many chunks to draw; all are taken where there are fewer.
        seed: another seed draws another sample.
    """
    return heapq.nsmallest(rows, _chunks(tables, seed))


def _chunks(tables: Iterable[pd.DataFrame], seed: int) -> Iterator[Chunk]:
    for shard, table in enumerate(tables):
        for utterance, chunk, row in zip(
            table["utterance"], table["chunk"], table["row"], strict=True
        ):
            yield Chunk(priority(seed, utterance, chunk), utterance, chunk, shard, row)


def sample(tables: Sequence[str | Path], output: str | Path, rows: int, seed: int) -> None:
    """Draw the calibration sample and write it as TSV, one chunk a line.

    Args:
        tables: the Parquet chunk tables of all shards, in the order of the shards.
        output: the TSV to write: priority, utterance, chunk, shard, row.
        rows: how many chunks to draw.
        seed: seed of the draw.

    Raises:
        UserError: the audio gives not a single chunk, or a table is damaged.
    """
    columns = ["utterance", "chunk", "row"]
    chosen = uniform((chunk_table.read(table, columns) for table in tables), rows, seed)
    if not chosen:
        raise UserError(
            "the calibration audio gives not a single chunk: every file is unusable or shorter "
            "than one chunk of the model; see the index files for the reasons, and give longer "
            "audio in audio.calibration"
        )
    if len(chosen) < rows:
        print(
            f"warning: calibration.rows is {rows}, but the audio has only {len(chosen)} chunks; "
            "all of them are taken",
            file=sys.stderr,
        )
    with files.atomic(output) as temporary:
        pd.DataFrame(chosen).to_csv(temporary, sep="\t", index=False)


def read(path: str | Path) -> list[Chunk]:
    """Read a sample that `sample` has written."""
    table = pd.read_csv(
        path,
        sep="\t",
        dtype={"utterance": str, "priority": "uint64"},
        keep_default_na=False,
    )
    return [Chunk(*row) for row in table.itertuples(index=False, name=None)]
