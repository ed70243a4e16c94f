"""What several kinds of manifests share: opening text, finding the audio of a line."""

import codecs
import gzip
import math
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from zipquant.audio.utterance import Utterance
from zipquant.errors import UserError, plain

FOLDERS = ("", "clips", "wav", "wavs", "audio")
"""Where beside a manifest audio is looked for; Common Voice has `clips`."""


@contextmanager
def opened(path: str) -> Iterator[TextIO]:
    """Open a text file, gzipped or not; a byte order mark is left out, and tells UTF-16.

    Raises:
        UserError: it is neither UTF-8 nor UTF-16 with a mark, or no whole gzip file.
    """
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding = "utf-16" if marked else "utf-8-sig"
        with opener(path, "rt", encoding=encoding, newline="") as file:
            yield file
    except UnicodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({error}): save it as UTF-8, for example by "
            "iconv -f GBK -t UTF-8"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is no gzip file, or not a whole one ({error})") from None


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
    if found := find_audio(folder, path):
        return found
    if re.match(r"\w+://", path):
        raise UserError(f"{where}: {path[:80]} is an address, not a file: download it")
    raise UserError(f"{where}: there is no file {os.path.join(folder, path)}")


def find_audio(folder: str, path: str) -> str | None:
    """Return the audio file that a manifest in a folder names; None if there is none."""
    # As Windows writes paths.
    for name in dict.fromkeys((path, path.replace("\\", "/"))):
        for below in FOLDERS:
            found = os.path.normpath(os.path.join(folder, below, name))
            if os.path.isfile(found):
                return found if os.path.isabs(name) or folder else os.path.join(below, name)
    return None


def one_line(text: str) -> str:
    """Return a text with single spaces for all white space, line breaks included."""
    return " ".join(text.split())


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
    end = math.inf if utterance.end is None else utterance.end
    # Written so that not a number is refused too.
    if not 0 <= utterance.start < end or (utterance.end is not None and math.isinf(end)):
        raise UserError(f"{where}: from {utterance.start:g} to {end:g} s is no part of a recording")
    return utterance


def stem(path: str) -> str:
    """Return a path without its suffix, as an id."""
    return os.path.splitext(path)[0].replace("\\", "/").lstrip("./")
