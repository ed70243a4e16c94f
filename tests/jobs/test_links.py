"""Links in the results folder lead to files of somebody's own, which stay as they are."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import ROOT
from zipquant.errors import UserError, plain
from zipquant.jobs import files, integrity, processes

JOB = """
import sys
from types import SimpleNamespace
from job import run
run(SimpleNamespace(rule="stage", log=["results/a.log"], input=[], output=["results/out.txt"],
    resources={}, config={"results": "results", "job_hours": 1}),
    lambda: open("results/out.txt", "w").write("made") and None)
"""


@pytest.fixture
def precious(tmp_path) -> Path:
    (tmp_path / "results").mkdir()
    path = tmp_path / "precious"
    path.write_text("mine")
    return path


def test_lock_that_is_a_link_is_refused(precious):
    lock = precious.parent / "results" / processes.LOCK
    lock.symlink_to(precious)
    with pytest.raises(UserError, match=r"\.lock is a link: delete it"):
        processes.hold(lock.parent)
    assert precious.read_text() == "mine"
    lock.unlink()
    processes.hold(lock.parent).close()


def test_log_that_is_a_link_is_written_in_its_place(precious):
    log = precious.parent / "results/a.log"
    log.symlink_to(precious)
    subprocess.run(
        [sys.executable, "-c", JOB],
        cwd=precious.parent,
        env={"PYTHONPATH": str(ROOT / "scripts"), "PATH": "/usr/bin:/bin"},
        check=True,
        timeout=60,
    )
    assert precious.read_text() == "mine"
    assert not log.is_symlink() and "peak memory" in log.read_text()


def test_record_and_temporary_file_that_are_links_are_replaced(precious):
    results = precious.parent / "results"
    for name in (f"{integrity.RECORDS}/a.tsv", "a", ".a.part"):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).symlink_to(precious)
    integrity.begin(results, [results / "a"])
    files.write_text(results / "a", "made")
    integrity.seal(results, [results / "a"])
    assert precious.read_text() == "mine"
    assert not integrity.problem(results, results / "a")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\rb\x7f\x9b", r"a\x0db\x7f\x9b"),
        ("\u202ereversed", r"\u202ereversed"),
        ("n\udcff", r"n\xff"),
        ("语音 é\tone\n", "语音 é\tone\n"),
    ],
)
def test_control_characters_are_written_out(tmp_path, text, shown):
    assert plain(text) == shown and str(UserError(text)) == shown
    with files.tsv_writer(tmp_path / "a.tsv") as table:
        table.writerow([text, 3])
    assert not set("\x1b\r\x7f\x9b\u202e") & set((tmp_path / "a.tsv").read_text().rstrip("\r\n"))
