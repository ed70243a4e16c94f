"""Damage, kills and failures: nothing finished is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from helpers.projects import configure, planned, run, shards, snakemake
from zipquant.jobs import integrity


@pytest.mark.parametrize(
    "name", ["traces/{}.h5", "traces/{}.parquet", "features/calibration/{}.h5"]
)
def test_damaged_file_is_named_and_made_anew_by_the_same_command(project, name):
    shard = shards(project)[0].stem
    victim = project / "results" / name.format(shard)
    intact = victim.read_bytes()
    victim.write_bytes(intact[: len(intact) // 2] + b"damage" + intact[len(intact) // 2 + 6 :])
    # Something that makes its reader run: another sample, or a trace that is gone.
    if name.startswith("features"):
        (project / f"results/traces/{shard}.h5").unlink()
    configure(project, calibration={"rows": 1000})
    dataset = "results/calibration/dataset.txt"
    done = snakemake(project, dataset)
    assert done.returncode != 0
    path = victim.relative_to(project)
    assert re.search(rf"^error: {path} was damaged .*: run the same", done.stderr, re.MULTILINE)
    run(project, dataset)
    assert victim.read_bytes() == intact
    for entry in (project / "results").rglob("*"):
        assert not entry.name.endswith((".part.h5", ".spool.h5")), entry


@pytest.mark.parametrize("killed", ["run", "job"])
def test_killed_run_goes_on_with_the_same_command_and_keeps_others_out(finished, project, killed):
    dataset = "results/calibration/dataset.txt"
    for path in (project / dataset, *shards(project)):
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in (project / "results").glob("features/*/*")}
    first = subprocess.Popen(
        [sys.executable, "-m", "snakemake", dataset, "--cores", "1", "--configfile", "my.yaml"],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    while not list(project.glob("results/traces/.*.part.h5")):
        assert first.poll() is None
        time.sleep(0.002)
    victim = first.pid
    if killed == "job":
        script = str(project / ".snakemake/scripts")
        at_work = [
            process
            for process in psutil.Process(first.pid).children(recursive=True)
            if any(argument.startswith(script) for argument in process.cmdline())
        ]
        (victim,) = (job.pid for job in at_work if job.parent() not in at_work)
    else:
        assert "error: another run (process" in snakemake(project, dataset).stderr
    os.kill(victim, signal.SIGKILL)
    assert first.wait(30) != 0
    run(project, dataset)
    for path in (finished / "results/calibration").rglob("*.*"):
        if path.suffix in (".npy", ".txt"):
            produced = project / path.relative_to(finished)
            assert produced.read_bytes() == path.read_bytes()
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list(project.glob("results/**/.*.part*"))


def test_failed_build_leaves_no_model_and_a_plain_error(project):
    arrays = project / "results/calibration/arrays"
    victim = next(arrays.glob("x.*.npy"))
    victim.write_bytes(victim.read_bytes()[:-4] + b"\x00\x00\x80\x7f")
    configure(project, variants={"int8": {"algorithm": "kl_divergence"}})
    done = snakemake(project)
    assert done.returncode != 0
    damaged = rf"^error: results/calibration/arrays was damaged \({victim.name}: it has another"
    assert re.search(damaged, done.stderr, re.MULTILINE)
    assert "  (log: results/logs/quantize/int8.log)" in done.stderr
    assert "go on with: snakemake --cores 2 --configfile my.yaml" in done.stderr
    # One line a job: no list of its inputs, no exit code of its command.
    assert "scripts/job.py" not in done.stderr and "CalledProcessError" not in done.stderr
    assert not (project / "results/variants/int8/encoder.rknn").exists()


def test_variant_that_the_toolkit_fails_is_told_and_the_others_go_on(project):
    """On this platform the toolkit really aborts its process at w8a16, which is not offered."""
    table = project / "scripts/zipquant/toolkit/platforms.py"
    offered = '"rk3562": _INT8 | {"w8a16": _INT8["w8a8"]}'
    table.write_text(table.read_text().replace('"rk3562": _INT8', offered))
    stale = project / "results/variants/w8a16/encoder.rknn"
    stale.parent.mkdir()
    stale.write_bytes(b"RKNN of an earlier build")
    integrity.seal(project / "results", [stale])
    failing = {"platform": "rk3562", "variants": {"fp16": None, "w8a16": {"dtype": "w8a16"}}}
    failing["evaluation"] = {"long_stream": 0, "max_utterances": 1}
    configure(project, **failing)
    done = run(project)
    # Which way it dies depends on what it overwrites.
    end = r"rknn-toolkit2 aborted the process \(SIG\w+\); its last words are in the log"
    message = rf"^error: variant w8a16 could not be built: {end}$"
    assert re.search(message, done.stderr, re.MULTILINE)
    assert "(log: results/logs/quantize/w8a16.log)" in done.stderr
    assert not stale.exists()
    best = json.loads((project / "results/best.json").read_text())
    assert (best["best"], list(best["failures"])) == ("int8", ["w8a16"])
    report = json.loads((project / "results/report/report.json").read_text())
    assert list(report["recognition"]["models"]) == ["float", "int8", "rknn"]
    assert report["variants"]["w8a16"]["build"]["failure"] == best["failures"]["w8a16"]
    assert "could not be built" in (project / "results/report/index.html").read_text()
    assert "w8a16: failed" in (project / "results/report/summary.txt").read_text()
    manifest = json.loads((project / "results/bundle/manifest.json").read_text())
    assert (manifest["variant"], manifest["build"]["platform"]) == ("int8", "rk3562")
    # A failure is tried again by the same command; what is built is not.
    assert planned(project)["quantize"] == 1
    configure(project, **failing | {"variants": {"int8": None, **failing["variants"]}})
    done = snakemake(project)
    assert done.returncode != 0
    assert "error: no variant is left to choose from: w8a16 could not be built" in done.stderr


def test_job_that_dies_without_a_word_has_the_end_of_its_log_shown(fresh):
    words = "".join(f"word {number}\n" for number in range(20))
    script = f"import os\nopen(snakemake.log[0], 'w').write({words!r})\nos._exit(3)\n"
    (fresh / "scripts/inspect_model.py").write_text(script)
    done = snakemake(fresh, "results/model.json")
    assert done.returncode != 0
    lines = done.stderr.splitlines()
    start = lines.index("Reading the model contract of models/demo/encoder.onnx failed:")
    assert lines[start + 1 : start + 9] == [f"  word {number}" for number in range(12, 20)]
    assert lines[start + 9] == "  (log: results/logs/inspect.log)"
