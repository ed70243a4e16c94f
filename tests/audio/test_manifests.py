"""Manifests of other programs: what is read of each, and what is refused."""

import gzip
import json
from pathlib import Path

import pytest

from helpers.audio import write_audio
from zipquant.audio import manifest
from zipquant.audio.manifests.kinds import kind_of
from zipquant.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with three recordings, two of them in `clips`."""
    for name in ("a.wav", "clips/b.wav", "clips/c d.wav"):
        write_audio(tmp_path / name, 0.3)
    return tmp_path


def read(path: Path) -> dict[str, tuple[str, str, float, float | None]]:
    """Return what was read: the file's name, the transcript and the part, by id."""
    return {
        u.id: (Path(u.path).name, u.text, u.start, u.end)
        for u in manifest.read(str(path))
        if Path(u.path).is_file()
    }


def test_kaldi_data_folder_with_texts(folder):
    (folder / "wav.scp").write_text(f"u1 {folder}/a.wav\nu2 clips/b.wav\n")
    (folder / "text").write_text("u1 one two\nu2\n")
    expected = {"u1": ("a.wav", "one two", 0, None), "u2": ("b.wav", "", 0, None)}
    assert read(folder) == read(folder / "wav.scp") == expected


def test_kaldi_segments_are_parts_of_recordings(folder):
    (folder / "wav.scp").write_text("r1 a.wav\n")
    (folder / "segments").write_text("u1 r1 0.00 0.10\nu2 r1 0.10 0.30\n")
    (folder / "text").write_text("u1 one\nu2 two\n")
    assert read(folder) == {"u1": ("a.wav", "one", 0, 0.1), "u2": ("a.wav", "two", 0.1, 0.3)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u1 sph2pipe a.sph |", "made by a command"),
        ("u1 foo.ark:123", "in an archive"),
        ("u1 none.wav", r"line 1: there is no file .*none\.wav"),
        ("u1", "is not a name and a file"),
    ],
)
def test_what_kaldi_takes_and_we_do_not(folder, line, message):
    (folder / "wav.scp").write_text(f"{line}\n")
    with pytest.raises(UserError, match=message):
        manifest.read(str(folder))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ("u1 r2 0 1", "no recording 'r2'"),
        ("u1 r1 0", "is not an utterance, a recording, and two times"),
        ("u1 r1 0.2 0.1", "from 0.2 to 0.1 s is no part"),
    ],
)
def test_wrong_segments_are_refused(folder, segments, message):
    (folder / "wav.scp").write_text("r1 a.wav\n")
    (folder / "segments").write_text(f"{segments}\n")
    with pytest.raises(UserError, match=message):
        manifest.read(str(folder))


def test_nemo_json_lines(folder):
    entries = [
        {"audio_filepath": "a.wav", "duration": 0.3, "text": "one"},
        {"audio_filepath": "clips/b.wav", "duration": 0.1, "offset": 0.1, "text": "two"},
    ]
    path = folder / "nemo.json"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert read(path) == {
        "a": ("a.wav", "one", 0, None),
        "clips/b-0.1": ("b.wav", "two", 0.1, 0.2),
    }


def cut(name: str, file: str, start: float, duration: float, **changes) -> dict:
    source = {"type": "file", "channels": [0], "source": file} | changes
    recording = {"id": name, "sources": [source], "sampling_rate": 16000, "duration": 0.3}
    return {
        **{"id": name, "start": start, "duration": duration, "channel": 0, "type": "MonoCut"},
        **{"supervisions": [{"text": "one"}, {"text": "two"}], "recording": recording},
    }


def test_lhotse_cuts(folder):
    path = folder / "cuts.jsonl.gz"
    entries = [cut("c1", f"{folder}/a.wav", 0, 0.3), cut("c2", "clips/b.wav", 0.1, 0.1)]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
    found = read(path)
    assert found["c1"] == ("a.wav", "one two", 0, None)
    assert found["c2"][:3] == ("b.wav", "one two", 0.1) and found["c2"][3] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n', "has neither 'audio_filepath'.*it has a"),
        ('{"audio_filepath": "a.wav"}\n{broken\n', "line 2: is no JSON object in one line"),
        ('{"audio_filepath": "a.wav", "offset": "x"}\n', "'x' is no number of seconds"),
        (json.dumps(cut("c", "x", 0, 1, type="url")), "one source of type 'file', it has: url"),
    ],
)
def test_other_json_is_refused(folder, content, message):
    (folder / "m.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        manifest.read(str(folder / "m.jsonl"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", 'file,transcript\na.wav,"one, two"\nclips/b.wav,three\n'),
        ("m.csv", "wav;sentence\na.wav;one, two\nclips/b.wav;three\n"),
        ("validated.tsv", "client_id\tpath\tsentence\nx\ta.wav\tone, two\nx\tb.wav\tthree\n"),
        ("m.txt", "a.wav one, two\nclips/b.wav three\n"),
        ("m.tsv", "a.wav\tone, two\nclips/b.wav\tthree\n"),
        ("m.csv", '\ufeffAudio_Path,Text\r\na.wav,"one, two"\r\nb.wav,three\r\n'),
    ],
)
def test_tables_and_lists_by_other_names(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8", newline="")
    found = read(folder / name)
    assert [entry[:2] for entry in found.values()] == [("a.wav", "one, two"), ("b.wav", "three")]


def test_parts_in_a_table(folder):
    (folder / "m.csv").write_text("path,start,end,text\na.wav,0,0.1,one\na.wav,0.1,0.3,two\n")
    assert list(read(folder / "m.csv").values()) == [
        ("a.wav", "one", 0, 0.1),
        ("a.wav", "two", 0.1, 0.3),
    ]


def test_file_names_with_spaces_in_a_list(folder):
    (folder / "trans.txt").write_text("clips/c d.wav four five\n")
    assert list(read(folder / "trans.txt").values()) == [("c d.wav", "four five", 0, None)]


def test_transcripts_beside_the_audio_of_a_folder(folder):
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "clips/84-1.trans.txt").write_text("b THREE FOUR\n")
    found = read(folder)
    assert found["a"][1] == "one two" and found["clips/b"][1] == "THREE FOUR"
    assert found["clips/c d"][1] == ""


def test_transcripts_of_test_wavs(folder):
    (folder / "trans.txt").write_text("a.wav ONE\n")
    assert read(folder)["a"][1] == "ONE"


def test_audio_that_cannot_be_read_is_counted(folder):
    for name in ("x.pcm", "y.PCM", "clips/z.amr.gsm"):
        (folder / name).touch()
    remarks = manifest.remarks(str(folder))
    assert [remark.split(": ")[1].split(" file")[0] for remark in remarks] == ["1 .gsm", "2 .pcm"]
    only = folder / "only"
    only.mkdir()
    (only / "x.pcm").touch()
    with pytest.raises(UserError, match=r"no audio found .*1 \.pcm file\(s\) cannot be read"):
        manifest.read(str(only))


def test_all_other_files_of_a_folder_are_counted(folder):
    assert manifest.passed_over(str(folder)) == ""
    for name in ("notes.md", "b.MD", "._a.wav", "clips/.DS_Store", "LICENSE", "a.txt", "z.txt"):
        (folder / name).write_text("x")
    told = manifest.passed_over(str(folder)).partition("(")[2]
    expected = "2 .md, 1 .txt, 2 with a dot before the name, 1 without a suffix)"
    assert told == expected
    assert manifest.passed_over(str(folder / "a.wav")) == ""


def test_what_is_no_manifest_is_named(folder):
    (folder / "m.txt").write_text("hello\n")
    with pytest.raises(UserError, match=r"is no manifest that is known\. Known: a table"):
        kind_of(str(folder / "m.txt"))
    with pytest.raises(UserError, match="there is no such folder or manifest"):
        kind_of(str(folder / "none"))
