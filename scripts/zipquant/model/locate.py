"""Finding the files of a model: in a folder, in a release archive, beside the encoder."""

import hashlib
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zipquant.errors import UserError
from zipquant.model import formats, precision
from zipquant.model.look import look

AUTO = "auto"
"""The setting that takes the file by its name, or by what is in it."""

PARTS = ("decoder", "joiner")

TOKENS = ("tokens.txt", "*tokens*.txt", "vocab.txt", "*vocab*.txt", "units.txt")
"""Names of tokens files, the likeliest first."""

COMPRESSED = (".7z", ".rar", ".zst", ".gz", ".bz2", ".xz", ".lz4")
"""Endings of archives of other kinds, and of single files that are compressed."""

DEEPEST = 6
"""Folders within each other that an encoder is looked for in."""

KEYWORDS = "keywords.txt"
"""Name of the file that models for keyword spotting come with."""

UNPACKED = (".onnx", ".data", ".txt", ".weights", ".bin", ".ort", ".rknn", ".pt", ".safetensors")
"""Endings of what is unpacked of an archive; test recordings stay in it."""


def locate(model: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Find the files that a model consists of.

    Args:
        model: the configuration's section `model`, with paths that are resolved. Where `encoder` is
            `AUTO` it is looked for in `folder`, a folder or an archive; where a part is `AUTO` it
            is looked for beside the encoder.

    Returns:
        The section with paths in place of `AUTO`, None for what is not there; what was decided for
        the user, one line each; and what is missing, one line each.

    Raises:
        UserError: there is no encoder, or it is not clear which of several is meant.
    """
    found, notes = dict(model), []
    if model["encoder"] == AUTO:
        folder = _folder(model["folder"], notes)
        found["encoder"] = str(_encoder(folder, notes))
    encoder = Path(found["encoder"])
    if not encoder.is_file():
        # The check of the encoder says what is wrong.
        missing = {k: None for k in (*PARTS, "tokens", "keywords") if model[k] == AUTO}
        return found | missing, notes, []
    looked_for: dict[str, list[str]] = {}
    for part in PARTS:
        if model[part] == AUTO:
            found[part], looked_for[part] = _part(encoder, part)
            if found[part]:
                notes += _other_name(encoder, part, Path(found[part]))
    if model["tokens"] == AUTO:
        found["tokens"], looked_for["tokens"] = _tokens(encoder.parent)
    if model["keywords"] == AUTO:
        beside = encoder.with_name(KEYWORDS)
        found["keywords"] = str(beside) if beside.is_file() else None
    missing = [key for key, names in looked_for.items() if names and not found[key]]
    if not missing:
        return found, notes, []
    names = [name for key in missing for name in looked_for[key]]
    warning = (
        f"no {' and no '.join(missing)} found for {encoder}, so no text is made and no error "
        f"rates are measured; looked in {encoder.parent} for {', '.join(names)}; set "
        f"{', '.join(f'model.{key}' for key in missing)}, or null to go without"
    )
    return found, notes, [warning]


def _folder(given: str, notes: list[str]) -> Path:
    """Return the folder to look in, where an archive is unpacked first."""
    path = Path(given)
    if path.is_dir():
        return path
    if re.match(r"\w+:/", given):
        raise UserError(f"{given} is an address: download the model, and set model to its folder")
    if not path.exists():
        raise UserError(f"no model at '{path}': set model to a folder that holds one")
    if formats.is_lfs_pointer(path):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    if not (tarfile.is_tarfile(path) or zipfile.is_zipfile(path)) or path.suffix == ".pt":
        if path.suffix.lower() in COMPRESSED and not formats.is_archive(path):
            raise UserError(
                f"{path} is compressed in a way that is not read here: unpack it, and set model to "
                "the folder"
            )
        why = formats.why_not_onnx(path)
        what = f"not a model but {why}" if why and "archive" not in why else "a damaged archive"
        raise UserError(f"{path} is {what if why else 'neither a folder nor an archive'} (model)")
    folder = unpack(path)
    notes.append(f"{path} is an archive; its model is used from {folder}")
    return folder


def unpack(archive: Path) -> Path:
    """Unpack what a model needs of an archive, once, into the user's cache; return the folder.

    Raises:
        UserError: the archive is damaged, or the cache cannot be written.
    """
    state = archive.stat()
    key = f"{archive.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = archive.name.split(".tar")[0].removesuffix(".zip")
    folder = Path(base) / "zipquant" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            inside = Path(temporary) / "model"
            inside.mkdir()
            _extract(archive, inside)
            # Another run may have been faster.
            if not folder.is_dir():
                inside.rename(folder)
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
        raise UserError(f"{archive} cannot be unpacked into {folder}: {error}") from None
    return folder


def _extract(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                if not entry.is_dir() and entry.filename.endswith(UNPACKED):
                    opened.extract(entry, folder)
        return
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile() and member.name.endswith(UNPACKED):
                opened.extract(member, folder, filter="data")


def _encoder(folder: Path, notes: list[str]) -> Path:
    """Return the encoder in a folder, or in a folder inside it: float32 rather than others."""
    encoders = encoders_in(folder)
    if not encoders:
        there = [path for path in _listing(folder) if path.suffix not in (".wav", ".md")]
        raise UserError(
            f"no streaming encoder in the folder {folder}: looked for ONNX files that are called "
            "encoder*.onnx or ctc*.onnx, or that take features and states"
            + (f"; there are {shown(there)}" if there else "; it is empty")
            + "; set model.encoder"
        )
    plain = [path for path in encoders if look(path).precision is None] or encoders
    if len(plain) > 1:
        raise UserError(
            f"several encoders in the folder {folder}: set model.encoder to one of {shown(plain)}"
        )
    left = [path.name for path in encoders if path != plain[0]]
    if left:
        notes.append(f"{plain[0]} is taken, the float32 encoder; not {', '.join(left)}")
    return plain[0]


def encoders_in(folder: Path) -> list[Path]:
    """Return the encoders in a folder, or in the folders in it, of whatever precision."""
    for files in _levels(folder):
        if found := [path for path in files if _kind(path) == "encoder"]:
            # Before what only looks like one stands what says so by its name.
            return [path for path in found if _role(path) in ("encoder", "ctc")] or found
    return []


def shown(paths: Iterable[Path]) -> str:
    """Return paths for a message, the first nine and how many more."""
    names = [str(path) for path in paths]
    return ", ".join(names[:9]) + (f" and {len(names) - 9} more" if len(names) > 9 else "")


def _part(encoder: Path, part: str) -> tuple[str | None, list[str]]:
    """Return the decoder or joiner beside an encoder, and the names that were looked for."""
    same = _sibling(encoder, part)
    others = [path for path in _onnx_files(encoder.parent) if path != encoder]
    called = [path for path in others if _role(path) == part]
    likely = [path for path in called if same and precision.plain_name(path.name) == same]
    if look(encoder).ctc and not likely:
        return None, []
    if not likely:
        unnamed = [path for path in others if _role(path) is None and _kind(path) == part]
        likely = called or unnamed
    plain = [path for path in likely if look(path).precision is None] or likely
    if len(plain) > 1:
        named = [path for path in plain if path.name == encoder.name.replace("encoder", part)]
        if len(named) != 1:
            raise UserError(
                f"several files may be the {part} of {encoder}: set model.{part} to one of "
                f"{shown(plain)}"
            )
        plain = named
    return (str(plain[0]) if plain else None), [*([same] if same else []), f"*{part}*.onnx"]


def _sibling(encoder: Path, part: str) -> str:
    """Return what a part is called that belongs to an encoder; empty if that has another name."""
    name = precision.plain_name(encoder.name)
    return name.replace("encoder", part) if "encoder" in name else ""


def _other_name(encoder: Path, part: str, found: Path) -> list[str]:
    """Say so where a part is not called as the encoder is."""
    same = _sibling(encoder, part)
    if not same or precision.plain_name(found.name) == same:
        return []
    return [
        f"{found} is taken as the {part}, but is not called {same}, as {encoder} is; if it is of "
        f"another model, set model.{part}"
    ]


def _tokens(folder: Path) -> tuple[str | None, list[str]]:
    for pattern in TOKENS:
        found = [path for path in _listing(folder) if path.match(pattern)]
        if len(found) == 1 or (found and pattern == TOKENS[0]):
            return str(found[0]), list(TOKENS)
        if found:
            raise UserError(
                f"several files may be the tokens in {folder}: set model.tokens to one of "
                f"{shown(found)}"
            )
    return None, list(TOKENS)


def _levels(folder: Path) -> Iterator[list[Path]]:
    """Yield the ONNX files of a folder, then those of the folders in it, and so on down."""
    folders = [folder]
    for _ in range(DEEPEST):
        yield [path for place in folders for path in _onnx_files(place)]
        folders = [path for place in folders for path in _listing(place) if path.is_dir()]


def _onnx_files(folder: Path) -> list[Path]:
    return [p for p in _listing(folder) if p.suffix.lower() == ".onnx" and p.is_file()]


def _listing(folder: Path) -> list[Path]:
    """Return what is in a folder, without what macOS and others put there for themselves."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))
    except OSError:
        return []


def _role(path: Path) -> str | None:
    """Return what a file's name says that it is; None if it says nothing."""
    name = path.name.lower()
    return next((role for role in ("encoder", *PARTS, "ctc") if role in name), None)


def _kind(path: Path) -> str | None:
    """Return what an ONNX file is: an encoder, a decoder or a joiner; else None."""
    role = _role(path)
    if role in PARTS:
        return role
    axes = look(path).axes
    if axes in ((2,), (2, 2)):
        return PARTS[len(axes) - 1]
    return "encoder" if role or (axes[:1] == (3,) and len(axes) > 2) else None
