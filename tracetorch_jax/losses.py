"""Losses of what a network gives over time, on optax's own.

Outputs are ``[B, T, N]``, as `tracetorch_jax.snn.Unroll` gives them (``[T, B, N]`` with
`time_major`, ``[T, N]`` without a batch axis, for which every other argument lacks its batch axis
too). Like optax's, losses are given per sequence, ``[B]``: take their mean. What lies beyond
`seq_lengths` has no effect. Labels are checked where they are known; while they are being traced,
one out of range makes its loss NaN. Losses are computed and given in float32, or in float64 where
the outputs are: bfloat16 and float16 can hold neither counts of steps nor their squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from tracetorch_jax import decode as _decode
from tracetorch_jax._shared.axes import check_positive, check_values, known, plain, real, time_first
from tracetorch_jax._shared.checks import as_array
from tracetorch_jax._shared.dtypes import as_int32, countable
from tracetorch_jax._shared.labels import check_label_kind, check_labels, check_outputs, check_range
from tracetorch_jax.functional.engines.masks import lengths_of, steps_of, zero_padding

if TYPE_CHECKING:
    from tracetorch_jax.diagnostics import Recording

__all__ = [
    "count_target",
    "cross_entropy",
    "first_spike_cross_entropy",
    "first_spike_target",
    "rate_penalty",
    "rate_target",
    "silence_penalty",
    "soft_cross_entropy",
    "step_cross_entropy",
]


def cross_entropy(
    outputs: ArrayLike,
    labels: ArrayLike,
    *,
    decode: _decode.Decoder = "mean",
    label_smoothing: float = 0.0,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Cross-entropy of a class per sequence.

        logits = decode(outputs)
        loss   = -log softmax(logits)[label]

    Args:
        outputs: ``[B, T, C]``: membranes of a readout, or spikes for ``decode="count"``.
        labels: ``[B]`` integers in ``[0, C)``.
        decode: how outputs become logits: ``"mean"``, ``"last"`` or ``"max"`` over time of a
            membrane, or the spike ``"count"``; see `tracetorch_jax.decode`.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs` is ``[T, B, C]``.

    Returns:
        ``[B]``, in nats.

    Raises:
        ValueError: `outputs` with fewer than two axes; labels out of range or one-hot, a batch size
            that differs, unknown `decode`, `label_smoothing` outside [0, 1).
        TypeError: labels that are not integers, `outputs` that are not real numbers.

    Example:
        >>> outputs = jnp.zeros((2, 5, 4))
        >>> losses.cross_entropy(outputs, jnp.array([0, 3])).round(3).tolist()  # log 4
        [1.386..., 1.386...]
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"`label_smoothing` must lie in [0, 1); got {label_smoothing!r}.")
    logits = _decode.decoded(check_outputs(outputs), decode, seq_lengths, time_major)
    return _label_loss(logits, check_labels(labels, logits), label_smoothing)


def soft_cross_entropy(
    outputs: ArrayLike,
    targets: ArrayLike,
    *,
    decode: _decode.Decoder = "mean",
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Cross-entropy of a distribution over classes per sequence: of another network, or of mixup.

    Args:
        outputs: ``[B, T, C]``.
        targets: ``[B, C]`` probabilities, each row summing to 1.
        decode: see `cross_entropy`.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs` is ``[T, B, C]``.

    Returns:
        ``[B]``, in nats; least, with the entropy of the target, where the two agree.

    Raises:
        ValueError: `targets` of another shape, negative, or not summing to 1; unknown `decode`.
        TypeError: arguments that are not real numbers.

    Example:
        >>> outputs, targets = jnp.zeros((1, 5, 2)), jnp.array([[0.5, 0.5]])
        >>> losses.soft_cross_entropy(outputs, targets).round(3).tolist()
        [0.693...]
    """
    logits = _decode.decoded(check_outputs(outputs), decode, seq_lengths, time_major)
    targets = _targets(targets, logits)
    check_values("targets", targets, lambda v: v >= 0, "be probabilities")
    check_values(
        "targets",
        targets.sum(axis=-1),
        lambda total: abs(total - 1) < 1e-2,
        "sum to 1 over the classes",
    )
    return optax.softmax_cross_entropy(logits, targets)


def step_cross_entropy(
    outputs: ArrayLike,
    labels: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Cross-entropy of a class at every step, averaged over the steps of a sequence that count.

    Args:
        outputs: ``[B, T, C]``.
        labels: ``[B, T]`` integers in ``[0, C)``; ``[T, B]`` if time-major.
        mask: booleans of the shape of `labels`: which steps count; all by default. Labels of the
            others may be anything.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs`, `labels` and `mask` are ``[T, B, ...]``.

    Returns:
        ``[B]``, in nats per step; 0 for a sequence of which no step counts.

    Raises:
        ValueError: `outputs` with fewer than two axes; labels out of range, one-hot, or with their
            axes swapped; a misshapen mask; `label_smoothing` outside [0, 1).
        TypeError: labels that are not integers, `outputs` that are not real numbers, a mask that
            is not boolean.

    Example:
        >>> losses.step_cross_entropy(jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 9]]),
        ...                    mask=jnp.array([[True, True, False]])).round(3).tolist()
        [1.386...]
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"`label_smoothing` must lie in [0, 1); got {label_smoothing!r}.")
    xs = time_first("outputs", check_outputs(outputs), time_major)
    swap = not time_major and xs.ndim > 2
    want = (xs.shape[1], xs.shape[0], *xs.shape[2:-1]) if swap else xs.shape[:-1]
    given = check_label_kind(labels, want, xs.shape[-1])
    counts = jnp.ones(want, bool) if mask is None else as_array("mask", mask)
    if counts.shape != want:
        raise ValueError(f"`mask` must have the shape of `labels`, {want}; got {counts.shape}.")
    if counts.dtype != jnp.bool_:
        raise TypeError(
            f"`mask` must be booleans, since a step counts or does not; got {counts.dtype}. "
            f"Compare numbers first, such as mask > 0."
        )
    given, counts = (a.swapaxes(0, 1) if swap else a for a in (given, counts))
    valid = steps_of(xs, seq_lengths)
    if valid is not None:
        counts = zero_padding(counts, valid)
    if known(given) is not None and known(counts) is not None:
        check_range(np.asarray(given)[np.asarray(counts)], xs.shape[-1])
    classes = jnp.where(counts, as_int32(given), 0)
    logits = jnp.where(counts[..., None], xs, jnp.zeros_like(xs))
    each = jnp.where(counts, _label_loss(logits, classes, label_smoothing), 0)
    axes = (0, *range(2, each.ndim))  # time and space
    return each.sum(axes) / jnp.maximum(counts.sum(axes), 1).astype(each.dtype)


def count_target(
    spikes: ArrayLike,
    labels: ArrayLike,
    *,
    correct: float,
    incorrect: float,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Squared error of spike counts: one target for the right class, one for the others.

    Args:
        spikes: ``[B, T, C]``.
        labels: ``[B]`` integers in ``[0, C)``.
        correct: spikes per sequence wanted of the label's neuron.
        incorrect: spikes per sequence wanted of the other neurons.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `spikes` is ``[T, B, C]``.

    Returns:
        ``[B]``: the mean over classes of the squared difference.

    Raises:
        ValueError: `spikes` with fewer than two axes; labels out of range or one-hot, a batch size
            that differs.
        TypeError: labels that are not integers, `spikes` that are not real numbers.

    Reference: ``mse_count_loss`` of snnTorch, which takes rates and divides by the steps.

    Example:
        >>> spikes = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])
        >>> losses.count_target(spikes, jnp.array([0]), correct=2, incorrect=0).tolist()
        [0.0]
    """
    counts = _decode.count(
        check_outputs(spikes, "spikes"), seq_lengths=seq_lengths, time_major=time_major
    )
    return _class_error(counts, labels, correct, incorrect)


def rate_target(
    spikes: ArrayLike,
    labels: ArrayLike,
    *,
    correct: float = 0.8,
    incorrect: float = 0.1,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Squared error of firing rates: one target for the right class, one for the others.

    Args:
        spikes: ``[B, T, C]``.
        labels: ``[B]`` integers in ``[0, C)``.
        correct: spikes per step wanted of the label's neuron.
        incorrect: spikes per step wanted of the other neurons.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `spikes` is ``[T, B, C]``.

    Returns:
        ``[B]``: the mean over classes of the squared difference.

    Raises:
        ValueError: `spikes` with fewer than two axes; labels out of range or one-hot, a batch size
            that differs.
        TypeError: labels that are not integers, `spikes` that are not real numbers.

    Example:
        >>> spikes = jnp.array([[[1.0, 0.0], [0.0, 0.0]]])
        >>> losses.rate_target(spikes, jnp.array([0]), correct=0.5, incorrect=0.0).tolist()
        [0.0]
    """
    rates = _decode.mean(
        check_outputs(spikes, "spikes"), seq_lengths=seq_lengths, time_major=time_major
    )
    return _class_error(rates, labels, correct, incorrect)


def first_spike_cross_entropy(
    spikes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: float = 1.0,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Cross-entropy of the neuron that fires first.

        logits = -first_spike(spikes) / temperature

    Args:
        spikes: ``[B, T, C]``.
        labels: ``[B]`` integers in ``[0, C)``.
        temperature: steps by which a neuron has to be e times as likely as another, greater than 0.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `spikes` is ``[T, B, C]``.

    Returns:
        ``[B]``, in nats. See `tracetorch_jax.decode.first_spike` for the gradient.

    Raises:
        ValueError: `spikes` with fewer than two axes; labels out of range or one-hot, a batch size
            that differs, `temperature` not greater than 0.
        TypeError: labels that are not integers, `spikes` that are not real numbers.

    Reference: Göltz et al., "Fast and energy-efficient neuromorphic deep learning with first-spike
    times", Nature Machine Intelligence 3, 2021, without their regularisation.

    Example:
        >>> spikes = jnp.zeros((1, 50, 2)).at[0, 3, 1].set(1.0)
        >>> losses.first_spike_cross_entropy(spikes, jnp.array([1])).round(3).tolist()
        [0.0]
    """
    times = _decode.first_spike(
        check_outputs(spikes, "spikes"), seq_lengths=seq_lengths, time_major=time_major
    )
    temperature = check_positive("temperature", temperature, times.dtype)
    return _label_loss(-times / temperature, check_labels(labels, times), 0.0)


def first_spike_target(
    spikes: ArrayLike,
    targets: ArrayLike,
    *,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Squared error of the time of each neuron's first spike.

    Args:
        spikes: ``[B, T, N]``.
        targets: ``[B, N]`` steps from 0; T (or the sequence's length) for silence.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `spikes` is ``[T, B, N]``.

    Returns:
        ``[B]``: the mean over neurons of the squared difference, in steps squared.

    Raises:
        ValueError: `targets` of another shape, or negative.
        TypeError: arguments that are not real numbers.

    Example:
        >>> spikes = jnp.zeros((1, 50, 2)).at[0, 3, 1].set(1.0)
        >>> losses.first_spike_target(spikes, jnp.array([[50, 3]])).tolist()
        [0.0]
    """
    times = _decode.first_spike(
        check_outputs(spikes, "spikes"), seq_lengths=seq_lengths, time_major=time_major
    )
    targets = _targets(targets, times)
    check_values("targets", targets, lambda v: v >= 0, "be steps from 0 on")
    return jnp.square(times - targets).mean(axis=-1)


def rate_penalty(
    spikes: ArrayLike | Mapping[str, Recording],
    *,
    max_rate: float,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Penalty for neurons that fire too much: squared excess of their rate over `max_rate`.

    Args:
        spikes: ``[B, T, ...]``; spikes of either sign count as their magnitude. Or the recordings
            that `tracetorch_jax.record` gave, of which all layers that fire count.
        max_rate: spikes per step from which on a neuron pays, in [0, 1).
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `spikes` is ``[T, B, ...]``. Recordings are ``[B, T, ...]`` always.

    Returns:
        A scalar: the mean over neurons, and of recordings the sum of these over layers. Rates are
        those over the whole batch. Its gradient is that of the spikes' magnitudes. Where nothing
        fires, their slope is as that of spikes of the sign that prevails in the neuron, less as the
        other sign is as frequent.

    Raises:
        ValueError: `max_rate` outside [0, 1), `spikes` with fewer than two axes, or `seq_lengths`
            that does not fit; recordings of which no layer fires, or with `time_major`.
        TypeError: `spikes` are neither real nor recordings, or `seq_lengths` is not integer.

    Reference: the activity regularisers of Zenke and Vogels, "The remarkable robustness of
    surrogate gradient learning", Neural Computation 33, 2021, with rates in place of counts.

    Example:
        >>> losses.rate_penalty(jnp.ones((2, 10, 3)), max_rate=0.5).item()
        0.25
        >>> model, xs = snn.Unroll(snn.LIB(3, threshold=0.5)), jnp.ones((2, 10, 3))
        >>> ys, layers = tt.record(model, model.init(jax.random.key(0), xs), xs)
        >>> losses.rate_penalty(layers, max_rate=0.5).item()
        0.25
    """
    if not 0 <= max_rate < 1:
        raise ValueError(f"`max_rate` must lie in [0, 1); got {max_rate!r}.")
    return _rate_error(1, spikes, max_rate, seq_lengths, time_major)


def silence_penalty(
    spikes: ArrayLike | Mapping[str, Recording],
    *,
    min_rate: float,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Penalty for neurons that fire too little: squared lack of their rate below `min_rate`.

    Args:
        spikes: ``[B, T, ...]``; spikes of either sign count as their magnitude. Or the recordings
            that `tracetorch_jax.record` gave, of which all layers that fire count.
        min_rate: spikes per step below which a neuron pays, in (0, 1].
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `spikes` is ``[T, B, ...]``. Recordings are ``[B, T, ...]`` always.

    Returns:
        A scalar: the mean over neurons, and of recordings the sum of these over layers. Rates are
        those over the whole batch. Its gradient reaches a silent neuron through the surrogate
        gradient of its spikes.

    Raises:
        ValueError: `min_rate` outside (0, 1], `spikes` with fewer than two axes, or `seq_lengths`
            that does not fit; recordings of which no layer fires, or with `time_major`.
        TypeError: `spikes` are neither real nor recordings, or `seq_lengths` is not integer.

    Reference: the activity regularisers of Zenke and Vogels, "The remarkable robustness of
    surrogate gradient learning", Neural Computation 33, 2021, with rates in place of counts.

    Example:
        >>> losses.silence_penalty(jnp.zeros((2, 10, 3)), min_rate=0.5).item()
        0.25
    """
    if not 0 < min_rate <= 1:
        raise ValueError(f"`min_rate` must lie in (0, 1]; got {min_rate!r}.")
    return _rate_error(-1, spikes, min_rate, seq_lengths, time_major)


def _rate_error(
    sign: int, spikes: object, bound: float, seq_lengths: object, time_major: bool
) -> jax.Array:
    """Mean square of what neurons' rates are above a bound, or below it if `sign` is -1."""
    if isinstance(spikes, Mapping):
        for name, layer in spikes.items():
            if not hasattr(layer, "outputs"):
                raise TypeError(
                    f"`spikes` must be an array, or recordings as `record` gives them; got dict "
                    f"with {type(layer).__name__} as {name!r}."
                )
        each = [layer.outputs for layer in spikes.values() if layer.layer.spec.fires]
        if not each:
            raise ValueError(
                f"`spikes` must have a layer that fires; got recordings of {list(spikes)}."
            )
        if time_major:
            raise ValueError(
                "`time_major` must be left out with recordings, which are [B, T, ...]."
            )
        return jnp.stack([_rate_error(sign, x, bound, seq_lengths, False) for x in each]).sum()
    xs = countable(time_first("spikes", spikes, time_major))
    valid = steps_of(xs, seq_lengths)
    steps = lengths_of(xs, valid).sum()
    xs, axes = zero_padding(xs, valid), tuple(range(min(xs.ndim - 1, 2)))
    # The magnitude of no spike has a slope only where it is known of which sign a spike would be:
    # as far as one sign prevails among those of the neuron, and positive if it is silent.
    positive, negative = (fired.sum(axes).astype(xs.dtype) for fired in (xs > 0, xs < 0))
    silent = positive + negative == 0
    lean = jnp.where(silent, 1, (positive - negative) / jnp.where(silent, 1, positive + negative))
    slope = jax.lax.stop_gradient(jnp.where(xs == 0, jnp.expand_dims(lean, axes), jnp.sign(xs)))
    total = (slope * xs).sum(axes)
    rates = total / jnp.maximum(steps, 1).astype(xs.dtype)
    return jnp.square(jnp.maximum(sign * (rates - plain(bound, rates.dtype)), 0)).mean()


def _label_loss(logits: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    """Cross-entropy that is NaN for labels out of range."""
    classes = logits.shape[-1]
    inside = (labels >= 0) & (labels < classes)
    labels = jnp.where(inside, labels, 0)
    if label_smoothing:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), plain(label_smoothing))
        loss = optax.softmax_cross_entropy(logits, targets.astype(logits.dtype))
    else:
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.where(inside, loss, jnp.nan)


def _class_error(values: jax.Array, labels: Any, correct: Any, incorrect: Any) -> jax.Array:
    """Mean square of differences to what is wanted of classes; NaN for labels out of range."""
    labels = check_labels(labels, values)
    correct, incorrect = (plain(number, values.dtype) for number in (correct, incorrect))
    inside = (labels >= 0) & (labels < values.shape[-1])
    rows = jax.nn.one_hot(labels, values.shape[-1], dtype=values.dtype)
    wanted = jnp.where(inside[..., None], rows, jnp.nan) * (correct - incorrect) + incorrect
    return jnp.square(values - wanted).mean(axis=-1)


def _targets(targets: Any, like: jax.Array) -> jax.Array:
    """Check targets of the shape of what they are compared with."""
    targets = real("targets", targets)
    if targets.shape != like.shape:
        raise ValueError(f"`targets` must be of shape {like.shape}; got {targets.shape}.")
    return targets.astype(like.dtype)
