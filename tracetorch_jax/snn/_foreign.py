"""Running cells that are not trace layers, such as Flax's own, over time."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from tracetorch_jax._checks import check_choice
from tracetorch_jax.functional.placement import Placement, placement_of
from tracetorch_jax.functional.scan import ENGINES
from tracetorch_jax.functional.sequences import keep_ended, mask_steps, valid_steps


def unroll_any_cell(
    cell: nn.RNNCellBase,
    carry: Any,
    xs: jax.Array,
    *,
    seq_lengths: jax.Array | None = None,
    engine: str = "auto",
    unroll: int = 1,
    checkpoint_every: Any = None,
    init_key: jax.Array | None = None,
) -> tuple[Any, jax.Array]:
    """Advance any `flax.linen.RNNCellBase` over the leading axis of `xs` with `flax.linen.scan`.

    Args:
        cell: the cell, bound.
        carry: its carry before the first step; None for a fresh one.
        xs: ``[T, ...]``.
        seq_lengths: see `functional.unroll`.
        engine: ``"auto"`` or ``"scan"``.
        unroll: steps per iteration of the compiled loop.
        checkpoint_every: must be None: wrap the cell in `flax.linen.remat` instead.
        init_key: PRNG key of a fresh carry, ``jax.random.key(0)`` by default.

    Returns:
        The last carry, and the outputs ``[T, ...]``.
    """
    check_choice("engine", engine, ENGINES)
    if engine not in ("auto", "scan"):
        raise ValueError(
            f"`engine` {engine!r} is for trace layers; {type(cell).__name__} is none, and needs "
            "'auto' or 'scan'."
        )
    if checkpoint_every is not None:
        raise ValueError(
            f"`checkpoint_every` is for trace layers; {type(cell).__name__} is none. Wrap it in "
            f"flax.linen.remat instead; got {checkpoint_every!r}."
        )
    if carry is None:
        key = jax.random.key(0) if init_key is None else init_key
        carry = cell.initialize_carry(key, xs.shape[1:])
        batch = xs.ndim - 1 - cell.num_feature_axes
        carry = jax.tree.map(lambda state: _split_batch(state, xs, batch), carry)
    valid = None
    if seq_lengths is not None:
        valid = valid_steps(seq_lengths, xs.shape[0], [xs.shape[1:]])
        xs = mask_steps(valid, xs)

    def body(cell: nn.RNNCellBase, carry: Any, inputs: Any) -> tuple[Any, Any]:
        x, alive = inputs
        new, y = cell(carry, x)
        if alive is not None:
            new = keep_ended(alive, new, carry)
            y = mask_steps(alive, y)
        return new, y

    scan = nn.scan(
        body,
        variable_broadcast="params",
        variable_axes={"intermediates": 0},
        split_rngs={"params": False, "dropout": True, "spike": True},
        unroll=unroll,
    )
    return scan(cell, carry, (xs, valid))


def _split_batch(state: jax.Array, xs: jax.Array, batch: int) -> jax.Array:
    """Place a fresh state as the batch of ``[T, ...]``, its first `batch` axes, is placed."""
    own = placement_of(xs)
    whole = (None,) * (state.ndim - batch)
    return Placement(own.mesh, own.spec[1 : 1 + batch] + whole, own.varying).put(state)
