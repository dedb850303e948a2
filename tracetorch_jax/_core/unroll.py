"""Any cell over time, in every front end."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._shared.checks import (
    as_array,
    check_choice,
    check_front_end,
    check_integer,
)
from tracetorch_jax.functional.engines.masks import Valid, expand_mask, held, without_padding
from tracetorch_jax.functional.engines.unroll import ENGINES, Engine, check_pieces


@dataclasses.dataclass(init=False, repr=False, eq=False)
class AbstractUnroll:
    """A cell over time: all but where parameters are kept."""

    front_end: ClassVar[Any]
    cell: Any
    time_major: bool = dataclasses.field(default=False, kw_only=True)
    reverse: bool = dataclasses.field(default=False, kw_only=True)
    keep_order: bool = dataclasses.field(default=False, kw_only=True)
    return_carry: bool = dataclasses.field(default=False, kw_only=True)
    hold: int = dataclasses.field(default=1, kw_only=True)
    engine: Engine = dataclasses.field(default="auto", kw_only=True)
    unroll: int = dataclasses.field(default=1, kw_only=True)
    checkpoint_every: int | Literal["sqrt"] | None = dataclasses.field(default=None, kw_only=True)

    def check_fields(self) -> None:
        """Check the arguments of the constructor."""
        check_cell(self.cell, self.front_end)
        object.__setattr__(self, "hold", check_integer("hold", self.hold))
        check_choice("engine", self.engine, ENGINES)
        unroll, every = check_pieces(self.unroll, self.checkpoint_every)
        object.__setattr__(self, "unroll", unroll)
        object.__setattr__(self, "checkpoint_every", every)

    def __call__(
        self,
        xs: jax.Array,
        initial_carry: Any = None,
        seq_lengths: jax.Array | None = None,
        *,
        init_key: jax.Array | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        return_carry: bool | None = None,
    ) -> Any:
        """Run the cell over a sequence.

        Args:
            xs: ``[B, T, ...]`` (``[T, B, ...]`` if time-major), or ``[T, ...]`` without a batch
                axis. There is none if each step has just the cell's ``num_feature_axes`` axes.
            initial_carry: the carry before the first step; by default a fresh one.
            seq_lengths: ``[B]`` integers in [0, T] (a scalar without a batch axis). Outputs beyond
                a sequence's end are 0, the carry is the one at its own end, and what `xs` holds
                there changes neither values nor gradients.
            init_key: PRNG key for cells that start from random carries; trace layers do not.
            time_major: overrides the attribute.
            reverse: overrides the attribute.
            keep_order: overrides the attribute.
            return_carry: overrides the attribute.

        Returns:
            The outputs, with axes as in `xs` and `hold` times its steps; with `return_carry`,
            ``(carry, outputs)``.

        Raises:
            ValueError: `xs` has too few axes or the wrong size at the cell's `dim`; a carry or
                `seq_lengths` that does not fit.
            TypeError: arguments of the wrong kind.
        """
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        return_carry = self.return_carry if return_carry is None else return_carry

        xs = as_array("xs", xs)
        axes = self.cell.num_feature_axes
        if xs.ndim < axes + 1:
            raise ValueError(
                f"`xs` must have a time axis before the {axes} of each step of "
                f"{type(self.cell).__name__}; got shape {xs.shape}."
            )
        time_axis = 0 if time_major or xs.ndim == axes + 1 else 1
        xs = jnp.moveaxis(xs, time_axis, 0)
        if seq_lengths is not None:
            self._check_lengths(seq_lengths, xs, axes)
        xs, valid = without_padding(xs, seq_lengths)
        if reverse:
            xs = _flip(xs, valid)

        carry, ys = self.front_end.unroll(
            self.cell,
            initial_carry,
            xs,
            init_key=init_key,
            seq_lengths=valid,
            hold=self.hold,
            engine=self.engine,
            unroll=self.unroll,
            checkpoint_every=self.checkpoint_every,
        )
        if reverse and keep_order:
            ys = _flip(ys, held(valid, self.hold))
        ys = jnp.moveaxis(ys, 0, time_axis)
        return (carry, ys) if return_carry else ys

    def _check_lengths(self, seq_lengths: Any, xs: jax.Array, axes: int) -> None:
        batched = xs.ndim > axes + 1
        want = xs.shape[1:2] if batched else ()
        if np.shape(seq_lengths) != want:
            raise ValueError(
                f"`seq_lengths` must have one length per sequence, shape {want}; "
                f"got shape {np.shape(seq_lengths)}."
            )


def check_cell(cell: Any, front_end: Any) -> None:
    """Raise unless it is a cell of this front end."""
    check_front_end("cell", cell, front_end.module)
    if not isinstance(cell, front_end.cell):
        got, cure = repr(cell), ""
        if isinstance(cell, front_end.module):
            got = f"{type(cell).__name__} of {type(cell).__module__.split('.')[0]}"
            cure = " A Sequential of tracetorch_jax takes cells and other modules."
            if isinstance(cell, (AbstractUnroll, *front_end.over_time)):
                cure = " That runs over time by itself: take its cell."
        raise TypeError(
            f"`cell` must be a cell: a trace layer, a Sequential or another RNNCellBase; "
            f"got {got}.{cure}"
        )


def _flip(xs: jax.Array, valid: Valid | None) -> jax.Array:
    """Reverse each sequence in time; padding stays where it is."""
    if valid is None:
        return jnp.flip(xs, 0)
    # A flip of the whole axis would put padding first, but lengths count the steps from the start.
    inside = expand_mask(valid.mask, xs.ndim)
    lengths = inside.sum(0, keepdims=True, dtype=jnp.int32)
    steps = jnp.arange(xs.shape[0], dtype=jnp.int32).reshape((-1,) + (1,) * (xs.ndim - 1))
    source = jnp.where(inside, lengths - 1 - steps, steps)
    return jnp.take_along_axis(xs, source, axis=0)
