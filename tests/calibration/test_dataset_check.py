"""The validator of calibration sets: every fault is found, and reported by row, input and cause."""

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.audio import make_audio
from helpers.models import tiny_encoder
from helpers.places import DEMO_MODEL, ROOT
from zipquant.audio import features
from zipquant.calibration import dataset_check
from zipquant.errors import UserError
from zipquant.model import contract, streaming

ROWS = 5
SHAPES = {"x": (1, 9, 80), "cached_x": (1, 6, 80), "processed_lens": (1,)}


@pytest.fixture
def model(tmp_path):
    return contract.inspect(tiny_encoder(tmp_path / "encoder.onnx"))


@pytest.fixture
def dataset(tmp_path):
    """A good calibration set of the tiny encoder, a file an input and row: `cached_x-2.npy`."""
    random = np.random.default_rng(0)
    folder = tmp_path / "set"
    folder.mkdir()
    lines = []
    for row in range(1, ROWS + 1):
        x = random.uniform(-14, 2, SHAPES["x"]).astype(np.float32)
        cache = random.uniform(-14, 2, SHAPES["cached_x"]).astype(np.float32)
        arrays = {"x": x, "cached_x": cache * (row > 1), "processed_lens": np.array([4 * row - 4])}
        for name, array in arrays.items():
            np.save(folder / f"{name}-{row}.npy", array)
        lines.append(" ".join(f"{name}-{row}.npy" for name in SHAPES))
    (folder / "dataset.txt").write_text("\n".join(lines) + "\n")
    return folder / "dataset.txt"


def told(dataset, model):
    return dataset_check.describe(list(dataset_check.find_problems(dataset, model)))


def load(dataset, name, row):
    return np.load(dataset.parent / f"{name}-{row}.npy")


def save(dataset, name, row, array):
    np.save(dataset.parent / f"{name}-{row}.npy", array)


def replace(dataset, old, new):
    text = dataset.read_text()
    assert old in text
    dataset.write_text(text.replace(old, new))


def test_good_set_has_no_problem(dataset, model):
    assert told(dataset, model) == []
    dataset_check.check(dataset, model)


def test_blank_lines_and_windows_line_ends_are_fine(dataset, model):
    dataset.write_bytes(dataset.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert told(dataset, model) == []


def test_more_than_one_space_is_fine(dataset, model):
    """rknn-toolkit2 2.3.2 reads the same rows from it."""
    dataset.write_text(dataset.read_text().replace(" ", "  "))
    assert told(dataset, model) == []


# Each changes one thing of a good set. What must be reported: severity, place, find, cause.
FAULTS = {}


def fault(*expected):
    def add(change):
        FAULTS[change.__name__] = (change, expected)
        return change

    return add


@fault("error", "row 2: ", "has 1 path, the model has 3 inputs", "on one line")
def features_alone(dataset):
    replace(dataset, "x-2.npy cached_x-2.npy processed_lens-2.npy", "x-2.npy")


@fault("error", "row 3: ", "has 2 paths, the model has 3 inputs", "one path for each input")
def one_input_missing(dataset):
    replace(dataset, " processed_lens-3.npy", "")


@fault("error", "row 3: ", "has 4 paths", "a path with a space in it is split")
def space_in_a_path(dataset):
    (dataset.parent / "x-3.npy").rename(dataset.parent / "x 3.npy")
    replace(dataset, "x-3.npy cached", "x 3.npy cached")


@fault("error", "row 1", "has commas between the paths", "splits rows at spaces")
def commas(dataset):
    dataset.write_text(dataset.read_text().replace(" ", ", "))


@fault("error", "row 1", "has 1 path, the model has 3 inputs", "all paths of a row on one line")
def one_path_a_line(dataset):
    dataset.write_text(dataset.read_text().replace(" ", "\n"))


@fault("error", "row 1", "names a recording", "as audio.calibration")
def list_of_recordings(dataset):
    dataset.write_text("a.wav\nb.WAV\nc.flac\n")


@fault("error", "row 1: ", "a tab", "replace tabs by spaces")
def tabs(dataset):
    replace(dataset, "x-1.npy cached", "x-1.npy\tcached")


@fault("error", "row 4: ", "quotation marks", "part of the path")
def quotes(dataset):
    replace(dataset, "x-4.npy cached", "'x-4.npy' cached")


@fault("error", "row 2, input 'cached_x': cached_x-2.npy", "cannot be read (No such", "relative to")
def missing_file(dataset):
    (dataset.parent / "cached_x-2.npy").unlink()


@fault("error", "row 2, input 'cached_x': .", "is no file", "np.save")
def folder_in_place_of_a_file(dataset):
    replace(dataset, " cached_x-2.npy", " .")


@fault("error", "row 2, input 'x'", "shape [1, 6, 80], the model takes [1, 9, 80]", "T = 9 frames")
def wrong_order(dataset):
    replace(dataset, "x-2.npy cached_x-2.npy", "cached_x-2.npy x-2.npy")


@fault("error", "row 2, input 'cached_x'", "shape [1], ", "fits input 'processed_lens': the paths")
def wrong_order_of_states(dataset):
    replace(dataset, "cached_x-2.npy processed_lens-2.npy", "processed_lens-2.npy cached_x-2.npy")


@fault("error", "row 5, input 'cached_x'", "shape [6, 80]", "np.expand_dims(array, 0)")
def no_batch_axis(dataset):
    save(dataset, "cached_x", 5, load(dataset, "cached_x", 5)[0])


@fault("error", "row 5, input 'cached_x'", "shape [2, 6, 80]", "a batch of 1")
def batch_of_two(dataset):
    save(dataset, "cached_x", 5, np.repeat(load(dataset, "cached_x", 5), 2, axis=0))


@fault("error", "row 5, input 'x'", "shape [1, 8, 80]", "a chunk has T = 9 frames")
def too_few_frames(dataset):
    save(dataset, "x", 5, load(dataset, "x", 5)[:, :8])


@fault("error", "row 5, input 'cached_x'", "shape [1, 7, 81]", "another model")
def other_model(dataset):
    save(dataset, "cached_x", 5, np.ones((1, 7, 81), np.float32))


@fault("error", "row 4, input 'x'", "is float64, the model takes float32", "array.astype")
def float64(dataset):
    save(dataset, "x", 4, load(dataset, "x", 4).astype(np.float64))


@fault("error", "row 4, input 'x'", "is int64, the model takes float32", "misreads the values")
def integers_for_floats(dataset):
    save(dataset, "x", 4, load(dataset, "x", 4).astype(np.int64))


@fault("error", "row 4, input 'processed_lens'", "is float32", "counters")
def floats_for_a_counter(dataset):
    save(dataset, "processed_lens", 4, np.array([12], np.float32))


@fault("error", "row 4, input 'x'", "is >f4", "the other order")
def other_byte_order(dataset):
    save(dataset, "x", 4, load(dataset, "x", 4).astype(">f4"))


@fault("error", "row 2, input 'x'", "holds NaN", "a broken model")
def nan(dataset):
    x = load(dataset, "x", 2)
    x[0, 3, 7] = np.nan
    save(dataset, "x", 2, x)


@fault("error", "row 2, input 'cached_x'", "holds infinite values", "the toolkit fails")
def infinity(dataset):
    cache = load(dataset, "cached_x", 2)
    cache[0, 0, 0] = -np.inf
    save(dataset, "cached_x", 2, cache)


@fault("error", "row 3, input 'x'", "is no npy file", "np.save")
def text_in_place_of_an_array(dataset):
    (dataset.parent / "x-3.npy").write_text("1 2 3")


@fault("error", "row 1, input 'x'", "cannot be read (embedded null byte)", "relative to")
def zero_byte_in_a_path(dataset):
    replace(dataset, "x-1.npy cached", "x\0.npy cached")


@fault("error", "row 1: ", "has 5000 paths", "one path for each input")
def junk(dataset):
    dataset.write_text("/".join(["a"] * 5000).replace("/", " ") + "b" * 5000)


@fault("error", "row 3, input 'x'", "is no npy file", "np.save")
def header_of_junk(dataset):
    text = ("(" * 5000).encode()
    header = np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text
    (dataset.parent / "x-3.npy").write_bytes(header)


@fault("error", "row 3, input 'x'", "is no npy file", "np.save")
def empty_file(dataset):
    (dataset.parent / "x-3.npy").write_bytes(b"")


@fault("error", "row 3, input 'x'", "is an npz archive", "np.save")
def npz(dataset):
    with open(dataset.parent / "x-3.npy", "wb") as file:
        np.savez(file, x=load(dataset, "x", 2))


@fault("error", "row 3, input 'x'", "is cut short", "interrupted")
def cut_short(dataset):
    path = dataset.parent / "x-3.npy"
    path.write_bytes(path.read_bytes()[:-100])


@fault("error", "row 3, input 'x'", "holds Python objects", "runs code")
def pickled_objects(dataset):
    np.save(dataset.parent / "x-3.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


@fault("error", "row 1, input 'x'", "has been changed since it was written", "run again")
def changed_since_it_was_written(dataset):
    name = f"x.{dataset_check.digest(b'something else')}.npy"
    (dataset.parent / "x-1.npy").rename(dataset.parent / name)
    replace(dataset, "x-1.npy cached", f"{name} cached")


@fault("warning", "row 3: ", "cached_x hold zeros alone, the other", "handed on")
def one_state_lost(dataset):
    save(dataset, "cached_x", 3, np.zeros(SHAPES["cached_x"], np.float32))


@fault("warning", "", "5 of 5 rows have states of zeros alone", "record the states")
def zero_states(dataset):
    for row in range(1, ROWS + 1):
        save(dataset, "cached_x", row, np.zeros(SHAPES["cached_x"], np.float32))
        save(dataset, "processed_lens", row, np.zeros(1, np.int64))


@fault("warning", "row 4: ", "holds the same as row 2", "adds nothing")
def row_listed_twice(dataset):
    lines = dataset.read_text().splitlines()
    dataset.write_text("\n".join([*lines[:3], lines[1], lines[4]]))


@fault("warning", "row 4: ", "holds the same as row 2", "written twice")
def row_written_twice(dataset):
    for name in SHAPES:
        shutil.copy(dataset.parent / f"{name}-2.npy", dataset.parent / f"{name}-4.npy")


@fault("warning", "row 4, input 'x'", "reaches down to -80.00", "decibels")
def decibels(dataset):
    x = load(dataset, "x", 4)
    x[0, 0, 0] = -80
    save(dataset, "x", 4, x)


@fault(
    "warning", "row 1 (and 4 more rows), input 'x'", "reaches up to", "were the samples integers"
)
def samples_not_scaled(dataset):
    for row in range(1, ROWS + 1):
        save(dataset, "x", row, load(dataset, "x", row) + np.float32(2 * np.log(32768)))


@fault("warning", "input 'x'", "the features average", "normalised")
def normalised_features(dataset):
    for row in range(1, ROWS + 1):
        x = load(dataset, "x", row)
        save(dataset, "x", row, (x - x.mean()) / x.std())


@fault("warning", "row 2, input 'x'", "is named after input 'cached_x'", "swapped")
def names_of_another_input(dataset):
    (dataset.parent / "x-2.npy").rename(dataset.parent / "2-cached_x.npy")
    replace(dataset, "x-2.npy cached_x-2", "2-cached_x.npy cached_x-2")


@fault("error", "", "there is no row in it", "3 paths")
def empty_set(dataset):
    dataset.write_text("\n")


@fault("error", "", "cannot be read (No such file", "give the path")
def no_dataset(dataset):
    dataset.unlink()


@fault("error", "", "cannot be read (it is no UTF-8 text", "give the path")
def binary_dataset(dataset):
    dataset.write_bytes(pickle.dumps([b"\xff\xfe"]))


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told_with_place_and_cause(dataset, model, name):
    change, (severity, place, find, cause) = FAULTS[name]
    change(dataset)
    lines = told(dataset, model)
    line = next(line for line in lines if line.startswith(f"{severity}: {place}") and find in line)
    assert cause in line.split(find)[1]
    # Faults do not drag wrong explanations of other rows behind them.
    assert len(lines) <= 3
    if severity == "error":
        with pytest.raises(UserError, match=re.escape(find)):
            dataset_check.check(dataset, model)
    else:
        dataset_check.check(dataset, model)


def test_warnings_are_printed_by_the_check_of_a_build(dataset, model, capsys):
    decibels(dataset)
    dataset_check.check(dataset, model)
    assert "warning: row 4, input 'x'" in capsys.readouterr().err


def test_all_problems_are_listed_up_to_a_bound(dataset, model):
    nan(dataset)
    missing_file(dataset)
    one_input_missing(dataset)
    decibels(dataset)
    lines = told(dataset, model)
    assert [line.split(":")[0] for line in lines] == ["error"] * 3 + ["warning"]
    problems = list(dataset_check.find_problems(dataset, model))
    assert dataset_check.describe(problems, 2)[2:] == ["error: and 2 more problem(s)"]


def test_pickle_in_an_array_is_never_run(dataset, model, tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    np.save(dataset.parent / "x-3.npy", np.array([Bomb()]), allow_pickle=True)
    assert "holds Python objects" in told(dataset, model)[0]
    (dataset.parent / "x-3.npy").write_bytes(pickle.dumps(Bomb()))
    assert "is no npy file" in told(dataset, model)[0]
    assert not (tmp_path / "ran").exists()


def command(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "scripts/check_dataset.py", *arguments],
        capture_output=True,
        text=True,
    )


def test_command_tells_problems_and_ends_with_1(dataset, model, tmp_path):
    encoder = tmp_path / "encoder.onnx"
    good = command("--model", encoder, dataset)
    assert (good.returncode, good.stderr) == (0, "")
    assert "nothing wrong found" in good.stdout
    for change in (features_alone, decibels, pickled_objects):
        change(dataset)
    bad = command("--model", encoder, dataset)
    assert (bad.returncode, bad.stderr) == (1, "")
    assert len(bad.stdout.splitlines()) == 3
    assert "row 2: has 1 path, the model has 3 inputs" in bad.stdout
    short = command("--model", encoder, "--show", "1", dataset)
    assert short.stdout.splitlines()[1:] == ["error: and 2 more problem(s)"]


def test_command_tells_a_wrong_model_plainly(dataset, tmp_path):
    done = command("--model", tmp_path / "none.onnx", dataset)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("error: no model at")
    tiny_encoder(tmp_path / "odd.onnx", counter_output="lens")
    assert command("--model", tmp_path / "odd.onnx", dataset).returncode == 1
    mended = command(
        "--model", tmp_path / "odd.onnx", "--state-output", "processed_lens=lens", dataset
    )
    assert mended.returncode == 0


def test_real_rows_of_the_demo_model_are_sound_and_swapped_ones_are_not(tmp_path, demo_contract):
    encoder = streaming.OnnxEncoder(DEMO_MODEL, demo_contract)
    frames = features.fbank(make_audio(3.0))
    lines = []
    for step in streaming.stream(encoder, demo_contract, [frames]):
        paths = []
        for tensor, array in zip(demo_contract.inputs, step.inputs, strict=True):
            paths.append(f"{step.chunk}.{tensor.name}.npy")
            np.save(tmp_path / paths[-1], array)
        lines.append(paths)
    dataset = tmp_path / "dataset.txt"
    dataset.write_text("\n".join(map(" ".join, lines)))
    assert told(dataset, demo_contract) == []
    names = [tensor.name for tensor in demo_contract.inputs]
    first, second = names.index("cached_val_2"), names.index("cached_val2_2")
    lines[4][first], lines[4][second] = lines[4][second], lines[4][first]
    dataset.write_text("\n".join(map(" ".join, lines)))
    assert [
        line.split(" is named after ")[1].split(":")[0] for line in told(dataset, demo_contract)
    ] == [
        "input 'cached_val2_2'",
        "input 'cached_val_2'",
    ]
    dataset.write_text("\n".join(paths[0] for paths in lines))
    (line,) = told(dataset, demo_contract)
    assert f"row 1 (and {len(lines) - 1} more rows): has 1 path, the model has 36 inputs" in line
