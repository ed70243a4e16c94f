"""Figures of evaluation tables: groups, and what NaN does to them."""

import math

import numpy as np
import pandas as pd
import pytest

from helpers.models import tiny_encoder
from helpers.places import DEMO_MODEL
from helpers.streams import InMemory
from zipquant.evaluation import encoder_error, measures
from zipquant.model import contract, noise
from zipquant.model.streaming import OnnxEncoder


def table_of(reference, candidate, shape, frames) -> pd.DataFrame:
    found = encoder_error.evaluate(reference, candidate, shape, InMemory({"u": frames}))
    rows = [row for compared in found for row in compared.rows]
    return pd.DataFrame(rows, columns=encoder_error.SCHEMA.names)


class Breaking(OnnxEncoder):
    """Gives NaN in one value of the encoder output of its fifth call and each later one."""

    calls = 0

    def run(self, x, states):
        encoder_out, states = super().run(x, states)
        self.calls += 1
        if self.calls >= 5:
            encoder_out = encoder_out.copy()
            encoder_out[0, 0, 0] = np.nan
        return encoder_out, states


def test_nan_in_an_output_is_counted_and_never_skipped_by_a_sum(tmp_path):
    path = tiny_encoder(tmp_path / "tiny.onnx")
    shape = contract.inspect(path)
    frames = np.random.default_rng(0).normal(-8, 3, (60, 80)).astype("f4")
    table = table_of(OnnxEncoder(path, shape), Breaking(path, shape), shape, frames)
    free = measures.summarize(table, ["mode", "output"]).set_index(["mode", "output"])
    row = free.loc["free-running", "encoder_out"]
    chunks = shape.chunk_count(len(frames))
    assert 0 < row["broken_chunks"] < chunks
    assert math.isnan(row["sqnr_db"]) and math.isnan(row["cosine"]) and math.isnan(row["max_error"])
    others = free.drop(index=("free-running", "encoder_out")).drop(
        index=("one step", "encoder_out")
    )
    assert (others["broken_chunks"] == 0).all() and (others["sqnr_db"] == math.inf).all()
    by_chunk = measures.summarize(
        table[(table["mode"] == "free-running") & (table["output"] == "encoder_out")], ["chunk"]
    )
    assert by_chunk["sqnr_db"].isna().sum() == row["broken_chunks"]
    assert by_chunk["sqnr_db"][0] == math.inf


def test_encoder_output_is_compared_without_its_mean_over_the_utterance(demo_contract):
    """A model whose output is moved by a constant has the same figures."""

    class Moved(OnnxEncoder):
        def __init__(self, offset, spread):
            super().__init__(DEMO_MODEL, demo_contract)
            self._offset, self._random = offset, np.random.default_rng(1)
            self._spread = spread

        def run(self, x, states):
            encoder_out, states = super().run(x, states)
            rounding = self._random.normal(0, self._spread, encoder_out.shape)
            return encoder_out + self._offset + rounding, states

    frames = np.random.default_rng(0).normal(-8, 3, (300, 80)).astype("f4")
    figures = []
    for offset in (0.0, 100.0):
        table = table_of(Moved(offset, 0), Moved(offset, 0.01), demo_contract, frames)
        rows = measures.summarize(table, ["output", "mode"]).set_index(["output", "mode"])
        figures.append(rows.loc["encoder_out", "free-running"])
    assert figures[0]["sqnr_db"] == pytest.approx(figures[1]["sqnr_db"], abs=0.01)
    assert figures[0]["cosine"] == pytest.approx(figures[1]["cosine"], abs=1e-5)
    utterances = InMemory({"u": frames})
    (found,) = encoder_error.evaluate(Moved(0, 0), Moved(0, 0), demo_contract, utterances)
    encoded = found.encoded
    expected = noise.sqnr(noise.varying_power(encoded), 0.01**2 * encoded.size)
    assert figures[0]["sqnr_db"] == pytest.approx(float(expected), abs=0.3)


def test_lanes_give_what_one_utterance_at_a_time_gives(demo_contract):
    """Utterances that end out of turn, one without a chunk, and fewer one-step chunks than all."""
    random = np.random.default_rng(0)
    lengths = {"a": 170, "none": 20, "b": 45, "c": 110, "d": 75, "e": 0}
    spoken = InMemory(
        {name: random.normal(-8, 3, (n, 80)).astype("f4") for name, n in lengths.items()}
    )

    class Rounded(OnnxEncoder):
        def run(self, x, states):
            encoder_out, states = super().run(x, states)
            return np.round(encoder_out, 1), [np.round(s, 1).astype(s.dtype) for s in states]

    found = []
    for lanes in (1, 3):
        models = (OnnxEncoder(DEMO_MODEL, demo_contract), Rounded(DEMO_MODEL, demo_contract))
        found.append(list(encoder_error.evaluate(*models, demo_contract, spoken, 2, lanes)))
    assert [entry.utterance for entry in found[0]] == list(lengths)
    for one, many in zip(*found, strict=True):
        assert one.utterance == many.utterance and one.rows == many.rows
        np.testing.assert_array_equal(one.encoded, many.encoded)
    modes = [row[2] for row in found[0][0].rows if row[3] == "encoder_out"]
    assert modes.count("one step") == 2 and modes.count("free-running") == 5
    assert found[0][1].rows == [] and len(found[0][1].encoded) == 0
