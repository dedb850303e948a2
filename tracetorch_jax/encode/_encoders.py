"""Encoders of samples and of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tracetorch_jax._shared.axes import (
    add_time,
    check_positive,
    check_values,
    plain,
    real,
    time_first,
)
from tracetorch_jax._shared.checks import check_choice, check_integer
from tracetorch_jax._shared.dtypes import countable
from tracetorch_jax.functional.engines.masks import steps_of, zero_padding
from tracetorch_jax.spikes import keep_nan


def constant(values: ArrayLike, num_steps: int, *, time_major: bool = False) -> jax.Array:
    """Repeat the same values at every step, as an input current.

    A Dense or a convolution that gets it computes the same at every step.
    ``Unroll(cell, hold=num_steps)`` of ``values[:, None]`` gives the same and computes that once.

    Args:
        values: ``[B, ...]``.
        num_steps: T.
        time_major: whether to give ``[T, B, ...]``.

    Returns:
        ``[B, T, ...]``, of the dtype of `values` if that is floating, else float32.

    Raises:
        ValueError: `num_steps` below 1.
        TypeError: `values` are not real, or `num_steps` is no integer.

    Example:
        >>> encode.constant(jnp.ones((8, 3)), 5).shape
        (8, 5, 3)
    """
    values = real("values", values)
    axis = add_time(values, time_major)
    return jnp.repeat(jnp.expand_dims(values, axis), check_integer("num_steps", num_steps), axis)


def rate(
    key: jax.Array,
    values: ArrayLike,
    num_steps: int,
    *,
    signed: bool = False,
    time_major: bool = False,
) -> jax.Array:
    """Rate coding: at each step a spike with the probability of the value (Bernoulli).

    Args:
        key: PRNG key; the same key gives the same spikes.
        values: ``[B, ...]`` probabilities of a spike per step, in [0, 1].
        num_steps: T.
        signed: whether values may lie in [-1, 1], the negative ones giving spikes of -1 with
            probability ``-value``, as ternary layers take them.
        time_major: whether to give ``[T, B, ...]``.

    Returns:
        ``[B, T, ...]`` of 0 and 1 (and -1), of the dtype of `values` if that is floating, else
        float32.

    Raises:
        ValueError: a value outside its range, or `num_steps` below 1.
        TypeError: `values` are not real, or `num_steps` is no integer.

    Example:
        >>> spikes = encode.rate(jax.random.key(0), jnp.array([0.0, 0.5, 1.0]), 1000)
        >>> spikes.shape, spikes.mean(axis=0).round(1).tolist()
        ((1000, 3), [0.0, 0.5, 1.0])
    """
    values = real("values", values)
    low, rule = (-1, "lie in [-1, 1]") if signed else (0, "lie in [0, 1]")
    check_values("values", values, lambda v: (v >= low) & (v <= 1), rule)
    steps = check_integer("num_steps", num_steps)
    axis = add_time(values, time_major)
    shape = (*values.shape[:axis], steps, *values.shape[axis:])
    values = jnp.broadcast_to(jnp.expand_dims(values, axis), shape)
    likely = countable(jnp.abs(values))  # half precision would round small probabilities
    fires = jax.random.uniform(key, shape, likely.dtype) < likely
    return keep_nan(jnp.where(fires, jnp.sign(values), jnp.zeros_like(values)), values)


def latency(
    values: ArrayLike,
    num_steps: int,
    *,
    scale: Literal["linear", "log"] = "linear",
    threshold: float = 0.01,
    time_major: bool = False,
) -> jax.Array:
    """One spike per value: greater values fire earlier (latency coding).

    A value of 1 fires at step 0, one of `threshold` at the last step, what lies between, rounded,
    at

        (T - 1) (1 - value) / (1 - threshold)           scale="linear"
        (T - 1) log(value) / log(threshold)             scale="log"

    and what is smaller does not fire. On the logarithmic scale equal ratios are equal delays, so
    that a change of contrast shifts all spikes alike (Hopfield, Nature 376, 1995).

    Args:
        values: ``[B, ...]`` in [0, 1].
        num_steps: T.
        scale: ``"linear"`` or ``"log"``.
        threshold: smallest value that fires, in (0, 1).
        time_major: whether to give ``[T, B, ...]``.

    Returns:
        ``[B, T, ...]`` of 0 and 1, of the dtype of `values` if that is floating, else float32.

    Raises:
        ValueError: a value outside [0, 1], `threshold` outside (0, 1), `num_steps` below 1, or an
            unknown `scale`.
        TypeError: `values` are not real, or `num_steps` is no integer.

    Example:
        >>> encode.latency(jnp.array([1.0, 0.5, 0.0]), 3, threshold=0.1).T.tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    values = real("values", values)
    check_values("values", values, lambda v: (v >= 0) & (v <= 1), "lie in [0, 1]")
    check_choice("scale", scale, ("linear", "log"))
    if not 0 < threshold < 1:
        raise ValueError(f"`threshold` must lie strictly between 0 and 1; got {threshold!r}.")
    steps = check_integer("num_steps", num_steps)
    dtype = values.dtype
    threshold = check_positive("threshold", threshold, dtype)
    values = countable(values)
    inside = jnp.clip(values, threshold, 1)
    if scale == "linear":
        delay = (1 - inside) / (1 - threshold)
    else:
        delay = jnp.log(inside) / plain(np.log(threshold), values.dtype)
    fires = values >= jnp.asarray(threshold, dtype).astype(values.dtype)
    when = jnp.where(fires, jnp.round((steps - 1) * delay), -1).astype(jnp.int32)
    axis = add_time(values, time_major)
    out = jax.nn.one_hot(when, steps, dtype=dtype, axis=axis)
    return keep_nan(out, jnp.expand_dims(values, axis))


def delta(
    xs: ArrayLike, threshold: ArrayLike, *, signed: bool = True, time_major: bool = False
) -> jax.Array:
    """Spike where a signal changes by at least `threshold` from one step to the next.

    The signal counts as 0 before the first step. Slow changes never fire; `level_crossing`
    remembers them.

    Args:
        xs: ``[B, T, ...]``.
        threshold: greater than 0; a scalar, or of a shape that broadcasts against a step.
        signed: whether a fall gives -1; else it gives nothing.
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        Of the shape of `xs`: 1, 0 and, with `signed`, -1; of its dtype if floating, else float32.

    Raises:
        ValueError: `xs` has fewer than two axes or is not finite, or `threshold` is not greater
            than 0.
        TypeError: `xs` are not real.

    Reference: ``spikegen.delta`` of snnTorch, with `signed` its ``off_spike``.

    Example:
        >>> encode.delta(jnp.array([[0.0], [0.6], [0.8], [0.1]]), 0.5)[:, 0].tolist()
        [0.0, 1.0, 0.0, -1.0]
    """
    steps, dtype = _signal(xs, time_major)
    level = _level(threshold, steps)
    before = jnp.concatenate([jnp.zeros_like(steps[:1]), steps[:-1]])
    change = steps - before
    level = jnp.broadcast_to(level, change.shape)
    up, down = (change >= level).astype(dtype), (change <= -level).astype(dtype)
    return _as_given(keep_nan(up - down if signed else up, change, level), time_major)


def level_crossing(
    xs: ArrayLike,
    threshold: ArrayLike,
    *,
    counts: bool = False,
    time_major: bool = False,
) -> jax.Array:
    """Spike, up or down, when a signal has moved by `threshold` since its last spike.

        change = x - level
        out    = trunc(change / threshold)      # clipped to -1, 0, 1 unless `counts`
        level  = level + threshold * out

    Each channel follows its signal by a staircase, starting at the first step's value, so that
    ``xs[0] + threshold * cumsum(out)`` gives the signal back to within `threshold` (with `counts`,
    or where it moves by no more than `threshold` per step). Made for ternary layers. It is also
    known as send-on-delta or asynchronous delta modulation (Corradi & Indiveri, IEEE Trans. Biomed.
    Circuits Syst. 9, 2015).

    Args:
        xs: ``[B, T, ...]``.
        threshold: greater than 0; a scalar, or of a shape that broadcasts against a step.
        counts: whether several crossings within one step are counted rather than taken one per
            step.
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        Of the shape of `xs`: -1, 0 and 1, of its dtype if floating, else float32. With `counts`,
        whole numbers, in float32 also where the dtype of `xs` is narrower.

    Raises:
        ValueError: `xs` has fewer than two axes or is not finite, or `threshold` is not greater
            than 0.
        TypeError: `xs` are not real.

    Example:
        >>> values = jnp.array([[0.0], [0.3], [0.6], [0.4], [-0.1]])
        >>> encode.level_crossing(values, 0.5)[:, 0].tolist()
        [0.0, 0.0, 1.0, 0.0, -1.0]
    """
    steps, dtype = _signal(xs, time_major)
    size = _level(threshold, steps)[0]

    def step(level: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = jnp.trunc((x - level) / size)
        out = out if counts else jnp.clip(out, -1, 1)
        out = jnp.where(out == 0, jnp.zeros_like(out), out)  # no -0
        return level + size * out, out

    _, out = jax.lax.scan(step, steps[0], steps) if steps.shape[0] != 0 else (None, steps)
    return _as_given(out if counts else out.astype(dtype), time_major)


def population(
    values: ArrayLike, num_neurons: int, *, low: float, high: float, width: float | None = None
) -> jax.Array:
    """Population coding: each value as the activity of neurons that prefer different values.

    Neuron ``i`` of a value has its Gaussian tuning curve's centre at
    ``low + i (high - low) / (num_neurons - 1)`` and answers with ``exp(-(value - centre)^2 / (2
    width^2))``. Hand the result to `rate`, `latency` or `constant`. After Bohte, Kok and La Poutré
    (Neurocomputing 48, 2002).

    Args:
        values: ``[..., F]`` features, of which each gets `num_neurons` neurons.
        num_neurons: neurons per feature, at least 2.
        low: centre of the first neuron.
        high: centre of the last neuron, greater than `low`.
        width: standard deviation of the tuning curves, greater than 0; by default the distance of
            neighbouring centres.

    Returns:
        ``[..., F * num_neurons]`` in [0, 1], the neurons of a feature side by side.

    Raises:
        ValueError: `num_neurons` below 2, `low` not below `high`, `width` not greater than 0, or
            `values` without a feature axis.
        TypeError: `values` are not real, or `num_neurons` is no integer.

    Example:
        >>> encode.population(jnp.array([0.5]), 3, low=0.0, high=1.0).round(2).tolist()
        [0.61..., 1.0, 0.61...]
    """
    values = real("values", values)
    if not values.ndim:
        raise ValueError("`values` must have an axis of features; got a scalar.")
    neurons = check_integer("num_neurons", num_neurons, 2)
    low, high = plain(low), plain(high)
    if not low < high:
        raise ValueError(f"`low` must be less than `high`; got {low!r} and {high!r}.")
    if width is None:
        width = (high - low) / (neurons - 1)
    wide = countable(values)
    width = check_positive("width", width, wide.dtype)
    low, high = plain(low, wide.dtype), plain(high, wide.dtype)
    centres = jnp.linspace(low, high, neurons, dtype=wide.dtype)
    distance = (wide[..., None] - centres.reshape((1,) * values.ndim + (-1,))) / width
    activity = jnp.exp(-(distance**2) / 2).reshape(*values.shape[:-1], -1)
    return activity.astype(values.dtype)


def windows(
    xs: ArrayLike,
    width: int,
    *,
    stride: int = 1,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Stack the last steps of a signal, so that a layer sees how it changes.

    A Dense layer after it is a convolution over time. With a stride there are fewer steps to run,
    and states last longer. What is before the first step and after the last one is 0.

    Args:
        xs: ``[B, T, ...]``.
        width: steps in a window.
        stride: steps between the ends of windows. The first window ends at step ``stride - 1``.
        seq_lengths: ``[B]`` integers in [0, T]: what is beyond them counts as 0.
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        ``[B, ceil(T / stride), ..., width * N]``: the steps of a window, the oldest first, along
        the last axis, of size N. A sequence of ``n`` steps has ``-(-n // stride)`` of them.

    Raises:
        ValueError: `xs` has fewer than two axes, `width` or `stride` is below 1, or `seq_lengths`
            does not fit.
        TypeError: `xs` are not real, or `width` or `stride` is no integer.

    Example:
        >>> encode.windows(jnp.array([[1.0], [2.0], [3.0], [4.0]]), 3, stride=2).tolist()
        [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    """
    steps = time_first("xs", xs, time_major)
    steps = zero_padding(steps, steps_of(steps, seq_lengths))
    width, stride = check_integer("width", width), check_integer("stride", stride)
    length = steps.shape[0]  # which jax.export may leave open
    number = -(-length // stride)
    around = [(max(width - stride, 0), number * stride - length), *[(0, 0)] * (steps.ndim - 1)]
    padded = jnp.pad(steps, around)
    first = max(stride - width, 0)
    parts = [padded[first + i :: stride][:number] for i in range(width)]
    return _as_given(jnp.concatenate(parts, axis=-1), time_major)


def delayed(xs: ArrayLike, delays: Sequence[int], *, time_major: bool = False) -> jax.Array:
    """Stack a signal with delayed copies of itself, one for each delay.

    Args:
        xs: ``[B, T, ...]``.
        delays: steps, each at least 0; before the first step the signal is 0.
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        ``[B, T, ..., D * N]``: a copy for each of D delays along the last axis, of size N.

    Raises:
        ValueError: `xs` has fewer than two axes, `delays` is empty or one is below 0.
        TypeError: `xs` are not real, or a delay is no integer.

    Example:
        >>> encode.delayed(jnp.array([[1.0], [2.0], [3.0]]), [0, 2]).tolist()
        [[1.0, 0.0], [2.0, 0.0], [3.0, 1.0]]
    """
    steps = time_first("xs", xs, time_major)
    if not np.iterable(delays):
        raise TypeError(f"`delays` must be a sequence of integers; got {delays!r}.")
    delays = [check_integer("delays", delay, 0) for delay in delays]
    if not delays:
        raise ValueError("`delays` must hold at least one delay; got none.")
    around = [(0, 0)] * (steps.ndim - 1)
    parts = [jnp.pad(steps, [(delay, 0), *around])[: steps.shape[0]] for delay in delays]
    return _as_given(jnp.concatenate(parts, axis=-1), time_major)


def slopes(xs: ArrayLike, *, time_major: bool = False) -> jax.Array:
    """Append the change of a signal since the step before; it is 0 at the first step.

    Standardise the result: the changes are small where there are many steps, and a network learns
    little from them before they have the size of the values.

    Args:
        xs: ``[B, T, ...]``. NaN is what is missing; a change from or to it is NaN.
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        ``[B, T, ..., 2 * N]``: the values, then the changes, along the last axis, of size N. Of the
        dtype of `xs` if that is floating, else float32.

    Raises:
        ValueError: `xs` has fewer than two axes.
        TypeError: `xs` are not real.

    Example:
        >>> encode.slopes(np.array([[5], [9], [7]], np.uint8)).tolist()
        [[5.0, 0.0], [9.0, 4.0], [7.0, -2.0]]
    """
    steps = time_first("xs", xs, time_major)
    changes = jnp.diff(steps, axis=0, prepend=steps[:1])
    return _as_given(jnp.concatenate([steps, changes], axis=-1), time_major)


def _signal(xs: ArrayLike, time_major: bool) -> tuple[jax.Array, Any]:
    """A finite signal as ``[T, B, ...]``, to be counted in, and its own dtype.

    Of what is not finite, no spike could tell.
    """
    steps = time_first("xs", xs, time_major)
    check_values("xs", steps, np.isfinite, "be finite")
    return countable(steps), steps.dtype


def _level(threshold: ArrayLike, steps: jax.Array) -> jax.Array:
    """A threshold for each element of a step, ``[1, B, ...]``."""
    threshold = check_positive("threshold", threshold, steps.dtype)
    shape = np.shape(threshold)
    try:
        fits = np.broadcast_shapes(shape, steps.shape[1:]) == steps.shape[1:]
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"`threshold` must broadcast against a step of shape {steps.shape[1:]}; got {shape}."
        )
    return jnp.broadcast_to(jnp.asarray(threshold, steps.dtype), (1, *steps.shape[1:]))


def _as_given(xs: jax.Array, time_major: bool) -> jax.Array:
    """Undo `time_first`."""
    return xs if time_major or xs.ndim == 2 else jnp.moveaxis(xs, 0, 1)
