"""From values and events to sequences of spikes.

Encoders of samples take ``[B, ...]`` and give ``[B, T, ...]``, or ``[T, B, ...]`` with
`time_major`; a vector ``[N]`` has no batch axis and gives ``[T, N]``. Encoders of sequences take
and give ``[B, T, ...]`` likewise. All but `pad_events` and `standardiser`, which prepare data, run
under `jax.jit` and `jax.vmap`. What an argument's values must satisfy is checked where they are
known, that is, not while they are being traced; traced NaN gives NaN. What is given has the dtype
of the values if that is floating, else float32; all is computed in float32 at least, and
`level_crossing` gives its counts so, since bfloat16 and float16 can't hold large ones.
"""

from tracetorch_jax.encode._encoders import (
    constant,
    delayed,
    delta,
    latency,
    level_crossing,
    population,
    rate,
    slopes,
    windows,
)
from tracetorch_jax.encode._events import Events, frames, pad_events
from tracetorch_jax.encode._sounds import log_mel
from tracetorch_jax.encode._standard import Standardiser, standardiser

__all__ = [
    "Events",
    "Standardiser",
    "constant",
    "delayed",
    "delta",
    "frames",
    "latency",
    "level_crossing",
    "log_mel",
    "pad_events",
    "population",
    "rate",
    "slopes",
    "standardiser",
    "windows",
]
