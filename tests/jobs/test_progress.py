"""Lines that tell how far a job is, in its log and on the console."""

import os
import re
import subprocess
import sys

from helpers.places import ROOT
from zipquant.jobs.progress import CONSOLE, Progress


def test_line_tells_done_rate_and_time_left(capsys):
    progress = Progress("chunks", 40, every=0)
    progress.advance(10, " (1 of 4 utterances)")
    line = capsys.readouterr().err
    found = re.fullmatch(
        r"10 of 40 chunks \(1 of 4 utterances\), ([\d.]+) a second, (\d+) s left\n", line
    )
    assert found and float(found[1]) > 0


def test_lines_are_rare_but_for_the_last(capsys):
    progress = Progress("chunks", 5, every=1000)
    for _ in range(5):
        progress.advance()
    assert capsys.readouterr().err.startswith("5 of 5 chunks, ")


def test_console_is_told_while_a_job_goes_on(monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setenv(CONSOLE, f"{writing}:traces/3")
    progress = Progress("chunks", 2, every=0)
    progress.advance()
    progress.advance()
    os.close(writing)
    with os.fdopen(reading) as file:
        assert re.fullmatch(r"traces/3: 1 of 2 chunks, .* s left\n", file.read())


def test_job_writes_its_output_to_the_log_and_progress_to_the_console(tmp_path):
    code = """
import sys
from types import SimpleNamespace
from job import run
from zipquant.jobs.progress import Progress
def work(total):
    progress = Progress("things", total, every=0)
    for _ in range(total):
        progress.advance()
snakemake = SimpleNamespace(
    log=[sys.argv[1]], input=[], output=[], resources={}, config={"results": ".", "job_hours": 1}
)
run(snakemake, work, total=3)
"""
    log = tmp_path / "logs" / "stage" / "7.log"
    log.parent.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", code, str(log)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
    )
    assert done.returncode == 0
    assert [line.split(",")[0] for line in done.stderr.splitlines()] == [
        "stage/7: 1 of 3 things",
        "stage/7: 2 of 3 things",
    ]
    written = log.read_text().splitlines()
    assert written[2].startswith("3 of 3 things, ")
    assert re.fullmatch(r"peak memory: \d+ MB", written[-2])
    assert written[-1] == "exit code: 0 (done)"
