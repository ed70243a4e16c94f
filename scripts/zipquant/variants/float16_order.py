"""The order in which layers become float16: the fastest choices, and what is between them.

`float16_cut` finds the choices that no other beats. There may be a long way from one to the next,
so the way is gone in steps as well: each time the rounding that takes most noise away for the time
that it adds, as long as that stays below the time of the next choice.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from zipquant.toolkit.quantized_graph import CONVERT, Graph
from zipquant.variants.board_time import BoardTime
from zipquant.variants.emulation import Emulation
from zipquant.variants.float16_cut import Cuts
from zipquant.variants.grids import Grid

NEGLIGIBLE = 1e-3
"""Roundings that add less than this share of all noise are no steps by themselves."""

NEAR = 0.8
"""The way between two choices is gone in steps where the second has less than this share of the
noise of the first: a decibel."""

FREE = 1e-5
"""What adds less than this share to the time counts as adding that: of what costs nothing, or saves
time, the most noise comes first."""


@dataclass(frozen=True)
class Step:
    """More layers that become float16.

    Attributes:
        gone: the roundings that are taken away, by their positions among the grids, those with the
            most noise first; none for the start.
        tensors: those that become float16.
        remaining: the noise that is left then, if noises simply add up.
        int8_macs_share: share of the multiply-accumulates that are left to int8.
        time_added: what a call takes more than at the start, as a share of that.
    """

    gone: tuple[int, ...]
    tensors: frozenset[str]
    remaining: float
    int8_macs_share: float
    time_added: float


@dataclass(frozen=True)
class _Offer:
    """A rounding that could be taken away.

    Attributes:
        layers: those that become float16.
        time: what that adds, as a share of the time at the start.
        worth: the noise that goes, by the time.
    """

    layers: tuple[str, ...]
    time: float
    worth: float


class Order:
    """Puts choices of float16 layers in order, each with all layers of those before.

    Args:
        graph: the toolkit's graph.
        emulation: its emulation.
        grids: its roundings.
        noise: what each adds to the encoder output, in any unit.
        time: what a choice of float16 tensors takes on a board.
        fixed: tensors that stay in float16 in any case.
    """

    def __init__(
        self,
        graph: Graph,
        emulation: Emulation,
        grids: Sequence[Grid],
        noise: Sequence[float],
        time: BoardTime,
        fixed: Collection[str],
    ):
        self._emulation, self._grids, self._noise, self._time = emulation, grids, noise, time
        self._fixed = frozenset(fixed)
        self._inner = [node.output[0] for node in graph.nodes if node.op_type != CONVERT]
        macs = {node.output[0]: graph.macs(node) for node in graph.nodes}
        total = max(sum(macs.values()), 1)
        self._share = {name: count / total for name, count in macs.items()}
        self._beside: dict[str, set[int]] = {name: set() for name in macs}
        """By layer, the roundings that it makes or reads."""
        for i, grid in enumerate(grids):
            for layer in grid.closure:
                self._beside[layer].add(i)
        self._begin()

    def _begin(self) -> None:
        self._float16 = set(self._fixed)
        self._rounded = {i for i in range(len(self._grids)) if self._is_rounded(i)}
        self._macs = 1 - sum(self._share.get(name, 0.0) for name in self._fixed)
        self._plain_ms, self._added = self._time.ms(self._float16), 0.0
        self._limit = NEGLIGIBLE * self._remaining()

    def start(self) -> Step:
        """Return what there is before the first step: what stays in float16 in any case."""
        self._begin()
        return Step((), self._fixed, self._remaining(), self._macs, 0.0)

    def find(self, most_time_added: float) -> list[Step]:
        """Return the steps.

        Args:
            most_time_added: what would take longer than the start by more than this share is passed
                over.
        """
        self._begin()
        steps: list[Step] = []
        for choice in Cuts(self._time, self._grids, self._noise, self._fixed).find():
            layers = {name for name in choice.layers if self._is_int8(name)}
            end = self._added + self._cost(layers)
            if end > most_time_added:
                steps += self._walk(most_time_added, None)
                break
            if choice.noise < NEAR * self._remaining():
                steps += self._walk(min(end, most_time_added), layers)
            if layers := {name for name in layers if self._is_int8(name)}:
                steps.append(self._take(layers))
        else:
            # What harms nothing as long as something before it is rounded.
            rest = {name for name in self._inner if self._is_int8(name)}
            if rest and self._added + self._cost(rest) <= most_time_added:
                steps.append(self._take(rest))
        return steps

    def _walk(self, end: float, within: set[str] | None) -> Iterator[Step]:
        """Take roundings away one by one, as long as that takes less time than a share more.

        Args:
            end: the share.
            within: layers that may become float16; None for all.
        """
        open_ = {i for i in self._rounded if self._noise[i] > self._limit}
        if within is not None:
            open_ = {i for i in open_ if within.issuperset(self._layers(i))}
        offers = {i: self._offer(i) for i in open_}
        while True:
            payable = [i for i in offers if self._added + offers[i].time < end]
            if not payable:
                return
            best = max(payable, key=lambda i: (offers[i].worth, -i))
            layers = set(offers[best].layers)
            yield self._take(layers | self._bridges(layers, within))
            for i in open_ & (self._near(layers) | {best}):
                offers.pop(i, None)
                if i in self._rounded:
                    offers[i] = self._offer(i)

    def _take(self, layers: Collection[str]) -> Step:
        """Make layers float16."""
        self._added += self._cost(layers)
        self._macs = max(self._macs - sum(self._share[name] for name in layers), 0.0)
        new = self._time.outputs(layers) - self._float16
        self._float16 |= new
        gone = {i for i in self._around(layers) & self._rounded if not self._is_rounded(i)}
        self._rounded -= gone
        ranked = tuple(sorted(gone, key=lambda i: (-self._noise[i], i)))
        return Step(ranked, frozenset(new), self._remaining(), self._macs, self._added)

    def _offer(self, grid: int) -> _Offer:
        """Return what taking a rounding away brings, and what it costs."""
        layers, time = self._layers(grid), self._cost(self._layers(grid))
        with self._time.with_layers(layers, self._float16):
            gone = {i for i in self._around(layers) & self._rounded if not self._is_rounded(i)}
        noise = sum(self._noise[i] for i in gone)
        return _Offer(layers, time, noise / max(time, FREE))

    def _bridges(self, layers: Collection[str], within: set[str] | None) -> set[str]:
        """Return int8 layers beside some that take less time in float16 together with these.

        Such as one between two float16 layers, which saves two changes of type.
        """
        found: set[str] = set()
        todo = sorted(layers)
        while todo:
            with self._time.with_layers({*layers, *found}, self._float16):
                for name in sorted(self._time.beside((todo.pop(),), self._float16)):
                    allowed = within is None or name in within
                    if allowed and name not in found and self._cost((name,)) < 0:
                        found.add(name)
                        todo.append(name)
        return found

    def _remaining(self) -> float:
        return sum(self._noise[i] for i in self._rounded)

    def _cost(self, layers: Collection[str]) -> float:
        return self._time.added(layers, self._float16) / self._plain_ms

    def _is_rounded(self, grid: int) -> bool:
        return self._grids[grid].is_rounded(self._emulation, self._float16)

    def _is_int8(self, layer: str) -> bool:
        return not self._time.outputs((layer,)) <= self._float16

    def _layers(self, grid: int) -> tuple[str, ...]:
        return tuple(sorted(name for name in self._grids[grid].closure if self._is_int8(name)))

    def _around(self, layers: Iterable[str]) -> set[int]:
        """Return the roundings that some layers make or read."""
        return set().union(*(self._beside[layer] for layer in layers))

    def _near(self, layers: Collection[str]) -> set[int]:
        """Return the roundings whose cost may change with some layers."""
        return self._around({*layers, *self._time.beside(layers, ())})
