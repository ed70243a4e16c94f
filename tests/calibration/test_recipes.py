"""Recipes: the front ends of the old scripts, and what a recipe's rows hold."""

import numpy as np
import pytest
import yaml

from helpers.audio import make_audio
from helpers.places import DEMO_MODEL, ROOT, SHARED_SPEECH, needs_shared_speech
from zipquant import config
from zipquant.audio import features, reading
from zipquant.audio.frame_store import FrameWriter
from zipquant.calibration import dataset, dataset_check, recipes, sampling, strategies
from zipquant.calibration.recipes import Recipe
from zipquant.traces import tracing


@needs_shared_speech
@pytest.mark.parametrize(
    ("front_end", "error", "correlation", "mean"),
    [("librosa-db", 41.7, 0.55, -50.7), ("librosa-preemphasis", 4.72, 0.79, -13.6)],
)
def test_old_front_ends_miss_the_runtime_by_what_was_measured(front_end, error, correlation, mean):
    old, runtime = [], []
    for path in sorted((SHARED_SPEECH / "mandarin").glob("BAC*.wav")):
        samples = reading.load(path)
        reference = features.fbank(samples)
        other = features.FrontEnd(front_end).compute(samples)
        assert other.dtype == np.float32 and 0 <= len(other) - len(reference) <= 1
        runtime.append(reference)
        old.append(other[: len(reference)])
    old, runtime = np.concatenate(old), np.concatenate(runtime)
    assert np.abs(old - runtime).mean() == pytest.approx(error, rel=0.01)
    assert np.corrcoef(old.ravel(), runtime.ravel())[0, 1] == pytest.approx(correlation, abs=0.03)
    assert old.mean() == pytest.approx(mean, abs=0.2)


def test_decibels_end_80_below_the_loudest_point_of_the_file():
    for gain in (1.0, 0.01):
        found = features.FrontEnd("librosa-db").compute(gain * make_audio(1.0))
        assert found.max() == 0 and found.min() >= -80


def test_preemphasis_ignores_an_offset_of_the_whole_wave():
    samples = make_audio(1.0)
    front_end = features.FrontEnd("librosa-preemphasis").compute
    np.testing.assert_allclose(front_end(samples + np.float32(0.1)), front_end(samples), atol=0.05)
    np.testing.assert_allclose(front_end(np.zeros(16000, np.float32)), np.log(1e-10), rtol=1e-6)


def test_recipe_is_resolved_and_single_choices_replace_its_own():
    own = {"front_end": None, "states": None, "strategy": None}
    assert recipes.resolve({"recipe": "exact"} | own).front_end == "kaldi"
    assert recipes.resolve({"recipe": "09"} | own) == Recipe(
        "librosa-preemphasis", "real", "uniform"
    )
    mixed = {"recipe": "08-final", "front_end": "kaldi", "states": None, "strategy": "coverage"}
    assert recipes.resolve(mixed) == Recipe("kaldi", "zero", "coverage")


def test_every_recipe_and_choice_can_be_named_in_the_config():
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())
    known = config.schema()["properties"]["calibration"]["properties"]
    assert known["recipe"]["enum"] == list(recipes.RECIPES)
    assert known["front_end"]["enum"] == [None, *features.FRONT_ENDS]
    assert known["strategy"]["enum"] == [None, *strategies.STRATEGIES]
    # YAML must not make numbers of them.
    for name, recipe in recipes.RECIPES.items():
        text = f"recipe: {name}\nstates: {recipe.states}\nfront_end: null\nstrategy: null"
        settings["calibration"] |= yaml.safe_load(text)
        config.validate(settings)
        assert recipes.resolve(settings["calibration"]) == recipe


@pytest.fixture(scope="module")
def traced(tmp_path_factory, demo_contract):
    """A folder with the trace of two made-up utterances and a sample of eight chunks."""
    folder = tmp_path_factory.mktemp("traced")
    demo_contract.save(folder / "model.json")
    with FrameWriter(folder / "f.h5") as writer:
        for seed in range(2):
            writer.add(f"u{seed}", features.fbank(make_audio(3.0, seed)))
    arguments = [folder / name for name in ("model.json", "f.h5", "t.h5", "t.parquet")]
    tracing.trace_shard(DEMO_MODEL, *arguments, lanes=2)
    outputs = [folder / name for name in ("s.tsv", "c.tsv", "o.tsv")]
    sampling.sample(
        [folder / "t.parquet"],
        folder / "model.json",
        *outputs,
        sampling.Draw("uniform", 8, 0, guard=False),
    )
    return folder


@pytest.mark.parametrize(
    ("states", "files", "problem"),
    [
        ("real", None, None),
        ("zero", 8 + 35, "8 of 8 rows have states of zeros alone"),
        ("none", 8, "row 1 (and 7 more rows): has 1 path, the model has 36 inputs"),
    ],
)
def test_rows_hold_the_states_of_the_recipe(
    traced, tmp_path, demo_contract, states, files, problem
):
    dataset.write(
        traced / "s.tsv",
        [traced / "t.h5"],
        traced / "model.json",
        tmp_path / "dataset.txt",
        tmp_path / "arrays",
        states,
    )
    told = dataset_check.describe(
        list(dataset_check.find_problems(tmp_path / "dataset.txt", demo_contract))
    )
    assert [problem in line for line in told] == [True] if problem else told == []
    # One shared set of zeros: each is stored once.
    if files:
        assert len(list((tmp_path / "arrays").iterdir())) == files
    lines = (tmp_path / "dataset.txt").read_text().splitlines()
    assert {len(line.split(" ")) for line in lines} == {1 if states == "none" else 36}
