"""Reading NIR graphs by what their nodes mean."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import snn
from tracetorch_jax.interop._nir import modules
from tracetorch_jax.interop._nir.cycles import match
from tracetorch_jax.interop._nir.graph import ELEMENTWISE, Edge, Graph
from tracetorch_jax.interop._nir.nodes import Layers, NodeReader
from tracetorch_jax.interop._nir.order import components, delayed_edges, order
from tracetorch_jax.interop._nir.recurrence import WayBack, way_back
from tracetorch_jax.interop._nir.run import Reset

_READABLE = (
    "graphs can be read that are a chain of nodes, of cycles that are layers or recurrence between "
    "neurons, and of stacks with a way around them"
)


def read_foreign(graph: Graph, dt: float, reset: Reset) -> tuple[nn.Module, dict[str, Any]]:
    """The network that a graph is by its nodes alone; see `from_nir`."""
    reader = _Reader(graph, dt, reset)
    layers, heads = reader.chain((graph.input,), graph.output)
    reader.expect_sources(graph.output, heads)
    if not layers:
        raise ValueError("`graph` must do something between its input and its output.")
    cell, params = _stack(layers, feature_axes=len(graph.input_shape))
    return snn.Unroll(cell), {"params": {"cell": params}} if params else {}


def _stack(layers: Layers, kind: Any = snn.Sequential, **options: Any) -> tuple[Any, Any]:
    params = {f"layers_{i}": own for i, (_, own) in enumerate(layers) if own}
    return kind(tuple(module for module, _ in layers), **options), params


def _factored(inner: Layers, back: Layers) -> tuple[Layers, Layers, Layers]:
    """A factor in front of a layer, taken out of the recurrence: on the input, and in its weights.

    Returns:
        What then stands before the recurrence, its cell, and its way back.
    """
    if not (len(inner) == 2 and isinstance(inner[0][0], modules.Scale) and len(back) == 1):
        return [], inner, back
    dense, weights = back[0]
    if not isinstance(dense, nn.Dense):
        return [], inner, back
    factor = np.asarray(inner[0][1]["scale"])
    scaled = {name: jnp.asarray(np.asarray(value) * factor) for name, value in weights.items()}
    return inner[:1], inner[1:], [(dense, scaled)]


class _Reader(NodeReader):
    """Walks a graph from its input to its output."""

    def __init__(self, graph: Graph, dt: float, reset: Reset) -> None:
        super().__init__(graph, dt, reset)
        self.cycles = components(graph)
        self.done: set[Edge] = set()

    def chain(self, heads: tuple[str, ...], stop: str) -> tuple[Layers, tuple[str, ...]]:
        """Read from the sum of what `heads` give, up to the node `stop` and without it.

        Args:
            heads: nodes that have been read.
            stop: where to end.

        Returns:
            The layers, and the nodes whose sum is what they give.
        """
        layers: Layers = []
        while True:
            following = self.following(heads)
            if following == [stop]:
                return layers, heads
            found, heads = self.next(heads, following)
            layers += found

    def next(self, heads: tuple[str, ...], following: list[str]) -> tuple[Layers, tuple[str, ...]]:
        """Read what follows on `heads`; returns as `chain` does."""
        if len(following) != 1:
            return self.residual(heads, following)
        (name,) = following
        if name in self.cycles:
            way = way_back(self.graph, self.cycles[name], name)
            if way:
                return self.recurrence(heads, way)
        self.done |= {(head, name) for head in heads}
        self.expect_sources(name, heads)
        if name in self.cycles:
            self.check_shapes(self.cycles[name])
            cycle = match(self.graph, self.cycles[name], name, self.dt, self.reset)
            return self.cycle(cycle), cycle.heads
        return self.node(name, self.graph.nodes[name]), (name,)

    def recurrence(self, heads: tuple[str, ...], way: WayBack) -> tuple[Layers, tuple[str, ...]]:
        """A cell, and what leads its output back to it."""
        cycle, before, nodes = self.cycles[way.entry], self.shape, self.graph.nodes
        self.graph = way.removed_from(self.graph)
        self.cycles = components(self.graph)
        rule = f"The cycle {sorted(cycle)} of `graph` must lead back to {way.entry!r} from where it"
        if not self.graph.targets[way.head]:
            if nodes[way.head].kind == "Delay":
                raise ValueError(
                    f"Node {way.head!r} (Delay) stands on the way back to {way.entry!r}; a "
                    f"Recurrent gets its output back one step later. A delay within its cell, "
                    f"before the output, can be read."
                )
            raise ValueError(f"{rule} is left; {way.head!r} feeds nothing else.")
        inner: Layers = []
        while heads != (way.head,):
            following = self.following(heads)
            if following in ([], [self.graph.output]):
                raise ValueError(
                    f"{rule} is left; it does from {way.head!r}, and is left from {list(heads)}."
                )
            found, heads = self.next(heads, following)
            inner += found
        after, back = self.shape, []
        for name in way.names:
            back += self.node(name, nodes[name])
        if self.shape != before:
            raise ValueError(
                f"Node {way.entry!r} adds up steps of different shapes: {before} from outside, "
                f"{self.shape} from {(way.head, *way.names)[-1]!r}."
            )
        factor, inner, back = _factored(inner, back)
        self.shape = before
        inner, back = inner or self.identity(way.entry), back or self.identity(way.head)
        alone = len(inner) == 1 and isinstance(inner[0][0], nn.RNNCellBase)
        cell, own = inner[0] if alone else _stack(inner, feature_axes=len(before))
        feedback, weights = back[0] if len(back) == 1 else _stack(back, nn.Sequential)
        self.shape = after
        params = {name: p for name, p in (("cell", own), ("feedback", weights)) if p}
        return [*factor, (snn.Recurrent(cell, feedback), params)], heads

    def check_shapes(self, names: frozenset[str]) -> None:
        """Check the elementwise nodes of a cycle."""
        for name in sorted(names):
            if self.graph.nodes[name].kind in ELEMENTWISE:
                self.values(name, self.graph.nodes[name])

    def following(self, heads: tuple[str, ...]) -> list[str]:
        """The nodes that take the sum of what `heads` give, and have not been read."""
        outer = [
            sorted(
                b
                for b in self.graph.targets[head]
                if (head, b) not in self.done and b not in self.cycles.get(head, ())
            )
            for head in heads
        ]
        if any(targets != outer[0] for targets in outer):
            listed = ", ".join(f"{h!r} to {t}" for h, t in zip(heads, outer, strict=True))
            raise ValueError(
                f"`graph` must add up {list(heads)} wherever it uses them; got {listed}."
            )
        return outer[0]

    def expect_sources(self, name: str, heads: tuple[str, ...]) -> None:
        within = self.cycles.get(name, frozenset())
        sources = {source for source in self.graph.sources[name] if source not in within}
        if sources != set(heads):
            kind = self.graph.nodes[name].kind
            raise ValueError(f"Node {name!r} ({kind}) adds up {sorted(sources)}; {_READABLE}.")

    def residual(
        self, heads: tuple[str, ...], following: list[str]
    ) -> tuple[Layers, tuple[str, ...]]:
        """A stack and what passes by it; the sum of both goes on."""
        places = order(self.graph, delayed_edges(self.graph))
        merging = max(following, key=places.index)
        before, passing = self.shape, {(head, merging) for head in heads}
        self.done |= passing
        inner, last = self.chain(heads, merging)
        self.done -= passing
        if self.shape != before:
            raise ValueError(
                f"Node {merging!r} adds up steps of different shapes: {before} from "
                f"{list(heads)}, {self.shape} from {list(last)}."
            )
        block, params = _stack(inner, snn.Residual, feature_axes=len(before))
        return [(block, params)], (*heads, *last)
