"""The encoder in the form that the compiler makes few layers of: equal, by structure, or left."""

import itertools

import numpy as np
import onnx
import pytest

from helpers.builds import build, calibrate
from helpers.models import tiny_ctc, tiny_encoder
from helpers.places import DEMO_MODEL, ROOT, exported, needs_shared_exports
from zipquant.audio import features
from zipquant.model import contract as contracts
from zipquant.rewrites import equality, npu_native
from zipquant.toolkit.layer_table import Table
from zipquant.toolkit.quantized_graph import Graph
from zipquant.variants import preparation

ICEFALL = ROOT.parent / "shared/icefall/zipformer/encoder-epoch-99-avg-1.onnx"
ZIPFORMERS = [
    pytest.param(DEMO_MODEL, id="demo"),
    pytest.param(
        ICEFALL,
        id="icefall",
        marks=pytest.mark.skipif(
            not ICEFALL.is_file(), reason="needs the folder shared/icefall beside the project"
        ),
    ),
]


def folded(path):
    """The encoder as `npu_native` gets it, and its contract."""
    contract, original = contracts.inspect(path), onnx.load(path)
    model = preparation.fix_batch(onnx.load(path), contract)
    model = preparation.drop_unused(preparation.fold_constants(model, contract), contract)
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    return model, contract


def chunks(contract, count):
    """Features of real speech, chunk by chunk, as they arise at run time."""
    speech = next(iter(sorted((ROOT / "demo/audio/calibration").rglob("*.flac"))), None)
    speech = speech or next(iter(sorted((ROOT / "demo/audio/calibration").rglob("*.wav"))))
    frames = features.extract(speech, "mean", 2.0)
    starts = range(0, len(frames) - contract.chunk_frames, contract.chunk_shift)
    for start in itertools.islice(starts, count):
        yield frames[None, start : start + contract.chunk_frames]


def run(model, contract, path, inputs):
    """Outputs of each of some rows of inputs."""
    onnx.save(model, path)
    session = preparation.OnnxEncoder(path, contract)
    return [[out, *states] for out, states in (session.run(x, s) for x, s in inputs)]


@pytest.mark.parametrize("path", ZIPFORMERS)
def test_rewritten_zipformer_computes_the_same_on_speech_with_its_own_states(tmp_path, path):
    model, contract = folded(path)
    rewritten, reason = npu_native.rewrite(model, contract)
    assert reason is None
    states, rows, expected = [s.tensor.zeros() for s in contract.states], [], []
    original = preparation.OnnxEncoder(path, contract)
    for x in chunks(contract, 8):
        rows.append((x, states))
        out, states = original.run(x, states)
        expected.append([out, *states])
    assert len(rows) == 8
    got = run(rewritten, contract, tmp_path / "native.onnx", rows)
    assert equality.error(expected, got) <= 1e-5
    # Not because nothing is compared: a little error in one weight is seen.
    weights = {tensor.name: tensor for tensor in rewritten.graph.initializer}
    weight = weights["/layers.0/conv1/weight"]
    array = onnx.numpy_helper.to_array(weight) * 1.001
    weight.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), weight.name))
    assert equality.error(expected, run(rewritten, contract, tmp_path / "b.onnx", rows)) > 1e-5


@pytest.mark.parametrize("path", ZIPFORMERS)
def test_inputs_outputs_and_metadata_stay(path):
    model, contract = folded(path)
    rewritten, _ = npu_native.rewrite(model, contract)
    for kind in ("input", "output"):
        before, after = getattr(model.graph, kind), getattr(rewritten.graph, kind)
        assert list(before) == list(after)
    assert list(rewritten.metadata_props) == list(model.metadata_props)
    assert {p.key for p in model.metadata_props} >= {"decode_chunk_len", "T"}
    onnx.checker.check_model(rewritten, full_check=True)


@pytest.mark.parametrize("path", ZIPFORMERS)
def test_zipformer_is_known_by_structure_and_not_by_names(path):
    model, contract = folded(path)
    borders = {value.name for value in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {"": ""}

    def other(name):
        return name if name in borders else names.setdefault(name, f"t{len(names)}")

    for node in model.graph.node:
        node.name = ""
        for tensors in (node.input, node.output):
            tensors[:] = [other(name) for name in tensors]
        # A sum or a product is the same in the other order.
        if node.op_type in ("Add", "Mul"):
            node.input[:] = node.input[::-1]
    for tensor in model.graph.initializer:
        tensor.name = other(tensor.name)
    del model.graph.value_info[:]
    _, reason = npu_native.rewrite(model, contract)
    assert reason is None


def test_other_encoder_is_left_as_it_is_with_the_reason(tmp_path):
    for path in (tiny_encoder(tmp_path / "a.onnx"), tiny_ctc(tmp_path / "b.onnx", tokens=5)):
        model, contract = folded(path)
        left, reason = npu_native.rewrite(model, contract)
        assert left is model
        assert reason and "no Zipformer" in reason and "\n" not in reason


def test_zipformer_with_a_changed_part_is_left_as_it_is(tmp_path):
    model, contract = folded(DEMO_MODEL)
    swish = next(n for n in model.graph.node if n.op_type == "Sigmoid" and "layers.0" in n.name)
    swish.op_type = "Tanh"
    left, reason = npu_native.rewrite(model, contract)
    assert left is model
    assert "DoubleSwish" in reason


def test_rewriting_that_would_be_wrong_is_not_taken(monkeypatch):
    model, contract = folded(DEMO_MODEL)

    def wrong(model, graph, contract):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        bias = next(t for t in changed.graph.initializer if len(t.dims) == 1 and t.data_type == 1)
        bias.CopyFrom(onnx.numpy_helper.from_array(np.ones(bias.dims, np.float32), bias.name))
        return changed

    monkeypatch.setattr(npu_native, "FAMILIES", {"Zipformer": wrong})
    left, reason = npu_native.rewrite(model, contract)
    assert left is model
    assert "something else" in reason


@pytest.mark.parametrize("path", ZIPFORMERS)
def test_running_means_are_found_in_the_rewritten_graph(tmp_path, path):
    model, contract = folded(path)
    found = []
    for name, graph in (("plain", model), ("native", npu_native.rewrite(model, contract)[0])):
        onnx.save(graph, tmp_path / f"{name}.onnx")
        found.append(set(Graph(tmp_path / f"{name}.onnx").running_means()))
    assert found[0] == found[1] == {name for name in contract.outputs if "_avg_" in name}


@pytest.mark.slow
def test_int8_build_of_the_rewritten_encoder_has_its_running_means_in_float16(tmp_path):
    calibrate(tmp_path, DEMO_MODEL)
    prepared = tmp_path / "prepared/encoder.onnx"
    rewrites = dict.fromkeys(preparation.REWRITES, True)
    preparation.prepare(DEMO_MODEL, tmp_path / "model.json", rewrites, prepared)
    record = build(tmp_path, prepared)
    assert record["graph"] == "native"
    assert record["running_means"] == [f"new_cached_avg_{stack}" for stack in range(5)]
    assert not record["refusals"]
    layers = Table.read(tmp_path / "variant/layers.tsv").layers
    assert len(layers) <= 470
    assert sum(layer.target == "CPU" for layer in layers) <= 15


@needs_shared_exports
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, most, most_on_cpu",
    [("zipformer", 600, 20), ("zipformer2", 740, 30), ("zipformer2-ctc", 740, 30)],
)
def test_real_export_compiles_to_few_layers(tmp_path, kind, most, most_on_cpu):
    contracts.inspect(exported(kind)).save(tmp_path / "model.json")
    prepared = tmp_path / "prepared/encoder.onnx"
    rewrites = dict.fromkeys(preparation.REWRITES, True)
    preparation.prepare(exported(kind), tmp_path / "model.json", rewrites, prepared)
    record = build(tmp_path, prepared, dtype="float16")
    assert record["graph"] == "native", record["plain_because"]
    layers = Table.read(tmp_path / "variant/layers.tsv").layers
    assert len(layers) <= most
    assert sum(layer.target == "CPU" for layer in layers) <= most_on_cpu
