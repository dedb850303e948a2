"""Types of numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def wider(a: Any, b: Any) -> Any:
    """The type that holds both, also where JAX's promotion is set to strict."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)
