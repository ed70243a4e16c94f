"""The order in which layers become float16: most noise taken away for its price comes first."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from zipquant.toolkit.quantized_graph import Graph
from zipquant.variants.emulation import Emulation
from zipquant.variants.grids import Grid

NEGLIGIBLE = 1e-3
"""Roundings that add less than this share of all noise are left as they are."""

Price = Callable[[Collection[str], Collection[str]], float]
"""Takes the layers that become float16, named by their first outputs, and the tensors that are so
already; gives what that costs, in a unit of its own, more than 0."""


@dataclass(frozen=True)
class Step:
    """One more rounding that is taken away.

    Attributes:
        grid: which, by its position among the grids; None for the start.
        tensors: those that become float16 with it.
        remaining: the noise that is left then, if noises simply add up.
        int8_macs_share: share of the multiply-accumulates that are left to int8.
    """

    grid: int | None
    tensors: frozenset[str]
    remaining: float
    int8_macs_share: float


class Work:
    """Prices layers by their work: multiply-accumulates, and one for each number that they give."""

    def __init__(self, graph: Graph):
        self._work = {
            node.output[0]: graph.macs(node)
            + sum(math.prod(graph.shapes.get(name, ())) for name in node.output)
            for node in graph.nodes
        }

    def __call__(self, layers: Collection[str], float16: Collection[str]) -> float:
        """Return the work of some layers; see `Price`."""
        return max(sum(self._work[name] for name in layers), 1)


class Order:
    """Puts roundings in order.

    Args:
        graph: the toolkit's graph.
        emulation: its emulation.
        grids: its roundings.
        noise: what each adds to the encoder output, in any unit.
        price: what layers in float16 cost.
    """

    def __init__(
        self,
        graph: Graph,
        emulation: Emulation,
        grids: Sequence[Grid],
        noise: Sequence[float],
        price: Price,
    ):
        self._emulation, self._grids, self._noise = emulation, grids, noise
        self._price = price
        self._outputs = {node.output[0]: tuple(node.output) for node in graph.nodes}
        macs = {node.output[0]: graph.macs(node) for node in graph.nodes}
        total = max(sum(macs.values()), 1)
        self._share = {name: count / total for name, count in macs.items()}
        self._neighbours = self._find_neighbours()

    def find(self, fixed: Collection[str], least_int8_macs: float) -> list[Step]:
        """Return the steps: each time the rounding with most noise for its price is taken.

        Args:
            fixed: tensors that stay in float16 in any case.
            least_int8_macs: what would take the share in int8 below this is passed over.
        """
        start = self.start(fixed)
        float16, share = set(fixed), start.int8_macs_share
        rounded = {i for i in range(len(self._grids)) if self._is_rounded(i, float16)}
        limit = NEGLIGIBLE * start.remaining
        worth = {i: self._worth(i, float16) for i in rounded if self._noise[i] > limit}
        steps = []
        while worth:
            best = max(worth, key=lambda i: (worth[i], -i))
            del worth[best]
            layers = self._new_layers(best, float16)
            lost = sum(self._share[name] for name in layers)
            if share - lost < least_int8_macs:
                continue
            added = {name for layer in layers for name in self._outputs[layer]}
            added = {name for name in added if name in self._emulation.scales} - float16
            float16 |= added
            share -= lost
            # What shares a layer with these costs less now, or is gone.
            for i in set().union(*(self._neighbours[layer] for layer in layers), {best}):
                if i in rounded and not self._is_rounded(i, float16):
                    rounded.discard(i)
                    worth.pop(i, None)
                elif i in worth:
                    worth[i] = self._worth(i, float16)
            remaining = sum(self._noise[i] for i in rounded)
            steps.append(Step(best, frozenset(added), remaining, share))
        return steps

    def start(self, fixed: Collection[str]) -> Step:
        """Return what there is before the first step: what stays in float16 in any case."""
        rounded = (i for i in range(len(self._grids)) if self._is_rounded(i, fixed))
        share = 1 - sum(self._share.get(name, 0.0) for name in set(fixed))
        return Step(None, frozenset(fixed), sum(self._noise[i] for i in rounded), share)

    def _is_rounded(self, grid: int, float16: Collection[str]) -> bool:
        return self._grids[grid].is_rounded(self._emulation, float16)

    def _new_layers(self, grid: int, float16: Collection[str]) -> list[str]:
        closure = self._grids[grid].closure
        return sorted(name for name in closure if name not in float16)

    def _worth(self, grid: int, float16: Collection[str]) -> float:
        return self._noise[grid] / self._price(self._new_layers(grid, float16), float16)

    def _find_neighbours(self) -> dict[str, set[int]]:
        """Return, by layer, the roundings that it makes or reads."""
        found: dict[str, set[int]] = {name: set() for name in self._outputs}
        for i, grid in enumerate(self._grids):
            for layer in grid.closure:
                found[layer].add(i)
        return found
