"""Sequences of different lengths, and sequences in pieces."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def valid_steps(seq_lengths: Any, length: int, shapes: list[tuple[int, ...]]) -> jax.Array:
    """Boolean ``[T, B]``, or ``[T]`` for a scalar: which steps lie within each sequence.

    Args:
        seq_lengths: ``[B]`` integers, or a scalar.
        length: T.
        shapes: of one step's tensors, with B as their leading axis.

    Raises:
        TypeError: not integers.
        ValueError: wrong shape, or a concrete length outside [0, T].
    """
    lengths = jnp.asarray(seq_lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`seq_lengths` must be integers; got dtype {lengths.dtype}.")
    if lengths.ndim > 1:
        raise ValueError(
            f"`seq_lengths` must be a vector of shape [B], or a scalar without a batch axis; "
            f"got shape {lengths.shape}."
        )
    if lengths.ndim == 1:
        for shape in shapes:
            if shape[:1] != lengths.shape:
                raise ValueError(
                    f"`seq_lengths` must have one length for each sequence in the batch; got shape "
                    f"{lengths.shape} for a step of shape {tuple(shape)}."
                )
    if not isinstance(lengths, jax.core.Tracer) and lengths.size:
        bad = [int(n) for n in np.asarray(lengths).flat if not 0 <= n <= length]
        if bad:
            raise ValueError(f"`seq_lengths` must lie between 0 and T = {length}; got {bad[0]}.")
    steps = jnp.arange(length, dtype=lengths.dtype).reshape((length,) + (1,) * lengths.ndim)
    return steps < lengths.reshape((1, *lengths.shape))


def expand_mask(mask: jax.Array, ndim: int) -> jax.Array:
    """Give a mask of leading axes the rank of what it masks."""
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))


def keep_ended(alive: jax.Array, new: Any, old: Any) -> Any:
    """The new state of the sequences that go on, the old one of those that have ended."""
    return jax.tree.map(
        lambda new, old: jnp.where(expand_mask(alive, new.ndim), new, old), new, old
    )


def mask_steps(valid: jax.Array, x: jax.Array) -> jax.Array:
    """Zero what lies beyond each sequence's end; leave what is not a real number (keys) alone."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return jnp.where(expand_mask(valid, x.ndim), x, jnp.zeros_like(x))


def length_of(xs: Any) -> int:
    """T, the leading axis that all arrays share."""
    shapes = [jnp.shape(x) for x in jax.tree.leaves(xs)]
    if not shapes or not all(shapes):
        raise ValueError(f"`xs` must hold arrays with a leading time axis; got shapes {shapes}.")
    lengths = {shape[0] for shape in shapes}
    if len(lengths) > 1:
        raise ValueError(f"`xs` must agree in its leading time axis; got shapes {shapes}.")
    return lengths.pop()


def in_chunks(xs: Any, every: int) -> list[Any]:
    """Cut ``[T, ...]`` into ``[T // K, K, ...]`` and, where it is not empty, ``[1, T % K, ...]``.

    Example:
        >>> [part.shape for part in in_chunks(jnp.zeros((7, 2)), 3)]
        [(2, 3, 2), (1, 1, 2)]
    """
    length = length_of(xs)
    rest = length % every
    parts = [jax.tree.map(lambda x: x[: length - rest].reshape(-1, every, *x.shape[1:]), xs)]
    if rest:
        parts.append(jax.tree.map(lambda x: x[None, length - rest :], xs))
    return parts if length != rest else parts[1:] or parts


def out_of_chunks(parts: list[Any]) -> Any:
    """Undo `in_chunks`.

    Example:
        >>> out_of_chunks(in_chunks(jnp.arange(7), 3)).tolist()
        [0, 1, 2, 3, 4, 5, 6]
    """

    def join(*parts: jax.Array) -> jax.Array:
        flat = [part.reshape(-1, *part.shape[2:]) for part in parts]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat)

    return jax.tree.map(join, *parts)
