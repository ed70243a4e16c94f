"""Reading audio files as the samples that the speech recogniser would see."""

from pathlib import Path

import librosa
import numpy as np
import soundfile

from zipquant.errors import UserError

SAMPLE_RATE = 16000
"""Hz; what every published streaming Zipformer is trained with and sherpa-onnx resamples to."""


def load(path: str | Path, channels: str = "mean") -> np.ndarray:
    """Read a wav or flac file as mono samples at 16 kHz.

    Other rates go through soxr's high quality resampler (librosa's `soxr_hq`), which is sharper
    than the linear resampler inside sherpa-onnx: feed a board with 16 kHz audio.

    Args:
        path: the audio file.
        channels: `mean` to mix all channels down, `first` to take the first one.

    Returns:
        float32 samples in [-1, 1], shape (samples,).

    Raises:
        UserError: the file cannot be read as audio, is empty, or holds NaN or infinite samples.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise UserError(f"{path}: not readable as audio ({error})") from None
    if not len(samples):
        raise UserError(f"{path}: holds no samples")
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: holds NaN or infinite samples")
    mono = samples[:, 0] if channels == "first" else samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    return np.ascontiguousarray(mono, dtype=np.float32)
