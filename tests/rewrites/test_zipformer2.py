"""Zipformer2 in the form that the compiler makes few layers of: equal, by structure, or left."""

import numpy as np
import onnx
import pytest
from test_npu_native import chunks, folded, run

from helpers.places import ROOT
from helpers.zipformer2 import Sizes, export
from zipquant.rewrites import equality, fixed_shapes, npu_native
from zipquant.variants import preparation

EXPORTS = ROOT.parent / "shared/icefall"
TRANSDUCER = EXPORTS / "zipformer2/encoder-epoch-99-avg-1-chunk-16-left-64.onnx"
CTC = EXPORTS / "zipformer2-ctc/ctc-epoch-99-avg-1-chunk-16-left-64.onnx"
REAL = pytest.mark.skipif(
    not (TRANSDUCER.is_file() and CTC.is_file()),
    reason="needs the folder shared/icefall beside the project",
)
BOTH = pytest.mark.parametrize(
    "path",
    [
        pytest.param(TRANSDUCER, id="transducer", marks=REAL),
        pytest.param(CTC, id="ctc", marks=REAL),
    ],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small Zipformer2 as `npu_native` gets it, and its contract."""
    return folded(export(tmp_path_factory.mktemp("made") / "encoder.onnx", Sizes()))


def copy(model):
    """A model that may be changed."""
    return onnx.ModelProto.FromString(model.SerializeToString())


def kinds(model):
    """The operators of a model."""
    return {node.op_type for node in model.graph.node}


def streamed(path, rewritten, contract, folder):
    """Outputs of the original, the original with nudged inputs and the rewritten for chunks of
    speech with the original's states, and those inputs."""
    states, rows, expected = [s.tensor.zeros() for s in contract.states], [], []
    original = preparation.OnnxEncoder(path, contract)
    for x in chunks(contract, 6):
        rows.append([x, *states])
        out, states = original.run(x, states)
        expected.append([out, *states])
    assert len(rows) == 6
    moved = [[out, *s] for out, s in (original.run(x, s) for x, *s in equality.nudged(rows))]
    pairs = [(x, states) for x, *states in rows]
    return expected, moved, run(rewritten, contract, folder / "native.onnx", pairs), pairs


@BOTH
def test_rewritten_zipformer2_computes_the_same_on_speech_with_its_own_states(tmp_path, path):
    model, contract = folded(path)
    rewritten, reason = npu_native.rewrite(model, contract)
    assert reason is None
    expected, moved, got, pairs = streamed(path, rewritten, contract, tmp_path)
    # In the last chunks no frame is masked any more.
    assert pairs[-1][1][-1] > contract.states[0].tensor.shape[0]
    found = equality.error(expected, got)
    assert found <= equality.allowed(expected, moved)
    assert found <= 2e-5
    # Not because nothing is compared: a little error in one weight is seen.
    weight = next(t for t in rewritten.graph.initializer if t.name == "/layer.3/conv1/weight")
    array = onnx.numpy_helper.to_array(weight) * 1.001
    weight.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), weight.name))
    wrong = run(rewritten, contract, tmp_path / "wrong.onnx", pairs)
    assert equality.error(expected, wrong) > equality.LIMIT


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(Sizes(), id="heads-differ"),
        pytest.param(Sizes(frames=32), id="chunk-as-long-as-the-left-context"),
        pytest.param(
            Sizes((24, 16, 24), (2, 1, 3), (4, 2, 2), (15, 31, 7), (1, 4, 2)), id="narrow-middle"
        ),
    ],
)
def test_any_widths_layers_heads_kernels_and_chunks(tmp_path, sizes):
    path = export(tmp_path / "encoder.onnx", sizes)
    model, contract = folded(path)
    rewritten, reason = npu_native.rewrite(model, contract)
    assert reason is None
    expected, _, got, _ = streamed(path, rewritten, contract, tmp_path)
    assert equality.error(expected, got) <= equality.TOLERANCE


@BOTH
def test_inputs_outputs_metadata_and_size_stay(path):
    model, contract = folded(path)
    rewritten, _ = npu_native.rewrite(model, contract)
    onnx.checker.check_model(rewritten, full_check=True)
    assert list(rewritten.graph.input) == list(model.graph.input)
    assert list(rewritten.graph.output) == list(model.graph.output)
    assert list(rewritten.metadata_props) == list(model.metadata_props)
    size = [sum(len(t.raw_data) for t in m.graph.initializer) for m in (model, rewritten)]
    assert size[1] < 1.05 * size[0]


def test_what_the_compiler_makes_many_layers_of_is_gone(made):
    model, contract = made
    rewritten, _ = npu_native.rewrite(model, contract)
    assert {"Where", "Equal", "GatherElements", "Exp", "Gather", "Shape"} <= kinds(model)
    assert not kinds(rewritten) & {"Where", "Equal", "GatherElements", "Exp", "Gather", "Shape"}


def test_other_names_of_nodes_and_tensors_do_not_matter(made):
    model, contract = made
    renamed = copy(model)
    borders = {value.name for value in (*renamed.graph.input, *renamed.graph.output)}
    names: dict[str, str] = {name: name for name in (*borders, "")}

    def other(name: str) -> str:
        return names.setdefault(name, f"t{len(names)}")

    for tensor in renamed.graph.initializer:
        tensor.name = other(tensor.name)
    for number, node in enumerate(renamed.graph.node):
        node.name = f"n{number}"
        node.input[:] = [other(name) for name in node.input]
        node.output[:] = [other(name) for name in node.output]
    del renamed.graph.value_info[:]
    rewritten, reason = npu_native.rewrite(renamed, contract)
    assert reason is None
    assert "Where" not in kinds(rewritten)


def test_a_module_of_another_form_leaves_the_graph_and_is_named(made):
    model, contract = made
    changed = copy(model)
    tanh = next(node for node in changed.graph.node if node.op_type == "Tanh")
    tanh.op_type = "Sigmoid"
    result, reason = npu_native.rewrite(changed, contract)
    assert result is changed
    assert "no Zipformer2" in reason
    assert "Tanh" in reason
    assert "\n" not in reason


def test_a_graph_that_looks_alike_and_computes_something_else_is_left(made):
    model, contract = made
    changed = copy(model)
    power = next(node for node in changed.graph.node if node.op_type == "Pow")
    two = next(t for t in changed.graph.initializer if t.name == power.input[1])
    three = onnx.numpy_helper.from_array(np.array(4, np.float32), "four")
    assert onnx.numpy_helper.to_array(two) == 2
    changed.graph.initializer.append(three)
    power.input[1] = "four"
    result, reason = npu_native.rewrite(changed, contract)
    assert result is changed
    assert "something else" in reason


def test_a_node_with_fewer_inputs_than_the_form_has_is_no_failure(made):
    model, contract = made
    changed = copy(model)
    cache = next(value.name for value in changed.graph.input if value.name == "cached_val1_2")
    joined = next(node for node in changed.graph.node if cache in node.input)
    assert joined.op_type == "Concat"
    joined.input[:] = [joined.input[1], joined.input[1], joined.input[1]]
    result, reason = npu_native.rewrite(changed, contract)
    assert result is changed
    assert "no Zipformer2" in reason
    assert "\n" not in reason


def test_shapes_are_folded_without_a_change_of_what_is_computed(tmp_path, made):
    model, contract = made
    plain = fixed_shapes.fold(model)
    assert "Shape" in kinds(model)
    assert "Shape" not in kinds(plain)
    rows = [(x, [s.tensor.zeros() for s in contract.states]) for x in chunks(contract, 2)]
    expected, got = (
        run(m, contract, tmp_path / f"{i}.onnx", rows) for i, m in enumerate([model, plain])
    )
    assert equality.error(expected, got) == 0
