"""Folders, manifests and shards."""

import pytest

from helpers.audio import write_audio
from zipquant.audio import manifest
from zipquant.errors import UserError


def test_folder_is_searched_recursively_and_sorted(tmp_path):
    for name in ("b.wav", "x/a.flac", "x/A b.WAV", "notes.txt", ".hidden.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [u.id for u in manifest.read(str(tmp_path))] == ["b", "x/A b", "x/a"]


def test_manifest_paths_are_relative_to_it(tmp_path):
    write_audio(tmp_path / "audio/a.wav", 0.1)
    (tmp_path / "m.tsv").write_text("id\tpath\ttext\nu1\taudio/a.wav\tone two\n")
    (read,) = manifest.read(str(tmp_path / "m.tsv"))
    assert read == manifest.Utterance("u1", str(tmp_path / "audio/a.wav"), "one two")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\tplace\n", "is no manifest that is known"),
        ("id\tpath\nu1\tnone.wav\n", r"line 2: there is no file .*none\.wav"),
        ("id\tpath\nu1\n", "line 2: id or path is empty"),
        ("id\tpath\n", "no audio found"),
        ("id\tpath\nu1\ta.wav\nu1\tb.wav\n", r"id 'u1': .*a\.wav and .*b\.wav"),
        ("id\tpath\ttext\nu1\ta.wav\tone\ttwo\n", "line 2: 4 columns, the first line has 3: a tab"),
        ("id\tpath\ttext\ttext\nu1\ta.wav\ta\tb\n", "2 columns are called 'text'"),
        ("id\tpath\ttext\tText\nu1\ta.wav\ta\tb\n", "2 columns are called 'text'"),
        ("id\tpath\nu1\ta.wav\nu2\ta.wav\n", "line 3: the same file as in line 2"),
    ],
)
def test_broken_manifest_is_refused(tmp_path, content, message):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    (tmp_path / "m.tsv").write_text(content)
    with pytest.raises(UserError, match=message):
        manifest.read(str(tmp_path / "m.tsv"))


@pytest.mark.parametrize("header", ["ID\tPath\tText", " id\tpath \tTEXT", "\ufeffid\tpath\ttext"])
def test_names_of_columns_are_read_as_people_write_them(tmp_path, header):
    (tmp_path / "a.wav").touch()
    (tmp_path / "m.tsv").write_text(f"{header}\nu1\ta.wav\tone\n")
    (read,) = manifest.read(str(tmp_path / "m.tsv"))
    assert (read.id, read.text) == ("u1", "one")
    assert manifest.remarks(str(tmp_path / "m.tsv")) == []


def test_other_columns_without_transcripts_are_told(tmp_path):
    (tmp_path / "m.tsv").write_text("id\tpath\twords\tspeaker\n")
    (told,) = manifest.remarks(str(tmp_path / "m.tsv"))
    assert "'words', 'speaker' none is called 'text'" in told
    (tmp_path / "m.tsv").write_text("id\tpath\n")
    assert manifest.remarks(str(tmp_path / "m.tsv")) == []
    assert manifest.remarks(str(tmp_path)) == []


def test_manifest_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "m.tsv").write_bytes(b"id\tpath\n\xff\xfe\t\x80\n")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        manifest.read(str(tmp_path / "m.tsv"))


def test_same_stem_twice_is_refused(tmp_path):
    for name in ("a.wav", "a.flac"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="have the id 'a'"):
        manifest.read(str(tmp_path))


def test_shards_share_the_utterances_evenly():
    counts = [0] * 10
    for number in range(5000):
        counts[manifest.shard_of(f"utterance-{number}", 10)] += 1
    assert min(counts) > 420 and max(counts) < 580


def test_shard_of_an_utterance_never_changes():
    # Another hash would move every user's utterances and recompute everything.
    assert [manifest.shard_of(name, 16) for name in ("a", "b/c", "语音")] == [15, 3, 6]
