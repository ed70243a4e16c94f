"""Folders of audio, with or without transcripts beside the files."""

import os
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path

from zipquant.audio.manifests.common import lines, one_line, opened
from zipquant.audio.utterance import AUDIO_SUFFIXES, OTHER_SUFFIXES, Utterance
from zipquant.errors import UserError, plain

NAME = "folder of audio"

TRANSCRIPTS = (".trans.txt", "trans.txt", "transcript.txt", "transcripts.txt")
"""Ends of the names of files that hold an id or a file and its transcript on each line."""

OWN = (".normalized.txt", ".txt", ".lab")
"""Ends of the names of files that hold the transcript of the recording of the same name."""

LONGEST_TEXT = 1 << 16
"""Bytes; a text file of that size beside a recording is no transcript of it."""


def is_kind(source: str) -> bool:
    """Return whether it is a folder."""
    return os.path.isdir(source)


def read(source: str) -> list[Utterance]:
    """List the audio files of a folder, searched recursively.

    Transcripts are taken from a text file of the same name beside each (`a.wav`, `a.txt`), or from
    a file such as LibriSpeech's `84-121123.trans.txt` or the `trans.txt` of sherpa-onnx's
    `test_wavs` in the same folder. Where there are none, from files of the same name elsewhere in
    the folder, as in VCTK, and from lists whose lines begin with the name of a recording, such as
    AISHELL's and Kaldi's `text`.
    """
    found = []
    for parent, names in _walk(source):
        texts = _transcripts(parent, names)
        own = {_spoken(name): name for name in names if _is_text(name)}
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in AUDIO_SUFFIXES:
                continue
            relative = os.path.relpath(os.path.join(parent, stem), source)
            text = texts.get(name) or texts.get(stem) or _own_text(parent, own.get(stem))
            path = os.path.join(parent, name)
            found.append(Utterance(Path(relative).as_posix(), path, text))
    if any(utterance.text for utterance in found):
        return found
    texts, _ = _lists(source, {os.path.basename(u.id) for u in found})
    return [replace(u, text=texts.get(os.path.basename(u.id), "")) for u in found]


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
    stems = set().union(*(_stems(names) for _, names in _walk(source)))
    used = _lists(source, stems)[1]
    for parent, names in _walk(source):
        stems = _stems(names)
        for name in names:
            suffix = os.path.splitext(name)[1]
            is_text = name.lower().endswith(TRANSCRIPTS) or os.path.join(parent, name) in used
            is_text = is_text or (_is_text(name) and _spoken(name) in stems)
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
            found[key] = plain(one_line(text))
    return found


def _own_text(parent: str, name: str | None) -> str:
    """Return the transcript in a file that lies beside a recording."""
    path = os.path.join(parent, name or "")
    if name is None or os.path.getsize(path) > LONGEST_TEXT:
        return ""
    with opened(path) as file:
        return plain(one_line(file.read()))


def _stems(names: list[str]) -> set[str]:
    """Return the names of the recordings among some files, without their suffixes."""
    return {os.path.splitext(n)[0] for n in names if n.lower().endswith(AUDIO_SUFFIXES)}


def _is_text(name: str) -> bool:
    return name.lower().endswith(OWN) and not name.lower().endswith(TRANSCRIPTS)


def _spoken(name: str) -> str:
    """Return the name of the recording that a text file is of."""
    ending = next(ending for ending in OWN if name.lower().endswith(ending))
    return name[: -len(ending)]


def _lists(source: str, stems: Set[str]) -> tuple[dict[str, str], set[str]]:
    """Return the transcripts of lists of recordings, by the recording's name, and the lists."""
    found: dict[str, str] = {}
    used: set[str] = set()
    for parent, names in _walk(source):
        beside = _stems(names)
        for name in sorted(names):
            path = os.path.join(parent, name)
            is_list = name == "text" or name.lower().endswith(TRANSCRIPTS)
            if is_list or (_is_text(name) and _spoken(name) not in beside):
                if not is_list and _spoken(name) in stems:
                    found[_spoken(name)] = _own_text(parent, name)
                    used.add(path)
                    continue
                try:
                    texts = dict(_entries(path))
                except UserError:
                    continue  # a text of any kind in another encoding
                # A list is of these recordings if its lines begin with their names; it may be of
                # more, or not of all.
                known = len(texts.keys() & stems)
                if known and 2 * known >= min(len(texts), len(stems)):
                    found |= texts
                    used.add(path)
    return found, used


def _entries(path: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the transcript of each line of a list; nothing of what is none."""
    for _, line in lines(path):
        name, *text = line.split(None, 1)
        stem, suffix = os.path.splitext(name)
        yield stem if suffix.lower() in AUDIO_SUFFIXES else name, plain(one_line("".join(text)))
