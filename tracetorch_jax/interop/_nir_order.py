"""In which order the nodes of a NIR graph are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tracetorch_jax.interop._nir_graph import Edge, Graph


def reached(start: str, step: Callable[[str], list[str]]) -> set[str]:
    """Everything that can be reached from `start`, itself only if it lies on a cycle."""
    seen: set[str] = set()
    waiting = list(step(start))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += step(name)
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
    the edges that lead, within a cycle, back to a node that is also fed from outside of it.

    Raises:
        ValueError: a cycle that this does not open.
    """
    found = components(graph)
    entries = {
        name
        for name, cycle in found.items()
        if any(source not in cycle for source in graph.sources(name))
    }
    delayed = {(a, b) for a, b in graph.edges if b in entries and a in found[b]}
    order(graph, delayed)
    return delayed


def order(graph: Graph, delayed: Iterable[Edge] = ()) -> list[str]:
    """Nodes so that each comes after all that feed it, but for what is delayed.

    Raises:
        ValueError: a cycle, naming its nodes.
    """
    skipped = set(delayed)
    waiting = {
        name: {a for a in graph.sources(name) if (a, name) not in skipped} for name in graph.nodes
    }
    done: list[str] = []
    while waiting:
        ready = [name for name, sources in waiting.items() if sources <= set(done)]
        if not ready:
            cycle = sorted(n for n in waiting if _on_cycle(n, waiting))
            raise ValueError(
                f"`graph` has a cycle that cannot be put in order: {cycle}. A signal may return "
                f"only to a node that is also fed from outside of the cycle."
            )
        done += ready
        for name in ready:
            del waiting[name]
    return done


def _on_cycle(name: str, waiting: dict[str, set[str]]) -> bool:
    return name in reached(name, lambda n: [a for a in waiting.get(n, ()) if a in waiting])
