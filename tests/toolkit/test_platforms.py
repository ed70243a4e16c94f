"""A real build for every platform and type that `platforms` lists, and the rows of a variant."""

import json

import numpy as np
import pytest
import yaml

from helpers.builds import build, calibrate, errors
from helpers.models import tiny_encoder
from helpers.places import ROOT
from zipquant import config
from zipquant.calibration.rows import take as take_rows
from zipquant.errors import UserError
from zipquant.toolkit import platforms


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A folder with a tiny model that has weights, and its calibration set."""
    folder = tmp_path_factory.mktemp("calibrated")
    weight = np.random.default_rng(0).normal(0, 0.3, (80, 80)).astype("f4")
    model = tiny_encoder(folder / "tiny.onnx", weight=weight)
    return folder, model, calibrate(folder, model)


BUILDS = [(name, "w8a8", "normal", "channel", 18) for name in platforms.PLATFORMS] + [
    ("rk3576", "w4a16", "normal", "group32", 15),
    ("rk3576", "w4a16", "gdq", "group32", 24),
    ("rv1126b", "w4a16", "normal", "channel", 15),
    ("rv1126b", "w4a16", "gdq", "channel", 24),
]
"""Platform, type, algorithm, method, and an SQNR that noise of rounding keeps well above (dB)."""


@pytest.mark.parametrize(("platform", "dtype", "algorithm", "method", "least"), BUILDS)
def test_built_for_its_platform_and_simulated(
    calibrated, tmp_path, platform, dtype, algorithm, method, least
):
    folder, model, shape = calibrated
    for name in ("model.json", "dataset.txt", "sample.tsv", "arrays"):
        (tmp_path / name).symlink_to(folder / name)
    settings = {"platform": platform, "dtype": dtype, "algorithm": algorithm, "method": method}
    record = build(tmp_path, model, **settings)
    assert {key: record[key] for key in settings} == settings
    types = {*record["inputs"].values(), *record["outputs"].values()}
    assert types == {"float16", "int64"}
    figures = errors(tmp_path, model, shape, record)
    assert figures.loc["new_processed_lens", "max_error"] == 0
    assert least < figures.loc["encoder_out", "sqnr_db"] < 55


def test_variant_takes_fewer_rows_than_the_set_has(calibrated):
    folder, model, _ = calibrated
    record = build(folder, model, rows=5, sample=folder / "sample.tsv")
    assert record["rows"] == 5
    taken = (folder / "variant/toolkit/dataset.txt").read_text().splitlines()
    whole = (folder / "dataset.txt").read_text().splitlines()
    assert len(taken) == 5 < len(whole)
    assert taken[0] == " ".join(f"../../{path}" for path in whole[0].split(" "))


def test_first_rows_are_a_good_set_or_those_of_the_smallest_priorities(tmp_path):
    (tmp_path / "dataset.txt").write_text("".join(f"a/{row}.npy b/{row}.npy\n" for row in range(4)))

    def taken(*chunks: tuple[int, str, int]) -> list[str]:
        rows = "".join(f"{p}\t{name}\t{chunk}\t0\t0\n" for p, name, chunk in chunks)
        header = "priority\tutterance\tchunk\tshard\trow\n"
        (tmp_path / "sample.tsv").write_text(header + rows)
        take_rows(tmp_path / "dataset.txt", tmp_path / "sample.tsv", 2, tmp_path / "v/dataset.txt")
        return (tmp_path / "v/dataset.txt").read_text().splitlines()

    first = ["../a/0.npy ../b/0.npy", "../a/1.npy ../b/1.npy"]
    # As a strategy has ranked them.
    assert taken((9, "u", 3), (2, "u", 1), (1, "t", 0), (5, "v", 0)) == first
    # In the order of the utterances.
    ranked = ["../a/1.npy ../b/1.npy", "../a/3.npy ../b/3.npy"]
    assert taken((9, "t", 0), (2, "t", 10), (7, "u", 0), (5, "u", 9)) == ranked


def test_simulator_of_gdq_is_the_model_that_was_built(calibrated, tmp_path):
    """It is built a second time; the figures do not change by that."""
    folder, model, shape = calibrated
    for name in ("model.json", "dataset.txt", "arrays"):
        (tmp_path / name).symlink_to(folder / name)
    settings = {"dtype": "w4a16", "algorithm": "gdq", "method": "group32"}
    record = build(tmp_path, model, platform="rk3576", **settings)
    once, again = (errors(tmp_path, model, shape, record) for _ in range(2))
    assert json.loads(once.to_json()) == json.loads(again.to_json())


def test_platform_can_be_registered_from_outside(monkeypatch):
    """A new NPU is an entry of the table; the checks and the schema follow it."""
    settings = yaml.safe_load((ROOT / "config.yaml").read_text()) | {"platform": "rk9999"}
    with pytest.raises(UserError, match="'rk9999' is not known"):
        config.validate(settings)
    monkeypatch.setitem(platforms.PLATFORMS, "rk9999", platforms.PLATFORMS["rk3576"])
    config.validate(settings)
    settings["variants"] = {"int4": {"dtype": "w4a16", "method": "group32"}}
    config.validate(settings)
    assert platforms.Scheme("rk9999", "w4a16").in_two_steps
