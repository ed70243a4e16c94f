"""A quantized encoder emulated in PyTorch: what its rounding does, without building it.

The toolkit's simulator needs a build for every choice of float16 layers, and 0.1 s for a chunk. The
graph that the toolkit quantizes, and the scale of every tensor in it, stand in files: here that
graph is run in float32, with each tensor rounded to its scale where an int8 operator reads it.
That takes no build, and runs many utterances or many choices at once.

PyTorch is there because rknn-toolkit2 imports it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

from zipquant.model.contract import Contract, Tensor
from zipquant.toolkit.quantized_graph import (
    ATTENTION,
    CONVERT,
    LSTM,
    MATMUL,
    NORM,
    SYMMETRIC,
    Graph,
    Scale,
    computed,
)

Operator = Callable[[list[Any], dict[str, Any]], Any]
"""Takes the inputs (tensors, or lists of numbers where these are constant integers) and attributes;
gives a tensor, or a tuple of them."""


class UnknownOperator(Exception):
    """The graph holds an operator that this module has not got."""


JOINED = {b"add": torch.add, b"mul": torch.mul}
"""What the toolkit's product of matrices does with a third input."""


def _matmul(inputs: list[torch.Tensor], attributes: dict[str, Any]) -> torch.Tensor:
    product = torch.einsum("nkhm,nkhp->nmhp", *inputs[:2])
    if len(inputs) < 3:
        return product
    if attributes.get("c_type") not in JOINED:
        raise UnknownOperator(f"{MATMUL} with {attributes.get('c_type')}")
    return JOINED[attributes["c_type"]](product, inputs[2])


def _convolution(inputs: list[torch.Tensor], attributes: dict[str, Any]) -> torch.Tensor:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    x = inputs[0]
    if top or left or bottom or right:  # else it would only be copied
        x = F.pad(x, (left, right, top, bottom))
    options = {
        "stride": tuple(attributes.get("strides", (1, 1))),
        "dilation": tuple(attributes.get("dilations", (1, 1))),
        "groups": attributes.get("group", 1),
    }
    return F.conv2d(x, inputs[1], inputs[2] if len(inputs) > 2 else None, **options)


def _transposed_convolution(inputs: list[torch.Tensor], attributes: dict[str, Any]) -> torch.Tensor:
    if any(attributes.get("pads", ())) or any(attributes.get("output_padding", ())):
        raise UnknownOperator("ConvTranspose with padding")
    return F.conv_transpose2d(
        inputs[0],
        inputs[1],
        inputs[2] if len(inputs) > 2 else None,
        stride=tuple(attributes.get("strides", (1, 1))),
        groups=attributes.get("group", 1),
    )


def _slice(inputs: list[Any], attributes: dict[str, Any]) -> torch.Tensor:
    x, starts, ends = inputs[:3]
    axes = inputs[3] if len(inputs) > 3 else range(len(starts))
    steps = inputs[4] if len(inputs) > 4 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # ONNX counts as Python does: from the end below 0, and what lies outside is cut off.
        places = range(x.shape[axis])[start:end:step]
        if step == 1:
            x = x.narrow(axis, places.start, len(places))
        else:
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x


def _pad(inputs: list[Any], attributes: dict[str, Any]) -> torch.Tensor:
    if attributes.get("mode", b"constant") != b"constant":
        raise UnknownOperator(f"Pad with {attributes['mode'].decode()}")
    x, pads, *value = inputs
    # ONNX names all beginnings, then all ends; PyTorch both of each axis, the last axis first.
    pairs = zip(pads[: x.dim()], pads[x.dim() :], strict=True)
    order = [n for pair in reversed(list(pairs)) for n in pair]
    return F.pad(x, order, value=float(value[0]) if value else 0.0)


def _norm(inputs: list[torch.Tensor], attributes: dict[str, Any]) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps), times a factor, plus an offset, where there are such."""
    if attributes["mode"] != b"rms" or len(inputs) > 3:
        raise UnknownOperator(f"{NORM} with {attributes['mode'].decode()}, {len(inputs)} inputs")
    mean = inputs[0].square().mean(dim=tuple(attributes["axes"]), keepdim=True)
    normed = inputs[0] * torch.rsqrt(mean + attributes["eps"])
    normed = normed * inputs[1] if len(inputs) > 1 else normed
    return normed + inputs[2] if len(inputs) > 2 else normed


def _reshape(inputs: list[Any], attributes: dict[str, Any]) -> torch.Tensor:
    x, shape = inputs
    return x.reshape([x.shape[axis] if n == 0 else n for axis, n in enumerate(shape)])


def _split(inputs: list[Any], attributes: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    return torch.split(inputs[0], inputs[1], dim=attributes.get("axis", 0))


def _gather(inputs: list[Any], attributes: dict[str, Any]) -> torch.Tensor:
    x, indices = inputs
    return x.index_select(attributes.get("axis", 0), torch.tensor(indices))


def _mean(inputs: list[Any], attributes: dict[str, Any]) -> torch.Tensor:
    axes = inputs[1] if len(inputs) > 1 else attributes["axes"]
    return inputs[0].mean(dim=tuple(axes), keepdim=bool(attributes.get("keepdims", 1)))


def _cast(inputs: list[Any], attributes: dict[str, Any]) -> torch.Tensor:
    kind = helper.tensor_dtype_to_np_dtype(attributes["to"])
    return inputs[0].to(torch.from_numpy(np.zeros(0, dtype=kind)).dtype)


def _glu(inputs: list[Any], attributes: dict[str, Any]) -> torch.Tensor:
    return F.glu(inputs[0], dim=attributes["axis"])


def _attention(inputs: list[torch.Tensor], attributes: dict[str, Any]) -> torch.Tensor:
    """Scaled dot product attention: queries, keys and values (n, channels, 1, frames), and a mask
    that is added, (n, keys, 1, queries or 1). The attribute `inner` rounds what is within."""
    query, key, value, *mask = inputs
    inner = attributes.get("inner", lambda place, tensor: tensor)
    scores = torch.einsum("ncht,nchs->nsht", query, key) * attributes.get("scale", 1.0)
    scores = inner("q_matmul", scores)
    if mask:
        scores = inner("q_add", scores + mask[0])
    weights = inner("q_softmax", F.softmax(scores, dim=1))
    return torch.einsum("nsht,nchs->ncht", weights, value)


def _lstm(inputs: list[Any], attributes: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """ONNX's LSTM of one direction: frames (t, n, channels), states (1, n, hidden)."""
    x, weight, recurrence, bias, lengths, hidden, cell = inputs
    layouts = {attributes.get(f"{side}_layout") for side in ("input", "output")}
    if len(weight) > 1 or lengths is not None or layouts != {b"snc"}:
        raise UnknownOperator(f"{LSTM} of another kind than icefall's")
    hidden, cell, outputs = hidden[0], cell[0], []
    for frame in x.unbind(0):
        gates = F.linear(frame, weight[0], bias[0].reshape(2, -1).sum(0))
        gates = gates + F.linear(hidden, recurrence[0])
        take, give, keep, fresh = gates.chunk(4, dim=1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(take) * torch.tanh(fresh)
        hidden = torch.sigmoid(give) * torch.tanh(cell)
        outputs.append(hidden)
    return torch.stack(outputs), hidden[None], cell[None]


OPERATORS: dict[str, Operator] = {
    CONVERT: lambda inputs, _: inputs[0],
    MATMUL: _matmul,
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "Cast": _cast,
    "Concat": lambda inputs, attributes: torch.cat(inputs, dim=attributes["axis"]),
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Div": lambda inputs, _: inputs[0] / inputs[1],
    "Equal": lambda inputs, _: inputs[0] == inputs[1],
    "Exp": lambda inputs, _: torch.exp(inputs[0]),
    "Expand": lambda inputs, _: inputs[0] + torch.zeros(inputs[1], dtype=inputs[0].dtype),
    "Gather": _gather,
    "Greater": lambda inputs, _: inputs[0] > inputs[1],
    "Identity": lambda inputs, _: inputs[0],
    "LeakyRelu": lambda inputs, a: F.leaky_relu(inputs[0], a.get("alpha", 0.01)),
    "LessOrEqual": lambda inputs, _: inputs[0] <= inputs[1],
    "Log": lambda inputs, _: torch.log(inputs[0]),
    "LogSoftmax": lambda inputs, attributes: F.log_softmax(inputs[0], attributes.get("axis", -1)),
    "Max": lambda inputs, _: torch.maximum(*inputs),
    "Min": lambda inputs, _: torch.minimum(*inputs),
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "Neg": lambda inputs, _: -inputs[0],
    "Pad": _pad,
    "Pow": lambda inputs, _: torch.pow(inputs[0], inputs[1]),
    "Reciprocal": lambda inputs, _: 1 / inputs[0],
    "ReduceMean": _mean,
    "Relu": lambda inputs, _: F.relu(inputs[0]),
    "Reshape": _reshape,
    "Sigmoid": lambda inputs, _: torch.sigmoid(inputs[0]),
    "Slice": _slice,
    "Softmax": lambda inputs, attributes: F.softmax(inputs[0], attributes.get("axis", -1)),
    "Softplus": lambda inputs, _: F.softplus(inputs[0]),
    "Split": _split,
    "Sqrt": lambda inputs, _: torch.sqrt(inputs[0]),
    "Sub": lambda inputs, _: inputs[0] - inputs[1],
    "Tanh": lambda inputs, _: torch.tanh(inputs[0]),
    "Transpose": lambda inputs, attributes: inputs[0].permute(*attributes["perm"]),
    "Where": lambda inputs, _: torch.where(*inputs),
    SYMMETRIC: lambda inputs, _: inputs[0],
    ATTENTION: _attention,
    "exGlu": _glu,
    LSTM: _lstm,
    NORM: _norm,
    "exSoftmax13": lambda inputs, attributes: F.softmax(inputs[0], attributes["axis"]),
    # Found with the double swish of Zipformer, x * sigmoid(x - 1), whose gamma is -1.
    "exSwish": lambda inputs, a: inputs[0] * torch.sigmoid(inputs[0] + a.get("gamma", 0.0)),
}
"""What the toolkit's graphs are made of. `Emulation.check` finds out whether these are right."""

NUMBERS = {
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Gather": (1,),
    "Expand": (1,),
    "Pad": (1, 2),
}
"""Inputs that are lists of numbers rather than tensors."""


class Emulation:
    """A quantized encoder in PyTorch, for many utterances or many choices of precision at once.

    Args:
        graph: the graph of the toolkit's first step.
        scales: how its tensors are quantized, see `hybrid.read_scales`.
        contract: the encoder's contract.
        per_channel: whether each output channel of a weight has a scale of its own.

    Raises:
        UnknownOperator: the graph holds an operator that this module has not got.
    """

    def __init__(
        self, graph: Graph, scales: Mapping[str, Scale], contract: Contract, per_channel: bool
    ):
        torch.set_num_threads(1)  # the workflow runs jobs at the same time instead
        self._graph, self._contract = graph, contract
        unknown = sorted({node.op_type for node in graph.nodes} - set(OPERATORS))
        if unknown:
            raise UnknownOperator(", ".join(unknown))
        # Wider integers round so little that they are left alone.
        self.scales = {name: scale for name, scale in scales.items() if scale.bits == 8}
        self._constants = {
            name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
            for name, tensor in graph.weights.items()
        }
        self._weights: dict[tuple[str, int], torch.Tensor] = {}
        self._halves: dict[str, torch.Tensor] = {}
        self._done = _last_reads(graph.nodes, {*self._constants, *contract.outputs})
        for node in graph.nodes:
            if node.op_type == "Conv" and node.input[1] in self._constants:
                self._round_weights(node, per_channel)
        self._attributes = [
            {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            for node in graph.nodes
        ]
        self._fused = graph.fused()
        # The toolkit makes the node before a float16 output float16 as well.
        self._given_away = {
            graph.producers[name].input[0]: name
            for name in graph.outputs
            if graph.producers[name].op_type == CONVERT
        }
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        # Tensors that stand in no file are in float16 where that of the toolkit's node is.
        self._owners: dict[str, str] = {}
        for node in graph.nodes:
            inner = [name for name in computed(node) if name not in node.output]
            for name in (*node.input, *inner):
                self.readers.setdefault(name, []).append(node)
            self._owners |= dict.fromkeys(inner, node.output[0])
            for name in node.input:
                source = graph.producers.get(name)
                if source is not None and source.op_type == SYMMETRIC:
                    self._owners[name] = node.output[0]
                    if source.input[0] in self.scales:
                        self.scales[name] = self.scales[source.input[0]].symmetric()

    def is_int8(self, node: onnx.NodeProto, float16: Collection[str]) -> bool:
        """Whether a node computes in int8, given the tensors that stay in float16."""
        return any(not self._is_chosen(name, float16) for name in node.output)

    def is_rounded(self, name: str, float16: Collection[str]) -> bool:
        """Whether some node gets a tensor rounded, given the tensors that stay in float16."""
        return any(
            self._is_read_rounded(name, self.is_int8(node, float16), float16)
            for node in self.readers.get(name, [])
        )

    def run(
        self,
        x: np.ndarray,
        states: Sequence[np.ndarray],
        float16: Collection[str],
        only: Sequence[Collection[str]] | None = None,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one chunk of every lane.

        Args:
            x: features, float32 (lanes, *shape of x for one utterance).
            states: the states before the chunk, likewise, in the contract's order.
            float16: the tensors that stay in float16.
            only: of each lane, the tensors that are rounded in it, and no weights; None rounds all.

        Returns:
            Encoder output and the states after the chunk, with the lanes in front.
        """
        lanes = len(x)
        switched = sorted(set().union(*only)) if only is not None else []
        flags = torch.tensor([[name in lane for name in switched] for lane in only or []])
        flags = flags.to(torch.float32).reshape(lanes, len(switched))
        position = {name: column for column, name in enumerate(switched)}
        inputs = [torch.from_numpy(np.ascontiguousarray(array)) for array in (x, *states)]

        def one(flags: torch.Tensor, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
            def rounded(name: str, value: torch.Tensor) -> torch.Tensor:
                if only is not None and name not in position:
                    return value
                result = fake_quantize(value, self.scales[name])
                if only is None:
                    return result
                return value + flags[position[name]] * (result - value)

            return self._forward(arrays, float16, rounded, weights=only is None)

        with torch.no_grad():
            encoder_out, *after = torch.vmap(one)(flags, *inputs)
        return encoder_out.numpy(), [array.numpy() for array in after]

    def run_unrounded(
        self,
        inputs: Sequence[torch.Tensor],
        float16: Collection[str],
        replace: Callable[[str, torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Run one chunk of one lane without rounding; PyTorch can differentiate it.

        Args:
            inputs: x and the states, in the contract's order.
            float16: the tensors that stay in float16.
            replace: takes the name and the value of each tensor that would be rounded, once, and
                gives what its readers get instead.

        Returns:
            Encoder output and the states after the chunk.
        """
        return self._forward(inputs, float16, replace, weights=False)

    def reads_rounded(self, node: onnx.NodeProto, name: str, float16: Collection[str]) -> bool:
        """Whether a node gets a tensor rounded, given the tensors that stay in float16."""
        return self._is_read_rounded(name, self.is_int8(node, float16), float16)

    def check(self, x: np.ndarray, states: Sequence[np.ndarray], expected: np.ndarray) -> float:
        """Return how far the graph, run without any rounding, is off the float model.

        Args:
            x: features, float32 of the contract's shape.
            states: the states before the chunk.
            expected: the float model's encoder output.

        Returns:
            The largest difference, as a share of the largest expected value.
        """
        found, _ = self.run(x[None], [state[None] for state in states], (), [()])
        return float(np.abs(found[0] - expected).max() / np.abs(expected).max())

    def _forward(
        self,
        inputs: Sequence[torch.Tensor],
        float16: Collection[str],
        rounded: Callable[[str, torch.Tensor], torch.Tensor],
        weights: bool,
    ) -> tuple[torch.Tensor, ...]:
        """Run one chunk of one lane.

        Args:
            inputs: x and the states, in the contract's order.
            float16: the tensors that stay in float16.
            rounded: takes name and value of each tensor that is rounded, and gives what is read.
            weights: whether weights are rounded, and what is kept in float16 to float16.

        Returns:
            Encoder output and the states after the chunk.
        """
        names = [tensor.name for tensor in self._contract.inputs]
        values = self._constants | dict(zip(names, inputs, strict=True))
        seen: dict[str, torch.Tensor] = {}

        def read(node: onnx.NodeProto, place: int, name: str, int8: bool) -> Any:
            if place in NUMBERS.get(node.op_type, ()):
                return values[name].tolist()
            if weights and int8 and (node.output[0], place) in self._weights:
                return self._weights[node.output[0], place]
            value = values[name]
            if name in self.scales and self._is_read_rounded(name, int8, float16):
                if name not in seen:
                    seen[name] = rounded(name, value)  # once, for all that read it
                value = seen[name]
            elif name not in self._constants:
                return value  # in float16 already, if it is kept so
            # A bias is added before the sum is rounded, in float32.
            is_bias = node.op_type == "Conv" and place == 2
            if not weights or int8 or is_bias or not value.is_floating_point():
                return value
            if name not in self._constants or name in seen:
                return half(value)
            if name not in self._halves:
                self._halves[name] = half(value)
            return self._halves[name]

        def inner(attributes: Mapping[str, Any], place: str, value: torch.Tensor) -> torch.Tensor:
            name = attributes.get(place, b"").decode()
            return rounded(name, value) if name in self.scales else value

        for node, attributes, done in zip(
            self._graph.nodes, self._attributes, self._done, strict=True
        ):
            int8 = self.is_int8(node, float16)
            # An input that is left out has no name.
            given = [read(node, i, n, int8) if n else None for i, n in enumerate(node.input)]
            if node.op_type == ATTENTION and int8:
                attributes = attributes | {"inner": partial(inner, attributes)}
            elif node.op_type == ATTENTION and weights:
                attributes = attributes | {"inner": lambda _, value: half(value)}
            found = OPERATORS[node.op_type](given, attributes)
            found = found if isinstance(found, tuple) else (found,)
            for name, value in zip(node.output, found, strict=True):
                kept = weights and value.is_floating_point() and self._is_float16(name, float16)
                values[name] = half(value) if kept else value
            for name in done:
                values.pop(name, None)
                seen.pop(name, None)
        return tuple(values[name] for name in self._contract.outputs)

    def _round_weights(self, node: onnx.NodeProto, per_channel: bool) -> None:
        """Round the weight of a convolution to int8, and its bias to int32."""
        weight, step = round_weight(self._constants[node.input[1]], per_channel)
        self._weights[node.output[0], 1] = weight
        given = self.scales.get(node.input[0])
        if len(node.input) > 2 and given:
            step = step * given.scale  # that of the products' sum
            bias = torch.round(self._constants[node.input[2]] / step) * step
            self._weights[node.output[0], 2] = bias

    def _is_read_rounded(self, name: str, int8: bool, float16: Collection[str]) -> bool:
        """Whether a node gets a tensor rounded: what computes in int8 reads int8.

        What computes in float16 reads a tensor as it is kept. A model's own input is kept in
        float16 where all that read it compute so; constants are then too.
        """
        if int8:
            # Only where both are int8 does the toolkit make one layer of them.
            return name not in self._fused or name in float16
        return not self._is_float16(name, float16)

    def _is_float16(self, name: str, float16: Collection[str]) -> bool:
        """Whether a tensor is kept in float16."""
        producer = self._graph.producers.get(name)
        if name in self.scales and (producer is None or self._graph.is_input(producer)):
            return not any(self.is_int8(node, float16) for node in self.readers.get(name, []))
        return self._is_chosen(name, float16)

    def _is_chosen(self, name: str, float16: Collection[str]) -> bool:
        if name not in self.scales or self._owners.get(name, name) in float16:
            return True
        return self._given_away.get(name) in float16


class EmulatedEncoder:
    """An emulation with one choice of precision, as a model for `streaming.stream`."""

    def __init__(self, emulation: Emulation, contract: Contract, float16: Collection[str]):
        self.emulation, self._float16 = emulation, frozenset(float16)
        self._inputs, self._states = contract.inputs, contract.states

    def run(
        self, x: np.ndarray, states: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one chunk of every lane; see `streaming.Encoder.run`."""
        fronts = [
            lanes_in_front(array, tensor)
            for array, tensor in zip((x, *states), self._inputs, strict=True)
        ]
        encoder_out, after = self.emulation.run(fronts[0], fronts[1:], self._float16)
        # The encoder output has one utterance's batch axis, of 1, behind the lanes.
        return encoder_out[:, 0], [
            _lanes_in_place(array, state.tensor)
            for array, state in zip(after, self._states, strict=True)
        ]


def _last_reads(nodes: Sequence[onnx.NodeProto], kept: Collection[str]) -> list[list[str]]:
    """Return, for each node, the tensors that no later node reads, but for those to keep."""
    last = {name: i for i, node in enumerate(nodes) for name in (*node.output, *node.input)}
    done: list[list[str]] = [[] for _ in nodes]
    for name, position in last.items():
        if name not in kept:
            done[position].append(name)
    return done


def fake_quantize(value: torch.Tensor, scale: Scale) -> torch.Tensor:
    """Return a tensor rounded to the integers of a scale, and back."""
    half = 2 ** (scale.bits - 1)
    # The zero is in the limits, and all is in place but the first: memory is what this costs. There
    # is no clamp in place for lanes, but this is the same.
    steps = (value / scale.scale).round_()
    return F.hardtanh_(steps, -half - scale.zero, half - 1 - scale.zero).mul_(scale.scale)


def half(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor rounded to float16, and back."""
    return value.to(torch.float16).to(torch.float32)


def round_weight(weight: torch.Tensor, per_channel: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight rounded to int8, with one range or one for each output channel, and the step.

    Args:
        weight: (output channels, ...).
        per_channel: see `Emulation`.

    Returns:
        The weight, and the step from one integer to the next, (output channels) or (1).
    """
    rows = weight.reshape(len(weight) if per_channel else 1, -1)
    low, high = (rows.amin(1, True).clamp(max=0), rows.amax(1, True).clamp(min=0))
    step = torch.where(high > low, (high - low) / 255, 1.0)
    zero = torch.round(-128 - low / step)
    integers = torch.clamp(torch.round(rows / step) + zero, -128, 127)
    return ((integers - zero) * step).reshape(weight.shape), step[:, 0]


def lanes_in_front(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Return lanes of a tensor as (lanes, *its shape for one utterance)."""
    if tensor.batch_axis is None:
        return array[None]
    return np.expand_dims(np.moveaxis(array, tensor.batch_axis, 0), tensor.batch_axis + 1)


def _lanes_in_place(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    if tensor.batch_axis is None:
        return array[0]
    return np.moveaxis(array.squeeze(tensor.batch_axis + 1), 0, tensor.batch_axis).copy()
