"""The check of the emulation against the simulator in each evaluation."""

import json

import pytest

from helpers.audio import make_audio
from helpers.builds import build, calibrate
from helpers.models import zipformer2_like_encoder
from zipquant.audio import features
from zipquant.audio.frame_store import FrameReader, FrameWriter
from zipquant.evaluation import emulation_check
from zipquant.evaluation.encoder_error import Amount, Models, Tables, evaluate_shard
from zipquant.jobs import isolation
from zipquant.model.streaming import OnnxEncoder
from zipquant.variants import emulation


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The folder of a small model that was built in int8 and evaluated, and its contract."""
    folder = tmp_path_factory.mktemp("evaluated")
    model = zipformer2_like_encoder(folder / "encoder.onnx")
    shape = calibrate(folder, model)
    build(folder, model)
    with FrameWriter(folder / "features.h5") as writer:
        for number in range(8):
            writer.add(f"u{number}", features.fbank(make_audio(2 + number / 4, 50 + number)))
    isolation.call(
        evaluate_shard,
        models=Models(model, model, folder / "model.json", folder / "variant"),
        features=folder / "features.h5",
        tables=Tables(folder / "t.parquet", folder / "encoded.h5", folder / "time.json"),
        amount=Amount(one_step_chunks=1),
    )
    return folder, shape


def check(folder, shape) -> dict:
    reference = OnnxEncoder(folder / "encoder.onnx", shape)
    with FrameReader(folder / "features.h5") as reader:
        given = (folder / "variant", shape, reference, reader, folder / "encoded.h5")
        return emulation_check.check(*given)


def test_every_evaluation_records_that_the_simulator_gives_what_the_emulation_gives(evaluated):
    found = json.loads((evaluated[0] / "time.json").read_text())["emulation"]
    assert found["holds"] and "problem" not in found
    assert found["emulated_sqnr_db"] == pytest.approx(found["simulated_sqnr_db"], abs=0.2)
    # Whole utterances, as few as have so many chunks.
    assert found["chunks"] >= emulation_check.CHUNKS and 1 < found["utterances"] < 8


def test_rounding_that_the_simulator_does_not_share_is_told(evaluated, monkeypatch):
    def too_fine(value, scale):
        return emulation.torch.round(value / scale.scale * 4) * scale.scale / 4

    monkeypatch.setattr(emulation, "fake_quantize", too_fine)
    found = check(*evaluated)
    assert not found["holds"]
    assert found["emulated_sqnr_db"] > found["simulated_sqnr_db"] + emulation_check.TOLERANCE
    assert f"gives {found['emulated_sqnr_db']:.1f} dB where the" in found["problem"]


def test_operator_that_is_not_emulated_is_no_failure_of_the_evaluation(evaluated, monkeypatch):
    known = {name: one for name, one in emulation.OPERATORS.items() if name != "Tanh"}
    monkeypatch.setattr(emulation, "OPERATORS", known)
    reason = "the toolkit's graph holds Tanh, which is not emulated yet"
    assert check(*evaluated) == {"unavailable": reason}


def test_no_noise_agrees_with_no_noise_alone():
    assert emulation_check.holds(None, None, 100)
    assert not emulation_check.holds(30.0, None, 100)
    assert not emulation_check.holds(None, 30.0, 100)
    # Float16 throughout.
    assert emulation_check.holds(58.3, 57.7, 100) and not emulation_check.holds(58.3, 49.7, 100)


def test_half_a_decibel_is_allowed_and_more_over_a_few_chunks():
    for chunks in (30, 1000):
        assert emulation_check.holds(30.0, 30.4, chunks)
        assert not emulation_check.holds(30.0, 30.6, chunks)
    # A quarter of the chunks, twice the chance.
    assert emulation_check.holds(30.0, 30.9, 8) and not emulation_check.holds(30.0, 31.1, 8)
