"""Full and read-only disks, a moved folder, two runs at once, a clock that is wrong."""

import contextlib
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from kills import job_of
from project import ENVIRONMENT, check_same, command, configure, errors_of, note, snakemake, succeed


def places(reference: Path, scratch: Path) -> dict:
    found: dict = {"disk full during": full_disk(reference, scratch)}

    project = scratch / "read-only"
    shutil.copytree(reference, project, symlinks=True)
    take_away(project / "results")
    results = project / "results"
    for action in (["--bind", results, results], ["-o", "remount,bind,ro", results]):
        subprocess.run(["mount", *action], check=True)
    try:
        done = snakemake(project)
    finally:
        subprocess.run(["umount", results], check=True)
    # Snakemake itself refuses where it finds old outputs that it could not replace.
    reported = [*errors_of(done), *re.findall("Write-protected output files", done.stderr)]
    words = ("cannot write to the results", "Write-protected")
    if done.returncode == 0 or not any(word in line for word in words for line in reported):
        note("silently_wrong", f"a read-only results folder: {done.stderr[-300:]}")
    succeed(project)
    check_same(reference, project, "a read-only results folder")
    found["read-only results folder"] = "reported before any job; the same command went on later"

    (project / "elsewhere").mkdir()
    results.rename(project / "elsewhere/moved")
    configure(project, results="elsewhere/moved")
    done = snakemake(project, "--dry-run", "--quiet", "rules")
    jobs = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    again = [name for name, _ in jobs if name not in ("all", "total", "report")]
    if done.returncode or again:
        note("lost", f"a moved results folder: {again or done.stderr[-300:]} would be done again")
    succeed(project)
    check_same(reference, project, "a moved results folder", "elsewhere/moved")
    found["moved results folder"] = "nothing was computed again but the report, which names it"

    (project / "elsewhere/moved").rename(results)
    configure(project)
    take_away(results)
    first = subprocess.Popen(
        command(), cwd=project, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    while not job_of(first) and first.poll() is None:
        time.sleep(0.05)
    done = snakemake(project, "results/report/index.html", "--forcerun", "score")
    reported = errors_of(done)
    if done.returncode == 0 or not any("another run" in e for e in reported):
        note("silently_wrong", f"two runs at once: {done.stderr[-300:]}")
    if first.wait():
        note("lost", "the first of two runs failed")
    check_same(reference, project, "two runs at once")
    found["two runs at once"] = "the second was refused, the first went on"

    take_away(results)
    # To all files of a project, a clock set back by a day is a date a day later.
    shift_dates(project, 86400)
    done = snakemake(project)
    reported = "clock skew" in done.stderr
    if done.returncode and not reported:
        note("lost", f"a clock set back: {done.stderr[-500:]}")
    shift_dates(project, -86400)
    succeed(project)
    check_same(reference, project, "a clock set back")
    found["clock set back by a day"] = (
        "Snakemake reported the clock; the same command went on when it was right"
        if reported
        else "the run went on"
    )
    later = time.time() + 86400
    for path in [*(project / "audio").rglob("*.wav"), *(project / "models").rglob("*.onnx")]:
        os.utime(path, (later, later))
    done = snakemake(project, "--dry-run", "--quiet", "rules")
    jobs = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    again = [name for name, _ in jobs if name not in ("all", "total")]
    if again:
        note("lost", f"files of the future: {again} would be done again")
    found["audio and models dated tomorrow"] = "nothing was computed again"
    return found


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


FULL = {
    "features": ("features/calibration", "features/calibration/{shard}.h5"),
    "traces": ("traces", "traces/{shard}.h5"),
    "calibration": ("calibration/arrays", "calibration/dataset.txt"),
    "prepare": ("prepared", "prepared/encoder.onnx"),
    "quantize": ("variants/int8", "variants/int8/build.json"),
    "evaluate": ("evaluation/int8", "evaluation/int8/0.parquet"),
    "convert": ("recognizer", "recognizer/decoder.rknn"),
    "report": ("report", "report/index.html"),
    "bundle": ("bundle", "bundle.tar"),
}
"""What each of these rules makes, and a target."""


def full_disk(reference: Path, scratch: Path) -> dict:
    found = {}
    project = scratch / "full"
    shutil.copytree(reference, project, symlinks=True)
    results, kept = project / "results", project / "kept"
    results.rename(kept)
    with small_disk(results, 200):
        shutil.copytree(kept, results, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(kept)
        shard = next((results / "traces").glob("*.h5")).stem
        for rule, (output, target) in FULL.items():
            size = sum(f.stat().st_size for f in (results / output).rglob("*") if f.is_file())
            path = results / target.format(shard=shard)
            # What the rule has made before goes, and less room is left than it took.
            for file in (results / output, path):
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
            fill(results, random.randrange(max(1, size // 4), max(2, size // 2)))
            done = snakemake(project, str(path.relative_to(project)))
            reported = errors_of(done)
            full = [e for e in reported if "disk is full" in e or "No space left" in e]
            if done.returncode == 0:
                outcome = "there was room enough"
            elif full:
                outcome = "reported"
            else:
                outcome = f"failed with: {reported[:1] or done.stderr[-300:]}"
                note("silently_wrong", f"a full disk during {rule}: {outcome}")
            (results / "filler").unlink()
            succeed(project, str(path.relative_to(project)))
            found[rule] = outcome
            print(f"disk full during {rule}: {outcome}", flush=True)
        check_same(reference, project, "full disks")
    return found


def fill(folder: Path, room: int) -> None:
    """Leave some bytes of a disk free."""
    with open(folder / "filler", "wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    size = os.path.getsize(folder / "filler")
    free = shutil.disk_usage(folder).free
    os.truncate(folder / "filler", max(0, size - max(0, room - free)))


def take_away(results: Path) -> None:
    """Leave something to do: what is missing is only made where a target waits for it."""
    for name in ("best.json", "report/index.html"):
        (results / name).unlink()


def shift_dates(folder: Path, seconds: int) -> None:
    for path in folder.rglob("*"):
        found, by = path.lstat(), seconds * 10**9
        dates = (found.st_atime_ns + by, found.st_mtime_ns + by)
        os.utime(path, ns=dates, follow_symlinks=False)
