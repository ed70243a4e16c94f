"""Reading audio files as the samples that the speech recogniser would see."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from zipquant.audio import ffmpeg
from zipquant.board.fbank import SAMPLE_RATE
from zipquant.errors import UserError

CLIPPED = 0.999
"""A sample of this size or more stands at full scale: 32735 of 32767 in 16 bits."""

CLIPPED_SHARE = 0.001
"""Speech touches full scale now and then; one sample in a thousand there is distortion."""

SILENT = 0.001
"""Audio that never gets louder than this (-60 dB of full scale) holds no speech."""

IS_SILENT = "is silent"
"""The remark on it."""

LONGEST = 70 * 60
"""Seconds; an utterance lies in memory as a whole: 270 MB of samples."""

LOWEST_RATE, HIGHEST_RATE = 4000, 768000
"""Hz; a header may hold any number, and a low one makes a small file a long one at 16 kHz."""

FRAME = 0.01
"""Seconds of which the loudness is measured."""

PART_TOLERANCE = 0.1
"""Seconds that a part may lack at its end; times in manifests are rounded."""

BLOCK = 1 << 20
"""Values, of all channels together, that are read at once."""

UNKNOWN_LENGTH = 0x7FFFF000
"""Programs that write wav to a pipe put this or more for the length they do not know."""


def load(
    path: str | Path, channels: str = "mean", start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """Return the samples of `read`, without its remarks."""
    return read(path, channels, start, end)[0]


def read(
    path: str | Path, channels: str = "mean", start: float = 0.0, end: float | None = None
) -> tuple[np.ndarray, str]:
    """Read an audio file, or a part of one, as mono samples at 16 kHz.

    Other rates go through soxr's high quality resampler, which is sharper than the linear one
    inside sherpa-onnx: feed a board with 16 kHz audio.

    Args:
        path: a file in one of the formats that libsndfile or FFmpeg reads.
        channels: `mean` to mix all channels down, `first` to take the first one.
        start: where the part begins, in seconds.
        end: where it ends; None for the end of the file.

    Returns:
        float32 samples in [-1, 1], shape (samples,), and what is odd about usable audio: an empty
        string, or a remark such as that it is silent.

    Raises:
        UserError: the file cannot be read as audio, is empty or longer than `LONGEST`, has an odd
            rate, holds NaN or infinite samples, or ends before the part does.
    """
    speech, seen = [], _Seen()
    with _opened(path) as file:
        rate = file.samplerate
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        for mono in _blocks(path, file, channels, start, end):
            seen.add(mono)
            if seen.total > LONGEST * rate:
                raise UserError(
                    f"{path}: is longer than {LONGEST // 60} minutes; cut it (audio.cut does)"
                )
            speech.append(mono if rate == SAMPLE_RATE else resampler.resample_chunk(mono))
        if not seen.total:
            raise UserError(f"{path}: holds no samples" + (f" behind {start:g} s" if start else ""))
        if rate != SAMPLE_RATE:
            speech.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
        header = file.extra_info
    # The resampler may give a sample more or less than the duration is.
    length = math.ceil(seen.total * SAMPLE_RATE / rate)
    samples = np.zeros(length, dtype=np.float32)
    place = 0
    for part in speech:
        part = part[: length - place]
        samples[place : place + len(part)] = part
        place += len(part)
    return samples, _remark(seen.peak, seen.clipped / seen.total, header)


@dataclass(frozen=True)
class Scan:
    """What one pass over a file shows, without the file in memory.

    Attributes:
        seconds: how long it is.
        remark: what is odd about it, see `read`.
        loudness: root mean square of each `FRAME` seconds, float32.
    """

    seconds: float
    remark: str
    loudness: np.ndarray


def scan(path: str | Path, channels: str = "mean") -> Scan:
    """Go over a file of any length once.

    Args:
        path: see `read`.
        channels: see there.

    Raises:
        UserError: see there, but for the length.
    """
    seen, loudness, rest = _Seen(), [], np.zeros(0, dtype=np.float32)
    with _opened(path) as file:
        rate, size = file.samplerate, round(FRAME * file.samplerate)
        for mono in _blocks(path, file, channels, 0.0, None):
            seen.add(mono)
            joined = np.concatenate([rest, mono])
            whole = len(joined) // size * size
            squares = np.square(joined[:whole].reshape(-1, size))
            loudness.append(np.sqrt(squares.mean(axis=1)).astype(np.float32))
            rest = joined[whole:]
        header = file.extra_info
    if not seen.total:
        raise UserError(f"{path}: holds no samples")
    remark = _remark(seen.peak, seen.clipped / seen.total, header)
    return Scan(seen.total / rate, remark, np.concatenate(loudness))


class _Seen:
    """Counts samples, and what is odd about them."""

    def __init__(self):
        self.total, self.peak, self.clipped = 0, 0.0, 0

    def add(self, mono: np.ndarray) -> None:
        loud = np.abs(mono)
        self.total += len(mono)
        self.peak = max(self.peak, float(loud.max()))
        self.clipped += int(np.sum(loud >= CLIPPED))


def rate_of(path: str | Path) -> int:
    """Return the sample rate of a file in Hz; see `read` for errors."""
    with _opened(path) as file:
        return file.samplerate


@contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile | ffmpeg.AudioStream]:
    try:
        with ffmpeg.AudioStream(path) if ffmpeg.is_for(path) else soundfile.SoundFile(path) as file:
            if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
                raise UserError(
                    f"{path}: a sample rate of {file.samplerate} Hz is not one of speech"
                )
            yield file
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError) as error:
        raise UserError(f"{path}: not readable as audio ({error})") from None


def _blocks(
    path: str | Path,
    file: soundfile.SoundFile | ffmpeg.AudioStream,
    channels: str,
    start: float,
    end: float | None,
) -> Iterator[np.ndarray]:
    """Yield mono samples block by block: memory depends on neither channels nor length."""
    rate = file.samplerate
    left = math.inf if end is None else round(end * rate) - round(start * rate)
    if start:
        file.seek(min(round(start * rate), file.frames))
    while left > 0:
        count = int(min(max(1, BLOCK // file.channels), left))
        block = file.read(count, "float32", True)
        if not len(block):
            if end is not None and left > PART_TOLERANCE * rate:
                raise UserError(f"{path}: ends before {end:g} s, where a part of it should end")
            return
        if not np.isfinite(block).all():
            raise UserError(f"{path}: holds NaN or infinite samples")
        left -= len(block)
        yield np.ascontiguousarray(block[:, 0] if channels == "first" else block.mean(axis=1))


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
        remarks.append(IS_SILENT)
    elif clipped >= CLIPPED_SHARE:
        remarks.append(f"is clipped: {clipped:.1%} of its samples stand at full scale")
    return ", ".join(remarks)
