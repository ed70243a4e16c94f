"""JSON lines: NeMo's manifests and Lhotse's cuts, one utterance a line."""

import json
import os
from collections.abc import Iterator
from typing import Any

from zipquant.audio.manifests.common import audio_at, checked, lines, stem
from zipquant.audio.utterance import Utterance
from zipquant.errors import UserError

NAME = "JSON lines of NeMo or Lhotse"

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".manifest")


def is_kind(source: str) -> bool:
    """Return whether it is a file whose first line is a JSON object."""
    if not os.path.isfile(source) or not source.endswith(SUFFIXES):
        return False
    first = next(lines(source), (0, ""))[1]
    return first.startswith("{")


def read(source: str) -> list[Utterance]:
    """Read the utterances; see NeMo's `audio_filepath` manifests and lhotse's `MonoCut`.

    Raises:
        UserError: a line is no JSON, is of another kind, or names no file that is there.
    """
    found = []
    for number, line in lines(source):
        where = f"{source}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: is no JSON object in one line ({error.msg}); JSON over several lines is "
                "not taken"
            ) from None
        if not isinstance(entry, dict):
            raise UserError(f"{where}: is no JSON object")
        found.append(checked(where, _utterance(where, os.path.dirname(source), entry)))
    return found


def _utterance(where: str, folder: str, entry: dict[str, Any]) -> Utterance:
    if "audio_filepath" in entry:
        path, text = str(entry["audio_filepath"]), str(entry.get("text") or "")
        start, name = _seconds(where, entry.get("offset")), str(entry.get("id") or "")
        # Without an offset the duration is that of the whole file.
        length = entry.get("duration") if entry.get("offset") else None
    elif "recording" in entry:
        path, text = _lhotse_audio(where, entry), " ".join(_lhotse_texts(entry))
        start, name = _seconds(where, entry.get("start")), str(entry.get("id") or "")
        whole = entry["recording"].get("duration")
        length = None if start == 0 and entry.get("duration") == whole else entry.get("duration")
    else:
        raise UserError(
            f"{where}: has neither 'audio_filepath' (NeMo) nor 'recording' (a Lhotse cut); it has "
            f"{', '.join(list(entry)[:6])}"
        )
    if not name:
        part = f"-{start:g}" if entry.get("offset") else ""
        name = f"{stem(path)}{part}"
    end = None if length is None else start + _seconds(where, length)
    return Utterance(name, audio_at(where, folder, path), text, start, end)


def _lhotse_audio(where: str, entry: dict[str, Any]) -> str:
    sources = entry["recording"].get("sources") or []
    files = [source for source in sources if source.get("type") == "file"]
    if len(files) != 1 or len(sources) != 1:
        kinds = ", ".join(str(source.get("type")) for source in sources) or "none"
        raise UserError(
            f"{where}: the recording must have one source of type 'file', it has: {kinds}. "
            "Lhotse's save_audios writes files"
        )
    return str(files[0]["source"])


def _lhotse_texts(entry: dict[str, Any]) -> Iterator[str]:
    for supervision in entry.get("supervisions") or []:
        if text := supervision.get("text"):
            yield str(text)


def _seconds(where: str, value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {value!r} is no number of seconds") from None
