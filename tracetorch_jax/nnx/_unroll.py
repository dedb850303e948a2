"""Any cell over time."""

from __future__ import annotations

import dataclasses

from flax import nnx

from tracetorch_jax._core.unroll import AbstractUnroll
from tracetorch_jax.nnx._front_end import NNX


@dataclasses.dataclass(repr=False, eq=False)
class Unroll(AbstractUnroll, nnx.Module):
    """Run a cell over time.

    Unlike in `flax.nnx.RNN`, the parameters of a trace layer are constrained once per sequence, a
    gradient keeps carries and nothing else, a stack (`Sequential`) runs layer by layer, and padding
    gives zeros. See `tracetorch_jax.snn.Unroll`, whose arguments these are.

    Args:
        cell: a trace layer, a `Sequential`, or any other `flax.nnx.RNNCellBase`.
        time_major: whether sequences are ``[T, B, ...]`` rather than ``[B, T, ...]``.
        reverse: whether the sequence runs from its end to its start. The outputs are then in the
            order in which they were computed, the last step first.
        keep_order: with `reverse`, whether outputs are put back into the order of the input.
        return_carry: whether to return ``(carry, ys)`` rather than ``ys``.
        hold: steps for which each step of the input stays, such as an image, ``[B, 1, ...]``. What
            stands before the first cell of a `Sequential` runs once for all of these steps, if it
            is a function, a Linear, a convolution, an embedding or a normalisation. Other modules
            there, such as Dropout, run anew at each of them. Outputs have `hold` times as many
            steps as the input, and `seq_lengths` counts those of the input.
        engine: ``"auto"``, ``"scan"``, ``"fused"`` or ``"parallel"``, see `functional.unroll`.
        unroll: steps per iteration of the compiled loop.
        checkpoint_every: K, to keep one carry per K steps for the gradient and compute the others
            again; ``"sqrt"`` for about the square root of T; by default 8 on CPU and 1 elsewhere.

    Raises:
        TypeError: `cell` is not a cell, or `hold`, `unroll` or `checkpoint_every` is no integer.
        ValueError: unknown `engine`, `hold`, `unroll` or `checkpoint_every` below 1; when called,
            an engine that cannot run the cell.

    Example:
        >>> model = snn.Unroll(snn.LI(3, beta=0.5), return_carry=True)
        >>> carry, ys = model(jnp.ones((2, 4, 3)), seq_lengths=jnp.array([4, 2]))
        >>> ys[1, :, 0].tolist(), carry["mem"][1, 0].item()
        ([0.5, 0.75, 0.0, 0.0], 0.75)
    """

    front_end = NNX

    def __post_init__(self) -> None:
        self.check_fields()
