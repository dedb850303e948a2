"""Recurrence between neurons."""

from __future__ import annotations

import flax.linen as nn
import jax

from tracetorch_jax._core.recurrent import AbstractRecurrent, Carry, weak
from tracetorch_jax.snn._front_end import LINEN, bound


class Recurrent(AbstractRecurrent, nn.RNNCellBase):
    """All-to-all recurrence: a cell that also receives its own last output.

        y = cell(x + feedback(prev_output))
        prev_output = y

    `feedback` mixes neurons. The recurrent trace of the R layers does not: it gives each neuron its
    own output alone. This is a cell itself, for `Unroll`, `Sequential` and streams. Its parameters
    are under ``cell`` and ``feedback``; its carry is ``{"cell": ..., "prev_output": ...}``.

    The gradient of a trace layer keeps what that of the layer alone keeps, and the gradient of a
    Dense feedback's kernel is one matrix product after the loop. Where the batch is split over
    devices, no step communicates. Where the neurons are, every step gathers the outputs of all.

    Reference: for all-to-all recurrence of adaptive spiking neurons, Yin, Corradi and Bohte,
    "Accurate and efficient time-domain classification with adaptive spiking recurrent neural
    networks", Nature Machine Intelligence 3, 2021.

    Args:
        cell: a trace layer; or any other cell, which is then run step by step, so that `record` and
            `diagnose` do not see the layers within it.
        feedback: module from the shape of one step's output to that of its input, such as ``Dense``
            or ``Conv``. It must neither draw random numbers nor change variables; what it sows is
            not kept. By default ``Dense(num_neurons, use_bias=False)`` with the dtypes of `cell`,
            whose kernel starts orthogonal with gain 0.3.

    Raises:
        TypeError: `cell` is no cell, or `feedback` no module.
        ValueError: no `feedback` for a `cell` that is no trace layer or has its neurons on another
            axis than the last; when called, a `feedback` that gives another shape than the input's,
            or an `engine` other than ``"auto"`` and ``"scan"``.

    Example:
        >>> layers = [nn.Dense(16), snn.Recurrent(snn.LIB(16)), nn.Dense(4), snn.LI(4)]
        >>> model = snn.Unroll(snn.Sequential(layers))
        >>> variables = model.init(jax.random.key(0), jnp.ones((2, 10, 8)))
        >>> variables["params"]["cell"]["layers_1"]["feedback"]["kernel"].shape
        (16, 16)
        >>> model.apply(variables, jnp.ones((2, 10, 8))).shape
        (2, 10, 4)
    """

    front_end = LINEN
    # Flax wraps what it finds in the class itself.
    __call__ = bound(AbstractRecurrent.__call__)
    unroll = bound(AbstractRecurrent.unroll)
    observe = AbstractRecurrent.observe

    def __post_init__(self) -> None:
        self.check_fields(self.cell, self.feedback)
        if self.feedback is None:
            size, dtypes = self.cell.num_neurons, (self.cell.dtype, self.cell.param_dtype)
            dense = nn.Dense(size, False, *dtypes, kernel_init=weak, parent=None)
            object.__setattr__(self, "feedback", dense)
        super().__post_init__()

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> Carry:
        """A fresh carry.

        Args:
            rng: for the first carry of the cell; trace layers make no use of it.
            input_shape: shape of one step's tensor.

        Returns:
            ``{"cell": carry of the cell, "prev_output": zeros}``.

        Raises:
            ValueError: `input_shape` is not what the cell takes.

        Example:
            >>> carry = snn.Recurrent(snn.LIB(8)).initialize_carry(None, (2, 8))
            >>> carry["cell"]["mem"].shape, carry["prev_output"].shape
            ((2, 8), (2, 8))
        """
        return self.fresh_carry(jax.random.key(0) if rng is None else rng, input_shape)
