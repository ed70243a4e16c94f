"""ONNX models that are not plain float32: what they are, and turning them back into float32.

Quantized weights become what their numbers stand for (weight minus zero point, times scale), and
what is computed with them is float32. Weights of 16 bits are widened, which is exact.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zipquant.errors import UserError

INT8, FLOAT16, BFLOAT16, FLOAT64 = "int8", "float16", "bfloat16", "float64"

WIDENED = {
    TensorProto.FLOAT16: FLOAT16,
    TensorProto.BFLOAT16: BFLOAT16,
    TensorProto.DOUBLE: FLOAT64,
}
"""Types that are turned into float32."""

DOUBLES = 1000
"""Float64 weights that make a float64 model; exporters write a few constants in it anyway."""

LARGEST = (1 << 31) - (1 << 20)
"""Bytes of an ONNX file without external data."""

_STEPS = ("DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear", "MatMulInteger")
_STEPS += ("ConvInteger", "QLinearMatMul", "QLinearConv")
_STEPS += ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
_STEPS += ("QGemm", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QLinearConcat")
_MOVES = ("Gather", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity", "Flatten")
_MOVES += ("Split",)
"""Operators that move values and leave them as they are."""

_MARKS = re.compile(
    r"[._-](u?int[48]|[fq](p|loat)?(4|8|16|32)|bf(loat)?16|half|quant(ized)?|qdq|dynamic)(?=[._-])",
    re.I,
)
"""What a file's name says of its precision."""


@dataclass(frozen=True)
class Precision:
    """What a model is that is not plain float32.

    Attributes:
        name: `INT8`, `FLOAT16`, `BFLOAT16`, `FLOAT64`, or another number format.
        evidence: the operators or weights that tell.
        foreign: operators that `restore` does not know.
    """

    name: str
    evidence: str
    foreign: tuple[str, ...] = ()


def restore_file(path: str | Path, output: str | Path) -> None:
    """Write a model as one file in plain float32, with the same metadata.

    Raises:
        UserError: it cannot be turned back, see `restore`, or is too large for one file.
    """
    try:
        model = restore(onnx.load(path))
    except UserError as error:
        raise UserError(f"{path} cannot be turned back into float32: {error}") from None
    if model.ByteSize() >= LARGEST:
        raise UserError(f"{path} has more than 2 GB in float32, which is too large for one file")
    onnx.save(model, output)


def detect(model: onnx.ModelProto) -> Precision | None:
    """Return what a model is; None if it is plain float32."""
    nodes = list(all_nodes(model))
    steps = sorted({node.op_type for node in nodes if _is_quantized(node)})
    if steps:
        foreign = tuple(step for step in steps if step not in _STEPS)
        narrow = [step for step in foreign if "NBits" in step or "4" in step]
        return Precision("4 bit" if narrow else INT8, ", ".join(steps), foreign)
    counts = dict.fromkeys(WIDENED, 0)
    values = [*model.graph.input, *model.graph.output]
    for kind in (value.type.tensor_type.elem_type for value in values):
        if kind in counts:
            counts[kind] += DOUBLES
    for tensor in all_weights(model):
        if tensor.data_type in counts:
            counts[tensor.data_type] += int(np.prod(tensor.dims))
    for kind, name in WIDENED.items():
        if counts[kind] >= (DOUBLES if name == FLOAT64 else 1):
            return Precision(name, f"weights or inputs of {name}")
    eights = [t for t in all_weights(model) if "FLOAT8" in TensorProto.DataType.Name(t.data_type)]
    return Precision("float8", "weights of float8", ("float8",)) if eights else None


def restore(model: onnx.ModelProto, rounding: bool = False) -> onnx.ModelProto:
    """Turn a model back into float32; it is changed in place.

    Args:
        model: the model.
        rounding: keep the rounding of the activations of a quantized model, to see that nothing
            else has changed: with it, the result computes what the quantized model computes.

    Returns:
        The model, with the same inputs and outputs, those of `WIDENED` types in float32.

    Raises:
        UserError: there is an operator that cannot be turned back, or weights of float64 that are
            not exact in float32.
    """
    found = detect(model)
    if found and found.foreign:
        raise UserError(f"it has operators that have no float32 form: {', '.join(found.foreign)}")
    _widen(model)
    if found and found.name == INT8:
        _Restorer(model, rounding).run()
    _drop_dangling(model.graph)
    used = {node.domain for node in all_nodes(model)} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    # What the file says of tensors inside holds no more, and follows from the inputs.
    del model.graph.value_info[:]
    return model


def plain_name(name: str) -> str:
    """Return a file's name without what says its precision, such as `.int8`."""
    return _MARKS.sub("", name)


def external_files(path: str | Path, model: onnx.ModelProto) -> list[Path]:
    """Return the files beside a model that hold its weights, each once, whether they are there."""
    names = [
        entry.value
        for tensor in all_weights(model)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    return [Path(path).parent / name for name in dict.fromkeys(names)]


def all_nodes(model: onnx.ModelProto | onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a model or graph, those of its functions, branches and loops included."""
    for nodes in _node_lists(model):
        yield from nodes


def operators(model: onnx.ModelProto, known: Container[str]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of other domains than the known ones, but for those that are restored."""
    for node in all_nodes(model):
        if node.domain not in known and not _is_quantized(node):
            yield node


def all_weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors with values of a model."""
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in all_nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _graphs(model: onnx.ModelProto | onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    todo = [model] if isinstance(model, onnx.GraphProto) else [model.graph]
    nodes = (
        [] if isinstance(model, onnx.GraphProto) else [n for f in model.functions for n in f.node]
    )
    while todo or nodes:
        if todo:
            graph = todo.pop()
            yield graph
            nodes += graph.node
        for attribute in nodes.pop().attribute if nodes else ():
            todo += [inner for inner in (attribute.g, *attribute.graphs) if inner.ByteSize()]


def _node_lists(model: onnx.ModelProto | onnx.GraphProto) -> Iterator[Iterable[onnx.NodeProto]]:
    yield from (graph.node for graph in _graphs(model))
    if isinstance(model, onnx.ModelProto):
        yield from (function.node for function in model.functions)


def names(model: onnx.ModelProto) -> Iterator[str | bytes]:
    """Yield the names of operators and tensors; those that are no UTF-8 protobuf gives as bytes."""
    for node in all_nodes(model):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
    yield from (tensor.name for tensor in all_weights(model))
    yield from (value.name for value in (*model.graph.input, *model.graph.output))


def _is_quantized(node: onnx.NodeProto) -> bool:
    name = node.op_type
    return (
        name in _STEPS
        or name.startswith(("QLinear", "DynamicQuantize", "QGemm", "QAttention", "QEmbed"))
        or name.endswith(("NBits", "Bnb4", "Fp8"))
    )


def _widen(model: onnx.ModelProto) -> None:
    """Turn all values of `WIDENED` types into float32, where that is exact."""
    for tensor in all_weights(model):
        if tensor.data_type not in WIDENED:
            continue
        values = numpy_helper.to_array(tensor)
        wide = values.astype(np.float32)
        exact = tensor.data_type != TensorProto.DOUBLE or not tensor.dims
        if not exact and not np.array_equal(wide.astype(np.float64), values, equal_nan=True):
            raise UserError(f"its weights are float64 and not exact in float32 ('{tensor.name}')")
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for graph in _graphs(model):
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in WIDENED:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in WIDENED:
                attribute.i = TensorProto.FLOAT


def _drop_dangling(graph: onnx.GraphProto) -> None:
    """Take out the nodes and weights of the outermost graph that no output depends on.

    The nodes that stay are put in the order in which they can be computed, which onnxruntime's own
    converter to float16 does not care for.
    """
    producer = {name: node for node in graph.node for name in node.output if name}
    needed: set[str] = set()
    kept: dict[int, onnx.NodeProto] = {}
    todo = [(value.name, False) for value in reversed(graph.output)]
    while todo:
        name, ready = todo.pop()
        node = producer.get(name)
        if ready:
            kept.setdefault(id(node), node)
        elif name not in needed:
            needed.add(name)
            if node is not None and id(node) not in kept:
                sources = dict.fromkeys(_sources(node))
                todo += [(name, True), *((source, False) for source in sources)]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept.values()]
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    weights = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in weights]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


def _sources(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, its branches and loops included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            yield from (name for deep in all_nodes(inner) for name in deep.input)
            yield from (value.name for value in inner.output)


class _Restorer:
    """Rewrites a quantized graph node by node; see `restore`."""

    def __init__(self, model: onnx.ModelProto, rounding: bool):
        self._graph, self._rounding = model.graph, rounding
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producer: dict[str, onnx.NodeProto] = {}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
            for name in node.output:
                self._producer[name] = node
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._nodes: list[onnx.NodeProto] = []
        self._floats: dict[str, str] = {}
        self._replaced: set[int] = set()
        self._rewrites: dict[str, Callable[[onnx.NodeProto], None]] = {
            "MatMulInteger": self._integer_product,
            "ConvInteger": self._integer_product,
            "QLinearMatMul": self._quantized_product,
            "QLinearConv": self._quantized_product,
            "DynamicQuantizeMatMul": self._fused_product,
            "MatMulIntegerToFloat": self._fused_product,
            "QGemm": self._quantized_gemm,
            **dict.fromkeys(("QLinearAdd", "QLinearMul"), self._quantized_step),
            **dict.fromkeys(("QLinearSigmoid", "QLinearSoftmax"), self._quantized_step),
            "QLinearConcat": self._quantized_step,
            "DequantizeLinear": self._dequantize,
        }

    def run(self) -> None:
        for node in list(self._graph.node):
            if id(node) in self._replaced:
                continue
            rewrite = self._rewrites.get(node.op_type)
            if rewrite:
                rewrite(node)
            else:
                self._nodes.append(node)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)

    def _add(self, operation: str, inputs: list[str], output: str, **attributes) -> str:
        self._nodes.append(helper.make_node(operation, inputs, [output], output, **attributes))
        return output

    def _weight(self, name: str, values: np.ndarray) -> str:
        values = np.ascontiguousarray(values, dtype=np.float32)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _array(self, name: str) -> np.ndarray | None:
        """Return a constant; None if the name is of something that is computed, or is empty."""
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def _float(self, name: str, scale: str, zero: str, axis: int | None = None) -> str:
        """Return the name of the float tensor that a quantized one stands for.

        Args:
            name: the quantized tensor: a weight, an activation, or one of both that was moved.
            scale: name of its scale.
            zero: name of its zero point; empty for 0.
            axis: which axis of a weight has scales of its own; None for one scale, or the last.
        """
        key = f"{name}|{scale}"
        if key in self._floats:
            return self._floats[key]
        values, source = self._array(name), self._producer.get(name)
        if values is not None:
            factors, offset = self._array(scale), self._array(zero)
            if factors is None:
                raise UserError(f"the scale of its weight '{name}' is computed")
            found = self._weight(f"{name}_float", _values(values, offset, factors, axis))
        elif source and source.op_type in _MOVES:
            first = self._float(source.input[0], scale, zero, axis)
            moved = onnx.NodeProto.FromString(source.SerializeToString())
            moved.input[0], moved.name = first, f"{name}_float"
            moved.output[:] = [f"{output}_float" for output in source.output]
            self._nodes.append(moved)
            # Split has several outputs, of one scale.
            self._floats |= {f"{output}|{scale}": f"{output}_float" for output in source.output}
            found = f"{name}_float"
        elif self._rounding or source is None:
            inputs = [name, scale, *([zero] if zero else [])]
            found = self._add("DequantizeLinear", inputs, f"{name}_rounded")
        elif source.op_type in ("DynamicQuantizeLinear", "QuantizeLinear"):
            found = source.input[0]
        else:
            found = f"{name}_float"  # made by `_quantized_product`
        self._floats[key] = found
        return found

    def _dequantize(self, node: onnx.NodeProto) -> None:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        scale, zero = node.input[1], node.input[2] if len(node.input) > 2 else ""
        factors = self._array(scale)
        many = factors is not None and factors.size > 1
        found = self._float(node.input[0], scale, zero, axis if many else None)
        self._add("Identity", [found], node.output[0])

    def _integer_product(self, node: onnx.NodeProto) -> None:
        """Turn MatMulInteger, Cast and Mul with both scales into one MatMul; Conv likewise."""
        zeros = [*node.input[2:], "", ""][:2]
        cast = self._only_reader(node, "Cast")
        scaled = self._only_reader(cast, "Mul")
        factors = self._leaves(next(n for n in scaled.input if n != cast.output[0]))
        operands = []
        for name, zero in zip(node.input[:2], zeros, strict=True):
            source = self._producer.get(name)
            if self._array(name) is not None:
                product = np.float32(1)
                for leaf in [leaf for leaf in factors if self._array(leaf) is not None]:
                    product = product * self._array(leaf)
                axis = 0 if node.op_type == "ConvInteger" and np.size(product) > 1 else None
                values = _values(self._array(name), self._array(zero), product, axis)
                operands.append(self._weight(f"{name}_float_{len(self._nodes)}", values))
            elif (
                source and source.op_type == "DynamicQuantizeLinear" and source.output[1] in factors
            ):
                operands.append(self._float(name, source.output[1], source.output[2]))
            else:
                raise UserError(
                    f"the input '{name}' of its {node.op_type} is not quantized as usual"
                )
        no_weight = all(self._array(name) is None for name in node.input[:2])
        if no_weight and any(self._array(leaf) is not None for leaf in factors):
            raise UserError(f"the scales of its {node.op_type} '{node.name}' are unusual")
        operation = node.op_type.removesuffix("Integer")
        made = helper.make_node(operation, operands, [scaled.output[0]], scaled.output[0])
        made.attribute.extend(node.attribute)
        self._nodes.append(made)
        self._replaced |= {id(cast), id(scaled)}

    def _only_reader(self, node: onnx.NodeProto, operation: str) -> onnx.NodeProto:
        readers = self._readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != operation:
            raise UserError(f"after its {node.op_type} '{node.name}' comes not one {operation}")
        return readers[0]

    def _leaves(self, name: str) -> list[str]:
        """Return what a product of scales is made of."""
        source = self._producer.get(name)
        if source is None or name in self._constants or source.op_type != "Mul":
            return [name]
        return [leaf for part in source.input for leaf in self._leaves(part)]

    def _quantized_product(self, node: onnx.NodeProto) -> None:
        """Turn QLinearMatMul and QLinearConv, whose outputs are quantized too, into float."""
        a, b = node.input[:3], node.input[3:6]
        operation = node.op_type.removeprefix("QLinear")
        factors = self._array(b[1])
        many = factors is not None and factors.size > 1
        operands = [self._float(*a), self._float(*b, 0 if operation == "Conv" and many else None)]
        if len(node.input) > 8 and node.input[8]:
            bias = self._array(node.input[8]) * self._array(a[1]) * factors
            operands.append(self._weight(f"{node.input[8]}_float", bias.reshape(-1)))
        self._in_float(node, operation, operands, node.input[6:8])

    def _quantized_step(self, node: onnx.NodeProto) -> None:
        """Turn onnxruntime's own operators on quantized values into float."""
        operation, given = node.op_type.removeprefix("QLinear"), list(node.input)
        if operation == "Concat":
            scale, quantized = given[:2], given[2:]
        else:
            count = 6 if operation in ("Add", "Mul") else 3
            quantized, scale = given[:count], given[count:]
        groups = [quantized[start : start + 3] for start in range(0, len(quantized), 3)]
        self._in_float(node, operation, [self._float(*group) for group in groups], scale)

    def _quantized_gemm(self, node: onnx.NodeProto) -> None:
        """Turn QGemm, whose output is quantized only if it has a scale, into Gemm."""
        given = [*node.input, "", "", ""][:9]
        a, b, bias, scale = given[:3], given[3:6], given[6], [name for name in given[7:] if name]
        turned = next((entry.i for entry in node.attribute if entry.name == "transB"), 0)
        factors = self._array(b[1])
        many = factors is not None and factors.size > 1
        operands = [self._float(*a), self._float(*b, 0 if turned and many else None)]
        if bias:
            values = self._array(bias) * self._array(a[1]) * factors
            operands.append(self._weight(f"{bias}_float", values))
        self._in_float(node, "Gemm", operands, scale)

    def _in_float(
        self, node: onnx.NodeProto, operation: str, operands: list[str], scale: Sequence[str]
    ) -> None:
        """Put an operator on floats in place of a quantized one.

        Args:
            node: the quantized one.
            operation: the operator.
            operands: its inputs.
            scale: scale and zero point of the output; empty where that is float anyway.
        """
        output = f"{node.output[0]}_float" if scale else node.output[0]
        made = helper.make_node(operation, operands, [output])
        made.attribute.extend(entry for entry in node.attribute if entry.name != "opset")
        self._nodes.append(made)
        if self._rounding and scale:
            self._add("QuantizeLinear", [output, *scale], node.output[0])

    def _fused_product(self, node: onnx.NodeProto) -> None:
        """Turn onnxruntime's own operators into MatMul and Add."""
        given = [*node.input, "", "", "", ""]
        if node.op_type == "DynamicQuantizeMatMul":
            a, (weight, scale, zero, bias) = given[0], given[1:5]
            if self._rounding:
                parts = [f"{node.output[0]}_{part}" for part in ("q", "s", "z")]
                self._nodes.append(helper.make_node("DynamicQuantizeLinear", [a], parts))
                a = self._add("DequantizeLinear", parts, f"{node.output[0]}_a")
        else:
            a, weight = self._float(given[0], given[2], given[4]), given[1]
            scale, zero, bias = given[3], given[5], given[6]
        b = self._float(weight, scale, zero)
        product = f"{node.output[0]}_product" if bias else node.output[0]
        self._add("MatMul", [a, b], product)
        if bias:
            self._add("Add", [product, bias], node.output[0])


def _values(
    numbers: np.ndarray, zero: np.ndarray | None, scale: np.ndarray, axis: int | None
) -> np.ndarray:
    """Return what quantized numbers stand for: number minus zero point, times scale, in float32."""

    def along(array: np.ndarray) -> np.ndarray:
        if axis is None or array.size == 1:
            return array.reshape(()) if array.size == 1 else array
        shape = [1] * numbers.ndim
        shape[axis] = -1
        return array.reshape(shape)

    wide = numbers.astype(np.int32)
    if zero is not None:
        wide = wide - along(zero.astype(np.int32))
    return wide.astype(np.float32) * along(np.asarray(scale, dtype=np.float32))
