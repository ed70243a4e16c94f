"""The greedy searches of sherpa-onnx. They run on a board too, so they need nothing but numpy."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


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
