"""A run from end to end with the real toolkit: what it leaves."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from helpers.models import tiny_ctc
from helpers.places import ROOT, SHARED_SPEECH, needs_shared_speech
from helpers.projects import (
    AUDIO,
    CALIBRATION_FILES,
    check_all_is_recorded,
    configure,
    make_project,
    planned,
    run,
    snakemake,
)
from zipquant.board import measuring
from zipquant.model import contract
from zipquant.toolkit import rknn_file


def test_everything_that_a_run_has_made_is_recorded(finished):
    check_all_is_recorded(finished)


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
    stream = json.loads((results / "evaluation/int8/0.stream.json").read_text())
    assert set(stream["counters"].values()) == {True}
    # Twelve rows of noise calibrate no good states; the means, which are float16, hold anyway.
    assert not [name for name in stream["wrong"] if "cached_avg" in name]
    assert len(stream["outputs"]["new_cached_avg_0"]["sqnr_db"]) == stream["chunks"] > 20
    report = json.loads((results / "report/report.json").read_text())
    # A wrong layout, a lost state or an uncalibrated model each fall far below these.
    for variant, least in (("int8", 18), ("fp16", 45)):
        figures = report["variants"][variant]["encoder_out"]
        assert figures["one step"]["sqnr_db"] > least
        assert figures["free-running"]["sqnr_db"] > least
        assert figures["free-running"]["cosine"] > 0.99
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


def test_bundle_is_complete_and_what_a_stock_sherpa_onnx_loads(finished):
    folder = finished / "results/bundle"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["variant"] == "int8" and manifest["refusals"] == []
    assert manifest["recognizer"]["joiner"]["same_argmax"] > 0.99
    assert manifest["recognizer"]["decoder"]["sqnr_db"] > 50
    models = ("decoder.rknn", "encoder.rknn", "joiner.rknn")
    library = ("__init__", "description", "fbank", "greedy_search", "keyword_search", "keywords")
    library += ("measuring", "vocabulary", "whisper")
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


def test_time_of_a_chunk_is_kept_beside_the_evaluation(finished):
    (path,) = (finished / "results/evaluation/int8").glob("*.time.json")
    found = json.loads(path.read_text())
    assert found["target"] == "simulator" and found["chunks"] > 0
    assert 0 < found["median_ms"] <= found["p95_ms"] <= found["max_ms"]


def test_sampling_opens_no_model(finished):
    """Its rule has no model among its inputs, and its code nothing to open one with."""
    code = "import sys; import zipquant.calibration.sampling; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(finished / "scripts")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    # It reads model.json with the module that reads ONNX files as well, so onnx is not in this set.
    assert not {"onnxruntime", "rknn", "h5py"} & set(done.stdout.split())
    rule = (finished / "rules/calibration.smk").read_text().split("rule calibration")[0]
    assert "model" not in rule and "traces/{shard}.h5" not in rule


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


def test_ctc_model_runs_through_to_a_bundle_by_config_alone(fresh):
    model = tiny_ctc(fresh / "models/ctc.onnx", tokens=6, batch=1, counter="int32")
    (fresh / "models/tokens.txt").write_text("<blk> 0\na 1\nb 2\n▁c 3\nd 4\n<unk> 5\n")
    configure(
        fresh,
        model={"encoder": str(model)},
        variants={"fp16": None},
        bundle={"plain_encoder": True},
    )
    run(fresh)
    check_all_is_recorded(fresh)
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


def test_keywords_are_counted_and_go_into_the_bundle(project):
    keywords = "▁two ▁three @2-3\n▁zero\n▁one ▁seven\n▁nine :0.5 #0.9\n"
    (project / "keywords.txt").write_text("\ufeff" + keywords, encoding="utf-8")
    configure(
        project,
        model={"keywords": "keywords.txt"},
        variants={"fp16": None},
        audio=AUDIO | {"evaluation": str(ROOT / "demo/audio/evaluation.tsv")},
    )
    run(project)
    report = json.loads((project / "results/report/report.json").read_text())
    found = report["recognition"]["keywords"]
    # As in the transcripts: nine is said five times, one-seven once and zero once.
    assert found["said"] == {"2-3": 0, "zero": 1, "one seven": 1, "nine": 5}
    assert set(found["models"]) == {"float", "int8"}
    for figures in found["models"].values():
        assert figures["missed_of"]["zero"] == figures["missed_of"]["one seven"] == 0
        # Its name is none that a transcript has, so that it is heard and never said.
        assert figures["alarms_of"]["2-3"] == 1
    assert report["choice"]["judgements"]["int8"]["evidence"]["missed"]["metric"] == "keyword"
    page = (project / "results/report/index.html").read_text()
    assert '<section id="keywords">' in page and "It misses" in page
    assert "| one seven | 1 |" in (project / "results/report/report.md").read_text()
    bundle = project / "results/bundle"
    assert (bundle / "keywords.txt").read_text(encoding="utf-8") == keywords
    readme = (bundle / "README.md").read_text()
    assert "sherpa-onnx-keyword-spotter --provider=rknn" in readme
    assert "| int8 | " in readme and "--keywords-file=keywords.txt" in readme
    # Other keywords build and evaluate nothing.
    (project / "keywords.txt").write_text("▁zero\n", encoding="utf-8")
    assert set(planned(project)) == {"spot", "choose", "score", "decode_rknn", "report", "bundle"}


def test_what_a_board_has_measured_stands_in_the_report(project):
    bundle = project / "results/bundle"
    seconds = {"encoder.rknn": [0.0123] * 50, "decoder.rknn": [0.001] * 50}
    found = measuring.result(bundle, seconds, measuring.state())
    (project / "board.json").write_text(json.dumps(found))
    configure(project, evaluation={"long_stream": 12, "board_result": "board.json"})
    assert not {"quantize", "evaluate"} & set(planned(project))
    run(project)
    report = json.loads((project / "results/report/report.json").read_text())
    assert report["layers"]["networks"]["int8"]["measured"]["median_ms"] == 12.3
    assert report["layers"]["networks"]["decoder"]["measured"]["median_ms"] == 1.0
    page = (project / "results/report/index.html").read_text()
    assert "12.3\u00a0ms (measured)" in page and "a chunk takes 12.3" in page
    found["networks"]["encoder.rknn"]["sha256"] = "0" * 64
    (project / "board.json").write_text(json.dumps(found))
    done = snakemake(project)
    assert done.returncode != 0
    assert "measured with an encoder that this run has not built" in done.stdout + done.stderr
