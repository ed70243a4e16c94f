"""The roundings of a quantized graph: tensors that lie on one grid are rounded as one."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from zipquant.toolkit.quantized_graph import Graph, computed
from zipquant.variants.emulation import Emulation

MOVES = {"Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze"}
"""Operators that compute nothing: what they give lies on the same grid as what they take."""


@dataclass(frozen=True)
class Grid:
    """Tensors with the same numbers on the same scale: one is made, the others are moved copies.

    Attributes:
        tensors: their names, what is computed first.
        operator: what computes the first; empty for a constant.
        closure: names of the first output of each node that must be float16 for this rounding to
            go: all that make and all that read these tensors.
    """

    tensors: tuple[str, ...]
    operator: str
    closure: frozenset[str]

    def is_rounded(self, emulation: Emulation, float16: Collection[str]) -> bool:
        """Whether any of the tensors is rounded, given the tensors that stay in float16."""
        return any(emulation.is_rounded(name, float16) for name in self.tensors)


def grids(graph: Graph, emulation: Emulation) -> list[Grid]:
    """Return the quantized tensors of a graph, those that share their grid together."""
    scales = emulation.scales
    leader: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    constants = [name for name in graph.weights if name in scales and name in emulation.readers]
    made = [name for node in graph.nodes for name in computed(node) if name in scales]
    for name in (*constants, *made):
        source = moved_from(graph, name)
        first = leader.get(source, name) if source else name
        if first != name and scales[first] != scales[name]:
            first = name
        leader[name] = first
        members.setdefault(first, []).append(name)
    found = []
    for first, names in members.items():
        nodes = [graph.producers[name] for name in names if name in graph.producers]
        nodes += [node for name in names for node in emulation.readers.get(name, [])]
        # Integers, and what leaves the graph, are in no closure: they have no precision to choose.
        closure = frozenset(n.output[0] for n in nodes if any(o in scales for o in n.output))
        operator = graph.producers[first].op_type if first in graph.producers else ""
        found.append(Grid(tuple(names), operator, closure))
    return found


def moved_from(graph: Graph, name: str) -> str | None:
    """Return the tensor whose numbers a tensor holds in another shape or order; None if it has
    numbers of its own."""
    node = graph.producers.get(name)
    return node.input[0] if node is not None and node.op_type in MOVES else None


def rounded_first(
    graph: Graph, emulation: Emulation, found: Sequence[Grid], float16: Collection[str]
) -> dict[str, int]:
    """Return where each grid's numbers are rounded: what is rounded again behind does not change.

    Args:
        graph: the toolkit's graph.
        emulation: its emulation.
        found: its grids.
        float16: the tensors that stay in float16.

    Returns:
        By tensor, the grid's position.
    """
    places = {}
    for position, grid in enumerate(found):
        on_grid: set[str] = set()
        for name in grid.tensors:
            source = moved_from(graph, name)
            if source in grid.tensors and (
                source in on_grid or emulation.reads_rounded(graph.producers[name], source, float16)
            ):
                on_grid.add(name)
            elif emulation.is_rounded(name, float16):
                places[name] = position
    return places
