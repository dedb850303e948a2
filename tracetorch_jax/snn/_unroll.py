"""Any cell over time."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tracetorch_jax._checks import check_choice
from tracetorch_jax.functional.scan import ENGINES, Engine
from tracetorch_jax.functional.sequences import valid_steps
from tracetorch_jax.snn._sequential import unroll_cell


class Unroll(nn.Module):
    """A cell over time.

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
        engine: ``"auto"``, ``"scan"``, ``"fused"`` or ``"parallel"``, see `functional.unroll`.
        unroll: steps per iteration of the compiled loop.
        checkpoint_every: K, to keep one carry per K steps for the gradient and compute the others
            again; ``"sqrt"`` for about the square root of T; by default 8 on CPU and 1 elsewhere.

    Raises:
        TypeError: `cell` is not a cell.
        ValueError: unknown `engine`; when called, one that cannot run the cell.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from tracetorch_jax import snn
        >>> model = snn.Unroll(snn.LI(3, beta=0.5), return_carry=True)
        >>> xs = jnp.ones((2, 4, 3))
        >>> variables = model.init(jax.random.key(0), xs)
        >>> carry, ys = model.apply(variables, xs, seq_lengths=jnp.array([4, 2]))
        >>> ys[1, :, 0].tolist(), carry["mem"][1, 0].item()
        ([0.5, 0.75, 0.0, 0.0], 0.75)
    """

    cell: nn.RNNCellBase
    time_major: bool = dataclasses.field(default=False, kw_only=True)
    reverse: bool = dataclasses.field(default=False, kw_only=True)
    keep_order: bool = dataclasses.field(default=False, kw_only=True)
    return_carry: bool = dataclasses.field(default=False, kw_only=True)
    engine: Engine = dataclasses.field(default="auto", kw_only=True)
    unroll: int = dataclasses.field(default=1, kw_only=True)
    checkpoint_every: int | Literal["sqrt"] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.cell, nn.RNNCellBase):
            raise TypeError(
                f"`cell` must be a cell: a trace layer, a Sequential or another RNNCellBase; "
                f"got {self.cell!r}."
            )
        check_choice("engine", self.engine, ENGINES)
        super().__post_init__()

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
            The outputs, with axes as in `xs`; with `return_carry`, ``(carry, outputs)``.

        Raises:
            ValueError: `xs` has too few axes or the wrong size at the cell's `dim`; a carry or
                `seq_lengths` that does not fit.
            TypeError: arguments of the wrong kind.
        """
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        return_carry = self.return_carry if return_carry is None else return_carry

        xs = jnp.asarray(xs)
        axes = self.cell.num_feature_axes
        if xs.ndim < axes + 1:
            raise ValueError(
                f"`xs` must have a time axis before the {axes} of each step of "
                f"{type(self.cell).__name__}; got shape {xs.shape}."
            )
        time_axis = 0 if time_major or xs.ndim == axes + 1 else 1
        xs = jnp.moveaxis(xs, time_axis, 0)
        if seq_lengths is not None:
            seq_lengths = self._check_lengths(seq_lengths, xs, axes)
        if reverse:
            xs = _flip(xs, seq_lengths)

        carry, ys = unroll_cell(
            self.cell,
            initial_carry,
            xs,
            init_key=init_key,
            seq_lengths=seq_lengths,
            engine=self.engine,
            unroll=self.unroll,
            checkpoint_every=self.checkpoint_every,
        )
        if reverse and keep_order:
            ys = _flip(ys, seq_lengths)
        ys = jnp.moveaxis(ys, 0, time_axis)
        return (carry, ys) if return_carry else ys

    @nn.nowrap
    def _check_lengths(self, seq_lengths: Any, xs: jax.Array, axes: int) -> jax.Array:
        lengths = jnp.asarray(seq_lengths)
        batched = xs.ndim > axes + 1
        want = xs.shape[1:2] if batched else ()
        if lengths.shape != want:
            raise ValueError(
                f"`seq_lengths` must have one length per sequence, shape {want}; "
                f"got shape {lengths.shape}."
            )
        valid_steps(lengths, xs.shape[0], [])
        return lengths


def _flip(xs: jax.Array, seq_lengths: jax.Array | None) -> jax.Array:
    """Reverse each sequence in time; padding stays where it is."""
    if seq_lengths is None:
        return jnp.flip(xs, 0)
    trailing = (1,) * (xs.ndim - 1 - seq_lengths.ndim)
    lengths = seq_lengths.reshape((1, *seq_lengths.shape, *trailing))
    steps = jnp.arange(xs.shape[0], dtype=lengths.dtype).reshape((-1,) + (1,) * (xs.ndim - 1))
    source = jnp.where(steps < lengths, lengths - 1 - steps, steps)
    return jnp.take_along_axis(xs, source, axis=0)
