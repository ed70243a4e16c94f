"""The toolkit's versions and their environments, and the process that the toolkit runs in."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from helpers.places import ROOT
from zipquant.errors import ToolkitError, UserError
from zipquant.toolkit import environment, process, versions, worker


@pytest.fixture
def no_pip(tmp_path, monkeypatch):
    """An empty folder of environments, and pip that notes what it is asked for."""
    asked = []

    def install(command, stdout):
        asked.append(command)
        folder = Path(command[command.index("--target") + 1])
        folder.mkdir()
        (folder / "rknn").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv(environment.FOLDER, str(tmp_path / "toolkits"))
    monkeypatch.setattr(environment.subprocess, "run", install)
    return asked


def test_environment_is_made_once_with_its_version(no_pip, tmp_path, capfd):
    assert not environment.is_made("2.2.0")
    assert environment.ensure("2.2.0") == tmp_path / "toolkits/2.2.0"
    environment.ensure("2.2.0")
    (command,) = no_pip
    assert "rknn-toolkit2==2.2.0" in command and "--no-deps" in command
    assert "installing rknn-toolkit2 2.2.0 into" in capfd.readouterr().err
    # Nothing is left of the making but the lock.
    assert sorted(os.listdir(tmp_path / "toolkits")) == [".lock", "2.2.0"]


def test_environment_with_other_packages_is_made_again(no_pip, tmp_path):
    made = environment.ensure("2.5.0")
    (made / environment.DONE).write_text("rknn-toolkit2==2.5.0\nnumpy==1.0\n")
    (made / "old").touch()
    environment.ensure("2.5.0")
    assert len(no_pip) == 2 and not (made / "old").exists() and environment.is_made("2.5.0")


def test_environment_that_could_not_be_installed_is_not_there(no_pip, tmp_path, monkeypatch):
    (tmp_path / "toolkits/.new-killed/2.2.0").mkdir(parents=True)
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(environment.subprocess, "run", lambda command, stdout: failed)
    with pytest.raises(UserError, match=r"rknn-toolkit2 2\.2\.0 cannot be installed \(pip ended"):
        environment.ensure("2.2.0")
    assert os.listdir(tmp_path / "toolkits") == [".lock"]


def test_unknown_version_is_told_before_anything_is_made(no_pip):
    with pytest.raises(UserError, match=r"^unknown toolkit 2\.4\.0: one of 2\.2\.0, "):
        environment.ensure("2.4.0")
    assert not no_pip


def test_unknown_version_stops_the_start_in_one_line(tmp_path):
    command = [sys.executable, "-m", "snakemake", "-n", "--config", "toolkit=2.4.0"]
    command.append(f"results={tmp_path}/r")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: config: unknown toolkit 2.4.0: one of 2.2.0, 2.3.2, 2.5.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_folder_that_cannot_be_written_to_is_told(monkeypatch):
    monkeypatch.setenv(environment.FOLDER, "/proc/toolkits")
    with pytest.raises(UserError, match=r"cannot write to /proc/toolkits .*set ZIPQUANT_TOOLKITS"):
        environment.ensure(versions.DEFAULT)


def test_arrays_pass_the_pipe_as_they_are():
    given = {"inputs": [np.arange(6, dtype="<i8").reshape(2, 3), np.float32([0.5])], "n": 3}
    got = worker.unpack(worker.pack(given))
    assert got["n"] == 3
    for one, other in zip(given["inputs"], got["inputs"], strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


def test_toolkit_has_its_own_packages_and_ends_with_its_user(capfd):
    toolkit = process.Toolkit(versions.DEFAULT)
    (child,) = [p for p in psutil.Process().children() if worker.__file__ in p.cmdline()]
    with pytest.raises(ToolkitError, match=r"rknn-toolkit2's config failed: .*target_platform"):
        toolkit.new().run("config", target_platform="rk9999")
    # Another step of another object goes on.
    toolkit.new().run("config", target_platform="rk3588")
    mapped = {line.split()[-1] for line in Path(f"/proc/{child.pid}/maps").read_text().splitlines()}
    for package in ("rknn/api/", "numpy/", "onnx/"):
        folders = {path.split(f"/{package}")[0] for path in mapped if f"/{package}" in path}
        assert folders == {str(environment.root() / versions.DEFAULT)}
    toolkit.close()
    assert not child.is_running()
    assert f"rknn-toolkit2 version: {versions.DEFAULT}" in capfd.readouterr().err


def test_toolkit_that_aborts_is_an_error_and_not_the_end():
    with process.Toolkit(versions.DEFAULT) as toolkit:
        (child,) = [p for p in psutil.Process().children() if worker.__file__ in p.cmdline()]
        child.send_signal(signal.SIGABRT)
        while child.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with pytest.raises(ToolkitError, match=r"rknn-toolkit2 aborted the process \(SIGABRT\)"):
            toolkit.new()


def test_toolkit_that_cannot_be_imported_is_told(no_pip, capfd):
    with pytest.raises(UserError, match=r"rknn-toolkit2 2\.5\.0 cannot be imported \(.*: delete "):
        process.Toolkit("2.5.0")
    capfd.readouterr()


def test_package_for_the_board_is_of_the_same_version():
    assert versions.lite("2.3.2") == "rknn-toolkit-lite2==2.3.2"
    assert versions.lite("2.2.0") == "rknn_toolkit_lite2-2.2.0-cp310-cp310-linux_aarch64.whl"
