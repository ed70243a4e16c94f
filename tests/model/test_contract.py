"""The model contract: what is accepted, and what is refused with which words."""

import onnx
import pytest

from helpers.models import tiny_encoder
from helpers.places import DEMO_MODEL
from zipquant.errors import UserError
from zipquant.model import contract, streaming


def test_demo_model_has_36_inputs_named_and_shaped_as_zipformer(demo_contract):
    shapes = {tensor.name: (tensor.shape, tensor.dtype) for tensor in demo_contract.inputs}
    assert len(shapes) == 36
    assert shapes["x"] == ((1, 39, 80), "float32")
    for stack, left in enumerate((64, 32, 16, 8, 32)):
        layers = shapes[f"cached_len_{stack}"][0][0]
        assert shapes[f"cached_len_{stack}"] == ((layers, 1), "int64")
        dim = shapes[f"cached_avg_{stack}"][0][2]
        attention = shapes[f"cached_key_{stack}"][0][3]
        assert shapes[f"cached_avg_{stack}"][0] == (layers, 1, dim)
        assert shapes[f"cached_key_{stack}"][0] == (layers, left, 1, attention)
        assert shapes[f"cached_val_{stack}"][0] == (layers, left, 1, attention // 2)
        assert shapes[f"cached_val2_{stack}"][0] == (layers, left, 1, attention // 2)
        assert shapes[f"cached_conv1_{stack}"][0] == (layers, 1, dim, 30)
        assert shapes[f"cached_conv2_{stack}"][0] == (layers, 1, dim, 30)
    assert (demo_contract.chunk_frames, demo_contract.chunk_shift) == (39, 32)
    assert demo_contract.encoder_out == "encoder_out"


def test_demo_model_has_the_metadata_that_sherpa_onnx_reads(demo_contract):
    expected = {
        "model_type": "zipformer",
        "version": "1",
        "T": "39",
        "decode_chunk_len": "32",
        "cnn_module_kernels": "31,31,31,31,31",
        "left_context_len": "64,32,16,8,32",
    }
    assert expected.items() <= demo_contract.metadata.items()
    assert {"num_encoder_layers", "encoder_dims", "attention_dims"} <= set(demo_contract.metadata)


def test_demo_model_computes_its_running_mean_with_cumsum():
    operations = {node.op_type for node in onnx.load(DEMO_MODEL).graph.node}
    assert "CumSum" in operations


def test_contract_survives_saving(tmp_path, demo_contract):
    demo_contract.save(tmp_path / "model.json")
    assert contract.Contract.load(tmp_path / "model.json") == demo_contract


@pytest.mark.parametrize(
    ("frames", "chunks"), [(0, 0), (39, 0), (40, 1), (71, 1), (72, 2), (103, 2), (104, 3)]
)
def test_a_chunk_runs_only_when_more_than_t_frames_are_left(demo_contract, frames, chunks):
    assert demo_contract.chunk_count(frames) == chunks


def test_batch_axis_is_found_or_fixed(tmp_path):
    dynamic = contract.inspect(tiny_encoder(tmp_path / "dynamic.onnx"))
    assert [tensor.batch_axis for tensor in dynamic.inputs] == [0, 0, 0]
    fixed = contract.inspect(tiny_encoder(tmp_path / "fixed.onnx", batch=1))
    assert not fixed.takes_lanes


def test_state_output_of_another_name_is_taken_from_the_config(tmp_path):
    model = tiny_encoder(tmp_path / "e.onnx", counter_output="next_lens")
    read = contract.inspect(model, {"processed_lens": "next_lens"})
    assert read.states[1].next_output == "next_lens"


def test_unpaired_state_is_refused_by_name(tmp_path):
    model = tiny_encoder(tmp_path / "e.onnx", counter_output="next_lens")
    with pytest.raises(UserError, match=r"input 'processed_lens' has no output.*next_lens"):
        contract.inspect(model)


def test_unknown_state_of_the_config_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"model.state_outputs names 'cached_y'"):
        contract.inspect(tiny_encoder(tmp_path / "e.onnx"), {"cached_y": "new_cached_y"})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "lack 'decode_chunk_len'"),
        ({"decode_chunk_len": "4"}, "lack 'T'"),
        ({"decode_chunk_len": "four", "T": "9"}, "is 'four', no number"),
        ({"decode_chunk_len": "4", "T": "39"}, "T = 39, but input 'x' takes 9 frames"),
        ({"decode_chunk_len": "0", "T": "9"}, "decode_chunk_len = 0"),
    ],
)
def test_wrong_metadata_are_refused(tmp_path, metadata, message):
    with pytest.raises(UserError, match=message):
        contract.inspect(tiny_encoder(tmp_path / "e.onnx", metadata=metadata))


def test_missing_file_and_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no model at"):
        contract.inspect(tmp_path / "none.onnx")
    for content in (b"", b"this is a text", DEMO_MODEL.read_bytes()[:5000]):
        (tmp_path / "text.onnx").write_bytes(content)
        with pytest.raises(UserError, match="is not an ONNX model"):
            contract.inspect(tmp_path / "text.onnx")


def test_decoder_is_refused_as_encoder():
    with pytest.raises(UserError, match="is not a streaming encoder"):
        contract.inspect(DEMO_MODEL.with_name("decoder.onnx"))


def test_state_that_changes_its_shape_is_refused_when_tried(tmp_path):
    path = tiny_encoder(tmp_path / "e.onnx")
    model = onnx.load(path)
    # The cache keeps one column less than it takes.
    next(c for c in model.graph.initializer if c.name == "shift").CopyFrom(
        onnx.helper.make_tensor("shift", onnx.TensorProto.INT64, [1], [5])
    )
    next(o for o in model.graph.output if o.name == "new_cached_x").type.tensor_type.shape.dim[
        1
    ].dim_param = "kept"
    next(n for n in model.graph.node if n.output[0] == "fresh").input[2] = "end"
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"output 'new_cached_x' is float32 \[1, 10, 80\]"):
        streaming.inspect_and_try(path, {}, tmp_path / "model.json")
    assert not (tmp_path / "model.json").exists()
