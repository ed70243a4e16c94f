"""Encoders that take Whisper's features: the same as sherpa-onnx, from the audio to the text."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import sherpa_onnx
import soundfile

from helpers.audio import make_audio
from helpers.models import LEVELS, echo, tiny_ctc, whisper
from helpers.places import DEMO_MODEL, ROOT, exported, needs_shared_exports
from helpers.texts import TAIL, transcribe
from zipquant import bundle, plan
from zipquant.audio.features import FrontEnd
from zipquant.audio.frame_store import FrameWriter
from zipquant.board import fbank, vocabulary
from zipquant.board import transcribe as script
from zipquant.board import whisper as whisper_features
from zipquant.calibration import dataset_check
from zipquant.calibration.recipes import Recipe
from zipquant.errors import UserError
from zipquant.model import contract
from zipquant.model.streaming import OnnxEncoder, inspect_and_try, stream
from zipquant.toolkit import sherpa_onnx as runtime
from zipquant.traces import store, tracing

DEMO_AUDIO = sorted((ROOT / "demo/audio/evaluation").glob("*.wav"))


def heard(recognizer: sherpa_onnx.OnlineRecognizer, wav) -> list[str]:
    """Return the tokens that sherpa-onnx finds in a wav."""
    samples, rate = soundfile.read(wav, dtype="float32")
    stream_ = recognizer.create_stream()
    stream_.accept_waveform(rate, samples)
    stream_.accept_waveform(rate, np.zeros(round(TAIL * rate), dtype=np.float32))
    stream_.input_finished()
    while recognizer.is_ready(stream_):
        recognizer.decode_stream(stream_)
    return [token.replace(" ", "▁") for token in recognizer.tokens(stream_)]


def fed(shape: contract.Contract, wav) -> np.ndarray:
    """Return all chunks that the workflow feeds to an encoder, float32 (chunks, T, bins)."""
    samples, _ = soundfile.read(wav, dtype="float32")
    samples = np.append(samples, np.zeros(round(TAIL * 16000), "f4"))
    frames = FrontEnd(features=shape.features, bins=shape.bins).compute(samples)
    chunks = range(shape.chunk_count(len(frames)))
    return np.stack([shape.chunk(frames, chunk * shape.chunk_shift) for chunk in chunks])


def test_every_value_of_every_chunk_is_what_sherpa_onnx_computes(tmp_path):
    parts = echo(tmp_path)
    whisper(tmp_path / "encoder.onnx")
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(num_threads=1, **parts)
    shape = contract.inspect(parts["encoder"])
    assert (shape.features, shape.bins) == ("whisper", 80)
    loud = tmp_path / "loud.wav"
    soundfile.write(loud, np.clip(9 * make_audio(1.5), -1, 1), 16000)
    for wav in (DEMO_AUDIO[0], loud):
        found = LEVELS[[int(token[1:]) - 1 for token in heard(recognizer, wav)]]
        expected = fed(shape, wav)
        assert expected.shape[0] > 3 and np.ptp(expected, axis=(1, 2)).max() > 1
        # Half a level; scores are float32, so between two levels the further one may win.
        assert np.abs(found - expected.reshape(-1)).max() < 0.7 * (LEVELS[1] - LEVELS[0])


def reference_log_mel(samples: np.ndarray) -> np.ndarray:
    """Compute log10 mel energies as OpenAI's Whisper defines them, in float64 numpy."""
    frames = (len(samples) + 80) // 160
    positions = np.arange(frames)[:, None] * 160 + 80 - 200 + np.arange(400)
    positions = np.where(positions < 0, -positions - 1, positions)
    positions = np.where(positions >= len(samples), 2 * len(samples) - 1 - positions, positions)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(samples.astype(np.float64)[positions] * hann)) ** 2

    def hertz(mel):  # Slaney's scale: linear up to 1 kHz, then logarithmic
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    edges = hertz(np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 82))
    bins = np.arange(201) * 40.0
    up = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    down = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    filters = np.maximum(0, np.minimum(up, down)) * 2 / (edges[2:] - edges[:-2])[:, None]
    return np.log10(np.maximum(power @ filters.T, 1e-10))


def test_log_mel_equals_an_independent_computation():
    samples = make_audio(1.03, seed=3)
    found = fbank.whisper_log_mel(samples)
    np.testing.assert_allclose(found, reference_log_mel(samples), atol=2e-3)
    assert fbank.whisper_log_mel(samples, 128).shape == (103, 128)
    silence = fbank.whisper_log_mel(np.zeros(1600, "f4"))
    np.testing.assert_allclose(silence, np.full((10, 80), -10, "f4"), rtol=1e-6)


def test_a_ctc_model_hears_what_sherpa_onnx_hears(tmp_path):
    model = whisper(tiny_ctc(tmp_path / "ctc.onnx", tokens=6))
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("<blk> 0\na 1\nb 2\nc 3\nd 4\n<unk> 5\n")
    recognizer = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
        tokens=str(tokens), model=str(model), num_threads=1
    )
    found = transcribe(tmp_path, model, {"tokens": str(tokens)}, DEMO_AUDIO)
    assert found == [heard(recognizer, wav) for wav in DEMO_AUDIO]
    other = transcribe(
        tmp_path, tiny_ctc(tmp_path / "o.onnx", tokens=6), {"tokens": str(tokens)}, DEMO_AUDIO
    )
    assert found != other and sum(map(len, found)) > 100


@needs_shared_exports
def test_an_export_hears_what_sherpa_onnx_hears_and_so_does_the_board(tmp_path):
    encoder = exported("zipformer2")
    model = whisper(in_natural_units(encoder, tmp_path / "encoder.onnx"))
    parts = {
        part: str(encoder.with_name(encoder.name.replace("encoder", part)))
        for part in ("decoder", "joiner")
    } | {"tokens": str(encoder.with_name("tokens.txt"))}
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
        encoder=str(model), num_threads=1, **parts
    )
    expected = [heard(recognizer, wav) for wav in DEMO_AUDIO[:4]]
    assert transcribe(tmp_path, model, parts, DEMO_AUDIO[:4]) == expected
    assert len({token for tokens in expected for token in tokens}) > 5
    described = bundle.describe(
        contract.inspect(model), 2, {"channels": "mean", "tail_padding": TAIL}
    )
    assert (described["features"], described["bins"]) == ("whisper", 80)
    known = vocabulary.read(parts["tokens"])
    networks = script.RunnerNetworks(Runner(parts["decoder"]), Runner(parts["joiner"]), 2)
    rows = script.transcribe(DEMO_AUDIO[:4], described, known, Runner(model), networks)
    assert [[known.tokens[int(i)] for i in row[2].split()] for row in rows] == expected


def in_natural_units(encoder: Path, path: Path) -> Path:
    """Write an encoder with its features scaled inside, since its weights are made for log-mel."""
    model = onnx.load(encoder)
    for node in model.graph.node:
        node.input[:] = ["x_natural" if name == "x" else name for name in node.input]
    scale = np.float32(4 * np.log(10))
    constants = {"x_scale": scale, "x_offset": -scale}
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    nodes = [
        onnx.helper.make_node("Mul", ["x", "x_scale"], ["x_scaled"]),
        onnx.helper.make_node("Add", ["x_scaled", "x_offset"], ["x_natural"]),
        *model.graph.node,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


class Runner:
    """A network in onnxruntime, in place of the NPU."""

    def __init__(self, path):
        self._session = onnxruntime.InferenceSession(str(path))
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, arrays):
        return self._session.run(None, dict(zip(self._names, arrays, strict=True)))


def test_rows_of_the_calibration_set_are_what_the_encoder_was_fed_with(tmp_path):
    model = whisper(tiny_ctc(tmp_path / "ctc.onnx", tokens=6))
    shape = contract.inspect(model)
    shape.save(tmp_path / "model.json")
    frames = [fbank.whisper_log_mel(make_audio(2 + n, n)) for n in range(2)]
    with FrameWriter(tmp_path / "f.h5") as writer:
        for number, utterance in enumerate(frames):
            writer.add(str(number), utterance)
    outputs = [tmp_path / "trace.h5", tmp_path / "table.parquet"]
    tracing.trace_shard(model, tmp_path / "model.json", tmp_path / "f.h5", *outputs, lanes=2)
    steps = {(s.utterance, s.chunk): s for s in stream(OnnxEncoder(model, shape), shape, frames)}
    with store.TraceReader(outputs[0], shape) as reader:
        for row, key in enumerate(sorted(steps)):
            for a, b in zip(reader.row(row), steps[key].inputs, strict=True):
                np.testing.assert_array_equal(a, b)
    # The unit of energy is that of log-mel features, by which passages are judged.
    natural = np.mean([np.log(10) * utterance.mean() for utterance in frames])
    assert abs(pd.read_parquet(outputs[1])["energy"].mean() - natural) < 1


def test_other_models_get_log_mel_features_as_in_sherpa_onnx(tmp_path):
    model = whisper(shutil.copy(DEMO_MODEL, tmp_path / "encoder.onnx"))
    shape = contract.inspect(model)
    assert shape.features == "fbank"
    (warning,) = plan._features_ignored(shape, str(model))
    assert (
        "asks for features of the kind whisper" in warning and "zipformer2 models alone" in warning
    )


def test_features_of_an_unknown_kind_are_refused(tmp_path):
    model = onnx_with(tmp_path, "mfcc")
    with pytest.raises(UserError, match=r"of the kind 'mfcc' \(feature\), and only fbank, whisper"):
        contract.inspect(model)
    assert contract.inspect(onnx_with(tmp_path, "fbank")).features == "fbank"


def onnx_with(folder, kind: str):
    model = onnx.load(tiny_ctc(folder / "ctc.onnx", tokens=6))
    model.metadata_props.add(key="feature", value=kind)
    onnx.save(model, folder / "ctc.onnx")
    return folder / "ctc.onnx"


def test_older_front_ends_are_refused(tmp_path):
    shape = contract.inspect(whisper(tiny_ctc(tmp_path / "ctc.onnx", tokens=6)))
    assert plan.takes(shape, Recipe("kaldi", "real", "coverage"))
    with pytest.raises(UserError, match=r"takes Whisper's features with 80 bins, which the front"):
        plan._check_front_end(Recipe("librosa-db", "real", "all"), shape, "ctc.onnx")


def test_noise_that_a_model_is_tried_on_is_like_its_features(tmp_path):
    model = whisper(tiny_ctc(tmp_path / "ctc.onnx", tokens=6))
    noise = contract.inspect(model).noise(np.random.default_rng(0))
    assert noise.dtype == np.float32 and noise.min() >= -1.5 and np.ptp(noise) <= 2
    inspect_and_try(model, {}, tmp_path / "model.json")


def test_the_rknn_runtime_is_said_not_to_compute_them():
    types = {"x": "float16"}
    entries = "model_type=zipformer2;T=45;decode_chunk_len=32;feature="
    (reason,) = runtime.refusals(types, f"{entries}whisper")
    assert "Whisper's features" in reason and "transcribe.py" in reason
    assert runtime.refusals(types, f"{entries}fbank") == []


def test_rows_of_other_features_are_told_apart():
    log_mel = fbank.fbank(make_audio(2.0, 1))[:45]
    right = whisper_features.normalise(fbank.whisper_log_mel(make_audio(2.0, 1))[:45])
    assert list(dataset_check._check_whisper(right)) == []
    for wrong in (log_mel, fbank.whisper_log_mel(make_audio(2.0, 1))[:45]):
        ((severity, what, cause),) = dataset_check._check_whisper(wrong)
        assert severity == dataset_check.WARNING and what.startswith("reaches from -")
        assert "span at most 2 in a chunk and end at -1.5" in cause
