"""Evaluation in the emulation: many utterances at once, and refused where the simulator differs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from helpers.audio import make_audio
from helpers.builds import build, calibrate
from helpers.models import zipformer2_like_encoder
from zipquant.audio import features
from zipquant.audio.frame_store import FrameReader, FrameWriter
from zipquant.errors import UserError
from zipquant.evaluation import measures
from zipquant.evaluation.encoder_error import Amount, Models, Tables, evaluate_shard
from zipquant.jobs import isolation
from zipquant.variants import emulation
from zipquant.variants.opening import Place

LONG_STREAM = 6
EMULATED = Place(emulated=True, lanes=3)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation has written."""

    time: dict
    stream: dict
    sqnr: pd.Series
    rows: pd.DataFrame
    ids: list[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The folder of a small calibrated model, and of some audio."""
    folder = tmp_path_factory.mktemp("model")
    calibrate(folder, zipformer2_like_encoder(folder / "encoder.onnx"))
    with FrameWriter(folder / "features.h5") as writer:
        for number in range(8):
            writer.add(f"u{number}", features.fbank(make_audio(2 + number / 4, 50 + number)))
    return folder


@pytest.fixture(scope="module")
def int8(model) -> Path:
    """The same folder, with the model built in int8."""
    build(model, model / "encoder.onnx")
    return model


def evaluate(folder: Path, place: Place | None, scratch: Path) -> Evaluated:
    """Evaluate the variant in a folder, in a process of its own."""
    encoder = folder / "encoder.onnx"
    tables = Tables(
        scratch / "t.parquet",
        scratch / "encoded.h5",
        scratch / "time.json",
        stream=scratch / "stream.json",
    )
    isolation.call(
        evaluate_shard,
        models=Models(encoder, encoder, folder / "model.json", folder / "variant"),
        features=folder / "features.h5",
        tables=tables,
        amount=Amount(2, LONG_STREAM),
        place=place,
    )
    rows = pd.read_parquet(tables.table)
    with FrameReader(tables.encoded) as reader:
        ids = list(reader.ids)
    figures = measures.summarize(rows[rows["output"] == "encoder_out"], ["mode"])
    return Evaluated(
        json.loads(tables.time.read_text()),
        json.loads(tables.stream.read_text()),
        figures.set_index("mode")["sqnr_db"],
        rows,
        ids,
    )


def test_emulation_gives_the_figures_of_the_simulator(int8, tmp_path):
    places = {"simulator": None, "lanes": EMULATED, "one": Place(emulated=True)}
    found = {}
    for name, place in places.items():
        (tmp_path / name).mkdir()
        found[name] = evaluate(int8, place, tmp_path / name)
    simulated, emulated = found["simulator"], found["lanes"]
    assert (simulated.time["target"], emulated.time["target"]) == ("simulator", "emulation")
    assert emulated.time["emulation"]["holds"]
    for mode in (measures.ONE_STEP, measures.FREE_RUNNING):
        assert emulated.sqnr[mode] == pytest.approx(simulated.sqnr[mode], abs=0.5)
        assert emulated.sqnr[mode] == pytest.approx(found["one"].sqnr[mode], abs=0.05)
    key = ["utterance", "chunk", "mode", "output"]
    assert emulated.rows[key].equals(simulated.rows[key])
    assert emulated.ids == simulated.ids
    assert emulated.time["chunks"] == simulated.time["chunks"]
    assert emulated.stream["chunks"] == simulated.stream["chunks"] > 0
    assert emulated.stream["outputs"] != simulated.stream["outputs"]


def test_emulation_that_is_not_the_simulator_is_refused(int8, tmp_path, monkeypatch):
    def too_fine(value, scale):
        return emulation.torch.round(value / scale.scale * 4) * scale.scale / 4

    monkeypatch.setattr(emulation, "fake_quantize", too_fine)
    with pytest.raises(UserError, match=r"evaluation\.engine: .* set it to simulator$") as refused:
        evaluate(int8, EMULATED, tmp_path)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_unknown_operator_runs_in_the_simulator(int8, tmp_path, monkeypatch):
    known = {name: one for name, one in emulation.OPERATORS.items() if name != "Tanh"}
    monkeypatch.setattr(emulation, "OPERATORS", known)
    found = evaluate(int8, EMULATED, tmp_path)
    assert found.time["target"] == "simulator"
    assert "Tanh" in found.time["emulation"]["unavailable"]


def test_float16_runs_in_the_simulator(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model", ignore=lambda *_: ["variant"])
    build(folder, folder / "encoder.onnx", dtype="float16")
    found = evaluate(folder, EMULATED, tmp_path)
    assert found.time["target"] == "simulator" and found.time["emulation"] is None
