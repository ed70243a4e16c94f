"""The workflow itself, run by Snakemake: end to end with the real toolkit, reruns, bad input."""

import base64
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import markupsafe
import networkx
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from browser import browser, needs_chromium
from conftest import (
    ROOT,
    SHARED_SPEECH,
    needs_shared_speech,
    tiny_ctc,
    tiny_encoder,
    write_audio,
)
from zipquant.audio import index, manifest
from zipquant.model import contract
from zipquant.report.figures import CLIPPED
from zipquant.report.figures import write as write_report
from zipquant.report.page import DRIFT_DB, FEW
from zipquant.toolkit import rknn_file
from zipquant.traces import chunk_table

PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "envs", "profiles", "models")
CALIBRATION_FILES, EVALUATION_FILES = 6, 2
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


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A project that has run through, toolkit and all; never changed by a test."""
    project = make_project(tmp_path_factory.mktemp("finished"))
    run(project)
    return project


@pytest.fixture
def project(finished, tmp_path):
    """A copy of the finished project, for a test to change."""
    return Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))


def test_whole_line_ends_with_a_built_model_and_figures(finished):
    results = finished / "results"
    encoder = results / "variants/int8/encoder.rknn"
    assert encoder.read_bytes()[:4] == b"RKNN"
    model = contract.Contract.load(results / "model.json")
    assert len(model.inputs) == 36
    types = rknn_file.io_types(encoder)
    assert {tensor.name for tensor in model.inputs} | set(model.outputs) == set(types)
    assert set(types.values()) == {"float16", "int64"}
    assert types["x"] == "float16" and types["cached_len_0"] == "int64"
    build = json.loads((encoder.parent / "build.json").read_text())
    assert build["running_means"] == [f"new_cached_avg_{stack}" for stack in range(5)]
    assert (build["refusals"], build["cumulative_sums"]) == ([], [])
    assert build["stream_limit"]["state"] == "cached_len_0"
    stream = json.loads((results / "long_stream/int8.json").read_text())
    assert set(stream["counters"].values()) == {True}
    # Twelve rows of noise calibrate no good states; the means, which are float16, hold anyway.
    assert not [name for name in stream["wrong"] if "cached_avg" in name]
    assert len(stream["outputs"]["new_cached_avg_0"]["sqnr_db"]) == stream["chunks"] > 20
    report = json.loads((results / "report/report.json").read_text())
    # A wrong layout, a lost state or an uncalibrated model each fall far below these.
    for variant, least in (("int8", 25), ("fp16", 50)):
        figures = report["variants"][variant]["encoder_out"]
        assert figures["one step"]["sqnr_db"] > least
        assert figures["free-running"]["sqnr_db"] > least
        assert figures["free-running"]["cosine"] > 0.998
    assert report["variants"]["int8"]["build"]["bytes"] == encoder.stat().st_size
    assert report["audio"]["calibration"]["used"] == CALIBRATION_FILES


def test_every_row_of_the_dataset_is_complete_and_its_states_are_real(finished):
    results = finished / "results"
    model = contract.Contract.load(results / "model.json")
    lines = (results / "calibration/dataset.txt").read_text().splitlines()
    sample = (results / "calibration/sample.tsv").read_text().splitlines()[1:]
    assert len(lines) == len(sample) == 12
    for line, chosen in zip(lines, sample, strict=True):
        arrays = [np.load(results / "calibration" / path) for path in line.split(" ")]
        for tensor, array in zip(model.inputs, arrays, strict=True):
            assert (array.shape, str(array.dtype)) == (tensor.shape, tensor.dtype)
        first = chosen.split("\t")[2] == "0"
        for tensor, array in zip(model.inputs[1:], arrays[1:], strict=True):
            assert array.any() != first, tensor.name


def test_noise_of_the_toolkit_stays_in_the_log(finished):
    log = (finished / "results/logs/quantize/int8.log").read_text()
    assert "rknn-toolkit2 version" in log


def test_page_is_self_contained_and_lists_every_output(finished):
    page = (finished / "results/report/index.html").read_text()
    assert not re.search(r"src=|href=\"(?!#)|url\((?!#)|@import|https?://|<script", page)
    (table,) = re.findall(r'<table id="outputs-table">.*?</table>', page, re.DOTALL)
    assert table.count("<code>new_cached_") == 35
    assert len(page) < 3e6
    assert "encoder output" in (finished / "results/report/report.md").read_text()


def test_page_says_what_was_rewritten_chosen_and_how_long_a_chunk_took(finished):
    report = json.loads((finished / "results/report/report.json").read_text())
    page = (finished / "results/report/index.html").read_text()
    for name, entry in report["preparation"]["rewrites"].items():
        assert f"<td><code>{name}</code></td><td>{entry['nodes']}</td>" in page
    assert "No CumSum" in page
    assert all(
        f"<li>{markupsafe.escape(reason)}</li>" in page for reason in report["choice"]["why"]
    )
    assert set(report["parts"]) == {"decoder", "joiner"}
    assert report["parts"]["joiner"]["same_argmax"] > 0.9
    time = report["variants"]["int8"]["time"]
    assert time["target"] == "simulator" and 0 < time["median_ms"] <= time["p95_ms"]
    assert "its time says nothing of an NPU" in page
    share = f"{100 * report['variants']['int8']['build']['int8_macs_share']:.1f} %"
    assert f"<b>{share}</b>" in page
    assert f"{share} of MACs in int8" in (finished / "results/report/summary.txt").read_text()


@needs_chromium
def test_page_in_a_real_browser(finished, tmp_path):
    page = finished / "results/report/index.html"
    with browser(tmp_path / "profile") as window:
        for width in (390, 1280):
            window.show(page, width)
            window.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
            inner, scroll = window.run("return [innerWidth, document.documentElement.scrollWidth]")
            assert (inner, scroll <= inner) == (width, True)
            # What is wider than its place scrolls there, and is not cut off.
            assert not window.run(OVERFLOWING)
        plots = window.run(
            "return [...document.querySelectorAll('svg.plot')].map(s => {"
            "  const box = s.getBoundingClientRect();"
            "  return [s.getAttribute('aria-label'), s.querySelectorAll('path').length,"
            "          box.width, box.height]})"
        )
        # Rates, drift, outputs, the graph of rules, what the variants do over a long stream, the
        # search of one, and 31 inputs that are no counters.
        report = json.loads((finished / "results/report/report.json").read_text())
        built = report["variants"].values()
        streams = sum(variant["long_stream"]["chunks"] > 0 for variant in built)
        searches = sum("steps" in (v["build"].get("mixed_precision") or {}) for v in built)
        assert len(plots) == 4 + streams + searches + 31
        for label, paths, width, height in plots:
            assert len(label) > 30 and paths > 5 and width > 100 and height > 50
        rows = window.run(
            "return Object.fromEntries([...document.querySelectorAll('table')].map("
            "t => [t.id, t.tBodies[0].rows.length]))"
        )
        assert rows["rates"] == 4 and rows["variants-table"] == 3
        assert (rows["outputs-table"], rows["ranges"], rows["coverage"]) == (36, 31, 37)
        assert rows["jobs"] == len(report["jobs"]) and rows["drift-table"] > 1
        papers = set()
        for scheme in ("light", "dark"):
            window.show(page, scheme=scheme)
            papers.add(window.run("return getComputedStyle(document.body).backgroundColor"))
            faint = window.run(FAINT)
            assert not faint, f"{scheme}: {faint}"
        assert len(papers) == 2
        assert window.messages() == []
        assert window.requests() == {page.as_uri()}


OVERFLOWING = """
return [...document.body.querySelectorAll('*')].filter(e => {
  if (e.closest('.wide, pre, svg')) return false;
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map(e => e.outerHTML.slice(0, 80))
"""
"""Elements that stick out of the window, those in boxes that scroll left out."""

FAINT = """
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const paper = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if ((numbers(colour)[3] ?? 1) > 0.5) return colour;
  }
  return 'rgb(255, 255, 255)';
};
return [...document.body.querySelectorAll('*')].filter(e =>
  [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())
).map(e => {
  const style = getComputedStyle(e);
  const [a, b] = [light(e.closest('svg') ? style.fill : style.color), light(paper(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return [ratio, e.textContent.trim().slice(0, 40)];
}).filter(([ratio]) => ratio < 4.5)
"""
"""Texts with less contrast to what is behind them than 4.5 to 1 (WCAG 2.1, level AA)."""


def test_report_of_snakemake_is_built_with_captions(finished, tmp_path):
    done = snakemake(finished, "--report", str(tmp_path / "report.zip"))
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = archive.namelist()
        page = archive.read(next(n for n in names if n.endswith("/report.html"))).decode()
        (embedded,) = [name for name in names if name.endswith("/index.html")]
        assert archive.read(embedded) == (finished / "results/report/index.html").read_bytes()
    assert f"Fewer than {FEW} utterances" in page and f"fall of {DRIFT_DB:g} dB" in page
    assert f"More than {100 * CLIPPED:g} % of an input" in page
    assert "span: 1 is all of it" in page and "made of each utterance" in page


def test_graph_of_rules_in_the_report_is_the_workflows(finished):
    """The report's `jobs` say what follows what; Snakemake knows it as well."""
    done = run(finished, "--rulegraph", "dot")
    names = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)"', done.stdout, re.MULTILINE))
    edges = re.findall(r"^\s*(\d+) -> (\d+)", done.stdout, re.MULTILINE)
    real = networkx.DiGraph((names[a], names[b]) for a, b in edges)
    real = real.subgraph(networkx.ancestors(real, "report"))
    report = json.loads((finished / "results/report/report.json").read_text())
    drawn = networkx.DiGraph((a, b) for b, rule in report["jobs"].items() for a in rule["after"])
    drawn.add_nodes_from(report["jobs"])
    assert set(drawn) == set(real)
    assert set(networkx.transitive_reduction(drawn).edges) == set(
        networkx.transitive_reduction(real).edges
    )
    jobs = {rule: entry["jobs"] for rule, entry in report["jobs"].items()}
    assert (jobs["traces"], jobs["evaluate"], jobs["decode"]) == (len(shards(finished)), 2, 3)
    assert report["jobs"]["quantize"]["seconds"] > 1


def test_histograms_count_every_value_of_the_calibration_rows_and_of_the_evaluation(finished):
    report = json.loads((finished / "results/report/report.json").read_text())
    inputs = report["variants"]["int8"]["inputs"]
    model = contract.Contract.load(finished / "results/model.json")
    sizes = {t.name: math.prod(t.shape) for t in model.inputs if t.dtype == "float32"}
    assert set(inputs) == set(sizes)
    arrays = finished / "results/calibration"
    lines = (arrays / "dataset.txt").read_text().splitlines()
    for position, tensor in enumerate(model.inputs):
        if tensor.name not in inputs:
            continue
        found = inputs[tensor.name]
        rows = [np.load(arrays / line.split()[position]) for line in lines]
        # With the algorithm `normal` the range is that of the rows.
        assert (found["low"], found["high"]) == (np.min(rows), np.max(rows))
        assert sum(found["rows_counts"]) == sizes[tensor.name] * len(rows)
        chunks = report["variants"]["int8"]["chunks"]
        assert sum(found["counts"]) == sizes[tensor.name] * chunks
        assert found["rows_outside"] == 0 <= found["outside"] < 1
    assert report["variants"]["fp16"]["inputs"] == {}


def test_variant_that_failed_is_in_the_report_with_its_reason(finished, tmp_path):
    """Written by the library from the finished run's files, with a build.json that says so."""
    results = finished / "results"
    variants = ["int8", "fp16", "odd"]
    reason = "rknn-toolkit2's hybrid_quantization_step1 failed: <no> such layer"
    odd = tmp_path / "odd/build.json"
    odd.parent.mkdir()
    odd.write_text(json.dumps({"platform": "rk3588", "dtype": "w8a8", "failure": reason}))
    builds = [results / f"variants/{name}/build.json" for name in variants[:2]]
    tables = [next((results / f"evaluation/{v}").glob("*.parquet")) for v in variants[:2]]
    counts = [next((results / f"evaluation/{v}").glob("*.histograms.json")) for v in variants[:2]]
    scores = json.loads((results / "scores/scores.json").read_text())
    del scores["models"]["fp16"]
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    write_report(
        model=finished / "models/demo/encoder.onnx",
        contract_file=results / "model.json",
        indexes={n: sorted((results / f"index/{n}").glob("*.tsv")) for n in ("calibration",)},
        sample=results / "calibration/sample.tsv",
        coverage=results / "calibration/coverage.tsv",
        outliers=results / "calibration/outliers.tsv",
        chunk_tables=list((results / "traces").glob("*.parquet")),
        builds=[*builds, odd],
        toolkits=[build.parent / "toolkit" for build in [*builds, odd]],
        evaluations=[*tables, tmp_path / "none.parquet"],
        long_streams=[results / f"long_stream/{name}.json" for name in variants],
        times=[table.with_suffix(".time.json") for table in [*tables, tmp_path / "none.parquet"]],
        prepared_file=results / "prepared/prepared.json",
        parts=[results / f"recognizer/{part}.rknn" for part in ("decoder", "joiner")],
        verified=[results / f"recognizer/{part}.json" for part in ("decoder", "joiner")],
        best_file=results / "best.json",
        histograms=[*counts, tmp_path / "none.json"],
        overlap=results / "index/overlap.tsv",
        scores=tmp_path / "scores.json",
        texts=results / "scores/texts.tsv",
        variants=variants,
        warnings=[],
        settings={"calibration": {"seed": 0}, "platform": "rk3588"},
        benchmarks=results / "benchmarks",
        jobs=[],
        flow={},
        json_file=tmp_path / "report.json",
        markdown_file=tmp_path / "report.md",
        html_file=tmp_path / "index.html",
        summary_file=tmp_path / "summary.txt",
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["variants"]["odd"]["failure"] == reason
    assert "outputs" not in report["variants"]["odd"]
    assert report["variants"]["int8"]["outputs"]
    assert f"variant odd could not be built: {reason}" in report["warnings"]
    page = (tmp_path / "index.html").read_text()
    assert f"failed: {markupsafe.escape(reason)}" in page
    assert f"| odd | failed: {reason} |" in (tmp_path / "report.md").read_text()
    assert f"odd: failed: {reason}" in (tmp_path / "summary.txt").read_text().splitlines()


def test_texts_are_compared_with_the_float_models_own_where_there_are_no_transcripts(finished):
    report = json.loads((finished / "results/report/report.json").read_text())
    found = report["recognition"]
    assert (found["utterances"], found["transcribed"]) == (EVALUATION_FILES, 0)
    assert list(found["models"]) == ["float", "int8", "fp16", "rknn"]
    assert found["models"]["fp16"]["same"]["same"] == EVALUATION_FILES
    assert found["best"] == "int8"
    summary = (finished / "results/report/summary.txt").read_text().splitlines()
    assert summary[-1].startswith("WER against the float model's own text on 2 utterances")
    page = (finished / "results/report/index.html").read_text()
    assert "2 utterances decide little" in page
    assert all(f"<td>e{number}</td>" in page for number in range(EVALUATION_FILES))


def test_bundle_is_complete_and_what_a_stock_sherpa_onnx_loads(finished):
    folder = finished / "results/bundle"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["variant"] == "int8" and manifest["refusals"] == []
    assert manifest["recognizer"]["joiner"]["same_argmax"] > 0.99
    assert manifest["recognizer"]["decoder"]["sqnr_db"] > 50
    models = ("decoder.rknn", "encoder.rknn", "joiner.rknn")
    library = ("__init__", "fbank", "greedy_search", "vocabulary")
    shared = ["zipquant/__init__.py", "zipquant/errors.py"]
    shared += [f"zipquant/board/{name}.py" for name in library]
    described = ["encoder.json", "tokens.txt", "transcribe.py"]
    assert sorted(manifest["files"]) == sorted([*models, *described, *shared])
    for name in models:
        assert (folder / name).read_bytes()[:4] == b"RKNN"
    encoder = finished / "results/variants/int8/encoder.rknn"
    assert (folder / "encoder.rknn").read_bytes() == encoder.read_bytes()
    metadata = rknn_file.custom_string(folder / "encoder.rknn").split(";")
    assert {"T=39", "decode_chunk_len=32", "context_size=2"} <= set(metadata)
    page = (folder / "README.md").read_text()
    assert "--encoder=encoder.rknn --decoder=decoder.rknn" in page and "takes these files" in page
    with tarfile.open(finished / "results/bundle.tar") as tar:
        # Snakemake leaves a time stamp in a folder that a rule makes.
        paths = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        names = {path for path in paths if not path.startswith(".")}
        assert {name.removeprefix("bundle/") for name in tar.getnames()} == names


def test_transcripts_rerun_no_simulator_and_give_error_rates(project):
    rows = [f"e{n}\taudio/evaluation/e{n}.wav\tsix {'ten' * n}\n" for n in range(2)]
    (project / "spoken.tsv").write_text("id\tpath\ttext\n" + "".join(rows))
    configure(project, audio=AUDIO | {"evaluation": "spoken.tsv"})
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    warning = "1 of 2 transcripts hold words that the tokens in models/demo/tokens.txt cannot"
    assert f"warning: spoken.tsv: {warning} spell" in done.stderr
    assert "Evaluating" not in done.stderr and "Decoding float" not in done.stderr
    report = json.loads((project / "results/report/report.json").read_text())
    assert report["warnings"][0].startswith(f"spoken.tsv: {warning}")
    found = report["recognition"]["models"]["int8"]["transcript"]["word"]
    # noise that is no speech: at best nothing is heard, and all 3 words are missing
    assert (found["units"], found["rate"] > 0) == (3, True)
    assert done.stderr.splitlines()[-1].startswith("WER on 2 utterances (3 words): float ")


def test_second_run_does_nothing(finished):
    assert planned(finished) == {}


AFTER_QUANTIZE = {"quantize": 1, "evaluate": 1, "long_stream": 1, "decode": 1}
AFTER_DECODING = {"choose": 1, "decode_rknn": 1, "score": 1, "bundle": 1, "report": 1}


def test_one_more_wav_reruns_its_shard_and_what_follows(project):
    write_audio(project / "audio/calibration/new.wav", 2.0, 50)
    assert planned(project) == {
        **{"index": 1, "overlap": 1, "features": 1, "traces": 1, "sample": 1, "calibration": 1},
        **{"prove": 1, "quantize": 1, "evaluate": 1, "long_stream": 1, "decode": 1},
        **AFTER_DECODING,
    }


def test_evaluation_audio_reruns_no_build(project):
    write_audio(project / "audio/evaluation/new.wav", 1.0, 51)
    assert planned(project) == {
        **{"index": 1, "overlap": 1, "features": 1, "encode": 1, "evaluate": 2, "decode": 3},
        **{"long_stream": 2, "verify": 1},
        **AFTER_DECODING,
    }


@pytest.mark.parametrize("output", ["index/overlap.tsv", "prepared/encoder.onnx", "model.json"])
def test_job_killed_before_it_is_registered_hides_nothing_from_the_plan(project, output):
    """Snakemake marks what a job is at work on; a run killed just after the job leaves the mark."""
    shutil.rmtree(project / "results/variants/fp16")
    configure(project, evaluation={"long_stream": 12, "one_step_chunks": 2})
    expected = planned(project)
    assert (expected["quantize"], expected["evaluate"]) == (1, 2)
    mark = base64.b64encode(f"results/{output}".encode()).decode()
    (project / ".snakemake/incomplete" / mark).touch()
    plan = planned(project)
    assert all(plan.get(rule, 0) >= count for rule, count in expected.items())
    assert plan != expected


def test_no_job_follows_another_by_ancient_files_alone():
    """What such a job has to run for itself is not seen while the other has to run."""
    for rules in (ROOT / "rules").glob("*.smk"):
        for flagged in re.findall(r"ancient\((.*)", rules.read_text()):
            assert flagged.startswith('config["model"]'), rules


def test_touched_model_and_audio_rerun_nothing(project):
    for path in ("models/demo/encoder.onnx", "audio/calibration/c1.wav"):
        (project / path).touch()
    assert planned(project) == {}


def test_changed_model_reruns_all_that_used_it(project):
    import onnx

    model = onnx.load(project / "models/demo/encoder.onnx")
    weight = next(w for w in model.graph.initializer if len(w.raw_data) > 1000)
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(model, project / "models/demo/encoder.onnx")
    assert planned(project) == {
        **{"inspect": 1, "traces": len(shards(project)), "sample": 1, "calibration": 1},
        **{"prepare": 1, "prove": 1, "quantize": 2, "encode": 1, "evaluate": 2, "decode": 3},
        **{"long_stream": 2, "verify": 1, **AFTER_DECODING},
    }


def test_other_seed_draws_anew_and_traces_nothing(project):
    configure(project, calibration={"rows": 12, "seed": 5})
    assert planned(project) == {
        **AFTER_SAMPLE,
        "sample": 1,
    }


def test_changed_variant_rebuilds_it_alone(project):
    configure(project, variants={"int8": {"method": "layer"}})
    assert planned(project) == {**AFTER_QUANTIZE, **AFTER_DECODING}


def test_other_preparation_prepares_and_builds_anew_and_traces_nothing(project):
    configure(project, preparation={"fold_constants": True})
    after = {rule: 2 * count for rule, count in AFTER_QUANTIZE.items()}
    assert planned(project) == {"prepare": 1, "prove": 1, **after, **AFTER_DECODING}


def test_other_tokens_decode_anew_and_run_no_encoder(project):
    tokens = project / "models/demo/tokens.txt"
    tokens.write_text(tokens.read_text().replace("nine", "neun"))
    assert planned(project) == {"decode": 3, "convert": 2, "verify": 1, **AFTER_DECODING}


def test_other_number_of_rows_draws_anew_and_traces_nothing(project):
    configure(project, calibration={"rows": 13})
    assert planned(project) == {**AFTER_SAMPLE, "sample": 1}


def shard_of(*names: str) -> set[int]:
    """The shards of some calibration files."""
    return {manifest.shard_of(name, 3) for name in names}


def remove(project: Path) -> set[int]:
    (project / "audio/calibration/c1.wav").unlink()
    return shard_of("c1")


def change(project: Path) -> set[int]:
    write_audio(project / "audio/calibration/c2.wav", 1.7, 77)
    return shard_of("c2")


def rename(project: Path) -> set[int]:
    (project / "audio/calibration/c3.wav").rename(project / "audio/calibration/d3.wav")
    return shard_of("c3", "d3")


def replace_by_another_of_long_ago(project: Path) -> set[int]:
    path = project / "audio/calibration/c4.wav"
    write_audio(path, 3.3, 78)
    os.utime(path, (10**9, 10**9))
    return shard_of("c4")


@pytest.mark.parametrize("edit", [remove, change, rename, replace_by_another_of_long_ago])
def test_edited_audio_reruns_its_shards_alone(project, edit):
    # A shard whose only file is gone has no jobs any more.
    remaining = len(edit(project) & used_shards(project))
    per_shard = {rule: remaining for rule in ("index", "features", "traces") if remaining}
    assert planned(project) == {**AFTER_SAMPLE, "sample": 1, "overlap": 1, **per_shard}


def used_shards(project: Path) -> set[int]:
    return shard_of(*(path.stem for path in (project / "audio/calibration").iterdir()))


def test_other_cores_and_lanes_rerun_nothing(project):
    assert planned(project, cores=1) == planned(project, cores=7) == {}
    configure(project, traces={"lanes": 3})
    # The report prints all settings.
    assert planned(project) == {"report": 1}


def test_copied_project_reruns_nothing_and_jobs_do_not_grow_with_the_audio(project):
    assert planned(project) == {}
    for number in range(60):
        shutil.copy(
            project / "audio/calibration/c1.wav", project / f"audio/calibration/n{number}.wav"
        )
    assert planned(project) == {
        **{"index": 3, "overlap": 1, "features": 3, "traces": 3, "sample": 1},
        **AFTER_SAMPLE,
    }


def test_evaluation_without_a_board_ends_with_what_to_do(project):
    before = (project / "results/variants/int8/encoder.rknn").read_bytes()
    configure(project, evaluation={"target": "rk3588", "long_stream": 0})
    done = snakemake(project)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    message = r"^error: no rk3588 board can be used: connect it by USB .* set evaluation.target to"
    assert re.search(message, done.stderr, re.MULTILINE)
    assert (project / "results/variants/int8/encoder.rknn").read_bytes() == before


def test_time_of_a_chunk_is_kept_beside_the_evaluation(finished):
    (path,) = (finished / "results/evaluation/int8").glob("*.time.json")
    found = json.loads(path.read_text())
    assert found["target"] == "simulator" and found["chunks"] > 0
    assert 0 < found["median_ms"] <= found["p95_ms"] <= found["max_ms"]


def test_other_joiner_converts_it_anew_and_builds_no_encoder(project):
    configure(project, recognizer={"joiner": "int8"})
    rerun = {"encode_calibration": len(used_shards(project)), "convert": 1, "verify": 1}
    rerun |= {"decode_rknn": 1, "score": 1, "bundle": 1, "report": 1}
    assert planned(project) == rerun
    run(project)
    manifest = json.loads((project / "results/bundle/manifest.json").read_text())
    assert manifest["recognizer"]["joiner"]["dtype"] == "int8"
    assert manifest["refusals"] == []
    assert "joiner int8" in (project / "results/bundle/README.md").read_text()


AFTER_SAMPLE = {"calibration": 1, "prove": 1, **AFTER_QUANTIZE, **AFTER_DECODING}
"""What follows a new sample: the float16 variant and the float model are not concerned."""


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("calibration/sampling", {"sample": 1}),
        ("traces/slides", {"traces": 3, "sample": 1}),
        ("traces/store", {"traces": 3, "sample": 1}),
        ("traces/chunk_table", {"traces": 3, "sample": 1}),
        ("calibration/dataset", {}),
    ],
)
def test_changed_library_module_reruns_the_rules_that_use_it(project, module, first):
    with open(project / f"scripts/zipquant/{module}.py", "a") as file:
        file.write("\n# A remark.\n")
    plan = planned(project)
    before_the_build = ("inspect", "index", "overlap", "features", "traces", "sample", "encode")
    assert {rule: plan[rule] for rule in before_the_build if rule in plan} == first
    assert plan["calibration"] == plan["report"] == 1


def test_sampling_opens_no_model(finished):
    """Its rule has no model among its inputs, and its code nothing to open one with."""
    code = "import sys; import zipquant.calibration.sampling; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(finished / "scripts")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    # It reads model.json with the module that reads ONNX files as well, hence no word of onnx.
    assert not {"onnxruntime", "rknn", "h5py"} & set(done.stdout.split())
    rule = (finished / "rules/calibration.smk").read_text().split("rule calibration")[0]
    assert "model" not in rule and "traces/{shard}.h5" not in rule


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


def shards(project: Path) -> list[Path]:
    """The shards that hold calibration audio."""
    return list((project / "results/traces").glob("*.h5"))


@pytest.mark.parametrize(("count", "cores"), [(1, 1), (5, 2)])
def test_calibration_set_is_the_same_for_any_shards_and_cores(finished, tmp_path, count, cores):
    project = make_project(tmp_path / "project")
    shards = {"calibration": count, "evaluation": 1}
    configure(project, audio=AUDIO | {"shards": shards}, traces={"lanes": count})
    run(project, "results/calibration/dataset.txt", cores=cores)
    expected = finished / "results/calibration"
    produced = project / "results/calibration"
    for path in [Path("dataset.txt"), *(p.relative_to(expected) for p in expected.glob("*/*.npy"))]:
        assert (produced / path).read_bytes() == (expected / path).read_bytes()


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


def refuse(project: Path, *arguments: str) -> str:
    """Run Snakemake, insist that it ends with one plain message before any job, return it."""
    done = snakemake(project, *arguments)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in output
    assert "rule" not in output
    (message,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert not (project / "results").exists()
    return message


@pytest.fixture
def fresh(tmp_path):
    """A project that has not run yet."""
    return make_project(tmp_path / "project")


def test_ctc_model_runs_through_to_a_bundle_by_config_alone(fresh):
    model = tiny_ctc(fresh / "models/ctc.onnx", tokens=6, batch=1, counter="int32")
    (fresh / "models/tokens.txt").write_text("<blk> 0\na 1\nb 2\n▁c 3\nd 4\n<unk> 5\n")
    configure(fresh, model={"encoder": str(model)}, variants={"fp16": None})
    run(fresh)
    bundle = fresh / "results/bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["refusals"] == [] and manifest["recognizer"] == {}
    assert not (bundle / "joiner.rknn").exists()
    page = (bundle / "README.md").read_text()
    assert "--zipformer2-ctc-model=encoder.rknn --tokens=tokens.txt" in page
    assert "--decoder=" not in page and "takes these files" in page
    described = json.loads((bundle / "encoder.json").read_text())
    assert described["context"] is None
    assert {state["dtype"] for state in described["states"]} == {"float32", "int64"}
    report = json.loads((fresh / "results/report/report.json").read_text())
    assert report["variants"]["int8"]["encoder_out"]["free-running"]["sqnr_db"] > 25


def test_what_the_platform_does_not_have_is_refused(fresh):
    configure(fresh, variants={"int8": {"dtype": "w4a16"}})
    message = refuse(fresh)
    assert "variants.int8: rk3588 has no w4a16. Known for it: w8a8, float16; w4a16" in message


def test_folder_without_audio_is_refused(fresh):
    shutil.rmtree(fresh / "audio/calibration")
    assert "no audio at 'audio/calibration'" in refuse(fresh)
    (fresh / "audio/calibration").mkdir()
    assert "no audio found in 'audio/calibration'" in refuse(fresh)


def test_missing_model_is_refused(fresh):
    configure(fresh, model={"encoder": "models/none.onnx"})
    assert "no model at 'models/none.onnx'" in refuse(fresh)


def test_model_that_is_no_streaming_encoder_is_refused(fresh):
    tiny_encoder(fresh / "models/odd.onnx", counter_output="lens")
    configure(fresh, model={"encoder": "models/odd.onnx"})
    message = refuse(fresh)
    assert "models/odd.onnx is not a streaming encoder: input 'processed_lens'" in message
    assert "unpaired outputs: lens" in message


def test_unknown_platform_and_misspelt_key_are_refused(fresh):
    configure(fresh, platform="rk3558", calibraton={"rows": 3})
    message = refuse(fresh)
    assert "platform: 'rk3558' is not known, did you mean 'rk3588'?" in message
    assert "unknown key 'calibraton', did you mean 'calibration'?" in message


def test_tokens_of_another_model_are_refused(fresh):
    with open(fresh / "models/demo/tokens.txt", "a") as file:
        file.write("▁ten 11\n")
    assert "tokens.txt has 12 tokens, but models/demo/joiner.onnx gives 11" in refuse(fresh)


def test_transcripts_of_another_language_are_refused(fresh):
    rows = [f"e{number}\taudio/evaluation/e{number}.wav\t你好\n" for number in range(2)]
    (fresh / "spoken.tsv").write_text("id\tpath\ttext\n" + "".join(rows))
    configure(fresh, audio=AUDIO | {"evaluation": "spoken.tsv"})
    message = refuse(fresh)
    assert "spoken.tsv: 2 of 2 transcripts hold words" in message
    assert "the first is '你' in 'e0'" in message


def test_evaluation_audio_that_is_calibrated_with_stops_before_heavy_jobs(fresh):
    shutil.copy(fresh / "audio/calibration/c2.wav", fresh / "audio/evaluation/other_name.wav")
    done = snakemake(fresh)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "audio/evaluation/other_name.wav is evaluation audio, but has the same" in message
    assert "audio/calibration/c2.wav" in message
    assert not (fresh / "results/traces").exists()
    assert not (fresh / "results/variants").exists()


def test_overlap_can_be_only_warned_of(project):
    shutil.copy(project / "audio/calibration/c2.wav", project / "audio/evaluation/e0.wav")
    settings = {"variants": {"fp16": None}, "evaluation": {"long_stream": 0}}
    configure(project, audio=AUDIO | {"on_overlap": "warn"}, **settings)
    run(project)
    report = json.loads((project / "results/report/report.json").read_text())
    (warning,) = [text for text in report["warnings"] if "calibration audio" in text]
    assert "the first is e0 (the same as c2)" in warning
    assert warning.split()[0] in (project / "results/report/index.html").read_text()


def test_bad_file_with_stop_ends_before_heavy_jobs_and_is_told_last(fresh):
    (fresh / "audio/calibration/broken.wav").write_text("no audio")
    configure(fresh, audio=AUDIO | {"on_bad_file": "stop"})
    done = snakemake(fresh)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(r"^error: 1 unusable .*broken\.wav: not readable", done.stderr, re.MULTILINE)
    assert not (fresh / "results/calibration/dataset.txt").exists()


def test_bad_file_is_skipped_and_named_in_the_report(project):
    (project / "audio/evaluation/broken.wav").write_text("no audio")
    configure(project, variants={"fp16": None}, evaluation={"long_stream": 0})
    run(project)
    report = json.loads((project / "results/report/report.json").read_text())
    (problem,) = report["audio"]["evaluation"]["skipped"]
    assert "broken.wav: not readable as audio" in problem
    assert report["audio"]["evaluation"]["used"] == EVALUATION_FILES


def test_odd_names_and_bad_files_do_not_stop_the_rest(fresh):
    audio = fresh / "audio/calibration"
    odd = [
        "a space",
        'it\'s "quoted"',
        "语音-é",
        "line\nbreak",
        "tab\there",
        "$(x);&*",
        "back\\slash",
    ]
    for number, name in enumerate(odd):
        write_audio(audio / f"{name}.wav", 1.0, 200 + number)
    (audio / "br{a}ce.wav").write_bytes((audio / "c1.wav").read_bytes())
    with open(os.fsencode(audio) + b"/n\xff.wav", "wb") as file:
        file.write((audio / "c1.wav").read_bytes())
    (audio / "text.wav").write_text("no audio")
    dataset = "results/calibration/dataset.txt"
    configure(fresh, calibration={"rows": 1000})
    run(fresh, dataset)
    tables = (fresh / "results/traces").glob("*.parquet")
    traced = set(pd.concat(map(chunk_table.read, tables))["utterance"])
    assert traced == {*odd, *(f"c{number}" for number in range(CALIBRATION_FILES))}
    indexes = (fresh / "results/index/calibration").glob("*.tsv")
    skipped = {e.path for path in indexes for e in index.read(path) if e.problem}
    assert {Path(path).name for path in skipped} == {"br{a}ce.wav", "n\\xff.wav", "text.wav"}
    again = run(fresh, dataset)
    assert "Nothing to be done" in again.stdout + again.stderr


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


@needs_shared_speech
def test_real_speech_runs_through_by_config_alone(tmp_path):
    project = make_project(tmp_path / "project")
    speech = sorted((SHARED_SPEECH / "mandarin").glob("*.wav"))
    for name, paths in (("calibration", speech[:20]), ("evaluation", speech[20:])):
        rows = "".join(f"{path.stem}\t{path}\n" for path in paths)
        (project / f"{name}.tsv").write_text(f"id\tpath\n{rows}")
    audio = {"calibration": "calibration.tsv", "evaluation": "evaluation.tsv"}
    settings = {"evaluation": {"max_utterances": 1, "long_stream": 0}, "calibration": {"rows": 60}}
    configure(project, audio=audio, variants={"fp16": None}, **settings)
    run(project)
    report = json.loads((project / "results/report/report.json").read_text())
    assert report["recognition"]["utterances"] == 1
    assert report["variants"]["int8"]["chunks"] > 5
    assert report["variants"]["int8"]["encoder_out"]["free-running"]["sqnr_db"] > 20
