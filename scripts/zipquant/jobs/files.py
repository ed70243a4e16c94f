"""Writing files so that an interrupted job leaves nothing that looks finished."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from zipquant.errors import UserError, printable

NO_ROOM = 1 << 20
"""Bytes free on a disk below which a failure is laid to the disk."""


def is_disk_full(path: str | Path) -> bool:
    """Whether the disk that holds a path has next to no room."""
    return shutil.disk_usage(path).free < NO_ROOM


PART = ".part"
"""Stands in the name of a file that is not whole, see `atomic`."""


def is_temporary(path: str | Path) -> bool:
    """Whether a file is one that `atomic` has not finished."""
    return Path(path).name.startswith(".") and PART in Path(path).suffixes[-2:]


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` only when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: several libraries choose the format by it.
    temporary = path.with_name(f".{path.stem}{PART}{path.suffix}")
    if temporary.is_symlink():  # what it leads to is not to be overwritten
        temporary.unlink()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Table:
    """Writes rows of tab-separated values, without control characters; see `errors.plain`."""

    def __init__(self, file: TextIO):
        self._table = csv.writer(file, dialect="excel-tab")

    def writerow(self, row: Iterable[Any]) -> None:
        """See `csv.writer`."""
        self._table.writerow([printable(value) for value in row])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """See `csv.writer`."""
        for row in rows:
            self.writerow(row)


@contextmanager
def tsv_writer(path: str | Path) -> Iterator[Table]:
    """Yield what writes a table, through `atomic`."""
    with (
        atomic(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        yield Table(file)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 through `atomic`."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with a fixed layout, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file of the results folder.

    Raises:
        UserError: the file is damaged; see `damaged`.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def damaged(path: str | Path, error: Exception) -> UserError:
    """Delete a damaged file or folder of the results folder, and return the error that says so.

    It is missing then, so that the same command makes it again: the workflow looks at no file's
    content, and would hand the damaged one on for ever.
    """
    if Path(path).is_dir() and not Path(path).is_symlink():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)
    reason = " ".join(str(error).split())
    return UserError(
        f"{path} was damaged ({reason}) and has been deleted: run the same command again, "
        "which makes it again"
    )


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
