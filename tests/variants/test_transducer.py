"""Decoder and joiner for the NPU: float16 and int8, against onnxruntime on rows that occur."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from helpers.places import DEMO_MODEL, ROOT
from zipquant.audio import features
from zipquant.audio.frame_store import FrameWriter
from zipquant.errors import UserError
from zipquant.evaluation import transducer as verification
from zipquant.model import contract, recognizer
from zipquant.recognition.encoding import encode_shard
from zipquant.toolkit import rknn_file
from zipquant.toolkit.layer_table import COMPILER, Table
from zipquant.toolkit.platforms import Npu
from zipquant.variants import transducer, transducer_rows

PARTS = {
    "tokens": str(DEMO_MODEL.with_name("tokens.txt")),
    "decoder": str(DEMO_MODEL.with_name("decoder.onnx")),
    "joiner": str(DEMO_MODEL.with_name("joiner.onnx")),
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Encoder outputs of the demo's audio, a file for each set."""
    folder = tmp_path_factory.mktemp("encoded")
    contract.inspect(DEMO_MODEL).save(folder / "model.json")
    for name in ("calibration", "evaluation"):
        with FrameWriter(folder / "features.h5") as writer:
            for wav in sorted((ROOT / "demo/audio" / name).glob("*.wav")):
                writer.add(wav.stem, features.extract(wav, "mean", 0.66))
        names = (folder / part for part in ("model.json", "features.h5", f"{name}.h5"))
        encode_shard(DEMO_MODEL, *names, lanes=16)
    return {name: folder / f"{name}.h5" for name in ("calibration", "evaluation")}


def convert(folder, part, encoded=(), **files):
    """Convert a part of the demo model into the folder; return the folder of its steps."""
    steps = folder / "steps" / part
    output = str(folder / f"{part}.rknn")
    transducer.convert(
        part,
        npu=Npu("rk3588"),
        encoded=encoded,
        steps=steps,
        output=output,
        layers=str(folder / f"{part}.layers.tsv"),
        recognizer_files=PARTS | files,
    )
    return steps


def verify(folder, encoded, joiner_steps=None):
    """Compare the parts with onnxruntime; return the figures of both."""
    outputs = {part: folder / f"{part}.json" for part in ("decoder", "joiner")}
    verification.verify(
        [encoded["evaluation"]],
        npu=Npu("rk3588"),
        joiner_steps=joiner_steps,
        outputs=outputs,
        **PARTS,
    )
    return {part: json.loads(path.read_text()) for part, path in outputs.items()}


def test_float16_parts_give_what_the_original_gives(tmp_path, encoded):
    for part in ("decoder", "joiner"):
        convert(tmp_path, part)
        types = set(rknn_file.io_types(tmp_path / f"{part}.rknn").values())
        assert types == {"float16"} | ({"int64"} if part == "decoder" else set())
    found = verify(tmp_path, encoded)
    assert found["decoder"]["dtype"] == found["joiner"]["dtype"] == "float16"
    assert found["decoder"]["rows"] > 20 and found["joiner"]["rows"] == transducer.ROWS
    assert found["decoder"]["sqnr_db"] > 55 and found["joiner"]["sqnr_db"] > 55
    assert found["joiner"]["same_argmax"] > 0.99 and "same_argmax" not in found["decoder"]


def test_int8_joiner_has_float16_borders_and_is_calibrated_on_what_it_gets(tmp_path, encoded):
    steps = convert(tmp_path, "joiner", [encoded["calibration"]])
    assert set(rknn_file.io_types(tmp_path / "joiner.rknn").values()) == {"float16"}
    assert len((steps / "dataset.txt").read_text().splitlines()) == transducer.ROWS
    layers = Table.read(tmp_path / "joiner.layers.tsv")
    assert layers.source == COMPILER and "INT8" in {layer.data_type for layer in layers.layers}
    assert layers.summary()["kinds"]["conversion"] > 0
    found = verify(tmp_path, encoded, steps)["joiner"]
    assert found["dtype"] == "int8"
    # Rounding to 8 bits shows, and no more than it.
    assert 25 < found["sqnr_db"] < 50 and found["same_argmax"] > 0.95


def test_joiner_that_does_not_get_an_input_is_refused(tmp_path, encoded):
    deaf = onnx.load(PARTS["joiner"])
    name = deaf.graph.input[1].name
    for node in deaf.graph.node:
        node.input[:] = ["silenced" if source == name else source for source in node.input]
    deaf.graph.initializer.append(
        numpy_helper.from_array(np.array(0.01, dtype="f4"), "nearly_nothing")
    )
    deaf.graph.node.insert(0, helper.make_node("Mul", [name, "nearly_nothing"], ["silenced"]))
    onnx.save(deaf, tmp_path / "deaf.onnx")
    files = {"joiner": str(tmp_path / "deaf.onnx")}
    steps = convert(tmp_path, "joiner", [encoded["calibration"]], **files)
    with pytest.raises(UserError, match=r"the joiner as converted \(int8\) is not what it was: \d"):
        verify(tmp_path, encoded, steps)
    assert json.loads((tmp_path / "joiner.json").read_text())["sqnr_db"] < 20


def test_rows_are_the_same_whatever_the_shards(tmp_path, encoded):
    parts = recognizer.load(**PARTS)
    both = [encoded["calibration"], encoded["evaluation"]]
    one, other = (transducer_rows.collect(paths, parts, 40) for paths in (both, both[::-1]))
    assert [len(rows) for rows in one["joiner"]] == [40, 40]
    for part in ("decoder", "joiner"):
        for a, b in zip(one[part], other[part], strict=True):
            np.testing.assert_array_equal(a, b)


def test_audio_without_a_frame_is_told(tmp_path):
    with FrameWriter(tmp_path / "none.h5") as writer:
        writer.add("short", np.zeros((0, 0), dtype=np.float32))
    with pytest.raises(UserError, match="not a single frame to try decoder and joiner with"):
        transducer_rows.collect([tmp_path / "none.h5"], recognizer.load(**PARTS), 10)
