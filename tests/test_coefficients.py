"""Fitting the costs of layers on what a board has taken."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from helpers.places import ROOT
from zipquant.board import measuring
from zipquant.jobs import files
from zipquant.toolkit import layer_costs, layer_table
from zipquant.toolkit.layer_costs import Costs, Fit
from zipquant.toolkit.layer_table import Layer, Table
from zipquant.variants.record import Build

TRUE = Fit(8.0, 8.0, 8.0, 40.0, 5.0)
"""What this board costs."""

NETWORKS = {"encoder": (560, 72, 6_000_000), "decoder": (5, 2, 60_000), "joiner": (6, 3, 20_000)}
"""Layers, inputs and outputs, and bytes of each."""


@pytest.fixture
def run(tmp_path):
    """The results of a run, and the file of a board that takes what `TRUE` says."""
    results, bundle = tmp_path / "results", tmp_path / "bundle"
    (results / "variants/int8").mkdir(parents=True)
    (results / "recognizer").mkdir()
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    seconds = {}
    for name, (count, borders, size) in NETWORKS.items():
        layer = Layer(0, "Conv", "INT8", "NPU", "", "", None, size // count, 0, 0, "", "")
        table = Table((layer,) * count, borders, layer_table.COMPILER)
        ms = layer_costs.price(table, Costs((TRUE,), 0.0, "")).low
        seconds[f"{name}.rknn"] = [ms / 1000] * 50
        (bundle / f"{name}.rknn").write_bytes(name.encode())
        if name == "encoder":
            sha256 = files.sha256(bundle / "encoder.rknn")
            Build("rk3588", "w8a8", rknn_sha256=sha256).save(results / "variants/int8")
            table.write(results / "variants/int8/layers.tsv")
        else:
            (results / f"recognizer/{name}.rknn").write_bytes(name.encode())
            table.write(results / f"recognizer/{name}.layers.tsv")
    found = measuring.result(bundle, seconds, measuring.state())
    (tmp_path / "board.json").write_text(json.dumps(found))
    return tmp_path


def fit(folder) -> subprocess.CompletedProcess:
    script = [sys.executable, "benchmarks/coefficients.py", folder / "board.json"]
    return subprocess.run(
        [*script, "--results", folder / "results"], cwd=ROOT, capture_output=True, text=True
    )


def test_costs_that_a_board_has_are_found_again(run):
    done = fit(run)
    assert done.returncode == 0, done.stderr
    assert "int8 " in done.stdout and "joiner " in done.stdout
    best = re.search(r"^ *(\d+)% +\| +(\d+)% +\| layers \+ inputs and outputs", done.stdout, re.M)
    assert best and int(best[1]) <= 30
    found = yaml.safe_load(done.stdout.split("the first as a setting:\n")[1])
    costs = Costs((Fit(**found["evaluation"]["board_costs"]),), 0.0, "")
    table = Table.read(run / "results/variants/int8/layers.tsv")
    true = layer_costs.price(table, Costs((TRUE,), 0.0, "")).low
    assert layer_costs.price(table, costs).low == pytest.approx(true, rel=0.15)


def test_all_three_costs_are_found_where_all_are_fitted(run, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import coefficients

    from zipquant.evaluation import board_result

    points = coefficients.networks(board_result.read(run / "board.json"), run / "results")
    found = coefficients.mixing(coefficients.MIXTURES[-1])(points)
    # The times in the file are rounded to a microsecond.
    assert found.npu_layer_us == pytest.approx(TRUE.npu_layer_us, rel=0.05)
    assert found.border_us == pytest.approx(TRUE.border_us, rel=0.05)
    assert found.gb_per_s == pytest.approx(TRUE.gb_per_s, rel=0.1)


def test_a_board_file_of_another_run_is_refused(run):
    for name in ("encoder", "decoder", "joiner"):
        text = (run / "board.json").read_text()
        sha256 = files.sha256(run / f"bundle/{name}.rknn")
        (run / "board.json").write_text(text.replace(sha256, "0" * 64))
    done = fit(run)
    assert done.returncode == 1 and "measure the bundle of that very run" in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
