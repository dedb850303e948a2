"""Trace layers as Flax (nnx) cells, what runs and stacks them, and layers that own their state."""

from tracetorch_jax.nnx import _needed as _needed  # isort: skip
from tracetorch_jax.nnx import _family, flex
from tracetorch_jax.nnx._cell import TraceCell
from tracetorch_jax.nnx._delays import Delay, DelayedDense, DelayWidth, set_sigma
from tracetorch_jax.nnx._family import *  # noqa: F403
from tracetorch_jax.nnx._family import ALL_LAYERS, layer
from tracetorch_jax.nnx._linen import from_linen, to_linen
from tracetorch_jax.nnx._recurrent import Recurrent
from tracetorch_jax.nnx._sequential import Residual, Sequential
from tracetorch_jax.nnx._stateful import (
    Stateful,
    TraceState,
    detach_states,
    load_states,
    save_states,
    zero_states,
)
from tracetorch_jax.nnx._unroll import Unroll

__all__ = [
    "ALL_LAYERS",
    "Delay",
    "DelayWidth",
    "DelayedDense",
    "Recurrent",
    "Residual",
    "Sequential",
    "Stateful",
    "TraceCell",
    "TraceState",
    "Unroll",
    "detach_states",
    "flex",
    "from_linen",
    "layer",
    "load_states",
    "save_states",
    "set_sigma",
    "to_linen",
    "zero_states",
]
__all__ += _family.__all__
