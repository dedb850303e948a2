"""Models as programs that run without their code: for `jax.export`, and ONNX (extra ``export``).

There are two forms: a whole sequence, and one step of a stream with the states as input and output.
The parameters are part of the program, batch and time are left open, and one file serves CPU, CUDA,
ROCm and TPU. To run it takes JAX and nothing else: neither this package nor Flax.
"""

from tracetorch_jax.export._files import load, save
from tracetorch_jax.export._forms import initial_carry, sequence, step
from tracetorch_jax.export._onnx import onnx
from tracetorch_jax.export._programs import PLATFORMS
from tracetorch_jax.export._streams import Streams

__all__ = ["PLATFORMS", "Streams", "initial_carry", "load", "onnx", "save", "sequence", "step"]
