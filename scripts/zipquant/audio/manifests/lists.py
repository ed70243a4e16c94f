"""Lists without a header: an audio file and what is said in it, one line each."""

import os
import re
from collections.abc import Iterator

from zipquant.audio.manifests.common import (
    audio_at,
    checked,
    find_audio,
    lines,
    one_line,
    stem,
)
from zipquant.audio.utterance import AUDIO_SUFFIXES, Utterance

NAME = "list of files and transcripts"

SUFFIXES = (".wav", ".flac", ".mp3")
"""What a name may lack, as in LJSpeech's metadata.csv."""

_FILE = re.compile(f"^(.*?(?:{'|'.join(map(re.escape, AUDIO_SUFFIXES))}))(?:[\\s,;|]+(.*))?$", re.I)
"""A path, which may hold spaces, and the text behind it."""


def is_kind(source: str) -> bool:
    """Return whether it is a file whose first line names an audio file."""
    if not os.path.isfile(source):
        return False
    first = next(lines(source), (0, ""))[1]
    return bool(_FILE.match(first)) or _named(os.path.dirname(source), first) is not None


def read(source: str) -> list[Utterance]:
    """Read a list such as the `trans.txt` of sherpa-onnx's `test_wavs`.

    A line is a path and a transcript, with a space, tab, comma or bar between; a name and a path,
    as in Kaldi's wav.scp, or these and a transcript, with tabs; or the name of a recording without
    its suffix and a transcript, with tab or bars, as in LJSpeech.

    Raises:
        UserError: a file is missing.
    """
    return list(_utterances(source))


def _utterances(source: str) -> Iterator[Utterance]:
    folder = os.path.dirname(source)
    for number, line in lines(source):
        where = f"{source}, line {number}"
        if found := _named(folder, line):
            yield checked(where, found)
            continue
        match = _FILE.match(line)
        path, text = (match[1], match[2] or "") if match else (line, "")
        yield checked(where, Utterance(stem(path), audio_at(where, folder, path), one_line(text)))


def _named(folder: str, line: str) -> Utterance | None:
    """Return the utterance of a line that begins with a name, not a path; None for others."""
    name, _, path = line.replace("\t", " ").partition(" ")
    if path.lower().endswith(AUDIO_SUFFIXES) and (found := find_audio(folder, path.strip())):
        return None if find_audio(folder, line) else Utterance(name, found)
    name, *texts = (field.strip() for field in re.split(r"[\t|]", line))
    for place, field in enumerate(texts):
        if field.lower().endswith(AUDIO_SUFFIXES) and (found := find_audio(folder, field)):
            return Utterance(name, found, one_line(" ".join(texts[place + 1 : place + 2])))
    if not texts or name.lower().endswith(AUDIO_SUFFIXES):
        return None
    for suffix in SUFFIXES:
        if found := find_audio(folder, name + suffix):
            # Of several forms of a text the last is the one with numbers as words.
            return Utterance(stem(name + suffix), found, one_line(texts[-1]))
    return None
