"""Checks of the parameters that are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax._shared.checks import check_names


def child_params(params: Any, name: str, where: str, known: tuple[str, ...]) -> Any:
    """Parameters of a module within another."""
    if not isinstance(params, Mapping):
        raise TypeError(f"`params` of {where} must be a dict; got {type(params).__name__}.")
    extra = [other for other in params if other not in known]
    if extra:
        raise ValueError(f"`params` of {where} must be those of {list(known)}; got {extra} too.")
    return params.get(name, {})


def check_params(
    params: Any,
    wanted: set[str],
    where: str,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Raise unless a module has exactly the parameters that it needs, of their shapes."""
    if not isinstance(params, Mapping):
        raise TypeError(f"`params` of {where} must be a dict; got {type(params).__name__}.")
    check_names("params", params, tuple(sorted(wanted)), where)
    for key in sorted(wanted):
        shape = jnp.shape(params[key])
        if shapes and shape != shapes[key]:
            raise ValueError(f"`{key}` of {where} must have the shape {shapes[key]}; got {shape}.")
        if isinstance(params[key], jax.core.Tracer):
            raise TypeError(f"`{key}` of {where} must be known, not traced; got {params[key]}.")
