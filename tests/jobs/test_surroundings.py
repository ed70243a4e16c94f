"""A home folder and a folder for temporary files that cannot be written to."""

import pytest

from zipquant.errors import UserError
from zipquant.jobs import surroundings


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_what_can_be_written_to_is_fine(monkeypatch, tmp_path):
    surroundings.check()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    surroundings.check()
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    surroundings.check()


@pytest.mark.parametrize("home", ["/proc/none", "/dev/null", "file"])
def test_home_folder_that_cannot_be_written_to_is_named(monkeypatch, tmp_path, home):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    with pytest.raises(UserError, match=r"cannot write to '.*/\.cache' .*: set HOME"):
        surroundings.check()


def test_folder_for_temporary_files_that_cannot_be_written_to_is_named(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/proc")
    with pytest.raises(UserError, match=r"cannot write to '/proc' .* which TMPDIR names"):
        surroundings.check()
