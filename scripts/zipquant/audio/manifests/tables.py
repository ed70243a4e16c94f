"""Tables with a header line: CSV and TSV, whatever their columns are called."""

import csv
import os
from collections.abc import Iterator

from zipquant.audio.manifests.common import audio_at, checked, one_line, opened, stem
from zipquant.audio.utterance import Utterance
from zipquant.errors import UserError

NAME = "table"

COLUMNS = {
    "id": ("id", "utt", "utt_id", "uttid", "utterance", "utterance_id", "segment_id", "key"),
    "path": (
        *("path", "file", "wav", "audio", "filename", "file_name", "audio_path", "audio_file"),
        *("audio_filepath", "wav_path", "wav_file", "wav_filename", "filepath", "file_path"),
        *("source",),
    ),
    "text": (
        *("text", "sentence", "transcript", "transcription", "transcriptions", "transcripts"),
        *("normalized_text", "normalised_text", "raw_text", "label", "txt", "target"),
    ),
    "start": ("start", "begin", "offset", "start_time", "begin_time"),
    "end": ("end", "stop", "end_time", "stop_time"),
    "duration": ("duration", "dur", "seconds"),
}
"""How the columns are called, in small letters; the first that is there is taken."""

DELIMITERS = ("\t", ",", ";", "|")


def is_kind(source: str) -> bool:
    """Return whether it is a file whose first line names a column of audio files."""
    if not os.path.isfile(source):
        return False
    delimiter, names = _header(source)
    return bool(delimiter) and "path" in known(names)


def read(source: str) -> list[Utterance]:
    """Read a table; a relative path is relative to it, or to a folder such as `clips` beside it.

    Raises:
        UserError: a line has too many columns or no path, a file is missing or named twice.
    """
    folder, found = os.path.dirname(source), []
    seen: dict[tuple, int] = {}
    delimiter, names = _header(source)
    columns = known(names)
    for name in set(names) & set(columns.values()):
        if names.count(name) > 1:
            raise UserError(
                f"{source}: {names.count(name)} columns are called '{name}' in its first line; "
                "rename or remove all but one"
            )
    for number, row in _rows(source, delimiter, names):
        where = f"{source}, line {number}"
        values = {key: row[name].strip() for key, name in columns.items()}
        if not values["path"] or ("id" in values and not values["id"]):
            raise UserError(f"{where}: id or path is empty")
        start, end, length = (
            _seconds(where, values.get(key, "")) for key in ("start", "end", "duration")
        )
        if end is None and None not in (start, length):
            end = start + length
        path = audio_at(where, folder, values["path"])
        key = (path, start, end)
        if key in seen:
            raise UserError(
                f"{where}: the same file as in line {seen[key]}, {path}: it would count twice; "
                "take one of the lines out"
            )
        seen[key] = number
        name = values.get("id") or stem(values["path"]) + (f"-{start:g}" if start else "")
        utterance = Utterance(name, path, one_line(values.get("text", "")), start or 0.0, end)
        found.append(checked(where, utterance))
    return found


def unread(source: str) -> list[str]:
    """Return the columns of a table without transcripts that might hold them; none otherwise."""
    _, names = _header(source)
    columns = known(names)
    others = [name for name in names if name and name not in columns.values()]
    return [] if "text" in columns else others


def known(names: list[str]) -> dict[str, str]:
    """Return the column of each kind, by the kind."""
    found = {}
    for kind, usual in COLUMNS.items():
        for name in usual:
            if name in names:
                found[kind] = name
                break
    return found


def _header(source: str) -> tuple[str, list[str]]:
    """Return the delimiter and the names of the columns; none where the file is no table."""
    with opened(source) as file:
        first = file.readline(1 << 16).rstrip("\r\n")
    for delimiter in DELIMITERS:
        names = next(csv.reader([first], delimiter=delimiter, **_dialect(delimiter)), [])
        # Small letters and no spaces around: as people write them.
        names = [name.strip().lower() for name in names]
        if "path" in known(names) and (len(names) > 1 or delimiter == DELIMITERS[-1]):
            return delimiter, names
    return "", []


def _dialect(delimiter: str) -> dict:
    """Quotes mean something in CSV; in tab-separated text they are part of a transcript."""
    return {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}


def _rows(source: str, delimiter: str, names: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    with opened(source) as file:
        table = csv.reader(file, delimiter=delimiter, **_dialect(delimiter))
        try:
            next(table)
            for row in table:
                if not any(row):
                    continue
                if len(row) > len(names):
                    raise UserError(
                        f"{source}, line {table.line_num}: {len(row)} columns, the first line has "
                        f"{len(names)}: a {'tab' if delimiter == chr(9) else repr(delimiter)} "
                        "inside a transcript, or one too many; replace it by a space"
                    )
                row += [""] * (len(names) - len(row))
                yield table.line_num, dict(zip(names, row, strict=True))
        except csv.Error as error:
            raise UserError(f"{source} is no table ({error})") from None


def _seconds(where: str, value: str) -> float | None:
    if not value:
        return None
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{where}: '{value[:40]}' is no number of seconds") from None
