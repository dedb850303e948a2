"""Spiking and trace-based neural network layers for JAX and Flax."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tracetorch_jax import functional, snn, spikes

__all__ = [
    "augment",
    "checkpoint",
    "datasets",
    "decode",
    "diagnose",
    "diagnostics",
    "encode",
    "export",
    "functional",
    "initializers",
    "interop",
    "losses",
    "metrics",
    "nnx",
    "plot",
    "record",
    "sharding",
    "snn",
    "spikes",
    "training",
]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from tracetorch_jax import (
        augment,
        checkpoint,
        datasets,
        decode,
        diagnostics,
        encode,
        export,
        initializers,
        interop,
        losses,
        metrics,
        nnx,
        plot,
        sharding,
        training,
    )
    from tracetorch_jax.diagnostics import diagnose, record
else:

    def __getattr__(name: str) -> Any:
        """Import what was not yet used: what that needs, such as optax, takes long to import."""
        if name in ("diagnose", "record"):
            return getattr(importlib.import_module("tracetorch_jax.diagnostics"), name)
        if name in __all__:
            return importlib.import_module(f"tracetorch_jax.{name}")
        raise AttributeError(f"module 'tracetorch_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
