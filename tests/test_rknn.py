"""The toolkit's module on a tiny model: what it builds, and how its failures are told."""

import numpy as np
import pytest

from conftest import tiny_encoder
from zipquant import contract, rknn_file, rknn_toolkit
from zipquant.errors import UserError

SETTINGS = {"platform": "rk3588", "dtype": "w8a8", "algorithm": "normal", "method": "channel"}


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
    simulator = rknn_toolkit.Simulator(path, read, tmp_path / "work", "rk3588", "w8a8")
    x, cache = (np.load(tmp_path / f"3-{number}.npy") for number in (0, 1))
    _, (new_cache, count) = simulator.run(x, [cache, np.array([12])])
    assert count == 16
    expected = np.concatenate([cache, x[:, :4]], axis=1)[:, 4:]
    # One step of an 8 bit scale over the values' range of about 24.
    np.testing.assert_allclose(new_cache, expected, atol=0.15)


def test_rows_that_the_toolkit_refuses_end_in_a_plain_error_and_no_model(model, tmp_path):
    path, read = model
    dataset = write_rows(tmp_path, read, 3, x_bins=79)
    with pytest.raises(UserError, match=r"rknn-toolkit2's hybrid_quantization_step1 failed: ."):
        rknn_toolkit.build(path, read, dataset, tmp_path / "work", **SETTINGS)
    assert not (tmp_path / "work/encoder.rknn").exists()


def test_platform_that_the_toolkit_does_not_know_is_told(model, tmp_path):
    path, read = model
    settings = SETTINGS | {"platform": "rk9999"}
    with pytest.raises(UserError, match=r"rknn-toolkit2's config failed: .*target_platform"):
        rknn_toolkit.build(path, read, None, tmp_path / "work", **settings)


def test_missing_step_files_are_told(model, tmp_path):
    path, read = model
    (tmp_path / "toolkit").mkdir()
    with pytest.raises(UserError, match=r"holds 0 \.model files"):
        rknn_toolkit.Simulator(path, read, tmp_path, "rk3588", "w8a8")


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
