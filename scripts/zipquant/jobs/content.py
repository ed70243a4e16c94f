"""What a file holds, as its SHA-256, and how to know it without reading the file each time."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zipquant.errors import UserError
from zipquant.jobs import files

CHECKS_ITSELF = ".h5"

PIECES, PIECE_BYTES = 16, 65536
"""What is hashed of a file that checks itself: 1 MiB spread from its first byte to its last."""

SETTLED_NS = 100_000_000
"""Age that a file must have for its times to tell whether it has been written to since."""


@dataclass(frozen=True)
class Content:
    """What a file held when it was looked at.

    Attributes:
        bytes: its size.
        sha256: hash of its content, see `digest`.
        stamp: size, both times and inode in one text. As long as a file has the same, it has the
            same content: the change time is the system's, and `cp -p`, `mv` and `tar` do not set
            it. Empty where the file was too fresh to tell.
    """

    bytes: int
    sha256: str
    stamp: str


def stamp(path: str | Path) -> str:
    """Return what shows, without reading a file, that it has not been written to."""
    found = os.stat(path)
    if time.time_ns() - max(found.st_ctime_ns, found.st_mtime_ns) < SETTLED_NS:
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, or, of a large one that checks itself, of pieces of it."""
    size = os.path.getsize(path)
    if not str(path).endswith(CHECKS_ITSELF) or size <= PIECES * PIECE_BYTES:
        return files.sha256(path)
    total = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in range(PIECES):
            start = (size - PIECE_BYTES) * piece // (PIECES - 1)
            total.update(os.pread(file.fileno(), PIECE_BYTES, start))
    return total.hexdigest()


def look(path: str | Path, *known: Content | None) -> Content:
    """Return what a file holds; it is read only where its stamp is none of the known ones.

    Raises:
        OSError: it cannot be read.
    """
    before = stamp(path)
    for content in known:
        if content is not None and before and content.stamp == before:
            return content
    # The stamp is taken first: a file that changes while it is read gets another one.
    return Content(os.path.getsize(path), digest(path), before)


class Seen:
    """The files outside the results folder that the start of a run has looked at.

    Kept in a file, for the jobs, which compare their inputs with it, and for the next start.

    Args:
        file: where; it need not exist, and what is no such file is taken for an empty one.
    """

    def __init__(self, file: str | Path):
        self._file = Path(file)
        self._known: dict[str, Content] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            entries = json.loads(self._file.read_text(encoding="utf-8"))
            self._known = {path: Content(*map(_plain, entry)) for path, entry in entries.items()}
        self._read = dict(self._known)

    def __getitem__(self, path: str) -> Content | None:
        return self._known.get(path)

    def look(self, path: str, known: Content | None = None) -> Content:
        """Return what a file holds now, see `look`, and keep it in mind unless it is as known."""
        found = look(path, self._known.get(path), known)
        if found is not known:
            self._known[path] = found
        return found

    def save(self) -> None:
        """Write the file, if there is anything new or no file.

        Raises:
            UserError: the disk is full, or not to be written to.
        """
        if self._known == self._read and self._file.exists():
            return
        entries = {
            path: [content.bytes, content.sha256, content.stamp]
            for path, content in sorted(self._known.items())
        }
        try:
            files.write_text(self._file, json.dumps(entries, indent=0) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write to {self._file} ({error.strerror}): free some space or make the "
                "folder writable, and run the same command again"
            ) from None
        self._read = dict(self._known)


def combined(parts: Iterable[tuple[str, str]]) -> str:
    """Return one hash for several named contents, in any order."""
    total = hashlib.sha256()
    for name, sha256 in sorted(parts):
        total.update(f"{name}\0{sha256}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _plain(value: int | str) -> int | str:
    if not isinstance(value, int | str):
        raise TypeError
    return value
