"""Models that are not float32: known as what they are, and turned back."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization as quantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from helpers.models import tiny_encoder
from helpers.places import DEMO_MODEL, ROOT
from zipquant.errors import UserError
from zipquant.model import contract, precision
from zipquant.model.look import look
from zipquant.variants import restored

ICEFALL = ROOT.parent / "shared/icefall"


def network(path, kind=TensorProto.FLOAT):
    """A small network: a convolution over time, an embedding beside it, and two layers."""
    random = np.random.default_rng(1)
    dtype = helper.tensor_dtype_to_np_dtype(kind)

    def weight(name, *shape):
        values = random.normal(0, 0.3, shape).astype("f4").astype(dtype)
        return numpy_helper.from_array(values, name)

    weights = [
        weight("kernel", 6, 4, 3),
        weight("table", 9, 6),
        weight("w", 6, 12),
        weight("v", 12, 5),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Add", ["t", "e"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["n"]),
        helper.make_node("MatMul", ["n", "v"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", kind, [1, 4, 8]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 8]),
    ]
    outputs = [helper.make_tensor_value_info("y", kind, [1, 8, 5])]
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def rows(count=40):
    random = np.random.default_rng(2)
    return [
        {
            "x": random.normal(0, 1, (1, 4, 8)).astype("f4"),
            "ids": random.integers(0, 9, (1, 8)),
        }
        for _ in range(count)
    ]


class Rows(quantizer.CalibrationDataReader):
    def __init__(self):
        self._left = iter(rows())

    def get_next(self):
        return next(self._left, None)


def quantize(source, target, kind):
    if kind.startswith("dynamic"):
        types = {
            "dynamic int8": quantizer.QuantType.QInt8,
            "dynamic uint8": quantizer.QuantType.QUInt8,
        }
        channel = kind == "dynamic channels"
        quantizer.quantize_dynamic(
            source,
            target,
            per_channel=channel,
            weight_type=types.get(kind, quantizer.QuantType.QInt8),
        )
    else:
        formats = {"QDQ": quantizer.QuantFormat.QDQ, "QOperator": quantizer.QuantFormat.QOperator}
        quantizer.quantize_static(
            source,
            target,
            Rows(),
            quant_format=formats[kind.split()[0]],
            per_channel="channels" in kind,
            op_types_to_quantize=["Conv", "MatMul", "Gather"],
        )
    return target


KINDS = ["dynamic int8", "dynamic uint8", "dynamic channels"]
KINDS += ["QDQ", "QDQ channels", "QOperator", "QOperator channels"]


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_weights_are_turned_back_and_nothing_else_changes(tmp_path, kind):
    source = network(tmp_path / "float.onnx")
    target = quantize(source, tmp_path / "float.int8.onnx", kind)
    assert look(target).precision.name == precision.INT8
    made = tmp_path / "restored.onnx"
    precision.restore_file(target, made)
    assert look(made).plain
    onnx.checker.check_model(str(made), full_check=True)
    record = restored.compare(target, made, rows())
    # The file's rounding is all that differs, and it is no more than int8 makes.
    assert record["rounded_sqnr_db"] > 60
    assert 20 < record["sqnr_db"] < record["rounded_sqnr_db"] - 10
    assert restored.compare(source, made, rows())["sqnr_db"] > 25
    restored.check("encoder", target, record)


def test_weights_that_were_turned_back_wrongly_are_found(tmp_path):
    source = network(tmp_path / "float.onnx")
    target = quantize(source, tmp_path / "float.int8.onnx", "dynamic int8")
    model = precision.restore(onnx.load(target))
    weight = next(t for t in model.graph.initializer if t.dims == [6, 12])
    values = numpy_helper.to_array(weight).copy()
    values[:, 0] *= 1.5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    record = restored.compare(target, tmp_path / "wrong.onnx", rows())
    record["rounded_sqnr_db"] = record["sqnr_db"] + 5
    with pytest.raises(UserError, match=r"the encoder turned back into float32 is not what"):
        restored.check("encoder", target, record)


def test_float16_is_widened_exactly(tmp_path):
    source = network(tmp_path / "half.onnx", TensorProto.FLOAT16)
    assert look(source).precision.name == precision.FLOAT16
    precision.restore_file(source, tmp_path / "wide.onnx")
    before, after = onnx.load(source).graph, onnx.load(tmp_path / "wide.onnx").graph
    for a, b in zip(before.initializer, after.initializer, strict=True):
        assert b.data_type == TensorProto.FLOAT
        np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))
    record = restored.compare(source, tmp_path / "wide.onnx", rows())
    assert record["sqnr_db"] > 45
    restored.check("encoder", source, record)


def part_rows(part, count=20):
    """Inputs of the demo's decoder or joiner."""
    random = np.random.default_rng(0)
    if part == "decoder":
        return [{"y": random.integers(1, 11, (1, 2))} for _ in range(count)]
    names = ("encoder_out", "decoder_out")
    return [{n: random.normal(size=(1, 128)).astype("f4") for n in names} for _ in range(count)]


class PartRows(quantizer.CalibrationDataReader):
    def __init__(self, part):
        self._left = iter(part_rows(part))

    def get_next(self):
        return next(self._left, None)


@pytest.mark.parametrize("part", ["joiner", "decoder"])
def test_models_quantized_in_all_their_operators_are_turned_back(tmp_path, part):
    target = tmp_path / "all.onnx"
    quantizer.quantize_static(
        DEMO_MODEL.with_name(f"{part}.onnx"),
        target,
        PartRows(part),
        quant_format=quantizer.QuantFormat.QOperator,
    )
    found = look(target).precision
    assert "QGemm" in found.evidence and not found.foreign
    precision.restore_file(target, tmp_path / "wide.onnx")
    onnx.checker.check_model(tmp_path / "wide.onnx", full_check=True)
    record = restored.compare(target, tmp_path / "wide.onnx", part_rows(part))
    assert record["rounded_sqnr_db"] > 60
    restored.check(part, target, record)


@pytest.mark.parametrize("part", ["joiner", "decoder"])
@pytest.mark.parametrize("keep_io_types", [True, False])
def test_what_onnxruntimes_converter_makes_float16_is_widened(tmp_path, part, keep_io_types):
    source = DEMO_MODEL.with_name(f"{part}.onnx")
    model = convert_float_to_float16(onnx.load(source), keep_io_types=keep_io_types)
    # It puts casts of the inputs behind the nodes that read them.
    onnx.save(model, tmp_path / "half.onnx")
    precision.restore_file(tmp_path / "half.onnx", tmp_path / "wide.onnx")
    onnx.checker.check_model(tmp_path / "wide.onnx", full_check=True)
    record = restored.compare(tmp_path / "half.onnx", tmp_path / "wide.onnx", part_rows(part))
    assert (record["precision"], "not_compared" in record) == ("float16", False)
    assert record["sqnr_db"] > 45


def test_float64_is_narrowed_only_where_that_is_exact(tmp_path):
    source = network(tmp_path / "double.onnx", TensorProto.DOUBLE)
    assert look(source).precision.name == precision.FLOAT64
    precision.restore_file(source, tmp_path / "single.onnx")
    # onnxruntime has no convolution of float64, but it is the same network in float32.
    assert "not_compared" in restored.compare(source, tmp_path / "single.onnx", rows())
    same = restored.compare(network(tmp_path / "float.onnx"), tmp_path / "single.onnx", rows())
    assert same["sqnr_db"] == 200
    model = onnx.load(source)
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.1, weight.name))
    onnx.save(model, source)
    with pytest.raises(UserError, match=r"float64 and not exact in float32 \('kernel'\)"):
        precision.restore_file(source, tmp_path / "single.onnx")


def test_operators_without_a_float32_form_are_named(tmp_path):
    model = onnx.load(tiny_encoder(tmp_path / "e.onnx"))
    model.graph.node.append(
        helper.make_node("MatMulNBits", ["x", "w", "s"], ["z"], domain="com.microsoft")
    )
    onnx.save(model, tmp_path / "e.onnx")
    for restore in (False, True):
        with pytest.raises(UserError, match=r"the 4 bit model \(MatMulNBits\).*in float32$"):
            contract.inspect(tmp_path / "e.onnx", restore=restore)


def test_weights_in_another_file_are_put_into_one(tmp_path):
    model = onnx.load(DEMO_MODEL)
    path = tmp_path / "encoder.onnx"
    onnx.save(model, path, save_as_external_data=True, location="encoder.onnx.data")
    assert look(path).external == (tmp_path / "encoder.onnx.data",)
    shape = contract.inspect(path)
    precision.restore_file(path, tmp_path / "whole.onnx")
    assert look(tmp_path / "whole.onnx").plain
    assert contract.inspect(tmp_path / "whole.onnx").inputs == shape.inputs
    (tmp_path / "encoder.onnx.data").unlink()
    with pytest.raises(UserError, match=r"which is missing: put encoder\.onnx\.data into the fol"):
        contract.inspect(path)


def test_int8_is_refused_with_the_float32_file_beside_it(tmp_path):
    source = tiny_encoder(tmp_path / "encoder-1.onnx", weight=np.eye(80, dtype="f4"))
    target = quantize(source, tmp_path / "encoder-1.int8.onnx", "dynamic int8")
    with pytest.raises(UserError, match=rf"is the int8 model .* float32 file beside it.*{source}"):
        contract.inspect(target)
    source.unlink()
    with pytest.raises(UserError, match=r"or set model\.restore to true"):
        contract.inspect(target)
    assert contract.inspect(target, restore=True).x.shape == (1, 9, 80)


@pytest.mark.skipif(not ICEFALL.is_dir(), reason="needs the folder shared/icefall")
@pytest.mark.parametrize("name", ["zipformer", "zipformer2", "zipformer2-ctc"])
def test_icefalls_own_int8_exports_are_turned_back(tmp_path, name):
    for source in sorted((ICEFALL / name).glob("*.int8.onnx")):
        made = tmp_path / source.name
        precision.restore_file(source, made)
        assert look(made).plain
        inputs = onnx.load(made).graph.input
        random = np.random.default_rng(3)
        data = []
        for _ in range(3):
            row = {}
            for value in inputs:
                shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
                whole = value.type.tensor_type.elem_type != TensorProto.FLOAT
                row[value.name] = (
                    random.integers(0, 60, shape)
                    if whole
                    else random.normal(0, 1, shape).astype("f4")
                )
            data.append(row)
        record = restored.compare(source, made, data)
        assert record["rounded_sqnr_db"] > record["sqnr_db"] + 20
        restored.check(source.name, source, record)
