"""Types of numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def as_given(x: object) -> Any:
    """An argument as an array: JAX's, or else NumPy's, of which JAX may cut 64 bits to 32."""
    return x if isinstance(x, jax.Array) else np.asarray(x)


def as_int32(whole: Any) -> jax.Array:
    """Integers as int32; one that it can't hold becomes the nearest that it can, not another.

    Example:
        >>> as_int32(np.array([2**32 + 3, 7])).tolist()
        [2147483647, 7]
    """
    whole = as_given(whole)
    numeric: Any = jnp if isinstance(whole, jax.Array) else np
    own, ours = jnp.iinfo(whole.dtype), jnp.iinfo(jnp.int32)
    low, high = max(int(own.min), int(ours.min)), min(int(own.max), int(ours.max))
    return jnp.asarray(numeric.clip(whole, low, high).astype(numeric.int32))


def asarray(x: object) -> jax.Array:
    """`jnp.asarray`, but known whole numbers that JAX would cut to 32 bits become floating."""
    if not (isinstance(x, jax.Array) or hasattr(x, "__jax_array__")):
        with contextlib.suppress(TypeError, ValueError):  # traced numbers in a list, or no array
            numbers = np.asarray(x)
            if numbers.dtype.kind in "iu":
                kept = numbers.astype(jnp.result_type(numbers))
                x = x if np.array_equal(kept, numbers) else numbers.astype(float)
    return jnp.asarray(x)


def is_real(dtype: DTypeLike) -> bool:
    """Whether a type is of real numbers, booleans among them."""
    number = jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_
    return bool(number and not jnp.issubdtype(dtype, jnp.complexfloating))


def widen(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """`x` as a wider type, rounded as the narrow one is.

    Where a product and a sum in bfloat16 are fused with what follows, XLA leaves out the rounding
    between them (``--xla_allow_excess_precision``), and whether it fuses depends on the program:
    one step, a sequence, with or without `jax.jit`.
    """
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype != dtype
    if not narrow or wider(x.dtype, dtype) != dtype:
        return x.astype(dtype)
    bits = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x.astype(dtype), bits.nexp, bits.nmant)


def wider(a: Any, b: Any) -> Any:
    """The type that holds both, also where JAX's promotion is set to strict."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


def countable(x: jax.Array) -> jax.Array:
    """An array in float32, or in its own type if that is wider: to count, sum and keep levels in.

    bfloat16 can't count beyond 256, float16 beyond 2048.
    """
    return x.astype(wider(x.dtype, jnp.float32))


def misfit(array: object, dtype: DTypeLike) -> str | None:
    """The first value that is not finite or that a dtype cannot hold, in words; None if all fit."""
    array, dtype = np.asarray(array), np.dtype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
        if jnp.issubdtype(dtype, jnp.inexact):
            fits = np.isfinite(cast)
        else:
            fits = cast == (array.astype(np.float64) if array.dtype.kind not in "biu" else array)
    if np.all(fits):
        return None
    place = tuple(map(int, np.argwhere(~np.asarray(fits))[0]))
    value = array[place].item()
    where = f" at {list(place)}" if place else ""
    return f"{value!r}{where}, where values must be finite and fit {dtype.name}"


def in_words(shape: Sequence[Any]) -> str:
    """A shape, names of sizes included.

    Example:
        >>> in_words((2, "t", 3))
        '[2, t, 3]'
    """
    return f"[{', '.join(map(str, shape))}]"


def type_of(array: Any) -> str:
    """Dtype and shape, such as ``float32[b, 20]``."""
    return f"{array.dtype}{in_words(array.shape)}"
