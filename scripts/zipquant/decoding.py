"""From encoder outputs to text, many utterances at once."""

import csv
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from zipquant import files, vocabulary
from zipquant.errors import UserError
from zipquant.frame_store import FrameReader
from zipquant.progress import Progress
from zipquant.recognizer import Part, load
from zipquant.search import Networks, search_ctc, search_transducer
from zipquant.streaming import open_session

BATCH = 64
"""Utterances that are decoded in lockstep; bounds the memory."""


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
        """See `search.Networks.decode`."""
        return self._decoder.run(contexts)

    def join(self, encoded: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """See `search.Networks.join`."""
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
