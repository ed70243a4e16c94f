"""The configuration, its schema, and the environment's pins."""

import copy
import itertools
import re

import pytest
import yaml

from helpers.places import ROOT
from zipquant import config
from zipquant.errors import UserError
from zipquant.toolkit import platforms


@pytest.fixture
def settings():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def test_config_yaml_is_valid_and_names_every_setting(settings):
    config.validate(settings)

    def missing(schema, values, path=""):
        for key, part in schema.get("properties", {}).items():
            if key not in values:
                yield path + key
            elif values[key] is not None:
                yield from missing(part, values[key], f"{path}{key}.")

    assert list(missing(config.schema(), settings)) == []
    assert set(config.schema()["required"]) == set(settings)


def test_every_setting_is_commented():
    lines = (ROOT / "config.yaml").read_text().splitlines()
    # A block, and an entry whose neighbour above is commented for both, need none of their own.
    bare = [
        line
        for above, line in itertools.pairwise(lines)
        if re.match(r" *\w+: \S", line) and not above.strip().startswith("#")
    ]
    assert [line.strip() for line in bare] == [
        *("calibration: 4", "evaluation: auto", "joiner: auto", "tokens: auto", "dtype: float16")
    ]


def test_setting_of_an_earlier_version_is_refused_with_what_to_write(settings):
    settings["variants"]["int8"]["mixed_precision"]["least_int8_macs"] = 0.9
    with pytest.raises(UserError, match="of an earlier version: give most_time_added") as caught:
        config.validate(settings)
    assert "least_int8_macs" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"platfrom": "rk3588"}, "unknown key 'platfrom', did you mean 'platform'?"),
        ({"calibration": {"rows": 1, "sede": 1}}, "'calibration.sede', did you mean 'seed'?"),
        ({"calibration": {"rows": 1}}, "'calibration.seed' is missing"),
        ({"platform": "rk3558"}, "platform: 'rk3558' is not known, did you mean 'rk3588'?"),
        ({"calibration": {"rows": 0, "seed": 0}}, "calibration.rows: 0 is less than"),
        ({"calibration": {"rows": "ten", "seed": 0}}, "calibration.rows: 'ten' is not of type"),
        ({"variants": {"a b": {"dtype": "w8a8"}}}, "variants: 'a b' is no name: take letters"),
        ({"variants": {"a": None}}, "variants: every one is null"),
        ({"variants": {"float": {"dtype": "w8a8"}}}, "'float' is a name that Zipquant itself"),
        ({"variants": {"a": {"dtype": "w8a8", "methd": "layer"}}}, "did you mean 'method'?"),
    ],
)
def test_wrong_settings_are_named(settings, change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        config.validate(copy.deepcopy(settings) | change)


def test_all_errors_are_told_at_once(settings):
    with pytest.raises(UserError, match="unknown key 'sped'; platform: 'x'"):
        config.validate(settings | {"sped": 1, "platform": "x"})


def test_conda_environment_has_the_same_pins():
    wanted = pins("requirements.txt")
    environment = yaml.safe_load((ROOT / "envs/zipquant.yaml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert set(pip) == wanted
    assert "python=3.11" in environment["dependencies"]


def test_packages_of_the_tests_and_of_the_toolkit_are_apart_from_the_workflows():
    workflow, tests = pins("requirements.txt"), pins("requirements-tests.txt")
    names = [pin.split("==")[0] for pin in (*workflow, *tests)]
    assert len(names) == len(set(names)) and "pytest" in names
    assert "rknn-toolkit2" not in names


def pins(name: str) -> set[str]:
    """The lines of a file in envs that name a package, each with one version."""
    lines = (ROOT / "envs" / name).read_text().splitlines()
    found = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in found)
    return found


@pytest.mark.parametrize(
    ("platform", "variant", "message"),
    [
        ("rk3588", {"dtype": "w4a16"}, "rk3588 has no w4a16. Known for it: w8a8, float16; w4a16"),
        ("rk3588", {"dtype": "w4a16"}, "w4a16 is known for rk3576, rv1126b"),
        ("rk3562", {"dtype": "w8a16"}, "rk3562 has no w8a16 (rknn-toolkit2 offers it, but aborts"),
        ("rk3576", {"dtype": "w8a8", "algorithm": "gdq"}, "gdq does not go with w8a8. Known: nor"),
        ("rk3576", {"dtype": "w8a8", "method": "group32"}, "Known: channel, layer"),
        ("rk3576", {"dtype": "w4a16", "algorithm": "mmse"}, "mmse does not go with w4a16"),
        ("rk3576", {"dtype": "w4a16", "io_dtype": "int8"}, "io_dtype int8 does not go with w4a16"),
        ("rk3576", {"dtype": "w8a8", "rows": 61}, "variants.new.rows: 61 is more than calibration"),
    ],
)
def test_what_a_platform_does_not_have_is_refused(settings, platform, variant, message):
    changed = settings | {"platform": platform, "variants": {"new": variant}}
    with pytest.raises(UserError, match=re.escape(message)):
        config.validate(changed)


def test_board_of_another_platform_is_refused(settings):
    settings["evaluation"] |= {"target": "rk3566"}
    with pytest.raises(UserError, match="a board with rk3566 does not run what is built for rk35"):
        config.validate(settings)
    settings["evaluation"] |= {"target": None, "device_id": "b1"}
    with pytest.raises(UserError, match=r"evaluation\.device_id: it needs evaluation\.target"):
        config.validate(settings)


def test_emulation_on_a_board_is_refused(settings):
    settings["evaluation"] |= {"engine": "emulation"}
    config.validate(settings)
    settings["evaluation"] |= {"target": "rk3588"}
    with pytest.raises(UserError, match=r"evaluation\.engine: emulation does not go with"):
        config.validate(settings)


def test_what_a_platform_has_is_taken(settings):
    variants = {
        "small": {"dtype": "w4a16", "algorithm": "gdq", "method": "group32"},
        "few": {"dtype": "w8a8", "algorithm": "mmse", "rows": 20},
        "fp16": {"dtype": "float16"},
    }
    for platform in ("rk3576", "rv1126b"):
        config.validate(settings | {"platform": platform, "variants": variants})
    known = config.schema()["properties"]["platform"]["enum"]
    assert known == list(platforms.PLATFORMS)


def test_paths_are_relative_to_the_file_that_has_them(tmp_path, monkeypatch):
    home, work = tmp_path / "home", tmp_path / "work"
    for folder in (home / "m", work / "m"):
        folder.mkdir(parents=True)
        (folder / "encoder.onnx").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    mine = home / "my.yaml"

    def encoder(path: str, *files) -> str:
        given = {"model": {"encoder": path}}
        mine.write_text(yaml.safe_dump(given))
        return config.complete(given, files, ROOT)["model"]["encoder"]

    for path in ("~/m/encoder.onnx", "$HOME/m/encoder.onnx", "${HOME}/m/encoder.onnx"):
        assert encoder(path) == str(home / "m/encoder.onnx")
    assert encoder("m/encoder.onnx", mine) == str(home / "m/encoder.onnx")
    # Of the command line, and of a file that has none there: the working directory.
    assert encoder("m/encoder.onnx") == "m/encoder.onnx"
    (home / "m/encoder.onnx").unlink()
    assert encoder("m/encoder.onnx", mine) == "m/encoder.onnx"
    with pytest.raises(UserError, match="the variable NOT_SET is not set"):
        encoder("$NOT_SET/encoder.onnx")


def test_defaults_come_with_the_workflow(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    whole = config.complete({"platform": "rk3566"}, [], ROOT)
    config.validate(whole)
    assert whole["platform"] == "rk3566"
    assert whole["model"]["folder"] == str(ROOT / "models/demo")
    assert whole["audio"]["evaluation"] == str(ROOT / "demo/audio/evaluation.tsv")
    assert whole["results"] == "results"
    monkeypatch.chdir(ROOT)
    assert config.complete({}, [], ROOT) == settings


def test_a_path_alone_is_the_whole_model(tmp_path):
    whole = config.complete({"model": str(tmp_path)}, [], ROOT)
    config.validate(whole)
    assert (whole["model"]["folder"], whole["model"]["encoder"]) == (str(tmp_path), "auto")
    whole = config.complete({"model": str(tmp_path / "e.onnx")}, [], ROOT)
    assert whole["model"]["encoder"] == str(tmp_path / "e.onnx")


def test_a_path_alone_is_the_audio_of_both_sets(tmp_path):
    (tmp_path / "speech").mkdir()
    (tmp_path / "my.yaml").write_text("audio: speech\n")
    whole = config.complete({"audio": "speech"}, [tmp_path / "my.yaml"], ROOT)
    assert whole["audio"]["source"] == str(tmp_path / "speech")
    config.validate(whole)


@pytest.mark.parametrize("section", ["model", "audio"])
@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_what_is_neither_a_path_nor_a_section_is_refused(section, value):
    with pytest.raises(UserError, match=rf"{section} is neither a path nor a section; give for"):
        config.complete({section: value}, [], ROOT)


@pytest.mark.parametrize(
    ("chip", "reason"),
    [
        ("rv1106", "computes in integers alone"),
        ("rv1103", "computes in integers alone"),
        ("rk2118", "computes in integers alone"),
        ("rv1126", "of the first generation"),
        ("RK1808", "of the first generation"),
        ("rk3588s", "set platform to rk3588"),
        ("rk3399", "has no NPU"),
    ],
)
def test_other_chips_are_refused_as_what_they_are(settings, chip, reason):
    settings["platform"] = chip
    with pytest.raises(UserError, match=f"platform: {chip} is not supported: .*{reason}") as error:
        config.validate(settings)
    assert "did you mean" not in str(error.value)
