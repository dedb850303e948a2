"""Any cell over time."""

from __future__ import annotations

import flax.linen as nn

from tracetorch_jax._core.unroll import AbstractUnroll
from tracetorch_jax.snn._front_end import LINEN, bound


class Unroll(AbstractUnroll, nn.Module):
    """Run a cell over time.

    The parameters are those of the cell, under ``cell``, whatever the other arguments: checkpoints
    are interchangeable, also with `flax.linen.RNN` of the same cell.

    Unlike in `flax.linen.RNN`, the parameters of a trace layer are constrained once per sequence,
    a gradient keeps carries and nothing else, a stack (`Sequential`) runs layer by
    layer, and padding gives zeros.

    Args:
        cell: a trace layer, a `Sequential`, or any other `flax.linen.RNNCellBase`.
        time_major: whether sequences are ``[T, B, ...]`` rather than ``[B, T, ...]``.
        reverse: whether the sequence runs from its end to its start. The outputs are then in the
            order in which they were computed, the last step first.
        keep_order: with `reverse`, whether outputs are put back into the order of the input.
        return_carry: whether to return ``(carry, ys)`` rather than ``ys``.
        hold: steps for which each step of the input stays, such as an image, ``[B, 1, ...]``. What
            stands before the first cell of a `Sequential` runs once for all of these steps, if it
            is a function, a Dense, a convolution, an embedding or a normalisation. Other modules
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
        >>> xs = jnp.ones((2, 4, 3))
        >>> variables = model.init(jax.random.key(0), xs)
        >>> carry, ys = model.apply(variables, xs, seq_lengths=jnp.array([4, 2]))
        >>> ys[1, :, 0].tolist(), carry["mem"][1, 0].item()
        ([0.5, 0.75, 0.0, 0.0], 0.75)
    """

    front_end = LINEN
    __call__ = bound(AbstractUnroll.__call__)  # Flax wraps what it finds in the class itself

    def __post_init__(self) -> None:
        self.check_fields()
        super().__post_init__()
