"""Which tensors of a quantized graph stay in float16, found in the toolkit's own graph.

The first step of the toolkit's hybrid quantization leaves the optimised graph as an ONNX file.
Names and operators are the toolkit's: a float input passes an `exDataConvert` node, an output comes
out of one, and a CumSum has become a Conv with a triangular weight.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import yaml
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from zipquant import files
from zipquant.errors import UserError

CONVERT = "exDataConvert"
FLOAT16 = "float16"

WEIGHTLESS = {
    *(
        "Add",
        "Cast",
        "Concat",
        "Constant",
        "Div",
        "Expand",
        "Gather",
        "Mul",
        "Reciprocal",
        "Reshape",
    ),
    *("Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze", CONVERT),
}
"""Operators that a running mean is made of, besides its CumSum."""


class Graph:
    """The toolkit's graph of a quantized encoder, or the encoder's own.

    Args:
        path: the `.model` file of the toolkit's first step, or the encoder's ONNX file.

    Attributes:
        cumulative_sums: names of CumSum nodes. Some boards compute these wrong; the toolkit makes
            convolutions of them, so that none should be left.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, path: str | Path):
        try:
            graph = onnx.load(path).graph
        except (OSError, DecodeError) as error:
            raise UserError(
                f"{path} is damaged ({error}): delete the folder and run again"
            ) from None
        self._nodes = list(graph.node)
        self.cumulative_sums = [n.name for n in graph.node if n.op_type == "CumSum"]
        self._outputs = [value.name for value in graph.output]
        self._producers = {name: node for node in graph.node for name in node.output}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}

    def borders(self) -> list[str]:
        """Return the tensors that make the model's quantized inputs and outputs float16.

        An input is float16 when what its consumers give is; an output when itself is.
        """
        inside = {node.output[0] for node in self._nodes if self._is_input(node)}
        found = [name for node in self._nodes if inside & set(node.input) for name in node.output]
        found += [n for n in self._outputs if self._producers[n].op_type == CONVERT]
        # A state that is handed on unchanged is both.
        return list(dict.fromkeys(found))

    def running_means(self) -> dict[str, list[str]]:
        """Return the states that are running means, with the tensors that compute each.

        A running mean is an output that a cumulative sum leads to by arithmetic alone, with no
        layer that has weights in between: (CumSum(x) + mean * count) / (count + k) in Zipformer. In
        int8 its frame counter saturates, whatever it is calibrated with.

        Returns:
            By output name, the tensors from it back to the cumulative sum.
        """
        found = {name: self._cone(name) for name in self._outputs}
        return {name: cone for name, cone in found.items() if cone}

    def _is_input(self, node: onnx.NodeProto) -> bool:
        return node.op_type == CONVERT and node.input[0] not in self._producers

    def _cone(self, output: str) -> list[str]:
        """Tensors from an output back to a cumulative sum; none if there are weights on the way."""
        cone: dict[str, None] = {}
        todo, sums = [output], 0
        while todo:
            name = todo.pop()
            node = self._producers.get(name)
            if node is None or name in cone or self._is_input(node):
                continue
            cone[name] = None
            if self._is_cumulative_sum(node):
                sums += 1
            elif node.op_type in WEIGHTLESS:
                todo += node.input
            else:
                return []
        return list(cone) if sums else []

    def _is_cumulative_sum(self, node: onnx.NodeProto) -> bool:
        """Whether it is a 1x1 convolution with a triangle of ones, the toolkit's CumSum."""
        if node.op_type == "CumSum":  # in a graph that the toolkit has not rewritten
            return True
        if node.op_type != "Conv" or node.input[1] not in self._weights:
            return False
        shape = tuple(self._weights[node.input[1]].dims)
        if len(shape) < 2 or shape[0] != shape[1] or np.prod(shape[2:]) != 1:
            return False
        weight = numpy_helper.to_array(self._weights[node.input[1]]).reshape(shape[:2])
        return bool((weight == np.tril(np.ones(shape[:2]))).all())


def set_float16(config: str | Path, tensors: Sequence[str]) -> None:
    """Enter tensors that stay in float16 into the `.cfg` file of the toolkit's first step.

    Only the file's first line is changed: the toolkit refuses the file when a number further down
    is spelt in another way, as a YAML writer would.

    Args:
        config: the file.
        tensors: names in the toolkit's graph; those that are not quantized are left out.

    Raises:
        UserError: the file does not begin as the toolkit leaves it.
    """
    path = Path(config)
    first, rest = path.read_text(encoding="utf-8").split("\n", 1)
    if first != "custom_quantize_layers: {}":
        raise UserError(f"{path} has been changed: delete the variant's folder and run again")
    if not tensors:
        return
    quantized = _parameters(rest)
    # A running mean that is an output is named as both; the toolkit refuses a name given twice.
    names = [name for name in dict.fromkeys(tensors) if name in quantized]
    lines = [f"    {json.dumps(name)}: {FLOAT16}" for name in names]
    files.write_text(path, "\n".join(["custom_quantize_layers:", *lines, rest]))


def input_ranges(config: str | Path, inputs: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the calibrated ranges of a model's inputs, read from the toolkit's `.cfg` file.

    They are what the algorithm has made of the calibration rows: their minimum and maximum
    (normal), or a narrower range (kl_divergence, mmse). With float16 borders the input itself is
    not quantized; the tensors behind it, which hold the same values in other shapes or beside
    others, are.

    Args:
        config: the file.
        inputs: names of the model's inputs; those that the toolkit does not quantize, such as
            integers, have no range.
    """
    parameters = _parameters(Path(config).read_text(encoding="utf-8"))
    entries = {name: parameters.get(f"{name}_int8", parameters.get(name)) for name in inputs}
    return {
        name: (float(min(entry["min"])), float(max(entry["max"])))
        for name, entry in entries.items()
        if entry and entry["min"]
    }


def _parameters(text: str) -> dict[str, dict]:
    return yaml.load(text, Loader=yaml.CSafeLoader)["quantize_parameters"]
