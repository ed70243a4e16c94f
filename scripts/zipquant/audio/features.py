"""Features, computed by the library that sherpa-onnx itself computes them with.

Other front ends exist only to measure what became of older calibration sets.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zipquant.audio import index, librosa_front_ends, reading
from zipquant.audio.frame_store import FrameWriter
from zipquant.board.description import BINS
from zipquant.board.fbank import fbank, whisper_log_mel
from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.jobs.progress import Progress

OLDER: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "librosa-db": librosa_front_ends.librosa_db,
    "librosa-preemphasis": librosa_front_ends.librosa_preemphasis,
}
"""Front ends of older scripts, of 80 bins. Like the runtime's they take float32 samples at 16 kHz
and return float32 features, shape (frames, bins)."""

FRONT_ENDS = ("kaldi", *OLDER)
"""The runtime's by kaldi-native-fbank, and those."""


@dataclass(frozen=True)
class FrontEnd:
    """How features are computed.

    Attributes:
        name: one of `FRONT_ENDS`.
        features: what the model takes: `fbank` or `whisper`, see `Contract.features`.
        bins: mel bins of a frame.
    """

    name: str = "kaldi"
    features: str = "fbank"
    bins: int = BINS

    def compute(self, samples: np.ndarray) -> np.ndarray:
        """Return the frames of an utterance, to be cut with `Contract.chunk`.

        Args:
            samples: float32 samples at 16 kHz in [-1, 1], shape (samples,).

        Returns:
            float32, shape (frames, bins).
        """
        if self.name in OLDER:
            return OLDER[self.name](samples)
        return (whisper_log_mel if self.features == "whisper" else fbank)(samples, self.bins)


RUNTIME = FrontEnd()
"""That of all models but a few."""


def extract(
    path: str | Path,
    channels: str,
    tail_padding: float,
    front_end: FrontEnd = RUNTIME,
    span: tuple[float, float | None] = (0.0, None),
) -> np.ndarray:
    """Compute the features of one audio file.

    Args:
        path: an audio file.
        channels: `mean` or `first`, see `audio.load`.
        tail_padding: seconds of silence appended, so that the last words leave the encoder.
        front_end: how.
        span: which part of the file, in seconds; None for its end.

    Returns:
        float32 features, shape (frames, bins).

    Raises:
        UserError: the file is not usable as audio.
    """
    samples = reading.load(path, channels, *span)
    padding = np.zeros(round(tail_padding * reading.SAMPLE_RATE), dtype=np.float32)
    return front_end.compute(np.concatenate([samples, padding]))


def extract_shard(
    index_file: str | Path,
    output: str | Path,
    channels: str,
    tail_padding: float,
    front_end: Mapping[str, Any] | None = None,
) -> None:
    """Compute the features of a shard's usable utterances into one feature file.

    Args:
        index_file: the shard's index, written by `index.write`.
        output: the feature file to write.
        channels: `mean` or `first`, see `audio.load`.
        tail_padding: seconds of silence appended to each utterance.
        front_end: the attributes of a `FrontEnd`; None for `RUNTIME`.

    Raises:
        UserError: a file of the index has vanished or has changed since it was indexed.
    """
    entries = index.read_usable(index_file)
    progress = Progress("utterances", len(entries))
    how = FrontEnd(**front_end) if front_end else RUNTIME
    checked = None
    with FrameWriter(output) as writer:
        for entry in entries:
            # The parts of a recording come one after the other.
            if entry.path != checked and (
                not os.path.isfile(entry.path) or files.sha256(entry.path) != entry.sha256
            ):
                raise UserError(
                    f"{entry.path} has changed since it was indexed: run the same command again"
                )
            checked = entry.path
            frames = extract(entry.path, channels, tail_padding, how, entry.span)
            writer.add(entry.id, frames)
            progress.advance()
