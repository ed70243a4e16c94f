"""Writing an ONNX graph in the form that the RKNN compiler likes: (1, channels, 1, frames).

Linear layers are 1x1 convolutions, so that the compiler fuses them with an activation or an
addition, and nothing has to be transposed between them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 13


class Writer:
    """Collects nodes and weights; each method adds one operation and returns what it makes.

    Names tell the place: `/layers.3/conv1/Conv_2` for the third convolution in a `scope` of
    `layers.3`, `conv1`.
    """

    def __init__(self):
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._taken: set[str] = set()
        self._scope = ""
        self._counts: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Name what is written inside after a module."""
        before, self._scope = self._scope, f"{self._scope}/{name}"
        yield
        self._scope = before

    def _name(self, kind: str) -> str:
        stem = f"{self._scope}/{kind}"
        count = self._counts[stem] = self._counts.get(stem, -1) + 1
        return f"{stem}_{count}" if count else stem

    def copy(self, node: onnx.NodeProto) -> None:
        """Add a node of the original as it is, with its names."""
        self._nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))

    def take(self, name: str, array: np.ndarray) -> None:
        """Add a constant of the original under its name, once."""
        if name not in self._taken:
            self._taken.add(name)
            self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def weight(self, array: np.ndarray, name: str = "weight") -> str:
        """Add a constant; each use has its own, because the toolkit changes them in place."""
        name = self._name(name)
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, operator: str, *inputs: str, output: str | None = None, **attributes) -> str:
        """Add a node of one output.

        Args:
            operator: its type in ONNX.
            inputs: names of tensors.
            output: the name of its output, for an output of the graph.
            attributes: see ONNX.
        """
        name = self._name(operator)
        output = output or f"{name}_output"
        self._nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def concat(self, tensors: Sequence[str], axis: int, output: str | None = None) -> str:
        """Join tensors on an axis; one alone is returned as it is."""
        if len(tensors) == 1 and output is None:
            return tensors[0]
        return self.op("Concat", *tensors, axis=axis, output=output)

    def split(
        self, x: str, sizes: Sequence[int], axis: int, outputs: Sequence[str] | None = None
    ) -> list[str]:
        """Cut a tensor into pieces of given sizes on an axis."""
        if len(sizes) == 1 and outputs is None:
            return [x]
        name = self._name("Split")
        made = list(outputs or (f"{name}_output_{i}" for i in range(len(sizes))))
        counts = self.weight(np.array(sizes, np.int64), "sizes")
        self._nodes.append(helper.make_node("Split", [x, counts], made, name, axis=axis))
        return made

    def slice(self, x: str, begin: int, end: int, axis: int, output: str | None = None) -> str:
        """Take a part of one axis."""
        bounds = [self.weight(np.array([n], np.int64), "bound") for n in (begin, end, axis)]
        return self.op("Slice", x, *bounds, output=output)

    def reshape(self, x: str, shape: Sequence[int], output: str | None = None) -> str:
        """Lay the same values out in another shape."""
        shape = self.weight(np.array(shape, np.int64), "shape")
        return self.op("Reshape", x, shape, output=output)

    def transpose(self, x: str, order: Sequence[int], output: str | None = None) -> str:
        """Change the order of the axes."""
        return self.op("Transpose", x, perm=list(order), output=output)

    def add(self, a: str, b: str) -> str:
        """a + b; of a 1x1 convolution and another tensor it becomes part of the convolution."""
        return self.op("Add", a, b)

    def scaled(self, x: str, factor: np.ndarray | float) -> str:
        """Multiply by a constant."""
        return self.op("Mul", x, self.weight(np.asarray(factor, np.float32), "factor"))

    def conv(
        self,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        strides: Sequence[int] = (1, 1),
        pads: Sequence[int] = (0, 0, 0, 0),
        group: int = 1,
    ) -> str:
        """Convolve in two dimensions.

        Args:
            x: (1, channels, height, width).
            weight: (channels out, channels in of a group, height, width).
            bias: (channels out); None for none.
            strides: down and along.
            pads: rows above, columns before, rows below, columns behind.
            group: groups of channels.
        """
        inputs = [x, self.weight(np.asarray(weight, np.float32))]
        if bias is not None:
            inputs.append(self.weight(np.asarray(bias, np.float32), "bias"))
        return self.op(
            "Conv",
            *inputs,
            kernel_shape=list(weight.shape[2:]),
            strides=list(strides),
            pads=list(pads),
            group=group,
            dilations=[1, 1],
        )

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """Multiply the channels of (1, in, height, width) by a matrix (in, out)."""
        return self.conv(x, np.ascontiguousarray(weight.T)[:, :, None, None], bias)

    def depthwise(
        self,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        strides: Sequence[int] = (1, 1),
        pads: Sequence[int] = (0, 0, 0, 0),
    ) -> str:
        """Convolve each channel by itself; weight (channels, height, width)."""
        return self.conv(x, weight[:, None], bias, strides, pads, group=weight.shape[0])

    def transposed_conv(
        self,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        strides: Sequence[int] = (1, 1),
        group: int = 1,
    ) -> str:
        """Convolve transposed; weight (channels in, channels out of a group, height, width)."""
        inputs = [x, self.weight(np.asarray(weight, np.float32))]
        if bias is not None:
            inputs.append(self.weight(np.asarray(bias, np.float32), "bias"))
        return self.op(
            "ConvTranspose",
            *inputs,
            kernel_shape=list(weight.shape[2:]),
            strides=list(strides),
            group=group,
        )

    def double_swish(self, x: str) -> str:
        """x * sigmoid(x - 1), which the compiler fuses into the convolution before it."""
        shifted = self.op("Sub", x, self.weight(np.array(1.0, np.float32), "one"))
        return self.op("Mul", x, self.op("Sigmoid", shifted))

    def gated(self, x: str, channels: int) -> str:
        """First half of the channels times the sigmoid of the second (gated linear unit)."""
        value, gate = self.split(x, [channels, channels], 1)
        return self.op("Mul", value, self.op("Sigmoid", gate))

    def model(self, original: onnx.ModelProto) -> onnx.ModelProto:
        """Return the written graph with the inputs, outputs and metadata of the original."""
        graph = helper.make_graph(
            self._nodes,
            original.graph.name,
            list(original.graph.input),
            list(original.graph.output),
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = original.ir_version
        model.metadata_props.extend(original.metadata_props)
        return model
