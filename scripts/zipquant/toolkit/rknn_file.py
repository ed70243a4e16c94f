"""Reading back what stands in an .rknn file, without the toolkit."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from zipquant.errors import UserError

MAGIC = b"RKNN"
"""What every .rknn file starts with."""

HEADER_BYTES = 1 << 20
"""The descriptions stand before the weights; 99 inputs and outputs take about 20 KB."""

LAYER_BYTES = 1 << 24
"""So do the layers; 1,700 of them take 2 MB."""

LONGEST_NAME = 400

_TYPE = re.compile(rb"([\x01-\x40])\x00\x00\x00([A-Za-z][A-Za-z0-9]*)\x00")
_NAME = re.compile(rb"[A-Za-z]\w*:[\x20-\x7e]*")


def custom_string(path: str | Path) -> str:
    """Return the custom string of an .rknn file: the metadata that a runtime reads.

    It is the string that follows the description of the inputs: its length in 4 bytes, then the
    text (seen in files of rknn-toolkit2 2.3.2). Empty where the file has none.

    Raises:
        UserError: the file holds no description of its inputs.
    """
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    ends = [end for _, end in _descriptions(header.decode("latin-1"))]
    if not ends:
        raise _no_description(path)
    start = ends[-1] + 1
    start += -start % 4
    length = int.from_bytes(header[start : start + 4], "little")
    text = header[start + 4 : start + 4 + length].decode("utf-8", "replace")
    return text if "=" in text else ""


def io_types(path: str | Path) -> dict[str, str]:
    """Return the type of each input and output of an .rknn file, by name.

    Two JSON objects near the start of the file, one for the outputs and one for the inputs, map
    names to `{"dtype": ..., "layout": ...}` (seen in files of rknn-toolkit2 2.3.2).

    Raises:
        UserError: the file holds no such description.
    """
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES).decode("latin-1")
    types: dict[str, str] = {}
    for tensors, _ in _descriptions(header):
        types |= {name: entry["dtype"] for name, entry in tensors.items()}
    if not types:
        raise _no_description(path)
    return types


def layers(path: str | Path) -> list[tuple[str, str]]:
    """Return type and name of every layer in an .rknn file, inputs and outputs among them.

    Each layer has a name, which begins with a type and a colon or is empty, and behind it the type
    that it has got in the end. Both are strings with their length in 4 bytes before them and zeros
    up to the next multiple of 4 bytes behind them, the last layer first (seen in files of
    rknn-toolkit2 2.2.0, 2.3.2 and 2.5.0, for six platforms).

    Returns:
        The layers in the order of execution; none where the file has them in another way.
    """
    with open(path, "rb") as file:
        header = file.read(LAYER_BYTES)
    found = []
    for match in _TYPE.finditer(header):
        name = None
        if match.start() % 4 == 0 and len(match[2]) == match[1][0]:
            name = _string_before(header, match.start())
        if name is not None:
            found.append((match[2].decode(), name))
    found.reverse()
    # Beyond the first input and the last output stand other strings.
    borders = [
        n for n, (kind, _) in enumerate(found) if kind in ("InputOperator", "OutputOperator")
    ]
    return found[borders[0] : borders[-1] + 1] if borders else []


def is_whole(path: str | Path) -> bool:
    """Return whether an .rknn file is there to its end.

    It is the magic number, 4 zero bytes, a version, the length of the weights (each in 8 bytes,
    little-endian), zeros up to byte 64, the weights, the length of a JSON text and the text (seen
    in files of rknn-toolkit2 2.3.2).
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        head = file.read(64)
        if len(head) < 64 or not head.startswith(MAGIC):
            return False
        end = 64 + int.from_bytes(head[16:24], "little")
        if end + 8 > size:
            return False
        file.seek(end)
        return end + 8 + int.from_bytes(file.read(8), "little") == size


def _string_before(data: bytes, end: int) -> str | None:
    """Return the layer's name that ends right before a place; None where none does."""
    for padding in range(1, 5):
        last = end - padding
        if data[last:end] != bytes(padding):
            return None
        for length in range(-padding % 4, LONGEST_NAME, 4):
            start = last - length
            if int.from_bytes(data[start - 4 : start], "little") == length:
                if not length or _NAME.fullmatch(data, start, last):
                    return data[start:last].decode()
                break
    return None


def built_for(path: str | Path) -> tuple[str, str]:
    """Return the platform that an .rknn file was built for, and the version that built it.

    They stand in the JSON text at the file's end, see `is_whole`, as `target_platform` (a list) and
    `version` (seen in files of rknn-toolkit2 2.3.2).

    Raises:
        UserError: the file is cut off, or holds no such text.
    """
    if not is_whole(path):
        raise UserError(f"{path}: it is no whole .rknn file")
    content = Path(path).read_bytes()
    try:
        text = json.loads(content[72 + int.from_bytes(content[16:24], "little") :])
        return ", ".join(text["target_platform"]), str(text["version"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: it does not say for what platform it was built") from None


def _descriptions(header: str) -> Iterator[tuple[dict[str, dict[str, str]], int]]:
    """Yield the JSON objects that map names to types, and where each ends."""
    decoder = json.JSONDecoder()
    position = header.find('{"')
    while position >= 0:
        try:
            value, end = decoder.raw_decode(header, position)
        except json.JSONDecodeError:
            end = position + 1
        else:
            if all(isinstance(entry, dict) and "dtype" in entry for entry in value.values()):
                yield value, end
        position = header.find('{"', end)


def _no_description(path: str | Path) -> UserError:
    return UserError(f"{path}: no description of inputs and outputs found in it")
