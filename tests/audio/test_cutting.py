"""Long recordings: cut at pauses, read in a stream, and equal to the same parts cut beforehand."""

import resource

import numpy as np
import soundfile

from helpers.audio import make_audio, utterances
from zipquant.audio import cutting, features, index, reading
from zipquant.audio.frame_store import FrameReader
from zipquant.audio.utterance import Utterance
from zipquant.recognition.texts import read_texts


def spoken(count: int, rate: int = 16000) -> np.ndarray:
    """Pieces of 3 s with pauses of half a second behind each."""
    pause = np.zeros(rate // 2, dtype=np.float32)
    pieces = [np.concatenate([make_audio(3.0, seed, rate), pause]) for seed in range(count)]
    return np.concatenate(pieces)


def test_cuts_are_in_pauses_and_no_part_is_too_long(tmp_path):
    soundfile.write(tmp_path / "long.wav", spoken(10), 16000)
    found = reading.scan(tmp_path / "long.wav")
    assert abs(found.seconds - 35) < 0.01 and found.remark == ""
    times = cutting.cuts(found.loudness, 10.0)
    assert len(times) == 4
    for time in times:
        assert 3.0 <= time % 3.5 <= 3.5, time
    edges = [0.0, *times, found.seconds]
    assert max(np.diff(edges)) <= 10.0


def test_short_recording_is_not_cut():
    assert cutting.cuts(np.ones(2999, "f4"), 30.0) == []
    assert list(cutting.parts(np.ones(100, "f4"), 30.0)) == [(0.0, None)]


def test_parts_have_the_features_of_the_same_parts_cut_beforehand(tmp_path):
    wave = spoken(4)
    soundfile.write(tmp_path / "long.wav", wave, 16000, subtype="FLOAT")
    given = utterances(["rec"], [str(tmp_path / "long.wav")])
    index.write(given, {}, tmp_path / "index.tsv", "mean", "skip", cut=5.0)
    entries = index.read_usable(tmp_path / "index.tsv")
    assert [entry.id for entry in entries] == [f"rec@cut{n}" for n in range(len(entries))]
    assert len(entries) >= 3 and {index.original(entry.id) for entry in entries} == {"rec"}
    features.extract_shard(tmp_path / "index.tsv", tmp_path / "f.h5", "mean", 0.0)
    with FrameReader(tmp_path / "f.h5") as reader:
        for position, entry in enumerate(entries):
            start, end = entry.span
            stop = None if end is None else round(end * 16000)
            part = wave[round(start * 16000) : stop]
            soundfile.write(tmp_path / "part.wav", part, 16000, subtype="FLOAT")
            expected = features.extract(tmp_path / "part.wav", "mean", 0.0)
            np.testing.assert_array_equal(reader.frames(position), expected)


def test_texts_of_the_parts_are_put_together_again(tmp_path):
    """The transcript of a recording is of the whole."""
    table = "utterance\ttext\nrec@cut0\tone two\nrec@cut1\t\nrec@cut2\tthree\nother@1\tfour\n"
    (tmp_path / "texts.tsv").write_text(table)
    found = read_texts([tmp_path / "texts.tsv"])
    assert found == {"rec": "one two three", "other@1": "four"}


def test_part_of_a_file_is_read_alone_and_a_part_behind_its_end_is_refused(tmp_path):
    wave = spoken(2)
    soundfile.write(tmp_path / "a.flac", wave, 16000, subtype="PCM_24")
    part = reading.load(tmp_path / "a.flac", start=1.0, end=2.5)
    np.testing.assert_allclose(part, wave[16000:40000], atol=1e-6)
    given = [Utterance("u", str(tmp_path / "a.flac"), "", 6.0, 9.0)]
    index.write(given, {}, tmp_path / "index.tsv", "mean", "skip")
    (entry,) = index.read(tmp_path / "index.tsv")
    assert "ends before 9 s" in entry.problem


def test_two_hours_take_little_memory(tmp_path):
    """Scanned and cut; a file of that length was refused, and one of 70 minutes took 270 MB."""
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8000, 1, "PCM_16") as file:
        block = spoken(17, 8000)
        for _ in range(round(7200 * 8000 / len(block))):
            file.write(block)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    given = utterances(["rec"], [str(tmp_path / "long.wav")])
    index.write(given, {}, tmp_path / "index.tsv", "mean", "stop", cut=30.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    entries = index.read_usable(tmp_path / "index.tsv")
    lengths = [float(entry.seconds) for entry in entries]
    assert 7190 < sum(lengths) < 7210 and max(lengths) <= 30 and 240 <= len(entries) <= 480


def test_other_formats_of_libsndfile_are_read(tmp_path):
    wave = make_audio(1.0)
    for name, options in {
        "a.mp3": {"format": "MP3"},
        "b.ogg": {"format": "OGG", "subtype": "VORBIS"},
        "c.opus": {"format": "OGG", "subtype": "OPUS"},
        "d.aiff": {"format": "AIFF"},
        "e.au": {"format": "AU"},
        "f.caf": {"format": "CAF"},
        "g.w64": {"format": "W64"},
    }.items():
        soundfile.write(tmp_path / name, wave, 16000, **options)
        samples, remark = reading.read(tmp_path / name)
        assert abs(len(samples) - 16000) < 2000 and remark == "", name
        assert np.corrcoef(samples[:15000], wave[:15000])[0, 1] > 0.9, name
