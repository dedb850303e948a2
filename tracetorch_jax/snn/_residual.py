"""Stacks that are passed by."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tracetorch_jax._checks import check_choice
from tracetorch_jax.functional.sequences import mask_steps, valid_steps
from tracetorch_jax.snn._sequential import Sequential


class Residual(Sequential):
    """A stack whose input goes past it, too: a residual connection, itself a cell.

        y = x + stack(x)                        merge="add"
        y = concatenate([x, stack(x)])          merge="concatenate"

    Everything else is as in `Sequential`: parameters, carries, one step at a time or, under
    `Unroll`, layer by layer. Added spikes are no longer just 0 and 1; the sum is what a spiking
    layer hands on besides its own spikes (spike-element-wise residual, Fang et al., NeurIPS 2021).

    Args:
        layers: see `Sequential`.
        merge: ``"add"``, for which input and output must be of one shape, or ``"concatenate"``.
        axis: axis of one step's tensor, from the end, along which to concatenate.
        feature_axes: see `Sequential`.

    Raises:
        TypeError: as `Sequential` does.
        ValueError: as `Sequential` does; unknown `merge`; an `axis` that is not negative; when
            called, an output that does not fit the input.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from tracetorch_jax import snn
        >>> block = snn.Residual([nn.Dense(8), snn.LIB(8)])
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(8), snn.LIB(8), block, block.copy()]))
        >>> xs = jnp.ones((2, 10, 3))
        >>> variables = model.init(jax.random.key(0), xs)
        >>> model.apply(variables, xs).shape
        (2, 10, 8)
    """

    merge: Literal["add", "concatenate"] = dataclasses.field(default="add", kw_only=True)
    axis: int = dataclasses.field(default=-1, kw_only=True)

    def __post_init__(self) -> None:
        check_choice("merge", self.merge, ("add", "concatenate"))
        if isinstance(self.axis, bool) or not isinstance(self.axis, int) or self.axis >= 0:
            raise ValueError(f"`axis` must be a negative integer; got {self.axis!r}.")
        super().__post_init__()

    def __call__(self, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """Advance the whole stack by one step; see `Sequential`."""
        carry, y = super().__call__(carry, x)
        return carry, self._merge(x, y)

    def unroll(
        self, carry: Any, xs: jax.Array, *, seq_lengths: jax.Array | None = None, **options: Any
    ) -> tuple[Any, jax.Array]:
        """Advance layer by layer over the leading axis of `xs`; see `Sequential`."""
        if seq_lengths is not None:
            xs = mask_steps(valid_steps(seq_lengths, xs.shape[0], [xs.shape[1:]]), xs)
        carry, ys = super().unroll(carry, xs, seq_lengths=seq_lengths, **options)
        return carry, self._merge(xs, ys)

    def _merge(self, x: jax.Array, y: jax.Array) -> jax.Array:
        if self.merge == "concatenate":
            return jnp.concatenate([x, y], axis=self.axis)
        if x.shape != y.shape:
            raise ValueError(
                f"`layers` of a Residual must give what they get, to be added to it: shape "
                f'{x.shape}; got {y.shape}. See merge="concatenate".'
            )
        return x + y
