"""The global sample and the calibration set."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from conftest import tiny_encoder
from zipquant import calibration, contract, manifest, sampling, streaming, traces
from zipquant.errors import UserError
from zipquant.frame_store import FrameWriter

CHUNKS = [(f"speaker{u % 7}/u{u}", chunk) for u in range(60) for chunk in range(u % 9 + 1)]


def tables(chunks, shards):
    """Split chunks into shard tables the way the workflow does."""
    split = [[] for _ in range(shards)]
    for utterance, chunk in chunks:
        split[manifest.shard_of(utterance, shards)].append((utterance, chunk))
    return [
        pd.DataFrame(
            {
                "utterance": [u for u, _ in shard],
                "chunk": [c for _, c in shard],
                "row": range(len(shard)),
            }
        )
        for shard in split
    ]


def names(chosen):
    return [(chunk.utterance, chunk.chunk) for chunk in chosen]


@pytest.mark.parametrize("shards", [1, 2, 5, 64])
def test_sample_does_not_depend_on_shards_or_order(shards):
    expected = names(sampling.uniform(tables(CHUNKS, 3), 40, seed=1))
    assert names(sampling.uniform(tables(CHUNKS, shards), 40, seed=1)) == expected
    assert names(sampling.uniform(tables(CHUNKS[::-1], shards), 40, seed=1)) == expected


def test_smaller_sample_is_the_head_of_a_larger_one():
    large = names(sampling.uniform(tables(CHUNKS, 3), 100, seed=1))
    assert names(sampling.uniform(tables(CHUNKS, 3), 20, seed=1)) == large[:20]


def test_sample_is_without_replacement_and_takes_all_when_few():
    chosen = names(sampling.uniform(tables(CHUNKS, 3), 10_000, seed=1))
    assert sorted(chosen) == sorted(CHUNKS)


def test_added_utterance_displaces_no_more_rows_than_it_brings():
    before = names(sampling.uniform(tables(CHUNKS, 3), 50, seed=1))
    more = [("new", chunk) for chunk in range(30)]
    after = names(sampling.uniform(tables(CHUNKS + more, 3), 50, seed=1))
    brought = [name for name in after if name[0] == "new"]
    kept = [name for name in after if name[0] != "new"]
    assert kept == before[: len(kept)]
    assert len(brought) + len(kept) == 50
    assert 0 < len(brought) < 20


def test_sample_is_uniform():
    # Each chunk's share of 2,000 draws is binomial; five standard deviations bound all of them.
    few = CHUNKS[:50]
    counts = dict.fromkeys(few, 0)
    for seed in range(2000):
        for name in names(sampling.uniform(tables(few, 4), 10, seed)):
            counts[name] += 1
    deviation = 5 * np.sqrt(2000 * 0.2 * 0.8)
    assert max(counts.values()) < 400 + deviation
    assert min(counts.values()) > 400 - deviation


def test_no_chunk_at_all_is_refused(tmp_path):
    empty = pd.DataFrame({"utterance": [], "chunk": [], "row": []})
    empty.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="not a single chunk"):
        sampling.sample([tmp_path / "t.parquet"], tmp_path / "s.tsv", 10, 0)


@pytest.fixture
def written(tmp_path):
    """A calibration set of the tiny encoder: 6 chunks of two utterances in two shards."""
    model = contract.inspect(tiny_encoder(tmp_path / "e.onnx"))
    model.save(tmp_path / "model.json")
    random = np.random.default_rng(0)
    frames = []
    rows = {}
    encoder = streaming.OnnxEncoder(tmp_path / "e.onnx", model)
    for shard, utterance in enumerate(("a", "b")):
        # 18 frames are 3 chunks of the tiny encoder.
        speech = random.normal(-8, 3, (18, 80)).astype(np.float32)
        with FrameWriter(tmp_path / f"{shard}.features.h5") as writer:
            writer.add(utterance, speech)
        inputs = ("e.onnx", "model.json", f"{shard}.features.h5")
        outputs = (f"{shard}.h5", f"{shard}.parquet")
        traces.trace_shard(*(tmp_path / name for name in inputs + outputs), lanes=1)
        for step in streaming.stream(encoder, model, [speech]):
            rows[utterance, step.chunk] = step.inputs
        frames.append(tmp_path / f"{shard}.parquet")
    sampling.sample(frames, tmp_path / "sample.tsv", 6, 7)
    stored = [tmp_path / "0.h5", tmp_path / "1.h5"]
    dataset = tmp_path / "dataset.txt"
    calibration.write(
        tmp_path / "sample.tsv", stored, tmp_path / "model.json", dataset, tmp_path / "arrays"
    )
    return model, dataset, rows


def test_rows_are_the_sampled_chunks_in_onnx_order(written):
    _, dataset, rows = written
    chosen = names(sampling.read(dataset.with_name("sample.tsv")))
    lines = dataset.read_text().splitlines()
    assert len(lines) == len(chosen) == 6
    for name, line in zip(chosen, lines, strict=True):
        for path, array in zip(line.split(" "), rows[name], strict=True):
            stored = np.load(dataset.parent / path)
            np.testing.assert_array_equal(stored, array)
            assert stored.dtype == array.dtype


def test_equal_arrays_are_stored_once(written):
    _, dataset, rows = written
    different = {array.tobytes() for row in rows.values() for array in row}
    assert len(list((dataset.parent / "arrays").iterdir())) == len(different) < 18


def test_same_input_gives_the_same_bytes(written, tmp_path):
    _, dataset, _ = written
    again = tmp_path / "again"
    calibration.write(
        tmp_path / "sample.tsv",
        [tmp_path / "0.h5", tmp_path / "1.h5"],
        tmp_path / "model.json",
        again / "dataset.txt",
        again / "arrays",
    )
    assert (again / "dataset.txt").read_bytes() == dataset.read_bytes()
    for path in (tmp_path / "arrays").iterdir():
        assert (again / "arrays" / path.name).read_bytes() == path.read_bytes()


def damage_first(dataset, change, keep_name=True):
    """Change the array behind the first row's second input; keep its name or mend that too."""
    lines = dataset.read_text().splitlines()
    path = lines[0].split(" ")[1]
    target = dataset.parent / path
    content = change(target)
    target.write_bytes(content)
    if not keep_name:
        name = re.sub(r"[0-9a-f]{20}", calibration._digest(content), path)
        target.rename(dataset.parent / name)
        dataset.write_text("\n".join(lines).replace(path, name) + "\n")


def saved(array, tmp_path):
    np.save(tmp_path / "array.npy", array)
    return (tmp_path / "array.npy").read_bytes()


def test_changed_array_is_noticed(written):
    model, dataset, _ = written
    damage_first(dataset, lambda path: path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"row 1, input 'cached_x': .* has been changed"):
        calibration.check(dataset, model)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 6, 80), np.float64), "is float64"),
        (np.zeros((6, 80), np.float32), r"\[6, 80\], but the model takes float32 \[1, 6, 80\]"),
        (np.full((1, 6, 80), np.nan, np.float32), "NaN"),
        (np.full((1, 6, 80), np.inf, np.float32), "infinite"),
    ],
)
def test_wrong_array_is_named(written, tmp_path, array, message):
    model, dataset, _ = written
    damage_first(dataset, lambda _: saved(array, tmp_path), keep_name=False)
    with pytest.raises(UserError, match=f"row 1, input 'cached_x'.*{message}"):
        calibration.check(dataset, model)


def test_missing_array_missing_column_and_empty_set_are_named(written):
    model, dataset, _ = written
    lines = dataset.read_text().splitlines()
    dataset.write_text("\n".join([*lines[:2], lines[2].rsplit(" ", 1)[0], *lines[3:]]))
    with pytest.raises(UserError, match=r"row 3: 2 path\(s\), but the model has 3 inputs"):
        calibration.check(dataset, model)
    dataset.write_text("")
    with pytest.raises(UserError, match="has no rows"):
        calibration.check(dataset, model)
    dataset.write_text("\n".join(lines))
    (dataset.parent / lines[0].split(" ")[0]).unlink()
    with pytest.raises(UserError, match=r"row 1, input 'x': .* cannot be read"):
        calibration.check(dataset, model)


def test_priorities_do_not_collide():
    several = itertools.product(("a", "a1", "ab"), range(300))
    assert len({sampling.priority(0, *chunk) for chunk in several}) == 900
