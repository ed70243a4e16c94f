"""Hostile input: what is made from sound files by mutation, and what has to become of it.

Used by the tests with a few examples each, and by benchmarks/faults with many.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import soundfile
import yaml
from hypothesis import strategies as st
from onnx import TensorProto, helper

from helpers.audio import make_audio
from helpers.models import tiny_encoder
from helpers.places import ROOT
from zipquant import config
from zipquant.audio import features, manifest, reading
from zipquant.board import vocabulary
from zipquant.calibration import dataset_check
from zipquant.errors import UserError
from zipquant.model import contract, recognizer, streaming
from zipquant.toolkit import rknn_file

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
ODD = st.sampled_from(
    [
        *("", " ", "..", "../../etc/passwd", "/etc/passwd", "$(touch pwned)", "`touch pwned`"),
        *("; touch pwned;", "a\nb", "a\tb", "\x00", "{x}", "{", "\ufeff", "-rf", "~", "a" * 5000),
        *("!!python/object/apply:os.system ['touch pwned']", "%s%n", "'\"", "\\", "\u202e", "nan"),
    ]
)


def outcome(function: Callable[[], object]) -> str:
    """Run what reads hostile input: `taken`, or the message of its plain error.

    Raises:
        AssertionError: the message is none for a user. Whatever else is raised is let through.
    """
    try:
        function()
    except UserError as error:
        message = str(error)
        assert message and len(message) < 20_000
        assert "Traceback" not in message
        return message
    return "taken"


@st.composite
def mutated(draw, sound: bytes) -> bytes:
    """Bytes of a sound file after a few changes: bits, cuts, insertions, extreme numbers."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 6))):
        # Headers are at the beginning: half of the changes go there.
        reach = draw(st.sampled_from([min(100, len(content)), len(content)]))
        place = draw(st.integers(0, max(0, reach - 1)))
        kind = draw(st.sampled_from(["flip", "number", "cut", "insert", "repeat", "end"]))
        if kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            value = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0]))
            content[place : place + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", value)
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 64))]
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=64))
        elif kind == "repeat":
            content[place:place] = content[place : place + draw(st.integers(1, 200))]
        elif kind == "end":
            del content[place:]
    return bytes(content)


def sound_audio(suffix: str, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    samples = np.stack([make_audio(0.2, 1, rate)] * 2, axis=1)
    soundfile.write(file, samples, rate, format=suffix, subtype="PCM_16")
    return file.getvalue()


AUDIO = st.sampled_from(["wav", "flac"]).flatmap(
    lambda suffix: st.tuples(st.just(suffix), mutated(sound_audio(suffix)) | st.binary())
)


def feed_audio(folder: Path, example: tuple[str, bytes]) -> str:
    path = folder / f"a.{example[0]}"
    path.write_bytes(example[1])
    return outcome(lambda: features.fbank(reading.load(path)[: 1 << 20]))


ROWS = st.lists(st.lists(TEXT | ODD, max_size=5).map("\t".join), max_size=6).map("\n".join)
MANIFESTS = st.one_of(
    st.binary(max_size=200),
    mutated(b"id\tpath\ttext\na\ta.wav\tone\nb\tb.wav\ttwo\n"),
    ROWS.map(lambda rows: f"id\tpath\ttext\n{rows}".encode()),
)


def feed_manifest(folder: Path, example: bytes) -> str:
    (folder / "a.wav").touch()
    (folder / "list.tsv").write_bytes(example)
    return outcome(
        lambda: [utterance.problem for utterance in manifest.read(str(folder / "list.tsv"))]
    )


TOKEN_LINES = st.lists(st.tuples(TEXT | ODD, st.integers(-1, 12) | TEXT), max_size=12)
TOKENS = st.one_of(
    st.binary(max_size=200),
    mutated((ROOT / "models/demo/tokens.txt").read_bytes()),
    TOKEN_LINES.map(lambda rows: "\n".join(f"{a} {b}" for a, b in rows).encode()),
)


def feed_tokens(folder: Path, example: bytes) -> str:
    path = folder / "tokens.txt"
    path.write_bytes(example)

    def use() -> None:
        known = vocabulary.read(path)
        known.text(range(len(known.tokens)))
        known.unknown_words("one " + "x" * 3000)

    return outcome(use)


SETTINGS = yaml.safe_load((ROOT / "config.yaml").read_text())
PATHS = [
    *([key] for key in SETTINGS),
    *([key, part] for key, value in SETTINGS.items() if isinstance(value, dict) for part in value),
    ["variants", "int8", "dtype"],
    ["audio", "shards", "calibration"],
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | ODD | st.just(10**300),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
CONFIGS = st.lists(st.tuples(st.sampled_from(PATHS), VALUES, st.none() | TEXT | ODD), max_size=3)


def feed_config(folder: Path, example: list) -> str:
    """Set some settings to values of any kind, or put keys that are not known beside them."""
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())
    for path, value, other in example:
        inner = settings
        for key in path[:-1]:
            inner = inner.setdefault(key, {}) if isinstance(inner, dict) else {}
        if isinstance(inner, dict):
            inner[path[-1] if other is None else other] = value

    def use() -> None:
        config.validate(settings)
        config.settle_results(settings, ROOT, settings["model"])

    return outcome(use)


@st.composite
def odd_models(draw, folder: Path) -> bytes:
    """An encoder with faults of structure, which bytes changed at random seldom give."""
    model = onnx.load(tiny_encoder(folder / "sound.onnx"))
    for _ in range(draw(st.integers(1, 3))):
        fault = draw(st.sampled_from(FAULTS))
        fault(draw, model)
    return model.SerializeToString()


def _opset(draw, model) -> None:
    model.opset_import[0].version = draw(st.sampled_from([0, 1, 5, 9, 99, 2**40]))


def _external(draw, model) -> None:
    tensor = draw(st.sampled_from(model.graph.initializer))
    tensor.ClearField("int64_data")
    tensor.data_location = TensorProto.EXTERNAL
    place = draw(st.sampled_from(["../../../etc/passwd", "/etc/passwd", "none.bin", "."]))
    for key, value in (("location", place), ("offset", "0"), ("length", str(2**40))):
        tensor.external_data.add(key=key, value=value)


def _huge_weight(draw, model) -> None:
    model.graph.initializer.add(name="huge", data_type=1, dims=[2**20, 2**20])
    model.graph.node.add(op_type="Add", input=["cached_x", "huge"], output=["sum"])


def _huge_constant(draw, model) -> None:
    size = helper.make_tensor("size", TensorProto.INT64, [2], [2**20, 2**20])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["size"], value=size))
    model.graph.node.insert(1, helper.make_node("ConstantOfShape", ["size"], ["filled"]))
    model.graph.node.insert(2, helper.make_node("ReduceMax", ["filled"], ["top"]))


def _cycle(draw, model) -> None:
    nodes = model.graph.node
    first, second = draw(st.sampled_from(nodes)), draw(st.sampled_from(nodes))
    first.input.append(second.output[0])


def _same_names(draw, model) -> None:
    values = [*model.graph.input, *model.graph.output]
    draw(st.sampled_from(values)).name = draw(st.sampled_from(values)).name


def _odd_name(draw, model) -> None:
    value = draw(st.sampled_from([*model.graph.input, *model.graph.output]))
    old, new = value.name, draw(ODD | TEXT).replace("\ud800", "")
    value.name = new
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def _odd_shape(draw, model) -> None:
    value = draw(st.sampled_from([*model.graph.input, *model.graph.output]))
    dims = value.type.tensor_type.shape.dim
    if dims and draw(st.booleans()):
        draw(st.sampled_from(dims)).dim_value = draw(st.sampled_from([-1, 0, 2, 2**31, 2**62]))
    else:
        dims.add(dim_value=draw(st.integers(-1, 9)))


def _odd_type(draw, model) -> None:
    value = draw(st.sampled_from([*model.graph.input, *model.graph.output]))
    value.type.tensor_type.elem_type = draw(st.integers(0, 40))


def _growing_state(draw, model) -> None:
    """The cache is cut one frame later: it grows with each chunk."""
    for constant in model.graph.initializer:
        if constant.name == "shift":
            constant.ClearField("int64_data")
            constant.int64_data.append(draw(st.integers(-9, 9)))


def _metadata(draw, model) -> None:
    entry = draw(st.sampled_from(model.metadata_props))
    entry.value = draw(st.sampled_from(["0", "-1", "1" * 5000, "9" * 30, "x", "", "1e3"]))


def _no_type(draw, model) -> None:
    draw(st.sampled_from([*model.graph.input, *model.graph.output])).ClearField("type")


def _lost_node(draw, model) -> None:
    if model.graph.node:
        del model.graph.node[draw(st.integers(0, len(model.graph.node) - 1))]


def _other_operator(draw, model) -> None:
    node = draw(st.sampled_from(model.graph.node))
    node.op_type = draw(st.sampled_from(["PyOp", "Loop", "If", "Relu", "NoSuchThing", ""]))
    node.domain = draw(st.sampled_from(["", "ai.onnx.contrib", "com.microsoft"]))


FAULTS = [
    *(_opset, _external, _huge_weight, _huge_constant, _cycle, _same_names, _odd_name),
    *(_odd_shape, _odd_type, _growing_state, _metadata, _no_type, _lost_node, _other_operator),
]


PARTS = ("tokens", "decoder", "joiner")


def feed_model(folder: Path, example: bytes) -> str:
    path = folder / "encoder.onnx"
    path.write_bytes(example)

    def use() -> None:
        streaming.inspect_and_try(path, {}, folder / "model.json")
        model = contract.Contract.load(folder / "model.json")
        recognizer.find({"encoder": str(path), "restore": False, **dict.fromkeys(PARTS)}, model)

    return outcome(use)


def feed_part(folder: Path, example: bytes) -> str:
    """A decoder's or joiner's file."""
    path = folder / "joiner.onnx"
    path.write_bytes(example)
    demo = ROOT / "models/demo"
    return outcome(
        lambda: recognizer.load(str(demo / "tokens.txt"), str(demo / "decoder.onnx"), str(path))
    )


@st.composite
def datasets(draw, shapes: list[tuple]) -> list[tuple[str, bytes]]:
    """Content of dataset.txt, and of the arrays that it names."""
    arrays = []
    for shape, dtype in shapes:
        file = io.BytesIO()
        kind = draw(st.sampled_from(["sound", "pickle", "mutated", "bytes", "huge"]))
        if kind == "pickle":
            np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
        else:
            np.save(file, np.zeros(shape, dtype))
        content = file.getvalue()
        if kind == "mutated":
            content = draw(mutated(content))
        elif kind == "bytes":
            content = draw(st.binary(max_size=200))
        elif kind == "huge":
            content = content.replace(b"(1,", b"(9" + b"9" * draw(st.integers(1, 12)) + b",", 1)
        arrays.append(content)
    names = [f"{number}.npy" for number in range(len(arrays))]
    line = draw(st.just(names) | st.lists(ODD | TEXT | st.sampled_from(names), max_size=4))
    rows = draw(st.lists(st.just(" ".join(line)) | TEXT, max_size=3))
    return [("dataset.txt", "\n".join(rows).encode()), *zip(names, arrays, strict=True)]


class Bomb:
    """Unpickling it makes the file `pwned`."""

    def __reduce__(self):
        return (open, ("pwned", "w"))


def feed_dataset(folder: Path, example: list[tuple[str, bytes]], shape: contract.Contract) -> str:
    for name, content in example:
        (folder / name).write_bytes(content)
    return outcome(lambda: dataset_check.check(folder / "dataset.txt", shape))


def feed_rknn(folder: Path, example: bytes) -> str:
    path = folder / "a.rknn"
    path.write_bytes(example)
    return outcome(lambda: (rknn_file.io_types(path), rknn_file.custom_string(path)))
