"""Records of what the files of the results folder hold: damage is noticed before it is used.

A job that has succeeded records the size and the SHA-256 of each file that it has made, and the
next job that reads the file compares first. So a file that was cut off, emptied, changed, or
swapped with another one of its kind is found wherever it is read, whatever its format.

The record of `<results>/<path>` is `<results>/.records/<path>.tsv`, inside the results folder, so
that both move together. An output that is a folder has one record, of all files in it. While a job
is at work the records of its outputs are empty files: what a killed job has left behind does not
pass for finished, even where the workflow's own notes about it are lost.

HDF5 files can be far larger than what is read of them: the calibration set takes a few rows of
each trace file. All their blocks have checksums that are compared whenever a block is read, so of
these files the record has the size and the digest of some pieces alone, which tells one from
another.
"""

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from zipquant.errors import UserError
from zipquant.jobs import files

RECORDS = ".records"
"""The folder of the records, in the results folder."""

COLUMNS = ("file", "bytes", "sha256")

END = "end of the record"
"""The last row, with the number of files; a record without it is not whole."""

IGNORED = (".snakemake_timestamp",)
"""Files that come into an output folder after the job."""

NO_RECORD = "there is no record of it"

CHECKS_ITSELF = ".h5"

PIECES, PIECE_BYTES = 16, 65536
"""What is hashed of a file that checks itself: 1 MiB spread from its first byte to its last."""


def begin(results: str | Path, outputs: Iterable[str | Path]) -> None:
    """Note that a job is about to make some outputs, so that they do not count until `seal`.

    Args:
        results: the results folder.
        outputs: files or folders in it.
    """
    for output in outputs:
        record = _record(results, output)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_bytes(b"")


def seal(results: str | Path, outputs: Iterable[str | Path]) -> None:
    """Record what a job has made; see `begin`."""
    for output in outputs:
        with files.tsv_writer(_record(results, output)) as table:
            table.writerow(COLUMNS)
            made = 0
            for path in _files(Path(output)):
                table.writerow([os.path.relpath(path, results), path.stat().st_size, digest(path)])
                made += 1
            table.writerow([END, made, ""])


def verify(results: str | Path, inputs: Iterable[str | Path]) -> None:
    """Compare files with their records, those of them that are in the results folder.

    Files that are damaged are deleted with their records, all of `inputs` before the error is
    raised, so that one more run of the same command makes them anew; of a folder, the whole.

    Args:
        results: the results folder.
        inputs: files or folders that a job is about to read.

    Raises:
        UserError: some are damaged, or there is no record of them.
    """
    found = []
    for path in inputs:
        if is_inside(results, path) and (reason := problem(results, path)):
            found.append(discard(results, path, reason))
    if found:
        raise UserError("; ".join(found))


def problem(results: str | Path, path: str | Path) -> str:
    """Return what is wrong with a file or folder of the results folder; nothing if it is intact."""
    record = _record(results, path)
    if not record.exists():
        return NO_RECORD
    try:
        # Errors in reading the files themselves are not theirs, and must not delete them.
        for name, size, content in _rows(record):
            file = Path(results, name)
            part = f"{os.path.relpath(file, path)}: " if Path(path).is_dir() else ""
            if not file.is_file():
                return f"{part}it is missing"
            if file.stat().st_size != size:
                return f"{part}it has {file.stat().st_size} bytes instead of {size}"
            if digest(file) != content:
                return f"{part}it has another content than was written"
    except (ValueError, csv.Error) as error:
        return str(error)
    return ""


def discard(results: str | Path, path: str | Path, reason: str) -> str:
    """Delete a damaged file or folder with its record, and return the message that says so.

    What has no record is left alone: it may be somebody's own.
    """
    if reason == NO_RECORD:
        return (
            f"{path} is in the results folder, but no job has recorded what it holds: delete it "
            "and run the same command again; keep files of your own elsewhere"
        )
    _record(results, path).unlink(missing_ok=True)
    return str(files.damaged(path, ValueError(reason)))


def recorded(results: str | Path) -> Iterator[Path]:
    """Yield all files and folders of a results folder that there is a record of."""
    folder = Path(results, RECORDS)
    for record in sorted(folder.rglob("*.tsv")):
        yield Path(results, record.relative_to(folder).with_suffix(""))


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


def is_inside(folder: str | Path, path: str | Path) -> bool:
    """Return whether a path lies in a folder, or is the folder."""
    relative = os.path.relpath(path, folder)
    return relative != os.pardir and not relative.startswith(os.pardir + os.sep)


def _record(results: str | Path, path: str | Path) -> Path:
    return Path(results, RECORDS, os.path.relpath(path, results) + ".tsv")


def _files(path: Path) -> Iterator[Path]:
    """All files of an output, which is one itself or a folder, in a fixed order."""
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.rglob("*")):
        if entry.is_file() and entry.name not in IGNORED:
            yield entry


def _rows(record: Path) -> Iterator[tuple[str, int, str]]:
    with open(record, encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.reader(file, dialect="excel-tab")
        first = next(table, None)
        if first is None:
            raise ValueError("the job that makes it was not finished")
        if first != list(COLUMNS):
            raise ValueError(f"its record {record} is no record")
        for count, row in enumerate(table):
            if len(row) != len(COLUMNS):
                raise ValueError(f"its record {record} is damaged")
            if row[0] == END:
                if int(row[1]) != count:
                    raise ValueError(f"its record {record} lacks files")
                return
            yield row[0], int(row[1]), row[2]
    raise ValueError(f"its record {record} is cut off")
