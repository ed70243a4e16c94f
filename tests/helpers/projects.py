"""Copies of the workflow with a little audio of their own, and running Snakemake in them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from helpers.audio import write_audio
from helpers.places import ROOT

PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "envs", "profiles", "models")


CALIBRATION_FILES = 6
EVALUATION_FILES = 2
AUDIO = {
    "calibration": "audio/calibration",
    "evaluation": "audio/evaluation",
    "shards": {"calibration": 3, "evaluation": 1},
}


def snakemake(project: Path, *arguments: str, cores: int = 2) -> subprocess.CompletedProcess:
    """Run Snakemake in a project folder with the settings in its my.yaml."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", *arguments),
            *("--cores", str(cores), "--configfile", "my.yaml"),
        ],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )


def run(project: Path, *arguments: str, cores: int = 2) -> subprocess.CompletedProcess:
    """Run Snakemake and insist that it succeeds."""
    done = snakemake(project, *arguments, cores=cores)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def planned(project: Path, *targets: str, cores: int = 2) -> dict[str, int]:
    """Return how many jobs of each rule Snakemake would run, the target rule left out."""
    done = run(project, *targets, "--dry-run", "--quiet", "rules", cores=cores)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "total")}


def configure(project: Path, **changes) -> None:
    """Write the project's my.yaml; without the search for float16 layers, which takes minutes."""
    variants = changes.pop("variants", {})
    int8 = variants.get("int8", {})
    if int8 is not None:
        variants = variants | {"int8": {"mixed_precision": None} | int8}
    settings = {
        "variants": variants,
        "audio": AUDIO,
        "calibration": {"rows": 12},
        "evaluation": {"long_stream": 12},
        # One more build.
        "bundle": {"plain_encoder": False},
    }
    (project / "my.yaml").write_text(yaml.safe_dump(settings | changes))


def make_project(folder: Path) -> Path:
    """Copy the workflow to a folder and give it a little audio of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, folder / part)
    for number in range(CALIBRATION_FILES):
        write_audio(folder / f"audio/calibration/c{number}.wav", 1.0 + 0.3 * number, number)
    for number in range(EVALUATION_FILES):
        write_audio(folder / f"audio/evaluation/e{number}.wav", 1.2, 100 + number)
    configure(folder)
    return folder


def check_all_is_recorded(project):
    """No file of the results is unknown to the command that compares all of them."""
    command = [sys.executable, ROOT / "scripts/check_results.py", "results"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def shards(project: Path) -> list[Path]:
    """The shards that hold calibration audio."""
    return list((project / "results/traces").glob("*.h5"))
