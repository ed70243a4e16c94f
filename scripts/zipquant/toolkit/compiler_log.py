"""Listening to rknn-toolkit2's compiler, which prints the layers that it makes of a network.

It does so at the log level `TABLES`, in 2.2.0, 2.3.2 and 2.5.0, and prints much else
then, gigabytes for some graphs, from C to file descriptor 1. `Listener` takes the tables out of
that stream while it runs. Where there is none, the .rknn file itself tells the layers' types and
names, and the rest stays unknown.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from zipquant.errors import ToolkitError
from zipquant.jobs import isolation
from zipquant.toolkit import rknn_file
from zipquant.toolkit.layer_table import BORDERS, COMPILER, RKNN_FILE, Layer, Table, module_of
from zipquant.toolkit.worker import LOG_LEVEL

TABLES = "3"
"""The least level at which the compiler prints its tables."""

MOST_BYTES = 20 << 30
"""More than the compiler has ever been seen to print of one graph, 14 GB."""

MOST_SECONDS = 1800
"""A compiler that goes on warning for longer, without a pause, is ended."""

PAUSE_SECONDS = 30

MOST_LOG_BYTES = 4 << 20
"""Of all that is no message of the compiler, what goes on to the log at most."""

SHOWN_WARNINGS = 3
"""The compiler's warnings that go on to the log; the others are counted."""

LONGEST_LINE = 1 << 20

WARNING = b"W RKNN: "
"""How the lines begin of which there are gigabytes."""

WIDTHS = {"FLOAT16": 2, "FLOAT": 4, "FLOAT32": 4, "INT64": 8, "INT32": 4, "INT16": 2, "INT8": 1}
"""Bytes of an element, by data type as the table has it; others count as 1."""

_COLUMNS = (
    *("ID", "OpType", "DataType", "Target", "InputShape", "OutputShape"),
    *("Cycles(DDR/NPU/Total)", "RW(KB)", "FullName"),
)
_SPARSE = "SparseRatio"
"""A column that some platforms have (rk3576, rv1126b), mostly without an entry."""

_REST = re.compile(r"(?:\S+\s+)?[\d.]+(?:\s+(\S.*))?$")
"""Of a row behind the cycles: that ratio, the KB that are read, and the name; one may be empty."""

_LAYERS, _TENSORS, _CONSTANTS = (
    "Network Layer Information Table",
    "Feature Tensor Information Table",
    "Const Tensor Information Table",
)
_MESSAGE = re.compile(rb"^([DIWEV]) RKNN: (?:\[[\d:.]+\] ?)?(.*)$", re.DOTALL)
_SIZED = re.compile(r"^(\d+)\s+\S+\s+(\S.*?)\s{2,}.*\|.*\s0x([0-9a-f]+)\s*$")
_MEMORY = re.compile(r"^Total (Internal|Weight) Memory Size: ([\d.]+)\s*([KMG]?)B")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def overhear(
    function: Callable[..., Any], again: bool = True, **arguments
) -> tuple[Any, "Listener"]:
    """Call a function that builds, in a process of its own, and listen to the compiler.

    A compiler that does not end its messages is ended, and the function called again, to build
    without them, and so without a table.

    Args:
        function: see `isolation.call`.
        again: whether it is called again then; if not, `Flood` is raised.
        arguments: of the function.

    Returns:
        What the function returns, and the listener, which has the table.

    Raises:
        ToolkitError: see `isolation.call`.
    """
    listener = Listener()
    try:
        result = isolation.overhear(listener.hear, {LOG_LEVEL: TABLES}, function, **arguments)
    except Flood as flood:
        if not again:
            raise
        print(f"{flood}; building again without its messages", flush=True)
        listener = Listener()
        result = isolation.call(function, **arguments)
    listener.end()
    return result, listener


class Flood(ToolkitError):
    """The compiler does not end its messages."""


class Listener:
    """Takes the compiler's tables from what a build prints, and hands on the rest.

    Its memory is bounded by the tables, whatever is printed.

    Args:
        hand_on: gets what is for the log.
        most_bytes: see `MOST_BYTES`.
        most_seconds: see `MOST_SECONDS`.
    """

    def __init__(
        self,
        hand_on: Callable[[bytes], None] | None = None,
        most_bytes: float | None = None,
        most_seconds: float | None = None,
    ):
        self._hand_on = hand_on or _print
        self._most_bytes = MOST_BYTES if most_bytes is None else most_bytes
        self._most_seconds = MOST_SECONDS if most_seconds is None else most_seconds
        self._rest = b""
        self._bytes = self._handed_on = self._warnings = 0
        self._flood_began = self._last_warning = -math.inf
        self._section, self._lines = "", dict[str, list[str]]()
        self._memory: dict[str, int] = {}

    def hear(self, block: bytes) -> None:
        """Take the next piece of what is printed.

        Raises:
            Flood: it is too much, or goes on for too long.
        """
        self._bytes += len(block)
        whole, end, self._rest = (self._rest + block).rpartition(b"\n")
        self._rest = self._rest[:LONGEST_LINE]
        if end:
            self._take_lines(whole)
        if self._bytes > self._most_bytes:
            raise Flood(
                f"rknn-toolkit2's compiler printed more than {self._bytes / 1e9:.1f} GB of messages"
            )

    def end(self) -> None:
        """Take the last line, and tell the log what was left out."""
        if self._rest:
            self._take(self._rest)
            self._rest = b""
        if self._warnings > SHOWN_WARNINGS:
            left = self._warnings - SHOWN_WARNINGS
            self._hand_on(f"({left} more warnings of the compiler are left out)\n".encode())
        if self._handed_on > MOST_LOG_BYTES:
            left = self._handed_on - MOST_LOG_BYTES
            self._hand_on(f"({left} more bytes of output are left out)\n".encode())

    def table(self, rknn: str | Path) -> Table:
        """Return the table of the build that has just ended.

        Args:
            rknn: the file that was built; it has the names in full, and all that is known where
                the compiler has printed no table.
        """
        named = rknn_file.layers(rknn)
        borders = sum(kind in BORDERS for kind, _ in named)
        rows = [row for row in map(_row, self._lines.get(_LAYERS, [])) if row]
        if not rows:
            layers = tuple(
                Layer(number, kind, "", "", "", "", None, None, None, None, name, module_of(name))
                for number, (kind, name) in enumerate(named)
                if kind not in BORDERS
            )
            return Table(layers, borders, RKNN_FILE)
        rows = _with_full_names(rows, named)
        read, _ = _sizes(self._lines.get(_TENSORS, []), leave_out="_exSecondary")
        weights, names = _sizes(self._lines.get(_CONSTANTS, []))
        layers = tuple(
            replace(
                layer,
                weight_bytes=weights.get(layer.id, 0),
                read_bytes=read.get(layer.id, 0),
                module=layer.module or _module_of_weights(names.get(layer.id, [])),
            )
            for layer in rows
            if layer.type not in BORDERS
        )
        return Table(
            layers,
            sum(row.type in BORDERS for row in rows),
            COMPILER,
            self._memory.get("Weight"),
            self._memory.get("Internal"),
        )

    def _take_lines(self, block: bytes) -> None:
        count = block.count(b"\n") + 1
        if block.startswith(WARNING) and block.count(b"\n" + WARNING) == count - 1:
            # As most of a flood is; then no line is looked at by itself.
            self._warn(block.split(b"\n", SHOWN_WARNINGS)[:SHOWN_WARNINGS], count)
            return
        for line in block.split(b"\n"):
            if line.startswith(WARNING):
                self._warn([line], 1)
            else:
                self._take(line)

    def _warn(self, lines: list[bytes], count: int) -> None:
        now = time.monotonic()
        if now - self._last_warning > PAUSE_SECONDS:
            self._flood_began = now
        self._last_warning = now
        if now - self._flood_began > self._most_seconds:
            raise Flood(
                "rknn-toolkit2's compiler was still printing warnings after "
                f"{self._most_seconds:.0f} s"
            )
        for line in lines[: max(0, SHOWN_WARNINGS - self._warnings)]:
            self._hand_on(line + b"\n")
        self._warnings += count

    def _take(self, line: bytes) -> None:
        message = _MESSAGE.match(line)
        if message and message[1] in (b"D", b"V"):
            self._read(message[2].decode("utf-8", "replace"))
            return
        length = len(line) + 1
        if self._handed_on + length <= MOST_LOG_BYTES:
            self._hand_on(line + b"\n")
        self._handed_on += length

    def _read(self, text: str) -> None:
        title = text.strip()
        if title in (_LAYERS, _TENSORS, _CONSTANTS):
            # The last compilation counts: it made the file.
            self._section = title
            self._lines[title] = []
        elif memory := _MEMORY.match(title):
            self._section = ""
            self._memory[memory[1]] = round(float(memory[2]) * _UNITS[memory[3]])
        elif self._section and not title.startswith("---"):
            if title[:1].isdigit():
                self._lines[self._section].append(title)
            elif not title.startswith("ID") or not _is_known(self._section, title):
                self._section = ""  # another table's, or another version's


def _print(block: bytes) -> None:
    # Unbuffered, as what the C code prints.
    with open(1, "wb", buffering=0, closefd=False) as file:
        file.write(block)


def _is_known(section: str, heading: str) -> bool:
    columns = tuple(name for name in heading.split() if name != _SPARSE)
    return section != _LAYERS or columns == _COLUMNS


def _row(line: str) -> Layer | None:
    """Return a row of the table of layers; its bytes stand in the other tables."""
    parts = line.split(maxsplit=7)
    rest = _REST.match(parts[7]) if len(parts) == 8 else None
    if not rest:
        return None
    number, kind, data_type, target, inputs, outputs, cycles = parts[:7]
    name = (rest[1] or "").strip()
    expected = cycles.rsplit("/", 1)[-1]
    return Layer(
        id=int(number),
        type=kind,
        data_type=data_type,
        target=target,
        inputs=inputs.replace("\\", ""),
        outputs=outputs.replace("\\", ""),
        weight_bytes=None,
        read_bytes=None,
        written_bytes=_elements(outputs) * WIDTHS.get(data_type, 1),
        cycles=int(expected) if expected.isdigit() and int(expected) else None,
        name=name,
        module=module_of(name),
    )


def _elements(shapes: str) -> int:
    """Return how many elements tensors have whose shapes are written as `(1,2),(3)`."""
    total = 0
    for shape in re.findall(r"\(([\d,]*)\)", shapes):
        count = 1
        for size in filter(None, shape.split(",")):
            count *= int(size)
        total += count
    return total


def _with_full_names(rows: list[Layer], named: list[tuple[str, str]]) -> list[Layer]:
    """Return rows with their names from the .rknn; the table cuts them after 54 characters."""
    if len(rows) != len(named):
        return rows
    return [
        replace(row, name=name, module=module_of(name)) if name.startswith(row.name) else row
        for row, (_, name) in zip(rows, named, strict=True)
    ]


def _sizes(
    lines: Iterable[str], leave_out: str | None = None
) -> tuple[dict[int, int], dict[int, list[str]]]:
    """Return the bytes, and the names, of what each layer reads, from a table of tensors."""
    sizes: Counter[int] = Counter()
    names: dict[int, list[str]] = {}
    for line in lines:
        found = _SIZED.match(line)
        if found and not (leave_out and leave_out in found[2]):
            sizes[int(found[1])] += int(found[3], 16)
            names.setdefault(int(found[1]), []).append(found[2])
    return dict(sizes), names


def _module_of_weights(names: Iterable[str]) -> str:
    """Return the module that weights belong to, by PyTorch's names: `encoder.embed.conv1.bias`."""
    for name in names:
        parts = name.rsplit(".", 1)
        if len(parts) == 2 and parts[1] in ("weight", "bias"):
            return re.sub(r"\.(?!\d)", "/", parts[0])
    return ""
