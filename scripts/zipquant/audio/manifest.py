"""Which utterances there are: a folder or a manifest of audio files, and their split into shards.

The Snakefile imports this module on every start, so it needs nothing but the standard library.
"""

import csv
import hashlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from zipquant.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac")


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
        if "{" in name or "}" in name:
            return f"{self.path}: its name has a brace, a wildcard to Snakemake; rename the file"
        if not os.path.isfile(self.path):
            return f"{self.path}: is no file (a broken link, or a pipe); remove it"
        return ""


def read(source: str) -> list[Utterance]:
    """List the utterances of a folder (searched recursively) or of a TSV manifest, sorted by id.

    A manifest has a header row with the columns `id`, `path` and optionally `text`; a relative
    path is relative to the manifest.

    Raises:
        UserError: nothing there, no audio in it, a broken manifest, or two files with one id.
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
    """Return a file name as it can be written to a UTF-8 file, bytes that are none as \\x.."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def cap(utterances: list[Utterance], most: int) -> list[Utterance]:
    """Return at most `most` of some utterances, drawn by a hash of the id; 0 keeps all.

    A larger cap keeps what a smaller one has drawn.
    """
    if not most:
        return utterances
    drawn = sorted(utterances, key=lambda utterance: _hash(f"cap {utterance.id}"))[:most]
    return sorted(drawn, key=lambda utterance: utterance.id)


def shard_of(utterance_id: str, shards: int) -> int:
    """Return the shard (0 to `shards` - 1) of an utterance.

    A hash of the id alone, so that added or removed audio never moves any other utterance.
    """
    return _hash(utterance_id) % shards


def _hash(text: str) -> int:
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
    utterances = []
    try:
        # Some programs put a byte order mark before the first column.
        with open(manifest, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = {"id", "path"} - set(table.fieldnames or [])
            if missing:
                raise UserError(
                    f"{manifest}: no column '{min(missing)}' in its first line; "
                    "a manifest is tab-separated, with the columns id, path and optionally text"
                )
            for row in table:
                if not row["id"] or not row["path"]:
                    raise UserError(f"{manifest}, line {table.line_num}: id or path is empty")
                path = os.path.join(folder, row["path"])
                if not os.path.isfile(path):
                    raise UserError(f"{manifest}, line {table.line_num}: there is no file {path}")
                utterances.append(Utterance(row["id"], path, row.get("text") or ""))
    except UnicodeDecodeError as error:
        raise UserError(f"{manifest} is not UTF-8 text ({error})") from None
    except csv.Error as error:
        raise UserError(f"{manifest} is no tab-separated text ({error})") from None
    return utterances
