"""Settings files, as they come from other editors, systems and people."""

import subprocess
import sys

import pytest

from helpers.places import ROOT
from zipquant import settings_files
from zipquant.errors import UserError

FILES = {
    "UTF-16": ("platform: rk3566\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "GBK": (
        "# 注释\nplatform: rk3566\n".encode("gbk"),
        "line 1: it is not UTF-8 .* save it as UTF",
    ),
    "Latin-1": ("a: 1\nresults: ré\n".encode("latin-1"), "line 2: it is not UTF-8"),
    "nested": (b"x: " + b"[" * 3000 + b"]" * 3000, "more than 50 lists and mappings"),
    "nested less": (b"x: " + b"[" * 100 + b"]" * 100, "more than 50 lists and mappings"),
    "holds itself": (b"x: &a\n  y: *a\n", "or one in itself"),
    "a list": (b"- platform\n", "holds no settings"),
    "empty": (b"# nothing\n", "holds no settings"),
    "a key twice": (b"seed: 1\nseed: 2\n", "'seed' is given twice.* line 2"),
    "a tab": (b"a:\n\tb: 1\n", "is not valid YAML: .* line 2"),
    "a zero": (b"a: b\0\n", "is not valid YAML"),
    "code": (b"a: !!python/object/apply:os.system ['touch pwned']\n", "is not valid YAML"),
    "a program": (b"__use_yte__: true\n", "would run it as a program"),
    "an escape": (b"a: [\x1b[31m\n", r"is not valid YAML: unacceptable character"),
}


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_not_right_is_one_line(tmp_path, name):
    content, message = FILES[name]
    (tmp_path / "my.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        settings_files.read(tmp_path / "my.yaml")
    assert str(error.value).isprintable()
    assert not (tmp_path / "pwned").exists()


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no settings file '.*none\.yaml'"):
        settings_files.read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is no settings file, but a folder"):
        settings_files.read(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        settings_files.read("a" * 300)


def test_sound_files_are_read(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\xef\xbb\xbfcalibration: {rows: 3}\n")
    assert settings_files.read(path) == {"calibration": {"rows": 3}}
    path.write_text('{\n\t"calibration": {"rows": 3}\n}')
    assert settings_files.read(path) == {"calibration": {"rows": 3}}
    path.write_text("a: &rows {rows: 3}\ncalibration: {<<: *rows, seed: 1}\n")
    assert settings_files.read(path)["calibration"] == {"rows": 3, "seed": 1}


def test_files_of_a_command_line():
    given = ["--cores", "2", "--configfile", "a.yaml", "b.yaml", "-n", "all", "--configfile=c.yaml"]
    assert list(settings_files.of_command(given)) == ["a.yaml", "b.yaml", "c.yaml"]


@pytest.mark.parametrize("name", ["GBK", "nested", "holds itself"])
def test_snakemake_ends_with_that_line(tmp_path, name):
    (tmp_path / "my.yaml").write_bytes(FILES[name][0])
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--configfile", tmp_path / "my.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "workflow specific" not in line]
    assert line.startswith(f"error: {tmp_path / 'my.yaml'}")
