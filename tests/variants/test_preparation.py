"""Rewrites of the encoder's graph: what they do, and the proof that nothing has changed."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from helpers.models import tiny_encoder, zipformer2_like_encoder
from helpers.places import DEMO_MODEL
from zipquant.errors import UserError
from zipquant.model import contract
from zipquant.variants import preparation

ALL = dict.fromkeys(preparation.REWRITES, True)


def write_rows(folder, model, count=4, inputs=None):
    """Write a calibration set of noise; return its dataset.txt."""
    random = np.random.default_rng(1)
    lines = []
    for row in range(count):
        names = []
        for position, tensor in enumerate(model.inputs[:inputs]):
            values = random.normal(-8, 3, tensor.shape)
            if tensor.dtype != "float32":
                values = np.full(tensor.shape, 4 * row)
            names.append(f"{row}-{position}.npy")
            np.save(folder / names[-1], values.astype(tensor.dtype))
        lines.append(" ".join(names))
    (folder / "dataset.txt").write_text("\n".join(lines) + "\n")
    return folder / "dataset.txt"


def prepare(folder, path, rewrites=ALL, **options):
    """Prepare a model; return what was written."""
    model = contract.inspect(path)
    model.save(folder / "model.json")
    rows = write_rows(folder, model, **options)
    result, record = folder / "out/encoder.onnx", folder / "out/prepared.json"
    preparation.prepare(path, folder / "model.json", rewrites, result)
    preparation.prove(path, result, folder / "model.json", rows, rewrites, record)
    return model, result, json.loads(record.read_text())


@pytest.mark.parametrize("make", [tiny_encoder, zipformer2_like_encoder])
def test_prepared_model_has_the_same_borders_and_a_fixed_batch(tmp_path, make):
    model, result, record = prepare(tmp_path, make(tmp_path / "encoder.onnx"))
    after = contract.inspect(result)
    assert (after.outputs, after.metadata) == (model.outputs, model.metadata)
    assert [t.shape for t in after.inputs] == [t.shape for t in model.inputs]
    assert model.takes_lanes and not after.takes_lanes
    assert list(record["rewrites"]) == list(preparation.REWRITES)
    assert all(done["error"] <= 1e-5 for done in record["rewrites"].values())
    onnx.checker.check_model(onnx.load(result), full_check=True)


def test_demo_model_gets_simpler_and_keeps_to_onnx(tmp_path):
    before = onnx.load(DEMO_MODEL)
    _, result, record = prepare(tmp_path, DEMO_MODEL, count=2)
    after = onnx.load(result)
    assert len(after.graph.node) < 0.7 * len(before.graph.node)
    assert {node.domain for node in after.graph.node} == {""}
    assert [entry.domain for entry in after.opset_import] == [""]
    assert after.opset_import[0].version == before.opset_import[0].version
    assert not {"Shape", "Constant", "Identity"} & {node.op_type for node in after.graph.node}
    assert record["rewrites"]["fold_constants"]["error"] <= 1e-5


def test_rewrites_that_are_not_asked_for_are_not_done(tmp_path):
    path = tiny_encoder(tmp_path / "encoder.onnx")
    _, result, record = prepare(tmp_path, path, dict.fromkeys(ALL, False))
    assert record["rewrites"] == {}
    assert onnx.load(result) == onnx.load(path)


def test_what_no_output_needs_is_taken_out(tmp_path):
    path = tiny_encoder(tmp_path / "encoder.onnx")
    odd = onnx.load(path)
    odd.graph.node.insert(0, helper.make_node("Identity", ["x"], ["same_x"]))
    odd.graph.node[1].input[0] = "same_x"
    odd.graph.node.append(helper.make_node("Neg", ["joined"], ["unused"]))
    odd.graph.initializer.append(numpy_helper.from_array(np.ones(5, "f4"), "unused_weight"))
    onnx.save(odd, path)
    only = dict.fromkeys(ALL, False) | {"drop_unused": True}
    _, result, _ = prepare(tmp_path, path, only)
    after = onnx.load(result).graph
    assert len(after.node) == len(odd.graph.node) - 2
    assert after.node[0].input[0] == "x"
    assert "unused_weight" not in [tensor.name for tensor in after.initializer]


def test_rows_without_states_are_completed_with_zeros(tmp_path):
    _, _, record = prepare(tmp_path, tiny_encoder(tmp_path / "encoder.onnx"), inputs=1)
    assert record["rows"] == 4


def test_rewrite_that_changes_the_model_is_refused_and_leaves_no_proof(tmp_path, monkeypatch):
    def scale(model, _):
        model.graph.node.insert(0, helper.make_node("Mul", ["x", "factor"], ["x2"]))
        factor = numpy_helper.from_array(np.array(1.001, "f4"), "factor")
        model.graph.initializer.append(factor)
        model.graph.node[1].input[0] = "x2"
        return model

    monkeypatch.setitem(preparation.REWRITES, "drop_unused", scale)
    with pytest.raises(
        UserError, match=r"drop_unused changes what .* set preparation\.drop_unused"
    ):
        prepare(tmp_path, tiny_encoder(tmp_path / "encoder.onnx"))
    assert not (tmp_path / "out/prepared.json").exists()


def test_error_is_relative_to_the_scale_of_each_output():
    a = [[np.array([100.0, 0.0]), np.array([3])], [np.array([0.0, 0.0]), np.array([4])]]
    b = [[np.array([100.0, 0.1]), np.array([3])], [np.array([0.0, 0.0]), np.array([4])]]
    assert preparation.error(a, b) == pytest.approx(1e-3)
    assert preparation.error(a, a) == 0
    b[1][1] = np.array([5])
    assert preparation.error(a, b) == float("inf")
    a[0][0] = np.array([np.nan, 1.0])
    assert preparation.error(a, a) == float("inf")
