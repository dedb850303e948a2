"""The one convention of axes that encoders, decoders, losses and metrics share with `Unroll`.

Sequences are ``[B, T, ...]``, ``[T, B, ...]`` if time-major, and ``[T, N]`` without a batch axis.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from tracetorch_jax._shared.checks import as_array
from tracetorch_jax._shared.dtypes import is_real


def known(x: object) -> np.ndarray | None:
    """The values of an argument, or None while they are being traced."""
    return None if isinstance(x, jax.core.Tracer) else np.asarray(x)


def plain(number: Any, dtype: DTypeLike | None = None) -> Any:
    """A known number as Python's own, of any size: sums of NumPy's narrow ones would wrap.

    With the floating `dtype` of what it meets, it is floating: a known number as Python's own, a
    traced number or an array in that dtype.
    """
    value = known(number)
    if value is not None and not value.ndim:
        return value.item() if dtype is None else float(value)
    if dtype is None:
        return number
    return jnp.asarray((number if value is None else value).astype(dtype))


def check_values(name: str, x: object, inside: Any, rule: str) -> None:
    """Raise ``ValueError`` for the first known value for which `inside` is false."""
    values = known(x)
    if values is None:
        return
    bad = values[~inside(values)]
    if bad.size:
        raise ValueError(f"`{name}` must {rule}; got {bad.flat[0]}.")


def _numbers(name: str, value: object) -> np.ndarray | None:
    """A number or an array of them, or None while they are being traced."""
    values = known(value)
    if values is None:
        return None
    if values.dtype.kind not in "biuf" and not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"`{name}` must be a number; got {value!r}.")
    return values


def check_finite(name: str, value: object) -> None:
    """A finite number, or an array of them."""
    values = _numbers(name, value)
    if values is not None and not np.all(np.isfinite(values)):
        raise ValueError(f"`{name}` must be finite; got {value!r}.")


def check_positive(name: str, value: object, dtype: DTypeLike | None = None) -> Any:
    """A number greater than 0, or an array of them, also in the `dtype` of what it meets."""
    values = _numbers(name, value)
    if values is not None and not (np.all(np.isfinite(values)) and np.all(values > 0)):
        raise ValueError(f"`{name}` must be finite and greater than 0; got {value!r}.")
    if values is not None and dtype is not None:
        info = jnp.finfo(dtype)  # what is below `tiny` may be flushed to 0
        if not np.all((info.tiny <= values.astype(float)) & (values.astype(float) <= info.max)):
            raise ValueError(
                f"`{name}` must be finite and greater than 0, also as {info.dtype}; got {value!r}."
            )
    return plain(value, dtype)


def real(name: str, x: object) -> jax.Array:
    """An array of real numbers; anything but floating point becomes float32."""
    x = as_array(name, x)
    if not is_real(x.dtype):
        raise TypeError(f"`{name}` must be real numbers; got dtype {x.dtype}.")
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)


def add_time(sample: jax.Array, time_major: bool) -> int:
    """Where the time axis of a sequence of such samples goes.

    ``[B, ...]`` becomes ``[B, T, ...]`` and a vector ``[N]``, which has no batch axis, ``[T, N]``.
    """
    return 0 if time_major or sample.ndim < 2 else 1


def time_first(name: str, xs: object, time_major: bool) -> jax.Array:
    """A sequence as ``[T, B, ...]``, or ``[T, N]`` where there is no batch axis."""
    xs = real(name, xs)
    if xs.ndim < 2:
        raise ValueError(
            f"`{name}` must be [B, T, ...], [T, B, ...] with time_major=True, or [T, N] without a "
            f"batch axis; got shape {xs.shape}."
        )
    return xs if time_major or xs.ndim == 2 else jnp.moveaxis(xs, 1, 0)
