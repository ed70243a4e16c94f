"""Histograms over calibrated ranges: exact shares, and the same result for any shards."""

import numpy as np
import pytest

from helpers.models import tiny_encoder
from zipquant.model.contract import inspect
from zipquant.variants.histograms import BESIDE, INSIDE, Histogram, Histograms


def test_counts_lie_where_numpy_puts_them():
    values = np.random.default_rng(1).normal(0, 1, 20000).astype(np.float32)
    found = Histogram(-1.5, 2.0)
    found.add(values.reshape(20, 10, 100))
    edges = found.edges()
    assert len(edges) == INSIDE + 2 * BESIDE + 1
    assert (edges[BESIDE], edges[-1 - BESIDE]) == (-1.5, 2.0)
    expected = np.histogram(values.astype(np.float64), [-np.inf, *edges, np.inf])[0]
    assert found.counts == expected.tolist()
    assert found.total == 20000
    assert (found.below, found.above) == ((values < -1.5).sum(), (values > 2.0).sum())
    assert found.outside == pytest.approx(np.mean((values < -1.5) | (values > 2.0)))
    assert (found.least, found.most) == (values.min(), values.max())


def test_ends_of_the_range_are_inside():
    """The range is the rows' own minimum and maximum, in float32: they must not count as beyond."""
    low, high = float(np.float32(-15.942384719848633)), float(np.float32(5.348141193389893))
    found = Histogram(low, high)
    found.add(np.array([low, high], dtype=np.float32))
    assert (found.below, found.above, found.outside) == (0, 0, 0)
    assert found.counts[BESIDE + 1] == found.counts[BESIDE + INSIDE] == 1


def test_range_of_one_value_counts_what_leaves_it():
    found = Histogram(0.0, 0.0)
    found.add(np.array([0, 0, 0.5, -7]))
    assert (found.below, found.above, found.total) == (1, 1, 4)
    assert Histogram(0.0, 0.0).outside == 0


def test_shards_add_up_to_the_whole(tmp_path):
    contract = inspect(tiny_encoder(tmp_path / "tiny.onnx"))
    random = np.random.default_rng(2)
    calls = [
        [random.normal(0, 2, tensor.shape).astype(tensor.dtype) for tensor in contract.inputs]
        for _ in range(9)
    ]
    ranges = {"x": (-3.0, 4.0), "cached_x": (-1.0, 1.0)}
    whole = Histograms.of(ranges)
    for call in calls:
        whole.add(contract, call)
    # The counter has no range, so no histogram.
    assert list(whole) == ["x", "cached_x"]
    for shards in (calls[::2], calls[1::2]), (calls[:1], calls[1:1], calls[1:]):
        paths = []
        for number, shard in enumerate(shards):
            part = whole.empty()
            for call in shard:
                part.add(contract, call)
            paths.append(tmp_path / f"{number}.json")
            part.write(paths[-1])
        assert Histograms.read(paths) == Histograms.read(paths[::-1]) == whole


def test_histograms_of_other_ranges_are_not_added_up():
    with pytest.raises(ValueError, match=r"\(0, 1\) is not \(0, 2\)"):
        Histogram(0, 1).merge(Histogram(0, 2))
