"""The rules of `diagnose`: what the numbers of a layer mean for training, and what to change.

A *problem* hinders learning. A *note* is on what costs energy or time, or may be meant so. The
levels were set on networks of one to eight layers that classify digits: what stays below them
reaches the accuracy of the best of these networks, what is above learns more slowly or not at all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from tracetorch_jax._core.leaky_integrator import AbstractLeakyIntegrator
from tracetorch_jax.diagnostics._recording import Recording
from tracetorch_jax.functional.constraints import halflife_to_decay
from tracetorch_jax.functional.spec import Spec, channel_names

SATURATED = 0.9  # spikes per step of a neuron that fires at nearly every step
MOST = 0.5  # share of neurons from which on it is a problem that they never or always fire
SOME = 0.1  # share from which on a note says so
REACH = 0.3  # thresholds that the membrane of a silent neuron comes near enough to be trained
SLOPE = 1e-3  # derivative of the spike that is enough to train a silent neuron
FAINT = 0.3  # root mean square of an input that is small
MUCH = 1000.0  # factor of weights that is not for one layer, as next to nothing reaches it
FAR = 10.0  # thresholds at which little is left of the surrogate gradient
GREAT, SMALL = 1e3, 1e-2  # values of a layer that does not fire
ACTIVE = 0.4  # spikes per step of the whole layer
VANISHED, EXPLODED = 1e-6, 1e6  # gradient relative to that of the last layer
REACHED = 1e-4  # gradient of a layer's parameters relative to that of its output
NARROW = 0.3  # steps, the half-life of next to no memory
MISSED = 0.05  # share of late steps above the resting threshold that a silenced neuron has
PARTIAL = 0.05  # share of a constant input that an average reaches within a sequence


class Inputs:
    """What the input of the network looks like.

    Args:
        values: ``[steps of all sequences, features]``.
        sequences: how many.
        axes: of the array that the user gave, those of batch and time, as code.
    """

    def __init__(self, values: np.ndarray, sequences: int, axes: str) -> None:
        self.values, self.axes = values, axes
        with np.errstate(invalid="ignore"):  # what is not finite is a problem of its own
            square = np.square(values).mean(axis=0)
            # Of a few sequences, the mean of a feature is not known, only that of all.
            self.offset = _offset(values if sequences > 3 else values.reshape(-1, 1))
            self.rms = float(square.mean() ** 0.5)
            self.uneven = bool(square.max() > 1e3 * np.median(square))
            self.constant = bool((np.ptp(values, axis=0) == 0).all())
        self.events = bool(np.isin(values, (-1, 0, 1)).all())

    @property
    def scalable(self) -> bool:
        """Whether there is anything to scale, and it is no spikes."""
        return not self.constant and not self.events

    @property
    def sign(self) -> str:
        return "never negative" if (self.values >= 0).all() else "far from 0 on average"


class Source(NamedTuple):
    """The module with weights whose output a layer receives."""

    path: str
    name: str  # of the parameter
    value: np.ndarray


class Outgrown(NamedTuple):
    """Neurons whose thresholds their own spikes have raised too far to fire again."""

    which: np.ndarray  # of the neurons
    height: float  # median of their highest thresholds, relative to the resting ones


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is known of one layer.

    Attributes:
        recording: inputs, states and outputs, ``[B, T, ...]``.
        inputs: ``[steps, neurons]``, of all sequences and places.
        membrane: the same before the reset, in thresholds where the layer fires.
        spikes: the same.
        slopes: the same of the derivative of what is emitted with respect to the membrane.
        graded: whether what is emitted takes other values than those of a step.
        finite: whether membranes and outputs are.
        levels: thresholds by name, of each neuron or one for all.
        outgrown: neurons that an adaptive threshold silences; None without one.
        half_lives: least, median and greatest in steps, by the name of the decay.
        gradients: norms of those of the output and of the layer's own parameters.
        given: the network's input if this is the first layer, and nothing before normalises.
        source: what the layer receives its input from, if this has weights.
        of_nnx: whether the model is one of nnx.
    """

    recording: Recording
    inputs: np.ndarray
    membrane: np.ndarray
    spikes: np.ndarray
    slopes: np.ndarray
    graded: bool
    finite: bool
    levels: dict[str, np.ndarray]
    outgrown: Outgrown | None
    half_lives: dict[str, tuple[float, float, float]]
    gradients: tuple[float, float]
    given: Inputs | None
    source: Source | None
    of_nnx: bool

    @property
    def spec(self) -> Spec:
        return self.recording.layer.spec

    @property
    def steps(self) -> int:
        """Of a sequence."""
        return self.recording.inputs.shape[1]

    @property
    def fires(self) -> bool:
        """Whether there are spikes to count."""
        return self.spec.fires and not self.graded

    @property
    def constant(self) -> bool:
        """Whether the input is the same at every step of all sequences."""
        return not np.ptp(self.inputs, axis=0).any()

    @property
    def thresholds(self) -> dict[str, float]:
        """Median of each by name."""
        return {name: float(np.median(level)) for name, level in self.levels.items()}

    @functools.cached_property
    def rates(self) -> np.ndarray:
        """``[2, neurons]``: positive and negative spikes per step."""
        return np.stack([(self.spikes > 0).mean(axis=0), (self.spikes < 0).mean(axis=0)])

    @property
    def dead(self) -> np.ndarray:
        """Which neurons never fire."""
        return self.rates.sum(axis=0) == 0

    @property
    def saturated(self) -> np.ndarray:
        """Which neurons fire at nearly every step."""
        return self.rates.sum(axis=0) >= SATURATED

    @property
    def stuck(self) -> float:
        """Share of the neurons that fire with one sign at nearly every step."""
        return float((self.rates.max(axis=0) >= SATURATED).mean())


Remarks = tuple[list[str], list[str]]  # problems and notes


def both(one: Remarks, other: Remarks) -> Remarks:
    """Remarks of two kinds, one after the other."""
    return one[0] + other[0], one[1] + other[1]


def of_numbers(layer: Layer, cause: str | None) -> Remarks:
    """Of a layer whose membrane or output is not finite.

    Args:
        layer: what is known of it.
        cause: what before it is not finite either.
    """
    if cause:
        return [f"Its values are not finite, since {cause} has such values already."], []
    if not np.isfinite(layer.inputs).all():
        where = f" {layer.source.path} or" if layer.source else ""
        return [f"Its input is the first not to be finite: look at{where} what is before it."], []
    dtype = next(iter(layer.recording.states.values())).dtype
    return [f"Its values are the first not to be finite: they exceed those of {dtype}."], []


# Of neurons: the dead, those that fire always, and the others.


def of_no_input(layer: Layer, before: str | None = None) -> Remarks | None:
    """Of a layer that is silent because of what is before it; None of another layer.

    Args:
        layer: what is known of it.
        before: what has a problem before it.
    """
    silent = float(layer.dead.mean()) if layer.fires else 0.0
    zero = not layer.inputs.any()
    if silent <= MOST or not layer.constant or _no_weights(layer) or not (before or zero):
        return None
    way = f"First follow the advice for {before}." if before else "Look at what is before it."
    return [
        f"{silent:.0%} of the neurons never fire, since the input of the layer is "
        f"{'0' if zero else 'the same'} at every step of all sequences. {way}"
    ], []


def of_layer(layer: Layer, after_others: bool) -> Remarks:
    """At most one problem, and notes that do not contradict it.

    A trace that averages over too much makes values small, so that this is said alone.

    Args:
        layer: what is known of it.
        after_others: whether layers ran before.
    """
    slow, fast = _averages(layer), _no_memory(layer)
    if slow:
        return slow, []
    problems, notes = _of_neurons(layer) if layer.spec.fires else _of_values(layer, after_others)
    return problems, notes + fast


def _of_neurons(layer: Layer) -> Remarks:
    counted = [_stuck, _flat, _silence, _outgrown] if layer.fires else [_flat]
    for rule in [_no_weights, _distance, *counted]:
        if problem := rule(layer):
            return [problem], []
    if not layer.fires:
        return [], []
    notes = []
    if said := _outgrown(layer, SOME):
        notes.append(said)
    if layer.dead.mean() >= SOME:
        notes.append(_few_dead(layer))
    rate = float(layer.rates.sum(axis=0).mean())
    if layer.stuck >= SOME:
        notes.append(
            f"{layer.stuck:.0%} of the neurons fire with one sign at nearly every step: they cost "
            f"energy and carry little information. {_penalty('rate')}"
        )
    elif rate > ACTIVE:
        notes.append(
            f"Its neurons fire at {rate:.0%} of the steps. This costs energy where spikes do. "
            f"{_penalty('rate')}"
        )
    return [], notes


def _no_weights(layer: Layer) -> str | None:
    """Of a layer that gets nothing but a constant, whatever is before."""
    source = layer.source
    if source is None or source.value.any() or not layer.constant:
        return None
    initial = "lecun_normal()" if source.name == "kernel" else "ones"
    return (
        f"The weights of {source.path} are 0, so that nothing passes them, and no gradient. Start "
        f"with `{source.name}_init=nn.initializers.{initial}`."
    )


def _distance(layer: Layer) -> str | None:
    """Of membranes far from the thresholds, on either side."""
    distance = float(np.median(np.abs(layer.membrane)))
    # The surrogate gradient is about as wide as a threshold of 1, also where thresholds are less.
    if distance * min(1.0, 2 * min(layer.thresholds.values())) <= FAR:
        return None
    shares = (
        f"{layer.dead.mean():.0%} of the neurons never fire, {layer.saturated.mean():.0%} fire at "
        f"nearly every step. "
    )
    return (
        f"Half of the membrane values are more than {_number(distance)} thresholds away from 0, "
        f"where the surrogate gradient is nearly 0. {shares if layer.fires else ''}"
        f"{_rescaled(layer, 1 / distance)}"
    )


def _flat(layer: Layer) -> str | None:
    """Of spikes that no gradient passes."""
    if layer.slopes.any() or not layer.spikes.any():
        return None
    return (
        "The layer fires, but no gradient passes its spikes: the derivative of its spike function "
        "is 0 at all values of its membrane. Set `spike=spikes.atan(2.0)`."
    )


def _stuck(layer: Layer) -> str | None:
    """Of neurons that fire whatever the input is."""
    silent = float(layer.dead.mean())
    if layer.stuck < SOME or layer.stuck + silent <= MOST:
        return None
    also = f" and {silent:.0%} never fire" if silent else ""
    said = f"{layer.stuck:.0%} of the neurons fire with one sign at nearly every step{also}."
    level = float(np.median(np.abs(layer.membrane[:, ~layer.dead])))
    return f"{said} {_rescaled(layer, min(0.5, 1 / level))}"


def _silence(layer: Layer) -> str | None:
    """Of a layer in which most neurons never fire."""
    share = float(layer.dead.mean())
    if share <= MOST:
        return None
    below, weak, slope = _dead(layer)
    if len(below) > len(weak):
        return _negative(layer, below)
    peak, (of_output, of_own) = float(np.median(weak)), layer.gradients
    trained = any(p.learnable for p in layer.recording.layer.describe())
    # A small input is the cause even where training could make up for it: that takes longer.
    if not _faint(layer.given) and _reached(weak, slope):
        if of_own > REACHED * of_output or not trained:
            return None
    return (
        f"{share:.0%} of the neurons never fire. Of half of these the membrane reaches at most "
        f"{_number(peak)} thresholds. {_rescaled(layer, 3 / max(peak, 1e-3))}"
    )


def _outgrown(layer: Layer, least: float = MOST) -> str | None:
    """Of neurons that an adaptive threshold silences, if they are at least a share of all."""
    if layer.outgrown is None or layer.outgrown.which.mean() < least:
        return None
    cell, (which, height) = layer.recording.layer, layer.outgrown
    weight = float(np.median(np.asarray(layer.recording.parameters["adapt_weight"])))
    value = f"{weight / max(height - 1, 2.0):.2g}"
    code = f"flex.Weight({value})" if isinstance(cell, AbstractLeakyIntegrator) else value
    return (
        f"{which.mean():.0%} of the neurons fire at first and not in the second half of a "
        f"sequence, though the membrane is above the resting threshold there: their spikes have "
        f"raised it up to {_number(height)} times. Set `adapt_weight={code}`."
    )


def _few_dead(layer: Layer) -> str:
    """Of neurons that never fire, where the others do, or where all nearly do."""
    below, weak, slope = _dead(layer)
    if len(below) > len(weak):
        return _negative(layer, below)
    said = (
        f"{layer.dead.mean():.0%} of the neurons never fire on this batch. Of half of these the "
        f"membrane reaches {_number(float(np.median(weak)))} thresholds"
    )
    penalty = _penalty("silence")
    if _reached(weak, slope):
        way = _lower_first(penalty)
        return f"{said}, so that training can make them fire. If it does not: {way}"
    high = {
        name: 1.0
        for name, level in layer.levels.items()
        if np.median(np.broadcast_to(level, layer.dead.shape)[layer.dead]) > 1
    }
    if high:
        way = f"Set {_thresholds(layer, high)}."
    else:
        way = penalty if np.median(slope) >= SLOPE else "Set `spike=spikes.atan(2.0)`."
    return (
        f"{said}, where the derivative of the spike is {_number(float(np.median(slope)))}: "
        f"training alone may not make them fire. {way}"
    )


def _faint(given: Inputs | None) -> bool:
    """Whether the network's input is small, and not of spikes."""
    return given is not None and given.scalable and given.rms < FAINT


def _reached(weak: np.ndarray, slope: np.ndarray) -> bool:
    """Whether training can make neurons fire whose membranes and derivatives reach this."""
    return bool(np.median(weak) >= REACH and np.median(slope) >= SLOPE)


def _dead(layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of dead neurons, the medians of those driven away from the threshold, and others' peaks.

    The last are the greatest derivatives of these others.
    """
    membrane, slope = layer.membrane[:, layer.dead], layer.slopes[:, layer.dead].max(axis=0)
    up, down = layer.spec.thresholds
    if up and down:
        return np.zeros(0), np.abs(membrane).max(axis=0), slope
    towards = membrane if up else -membrane
    median, peak = np.median(towards, axis=0), towards.max(axis=0)
    away = median < -np.maximum(peak, SMALL)
    return median[away], peak[~away], slope[~away]


def _negative(layer: Layer, below: np.ndarray) -> str:
    given = layer.given
    if given and not given.constant and given.offset > MOST / 2:
        way = (
            f"The input is {given.sign}. Subtract the mean of the training set: "
            f"`xs = xs - xs.mean({given.axes})`."
        )
    else:
        way = _normalised(layer)
    return (
        f"{layer.dead.mean():.0%} of the neurons never fire. The membrane of most of these is on "
        f"the other side of 0 than the threshold, half of the time by more than "
        f"{_number(-float(np.median(below)))} thresholds. {way}"
    )


def _of_values(layer: Layer, after_others: bool) -> Remarks:
    """Of a layer that does not fire: its values, in their own unit."""
    if said := _no_weights(layer):
        # They are trained nevertheless, but layers before them not until then.
        return ([said], []) if after_others else ([], [said])
    level = float(np.percentile(np.abs(layer.membrane), 95))
    given = layer.given
    if level > GREAT:
        said = f"5 % of its values are beyond ±{_number(level)}."
        if given and given.rms > GREAT / 10:
            return [f"{said} {_standardised(given)}"], []
        return [], [
            f"{said} If they are logits, their softmax is 0 or 1 and passes little gradient on. "
            f"{_rescaled(layer, 1 / level)}"
        ]
    if given and 0 < given.rms < 3 * SMALL and level < SMALL:
        said = f"95 % of its values are within ±{_number(level)}."
        return [f"{said} {_standardised(given)}"], []
    return [], []


# What to change.


def _rescaled(layer: Layer, factor: float) -> str:
    """How to multiply the membrane by a factor, as measured in thresholds."""
    given, source = layer.given, layer.source
    if given and given.scalable:
        odd = given.rms < FAINT if factor > 1 else given.rms > 3 or given.offset > MOST
        if odd:
            return _standardised(given)
    if factor < 1 and (weights := _feedback(layer)):
        return weights
    if factor < 1 and _offset(layer.inputs) > MOST and not (given and given.constant):
        return _normalised(layer)
    levels = {name: level / factor for name, level in layer.thresholds.items()}
    moved = [level > 1 if factor > 1 else level < 1 for level in layer.thresholds.values()]
    if moved and all(moved) and (factor > 1 or max(levels.values()) < 3):
        if factor > 1:  # back to the default, if that is enough
            levels = {name: min(level, 1.0) for name, level in levels.items()}
        return f"Set {_thresholds(layer, levels)}."
    if source is None:
        what = f"the input by {factor:.2g}: `xs = {factor:.2g} * xs`"
        return f"Multiply {what if given else f'what the layer receives by {factor:.2g}'}."
    code = "variables = training.scale_to_rate(model, variables, xs)"
    code = "training.scale_to_rate(model, xs)" if layer.of_nnx else code
    to_rate = f"of all layers to a firing rate on this batch: `{code}`"
    if factor > MUCH and layer.fires:
        return f"Scale the weights {to_rate}."
    if source.name == "scale":
        value = factor * float(np.median(np.abs(source.value)))
        code = f"scale_init=nn.initializers.constant({value:.2g})"
    else:
        fan_in = source.value.size / source.value.shape[-1]
        gain = factor**2 * fan_in * float(np.square(source.value).mean()) or 1.0
        code = f'kernel_init=nn.initializers.variance_scaling({gain:.2g}, "fan_in", "normal")'
    way = f"Multiply the weights of {source.path} by {factor:.2g}: start with `{code}`"
    if factor > 1 and levels:
        way = f"{way}, or set {_thresholds(layer, levels)}"
    if layer.fires:
        way = f"{way}, or scale those {to_rate}"
    return f"{way}."


def _feedback(layer: Layer) -> str | None:
    """How to stop neurons that their own spikes keep firing."""
    values, cell = layer.recording.parameters, layer.recording.layer
    names = [name for name in layer.spec.parameters if name.endswith("rec_weight")]
    weights = [float(np.median(np.asarray(values[name]))) for name in names]
    drive = max(weights, default=0.0) * float(layer.rates.max(axis=0).mean())
    if drive <= max(min(layer.thresholds.values(), default=0.0), np.median(np.abs(layer.inputs))):
        return None
    zero = "flex.Weight(0.0)" if isinstance(cell, AbstractLeakyIntegrator) else "0.0"
    code = " and ".join(f"`{cell.setting(name)[0]}={zero}`" for name in names)
    return f"Their own spikes keep the neurons firing. Set {code}."


def _offset(values: np.ndarray) -> float:
    """Share of the mean square of ``[steps, features]`` that is due to each feature's mean."""
    return float(np.square(values.mean(axis=0)).mean() / max(np.square(values).mean(), 1e-300))


def _normalised(layer: Layer) -> str:
    if layer.source and layer.source.name == "scale":
        return (
            f"{layer.source.path} normalises the input already, but cannot take away what hardly "
            f"changes from step to step: look at what is before it."
        )
    return "Put `nn.LayerNorm()` before the layer."


def _standardised(given: Inputs) -> str:
    deviation = f"(xs.std({given.axes}) + 1e-6)" if given.uneven else "xs.std()"
    offset = f" and it is {given.sign}" if given.offset > MOST / 2 else ""
    return (
        f"The input has a root mean square of {_number(given.rms)}{offset}. Subtract the mean of "
        f"the training set and divide by its deviation: "
        f"`xs = (xs - xs.mean({given.axes})) / {deviation}`."
    )


def _thresholds(layer: Layer, levels: dict[str, float]) -> str:
    cell = layer.recording.layer
    wrap = "flex.Threshold({:.2g})" if isinstance(cell, AbstractLeakyIntegrator) else "{:.2g}"
    return " and ".join(
        f"`{cell.setting(name)[0]}={wrap.format(level)}`" for name, level in levels.items()
    )


# Traces and gradients.


def _decays(layer: Layer) -> dict[str, bool]:
    """Decays on the way of the input to the membrane, and whether they average."""
    traces = ((layer.spec.synapse, "alpha"), (layer.spec.membrane, "beta"))
    return {
        name: averages
        for trace, root in traces
        if trace
        for name, averages in zip(channel_names(root, trace.dual), trace.averages, strict=True)
    }


def _averages(layer: Layer) -> list[str]:
    """Of traces that average over too many steps to reach much."""
    said = []
    for name, averages in _decays(layer).items():
        label, median = layer.recording.layer.setting(name)[0], layer.half_lives[name][1]
        reached = 1 - 0.5 ** (layer.steps / median) if median else 1.0
        if averages and reached < PARTIAL:
            said.append(
                f"Half of `{label}` average over many more steps than the {layer.steps} of a "
                f"sequence (half-life {_number(median)} steps), and reach {reached:.1%} of a "
                f"constant input. Set {_decay(layer, label, layer.steps / 4)}."
            )
    return said


def _no_memory(layer: Layer) -> list[str]:
    """Of a layer that keeps nothing."""
    longest = max(layer.half_lives[name][1] for name in _decays(layer))
    if longest >= NARROW or layer.steps < 2:
        return []
    names = channel_names("beta", layer.spec.membrane.dual)
    code = [_decay(layer, layer.recording.layer.setting(name)[0], 5.0) for name in names]
    return [
        f"The layer keeps next to nothing from one step to the next (half-life {longest:.2g} "
        f"steps). If the task needs memory, set {' and '.join(code)}."
    ]


def _decay(layer: Layer, name: str, half_life: float) -> str:
    value = f"{float(halflife_to_decay(max(half_life, 1.0))):.2g}"
    flex = isinstance(layer.recording.layer, AbstractLeakyIntegrator)
    return f"`{name}={f'flex.Decay({value})' if flex else value}`"


def of_gradient(gradient: float, last: float, earlier: list[float], after: str | None) -> Remarks:
    """Of the gradient that reaches a layer's output.

    Args:
        gradient: its norm.
        last: that of the last layer.
        earlier: those of the layers before, of which the first speaks for all.
        after: path of a later layer that has a problem of its own.
    """
    first = f" First follow the advice for {after}." if after else ""
    if not math.isfinite(gradient):
        way = " Look in `loss` for a root or a logarithm of 0."
        return [f"Its gradient is not finite.{first or way}"], []
    if gradient == 0:
        way = (
            " The loss does not depend on it, or weights after it or the derivative of a spike "
            "function after it are 0."
        )
        return [f"No gradient reaches it.{first or way}"], []
    if gradient < VANISHED * last and not any(0 < g < VANISHED * last for g in earlier):
        way = " Set `spike=spikes.atan(1.0)` in the layers after it."
        said = f"Its gradient vanishes: it is {gradient / last:.0e} of that of the last layer."
        return [said + (first or way)], []
    if gradient > EXPLODED * last > 0 and not any(g > EXPLODED * last for g in earlier):
        way = " Set `kernel_init=nn.initializers.lecun_normal()` in the modules after it."
        said = f"Its gradient explodes: it is {gradient / last:.0e} times that of the last layer."
        return [said + (first or way)], []
    return [], []


def _penalty(name: str) -> str:
    code = {
        "silence": "losses.silence_penalty(spikes, min_rate=0.05)",
        "rate": "losses.rate_penalty(spikes, max_rate=0.2)",
    }[name]
    return f"Add `{code}` of the layer's output to the loss."


def _lower_first(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _number(value: float) -> str:
    """Two digits, without an exponent where that is short."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.2g}"
