"""Which cycles of a NIR graph are a trace layer."""

from __future__ import annotations

import dataclasses

import numpy as np

from tracetorch_jax.functional import spec
from tracetorch_jax.interop._nir.graph import Graph, Node
from tracetorch_jax.interop._nir.run import Reset


@dataclasses.dataclass
class Cycle:
    """A layer that fires, found in a graph.

    Attributes:
        name: of its membrane.
        heads: nodes whose sum is its output.
        values: constrained parameters by name.
        gain: what its input is to be multiplied by before it reaches a membrane that sums.
        bias: what the membrane takes in at every step.
        reset: what a spike does to its membrane.
    """

    name: str
    heads: tuple[str, ...]
    values: dict[str, np.ndarray]
    gain: np.ndarray
    bias: np.ndarray
    reset: spec.Reset


@dataclasses.dataclass
class _Side:
    """What one sign does: its threshold, output, scale, reset, and trace of the output."""

    sign: int
    spikes: str
    threshold: np.ndarray
    head: str
    scale: np.ndarray
    reset: spec.Reset
    gamma: np.ndarray | None
    rec_weight: np.ndarray | None


def match(graph: Graph, cycle: frozenset[str], entry: str, dt: float, reset: Reset) -> Cycle:
    """The layer that a cycle is.

    A membrane (LI or I), a Threshold on it, or one on it and one on its negative, from each a Scale
    back to the membrane that takes the threshold off, or from none, and maybe a trace (LI) of the
    output and its weight (Scale) back to the membrane. An LIF or IF may stand for membrane,
    threshold and reset.

    Raises:
        ValueError: the cycle is none of these, naming its nodes.
    """
    return _Match(graph, cycle, entry, dt, reset).run()


def reset_of(name: str, node: Node, reset: Reset) -> tuple[spec.Reset, np.ndarray]:
    """What a spike of an LIF, CubaLIF or IF does to the membrane of a layer, and ``v_reset``.

    The membrane of the layer is that of the node measured from ``v_reset``, which makes a reset to
    another value than 0 one to 0. Then ``threshold - v_reset`` is its threshold, and a leak pulls
    it to ``v_leak - v_reset``.

    Raises:
        ValueError: a threshold that is not above ``v_reset``; a ``v_reset`` other than 0 although
            `reset` says that the threshold is taken off.
    """
    v_reset = np.asarray(node.values["v_reset"], np.float64)
    threshold = np.asarray(node.values["v_threshold"], np.float64)
    if reset == "subtract" and np.any(v_reset != 0):
        raise ValueError(
            f"Node {name!r} ({node.kind}) must have `v_reset` 0 to be read with reset='subtract', "
            f"which takes off the threshold; got {v_reset[v_reset != 0].flat[0]:g}."
        )
    low = threshold <= v_reset
    if np.any(low):
        raise ValueError(
            f"Node {name!r} ({node.kind}) must have `v_threshold` above `v_reset`; got "
            f"{threshold[low].flat[0]:g} and {v_reset[low].flat[0]:g}."
        )
    return ("zero" if reset == "v_reset" else "subtract"), v_reset


def decay_of(name: str, node: Node, parameter: str, dt: float) -> np.ndarray:
    """The decay ``1 - dt / tau`` of a forward Euler step."""
    tau = np.asarray(node.values[parameter], np.float64)
    decay = 1 - dt / tau
    decay = np.where(np.abs(decay) < 1e-7, 0, decay)  # tau is dt, to the rounding of float32
    if np.any(decay < 0):
        raise ValueError(
            f"Node {name!r} ({node.kind}) has `{parameter}` = {tau.min():g} s, less than the step "
            f"`dt` = {dt:g} s: forward Euler steps of it are no decay. Use a shorter `dt`."
        )
    return decay


class _Match:
    def __init__(
        self, graph: Graph, cycle: frozenset[str], entry: str, dt: float, reset: Reset
    ) -> None:
        self.graph, self.cycle, self.entry, self.dt, self.reset = graph, cycle, entry, dt, reset
        self.used: list[str] = [entry]

    def fail(self, reason: str) -> ValueError:
        return ValueError(
            f"The cycle {sorted(self.cycle)} of `graph` is no layer of this library: {reason}."
        )

    def value(self, name: str, parameter: str) -> np.ndarray:
        return np.asarray(self.graph.nodes[name].values[parameter], np.float64)

    def kind(self, name: str) -> str:
        return self.graph.nodes[name].kind

    def run(self) -> Cycle:
        graph, entry, node = self.graph, self.entry, self.graph.nodes[self.entry]
        for name in self.cycle:
            outside = [source for source in graph.sources[name] if source not in self.cycle]
            if outside and name != entry:
                raise self.fail(f"{name!r} is fed from outside, by {outside}, as well as {entry!r}")
        if node.kind not in ("LI", "I", "LIF", "IF"):
            raise self.fail(f"{entry!r}, where it begins, is no LI, I, LIF or IF, but {node.kind}")
        # A forward Euler step, v + dt / tau * (v_leak - v + r * x), with beta = 1 - dt / tau is
        #   beta * v + (1 - beta) * r * x + (1 - beta) * v_leak
        # and one of an I, v + dt * r * x: decay, gain and bias are its factors.
        if node.kind in ("I", "IF"):
            beta, gain, bias = np.ones(()), self.dt * self.value(entry, "r"), np.zeros(())
        else:
            beta = decay_of(entry, node, "tau", self.dt)
            gain = (1 - beta) * self.value(entry, "r")
            bias = (1 - beta) * self.value(entry, "v_leak")
        if np.any(gain == 0):
            raise self.fail(f"{entry!r} has `r` = 0")
        self.beta, self.gain = beta, gain
        if node.kind in ("LIF", "IF"):
            own, v_reset = reset_of(entry, node, self.reset)
            bias = bias - (1 - beta) * v_reset
            sides = [self.side(1, entry, self.value(entry, "v_threshold") - v_reset, own)]
        else:
            sides = [self.threshold_side(name) for name in graph.targets[entry]]
        sides.sort(key=lambda side: -side.sign)
        if [side.sign for side in sides] not in ([1], [1, -1]):
            signs = [side.spikes for side in sides]
            raise self.fail(f"it must fire above a threshold, or above and below; got {signs}")
        unused = sorted(self.cycle - set(self.used))
        if unused:
            raise self.fail(f"{unused} have no place in one")
        resets = [side.reset for side in sides]
        if resets != resets[:1] * len(sides):
            raise self.fail(f"positive and negative spikes reset it in other ways, {resets}")
        values = {"beta": beta} | self.recurrence(sides)
        heads = self.outputs(sides, values)
        return Cycle(entry, heads, values, gain, bias, resets[0])

    def only(self, names: list[str], what: str) -> str:
        if len(names) != 1:
            raise self.fail(f"{what} must lead to one node; got {names}")
        self.used.append(names[0])
        return names[0]

    def threshold_side(self, name: str) -> _Side:
        """The side of a node that the membrane feeds."""
        if name not in self.cycle:
            raise self.fail(f"{self.entry!r}, its membrane, also feeds {name!r}, outside of it")
        self.used.append(name)
        sign = 1
        if self.kind(name) == "Scale":
            if not np.all(self.value(name, "scale") == -1):
                raise self.fail(f"{name!r} scales the membrane by another factor than -1")
            sign, name = -1, self.only(self.graph.targets[name], f"{name!r}")
        if self.kind(name) != "Threshold":
            raise self.fail(f"{name!r} ({self.kind(name)}) stands where a Threshold should")
        return self.side(sign, name, self.value(name, "threshold"))

    def side(
        self, sign: int, spikes: str, threshold: np.ndarray, reset: spec.Reset | None = None
    ) -> _Side:
        """What one sign does; a Threshold resets the membrane by the way back to it."""
        inner = [name for name in self.graph.targets[spikes] if name in self.cycle]
        back = [
            name
            for name in inner
            if self.kind(name) == "Scale" and self.graph.targets[name] == [self.entry]
        ]
        if reset is None:
            reset = "none"
            if back:
                self.check_back(sign, spikes, threshold, back)
                inner.remove(back[0])
                self.used.append(back[0])
                reset = "subtract"
        scale, head = np.full((), float(sign)), spikes
        if len(inner) == 1 and self.kind(inner[0]) == "Scale" and inner[0] not in back:
            head = inner[0]
            self.used.append(head)
            scale = self.value(head, "scale")
            inner = [name for name in self.graph.targets[head] if name in self.cycle]
            if [n for n in self.graph.targets[spikes] if n not in self.cycle]:
                raise self.fail(f"{spikes!r} leaves it both with and without the scale {head!r}")
        gamma, weight = self.trace(inner) if inner else (None, None)
        return _Side(sign, spikes, threshold, head, scale, reset, gamma, weight)

    def check_back(self, sign: int, spikes: str, threshold: np.ndarray, back: list[str]) -> None:
        """Raise unless one Scale takes the threshold off the membrane."""
        if len(back) != 1:
            raise self.fail(
                f"from {spikes!r} one Scale must lead back to {self.entry!r} to take the threshold "
                f"off; got {back}"
            )
        # A layer takes sign * threshold off in the step of the spike, so that the next membrane is
        # lower by beta * sign * threshold. In the graph the spike arrives one step later and is
        # multiplied by the gain. So gain * scale = -sign * beta * threshold.
        got = self.value(back[0], "scale")
        want = -sign * self.beta * threshold / self.gain
        if not np.allclose(got, want, rtol=1e-5, atol=1e-7):
            raise self.fail(
                f"{back[0]!r} must take the threshold off, one step later: -decay * threshold / "
                f"gain = {np.ravel(want)[0]:g}; got {np.ravel(got)[0]:g}"
            )

    def trace(self, inner: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Decay and weight of a trace of the output on its way back to the membrane."""
        start = self.only(inner, "the output, within it,")
        weight = self.gain
        gamma = np.zeros(())
        node = self.graph.nodes[start]
        if node.kind == "LI":
            gamma = decay_of(start, node, "tau", self.dt)
            weight = weight * self.value(start, "r")
            if np.any(self.value(start, "v_leak") != 0):
                raise self.fail(f"{start!r} has a `v_leak`")
            follow = self.graph.targets[start]
            if follow == [self.entry]:
                return gamma, weight
            start = self.only(follow, f"{start!r}")
        if self.kind(start) != "Scale" or self.graph.targets[start] != [self.entry]:
            raise self.fail(f"{start!r} ({self.kind(start)}) has no place on the way back")
        return gamma, weight * self.value(start, "scale")

    def recurrence(self, sides: list[_Side]) -> dict[str, np.ndarray]:
        first = sides[0]
        for other in sides[1:]:
            pairs = ((first.gamma, other.gamma), (first.rec_weight, other.rec_weight))
            for (a, b), what in zip(pairs, ("decays", "weights"), strict=True):
                same = a is b if a is None or b is None else np.array_equal(a, b)
                if not same:
                    raise self.fail(f"positive and negative spikes come back with other {what}")
        if first.gamma is None or first.rec_weight is None:
            return {}
        return {"gamma": first.gamma, "rec_weight": first.rec_weight}

    def outputs(self, sides: list[_Side], values: dict[str, np.ndarray]) -> tuple[str, ...]:
        """Add thresholds and scales to `values`; return the nodes that give the output."""
        if len(sides) == 1:
            if sides[0].head != sides[0].spikes:
                raise self.fail(f"{sides[0].head!r} scales binary spikes within it")
            values["threshold"] = sides[0].threshold
            return (sides[0].head,)
        for side in sides:
            outer = [n for n in self.graph.targets[side.head] if n not in self.cycle]
            alone = len(outer) == 1 and self.graph.sources[outer[0]] == [side.head]
            if side.head == side.spikes and alone and self.kind(outer[0]) == "Scale":
                side.head = outer[0]
                side.scale = self.value(side.head, "scale")
                self.used.append(side.head)
            elif side.head == side.spikes and side.sign < 0:
                raise self.fail(
                    f"negative spikes leave it with a positive sign, from {side.head!r}"
                )
        pos, neg = sides
        values |= {"pos_threshold": pos.threshold, "neg_threshold": neg.threshold}
        if not (np.all(pos.scale == 1) and np.all(neg.scale == -1)):
            values |= {"pos_scale": pos.scale, "neg_scale": -neg.scale}
        return pos.head, neg.head
