"""All recipes side by side: the parts of the table, and the whole run with the real toolkit."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from helpers.projects import make_project, planned, run
from zipquant import lineage
from zipquant.audio.frame_store import FrameWriter
from zipquant.calibration import ranges, recipes
from zipquant.model import contract

KALDI = {name for name, recipe in recipes.RECIPES.items() if recipe.front_end == "kaldi"}


def write_features(path, utterances):
    with FrameWriter(path) as writer:
        for name, frames in utterances.items():
            writer.add(name, frames.astype(np.float32))
    return path


def test_feature_error_is_taken_over_the_frames_that_both_have(tmp_path):
    runtime = {"a": np.zeros((10, 80)), "b": np.full((4, 80), 2.0)}
    other = {"a": np.full((11, 80), 1.0), "b": np.full((4, 80), 5.0)}
    other["a"][10] = 99  # librosa has one frame more, which nothing stands against
    wanted = write_features(tmp_path / "runtime.h5", runtime)
    got = write_features(tmp_path / "other.h5", other)
    mean, largest = lineage.feature_error([got], [wanted])
    assert (mean, largest) == (pytest.approx((10 * 1 + 4 * 3) / 14), 3)
    assert lineage.feature_error([wanted], [wanted]) == (0, 0)


def line(**changes) -> lineage.Line:
    fields = {
        **{"recipe": "05-streaming", "front_end": "librosa-db", "states": "real"},
        **{"strategy": "all", "rows": 60, "files": 2161, "bytes": 10**7, "full_bytes": 10**8},
        **{"peak_memory_mb": 300.4, "seconds": 12.6, "feature_error_mean": 41.7},
        **{"feature_error_max": 72.6, "coverage_mean": 0.5, "coverage_worst": 0.25},
        **{"widest": 3.75, "toolkit": "taken"},
    }
    return lineage.Line(**fields | changes)


def test_markdown_shows_the_full_size_and_the_reason_of_a_refusal():
    built = line(sqnr_free_running_db=21.04, error_rate=7.5, error_rate_float=5.0)
    refused = line(recipe="06-snapshot", full_bytes=10**7, toolkit="row 1: has 1 path, the model")
    text = lineage.markdown([built, refused])
    first, second = text.splitlines()[2:4]
    assert "| 10.0 MB (all: 100 MB) |" in first and "| taken | - | 21.0 dB | 7.5 % | - |" in first
    assert "| 41.70 (72.6) | 50 % (25 %) | 3.8 |" in first
    assert "| 10.0 MB |" in second and "| refused | - | - | - | - |" in second
    assert "Error rate of the float model: 5.0 %." in text
    assert "`06-snapshot` is refused: row 1: has 1 path, the model" in text
    assert len({row.count("|") for row in text.splitlines() if row.startswith("|")}) == 1


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A project in which `snakemake lineage` has run."""
    project = make_project(tmp_path_factory.mktemp("lineage"))
    run(project, "lineage")
    return project


def test_lineage_compares_all_six_recipes(compared):
    table = pd.read_csv(compared / "results/lineage.tsv", sep="\t").set_index("recipe")
    assert list(table.index) == list(recipes.RECIPES)
    assert {"bytes", "files", "peak_memory_mb", "seconds", "toolkit"} <= set(table)
    for name, entry in table.iterrows():
        folder = compared / "results/lineage" / name
        kept = [*(folder / "arrays").iterdir(), folder / "dataset.txt"]
        assert entry["files"] == len(kept)
        assert entry["bytes"] == sum(path.stat().st_size for path in kept)
        assert entry["rows"] == len((folder / "dataset.txt").read_text().splitlines()) <= 12
        assert entry["peak_memory_mb"] > 50 and entry["seconds"] > 0
        assert (entry["feature_error_mean"] == 0) == (name in KALDI)
        refused = name == "06-snapshot"
        assert (entry["toolkit"] == "taken") != refused
        for figure in ("sqnr_one_step_db", "sqnr_free_running_db"):
            assert math.isfinite(entry[figure]) != refused
    assert (
        "row 1 (and 11 more rows): has 1 path, the model has 36 inputs"
        in table.loc["06-snapshot", "toolkit"]
    )
    # Zero states cover no range of any state; the real ones of the right front end nearly all.
    assert table.loc["08-final", "coverage_worst"] == 0
    assert table.loc["08-final", "coverage_mean"] < 0.05
    assert table.loc["exact", "coverage_mean"] > 0.9
    assert table.loc["05-streaming", "full_bytes"] > table.loc["05-streaming", "bytes"]
    assert table.loc["exact", "sqnr_free_running_db"] > 18
    assert table["same_text"].drop("06-snapshot").between(0, 100).all()


def test_full_size_of_05_is_computed_as_it_would_be_written(compared):
    table = pd.read_csv(compared / "results/lineage.tsv", sep="\t").set_index("recipe")
    chunks = sum(
        len(pd.read_parquet(path))
        for path in (compared / "results/lineage/librosa-db/traces").glob("*.parquet")
    )
    arrays = compared / "results/lineage/05-streaming/arrays"
    row = (arrays.parent / "dataset.txt").read_text().splitlines()[-1].split(" ")
    bytes_a_row = sum((arrays.parent / path).stat().st_size for path in row)
    assert table.loc["05-streaming", "full_bytes"] == chunks * bytes_a_row


def test_06_is_refused_before_the_toolkit_starts(compared):
    verdict = json.loads((compared / "results/lineage/06-snapshot/verdict.json").read_text())
    assert not verdict["taken"] and "features alone are no row" in verdict["reason"]
    built = compared / "results/lineage/06-snapshot/variant"
    assert [path.name for path in built.iterdir()] == [".snakemake_timestamp"]
    log = (compared / "results/logs/lineage/06-snapshot/build.log").read_text()
    assert "rknn-toolkit2 version" not in log


def test_exact_recipe_is_what_the_workflow_itself_calibrates_with(compared):
    run(compared, "results/calibration/dataset.txt")
    own, other = (compared / f"results/{part}" for part in ("calibration", "lineage/exact"))
    assert (own / "dataset.txt").read_bytes() == (other / "dataset.txt").read_bytes()
    covered = pd.read_csv(other / "coverage.tsv", sep="\t").set_index("tensor")
    read = contract.Contract.load(compared / "results/model.json")
    assert list(covered.index) == list(ranges.tensors(read))


def test_second_run_does_nothing(compared):
    assert planned(compared, "lineage") == {}
