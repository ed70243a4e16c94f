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
    told = manifest.passed_over(str(folder))
    assert "(2 .md, 1 .txt, 2 with a dot before the name, 1 without a suffix)" in told
    assert manifest.passed_over(str(folder / "a.wav")) == ""


def test_what_is_no_manifest_is_named(folder):
    (folder / "m.txt").write_text("hello\n")
    with pytest.raises(UserError, match=r"is no manifest that is known\. Known: a table"):
        kind_of(str(folder / "m.txt"))
    with pytest.raises(UserError, match="there is no such folder or manifest"):
        kind_of(str(folder / "none"))


def test_commands_that_only_decode_need_not_be_run(folder):
    wav = folder / "a.wav"
    lines = [
        f"u1 flac -c -d -s {wav} |",
        f"u2 sox '{wav}' -t wav -r 16000 - |",
        f"u3 ffmpeg -v 8 -i {wav} -f wav -ar 16000 -ac 1 - |",
        f"u4\tcat {wav} |",
    ]
    (folder / "wav.scp").write_text("".join(f"{line}\n" for line in lines))
    assert {name: entry[0] for name, entry in read(folder).items()} == dict.fromkeys(
        ("u1", "u2", "u3", "u4"), "a.wav"
    )
    for other in (f"sox {wav} -t wav - speed 1.1 |", f"ffmpeg -ss 3 -i {wav} - |", "touch x |"):
        (folder / "wav.scp").write_text(f"u1 {other}\n")
        with pytest.raises(UserError, match="the recording is made by a command"):
            read(folder)
    assert not (folder / "x").exists()


def test_paths_of_kaldi_relative_to_a_folder_above(folder):
    data = folder / "data/train"
    data.mkdir(parents=True)
    (data / "wav.scp").write_text("r1\tclips/b.wav\n")
    (data / "segments").write_text("u1 r1 0.05 -1\n")
    (data / "text").write_bytes("\ufeffu1\tONE  TWO\r\n".encode())
    assert read(data) == {"u1": ("b.wav", "ONE TWO", 0.05, None)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.list", '{"key": "a", "wav": "a.wav", "txt": "one two"}\n'),
        ("metadata.jsonl", '{"file_name": "a.wav", "transcription": "one  two", "id": "a"}\n'),
        ("m.json", '[\n{"audio_filepath": "a.wav",\n "text": "one two", "duration": 9}\n]'),
        ("m.jsonl", '{"audio": {"path": "a.wav"}, "sentence": "one two"}\n'),
        ("metadata.csv", "a|1 two|one two\n"),
        ("m.csv", "a.wav,one two\n"),
        ("m.csv", 'path,text\n.\\a.wav,"one\ntwo"\n'),
        ("my.scp.txt", "a a.wav\n"),
        ("test.tsv", "a\ta.wav\tone two\tO N E\t16000\n"),
        ("m.csv", "id|wav|text\na|a.wav|one two\n"),
    ],
)
def test_other_forms_that_people_have(folder, name, content):
    (folder / name).write_text(content)
    ((id_, entry),) = read(folder / name).items()
    assert (id_, entry[0], entry[2:]) == ("a", "a.wav", (0, None))
    assert entry[1] == ("" if name == "my.scp.txt" else "one two")


def test_parts_of_one_file_end_where_their_duration_says(folder):
    entries = [
        {"audio_filepath": "a.wav", "duration": 0.1, "offset": start, "text": "x"}
        for start in (0.0, 0.1, 0.2)
    ]
    (folder / "m.json").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert {n: e[2:] for n, e in read(folder / "m.json").items()} == {
        "a-0": (0, 0.1),
        "a-0.1": (0.1, 0.2),
        "a-0.2": (0.2, pytest.approx(0.3)),
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
def test_encodings(folder, encoding):
    (folder / "m.tsv").write_bytes("path\ttext\r\na.wav\t你好\r\n".encode(encoding))
    (folder / "a.TXT").write_bytes("你好".encode(encoding))
    for source in (folder / "m.tsv", folder):
        if encoding == "gbk":
            with pytest.raises(UserError, match=r"is not UTF-8 text .* iconv -f GBK -t UTF-8"):
                read(source)
        else:
            assert read(source)["a"][1] == "你好"


def test_lists_elsewhere_in_a_folder(folder):
    (folder / "transcript").mkdir()
    (folder / "transcript/all_v0.8.txt").write_text("a 而 对\nb 楼市\nz 没有\n")
    (folder / "clips/b2.trans.txt").write_text("")
    (folder / "readme.txt").write_bytes("a 说明".encode("gbk"))
    found = read(folder)
    assert (found["a"][1], found["clips/b"][1], found["clips/c d"][1]) == ("而 对", "楼市", "")
    assert "(1 .txt)" in manifest.passed_over(str(folder))


def test_a_list_at_the_top_is_of_the_folders_below(folder):
    (folder / "a.wav").unlink()
    (folder / "transcripts.txt").write_text("b\tthree four\nx\tfive\n")
    assert read(folder)["clips/b"][1] == "three four"


def test_one_recording_is_a_source(folder):
    assert read(folder / "clips/c d.wav") == {"c d": ("c d.wav", "", 0, None)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # Without the time of day, which would give each process that collects tests another name.
        (
            "m.jsonl.gz",
            gzip.compress(b'{"a": 1}', mtime=0)[:-9],
            "is no gzip file, or not a whole one",
        ),
        ("m.jsonl.gz", b"\x1f\x8b123", "is no gzip file, or not a whole one"),
        ("data.tar.xz", b"x", "is an archive: unpack it"),
        ("m.csv", b"", "is empty"),
        ("m.csv", b"path\thttps\nhttps://x.y/a.wav\t1\n", "is an address, not a file"),
        ("r.jsonl", b'{"id": "r", "sources": [], "duration": 1}', "is a recording of Lhotse"),
        ("x.jsonl", b'{"id": "r", "tracks": []}', "is a mixed cut of Lhotse"),
        ("n.jsonl", b'{"recording": 3}', "the recording must have one source of type 'file'"),
        ("d.jsonl", b'{"wav": "a.wav"}\n' * 2, "has the id 'a-0' twice"),
    ],
)
def test_more_that_is_refused(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(folder / name)


def test_texts_of_the_same_name_elsewhere_and_of_other_endings(folder):
    (folder / "txt").mkdir()
    (folder / "txt/b.txt").write_text("three")
    assert read(folder)["clips/b"][1] == "three"
    assert manifest.passed_over(str(folder)) == ""
    (folder / "a.normalized.txt").write_text("one two")
    (folder / "clips/b.lab").write_text("four")
    found = read(folder)
    assert (found["a"][1], found["clips/b"][1]) == ("one two", "four")


def test_parts_by_duration_in_a_table(folder):
    (folder / "m.tsv").write_text("path\toffset\tduration\na.wav\t0.1\t0.1\na.wav\t0.0\t0.1\n")
    assert {e[2:] for e in read(folder / "m.tsv").values()} == {(0, 0.1), (0.1, 0.2)}


@pytest.mark.parametrize("times", ["nan\t1", "0\tinf", "0\tnan", "-1\t1", "1\t0.5", "inf\t"])
def test_times_that_are_none_are_refused(folder, times):
    (folder / "m.tsv").write_text(f"path\tstart\tend\na.wav\t{times}\n")
    with pytest.raises(UserError, match="is no part of a recording"):
        read(folder / "m.tsv")


@pytest.mark.parametrize("name", ["m.xlsx", "m.parquet"])
def test_tables_of_other_programs(folder, name):
    (folder / name).write_bytes(b"PK" + bytes(60))
    with pytest.raises(UserError, match="is a table of another program: save it as CSV in UTF-8"):
        read(folder / name)
