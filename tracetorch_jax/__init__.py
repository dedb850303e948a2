"""Spiking and trace-based neural network layers for JAX and Flax."""

from tracetorch_jax import functional, snn, spikes

__all__ = ["functional", "snn", "spikes"]
__version__ = "0.1.0"
