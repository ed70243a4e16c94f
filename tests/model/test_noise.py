"""Signal and noise: what counts as signal, and what NaN and infinity do to it."""

import numpy as np
import pytest

from helpers.audio import make_audio
from helpers.places import ROOT
from zipquant.board.fbank import fbank
from zipquant.model import contract, noise
from zipquant.model.streaming import OnnxEncoder, stream

EXPORTS = ROOT.parent / "shared/icefall"

FRAMES = np.random.default_rng(0).normal(0, 1, (200, 16))
ROUNDED = FRAMES + np.random.default_rng(1).normal(0, 0.1, FRAMES.shape)


def decibel(reference: np.ndarray, candidate: np.ndarray) -> float:
    sums = noise.compare(reference, candidate, noise.channel_means(reference))
    return float(noise.sqnr(sums["signal"], sums["noise"]))


def test_constant_part_of_an_output_is_no_signal():
    """Log-probabilities lie around -10, whatever was said."""
    plain = decibel(FRAMES, ROUNDED)
    assert plain == pytest.approx(20, abs=0.3)
    offsets = np.linspace(-20, 0, 16)
    assert decibel(FRAMES + offsets, ROUNDED + offsets) == pytest.approx(plain, abs=1e-6)
    whole = noise.compare(FRAMES - 10, ROUNDED - 10)
    assert noise.sqnr(whole["signal"], whole["noise"]) > plain + 19


def test_constant_error_is_noise():
    assert decibel(FRAMES, FRAMES + 0.1) == pytest.approx(20, abs=0.3)


def test_search_and_evaluation_mean_the_same_power():
    """The search sums over whole utterances, the evaluation over chunks."""
    constant = noise.channel_means(FRAMES)
    chunks = [noise.compare(part, part, constant) for part in np.array_split(FRAMES, 25)]
    assert sum(chunk["signal"] for chunk in chunks) == pytest.approx(noise.varying_power(FRAMES))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_values_are_counted_and_make_the_noise_unknown(value):
    broken = ROUNDED.copy()
    broken[3, 4] = broken[7, 1] = value
    sums = noise.compare(FRAMES, broken)
    assert sums["broken"] == 2
    assert np.isnan(noise.sqnr(sums["signal"], sums["noise"]))
    assert np.isnan(sums["max_error"]) and np.isfinite(sums["signal"])


def test_exact_output_has_infinite_sqnr_and_lost_one_none():
    exact = noise.compare(FRAMES, FRAMES)
    assert noise.sqnr(exact["signal"], exact["noise"]) == np.inf
    silent = noise.compare(np.zeros(4), np.ones(4))
    assert noise.sqnr(silent["signal"], silent["noise"]) == -np.inf


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="needs shared/icefall beside the project")
def test_log_probabilities_of_a_real_ctc_model_are_nearly_all_constant():
    """Rounded to 8 bits over their range, they look 10 dB better than they are."""
    (path,) = (p for p in EXPORTS.glob("zipformer2-ctc/ctc-*.onnx") if "int8" not in p.name)
    model = contract.inspect(path)
    frames = fbank(make_audio(4, 1))
    chunks = stream(OnnxEncoder(path, model), model, [frames])
    found = np.concatenate([c.encoder_out.reshape(-1, c.encoder_out.shape[-1]) for c in chunks])
    step = (found.max() - found.min()) / 255
    rounded = np.round(found / step) * step
    whole = noise.compare(found, rounded)
    assert noise.sqnr(whole["signal"], whole["noise"]) > decibel(found, rounded) + 10
