"""Types and shapes of the arrays that cells are given."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax._shared.checks import CALL, as_array
from tracetorch_jax._shared.dtypes import is_real, wider


def real_input(name: str, x: Any) -> jax.Array:
    """An input as an array of real numbers."""
    x = as_array(name, x, f"{CALL}.")
    if not is_real(x.dtype):
        raise TypeError(f"`{name}` must be real numbers; got dtype {x.dtype}.")
    return x


def dtypes_for(x: jax.Array, dtype: Any, param_dtype: Any) -> tuple[Any, Any]:
    """The dtypes of computation and of output, by an input and a cell's `dtype`s."""
    if dtype is not None:
        return jnp.dtype(dtype), jnp.dtype(dtype)
    param_dtype = jnp.dtype(param_dtype)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return param_dtype, param_dtype
    return wider(x.dtype, param_dtype), x.dtype


def check_axis(
    layer: str, name: str, shape: tuple[int, ...], dim: int, size: tuple[str, int], got: str
) -> None:
    """Check the shape of a step's tensor, and of sequences that of each step.

    Where the time axis is, only the caller knows.

    Args:
        layer: what to call the cell.
        name: what to call the array.
        shape: of a step.
        dim: the axis that has to have a size.
        size: name of the argument that says it, and the size.
        got: what to call the shape.
    """
    argument, wanted = size
    if len(shape) < -dim:
        raise ValueError(
            f"`{name}` must have an axis {dim} in each step for {layer} with dim={dim}; got {got} "
            f"{shape}."
        )
    if shape[dim] != wanted:
        raise ValueError(
            f"`{name}` must have {argument} = {wanted} at axis {dim} for {layer}; got {shape[dim]} "
            f"in {got} {shape}."
        )
