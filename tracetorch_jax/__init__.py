"""Spiking and trace-based neural network layers for JAX and Flax."""

from __future__ import annotations

import importlib
from typing import Any

from tracetorch_jax import functional, snn, spikes

__all__ = [
    "checkpoint",
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

# Imported when first used: what they need in turn, such as optax, takes longer than all else here.
_ROOMS = (
    "checkpoint",
    "decode",
    "diagnostics",
    "encode",
    "export",
    "initializers",
    "interop",
    "losses",
    "metrics",
    "nnx",
    "plot",
    "sharding",
    "training",
)
_FUNCTIONS = ("diagnose", "record")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"tracetorch_jax.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("tracetorch_jax.diagnostics"), name)
    raise AttributeError(f"module 'tracetorch_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
