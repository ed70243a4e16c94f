"""Results that do not fit what they were made from, and what is in the way."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from damage import flip
from helpers.audio import write_audio
from project import ENVIRONMENT, configure, errors_of, make_project, note, plan, snakemake
from zipquant.jobs import integrity


def long_ago(path: Path) -> None:
    os.utime(path, (10**9, 10**9))


def other_weights(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_text(path: Path) -> None:
    path.write_text(path.read_text().replace("one", "ONE").replace("import", "import  ", 1))


def other_audio(path: Path) -> None:
    write_audio(path, path.stat().st_size / 32000, seed=999)


EXCHANGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "models/demo/encoder.onnx": (other_weights, "inspect"),
    "models/demo/decoder.onnx": (other_weights, "decode"),
    "models/demo/joiner.onnx": (other_weights, "convert"),
    "models/demo/tokens.txt": (other_text, "decode"),
    "audio/calibration/c1.wav": (other_audio, "index"),
    "audio/evaluation/e0.wav": (other_audio, "index"),
    "scripts/index.py": (other_text, "index"),
    "scripts/zipquant/board/fbank.py": (other_text, "features"),
    "scripts/zipquant/traces/store.py": (other_text, "traces"),
}
"""Files that get another content under a time of long ago, and a rule that has to run for it."""


CHANGED: dict[str, tuple[dict, str]] = {
    "platform": ({"platform": "rk3566"}, "quantize"),
    "seed": ({"calibration": {"rows": 6, "seed": 5}}, "sample"),
    "rows": ({"calibration": {"rows": 5}}, "sample"),
    "variant": ({"variants": {"int8": {"method": "layer"}, "fp16": None}}, "quantize"),
    "preparation": ({"preparation": {"fold_constants": True}}, "prepare"),
    "evaluation": ({"evaluation": {"one_step_chunks": 2, "long_stream": 3}}, "evaluate"),
    "long stream": ({"evaluation": {"one_step_chunks": 1, "long_stream": 4}}, "evaluate"),
    "joiner": ({"recognizer": {"joiner": "int8"}}, "convert"),
    "toolkit": ({"toolkit": "2.5.0"}, "quantize"),
}
"""Settings that change when Snakemake's notes are lost, and a rule that has to run for each."""


VERSIONS = {"onnxruntime": "traces", "kaldi-native-fbank": "features"}
"""Libraries that get another version, and a rule that has to run for it."""


CHECKED = (
    *("model.json", "calibration/dataset.txt", "variants/int8/build.json", "best.json"),
    *("variants/int8/encoder.rknn", "recognizer/decoder.rknn", "scores/scores.json", "bundle.tar"),
)
"""Results that are damaged, and that check_results.py deletes."""


def changes(reference: Path, scratch: Path) -> dict:
    """What has changed without a new time or a note of it is planned, and nothing else is."""
    found: dict[str, int] = {}
    project = scratch / "changed"
    shutil.copytree(reference, project, symlinks=True)
    for name, (change, rule) in EXCHANGED.items():
        before = (project / name).read_bytes()
        change(project / name)
        long_ago(project / name)
        expect(project, rule, f"{name} with an old time")
        (project / name).write_bytes(before)
    found["inputs and scripts exchanged under an old time"] = len(EXCHANGED)
    # All of them have a new time now, and a new inode.
    expect(project, "", "files that were touched")
    (project / "link").symlink_to("results")
    spellings = ["./results", "results/", "models/../results", "link", str(project / "results")]
    shutil.rmtree(project / ".snakemake")
    for number, (name, (other, rule)) in enumerate(CHANGED.items()):
        for results in ["results", spellings[number % len(spellings)]]:
            configure(project, results=results, **other)
            expect(project, rule, f"another {name}, results spelled {results}")
    found["settings changed without Snakemake's notes"] = len(CHANGED)
    for results in spellings:
        configure(project, results=results)
        expect(project, "", f"results spelled {results}")
    configure(project)
    found["spellings of the results folder"] = len(spellings)
    for name, rule in VERSIONS.items():
        folder = project / f"new/{name.replace('-', '_')}-99.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
        ENVIRONMENT["PYTHONPATH"] = str(project / "new")
        expect(project, rule, f"another version of {name}")
        del ENVIRONMENT["PYTHONPATH"]
        shutil.rmtree(project / "new")
    found["other versions of libraries"] = len(VERSIONS)
    found["results deleted by the check"] = check_and_plan(project)
    found["records copied with their files"] = copy_records(project)
    return found


def expect(project: Path, rule: str, after: str) -> None:
    """Note what a plan lacks, or that there is one where nothing has changed."""
    rules, errors = plan(project)
    if errors or (rule not in rules if rule else rules):
        note("silently_wrong", f"{after}: planned {sorted(rules)}, reported {errors}")
    print(f"{after}: {len(rules)} rules planned", flush=True)


def check_and_plan(project: Path) -> int:
    for name in CHECKED:
        path = project / "results" / name
        before = path.read_bytes()
        record = integrity.record_of(project / "results", path)
        recorded = record.read_bytes()
        flip(path, path)
        command = [sys.executable, "scripts/check_results.py", "results"]
        done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
        if done.returncode != 1 or f"results/{name} was damaged" not in done.stdout:
            note("silently_wrong", f"the check does not name {name}: {done.stdout[-300:]}")
        rules, _ = plan(project)
        if path.exists() or not rules:
            note("silently_wrong", f"{name} was deleted by the check and is not made again")
        path.write_bytes(before)
        record.write_bytes(recorded)
    return len(CHECKED)


def copy_records(project: Path) -> int:
    """A file and its record in the place of another one of its kind."""
    results = project / "results"
    pairs = [
        ("traces/0.h5", "traces/1.h5"),
        ("features/calibration/0.h5", "features/calibration/1.h5"),
        ("texts/float/0.tsv", "texts/int8/0.tsv"),
        ("recognizer/decoder.rknn", "recognizer/joiner.rknn"),
    ]
    for source, copy in pairs:
        for folder in (results, results / integrity.RECORDS):
            suffix = "" if folder == results else ".tsv"
            shutil.copy2(folder / f"{source}{suffix}", folder / f"{copy}{suffix}")
        if not integrity.problem(results, results / copy):
            note("silently_wrong", f"{source} passes for {copy}")
    return len(pairs)


OWN = (
    *("bundle/precious.txt", "calibration/arrays/mine.npy", "report/index.html", "traces/0.h5"),
    *("logs/index/calibration/0.log", "variants/int8/toolkit/mine", "variants/int8/encoder.rknn"),
    *("best.json", "texts/float/0.tsv"),
)
"""Files of somebody's own at names that a run writes."""


NO_RESULTS = (
    *("scripts", ".git", ".venv/x", "audio/calibration", "audio_link", "/dev/null", "my.yaml"),
    *("a" * 300, "a/" * 2100, "$HOME/x", "~nobody-of-this-name/x"),
)
"""What is no results folder."""


def obstacles(reference: Path, scratch: Path) -> dict:
    """What is in the way and not ours stops a run, named, and stays as it is."""
    project = make_project(scratch / "obstacles")
    (project / "audio_link").symlink_to("audio/calibration")
    for number, name in enumerate(OWN):
        path = project / f"work{number}" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        configure(project, results=f"work{number}")
        done = snakemake(project)
        reported = errors_of(done)
        if path.read_text() != "mine" or not any(name in error for error in reported):
            note("lost", f"{name} of somebody's own: {reported}")
    for results in NO_RESULTS:
        configure(project, results=results)
        _, reported = plan(project)
        if len(reported) != 1 or not reported[0].startswith("error: config: results"):
            note("silently_wrong", f"results: {results[:40]}: {reported}")
    return {"files of somebody's own": len(OWN), "no results folders": len(NO_RESULTS)}
