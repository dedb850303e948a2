"""From what a network gives at every step to one value per sequence.

All functions take ``[B, T, ...]`` (``[T, B, ...]`` with `time_major`, ``[T, N]`` without a batch
axis), drop the time axis, and leave out what lies beyond `seq_lengths`. They are differentiable
and work under `jax.jit` and `jax.vmap`. `mean`, `last` and `max` keep the dtype of the outputs;
`count` and `first_spike` give float32 for bfloat16 and float16, which can't hold large counts.
Integers and booleans become float32.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tracetorch_jax._shared.axes import time_first
from tracetorch_jax._shared.checks import check_choice
from tracetorch_jax._shared.dtypes import countable
from tracetorch_jax.functional.engines.masks import expand_mask, lengths_of, steps_of, zero_padding

__all__ = ["count", "first_spike", "last", "max", "mean"]


def mean(
    outputs: ArrayLike, *, seq_lengths: ArrayLike | None = None, time_major: bool = False
) -> jax.Array:
    """Mean over the steps of each sequence; 0 for an empty one.

    Args:
        outputs: ``[B, T, ...]``.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs` is ``[T, B, ...]``.

    Returns:
        ``[B, ...]``.

    Raises:
        ValueError: `outputs` has fewer than two axes, or `seq_lengths` does not fit.
        TypeError: `outputs` is not real, or `seq_lengths` is not integer.

    Example:
        >>> decode.mean(jnp.array([[[1.0], [3.0], [8.0]]]), seq_lengths=jnp.array([2])).tolist()
        [[2.0]]
    """
    xs, valid = _sequence(outputs, seq_lengths, time_major)
    total = countable(zero_padding(xs, valid)).sum(axis=0)
    steps = jnp.maximum(lengths_of(xs, valid), 1).astype(total.dtype)
    return (total / expand_mask(steps, total.ndim)).astype(xs.dtype)


def last(
    outputs: ArrayLike, *, seq_lengths: ArrayLike | None = None, time_major: bool = False
) -> jax.Array:
    """Value at the last step of each sequence; 0 for an empty one.

    Args:
        outputs: ``[B, T, ...]``.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs` is ``[T, B, ...]``.

    Returns:
        ``[B, ...]``.

    Raises:
        ValueError: `outputs` has fewer than two axes, or `seq_lengths` does not fit.
        TypeError: `outputs` is not real, or `seq_lengths` is not integer.

    Example:
        >>> decode.last(jnp.array([[[1.0], [3.0], [8.0]]]), seq_lengths=jnp.array([2])).tolist()
        [[3.0]]
    """
    xs, valid = _sequence(outputs, seq_lengths, time_major)
    if valid is None:
        return xs[-1] if xs.shape[0] != 0 else jnp.zeros(xs.shape[1:], xs.dtype)
    final = valid & ~jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    return zero_padding(xs, final).sum(axis=0)


def max(
    outputs: ArrayLike, *, seq_lengths: ArrayLike | None = None, time_major: bool = False
) -> jax.Array:
    """Greatest value over the steps of each sequence; 0 for an empty one.

    Args:
        outputs: ``[B, T, ...]``.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs` is ``[T, B, ...]``.

    Returns:
        ``[B, ...]``. Where several steps are the greatest, the gradient is shared among them.

    Raises:
        ValueError: `outputs` has fewer than two axes, or `seq_lengths` does not fit.
        TypeError: `outputs` is not real, or `seq_lengths` is not integer.

    Example:
        >>> decode.max(jnp.array([[[1.0], [3.0], [8.0]]]), seq_lengths=jnp.array([2])).tolist()
        [[3.0]]
    """
    xs, valid = _sequence(outputs, seq_lengths, time_major)
    if xs.shape[0] == 0:
        return jnp.zeros(xs.shape[1:], xs.dtype)
    if valid is None:
        return xs.max(axis=0)
    lowest = jnp.full_like(xs, -jnp.inf)
    greatest = jnp.where(expand_mask(valid, xs.ndim), xs, lowest).max(axis=0)
    filled = expand_mask(valid.any(axis=0), greatest.ndim)
    return jnp.where(filled, greatest, jnp.zeros_like(greatest))


def count(
    outputs: ArrayLike, *, seq_lengths: ArrayLike | None = None, time_major: bool = False
) -> jax.Array:
    """Sum over the steps of each sequence: the number of spikes, negative ones counting as -1.

    Args:
        outputs: ``[B, T, ...]``.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs` is ``[T, B, ...]``.

    Returns:
        ``[B, ...]``, of the dtype of `outputs`, or float32 if that is wider.

    Raises:
        ValueError: `outputs` has fewer than two axes, or `seq_lengths` does not fit.
        TypeError: `outputs` is not real, or `seq_lengths` is not integer.

    Example:
        >>> decode.count(jnp.array([[[1.0], [0.0], [1.0], [-1.0]]])).tolist()
        [[1.0]]
    """
    xs, valid = _sequence(outputs, seq_lengths, time_major)
    return countable(zero_padding(xs, valid)).sum(axis=0)


def first_spike(
    outputs: ArrayLike, *, seq_lengths: ArrayLike | None = None, time_major: bool = False
) -> jax.Array:
    """Step of each neuron's first spike, of either sign, from 0; the sequence's length if none.

    With ``s[t]`` in {0, 1} saying whether there is a spike,

        time = sum over t of (1 - s[0]) (1 - s[1]) ... (1 - s[t])

    which is exact, and differentiable in each ``s[t]``: a spike at ``t`` before the first one would
    bring it forward by ``first - t`` steps, and without the first one the second would count. The
    surrogate gradient of the spikes does the rest. Spikes that are scaled count as 1, and where
    there is none, the gradient is that towards a positive one.

    Args:
        outputs: ``[B, T, ...]``, 0 where there is no spike.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs` is ``[T, B, ...]``.

    Returns:
        ``[B, ...]`` in steps, of the dtype of `outputs`, or float32 if that is wider.

    Raises:
        ValueError: `outputs` has fewer than two axes, or `seq_lengths` does not fit.
        TypeError: `outputs` is not real, or `seq_lengths` is not integer.

    Example:
        >>> decode.first_spike(jnp.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])).tolist()
        [[1.0, 3.0]]
    """
    xs, valid = _sequence(outputs, seq_lengths, time_major)
    size = jnp.abs(countable(zero_padding(xs, valid)))
    size = jnp.minimum(size, float(jnp.finfo(size.dtype).max))  # no difference of infinities
    # Exactly 0 or 1, whatever the size, with the gradient of the size.
    spikes = (size > 0).astype(size.dtype) + (size - jax.lax.stop_gradient(size))
    silent = jnp.cumprod(1 - spikes, axis=0)
    return zero_padding(silent, valid).sum(axis=0)


Decoder = Literal["mean", "last", "max", "count"]
_DECODERS = {"mean": mean, "last": last, "max": max, "count": count}


def decoded(outputs: Any, decode: Decoder, seq_lengths: object, time_major: bool) -> jax.Array:
    """What the decoder of a name gives."""
    decoder: Any = _DECODERS[check_choice("decode", decode, tuple(_DECODERS))]
    values: jax.Array = decoder(outputs, seq_lengths=seq_lengths, time_major=time_major)
    return values


def _sequence(outputs: Any, seq_lengths: object, time_major: bool) -> tuple[jax.Array, Any]:
    """Outputs as ``[T, B, ...]``, and which of their steps count."""
    xs = time_first("outputs", outputs, time_major)
    return xs, steps_of(xs, seq_lengths)
