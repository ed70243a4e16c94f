"""A variant from either of the encoder's graphs, and what happens where one cannot be built."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.places import DEMO_MODEL
from zipquant.errors import ToolkitError
from zipquant.jobs import files
from zipquant.model import contract
from zipquant.toolkit.platforms import Npu
from zipquant.variants import build, plain_encoder, preparation
from zipquant.variants.build import Settings, Source
from zipquant.variants.record import Build


@pytest.fixture
def prepared(tmp_path):
    """The demo's encoder, prepared in both forms."""
    contract.inspect(DEMO_MODEL).save(tmp_path / "model.json")
    rewrites = dict.fromkeys(preparation.REWRITES, True)
    preparation.prepare(DEMO_MODEL, tmp_path / "model.json", rewrites, tmp_path / "encoder.onnx")
    return Source(tmp_path / "encoder.onnx", tmp_path / "model.json")


def builder(*failures):
    """Stands for the toolkit, which fails at graphs of these names; lists what it was given."""
    given = []

    def overhear(source, again=True):
        given.append((Path(source.model).name, again))
        if Path(source.model).name in failures:
            raise ToolkitError("rknn-toolkit2 aborted the process")
        return Build("rk3588", "float16"), None

    return overhear, given


def test_form_that_the_compiler_likes_is_built_where_it_is_asked_for(prepared):
    overhear, given = builder()
    made, _ = build._build_either(overhear, prepared, Settings("float16", npu_native=True))
    # Warnings without end are a failure here: the other graph has none.
    assert given == [("native.onnx", False)]
    assert (made.graph, made.plain_because) == ("native", None)
    made, _ = build._build_either(overhear, prepared, Settings("float16", npu_native=False))
    assert given[1:] == [("encoder.onnx", True)]
    assert (made.graph, made.plain_because) == ("plain", None)


def test_encoder_is_built_as_it_is_where_the_toolkit_fails_at_the_other_form(prepared, capsys):
    overhear, given = builder("native.onnx")
    made, _ = build._build_either(overhear, prepared, Settings("float16", npu_native=True))
    assert [name for name, _ in given] == ["native.onnx", "encoder.onnx"]
    assert (made.graph, made.plain_because) == ("plain", "rknn-toolkit2 aborted the process")
    assert "aborted" in capsys.readouterr().err
    with pytest.raises(ToolkitError):
        build._build_either(
            builder("native.onnx", "encoder.onnx")[0],
            prepared,
            Settings("float16", npu_native=True),
        )


def test_encoder_without_such_a_form_is_built_as_it_is_with_the_reason(prepared, tmp_path):
    files.write_json(tmp_path / "native.json", {"reason": "no Zipformer"})
    overhear, given = builder()
    made, _ = build._build_either(overhear, prepared, Settings("float16", npu_native=True))
    assert given == [("encoder.onnx", True)]
    assert (made.graph, made.plain_because) == ("plain", "no Zipformer")


def test_plain_encoder_is_built_only_where_the_best_is_another(prepared, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(plain_encoder, "attempt", lambda *given: asked.append(given))
    (tmp_path / "best.json").write_text(json.dumps({"best": "b"}))
    native, plain = (tmp_path / name for name in ("native", "plain"))
    for folder in (native, plain):
        folder.mkdir()
        Build("rk3588", "float16", graph=folder.name, rknn_toolkit2="2.2.0").save(folder)
    settings = {"a": {"dtype": "w8a8"}, "b": {"dtype": "float16", "npu_native": True}}
    for folder in (native, plain):
        records = {"a": plain / "build.json", "b": folder / "build.json"}
        work = tmp_path / "plain_encoder"
        plain_encoder.build(work, tmp_path / "best.json", records, settings, prepared)
    plain = replace(Settings("float16"), npu_native=False)
    source = replace(prepared, curve=False)  # the report shows that of the other form
    assert asked == [(work, Npu("rk3588", "2.2.0"), source, plain)]
    assert "no two to compare" in Build.load(work).failure
