"""The toolkit's own graph of a quantized encoder: what is in it, and what stays in float16.

The first step of the toolkit's hybrid quantization leaves the optimised graph as an ONNX file, and
the scale of every tensor in a `.cfg` file. Names and operators are the toolkit's: a float input
passes an `exDataConvert` node, an output comes out of one, and a CumSum has become a Conv with a
triangular weight.
"""

import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import yaml
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from zipquant.errors import UserError
from zipquant.jobs import files

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
        "Pad",
        "Pow",
        "Range",
        "Reciprocal",
        "Reshape",
    ),
    *("Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze", CONVERT),
}
"""Operators that a running mean is made of, besides its CumSum."""

MOVES = {
    "Concat",
    "Gather",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
    CONVERT,
}
"""Operators that change no value."""

MATMUL = "exMatMul"
"""The toolkit's product of two matrices: (n, k, 1, m) and (n, k, 1, p) give (n, m, 1, p)."""

SYMMETRIC = "symmetric"
"""What the toolkit does without a node to the second factor of some products: it rounds the factor
to a scale of the same range with 0 in its middle. So does, of the products that read a tensor as
their second factor, the last whose first factor is no constant, as comparing the simulator's
tensors has shown."""

ATTENTION = "exSDPAttention"
"""The toolkit's attention: queries (n, channels, 1, t) with keys and values (n, channels, 1, s)."""

INNER = ("q_matmul", "q_add", "q_softmax")
"""Its attributes that name what is rounded within: scores, the same with the mask, weights."""


NORM = "exNorm"
"""The toolkit's normalization along some axes: x / sqrt(mean(x^2) + eps) in Zipformer."""


LSTM = "exLSTM"
"""The toolkit's LSTM, with the inputs and outputs of ONNX's."""


LIMITS = {"Clip", "Relu"}
JOINED = LIMITS | {"Add", "Elu", "HardSwish", "LeakyRelu", "Sigmoid", "Softplus", "Tanh", "exSwish"}
"""What the compiler joins with the convolution before it; of these, what also with one of each
channel by itself. Mul, Sub, Max, Min, Exp and HardSigmoid are not joined."""


@dataclass(frozen=True)
class Scale:
    """How a tensor is quantized: value = scale * (integer - zero), integer of some bits, signed.

    Attributes:
        scale: the step from one integer to the next.
        zero: the integer that stands for 0.
        bits: of the integer.
        reach: the largest absolute value of the calibrated range.
    """

    scale: float
    zero: int
    bits: int
    reach: float

    def symmetric(self) -> "Scale":
        """Return the scale of the same range with 0 in its middle, from -127 to 127."""
        return Scale(self.reach / 127, 0, self.bits, self.reach)


class Graph:
    """The toolkit's graph of a quantized encoder, or the encoder's own.

    Args:
        path: the `.model` file of the toolkit's first step, or the encoder's ONNX file.

    Attributes:
        cumulative_sums: names of CumSum nodes. Some boards compute these wrong; the toolkit makes
            convolutions of them, so that none should be left.
        nodes: in an order in which each comes after what it reads; with nodes of the kind
            `SYMMETRIC`, which stand in no file.
        inputs: names of the graph's inputs.
        outputs: names of its outputs.
        producers: by tensor, the node that computes it.
        weights: by name.
        shapes: by tensor.

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
        self.nodes = _with_symmetric(graph)
        self.cumulative_sums = [n.name for n in graph.node if n.op_type == "CumSum"]
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.producers = {name: node for node in self.nodes for name in computed(node)}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.input, *graph.output)
        } | {name: tuple(tensor.dims) for name, tensor in self.weights.items()}
        for node in self.nodes:
            if node.op_type == SYMMETRIC and node.input[0] in self.shapes:
                self.shapes[node.output[0]] = self.shapes[node.input[0]]

    def macs(self, node: onnx.NodeProto) -> int:
        """Return the multiply-accumulates of a node for one chunk, 0 where it has none."""
        if node.op_type == "Conv":
            each = self.shapes[node.input[1]][1:]  # (input channels of a group, *kernel)
        elif node.op_type == MATMUL:
            each = self.shapes[node.input[0]][1:2]
        elif node.op_type == ATTENTION:
            each = (2, self.shapes[node.input[1]][-1])  # scores, and their product with values
        else:
            return 0
        return math.prod(self.shapes[node.output[0]]) * math.prod(each)

    def int8_macs_share(self, float16: Collection[str]) -> float:
        """Return the share of multiply-accumulates that are done in int8, 0 to 1.

        Args:
            float16: the tensors that stay in float16; what computes one of them is in float16.
        """
        macs = {node.output[0]: self.macs(node) for node in self.nodes}
        return 1 - sum(macs.get(name, 0) for name in set(float16)) / max(sum(macs.values()), 1)

    def borders(self) -> list[str]:
        """Return the tensors that make the model's quantized inputs and outputs float16.

        An input is float16 when what its consumers give is; an output when itself is.
        """
        inside = {node.output[0] for node in self.nodes if self.is_input(node)}
        found = [name for node in self.nodes if inside & set(node.input) for name in node.output]
        found += [n for n in self.outputs if self.producers[n].op_type == CONVERT]
        found += self._moved_on(set(found))
        # A state that is handed on unchanged is both.
        return list(dict.fromkeys(found))

    def _moved_on(self, borders: set[str]) -> list[str]:
        """Tensors by which parts of float16 inputs come to outputs, where nothing else reads them.

        Such as the part of a cache that stays: as int8 it would be converted twice, and the boards'
        Split of int8 runs on the CPU. What such a part is joined with is float16 as well, back to
        where it was joined or computed itself.
        """
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        moved: dict[str, bool] = {}
        for node in reversed(self.nodes):  # readers come before what they read
            for name in node.output:
                moved[name] = all(
                    reader.op_type in MOVES and all(moved[n] for n in reader.output)
                    for reader in readers.get(name, [])
                )
        found: dict[str, None] = {}
        todo = [
            node
            for node in self.nodes
            if node.op_type in MOVES and node.input[0] in borders and node.output[0] not in borders
        ]
        while todo:
            node = todo.pop()
            if node.output[0] in found or not all(moved[name] for name in node.output):
                continue
            found |= dict.fromkeys(node.output)
            todo += [reader for name in node.output for reader in readers.get(name, [])]
            sources = [self.producers[name] for name in node.input if name in self.producers]
            todo += [
                source
                for source in sources
                if source.op_type in MOVES - {"Concat"} and not borders & set(source.output)
            ]
        return list(found)

    def running_means(self) -> dict[str, list[str]]:
        """Return the states that are running means, with the tensors that compute each.

        A running mean is an output that a cumulative sum leads to by arithmetic alone, with no
        layer that has weights in between: (CumSum(x) + mean * count) / (count + k) in Zipformer. In
        int8 its frame counter saturates, whatever it is calibrated with.

        Returns:
            By output name, the tensors from it back to the cumulative sum.
        """
        found = {name: self._cone(name) for name in self.outputs}
        return {name: cone for name, cone in found.items() if cone}

    def fused(self) -> set[str]:
        """Return the tensors that are not made, because one layer computes what makes and reads it.

        The compiler joins a convolution with the activation or the addition that alone reads it
        (ConvExSwish and ConvAdd in its table of layers), and an addition with a Relu, and rounds
        only what comes out at the end. A convolution of each channel by itself joins with little.
        Found by comparing the simulator's tensors with the grids that they should lie on.
        """
        return self._not_made(_joins)

    def joined(self) -> set[str]:
        """Return the tensors within one layer: `fused`, and some that it rounds all the same.

        The compiler's table has one layer for a convolution of each channel by itself and the swish
        behind it as well.
        """
        return self._not_made(lambda node, reader: _joins(node, reader) or _swishes(node, reader))

    def _not_made(self, joins: Callable[[onnx.NodeProto, onnx.NodeProto], bool]) -> set[str]:
        """Return the tensors that one layer makes and reads, by what the compiler joins."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        found, taken = set(), set()
        for node in self.nodes:
            name = node.output[0]
            if name in self.outputs or len(readers.get(name, [])) != 1:
                continue
            (reader,) = readers[name]
            # An addition of two convolutions is joined with the first.
            if joins(node, reader) and reader.output[0] not in taken:
                found.add(name)
                taken.add(reader.output[0])
        return found

    def is_input(self, node: onnx.NodeProto) -> bool:
        """Whether a node makes the model's own input int8."""
        return node.op_type == CONVERT and node.input[0] not in self.producers

    def _cone(self, output: str) -> list[str]:
        """Tensors from an output back to a cumulative sum; none if there are weights on the way.

        A matrix that picks entries is no weight in this sense. What comes from the states alone,
        such as the part of the mean that was there before, belongs to the mean with all it is made
        of.
        """
        cone: dict[str, None] = {}
        todo, sums = [output], 0
        while todo:
            name = todo.pop()
            node = self.producers.get(name)
            if node is None or name in cone or self.is_input(node):
                continue
            if node.op_type == "Shape":  # of whatever tensor, its numbers do not count
                continue
            cone[name] = None
            if self._is_cumulative_sum(node):
                sums += 1
                # What a product of matrices adds to the sum at once, as 2.2.0 writes it.
                todo += node.input[2:] if node.op_type == MATMUL else []
            elif node.op_type in WEIGHTLESS or self._selects(node) or not self._hears(node):
                todo += node.input
            else:
                return []
        return list(cone) if sums else []

    def _hears(self, node: onnx.NodeProto) -> bool:
        """Whether a node depends on the features, which are the first input."""
        todo, seen = list(node.input), set()
        while todo:
            name = todo.pop()
            if name == self.inputs[0]:
                return True
            if name in self.producers and name not in seen:
                seen.add(name)
                todo += self.producers[name].input
        return False

    def _selects(self, node: onnx.NodeProto) -> bool:
        """Whether it is a 1x1 convolution that picks channels as they are."""
        if node.op_type != "Conv" or node.input[1] not in self.weights or len(node.input) > 2:
            return False
        weight = numpy_helper.to_array(self.weights[node.input[1]])
        weight = weight.reshape(weight.shape[0], -1)
        return bool(
            (np.count_nonzero(weight, axis=1) == 1).all() and (weight.max(axis=1) == 1).all()
        )

    def _is_cumulative_sum(self, node: onnx.NodeProto) -> bool:
        """Whether it is the toolkit's CumSum, or that of `rewrites`.

        The one is a 1x1 convolution with a triangle of ones, or a product with one in 2.2.0; the
        other sums each channel over all frames before, by equal weights and as much padding in
        front.
        """
        if node.op_type == "CumSum":  # in a graph that the toolkit has not rewritten
            return True
        if node.op_type == MATMUL:
            return self._is_triangle(node.input[0], transposed=True)
        if node.op_type != "Conv" or node.input[1] not in self.weights:
            return False
        shape = tuple(self.weights[node.input[1]].dims)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if attributes.get("group", 1) == shape[0] and shape[-1] > 1:
            weight = numpy_helper.to_array(self.weights[node.input[1]])
            before = list(attributes.get("pads", [])) == [0, shape[-1] - 1, 0, 0]
            return before and bool((weight == weight.flat[0]).all())
        return self._is_triangle(node.input[1])

    def _is_triangle(self, name: str, transposed: bool = False) -> bool:
        """Whether a tensor is a constant with ones on and below its diagonal, zeros above it."""
        if name not in self.weights:
            return False
        weight = numpy_helper.to_array(self.weights[name]).squeeze()
        if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
            return False
        expected = np.tril(np.ones(weight.shape))
        return bool((weight == (expected.T if transposed else expected)).all())


def _joins(node: onnx.NodeProto, reader: onnx.NodeProto) -> bool:
    if node.op_type == "Add":
        return reader.op_type == "Relu"
    if node.op_type != "Conv":
        return False
    groups = [entry.i for entry in node.attribute if entry.name == "group"]
    return reader.op_type in (LIMITS if groups not in ([], [1]) else JOINED)


def _swishes(node: onnx.NodeProto, reader: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" and reader.op_type == "exSwish"


def _with_symmetric(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of a graph, with a node for each factor that is put on a symmetric scale."""
    constants = {tensor.name for tensor in graph.initializer}
    last = {
        node.input[1]: position
        for position, node in enumerate(graph.node)
        if node.op_type == MATMUL and node.input[0] not in constants
    }
    nodes = []
    for position, node in enumerate(graph.node):
        if position == last.get(node.input[1] if node.op_type == MATMUL else ""):
            moved = f"{node.input[1]} {SYMMETRIC}"
            nodes.append(onnx.helper.make_node(SYMMETRIC, [node.input[1]], [moved]))
            node.input[1] = moved
        nodes.append(node)
    return nodes


def computed(node: onnx.NodeProto) -> list[str]:
    """Return the tensors that a node computes: those within an attention, and its outputs."""
    if node.op_type != ATTENTION:
        return list(node.output)
    names = {entry.name: entry.s.decode() for entry in node.attribute if entry.name in INNER}
    return [*(names[place] for place in INNER if place in names), *node.output]


def read_scales(config: str | Path) -> dict[str, Scale]:
    """Read how each tensor is quantized from the `.cfg` file of the toolkit's first step.

    Args:
        config: the file.

    Returns:
        By name; tensors that are not integers are left out.
    """
    text = Path(config).read_text(encoding="utf-8")
    entries = yaml.load(text, Loader=yaml.CSafeLoader)["quantize_parameters"]
    return {
        name: Scale(
            scale=entry["scale"][0],
            zero=entry["zero_point"][0],
            bits=int(entry["dtype"][3:]),
            reach=max(abs(entry["min"][0]), abs(entry["max"][0])),
        )
        for name, entry in entries.items()
        if entry["dtype"].startswith("int")
    }


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


def float16_tensors(config: str | Path) -> list[str]:
    """Return the tensors that `set_float16` has entered into a `.cfg` file."""
    text = Path(config).read_text(encoding="utf-8")
    head = text.split("quantize_parameters:", 1)[0]
    return list(yaml.load(head, Loader=yaml.CSafeLoader)["custom_quantize_layers"])


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
