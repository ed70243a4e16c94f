"""Records of what the files of the results folder hold: damage is noticed before it is used.

A job that has succeeded records the size and the SHA-256 of each file that it has made, and the
next job that reads the file compares first. So a file that was cut off, emptied, changed, or
swapped with another one of its kind is found wherever it is read, whatever its format. The record
also says what the file was made from; see `zipquant.jobs.ledger`.

The record of `<results>/<path>` is `<results>/.records/<path>.tsv`, inside the results folder, so
that both move together. An output that is a folder has one record, of all files in it. While a job
is at work the records of its outputs are empty files: what a killed job has left behind does not
pass for finished, even where the workflow's own notes about it are lost.

HDF5 files can be far larger than what is read of them: the calibration set takes a few rows of
each trace file. All their blocks have checksums that are compared whenever a block is read, so of
these files the record has the size and the digest of some pieces alone, which separates one from
another.
"""

import csv
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zipquant.errors import UserError
from zipquant.jobs import files, processes
from zipquant.jobs.content import Content, combined, digest

RECORDS = ".records"
"""The folder of the records, in the results folder."""

SEEN = f"{RECORDS}/.seen.json"
"""What the last start of a run has seen of the files outside; see `content.Seen`."""

COLUMNS = ("what", "name", "bytes", "content", "stamp")

OF, FILE, INPUT, SETTING, VERSION, AGAIN, END = (
    *("record of", "file", "input", "setting", "version", "again"),
    "end of the record",
)
"""The kinds of rows. The last row has the number of the others; a record without is not whole."""

IGNORED = (".snakemake_timestamp",)
"""Files that come into an output folder after the job."""

OWN = (RECORDS, "logs", "benchmarks", processes.LOCK)
"""What in a results folder has no records."""

NO_RECORD = "there is no record of it"

UNFINISHED = "the job that makes it was not finished"

FOREIGN = "no job has made this file"
"""What is wrong with a file in an output folder that the folder's record does not have."""


@dataclass
class Origin:
    """What a job makes its outputs from.

    Attributes:
        inputs: content of each input, by its name: a path in the results folder, or one outside.
        settings: the rule's parameters, as JSON or its hash.
        versions: of the libraries that the numbers depend on.
        again: why the next run is to make the outputs again; empty for a result to keep.
    """

    inputs: dict[str, Content] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    again: str = ""


@dataclass
class Record:
    """What is recorded of one output.

    Attributes:
        files: its files, by their path in the results folder.
        origin: what it was made from.
    """

    files: dict[str, Content]
    origin: Origin

    @property
    def sha256(self) -> str:
        """One hash of all files."""
        return combined((name, content.sha256) for name, content in self.files.items())


class Broken(Exception):
    """A record that is missing, not finished or damaged; its text says which."""


def begin(results: str | Path, outputs: Iterable[str | Path]) -> None:
    """Note that a job is about to make some outputs, so that they do not count until `seal`.

    Args:
        results: the results folder.
        outputs: files or folders in it.
    """
    for output in outputs:
        record = record_of(results, output)
        files.write_text(record, "")


def seal(results: str | Path, outputs: Iterable[str | Path], origin: Origin | None = None) -> None:
    """Record what a job has made, and from what; see `begin`."""
    origin = origin or Origin()
    for output in outputs:
        rows = [[OF, os.path.relpath(output, results), "", "", ""]]
        for path in _files(Path(output)):
            name = os.path.relpath(path, results)
            rows.append([FILE, name, str(path.stat().st_size), digest(path), ""])
        for name, found in origin.inputs.items():
            rows.append([INPUT, name, str(found.bytes), found.sha256, found.stamp])
        rows += [[SETTING, name, "", text, ""] for name, text in origin.settings.items()]
        rows += [[VERSION, name, "", text, ""] for name, text in origin.versions.items()]
        if origin.again:
            rows.append([AGAIN, "", "", " ".join(origin.again.split()), ""])
        rows = [list(COLUMNS), *rows, [END, str(len(rows)), "", "", ""]]
        with (
            files.atomic(record_of(results, output)) as temporary,
            # File names that are no UTF-8 are written as the bytes that they are.
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            csv.writer(file, dialect="excel-tab").writerows(rows)


def forget(results: str | Path, outputs: Iterable[str | Path]) -> None:
    """Delete the records of outputs that are not there; see `begin`."""
    for output in outputs:
        record_of(results, output).unlink(missing_ok=True)


def verify(results: str | Path, inputs: Iterable[str | Path]) -> None:
    """Compare files with their records, those of them that are in the results folder.

    Files that are damaged are deleted, all of `inputs` before the error is raised, so that one
    more run of the same command makes them again; of a folder, the whole.

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


def problem(results: str | Path, path: str | Path, read: bool = True) -> str:
    """Return what is wrong with a file or folder of the results folder; nothing if it is intact.

    Args:
        results: the results folder.
        path: the file or folder.
        read: whether to compare the content as well; otherwise sizes alone.
    """
    try:
        record = load(results, path)
    except Broken as error:
        return str(error)
    is_folder = Path(path).is_dir()
    for name, content in record.files.items():
        file = Path(results, name)
        part = f"{os.path.relpath(file, path)}: " if is_folder else ""
        if not file.is_file():
            return f"{part}it is missing"
        if file.stat().st_size != content.bytes:
            return f"{part}it has {file.stat().st_size} bytes instead of {content.bytes}"
        # Errors in reading the files themselves are not theirs, and must not delete them.
        if read and digest(file) != content.sha256:
            return f"{part}it has another content than was written"
    if is_folder:
        for file in _files(Path(path)):
            if os.path.relpath(file, results) not in record.files:
                return f"{os.path.relpath(file, path)}: {FOREIGN}"
    elif not record.files and not Path(path).exists():
        return "it is missing"
    return ""


def discard(results: str | Path, path: str | Path, reason: str) -> str:
    """Delete a damaged file or folder, and return the message that says so.

    Its record stays as an empty one: the job that makes it has to run again. What no job has
    made is left alone: it may be somebody's own.
    """
    if not os.path.lexists(path):
        return f"{path} is missing: run the same command again"
    if reason == NO_RECORD:
        return (
            f"{path} is in the results folder, but no job has recorded what it holds: delete it "
            "and run the same command again; keep files of your own elsewhere"
        )
    if reason.endswith(FOREIGN):
        return (
            f"{Path(path, reason.removesuffix(f': {FOREIGN}'))} is in a folder of results, but no "
            "job has made it: move it elsewhere, and run the same command again"
        )
    begin(results, [path])
    return str(files.damaged(path, ValueError(reason)))


def load(results: str | Path, path: str | Path) -> Record:
    """Read the record of a file or folder of the results folder.

    Raises:
        Broken: there is none, the job was not finished, or the record is damaged.
    """
    record = record_of(results, path)
    if not record.exists():
        raise Broken(NO_RECORD)
    try:
        with open(record, encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.field_size_limit(sys.maxsize)
            rows = list(csv.reader(file, dialect="excel-tab"))
        return _parsed(record, rows, os.path.relpath(path, results))
    except (ValueError, csv.Error) as error:
        raise Broken(str(error)) from None


def recorded(results: str | Path) -> Iterator[Path]:
    """Yield all files and folders of a results folder that there is a record of."""
    folder = Path(results, RECORDS)
    for record in sorted(folder.rglob("*.tsv")):
        if files.is_temporary(record):  # of a job that is at work, or was killed
            continue
        yield Path(results, record.relative_to(folder).with_suffix(""))


def unrecorded(results: str | Path, within: Iterable[str] | None = None) -> Iterator[str]:
    """Yield the files of a results folder, by their path in it, that no job of Zipquant has made.

    What a job that was not finished has left is its own; so are logs and benchmark files in a
    folder that has records.

    Args:
        results: the results folder.
        within: names of what is looked at in the results folder; all by default.
    """
    known: set[str] = set()
    unfinished: set[str] = set()
    for path in recorded(results):
        name = os.path.relpath(path, results)
        try:
            known.update((name, *load(results, path).files))
        except Broken:
            unfinished.add(name)
    own = OWN if Path(results, RECORDS).is_dir() else ()
    # A folder of results may lie on another disk.
    followed = {str(parent) for name in known | unfinished for parent in Path(name).parents}
    there = os.listdir(results) if os.path.isdir(results) else []
    for head in sorted(set(there) & set(there if within is None else within) - set(own)):
        path = Path(results, head)
        is_folder = path.is_dir() and (not path.is_symlink() or head in followed)
        for name in _walk(Path(results), head, followed) if is_folder else [head]:
            if not (
                name in known
                or ({str(parent) for parent in Path(name).parents} | {name}) & unfinished
                or os.path.basename(name) in IGNORED
                or files.is_temporary(name)
            ):
                yield name


def _walk(folder: Path, name: str, followed: set[str]) -> Iterator[str]:
    """Yield the files of a folder by their path in it, and the links but for some to folders."""
    for entry in sorted(os.scandir(folder / name), key=lambda entry: entry.name):
        path = os.path.join(name, entry.name)
        if entry.is_dir() and (not entry.is_symlink() or path in followed):
            yield from _walk(folder, path, followed)
        else:
            yield path


def is_inside(folder: str | Path, path: str | Path) -> bool:
    """Return whether a path lies in a folder, or is the folder."""
    relative = os.path.relpath(path, folder)
    return relative != os.pardir and not relative.startswith(os.pardir + os.sep)


def record_of(results: str | Path, path: str | Path) -> Path:
    """Return where the record of a file or folder of the results folder is."""
    return Path(results, RECORDS, os.path.relpath(path, results) + ".tsv")


def _files(path: Path) -> Iterator[Path]:
    """All files of an output, which is one itself or a folder, in a fixed order."""
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.rglob("*")):
        if entry.is_file() and entry.name not in IGNORED:
            yield entry


def _parsed(record: Path, rows: list[list[str]], name: str) -> Record:
    if not rows:
        raise ValueError(UNFINISHED)
    if rows[0] != list(COLUMNS):
        raise ValueError(f"its record {record} is no record")
    if rows[-1][:1] != [END]:
        raise ValueError(f"its record {record} is cut off")
    if any(len(row) != len(COLUMNS) for row in rows) or int(rows[-1][1]) != len(rows) - 2:
        raise ValueError(f"its record {record} is damaged")
    made, origin, of = {}, Origin(), None
    texts: Mapping[str, dict[str, str]] = {SETTING: origin.settings, VERSION: origin.versions}
    for kind, key, size, content, stamp in rows[1:-1]:
        if kind == FILE:
            made[key] = Content(int(size), content, stamp)
        elif kind == INPUT:
            origin.inputs[key] = Content(int(size), content, stamp)
        elif kind in texts:
            texts[kind][key] = content
        elif kind == OF:
            of = key
        elif kind == AGAIN:
            origin.again = content
        else:
            raise ValueError(f"its record {record} is damaged")
    if of != name:
        raise ValueError(f"its record {record} is that of {of}")
    return Record(made, origin)
