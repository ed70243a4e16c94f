"""The price of layers: of figures that others measured, as a range, and never for other boards."""

import importlib
from dataclasses import replace

import pytest

from helpers.places import ROOT
from zipquant.toolkit import layer_costs, layer_table
from zipquant.toolkit.layer_table import Layer, Table

COSTS = layer_costs.costs("rk3588")


def layers(count, kind="Conv", target="NPU", **bytes_of):
    sizes = {"weight_bytes": 1000, "read_bytes": 1000, "written_bytes": 1000} | bytes_of
    one = Layer(0, kind, "INT8", target, "", "", cycles=None, name="", module="", **sizes)
    return [replace(one, id=number) for number in range(count)]


def table(*groups, borders=4):
    return Table(tuple(sum(groups, [])), borders, layer_table.COMPILER)


def price(*groups, costs=COSTS, **known):
    return layer_costs.price(table(*groups, **known), costs)


def test_costs_give_again_what_they_were_fitted_on():
    entry = layer_costs.known()["platforms"]["rk3588"]
    measured = {name: found["value"] for name, found in entry["measured_ms"].items()}
    tables = {
        name: table(
            layers(counts["npu"], weight_bytes=0, read_bytes=0, written_bytes=0),
            layers(counts["cpu"], target="CPU", weight_bytes=0, read_bytes=0, written_bytes=0),
            layers(0),
            borders=counts["borders"],
        )
        for name, counts in entry["fitted_on"].items()
    }
    for name, found in tables.items():
        moved = round(1e6 * entry["fitted_on"][name]["megabytes"])
        first = replace(found.layers[0], weight_bytes=moved)
        tables[name] = replace(found, layers=(first, *found.layers[1:]))
    low, high = layer_costs.price(tables["int8"], COSTS)
    assert low == pytest.approx(measured["borders_removed"] * (1 - COSTS.spread), rel=0.01)
    assert high == pytest.approx(measured["borders_kept"] * (1 + COSTS.spread), rel=0.01)
    low, high = layer_costs.price(tables["float16"], COSTS)
    assert low < measured["borders_removed_float16"]
    kept = measured["borders_kept"] + measured["float16_more"]
    assert high == pytest.approx(kept * (1 + COSTS.spread), rel=0.01)


def test_costs_are_fitted_by_the_script_on_the_counts_that_stand_with_them(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    board_costs = importlib.import_module("board_costs")
    entry = layer_costs.known()["platforms"]["rk3588"]
    assert board_costs.fits(entry["fitted_on"]) == entry["fits"]
    values = {name: found["value"] for name, found in entry["measured_ms"].items()}
    assert values | {"spread": COSTS.spread} == board_costs.MEASURED
    for fit in COSTS.fits:
        assert 3 < fit.npu_layer_us <= fit.cpu_layer_us < 200 and 4 < fit.gb_per_s < 20


def test_price_is_a_range_that_grows_with_all_that_costs():
    base = [layers(100), layers(10, target="CPU")]
    dearer = [
        [layers(101), base[1]],
        [base[0], layers(11, target="CPU")],
        [layers(100, weight_bytes=9000), base[1]],
        [layers(100, read_bytes=9000), base[1]],
        [*base, layers(1, "exDataConvert")],
    ]
    for fit in COSTS.fits:
        alone = replace(COSTS, fits=(fit,))
        low, high = price(*base, costs=alone)
        assert 0 < low < high
        for groups in dearer:
            found = price(*groups, costs=alone)
            assert found.low > low and found.high > high
    assert price(*base, borders=72).high > price(*base).high
    assert price(layers(100, target="CPU")).high > 2 * price(layers(100)).high


def test_parts_of_a_price_add_up():
    found = table(layers(30), layers(3, target="CPU"), borders=0)
    one = layer_costs.Costs(COSTS.fits[:1], 0, "")
    whole = layer_costs.price(found, one)
    assert whole == pytest.approx(layer_costs.group_price(found.layers, one))
    parts = [layer_costs.layer_price(layer, one).high for layer in found.layers]
    assert whole.high == pytest.approx(sum(parts))


def test_loads_add_up_and_compare_by_the_mean_of_the_fits():
    one, two = layer_costs.Load(npu_layers=30, moved=5e6), layer_costs.Load(conversions=4)
    both = one.plus(two, two)
    assert both == layer_costs.Load(npu_layers=30, conversions=8, moved=5e6)
    low, high = layer_costs.time(both, COSTS)
    assert low < layer_costs.mean_ms(both, COSTS) < high
    parts = [layer_costs.mean_ms(load, COSTS) for load in (one, two, two)]
    assert layer_costs.mean_ms(both, COSTS) == pytest.approx(sum(parts))
    found = table(layers(30), layers(4, "exDataConvert"), layers(2, target="CPU"), borders=7)
    load = layer_costs.Load(borders=7).plus(*map(layer_costs.load, found.layers))
    assert load[:4] == (30, 2, 4, 7)
    assert layer_costs.price(found, COSTS) == layer_costs.time(load, COSTS)


def test_other_boards_and_tables_without_cores_have_no_price():
    assert layer_costs.costs("rk3576") is None
    unknown = [replace(layer, target="") for layer in layers(3)]
    assert price(layers(3), unknown) is None and price() is None


def test_own_costs_go_before_the_known_ones_for_every_platform():
    own = {"npu_layer_us": 10, "cpu_layer_us": 10, "conversion_us": 10, "border_us": 0}
    costs = layer_costs.costs("rk3576", own | {"gb_per_s": 1e9})
    assert costs.label == layer_costs.OWN != layer_costs.ESTIMATED
    low, high = price(layers(100), costs=costs)
    assert low < 1.0 < high and low + high == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((31.2, 42.0), "31 to 42 ms"),
        ((3.27, 4), "3.3 to 4.0 ms"),
        ((0.012, 0.07), "0.012 to 0.070 ms"),
    ],
)
def test_range_is_written_with_few_digits(ends, words):
    assert str(layer_costs.Range(*ends)) == words
