"""Changes of training sequences that leave their class as it is.

Each takes a key and sequences ``[B, T, ...]`` (``[T, B, ...]`` with `time_major`, ``[T, N]``
without a batch axis), changes every sequence in its own way, and gives sequences of the same shape
and floating-point dtype (float32 for integers). All run under `jax.jit`
and `jax.vmap`. They belong into the loss, which has a key::

    def loss(variables, batch, key):
        xs, labels = batch
        keys = jax.random.split(key)
        xs = augment.noise(keys[0], augment.shift(keys[1], xs, 10), 0.1)

Which of them leave the class as it is depends on the data: try them on a validation set. With
`seq_lengths` a sequence is changed as it would be without its padding, and keeps its length; what
lies beyond is 0 then. Without, padding counts as part of the sequence.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tracetorch_jax._shared.axes import check_values, plain, time_first
from tracetorch_jax._shared.checks import check_integer, check_number
from tracetorch_jax.functional.engines.masks import (
    expand_mask,
    lengths_of,
    steps_of,
    zero_padding,
)

__all__ = ["cutout", "noise", "scale", "shift", "vary", "warp"]


def noise(
    key: jax.Array,
    xs: ArrayLike,
    deviation: float,
    *,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Add independent Gaussian noise to every value.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``.
        deviation: standard deviation of the noise, at least 0.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real.
        ValueError: `xs` has fewer than two axes, `seq_lengths` does not fit, or `deviation` is
            negative.

    Example:
        >>> augment.noise(jax.random.key(0), jnp.zeros((2, 5, 3)), 0.1).shape
        (2, 5, 3)
    """
    rows = _Rows(xs, seq_lengths, time_major)
    amount = _at_least_0("deviation", deviation, rows.xs)
    return rows.given_back(rows.xs + amount * jax.random.normal(key, rows.xs.shape, rows.xs.dtype))


def scale(
    key: jax.Array,
    xs: ArrayLike,
    deviation: float,
    *,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Multiply each sequence by its own ``exp(deviation * z)``, z from a normal distribution.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``.
        deviation: standard deviation of the factor's logarithm, at least 0.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real.
        ValueError: `xs` has fewer than two axes, `seq_lengths` does not fit, or `deviation` is
            negative.

    Example:
        >>> xs = augment.scale(jax.random.key(0), jnp.ones((2, 5, 3)), 0.1)
        >>> bool((xs[0] == xs[0, 0, 0]).all())
        True
    """
    rows = _Rows(xs, seq_lengths, time_major)
    draw = jax.random.normal(key, rows.xs.shape[:1], rows.xs.dtype)
    factors = jnp.exp(_at_least_0("deviation", deviation, rows.xs) * draw)
    return rows.given_back(rows.xs * expand_mask(factors, rows.xs.ndim))


def shift(
    key: jax.Array,
    xs: ArrayLike,
    most: int,
    *,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Move each sequence in time by up to `most` steps, earlier or later.

    What moves in from outside repeats the first or the last step.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``.
        most: steps, at least 0.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real, or `most` is no integer.
        ValueError: `xs` has fewer than two axes, `seq_lengths` does not fit, or `most` is
            negative.

    Example:
        >>> xs = jnp.array([1.0, 2.0, 3.0, 4.0])[None, :, None]  # [1, 4, 1]
        >>> augment.shift(jax.random.key(1), xs, 2)[0, :, 0].tolist()
        [2.0, 3.0, 4.0, 4.0]
    """
    rows, most = _Rows(xs, seq_lengths, time_major), check_integer("most", most, 0)
    by = jax.random.randint(key, rows.xs.shape[:1], -most, most + 1)
    return rows.given_back(rows.at(rows.steps - by[:, None]))


def warp(
    key: jax.Array,
    xs: ArrayLike,
    most: float,
    *,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Play each sequence faster or slower, by a factor between ``1 / (1 + most)`` and ``1 + most``.

    The middle of a sequence stays where it is. Values between steps are interpolated linearly, and
    what is outside repeats the first or the last step.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``.
        most: greatest relative change of speed, at least 0.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real.
        ValueError: `xs` has fewer than two axes, `seq_lengths` does not fit, or `most` is
            negative.

    Example:
        >>> augment.warp(jax.random.key(0), jnp.arange(10.0)[None, :, None], 0.2).shape
        (1, 10, 1)
    """
    rows = _Rows(xs, seq_lengths, time_major)
    limit = jnp.log1p(jnp.asarray(_at_least_0("most", most, rows.xs), jnp.float32))
    speed = jnp.exp(jax.random.uniform(key, (len(rows.xs), 1), minval=-limit, maxval=limit))
    middle = (rows.lengths - 1).astype(speed.dtype) / 2
    source = middle + speed * (rows.steps.astype(speed.dtype) - middle)
    before = jnp.floor(source)
    part = expand_mask((source - before).astype(rows.xs.dtype), rows.xs.ndim)
    first, second = (rows.at(before.astype(int) + i) for i in (0, 1))
    return rows.given_back(first + part * (second - first))


def cutout(
    key: jax.Array,
    xs: ArrayLike,
    longest: int,
    *,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Set up to `longest` neighbouring steps of each sequence to 0, at a random place.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``, of which 0 should be the mean.
        longest: steps, at least 0.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real, or `longest` is no integer.
        ValueError: `xs` has fewer than two axes, `seq_lengths` does not fit, or `longest` is
            negative.

    Reference: DeVries & Taylor, "Improved regularization of convolutional neural networks with
    cutout", arXiv:1708.04552, 2017.

    Example:
        >>> augment.cutout(jax.random.key(2), jnp.ones((1, 8, 1)), 4)[0, :, 0].tolist()
        [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    rows, longest = _Rows(xs, seq_lengths, time_major), check_integer("longest", longest, 0)
    keys = jax.random.split(key)
    length = jax.random.randint(keys[0], (len(rows.xs), 1), 0, longest + 1)
    first = jax.random.randint(keys[1], (len(rows.xs), 1), 1 - length, rows.lengths)
    cut = (rows.steps >= first) & (rows.steps < first + length)
    return rows.given_back(zero_padding(rows.xs, ~cut))


def vary(
    key: jax.Array,
    xs: ArrayLike,
    strength: float,
    *,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """`shift`, `scale`, `noise` and `cutout` of one strength, one after the other.

        most = round(strength * T)
        xs   = scale(shift(xs, most), strength)
        xs   = cutout(noise(xs, strength), most)

    0.1 suits standardised sequences of which there are a few hundred or fewer. With more, weaker
    changes do: ``0.1 * (300 / rows) ** 0.5`` was good up to some thousands.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``, of mean 0 and deviation 1 over the training set.
        strength: share of the T steps, padding included, that `shift` and `cutout` get, and
            deviation of `scale` and `noise`; in [0, 1]. Not while being traced.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real, or `strength` is no number.
        ValueError: `xs` has fewer than two axes, `seq_lengths` does not fit, or `strength` is
            outside [0, 1].

    Example:
        >>> augment.vary(jax.random.key(0), jnp.ones((2, 20, 3)), 0.1).shape
        (2, 20, 3)
    """
    strength = check_number("strength", strength, "Call the four functions by themselves.")
    if not 0 <= strength <= 1:
        raise ValueError(f"`strength` must lie in [0, 1]; got {strength!r}.")
    axes: dict[str, Any] = {"seq_lengths": seq_lengths, "time_major": time_major}
    keys = jax.random.split(key, 4)
    most = round(strength * len(time_first("xs", xs, time_major)))
    xs = scale(keys[0], shift(keys[1], xs, most, **axes), strength, **axes)
    return cutout(keys[2], noise(keys[3], xs, strength, **axes), most, **axes)


class _Rows:
    """Sequences with the batch axis first, whatever the axes of what was given.

    Attributes:
        xs: ``[B, T, ...]``.
        steps: ``[1, T]``, numbered from 0.
        lengths: ``[B, 1]`` steps of each sequence.
    """

    def __init__(self, xs: Any, seq_lengths: Any, time_major: bool) -> None:
        steps = time_first("xs", xs, time_major)
        self._valid, self._batched = steps_of(steps, seq_lengths), steps.ndim > 2
        self._swapped = self._batched and time_major
        self.lengths = lengths_of(steps, self._valid).reshape(-1, 1)
        self.xs = steps.swapaxes(0, 1) if self._batched else steps[None]
        self.steps = jnp.arange(len(steps))[None]

    def at(self, steps: jax.Array) -> jax.Array:
        """Steps ``[B, T]``: before the first the first, after the last one the last."""
        steps = jnp.clip(steps, 0, jnp.maximum(self.lengths - 1, 0))
        return jnp.take_along_axis(self.xs, expand_mask(steps, self.xs.ndim), axis=1)

    def given_back(self, xs: jax.Array) -> jax.Array:
        """With the axes of what was given, and 0 beyond the end of each sequence."""
        steps = zero_padding(xs.swapaxes(0, 1) if self._batched else xs[0], self._valid)
        return steps.swapaxes(0, 1) if self._batched and not self._swapped else steps


def _at_least_0(name: str, value: Any, xs: jax.Array) -> Any:
    """An amount, such that what it is computed with keeps its dtype."""
    number = np.isscalar(value) or (isinstance(value, jax.Array) and not value.ndim)
    if not number or isinstance(value, str):
        raise TypeError(f"`{name}` must be a number; got {value!r}.")
    check_values(name, value, lambda number: number >= 0, "not be negative")
    return plain(value, xs.dtype)
