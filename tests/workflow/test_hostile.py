"""Hostile input ends in one plain line, or is taken: no crash, no hang, nothing written or run."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from helpers import hostile
from helpers.models import tiny_encoder
from zipquant.model import contract

settings.register_profile(
    "short",
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=10_000,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("short")

MEMORY_MB = 700
"""More than this no hostile file may take, what the libraries loaded for it take included."""


def memory_mb(field: str) -> float:
    """One of this process's figures in /proc/self/status, in MB: VmRSS, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the files are put; what stands beside it must stay the same."""
    return tmp_path_factory.mktemp("hostile") / "input"


@pytest.fixture(autouse=True)
def guarded(folder, monkeypatch):
    """Nothing is written outside, no code is run, and memory grows by less than a bound."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    # The peak of the process is set back first: it is that of all tests before. See proc(5).
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb("VmRSS")
    yield
    assert os.listdir(folder.parent) == [folder.name]
    assert not (folder / "pwned").exists()
    assert memory_mb("VmHWM") - before < MEMORY_MB


@given(hostile.AUDIO)
def test_audio(folder, example):
    hostile.feed_audio(folder, example)


@given(hostile.MANIFESTS)
def test_manifests(folder, example):
    hostile.feed_manifest(folder, example)


@given(hostile.TOKENS)
def test_tokens(folder, example):
    hostile.feed_tokens(folder, example)


@given(hostile.CONFIGS)
def test_configs(folder, example):
    hostile.feed_config(folder, example)


def test_models_of_odd_structure(folder):
    @given(hostile.odd_models(folder))
    def check(example):
        hostile.feed_model(folder, example)

    check()


def test_models_of_changed_bytes(folder):
    sound = tiny_encoder(folder / "sound.onnx").read_bytes()

    @given(hostile.mutated(sound))
    def check(example):
        hostile.feed_model(folder, example)
        hostile.feed_part(folder, example)

    check()


def test_datasets(folder):
    shape = contract.inspect(tiny_encoder(folder / "sound.onnx"))
    shapes = [(tensor.shape, tensor.dtype) for tensor in shape.inputs]

    @given(hostile.datasets(shapes))
    def check(example):
        hostile.feed_dataset(folder, example, shape)

    check()


@given(hostile.mutated(b'\x00{"x": {"dtype": "int8"}}\x00\x00\x00\x08\x00\x00\x00abc=1234' * 2))
def test_rknn_headers(folder, example):
    hostile.feed_rknn(folder, example)
