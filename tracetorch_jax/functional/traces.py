"""The three lines that all layers are made of."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

ZeroSplit = Literal["half", "both"]


def leak(decay: jax.Array, trace: jax.Array, x: jax.Array) -> jax.Array:
    """Leaky sum: ``decay * trace + x``.

    Args:
        decay: fraction of the trace kept per step, in [0, 1]; broadcasts against `x`.
        trace: value before this step, of the shape of `x`.
        x: what is added, any shape.

    Returns:
        The trace after this step, of the shape of `x`.

    Example:
        >>> float(functional.leak(0.5, 2.0, 3.0))
        4.0
    """
    return decay * trace + x


def ema(decay: jax.Array, trace: jax.Array, x: jax.Array) -> jax.Array:
    """Exponential moving average: ``decay * trace + (1 - decay) * x``.

    Args:
        decay: fraction of the trace kept per step, in [0, 1]; broadcasts against `x`.
        trace: value before this step, of the shape of `x`.
        x: what is averaged, any shape.

    Returns:
        The trace after this step, of the shape of `x`.

    Example:
        >>> float(functional.ema(0.5, 2.0, 3.0))
        2.5
    """
    return decay * trace + (1 - decay) * x


def split(x: jax.Array, zero_split: ZeroSplit = "half") -> tuple[jax.Array, jax.Array]:
    """Positive and negative part of `x`; their sum is `x`. Both are NaN where `x` is.

    Args:
        x: any shape.
        zero_split: what the gradient is where ``x == 0``, which is no corner case: a silent
            neuron's output is exactly 0. ``"half"`` passes half of each part's gradient, so that
            the two sum to the gradient of `x`. ``"both"`` passes all of each, as traceTorch does;
            recurrent dual layers then diverge on long sequences.

    Returns:
        ``(positive, negative)``; the negative part is at most 0.

    Raises:
        ValueError: unknown `zero_split`.

    Example:
        >>> positive, negative = functional.split(jnp.array([-2.0, 0.0, 3.0]))
        >>> positive.tolist(), negative.tolist()
        ([0.0, 0.0, 3.0], [-2.0, 0.0, 0.0])
    """
    zero = jnp.zeros_like(x)
    if zero_split == "half":
        return jnp.maximum(x, zero), jnp.minimum(x, zero)  # a tie shares its gradient evenly
    if zero_split == "both":
        return jnp.where(x < 0, zero, x), jnp.where(x > 0, zero, x)  # NaN stays in both
    raise ValueError(f'`zero_split` must be "half" or "both"; got {zero_split!r}.')
