"""Models of other libraries: traceTorch's state dicts, and NIR graphs (extra ``nir``)."""

from tracetorch_jax.interop._bias import initial_carry
from tracetorch_jax.interop._files import load_torch
from tracetorch_jax.interop._nir_export import to_nir
from tracetorch_jax.interop._nir_import import from_nir
from tracetorch_jax.interop._nir_mismatch import Mismatch, nir_mismatch
from tracetorch_jax.interop._nir_modules import (
    AvgPool,
    ChannelsFirst,
    ChannelsLast,
    Flatten,
    Scale,
    SumPool,
)
from tracetorch_jax.interop._nir_run import run_nir
from tracetorch_jax.interop._state_dict import layer_arguments
from tracetorch_jax.interop._torch import from_torch, to_torch

__all__ = [
    "AvgPool",
    "ChannelsFirst",
    "ChannelsLast",
    "Flatten",
    "Mismatch",
    "Scale",
    "SumPool",
    "from_nir",
    "from_torch",
    "initial_carry",
    "layer_arguments",
    "load_torch",
    "nir_mismatch",
    "run_nir",
    "to_nir",
    "to_torch",
]
