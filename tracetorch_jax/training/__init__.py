"""Training helpers that complement optax: parameter labels, truncated or checkpointed BPTT over
pieces of long sequences, online gradients (RTRL), and the width of learnt delays.
"""

from tracetorch_jax.training._delays import sigma_schedule
from tracetorch_jax.training._labels import PARAMETER_LABELS, decay_mask, parameter_labels
from tracetorch_jax.training._online import OnlineState, online
from tracetorch_jax.training._pieces import chunks, piecewise_value_and_grad

__all__ = [
    "PARAMETER_LABELS",
    "OnlineState",
    "chunks",
    "decay_mask",
    "online",
    "parameter_labels",
    "piecewise_value_and_grad",
    "sigma_schedule",
]
