"""What several kinds of manifests share: opening text, finding the audio of a line."""

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from zipquant.audio.utterance import Utterance
from zipquant.errors import UserError, plain

FOLDERS = ("", "clips", "wav", "wavs", "audio")
"""Where beside a manifest audio is looked for; Common Voice has `clips`."""


@contextmanager
def opened(path: str) -> Iterator[TextIO]:
    """Open a text file, gzipped or not; a byte order mark is left out.

    Raises:
        UserError: it is not UTF-8 text.
    """
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error})") from None
    except gzip.BadGzipFile as error:
        raise UserError(f"{path} is no gzip file ({error})") from None


def lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold anything, without the white space around them, and their numbers.

    Raises:
        UserError: the file is not UTF-8 text.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.strip()


def audio_at(where: str, folder: str, path: str) -> str:
    """Return the audio file that a manifest names.

    Args:
        where: the manifest and the line, for the error.
        folder: the folder that a relative path is relative to.
        path: what the manifest says.

    Raises:
        UserError: there is no such file.
    """
    for below in FOLDERS:
        found = os.path.normpath(os.path.join(folder, below, path))
        if os.path.isfile(found):
            return found if os.path.isabs(path) or folder else os.path.join(below, path)
    raise UserError(f"{where}: there is no file {os.path.join(folder, path)}")


def checked(where: str, utterance: Utterance) -> Utterance:
    """Return an utterance whose name and transcript hold no control characters.

    Raises:
        UserError: they do, or the times of a part make no sense.
    """
    for what, value in (("id", utterance.id), ("path", utterance.path), ("text", utterance.text)):
        if plain(value) != value:
            raise UserError(f"{where}: {what} has a control character: {value[:60]}; remove it")
    if not utterance.id:
        raise UserError(f"{where}: the id is empty")
    if utterance.start < 0 or (utterance.end is not None and utterance.end <= utterance.start):
        raise UserError(
            f"{where}: from {utterance.start:g} to {utterance.end:g} s is no part of a recording"
        )
    return utterance


def stem(path: str) -> str:
    """Return a path without its suffix, as an id."""
    return os.path.splitext(path)[0].replace(os.sep, "/").lstrip("./")
