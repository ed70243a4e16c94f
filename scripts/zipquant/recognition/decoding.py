"""From encoder outputs to text, many utterances at once."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from zipquant.audio.frame_store import FrameReader
from zipquant.board import vocabulary
from zipquant.board.greedy_search import Networks, search_ctc, search_transducer
from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.jobs.progress import Progress
from zipquant.model.recognizer import Part, Recognizer, load
from zipquant.model.streaming import open_session

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


def recognizer(
    tokens: str, decoder: str | None = None, joiner: str | None = None
) -> Callable[[Sequence[np.ndarray]], list[str]]:
    """Return what makes texts of encoder outputs, with decoder and joiner in onnxruntime.

    Args:
        tokens: the tokens file.
        decoder: the decoder's ONNX file; None for a CTC model.
        joiner: the joiner's ONNX file; None for a CTC model.

    Returns:
        A function from encoder outputs of each utterance, float32 (frames, dim), to their texts.

    Raises:
        UserError: the files do not belong together, or onnxruntime refuses one.
    """
    known, networks = vocabulary.read(tokens), _networks(load(tokens, decoder, joiner))

    def recognize(encoded: Sequence[np.ndarray]) -> list[str]:
        groups = [encoded[start : start + BATCH] for start in range(0, len(encoded), BATCH)]
        return [known.text(ids) for group in groups for ids in _search(group, known, networks)]

    return recognize


def _networks(found: Recognizer) -> OnnxNetworks | None:
    if found.decoder and found.joiner:
        return OnnxNetworks(found.decoder, found.joiner)
    return None


def _search(
    encoded: Sequence[np.ndarray], known: vocabulary.Vocabulary, networks: Networks | None
) -> list[list[int]]:
    """Return the token ids of utterances, by the search that their model takes."""
    if networks:
        return search_transducer(networks, encoded, known.blank, known.unknown)
    return [search_ctc(utterance, known.blank) for utterance in encoded]


def decode_shard(
    encoded: str | Path, output: str | Path, tokens: str, networks: Networks | None
) -> None:
    """Make text of the encoder outputs of a shard.

    Args:
        encoded: the frame file of encoder outputs.
        output: the table to write, see `texts.read_texts`.
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
            found = _search(frames, known, networks)
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
        output: the table to write, see `texts.read_texts`.
        tokens: the tokens file.
        decoder: the decoder's ONNX file; None for a CTC model.
        joiner: the joiner's ONNX file; None for a CTC model.

    Raises:
        UserError: a file is damaged, or a network cannot be run.
    """
    decode_shard(encoded, output, tokens, _networks(load(tokens, decoder, joiner)))
