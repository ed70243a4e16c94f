"""The emulation against the float model and the toolkit's simulator, operator by operator."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from helpers.audio import make_audio
from helpers.builds import build, calibrate, first_step
from helpers.models import lstm_encoder, zipformer2_like_encoder
from helpers.places import exported, needs_shared_exports
from zipquant.audio import features
from zipquant.audio.frame_store import FrameWriter
from zipquant.jobs import isolation
from zipquant.model.contract import Contract
from zipquant.model.streaming import OnnxEncoder, stream
from zipquant.toolkit.platforms import Scheme
from zipquant.toolkit.quantized_graph import Graph, float16_tensors, read_scales
from zipquant.toolkit.rknn_toolkit import Simulator
from zipquant.variants.emulation import OPERATORS, EmulatedEncoder, Emulation, UnknownOperator

EXPORTS = ("zipformer", "zipformer2", "zipformer2-ctc")


def largest_error(files, model, shape: Contract) -> float:
    """Return how far the emulation without rounding is off the float model, on unseen audio."""
    graph, scales = Graph(files[0]), read_scales(files[1])
    emulated = Emulation(graph, scales, shape, per_channel=True)
    steps = stream(OnnxEncoder(model, shape), shape, [features.fbank(make_audio(1.5, 9))])
    return max(emulated.check(s.inputs[0], s.inputs[1:], s.encoder_out) for s in steps)


@needs_shared_exports
@pytest.mark.parametrize(
    "kind",
    # The Zipformer2 has nearly all operators; each takes half a minute.
    [pytest.param(k, marks=[] if k == "zipformer2" else pytest.mark.slow) for k in EXPORTS],
)
def test_every_operator_of_a_real_export_is_emulated(tmp_path, kind):
    model = exported(kind)
    shape = calibrate(tmp_path, model, rows=4)
    assert largest_error(first_step(tmp_path, model, shape), model, shape) < 1e-4


@pytest.mark.parametrize("node", [True, False], ids=["one operator", "spelt out"])
def test_lstm_is_emulated_however_it_was_exported(tmp_path, node):
    model = lstm_encoder(tmp_path / "encoder.onnx", node)
    shape = calibrate(tmp_path, model)
    files = first_step(tmp_path, model, shape)
    operators = {one.op_type for one in Graph(files[0]).nodes}
    assert ("exLSTM" in operators) == node and ("Sigmoid" in operators) != node
    assert largest_error(files, model, shape) < 1e-4


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small encoder, its contract, and its plain int8 variant with the toolkit's files."""
    folder = tmp_path_factory.mktemp("built")
    model = zipformer2_like_encoder(folder / "encoder.onnx")
    shape = calibrate(folder, model)
    return folder, model, shape, build(folder, model)


def emulate(folder, shape: Contract, record: dict) -> EmulatedEncoder:
    """Return the emulation of a variant as it was built."""
    toolkit = folder / "variant/toolkit"
    config = next(toolkit.glob("*.cfg"))
    graph, scales = Graph(next(toolkit.glob("*.model"))), read_scales(config)
    emulated = Emulation(graph, scales, shape, per_channel=record["method"] == "channel")
    return EmulatedEncoder(emulated, shape, float16_tensors(config))


def simulate(folder, model, shape: Contract, inputs: list) -> list[list[np.ndarray]]:
    """Return encoder output and states of a variant in the simulator, for single chunks."""
    simulator = Simulator(model, shape, folder / "variant", Scheme("rk3588", "w8a8"))
    found = [simulator.run(x, states) for x, *states in inputs]
    return [[encoder_out, *after] for encoder_out, after in found]


def difference(folder, model, shape: Contract, record: dict) -> tuple[float, float]:
    """Compare emulation and simulator on single chunks of unseen audio.

    Returns:
        The SQNR of the encoder output in dB, emulated less simulated; and what share of its numbers
        and of those of the states are the same but for float16's rounding.
    """
    steps = list(stream(OnnxEncoder(model, shape), shape, [features.fbank(make_audio(4, 50))]))
    steps = steps[::3]
    inputs = [step.inputs for step in steps]
    simulated = isolation.call(simulate, folder=folder, model=model, shape=shape, inputs=inputs)
    encoder = emulate(folder, shape, record)
    emulated = [encoder.run(x, states) for x, *states in inputs]
    emulated = [[encoder_out, *after] for encoder_out, after in emulated]
    expected = [[step.encoder_out, *step.new_states] for step in steps]
    noises = [
        sum(np.square(a[0] - b[0]).sum() for a, b in zip(found, expected, strict=True))
        for found in (emulated, simulated)
    ]
    pairs = zip(sum(emulated, []), sum(simulated, []), sum(expected, []), strict=True)
    same = [np.abs(a - b).ravel() <= 1e-3 * np.abs(c).max() for a, b, c in pairs]
    return 10 * np.log10(noises[1] / noises[0]), np.concatenate(same).mean()


def test_emulation_rounds_where_the_simulator_does(built):
    decibels, same = difference(*built)
    assert abs(decibels) < 0.1
    # One sum that is added up in another order may change a few; a rounding too many, most of them.
    assert same > 0.9995


def test_weights_with_one_scale_a_layer_are_rounded_as_in_the_simulator(built, tmp_path):
    folder, model, shape, _ = built
    for name in ("model.json", "dataset.txt", "arrays"):
        (tmp_path / name).symlink_to(folder / name)
    record = build(tmp_path, model, method="layer")
    decibels, same = difference(tmp_path, model, shape, record)
    assert abs(decibels) < 0.1 and same > 0.9995


def test_float16_among_int8_is_rounded_as_in_the_simulator(built, tmp_path):
    folder, model, shape, _ = built
    for name in ("model.json", "dataset.txt", "arrays"):
        (tmp_path / name).symlink_to(folder / name)
    # Where bytes cost so much, float16 is dear, and some stay in int8.
    slow = {"npu_layer_us": 10, "cpu_layer_us": 10, "conversion_us": 10, "border_us": 0}
    target = {"target_sqnr": 25, "most_time_added": 10}
    record = search(tmp_path, model, target, slow | {"gb_per_s": 0.003})
    assert 0.1 < record["int8_macs_share"] < 0.8
    decibels, same = difference(tmp_path, model, shape, record)
    assert abs(decibels) < 0.1 and same > 0.9995


def search(folder, model, target: dict, costs: dict | None = None) -> dict:
    """Build a variant with a search for float16 layers; return its record."""
    with FrameWriter(folder / "features.h5") as writer:
        writer.add("u", features.fbank(make_audio(2, 1)))
    return build(
        folder,
        model,
        mixed_precision={"target_wer_loss": None} | target,
        original=model,
        features=[folder / "features.h5"],
        board_costs=costs,
    )


@needs_shared_exports
@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTS)
def test_real_export_is_searched_and_simulated_as_emulated(tmp_path, kind):
    model = exported(kind)
    shape = calibrate(tmp_path, model)
    record = search(tmp_path, model, {"target_sqnr": 25, "most_time_added": 0.5})
    found = record["mixed_precision"]
    assert "unavailable" not in found
    kept = [step["float16_tensors"] for step in found["steps"]]
    assert kept[found["chosen"]] > kept[0]
    decibels, _ = difference(tmp_path, model, shape, record)
    assert abs(decibels) < 0.5


def node(kind: str, output: str, *inputs: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def test_compiler_joins_convolutions_with_what_alone_reads_them(tmp_path):
    joined = ["Relu", "Sigmoid", "Tanh", "Softplus", "LeakyRelu", "exSwish"]
    apart = ["Exp", "exGlu"]
    nodes = [node("Conv", f"to_{kind}", "x", "w") for kind in (*joined, *apart)]
    nodes += [node(kind, kind, f"to_{kind}") for kind in (*joined, *apart)]
    nodes += [
        node("Conv", "added", "x", "w"),
        node("Add", "sum", "x", "added"),
        node("Relu", "limited", "sum"),
        # Of two, the first.
        *(node("Conv", "first", "x", "w"), node("Conv", "second", "x", "w")),
        node("Add", "both", "first", "second"),
        # Each channel by itself.
        *(node("Conv", f"depthwise_{n}", "x", "w", group=8) for n in range(3)),
        node("exSwish", "swished", "depthwise_0"),
        node("Add", "plus", "depthwise_1", "x"),
        node("Relu", "cut", "depthwise_2"),
        # Read twice, or given away.
        node("Conv", "shared", "x", "w"),
        *(node("Relu", "one", "shared"), node("Tanh", "other", "shared")),
        *(node("Conv", "given", "x", "w"), node("Relu", "behind", "given")),
        node("Mul", "product", "x", "w"),
        node("Add", "of_product", "product", "x"),
    ]
    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.zeros((8, 8, 1, 1), "f4"), "w")
    outputs = [value("given", TensorProto.FLOAT, None)]
    inputs = [value("x", TensorProto.FLOAT, [1, 8, 1, 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    expected = {f"to_{kind}" for kind in joined}
    expected |= {"added", "sum", "first", "depthwise_2"}
    assert Graph(tmp_path / "g.onnx").fused() == expected


def test_slice_and_pad_are_those_of_numpy():
    array = np.arange(24.0).reshape(2, 3, 4)
    tensor = torch.from_numpy(array)
    for start, end, step in ((-1, -(2**31), -1), (3, 0, -2), (1, 2**31, 1), (0, 4, 3), (2, 1, 1)):
        found = OPERATORS["Slice"]([tensor, [start], [end], [2], [step]], {})
        np.testing.assert_array_equal(found, array[:, :, start:end:step])
    found = OPERATORS["Pad"]([tensor, [0, 1, 0, 0, 0, 2], 5.0], {})
    np.testing.assert_array_equal(found, np.pad(array, [(0, 0), (1, 0), (0, 2)], constant_values=5))
    with pytest.raises(UnknownOperator, match="reflect"):
        OPERATORS["Pad"]([tensor, [0] * 6], {"mode": b"reflect"})


def test_without_rounding_the_emulation_can_be_differentiated(built):
    folder, _, shape, record = built
    emulated = emulate(folder, shape, record).emulation
    added = {}

    def replaced(name: str, value: torch.Tensor) -> torch.Tensor:
        added[name] = torch.zeros(value.shape, requires_grad=True)
        return value + added[name]

    inputs = [torch.from_numpy(tensor.zeros()) for tensor in shape.inputs]
    inputs[0] += torch.from_numpy(features.fbank(make_audio(1))[: shape.chunk_frames])
    encoder_out, *_ = emulated.run_unrounded(inputs, (), replaced)
    encoder_out.square().sum().backward()
    assert added and all(name in emulated.scales for name in added)
    reached = [name for name, tensor in added.items() if tensor.grad is not None]
    assert sum(bool(added[name].grad.any()) for name in reached) > 20


def test_transposed_convolution_and_scaled_norm_are_those_of_the_definitions():
    random = np.random.default_rng(3)
    x = random.normal(size=(1, 4, 1, 5)).astype(np.float32)
    weight = random.normal(size=(4, 1, 1, 2)).astype(np.float32)
    tensors = [torch.from_numpy(array) for array in (x, weight)]
    spread = OPERATORS["ConvTranspose"](tensors, {"strides": [1, 2], "group": 4})
    expected = (x[..., None] * weight[:, 0, :, None]).reshape(1, 4, 1, 10)
    np.testing.assert_allclose(spread.numpy(), expected, rtol=1e-6)
    with pytest.raises(UnknownOperator, match="padding"):
        OPERATORS["ConvTranspose"](tensors, {"strides": [1, 2], "group": 4, "pads": [0, 1, 0, 1]})
    factor = torch.tensor([0.5, 1.0, 2.0, 4.0]).reshape(1, 4, 1, 1)
    normed = OPERATORS["exNorm"]([tensors[0], factor], {"mode": b"rms", "axes": [1], "eps": 0.25})
    root = np.sqrt((x**2).mean(axis=1, keepdims=True) + 0.25)
    np.testing.assert_allclose(normed.numpy(), x / root * factor.numpy(), rtol=1e-5)
    moved = OPERATORS["exNorm"](
        [tensors[0], factor, -factor], {"mode": b"rms", "axes": [1], "eps": 0.25}
    )
    np.testing.assert_allclose(moved.numpy(), (normed - factor).numpy(), rtol=1e-5)
