"""In which order the nodes of a NIR graph are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from tracetorch_jax.interop._nir.graph import Edge, Graph


def reached(start: str, neighbours: Mapping[str, Iterable[str]]) -> set[str]:
    """Everything that can be reached from `start`, itself only if it lies on a cycle."""
    seen: set[str] = set()
    waiting = list(neighbours[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += neighbours[name]
    return seen


def components(graph: Graph) -> dict[str, frozenset[str]]:
    """For each node on a cycle, all nodes that lie on cycles with it."""
    after = {name: reached(name, graph.targets) for name in graph.nodes}
    return {
        name: frozenset(other for other in after[name] if name in after[other])
        for name in graph.nodes
        if name in after[name]
    }


def delayed_edges(graph: Graph) -> set[Edge]:
    """Edges along which a signal arrives one step later.

    NIR does not say so of any edge, yet a cycle cannot be simulated in steps without. They are
    the edges that lead, within a cycle, back to a node that is also fed from outside of it. A cycle
    within a cycle is one of its own once the outer one is open.
    """
    delayed: set[Edge] = set()
    while True:
        opened = dataclasses.replace(graph, edges=[e for e in graph.edges if e not in delayed])
        found = components(opened)
        new = {
            (a, b)
            for a, b in opened.edges
            if a in found.get(b, ()) and any(s not in found[b] for s in opened.sources[b])
        }
        if not new:
            return delayed
        delayed |= new


def order(graph: Graph, delayed: Iterable[Edge]) -> list[str]:
    """Nodes so that each comes after all that feed it, but for what is delayed."""
    skipped = set(delayed)
    missing = {
        name: {a for a in graph.sources[name] if (a, name) not in skipped} for name in graph.nodes
    }
    done: list[str] = [name for name, sources in missing.items() if not sources]
    for name in done:  # which grows on the way
        for target in graph.targets[name]:
            if name in missing[target]:
                missing[target].discard(name)
                if not missing[target]:
                    done.append(target)
    return done
