"""The price of layers: how long a board is expected to take for them, as a range.

No board runs here. The price is made of costs that were fitted on figures which others have
published of one kind of board (`layer_costs.json`, by `benchmarks/board_costs.py`). Each fit
explains the same figures in another way, so together they say how much is not known: the price is
the range of what they give. It compares layers and variants; a measurement replaces it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from zipquant.toolkit.layer_table import CPU, NPU, Layer, Table

COSTS = Path(__file__).with_suffix(".json")

ESTIMATED = "estimated from public RK3588 figures, not measured"
OWN = "estimated with your evaluation.board_costs, not measured"
"""What is said wherever a price is shown, by where its costs are from."""


class Range(NamedTuple):
    """A time in ms that is known to lie between two ends."""

    low: float
    high: float

    def __str__(self) -> str:
        digits = 0 if self.low >= 20 else 1 if self.high >= 2 else 2 if self.high >= 0.1 else 3
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        return f"{low} ms" if low == high else f"{low} to {high} ms"


@dataclass(frozen=True)
class Fit:
    """Costs that explain what was measured.

    Attributes:
        npu_layer_us: dispatch of a layer on the NPU.
        cpu_layer_us: dispatch of a layer on the CPU, with the change of the core.
        conversion_us: dispatch of a change of the data type, an NPU layer as well.
        border_us: handling of one input or output.
        gb_per_s: bandwidth at which weights and activations pass, in 10^9 bytes.
    """

    npu_layer_us: float
    cpu_layer_us: float
    conversion_us: float
    border_us: float
    gb_per_s: float


@dataclass(frozen=True)
class Costs:
    """The costs of a board.

    Attributes:
        fits: at least one.
        spread: how far runs of the same model lie apart, as a share of the time to each side.
        label: what is said of a price that is made of them.
    """

    fits: tuple[Fit, ...]
    spread: float
    label: str


def costs(platform: str, own: Mapping[str, float] | None = None) -> Costs | None:
    """Return the costs of a platform; None where there are none.

    Args:
        platform: the NPU, such as `rk3588`.
        own: costs of the user, with the fields of `Fit`; they go before what is known.
    """
    spread = known()["spread"]["value"]
    if own:
        return Costs((Fit(**own),), spread, OWN)
    entry = known()["platforms"].get(platform)
    if entry is None:
        return None
    names = [field.name for field in fields(Fit)]
    fits = tuple(Fit(**{name: fit[name] for name in names}) for fit in entry["fits"])
    return Costs(fits, spread, ESTIMATED)


def known() -> dict[str, Any]:
    """Return `layer_costs.json`: the costs by platform, with their sources."""
    return json.loads(COSTS.read_text(encoding="utf-8"))


def price(table: Table, costs: Costs) -> Range | None:
    """Return what one call of a network takes; None where the table does not know enough.

    Args:
        table: the network's layers, as the compiler has printed them.
        costs: of the board.
    """
    if not table.layers or any(layer.target not in (NPU, CPU) for layer in table.layers):
        return None
    borders = table.borders
    return _range(
        (
            sum(_us(layer, fit) for layer in table.layers) + borders * fit.border_us
            for fit in costs.fits
        ),
        costs,
    )


def layer_price(layer: Layer, costs: Costs) -> Range:
    """Return what one layer adds to a call of a network."""
    return _range((_us(layer, fit) for fit in costs.fits), costs)


def group_price(layers: Iterable[Layer], costs: Costs) -> Range:
    """Return what several layers add to a call of a network."""
    layers = list(layers)
    return _range((sum(_us(layer, fit) for layer in layers) for fit in costs.fits), costs)


def conversion_price(elements: int, costs: Costs) -> Range:
    """Return what one more change between int8 and float16 adds to a call (an exDataConvert).

    Args:
        elements: how many numbers the tensor has; it is read in one type and written in the other.
        costs: of the board.
    """
    return _range((fit.conversion_us + _bytes_us(3 * elements, fit) for fit in costs.fits), costs)


def float16_price(elements: int, costs: Costs, conversions: int = 2) -> Range:
    """Return what it adds to a call to keep one tensor in float16 that was int8.

    Args:
        elements: how many numbers the tensor has; each is then written and read with 2 bytes.
        costs: of the board.
        conversions: how many changes of type it takes; none beside tensors that are float16
            already, 2 for one by itself.
    """
    return _range(
        (
            conversions * (fit.conversion_us + _bytes_us(3 * elements, fit))
            + _bytes_us(2 * elements, fit)
            for fit in costs.fits
        ),
        costs,
    )


def _us(layer: Layer, fit: Fit) -> float:
    if layer.target == CPU:
        dispatch = fit.cpu_layer_us
    elif layer.type == "exDataConvert":
        dispatch = fit.conversion_us
    else:
        dispatch = fit.npu_layer_us
    moved = (layer.weight_bytes or 0) + (layer.read_bytes or 0) + (layer.written_bytes or 0)
    return dispatch + _bytes_us(moved, fit)


def _bytes_us(moved: float, fit: Fit) -> float:
    return moved / (1e3 * fit.gb_per_s)


def _range(us: Iterable[float], costs: Costs) -> Range:
    found = [entry / 1e3 for entry in us]
    return Range(min(found) * (1 - costs.spread), max(found) * (1 + costs.spread))
