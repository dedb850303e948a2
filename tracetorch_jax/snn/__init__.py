"""Trace layers as Flax (linen) cells, and what runs and stacks them."""

from tracetorch_jax.snn import _family, flex
from tracetorch_jax.snn._cell import TraceCell
from tracetorch_jax.snn._delays import Delay, DelayedDense
from tracetorch_jax.snn._family import *  # noqa: F403
from tracetorch_jax.snn._family import ALL_LAYERS, layer
from tracetorch_jax.snn._recurrent import Recurrent
from tracetorch_jax.snn._residual import Residual
from tracetorch_jax.snn._sequential import Sequential
from tracetorch_jax.snn._unroll import Unroll

__all__ = [
    "ALL_LAYERS",
    "Delay",
    "DelayedDense",
    "Recurrent",
    "Residual",
    "Sequential",
    "TraceCell",
    "Unroll",
    "flex",
    "layer",
]
__all__ += _family.__all__
