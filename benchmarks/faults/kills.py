"""SIGKILL of the run, of a job and of all its processes: what was finished stays."""

import contextlib
import csv
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil

from project import ENVIRONMENT, check_same, command, make_project, note
from zipquant.jobs import integrity

LIGHT = 3


HEAVY = 4
"""Kills for each rule."""


HEAVY_RULES = ("calibration", "quantize", "evaluate")


MINUTES = 60.0
"""How long the part `kills` goes on killing; what is left then runs through undisturbed."""


def kills(reference: Path, scratch: Path) -> dict:
    project = make_project(scratch / "killed")
    expected = durations(reference)
    left = {rule: HEAVY if rule in HEAVY_RULES else LIGHT for rule in expected}
    count: dict[str, Counter] = {rule: Counter() for rule in left}
    before: dict[Path, int] = {}
    whom = ["the run", "the job", "the process group"]
    end_of_kills = time.monotonic() + 60 * MINUTES
    while True:
        with open(scratch / "killed.log", "ab") as log:
            run = subprocess.Popen(
                command(),
                cwd=project,
                env=ENVIRONMENT,
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        victim = None
        while run.poll() is None and victim is None:
            job = job_of(run) if time.monotonic() < end_of_kills else None
            if job and left.get(job[0], 0) > 0:
                victim = job
            time.sleep(0.01)
        if victim is None:
            if run.returncode != 0:
                raise SystemExit(f"a resumed run failed: see {scratch / 'killed.log'}")
            break
        rule, pid = victim
        end = time.monotonic() + random.uniform(0, 0.9) * expected[rule]
        at_write = left[rule] % 2 == 0
        if at_write:  # wait for a half written file, at most as long as the job takes
            end = time.monotonic() + expected[rule]
        while time.monotonic() < end and psutil.pid_exists(pid):
            if at_write and half_written(project):
                break
            time.sleep(0.002)
        alive = psutil.pid_exists(pid)
        target = whom[sum(map(sum, (c.values() for c in count.values()))) % 3]
        if not alive and target == "the job":
            target = "the run"
        # What was finished before: it has to be there after, and not to be done again.
        check_kept(project, before)
        with contextlib.suppress(ProcessLookupError):
            if target == "the process group":
                os.killpg(run.pid, signal.SIGKILL)
            else:
                os.kill(run.pid if target == "the run" else pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(60)
        left[rule] -= 1
        if alive:
            count[rule][target + (", in mid-write" if half_written(project) else "")] += 1
        else:
            count[rule]["between two jobs"] += 1
        wait_for_silence(project)
        script = {"inspect_model": "inspect"}.get(rule, rule)
        before = {p: t for p, t in sealed(project).items() if not made_by(script, p, project)}
        for path in before:
            if wrong := integrity.problem(project / "results", path):
                note("silently_wrong", f"{path.relative_to(project)}: {wrong} after a kill")
        print(f"killed {target} in {rule} ({'at work' if alive else 'done'})", flush=True)
    check_kept(project, before)
    check_same(reference, project, "kills")
    for path in (project / "results").rglob(".*.part*"):
        note("silently_wrong", f"{path} was left behind")
    return {rule: dict(sorted(kinds.items())) for rule, kinds in sorted(count.items()) if kinds}


def sealed(project: Path) -> dict[Path, int]:
    """The finished files of a project, with their time of change."""
    results = project / "results"
    found = {}
    for path in integrity.recorded(results):
        record = results / integrity.RECORDS / f"{path.relative_to(results)}.tsv"
        if record.stat().st_size and path.exists():
            found[path] = record.stat().st_mtime_ns
    return found


def check_kept(project: Path, before: dict[Path, int]) -> None:
    now = sealed(project)
    for path, changed in before.items():
        if now.get(path) != changed:
            note("lost", f"{path.relative_to(project)} was gone or done again")


def job_of(run: subprocess.Popen) -> tuple[str, int] | None:
    """The rule's script that is at work below a run, and its process."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(run.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                for argument in process.cmdline():
                    found = re.search(r"\.snakemake/scripts/\w+\.(\w+)\.py$", argument)
                    if found and "python" in process.name():
                        return found[1], process.pid
    return None


def durations(reference: Path) -> dict[str, float]:
    """Seconds of the longest job of each script, by its log's folder and Snakemake's benchmarks."""
    found: dict[str, float] = {}
    folder = reference / "results/benchmarks"
    names = {"inspect": "inspect_model"}
    for path in folder.rglob("*.tsv"):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        with open(path) as file:
            seconds = float(next(csv.DictReader(file, delimiter="\t"))["s"])
        rule = names.get(rule, rule)
        found[rule] = max(found.get(rule, 0), seconds)
    return found


def half_written(project: Path) -> bool:
    return any((project / "results").rglob(".*.part*"))


MADE_BY = {
    "inspect": "model.json", "index": "index/.*/\\d+", "overlap": "index/overlap",
    "features": "features", "traces": "traces", "sample": "calibration/.*tsv",
    "calibration": "calibration", "prepare": "prepared/.*onnx", "prove": "prepared/.*json",
    "quantize": "variants", "encode": "encoded/float", "evaluate": "evaluation|encoded/int8",
    "decode": "texts", "choose": "best", "convert": "recognizer",
    "verify": "recognizer/.*json", "decode_rknn": "texts/rknn", "score": "scores",
    "plain_encoder": "plain_encoder", "bundle": "bundle", "report": "report",
}  # fmt: skip


def made_by(rule: str, path: Path, project: Path) -> bool:
    """Whether a file may be of the killed job, which is done again."""
    return bool(re.match(MADE_BY[rule], str(path.relative_to(project / "results"))))


def wait_for_silence(project: Path) -> None:
    """Nothing may work on in the project once its run was killed."""
    end = time.monotonic() + 10
    while at_work := [
        process.pid
        for process in psutil.process_iter(["cwd", "name"])
        if process.info["cwd"] == str(project) and "python" in process.info["name"]
    ]:
        if time.monotonic() > end:
            note("silently_wrong", f"processes {at_work} work on after a kill")
            return
        time.sleep(0.05)
