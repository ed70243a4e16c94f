"""Reading audio files as the samples that the speech recogniser would see."""

import math
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr

from zipquant.board.fbank import SAMPLE_RATE
from zipquant.errors import UserError

CLIPPED = 0.999
"""A sample of this size or more stands at full scale: 32735 of 32767 in 16 bits."""

CLIPPED_SHARE = 0.001
"""Speech touches full scale now and then; one sample in a thousand there is distortion."""

SILENT = 0.001
"""Audio that never gets louder than this (-60 dB of full scale) holds no speech."""

LONGEST = 70 * 60
"""Seconds; an utterance lies in memory as a whole: 270 MB of samples."""

LOWEST_RATE, HIGHEST_RATE = 4000, 768000
"""Hz; a header may hold any number, and a low one makes a small file a long one at 16 kHz."""

BLOCK = 1 << 20
"""Values, of all channels together, that are read at once."""

UNKNOWN_LENGTH = 0x7FFFF000
"""Programs that write wav to a pipe put this or more for the length they do not know."""


def load(path: str | Path, channels: str = "mean") -> np.ndarray:
    """Return the samples of `read`, without its remarks."""
    return read(path, channels)[0]


def read(path: str | Path, channels: str = "mean") -> tuple[np.ndarray, str]:
    """Read a wav or flac file as mono samples at 16 kHz.

    Other rates go through soxr's high quality resampler, which is sharper than the linear one
    inside sherpa-onnx: feed a board with 16 kHz audio.

    Args:
        path: the audio file.
        channels: `mean` to mix all channels down, `first` to take the first one.

    Returns:
        float32 samples in [-1, 1], shape (samples,), and what is odd about usable audio: an empty
        string, or a remark such as that it is silent.

    Raises:
        UserError: the file cannot be read as audio, is empty or longer than `LONGEST`, has an odd
            rate, or holds NaN or infinite samples.
    """
    speech, total, peak, clipped = [], 0, 0.0, 0
    try:
        with soundfile.SoundFile(path) as file:
            rate, header = file.samplerate, file.extra_info
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise UserError(f"{path}: a sample rate of {rate} Hz is not one of speech")
            resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
            # Block by block: memory depends on neither the channels nor what the header promises.
            while len(block := file.read(max(1, BLOCK // file.channels), "float32", True)):
                if not np.isfinite(block).all():
                    raise UserError(f"{path}: holds NaN or infinite samples")
                mono = np.ascontiguousarray(
                    block[:, 0] if channels == "first" else block.mean(axis=1)
                )
                total += len(mono)
                if total > LONGEST * rate:
                    raise UserError(f"{path}: is longer than {LONGEST // 60} minutes; split it")
                loud = np.abs(mono)
                peak, clipped = max(peak, loud.max()), clipped + np.sum(loud >= CLIPPED)
                speech.append(mono if rate == SAMPLE_RATE else resampler.resample_chunk(mono))
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError) as error:
        raise UserError(f"{path}: not readable as audio ({error})") from None
    if not total:
        raise UserError(f"{path}: holds no samples")
    if rate != SAMPLE_RATE:
        speech.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    # The resampler may give a sample more or less than the duration is.
    length = math.ceil(total * SAMPLE_RATE / rate)
    samples = np.zeros(length, dtype=np.float32)
    place = 0
    for part in speech:
        part = part[: length - place]
        samples[place : place + len(part)] = part
        place += len(part)
    return samples, _remark(peak, clipped / total, header)


def _remark(peak: float, clipped: float, header: str) -> str:
    """Say what is odd about audio.

    Args:
        peak: the largest absolute sample.
        clipped: the share of samples at full scale.
        header: libsndfile's report of the file's structure.
    """
    remarks = []
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", header)
    if sizes and int(sizes[2]) < int(sizes[1]) < UNKNOWN_LENGTH:
        part = int(sizes[2]) / int(sizes[1])
        remarks.append(f"is cut off: its header promises more, {part:.0%} is there")
    if peak < SILENT:
        remarks.append("is silent")
    elif clipped >= CLIPPED_SHARE:
        remarks.append(f"is clipped: {clipped:.1%} of its samples stand at full scale")
    return ", ".join(remarks)
