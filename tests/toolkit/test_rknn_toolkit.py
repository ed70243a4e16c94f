"""The toolkit's module on a tiny model: what it builds, and how its failures are reported."""

import numpy as np
import pytest

from helpers.models import tiny_encoder
from zipquant.errors import UserError
from zipquant.model import contract
from zipquant.toolkit import quantized_graph, rknn_file, rknn_toolkit, sherpa_onnx
from zipquant.toolkit.platforms import Scheme

SCHEME = Scheme("rk3588", "w8a8")
SETTINGS = {"scheme": SCHEME, "float16": lambda graph, config: None}


@pytest.fixture
def model(tmp_path):
    path = tiny_encoder(tmp_path / "tiny.onnx")
    return path, contract.inspect(path)


def write_rows(folder, model, rows, x_bins=80):
    """Write a calibration set of noise and real counters; return its dataset.txt."""
    random = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        arrays = [
            random.normal(-8, 3, (1, 9, x_bins)).astype(np.float32),
            random.normal(-8, 3, model.states[0].tensor.shape).astype(np.float32),
            np.array([4 * row], dtype=np.int64),
        ]
        for number, array in enumerate(arrays):
            np.save(folder / f"{row}-{number}.npy", array)
        lines.append(" ".join(f"{row}-{number}.npy" for number in range(3)))
    (folder / "dataset.txt").write_text("\n".join(lines) + "\n")
    return folder / "dataset.txt"


def test_built_model_has_every_input_and_simulates_like_the_original(model, tmp_path):
    path, read = model
    dataset = write_rows(tmp_path, read, 8)
    rknn_toolkit.build(path, read, dataset, tmp_path / "work", **SETTINGS)
    types = rknn_file.io_types(tmp_path / "work/encoder.rknn")
    assert set(types) == {tensor.name for tensor in read.inputs} | set(read.outputs)
    simulator = rknn_toolkit.Simulator(path, read, tmp_path / "work", SCHEME)
    x, cache = (np.load(tmp_path / f"3-{number}.npy") for number in (0, 1))
    _, (new_cache, count) = simulator.run(x, [cache, np.array([12])])
    assert count == 16
    expected = np.concatenate([cache, x[:, :4]], axis=1)[:, 4:]
    # One step of an 8 bit scale over the values' range of about 24.
    np.testing.assert_allclose(new_cache, expected, atol=0.15)


def test_borders_alone_can_be_float16(model, tmp_path):
    path, read = model
    dataset = write_rows(tmp_path, read, 8)

    def keep(graph_file, config_file):
        graph = quantized_graph.Graph(graph_file)
        assert graph.running_means() == {}
        quantized_graph.set_float16(config_file, graph.borders())

    rknn_toolkit.build(path, read, dataset, tmp_path / "work", **SETTINGS | {"float16": keep})
    types = rknn_file.io_types(tmp_path / "work/encoder.rknn")
    assert types.pop("processed_lens") == types.pop("new_processed_lens") == "int64"
    assert set(types.values()) == {"float16"}
    simulator = rknn_toolkit.Simulator(path, read, tmp_path / "work", SCHEME)
    x, cache = (np.load(tmp_path / f"3-{number}.npy") for number in (0, 1))
    encoder_out, _ = simulator.run(x, [cache, np.array([12])])
    joined = np.concatenate([cache, x[:, :4]], axis=1)
    np.testing.assert_allclose(encoder_out, np.tanh(joined / 16), atol=0.05)


def test_what_a_stock_sherpa_onnx_refuses_is_told():
    entries = "T=39;decode_chunk_len=32;num_encoder_layers=1;encoder_dims=96;attention_dims=96"
    entries += ";cnn_module_kernels=31;left_context_len=64"
    whole = f"model_type=zipformer;{entries};context_size=2"
    types = {"x": "float16", "cached_len_0": "int64"}
    assert sherpa_onnx.refusals(types, whole) == []
    (reason,) = sherpa_onnx.refusals(types | {"y": "int8", "z": "int8"}, whole)
    assert "'Unsupported tensor type': y and 1 more of type int8" in reason
    (reason,) = sherpa_onnx.refusals(types, f"model_type=zipformer;{entries}")
    assert reason == "'Invalid custom string': it lacks context_size"
    assert "lacks model_type" in sherpa_onnx.refusals(types, entries)[0]
    (reason,) = sherpa_onnx.refusals(types, f"{whole};comment={'x' * 1000}")
    assert "bytes, of which 1023 are read" in reason
    (reason,) = sherpa_onnx.refusals(types, f"{whole};remark=a=b")
    assert reason == "'Invalid custom string': 'remark=a=b' is not one key and one value"
    (reason,) = sherpa_onnx.refusals(types | {"processed_lens": "int32"}, whole)
    assert "'Unsupported tensor type': processed_lens of type int32" in reason


def test_zipformer2_is_asked_for_less():
    types = {"x": "float16", "processed_lens": "int64"}
    assert sherpa_onnx.refusals(types, "model_type=zipformer2;T=45;decode_chunk_len=32") == []
    (reason,) = sherpa_onnx.refusals(types, "model_type=zipformer2;decode_chunk_len=32")
    assert reason == "'Invalid custom string': it lacks T"


def test_rows_that_the_toolkit_refuses_end_in_a_plain_error_and_no_model(model, tmp_path):
    path, read = model
    dataset = write_rows(tmp_path, read, 3, x_bins=79)
    with pytest.raises(UserError, match=r"rknn-toolkit2's hybrid_quantization_step1 failed: ."):
        rknn_toolkit.build(path, read, dataset, tmp_path / "work", **SETTINGS)
    assert not (tmp_path / "work/encoder.rknn").exists()


def test_platform_that_the_toolkit_does_not_know_is_told(model, tmp_path):
    path, read = model
    settings = SETTINGS | {"scheme": Scheme("rk9999", "w8a8")}
    with pytest.raises(UserError, match=r"rknn-toolkit2's config failed: .*target_platform"):
        rknn_toolkit.build(path, read, None, tmp_path / "work", **settings)


def test_missing_step_files_are_told(model, tmp_path):
    path, read = model
    (tmp_path / "toolkit").mkdir()
    with pytest.raises(UserError, match=r"holds 0 \.model files"):
        rknn_toolkit.Simulator(path, read, tmp_path, SCHEME)


def test_file_that_is_no_rknn_is_told(tmp_path):
    (tmp_path / "e.rknn").write_bytes(b"RKNN" + bytes(1000))
    with pytest.raises(UserError, match="no description of inputs and outputs"):
        rknn_file.io_types(tmp_path / "e.rknn")


def test_custom_string_is_what_sherpa_onnx_splits(demo_contract):
    text = rknn_toolkit.custom_string(demo_contract.metadata)
    assert len(text) < 1024
    entries = dict(entry.split("=") for entry in text.split(";"))
    assert entries.items() <= demo_contract.metadata.items()
    assert {"model_type", "T", "decode_chunk_len", "left_context_len"} <= set(entries)
