"""The report's section of what the board runs: layers by kind, module and core, and their price."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zipquant.evaluation.measures import on_board
from zipquant.phrases import Phrase, say, time_between
from zipquant.toolkit import layer_costs
from zipquant.toolkit.layer_costs import Costs, Range
from zipquant.toolkit.layer_table import CPU, KINDS, Layer, Table, by_module

SHOWN_MODULES = 12
"""Modules with the most layers that are shown at once; the rest is folded."""

LABELS = {layer_costs.ESTIMATED: "timed.estimated", layer_costs.OWN: "timed.own"}
"""The phrases for the labels of prices."""


def collect(
    tables: Mapping[str, str | Path],
    platform: str,
    own_costs: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return what the section shows.

    Args:
        tables: the table of layers of each network that was built, by its name.
        platform: the NPU, such as `rk3588`.
        own_costs: see `layer_costs.costs`.

    Returns:
        `label`, what is to be said of every price, None where there are no prices; and
        `networks`, by name: `layer_table.Table.summary`, with the `price` of a call, in ms, and
        `modules`, the same counts for each kind of module.
    """
    costs = layer_costs.costs(platform, own_costs)
    networks = {name: _network(Table.read(path), costs) for name, path in tables.items()}
    priced = costs and any(entry["price"] for entry in networks.values())
    return {"label": costs.label if costs and priced else None, "networks": networks}


def values(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the section's template reads beside the report.

    Args:
        report: see `figures.write`; its `layers` are what `collect` returns.
    """
    networks, variants = report["layers"]["networks"], report["variants"]
    built = {name: networks[name] for name, entry in variants.items() if not entry["failure"]}
    times = (variants[name].get("time") for name in built)
    return {
        "shown_modules": SHOWN_MODULES,
        "layer_differences": differences(built),
        "measured": any(time and on_board(time["target"]) for time in times)
        or any("measured" in network for network in networks.values()),
    }


def sentence(network: Mapping[str, Any], name: str) -> Phrase:
    """Return what a network's counts say, in a sentence."""
    if not network["layers"]:
        return say("layers.none", name=name)
    kinds = network["kinds"]
    counts = {
        "layers": network["layers"],
        "compute": kinds["arithmetic"],
        "moved": kinds["data movement"] + kinds["conversion"],
    }
    if not network["targets"]:
        return say("layers.no-cores", name=name, **counts)
    cores = {"cpu": network["targets"][CPU], "switches": network["switches"]}
    return say("layers.cores", name=name, **counts, **cores)


def time_of(network: Mapping[str, Any], measured: Mapping[str, Any] | None) -> str:
    """Return how long a call takes, in words; a board's measurement goes before an estimate."""
    if own := network.get("measured"):
        return say("layers.measured", ms=own["median_ms"])
    if measured and on_board(measured["target"]):
        return say("layers.measured", ms=measured["median_ms"])
    return time_between(Range(*network["price"])) if network["price"] else ""


def differences(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return the types of layers of which networks have different numbers, the largest first.

    Args:
        networks: variants of one network, as `collect` returns them.

    Returns:
        By type, how many layers of it each network has.
    """
    known = [entry["types"] for entry in networks.values()]
    types = {kind for counts in known for kind in counts}
    counts = {kind: [entry.get(kind, 0) for entry in known] for kind in types}
    differing = {kind: found for kind, found in counts.items() if len(set(found)) > 1}
    return dict(sorted(differing.items(), key=lambda item: (min(item[1]) - max(item[1]), item[0])))


def _network(table: Table, costs: Costs | None) -> dict[str, Any]:
    price = layer_costs.price(table, costs) if costs else None
    return {
        **table.summary(),
        "price": price and list(price),
        "modules": [
            _module(name, layers, costs if price else None)
            for name, layers in by_module(table.layers).items()
        ],
    }


def _module(name: str, layers: Sequence[Layer], costs: Costs | None) -> dict[str, Any]:
    kinds = Counter(layer.kind for layer in layers)
    return {
        "module": name,
        "layers": len(layers),
        "kinds": {kind: kinds[kind] for kind in KINDS},
        "cpu": sum(layer.target == CPU for layer in layers),
        "price": list(layer_costs.group_price(layers, costs)) if costs else None,
    }


FILTERS = {
    "layers_sentence": sentence,
    "call_time": time_of,
    "range_ms": lambda price: time_between(Range(*price)),
    "source": lambda label: say(LABELS[label]),
}
"""What the section's template says figures with."""
