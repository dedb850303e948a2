"""Training helpers that complement optax: parameter labels, truncated or checkpointed BPTT over
pieces of long sequences, and online gradients (RTRL).
"""

from tracetorch_jax.training._labels import decay_mask, parameter_labels
from tracetorch_jax.training._online import OnlineState, online
from tracetorch_jax.training._pieces import chunks, piecewise_value_and_grad

__all__ = [
    "OnlineState",
    "chunks",
    "decay_mask",
    "online",
    "parameter_labels",
    "piecewise_value_and_grad",
]
