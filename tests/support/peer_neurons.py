"""A neuron class described by what a table has columns for, and that description as a program.

`peers.py` has the rows.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

SAME = "same step"
BEFORE = "next step, before the decay"
AFTER = "next step, after the update"
TWICE = "same step, and while the next spike is decided"
NEXT = "next step"
STEPS = "a call per step"

ATAN = ("1 / (1 + (pi * u)**2)", "atan(2.0)")
SIGMOID = ("4 * sigmoid(4 * u) * sigmoid(-4 * u)", "sigmoid(4.0)")
SMOOTH = (SIGMOID[0], "smooth(4.0)")
SUPERSPIKE_25 = ("1 / (1 + 25 * abs(u))**2", "fast_sigmoid(25.0)")
SUPERSPIKE_1 = ("1 / (1 + abs(u))**2", "fast_sigmoid(1.0)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neuron:
    """A neuron class: what it is called, and the columns of the table.

    Attributes:
        package: whose it is, a key of `peers.LIBRARIES`.
        name: how a user asks for it, as far as the row depends on that.
        make: expression that makes it, of `arguments`.
        arguments: values by the names that the library gives them.
        current: what reaches the membrane, of the input ``x`` and the current ``i`` before.
        arrives: when the current reaches the membrane: `SAME` or `NEXT`.
        decay: share of the membrane that is kept per step.
        factor: what the current is multiplied by.
        threshold: expression for it, of the adaptation ``a`` before the step as well.
        adapts: the adaptation after the step, of ``a`` before and what comes out, ``y``; or None.
        fires: comparison of the membrane with the threshold, ``"smooth"`` for the sigmoid itself,
            or None for a neuron whose output is its membrane.
        decided: whether it fires by the membrane after or before the step's update.
        reset: ``"minus threshold"``, ``"minus resting threshold"`` (without ``a``), ``"to 0"`` or
            ``"none"``.
        when: when the reset acts, counted from the step in which the membrane crosses.
        gradient: ``"through"`` or ``"detached"``: whether the spike in the reset is differentiated.
        surrogate: derivative of a spike at ``u = v - threshold``, and that spike function here.
        state: who keeps it from call to call, ``"layer"``, ``"caller"`` or ``"none"``.
        sequences: axes of a sequence, or `STEPS`.
        here: function on the library's page that makes our layer, or None if none is the same.
        counterpart: what that is, or why there is none.
        same: what is the same: ``"all"``, or ``"outputs"`` where gradients differ.
        unless: expression that is True where it is not, of ``u`` and `arguments`.
        late: steps by which their output comes later than ours.
    """

    package: str
    name: str
    make: str
    arguments: Mapping[str, float]
    current: str = "x"
    arrives: str = SAME
    decay: str = "beta"
    factor: str = "1"
    threshold: str = "threshold"
    adapts: str | None = None
    fires: str | None = ">"
    decided: str = "after the update"
    reset: str = "minus threshold"
    when: str = SAME
    gradient: str = "through"
    surrogate: tuple[str, str] = ATAN
    state: str = "caller"
    sequences: str = STEPS
    here: str | None = None
    counterpart: str = "none"
    same: str = "all"
    unless: str = "False"
    late: int = 0

    @property
    def key(self):
        """Name in tests and files."""
        return f"{self.package}.{self.name}"

    @property
    def cells(self):
        """Its row of the table, without library."""
        emits = self.fires is not None
        resets = emits and self.reset != "none"
        return (
            f"`{self.name}`",
            self._link(),
            f"`{self.current}`",
            "" if self.arrives == SAME else self.arrives,
            f"`{self.decay}`",
            f"`{self.factor}`",
            self._firing(),
            f"`{self.adapts}`" if self.adapts else "",
            self.decided if emits else "",
            self.reset if emits else "none",
            self.when if resets else "",
            self.gradient if resets else "",
            f"`{self.surrogate[1]}`: `{self.surrogate[0]}`" if emits else "",
            self.state,
            self.sequences,
        )

    def _link(self):
        if self.package == "tracetorch_jax" or self.here is None:
            return self.counterpart
        return f"[{self.counterpart}]({self.package}.md#the-same-numbers)"

    def _firing(self):
        if self.fires is None:
            return "never: gives `v`"
        if self.fires == "smooth":
            return f"always: `sigmoid(4 * (v - {self.threshold}))`"
        return f"`v {self.fires} {self.threshold}`"


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


FUNCTIONS = {"__builtins__": {}, "abs": abs, "exp": np.exp, "pi": np.pi, "sigmoid": sigmoid}


def evaluate(text, arguments=None, /, **values):
    """An expression of the table."""
    return eval(text, FUNCTIONS, {**(arguments or {}), **values})


def time_major(row, array):
    """A sequence as the row has it, with time first; or, since two axes swap, the other way."""
    return array.swapaxes(0, 1) if row.sequences == "[B, T, N]" else array


def simulate(row, xs, w):
    """What a row says that its neuron does.

    Args:
        row: the description.
        xs: input, its axes as the row says.
        w: weights of the outputs in the loss ``sum(w * y)``, of the same shape.

    Returns:
        ``y`` and ``v``: outputs, and membranes after each step. ``grad``: gradient of the loss by
        the input. ``u``: distance from the threshold, of a neuron that fires. ``again``: outputs of
        a second call with the same input. ``resumed``: of one that is handed the state of the
        first, where the caller keeps it. All with the axes of `xs`.
    """
    xs, w = time_major(row, np.float64(xs)), time_major(row, np.float64(w))
    # Arrays [1 + T, B, N]: the value, and its derivatives by the input of every step.
    inputs = np.zeros((len(xs), 1 + len(xs), *xs.shape[1:]))
    inputs[:, 0] = xs
    for t in range(len(xs)):
        inputs[t, 1 + t] = 1
    zero = np.zeros_like(inputs[0])
    start = (zero, zero, zero)
    y, v, u, state = _call(row, inputs, start)
    again = _call(row, inputs, state if row.state == "layer" else start)[0]
    grad = np.einsum("tsbn,tbn->sbn", y[:, 1:], w)
    found = {"y": y[:, 0], "v": v[:, 0], "u": u[:, 0], "grad": grad, "again": again[:, 0]}
    if row.state == "caller":
        found["resumed"] = _call(row, inputs, state)[0][:, 0]
    return {name: time_major(row, array) for name, array in found.items()}


def _call(row, inputs, state):
    """Outputs, membranes and distances of one call, and the state that it leaves."""
    (v, i, a), ys, vs, us = state, [], [], []
    decay, factor = evaluate(row.decay, row.arguments), evaluate(row.factor, row.arguments)
    for x in inputs:
        before, i = i, evaluate(row.current, row.arguments, i=i, x=x)
        crossed = None if row.fires is None else _fire(row, v, a)[0]
        if row.when == BEFORE:
            v = _reset(row, v, a, crossed)
        v = decay * v + factor * (before if row.arrives == NEXT else i)
        if row.when == AFTER:
            v = _reset(row, v, a, crossed)
        if row.fires is None:
            y = u = v
        else:
            lowered = _minus_threshold(row, v, a, _value(crossed)) if row.when == TWICE else v
            y, u = _fire(row, lowered, a)
            if row.when in (SAME, TWICE):
                v = _reset(row, v, a, y)
            late = row.decided == "before the update"
            if late:
                y = crossed
            if row.adapts:
                a = evaluate(row.adapts, row.arguments, a=a, y=y)
            if late:  # what decides next
                u = _fire(row, v, a)[1]
        for kept, array in zip((ys, vs, us), (y, v, u), strict=True):
            kept.append(array)
    return np.stack(ys), np.stack(vs), np.stack(us), (v, i, a)


def _value(array):
    """The value alone: detached."""
    detached = np.zeros_like(array)
    detached[0] = array[0]
    return detached


def _threshold(row, a):
    """The threshold with its derivatives, for an adaptation."""
    resting = evaluate(row.threshold, row.arguments, a=0.0)
    found = np.zeros_like(a) + evaluate(row.threshold, row.arguments, a=a) - resting
    found[0] += resting
    return found


def _fire(row, v, a):
    """Spikes, and the distance from the threshold."""
    u = v - _threshold(row, a)
    spikes = evaluate(row.surrogate[0], u=u[:1]) * u
    value = {"smooth": sigmoid(4 * u[0]), ">": u[0] > 0, ">=": u[0] >= 0}[row.fires]
    spikes[0] = value
    return spikes, u


def _minus_threshold(row, v, a, spikes):
    threshold = _threshold(row, a)
    off = threshold[:1] * spikes + threshold * spikes[:1]
    off[0] = threshold[0] * spikes[0]
    return v - off


def _reset(row, v, a, spikes):
    if row.reset == "none" or row.fires is None:
        return v
    if row.gradient == "detached":
        spikes = _value(spikes)
    if row.reset.startswith("minus"):
        return _minus_threshold(row, v, a * (row.reset == "minus threshold"), spikes)
    kept = (1 - spikes[:1]) * v - spikes * v[:1]
    kept[0] = (1 - spikes[0]) * v[0]
    return kept


def changed(row):
    """The row with one column changed, in each way that means something, by the column's name."""
    other = {
        "current": ["0.5 * i + x"] if row.current == "x" else ["x", row.current + " + 0.1 * i"],
        "arrives": [SAME if row.arrives == NEXT else NEXT],
        "decay": [f"1 - ({row.decay})"],
        "factor": [f"1 - ({row.decay})"] if row.factor == "1" else ["1"],
        "state": [s for s in ("layer", "caller", "none") if s != row.state],
        "sequences": ["[T, B, N]" if row.sequences == "[B, T, N]" else "[B, T, N]"],
    }
    if row.fires is not None:
        resets = ["minus threshold", "to 0", "none"] + ["minus resting threshold"] * bool(
            row.adapts
        )
        derivatives = (ATAN, SIGMOID, SUPERSPIKE_25, SUPERSPIKE_1)
        other |= {
            "fires": [f for f in (">", ">=", "smooth") if f != row.fires],
            "decided": ["before the update", "after the update"],
            "reset": [r for r in resets if r != row.reset],
            "surrogate": [s for s in derivatives if s[0] != row.surrogate[0]],
        }
        if row.adapts:
            other |= {"adapts": [row.adapts + " + 0.25 * y"], "threshold": [row.threshold + " + a"]}
        other["decided"].remove(row.decided)
        if row.reset != "none":
            # Without a decay there is no before and after; a membrane that is 0 cannot fire twice.
            times = [w for w in (SAME, BEFORE, AFTER, TWICE) if w != row.when]
            alike = {BEFORE, AFTER} if row.decay == "1" else {TWICE} if row.reset == "to 0" else {}
            other["when"] = [w for w in times if w not in alike]
            other["gradient"] = [{"through": "detached", "detached": "through"}[row.gradient]]
    return [
        (name, dataclasses.replace(row, **{name: value}))
        for name, values in other.items()
        for value in values
    ]
