"""The Makefile's environment and the container file: what is asked for, and with which files."""

import ast
import re
import shutil
import subprocess
import sys
from importlib import metadata

import pytest

from helpers.places import DEMO_MODEL, ROOT
from zipquant.toolkit import versions

DISTRIBUTIONS = metadata.packages_distributions()
"""By module, what is installed to have it."""


def make(folder, *arguments) -> subprocess.CompletedProcess:
    command = ["make", "-f", str(ROOT / "Makefile"), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python3.9", ""])
@pytest.mark.parametrize("goal", ["demo", "model"])
def test_other_python_ends_in_one_line_before_anything_is_installed(tmp_path, python, goal):
    # The project's own .venv may be there; a copy has none.
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    command = ["make", goal, f"PYTHON={python}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode and line.startswith("error: Zipquant needs Python 3.11 or 3.12")
    assert "uv python install 3.11" in line and "conda create" in line
    assert (f"PYTHON={python} is none" in line) == bool(python)
    assert not (tmp_path / ".venv").exists()


def test_environment_that_is_a_link_is_not_emptied(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/kept").touch()
    (tmp_path / ".venv").symlink_to("other")
    command = ["make", "demo", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "error: .venv is a link to another environment" in done.stderr.replace("./", "")
    assert (tmp_path / "other/kept").exists()


def test_wrong_request_for_a_model_ends_before_anything_is_installed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/encoder.onnx").symlink_to(DEMO_MODEL)
    asked = ["model", "MODEL=model", f"AUDIO={ROOT}/demo/audio/evaluation.tsv", "PLATFORM=rk3588"]
    done = make(tmp_path, *asked, "RUNTIME=1.5.0", f"PYTHON={sys.executable}")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert line.startswith("error: RUNTIME: librknnrt 1.5.0 is older than every toolkit here")
    assert not list(tmp_path.glob("*.yaml"))


def instructions() -> list[tuple[str, str]]:
    """The container file's lines, as instruction and arguments."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_each_step_of_the_container_file_has_the_files_that_it_needs(tmp_path):
    """Its `make` commands, not executed, in a folder with what has been copied before."""
    goals = []
    for instruction, arguments in instructions():
        if instruction == "COPY" and arguments != ". .":
            for name in arguments.split()[:-1]:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, tmp_path / name)
        for goal in re.findall(r"\bmake ([^-;&|]+)", arguments) if instruction == "RUN" else ():
            if goal.startswith("python3"):  # a package
                continue
            command = ["make", "--dry-run", f"PYTHON={sys.executable}", *goal.split()]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            goals.append(goal.split()[0])
    assert goals == [".venv/installed", "toolkit"]


def test_container_holds_every_version_of_the_toolkit():
    (loop,) = re.findall(r"for version in ([\d. ]+);", (ROOT / "Dockerfile").read_text())
    assert tuple(loop.split()) == versions.VERSIONS


def third_party(folder) -> set[str]:
    """The distributions that a file, or the files of a folder, import."""
    files = folder.rglob("*.py") if folder.is_dir() else [folder]
    found = set()
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    names = [name for module in found for name in DISTRIBUTIONS.get(module, [])]
    return {name.lower().replace("_", "-") for name in names}


@pytest.mark.parametrize("goal", ["bench", "coefficients", "docs", "faults"])
def test_targets_install_what_they_run(tmp_path, goal):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    command = ["make", "--dry-run", goal, f"PYTHON={sys.executable}"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    lists = {word for word in printed.split() if word.endswith(".txt") and "requirements" in word}
    pinned = "".join((tmp_path / name).read_text() for name in lists).lower().replace("_", "-")
    scripts = [ROOT / word for word in printed.split() if (ROOT / word).is_relative_to(ROOT)]
    scripts = [path for path in scripts if path.suffix == ".py" or path.name == "faults"]
    scripts = [path for path in scripts if path.exists()]
    assert scripts
    for needed in set().union(*map(third_party, scripts)):
        assert f"{needed}==" in pinned, f"make {goal} does not install {needed}"
