"""The index of a shard: what each audio file is, and whether it can be used."""

import csv
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from zipquant.audio import reading
from zipquant.audio.cutting import parts
from zipquant.audio.utterance import Utterance
from zipquant.errors import UserError, plain
from zipquant.jobs import files
from zipquant.jobs.progress import Progress

LEAST_POWER = 1e-12
"""Of full scale; digital silence counts as -120 dB."""


@dataclass(frozen=True)
class Entry:
    """One utterance of a shard.

    Attributes:
        id: name of the utterance.
        path: its audio file.
        start: where it begins in the file, in seconds.
        end: where it ends in the file, in seconds; empty for the end of the file.
        seconds: its duration.
        sha256: hash of the file's content; empty for a skipped file.
        rate: the file's sample rate in Hz; likewise.
        level: how loud it is (a part that was cut: its file), root mean square in dB of full scale;
            likewise.
        problem: why the file is skipped; empty for a usable file.
        warning: what is odd about a usable file: cut off, clipped or silent; else empty.
    """

    id: str
    path: str
    start: str
    end: str
    seconds: str
    sha256: str
    rate: str
    level: str
    problem: str
    warning: str

    @property
    def span(self) -> tuple[float, float | None]:
        """Where it begins and ends in the file, as `reading.read` takes it."""
        return float(self.start), float(self.end) if self.end else None

    @property
    def content(self) -> str:
        """What separates it from audio of other content: the file's hash, and which part it is."""
        return f"{self.sha256} {self.start} {self.end}"


def write(
    utterances: Sequence[Utterance],
    unreachable: Mapping[str, str],
    output: str | Path,
    channels: str,
    on_bad_file: str,
    cut: float = 0.0,
) -> None:
    """Read every audio file of a shard once and write the shard's index as a TSV file.

    Args:
        utterances: those of the shard.
        unreachable: why files are unusable whose names the workflow cannot handle, by path.
        output: the index to write.
        channels: `mean` or `first`, see `audio.load`.
        cut: a recording that is longer than this, in seconds, is cut at pauses into utterances
            `id@cut0`, `id@cut1`, ...; 0 for none.
        on_bad_file: `skip` notes an unusable file in the index, `stop` refuses the whole run.

    Raises:
        UserError: with `stop`, some files are unusable; all of them are named.
    """
    entries: list[Entry] = []
    progress = Progress("utterances", len(utterances))
    for utterance in utterances:
        try:
            entries += _look_at(utterance, channels, cut)
        except UserError as error:
            entries.append(_skipped(utterance.id, utterance.path, str(error)))
        progress.advance()
    entries += [_skipped(path, path, problem) for path, problem in unreachable.items()]
    for entry in entries:
        if entry.problem:
            print(f"warning: {plain(entry.problem)}: skipped", file=sys.stderr)
        elif entry.warning:
            print(f"warning: {plain(entry.path)} {entry.warning}", file=sys.stderr)
    bad = [entry.problem for entry in entries if entry.problem]
    if bad and on_bad_file == "stop":
        raise UserError(
            f"{len(bad)} unusable audio file(s): {'; '.join(bad)}. Fix or remove them, or set "
            "audio.on_bad_file to skip"
        )
    with (
        files.atomic(output) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        table = csv.DictWriter(file, [field.name for field in fields(Entry)], dialect="excel-tab")
        table.writeheader()
        table.writerows(asdict(entry) for entry in entries)


def _look_at(utterance: Utterance, channels: str, cut: float) -> list[Entry]:
    """Return the entry of an utterance, or of each part that it is cut into."""
    content, path = files.sha256(utterance.path), utterance.path
    if utterance.start or utterance.end is not None:
        span = (utterance.start, utterance.end)
        samples, warning = reading.read(path, channels, *span)
        seconds = len(samples) / reading.SAMPLE_RATE
        return [_entry(utterance.id, path, span, seconds, content, _level(samples), warning)]
    found = reading.scan(path, channels)
    level = _level(found.loudness)
    if cut and found.seconds > cut:
        spans = parts(found.loudness, cut)
    elif found.seconds > reading.LONGEST:
        raise UserError(
            f"{path}: is longer than {reading.LONGEST // 60} minutes; cut it, or set audio.cut"
        )
    else:
        whole = (0.0, None)
        return [_entry(utterance.id, path, whole, found.seconds, content, level, found.remark)]
    return [
        _entry(
            f"{utterance.id}@cut{number}",
            path,
            span,
            (found.seconds if span[1] is None else span[1]) - span[0],
            content,
            level,
            "" if number else found.remark,
        )
        for number, span in enumerate(spans)
    ]


def _entry(
    name: str,
    path: str,
    span: tuple[float, float | None],
    seconds: float,
    content: str,
    level: float,
    warning: str,
) -> Entry:
    end = "" if span[1] is None else f"{span[1]:g}"
    sound = str(reading.rate_of(path)), f"{level:.1f}"
    return Entry(name, path, f"{span[0]:g}", end, f"{seconds:.3f}", content, *sound, "", warning)


def _skipped(name: str, path: str, problem: str) -> Entry:
    return Entry(name, path, "0", "", f"{0:.3f}", "", "", "", " ".join(problem.split()), "")


def _level(values: np.ndarray) -> float:
    """Return the level of samples, or of their root mean squares, in dB of full scale."""
    power = float(np.square(values, dtype=np.float64).sum()) / max(1, len(values))
    return 10 * math.log10(max(power, LEAST_POWER))


def original(name: str) -> str:
    """Return the id that an utterance had before it was cut; see `write`."""
    return re.sub(r"@cut\d+$", "", name)


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
    known = {entry.content: entry for path in calibration for entry in read_usable(path)}
    found = [
        (entry, known[entry.content])
        for path in evaluation
        for entry in read_usable(path)
        if entry.content in known
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
