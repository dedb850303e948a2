"""Recurrence between neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from tracetorch_jax._core.recurrent import AbstractRecurrent, Carry, weak
from tracetorch_jax.nnx._front_end import NNX


class Recurrent(AbstractRecurrent, nnx.RNNCellBase):
    """All-to-all recurrence: a cell that also receives its own last output.

        y = cell(x + feedback(prev_output))
        prev_output = y

    See `tracetorch_jax.snn.Recurrent`.

    Args:
        cell: a trace layer, or any other cell, which is then run step by step: `record`, `diagnose`
            and `metrics` do not see into such a cell.
        feedback: module from the shape of one step's output to that of its input, such as
            ``Linear`` or ``Conv``. It must neither draw random numbers nor change variables. By
            default ``Linear(num_neurons, num_neurons, use_bias=False)`` with the dtypes of `cell`,
            whose kernel starts orthogonal with gain 0.3.
        rngs: random numbers for the default `feedback` (stream ``params``).

    Raises:
        TypeError: `cell` is no cell, or `feedback` no module.
        ValueError: neither `feedback` nor `rngs`; no `feedback` for a `cell` that is no trace layer
            or has its neurons on another axis than the last; when called, a `feedback` that gives
            another shape than the input's, or an `engine` other than ``"auto"`` and ``"scan"``.

    Example:
        >>> layer = snn.Recurrent(snn.LIB(16), rngs=nnx.Rngs(0))
        >>> layer.feedback.kernel.shape
        (16, 16)
        >>> snn.Unroll(layer)(jnp.ones((2, 10, 16))).shape
        (2, 10, 16)
    """

    front_end = NNX

    def __init__(
        self,
        cell: Any,
        feedback: Callable[..., Any] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self.check_fields(cell, feedback)
        if feedback is None:
            if not isinstance(rngs, nnx.Rngs):
                raise ValueError(
                    "`rngs` is needed for the default `feedback`, such as nnx.Rngs(0); "
                    f"got {rngs!r}."
                )
            size, dtypes = cell.num_neurons, {"dtype": cell.dtype, "param_dtype": cell.param_dtype}
            feedback = nnx.Linear(size, size, use_bias=False, kernel_init=weak, rngs=rngs, **dtypes)
        self.cell = cell
        self.feedback = feedback

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ) -> Carry:
        """A fresh carry.

        Args:
            input_shape: shape of one step's tensor.
            rngs: random numbers (stream ``carry``) for a cell that starts from random carries.
            carry_init: not used.

        Returns:
            ``{"cell": carry of the cell, "prev_output": zeros}``.

        Raises:
            ValueError: `input_shape` is not what the cell takes.

        Example:
            >>> cell = snn.Recurrent(snn.LIB(8), rngs=nnx.Rngs(0))
            >>> carry = cell.initialize_carry((2, 8))
            >>> carry["cell"]["mem"].shape, carry["prev_output"].shape
            ((2, 8), (2, 8))
        """
        del carry_init
        key: jax.Array | None = (
            rngs.carry() if isinstance(rngs, nnx.Rngs) else rngs() if rngs else None
        )
        return self.fresh_carry(key, input_shape)
