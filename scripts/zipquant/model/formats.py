"""What a file is that was given as an ONNX model and is none."""

import zipfile
from pathlib import Path

from zipquant.errors import is_lfs_pointer

PYTORCH = (
    "a PyTorch checkpoint: export it to ONNX first, for a streaming Zipformer with icefall's "
    "export-onnx-streaming.py"
)

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".zip")
"""Endings of the archives that a model may come in."""

_ARCHIVE = "an archive: give it as the whole model, `model: {path}`, or unpack it"

_WEB_PAGE = "a web page: the download gave the site instead of the file; download the file itself"

_BEGINNINGS = {
    b"\x1f\x8b": _ARCHIVE,
    b"BZh": _ARCHIVE,
    b"\xfd7zXZ": _ARCHIVE,
    b"RKNN": "an .rknn file, made for an NPU already: give the ONNX file that it was made of",
    b"GGUF": "a GGUF file: give the ONNX model",
    b"7767517": "a model of ncnn: give the ONNX model",
    b"\x80": PYTORCH,
    **dict.fromkeys((b"<!", b"<html", b"<HTML", b"<?xml", b"<head"), _WEB_PAGE),
    b"<": "a text, perhaps the tokens: give the ONNX model",
    b"{": "JSON: give the ONNX model",
}


def is_archive(path: str | Path) -> bool:
    """Return whether a path is called like an archive that a model may come in."""
    return str(path).lower().endswith(ARCHIVES)


def why_not_onnx(path: str | Path) -> str:
    """Return what a file is in place of an ONNX model and what to do; empty if it may be one.

    Args:
        path: a file.
    """
    if is_lfs_pointer(path):
        return "a Git LFS pointer, not the file itself: run git lfs pull where it was cloned"
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "an empty file: copy or download it again"
    if start[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                inside = archive.namelist()
        except zipfile.BadZipFile:
            return "an archive that is damaged or not complete: copy or download it again"
        return PYTORCH if any(n.endswith("data.pkl") for n in inside) else _ARCHIVE
    if start[257:262] == b"ustar":
        return _ARCHIVE
    if start[4:8] == b"ORTM":
        return "in ORT format, which rknn-toolkit2 does not take: give the .onnx it was made of"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model: give the ONNX model"
    size = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and size < Path(path).stat().st_size:
        return (
            f"a safetensors file, weights alone; {PYTORCH.removeprefix('a PyTorch checkpoint: ')}"
        )
    text = start.lstrip()
    for beginning, what in _BEGINNINGS.items():
        if text.startswith(beginning):
            return what
    return ""
