"""Audio of every kind and condition: used, used with a remark, or left out with the reason."""

import os
import sys

import numpy as np
import pytest
import soundfile

from helpers.audio import make_audio, utterances
from helpers.places import DEMO_MODEL
from zipquant.audio import features, index, manifest, reading
from zipquant.audio.frame_store import FrameReader
from zipquant.errors import UserError
from zipquant.model import contract
from zipquant.traces import tracing


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("flac", "PCM_24"),
    ],
)
def test_rates_and_formats_give_the_same_speech(tmp_path, rate, suffix, subtype):
    path = tmp_path / f"a.{suffix}"
    time = np.arange(rate * 2) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(path, np.stack([tone, tone], axis=1), rate, subtype=subtype)
    samples, remark = reading.read(path)
    assert (samples.dtype, remark) == (np.float32, "")
    assert len(samples) == 2 * reading.SAMPLE_RATE
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / reading.SAMPLE_RATE)
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=2e-3)


def remark_on(path, samples) -> str:
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    return reading.read(path)[1]


def test_silent_and_clipped_audio_is_used_with_a_remark(tmp_path):
    path = tmp_path / "a.wav"
    speech = make_audio(1.0)
    assert remark_on(path, speech) == ""
    assert remark_on(path, np.zeros(16000)) == "is silent"
    assert remark_on(path, 0.0005 * speech) == "is silent"
    loud = np.clip(20 * speech, -1, 1)
    share = np.mean(np.abs(loud) >= 1)
    assert remark_on(path, loud) == f"is clipped: {share:.1%} of its samples stand at full scale"
    # One click is no distortion.
    speech[100] = 1.0
    assert remark_on(path, speech) == ""


def test_cut_off_wav_is_used_as_far_as_it_goes(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, make_audio(1.0), 16000, subtype="PCM_16")
    content = path.read_bytes()
    path.write_bytes(content[: 44 + 16000])
    samples, remark = reading.read(path)
    assert len(samples) == 8000
    assert remark == "is cut off: its header promises more, 50% is there"
    # A program that writes to a pipe leaves the length open; nothing is missing then.
    path.write_bytes(content[:40] + b"\xff\xff\xff\xff" + content[44:])
    assert reading.read(path)[1] == ""


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.wav", b"this is a text", "not readable as audio"),
        ("empty.wav", b"", "not readable as audio"),
        ("header.wav", None, "not readable as audio|holds no samples"),
        ("cut.flac", None, "not readable as audio"),
    ],
)
def test_what_is_no_audio_is_named(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is None:
        soundfile.write(path, make_audio(1.0), 16000)
        content = path.read_bytes()[: 30 if name.endswith("wav") else 3000]
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: ({reason})"):
        reading.read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_audio_without_samples_or_with_nan_is_refused(tmp_path, value):
    samples = make_audio(0.5)
    samples[7] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"a\.wav: holds NaN or infinite samples"):
        reading.read(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", np.zeros(0), 16000)
    with pytest.raises(UserError, match=r"b\.wav: holds no samples"):
        reading.read(tmp_path / "b.wav")


def test_one_bad_file_among_many_does_not_stop_the_rest(tmp_path, capsys):
    shape = contract.inspect(DEMO_MODEL)
    shape.save(tmp_path / "model.json")
    names = ["good", "silent", "short", "one sample", "text", "nan"]
    waves = [make_audio(1.5), np.zeros(16000), make_audio(0.1), np.ones(1) * 0.1, None, None]
    for name, wave in zip(names, waves, strict=True):
        path = tmp_path / f"{name}.wav"
        if wave is None:
            path.write_text("no audio")
        else:
            soundfile.write(path, wave, 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(10, np.nan), 16000, subtype="FLOAT")
    paths = [str(tmp_path / f"{name}.wav") for name in names]
    odd = {"link.wav": "link.wav: is no file (a broken link, or a pipe)"}
    index.write(utterances(names, paths), odd, tmp_path / "i.tsv", "mean", "skip")
    said = capsys.readouterr().err
    assert "silent.wav is silent" in said
    for name in ("text", "nan", "link"):
        assert f"{name}.wav: " in said
    entries = {entry.id: entry for entry in index.read(tmp_path / "i.tsv")}
    assert {name for name, entry in entries.items() if entry.problem} == {
        *("text", "nan", "link.wav")
    }
    assert {name for name, entry in entries.items() if entry.warning} == {"silent"}
    features.extract_shard(tmp_path / "i.tsv", tmp_path / "f.h5", "mean", 0.0)
    with FrameReader(tmp_path / "f.h5") as reader:
        assert reader.ids == names[:4]
        assert reader.frame_counts == [150, 100, 10, 0]
        for position in range(4):
            assert np.isfinite(reader.frames(position)).all()
    files = ("model.json", "f.h5", "t.h5", "t.parquet")
    tracing.trace_shard(DEMO_MODEL, *(tmp_path / name for name in files), lanes=2)
    assert "2 of 4 utterances are shorter than one chunk" in capsys.readouterr().err


def test_names_that_the_workflow_cannot_carry_have_a_problem(tmp_path):
    odd = [b"n\xff.wav", b"line\nbreak.wav", b"red\x1b[31m.wav"]
    fine = ["with space.wav", 'it\'s "quoted".wav', "语音-é.wav", "$(x);&*?.wav"]
    fine += ["br{a}ce.wav", "{.wav", "<y>.wav", "clip <unk>.wav", "[a-z]!.wav", "~.wav", "a:b.wav"]
    for name in [*odd, *map(os.fsencode, fine)]:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
            pass
    found = manifest.read(str(tmp_path))
    assert len(found) == len(odd) + len(fine)
    assert sorted(u.id + ".wav" for u in found if not u.problem) == sorted(fine)
    problems = [utterance.problem for utterance in found if utterance.problem]
    assert any(r"n\xff.wav: its name is not UTF-8" in problem for problem in problems)
    for problem in problems:
        problem.encode("utf-8")
        assert problem.isprintable()
        print(problem, file=sys.stderr)
