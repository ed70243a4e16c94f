"""The calibration audio that float16 layers are searched on, and what float makes of it."""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from zipquant.audio.frame_store import FrameReader
from zipquant.model.contract import Contract
from zipquant.model.streaming import Encoder, stream
from zipquant.recognition.encoding import as_frames, join

COMPARED_CHUNKS = 400
"""Chunks that each step of the search is measured on."""


class Audio:
    """The utterances that the search is done on, the longest first.

    Args:
        features: feature files of calibration audio.
        contract: the encoder's contract.
        reference: the float model.

    Attributes:
        utterances: features of each, float32 (frames, bins).
        chunks: how many they have together.
        encoded: the float model's encoder outputs, each float32 (frames, dim).
    """

    def __init__(self, features: Sequence[str | Path], contract: Contract, reference: Encoder):
        drawn: list[np.ndarray] = []
        self.chunks = 0
        for path, position in _drawn(features, contract):
            with FrameReader(path) as reader:
                frames = reader.frames(position)
            drawn.append(frames)
            self.chunks += contract.chunk_count(len(frames))
            if self.chunks >= COMPARED_CHUNKS:
                break
        # So the lanes of a call stay full until near the end.
        self.utterances = sorted(drawn, key=len, reverse=True)
        self.encoded = encode(reference, contract, self.utterances)

    def beginnings(self, contract: Contract, chunks: int, longest: int) -> list[np.ndarray]:
        """Return the beginnings of some utterances.

        Args:
            contract: the encoder's contract.
            chunks: how many chunks they have at least, where there are so many.
            longest: chunks of one utterance at most.
        """
        frames = contract.chunk_frames + longest * contract.chunk_shift
        found, count = [], 0
        for utterance in self.utterances:
            if count >= chunks:
                break
            found.append(utterance[:frames])
            count += contract.chunk_count(len(found[-1]))
        return found


def _drawn(features: Iterable[str | Path], contract: Contract) -> list[tuple[str, int]]:
    """Return file and position of utterances in an order that is the same for any shards."""

    def entries() -> Iterable[tuple[bytes, str, int]]:
        for path in features:
            with FrameReader(path) as reader:
                counts = zip(reader.ids, reader.frame_counts, strict=True)
                for position, (name, count) in enumerate(counts):
                    if contract.chunk_count(count):
                        key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
                        yield key, str(path), position

    # An utterance has a chunk at least, so there is no need of more.
    return [(path, place) for _, path, place in heapq.nsmallest(COMPARED_CHUNKS, entries())]


def encode(
    encoder: Encoder, contract: Contract, utterances: Sequence[np.ndarray], lanes: int = 48
) -> list[np.ndarray]:
    """Return the encoder outputs of utterances, each float32 (frames, dim).

    Args:
        encoder: the model.
        contract: its contract.
        utterances: features of each, float32 (frames, bins).
        lanes: see `streaming.stream_batches`.
    """
    found: list[list[np.ndarray]] = [[] for _ in utterances]
    for step in stream(encoder, contract, utterances, lanes):
        found[step.utterance].append(as_frames(step.encoder_out))
    return [join(chunks) for chunks in found]
