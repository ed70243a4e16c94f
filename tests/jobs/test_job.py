"""The process around every job: its limits, its errors, and its end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.places import ROOT, small_disk
from zipquant.jobs import endings
from zipquant.jobs.endings import Ending

SCRIPT = """
import errno, fcntl, os, signal, sys, time
from types import SimpleNamespace
from job import run
from zipquant.jobs import processes
from zipquant.errors import UserError

def succeed(): open(snakemake.output[0], "w").write("made")
def refuse(): raise UserError("no such\\nthing")
def break_off(): raise ValueError("a fault")
def fill(): raise OSError(errno.ENOSPC, "No space left on device", "results/out.txt")
def abort(): os.abort()
def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def exit_early(): os._exit(0)
def eat(): held = [b"x" * 2**20 * 10 for _ in range(40)]; time.sleep(30)
def hang(): time.sleep(30)

snakemake = SimpleNamespace(
    rule="stage", log=["results/logs/job.log"], input=INPUTS, output=OUTPUTS,
    resources={"mem_mb": 200}, config={"results": "results", "job_hours": HOURS},
)
run(snakemake, FUNCTION)
"""


def command(
    function: str, inputs: str = "[]", output: str = "out.txt", hours: float = 1
) -> list[str]:
    given = {"FUNCTION": function, "INPUTS": inputs, "HOURS": str(hours)}
    given["OUTPUTS"] = f"['results/{output}']"
    code = SCRIPT
    for name, value in given.items():
        code = code.replace(name, value)
    return [sys.executable, "-c", code]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "results/logs").mkdir(parents=True)
    return tmp_path


def run(folder: Path, *arguments, **options) -> tuple[int, str]:
    """Run a job, and return its exit code and its log."""
    given = command(*arguments, **options)
    done = subprocess.run(given, cwd=folder, env=ENVIRONMENT, capture_output=True, timeout=60)
    return done.returncode, (folder / "results/logs/job.log").read_text()


def test_what_a_job_has_made_is_recorded_and_what_is_damaged_is_refused(folder):
    made = folder / "results/out.txt"
    reader = {"inputs": "['results/out.txt']", "output": "second.txt"}
    assert run(folder, "succeed")[0] == 0
    assert run(folder, "succeed", **reader)[0] == 0
    made.write_text("changed")
    code, log = run(folder, "succeed", **reader)
    assert code == Ending.FINAL and "error: results/out.txt was damaged" in log
    assert not made.exists()


def test_what_a_failed_job_leaves_does_not_count(folder):
    (folder / "results/out.txt").write_text("half")
    assert run(folder, "refuse")[0] == Ending.FINAL
    code, log = run(folder, "succeed", inputs="['results/out.txt']", output="second.txt")
    assert (
        code == Ending.FINAL
        and "out.txt was damaged (the job that makes it was not finished)" in log
    )


@pytest.mark.parametrize(
    ("function", "ending", "expected"),
    [
        ("refuse", Ending.FINAL, "error: no such thing\n"),
        ("break_off", Ending.FAULT, "error: this is a fault of Zipquant"),
        (
            "fill",
            Ending.FINAL,
            "error: results/out.txt: the disk is full; free some space, and run the same",
        ),
        ("abort", Ending.KILLED, "error: the job was killed by SIGABRT"),
        ("crash", Ending.KILLED, "error: the job was killed by SIGSEGV"),
        ("exit_early", Ending.FAULT, "error: the job ended without a word"),
        (
            "eat",
            Ending.LIMIT,
            "error: the job took more than the 200 MB of memory that its rule has",
        ),
    ],
)
def test_failed_job_is_one_plain_error_and_says_whether_to_try_again(
    folder, function, ending, expected
):
    code, log = run(folder, function)
    assert code == ending == endings.of_log(folder / "results/logs/job.log")
    (line,) = [line for line in log.splitlines(keepends=True) if line.startswith("error: ")]
    assert line.startswith(expected)


def test_crash_on_a_full_disk_is_laid_to_the_disk(folder):
    results = folder / "results"
    with small_disk(results, "512k"):
        (results / "logs").mkdir()
        code, log = run(folder, "crash")
    assert (
        code == Ending.FINAL and "error: results: the disk is full" in log and "SIGSEGV" not in log
    )


def test_job_that_takes_too_long_is_ended(folder):
    code, log = run(folder, "hang", hours=0.5 / 3600)
    assert code == Ending.LIMIT and "error: the job took more than 0.0001" in log


def test_same_job_is_not_done_twice_at_once(folder):
    with subprocess.Popen(command("hang"), cwd=folder, env=ENVIRONMENT) as first:
        wait_for(lambda: (folder / "results/.records/out.txt.tsv").exists())
        second = subprocess.run(
            command("succeed"), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
        )
        first.kill()
    assert second.returncode == 1 and "error: another run is doing this job" in second.stderr


@pytest.mark.parametrize("killed", ["the job", "the run"])
def test_nothing_works_on_after_the_job_or_the_run_was_killed(folder, killed):
    code = f"""
import subprocess, sys, time
from zipquant.jobs import processes
processes.announce()
job = subprocess.Popen(["/bin/sh", "-c", '"$@"; exit 1', "sh", *{command("hang")!r}])
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT) as main:
        wait_for(lambda: (folder / "results/.records/out.txt.tsv").exists())
        job = next(p for p in at_work(folder) if p != main.pid)
        os.kill(job if killed == "the job" else main.pid, signal.SIGKILL)
        wait_for(lambda: set(at_work(folder)) <= {main.pid})
        main.kill()


def at_work(folder: Path) -> list[int]:
    """The Python processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                os.readlink(process / "cwd") == str(folder)
                and b"python" in (process / "cmdline").read_bytes().split(b"\0")[0]
            ):
                found.append(int(process.name))
        except OSError:
            pass
    return found


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
