"""Changes of training sequences that leave their class as it is.

Each takes a key and sequences ``[B, T, ...]``, changes every sequence in its own way, and gives
sequences of the same shape and floating-point dtype (float32 for integers). All run under `jax.jit`
and `jax.vmap`. They belong into the loss, which has a key::

    def loss(variables, batch, key):
        xs, labels = batch
        keys = jax.random.split(key)
        xs = augment.noise(keys[0], augment.shift(keys[1], xs, 10), 0.1)

Which of them leave the class as it is depends on the data: try them on a validation set. They know
nothing of sequences' own lengths: `shift` and `warp` move padding like any other step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tracetorch_jax._shared.axes import check_values, plain, real
from tracetorch_jax._shared.checks import check_integer
from tracetorch_jax.functional.engines.masks import expand_mask

__all__ = ["cutout", "noise", "scale", "shift", "warp"]


def noise(key: jax.Array, xs: ArrayLike, deviation: float) -> jax.Array:
    """Add Gaussian noise, drawn anew for every number.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``.
        deviation: standard deviation of the noise, at least 0.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real.
        ValueError: `xs` has fewer than two axes, or `deviation` is negative.

    Example:
        >>> augment.noise(jax.random.key(0), jnp.zeros((2, 5, 3)), 0.1).shape
        (2, 5, 3)
    """
    xs = _sequences(xs)
    return xs + _at_least_0("deviation", deviation, xs) * jax.random.normal(key, xs.shape, xs.dtype)


def scale(key: jax.Array, xs: ArrayLike, deviation: float) -> jax.Array:
    """Multiply each sequence by a factor ``exp(deviation * z)`` of its own, z from a normal
    distribution.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``.
        deviation: standard deviation of the factor's logarithm, at least 0.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real.
        ValueError: `xs` has fewer than two axes, or `deviation` is negative.

    Example:
        >>> xs = augment.scale(jax.random.key(0), jnp.ones((2, 5, 3)), 0.1)
        >>> bool((xs[0] == xs[0, 0, 0]).all())
        True
    """
    xs = _sequences(xs)
    draw = jax.random.normal(key, xs.shape[:1], xs.dtype)
    return xs * expand_mask(jnp.exp(_at_least_0("deviation", deviation, xs) * draw), xs.ndim)


def shift(key: jax.Array, xs: ArrayLike, most: int) -> jax.Array:
    """Move each sequence in time by up to `most` steps, earlier or later.

    What moves in from outside repeats the first or the last step.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``.
        most: steps, at least 0.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real, or `most` is no integer.
        ValueError: `xs` has fewer than two axes, or `most` is negative.

    Example:
        >>> augment.shift(jax.random.key(1), jnp.array([[1.0, 2.0, 3.0, 4.0]]), 2).tolist()
        [[2.0, 3.0, 4.0, 4.0]]
    """
    xs, most = _sequences(xs), check_integer("most", most, 0)
    by = jax.random.randint(key, xs.shape[:1], -most, most + 1)
    return _at(xs, jnp.arange(xs.shape[1])[None] - by[:, None])


def warp(key: jax.Array, xs: ArrayLike, most: float) -> jax.Array:
    """Play each sequence faster or slower, by a factor between ``1 / (1 + most)`` and ``1 + most``.

    The middle of a sequence stays where it is. Values between steps are interpolated linearly, and
    what is outside repeats the first or the last step.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``.
        most: greatest relative change of speed, at least 0.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real.
        ValueError: `xs` has fewer than two axes, or `most` is negative.

    Example:
        >>> augment.warp(jax.random.key(0), jnp.arange(10.0)[None, :, None], 0.2).shape
        (1, 10, 1)
    """
    xs = _sequences(xs)
    limit = jnp.log1p(jnp.asarray(_at_least_0("most", most, xs), jnp.float32))
    speed = jnp.exp(jax.random.uniform(key, (len(xs), 1), minval=-limit, maxval=limit))
    middle = (xs.shape[1] - 1) / 2
    source = middle + speed * (jnp.arange(xs.shape[1], dtype=speed.dtype)[None] - middle)
    before = jnp.floor(source)
    part = expand_mask((source - before).astype(xs.dtype), xs.ndim)
    first, second = (_at(xs, before.astype(int) + i) for i in (0, 1))
    return first + part * (second - first)


def cutout(key: jax.Array, xs: ArrayLike, longest: int) -> jax.Array:
    """Set a stretch of each sequence to 0, of up to `longest` steps, anywhere.

    Args:
        key: PRNG key.
        xs: ``[B, T, ...]``, of which 0 should be the mean.
        longest: steps, at least 0.

    Returns:
        Of the shape of `xs`.

    Raises:
        TypeError: `xs` are not real, or `longest` is no integer.
        ValueError: `xs` has fewer than two axes, or `longest` is negative.

    Reference: DeVries & Taylor, "Improved regularization of convolutional neural networks with
    cutout", arXiv:1708.04552, 2017.

    Example:
        >>> augment.cutout(jax.random.key(2), jnp.ones((1, 8)), 4).tolist()
        [[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    """
    xs, longest = _sequences(xs), check_integer("longest", longest, 0)
    keys = jax.random.split(key)
    length = jax.random.randint(keys[0], (len(xs), 1), 0, longest + 1)
    first = jax.random.randint(keys[1], (len(xs), 1), 1 - length, xs.shape[1])
    steps = jnp.arange(xs.shape[1])[None]
    cut = (steps >= first) & (steps < first + length)
    return jnp.where(expand_mask(cut, xs.ndim), jnp.zeros_like(xs), xs)


def _sequences(xs: ArrayLike) -> jax.Array:
    sequences = real("xs", xs)
    if sequences.ndim < 2:
        raise ValueError(f"`xs` must be sequences [B, T, ...]; got shape {sequences.shape}.")
    return sequences


def _at_least_0(name: str, value: Any, xs: jax.Array) -> Any:
    """An amount, such that what it is computed with keeps its dtype."""
    if not (isinstance(value, jax.Array) or np.isscalar(value)) or isinstance(value, str):
        raise TypeError(f"`{name}` must be a number; got {value!r}.")
    check_values(name, value, lambda number: number >= 0, "not be negative")
    return plain(value, xs.dtype)


def _at(xs: jax.Array, steps: jax.Array) -> jax.Array:
    """Steps of each sequence; before the first the first, and after the last the last."""
    steps = jnp.clip(steps, 0, xs.shape[1] - 1)
    return jnp.take_along_axis(xs, expand_mask(steps, xs.ndim), axis=1)
