"""What decoder and joiner really get: rows from the greedy search over real encoder outputs."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zipquant.audio.frame_store import FrameReader
from zipquant.board import greedy_search, vocabulary
from zipquant.errors import UserError
from zipquant.model.recognizer import Recognizer
from zipquant.recognition import decoding


class Recorder:
    """Decoder and joiner in onnxruntime that remember a sample of what they are given.

    Of all different rows those with the smallest hash are kept: a fair sample that depends neither
    on shards nor on their order.

    Args:
        networks: decoder and joiner.
        count: how many rows of each to keep.
    """

    def __init__(self, networks: greedy_search.Networks, count: int):
        self.context = networks.context
        self._networks = networks
        self._contexts, self._pairs = _Sample(count), _Sample(count)

    def decode(self, contexts: np.ndarray) -> np.ndarray:
        """See `search.Networks.decode`."""
        self._contexts.add(contexts)
        return self._networks.decode(contexts)

    def join(self, encoded: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """See `search.Networks.join`."""
        self._pairs.add(encoded, decoded)
        return self._networks.join(encoded, decoded)

    def rows(self) -> dict[str, list[np.ndarray]]:
        """Return the sampled rows of each input of `decoder` and `joiner`."""
        return {"decoder": self._contexts.arrays(), "joiner": self._pairs.arrays()}


class _Sample:
    def __init__(self, count: int):
        self._count = count
        self._rows: dict[bytes, tuple[np.ndarray, ...]] = {}

    def add(self, *arrays: np.ndarray) -> None:
        for row in zip(*arrays, strict=True):
            content = b"".join(array.tobytes() for array in row)
            digest = hashlib.blake2b(content, digest_size=8).digest()
            self._rows[digest] = tuple(array.copy() for array in row)
        if len(self._rows) > 2 * self._count:
            self._rows = {digest: self._rows[digest] for digest in self._smallest()}

    def arrays(self) -> list[np.ndarray]:
        rows = [self._rows[digest] for digest in self._smallest()]
        return [np.stack(column) for column in zip(*rows, strict=True)]

    def _smallest(self) -> list[bytes]:
        return sorted(self._rows)[: self._count]


def collect(
    encoded: Sequence[str | Path], recognizer: Recognizer, count: int
) -> dict[str, list[np.ndarray]]:
    """Search some encoder outputs greedily, and return what decoder and joiner were given.

    Args:
        encoded: frame files of encoder outputs.
        recognizer: a transducer.
        count: how many different rows of each to keep at most.

    Returns:
        `decoder`: the contexts, int64 (n, context). `joiner`: encoder frames and decoder outputs,
        float32 (n, dim) each.

    Raises:
        UserError: there is not a single frame, a file is damaged, or a network cannot be run.
    """
    known = vocabulary.read(recognizer.tokens)
    recorder = Recorder(decoding.OnnxNetworks(recognizer.decoder, recognizer.joiner), count)
    for path in encoded:
        with FrameReader(path) as reader:
            for position in range(len(reader.ids)):
                frames = [reader.frames(position)]
                greedy_search.search_transducer(recorder, frames, known.blank, known.unknown)
    rows = recorder.rows()
    if not rows["joiner"]:
        raise UserError(
            "the audio gives not a single frame to try decoder and joiner with: every file is "
            "unusable or shorter than one chunk of the model; give longer audio"
        )
    return rows
