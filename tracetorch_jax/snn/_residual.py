"""Residual connections."""

from __future__ import annotations

from tracetorch_jax._core.residual import AbstractResidual
from tracetorch_jax.snn._front_end import bound
from tracetorch_jax.snn._sequential import Sequential


class Residual(AbstractResidual, Sequential):
    """Residual connection around a stack of layers; itself a cell.

        y = x + stack(x)                        merge="add"
        y = concatenate([x, stack(x)])          merge="concatenate"

    Everything else is as in `Sequential`: parameters, carries, one step at a time or, under
    `Unroll`, layer by layer. Added spikes are no longer just 0 and 1; the sum is what a spiking
    layer passes on with its own spikes (spike-element-wise residual, Fang et al., NeurIPS 2021).

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
        >>> block = snn.Residual([nn.Dense(8), snn.LIB(8)])
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(8), snn.LIB(8), block, block.copy()]))
        >>> xs = jnp.ones((2, 10, 3))
        >>> variables = model.init(jax.random.key(0), xs)
        >>> model.apply(variables, xs).shape
        (2, 10, 8)
    """

    # Flax wraps what it finds in the class itself.
    __call__ = bound(AbstractResidual.__call__)
    unroll = bound(AbstractResidual.unroll)
