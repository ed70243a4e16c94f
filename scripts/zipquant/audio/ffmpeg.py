"""Audio that libsndfile does not read, such as m4a and webm: through PyAV, which carries FFmpeg."""

import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from zipquant.audio.utterance import FFMPEG_SUFFIXES

FORMATS = (
    *("mov", "aac", "asf", "amr", "matroska", "ape", "wv", "tta", "ac3", "eac3", "mpeg", "mpegts"),
    *("avi", "flv", "caf", "wav", "mp3", "ogg", "flac", "loas"),
)
"""Formats that are tried, by FFmpeg's names; mov stands for mp4, m4a and 3gp too. Playlists are not
among them: they could have other files opened, or addresses."""

INDEXED = "mov"
"""Begins the name of the format whose samples are found by their times, to the sample."""

MEASURED = ("mov", "matroska", "asf")
"""Beginnings of the names of formats whose header says how long the file is."""

SHORT = 0.95
"""Of what a header promises; less is there of a file that is cut off."""

LEAD = 1.0
"""Seconds before a part at which decoding begins; a frame needs those before it."""


SIGNATURES = {4: (b"ftyp",), 0: (b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11", b"#!AMR")}
"""What such files begin with, by the place in the file: mp4 and its kind, Matroska, ASF, AMR."""


def is_for(path: str | Path) -> bool:
    """Whether FFmpeg is to read a file rather than libsndfile, by its name or its beginning.

    Recordings off a phone are m4a under any name.
    """
    if str(path).lower().endswith(FFMPEG_SUFFIXES):
        return True
    with open(path, "rb") as file:
        head = file.read(16)
    return any(head[place:].startswith(found) for place, found in SIGNATURES.items())


class AudioStream:
    """The first stream of audio in a file, with the part of soundfile.SoundFile that is used.

    Args:
        path: the file.

    Attributes:
        samplerate: in Hz.
        channels: how many.
        frames: the length in samples is not known before all is decoded: no bound.
        extra_info: where the file ended before its header says so, as libsndfile words it; else
            nothing.

    Raises:
        OSError: FFmpeg does not read it as audio.
    """

    frames, extra_info = sys.maxsize, ""

    def __init__(self, path: str | Path):
        try:
            options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
            self._container = av.open(str(path), options=options)
            if not self._container.streams.audio:
                raise OSError("it holds no audio")
            self._stream = self._container.streams.audio[0]
            # What a header says of AAC may be half the rate and the channels that are decoded.
            first = next(self._container.decode(self._stream), None)
            if first is None:
                raise OSError("it holds no audio")
            self.samplerate, self.channels = first.sample_rate, first.layout.nb_channels
            self._resampler = av.AudioResampler("flt", first.layout, first.sample_rate)
            self.seek(0)
        except (av.FFmpegError, ValueError) as error:
            raise OSError(_reason(error)) from None

    def seek(self, sample: int) -> None:
        """Go on with a sample."""
        begin = max(0.0, sample / self.samplerate - LEAD)
        if begin and not self._container.format.name.startswith(INDEXED):
            begin = 0.0
        self._container.seek(round(begin * av.time_base))
        self._blocks = self._decoded(sample)
        self._left = np.zeros((0, self.channels), dtype=np.float32)

    def read(self, count: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Return the next samples, float32 (samples, channels); fewer at the end.

        Raises:
            OSError: the file is damaged there.
        """
        parts, missing = [self._left], count - len(self._left)
        try:
            while missing > 0 and (block := next(self._blocks, None)) is not None:
                parts.append(block)
                missing -= len(block)
        except (av.FFmpegError, ValueError) as error:
            raise OSError(_reason(error)) from None
        joined = np.concatenate(parts)
        self._left = joined[count:]
        return joined[:count]

    def _decoded(self, first: int) -> Iterator[np.ndarray]:
        """Yield decoded samples from `first` on."""
        place = None
        for frame in self._container.decode(self._stream):
            if place is None:
                # Only behind a jump do times matter: elsewhere they may be rounded or missing.
                jumped = frame.pts is not None and first > LEAD * self.samplerate
                indexed = self._container.format.name.startswith(INDEXED)
                place = round(frame.time * self.samplerate) if jumped and indexed else 0
            for ready in self._resampler.resample(frame):
                samples = ready.to_ndarray().reshape(-1, self.channels)
                skipped = min(max(0, first - place), len(samples))
                place += len(samples)
                if skipped < len(samples):
                    yield samples[skipped:]
        # Of the other formats FFmpeg guesses the length.
        says = self._container.format.name.startswith(MEASURED)
        promised = says * (self._container.duration or 0) / av.time_base * self.samplerate
        if (place or 0) < SHORT * promised:
            self.extra_info = f"data : {round(promised)} (should be {place or 0})"

    def __enter__(self) -> "AudioStream":
        return self

    def __exit__(self, *exception) -> None:
        self._container.close()


def _reason(error: Exception) -> str:
    """Return what FFmpeg says, without the number of the error and the file's name."""
    return getattr(error, "strerror", None) or str(error)
