"""Benchmarks that `make bench` and the model card name: they run."""

import csv
import json
import subprocess
import sys

import pytest

from helpers.places import ROOT

AUDIO = ROOT / "demo/audio/evaluation.tsv"


def recognise(*arguments: object) -> str:
    """Run benchmarks/recognition.py and return what it prints."""
    command = [sys.executable, "benchmarks/recognition.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recognition_benchmark_has_settings_that_the_workflow_takes(tmp_path):
    recognise("--audio", AUDIO, "--folder", tmp_path / "run", "--dry-run")
    manifest = tmp_path / "run/utterances.tsv"
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert len(rows) == 8 and all(row["text"] for row in rows)


@pytest.mark.slow
def test_recognition_benchmark_gives_error_rates(tmp_path):
    with open(AUDIO, newline="") as file:
        first = next(csv.DictReader(file, dialect="excel-tab"))
    manifest = tmp_path / "one.tsv"
    path = AUDIO.parent / first["path"]
    manifest.write_text(f"id\tpath\ttext\n{first['id']}\t{path}\t{first['text']}\n")
    settings = tmp_path / "small.yaml"
    settings.write_text(
        "variants: {int8: {mixed_precision: null}, fp16: null}\nevaluation: {long_stream: 0}\n"
    )
    printed = recognise(
        *("--audio", manifest, "--folder", tmp_path / "run", "--configfile", settings)
    )
    figures = json.loads(printed[printed.index("{") :])
    assert figures["recognition_utterances"] == 1
    assert 0 <= figures["recognition_wer_float"] <= 100
    assert {"recognition_wer_int8", "recognition_same_text_rknn"} <= set(figures)
