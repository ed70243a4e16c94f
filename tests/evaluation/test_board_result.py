"""What a board has shown: checked, and put in the place of estimates."""

import json

import pytest

from zipquant.board import measuring
from zipquant.errors import UserError
from zipquant.evaluation import board_result
from zipquant.evaluation.choice import Entry, take_board_result
from zipquant.jobs import files
from zipquant.toolkit.layer_costs import Range
from zipquant.variants.record import Build


@pytest.fixture
def written(tmp_path):
    """A file as the script of the board writes it."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    for name in ("encoder.rknn", "joiner.rknn"):
        (folder / name).write_bytes(name.encode())
    seconds = {"encoder.rknn": [0.5] * 5 + [0.009, 0.010, 0.011] * 20, "joiner.rknn": [0.001] * 50}
    found = measuring.result(folder, seconds, measuring.state(), "sdk 2.3.2")
    path = tmp_path / "board.json"
    path.write_text(json.dumps(found))
    return path


def changed(path, **changes) -> str:
    """Change what stands in a file: a value by its place, with two underscores between steps."""
    content = json.loads(path.read_text())
    for where, value in changes.items():
        *steps, last = where.split("__")
        part = content
        for step in steps:
            part = part[step.replace("_rknn", ".rknn")]
        part[last] = value
    path.write_text(json.dumps(content))
    return str(path)


def test_a_file_of_the_board_is_read(written):
    found = board_result.read(written)
    sha256 = files.sha256(written.parent / "bundle/encoder.rknn")
    assert found.of(sha256)["median_ms"] == 10.0
    assert found.of("0" * 64) is None and found.of(None) is None
    found.check_encoder([None, sha256])
    summary = found.summary()
    assert summary["machine"]["runtime"] == "sdk 2.3.2" and summary["peak_mb"] > 10
    assert summary["board"] == "a board" and "celsius" in summary


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "another"}, "is not what transcribe.py --benchmark writes"),
        ({"networks": {}}, "networks cannot be right ({})"),
        ({"networks__encoder_rknn__median_ms": -3}, "encoder.rknn.median_ms cannot be right (-3)"),
        ({"networks__encoder_rknn__median_ms": 90000.0}, "median_ms cannot be right (90000.0)"),
        ({"networks__encoder_rknn__median_ms": "10"}, 'median_ms cannot be right ("10")'),
        ({"networks__encoder_rknn__median_ms": 10.99}, None),
        ({"networks__encoder_rknn__p95_ms": 1.0}, "median, 95 % and most cannot be right"),
        ({"networks__encoder_rknn__sha256": "abc"}, "encoder.rknn.sha256 cannot be right"),
        ({"networks__encoder_rknn__calls": True}, "encoder.rknn.calls cannot be right (true)"),
        ({"networks__other": {}}, "networks.other cannot be right"),
        ({"after__celsius": {"soc": 48076}}, "after.celsius cannot be right"),
        ({"after__peak_mb": float("nan")}, "after.peak_mb cannot be right"),
        ({"after": None}, "after cannot be right (missing)"),
        ({"machine": []}, "machine cannot be right"),
    ],
)
def test_wrong_values_are_refused_in_one_line(written, change, said):
    path = changed(written, **change)
    if said is None:
        board_result.read(path)
        return
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        board_result.read(path)
    assert str(error.value).startswith(path) and said in str(error.value)
    assert "evaluation.board_result" in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "[" * 10**5])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "board.json").write_text(content)
    with pytest.raises(UserError, match=r"is not what transcribe\.py --benchmark writes: run"):
        board_result.read(tmp_path / "board.json")
    with pytest.raises(UserError, match="cannot be read"):
        board_result.read(tmp_path / "none.json")


def test_its_times_take_the_place_of_estimates(written):
    found = board_result.read(written)
    sha256 = files.sha256(written.parent / "bundle/encoder.rknn")
    builds = {
        "int8": Build("rk3588", "w8a8", rknn_sha256=sha256),
        "fp16": Build("rk3588", "float16", rknn_sha256="0" * 64),
    }
    entries = [Entry("int8", 1, chunk_ms=Range(6, 18), timed="estimated")]
    entries.append(Entry("fp16", 1, chunk_ms=Range(7, 19), timed="estimated"))
    take_board_result(entries, found, builds)
    assert (entries[0].chunk_ms, entries[0].timed) == (Range(10.0, 10.0), "measured")
    assert (entries[1].chunk_ms, entries[1].timed) == (Range(7, 19), "estimated")
    with pytest.raises(UserError, match="with an encoder that this run has not built"):
        take_board_result(entries[1:], found, builds)
