"""A trace layer as nodes of a NIR graph.

NIR describes dynamics in continuous time. With the forward Euler method and a step `dt`

    LI:  v = v + dt / tau * (v_leak - v + r * x)

so that ``beta = 1 - dt / tau``; ``r = 1`` averages as `functional.ema` does, and
``r = 1 / (1 - beta)`` sums as `functional.leak` does. What a firing layer takes off its membrane
after a spike is ``beta * threshold`` less in the next step, which a `Scale` from the spikes back to
the membrane feeds in. A layer that resets to zero is a node that does: LIF, CubaLIF or IF.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

from tracetorch_jax.functional.spec import FIRST_FIELDS, Spec, Trace, require
from tracetorch_jax.interop._nir.graph import Edge, Node

Style = Literal["exact", "lif"]
Values = dict[str, np.ndarray]


@dataclasses.dataclass
class Piece:
    """The nodes of one layer by role, the edges between them, and where signals enter and leave."""

    nodes: dict[str, Node] = dataclasses.field(default_factory=dict)
    edges: list[Edge] = dataclasses.field(default_factory=list)
    entries: list[str] = dataclasses.field(default_factory=list)
    exit: str = ""

    def add(self, role: str, kind: str, sources: Iterable[str] = (), **values: np.ndarray) -> str:
        """Add a node fed by `sources`; return its role."""
        self.nodes[role] = Node(kind, dict(values))
        self.edges += [(source, role) for source in sources]
        return role


def single(spec: Spec, values: Values, where: str) -> tuple[Spec, Values]:
    """The single layer that a dual one with equal halves is.

    Args:
        spec: of the layer.
        values: constrained values by name.
        where: what to call the layer in an error.

    Raises:
        ValueError: the halves differ.
    """
    merged = dict(values)

    def merge(root: str) -> None:
        pos, neg = merged.pop(f"pos_{root}"), merged.pop(f"neg_{root}")
        if not np.array_equal(pos, neg):
            furthest = np.unravel_index(np.argmax(np.abs(pos - neg)), np.shape(pos - neg))
            pair = [np.broadcast_to(v, np.shape(pos - neg))[furthest] for v in (pos, neg)]
            raise ValueError(
                f"{where} is dual, and NIR has no node that treats signs apart: it can be written "
                f"if `pos_{root}` and `neg_{root}` are equal, as a single layer; got "
                f"{pair[0]:g} and {pair[1]:g}."
            )
        merged[root] = pos

    def of(trace: Trace | None, decay: str) -> Trace | None:
        if trace is None or not trace.dual:
            return trace
        if isinstance(trace.ema, tuple):
            raise ValueError(
                f"{where} is dual, and NIR has no node that treats signs apart: both of its "
                f"{decay} traces must average, or both sum."
            )
        merge(decay)
        return Trace(ema=trace.ema)

    if spec.rec_weight == "dual":
        merge("rec_weight")
    membrane = of(spec.membrane, "beta") or spec.membrane
    spec = dataclasses.replace(
        spec,
        synapse=of(spec.synapse, "alpha"),
        membrane=membrane,
        recurrence=of(spec.recurrence, "gamma"),
        rec_weight=spec.rec_weight and "single",
    )
    return spec, merged


def layer_nodes(
    spec: Spec,
    values: Values,
    dt: float,
    style: Style,
    full: Callable[[np.ndarray], np.ndarray],
    where: str,
) -> Piece:
    """The nodes of a layer.

    Args:
        spec: of the layer.
        values: constrained values by name, float64.
        dt: length of a step in seconds.
        style: ``"exact"``, or ``"lif"`` for one node that integrates, fires and resets per sign.
        full: gives a value the shape of one step.
        where: what to call the layer in an error.

    Raises:
        ValueError: the layer has no exact counterpart, and what makes it so.
    """
    require(spec, FIRST_FIELDS | {"reset", "detach_reset"}, "A NIR graph", where)
    if "passthrough" in (spec.positive, spec.negative):
        raise ValueError(
            f"{where} passes its membrane through on one side, which no NIR node does."
        )
    if spec.reset == "zero" and spec.positive and spec.negative and style == "exact":
        raise ValueError(
            f"{where} fires on both sides and resets to zero, and the nodes of NIR that reset to a "
            f"value (LIF, CubaLIF, IF) fire on one side alone; got `reset` {spec.reset!r}. "
            f'style="lif" writes one of them per sign, which loses.'
        )
    spec, values = single(spec, values, where)
    values = {name: full(value) for name, value in values.items()}
    return _Layer(spec, values, dt, style, where).write()


@dataclasses.dataclass
class _Layer:
    spec: Spec
    values: Values
    dt: float
    style: Style
    where: str
    piece: Piece = dataclasses.field(default_factory=Piece)
    integrators: list[str] = dataclasses.field(default_factory=list)

    def write(self) -> Piece:
        spec, piece = self.spec, self.piece
        # The nodes that fire reset by themselves: none of them does without.
        one_node = self.style == "lif" or spec.reset == "zero"
        as_lif = one_node and spec.fires and spec.reset != "none"
        cuba = one_node and spec.synapse is not None and spec.recurrence is None
        cuba = cuba and bool(np.all(self.values["beta"] < 1))
        sources: list[str] = []
        if spec.synapse and not cuba:
            sources = [self.trace("syn", "alpha", spec.synapse, [])]
            piece.entries = ["syn"]
        if as_lif:
            emitted = self.integrate_and_fire(sources, cuba)
        else:
            mem = self.trace("mem", "beta", spec.membrane, sources, cuba=cuba)
            self.integrators = [mem]
            emitted = self.thresholds(mem) or {1: mem}
        piece.entries = piece.entries or self.integrators
        for sign, out in emitted.items():
            self.feed_back(sign, out)
        first, *rest = emitted.values()
        piece.exit = piece.add("out", "Scale", [first, *rest], scale=self.ones) if rest else first
        return piece

    @property
    def ones(self) -> np.ndarray:
        return np.ones_like(self.values["beta"])

    def role(self, sign: int, name: str) -> str:
        """Roles carry their sign in layers that fire both."""
        both = self.spec.positive and self.spec.negative
        return f"{'pos' if sign > 0 else 'neg'}_{name}" if both else name

    # Traces.

    def gain(self, decay: np.ndarray, trace: Trace) -> np.ndarray:
        """What a trace adds of its input in one step."""
        return 1 - decay if trace.ema else np.ones_like(decay)

    def integrates(self, name: str, trace: Trace) -> bool:
        """Whether a trace sums without any leak."""
        without_bias = name != "beta" or not self.spec.bias
        return bool(np.all(self.values[name] == 1)) and not trace.ema and without_bias

    def time_constant(self, name: str, trace: Trace) -> tuple[np.ndarray, np.ndarray]:
        """``tau`` and ``r`` of a decay below 1."""
        decay = self.values[name]
        if np.any(decay >= 1):
            raise ValueError(
                f"{self.where} has a `{name}` of 1, which is an integrator without leak (I) in "
                f"NIR: all of its neurons must have it, as a sum and without `bias`, or none."
            )
        return self.dt / (1 - decay), self.gain(decay, trace) / (1 - decay)

    def trace(
        self, role: str, name: str, trace: Trace, sources: list[str], *, cuba: bool = False
    ) -> str:
        """A leaky integrator; with `cuba` the synapse is part of the node."""
        if self.integrates(name, trace):
            return self.piece.add(role, "I", sources, r=self.ones / self.dt)
        tau, r = self.time_constant(name, trace)
        v_leak = self.v_leak() if name == "beta" else np.zeros_like(tau)
        if not cuba:
            return self.piece.add(role, "LI", sources, tau=tau, r=r, v_leak=v_leak)
        assert self.spec.synapse is not None
        tau_syn, w_in = self.time_constant("alpha", self.spec.synapse)
        return self.piece.add(
            role, "CubaLI", sources, tau_syn=tau_syn, tau_mem=tau, r=r, v_leak=v_leak, w_in=w_in
        )

    def v_leak(self) -> np.ndarray:
        """The leak that a bias is."""
        beta = self.values["beta"]
        if not self.spec.bias:
            return np.zeros_like(beta)
        return self.gain(beta, self.spec.membrane) * self.values["bias"] / (1 - beta)

    # Firing.

    def sides(self) -> list[tuple[int, np.ndarray, np.ndarray | None]]:
        """Sign, threshold and scale of every side that fires."""
        found = []
        for sign, emission, threshold, scale in zip(
            (1, -1),
            (self.spec.positive, self.spec.negative),
            self.spec.thresholds,
            self.spec.scales,
            strict=True,
        ):
            if emission and threshold:
                found.append((sign, self.values[threshold], self.values[scale] if scale else None))
        return found

    def emit(self, sign: int, spikes: str, scale: np.ndarray | None) -> str:
        """Spikes with their sign and scale."""
        if sign > 0 and scale is None:
            return spikes
        factor = sign * (self.ones if scale is None else scale)
        return self.piece.add(self.role(sign, "scale"), "Scale", [spikes], scale=factor)

    def thresholds(self, mem: str) -> dict[int, str]:
        """Spikes of a membrane and what they take off it; the emitted signals by sign."""
        emitted = {}
        loss = self.values["beta"] / self.gain(self.values["beta"], self.spec.membrane)
        for sign, threshold, scale in self.sides():
            above = mem
            if sign < 0:
                above = self.piece.add("minus", "Scale", [mem], scale=-self.ones)
            spikes = self.role(sign, "spike")
            self.piece.add(spikes, "Threshold", [above], threshold=threshold)
            if self.spec.reset != "none":
                reset = self.role(sign, "reset")
                self.piece.add(reset, "Scale", [spikes], scale=-sign * loss * threshold)
                self.piece.edges.append((reset, mem))
            emitted[sign] = self.emit(sign, spikes, scale)
        return emitted

    def integrate_and_fire(self, sources: list[str], cuba: bool) -> dict[int, str]:
        """A node per sign that integrates, fires and resets; the emitted signals by sign."""
        emitted = {}
        zeros = np.zeros_like(self.ones)
        integrator = self.integrates("beta", self.spec.membrane)
        if not integrator:
            tau, r = self.time_constant("beta", self.spec.membrane)
        for sign, threshold, scale in self.sides():
            into, spikes = sources, self.role(sign, "spike")
            if sign < 0:
                into = [self.piece.add("minus", "Scale", sources, scale=-self.ones)]
            self.integrators.append("minus" if sign < 0 else spikes)
            fire = {"v_threshold": threshold, "v_reset": zeros}
            if integrator:
                self.piece.add(spikes, "IF", into, r=self.ones / self.dt, **fire)
            elif cuba:
                assert self.spec.synapse is not None
                tau_syn, w_in = self.time_constant("alpha", self.spec.synapse)
                currents = {"tau_syn": tau_syn, "tau_mem": tau, "r": r, "w_in": w_in}
                leak = {"v_leak": sign * self.v_leak()}
                self.piece.add(spikes, "CubaLIF", into, **currents, **leak, **fire)
            else:
                leak = {"v_leak": sign * self.v_leak()}
                self.piece.add(spikes, "LIF", into, tau=tau, r=r, **leak, **fire)
            emitted[sign] = self.emit(sign, spikes, scale)
        return emitted

    # Recurrence.

    def feed_back(self, sign: int, out: str) -> None:
        """A trace of one side's output and its way to the membrane.

        One trace per side, so that on a cycle only the membrane has several sources: which of
        the edges of a cycle a simulator delays then makes no difference.
        """
        if not self.spec.recurrence:
            return
        back = self.trace(self.role(sign, "rec"), "gamma", self.spec.recurrence, [out])
        if self.spec.rec_weight:
            weight = self.values["rec_weight"]
            back = self.piece.add(self.role(sign, "rec_weight"), "Scale", [back], scale=weight)
        self.piece.edges += [(back, integrator) for integrator in self.integrators]
