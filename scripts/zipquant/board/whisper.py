"""What makes Whisper's features of logarithms of mel energy, chunk by chunk.

The logarithms are those of a frame alone (`fbank.whisper_log_mel`). What the encoder takes is
bounded by the loudest value of its chunk, so a frame that is in two chunks may differ between them.
"""

import math

import numpy as np

LEAST, RANGE, SCALE = 1e-10, 8.0, 4.0
"""The least mel energy; how far below the loudest value of a chunk the others may lie, in powers of
ten; and the number that is added to all and that divides them then. NormalizeFeatures in
sherpa-onnx's csrc/offline-whisper-model.cc has them, from log_mel_spectrogram of OpenAI's
whisper/audio.py."""


def normalise(chunk: np.ndarray) -> np.ndarray:
    """Return what the encoder takes for a chunk.

    Args:
        chunk: decimal logarithms of mel energy, float32 (frames, bins).
    """
    raised = np.maximum(chunk, chunk.max() - np.float32(RANGE))
    return (raised + np.float32(SCALE)) / np.float32(SCALE)


def from_natural(log_mel: np.ndarray) -> np.ndarray:
    """Return what the encoder takes for a chunk of natural logarithms of mel energy."""
    return normalise(log_mel / np.float32(math.log(10)))


def to_natural(mean: np.ndarray) -> np.ndarray:
    """Return means of what the encoder takes as natural logarithms of mel energy."""
    return (mean * SCALE - SCALE) * math.log(10)
