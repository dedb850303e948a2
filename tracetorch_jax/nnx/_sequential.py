"""Stacks of cells and ordinary modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from flax import nnx

from tracetorch_jax._core.residual import AbstractResidual
from tracetorch_jax._core.sequential import AbstractSequential
from tracetorch_jax.nnx._front_end import NNX


class Sequential(AbstractSequential, nnx.RNNCellBase):
    """Stack of cells, ordinary modules and functions; itself a cell.

    Called as a cell, it takes one step through the whole stack: for streaming and for feedback.
    Under `Unroll` it runs layer by layer over the whole sequence, so that a Linear layer sees one
    large matrix product rather than T small ones. Both give the same numbers, but for what is
    random (Dropout) or measured over the batch (BatchNorm in training averages over time as well
    when it sees the whole sequence, leaving out the padding).

    The carry is a dict from the name of each cell in the stack, ``layers_0``, ``layers_1``, ... by
    position, to its own carry, as in `tracetorch_jax.snn.Sequential`.

    Args:
        layers: a list of cells (trace layers, `Sequential`, any other `flax.nnx.RNNCellBase`),
            modules and functions of one array.
        feature_axes: number of axes of one step's tensor that are not batch axes. By default that
            of the first layer that tells: a cell, a Linear (1), an Embed (0), a Conv (its kernel's
            axes and the channels); else 1.

    Raises:
        TypeError: `layers` holds something that cannot be called, or a module that runs over time
            (`Unroll`, `flax.nnx.RNN`, `flax.nnx.Bidirectional`): put its cell there instead.
        ValueError: `layers` is empty, or `feature_axes` is negative.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> layers = [nnx.Linear(8, 16, rngs=rngs), snn.LIB(16), nnx.Linear(16, 4, rngs=rngs)]
        >>> model = snn.Sequential([*layers, snn.LI(4)])
        >>> snn.Unroll(model)(jnp.ones((2, 10, 8))).shape
        (2, 10, 4)

        One step at a time, as a stream:

        >>> carry = model.initialize_carry((2, 8))
        >>> sorted(carry)
        ['layers_1', 'layers_3']
        >>> carry, y = model(carry, jnp.ones((2, 8)))
        >>> y.shape
        (2, 4)
    """

    front_end = NNX

    def __init__(
        self, layers: Sequence[Callable[..., Any]], *, feature_axes: int | None = None
    ) -> None:
        self.check_fields(layers, feature_axes)
        self.layers = nnx.List(layers)
        self.feature_axes = feature_axes

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ) -> Any:
        """Fresh carries of all cells.

        Args:
            input_shape: shape of one step's tensor.
            rngs: random numbers (stream ``carry``) for cells that start from random carries; trace
                layers do not.
            carry_init: not used.

        Returns:
            A dict from the name of each cell to its carry.

        Raises:
            ValueError: `input_shape` is not what the first cell takes, or a layer before a cell
                gives what that cell does not take.
        """
        del carry_init
        key = rngs.carry() if isinstance(rngs, nnx.Rngs) else rngs() if rngs else None
        return self.fresh_carries(key, input_shape)


class Residual(AbstractResidual, Sequential):
    """Residual connection around a stack of layers; itself a cell.

        y = x + stack(x)                        merge="add"
        y = concatenate([x, stack(x)])          merge="concatenate"

    See `tracetorch_jax.snn.Residual`.

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
        >>> block = snn.Residual([nnx.Linear(8, 8, rngs=nnx.Rngs(0)), snn.LIB(8)])
        >>> snn.Unroll(block)(jnp.ones((2, 10, 8))).shape
        (2, 10, 8)
    """

    def __init__(
        self,
        layers: Sequence[Callable[..., Any]],
        *,
        merge: Literal["add", "concatenate"] = "add",
        axis: int = -1,
        feature_axes: int | None = None,
    ) -> None:
        self.merge = merge
        self.axis = axis
        super().__init__(layers, feature_axes=feature_axes)
