"""What tells the front ends apart."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from tracetorch_jax._core.sequence_cell import SequenceCell
from tracetorch_jax._shared.checks import check_choice
from tracetorch_jax.functional.engines.masks import (
    Valid,
    held,
    keep_ended,
    without_padding,
    zero_padding,
)
from tracetorch_jax.functional.engines.placement import Placement, placement_of
from tracetorch_jax.functional.engines.unroll import ENGINES


@dataclasses.dataclass(frozen=True)
class FrontEnd:
    """The classes of a front end that a stack tells apart, and what it does with them.

    Attributes:
        module: base of all modules.
        cell: base of all cells.
        over_time: modules that run over time by themselves.
        conv: convolutions, with a `kernel_size` and channels last.
        dense: modules that work on one feature axis.
        embed: modules that work on no feature axis.
        batch_norm: modules that take a `mask` of what to average.
        rowwise: other modules that treat every leading axis alike, as those above do, so that a
            whole ``[T, B, ...]`` sequence can be passed to them as it is. All others get
            ``[B * T, ...]``, the number of axes that they see in a single step.
        dropout: modules that treat leading axes alike unless they have `broadcast_dims`.
        fresh_carry: from a cell, a key and the shape of a step's tensor to a first carry.
        output: from a layer, its carry and the shape of its input to the shape of its output.
        pure: from what a module is called, the module and an input to a function of variables and
            an input, hashable and equal by value, and the module's variables.
        scan: from a cell that is no trace layer, ``step(cell, carry, x)``, its first carry, inputs
            ``[T, ...]`` and steps per iteration, to its last carry and outputs ``[T, ...]``.
    """

    module: type
    cell: type
    over_time: tuple[type, ...]
    conv: tuple[type, ...]
    dense: tuple[type, ...]
    embed: tuple[type, ...]
    batch_norm: tuple[type, ...]
    rowwise: tuple[type, ...]
    dropout: tuple[type, ...]
    fresh_carry: Callable[[Any, Any, tuple[int, ...]], Any]
    output: Callable[[Any, Any, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]
    pure: Callable[[str, Any, Any], tuple[Callable[[Any, Any], Any], Any]]
    scan: Callable[[Any, Callable[..., Any], Any, Any, int], tuple[Any, Any]]

    @property
    def any_leading_axes(self) -> tuple[type, ...]:
        """Modules that treat every leading axis alike."""
        return self.dense + self.conv + self.embed + self.batch_norm + self.rowwise

    def feature_axes(self, layer: Any) -> int | None:
        """Axes of a step's tensor that are not batch axes, where a layer tells; else None."""
        told: Any = layer
        if isinstance(layer, self.cell):
            return told.num_feature_axes
        if isinstance(layer, self.conv):
            size = told.kernel_size
            return 2 if isinstance(size, int) else len(size) + 1
        if isinstance(layer, self.embed):
            return 0
        return 1 if isinstance(layer, self.dense) else None

    def unroll(
        self,
        cell: Any,
        carry: Any,
        xs: jax.Array,
        *,
        init_key: Any = None,
        seq_lengths: Valid | None = None,
        hold: int = 1,
        **options: Any,
    ) -> tuple[Any, jax.Array]:
        """Advance any cell over the leading axis of `xs`: by itself if it can, else with a scan.

        Args:
            cell: the cell.
            carry: its carry before the first step; None for a fresh one.
            xs: ``[T, ...]``.
            init_key: PRNG key of a fresh carry, for cells that start from random ones.
            seq_lengths: which steps of `xs` lie within each sequence.
            hold: steps for which each step of `xs` stays.
            **options: `engine`, `unroll` and `checkpoint_every`, see `functional.unroll`.

        Returns:
            The last carry, and the outputs ``[hold * T, ...]``.
        """
        if isinstance(cell, SequenceCell) and cell.holds:
            return cell.unroll(carry, xs, seq_lengths=seq_lengths, hold=hold, **options)
        xs, valid = held((xs, seq_lengths), hold)
        if isinstance(cell, SequenceCell):
            return cell.unroll(carry, xs, seq_lengths=valid, **options)
        return self.unroll_any(cell, carry, xs, init_key, seq_lengths=valid, **options)

    def unroll_any(
        self,
        cell: Any,
        carry: Any,
        xs: jax.Array,
        init_key: Any = None,
        *,
        seq_lengths: jax.Array | Valid | None = None,
        engine: str = "auto",
        unroll: int = 1,
        checkpoint_every: Any = None,
    ) -> tuple[Any, jax.Array]:
        """Advance any cell over the leading axis of `xs` with a scan, see `unroll`."""
        check_choice("engine", engine, ENGINES)
        kind = type(cell).__name__
        if engine not in ("auto", "scan"):
            raise ValueError(
                f"`engine` {engine!r} is for trace layers; {kind} is none, and needs 'auto' or "
                "'scan'."
            )
        if checkpoint_every is not None:
            raise ValueError(
                f"`checkpoint_every` is for trace layers; {kind} is none. Wrap it in Flax's remat "
                f"instead; got {checkpoint_every!r}."
            )
        if carry is None:
            carry = self.fresh_carry(cell, init_key, xs.shape[1:])
            batch = xs.ndim - 1 - cell.num_feature_axes
            carry = jax.tree.map(lambda state: _split_batch(state, xs, batch), carry)
        xs, valid = without_padding(xs, seq_lengths)

        def step(cell: Any, carry: Any, inputs: Any) -> tuple[Any, Any]:
            x, valid = inputs
            new, y = cell(carry, x)
            if valid is not None:
                new = keep_ended(valid.mask, new, carry)
                y = zero_padding(y, valid.mask)
            return new, y

        return self.scan(cell, step, carry, (xs, valid), unroll)


_in_loop = contextvars.ContextVar("_in_loop", default=False)


@contextlib.contextmanager
def in_loop() -> Iterator[None]:
    """While a module runs as a function in a loop, where it has no path and no known values."""
    token = _in_loop.set(True)
    try:
        yield
    finally:
        _in_loop.reset(token)


def is_in_loop() -> bool:
    """Whether a module runs as a function in a loop now, see `in_loop`."""
    return _in_loop.get()


def impure(name: str, module: Any) -> TypeError:
    """The error for a module that is no function of its variables and input."""
    return TypeError(
        f"`{name}` must neither draw random numbers nor change variables, as Dropout and BatchNorm "
        f"in training do; {type(module).__name__} does."
    )


def _split_batch(state: jax.Array, xs: jax.Array, batch: int) -> jax.Array:
    """Place a fresh state as the batch of ``[T, ...]``, its first `batch` axes, is placed."""
    own = placement_of(xs)
    whole = (None,) * (state.ndim - batch)
    return Placement(own.mesh, own.spec[1 : 1 + batch] + whole, own.varying).put(state)
