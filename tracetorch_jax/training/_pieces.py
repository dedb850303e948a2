"""Long sequences in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax._shared.checks import check_integer
from tracetorch_jax._shared.dtypes import asarray, countable
from tracetorch_jax.functional.engines.placement import place_state


def chunks(batch: Any, length: int) -> Iterator[Any]:
    """Cut sequences into pieces of `length` steps.

    Args:
        batch: a tree of arrays ``[B, T, ...]``.
        length: steps of a piece; the last one may be shorter.

    Yields:
        Trees of arrays ``[B, length, ...]``.

    Raises:
        TypeError: `length` is no integer.
        ValueError: arrays that differ in T or lack a time axis, or `length` below 1.

    Example:
        >>> [piece.shape for piece in training.chunks(jnp.zeros((2, 10, 3)), 4)]
        [(2, 4, 3), (2, 4, 3), (2, 2, 3)]
    """
    length = check_integer("length", length)
    steps = _steps("batch", batch)

    def cut(start: int) -> Any:
        return jax.tree.map(lambda x: x[:, start : start + length], batch)

    return map(cut, range(0, steps, length))


def piecewise_value_and_grad(
    loss: Callable[[Any, Any, Any], tuple[jax.Array, Any]], length: int, *, truncate: bool = False
) -> Callable[[Any, Any, Any], tuple[tuple[jax.Array, Any], Any]]:
    """Value and gradient of long sequences, computed in pieces: checkpointed or truncated BPTT.

    Only the carries between pieces are kept; what happens within a piece is computed again on the
    way back, so that memory is that of a piece, plus a carry for each. The gradient is that of the
    whole sequence. With `truncate`, nothing flows back from one piece into the one before and
    nothing is computed twice: truncated backpropagation through time (Williams & Peng, Neural
    Computation 2, 1990).

    To update parameters after every piece instead, call ``jax.value_and_grad(loss, has_aux=True)``
    on each of `chunks` and hand the carry on.

    Args:
        loss: from ``(params, carry, batch)`` of one piece to ``(value, carry)``, the value a mean
            over the steps.
        length: steps of a piece, which must divide T. About the square root of T is cheapest. A
            batch with T = 0 is one piece of no steps.
        truncate: whether gradients stop at the borders of pieces.

    Returns:
        A function from ``(params, carry, batch)`` to ``((value, carry), gradient)`` like that of
        ``jax.value_and_grad(loss, has_aux=True)``, for a batch of arrays ``[B, T, ...]``: means
        over the pieces. The first carry is one such as ``initialize_carry`` gives, not None.

    Raises:
        TypeError: `loss` is not a function, or `length` no integer; when called, it does not return
            a pair, or no carry.
        ValueError: `length` below 1; when called, a T that `length` does not divide, a value that
            is no scalar.

    Example:
        >>> model = snn.Unroll(snn.LI(3), return_carry=True)
        >>> xs = jnp.ones((2, 12, 3))
        >>> params = model.init(jax.random.key(0), xs)["params"]
        >>> def loss(params, carry, xs):
        ...     carry, ys = model.apply({"params": params}, xs, carry)
        ...     return jnp.square(ys).mean(), carry
        >>> carry = model.cell.initialize_carry(None, (2, 3))
        >>> (value, carry), gradient = training.piecewise_value_and_grad(loss, 4)(params, carry, xs)
        >>> gradient["cell"]["raw_beta"].shape
        (3,)
    """
    length = check_integer("length", length)
    if not callable(loss):
        raise TypeError(f"`loss` must be a function of (params, carry, batch); got {loss!r}.")

    def checked(params: Any, carry: Any, batch: Any) -> tuple[jax.Array, Any]:
        given = loss(params, carry, batch)
        if not (isinstance(given, tuple) and len(given) == 2):
            raise TypeError(f"`loss` must return (value, carry); got {type(given).__name__}.")
        if jnp.shape(given[0]):
            raise ValueError(f"`loss` must give a scalar value; got shape {jnp.shape(given[0])}.")
        return given

    def run(params: Any, carry: Any, batch: Any) -> tuple[tuple[jax.Array, Any], Any]:
        steps = _steps("batch", batch)
        if steps % length:
            raise ValueError(
                f"`length` must divide T = {steps}, so that all pieces weigh the same; got "
                f"{length}. See `chunks` for pieces of different lengths."
            )
        if carry is None:
            raise TypeError("`carry` must be what `initialize_carry` gives; got None.")
        batch = jax.tree.map(asarray, batch)
        number = steps // length or 1  # no steps are one piece of none
        carry = place_state(once, (params, batch), carry, jnp.arange(number))
        if truncate:
            return truncated(params, carry, batch, number)
        return jax.value_and_grad(whole, has_aux=True)(params, carry, batch, number)

    def piece_of(batch: Any, i: jax.Array) -> Any:
        # Cut out where it is used: pieces side by side would be a copy of the whole batch.
        return jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(
                jnp.asarray(x), i * length, min(length, jnp.shape(x)[1]), axis=1
            ),
            batch,
        )

    def once(given: Any, carry: Any, i: jax.Array) -> tuple[Any, None]:
        params, batch = given
        return checked(params, carry, piece_of(batch, i))[1], None

    def whole(params: Any, carry: Any, batch: Any, number: int) -> tuple[jax.Array, Any]:
        @jax.checkpoint
        def piece(carry: Any, i: jax.Array) -> tuple[Any, jax.Array]:
            value, carry = checked(params, carry, piece_of(batch, i))
            return carry, value

        carry, values = jax.lax.scan(piece, carry, jnp.arange(number))
        return values.mean(), carry

    def truncated(params: Any, carry: Any, batch: Any, number: int) -> Any:
        def piece(state: Any, i: jax.Array) -> tuple[Any, jax.Array]:
            carry, total = state
            (value, carry), gradient = jax.value_and_grad(checked, has_aux=True)(
                params, carry, piece_of(batch, i)
            )
            total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradient)
            return (carry, total), value

        zeros = jax.tree.map(lambda p: countable(jnp.zeros_like(p)), params)
        (carry, total), values = jax.lax.scan(piece, (carry, zeros), jnp.arange(number))
        mean = jax.tree.map(lambda p, g: (g / number).astype(jnp.result_type(p)), params, total)
        return (values.mean(), carry), mean

    return run


def _steps(name: str, batch: Any) -> int:
    """T of a tree of arrays ``[B, T, ...]``."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if not shapes or any(len(shape) < 2 for shape in shapes):
        raise ValueError(f"`{name}` must hold arrays [B, T, ...]; got shapes {shapes}.")
    if len({shape[1] for shape in shapes}) > 1:
        raise ValueError(f"`{name}` must agree in T, its second axis; got shapes {shapes}.")
    return shapes[0][1]
