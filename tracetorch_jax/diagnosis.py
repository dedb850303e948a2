"""Why does it not train? One table over the trace layers of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import metrics
from tracetorch_jax._checks import check_linen
from tracetorch_jax.functional import DECAY
from tracetorch_jax.functional.constraints import half_life
from tracetorch_jax.recording import Recording, each_unrolled, record
from tracetorch_jax.snn import Unroll

__all__ = ["Diagnosis", "LayerReport", "diagnose"]

# From what on a layer is remarked upon.
DEAD = 0.5  # share of neurons that never fire
SATURATED = 0.1  # share of neurons that fire at nearly every step
ACTIVE = 0.4  # spikes per step of the whole layer
VANISHED, EXPLODED = 1e-4, 1e4  # gradient relative to that of the last layer
NARROW = 0.3  # steps, the half-life of next to no memory


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What `diagnose` says of one trace layer.

    Attributes:
        path: where the layer is in the model.
        layer: its name, such as ``SLIB``.
        rate: spikes per step and neuron, positive and negative; None where the layer has no spikes.
        dead: share of neurons that never fired, in [0, 1]; None without spikes.
        saturated: share of neurons that fired in at least 9 of 10 steps; None without spikes.
        membrane: 5th, 50th and 95th percentile of the membrane before what it fired was taken from
            it, as a fraction of the threshold of its sign; in its own unit without spikes.
        half_lives: for each decay its least, median and greatest half-life in steps.
        gradient: norm of the loss's gradient with respect to the layer's output.
        parameter_gradient: norm of the gradient with respect to the layer's own parameters.
        advice: what is wrong and what to change.
    """

    path: str
    layer: str
    rate: tuple[float, float] | None
    dead: float | None
    saturated: float | None
    membrane: tuple[float, float, float]
    half_lives: dict[str, tuple[float, float, float]]
    gradient: float
    parameter_gradient: float
    advice: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` gives: a report of every trace layer; ``print`` shows a table.

    Attributes:
        layers: a `LayerReport` each, in the order in which they run.
        loss: the loss that the gradients are of.
    """

    layers: tuple[LayerReport, ...]
    loss: float

    @property
    def healthy(self) -> bool:
        """Whether nothing was remarked upon."""
        return all(report.advice == _FINE for report in self.layers)

    def __str__(self) -> str:
        head = ("layer", "rate + / -", "dead", "satur.", "membrane 5/50/95 %", "half-life")
        rows = [(*head, "gradient", "of params")]
        for report in self.layers:
            rows.append(
                (
                    f"{report.path} {report.layer}",
                    "" if report.rate is None else " / ".join(f"{r:.3f}" for r in report.rate),
                    "" if report.dead is None else f"{report.dead:.0%}",
                    "" if report.saturated is None else f"{report.saturated:.0%}",
                    " ".join(f"{m:.2f}" for m in report.membrane),
                    _slowest(report.half_lives),
                    f"{report.gradient:.1e}",
                    f"{report.parameter_gradient:.1e}",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines.append("")
        lines += [f"{report.path}: {report.advice}" for report in self.layers]
        return "\n".join(lines)


def diagnose(
    model: nn.Module,
    variables: Any,
    xs: Any,
    *args: Any,
    loss: Callable[[Any], jax.Array] | None = None,
    **kwargs: Any,
) -> Diagnosis:
    """Run a model on a batch, forward and backward, and say of each trace layer how it does.

    Args:
        model: a module that runs trace layers through `tracetorch_jax.snn.Unroll`.
        variables: its variables, with a collection ``params``.
        xs: the batch of inputs, ``[B, T, ...]``.
        *args: further arguments of the model.
        loss: from the model's output to the scalar whose gradients are shown, such as ``lambda ys:
            losses.cross_entropy(ys, labels).mean()``; by default the mean of the output under
            fixed random weights.
        **kwargs: keyword arguments of ``model.apply``, such as `seq_lengths` or `rngs`.

    Returns:
        A `Diagnosis`: print it, or look into its `layers`.

    Raises:
        TypeError: `model` is a cell or no linen module; a loss that is no floating-point number.
        ValueError: no trace layer of the model was run by `Unroll`; a loss that is no scalar; an
            empty batch.

    Example:
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(4), snn.LIB(4, threshold=1e3)]))
        >>> xs = jnp.ones((2, 10, 3))
        >>> diagnosis = tt.diagnose(model, model.init(jax.random.key(0), xs), xs)
        >>> print(diagnosis.layers[0].advice)
        100% of the neurons never fire: ...
    """
    check_linen("model", model)
    if not all(np.size(leaf) for leaf in jax.tree.leaves(xs)):
        shape = jax.tree.map(np.shape, xs)
        raise ValueError(f"`xs` must hold at least one step of one sequence; got shape {shape}.")
    outputs, recordings = record(model, variables, xs, *args, **kwargs)
    measure = _probe if loss is None else loss
    _check_loss(measure(outputs))
    # A zero added to each layer's output: the gradient with respect to it is that of the output.
    taps = {path: jnp.zeros_like(_time_first(each)) for path, each in recordings.items()}

    def run(params: Any, taps: dict[str, jax.Array], rest: Any, xs: Any) -> jax.Array:
        with nn.intercept_methods(each_unrolled(lambda path, _, __, ys: ys + taps[path])):
            out = model.apply({**rest, "params": params}, xs, *args, **kwargs)
        return measure(out[0] if kwargs.get("mutable") else out)

    value, (of_params, of_outputs) = jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(
        variables.get("params", {}), taps, variables, xs
    )
    norms = {path: _norm([g]) for path, g in of_outputs.items()}
    last = norms[list(recordings)[-1]]
    lengths = kwargs.get("seq_lengths")
    if isinstance(model, Unroll) and len(args) > 1:
        lengths = args[1]
    reports = []
    for path, recording in recordings.items():
        own = of_params
        for name in path.split("/") if path else []:
            own = own[name] if name in own else {}
        of_own = _norm(jax.tree.leaves(own))
        reports.append(_report(path, recording, lengths, norms[path], of_own, last))
    return Diagnosis(tuple(reports), float(value))


def _check_loss(value: Any) -> None:
    """Raise unless a value can be differentiated."""
    if not isinstance(value, (float, jax.Array, np.ndarray, np.generic)):
        got = type(value).__name__
    elif not jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating):
        got = str(jnp.asarray(value).dtype)
    elif jnp.shape(value):
        raise ValueError(f"`loss` must give a scalar; got shape {jnp.shape(value)}.")
    else:
        return
    raise TypeError(f"`loss` must give a floating-point number; got {got}.")


def _report(
    path: str,
    recording: Recording,
    seq_lengths: Any,
    gradient: float,
    parameter_gradient: float,
    last_gradient: float,
) -> LayerReport:
    spec = recording.layer.spec
    values = {name: np.asarray(value) for name, value in recording.parameters.items()}
    half_lives = {}
    for name, constraint in spec.parameters.items():
        if constraint is DECAY:
            steps = half_life(values[name])
            half_lives[name] = float(steps.min()), float(np.median(steps)), float(steps.max())
    if recording.inputs.ndim == 1 + recording.layer.num_feature_axes:  # a batch of one
        lone = (recording.inputs, recording.outputs, recording.states)
        inputs, outputs, states = jax.tree.map(lambda x: x[None], lone)
        recording = recording._replace(inputs=inputs, outputs=outputs, states=states)
        seq_lengths = None if seq_lengths is None else np.reshape(seq_lengths, 1)
    with np.errstate(invalid="ignore"):  # what is not finite is reported below
        membrane = _membrane(recording, values)
    if seq_lengths is not None:
        within = np.arange(membrane.shape[1]) < np.asarray(seq_lengths)[:, None]
        membrane = membrane[within] if within.any() else np.zeros(1)
    finite = bool(np.isfinite(membrane).all()) and _finite(recording.outputs)
    percentiles: tuple[float, ...] = (np.nan,) * 3
    if finite:
        percentiles = tuple(float(q) for q in np.percentile(membrane, (5, 50, 95)))
    rate = dead = saturated = None
    if spec.fires:
        spikes = recording.outputs
        if spikes.ndim > 2:
            spikes = jnp.moveaxis(spikes, recording.layer.dim, -1)
        rates = metrics.spike_rate(spikes, seq_lengths=seq_lengths)
        positive, negative = np.asarray(rates.positive), np.asarray(rates.negative)
        # Where neurons are spread over space, one that fires anywhere is alive.
        total = (positive + negative).reshape(-1, positive.shape[-1])
        rate = float(positive.mean()), float(negative.mean())
        dead = float((total.max(axis=0) == 0).mean())
        saturated = float((total.mean(axis=0) >= 0.9).mean())
    report = LayerReport(
        path=path,
        layer=type(recording.layer).__name__,
        rate=rate,
        dead=dead,
        saturated=saturated,
        membrane=percentiles,  # type: ignore[arg-type]
        half_lives=half_lives,
        gradient=gradient,
        parameter_gradient=parameter_gradient,
        advice="",
    )
    length = recording.inputs.shape[1]
    return dataclasses.replace(report, advice=_advice(report, finite, length, last_gradient))


_FINE = "nothing remarkable."


def _advice(report: LayerReport, finite: bool, steps: int, last_gradient: float) -> str:
    """Sentences on what is wrong and what to change."""
    said = []
    if not finite:
        return (
            "its membrane or output is not finite: look for inputs that are not, for a learning "
            "rate that is too great, or clip the gradient's norm."
        )
    if report.dead is not None and report.dead > DEAD:
        said.append(
            f"{report.dead:.0%} of the neurons never fire: 95 % of the time their membranes are "
            f"below {report.membrane[2]:.2g} of the threshold. Lower `threshold`, start the layer "
            f"before with greater weights, or add losses.silence_penalty."
        )
    if report.saturated is not None and report.saturated > SATURATED:
        said.append(
            f"{report.saturated:.0%} of the neurons fire at nearly every step and tell little: "
            f"raise `threshold`, start the layer before with smaller weights, or add "
            f"losses.rate_penalty."
        )
    elif report.rate is not None and sum(report.rate) > ACTIVE:
        said.append(
            f"it fires at {sum(report.rate):.0%} of all steps, which is hardly sparse: raise "
            f"`threshold`, or add losses.rate_penalty."
        )
    for name, (least, median, _) in report.half_lives.items():
        if median > steps:
            said.append(
                f"half of `{name}` forget more slowly than the {steps} steps of a sequence (half "
                f"after {median:.3g}): start it lower, see functional.halflife_to_decay."
            )
        if least < NARROW and median < NARROW:
            said.append(
                f"`{name}` keeps next to nothing from one step to the next (half-life "
                f"{median:.2g} steps): start it higher, see functional.halflife_to_decay."
            )
    if not np.isfinite(report.gradient):
        said.append("its gradient is not finite: lower the learning rate or clip the norm.")
    elif report.gradient == 0:
        said.append(
            "no gradient reaches it: the layers after it are silent far below their thresholds, or "
            "the loss does not depend on it. A wider surrogate (spikes.atan(1.0)) reaches farther."
        )
    elif report.gradient < VANISHED * last_gradient:
        said.append(
            f"its gradient is {report.gradient / last_gradient:.0e} of the last layer's: it "
            f"vanishes on the way. Use a wider surrogate, residual connections, or fewer layers."
        )
    elif report.gradient > EXPLODED * last_gradient > 0:
        said.append(
            f"its gradient is {report.gradient / last_gradient:.0e} times the last layer's: it "
            f"explodes on the way. Clip the norm, use a narrower surrogate, or lower decays."
        )
    return " ".join(said[:1] + [each[0].upper() + each[1:] for each in said[1:]]) or _FINE


def _membrane(recording: Recording, values: dict[str, np.ndarray]) -> np.ndarray:
    """Membranes before the reset, in thresholds of their sign where the layer fires."""
    layer, states = recording.layer, recording.states
    parts = [np.asarray(v, np.float64) for k, v in states.items() if k.split("_")[-1] == "mem"]
    membrane = sum(parts[1:], parts[0])
    if not layer.spec.fires:
        return membrane
    names = layer.spec.thresholds
    trailing = (1,) * (-layer.dim - 1)

    def level(name: str) -> np.ndarray:
        value = values[name].astype(np.float64)
        return value.reshape(value.shape + trailing) if value.ndim else value

    up, down = (level(name or other or "") for name, other in (names, names[::-1]))
    spikes = np.sign(np.asarray(recording.outputs, np.float64))
    membrane = membrane + np.maximum(spikes, 0) * up + np.minimum(spikes, 0) * down
    return np.where(membrane > 0, membrane / up, membrane / down)


def _finite(xs: jax.Array) -> bool:
    return bool(np.isfinite(np.asarray(xs, np.float64)).all())


def _norm(gradients: list[jax.Array]) -> float:
    """Euclidean norm of all of them together."""
    return float(sum(np.square(np.asarray(g, np.float64)).sum() for g in gradients) ** 0.5)


def _slowest(half_lives: dict[str, tuple[float, float, float]]) -> str:
    """Range of the slowest decay's half-lives."""
    if not half_lives:
        return ""
    name = max(half_lives, key=lambda key: half_lives[key][1])
    least, _, greatest = half_lives[name]
    return f"{name} {least:.3g} to {greatest:.3g}"


def _time_first(recording: Recording) -> jax.Array:
    """A recording's output in the order of axes in which the layer gave it."""
    batched = recording.outputs.ndim > 1 + recording.layer.num_feature_axes
    return jnp.moveaxis(recording.outputs, 1, 0) if batched else recording.outputs


def _probe(outputs: Any) -> jax.Array:
    """A loss to which every output matters, also one that is 0: a fixed random weighting."""
    parts = [
        (leaf * jax.random.normal(jax.random.key(i), leaf.shape, leaf.dtype)).mean()
        for i, leaf in enumerate(jax.tree.leaves(outputs))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return sum((part.astype(jnp.float32) for part in parts), jnp.zeros(()))
