"""Variants built with each version of the toolkit, and what is refused of a version's graph."""

import numpy as np
import pytest

from helpers.builds import build, calibrate, errors
from helpers.places import DEMO_MODEL
from zipquant.errors import ToolkitError
from zipquant.model import contract
from zipquant.toolkit import rknn_file, versions
from zipquant.variants.build import Settings, Source, _Float16Layers

MEANS = [f"new_cached_avg_{stack}" for stack in range(5)]
OTHERS = [version for version in versions.VERSIONS if version != versions.DEFAULT]


def test_mean_that_a_version_has_hidden_is_refused(tmp_path):
    """The graph that the toolkit has left does not show the model's means."""
    shape, source = contract.inspect(DEMO_MODEL), Source(DEMO_MODEL, tmp_path / "model.json")
    layers = _Float16Layers(shape, source, Settings("w8a8"), "rk3588")
    layers.means = {name: [] for name in MEANS[1:]}
    with pytest.raises(ToolkitError, match=r"^new_cached_avg_0: running means that cannot be"):
        layers._check_means()
    layers.means = {name: [] for name in MEANS}
    layers._check_means()
    kept_in_int8 = _Float16Layers(shape, source, Settings("w8a8", running_mean="int8"), "rk3588")
    kept_in_int8._check_means()


@pytest.mark.slow
@pytest.mark.parametrize("version", OTHERS)
def test_demo_is_built_and_simulated_with_another_version(tmp_path, version):
    """Its running means stay in float16; in int8 they have 6 to 13 dB (the default version)."""
    shape = calibrate(tmp_path, DEMO_MODEL, rows=12)
    record = build(tmp_path, DEMO_MODEL, toolkit=version)
    assert record["rknn_toolkit2"] == version
    encoder = tmp_path / "variant/encoder.rknn"
    assert rknn_file.built_for(encoder) == ("rk3588", version)
    assert record["running_means"] == MEANS and record["running_mean"] == "float16"
    assert record["refusals"] == []
    found = errors(tmp_path, DEMO_MODEL, shape, record)["sqnr_db"]
    assert found["encoder_out"] > 15
    assert np.all(found[MEANS] > 20), found[MEANS]
