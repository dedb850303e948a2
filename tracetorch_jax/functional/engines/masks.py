"""Sequences of different lengths, and sequences in pieces."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._shared.dtypes import as_int32


def whole_counts(name: str, counts: Any, least: int, most: int, ends: str) -> jax.Array:
    """Numbers of steps or events as int32, of whatever type of integers they are given.

    Steps counted in the type of the lengths would wrap: uint8 ends at 255.

    Args:
        name: what to call the argument in errors.
        counts: integers of any shape.
        least: the least that is allowed.
        most: the most; below 2**31.
        ends: the range as errors say it.

    Returns:
        int32 in [least, most]. Traced numbers can't be refused, and are clipped to [0, most].

    Raises:
        TypeError: not integers.
        ValueError: a known number out of range.
    """
    if not hasattr(counts, "dtype"):
        counts = np.asarray(counts) if np.size(counts) else np.asarray(counts, np.int32)
    if not jnp.issubdtype(counts.dtype, jnp.integer):
        raise TypeError(f"`{name}` must be integers; got dtype {counts.dtype}.")
    if not isinstance(counts, jax.core.Tracer):
        bad = [int(n) for n in np.asarray(counts).flat if not least <= int(n) <= most]
        if bad:
            raise ValueError(f"`{name}` must lie between {ends}; got {bad[0]}.")
    return jnp.clip(as_int32(counts), 0, most)


def check_lengths(seq_lengths: Any, length: int) -> jax.Array:
    """`seq_lengths` as int32 in [0, T], see `whole_counts`."""
    return whole_counts("seq_lengths", seq_lengths, 0, length, f"0 and T = {length}")


class Valid(NamedTuple):
    """Steps within each sequence, for inputs that are 0 beyond: what becomes of `seq_lengths`.

    `Unroll` makes it once, and whatever takes `seq_lengths` takes it in their place.

    Attributes:
        mask: ``[T, B]``, or ``[T]`` without a batch axis.
    """

    mask: jax.Array


def without_padding(xs: jax.Array, seq_lengths: Any) -> tuple[jax.Array, Valid | None]:
    """A sequence with zeros beyond each end, and where that is.

    Args:
        xs: ``[T, ...]``.
        seq_lengths: as of `valid_steps`; `Valid` if the zeros are there; None if all steps count.

    Raises:
        TypeError: as `valid_steps` does.
        ValueError: as `valid_steps` does.
    """
    if seq_lengths is None or isinstance(seq_lengths, Valid):
        return xs, seq_lengths
    mask = valid_steps(seq_lengths, xs.shape[0], [xs.shape[1:]])
    return zero_padding(xs, mask), Valid(mask)


def valid_steps(seq_lengths: Any, length: int, shapes: list[tuple[int, ...]]) -> jax.Array:
    """Boolean ``[T, B]``, or ``[T]`` for a scalar: which steps lie within each sequence.

    Args:
        seq_lengths: ``[B]`` integers, or a scalar; or `Valid`, whose mask it is then.
        length: T.
        shapes: of one step's tensors, with B as their leading axis.

    Raises:
        TypeError: not integers.
        ValueError: wrong shape, or a concrete length outside [0, T].
    """
    lengths = None if isinstance(seq_lengths, Valid) else check_lengths(seq_lengths, length)
    batch = seq_lengths.mask.shape[1:] if lengths is None else lengths.shape
    if len(batch) > 1:
        raise ValueError(
            f"`seq_lengths` must be a vector of shape [B], or a scalar without a batch axis; "
            f"got shape {batch}."
        )
    for shape in shapes if batch else []:
        if shape[:1] != batch:
            raise ValueError(
                f"`seq_lengths` must have one length for each sequence in the batch; got shape "
                f"{batch} for a step of shape {tuple(shape)}."
            )
    if lengths is None:
        return seq_lengths.mask
    steps = jnp.arange(length, dtype=jnp.int32).reshape((length,) + (1,) * lengths.ndim)
    return steps < lengths.reshape((1, *lengths.shape))


def expand_mask(mask: jax.Array, ndim: int) -> jax.Array:
    """Give a mask of leading axes the rank of what it masks."""
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))


def keep_ended(alive: jax.Array, new: Any, old: Any) -> Any:
    """The new state of the sequences that go on, the old one of those that have ended."""
    return jax.tree.map(
        lambda new, old: jnp.where(expand_mask(alive, new.ndim), new, old), new, old
    )


def steps_of(xs: jax.Array, seq_lengths: Any) -> jax.Array | None:
    """Which steps of ``[T, B, ...]`` lie within each sequence: ``[T, B]`` or ``[T]``; None: all."""
    if seq_lengths is None:
        return None
    shape = np.shape(seq_lengths)
    if xs.ndim == 2 and shape:
        raise ValueError(
            f"`seq_lengths` must be a scalar for one sequence [T, N]; got shape {shape}."
        )
    if xs.ndim > 2 and not shape:
        raise ValueError(
            "`seq_lengths` must have one length per sequence of the batch; got a scalar."
        )
    return valid_steps(seq_lengths, xs.shape[0], [xs.shape[1:]])


def zero_padding(xs: jax.Array, valid: jax.Array | None) -> jax.Array:
    """``[T, B, ...]`` with zeros beyond each sequence's end, whatever stood there."""
    return xs if valid is None else jnp.where(expand_mask(valid, xs.ndim), xs, jnp.zeros_like(xs))


def lengths_of(xs: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Steps of each sequence: ``[B]``, or a scalar."""
    if valid is None:
        return jnp.full(xs.shape[1:2] if xs.ndim > 2 else (), xs.shape[0])
    return valid.sum(axis=0)


def held(xs: Any, hold: int) -> Any:
    """Each step of ``[T, ...]`` `hold` times, in arrays or `Valid`.

    Example:
        >>> held(jnp.array([1, 2]), 3).tolist()
        [1, 1, 1, 2, 2, 2]
    """
    return xs if hold == 1 else jax.tree.map(lambda x: jnp.repeat(x, hold, axis=0), xs)


def length_of(xs: Any) -> int:
    """T, the leading axis that all arrays share."""
    shapes = [np.shape(x) for x in jax.tree.leaves(xs)]
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
