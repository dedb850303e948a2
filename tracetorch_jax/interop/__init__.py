"""Models of other libraries: traceTorch's state dicts, and NIR graphs (extra ``nir``)."""

from tracetorch_jax.interop._nir.exporting import to_nir
from tracetorch_jax.interop._nir.importing import from_nir
from tracetorch_jax.interop._nir.mismatch import Mismatch, nir_mismatch
from tracetorch_jax.interop._nir.modules import (
    AvgPool,
    ChannelsFirst,
    ChannelsLast,
    Flatten,
    Scale,
    SumPool,
)
from tracetorch_jax.interop._nir.run import run_nir
from tracetorch_jax.interop._torch.bias import initial_carry
from tracetorch_jax.interop._torch.convert import from_torch, to_torch
from tracetorch_jax.interop._torch.files import load_torch
from tracetorch_jax.interop._torch.state_dict import layer_arguments

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
