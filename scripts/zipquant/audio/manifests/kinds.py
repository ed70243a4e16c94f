"""Which kind of manifest a file or folder is, seen from its content."""

import os
from types import ModuleType

from zipquant.audio.manifests import folders, jsonl, kaldi, lists, recordings, tables
from zipquant.errors import UserError

KINDS: list[ModuleType] = [kaldi, folders, recordings, jsonl, tables, lists]
"""In the order in which they are tried. Each has a `NAME`, and functions `is_kind` and `read`."""

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")

TABLES = (".xlsx", ".xls", ".ods", ".parquet", ".arrow", ".feather", ".pkl")


def kind_of(source: str) -> ModuleType:
    """Return the module that reads a manifest.

    Raises:
        UserError: there is nothing there, or nothing that is known.
    """
    if not os.path.exists(source):
        raise UserError(
            f"no audio at '{source}': there is no such folder or manifest; set audio.calibration "
            "and audio.evaluation to a folder of audio files"
        )
    if source.lower().endswith(ARCHIVES):
        raise UserError(f"{source} is an archive: unpack it, and give the folder")
    if source.lower().endswith(TABLES):
        raise UserError(f"{source} is a table of another program: save it as CSV in UTF-8")
    if os.path.isfile(source) and not os.path.getsize(source):
        raise UserError(f"{source} is empty: it holds 0 bytes")
    for kind in KINDS:
        if kind.is_kind(source):
            return kind
    raise UserError(
        f"{source}: is no manifest that is known. Known: a table (CSV or TSV) with a column 'path' "
        "and perhaps 'id' and 'text' in its first line, JSON lines of NeMo, Lhotse or WeNet, a "
        "Kaldi data folder, lines of a file and its transcript, an audio file"
    )
