"""Residual connections, in every front end."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tracetorch_jax._core.sequential import AbstractSequential
from tracetorch_jax._shared.checks import cell_call, check_choice, check_integer
from tracetorch_jax.functional.engines.masks import Valid, held, without_padding


@dataclasses.dataclass(init=False, repr=False, eq=False)
class AbstractResidual(AbstractSequential):
    """A stack whose input goes past it, too: all but where parameters are kept."""

    merge: Literal["add", "concatenate"] = dataclasses.field(default="add", kw_only=True)
    axis: int = dataclasses.field(default=-1, kw_only=True)

    def check_fields(self, layers: Any, feature_axes: Any) -> None:
        """Check the arguments of the constructor."""
        check_choice("merge", self.merge, ("add", "concatenate"))
        check_integer("axis", self.axis, None, -1, "a negative integer")
        super().check_fields(layers, feature_axes)

    @cell_call
    def __call__(self, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        carry, y = super().__call__(carry, x)
        return carry, self._merge(x, y)

    def unroll(
        self,
        carry: Any,
        xs: jax.Array,
        *,
        seq_lengths: jax.Array | Valid | None = None,
        hold: int = 1,
        **options: Any,
    ) -> tuple[Any, jax.Array]:
        xs, options["seq_lengths"] = without_padding(xs, seq_lengths)
        carry, ys = super().unroll(carry, xs, hold=hold, **options)
        return carry, self._merge(held(xs, hold), ys)

    def _merge(self, x: jax.Array, y: jax.Array) -> jax.Array:
        if self.merge == "concatenate":
            return jnp.concatenate([x, y], axis=self.axis)
        if x.shape != y.shape:
            raise ValueError(
                f"`layers` of a Residual must give what they get, to be added to it: shape "
                f'{x.shape}; got {y.shape}. See merge="concatenate".'
            )
        return x + y
