"""Reading audio files as the samples that the speech recogniser would see."""

import re
from pathlib import Path

import librosa
import numpy as np
import soundfile

from zipquant.errors import UserError
from zipquant.fbank import SAMPLE_RATE

CLIPPED = 0.999
"""A sample of this size or more stands at full scale: 32735 of 32767 in 16 bits."""

CLIPPED_SHARE = 0.001
"""Speech touches full scale now and then; one sample in a thousand there is distortion."""

SILENT = 0.001
"""Audio that never gets louder than this (-60 dB of full scale) holds no speech."""

UNKNOWN_LENGTH = 0x7FFFF000
"""Programs that write wav to a pipe put this or more for the length they do not know."""


def load(path: str | Path, channels: str = "mean") -> np.ndarray:
    """Return the samples of `read`, without its remarks."""
    return read(path, channels)[0]


def read(path: str | Path, channels: str = "mean") -> tuple[np.ndarray, str]:
    """Read a wav or flac file as mono samples at 16 kHz.

    Other rates go through soxr's high quality resampler (librosa's `soxr_hq`), which is sharper
    than the linear resampler inside sherpa-onnx: feed a board with 16 kHz audio.

    Args:
        path: the audio file.
        channels: `mean` to mix all channels down, `first` to take the first one.

    Returns:
        float32 samples in [-1, 1], shape (samples,), and what is odd about usable audio: an empty
        string, or a remark such as that it is silent.

    Raises:
        UserError: the file cannot be read as audio, is empty, or holds NaN or infinite samples.
    """
    try:
        with soundfile.SoundFile(path) as file:
            samples = file.read(dtype="float32", always_2d=True)
            rate, header = file.samplerate, file.extra_info
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError) as error:
        raise UserError(f"{path}: not readable as audio ({error})") from None
    if not len(samples):
        raise UserError(f"{path}: holds no samples")
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: holds NaN or infinite samples")
    mono = samples[:, 0] if channels == "first" else samples.mean(axis=1)
    remark = _remark(mono, header)
    if rate != SAMPLE_RATE:
        mono = librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    return np.ascontiguousarray(mono, dtype=np.float32), remark


def _remark(mono: np.ndarray, header: str) -> str:
    """Say what is odd about audio; `header` is libsndfile's report of the file's structure."""
    remarks = []
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", header)
    if sizes and int(sizes[2]) < int(sizes[1]) < UNKNOWN_LENGTH:
        part = int(sizes[2]) / int(sizes[1])
        remarks.append(f"is cut off: its header promises more, {part:.0%} is there")
    loud = np.abs(mono)
    if loud.max() < SILENT:
        remarks.append("is silent")
    elif (share := np.mean(loud >= CLIPPED)) >= CLIPPED_SHARE:
        remarks.append(f"is clipped: {share:.1%} of its samples stand at full scale")
    return ", ".join(remarks)
