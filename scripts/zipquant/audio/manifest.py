"""Which utterances there are: a folder or a manifest of audio files, and their split into shards.

The Snakefile imports this module on every start, so it needs nothing but the standard library.
"""

import csv
import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from zipquant.errors import UserError, plain

AUDIO_SUFFIXES = (".wav", ".flac")

TEXT = "text"

COLUMNS = ("id", "path", TEXT)
"""What is read of a manifest."""


@dataclass(frozen=True)
class Utterance:
    """One audio file.

    Attributes:
        id: name of the utterance, unique in its set; the path below the folder without its suffix.
        path: where the audio is, as the workflow's working directory sees it.
        text: the transcript, or an empty string where none is known.
    """

    id: str
    path: str
    text: str = ""

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


def read(source: str) -> list[Utterance]:
    """List the utterances of a folder (searched recursively) or of a TSV manifest, sorted by id.

    A manifest has a header row with the columns `id`, `path` and optionally `text`, in small or
    capital letters; a relative path is relative to the manifest.

    Raises:
        UserError: nothing there, no audio in it, a broken manifest, two files with one id, or one
            file with two.
    """
    if os.path.isdir(source):
        utterances = _read_folder(source)
    elif os.path.isfile(source):
        utterances = _read_manifest(source)
    else:
        raise UserError(
            f"no audio at '{source}': there is no such folder or manifest; "
            "set audio.calibration and audio.evaluation to a folder of wav or flac files"
        )
    if not utterances:
        raise UserError(
            f"no audio found in '{source}': it holds no {' or '.join(AUDIO_SUFFIXES)} file"
        )
    utterances.sort(key=lambda utterance: utterance.id)
    for first, second in itertools.pairwise(utterances):
        if first.id == second.id:
            raise UserError(
                f"two files of '{source}' have the id '{first.id}': {first.path} and "
                f"{second.path}; rename one of them"
            )
    return utterances


def shown(name: str) -> str:
    """Return a file name as it can be written to a table: other bytes than text as \\x.."""
    return plain(name).replace("\n", r"\x0a").replace("\t", r"\x09")


def cap(utterances: list[Utterance], most: int) -> list[Utterance]:
    """Return at most `most` of some utterances, drawn by a hash of the id; 0 keeps all.

    A larger cap keeps what a smaller one has drawn.
    """
    if not most:
        return utterances
    drawn = sorted(utterances, key=lambda utterance: hash_of(f"cap {utterance.id}"))[:most]
    return sorted(drawn, key=lambda utterance: utterance.id)


def shard_of(utterance_id: str, shards: int) -> int:
    """Return the shard (0 to `shards` - 1) of an utterance.

    A hash of the id alone, so that added or removed audio never moves any other utterance.
    """
    return hash_of(utterance_id) % shards


def hash_of(text: str) -> int:
    """Return 64 bits that depend on a text alone, from 0 to 2^64 - 1."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def _read_folder(folder: str) -> list[Utterance]:
    utterances, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        # Once each, in a fixed order: links may lead in circles.
        folders.sort()
        where = os.stat(parent)
        if (where.st_dev, where.st_ino) in seen:
            folders.clear()
            continue
        seen.add((where.st_dev, where.st_ino))
        for name in names:
            stem, suffix = os.path.splitext(name)
            # Files that begin with a dot are leftovers of editors and file managers, not speech.
            if suffix.lower() in AUDIO_SUFFIXES and not name.startswith("."):
                path = os.path.join(parent, name)
                relative = os.path.relpath(os.path.join(parent, stem), folder)
                utterances.append(Utterance(Path(relative).as_posix(), path))
    return utterances


def _read_manifest(manifest: str) -> list[Utterance]:
    folder = os.path.dirname(manifest)
    utterances: list[Utterance] = []
    seen: dict[str, int] = {}
    for number, row in _rows(manifest):
        where = f"{manifest}, line {number}"
        if not row["id"] or not row["path"]:
            raise UserError(f"{where}: id or path is empty")
        for name in COLUMNS:
            if plain(value := row.get(name, "")) != value:
                raise UserError(f"{where}: {name} has a control character: {value[:60]}; remove it")
        path = os.path.join(folder, row["path"])
        if not os.path.isfile(path):
            raise UserError(f"{where}: there is no file {path}")
        if path in seen:
            raise UserError(
                f"{where}: the same file as in line {seen[path]}, {path}: it would count twice; "
                "take one of the lines out"
            )
        seen[path] = number
        utterances.append(Utterance(row["id"], path, row.get(TEXT) or ""))
    return utterances


def unread_columns(source: str) -> str:
    """Return a warning of a manifest that has other columns, but none for the transcripts, or ''.

    Raises:
        UserError: it is a broken manifest.
    """
    if not os.path.isfile(source):
        return ""
    names = _columns(source)
    others = [name for name in names if name not in COLUMNS]
    if TEXT in names or not others:
        return ""
    return (
        f"{source}: of its columns {', '.join(map(repr, others))} none is called '{TEXT}', so the "
        "utterances have no transcripts; rename the column that holds them"
    )


def _columns(manifest: str) -> list[str]:
    with _opened(manifest) as file:
        first = next(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), [])
    # Small letters and no spaces around: as people write them.
    names = [name.strip().lower() for name in first]
    if missing := {"id", "path"} - set(names):
        raise UserError(
            f"{manifest}: no column '{min(missing)}' in its first line; "
            "a manifest is tab-separated, with the columns id, path and optionally text"
        )
    for name in COLUMNS:
        if names.count(name) > 1:
            raise UserError(
                f"{manifest}: {names.count(name)} columns are called '{name}' in its first line; "
                "rename or remove all but one"
            )
    return names


def _rows(manifest: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines below the first that hold anything, with their numbers."""
    names = _columns(manifest)
    with _opened(manifest) as file:
        table = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(table)
        for row in table:
            if not row:
                continue
            if len(row) > len(names):
                raise UserError(
                    f"{manifest}, line {table.line_num}: {len(row)} columns, the first line has "
                    f"{len(names)}: a tab inside a transcript, or one too many; replace it by a "
                    "space"
                )
            yield table.line_num, dict(itertools.zip_longest(names, row, fillvalue=""))


@contextmanager
def _opened(manifest: str) -> Iterator[TextIO]:
    try:
        # Some programs put a byte order mark before the first column.
        with open(manifest, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise UserError(f"{manifest} is not UTF-8 text ({error})") from None
    except csv.Error as error:
        raise UserError(f"{manifest} is no tab-separated text ({error})") from None
