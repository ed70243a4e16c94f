"""Kaldi data folders: `wav.scp`, and perhaps `text` and `segments` beside it."""

import os
from collections.abc import Iterator

from zipquant.audio.manifests.common import audio_at, checked, lines
from zipquant.audio.utterance import Utterance
from zipquant.errors import UserError

NAME = "Kaldi data folder"

SCP = "wav.scp"


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
    texts = dict(_pairs(os.path.join(folder, "text"), empty=True))
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
            raise UserError(
                f"{where}: the recording is made by a command ({value[:60]}): run it, write the "
                "audio to a file, and name that file here"
            )
        if ".ark:" in value:
            raise UserError(f"{where}: {value[:60]} is in an archive: copy it to a wav file")
        # Kaldi's paths are relative to where its scripts run; most are relative to the folder here.
        yield name, value if os.path.isfile(value) else audio_at(where, folder, value)


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
        utterance = Utterance(name, recordings[recording], texts.get(name, ""), *part)
        yield checked(where, utterance)


def _pairs(path: str, empty: bool = False) -> Iterator[tuple[str, str]]:
    """Yield what stands before and behind the first white space of each line."""
    if not os.path.isfile(path):
        return
    for number, line in lines(path):
        name, _, value = line.partition(" ") if " " in line else line.partition("\t")
        if not value.strip() and not empty:
            raise UserError(f"{path}, line {number}: '{line[:60]}' is not a name and a file")
        yield name.strip(), value.strip()


def _numbers(path: str) -> Iterator[int]:
    return (number for number, _ in lines(path))
