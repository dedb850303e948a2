"""Inputs that arrive later, each by a time of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._shared.axes import check_positive, check_values
from tracetorch_jax._shared.checks import as_array, check_integer
from tracetorch_jax._shared.dtypes import asarray, countable, is_real, wider
from tracetorch_jax.functional.constraints import DECAY, Constraint, _Numpy
from tracetorch_jax.functional.engines.masks import (
    Valid,
    expand_mask,
    length_of,
    lengths_of,
    valid_steps,
    without_padding,
    zero_padding,
)
from tracetorch_jax.functional.engines.placement import (
    Placement,
    check_time,
    common_placement,
    full_like,
)

Sigma = float | jax.Array | None


@functools.lru_cache(maxsize=128)
def delay_range(max_delay: int) -> Constraint:
    """Delays: ``max_delay * sigmoid(raw)``, in (0, max_delay); a constant may be at either end.

    Args:
        max_delay: the longest delay in steps, at least 1.

    Returns:
        The same object for the same number.

    Raises:
        TypeError: `max_delay` is no integer.
        ValueError: `max_delay` is below 1.

    Example:
        >>> functional.delay_range(8).constrain(jnp.zeros(2)).tolist()
        [4.0, 4.0]
    """
    most = check_integer("max_delay", max_delay)
    unit = DECAY._numpy
    return Constraint(
        "max_delay * sigmoid",
        f"lie strictly between 0 and max_delay = {most}",
        f"lie between 0 and max_delay = {most}",
        lambda raw: most * DECAY.constrain(raw),
        lambda value: DECAY.invert(value / most),
        _Numpy(
            lambda raw: most * unit.constrain(raw),
            lambda value: unit.invert(value / most),
            lambda value: (value > 0) & (value < most),
            lambda value: (value >= 0) & (value <= most),
            lambda info: tuple(most * end for end in unit.ends(info)),
        ),
    )


def delay(
    delays: Any,
    past: jax.Array,
    xs: jax.Array,
    *,
    sigma: Sigma = None,
    seq_lengths: jax.Array | Valid | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Delay each channel of a sequence by its own time; for one step, pass a sequence of one.

        k = floor(d), f = d - k
        y_t = (1 - f) * x_{t-k} + f * x_{t-k-1}
        y_t = sum over k of g(k - d) * x_{t-k}

    The first is linear interpolation, without `sigma`; the second is with `sigma`, where g is a
    Gaussian of that width, normalised over k = 0, ..., max_delay.

    The gradient with respect to d is that of these formulas: of the first ``x_{t-k-1} - x_{t-k}``,
    to which only the two inputs next to the delay matter. For spikes that is nearly always 0; with
    a wide `sigma` all of the last inputs matter. At d = max_delay the derivative is the one from
    below.

    A gradient keeps `past`, `xs` and the delays, and computes the rest again. Without `sigma` the
    cost does not depend on max_delay; with it, it is that of ``max_delay + 1`` products.

    Args:
        delays: steps in [0, max_delay]: a scalar, or one per channel, of shape ``(N,)`` where
            channels are the last axis of a step's tensor and ``(N, 1, 1)`` where they are the third
            last. Whole numbers as a NumPy array copy the input without arithmetic.
        past: ``[max_delay, ...]``, the inputs before the first step, the oldest first: zeros at the
            start. It says what max_delay is.
        xs: ``[T, ...]``, of the dtype of `past`.
        sigma: width in steps, greater than 0, known or traced; or None. A traced 0 cannot raise,
            and gives NaN.
        seq_lengths: as in `functional.unroll`: beyond a sequence's end outputs are 0, and the past
            is the one at its own end.

    Returns:
        The past after the last step, and the outputs ``[T, ...]``.

    Raises:
        ValueError: `past` and `xs` do not fit, `delays` outside the range or of another shape,
            `sigma` not greater than 0, or `seq_lengths` that does not fit.
        TypeError: not numbers, or differing dtypes.

    Example:
        >>> past, xs = jnp.zeros((4, 2)), jnp.arange(1.0, 5.0)[:, None] * jnp.ones((1, 2))
        >>> past, ys = functional.delay(np.array([0.0, 2.0]), past, xs)
        >>> ys[:, 0].tolist(), ys[:, 1].tolist()
        ([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 2.0])
        >>> functional.delay(1.5, past, jnp.zeros((1, 2)))[1].tolist()
        [[3.5, 3.5]]
    """
    delays, past, xs, sigma, valid = _checked(delays, past, xs, sigma, seq_lengths)
    if delays.ndim >= xs.ndim or delays.shape[:1] not in (
        (),
        xs.shape[xs.ndim - delays.ndim :][:1],
    ):
        raise ValueError(
            f"`delays` must be a scalar or one per channel of a step of shape {xs.shape[1:]}; got "
            f"shape {delays.shape}."
        )
    if delays.shape[1:] != (1,) * (delays.ndim - 1):
        raise ValueError(
            f"`delays` must have one axis of channels, and axes of size 1 behind it; got shape "
            f"{delays.shape}."
        )
    exact = isinstance(delays, np.ndarray) and np.array_equal(delays, np.round(delays))
    return _delay(jnp.asarray(delays), past, xs, sigma, valid, exact and sigma is None)


def delayed_dense(
    kernel: jax.Array,
    delays: jax.Array,
    past: jax.Array,
    xs: jax.Array,
    *,
    bias: jax.Array | None = None,
    sigma: Sigma = None,
    seq_lengths: jax.Array | Valid | None = None,
) -> tuple[jax.Array, jax.Array]:
    """A dense layer with a delay for each synapse; for one step, pass a sequence of one.

        y_t[o] = bias[o] + sum over i, k of W[i, o] * g(k - d[i, o]) * x_{t-k}[i]

    With `sigma`, g is a Gaussian of that width, normalised over k = 0, ..., max_delay. Without it,
    each delay is rounded to the nearest whole step (halves to the even one), g is 1 there and 0
    elsewhere, and the gradient with respect to the delays is 0.

    It is computed as ``max_delay + 1`` matrix products over all steps. There are no copies of the
    input for each delay, nor a kernel of ``max_delay + 1`` times the size: a gradient keeps `past`,
    `xs`, the kernel and the delays, and computes the rest again. Where the batch is split over
    devices, it reduces gradients once for each delay.

    Args:
        kernel: ``[N, M]``, weights.
        delays: ``[N, M]``, steps in [0, max_delay].
        past: ``[max_delay, ..., N]``, see `delay`.
        xs: ``[T, ..., N]``, of the dtype of `past` and of `kernel`.
        bias: ``[M]``, or None.
        sigma: width in steps, greater than 0, known or traced; or None. A traced 0 cannot raise,
            and gives NaN.
        seq_lengths: see `delay`.

    Returns:
        The past after the last step, and the outputs ``[T, ..., M]``.

    Raises:
        ValueError: as `delay` does; a kernel, delays or a bias that do not fit.
        TypeError: not numbers, or differing dtypes.

    Reference: Hammouamri, Khalfaoui-Hassani and Masquelier, "Learning delays in spiking neural
    networks using dilated convolutions with learnable spacings", ICLR 2024.

    Example:
        >>> past, xs = jnp.zeros((3, 2)), jnp.zeros((4, 2)).at[0].set(1.0)
        >>> kernel, delays = jnp.array([[1.0], [10.0]]), jnp.array([[0.0], [2.2]])
        >>> functional.delayed_dense(kernel, delays, past, xs)[1][:, 0].tolist()
        [1.0, 0.0, 10.0, 0.0]
    """
    delays, past, xs, sigma, valid = _checked(delays, past, xs, sigma, seq_lengths)
    kernel = asarray(kernel)
    if kernel.ndim != 2 or xs.ndim < 2 or kernel.shape[0] != xs.shape[-1]:
        raise ValueError(
            f"`kernel` must be [N, M] with N the last axis of `xs`; got shapes {kernel.shape} and "
            f"{xs.shape}."
        )
    if delays.shape != kernel.shape:
        raise ValueError(
            f"`delays` must have the shape of `kernel`, {kernel.shape}; got {delays.shape}."
        )
    bias = None if bias is None else asarray(bias)
    for name, weights in (("kernel", kernel), ("bias", bias)):
        if weights is not None and weights.dtype != xs.dtype:
            raise TypeError(
                f"`{name}` must be of the dtype of `xs`, {xs.dtype}; got {weights.dtype}."
            )
    if bias is not None and bias.shape != kernel.shape[1:]:
        raise ValueError(f"`bias` must have shape {kernel.shape[1:]}; got {bias.shape}.")
    return _delayed_dense(kernel, jnp.asarray(delays), past, xs, bias, sigma, valid)


def check_sigma(sigma: Any) -> Any:
    """A width that is None, known, or being traced."""
    if sigma is None:
        return None
    if np.ndim(sigma) or isinstance(sigma, (bool, str)):
        got = f"shape {np.shape(sigma)}" if np.ndim(sigma) else repr(sigma)
        raise TypeError(f"`sigma` must be one number, or None; got {got}.")
    return check_positive("sigma", sigma)


def _checked(
    delays: Any, past: Any, xs: Any, sigma: Any, seq_lengths: Any
) -> tuple[Any, jax.Array, jax.Array, Any, Valid | None]:
    past, xs = asarray(past), asarray(xs)
    length_of(xs)
    if past.shape[1:] != xs.shape[1:] or not past.ndim or not past.shape[0]:
        raise ValueError(
            f"`past` must hold at least one step of the shape of a step of `xs`, {xs.shape[1:]}; "
            f"got shape {past.shape}."
        )
    if past.dtype != xs.dtype or not jnp.issubdtype(xs.dtype, jnp.floating):
        raise TypeError(
            f"`past` and `xs` must be of one floating-point dtype; got {past.dtype} and {xs.dtype}."
        )
    if not isinstance(delays, jax.Array):
        delays = as_array("delays", delays, convert=np.asarray)
    if not is_real(delays.dtype):
        raise TypeError(f"`delays` must be real numbers; got dtype {delays.dtype}.")
    if isinstance(delays, np.ndarray):
        delays = delays.astype(np.float64)
    elif not jnp.issubdtype(delays.dtype, jnp.floating):
        delays = delays.astype(wider(xs.dtype, jnp.float32))
    most = past.shape[0]
    rule = f"lie between 0 and max_delay = {most}"
    check_values("delays", delays, lambda d: (d >= 0) & (d <= most), rule)
    xs, valid = without_padding(xs, seq_lengths)
    if valid is not None:
        valid_steps(valid, xs.shape[0], [xs.shape[1:]])
    return delays, past, xs, check_sigma(sigma), valid


# Compiled, so that a step and a sequence round alike, and calls outside of `jax.jit` are fast.
# A gradient keeps what is given: neither the line, nor shifted copies of it.
@functools.partial(jax.jit, static_argnames="exact")
@functools.partial(jax.checkpoint, static_argnums=5)
def _delay(
    delays: jax.Array, past: jax.Array, xs: jax.Array, sigma: Any, valid: Any, exact: bool
) -> tuple[jax.Array, jax.Array]:
    line, place = _line(past, xs, delays)
    size, length = past.shape[0], xs.shape[0]
    if exact:
        ys = _shift(line, (size - delays).astype(jnp.int32), length, place)
    elif sigma is None:
        ys = _interpolate(line, delays, size, length, place)
    else:
        weight = _gaussian(delays, sigma, size)

        def weighted(x: jax.Array, k: Any) -> jax.Array:
            scale = weight(k).astype(x.dtype)
            return x * scale.reshape((1,) * (x.ndim - scale.ndim) + scale.shape)

        ys = _sum_over_delays(weighted, line, size, length)
    return _past(line, size, valid), zero_padding(ys, None if valid is None else valid.mask)


@jax.jit
@jax.checkpoint
def _delayed_dense(
    kernel: jax.Array,
    delays: jax.Array,
    past: jax.Array,
    xs: jax.Array,
    bias: Any,
    sigma: Any,
    valid: Any,
) -> tuple[jax.Array, jax.Array]:
    line, _ = _line(past, xs)
    size, length = past.shape[0], xs.shape[0]
    weight = _one_hot(delays) if sigma is None else _gaussian(delays, sigma, size)

    def product(x: jax.Array, k: Any) -> jax.Array:
        return jnp.dot(x, kernel * weight(k).astype(kernel.dtype))

    ys = _sum_over_delays(product, line, size, length)
    if bias is not None:
        ys = ys + bias.reshape((1,) * (ys.ndim - 1) + bias.shape)
    return _past(line, size, valid), zero_padding(ys, None if valid is None else valid.mask)


def _line(past: jax.Array, xs: jax.Array, delays: Any = None) -> tuple[jax.Array, Placement]:
    """The past and the sequence as one, and where each of its steps lies on a mesh."""
    check_time(xs)
    arrays = {"xs": xs, "past": past}
    if delays is not None:
        arrays["delays"] = delays
    place = common_placement(xs.shape[1:], arrays)
    if place.known:
        past, xs = place.put(past, leading=1), place.put(xs, leading=1)
    return jnp.concatenate([past, xs]), place


def _past(line: jax.Array, size: int, valid: Valid | None) -> jax.Array:
    """The last inputs, at each sequence's own end."""
    if valid is None:
        return line[line.shape[0] - size :]
    ends = lengths_of(line, valid.mask).astype(jnp.int32)
    steps = jnp.arange(size, dtype=jnp.int32).reshape((size,) + (1,) * ends.ndim)
    source = expand_mask(steps + ends[None], line.ndim)
    return jnp.take_along_axis(line, source, axis=0)


def _shift(line: jax.Array, start: jax.Array, length: Any, place: Placement) -> jax.Array:
    """So many steps of each channel, from its own start on."""
    if not start.ndim:
        return jax.lax.dynamic_slice_in_dim(line, start, length)
    axis = line.ndim - start.ndim
    if place.known:
        at = Placement(place.mesh, place.spec[axis - 1 : axis], place.varying)
        start = at.put(start.reshape(-1)).reshape(start.shape)
    steps = jnp.arange(length, dtype=start.dtype).reshape(length, *(1,) * (line.ndim - 1))
    index = steps + start.reshape((1,) * axis + start.shape)
    return jnp.take_along_axis(line, index, axis=0, mode="clip")


def _interpolate(
    line: jax.Array, delays: jax.Array, size: int, length: Any, place: Placement
) -> jax.Array:
    whole = jax.lax.stop_gradient(jnp.minimum(jnp.floor(delays), size - 1))
    part = (delays - whole).astype(line.dtype)
    part = part.reshape((1,) * (line.ndim - part.ndim) + part.shape)
    both = _shift(line, size - 1 - whole.astype(jnp.int32), length + 1, place)
    return (1 - part) * both[1:] + part * both[:-1]


def _one_hot(delays: jax.Array) -> Callable[[Any], jax.Array]:
    """From k to the weight of the input k steps ago: 1 at the nearest whole delay."""
    nearest = jnp.round(delays).astype(jnp.int32)
    return lambda k: nearest == k


def _gaussian(delays: jax.Array, sigma: Any, size: int) -> Callable[[Any], jax.Array]:
    """From k to the weight of the input k steps ago: a Gaussian, normalised over 0, ..., size."""
    dtype = delays.dtype
    sigma = jnp.asarray(sigma, dtype)
    # Relative to that of the nearest step, whose weight would else underflow if sigma is small.
    nearest = jax.lax.stop_gradient(jnp.round(delays))

    def bump(k: Any) -> jax.Array:
        k = jnp.asarray(k, dtype)
        return jnp.exp((nearest - k) * (nearest + k - 2 * delays) / (2 * sigma) / sigma)

    every = jax.vmap(bump)(jnp.arange(size + 1)).sum(0)
    return lambda k: bump(k) / every


def _sum_over_delays(
    term: Callable[[jax.Array, Any], jax.Array], line: jax.Array, size: int, length: Any
) -> jax.Array:
    """The sum over k of `term` of the sequence as it was k steps ago."""

    # A gradient keeps no term.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add(total: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        now = term(jax.lax.dynamic_slice_in_dim(line, size - k, length), k)
        return total + now.astype(total.dtype), None

    # All terms are in the loop: what is outside could be reduced over devices at the same time as
    # what is within, in another order on each of them, and virtual devices wait for ever then.
    # Of half precision the sum would lose a digit for many delays.
    like = jax.lax.stop_gradient(term(line[size:], 0))
    total = full_like(countable(like), 0)
    return jax.lax.scan(add, total, jnp.arange(size + 1, dtype=jnp.int32))[0].astype(like.dtype)
