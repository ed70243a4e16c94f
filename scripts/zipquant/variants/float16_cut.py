"""The fastest choice of float16 layers for its noise, as a minimal cut through the graph.

Each layer is in float16 or in int8. A layer in float16 costs its bytes, a tensor whose maker and
readers are of different types costs a change of type, and a rounding adds its noise unless all that
make and read the tensor are in float16. With a price for noise the sum of these is what a minimal
cut of a network is: layers on the side of the source are in float16. So the best of all choices is
found, whatever islands and bridges it is made of, not the best of single steps. As the price of
noise rises, layers only ever join (the sets are nested), and each choice is the fastest for its
noise (Picard, "Maximal closure of a graph", 1976; Gallo, Grigoriadis and Tarjan, "A fast parametric
maximum flow algorithm", 1989).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from zipquant.variants.board_time import BoardTime, Tie
from zipquant.variants.grids import Grid

SOURCE, SINK = 0, 1

LARGEST = 2**30
"""Capacities are 32-bit integers."""

MOST_CUTS = 64
"""Cuts that are computed at most; 0.05 s each for 500 layers."""


@dataclass(frozen=True)
class Choice:
    """A set of float16 layers.

    Attributes:
        layers: named by their first outputs, those that were float16 before among them.
        ms: the time of their bytes and of all changes of type; what is the same for all choices is
            left out.
        noise: what is left.
    """

    layers: frozenset[str]
    ms: float
    noise: float


class Cuts:
    """Finds the fastest choices.

    Args:
        time: what choices take on a board.
        grids: the roundings.
        noise: what each adds to the encoder output, in any unit.
        fixed: tensors that stay in float16 in any case.
    """

    def __init__(
        self,
        time: BoardTime,
        grids: Sequence[Grid],
        noise: Sequence[float],
        fixed: Collection[str],
    ):
        self._noises = [
            (grid, value) for grid, value in zip(grids, noise, strict=True) if value > 0
        ]
        self._free = set(time.int8_layers(fixed))
        self._places: dict[Any, int] = {}
        self._alone = {name: time.alone(name) for name in sorted(self._free)}
        self._ties = time.ties()
        total = sum(self._alone.values()) + sum(tie.ms for tie in self._ties)
        self._never = 2 * total + 1e-3  # ms: no cut goes there
        self._arcs: dict[tuple[int, int], float] = {}
        self._connect()

    def find(self) -> list[Choice]:
        """Return the choices from the one that takes the least time to the one with no noise."""
        low, high = self._at(0.0), self._at(None)
        found, open_ = {low.layers: low, high.layers: high}, [(low, high)]
        while open_ and len(found) < MOST_CUTS:
            one, other = open_.pop()
            if one.noise <= other.noise or one.layers == other.layers:
                continue
            # The price at which both are as good: one between them is better here, or none is.
            middle = self._at((other.ms - one.ms) / (one.noise - other.noise))
            if middle.layers not in found:
                found[middle.layers] = middle
                open_ += [(one, middle), (middle, other)]
        return sorted(found.values(), key=lambda choice: (-choice.noise, choice.ms))

    def _connect(self) -> None:
        for name, ms in self._alone.items():
            self._join(self._place(name), SINK, ms)
        for tie in self._ties:
            # Two helpers: one where the maker is in float16 and a reader is not, one the other way.
            maker = self._place(tie.maker)
            gives, takes = self._place(("gives", tie.name)), self._place(("takes", tie.name))
            self._join(maker, gives, tie.ms)
            self._join(takes, maker, tie.ms)
            for reader in tie.readers:
                self._join(gives, self._place(reader), self._never)
                self._join(self._place(reader), takes, self._never)
        for number, (grid, _) in enumerate(self._noises):
            for layer in grid.closure & self._free:
                self._join(self._place(("noise", number)), self._place(layer), self._never)

    def _place(self, name: Any) -> int:
        """Where a layer stands in the network; what is float16 in any case is the source itself."""
        if isinstance(name, str) and name not in self._free:
            return SOURCE
        return self._places.setdefault(name, len(self._places) + 2)

    def _join(self, start: int, end: int, ms: float) -> None:
        if start != end:
            self._arcs[start, end] = self._arcs.get((start, end), 0.0) + ms

    def _at(self, price: float | None) -> Choice:
        """Return the best choice at a price of noise, in ms; None for any price."""
        arcs = dict(self._arcs)
        for number, (_, noise) in enumerate(self._noises):
            worth = self._never if price is None else min(price * noise, self._never)
            arcs[SOURCE, self._place(("noise", number))] = worth
        scale = LARGEST / max(arcs.values())
        capacities = np.array([round(ms * scale) for ms in arcs.values()], dtype=np.int32)
        size = len(self._places) + 2
        network = csr_array((capacities, tuple(zip(*arcs, strict=True))), shape=(size, size))
        rest = network - maximum_flow(network, SOURCE, SINK).flow
        rest.data = (rest.data > 0).astype(np.int32)
        rest.eliminate_zeros()
        reached = set(breadth_first_order(rest, SOURCE, return_predecessors=False).tolist())
        layers = {name for name in self._free if self._places.get(name) in reached}
        ms = sum(self._alone[name] for name in layers)
        ms += sum(tie.ms for tie in self._ties if self._differ(tie, layers))
        left = sum(value for grid, value in self._noises if grid.closure & self._free - layers)
        return Choice(frozenset(layers), ms, left)

    def _differ(self, tie: Tie, layers: Collection[str]) -> bool:
        kinds = {name in layers or name not in self._free for name in (tie.maker, *tie.readers)}
        return len(kinds) > 1
