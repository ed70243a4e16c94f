"""Which keywords a model hears in the evaluation audio, by sherpa-onnx's own search."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zipquant.audio.frame_store import FrameReader
from zipquant.board import keywords, vocabulary
from zipquant.board.fbank import FRAMES_PER_SECOND
from zipquant.board.keyword_search import KeywordSearch, spot
from zipquant.errors import UserError
from zipquant.evaluation.measures import EMULATION
from zipquant.jobs import files
from zipquant.jobs.progress import Progress
from zipquant.model.contract import Contract
from zipquant.model.recognizer import load
from zipquant.model.streaming import Encoder, OnnxEncoder
from zipquant.recognition.decoding import OnnxNetworks
from zipquant.recognition.encoding import as_frames
from zipquant.variants.opening import Place, open_emulation, open_encoder


@dataclass(frozen=True)
class Model:
    """The encoder that is heard with.

    Attributes:
        float32: the float model's ONNX file.
        contract: the file of its contract.
        folder: the variant's folder; None for the float model.
        prepared: the ONNX file that the variant was built from; None likewise.
        time: what ran the variant, written by `encoder_error.evaluate_shard`; None likewise.
    """

    float32: str | Path
    contract: str | Path
    folder: str | Path | None = None
    prepared: str | Path | None = None
    time: str | Path | None = None


@dataclass(frozen=True)
class Search:
    """What is looked for, and with what.

    Attributes:
        keywords: the keywords file.
        tokens: the tokens file.
        decoder: the decoder's ONNX file.
        joiner: the joiner's ONNX file.
    """

    keywords: str | Path
    tokens: str
    decoder: str
    joiner: str


def spot_shard(
    model: Model,
    search: Search,
    features: str | Path,
    encoded: str | Path,
    output: str | Path,
    place: Place | None = None,
) -> None:
    """Look for the keywords in a shard, with decoder and joiner in onnxruntime.

    The encoder outputs of the evaluation are taken as far as they go: up to the first keyword or
    long silence of an utterance, where sherpa-onnx begins again with an encoder whose states are
    zero. Only from there on the encoder runs once more, in what ran it before.

    Args:
        model: the encoder.
        search: the keywords.
        features: the shard's feature file.
        encoded: the frame file of its encoder outputs; empty of a variant that was not built.
        output: the JSON file to write: by utterance its `seconds`, the silence at its end not
            counted as less, and `hits`, pairs of a keyword and the second at which it begins.
        place: where the variant runs; None for the simulator.

    Raises:
        UserError: a file is damaged, a network cannot be run, or there is no such board.
    """
    contract = Contract.load(model.contract)
    parts, known = (
        load(search.tokens, search.decoder, search.joiner),
        vocabulary.read(search.tokens),
    )
    if not parts.decoder or not parts.joiner:
        raise UserError("the keyword search needs a transducer: set model.decoder and model.joiner")
    networks = OnnxNetworks(parts.decoder, parts.joiner)
    graph = keywords.Graph(keywords.read(search.keywords, known))
    opened = _Opened(lambda: _open(model, contract, place or Place()))
    found = {}
    with FrameReader(features) as given, FrameReader(encoded) as kept:
        progress = Progress("utterances", len(kept.ids))
        for position, name in enumerate(kept.ids):
            # The two files have the same utterances in the same order.
            frames = given.frames(position)
            stream = _Stream(opened, contract, frames, kept.frames(position))
            hits = spot(KeywordSearch(networks, graph, known), stream)
            found[name] = {
                "seconds": len(frames) / FRAMES_PER_SECOND,
                "hits": [[hit.keyword.name, round(hit.seconds, 2)] for _, hit in hits],
            }
            progress.advance()
    files.write_json(output, found)


class _Opened:
    """An encoder that is opened when it is needed first: setting up the simulator takes long."""

    def __init__(self, opening: Callable[[], Encoder]):
        self._opening = opening
        self._encoder: Encoder | None = None

    def __call__(self) -> Encoder:
        self._encoder = self._encoder or self._opening()
        return self._encoder


def _open(model: Model, contract: Contract, place: Place) -> Encoder:
    """Open the encoder in what ran it in the evaluation."""
    if model.folder is None or model.prepared is None:
        return OnnxEncoder(model.float32, contract)
    if model.time and files.read_json(model.time)["target"] == EMULATION:
        emulated = open_emulation(model.folder, contract)
        if emulated:
            return emulated
    return open_encoder(model.folder, model.prepared, contract, place)


class _Stream:
    """An utterance of which the encoder outputs are known as long as it does not begin again."""

    def __init__(self, opened: _Opened, contract: Contract, frames: np.ndarray, kept: np.ndarray):
        self.chunks = contract.chunk_count(len(frames))
        self._opened, self._contract, self._frames = opened, contract, frames
        self._kept = np.split(kept, self.chunks) if self.chunks else []
        self._states: list[np.ndarray] | None = None

    def encode(self, chunk: int) -> np.ndarray:
        """See `keyword_search.Stream.encode`."""
        if self._states is None:
            return self._kept[chunk]
        x = self._contract.chunk(self._frames, chunk * self._contract.chunk_shift)
        encoder_out, self._states = self._opened().run(x[None], self._states)
        return as_frames(encoder_out)

    def restart(self) -> None:
        """See `keyword_search.Stream.restart`."""
        self._states = [state.tensor.zeros() for state in self._contract.states]
