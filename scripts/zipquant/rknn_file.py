"""Reading back what stands in an .rknn file, without the toolkit."""

import json
from pathlib import Path

from zipquant.errors import UserError

HEADER_BYTES = 1 << 20
"""The descriptions stand before the weights; 99 inputs and outputs take about 20 KB."""


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
    decoder = json.JSONDecoder()
    position = header.find('{"')
    while position >= 0:
        try:
            value, end = decoder.raw_decode(header, position)
        except json.JSONDecodeError:
            end = position + 1
        else:
            tensors = value.items()
            if all(isinstance(entry, dict) and "dtype" in entry for _, entry in tensors):
                types |= {name: entry["dtype"] for name, entry in tensors}
        position = header.find('{"', end)
    if not types:
        raise UserError(f"{path}: no description of inputs and outputs found in it")
    return types
