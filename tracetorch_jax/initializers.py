"""Initial values for the parameters of trace layers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax import functional

__all__ = ["half_lives"]


@dataclasses.dataclass(frozen=True)
class half_lives:
    """Decays whose half-lives are spread evenly on a logarithmic scale.

    A layer of many time scales sees a sequence at all of them, and need not learn its decays from
    one value. Two initializers of the same range are equal, so that layers made with them are.

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
        if not (0 < self.low <= self.high and math.isfinite(self.high)):
            raise ValueError(
                f"`low` and `high` must be finite and 0 < low <= high; got {self.low!r} and "
                f"{self.high!r}."
            )

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Decays, as Flax asks an initializer for them.

        Args:
            key: PRNG key.
            shape: ``()`` or ``(num_neurons,)``.
            dtype: floating-point.

        Returns:
            Decays in (0, 1) of that shape and dtype.
        """
        steps = jax.random.uniform(key, shape, dtype, math.log(self.low), math.log(self.high))
        return functional.halflife_to_decay(jnp.exp(steps))
