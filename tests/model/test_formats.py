"""Files that are given as a model and are none: refused as what they are."""

import json
import zipfile

import onnx
import onnxruntime
import pytest

from helpers.models import tiny_encoder
from helpers.places import DEMO_MODEL
from zipquant.errors import UserError
from zipquant.model import contract, streaming


def checkpoint(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02")


WEIGHTS = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
CONTENTS = {
    "a Git LFS pointer, .*run git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid x\n",
    "an empty file": b"",
    "a PyTorch checkpoint: export it to ONNX first": b"\x80\x02}q\x00.",
    "in ORT format": b"\x18\x00\x00\x00ORTM" + bytes(40),
    "a TensorFlow Lite model": b"\x1c\x00\x00\x00TFL3" + bytes(40),
    r"an \.rknn file, made for an NPU already": b"RKNN" + bytes(60),
    "a safetensors file, weights alone": len(WEIGHTS).to_bytes(8, "little") + WEIGHTS + bytes(4),
    "a web page": b"\n<!DOCTYPE html><html></html>",
    "a text, perhaps the tokens": b"<blk> 0\n<unk> 1\n",
    r"an archive: give it as the whole model, `model: /.*e\.onnx`": b"BZh91AY&SY" + bytes(40),
    "a model of ncnn": b"7767517\n",
    "JSON": b'{"a": 1}',
    "is damaged or not complete": DEMO_MODEL.read_bytes()[:9000],
}


@pytest.mark.parametrize("reason", CONTENTS)
def test_other_files_are_refused_as_what_they_are(tmp_path, reason):
    (tmp_path / "e.onnx").write_bytes(CONTENTS[reason])
    with pytest.raises(UserError, match=rf"is not an ONNX model.*{reason}"):
        contract.inspect(tmp_path / "e.onnx")


def test_a_checkpoint_and_a_folder_are_refused_as_what_they_are(tmp_path):
    checkpoint(tmp_path / "pretrained.pt")
    with pytest.raises(UserError, match="a PyTorch checkpoint"):
        contract.inspect(tmp_path / "pretrained.pt")
    with pytest.raises(UserError, match=rf"is a folder, .* it holds {DEMO_MODEL}\. Set model\.enc"):
        contract.inspect(DEMO_MODEL.parent)
    with pytest.raises(UserError, match=rf"no model at .*ONNX files in .*: .*{DEMO_MODEL}"):
        contract.inspect(DEMO_MODEL.parent / "enc.onnx")


@pytest.mark.parametrize(("opset", "taken"), [(13, True), (19, True), (20, False), (22, False)])
def test_opsets_that_the_toolkit_does_not_load_are_refused(tmp_path, opset, taken):
    model = onnx.load(tiny_encoder(tmp_path / "e.onnx"))
    model.opset_import[0].version = opset
    onnx.save(model, tmp_path / "e.onnx")
    if taken:
        contract.inspect(tmp_path / "e.onnx")
    else:
        with pytest.raises(UserError, match=f"has ONNX opset {opset}, and .* takes up to 19"):
            contract.inspect(tmp_path / "e.onnx")


def test_other_networks_are_refused_as_what_they_are(tmp_path):
    for part in ("decoder", "joiner"):
        with pytest.raises(UserError, match=rf"looks like a {part}: .* model\.{part} to this"):
            contract.inspect(DEMO_MODEL.with_name(f"{part}.onnx"))
    path = tiny_encoder(tmp_path / "e.onnx")
    model = onnx.load(path)
    del model.graph.input[2:]
    model.graph.input[1].name = "x_lens"
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"takes whole utterances .* it is an offline model"):
        contract.inspect(path)
    metadata = {"model_type": "conv-emformer", "T": "9", "decode_chunk_len": "4"}
    tiny_encoder(path, metadata=metadata)
    with pytest.raises(UserError, match="is a conv-emformer model, and rknn-toolkit2 cannot build"):
        contract.inspect(path)


def changed(path, operation):
    """A tiny encoder with one more operator before its output."""
    model = onnx.load(tiny_encoder(path))
    last = model.graph.node[-1]
    last.output[0] = "before"
    inputs = ["before"] if operation != "Add" else ["before", "before"]
    model.graph.node.append(onnx.helper.make_node(operation, inputs, ["noise"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "noise"], ["encoder_out"]))
    onnx.save(model, path)
    return path


def test_outputs_that_are_random_or_no_number_are_refused(tmp_path):
    path = changed(tmp_path / "e.onnx", "RandomNormalLike")
    with pytest.raises(UserError, match="differs from call to call, because it holds RandomNormal"):
        contract.inspect(path)
    for operation, what in (("Sqrt", "NaN"), ("Acosh", "NaN")):
        path = changed(tmp_path / "e.onnx", operation)
        with pytest.raises(UserError, match=f"its output 'encoder_out' holds {what} in chunk 1"):
            streaming.inspect_and_try(path, {}, tmp_path / "model.json")
    assert not (tmp_path / "model.json").exists()
    path = changed(tmp_path / "e.onnx", "Add")
    streaming.inspect_and_try(path, {}, tmp_path / "model.json")


def test_a_file_that_onnxruntime_saved_is_refused_with_its_operators(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "encoder.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(DEMO_MODEL), options)
    with pytest.raises(UserError, match=r"not ONNX's own.*com\.microsoft.*before onnxruntime or"):
        contract.inspect(tmp_path / "encoder.onnx")


def test_damaged_archive_is_named_as_one(tmp_path):
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UserError, match="an archive that is damaged or not complete"):
        contract.load_onnx(path, "model.encoder")


def test_names_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "encoder.onnx"
    content = DEMO_MODEL.read_bytes()
    path.write_bytes(content.replace(b"MatMul", b"Mat\xfful", 1))
    with pytest.raises(UserError, match="is damaged, with names that are not UTF-8"):
        contract.load_onnx(path, "model.encoder")
