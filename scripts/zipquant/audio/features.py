"""Log-mel features, computed by the library that sherpa-onnx itself computes them with.

Other front ends exist only to measure what became of older calibration sets.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from zipquant.audio import index, librosa_front_ends, reading
from zipquant.audio.frame_store import FrameWriter
from zipquant.board.fbank import fbank
from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.jobs.progress import Progress

FRONT_ENDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "kaldi": fbank,
    "librosa-db": librosa_front_ends.librosa_db,
    "librosa-preemphasis": librosa_front_ends.librosa_preemphasis,
}
"""All take float32 samples at 16 kHz and return float32 features, shape (frames, 80)."""


def extract(
    path: str | Path,
    channels: str,
    tail_padding: float,
    front_end: str = "kaldi",
    span: tuple[float, float | None] = (0.0, None),
) -> np.ndarray:
    """Compute the features of one audio file; with `kaldi`, as they arise at run time.

    Args:
        path: an audio file.
        channels: `mean` or `first`, see `audio.load`.
        tail_padding: seconds of silence appended, so that the last words leave the encoder.
        front_end: a key of `FRONT_ENDS`.
        span: which part of the file, in seconds; None for its end.

    Returns:
        float32 log-mel features, shape (frames, 80).

    Raises:
        UserError: the file is not usable as audio.
    """
    samples = reading.load(path, channels, *span)
    padding = np.zeros(round(tail_padding * reading.SAMPLE_RATE), dtype=np.float32)
    return FRONT_ENDS[front_end](np.concatenate([samples, padding]))


def extract_shard(
    index_file: str | Path,
    output: str | Path,
    channels: str,
    tail_padding: float,
    front_end: str = "kaldi",
) -> None:
    """Compute the features of a shard's usable utterances into one feature file.

    Args:
        index_file: the shard's index, written by `index.write`.
        output: the feature file to write.
        channels: `mean` or `first`, see `audio.load`.
        tail_padding: seconds of silence appended to each utterance.
        front_end: a key of `FRONT_ENDS`.

    Raises:
        UserError: a file of the index has vanished or has changed since it was indexed.
    """
    entries = index.read_usable(index_file)
    progress = Progress("utterances", len(entries))
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
            frames = extract(entry.path, channels, tail_padding, front_end, entry.span)
            writer.add(entry.id, frames)
            progress.advance()
