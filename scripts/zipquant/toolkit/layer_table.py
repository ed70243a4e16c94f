"""The layers of a compiled network: which there are, on which core, with how many bytes."""

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from zipquant.jobs import files

COMPILER = "compiler"
"""The source of a table that the compiler has printed."""

RKNN_FILE = "file"
"""The source of a table of types and names alone, read from the .rknn."""

NPU, CPU = "NPU", "CPU"
"""What a layer runs on."""

BORDERS = ("InputOperator", "OutputOperator")
"""Rows of the table that stand for inputs and outputs; they are no layers."""

ARITHMETIC, MOVEMENT, CONVERSION, COUNTER = "arithmetic", "data movement", "conversion", "counter"
KINDS = (ARITHMETIC, MOVEMENT, CONVERSION, COUNTER)
"""What a layer does: computes, moves data, changes their type, or counts frames in integers."""

CONVERSIONS = ("exDataConvert", "Cast")

MOVEMENTS = (
    *("Transpose", "Reshape", "Slice", "Concat", "Split", "Expand", "Gather", "Pad", "Tile"),
    *("Squeeze", "Unsqueeze", "Flatten", "DepthToSpace", "SpaceToDepth", "Identity", "exGather"),
)

COUNTED = ("INT64", "INT32", "UINT64", "UINT32", "BOOL")
"""Data types of counters and of what is made of them; quantized data have 8 or 16 bits."""


@dataclass(frozen=True)
class Layer:
    """One layer, as the compiler reports it. What is unknown is None, or empty.

    Attributes:
        id: its place in the order of execution, inputs and outputs included.
        type: what it computes, such as `ConvExSwish`.
        data_type: such as `INT8`; empty where unknown.
        target: `NPU` or `CPU`; empty where unknown.
        inputs: shapes of its inputs, weights among them; the compiler leaves out those after some.
        outputs: shapes of its outputs.
        weight_bytes: constants that it reads.
        read_bytes: activations that it reads, in the NPU's own layout.
        written_bytes: activations that it writes, without the layout's padding.
        cycles: of the NPU, as the compiler expects; known of products and convolutions alone.
        name: the compiler's name, made of the operator's or the tensor's in the ONNX file.
        module: the module of the model that it belongs to, see `module_of`.
    """

    id: int
    type: str
    data_type: str
    target: str
    inputs: str
    outputs: str
    weight_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None
    cycles: int | None
    name: str
    module: str

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.data_type in COUNTED:
            return COUNTER
        if self.type in CONVERSIONS:
            return CONVERSION
        return MOVEMENT if self.type in MOVEMENTS else ARITHMETIC


@dataclass(frozen=True)
class Table:
    """The layers of a network in the order of execution, and its memory.

    Attributes:
        layers: without inputs and outputs.
        borders: how many inputs and outputs there are.
        source: `COMPILER`, or `RKNN_FILE`, which has types and names alone.
        weight_memory: bytes of all weights and constants; None where unknown.
        internal_memory: bytes that activations share; None where unknown.
    """

    layers: tuple[Layer, ...]
    borders: int
    source: str
    weight_memory: int | None = None
    internal_memory: int | None = None

    def write(self, path: str | Path) -> None:
        """Write the layers as TSV. The first line has what concerns all of them, behind `#`."""
        whole = [f"{key}={value}" for key, value in self._whole().items() if value is not None]
        with files.tsv_writer(path) as table:
            table.writerow(["# " + " ".join(whole)])
            table.writerow([field.name for field in fields(Layer)])
            # The writer leaves None empty.
            table.writerows(astuple(layer) for layer in self.layers)

    @classmethod
    def read(cls, path: str | Path) -> "Table":
        """Read what `write` has written.

        Raises:
            UserError: the file is damaged; see `files.damaged`.
        """
        names = [field.name for field in fields(Layer)]
        numbers = {field.name for field in fields(Layer) if "int" in str(field.type)}
        try:
            with open(path, encoding="utf-8", newline="") as file:
                (first,), heading, *rows = csv.reader(file, dialect="excel-tab")
            whole = dict(entry.split("=", 1) for entry in first.removeprefix("# ").split())
            if heading != names or not {"source", "borders"} <= set(whole):
                raise ValueError("no table of layers")
            layers = []
            for row in rows:
                values: dict[str, Any] = dict(zip(names, row, strict=True))
                values |= {name: int(values[name]) if values[name] else None for name in numbers}
                layers.append(Layer(**values))
        except ValueError as error:
            raise files.damaged(path, error) from None
        memory = {
            name: int(whole[name]) if name in whole else None
            for name in ("weight_memory", "internal_memory")
        }
        return cls(tuple(layers), int(whole["borders"]), whole["source"], **memory)

    def summary(self) -> dict[str, Any]:
        """Return the counts, for a report.

        Returns:
            `layers`, how many there are; by `kinds`, by `types` and by `targets`, how many each
            has; `switches` between NPU and CPU, None where unknown; and `borders`, `source`,
            `weight_memory` and `internal_memory`.
        """
        targets = Counter(layer.target for layer in self.layers if layer.target)
        kinds = Counter(layer.kind for layer in self.layers)
        return {
            "layers": len(self.layers),
            "kinds": {kind: kinds[kind] for kind in KINDS if self._knows_kind(kind)},
            "types": dict(Counter(layer.type for layer in self.layers).most_common()),
            "targets": {target: targets[target] for target in (NPU, CPU)} if targets else {},
            "switches": switches(self.layers) if targets else None,
            **self._whole(),
        }

    def _knows_kind(self, kind: str) -> bool:
        """Counters are known by their data type, which the .rknn does not have."""
        return kind != COUNTER or self.source == COMPILER

    def _whole(self) -> dict[str, Any]:
        return {
            "borders": self.borders,
            "source": self.source,
            "weight_memory": self.weight_memory,
            "internal_memory": self.internal_memory,
        }


def empty() -> Table:
    """Return the table of what could not be built."""
    return Table((), 0, RKNN_FILE)


def switches(layers: Iterable[Layer]) -> int:
    """Return how often one layer runs on the NPU and the next on the CPU, or the other way."""
    targets = [layer.target for layer in layers]
    return sum(one != other for one, other in itertools.pairwise(targets))


def module_of(name: str) -> str:
    """Return the module of the model that a layer's name gives; empty where it gives none.

    PyTorch's exporter names an operator, and its output, by the path of the module that it stands
    in: `/encoder/stacks.4/layers.0/attention/out_proj/MatMul`. The compiler adds the type before
    it, behind a colon, and what it has done behind it.
    """
    path = name.split(":", 1)[-1]
    parts = [part for part in path.split("/") if part]
    return "/".join(parts[:-1]) if path.startswith("/") else ""


def by_module(layers: Iterable[Layer]) -> Mapping[str, list[Layer]]:
    """Return layers by the kind of module that they belong to, those with the most first.

    Modules that repeat each other are one kind: behind the last part with a number, such as
    `layers.0`, the next part names it. Without such a part it is the last of the path. Layers of
    which nothing is known have the empty kind.
    """
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(_kind_of_module(layer.module), []).append(layer)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _kind_of_module(module: str) -> str:
    parts = module.split("/")
    numbered = [place for place, part in enumerate(parts) if re.search(r"\.\d+$", part)]
    place = min(numbered[-1] + 1, len(parts) - 1) if numbered else -1
    return re.sub(r"\.\d+$", "", parts[place])
