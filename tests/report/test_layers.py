"""The report on what the board runs: its counts, its words, and where prices are shown."""

import pytest

from zipquant.report import layers
from zipquant.toolkit import layer_costs, layer_table
from zipquant.toolkit.layer_table import Layer, Table, module_of

OWN = {"npu_layer_us": 10, "cpu_layer_us": 50, "conversion_us": 10, "border_us": 0, "gb_per_s": 8}


def layer(number, kind="Conv", target="NPU", name="", data_type="INT8"):
    shape = "(1,8,1,8)"
    where = (number, kind, data_type, target, shape, shape)
    return Layer(*where, 100, 100, 100, None, name, module_of(name))


@pytest.fixture
def tables(tmp_path):
    """Write a table of an int8 variant, one of a float16 variant, and one without cores."""
    attention = "Conv:/encoder/layers.0/attention/MatMul"
    common = [layer(2, "Add", "CPU", data_type="INT64"), layer(3, name=attention)]
    int8 = [*common, layer(4, "exDataConvert"), layer(5, "Transpose"), layer(6, "Pow", "CPU")]
    float16 = [*common, layer(4, "Transpose", data_type="FLOAT16")]
    unknown = [layer(2, "Conv", "", data_type=""), layer(3, "Reshape", "", data_type="")]
    written = {
        "int8": Table(tuple(int8), 4, layer_table.COMPILER, 2_000_000, 300_000),
        "fp16": Table(tuple(float16), 4, layer_table.COMPILER, 4_000_000, 600_000),
        "old": Table(tuple(unknown), 4, layer_table.RKNN_FILE),
    }
    for name, table in written.items():
        table.write(tmp_path / f"{name}.tsv")
    return {name: tmp_path / f"{name}.tsv" for name in written}


def test_networks_are_counted_and_priced_with_the_label(tables):
    found = layers.collect(tables, "rk3588")
    assert found["label"] == layer_costs.ESTIMATED
    int8 = found["networks"]["int8"]
    assert int8["layers"] == 5 and int8["targets"] == {"NPU": 3, "CPU": 2}
    low, high = int8["price"]
    assert 0 < low < high
    assert {row["module"]: row["layers"] for row in int8["modules"]} == {
        "": 4,
        "attention": 1,
    }
    parts = [row["price"] for row in int8["modules"]]
    assert sum(part[0] for part in parts) <= low and all(part[0] < part[1] for part in parts)
    assert found["networks"]["old"]["price"] is None


def test_other_platforms_have_counts_and_no_times_but_with_own_costs(tables):
    found = layers.collect(tables, "rk3576")
    assert found["label"] is None
    assert all(entry["price"] is None for entry in found["networks"].values())
    own = layers.collect(tables, "rk3576", OWN)
    assert own["label"] == layer_costs.OWN and own["networks"]["int8"]["price"]


def test_sentence_says_what_is_known_and_no_more(tables):
    networks = layers.collect(tables, "rk3588")["networks"]
    assert layers.sentence(networks["int8"], "int8") == (
        "Of the 5 layers of int8, 2 compute and 2 only move data or change their type; 2 run on "
        "the CPU, with 2 changes between it and the NPU."
    )
    said = layers.sentence(networks["old"], "old")
    assert "2 layers" in said and "CPU" not in said and "does not say" in said


def test_measured_time_goes_before_the_estimate(tables):
    networks = layers.collect(tables, "rk3588")["networks"]
    board, simulator = ({"target": t, "median_ms": 12.34} for t in ("rk3588", "simulator"))
    assert layers.time_of(networks["int8"], board) == "12.3 ms (measured)"
    for time in (simulator, None):
        assert layers.time_of(networks["int8"], time) == str(
            layer_costs.Range(*networks["int8"]["price"])
        )
    assert layers.time_of(networks["old"], None) == ""


def test_types_that_variants_differ_in_are_listed(tables):
    networks = layers.collect(tables, "rk3588")["networks"]
    two = {name: networks[name] for name in ("int8", "fp16")}
    assert layers.differences(two) == {"Pow": [1, 0], "exDataConvert": [1, 0]}
    assert layers.differences({"int8": networks["int8"]}) == {}
