"""The index of a shard: what each audio file is, and whether it can be used."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from zipquant.audio import reading
from zipquant.errors import UserError, plain
from zipquant.jobs import files
from zipquant.jobs.progress import Progress


@dataclass(frozen=True)
class Entry:
    """One utterance of a shard.

    Attributes:
        id: name of the utterance.
        path: its audio file.
        seconds: duration of the audio at 16 kHz.
        sha256: hash of the file's content; empty for a skipped file.
        problem: why the file is skipped; empty for a usable file.
        warning: what is odd about a usable file: cut off, clipped or silent; else empty.
    """

    id: str
    path: str
    seconds: str
    sha256: str
    problem: str
    warning: str


def write(
    ids: Sequence[str],
    paths: Sequence[str],
    unreachable: Mapping[str, str],
    output: str | Path,
    channels: str,
    on_bad_file: str,
) -> None:
    """Read every audio file of a shard once and write the shard's index as a TSV file.

    Args:
        ids: the utterances' names.
        paths: their audio files, in the order of `ids`.
        unreachable: why files are unusable whose names the workflow cannot handle, by path.
        output: the index to write.
        channels: `mean` or `first`, see `audio.load`.
        on_bad_file: `skip` notes an unusable file in the index, `stop` refuses the whole run.

    Raises:
        UserError: with `stop`, some files are unusable; all of them are named.
    """
    entries = []
    progress = Progress("audio files", len(ids))
    for utterance_id, path in zip(ids, paths, strict=True):
        seconds, content, problem, warning = 0.0, "", "", ""
        try:
            samples, warning = reading.read(path, channels)
            seconds, content = len(samples) / reading.SAMPLE_RATE, files.sha256(path)
        except UserError as error:
            problem = " ".join(str(error).split())
        entries.append(Entry(utterance_id, path, f"{seconds:.3f}", content, problem, warning))
        progress.advance()
    for path, problem in unreachable.items():
        entries.append(Entry(path, path, f"{0:.3f}", "", " ".join(problem.split()), ""))
    for entry in entries:
        if entry.problem:
            print(f"warning: {plain(entry.problem)}: skipped", file=sys.stderr)
        elif entry.warning:
            print(f"warning: {plain(entry.path)} {entry.warning}", file=sys.stderr)
    bad = [entry.problem for entry in entries if entry.problem]
    if bad and on_bad_file == "stop":
        raise UserError(
            f"{len(bad)} unusable audio file(s): {'; '.join(bad)}. Mend or remove them, or set "
            "audio.on_bad_file to skip"
        )
    with (
        files.atomic(output) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        table = csv.DictWriter(file, [field.name for field in fields(Entry)], dialect="excel-tab")
        table.writeheader()
        table.writerows(asdict(entry) for entry in entries)


def read(index_file: str | Path) -> list[Entry]:
    """Read a shard's index, skipped files included."""
    with open(index_file, encoding="utf-8", newline="") as file:
        return [Entry(**row) for row in csv.DictReader(file, dialect="excel-tab")]


def check_overlap(
    calibration: Sequence[str | Path],
    evaluation: Sequence[str | Path],
    output: str | Path,
    on_overlap: str,
) -> None:
    """Find evaluation audio that is also calibrated with, by the content of the files.

    Args:
        calibration: index files of the calibration audio.
        evaluation: index files of the evaluation audio.
        output: the TSV file to write, one row for each evaluation utterance that was found: its id
            and the id of the same audio in the calibration set.
        on_overlap: `warn`, or `stop` to refuse the run.

    Raises:
        UserError: with `stop`, something was found.
    """
    known = {entry.sha256: entry for path in calibration for entry in read_usable(path)}
    found = [
        (entry, known[entry.sha256])
        for path in evaluation
        for entry in read_usable(path)
        if entry.sha256 in known
    ]
    if found and on_overlap == "stop":
        entry, same = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(
            f"{entry.path} is evaluation audio, but has the same content as the calibration audio "
            f"{same.path}{more}: accuracy measured on audio that was calibrated with looks better "
            "than it is. Take it out of one of the two sets, or set audio.on_overlap to warn"
        )
    with files.tsv_writer(output) as table:
        table.writerow(["evaluation", "calibration"])
        table.writerows((entry.id, same.id) for entry, same in found)


def read_usable(index_file: str | Path) -> list[Entry]:
    """Read a shard's index without the files that are skipped."""
    return [entry for entry in read(index_file) if not entry.problem]
