"""What is said where Flax cannot import its own nnx."""

from __future__ import annotations

import flax
import jax

try:
    from flax import nnx as nnx
except Exception as error:  # an ImportError or AttributeError, whatever jax no longer has
    raise ImportError(
        f"tracetorch_jax.nnx needs flax.nnx, which flax {flax.__version__} cannot import with jax "
        f"{jax.__version__} ({type(error).__name__}: {error}). Pairs that fit: jax 0.10.0 or "
        f"0.10.2 with flax 0.12.7 or 0.12.8, jax 0.12.0 with flax 0.12.10, 0.12.11 or 0.12.12. "
        f"tracetorch_jax.snn, for flax.linen, works with this pair as well."
    ) from error
