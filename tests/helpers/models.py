"""Tiny models with the interfaces that streaming encoders have."""

from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from zipquant.model import contract as contracts


def tiny_encoder(path: Path, batch: str | int = "N", **changes) -> Path:
    """Write a small streaming encoder: a sliding cache, a counter, and an output made of both.

    Args:
        path: the ONNX file to write.
        batch: name of the batch dimension, or 1.
        changes: `metadata` to replace the metadata; `counter_output` to rename that output;
            `weight`, float32 (80, 80), for a layer before the output.
    """
    frames, bins, kept, shift = 9, 80, 6, 4
    counter_output = changes.get("counter_output", "new_processed_lens")
    value = helper.make_tensor_value_info
    inputs = [
        value("x", TensorProto.FLOAT, [batch, frames, bins]),
        value("cached_x", TensorProto.FLOAT, [batch, kept, bins]),
        value("processed_lens", TensorProto.INT64, [batch]),
    ]
    outputs = [
        value("encoder_out", TensorProto.FLOAT, [batch, kept + shift, bins]),
        value("new_cached_x", TensorProto.FLOAT, [batch, kept, bins]),
        value(counter_output, TensorProto.INT64, [batch]),
    ]

    def constant(name: str, numbers: list[int]) -> onnx.TensorProto:
        return helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers)

    nodes = [
        helper.make_node("Slice", ["x", "zero", "shift", "one"], ["fresh"]),
        helper.make_node("Concat", ["cached_x", "fresh"], ["joined"], axis=1),
        helper.make_node("Slice", ["joined", "shift", "end", "one"], ["new_cached_x"]),
        helper.make_node("Add", ["processed_lens", "shift"], [counter_output]),
        helper.make_node("Cast", [counter_output], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["count", "axes"], ["count3"]),
        helper.make_node("Div", ["joined", "count3"], ["scaled"]),
        helper.make_node("Tanh", ["scaled"], ["encoder_out"]),
    ]
    if "weight" in changes:
        nodes.insert(-1, helper.make_node("MatMul", ["scaled", "weight"], ["mixed"]))
        nodes[-1].input[0] = "mixed"
    constants = [
        constant("zero", [0]),
        constant("one", [1]),
        constant("shift", [shift]),
        constant("end", [1000]),
        constant("axes", [1, 2]),
    ]
    if "weight" in changes:
        constants.append(numpy_helper.from_array(changes["weight"], "weight"))
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    metadata = changes.get("metadata", {"T": str(frames), "decode_chunk_len": str(shift)})
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def made_up_table(
    model: contracts.Contract, utterance: str, chunks: int, seed: int = 0
) -> pd.DataFrame:
    """Return a made-up chunk table of one utterance, as `traces` writes it for a tiny encoder."""
    random = np.random.default_rng(seed)
    start = np.arange(chunks) == 0
    table = {
        "utterance": np.full(chunks, utterance, dtype=object),
        "chunk": np.arange(chunks),
        "row": np.arange(chunks),
        "time": np.arange(chunks) * model.chunk_shift / 100,
        "energy": np.where(np.arange(chunks) % 3 == 2, -14, -8) + random.random(chunks),
    }
    states = {state.tensor.name: state.tensor for state in model.states}
    for name in (*(tensor.name for tensor in model.inputs), model.encoder_out):
        low, high = -8 - random.random(chunks), 3 + random.random(chunks)
        if name in states and states[name].dtype != "float32":
            low = high = model.chunk_shift * np.arange(chunks, dtype=float)
        elif name in states:
            low, high = np.where(start, 0, low), np.where(start, 0, high)
        table |= {f"{name}.min": low, f"{name}.max": high, f"{name}.rms": np.maximum(-low, high)}
    return pd.DataFrame(table)


def zipformer2_like_encoder(
    path: Path, batch: str | int = "N", layers: int = 2, counter: str = "int64"
) -> Path:
    """Write an encoder with the interface of a Zipformer2, random weights and little inside.

    T is 13, a chunk 8 frames, half as many after subsampling. States of every kind that Zipformer2
    has: keys with the batch on axis 1, 4-D attention values, convolution caches with the batch
    first, the 4-D cache of a convolution over time `embed_states`, and the counter
    `processed_lens`, which masks what the caches do not hold yet.

    Args:
        path: the ONNX file to write.
        batch: name of the batch dimension, or 1.
        layers: how many there are.
        counter: type of `processed_lens`, int64 or int32.
    """
    random = np.random.default_rng(7)
    left, width, shift, channels = 16, 12, 8, 4
    half = shift // 2
    count_type = helper.np_dtype_to_tensor_dtype(np.dtype(counter))
    nodes, constants, inputs, outputs = [], [], [], []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def add(operation: str, sources: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(operation, sources, [output], **attributes))
        return output

    def state(name: str, shape: list, kind: int = TensorProto.FLOAT) -> None:
        inputs.append(helper.make_tensor_value_info(name, kind, shape))
        outputs.append(helper.make_tensor_value_info(f"new_{name}", kind, shape))

    def number(value: int) -> str:
        name = f"number_{value}"
        if name not in [tensor.name for tensor in constants]:
            constant(name, np.array([value], dtype=np.int64))
        return name

    def slide(cache: str, fresh: str, axis: int, step: int = half) -> str:
        """Append `fresh` to a cache and drop as much at its beginning."""
        joined = add("Concat", [cache, fresh], f"{cache}_joined", axis=axis)
        sources = [joined, number(step), number(2**31), number(axis)]
        add("Slice", sources, f"new_{cache}")
        return joined

    inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 13, 80]))
    out = [batch, half, width]
    outputs.append(helper.make_tensor_value_info("encoder_out", TensorProto.FLOAT, out))
    add("Slice", ["x", number(0), number(shift), number(1), number(2)], "subsampled")
    weight = constant("embed", random.normal(0, 0.1, (80, width)).astype("f4"))
    embedded = add("Tanh", [add("MatMul", ["subsampled", weight], "embedded")], "frames")
    # A convolution over time, each channel by itself: (batch, channels, time, frequency).
    image = constant("image", np.array([0, half, channels, -1], dtype=np.int64))
    image = add("Reshape", [embedded, image], "imaged")
    image = add("Transpose", [image], "channels_first", perm=[0, 2, 1, 3])
    state("embed_states", [batch, channels, half - 1, width // channels])
    image = slide("embed_states", image, 2, half)
    kernel = constant("kernel", random.normal(0, 0.7, (channels, 1, half, 1)).astype("f4"))
    image = add("Conv", [image, kernel], "convolved", group=channels)
    image = add("Transpose", [image], "time_first", perm=[0, 2, 1, 3])
    flat = constant("flat", np.array([0, half, width], dtype=np.int64))
    image = add("Reshape", [image, flat], "flattened")
    hidden = add("Tanh", [add("Add", [embedded, image], "embedded_both")], "hidden_0")
    # Attention to what the caches do not hold yet is masked.
    state("processed_lens", [batch], count_type)
    counted = add("Cast", ["processed_lens"], "counted", to=TensorProto.FLOAT)
    counted = add("Unsqueeze", [counted, constant("last_axes", np.array([1, 2]))], "counted_3d")
    ages = np.arange(left, 0, -1, dtype="f4")
    ages = np.concatenate([ages, np.zeros(half, "f4")]).reshape(1, 1, -1)
    empty = add("Greater", [constant("ages", ages), counted], "empty")
    empty = add("Cast", [empty], "empty_numbers", to=TensorProto.FLOAT)
    mask = add("Mul", [empty, constant("far_below", np.array(-30, dtype="f4"))], "mask")
    for layer in range(layers):
        state(f"cached_key_{layer}", [left, batch, width])
        state(f"cached_nonlin_attn_{layer}", [1, batch, left, width])
        state(f"cached_conv1_{layer}", [batch, width, left - 1])
        weight = constant(f"weight_{layer}", random.normal(0, 0.4, (width, width)).astype("f4"))
        mixed = add("MatMul", [hidden, weight], f"mixed_{layer}")
        swapped = add("Transpose", [mixed], f"swapped_{layer}", perm=[1, 0, 2])
        keys = slide(f"cached_key_{layer}", swapped, 0)
        keys = add("Transpose", [keys], f"keys_{layer}", perm=[1, 2, 0])
        scores = add("MatMul", [mixed, keys], f"scores_{layer}")
        scores = add("Softmax", [add("Add", [scores, mask], f"masked_{layer}")], f"soft_{layer}")
        wide = add("Unsqueeze", [mixed, number(0)], f"wide_{layer}")
        values = slide(f"cached_nonlin_attn_{layer}", wide, 2)
        values = add("Squeeze", [values, number(0)], f"values_{layer}")
        attended = add("MatMul", [scores, values], f"attended_{layer}")
        turned = add("Transpose", [attended], f"turned_{layer}", perm=[0, 2, 1])
        joined = slide(f"cached_conv1_{layer}", turned, 2)
        mean = add("ReduceMean", [joined], f"mean_{layer}", axes=[2], keepdims=1)
        mean = add("Transpose", [mean], f"row_{layer}", perm=[0, 2, 1])
        both = add("Add", [attended, mean], f"both_{layer}")
        hidden = add("Tanh", [both], f"hidden_{layer + 1}")
    step = constant("step", np.array([half], dtype=counter))
    add("Add", ["processed_lens", step], "new_processed_lens")
    add("Identity", [hidden], "encoder_out")
    graph = helper.make_graph(nodes, "zipformer2", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    metadata = {
        **{"model_type": "zipformer2", "T": "13", "decode_chunk_len": str(shift)},
        **{"num_encoder_layers": str(layers), "encoder_dims": str(width)},
        **{"cnn_module_kernels": "31", "left_context_len": str(left), "num_heads": "1"},
        **{"query_head_dims": str(width), "value_head_dims": str(width)},
    }
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def lstm_encoder(path: Path, node: bool) -> Path:
    """Write an encoder with the interface of icefall's LSTM: states h and c, and one frame a chunk.

    Args:
        path: the ONNX file to write.
        node: whether the LSTM is ONNX's own operator, as PyTorch writes nn.LSTM, or spelt out and
            with a projection, as icefall exports it.
    """
    random = np.random.default_rng(5)
    width, hidden, frames = 16, 24, 9
    projected = hidden if node else width
    value, nodes, constants = helper.make_tensor_value_info, [], []

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(name: str, *shape: int) -> str:
        scale = shape[-2 if not node else -1] ** -0.5
        return constant(name, random.normal(0, 1.5 * scale, shape).astype("f4"))

    def add(operation: str, sources: list[str], *outputs: str, **attributes) -> str:
        nodes.append(helper.make_node(operation, sources, list(outputs), **attributes))
        return outputs[0]

    flat = constant("flat", np.array([0, 1, frames * 80], dtype="i8"))
    joined = add("Reshape", ["x", flat], "joined")
    embed = constant("embed", random.normal(0, 0.02, (frames * 80, width)).astype("f4"))
    embedded = add("MatMul", [joined, embed], "embedded")
    # BasicNorm: x / sqrt(mean(x^2) + eps).
    square = add("Pow", [embedded, constant("two", np.array(2, dtype="f4"))], "square")
    mean = add("ReduceMean", [square], "mean", axes=[-1], keepdims=1)
    sum_ = add("Add", [mean, constant("eps", np.array(0.25, dtype="f4"))], "mean_and_eps")
    power = add("Pow", [sum_, constant("half", np.array(-0.5, dtype="f4"))], "one_over_rms")
    time_first = add("Transpose", [add("Mul", [embedded, power], "normed")], "t", perm=[1, 0, 2])
    if node:
        sources = [
            *(time_first, weight("w", 1, 4 * hidden, width), weight("r", 1, 4 * hidden, hidden)),
            *(constant("b", random.normal(0, 0.2, (1, 8 * hidden)).astype("f4")), "", "h", "c"),
        ]
        add("LSTM", sources, "all_h", "new_h", "new_c", hidden_size=hidden)
        out = add("Squeeze", ["all_h", constant("direction", np.array([1]))], "time_out")
    else:
        gates = add("MatMul", [time_first, weight("w", width, 4 * hidden)], "from_x")
        again = add("MatMul", ["h", weight("r", projected, 4 * hidden)], "from_h")
        add("Split", [add("Add", [gates, again], "gates")], "i", "f", "g", "o", axis=2)
        for name in "ifo":
            add("Sigmoid", [name], f"{name}_gate")
        kept = add("Mul", ["f_gate", "c"], "kept")
        fresh = add("Mul", ["i_gate", add("Tanh", ["g"], "g_gate")], "fresh")
        cell = add("Tanh", [add("Add", [kept, fresh], "new_c")], "cell")
        inner = add("Mul", ["o_gate", cell], "inner")
        out = add("MatMul", [inner, weight("projection", hidden, projected)], "new_h")
    add("Relu", [add("Transpose", [out], "batch_first", perm=[1, 0, 2])], "encoder_out")
    states = {"h": [1, "N", projected], "c": [1, "N", hidden]}
    inputs = [value("x", TensorProto.FLOAT, ["N", frames, 80])]
    inputs += [value(name, TensorProto.FLOAT, shape) for name, shape in states.items()]
    outputs = [value("encoder_out", TensorProto.FLOAT, ["N", 1, projected])]
    outputs += [value(f"new_{name}", TensorProto.FLOAT, shape) for name, shape in states.items()]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    metadata = {"model_type": "lstm", "T": str(frames), "decode_chunk_len": "4"}
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def tiny_ctc(path: Path, tokens: int, batch: str | int = "N", counter: str = "int64") -> Path:
    """Write a streaming CTC model with Zipformer2's interface, as sherpa-onnx loads it.

    Its log probabilities are those of `tokens` mel bins of every fourth frame: not speech
    recognition, but each chunk gives many different tokens, some over its border. Half of each
    state fades with every chunk, and something is added.
    """
    value = helper.make_tensor_value_info
    shapes = {
        "cached_key_0": [4, batch, 8],
        "cached_nonlin_attn_0": [1, batch, 4, 12],
        "cached_val1_0": [4, batch, 8],
        "cached_val2_0": [4, batch, 8],
        "cached_conv1_0": [batch, 16, 15],
        "cached_conv2_0": [batch, 16, 15],
        "embed_states": [batch, 128, 3, 19],
    }
    states = [(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    count_type = helper.np_dtype_to_tensor_dtype(np.dtype(counter))
    states.append(("processed_lens", count_type, [batch]))
    inputs = [value("x", TensorProto.FLOAT, [batch, 45, 80])]
    inputs += [value(*state) for state in states]
    outputs = [value("log_probs", TensorProto.FLOAT, [batch, 8, tokens])]
    outputs += [value(f"new_{name}", *kind) for name, *kind in states]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers)
        for name, numbers in {
            "start": [0, 10],
            "end": [32, 10 + tokens],
            "axes": [1, 2],
            "steps": [4, 1],
        }.items()
    ]
    constants.append(numpy_helper.from_array(np.array([32], dtype=counter), "shift"))
    constants.append(numpy_helper.from_array(np.array(0.5, dtype="f4"), "half"))
    random = np.random.default_rng(11)
    for name, shape in shapes.items():
        fresh = random.normal(size=[1 if size == batch else size for size in shape]).astype("f4")
        constants.append(numpy_helper.from_array(fresh, f"{name}_fresh"))
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axes", "steps"], ["bins"]),
        helper.make_node("LogSoftmax", ["bins"], ["log_probs"], axis=2),
        *(helper.make_node("Mul", [name, "half"], [f"{name}_halved"]) for name in shapes),
        *(
            helper.make_node("Add", [f"{name}_halved", f"{name}_fresh"], [f"new_{name}"])
            for name in shapes
        ),
        helper.make_node("Add", ["processed_lens", "shift"], ["new_processed_lens"]),
    ]
    graph = helper.make_graph(nodes, "ctc", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    metadata = {
        **{"model_type": "zipformer2", "T": "45", "decode_chunk_len": "32"},
        **{"num_encoder_layers": "1", "encoder_dims": "16", "cnn_module_kernels": "31"},
        **{"left_context_len": "4", "num_heads": "2"},
        **{"query_head_dims": "4", "value_head_dims": "4"},
    }
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def whisper(path: Path) -> Path:
    """Make an encoder ask for Whisper's features in its metadata."""
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, metadata | {"feature": "whisper"})
    onnx.save(model, path)
    return path


LEVELS = np.linspace(-1.6, 2.4, 4001, dtype="f4")
"""What `echo` tells apart."""


def echo(folder: Path) -> dict[str, str]:
    """Write a transducer that says what it is fed with: a token for each value of each chunk.

    The encoder, with Zipformer2's interface, gives each value of `x` as a vector of its own. The
    joiner's scores are 2 f l - l^2, which is largest for the level l that is nearest to the value
    f; the token of `LEVELS[i]` is i + 1.
    """
    model = onnx.load(tiny_ctc(folder / "encoder.onnx", tokens=6))
    nodes = [node for node in model.graph.node if node.output[0] not in ("bins", "log_probs")]
    nodes.append(helper.make_node("Reshape", ["x", "values"], ["log_probs"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(helper.make_tensor("values", TensorProto.INT64, [3], [0, -1, 1]))
    out = helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["N", 45 * 80, 1])
    model.graph.output[0].CopyFrom(out)
    onnx.save(model, folder / "encoder.onnx")
    floats, value = numpy_helper.from_array, helper.make_tensor_value_info

    def write(name: str, inputs: list, outputs: list, nodes: list, constants: list) -> None:
        graph = helper.make_graph(nodes, name, inputs, outputs, constants)
        opset = [helper.make_opsetid("", 13)]
        written = helper.make_model(graph, opset_imports=opset, ir_version=8)
        metadata = {"vocab_size": str(len(LEVELS) + 1), "context_size": "2"}
        helper.set_model_props(written, metadata if name == "decoder" else {"joiner_dim": "1"})
        onnx.save(written, folder / f"{name}.onnx")

    write(
        "decoder",
        [value("y", TensorProto.INT64, ["N", 2])],
        [value("decoder_out", TensorProto.FLOAT, ["N", 1])],
        [
            helper.make_node("Cast", ["y"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["floats"], ["decoder_out"], axes=[1], keepdims=1),
        ],
        [],
    )
    scores = np.stack([np.append([0], 2 * LEVELS), np.append([-1e9], -(LEVELS**2))]).astype("f4")
    write(
        "joiner",
        [value(name, TensorProto.FLOAT, ["N", 1]) for name in ("encoder_out", "decoder_out")],
        [value("logit", TensorProto.FLOAT, ["N", len(LEVELS) + 1])],
        [
            helper.make_node("Mul", ["encoder_out", "slope"], ["sloped"]),
            helper.make_node("Add", ["sloped", "offset"], ["logit"]),
        ],
        [floats(scores[:1], "slope"), floats(scores[1:], "offset")],
    )
    lines = ["<blk> 0", *(f"t{number} {number}" for number in range(1, len(LEVELS) + 1))]
    (folder / "tokens.txt").write_text("\n".join(lines) + "\n")
    parts = {part: str(folder / f"{part}.onnx") for part in ("encoder", "decoder", "joiner")}
    return parts | {"tokens": str(folder / "tokens.txt")}


def scripted_ctc(path: Path, ids: list[int], tokens: int) -> Path:
    """Write a streaming CTC model that says the tokens `ids` one after the other to any audio.

    Four a chunk of 32 frames, with blanks between; blanks when all are said.
    """
    model = onnx.load(tiny_ctc(path, tokens))
    chunks = -(-len(ids) // 4) + 100
    scores = np.full((chunks, 8, tokens), -9, dtype="f4")
    scores[:, :, 0] = -1
    for position, number in enumerate(ids):
        scores[position // 4, 2 * (position % 4), number] = 0
    model.graph.initializer.append(numpy_helper.from_array(scores, "scores"))
    nodes = [node for node in model.graph.node if node.output[0] not in ("bins", "log_probs")]
    nodes.append(helper.make_node("Div", ["processed_lens", "shift"], ["chunk"]))
    nodes.append(helper.make_node("Gather", ["scores", "chunk"], ["log_probs"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path
