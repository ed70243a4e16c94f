"""The price of layers: how long a board is expected to take for them, as a range.

No board runs here. The price is made of costs that were fitted on figures which others have
published of one kind of board (`layer_costs.json`, by `benchmarks/board_costs.py`). Each fit
explains the same figures in another way, so together they say how much is not known: the price is
the range of what they give. It compares layers and variants; a measurement replaces it.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from zipquant.toolkit.layer_table import CPU, NPU, Layer, Table

COSTS = Path(__file__).with_suffix(".json")

ESTIMATED = "estimated from public RK3588 figures, not measured"
OWN = "estimated with your evaluation.board_costs, not measured"
"""What is said wherever a price is shown, by where its costs are from."""

EQUAL_TIME = 0.02
"""Networks whose times for a call differ by no more than this part count as equally fast."""


class Range(NamedTuple):
    """A time in ms that is known to lie between two ends."""

    low: float
    high: float

    def __str__(self) -> str:
        digits = 0 if self.low >= 20 else 1 if self.high >= 2 else 2 if self.high >= 0.1 else 3
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        return f"{low} ms" if low == high else f"{low} to {high} ms"


class Load(NamedTuple):
    """What a call of a network has that costs time.

    Attributes:
        npu_layers: layers on the NPU without changes of the data type.
        cpu_layers: layers on the CPU.
        conversions: changes of the data type.
        borders: inputs and outputs.
        moved: bytes of weights and activations that are read or written.
    """

    npu_layers: float = 0
    cpu_layers: float = 0
    conversions: float = 0
    borders: float = 0
    moved: float = 0

    def plus(self, *others: "Load") -> "Load":
        """Return the sum of this and others."""
        return Load(*map(sum, zip(self, *others, strict=True)))


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

    def ms(self, load: Load) -> float:
        """Return what a call takes."""
        dispatch = (self.npu_layer_us, self.cpu_layer_us, self.conversion_us, self.border_us)
        each = (*dispatch, 1 / (1e3 * self.gb_per_s))
        return sum(us * count for us, count in zip(each, load, strict=True)) / 1e3


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
    whole = Load(borders=table.borders).plus(*map(load, table.layers))
    return time(whole, costs)


def layer_price(layer: Layer, costs: Costs) -> Range:
    """Return what one layer adds to a call of a network."""
    return time(load(layer), costs)


def group_price(layers: Iterable[Layer], costs: Costs) -> Range:
    """Return what several layers add to a call of a network."""
    return time(Load().plus(*map(load, layers)), costs)


def load(layer: Layer) -> Load:
    """Return what one layer has that costs time."""
    moved = (layer.weight_bytes or 0) + (layer.read_bytes or 0) + (layer.written_bytes or 0)
    if layer.target == CPU:
        return Load(cpu_layers=1, moved=moved)
    if layer.type == "exDataConvert":
        return Load(conversions=1, moved=moved)
    return Load(npu_layers=1, moved=moved)


def laid_out(shape: Sequence[int], width: int) -> int:
    """Return how many bytes of a tensor a layer reads, padding included.

    The NPU keeps the channels of a pixel in groups of 16 bytes, and pixels in fours, as the tables
    show that the compiler prints.

    Args:
        shape: (batch, channels, height, width); another is taken without padding.
        width: bytes of a number.
    """
    if len(shape) != 4:
        return width * math.prod(shape)
    batch, channels, *pixels = shape
    return batch * (-(-channels * width // 16) * 16) * (-(-math.prod(pixels) // 4) * 4)


def time(load: Load, costs: Costs) -> Range:
    """Return what a call takes, from the fit that gives least to the one that gives most."""
    found = [fit.ms(load) for fit in costs.fits]
    return Range(min(found) * (1 - costs.spread), max(found) * (1 + costs.spread))


def mean_ms(load: Load, costs: Costs) -> float:
    """Return what a call takes by the mean of the fits: one number, to compare choices by."""
    return sum(fit.ms(load) for fit in costs.fits) / len(costs.fits)
