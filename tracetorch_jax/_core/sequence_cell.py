"""What every cell of this library is."""

from __future__ import annotations

from typing import Any, ClassVar


class SequenceCell:
    """A cell that runs over a sequence by itself, and takes None for a fresh carry.

    Attributes:
        unroll: method ``unroll(carry, xs, *, seq_lengths, engine, unroll, checkpoint_every)``,
            which advances over the leading axis of ``[T, ...]`` and gives the last carry and the
            outputs. `Unroll` calls it, and passes on a `Valid` in the place of `seq_lengths`.
        holds: whether `unroll` takes ``hold``, for how many steps each step of the input stays.
    """

    unroll: ClassVar[Any]
    holds: ClassVar[bool] = False
