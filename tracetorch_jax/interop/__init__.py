"""Exchange with other libraries: NIR graphs (extra ``nir``)."""

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

__all__ = [
    "AvgPool",
    "ChannelsFirst",
    "ChannelsLast",
    "Flatten",
    "Mismatch",
    "Scale",
    "SumPool",
    "from_nir",
    "nir_mismatch",
    "run_nir",
    "to_nir",
]
