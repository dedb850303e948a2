"""Any step over time."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Hashable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._checks import check_choice

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
Engine = Literal["auto", "scan"]

ENGINES = ("auto", "scan")


def unroll(
    step: Step,
    params: Any,
    state: Any,
    xs: Any,
    *,
    elementwise: bool = False,
    seq_lengths: jax.Array | None = None,
    engine: Engine = "auto",
    unroll: int = 1,
    checkpoint_every: int | Literal["sqrt"] | None = None,
) -> tuple[Any, Any]:
    """Run ``step(params, state, x) -> (state, out)`` over the leading axis of `xs`.

    A gradient keeps the state before each step (with `checkpoint_every`, before each K-th) and
    nothing else, and computes the rest of a step again when it walks backwards. Without a gradient
    nothing is kept. What is compiled does not depend on T.

    Args:
        step: pure function. It is compiled once for each function object and set of shapes, so
            pass the same object again rather than a new ``lambda``.
        params: pytree handed to every step.
        state: pytree of arrays, the state before the first step.
        xs: pytree of arrays ``[T, ...]``; step t gets their t-th slices. Must hold at least one.
        elementwise: promises that no step mixes the elements of a state, and that all arrays of
            the state have one shape, against which every parameter broadcasts. Gradients of
            parameters are then summed through time element by element and reduced to the
            parameters' shapes once at the end, rather than at every step.
        seq_lengths: ``[B]`` integers in [0, T], where B is the leading axis of each step's
            tensors, or a scalar if they have no batch axis. Steps at or beyond a sequence's length
            leave its state as it is and give 0; what `xs` holds there (NaN included) influences
            neither values nor gradients.
        engine: ``"scan"`` is `jax.lax.scan`; ``"auto"`` takes the fastest there is.
        unroll: steps per iteration of the compiled loop.
        checkpoint_every: K, to keep one state per K steps and compute the rest again, or
            ``"sqrt"`` for the square root of T.

    Returns:
        The state after the last step (or at each sequence's own end), and the outputs ``[T, ...]``.

    Raises:
        ValueError: unknown `engine`; `unroll` or `checkpoint_every` less than 1; no or differing
            T in `xs`; `seq_lengths` of the wrong shape or out of range; with `elementwise`,
            states that differ in shape or a parameter that does not broadcast.
        TypeError: a `step` that is no hashable function, `seq_lengths` that are not integers.

    Example:
        >>> def count(params, state, x):
        ...     state = params * state + x
        ...     return state, state
        >>> state, ys = unroll(count, 0.5, jnp.zeros(1), jnp.ones((3, 1)), elementwise=True)
        >>> ys[:, 0].tolist()
        [1.0, 1.5, 1.75]
    """
    check_choice("engine", engine, ENGINES)
    if not callable(step):
        raise TypeError(f"`step` must be a function; got {step!r}.")
    if not isinstance(step, Hashable):
        raise TypeError(f"`step` must be hashable, like any function; got {step!r}.")
    unroll = _at_least_one("unroll", unroll)
    length = _length(xs)
    if checkpoint_every == "sqrt":
        checkpoint_every = max(1, math.isqrt(length))
    elif checkpoint_every is not None:
        checkpoint_every = _at_least_one("checkpoint_every", checkpoint_every)

    state = jax.tree.map(jnp.asarray, state)
    params = jax.tree.map(jnp.asarray, params)
    xs = jax.tree.map(jnp.asarray, xs)
    if elementwise:
        shape = _common_shape(state)
        params = jax.tree.map(functools.partial(_broadcast, shape=shape), params)
    valid = None
    if seq_lengths is not None:
        shapes = [leaf.shape for leaf in jax.tree.leaves(state)] + _step_shapes(xs)
        valid = valid_steps(seq_lengths, length, shapes)
    return _scan(step, params, state, xs, valid, unroll=unroll, every=checkpoint_every)


@functools.partial(jax.jit, static_argnames=("step", "unroll", "every"))
def _scan(
    step: Step, params: Any, state: Any, xs: Any, valid: Any, *, unroll: int, every: int | None
) -> tuple[Any, Any]:
    if valid is not None:
        xs = jax.tree.map(lambda x: mask_steps(valid, x), xs)

    # The policy of `jax.checkpoint`, keep the inputs and nothing else, is what makes a gradient
    # store one state per step. In a loop there is nothing for XLA to merge the second computation
    # with, hence `prevent_cse=False`, which would only hinder it.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(state: Any, inputs: Any) -> tuple[Any, Any]:
        x, alive = inputs
        new, out = step(params, state, x)
        if alive is not None:
            new = keep_ended(alive, new, state)
        return new, out

    scan = functools.partial(jax.lax.scan, body, unroll=unroll)
    inputs = (xs, valid)
    state, ys = scan(state, inputs) if every is None else _chunked(scan, state, inputs, every)
    if valid is not None:
        ys = jax.tree.map(lambda y: mask_steps(valid, y), ys)
    return state, ys


def _chunked(scan: Callable[..., Any], state: Any, inputs: Any, every: int) -> tuple[Any, Any]:
    """A scan over chunks of `every` steps that keeps the state before each chunk only."""
    length = _length(inputs)
    whole = length - length % every
    tail = jax.tree.map(lambda x: x[whole:], inputs)
    chunk = jax.checkpoint(scan, prevent_cse=False)
    if not whole:
        return chunk(state, tail)
    head = jax.tree.map(lambda x: x[:whole].reshape(whole // every, every, *x.shape[1:]), inputs)
    state, ys = jax.lax.scan(chunk, state, head)
    ys = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), ys)
    if whole < length:
        state, rest = chunk(state, tail)
        ys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, rest)
    return state, ys


def valid_steps(seq_lengths: Any, length: int, shapes: list[tuple[int, ...]]) -> jax.Array:
    """Boolean ``[T, B]``, or ``[T]`` for a scalar: which steps lie within each sequence.

    Args:
        seq_lengths: ``[B]`` integers, or a scalar.
        length: T.
        shapes: of one step's tensors, with B as their leading axis.

    Raises:
        TypeError: not integers.
        ValueError: wrong shape, or a concrete length outside [0, T].
    """
    lengths = jnp.asarray(seq_lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`seq_lengths` must be integers; got dtype {lengths.dtype}.")
    if lengths.ndim > 1:
        raise ValueError(
            f"`seq_lengths` must be a vector of shape [B], or a scalar without a batch axis; "
            f"got shape {lengths.shape}."
        )
    if lengths.ndim == 1:
        for shape in shapes:
            if shape[:1] != lengths.shape:
                raise ValueError(
                    f"`seq_lengths` must have one length for each sequence in the batch; got shape "
                    f"{lengths.shape} for a step of shape {tuple(shape)}."
                )
    if not isinstance(lengths, jax.core.Tracer) and lengths.size:
        bad = [int(n) for n in np.asarray(lengths).flat if not 0 <= n <= length]
        if bad:
            raise ValueError(f"`seq_lengths` must lie between 0 and T = {length}; got {bad[0]}.")
    steps = jnp.arange(length, dtype=lengths.dtype).reshape((length,) + (1,) * lengths.ndim)
    return steps < lengths.reshape((1, *lengths.shape))


def _at_least_one(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer; got {value!r}.") from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1; got {value!r}.")
    return number


def _length(xs: Any) -> int:
    shapes = [jnp.shape(x) for x in jax.tree.leaves(xs)]
    if not shapes or not all(shapes):
        raise ValueError(f"`xs` must hold arrays with a leading time axis; got shapes {shapes}.")
    lengths = {shape[0] for shape in shapes}
    if len(lengths) > 1:
        raise ValueError(f"`xs` must agree in its leading time axis; got shapes {shapes}.")
    return lengths.pop()


def _step_shapes(xs: Any) -> list[tuple[int, ...]]:
    """Shapes of one step of every real-valued array."""
    return [x.shape[1:] for x in jax.tree.leaves(xs) if jnp.issubdtype(x.dtype, jnp.inexact)]


def _common_shape(state: Any) -> tuple[int, ...]:
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    if len(shapes) != 1:
        raise ValueError(
            f"`elementwise` steps need states that all have one shape; got {sorted(shapes)}."
        )
    return shapes.pop()


def _broadcast(param: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    try:
        return jnp.broadcast_to(param, shape)
    except ValueError:
        raise ValueError(
            f"`params` of an `elementwise` step must broadcast to the state's shape {shape}; "
            f"got {param.shape}."
        ) from None


def expand_mask(mask: jax.Array, ndim: int) -> jax.Array:
    """Give a mask of leading axes the rank of what it masks."""
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))


def keep_ended(alive: jax.Array, new: Any, old: Any) -> Any:
    """The new state of the sequences that go on, the old one of those that have ended."""
    return jax.tree.map(
        lambda new, old: jnp.where(expand_mask(alive, new.ndim), new, old), new, old
    )


def mask_steps(valid: jax.Array, x: jax.Array) -> jax.Array:
    """Zero what lies beyond each sequence's end; leave what is not a real number (keys) alone."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return jnp.where(expand_mask(valid, x.ndim), x, jnp.zeros_like(x))
