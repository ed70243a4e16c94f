"""From encoder outputs to text: the greedy searches of sherpa-onnx, many utterances at once."""

import csv
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from zipquant import files, vocabulary
from zipquant.errors import UserError
from zipquant.frame_store import FrameReader
from zipquant.progress import Progress
from zipquant.recognizer import Part, load
from zipquant.streaming import open_session

BATCH = 64
"""Utterances that are decoded in lockstep; bounds the memory."""


class Networks(Protocol):
    """Decoder and joiner of a transducer: in onnxruntime, or in the toolkit's simulator.

    Attributes:
        context: how many tokens the decoder looks back.
    """

    context: int

    def decode(self, contexts: np.ndarray) -> np.ndarray:
        """Run the decoder on the last tokens, int64 (n, context), to float32 (n, dim)."""

    def join(self, encoded: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """Run the joiner on two float32 (n, dim), to scores of the tokens, float32 (n, tokens)."""


class OnnxNetworks:
    """Decoder and joiner in onnxruntime.

    Args:
        decoder: the decoder.
        joiner: the joiner.

    Raises:
        UserError: onnxruntime refuses one of them.
    """

    def __init__(self, decoder: Part, joiner: Part):
        self.context = decoder.inputs[0].shape[1]
        self._decoder, self._joiner = (_OnnxPart(part) for part in (decoder, joiner))

    def decode(self, contexts: np.ndarray) -> np.ndarray:
        """See `Networks.decode`."""
        return self._decoder.run(contexts)

    def join(self, encoded: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """See `Networks.join`."""
        return self._joiner.run(encoded, decoded)


class _OnnxPart:
    def __init__(self, part: Part):
        self._session = open_session(part.path)
        self._part = part

    def run(self, *arrays: np.ndarray) -> np.ndarray:
        """Run all rows in one call, or one by one where the batch is fixed."""
        if self._part.inputs[0].batch_axis is not None:
            return self._call(arrays)
        rows = [self._call([a[i : i + 1] for a in arrays]) for i in range(len(arrays[0]))]
        return np.concatenate(rows)

    def _call(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        feeds = {
            tensor.name: array.astype(tensor.dtype, copy=False)
            for tensor, array in zip(self._part.inputs, arrays, strict=True)
        }
        try:
            (out,) = self._session.run(None, feeds)
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise UserError(f"onnxruntime cannot run {self._part.path}: {error}") from None
        return out.reshape(len(out), -1)


def search_transducer(
    networks: Networks, encoded: Sequence[np.ndarray], blank: int, unknown: int | None
) -> list[list[int]]:
    """Greedy transducer search, at most one token a frame, over utterances in lockstep.

    As sherpa-onnx does it (csrc/online-transducer-greedy-search-decoder.cc): the history begins
    with -1 and, last, the blank; `<unk>` counts as a blank.

    Args:
        networks: decoder and joiner.
        encoded: encoder outputs of each utterance, float32 (frames, dim).
        blank: id of the blank.
        unknown: id of `<unk>`, or None.

    Returns:
        The token ids of each utterance.
    """
    found: list[list[int]] = [[] for _ in encoded]
    contexts = np.full((len(encoded), networks.context), -1, dtype=np.int64)
    contexts[:, -1] = blank
    lengths = np.array([len(frames) for frames in encoded])
    if not lengths.any():
        return found
    decoded = networks.decode(contexts)
    for t in range(lengths.max()):
        active = np.flatnonzero(lengths > t)
        frames = np.stack([encoded[i][t] for i in active])
        best = networks.join(frames, decoded[active]).argmax(axis=1)
        emits = (best != blank) & (best != (-1 if unknown is None else unknown))
        if not emits.any():
            continue
        lanes = active[emits]
        contexts[lanes] = np.column_stack([contexts[lanes, 1:], best[emits]])
        decoded[lanes] = networks.decode(contexts[lanes])
        for lane, token in zip(lanes, best[emits], strict=True):
            found[lane].append(int(token))
    return found


def search_ctc(encoded: np.ndarray, blank: int) -> list[int]:
    """Greedy CTC search: the best token of each frame, repetitions made one, blanks left out.

    A token that goes on over the border of two chunks counts once, as in sherpa-onnx.

    Args:
        encoded: log probabilities of one utterance, float32 (frames, tokens).
        blank: id of the blank.

    Returns:
        The token ids.
    """
    if not len(encoded):
        return []
    best = encoded.argmax(axis=1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    return [int(token) for token in best[starts] if token != blank]


def decode_shard(
    encoded: str | Path, output: str | Path, tokens: str, networks: Networks | None
) -> None:
    """Make text of the encoder outputs of a shard.

    Args:
        encoded: the frame file of encoder outputs.
        output: the table to write, see `read_texts`.
        tokens: the tokens file.
        networks: decoder and joiner; None for a CTC model.

    Raises:
        UserError: a file is damaged, or a network cannot be run.
    """
    known = vocabulary.read(tokens)
    with FrameReader(encoded) as reader, files.tsv_writer(output) as table:
        table.writerow(["utterance", "text", "tokens"])
        progress = Progress("utterances", len(reader.ids))
        positions = iter(range(len(reader.ids)))
        while group := list(islice(positions, BATCH)):
            frames = [reader.frames(position) for position in group]
            if networks:
                found = search_transducer(networks, frames, known.blank, known.unknown)
            else:
                found = [search_ctc(utterance, known.blank) for utterance in frames]
            for position, ids in zip(group, found, strict=True):
                table.writerow([reader.ids[position], known.text(ids), " ".join(map(str, ids))])
                progress.advance()


def decode_shard_float(
    encoded: str | Path,
    output: str | Path,
    tokens: str,
    decoder: str | None = None,
    joiner: str | None = None,
) -> None:
    """Make text of the encoder outputs of a shard with decoder and joiner in onnxruntime.

    Args:
        encoded: the frame file of encoder outputs.
        output: the table to write, see `read_texts`.
        tokens: the tokens file.
        decoder: the decoder's ONNX file; None for a CTC model.
        joiner: the joiner's ONNX file; None for a CTC model.

    Raises:
        UserError: a file is damaged, or a network cannot be run.
    """
    recognizer = load(tokens, decoder, joiner)
    networks = None
    if recognizer.decoder and recognizer.joiner:
        networks = OnnxNetworks(recognizer.decoder, recognizer.joiner)
    decode_shard(encoded, output, tokens, networks)


def read_texts(paths: Iterable[str | Path]) -> dict[str, str]:
    """Read the tables of some shards that `decode_shard` has written: texts by utterance id."""
    texts = {}
    for path in paths:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file, dialect="excel-tab"):
                texts[row["utterance"]] = row["text"]
    return texts
