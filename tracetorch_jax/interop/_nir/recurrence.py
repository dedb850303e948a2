"""Which cycles of a NIR graph are recurrence between neurons."""

from __future__ import annotations

import dataclasses
import itertools

from tracetorch_jax.interop._nir.graph import Graph

_MIXING = ("Affine", "Conv1d", "Conv2d", "Linear")
_STATELESS = (*_MIXING, "AvgPool2d", "Flatten", "Scale", "SumPool2d")


@dataclasses.dataclass(frozen=True)
class WayBack:
    """How an output returns to where a cell begins.

    Attributes:
        head: the node whose output returns.
        names: nodes without a state on the way, in order.
        entry: the node that takes what they give.
    """

    head: str
    names: tuple[str, ...]
    entry: str

    def removed_from(self, graph: Graph) -> Graph:
        """The graph without this way."""
        way = (self.head, *self.names, self.entry)
        gone = set(itertools.pairwise(way))
        return dataclasses.replace(
            graph,
            nodes={name: node for name, node in graph.nodes.items() if name not in self.names},
            edges=[edge for edge in graph.edges if edge not in gone],
        )


def way_back(graph: Graph, cycle: frozenset[str], entry: str) -> WayBack | None:
    """The way on which neurons of a cycle get the outputs of others, or None if there is none.

    Args:
        graph: of which `cycle` is a part.
        cycle: names of its nodes.
        entry: the node of the cycle that is fed from outside of it.

    Raises:
        ValueError: several such ways.
    """
    ways = [_trace(graph, source, entry) for source in graph.sources[entry] if source in cycle]
    if graph.nodes[entry].kind not in (*_STATELESS, "Delay"):
        # Others may be the way of a layer's own reset, on which there is neither of these.
        ways = [
            w
            for w in ways
            if graph.nodes[w.head].kind == "Delay"
            or any(graph.nodes[name].kind in _MIXING for name in w.names)
        ]
    if len(ways) > 1:
        raise ValueError(
            f"The cycle {sorted(cycle)} of `graph` must have one way back to {entry!r}; got "
            f"{[list(way.names) for way in ways]}."
        )
    return ways[0] if ways else None


def _trace(graph: Graph, last: str, entry: str) -> WayBack:
    names: list[str] = []
    head = last
    while (
        graph.nodes[head].kind in _STATELESS
        and len(graph.targets[head]) == len(graph.sources[head]) == 1
    ):
        names.insert(0, head)
        (head,) = graph.sources[head]
    return WayBack(head, tuple(names), entry)
