"""`make model`: what is checked before anything is installed, and the settings that it writes."""

import re
import subprocess
import sys
import tarfile

import pytest
import yaml

from helpers.audio import write_audio
from helpers.places import DEMO_MODEL, ROOT
from zipquant import quickstart
from zipquant.errors import UserError


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A folder with a model and one with audio."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model's").mkdir()
    (tmp_path / "my model's/encoder.onnx").symlink_to(DEMO_MODEL)
    for number in range(3):
        write_audio(tmp_path / f"audio/{number}.wav", 0.3)
    return {"model": "my model's", "audio": "audio", "platform": "rk3588"}


def test_settings_are_what_was_asked_for(given):
    asked = quickstart.request(**given)
    assert asked.name == "my-model-s" and quickstart.write(asked)
    assert yaml.safe_load(asked.settings_file.read_text()) == {
        "results": "results/my-model-s",
        "model": "my model's",
        "audio": {"source": "audio"},
        "platform": "rk3588",
    }


@pytest.mark.parametrize(
    ("runtime", "toolkit"),
    [
        ("2.2.0", "2.2.0"),
        ("2.3.0 (c949ad889d@2024-11-07T11:35:33)", "2.2.0"),
        ("v2.3.2", "2.3.2"),
        ("2.4.0", "2.3.2"),
        ("3.0.0", "2.5.0"),
    ],
)
def test_runtime_of_the_board_chooses_the_newest_toolkit_that_it_reads(given, runtime, toolkit):
    asked = quickstart.request(**given, runtime=runtime)
    quickstart.write(asked)
    assert yaml.safe_load(asked.settings_file.read_text())["toolkit"] == toolkit
    other = {"2.2.0": "2.5.0"}.get(toolkit, "2.2.0")
    with pytest.raises(UserError, match=r"is there already and does not say 'toolkit: "):
        quickstart.write(quickstart.request(**given, runtime=other))


def test_settings_that_were_edited_stay(given):
    asked = quickstart.request(**given)
    quickstart.write(asked)
    edited = asked.settings_file.read_text() + "job_hours: 2\n"
    asked.settings_file.write_text(edited)
    assert not quickstart.write(asked) and asked.settings_file.read_text() == edited
    with pytest.raises(UserError, match=r"my-model-s\.yaml is there already .* 'platform: rk3576'"):
        quickstart.write(quickstart.request(**given | {"platform": "rk3576"}))


def test_archive_gives_its_name_to_the_run(given, tmp_path):
    path = tmp_path / "sherpa-onnx-zipformer-en.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        archive.add(DEMO_MODEL, "m/encoder.onnx")
    assert quickstart.request(**given | {"model": str(path)}).name == "sherpa-onnx-zipformer-en"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ""}, "MODEL is not given"),
        ({"audio": ""}, "AUDIO is not given"),
        ({"platform": ""}, "PLATFORM is not given"),
        ({"model": "nowhere"}, "MODEL: there is no folder or file nowhere"),
        ({"model": "audio"}, "MODEL: the folder audio holds no .onnx file"),
        ({"model": "audio/0.wav"}, "MODEL: audio/0.wav is neither a folder, nor an archive"),
        ({"audio": "nowhere"}, "no audio at 'nowhere'"),
        ({"audio": "my model's"}, "no audio found in"),
        ({"platform": "rk9999"}, "PLATFORM: 'rk9999' is not known. Known: rk3588"),
        ({"runtime": "1.4.0"}, "RUNTIME: librknnrt 1.4.0 is older than every toolkit here (2.2.0"),
        ({"runtime": "new"}, "RUNTIME: 'new' is no version of librknnrt; it looks like 2.3.2"),
        ({"runtime": "2.3"}, "RUNTIME: '2.3' is no version"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given, change, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        quickstart.request(**given | change)
    assert "\n" not in str(caught.value)


def test_check_needs_nothing_but_python(given):
    """It runs before anything is installed."""
    script = str(ROOT / "scripts/quickstart.py")
    # -I and -S leave out everything that is installed.
    command = [sys.executable, "-I", "-S", script, "check", *given.values()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    command[-1] = "rk1"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: PLATFORM: 'rk1'")
    assert done.stderr.count("\n") == 1
