"""Initial values for the parameters of trace layers.

An initializer is a function ``(key, shape, dtype) -> constrained values``, such as those here and
those of `flax.linen.initializers`. A value outside the parameter's domain raises. Under `jax.jit`,
where nothing can raise, it becomes the nearest value that the parameter's dtype can hold. With and
without `jax.jit` so does a value inside the domain that the dtype would round to its end. NaN stays
NaN.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from tracetorch_jax import functional
from tracetorch_jax._shared.checks import check_number

__all__ = ["half_lives"]


@dataclasses.dataclass(frozen=True)
class half_lives:
    """Decays whose half-lives are spread evenly on a logarithmic scale.

    A layer of many time scales sees a sequence at all of them, and need not learn its decays from
    one value. Two initializers of the same range are equal, so that layers made with them are.

    A decay that the layer's `param_dtype` or `dtype` would round to 1 (a half-life above 177 steps
    in bfloat16, 700 in float16, 5 million in float32) or to 0 becomes the nearest that both hold.

    Args:
        low: shortest half-life in steps, greater than 0.
        high: longest half-life in steps, at least `low`.

    Raises:
        TypeError: an argument that is no number.
        ValueError: not ``0 < low <= high``, or not finite.

    Reference: on the use of many time scales, Perez-Nieves et al., "Neural heterogeneity promotes
    robust learning", Nature Communications 12, 2021.

    Example:
        >>> layer = snn.LIB(1000, beta=initializers.half_lives(1.0, 100.0))
        >>> variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 1000)))
        >>> decays = layer.apply(variables, method="parameters")["beta"]
        >>> bool(0.49 < decays.min() < 0.52), bool(0.99 < decays.max() < 0.994)
        (True, True)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            advice = "Create the initializer outside of jit, grad and vmap."
            object.__setattr__(self, name, check_number(name, getattr(self, name), advice))
        if not (0 < self.low <= self.high and math.isfinite(self.high)):
            raise ValueError(
                f"`low` and `high` must be finite and 0 < low <= high; got {self.low!r} and "
                f"{self.high!r}."
            )

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        """Decays, as Flax asks an initializer for them.

        Args:
            key: PRNG key.
            shape: ``()`` or ``(num_neurons,)``.
            dtype: floating-point.

        Returns:
            Decays of that shape and dtype in (0, 1), or the nearest that the dtype can hold.
        """
        logs = jax.random.uniform(key, shape, dtype, math.log(self.low), math.log(self.high))
        steps = functional.THRESHOLD.clip(jnp.exp(logs))  # in a narrow type 0 or infinite
        return functional.DECAY.clip(functional.halflife_to_decay(steps))
