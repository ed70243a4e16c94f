"""Folders of audio, with or without transcripts beside the files."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from zipquant.audio.manifests.common import lines
from zipquant.audio.utterance import AUDIO_SUFFIXES, OTHER_SUFFIXES, Utterance
from zipquant.errors import UserError, plain

NAME = "folder of audio"

TRANSCRIPTS = (".trans.txt", "trans.txt", "transcript.txt", "transcripts.txt")
"""Ends of the names of files that hold an id or a file and its transcript on each line."""

LONGEST_TEXT = 1 << 16
"""Bytes; a text file of that size beside a recording is no transcript of it."""


def is_kind(source: str) -> bool:
    """Return whether it is a folder."""
    return os.path.isdir(source)


def read(source: str) -> list[Utterance]:
    """List the audio files of a folder, searched recursively.

    Transcripts are taken from a text file of the same name beside each (`a.wav`, `a.txt`), or from
    a file such as LibriSpeech's `84-121123.trans.txt` or the `trans.txt` of sherpa-onnx's
    `test_wavs` in the same folder.
    """
    found = []
    for parent, names in _walk(source):
        texts = _transcripts(parent, names)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in AUDIO_SUFFIXES:
                continue
            relative = os.path.relpath(os.path.join(parent, stem), source)
            text = texts.get(name) or texts.get(stem) or _own_text(parent, stem, names)
            path = os.path.join(parent, name)
            found.append(Utterance(Path(relative).as_posix(), path, text))
    return found


def passed_over(source: str) -> dict[str, int]:
    """Count the files of a folder whose audio cannot be read, by their suffix."""
    count: Counter = Counter()
    for _, names in _walk(source):
        suffixes = (os.path.splitext(name)[1].lower() for name in names)
        count.update(suffix for suffix in suffixes if suffix in OTHER_SUFFIXES)
    return dict(count)


def others(source: str) -> dict[str, int]:
    """Count the files of a folder that are neither audio nor transcripts, by their suffix."""
    count: Counter = Counter()
    for parent, names in _walk(source):
        stems = {os.path.splitext(n)[0] for n in names if n.lower().endswith(AUDIO_SUFFIXES)}
        for name in names:
            stem, suffix = os.path.splitext(name)
            is_text = name.lower().endswith(TRANSCRIPTS) or (suffix == ".txt" and stem in stems)
            if suffix.lower() not in (*AUDIO_SUFFIXES, *OTHER_SUFFIXES) and not is_text:
                count[suffix.lower() or "without a suffix"] += 1
        hidden = sum(name.startswith(".") for name in os.listdir(parent))
        if hidden:
            count["with a dot before the name"] += hidden
    return dict(count)


def _walk(source: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder once, with its files; links may lead in circles."""
    seen = set()
    for parent, folders, names in os.walk(source, followlinks=True):
        folders.sort()
        where = os.stat(parent)
        if (where.st_dev, where.st_ino) in seen:
            folders.clear()
            continue
        seen.add((where.st_dev, where.st_ino))
        # Files that begin with a dot are leftovers of editors and file managers, not speech.
        yield parent, [name for name in names if not name.startswith(".")]


def _transcripts(parent: str, names: list[str]) -> dict[str, str]:
    """Return the transcripts of a folder's lists, by the name of the file or its stem."""
    found: dict[str, str] = {}
    for name in names:
        if not name.lower().endswith(TRANSCRIPTS):
            continue
        for _, line in lines(os.path.join(parent, name)):
            key, _, text = line.replace("\t", " ").partition(" ")
            found[key] = plain(" ".join(text.split()))
    return found


def _own_text(parent: str, stem: str, names: list[str]) -> str:
    name = f"{stem}.txt"
    path = os.path.join(parent, name)
    if name not in names or os.path.getsize(path) > LONGEST_TEXT:
        return ""
    try:
        return plain(" ".join(Path(path).read_text(encoding="utf-8-sig").split()))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error})") from None
