"""Thousands of utterances through the workflow, to the sample: peak memory, and a rerun of nothing.

    python benchmarks/scale.py             # ten minutes on two idle cores
    python benchmarks/scale.py --quick     # 100 and 20 utterances; records nothing

Utterances of 1 to 3 s are cut from the demo's audio and, where it is there, from ../shared/speech,
and joined. Both sizes have the same number of shards, so that a job of the larger one has ten times
the audio of a job of the smaller one; its memory must be the same.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import yaml
from record import record

from zipquant.audio import reading

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (ROOT / "demo/audio", ROOT.parent / "shared/speech/mandarin")
WORKFLOW = ("Snakefile", "config.yaml", "rules", "scripts", "envs", "profiles", "models")
SHARDS = 4
RERUNS = 3


def make_project(folder: Path, utterances: int) -> None:
    """Put the workflow and so many utterances into a folder."""
    for part in WORKFLOW:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, folder / part)
    paths = sorted(path for source in SOURCES for path in source.rglob("*.wav"))
    tape = np.concatenate([reading.load(path) for path in paths])
    draw = random.Random(0)
    for name, count in (("calibration", utterances), ("evaluation", 2)):
        (folder / name).mkdir()
        for number in range(count):
            parts = []
            for _ in range(2):
                length = int(draw.uniform(0.5, 1.5) * reading.SAMPLE_RATE)
                start = draw.randrange(len(tape) - length)
                parts.append(tape[start : start + length])
            wave = np.concatenate(parts)
            soundfile.write(folder / name / f"{number:05}.wav", wave, reading.SAMPLE_RATE)
    shards = {"calibration": SHARDS, "evaluation": 1}
    sets = {"calibration": "calibration", "evaluation": "evaluation", "shards": shards}
    (folder / "my.yaml").write_text(yaml.safe_dump({"audio": sets}))


def snakemake(folder: Path) -> float:
    """Make the sample on two cores; return seconds."""
    begin = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "results/calibration/sample.tsv"),
            *("--cores", "2", "--configfile", "my.yaml"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    if "Nothing to be done" in done.stdout + done.stderr:
        return time.monotonic() - begin
    print(f"{folder.name} utterances: {time.monotonic() - begin:.0f} s", flush=True)
    return time.monotonic() - begin


def peaks(folder: Path) -> dict[str, float]:
    """Return the peak memory of each stage's largest job in MB, as their logs say it."""
    found: dict[str, float] = {}
    logs = folder / "results/logs"
    for log in logs.rglob("*.log"):
        stage = log.relative_to(logs).with_suffix("").parts[0]
        for value in re.findall(r"^peak memory: (\d+) MB$", log.read_text(), re.MULTILINE):
            found[stage] = max(found.get(stage, 0.0), float(value))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it there")
    args = parser.parse_args()
    few, many = (20, 100) if args.quick else (500, 5000)
    with tempfile.TemporaryDirectory(prefix="zipquant-") as temporary:
        work = args.keep or Path(temporary)
        memory: dict[int, dict[str, float]] = {}
        for count in (few, many):
            folder = work / str(count)
            if not folder.exists():
                folder.mkdir(parents=True)
                make_project(folder, count)
            snakemake(folder)
            memory[count] = peaks(folder)
        for stage, value in sorted(memory[few].items()):
            print(f"{stage}: {value:.0f} MB with {few}, {memory[many][stage]:.0f} with {many}")
        reruns = [snakemake(work / str(many)) for _ in range(RERUNS)]
    figures = {
        "trace_memory_5000_vs_500": memory[many]["traces"] / memory[few]["traces"],
        "job_memory_5000_vs_500": max(memory[many][s] / memory[few][s] for s in memory[few]),
        "noop_rerun_5000_s": sorted(reruns)[RERUNS // 2],
    }
    if args.quick:
        print(figures)
    else:
        record(figures)


if __name__ == "__main__":
    main()
