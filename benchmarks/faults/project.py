"""The small project that the campaign works on, and how two runs of it are compared."""

import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from helpers.audio import write_audio
from zipquant.jobs import integrity

ROOT = Path(__file__).resolve().parent.parent.parent


PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "envs", "profiles", "models")


COMPARED = (
    *("index", "features", "traces", "calibration", "prepared", "evaluation", "encoded", "texts"),
    *("scores", "model.json", "recognizer/decoder.json", "recognizer/joiner.json"),
)
"""What two runs have in common to the byte. Models differ in their bytes from build to build, and
build.json and the report hold durations; what the models compute is compared by the evaluation."""


NOT_COMPARED = (*integrity.IGNORED, "0.time.json")
"""Files in these folders that hold durations."""


OUTCOME: dict[str, list[str]] = {"lost": [], "silently_wrong": []}


def note(kind: str, what: str) -> None:
    OUTCOME[kind].append(what)
    print(f"{kind.upper()}: {what}", flush=True)


def make_project(folder: Path) -> Path:
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        folder.mkdir(parents=True, exist_ok=True)
        copy(ROOT / part, folder / part)
    for number in range(4):
        write_audio(folder / f"audio/calibration/c{number}.wav", 1.0 + 0.3 * number, number)
    write_audio(folder / "audio/evaluation/e0.wav", 1.2, 100)
    configure(folder)
    return folder


def configure(folder: Path, **changes) -> None:
    audio = {
        "calibration": "audio/calibration",
        "evaluation": "audio/evaluation",
        "shards": {"calibration": 2, "evaluation": 1},
    }
    given = {
        "audio": audio,
        "calibration": {"rows": 6},
        # One variant, without the search for float16 layers, which takes minutes.
        "variants": {"int8": {"mixed_precision": None}, "fp16": None},
        "evaluation": {"long_stream": 3, "one_step_chunks": 1},
    } | changes
    (folder / "my.yaml").write_text(yaml.safe_dump(given))


ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def command(*targets: str) -> list[str]:
    options = ("--cores", "1", "--configfile", "my.yaml")
    return [sys.executable, "-m", "snakemake", *targets, *options]


def snakemake(project: Path, *targets: str, **options) -> subprocess.CompletedProcess:
    given = [*options.pop("before", ()), *command(*targets)]
    return subprocess.run(
        given, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, timeout=1800
    )


def succeed(project: Path, *targets: str) -> str:
    """Run, again if something damaged was found, and return all that was printed."""
    printed = ""
    for _ in range(12):
        done = snakemake(project, *targets)
        printed += done.stdout + done.stderr
        if done.returncode == 0:
            return printed
        if "run the same command again" not in done.stderr:
            break
    raise SystemExit(f"no success in {project}:\n{printed}")


def errors_of(done: subprocess.CompletedProcess) -> list[str]:
    """The plain errors of a failed run; a traceback is a fault of ours."""
    output = done.stdout + done.stderr
    if "Traceback" in output:
        note("silently_wrong", f"a traceback: {output[-2000:]}")
    return [line for line in output.splitlines() if line.startswith("error: ")]


def plan(project: Path, *options: str) -> tuple[set[str], list[str]]:
    """The rules that a dry run would do jobs of, and its errors."""
    done = snakemake(project, "--dry-run", "--quiet", "rules", *options)
    jobs = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return {name for name, _ in jobs if name not in ("all", "total")}, errors_of(done)


def compare(reference: Path, project: Path, results: str = "results") -> list[str]:
    """Return what differs of the files that any two runs have in common."""
    different = []
    for name in COMPARED:
        base = reference / "results" / name
        for path in [base] if base.is_file() else sorted(base.rglob("*")):
            other = project / results / path.relative_to(reference / "results")
            if not path.is_file() or path.name in NOT_COMPARED:
                continue
            if not other.is_file() or not filecmp.cmp(path, other, shallow=False):
                different.append(str(other.relative_to(project)))
    return different


def check_same(reference: Path, project: Path, after: str, results: str = "results") -> None:
    for path in compare(reference, project, results):
        note("silently_wrong", f"{path} differs after {after}")
