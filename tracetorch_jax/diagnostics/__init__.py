"""What the layers of a network do: every state at every step, and why a network does not train."""

from tracetorch_jax.diagnostics._diagnosis import (
    DelayReport,
    Diagnosis,
    LayerReport,
    NeuronGroup,
    diagnose,
)
from tracetorch_jax.diagnostics._recording import Recording, record

__all__ = [
    "DelayReport",
    "Diagnosis",
    "LayerReport",
    "NeuronGroup",
    "Recording",
    "diagnose",
    "record",
]
