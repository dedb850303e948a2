"""The scan of an elementwise step, with its backward pass written out.

Plain differentiation of `jax.lax.scan` stores every intermediate value of every step, and sums the
gradient of every parameter over the batch at every step. Here the forward pass stores the state
before each step, or before each K-th, and nothing else. The backward pass computes the rest of a
step again, adds up the gradients of the parameters element by element, and reduces them to the
parameters' shapes once, after the loop.

Arrays that have no derivative (integers, booleans, random keys) may be anywhere in the pytrees;
`inexact` lists the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax._shared.dtypes import wider
from tracetorch_jax.functional.engines import policy
from tracetorch_jax.functional.engines.masks import keep_ended, length_of
from tracetorch_jax.functional.engines.placement import broadcast_like, full_like

Step = Callable[..., tuple[Any, Any]]
Tree = Any
Leaves = list[jax.Array]
Stages = tuple[Callable[..., Any], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def scan_elementwise(
    step: Step, unroll: int, every: int, params: Tree, state: Tree, inputs: Tree
) -> tuple[Tree, Tree]:
    """Scan an elementwise step.

    Args:
        step: elementwise ``step(params, state, x) -> (state, out)``. If it has an attribute
            ``stages``, these are the functions it is made of: ``first(params, state, x)`` gives a
            pytree of real arrays, ``stage(params, values, x)`` the next, the last one what `step`
            gives. Where `policy.runs_in_stages`, what passes between stages is computed once.
        unroll: steps per iteration of the compiled loop.
        every: K, to store one state per K steps.
        params: pytree of arrays that broadcast against the state's.
        state: pytree of arrays of one shape.
        inputs: pytree of arrays ``[T, ...]``, and a boolean mask ``[T, ...]`` of the sequences
            that go on, or None.

    Returns:
        The last state, and the outputs ``[T, ...]``.
    """
    return jax.lax.scan(forwards(step, params, state), state, inputs, unroll=unroll)


def _forward(
    step: Step, unroll: int, every: int, params: Tree, state: Tree, inputs: Tree
) -> tuple[tuple[Tree, Tree], Any]:
    advance = forwards(step, params, state)
    last, ys, kept = keep_states(advance, unroll, every, state, inputs)
    return (last, ys), (params, kept, inputs)


def keep_states(
    advance: Callable[[Tree, Any], tuple[Tree, Tree]],
    unroll: int,
    every: int,
    state: Tree,
    inputs: Tree,
    needed: Callable[[Tree], Tree] = lambda state: state,
) -> tuple[Tree, Tree, Tree]:
    """Scan a step, and keep the state before every K-th.

    Args:
        advance: from the state and the inputs of a step to the new state and the output.
        unroll: steps per iteration of the compiled loop.
        every: K.
        state: before the first step.
        inputs: pytree of arrays ``[T, ...]``.
        needed: the part of the state that is kept.

    Returns:
        The last state, the outputs ``[T, ...]``, and the states ``[ceil(T / K) + 1, ...]``.
    """
    length = length_of(inputs)
    chunks = -(-length // every)

    # Each step stores the state after it: the K-th, the 2K-th, ... in a place of their own, the
    # others in one that nobody reads.
    def body(carry: tuple[Tree, Tree], now: Any) -> tuple[tuple[Tree, Tree], Tree]:
        state, kept = carry
        t, inputs = now
        state, out = advance(state, inputs)
        place = t + 1 if every == 1 else jnp.where((t + 1) % every, chunks, (t + 1) // every)
        return (state, _put(kept, needed(state), place)), out

    kept = _put(_buffers(needed(state), chunks + 1), needed(state), 0)
    xs = (jnp.arange(length), inputs)
    (last, kept), ys = jax.lax.scan(body, (state, kept), xs, unroll=unroll)
    return last, ys, kept


def _backward(
    step: Step, unroll: int, every: int, residuals: Any, cotangents: Any
) -> tuple[Tree, Tree, Any]:
    params, kept, inputs = residuals
    totals, d_state, d_xs, _ = backwards(step, unroll, every, params, kept, inputs, cotangents)
    return reduce_all(params, totals), place(d_state, kept), place(d_xs, inputs)


def backwards(
    step: Step,
    unroll: int,
    every: int,
    params: Tree,
    kept: Tree,
    inputs: Tree,
    cotangents: Any,
    link: Callable[[Any, Leaves], Leaves] | None = None,
    d_link: Leaves | None = None,
) -> tuple[Leaves, Leaves, Leaves, Leaves]:
    """The backward pass of a scan of an elementwise step.

    Args:
        step: see `scan_elementwise`.
        unroll: see `scan_elementwise`.
        every: see `scan_elementwise`.
        params: see `scan_elementwise`.
        kept: as `keep_states` gives it.
        inputs: see `scan_elementwise`.
        cotangents: gradients of the last state and of the outputs.
        link: where a step gets the output of the step before through its input: from t and the
            gradients of the inputs of step t to those of the output of step t - 1.
        d_link: gradients of the last output as it is passed on to a next step.

    Returns:
        Gradients of the parameters, each of the state's shape, for `reduce_all`; of the first state
        and of the inputs; and of the output before the first step, by the link.
    """
    d_state, d_ys = map(inexact, cotangents)
    length = length_of(inputs)
    first = get_step(kept, 0)
    linked = d_link or []
    if isinstance(length, int) and not length:  # a step that never runs cannot be traced
        d_xs = [full_like(x, 0) for x in inexact(inputs)]
        totals = [full_like(jax.tree.leaves(first)[0], 0, p.dtype) for p in inexact(params)]
        return totals, d_state, d_xs, linked
    # A parameter's gradient is a sum over steps and over all elements that share the parameter. The
    # loop sums over steps alone, so totals have the state's shape, and `reduce_all` does the rest
    # once. A sum of ones in bfloat16 never exceeds 256, hence float32.
    like = jax.tree.leaves(first)[0]
    totals = [full_like(like, 0, wider(p.dtype, jnp.float32)) for p in inexact(params)]
    d_xs = [full_like(x, i) for i, x in enumerate(inexact(inputs), 1)]
    carry = ((d_state, totals), d_xs, linked)
    stages, broadcast = _stages(step), _broadcaster(params, first)

    def back(t: Any, state: Tree, carry: Any) -> Any:
        carry, d_xs, linked = carry
        now, x, d_y = broadcast(), get_step(inputs, t), get_step(d_ys, t)
        if link is not None:
            d_y, linked = _take(linked, d_y, x[1])
        carry, d_x = retreat(stages, now, carry, state, x, d_y)
        if link is not None:
            linked = [a + b for a, b in zip(linked, link(t, d_x), strict=True)]
        return carry, _put(d_xs, d_x, t), linked

    def back_over_chunk(number: Any, carry: Any) -> Any:
        """Compute the states of a chunk again, then go backwards."""
        start = (chunks - 1 - number) * every
        size = jnp.minimum(every, length - start)

        def forth(i: Any, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
            state, states = carry
            state, _ = advance(state, get_step(inputs, start + i))
            return state, _put(states, state, i + 1)

        state = get_step(kept, chunks - 1 - number)
        states = _put(_buffers(state, every + 1), state, 0)
        _, states = jax.lax.fori_loop(0, size, forth, (state, states))
        return jax.lax.fori_loop(
            0,
            size,
            lambda i, carry: back(start + size - 1 - i, get_step(states, size - 1 - i), carry),
            carry,
        )

    if every == 1:
        carry = jax.lax.fori_loop(
            0,
            length,
            lambda i, carry: back(length - 1 - i, get_step(kept, length - 1 - i), carry),
            carry,
            unroll=unroll,
        )
    else:
        advance, chunks = forwards(step, params, first), -(-length // every)
        carry = jax.lax.fori_loop(0, chunks, back_over_chunk, carry)

    (d_state, totals), d_xs, linked = carry
    return totals, d_state, d_xs, linked


def _take(linked: Leaves, d_y: Leaves, alive: Any) -> tuple[Leaves, Leaves]:
    """Add to the gradients of an output what comes through the link, and what passes it by."""
    zeros = [full_like(d, 0) for d in linked]
    passed = zeros
    if alive is not None:  # an ended sequence keeps its last output
        linked, passed = keep_ended(alive, linked, zeros), keep_ended(alive, zeros, linked)
    d_y = [a + b.astype(a.dtype) for a, b in zip(d_y, linked, strict=True)]
    return d_y, passed


scan_elementwise.defvjp(_forward, _backward)


def check_new_state(new: Tree, old: Tree) -> None:
    """Check that a step gives a state of the structure, shapes and types of the one it got.

    Raises:
        TypeError: another structure, or another type.
        ValueError: another shape.
    """
    want: Any = jax.tree.structure(old)
    got: Any = jax.tree.structure(new)
    if got != want:
        raise TypeError(
            f"`step` must return a new state of the structure of `state`, {want}; got {got}."
        )
    for (path, before), after in zip(
        jax.tree.leaves_with_path(old), jax.tree.leaves(new), strict=True
    ):
        name = f"state{jax.tree_util.keystr(path)}"
        kind, got = jax.typeof(before), jax.typeof(after)
        if got.shape != kind.shape:
            raise ValueError(
                f"`step` must return a new state of the shape of `{name}`, {kind.shape}, which "
                f"does not broadcast; got {got.shape}."
            )
        if got.dtype != kind.dtype and not kind.weak_type:  # a plain number takes any type
            raise TypeError(
                f"`step` must return a new state of the type of `{name}`, {kind.dtype}; "
                f"got {got.dtype}."
            )


def forwards(step: Step, params: Tree, state: Tree) -> Callable[[Tree, Any], tuple[Tree, Tree]]:
    """One step forwards: from a state and ``(x, alive)`` to the new state and the output."""
    params = _broadcaster(params, state)

    def advance(state: Tree, inputs: Any) -> tuple[Tree, Tree]:
        x, alive = inputs
        values = state
        for number, stage in enumerate(_stages(step)):
            values = stage(params(), jax.lax.optimization_barrier(values) if number else values, x)
        new, out = values
        check_new_state(new, state)
        return (new if alive is None else keep_ended(alive, new, state)), out

    return advance


def retreat(
    stages: Stages,
    params: Tree,
    carry: tuple[Leaves, Leaves],
    state: Tree,
    inputs: Any,
    d_y: Leaves,
) -> tuple[tuple[Leaves, Leaves], Leaves]:
    """One step backwards.

    Args:
        stages: what the step is made of.
        params: pytree of arrays of the state's shape.
        carry: gradients of the state after the step, and of the parameters so far.
        state: state before the step.
        inputs: the step's input, and which sequences went on, or None.
        d_y: gradients of the step's output.

    Returns:
        The carry before the step, and the gradients of its input.
    """
    (d_new, totals), (x, alive) = carry, inputs
    # The step is new = where(alive, step(state), state). So an ended sequence passes its cotangent
    # on to the state before as it is, and gives 0 to the step. Its `d_y` is 0 already, since
    # `functional.unroll` masks the outputs.
    d_old = zeros = [full_like(d, 0) for d in d_new]
    if alive is not None:
        d_old = keep_ended(alive, zeros, d_new)
        d_new = keep_ended(alive, d_new, zeros)
    d_params, d_state, d_x = _pull_back(stages, params, state, x, [*d_new, *d_y])
    totals = [t + d.astype(t.dtype) for t, d in zip(totals, d_params, strict=True)]
    return ([a + b for a, b in zip(d_old, d_state, strict=True)], totals), d_x


def _pull_back(
    stages: Stages, params: Tree, state: Tree, x: Tree, cotangents: Leaves
) -> tuple[Leaves, Leaves, Leaves]:
    """Gradients of one step's parameters, state and input, from those of its state and output."""
    # The stages are differentiated one by one, so that at each cut a barrier holds the values and,
    # on the way back, the cotangents. Without barriers XLA on CPU fuses the stages again, and
    # computes the first one anew for every result of the last: twice the products in the compiled
    # gradient of SRLIT, with jaxlib 0.12. The XLA of jaxlib 0.10 does so in spite of barriers.
    values: Tree = state
    backs: list[Callable[..., Any]] = []
    for stage in stages:
        if backs:
            values = jax.lax.optimization_barrier(values)

        def apply(
            p: Leaves, v: Leaves, w: Leaves, stage: Any = stage, values: Any = values
        ) -> tuple[Leaves, Tree]:
            result = stage(fill(params, p), fill(values, v), fill(x, w))
            return inexact(result), result

        leaves, back, result = jax.vjp(
            apply, inexact(params), inexact(values), inexact(x), has_aux=True
        )
        values = fill(result, leaves)
        backs.append(back)

    d_params, cotangents, d_x = backs.pop()(cotangents)
    for back in reversed(backs):
        more_params, cotangents, more_x = back(jax.lax.optimization_barrier(cotangents))
        d_params = jax.tree.map(jnp.add, d_params, more_params)
        d_x = jax.tree.map(jnp.add, d_x, more_x)
    return d_params, cotangents, d_x


def _stages(step: Step) -> Stages:
    stages = getattr(step, "stages", None)
    return stages if stages and policy.runs_in_stages() else (step,)


def _broadcaster(params: Tree, state: Tree) -> Callable[[], Tree]:
    """Parameters broadcast where they are used, so that XLA keeps them small in the loop."""
    like = jax.tree.leaves(state)[0]
    return lambda: jax.tree.map(lambda p: broadcast_like(p, like), params)


def reduce_all(params: Tree, totals: Leaves) -> Tree:
    """The gradients of parameters, from those of what they were broadcast to; see `reduce_to`."""
    return place([reduce_to(p, t) for p, t in zip(inexact(params), totals, strict=True)], params)


def reduce_to(param: jax.Array, total: jax.Array) -> jax.Array:
    """The gradient of a parameter, from that of what it was broadcast to."""
    # The transpose of a broadcast is the sum over the axes that it added or stretched. JAX derives
    # it here, since in `jax.shard_map` `broadcast_like` also makes the parameter vary over devices,
    # and the transpose of that is a sum over them (psum).
    broadcast = functools.partial(broadcast_like, like=total)
    (reduced,) = jax.vjp(broadcast, param.astype(total.dtype))[1](total)
    return reduced.astype(param.dtype)


# Storage is handled here rather than by `scan`, for XLA's sake: what is stored is the new state,
# which is the carry anyway, so that no copy of the old one is needed; and buffers filled with
# different numbers are not made as copies of one another.


def _buffers(like: Tree, length: int) -> Tree:
    leaves, structure = jax.tree.flatten(like)
    shapes = [jnp.broadcast_to(leaf, (length, *leaf.shape)) for leaf in leaves]
    return jax.tree.unflatten(structure, [full_like(shape, i) for i, shape in enumerate(shapes, 1)])


def _put(buffers: Tree, values: Tree, t: Any) -> Tree:
    return jax.tree.map(
        lambda b, v: jax.lax.dynamic_update_index_in_dim(b, v, t, 0), buffers, values
    )


def get_step(buffers: Tree, t: Any) -> Tree:
    return jax.tree.map(lambda b: jax.lax.dynamic_index_in_dim(b, t, 0, keepdims=False), buffers)


def is_inexact(leaf: Any) -> bool:
    """Whether an array has a derivative."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def inexact(tree: Tree) -> Leaves:
    """The arrays that have a derivative."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]


def fill(tree: Tree, leaves: Leaves) -> Tree:
    """Put `leaves` in the places of the inexact ones of `tree`."""
    rest = iter(leaves)
    return jax.tree.map(lambda leaf: next(rest) if is_inexact(leaf) else leaf, tree)


def place(cotangents: Leaves, like: Tree) -> Tree:
    """Cotangents in the structure of what they belong to, None where there is no derivative."""
    rest = iter(cotangents)
    return jax.tree.map(lambda leaf: next(rest) if is_inexact(leaf) else None, like)
