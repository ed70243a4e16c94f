"""Strategies: in which order chunks are sampled.

Every strategy ends in an order of chunks that depends on nothing but what the chunks are: the same
audio, model and seed give the same sample, whatever the shards, the order and the cores. The first
rows of a sample are a good sample by themselves.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from zipquant.calibration import ranges

SHARES = {"speech": 0.7, "silence": 0.2, "start": 0.1}
"""What `stratified` takes of each kind of chunk, as far as there are so many."""


SILENCE = 4.0
"""Natural-log units (17 dB) below the loudest chunk of its utterance: a chunk of mostly pause."""


CANDIDATES = 100
"""On each side of each tensor. With 37 tensors at most 7,400 chunks, 4 MB; speech has far fewer
different ones, since a chunk that goes far in one tensor does so in others."""


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


Tables = Iterable[pd.DataFrame]
"""The chunk tables of all shards, in the order of the shards; read one at a time."""


def priority(seed: int, utterance: str, chunk: int) -> int:
    """Return a chunk's priority: 64 bits of BLAKE2b over its name, keyed by the seed.

    The priority depends on nothing else, so neither on shards, order nor other audio. The n
    smallest priorities are a uniform sample without replacement of all chunks (bottom-k sampling:
    Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007).
    """
    name = utterance.encode("utf-8", "surrogateescape") + b"\0" + str(chunk).encode()
    digest = hashlib.blake2b(name, digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big")


def uniform(tables: Tables, rows: int, seed: int, tensors: Sequence[str] = ()) -> list[Chunk]:
    """Draw a uniform sample of all chunks, smallest priority first.

    Args:
        tables: the chunk tables (columns `utterance`, `chunk`, `row`).
        rows: how many chunks to draw; all are taken where there are fewer.
        seed: another seed draws another sample.
    """
    return heapq.nsmallest(
        rows, (c for shard, table in enumerate(tables) for c in _chunks(table, shard, seed))
    )


def everything(tables: Tables, rows: int, seed: int, tensors: Sequence[str] = ()) -> list[Chunk]:
    """Take all chunks in the order of the utterances; where `rows` is less, a uniform sample."""
    return sorted(uniform(tables, rows, seed), key=_name)


def snapshot(tables: Tables, rows: int, seed: int, tensors: Sequence[str] = ()) -> list[Chunk]:
    """Take the first, the middle and the last chunk of each utterance, as scripts 06 to 08 did.

    Where `rows` is less than that, a uniform sample of them.
    """
    return everything((_snapshots(table) for table in tables), rows, seed)


def stratified(tables: Tables, rows: int, seed: int, tensors: Sequence[str] = ()) -> list[Chunk]:
    """Draw first chunks, chunks of speech and chunks of silence, each from all sources in turn.

    A source is the folder part of the utterance's id: one speaker, microphone or place a folder. A
    first chunk is one with zero states. Silence is `SILENCE` below its utterance's loudest chunk.
    The kinds come by their `SHARES`; within a kind the sources take turns, each gives its chunk of
    the smallest priority first.

    Args:
        tables: the chunk tables (columns `utterance`, `chunk`, `row`, `energy`).
        rows: how many chunks to draw; all are taken where there are fewer.
        seed: another seed draws another sample.
    """
    strata: dict[tuple[str, str], list[Chunk]] = {}
    for shard, table in enumerate(tables):
        loudest = table.groupby("utterance")["energy"].transform("max")
        silent = table["energy"] < loudest - SILENCE
        for chunk, quiet in zip(_chunks(table, shard, seed), silent, strict=True):
            kind = "start" if chunk.chunk == 0 else "silence" if quiet else "speech"
            source = chunk.utterance.rpartition("/")[0]
            strata.setdefault((kind, source), []).append(chunk)
        strata = {key: heapq.nsmallest(rows, members) for key, members in strata.items()}
    turns: dict[str, list[tuple[int, Chunk]]] = {kind: [] for kind in SHARES}
    for (kind, _), members in strata.items():
        turns[kind] += enumerate(members)
    queues = {kind: [chunk for _, chunk in sorted(members)] for kind, members in turns.items()}
    chosen: list[Chunk] = []
    taken = dict.fromkeys(SHARES, 0)
    while len(chosen) < rows and any(taken[kind] < len(queues[kind]) for kind in SHARES):
        left = [kind for kind in SHARES if taken[kind] < len(queues[kind])]
        # The kind that lags most behind its share.
        kind = min(left, key=lambda kind: (taken[kind] + 1) / SHARES[kind])
        chosen.append(queues[kind][taken[kind]])
        taken[kind] += 1
    return chosen


def coverage(tables: Tables, rows: int, seed: int, tensors: Sequence[str]) -> list[Chunk]:
    """Choose few chunks that together reach as far as all chunks do, in every tensor.

    Greedy: the next chunk is the one that adds most to the sum of the tensors' covered ranges, each
    in units of its whole range, so that every tensor counts alike. When nothing can be added, the
    rest is a uniform sample: extremes alone are no picture of what is usual.

    Only the `CANDIDATES` furthest chunks (or `rows`, if that is more) on each side of each tensor
    are remembered, so that the memory does not grow with the audio.

    Args:
        tables: the chunk tables (columns `utterance`, `chunk`, `row`, and of each tensor `.min`
            and `.max`).
        rows: how many chunks to choose; all are taken where there are fewer.
        seed: decides between equal chunks, and draws the uniform rest.
        tensors: the tensors that count, see `ranges.tensors`.
    """
    rest: list[Chunk] = []
    pool: list[Chunk] = []
    reached = np.empty((0, 2 * len(tensors)))
    shards = ((shard, piece) for shard, t in enumerate(tables) for piece in ranges.pieces(t))
    for shard, table in shards:
        chunks = _chunks(table, shard, seed)
        rest = heapq.nsmallest(rows, rest + chunks)
        pool += chunks
        reached = np.concatenate([reached, ranges.reach(table, tensors)])
        # In the order of priority, so that a stable sort decides between equal values by it.
        order = sorted(range(len(pool)), key=pool.__getitem__)
        pool, reached = [pool[i] for i in order], reached[order]
        # Side by side: all at once would take as much memory again, twice.
        most = max(rows, CANDIDATES)
        furthest = [np.argsort(-side, kind="stable")[:most] for side in reached.T]
        kept = np.unique(np.concatenate(furthest))
        pool, reached = [pool[i] for i in kept], np.ascontiguousarray(reached[kept])
    chosen = [pool[i] for i in _greedy(reached, rows)]
    known = set(chosen)
    return (chosen + [chunk for chunk in rest if chunk not in known])[:rows]


STRATEGIES: dict[str, Callable[..., list[Chunk]]] = {
    "all": everything,
    "snapshot": snapshot,
    "uniform": uniform,
    "stratified": stratified,
    "coverage": coverage,
}
"""By the name that `calibration.strategy` has for it.

Each takes the tables, how many rows, the seed, and the tensors whose ranges count.
"""


def _chunks(table: pd.DataFrame, shard: int, seed: int) -> list[Chunk]:
    return [
        Chunk(priority(seed, utterance, chunk), utterance, chunk, shard, row)
        for utterance, chunk, row in zip(
            table["utterance"], table["chunk"], table["row"], strict=True
        )
    ]


def _name(chunk: Chunk) -> tuple[str, int]:
    return chunk.utterance, chunk.chunk


def _snapshots(table: pd.DataFrame) -> pd.DataFrame:
    ordered = table.sort_values(["utterance", "chunk"])
    grouped = ordered.groupby("utterance")["chunk"]
    position, count = grouped.cumcount(), grouped.transform("size")
    return ordered[(position == 0) | (position == count // 2) | (position == count - 1)]


def _greedy(reached: np.ndarray, rows: int) -> list[int]:
    """Return the positions of the chunks to choose, in the order in which they are chosen."""
    if not len(reached):
        return []
    full = np.tile(ranges.width(reached.max(axis=0)), 2)
    scaled = reached / np.where(full > 0, full, np.inf)
    gains, chosen, covered = scaled.sum(axis=1), [], np.full(scaled.shape[1], -np.inf)
    while len(chosen) < rows:
        best = int(gains.argmax())
        if chosen and gains[best] <= 0:
            break
        chosen.append(best)
        covered = np.maximum(covered, scaled[best])
        gains = np.maximum(scaled - covered, 0).sum(axis=1)
    return chosen
