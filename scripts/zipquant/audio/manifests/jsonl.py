"""JSON lines, one utterance a line: NeMo's manifests, Lhotse's cuts, others with usual names."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from zipquant.audio.manifests import tables
from zipquant.audio.manifests.common import audio_at, checked, lines, one_line, opened, stem
from zipquant.audio.utterance import Utterance
from zipquant.errors import UserError

NAME = "JSON lines of NeMo or Lhotse"


def is_kind(source: str) -> bool:
    """Return whether it is a file that begins as a JSON object, or a list of them, does."""
    if not os.path.isfile(source):
        return False
    return next(lines(source), (0, ""))[1].startswith(("{", "["))


def read(source: str) -> list[Utterance]:
    """Read the utterances; see NeMo's `audio_filepath` manifests and lhotse's `MonoCut`.

    Names of fields are those of `tables.COLUMNS`, so WeNet's `data.list` (`key`, `wav`, `txt`) and
    Hugging Face's `metadata.jsonl` (`file_name`) are read too.

    Raises:
        UserError: a line is no JSON, is of another kind, or names no file that is there.
    """
    entries = list(_entries(source))
    # A file of which there are several parts; of others the duration is that of the whole file.
    parts = Counter(str(_field(entry, "path")) for _, entry in entries)
    folder = os.path.dirname(source)
    found = []
    for where, entry in entries:
        if "recording" in entry:
            utterance = _cut(where, folder, entry)
        else:
            several = parts[str(_field(entry, "path"))] > 1
            utterance = _plain(where, folder, entry, several)
        found.append(checked(where, utterance))
    return found


def _entries(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object, and where it stands."""
    first = next(lines(source))[1]
    if first.startswith("["):
        with opened(source) as file:
            values = _parsed(source, file.read())
        numbered = ((f"{source}, entry {n}", value) for n, value in enumerate(values, 1))
    else:
        numbered = (
            (where, _parsed(where, line))
            for where, line in ((f"{source}, line {n}", line) for n, line in lines(source))
        )
    for where, value in numbered:
        if not isinstance(value, dict):
            raise UserError(f"{where}: is no JSON object")
        yield where, value


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(
            f"{where}: is no JSON object in one line ({getattr(error, 'msg', error)}); an object "
            "over several lines is taken in a list alone"
        ) from None


def _field(entry: dict[str, Any], kind: str) -> Any:
    """Return a field by the names that it may have; None if it is not there."""
    name = tables.known([str(key).lower() for key in entry]).get(kind)
    value = next((v for key, v in entry.items() if str(key).lower() == name), None)
    # Hugging Face's datasets have the path inside.
    return value.get("path") if kind == "path" and isinstance(value, dict) else value


def _plain(where: str, folder: str, entry: dict[str, Any], several: bool) -> Utterance:
    if "sources" in entry or "tracks" in entry:
        what = "a recording" if "sources" in entry else "a mixed cut"
        raise UserError(
            f"{where}: is {what} of Lhotse, not a cut of one recording: make cuts with their texts "
            "(lhotse cut simple), or files of them (save_audios)"
        )
    path = _field(entry, "path")
    if not path or not isinstance(path, str):
        raise UserError(
            f"{where}: has neither 'audio_filepath' (NeMo) nor 'recording' (a Lhotse cut), nor "
            f"another usual name of a path; it has {', '.join(map(str, list(entry)[:6]))}"
        )
    start, end = _seconds(where, _field(entry, "start")), _field(entry, "end")
    length = _field(entry, "duration") if start or several else None
    if end is not None:
        end = _seconds(where, end)
    elif length is not None:
        end = start + _seconds(where, length)
    name = _field(entry, "id")
    name = str(name) if name not in (None, "") else _name_of(path, start, several)
    text = _field(entry, "text")
    # WeNet's `txt` may be a list of tokens.
    text = " ".join(map(str, text)) if isinstance(text, list) else str(text or "")
    return Utterance(name, audio_at(where, folder, path), one_line(text), start, end)


def _name_of(path: str, start: float, several: bool) -> str:
    return f"{stem(path)}-{start:g}" if start or several else stem(path)


def _cut(where: str, folder: str, entry: dict[str, Any]) -> Utterance:
    path, text = _lhotse_audio(where, entry), " ".join(_lhotse_texts(entry))
    start, name = _seconds(where, entry.get("start")), str(entry.get("id") or "")
    whole = entry["recording"].get("duration")
    length = None if start == 0 and entry.get("duration") == whole else entry.get("duration")
    end = None if length is None else start + _seconds(where, length)
    audio = audio_at(where, folder, path)
    return Utterance(name or _name_of(path, start, False), audio, one_line(text), start, end)


def _lhotse_audio(where: str, entry: dict[str, Any]) -> str:
    recording = entry["recording"]
    sources = recording.get("sources") if isinstance(recording, dict) else None
    sources = [source for source in sources or [] if isinstance(source, dict)]
    files = [source for source in sources if source.get("type") == "file"]
    if len(files) != 1 or len(sources) != 1:
        kinds = ", ".join(str(source.get("type")) for source in sources) or "none"
        raise UserError(
            f"{where}: the recording must have one source of type 'file', it has: {kinds}. "
            "Lhotse's save_audios writes files"
        )
    return str(files[0].get("source"))


def _lhotse_texts(entry: dict[str, Any]) -> Iterator[str]:
    for supervision in entry.get("supervisions") or []:
        if isinstance(supervision, dict) and (text := supervision.get("text")):
            yield str(text)


def _seconds(where: str, value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {value!r} is no number of seconds") from None
