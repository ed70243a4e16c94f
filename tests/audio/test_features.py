"""Features against an independent computation from kaldi's definitions."""

import numpy as np
import pytest
import soundfile

from helpers.audio import make_audio, utterances, write_audio
from helpers.places import SHARED_SPEECH, needs_shared_speech
from zipquant.audio import features, index, reading
from zipquant.audio.frame_store import FrameReader, FrameWriter
from zipquant.errors import UserError


def reference_fbank(samples: np.ndarray) -> np.ndarray:
    """Compute kaldi's features in float64 numpy (feature-window.cc, mel-computations.cc)."""
    shift, length, padded = 160, 400, 512
    frames = (len(samples) + shift // 2) // shift
    centre = np.arange(frames) * shift + shift // 2
    positions = centre[:, None] - length // 2 + np.arange(length)
    # Beyond the ends the wave is mirrored, the last sample included.
    positions = np.where(positions < 0, -positions - 1, positions)
    positions = np.where(positions >= len(samples), 2 * len(samples) - 1 - positions, positions)
    windows = samples.astype(np.float64)[positions]
    windows -= windows.mean(axis=1, keepdims=True)
    before = np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
    windows -= 0.97 * before
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))
    power = np.abs(np.fft.rfft(windows * hann**0.85, padded)) ** 2

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    edges = np.linspace(mel(20), mel(8000 - 400), 82)
    bins = mel(np.arange(padded // 2) * 16000 / padded)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(up, down))
    energies = power[:, : padded // 2] @ filters.T
    return np.log(np.maximum(energies, np.finfo(np.float32).eps))


def test_features_equal_an_independent_computation():
    samples = make_audio(2.03, seed=3)
    np.testing.assert_allclose(features.fbank(samples), reference_fbank(samples), atol=1e-3)


@needs_shared_speech
def test_features_of_real_speech_equal_an_independent_computation():
    for path in sorted((SHARED_SPEECH / "mandarin").glob("*.wav"))[:3]:
        samples = reading.load(path)
        np.testing.assert_allclose(features.fbank(samples), reference_fbank(samples), atol=1e-3)


def test_tail_padding_appends_silence(tmp_path):
    soundfile.write(tmp_path / "a.wav", make_audio(1.0), 16000)
    plain = features.extract(tmp_path / "a.wav", "mean", 0.0)
    padded = features.extract(tmp_path / "a.wav", "mean", 0.66)
    assert (len(plain), len(padded)) == (100, 166)
    np.testing.assert_array_equal(plain[:90], padded[:90])
    assert padded[110:].max() < plain.min()


def test_other_sample_rates_give_nearly_the_same_features(tmp_path):
    soundfile.write(tmp_path / "a.wav", make_audio(1.0, rate=48000), 48000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", make_audio(1.0, rate=48000)[::3], 16000, subtype="FLOAT")
    resampled = features.extract(tmp_path / "a.wav", "mean", 0)
    assert resampled.shape == features.extract(tmp_path / "b.wav", "mean", 0).shape


def test_channels_are_mixed_or_the_first_is_taken(tmp_path):
    left, right = make_audio(1.0, 1), make_audio(1.0, 2)
    soundfile.write(tmp_path / "s.flac", np.stack([left, right], axis=1), 16000, subtype="PCM_24")
    np.testing.assert_allclose(reading.load(tmp_path / "s.flac", "first"), left, atol=1e-6)
    np.testing.assert_allclose(reading.load(tmp_path / "s.flac"), (left + right) / 2, atol=1e-6)


def test_shard_of_features_holds_every_usable_utterance(tmp_path):
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        soundfile.write(tmp_path / f"{name}.wav", make_audio(seconds), 16000)
    (tmp_path / "c.wav").write_text("this is a text")
    paths = [str(tmp_path / f"{name}.wav") for name in "abc"]
    index.write(utterances("abc", paths), {}, tmp_path / "index.tsv", "mean", "skip")
    features.extract_shard(tmp_path / "index.tsv", tmp_path / "f.h5", "mean", 0.0)
    with FrameReader(tmp_path / "f.h5") as reader:
        assert (reader.ids, reader.frame_counts) == (["a", "b"], [100, 200])
        np.testing.assert_array_equal(reader.frames(1), features.extract(paths[1], "mean", 0.0))
    skipped = [entry for entry in index.read(tmp_path / "index.tsv") if entry.problem]
    assert [entry.id for entry in skipped] == ["c"]
    assert "c.wav: not readable as audio" in skipped[0].problem


def test_stop_on_bad_file_names_all_of_them(tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    soundfile.write(tmp_path / "b.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "c.wav", np.full(100, np.nan), 16000, subtype="FLOAT")
    paths = [str(tmp_path / f"{name}.wav") for name in "abc"]
    with pytest.raises(UserError, match=r"3 unusable.*a\.wav.*b\.wav: holds no.*c\.wav: holds NaN"):
        index.write(utterances("abc", paths), {}, tmp_path / "index.tsv", "mean", "stop")
    assert not (tmp_path / "index.tsv").exists()


def test_damage_anywhere_in_a_feature_file_is_named_and_never_used(tmp_path):
    path = tmp_path / "f.h5"
    random = np.random.default_rng(0)
    with FrameWriter(path) as writer:
        for number in range(5):
            frames = random.normal(size=(40 * number, 80)).astype("f4")
            writer.add(f"utterance {number}", frames)
    content, intact = path.read_bytes(), everything(path)
    noticed = 0
    for place in np.linspace(0, len(content) - 1, 200).astype(int):
        broken = bytearray(content)
        broken[place] ^= 0x02
        path.write_bytes(broken)
        try:
            assert everything(path) == intact
        except UserError as error:
            assert f"{path} was damaged" in str(error)
            assert not path.exists()
            noticed += 1
    assert noticed > 180


def everything(path) -> list:
    with FrameReader(path) as reader:
        return [(name, reader.frames(i).tobytes()) for i, name in enumerate(reader.ids)]


def test_audio_that_has_changed_since_it_was_indexed_is_refused(tmp_path):
    path = write_audio(tmp_path / "a.wav", 1.0)
    index.write(utterances("a", [str(path)]), {}, tmp_path / "i.tsv", "mean", "skip")
    features.extract_shard(tmp_path / "i.tsv", tmp_path / "f.h5", "mean", 0.0)
    write_audio(path, 1.0, seed=1)
    with pytest.raises(UserError, match=r"a\.wav has changed since it was indexed"):
        features.extract_shard(tmp_path / "i.tsv", tmp_path / "f.h5", "mean", 0.0)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.wav has changed since it was indexed"):
        features.extract_shard(tmp_path / "i.tsv", tmp_path / "f.h5", "mean", 0.0)
