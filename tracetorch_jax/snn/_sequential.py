"""Stacks of cells and ordinary modules."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax

from tracetorch_jax._core.sequential import AbstractSequential
from tracetorch_jax._shared.checks import Method
from tracetorch_jax.snn._front_end import LINEN, bound


def through(name: str, method: Method) -> Method:
    """A method that calls another of this signature."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, name)(*args, **kwargs)

    return cast(Method, call)


class Sequential(AbstractSequential, nn.RNNCellBase):
    """Stack of cells, ordinary modules and functions; itself a cell.

    Called as a cell, it takes one step through the whole stack: for streaming and for feedback.
    Under `Unroll` it runs layer by layer over the whole sequence, so that a Dense layer sees one
    large matrix product rather than T small ones. Both give the same numbers, but for what is
    random (Dropout) or measured over the batch (BatchNorm in training averages over time as well
    when it sees the whole sequence, leaving out the padding).

    The carry is a dict from the name of each cell in the stack (``layers_0``, ``layers_1``, ...
    by position, as the parameters of a stack on its own are named) to its own carry.

    Args:
        layers: cells (trace layers, `Sequential`, any other `flax.linen.RNNCellBase`), modules and
            functions of one array.
        feature_axes: number of axes of one step's tensor that are not batch axes. By default that
            of the first layer that tells: a cell, a Dense (1), an Embed (0), a Conv (its kernel's
            axes and the channels); else 1.

    Raises:
        TypeError: `layers` holds something that cannot be called, or a module that runs over time
            (`Unroll`, `flax.linen.RNN`, `flax.linen.Bidirectional`): put its cell there instead. Or
            `feature_axes` is no integer.
        ValueError: `layers` is empty, or `feature_axes` is negative.

    Example:
        >>> model = snn.Sequential([nn.Dense(16), snn.LIB(16), nn.Dense(4), snn.LI(4)])
        >>> xs = jnp.ones((2, 10, 8))
        >>> variables = snn.Unroll(model).init(jax.random.key(0), xs)
        >>> snn.Unroll(model).apply(variables, xs).shape
        (2, 10, 4)

        One step at a time, as a stream, with the same parameters:

        >>> variables = {"params": variables["params"]["cell"]}
        >>> carry = model.initialize_carry(None, (2, 8))
        >>> sorted(carry)
        ['layers_1', 'layers_3']
        >>> carry, y = model.apply(variables, carry, xs[:, 0])
        >>> y.shape
        (2, 4)
    """

    layers: Sequence[Callable[..., Any]]
    feature_axes: int | None = dataclasses.field(default=None, kw_only=True)

    front_end = LINEN
    # Flax wraps what it finds in the class itself, and asks for a scope before anything else.
    _step = nn.compact(AbstractSequential.__call__)
    _unroll = nn.compact(AbstractSequential.unroll)

    __call__ = nn.nowrap(bound(through("_step", AbstractSequential.__call__)))
    unroll = nn.nowrap(bound(through("_unroll", AbstractSequential.unroll)))

    def __post_init__(self) -> None:
        self.check_fields(self.layers, self.feature_axes)
        object.__setattr__(self, "layers", tuple(self.layers))  # hashable, unlike a list
        super().__post_init__()

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> Any:
        """Fresh carries of all cells.

        Args:
            rng: for the first carries of the cells; trace layers make no use of it.
            input_shape: shape of one step's tensor.

        Returns:
            A dict from the name of each cell to its carry.

        Raises:
            ValueError: `input_shape` is not what the first cell takes, or a layer before a cell
                gives what that cell does not take.
        """
        return self.fresh_carries(jax.random.key(0) if rng is None else rng, input_shape)
