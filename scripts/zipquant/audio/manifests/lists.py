"""Lists without a header: an audio file and what is said in it, one line each."""

import os
from collections.abc import Iterator

from zipquant.audio.manifests.common import audio_at, checked, lines, stem
from zipquant.audio.utterance import AUDIO_SUFFIXES, Utterance

NAME = "list of files and transcripts"


def is_kind(source: str) -> bool:
    """Return whether it is a file whose first line begins with the name of an audio file."""
    if not os.path.isfile(source):
        return False
    first = next(lines(source), (0, ""))[1]
    return _split(first)[0].lower().endswith(AUDIO_SUFFIXES)


def read(source: str) -> list[Utterance]:
    """Read a list such as the `trans.txt` of sherpa-onnx's `test_wavs`.

    Raises:
        UserError: a file is missing.
    """
    return list(_utterances(source))


def _utterances(source: str) -> Iterator[Utterance]:
    for number, line in lines(source):
        path, text = _split(line)
        where = f"{source}, line {number}"
        found = audio_at(where, os.path.dirname(source), path)
        yield checked(where, Utterance(stem(path), found, text))


def _split(line: str) -> tuple[str, str]:
    """Return a path, which may hold spaces, and the text behind it."""
    if "\t" in line:
        path, _, text = line.partition("\t")
        return path.strip(), " ".join(text.split())
    for suffix in AUDIO_SUFFIXES:
        place = line.lower().find(f"{suffix} ")
        if place >= 0:
            end = place + len(suffix)
            return line[:end], " ".join(line[end:].split())
    return line, ""
