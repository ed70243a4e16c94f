"""Reading an ONNX graph by structure: what makes a tensor, back to the weights, whatever the names.

A matcher starts at an output and asks for one operation after the other. Nodes that only change the
view of a tensor are passed over, so that an exporter may lay its tensors out as it likes. A matcher
need not prove what it sees: a rewritten graph is compared with the original before it is used, see
`equality`.
"""

import numpy as np
import onnx
from onnx import numpy_helper

VIEWS = {
    *("Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators that keep all values of a tensor and change how they are laid out."""


class Mismatch(Exception):
    """The graph is not of the form that a rewrite looks for; the text is the reason."""


class Graph:
    """An ONNX graph with what makes each tensor, for matchers.

    Args:
        model: the model, its constants folded; shapes are inferred.

    Attributes:
        producers: by tensor, the node that makes it.
        shapes: by tensor, as far as they are known; 0 where an axis is not.
        weights: by name, the constants.
        inputs: names of the graph's inputs.
        outputs: names of its outputs.
    """

    def __init__(self, model: onnx.ModelProto):
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.producers = {name: node for node in graph.node for name in node.output}
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self.weights[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.input, *graph.output)
        }

    def node(self, name: str, *operators: str) -> onnx.NodeProto:
        """Return the node that makes a tensor.

        Raises:
            Mismatch: it is none of these operators.
        """
        node = self.producers.get(name)
        if node is None or node.op_type not in operators:
            found = node.op_type if node else "an input or a weight"
            raise Mismatch(f"{name} comes from {found}, not from {' or '.join(operators)}")
        return node

    def peel(self, name: str) -> str:
        """Return the tensor that a tensor is a view of: itself, if nothing lies between."""
        node = self.producers.get(name)
        while node is not None and node.op_type in VIEWS and node.input[0] not in self.weights:
            name = node.input[0]
            node = self.producers.get(name)
        return name

    def weight(self, name: str) -> np.ndarray:
        """Return a constant.

        Raises:
            Mismatch: it depends on an input.
        """
        if name not in self.weights:
            raise Mismatch(f"{name} is no weight")
        return self.weights[name]

    def scalar(self, name: str) -> float:
        """Return a constant of one value.

        Raises:
            Mismatch: it is none.
        """
        value = self.weight(name)
        if value.size != 1:
            raise Mismatch(f"{name} has {value.size} values, not one")
        return float(value.reshape(()))

    def operands(self, name: str, *operators: str) -> tuple[str, np.ndarray]:
        """Return the tensor and the constant that a commutative node takes, in whatever order.

        Raises:
            Mismatch: it is another node, or does not take one of each.
        """
        node = self.node(name, *operators)
        a, b = node.input[:2]
        if (a in self.weights) == (b in self.weights):
            raise Mismatch(f"{name} does not take one tensor and one weight")
        return (b, self.weights[a]) if a in self.weights else (a, self.weights[b])

    def made_by(self, name: str, *operators: str) -> bool:
        """Return whether one of these operators makes a tensor."""
        node = self.producers.get(name)
        return node is not None and node.op_type in operators

    def pair(self, name: str, operator: str, *first: str) -> tuple[str, str]:
        """Return the two tensors that a commutative node takes, the one that `first` make first.

        Views between are passed over. If both or neither are, the order is the node's.

        Raises:
            Mismatch: it is another node.
        """
        a, b = map(self.peel, self.node(name, operator).input[:2])
        return (b, a) if self.made_by(b, *first) and not self.made_by(a, *first) else (a, b)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape.

        Raises:
            Mismatch: it is not known.
        """
        shape = self.shapes.get(name, ())
        if not shape or not all(shape):
            raise Mismatch(f"the shape of {name} is not known")
        return shape

    def attribute(self, node: onnx.NodeProto, name: str, default=None):
        """Return an attribute's value as Python has it."""
        for attribute in node.attribute:
            if attribute.name == name:
                return onnx.helper.get_attribute_value(attribute)
        return default

    def double_swish(self, name: str) -> str:
        """Return y of y * sigmoid(y - 1)."""
        node = self.node(name, "Mul")
        for y, gate in (node.input, node.input[::-1]):
            if gate not in self.producers or self.producers[gate].op_type != "Sigmoid":
                continue
            shifted = self.producers.get(self.producers[gate].input[0])
            if shifted is None or shifted.op_type not in ("Sub", "Add") or shifted.input[0] != y:
                continue
            sign = -1.0 if shifted.op_type == "Sub" else 1.0
            if sign * self.scalar(shifted.input[1]) == -1.0:
                return y
        raise Mismatch(f"{name} is no DoubleSwish")

    def slice_of(self, name: str) -> tuple[str, int, int, int]:
        """Return what a tensor is a slice of, on one axis: the whole, the axis, begin and end.

        The piece is made by Slice or Split; axis, begin and end are not negative.
        """
        node = self.node(name, "Slice", "Split")
        whole = node.input[0]
        shape = self.shape(whole)
        if node.op_type == "Split":
            axis = self.attribute(node, "axis", 0) % len(shape)
            sizes = [self.shape(piece)[axis] for piece in node.output]
            begin = sum(sizes[: list(node.output).index(name)])
            return whole, axis, begin, begin + self.shape(name)[axis]
        axes = self.weight(node.input[3]) if len(node.input) > 3 and node.input[3] else [0]
        steps = self.weight(node.input[4]) if len(node.input) > 4 and node.input[4] else [1]
        if len(axes) != 1 or steps[0] != 1:
            raise Mismatch(f"{name} is no plain slice on one axis")
        axis = int(axes[0]) % len(shape)
        begin, end, _ = slice(
            int(self.weight(node.input[1])[0]), int(self.weight(node.input[2])[0])
        ).indices(shape[axis])
        return whole, axis, begin, end

    def entry_of(self, name: str) -> tuple[str, int]:
        """Return which graph input a tensor is an entry of, and its index on the first axis.

        States of several layers are stacked; a model of one layer may have no Gather for it.
        """
        name, index = self.peel(name), 0
        if name not in self.inputs:
            node = self.node(name, "Gather", "Slice", "Split")
            if node.op_type == "Gather":
                if self.attribute(node, "axis", 0) != 0:
                    raise Mismatch(f"{name} is gathered on another axis than the first")
                index = int(self.scalar(node.input[1]))
            else:
                _, axis, index, end = self.slice_of(name)
                if axis != 0 or end != index + 1:
                    raise Mismatch(f"{name} is no single entry of a state")
            name = self.peel(node.input[0])
        if name not in self.inputs:
            raise Mismatch(f"{name} is no input of the model")
        return name, index % max(self.shape(name)[0], 1)
