"""The mathematics of the layers as pure functions of JAX arrays."""

from tracetorch_jax.functional.constraints import (
    DECAY,
    THRESHOLD,
    UNBOUNDED,
    Constraint,
    decay_to_halflife,
    decay_to_time_constant,
    decay_to_timesteps,
    halflife_to_decay,
    sigmoid_inverse,
    softplus_inverse,
    time_constant_to_decay,
    timesteps_to_decay,
)
from tracetorch_jax.functional.engines.feedback import RecurrentStep
from tracetorch_jax.functional.engines.layer_step import LayerStep
from tracetorch_jax.functional.engines.unroll import unroll
from tracetorch_jax.functional.spec import Spec, Trace
from tracetorch_jax.functional.steps import adaptation, fire, membrane, recurrence, step, synapse
from tracetorch_jax.functional.traces import ema, leak, split

__all__ = [
    "DECAY",
    "THRESHOLD",
    "UNBOUNDED",
    "Constraint",
    "LayerStep",
    "RecurrentStep",
    "Spec",
    "Trace",
    "adaptation",
    "decay_to_halflife",
    "decay_to_time_constant",
    "decay_to_timesteps",
    "ema",
    "fire",
    "halflife_to_decay",
    "leak",
    "membrane",
    "recurrence",
    "sigmoid_inverse",
    "softplus_inverse",
    "split",
    "step",
    "synapse",
    "time_constant_to_decay",
    "timesteps_to_decay",
    "unroll",
]
