"""Audio that libsndfile does not read, encoded here by the library that decodes it."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from helpers.audio import make_audio, utterances
from zipquant.audio import features, ffmpeg, index, manifest, reading
from zipquant.audio.frame_store import FrameReader
from zipquant.errors import UserError

KINDS = {
    "m4a": ("a.m4a", "aac", 44100, "stereo"),
    "m4a of 48 kHz": ("a.m4a", "aac", 48000, "mono"),
    "aac": ("a.aac", "aac", 16000, "mono"),
    "mp4": ("a.mp4", "aac", 22050, "mono"),
    "3gp": ("a.3gp", "aac", 16000, "mono"),
    "mov": ("a.mov", "pcm_s16le", 16000, "stereo"),
    "webm": ("a.webm", "libopus", 48000, "mono"),
    "mka": ("a.mka", "flac", 44100, "mono"),
    "amr": ("a.amr", "libopencore_amrnb", 8000, "mono"),
    "wma": ("a.wma", "wmav2", 44100, "mono"),
    "ac3": ("a.ac3", "ac3", 48000, "mono"),
    "wv": ("a.wv", "wavpack", 16000, "mono"),
}


def encode(path: Path, codec: str, rate: int, layout: str, samples: np.ndarray) -> Path:
    """Write samples at `rate` as a file of another kind; all channels hold the same."""
    muxer = "asf" if path.suffix == ".wma" else None
    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        if codec != "libopencore_amrnb":
            stream.bit_rate = 128_000
        channels = {"mono": 1, "stereo": 2}[layout]
        frame = av.AudioFrame.from_ndarray(np.stack([samples] * channels), "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        wanted = stream.codec_context.format or "fltp"
        size = None if codec in ("pcm_s16le", "wavpack") else 160 if rate == 8000 else 1024
        resampler = av.AudioResampler(wanted, layout, rate, size)
        for part in [*resampler.resample(frame), None]:
            for packet in stream.encode(part):
                container.mux(packet)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_encoded_is_read(tmp_path, kind):
    name, codec, rate, layout = KINDS[kind]
    samples = make_audio(3.0, 2, rate) / 2
    path = encode(tmp_path / name, codec, rate, layout, samples)
    found, remark = reading.read(path)
    assert remark == "" and abs(len(found) / 16000 - 3.0) < 0.15
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    expected = reading.load(tmp_path / "a.wav")
    assert likeness(found, expected) > (0.3 if kind == "amr" else 0.97)
    assert reading.rate_of(path) == rate


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest correlation of two signals; codecs delay by up to 0.15 s."""
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    spectrum = np.fft.rfft(a, 2 * n) * np.conj(np.fft.rfft(b, 2 * n))
    lags = np.fft.irfft(spectrum)
    near = np.concatenate([lags[:2400], lags[-2400:]])
    return float(near.max() / np.sqrt((a**2).sum() * (b**2).sum()))


@pytest.mark.parametrize("kind", ["m4a of 48 kHz", "mka", "aac"])
def test_a_part_is_that_of_the_whole(tmp_path, kind):
    name, codec, rate, layout = KINDS[kind]
    path = encode(tmp_path / name, codec, rate, layout, make_audio(6.0, 5, rate))
    whole = reading.load(path)
    part = reading.load(path, "mean", 3.5, 5.25)
    assert len(part) == 28000
    same = whole[56000:84000]
    lags = [np.corrcoef(part[100:-100], np.roll(same, lag)[100:-100])[0, 1] for lag in (-2, 0, 2)]
    # Noise that AAC makes up for high frequencies is not the same again.
    assert lags[1] == max(lags) > 0.99


def test_a_recording_off_a_phone_is_read_under_any_name(tmp_path):
    path = encode(tmp_path / "a.m4a", "aac", 44100, "mono", make_audio(1.0, 1, 44100))
    misnamed = shutil.copy(path, tmp_path / "b.wav")
    np.testing.assert_array_equal(reading.load(misnamed), reading.load(path))
    wav = tmp_path / "c.m4a"
    soundfile.write(tmp_path / "c.wav", make_audio(1.0), 16000)
    (tmp_path / "c.wav").rename(wav)
    assert len(reading.load(wav)) == 16000


def test_long_ones_are_cut_and_traced_like_others(tmp_path):
    path = encode(tmp_path / "a.m4a", "aac", 16000, "mono", make_audio(9.0, 3))
    index.write(utterances("a", [str(path)]), {}, tmp_path / "i.tsv", "mean", "skip", cut=4.0)
    entries = index.read(tmp_path / "i.tsv")
    assert len(entries) == 3 and not any(entry.problem for entry in entries)
    assert {entry.rate for entry in entries} == {"16000"}
    features.extract_shard(tmp_path / "i.tsv", tmp_path / "f.h5", "mean", 0.0)
    with FrameReader(tmp_path / "f.h5") as reader:
        assert 890 < sum(reader.frame_counts) < 915


def test_what_ffmpeg_cannot_read_is_said(tmp_path):
    path = encode(tmp_path / "a.m4a", "aac", 16000, "mono", make_audio(2.0))
    content = path.read_bytes()
    cases = {
        "empty.m4a": b"",
        "text.aac": b"this is a text and no audio at all\n" * 40,
        "cut.m4a": content[: len(content) // 2],
        "list.mp4": b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n",
        "script.webm": b"ffconcat version 1.0\nfile a.m4a\n",
    }
    for name, bytes_ in cases.items():
        (tmp_path / name).write_bytes(bytes_)
        with pytest.raises(UserError, match=r"not readable as audio|holds no samples"):
            reading.read(tmp_path / name)
    assert ffmpeg.is_for(tmp_path / "empty.m4a")


def test_a_file_that_is_cut_off_is_used_as_far_as_it_goes(tmp_path):
    path = encode(tmp_path / "a.webm", "libopus", 48000, "mono", make_audio(3.0, 1, 48000) / 2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    samples, remark = reading.read(path)
    assert 1.0 < len(samples) / 16000 < 2.0
    assert remark.startswith("is cut off: its header promises more, ")


def test_a_film_without_sound_is_said_to_have_none(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), "u1"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="it holds no audio"):
        reading.read(path)


def test_folders_of_them_are_read(tmp_path):
    for name in ("x.m4a", "y.AMR", "z.webm"):
        (tmp_path / name).touch()
    assert [u.id for u in manifest.read(str(tmp_path))] == ["x", "y", "z"]
    assert manifest.remarks(str(tmp_path)) == []
