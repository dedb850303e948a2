"""Models of other frameworks: traceTorch's state dicts, read and written."""

from tracetorch_jax.interop._bias import initial_carry
from tracetorch_jax.interop._files import load_torch
from tracetorch_jax.interop._state_dict import layer_arguments
from tracetorch_jax.interop._torch import from_torch, to_torch

__all__ = ["from_torch", "initial_carry", "layer_arguments", "load_torch", "to_torch"]
