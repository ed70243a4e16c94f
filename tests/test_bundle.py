"""What may go into one bundle."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.places import DEMO_MODEL
from zipquant import bundle
from zipquant.errors import UserError
from zipquant.model import contract as contracts
from zipquant.toolkit import rknn_file
from zipquant.variants.record import Build


def rknn_like(path: Path, platform: str = "rk3588", version: str = "2.3.2", **more) -> Path:
    """Write a file of the outer form of an .rknn: a head, weights, and a JSON text at the end."""
    weights = bytes(100)
    text = json.dumps({"target_platform": [platform], "version": version} | more).encode()
    head = b"RKNN" + bytes(4) + (6).to_bytes(8, "little") + len(weights).to_bytes(8, "little")
    path.write_bytes(head.ljust(64, b"\0") + weights + len(text).to_bytes(8, "little") + text)
    return path


@pytest.fixture
def parts(tmp_path) -> list[Path]:
    return [rknn_like(tmp_path / f"{name}.rknn") for name in ("encoder", "decoder", "joiner")]


@pytest.fixture(scope="module")
def contract() -> contracts.Contract:
    return contracts.inspect(DEMO_MODEL)


@pytest.fixture
def build(contract) -> Build:
    return Build("rk3588", "w8a8", rknn_toolkit2="2.3.2", model_sha256=contract.sha256)


def test_parts_that_agree_are_taken(build, contract, parts):
    bundle.check_parts(build, contract, parts)


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"platform": "rk3566"}, "was built for rk3566 by rknn-toolkit2 2.3.2, but the bundle is"),
        ({"version": "2.3.0"}, "was built for rk3588 by rknn-toolkit2 2.3.0, but the bundle is"),
    ],
)
def test_part_of_another_platform_or_toolkit_is_refused(
    build, contract, parts, part, other, message
):
    rknn_like(parts[part], **other)
    with pytest.raises(UserError, match=message):
        bundle.check_parts(build, contract, parts)


def test_encoder_of_another_model_is_refused(build, contract, parts):
    with pytest.raises(UserError, match=r"encoder\.rknn was built from another model"):
        bundle.check_parts(replace(build, model_sha256="0" * 64), contract, parts)


@pytest.mark.parametrize("kept", [0, 50, 170, 200])
def test_file_that_does_not_say_what_it_is_for_is_refused(parts, kept):
    content = parts[0].read_bytes()
    parts[0].write_bytes(content[:kept])
    with pytest.raises(UserError, match=r"no whole \.rknn file"):
        rknn_file.built_for(parts[0])
    rknn_like(parts[0], target_platform=3)
    with pytest.raises(UserError, match="does not say for what platform"):
        rknn_file.built_for(parts[0])
