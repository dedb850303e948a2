"""The scan of an elementwise step as one compiled kernel on a CPU.

XLA runs a loop over time on one core, with some kernels for every step. Here the jaxpr of a step,
and that of its vjp, are translated to LLVM IR (`lanes`) within the loops over time, rows and
neurons (`kernels`); `handler` is what XLA calls, `header` where the fields of its interface lie,
`build` the compiler, and `primitive` what JAX sees. It needs the package llvmlite and no compiler.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax.functional.engines.adjoint import Step, place, reduce_all
from tracetorch_jax.functional.engines.native import build
from tracetorch_jax.functional.engines.native.kernels import each
from tracetorch_jax.functional.engines.native.primitive import Call, scan
from tracetorch_jax.functional.engines.native.program import Signature, trace
from tracetorch_jax.functional.engines.placement import Placement, placement_of

Tree = Any
Leaves = list[jax.Array]

REAL = ("float32", "float64", "bfloat16")
INPUTS = (*REAL, "int32", "bool")


def why_not(step: Step, params: Tree, state: Tree, xs: Tree) -> str | None:
    """What keeps these arguments from being run as one kernel, if anything does."""
    if reason := build.why_not():
        return reason
    trees = {"params": (params, REAL), "state": (state, REAL), "xs": (xs, INPUTS)}
    for name, (tree, known) in trees.items():
        for leaf in jax.tree.leaves(tree):
            if str(leaf.dtype) not in known:
                return f"`{name}` of {', '.join(known)} on a CPU, not of {leaf.dtype}"
    if any(jax.typeof(a).weak_type for a in jax.tree.leaves(state)):
        return "states with a type of their own, not plain numbers"
    traced = trace(Signature.of(step, params, state, xs))
    return traced if isinstance(traced, str) else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def scan_native(
    step: Step, unroll: int, every: int, params: Tree, state: Tree, inputs: Tree
) -> tuple[Tree, Tree]:
    """Scan an elementwise step; arguments as in `adjoint.scan_elementwise`."""
    last, ys, _ = _forward(step, every, params, state, inputs, keep=False)
    return last, ys


def _scan_fwd(
    step: Step, unroll: int, every: int, params: Tree, state: Tree, inputs: Tree
) -> tuple[tuple[Tree, Tree], Any]:
    last, ys, kept = _forward(step, every, params, state, inputs, keep=True)
    return (last, ys), (params, state, inputs, kept)


def _scan_bwd(
    step: Step, unroll: int, every: int, residuals: Any, cotangents: Any
) -> tuple[Tree, Tree, Any]:
    params, state, inputs, kept = residuals
    call = _call(step, every, params, state, inputs, backward=True)
    d_state, totals, d_xs = _bind(
        call,
        _whole(params, state),
        kept,
        inputs[0],
        _lengths(inputs),
        *cotangents,
        sizes=(len(kept), len(jax.tree.leaves(params))),
    )
    return reduce_all(params, totals), place(d_state, state), place(d_xs, inputs)


scan_native.defvjp(_scan_fwd, _scan_bwd)


def _forward(
    step: Step, every: int, params: Tree, state: Tree, inputs: Any, keep: bool
) -> tuple[Tree, Tree, Leaves]:
    call = _call(step, every, params, state, inputs, keep=keep)
    outs = call.program.outs
    last, ys, kept = _bind(
        call,
        _whole(params, state),
        state,
        inputs[0],
        _lengths(inputs),
        sizes=(len(jax.tree.leaves(state)), outs.num_leaves),
    )
    last = jax.tree.unflatten(jax.tree.structure(state), last)
    return last, jax.tree.unflatten(outs, ys), kept


def _call(step: Step, every: int, params: Tree, state: Tree, inputs: Any, **options: bool) -> Call:
    xs, alive = inputs
    signature = Signature.of(step, params, state, xs)
    return Call(signature, every, None if alive is None else alive.ndim - 1, **options)


def _bind(call: Call, *trees: Tree, sizes: tuple[int, int]) -> tuple[Leaves, Leaves, Leaves]:
    args = jax.tree.leaves(trees)

    def run(*args: jax.Array) -> Leaves:
        return [out[0] for out in scan(call, *(a[None] for a in args))]

    # On a mesh with explicit axes XLA cuts the kernel as on one with automatic axes, and what it
    # gives lies where the input lies.
    x = placement_of(call.split(args)[2][0])
    if x.split:
        leading = {"s": 0, "x": 1, "k": 1}
        step = dataclasses.replace(x, spec=x.spec[1:])
        run = jax.sharding.auto_axes(
            run,
            out_sharding=[step.sharding(leading[kind]) for kind, _ in each(call.arrays.written)],
        )
    # In `jax.shard_map` results vary over the axes that any argument varies over.
    placed = Placement(varying=frozenset[str]().union(*(placement_of(a).varying for a in args)))
    outs = list(map(placed.put, run(*map(placed.put, args))))
    first, second = sizes[0], sum(sizes)
    return outs[:first], outs[first:second], outs[second:]


def _whole(params: Tree, state: Tree) -> Tree:
    """Parameters with all axes of a state, of size 1 where they had none."""
    ndim = jax.tree.leaves(state)[0].ndim
    return jax.tree.map(lambda p: p.reshape((1,) * (ndim - p.ndim) + p.shape), params)


def _lengths(inputs: Any) -> jax.Array | None:
    """How many steps each sequence goes on for, or None if all go on to the end."""
    return None if inputs[1] is None else inputs[1].sum(0, dtype=jnp.int32)
