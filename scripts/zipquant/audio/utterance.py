"""One utterance: a name, an audio file or a part of one, and perhaps what is said in it."""

import hashlib
import os
from dataclasses import dataclass

from zipquant.errors import plain

FFMPEG_SUFFIXES = (
    *(".m4a", ".m4b", ".aac", ".mp4", ".mov", ".3gp", ".3g2", ".amr", ".wma", ".asf"),
    *(".webm", ".mka", ".mkv", ".avi", ".ape", ".wv", ".tta", ".ac3", ".mp2", ".spx"),
)
"""Audio, and films with audio, that FFmpeg reads and libsndfile does not."""

AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".nist"),
    *FFMPEG_SUFFIXES,
)
"""What libsndfile 1.2 reads of the files that speech comes in, and those."""

OTHER_SUFFIXES = (
    *(".pcm", ".raw", ".gsm", ".vox", ".silk", ".slk", ".dsf", ".dff", ".ra", ".rm", ".sd2"),
    *(".m4p", ".aax", ".mid", ".midi"),
)
"""Audio that neither reads: samples without a header, odd encodings, protected files."""


@dataclass(frozen=True)
class Utterance:
    """An audio file, or a part of one.

    Attributes:
        id: name of the utterance, unique in its set; the path below the folder without its suffix.
        path: where the audio is, as the workflow's working directory sees it.
        text: the transcript, or an empty string where none is known.
        start: where it begins in the file, in seconds.
        end: where it ends in the file, in seconds; None for the end of the file.
    """

    id: str
    path: str
    text: str = ""
    start: float = 0.0
    end: float | None = None

    @property
    def problem(self) -> str:
        """Why a file of this name cannot take part; empty for all but a few odd names."""
        name = f"{self.path}{self.id}"
        try:
            name.encode()
        except UnicodeEncodeError:
            return f"{shown(self.path)}: its name is not UTF-8; rename the file"
        if plain(name) != name or "\n" in name or "\t" in name:
            return f"{shown(self.path)}: its name has a control character; rename the file"
        if not os.path.isfile(self.path):
            return f"{self.path}: is no file (a broken link, or a pipe); remove it"
        return ""


def shown(name: str) -> str:
    """Return a file name as it can be written to a table: other bytes than text as \\x.."""
    return plain(name).replace("\n", r"\x0a").replace("\t", r"\x09")


def hash_of(text: str) -> int:
    """Return 64 bits that depend on a text alone, from 0 to 2^64 - 1."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
