"""Kaldi data folders: `wav.scp`, and perhaps `text` and `segments` beside it."""

import os
import shlex
from collections.abc import Iterator

from zipquant.audio.manifests.common import audio_at, checked, find_audio, lines, one_line
from zipquant.audio.utterance import Utterance
from zipquant.errors import UserError

NAME = "Kaldi data folder"

SCP = "wav.scp"

DECODERS = {
    "flac": {"-c": 0, "-d": 0, "-s": 0, "-dc": 0, "-cd": 0, "-dcs": 0, "-cds": 0, "--silent": 0},
    "cat": {},
    "sph2pipe": {"-f": 1, "-p": 0},
    "sox": {"-t": 1, "-r": 1, "-b": 1, "-e": 1, "-c": 1, "-G": 0, "-V1": 0, "-V0": 0},
    "ffmpeg": {
        **{"-i": 0, "-f": 1, "-ar": 1, "-ac": 1, "-acodec": 1, "-c:a": 1, "-loglevel": 1},
        **{"-v": 1, "-nostdin": 0, "-hide_banner": 0, "-vn": 0, "-y": 0},
    },
}
"""Options of programs that decode a file and change nothing but its format, and how many values
follow each. What is read here becomes 16 kHz and one channel anyway."""


def is_kind(source: str) -> bool:
    """Return whether it is a folder with a wav.scp, or that file."""
    return os.path.isfile(os.path.join(source, SCP)) or os.path.basename(source) == SCP


def read(source: str) -> list[Utterance]:
    """Read a data folder; see https://kaldi-asr.org/doc/data_prep.html.

    Raises:
        UserError: a recording is a command or an archive, or is missing; a line is no entry.
    """
    scp = os.path.join(source, SCP) if os.path.isdir(source) else source
    folder = os.path.dirname(scp)
    recordings = dict(_recordings(scp, folder))
    pairs = _pairs(os.path.join(folder, "text"), empty=True)
    texts = {name: one_line(text) for name, text in pairs}
    segments = os.path.join(folder, "segments")
    if os.path.isfile(segments):
        return list(_segments(segments, recordings, texts))
    return [
        checked(scp, Utterance(name, path, texts.get(name, "")))
        for name, path in recordings.items()
    ]


def _recordings(scp: str, folder: str) -> Iterator[tuple[str, str]]:
    for (name, value), number in zip(_pairs(scp), _numbers(scp), strict=True):
        where = f"{scp}, line {number}"
        if value.endswith("|"):
            value = _decoded(folder, value) or value
        if value.endswith("|"):
            raise UserError(
                f"{where}: the recording is made by a command ({value[:60]}): run it, write the "
                "audio to a file, and name that file here"
            )
        if ".ark:" in value:
            raise UserError(f"{where}: {value[:60]} is in an archive: copy it to a wav file")
        yield name, _found(folder, value) or audio_at(where, folder, value)


def _found(folder: str, path: str) -> str | None:
    """Return a recording's file; None if there is none.

    Kaldi's paths are relative to where its scripts run, which is above the data folder.
    """
    if os.path.isfile(path):
        return path
    above = (os.path.join(folder, *[".."] * count) for count in range(4))
    return next((found for place in above if (found := find_audio(place, path))), None)


def _decoded(folder: str, command: str) -> str | None:
    """Return the file that a command only decodes, which needs no command here; else None.

    Such as `flac -c -d -s a.flac |`, `sox a.mp3 -t wav -r 16000 - |` and
    `sph2pipe -f wav -p a.sph |`.
    """
    try:
        program, *arguments = shlex.split(command.rstrip("|"))
    except ValueError:
        return None
    allowed = DECODERS.get(os.path.basename(program))
    if allowed is None:
        return None
    files, waiting = [], 0
    for argument in arguments:
        if waiting:
            waiting -= 1
        elif argument.startswith("-") and argument != "-":
            if argument not in allowed:
                return None
            waiting = allowed[argument]
        elif argument not in ("-", "pipe:1", "/dev/stdout"):
            files.append(argument)
    return _found(folder, files[0]) if len(files) == 1 else None


def _segments(path: str, recordings: dict[str, str], texts: dict[str, str]) -> Iterator[Utterance]:
    for number, line in lines(path):
        where, fields = f"{path}, line {number}", line.split()
        try:
            name, recording, start, end = fields
            part = float(start), float(end)
        except ValueError:
            raise UserError(
                f"{where}: '{line[:60]}' is not an utterance, a recording, and two times"
            ) from None
        if recording not in recordings:
            raise UserError(f"{where}: {SCP} has no recording '{recording}'")
        # Kaldi takes -1 for the end of the recording.
        span = (part[0], None) if part[1] == -1 else part
        utterance = Utterance(name, recordings[recording], texts.get(name, ""), *span)
        yield checked(where, utterance)


def _pairs(path: str, empty: bool = False) -> Iterator[tuple[str, str]]:
    """Yield what stands before and behind the first white space of each line."""
    if not os.path.isfile(path):
        return
    for number, line in lines(path):
        name, value = [*line.split(None, 1), ""][:2]
        if not value.strip() and not empty:
            raise UserError(f"{path}, line {number}: '{line[:60]}' is not a name and a file")
        yield name.strip(), value.strip()


def _numbers(path: str) -> Iterator[int]:
    return (number for number, _ in lines(path))
