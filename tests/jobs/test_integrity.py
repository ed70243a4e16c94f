"""Records of files: whatever happens to a result is noticed before it is read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.places import ROOT
from zipquant.errors import UserError
from zipquant.jobs import integrity


def make(results: Path, name: str, content: bytes = b"some content") -> Path:
    path = results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    integrity.begin(results, [path])
    integrity.seal(results, [path])
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    shutil.copy(make(path.parent.parent, "traces/other", b"its  content"), path)


DAMAGE = {
    "flipped bit": flip,
    "cut off": lambda path: os.truncate(path, 5),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "swapped": swap,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["traces/0.parquet", "model.json", "traces/0.h5"])
def test_damaged_file_is_named_and_deleted(tmp_path, name, damage):
    path = make(tmp_path, name)
    integrity.verify(tmp_path, [path])
    DAMAGE[damage](path)
    with pytest.raises(UserError, match=rf"{name} was damaged \(it has .*run the same command"):
        integrity.verify(tmp_path, [path])
    assert not path.exists()


def test_all_damaged_files_are_told_at_once(tmp_path):
    paths = [make(tmp_path, f"{number}.tsv") for number in range(3)]
    flip(paths[0])
    flip(paths[2])
    with pytest.raises(UserError, match=r"0\.tsv was damaged .*; .*2\.tsv was damaged"):
        integrity.verify(tmp_path, paths)
    assert [path.exists() for path in paths] == [False, True, False]


@pytest.mark.parametrize("damage", ["flipped bit", "emptied", "missing"])
def test_damaged_file_in_a_folder_deletes_the_folder(tmp_path, damage):
    for name in ("a.npy", "deep/b.npy"):
        make(tmp_path, f"arrays/{name}")
    (tmp_path / "arrays/.snakemake_timestamp").touch()
    integrity.seal(tmp_path, [tmp_path / "arrays"])
    integrity.verify(tmp_path, [tmp_path / "arrays"])
    victim = tmp_path / "arrays/deep/b.npy"
    victim.unlink() if damage == "missing" else DAMAGE[damage](victim)
    with pytest.raises(UserError, match=r"arrays was damaged \(deep/b\.npy: it "):
        integrity.verify(tmp_path, [tmp_path / "arrays"])
    assert not (tmp_path / "arrays").exists()


def test_unfinished_file_does_not_count(tmp_path):
    path = make(tmp_path, "a.tsv")
    integrity.begin(tmp_path, [path])
    with pytest.raises(UserError, match=r"a\.tsv was damaged \(the job that makes it was not fin"):
        integrity.verify(tmp_path, [path])
    assert not path.exists()


def test_file_without_a_record_is_refused_and_left_alone(tmp_path):
    (tmp_path / "results").mkdir()
    path = tmp_path / "results/mine.txt"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"mine\.txt .* no job has recorded"):
        integrity.verify(tmp_path / "results", [path])
    assert path.read_text() == "mine"


def test_files_outside_are_not_looked_at(tmp_path):
    path = tmp_path / "results2/audio.wav"
    path.parent.mkdir()
    path.touch()
    integrity.verify(tmp_path / "results", [path])


@pytest.mark.parametrize("kept", range(0, 100, 7))
def test_damaged_record_is_noticed(tmp_path, kept):
    path = make(tmp_path, "arrays/a.npy")
    make(tmp_path, "arrays/b.npy")
    integrity.seal(tmp_path, [path.parent])
    record = tmp_path / ".records/arrays.tsv"
    lines = record.read_bytes()
    assert len(lines) > 100
    record.write_bytes(lines[: len(lines) * kept // 100])
    assert integrity.problem(tmp_path, path.parent)


def test_moved_results_folder_keeps_its_records(tmp_path):
    make(tmp_path / "results", "traces/0.h5")
    moved = tmp_path / "elsewhere/moved"
    shutil.copytree(tmp_path / "results", moved)
    shutil.rmtree(tmp_path / "results")
    integrity.verify(moved, [moved / "traces/0.h5"])
    assert list(integrity.recorded(moved)) == [moved / "traces/0.h5"]


def test_of_a_large_file_that_checks_itself_pieces_are_compared(tmp_path):
    content = np.random.default_rng(0).bytes(3 << 20)
    path = make(tmp_path, "0.h5", content)
    assert not integrity.problem(tmp_path, path)
    for changed in (content[:-1] + bytes([content[-1] ^ 1]), bytes([content[0] ^ 1]) + content[1:]):
        path.write_bytes(changed)
        assert integrity.problem(tmp_path, path)
    path.write_bytes(np.random.default_rng(1).bytes(3 << 20))
    assert integrity.problem(tmp_path, path)
    plain = make(tmp_path, "0.parquet", content)
    flip(plain)
    assert integrity.problem(tmp_path, plain)


def test_record_belongs_to_one_path(tmp_path):
    make(tmp_path, "evaluation/0.parquet", b"shard 0")
    make(tmp_path, "evaluation/1.parquet", b"shard 1")
    for name in ("{}", ".records/{}.tsv"):
        source, copy = (tmp_path / name.format(f"evaluation/{n}.parquet") for n in (1, 0))
        shutil.copy(source, copy)
    with pytest.raises(
        UserError, match=r"0\.parquet was damaged \(its record .* is that of .*1\.p"
    ):
        integrity.verify(tmp_path, [tmp_path / "evaluation/0.parquet"])


def test_what_was_added_to_a_folder_is_refused_and_left_alone(tmp_path):
    make(tmp_path, "arrays/a.npy")
    integrity.seal(tmp_path, [tmp_path / "arrays"])
    mine = tmp_path / "arrays/mine.npy"
    mine.touch()
    with pytest.raises(UserError, match=r"arrays/mine\.npy is in a folder of results, but no job"):
        integrity.verify(tmp_path, [tmp_path / "arrays"])
    assert mine.exists() and (tmp_path / "arrays/a.npy").exists()


def test_of_a_damaged_folder_behind_a_link_the_link_alone_is_deleted(tmp_path):
    path = make(tmp_path / "results", "arrays/a.npy")
    integrity.seal(tmp_path / "results", [path.parent])
    (tmp_path / "results/arrays").rename(tmp_path / "moved")
    (tmp_path / "results/arrays").symlink_to(tmp_path / "moved")
    integrity.verify(tmp_path / "results", [path.parent])
    flip(path)
    with pytest.raises(UserError, match=r"arrays was damaged \(a\.npy: it has another"):
        integrity.verify(tmp_path / "results", [path.parent])
    assert not path.parent.is_symlink() and (tmp_path / "moved/a.npy").exists()


def test_folder_of_results_may_lie_on_another_disk(tmp_path):
    results = tmp_path / "results"
    make(results, "traces/0.h5")
    (results / "traces").rename(tmp_path / "disk")
    (results / "traces").symlink_to(tmp_path / "disk")
    assert list(integrity.unrecorded(results)) == []
    (tmp_path / "disk/mine").touch()
    (results / "more").symlink_to("/")
    assert list(integrity.unrecorded(results)) == ["more", "traces/mine"]


def test_check_names_what_no_job_has_made(tmp_path):
    make(tmp_path, "bundle/encoder.rknn")
    integrity.seal(tmp_path, [tmp_path / "bundle"])
    (tmp_path / ".records/bundle/encoder.rknn.tsv").unlink()
    for name in ("bundle/other.py", "bundle/more.py", "variants/odd", "logs/a.log", ".lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    command = [sys.executable, ROOT / "scripts/check_results.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    *named, last = done.stdout.splitlines()
    told = "no job has made this file; it is left alone"
    assert named == [
        f"{tmp_path / name}: {told}"
        for name in ("bundle/more.py", "bundle/other.py", "variants/odd")
    ]
    assert last.endswith("0 damaged, 3 that no job has made") and done.returncode == 1


def test_whole_results_folder_is_checked_by_a_command(tmp_path):
    paths = [make(tmp_path, name) for name in ("bundle.tar", "report/index.html", "model.json")]
    command = [sys.executable, ROOT / "scripts/check_results.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "3 files and folders compared with their records, 0 damaged, 0 that no job has made\n"
    )
    flip(paths[1])
    for option, left in (("--keep", True), ("--", False)):
        done = subprocess.run([*command, option], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and f"{paths[1]}" in done.stdout.splitlines()[0]
        assert paths[1].exists() == left


def test_half_a_record_of_a_killed_job_is_no_record(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    integrity.seal(tmp_path, [tmp_path / "a.txt"])
    (tmp_path / integrity.RECORDS / ".b.txt.part.tsv").touch()
    assert list(integrity.recorded(tmp_path)) == [tmp_path / "a.txt"]
