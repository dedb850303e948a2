"""The base of the named layers."""

from __future__ import annotations

import dataclasses
from typing import Any

from tracetorch_jax._core.features import spec_of
from tracetorch_jax._core.layer import AbstractLayer, compose
from tracetorch_jax.snn._cell import TraceCell


class Layer(AbstractLayer, TraceCell):
    """A layer whose features are its base classes."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ == "tracetorch_jax.snn._family":
            cls.__doc__ = compose(cls, _example(cls), where=" in the collection ``params``")


def _example(cls: type[Layer]) -> tuple[str, ...]:
    states = spec_of(field.name for field in dataclasses.fields(cls)).states
    return (
        f">>> layer = snn.{cls.__name__}(8)",
        ">>> carry = layer.initialize_carry(None, (2, 8))",
        ">>> variables = layer.init(jax.random.key(0), carry, jnp.ones((2, 8)))",
        ">>> carry, y = layer.apply(variables, carry, jnp.ones((2, 8)))",
        ">>> sorted(carry), y.shape",
        f"({sorted(states)}, (2, 8))",
    )
