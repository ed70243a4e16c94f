"""Boards: what is reported without one, and the script for the board itself, without its NPU."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.models import tiny_encoder
from helpers.places import DEMO_MODEL, ROOT
from helpers.texts import PARTS, OnnxRunner
from helpers.texts import transcribe as transcribe_as_the_workflow
from zipquant import bundle
from zipquant.board import description, measuring, transcribe, vocabulary
from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.model import contract
from zipquant.toolkit import platforms, rknn_toolkit

AUDIO = {"channels": "mean", "tail_padding": 0.66}
WAVS = sorted((ROOT / "demo/audio/evaluation").glob("*.wav"))


def test_script_hears_what_the_workflow_hears(tmp_path):
    model = json.loads(json.dumps(bundle.describe(contract.inspect(DEMO_MODEL), 2, AUDIO)))
    parts = (OnnxRunner(PARTS[part]) for part in ("decoder", "joiner"))
    networks = transcribe.RunnerNetworks(*parts, model["context"])
    known = vocabulary.read(PARTS["tokens"])
    rows = list(transcribe.transcribe(WAVS, model, known, OnnxRunner(DEMO_MODEL), networks))
    expected = transcribe_as_the_workflow(tmp_path, DEMO_MODEL, PARTS, WAVS)
    found = [[known.tokens[int(number)] for number in row[2].split()] for row in rows]
    assert found == expected and all(expected)
    assert [row[0] for row in rows] == [wav.stem for wav in WAVS]
    assert all(row[3] > 0 for row in rows)


@pytest.fixture
def copied(tmp_path):
    """The files of a bundle that the script needs, in a folder of their own."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle.copy_script(folder)
    shutil.copy(PARTS["tokens"], folder)
    described = bundle.describe(contract.inspect(DEMO_MODEL), 2, AUDIO)
    (folder / "encoder.json").write_text(json.dumps(described))
    list_files(folder)
    return folder


def list_files(folder: Path) -> None:
    """Write the manifest of what is in a bundle's folder now."""
    (folder / "manifest.json").unlink(missing_ok=True)
    manifest = {"files": bundle.inventory(folder)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


# What the board has; the runtime that the script imports there does with onnxruntime what
# rknn-toolkit-lite2 does with the NPU, and takes arrays of four axes as NHWC, as that does.
RUNTIME = """
import numpy, onnxruntime
class RKNNLite:
    def load_rknn(self, path):
        self.session = onnxruntime.InferenceSession(open(path, "rb").read())
        return 0
    def init_runtime(self):
        return 0
    def get_sdk_version(self):
        return "onnxruntime in\\nits place"
    def inference(self, inputs):
        names = [value.name for value in self.session.get_inputs()]
        given = [a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for a in inputs]
        return self.session.run(None, dict(zip(names, given)))
"""


def run_script(folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, folder / "transcribe.py", *arguments],
        capture_output=True,
        text=True,
        cwd=folder.parent,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        | ({"PYTHONPATH": path} if path else {}),
        timeout=120,
    )


@pytest.fixture
def on_board(copied, tmp_path):
    """A whole bundle, and beside it the runtime that runs it with onnxruntime."""
    (tmp_path / "runtime/rknnlite").mkdir(parents=True)
    (tmp_path / "runtime/rknnlite/api.py").write_text(RUNTIME)
    for part in ("encoder", "decoder", "joiner"):
        shutil.copy(DEMO_MODEL.with_name(f"{part}.onnx"), copied / f"{part}.rknn")
    list_files(copied)
    return copied


def test_script_runs_by_itself_from_the_bundle(on_board, tmp_path):
    arguments = [*map(str, WAVS[:3]), "--output", str(tmp_path / "texts.tsv")]
    done = run_script(on_board, *arguments, path=str(tmp_path / "runtime"))
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "texts.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    known = vocabulary.read(PARTS["tokens"])
    found = [[known.tokens[int(number)] for number in row["tokens"].split()] for row in rows]
    assert found == transcribe_as_the_workflow(tmp_path, DEMO_MODEL, PARTS, WAVS[:3])
    assert list(rows[0]) == list(transcribe.COLUMNS) and float(rows[0]["ms_per_chunk"]) > 0


def test_script_needs_nothing_that_a_board_does_not_have(copied):
    code = "import sys; import transcribe; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(copied)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        cwd=copied,
    )
    heavy = {"onnx", "onnxruntime", "h5py", "librosa", "pandas", "rknn", "scipy", "soxr"}
    assert not heavy & set(done.stdout.split())


def test_script_without_the_runtime_says_what_to_install(copied):
    done = run_script(copied, str(WAVS[0]))
    assert done.returncode == 1
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "pip install rknn-toolkit-lite2" in message and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["tokens.txt", "encoder.json", "zipquant/board/fbank.py"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_script_notices_damaged_files_before_it_uses_them(copied, name, damage):
    if damage == "missing":
        (copied / name).rename(copied / "elsewhere")
    else:
        with open(copied / name, "a") as file:
            file.write("\n")
    if name.endswith(".py") and damage == "missing":
        return  # it cannot even start
    done = run_script(copied, str(WAVS[0]))
    assert done.returncode == 1 and done.stderr.startswith(f"error: {copied / name} is ")
    assert len(done.stderr.splitlines()) == 1


WRONG = {
    "no JSON": "garbage",
    "nested": "[" * 100_000,
    "no UTF-8": b"\xff\xfe",
    "a list": "[]",
    "missing": {"chunk_shift": ...},
    "a shift of nothing": {"chunk_shift": 0},
    "a shift back": {"chunk_shift": -32},
    "a shift that is no number": {"chunk_shift": "32"},
    "a shift that is a truth": {"chunk_shift": True},
    "a shift beyond the chunk": {"chunk_shift": 1000},
    "a chunk without frames": {"chunk_frames": 0},
    "a chunk without end": {"chunk_frames": 10**12},
    "half a token of context": {"context": 1.5},
    "no such channel": {"channels": "second"},
    "endless silence": {"tail_padding": 1e300},
    "no number of seconds": {"tail_padding": float("nan")},
    "states that are none": {"states": 3},
    "a state without a shape": {"states": [{"name": "a", "dtype": "float32"}]},
    "a huge state": {"states": [{"name": "a", "dtype": "float32", "shape": [10**6, 10**6]}]},
    "a state of objects": {"states": [{"name": "a", "dtype": "O", "shape": [1]}]},
}


@pytest.mark.parametrize("name", WRONG)
def test_every_value_of_a_bundle_is_checked(copied, name):
    change, file = WRONG[name], copied / "encoder.json"
    if isinstance(change, dict):
        described = json.loads(file.read_text()) | change
        file.write_text(json.dumps({k: v for k, v in described.items() if v is not ...}))
    elif isinstance(change, bytes):
        file.write_bytes(change)
    else:
        file.write_text(change)
    with pytest.raises(UserError, match=r"encoder\.json.*copy the whole bundle to the board again"):
        description.read(copied)


@pytest.mark.parametrize("text", ["garbage", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}'])
def test_manifest_that_lists_nothing_is_refused(copied, text):
    (copied / "manifest.json").write_text(text)
    (copied / "a").touch()
    with pytest.raises(UserError, match="copy the whole bundle to the board again"):
        description.check_files(copied)


class Wrong:
    """A network that gives what does not fit."""

    def __init__(self, *outputs):
        self._outputs = list(outputs)

    def run(self, arrays):
        return self._outputs


def test_networks_that_do_not_belong_to_the_bundle_are_refused():
    model = bundle.describe(contract.inspect(DEMO_MODEL), None, AUDIO)
    known = vocabulary.read(PARTS["tokens"])
    with pytest.raises(UserError, match="does not give the 35 states"):
        list(transcribe.transcribe(WAVS[:1], model, known, Wrong(np.zeros((1, 2, 3))), None))
    states = [np.zeros(state["shape"], state["dtype"]) for state in model["states"]]
    scores = np.zeros((1, 4, 50))
    scores[..., 40] = 1
    with pytest.raises(UserError, match=r"gives the token 40, but tokens\.txt has 11"):
        list(transcribe.transcribe(WAVS[:1], model, known, Wrong(scores, *states), None))


def test_error_of_the_runtime_is_one_line(copied, tmp_path):
    (tmp_path / "runtime/rknnlite").mkdir(parents=True)
    broken = RUNTIME.replace("        return 0\n", "        raise ValueError('no\\ndevice')\n", 1)
    (tmp_path / "runtime/rknnlite/api.py").write_text(broken)
    (copied / "encoder.rknn").write_bytes(DEMO_MODEL.read_bytes())
    done = run_script(copied, str(WAVS[0]), path=str(tmp_path / "runtime"))
    assert done.returncode == 1
    assert done.stderr.endswith("load_rknn failed (ValueError: no device)\n")


def test_script_refuses_audio_of_another_rate(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(8000, "f4"), 8000)
    with pytest.raises(UserError, match="its rate is 8000 Hz; convert it to 16000 Hz"):
        transcribe.read_wav(tmp_path / "a.wav", AUDIO)


@pytest.mark.parametrize(
    ("device", "name"), [(None, "no rk3588 board can"), ("b1", "no rk3588 board 'b1' can")]
)
def test_no_board_is_told_with_what_to_do(tmp_path, device, name):
    model = tiny_encoder(tmp_path / "tiny.onnx")
    shape = contract.inspect(model)
    scheme = platforms.Scheme("rk3588", platforms.FLOAT16)
    rknn_toolkit.build(model, shape, None, tmp_path, scheme, float16=lambda graph, config: None)
    with pytest.raises(UserError, match=rf"^{name}.*set evaluation\.target to null"):
        rknn_toolkit.Board(tmp_path / "encoder.rknn", shape, platforms.Npu("rk3588"), device)


class SlowRunner(OnnxRunner):
    """A network that takes its time."""

    def run(self, arrays):
        time.sleep(0.02)
        return super().run(arrays)


def test_benchmark_names_the_faster_of_two_encoders():
    model = bundle.describe(contract.inspect(DEMO_MODEL), 2, AUDIO)
    encoders = {
        transcribe.ENCODER: SlowRunner(DEMO_MODEL),
        transcribe.PLAIN_ENCODER: OnnxRunner(DEMO_MODEL),
    }
    seconds = transcribe.benchmark(encoders, model, seconds=0.1)
    found = {name: measuring.times(entry) for name, entry in seconds.items()}
    *times, verdict = transcribe.benchmark_lines(found)
    assert [line.split(":")[0] for line in times] == list(encoders)
    assert verdict.startswith("encoder-plain.rknn is the faster one, by ")
    assert verdict.endswith(": copy it over encoder.rknn")
    assert len(list(transcribe.benchmark_lines({"encoder.rknn": found["encoder.rknn"]}))) == 1


def test_benchmark_leaves_a_file_of_the_board(on_board, tmp_path):
    done = run_script(on_board, "--benchmark", "--seconds", "1", path=str(tmp_path / "runtime"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "board.json").read_text())
    assert found["format"] == measuring.FORMAT
    assert found["manifest_sha256"] == files.sha256(on_board / "manifest.json")
    assert list(found["networks"]) == ["encoder.rknn", "decoder.rknn", "joiner.rknn"]
    for name, entry in found["networks"].items():
        assert entry["sha256"] == files.sha256(on_board / name)
        assert entry["calls"] > 10
        assert 0 < entry["median_ms"] <= entry["p95_ms"] <= entry["max_ms"]
    assert found["machine"]["runtime"] == "onnxruntime in its place"
    assert 0 < found["before"]["rss_mb"] <= found["after"]["peak_mb"]
    assert "evaluation.board_result takes it into the report" in done.stdout
    assert "encoder.rknn: " in done.stdout and "joiner.rknn: " in done.stdout


def test_what_a_board_shows_is_read(tmp_path):
    for path, content in {
        "proc/device-tree/model": "Orange Pi 5\0",
        "proc/self/status": "Name:\tpython3\nVmHWM:\t  200000 kB\nVmRSS:\t  100000 kB\n",
        "sys/kernel/debug/rknpu/version": "RKNPU driver: v0.9.6\n",
        "sys/kernel/debug/rknpu/load": "NPU load:  Core0: 24%, Core1:  0%, Core2:  0%,\n",
        "sys/class/thermal/thermal_zone0/type": "soc-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48076\n",
        "sys/class/thermal/thermal_zone1/type": "npu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "no reading\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    found = measuring.machine(tmp_path)
    assert (found["board"], found["npu_driver"]) == ("Orange Pi 5", "RKNPU driver: v0.9.6")
    assert measuring.state(tmp_path) == {
        "rss_mb": 102.4,
        "peak_mb": 204.8,
        "celsius": {"soc-thermal": 48.1},
        "npu_load": "NPU load:  Core0: 24%, Core1:  0%, Core2:  0%,",
    }
    # Elsewhere there is none of it.
    assert measuring.state(tmp_path / "nowhere") == {"celsius": {}}
    assert set(measuring.machine(tmp_path / "nowhere")) == {"kernel", "python"}


def test_times_leave_out_the_first_calls_and_show_a_slower_end():
    found = measuring.times([1.0] * measuring.WARM_UP + [0.01] * 30 + [0.02] * 30)
    assert (found["calls"], found["median_ms"], found["max_ms"]) == (60, 15.0, 20.0)
    assert (found["first_ms"], found["last_ms"]) == (10.0, 20.0)
    assert measuring.times([0.5])["median_ms"] == 500.0
