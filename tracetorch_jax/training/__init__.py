"""Training helpers that complement optax: a loop over epochs, an optimiser, parameter labels,
truncated or checkpointed BPTT over pieces of long sequences, online gradients (RTRL), the width of
learnt delays, and first weights for a firing rate.
"""

from tracetorch_jax.training._delays import sigma_schedule
from tracetorch_jax.training._fit import Fit, fit
from tracetorch_jax.training._labels import PARAMETER_LABELS, decay_mask, parameter_labels
from tracetorch_jax.training._online import OnlineState, online
from tracetorch_jax.training._optimiser import adamw, num_updates
from tracetorch_jax.training._pieces import chunks, piecewise_value_and_grad
from tracetorch_jax.training._rates import scale_to_rate
from tracetorch_jax.training._rows import evaluate, predict

__all__ = [
    "PARAMETER_LABELS",
    "Fit",
    "OnlineState",
    "adamw",
    "chunks",
    "decay_mask",
    "evaluate",
    "fit",
    "num_updates",
    "online",
    "parameter_labels",
    "piecewise_value_and_grad",
    "predict",
    "scale_to_rate",
    "sigma_schedule",
]
