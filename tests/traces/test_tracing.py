"""Slides, trace files and chunk tables: every row comes back bit for bit, whatever the model."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.audio import make_audio
from helpers.models import tiny_encoder
from helpers.places import DEMO_MODEL
from helpers.streams import store, trace, utterances
from zipquant.audio import features
from zipquant.audio.frame_store import FrameReader, FrameWriter
from zipquant.errors import UserError
from zipquant.model import contract, streaming
from zipquant.traces import chunk_table, slides, tracing
from zipquant.traces import store as trace_store
from zipquant.traces.measures import Measures


def window_of(tape: np.ndarray, start: int, length: int, axis: int) -> np.ndarray:
    return np.take(tape, range(start, start + length), axis)


@pytest.mark.parametrize(("axis", "step"), [(0, 2), (1, 5), (2, 1), (2, 8)])
def test_axis_and_step_of_a_sliding_window_are_found(axis, step):
    shape = [6, 12, 9]
    shape[axis] += 4 * step
    tape = np.random.default_rng(0).normal(size=shape).astype("f4")
    length = [6, 12, 9][axis]
    windows = [window_of(tape, step * n, length, axis) for n in range(4)]
    assert slides.find(windows) == slides.Slide(axis - 3, length, step)


def test_slide_is_found_behind_the_zeros_of_the_beginning():
    tape = np.concatenate([np.zeros(8), np.arange(1, 13)]).astype("f4")
    windows = [window_of(tape, 3 * n, 8, 0) for n in range(4)]
    assert slides.find(windows) == slides.Slide(-1, 8, 3)


def test_states_that_keep_all_or_nothing():
    random = np.random.default_rng(0)
    noise = [random.normal(size=(4, 5)).astype("f4") for _ in range(4)]
    assert slides.find(noise) == slides.Slide(-1, 5, 5)
    assert slides.find([noise[0]] * 4).step == 0
    counter = [np.array([[n]], dtype="i8") for n in range(4)]
    assert slides.find(counter) == slides.Slide(-1, 1, 1)


def test_equality_is_that_of_the_bits():
    before, after = np.array([1, 0.0, 2], "f4"), np.array([-0.0, 2, 3], "f4")
    assert slides.find([before, after]).step == 3
    nan = np.array([1, np.nan, 2, 3, 4], "f4")
    assert slides.find([nan[:3], nan[1:4], nan[2:]]).step == 1


class Scripted:
    """An encoder whose states do what few models do: they change their ways on the way.

    The first feature of each lane says at which chunk its cache stops sliding for once; then the
    cache is all new, and slides on.
    """

    def __init__(self):
        def tensor(name, shape, axis=0, dtype="float32"):
            return contract.Tensor(name, shape, dtype, axis)

        shapes = {
            "cache": tensor("cache", (2, 10, 1, 3), 2),
            "fixed": tensor("fixed", (1, 6)),
            "never": tensor("never", (1, 5)),
            "whole": tensor("whole", (3, 1, 4), 1),
            "late": tensor("late", (1, 8)),
            "count": tensor("count", (1,), 0, "int64"),
        }
        states = tuple(contract.State(t, f"new_{t.name}") for t in shapes.values())
        x = tensor("x", (1, 4, 2))
        self.contract = contract.Contract("", x, states, "out", 3, {})

    def run(self, x, states):
        cache, fixed, never, whole, late, count = [state.copy() for state in states]
        for lane in range(len(x)):
            stop, chunk = int(x[lane, 0, 0]), int(count[lane])
            random = np.random.default_rng([stop, chunk])
            cache[:, :, lane] = np.roll(cache[:, :, lane], -4, axis=1)
            fresh = 10 if chunk == stop else 4
            cache[:, -fresh:, lane] = random.normal(size=(2, fresh, 3))
            fixed[lane] = 7
            whole[:, lane] = random.normal(size=(3, 4))
            # Nothing at all for six chunks, then a window like the others.
            late[lane] = np.roll(late[lane], -2)
            late[lane, -2:] = random.normal(size=2) if chunk > 5 else 0
            count[lane] += 1
        return x[:, :1], [cache, fixed, never, whole, late, count]


@pytest.mark.parametrize("lanes", [1, 3])
def test_states_that_change_their_ways_come_back_bit_equal(tmp_path, lanes):
    encoder = Scripted()
    random = np.random.default_rng(1)
    audio = [random.normal(size=(n, 2)).astype("f4") for n in (60, 50, 2, 40, 30, 7)]
    for frames, stop in zip(audio, (5, 0, 0, 99, 8, 1), strict=True):
        frames[:, 0] = stop
    # The first chunks of the first utterance, which show how states slide, have no break.
    found = tracing.find_slides(encoder, encoder.contract, audio[:1])
    assert [slide.step for slide in found] == [4, 0, 0, 4, 0, 1]
    path = tmp_path / "t.h5"
    store(tmp_path / "f.h5", audio)
    measures = Measures(encoder.contract, found)
    measured = {}
    with (
        FrameReader(tmp_path / "f.h5") as reader,
        trace_store.create(path, encoder.contract, found, reader) as writer,
    ):
        for batch in streaming.stream_batches(encoder, encoder.contract, audio, lanes):
            writer.write(batch.utterances, batch, measures)
            chunks = zip(batch.utterances, batch.chunks, strict=True)
            measured.update(zip(chunks, measures.values(batch), strict=True))
    row = 0
    with trace_store.TraceReader(path, encoder.contract) as reader:
        for utterance, frames in enumerate(audio):
            for step in streaming.stream(encoder, encoder.contract, [frames]):
                for got, wanted in zip(reader.row(row), step.inputs, strict=True):
                    np.testing.assert_array_equal(slides.bits(got), slides.bits(wanted))
                    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
                energy, *ranges = measured[utterance, step.chunk]
                assert energy == pytest.approx(step.inputs[0].mean(), rel=1e-6)
                tensors = [array.astype("f8") for array in (*step.inputs, step.encoder_out)]
                wanted = [(a.min(), a.max(), np.sqrt((a**2).mean())) for a in tensors]
                np.testing.assert_allclose(np.reshape(ranges, (-1, 3)), wanted, rtol=1e-6)
                row += 1
    assert row > 50


@pytest.mark.parametrize(
    ("shape", "axis", "step"),
    [((2, 8, 1, 40), -3, 2), ((3, 1, 8, 9), -1, 6), ((5, 1, 400), -1, 400), ((7, 30), -1, 16)],
)
def test_ranges_are_those_of_the_whole_window(shape, axis, step):
    """Those of NaN too, as long as it is in the window."""
    tensor = contract.Tensor("s", shape, "float32", None)
    x = contract.Tensor("x", (1, 4, 2), "float32", 0)
    about = contract.Contract("", x, (contract.State(tensor, "n"),), "out", 3, {})
    slide = slides.Slide(axis, shape[axis], step)
    measures = Measures(about, [slide])
    random = np.random.default_rng(0)
    windows = {utterance: tensor.zeros() for utterance in range(3)}
    seen = 0
    for chunk in range(12):
        lanes = [n for n in (2, 0, 1) if chunk < 6 + 3 * n]
        fresh = {n: random.normal(size=slide.fresh(windows[n]).shape).astype("f4") for n in lanes}
        if chunk == 2:
            fresh[0].flat[0] = np.nan
        measures.begin(lanes)
        measures.add(0, np.stack([fresh[n] for n in lanes]))
        frames = np.zeros((len(lanes), 4, 2), "f4")
        batch = streaming.Batch(lanes, [], [], frames, [], frames, [])
        for n, values in zip(lanes, measures.values(batch), strict=True):
            window = windows[n] = slide.joined([windows[n], fresh[n]])
            wanted = (window.min(), window.max(), np.sqrt(np.mean(window.astype("f8") ** 2)))
            np.testing.assert_allclose(values[4:7], wanted, rtol=1e-6)
            seen += np.isnan(values[4])
    assert 0 < seen < 6


@pytest.mark.parametrize("name", ["demo", "zipformer2", "fixed batch"])
def test_rows_and_table_are_bit_equal_to_the_plain_loop(tmp_path, models, expected, name):
    shape = trace(tmp_path, models[name], utterances(), lanes=3)
    table = pd.read_parquet(tmp_path / "t.parquet").set_index(["utterance", "chunk"])
    assert len(table) == len(expected[name])
    with trace_store.TraceReader(tmp_path / "t.h5", shape) as reader:
        for (utterance, chunk), (inputs, outputs) in expected[name].items():
            entry = table.loc[(f"u{utterance}", chunk)]
            for tensor, array in zip(shape.inputs, reader.row(int(entry["row"])), strict=True):
                wanted = inputs[tensor.name]
                np.testing.assert_array_equal(slides.bits(array), slides.bits(wanted))
                assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
                assert entry[f"{tensor.name}.min"] == array.min()
                assert entry[f"{tensor.name}.max"] == array.max()
                rms = np.sqrt(np.mean(np.square(array.astype("f8"))))
                assert entry[f"{tensor.name}.rms"] == pytest.approx(rms, rel=1e-5)
            assert entry["encoder_out.max"] == outputs["encoder_out"].max()
            assert entry["energy"] == pytest.approx(inputs["x"].mean(), rel=1e-5)
            assert entry["time"] == pytest.approx(shape.chunk_shift / 100 * chunk)


@pytest.mark.parametrize("name", ["demo", "zipformer2"])
def test_files_are_the_same_bytes_for_any_number_of_lanes(tmp_path, models, name):
    for lanes in (1, 3, 16):
        trace(tmp_path / str(lanes), models[name], utterances(), lanes)
    for file in ("t.h5", "t.parquet"):
        contents = {(tmp_path / str(lanes) / file).read_bytes() for lanes in (1, 3, 16)}
        assert len(contents) == 1, file


def bytes_read() -> int:
    """How much this process has asked the kernel to read so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def test_one_row_of_a_thousand_reads_little_of_the_file(tmp_path):
    long = np.concatenate([features.fbank(make_audio(20, seed)) for seed in range(4)])
    shape = trace(tmp_path, DEMO_MODEL, [long] * 4, lanes=4)
    rows = len(pd.read_parquet(tmp_path / "t.parquet", columns=["row"]))
    assert rows >= 990
    size = (tmp_path / "t.h5").stat().st_size
    raw = sum(tensor.zeros().nbytes for tensor in shape.inputs)
    assert size < 0.25 * rows * raw
    with trace_store.TraceReader(tmp_path / "t.h5", shape) as reader:
        for row in (700, 3, rows - 1):
            before = bytes_read()
            reader.row(row)
            # The windows of a row take 16 records; these are 5 blocks of 4.
            assert bytes_read() - before < 0.025 * size
            assert bytes_read() - before < 5 * raw


def test_damage_anywhere_is_named_and_never_used(tmp_path):
    shape = trace(tmp_path, DEMO_MODEL, utterances()[:2], lanes=2)
    path = tmp_path / "t.h5"
    content = path.read_bytes()
    with trace_store.TraceReader(path, shape) as reader:
        intact = [reader.row(row) for row in range(15)]
    noticed = 0
    for place in np.linspace(0, len(content) - 1, 150).astype(int):
        broken = bytearray(content)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        try:
            with trace_store.TraceReader(path, shape) as reader:
                rows = [reader.row(row) for row in range(15)]
        except UserError as error:
            assert f"{path} was damaged" in str(error)
            assert "run the same command again" in str(error)
            assert not path.exists()
            noticed += 1
            continue
        # Room that HDF5 keeps free: whatever stands there is not read.
        for got, wanted in zip(rows, intact, strict=True):
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(slides.bits(a), slides.bits(b))
    assert noticed > 100
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"t\.h5 was damaged"):
        trace_store.TraceReader(path, shape)


def test_failed_trace_leaves_no_file(tmp_path, demo_contract):
    demo_contract.save(tmp_path / "model.json")
    with FrameWriter(tmp_path / "f.h5") as writer:
        writer.add("u", utterances()[1])
    bad = tiny_encoder(tmp_path / "e.onnx")
    arguments = [tmp_path / name for name in ("model.json", "f.h5", "t.h5", "t.parquet")]
    with pytest.raises(UserError, match="onnxruntime cannot run"):
        tracing.trace_shard(bad, *arguments, lanes=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.onnx", "f.h5", "model.json"]


def test_shard_without_a_chunk_gives_empty_files(tmp_path):
    shape = trace(tmp_path, DEMO_MODEL, [np.zeros((10, 80), "f4")], lanes=2)
    assert pd.read_parquet(tmp_path / "t.parquet").empty
    trace_store.TraceReader(tmp_path / "t.h5", shape)


def test_damaged_table_is_named(tmp_path):
    trace(tmp_path, DEMO_MODEL, utterances()[:2], lanes=2)
    path = tmp_path / "t.parquet"
    content = path.read_bytes()
    intact = chunk_table.read(path)
    noticed = 0
    for place in np.linspace(0, len(content) - 1, 100).astype(int):
        broken = bytearray(content)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        try:
            # What a page does not hold, such as the names of columns, is the record's to watch.
            assert len(chunk_table.read(path)) == len(intact)
        except UserError as error:
            assert f"{path} was damaged" in str(error)
            assert not path.exists()
            noticed += 1
    assert noticed > 50
    for broken in (content[: len(content) // 2], b""):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"t\.parquet was damaged"):
            chunk_table.read(path)


def test_spool_has_no_name(tmp_path):
    shape = trace(tmp_path, DEMO_MODEL, [np.zeros((10, 80), "f4")], lanes=2)
    found = [slides.Slide(-1, state.tensor.shape[-1], 0) for state in shape.states]
    before = sorted(os.listdir(tmp_path))
    with (
        FrameReader(tmp_path / "f.h5") as reader,
        trace_store.create(tmp_path / "u.h5", shape, found, reader),
    ):
        assert sorted(os.listdir(tmp_path)) == sorted([*before, ".u.part.h5"])
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "u.h5"])
