"""The keyword search of sherpa-onnx. It runs on a board too, so it needs nothing but numpy.

Written after sherpa-onnx's csrc/transducer-keyword-decoder.cc and csrc/hypothesis.cc, and for the
resets after csrc/keyword-spotter-transducer-impl.h; csrc/rknn has the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from zipquant.board.greedy_search import Networks
from zipquant.board.keywords import Graph, Keyword, Node
from zipquant.board.vocabulary import Vocabulary

PATHS = 4
"""Hypotheses that go on from frame to frame (max_active_paths)."""

TRAILING_BLANKS = 1
"""A keyword is heard when more blanks than this follow it (num_trailing_blanks)."""

FRAME_SECONDS = 0.04
"""What sherpa-onnx takes a frame of the encoder output for."""

SILENCE_SECONDS = 1.5
"""After so many blanks a stream begins again, its encoder's states too."""


@dataclass(frozen=True)
class Hit:
    """A keyword that was heard.

    Attributes:
        keyword: which.
        frames: when each of its tokens came, in frames of the encoder output since the stream
            began, or began again.
        probability: the mean of its tokens' probabilities.
        begun: frames of the encoder output before the stream began again.
    """

    keyword: Keyword
    frames: tuple[int, ...]
    probability: float
    begun: int = 0

    @property
    def seconds(self) -> float:
        """When its first token came, since the beginning of the utterance."""
        return (self.begun + self.frames[0]) * FRAME_SECONDS


class Stream(Protocol):
    """The encoder on one utterance.

    Attributes:
        chunks: how many the utterance has.
    """

    chunks: int

    def encode(self, chunk: int) -> np.ndarray:
        """Return the encoder output of the next chunk, float32 (frames, dim)."""

    def restart(self) -> None:
        """Set the encoder's states to zero."""


@dataclass(frozen=True)
class _Path:
    """A hypothesis.

    Attributes:
        context: all tokens since it last was at the root of the graph, behind what it began with.
        node: where it is in the graph.
        score: log probability, with the boosts.
        frames: when each token came.
        probabilities: of each token.
        blanks: how many have come since the last token.
    """

    context: tuple[int, ...]
    node: Node
    score: float = 0.0
    frames: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    blanks: int = 0


@dataclass
class KeywordSearch:
    """Looks for keywords in one stream, a chunk after the other.

    Attributes:
        networks: decoder and joiner.
        graph: the keywords.
        known: the model's tokens; its blank has the id 0.
    """

    networks: Networks
    graph: Graph
    known: Vocabulary
    _decoded: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._first = (-1,) * (self.networks.context - 1) + (self.known.blank,)
        self.reset()

    def reset(self) -> None:
        """Begin again, as after a keyword and after a silence."""
        self._paths, self._frame = [_Path(self._first, self.graph.root)], 0
        # The decoder's outputs are kept, as few of its inputs differ; but not for ever.
        self._decoded.clear()

    @property
    def is_silent(self) -> bool:
        """Whether so many blanks have come that sherpa-onnx begins again before the next chunk."""
        return _best(self._paths).blanks * FRAME_SECONDS > SILENCE_SECONDS

    def accept(self, encoded: np.ndarray) -> Hit | None:
        """Return the keyword that is heard in a chunk; of several in one chunk, the last.

        Args:
            encoded: encoder output, float32 (frames, dim).
        """
        hit = None
        for frame in encoded:
            self._advance(frame)
            hit = self._heard() or hit
            self._frame += 1
        return hit

    def _advance(self, frame: np.ndarray) -> None:
        """Let each path go on with each token, and keep the best."""
        paths, size = self._paths, self.networks.context
        decoded = np.stack([self._decode(path.context[-size:]) for path in paths])
        encoded = np.repeat(frame[None], len(paths), axis=0)
        log_probs = _log_softmax(self.networks.join(encoded, decoded))
        scores = log_probs + np.array([[path.score] for path in paths], dtype=np.float32)
        flat = scores.ravel()
        top = np.argpartition(-flat, PATHS - 1)[:PATHS] if flat.size > PATHS else range(flat.size)
        found: dict[tuple[int, ...], _Path] = {}
        for position in sorted(top, key=lambda position: -flat[position]):
            row, token = divmod(int(position), log_probs.shape[1])
            path = self._go_on(paths[row], token, flat[position], log_probs[row, token])
            same = found.get(path.context)
            # Paths with the same tokens are one, with the history of the better one.
            score = np.logaddexp(float(same.score), float(path.score)) if same else path.score
            found[path.context] = replace(same or path, score=score)
        self._paths = list(found.values())

    def _go_on(self, path: _Path, token: int, score: float, log_prob: float) -> _Path:
        if token in (self.known.blank, self.known.unknown):
            return replace(path, score=score, blanks=path.blanks + 1)
        boost, node = self.graph.step(path.node, token)
        score = np.float32(score + boost)
        if node is self.graph.root:
            return _Path(self._first, node, score)
        return _Path(
            (*path.context, token),
            node,
            score,
            (*path.frames, self._frame),
            (*path.probabilities, float(np.exp(log_prob))),
        )

    def _decode(self, context: tuple[int, ...]) -> np.ndarray:
        if context not in self._decoded:
            given = np.array([context], dtype=np.int64)
            self._decoded[context] = self.networks.decode(given)[0]
        return self._decoded[context]

    def _heard(self) -> Hit | None:
        """Return the keyword that the best path has heard, and begin again after it."""
        best = _best(self._paths)
        match = best.node.match
        if not match or best.blanks <= TRAILING_BLANKS:
            return None
        # The first tokens of the path, which are others where the keyword is but its end; so it is
        # in sherpa-onnx.
        probability = sum(best.probabilities[: match.level]) / match.level
        if probability < match.ends.threshold:
            return None
        self._paths = [_Path(self._first, self.graph.root)]
        return Hit(match.ends, best.frames[-match.level :], probability)


def spot(search: KeywordSearch, stream: Stream) -> Iterator[tuple[int, Hit]]:
    """Look for keywords in an utterance as sherpa-onnx's program for one file does.

    After each keyword, and before the chunk that follows a silence, search and encoder begin again
    (DecodeStream, and csrc/sherpa-onnx-keyword-spotter.cc).

    Args:
        search: a search that has just begun.
        stream: the encoder.

    Yields:
        The keywords, each with the chunk in which it was heard.
    """
    begun = done = 0
    for chunk in range(stream.chunks):
        if search.is_silent:
            search.reset()
            stream.restart()
            begun = done
        encoded = stream.encode(chunk)
        hit = search.accept(encoded)
        done += len(encoded)
        if hit:
            yield chunk, replace(hit, begun=begun)
            search.reset()
            stream.restart()
            begun = done


def _best(paths: list[_Path]) -> _Path:
    return max(paths, key=lambda path: path.score)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return log probabilities, float32 (rows, tokens), of scores."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
