"""Training helpers that complement optax: parameter labels, truncated or checkpointed BPTT over
pieces of long sequences, online gradients (RTRL), the width of learnt delays, and first weights for
a chosen firing rate.
"""

from tracetorch_jax.training._delays import sigma_schedule
from tracetorch_jax.training._labels import PARAMETER_LABELS, decay_mask, parameter_labels
from tracetorch_jax.training._online import OnlineState, online
from tracetorch_jax.training._pieces import chunks, piecewise_value_and_grad
from tracetorch_jax.training._rates import scale_to_rate

__all__ = [
    "PARAMETER_LABELS",
    "OnlineState",
    "chunks",
    "decay_mask",
    "online",
    "parameter_labels",
    "piecewise_value_and_grad",
    "scale_to_rate",
    "sigma_schedule",
]
