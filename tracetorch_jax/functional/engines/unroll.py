"""Any step over time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tracetorch_jax._shared.checks import check_choice, check_fixed, check_integer, check_names
from tracetorch_jax._shared.dtypes import asarray
from tracetorch_jax.functional.engines import policy
from tracetorch_jax.functional.engines.adjoint import (
    check_new_state,
    inexact,
    is_inexact,
    scan_elementwise,
)
from tracetorch_jax.functional.engines.feedback import RecurrentStep, scan_feedback
from tracetorch_jax.functional.engines.masks import (
    Valid,
    in_chunks,
    keep_ended,
    length_of,
    out_of_chunks,
    valid_steps,
    zero_padding,
)
from tracetorch_jax.functional.engines.parallel import scan_parallel
from tracetorch_jax.functional.engines.placement import (
    Placement,
    place_elementwise,
    place_state,
    placement_of,
)

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
Engine = Literal["auto", "scan", "fused", "parallel"]

ENGINES = ("auto", "scan", "fused", "parallel")

_BACKWARDS_ONLY = (
    "Unroll, and functional.unroll of an `elementwise` step, have a backward pass of their own and "
    "no forward mode: jax.jvp, jax.jacfwd and jax.linearize need Flax's own RNN of the cell, the "
    "cell itself in jax.lax.scan, or functional.unroll with elementwise=False. jax.hessian works."
)


def unroll(
    step: Step,
    params: Any,
    state: Any,
    xs: Any,
    *,
    elementwise: bool = False,
    seq_lengths: jax.Array | Valid | None = None,
    engine: Engine = "auto",
    unroll: int = 1,
    checkpoint_every: int | Literal["sqrt"] | None = None,
) -> tuple[Any, Any]:
    """Run ``step(params, state, x) -> (state, out)`` over the leading axis of `xs`.

    A gradient keeps the state before every K-th step and nothing else, and computes the rest again
    when it walks backwards. Without a gradient nothing is kept. What is compiled does not depend
    on T, which may be a symbol of `jax.export`: then `unroll` is 1 and ``"sqrt"`` that of 1024.

    Args:
        step: pure function, or an object that is hashable and equal by value. It is compiled once
            for each function object and set of shapes, so pass the same object again rather than a
            new ``lambda``: compiling takes a fraction of a second, and a program some 2 MB. The
            last 128 programs are kept.
        params: pytree given to every step.
        state: pytree of arrays, the state before the first step.
        xs: pytree of arrays ``[T, ...]``; step t gets their t-th slices. Must hold at least one.
            With T = 0 the state stays as it is, and gradients are 0.
        elementwise: promises that no step mixes the elements of a state, and that all arrays of
            the state have one shape, against which every parameter broadcasts. Gradients of
            parameters are then summed through time element by element and reduced to the
            parameters' shapes once at the end, rather than at every step. Where a step sums or
            rearranges a parameter's own elements, its gradient is silently wrong. What the step
            closes over is constant: whatever needs a gradient belongs into `params`. There is no
            forward mode then, but `jax.hessian` works; ``grad(grad(f))`` needs
            ``checkpoint_every=1``.
        seq_lengths: ``[B]`` integers in [0, T], where B is the leading axis of each step's
            tensors, or a scalar if they have no batch axis. Steps at or beyond a sequence's length
            leave its state as it is and give 0; what `xs` holds there (NaN included) influences
            neither values nor gradients.
        engine: how the loop is run. All engines give the same values and gradients to rounding,
            and parameters and states know nothing of them.

            - ``"scan"``: `jax.lax.scan`.
            - ``"fused"``: one kernel in each direction, for elementwise steps with inputs of the
              state's shape: by Pallas on GPU and TPU; on CPU compiled by llvmlite, where that is
              installed, for steps of the usual arithmetic, exp, log and tanh.
            - ``"parallel"``: what depends on the input alone, for all steps at once: the LI
              family, and the synaptic trace of any S layer, whose other traces are scanned.
            - ``"auto"``: the fastest that is known: on CPU ``"fused"`` where it can run the step,
              else ``"scan"``. Nothing has been measured on an accelerator yet.
        unroll: steps per iteration of the compiled loop.
        checkpoint_every: K, to keep one state per K steps, or ``"sqrt"`` for about the square root
            of T. By default 8 for elementwise steps on CPU, where that is faster than keeping all,
            and 1 elsewhere.

    Returns:
        The state after the last step (or at each sequence's own end), and the outputs ``[T, ...]``.

    Raises:
        ValueError: unknown `engine`, or one that cannot run this step; `unroll` or
            `checkpoint_every` less than 1; no or differing T in `xs`; `seq_lengths` of the wrong
            shape or out of range; a `step` that changes the shape of a state, such as one whose
            input broadcasts it; with `elementwise`, states that differ in shape or a parameter that
            does not broadcast; what `step` raises, such as a `LayerStep` for inputs of another
            shape than the state.
        TypeError: a `step` that is no function, that may change without a change of its hash, or
            that changes the structure or type of the state; `seq_lengths`, `unroll` or
            `checkpoint_every` that are not integers; forward-mode differentiation of an elementwise
            step.

    Example:
        >>> def count(params, state, x):
        ...     state = params * state + x
        ...     return state, state
        >>> state, xs = jnp.zeros(1), jnp.ones((3, 1))
        >>> state, ys = functional.unroll(count, 0.5, state, xs, elementwise=True)
        >>> ys[:, 0].tolist()
        [1.0, 1.5, 1.75]
    """
    check_choice("engine", engine, ENGINES)
    if not callable(step):
        raise TypeError(f"`step` must be a function; got {step!r}.")
    check_fixed("step", step)
    unroll, checkpoint_every = check_pieces(unroll, checkpoint_every)
    length = length_of(xs)
    known = isinstance(length, int)  # a program exported for every T sees a symbol
    if checkpoint_every == "sqrt":
        checkpoint_every = _root(length if known else 1024)

    state = jax.tree.map(jnp.asarray, state)
    params = jax.tree.map(jnp.asarray, params)
    xs = jax.tree.map(asarray, xs)
    if isinstance(step, RecurrentStep):
        elementwise = True  # but for the feedback, which `scan_feedback` knows
        _check_recurrent(params, state)
        _check_elementwise(params["cell"], state)
    elif elementwise:
        _check_elementwise(params, state)
    valid = None
    if seq_lengths is not None:
        shapes = [leaf.shape for leaf in jax.tree.leaves(state)] + _step_shapes(xs)
        valid = valid_steps(seq_lengths, length, shapes)
    scan = _choose(engine, elementwise, step, params, state, xs)
    if not known:
        # `jax.lax.scan` divides T by `unroll`, and `_scan_any` by K, which a symbol does not allow.
        # The loops of `scan_elementwise` take any number of steps.
        unroll, checkpoint_every = 1, checkpoint_every if elementwise else None
    if elementwise and checkpoint_every is None:
        checkpoint_every = policy.steps_per_state()
    try:
        clean = isinstance(seq_lengths, Valid)
        return _program(scan, step, unroll, checkpoint_every, clean)(params, state, xs, valid)
    except TypeError as error:
        if scan is not _scan_any and "custom_vjp" in str(error):
            raise TypeError(_BACKWARDS_ONLY) from error
        raise


def _choose(
    engine: Engine, elementwise: bool, step: Step, params: Any, state: Any, xs: Any
) -> Callable[..., Any]:
    if isinstance(step, RecurrentStep):
        if engine not in ("auto", "scan"):
            raise ValueError(
                f"`engine` must be 'auto' or 'scan' for a recurrent step, which mixes neurons; got "
                f"{engine!r}."
            )
        return scan_feedback
    if engine in ("fused", "parallel") and not elementwise:
        raise ValueError(f"`engine` {engine!r} needs a step that is `elementwise`; this is not.")
    if engine == "parallel":
        if not hasattr(step, "ahead"):
            raise ValueError(f"`engine` 'parallel' needs a `LayerStep`; got {step!r}.")
        if not isinstance(length_of(xs), int):
            raise ValueError(
                f"`engine` 'parallel' needs a number of steps T that is known when it is compiled; "
                f"got the symbol {length_of(xs)}."
            )
        return scan_parallel
    if elementwise and policy.runs_kernel(engine):
        why_not, scan_kernel = _kernel()
        reason = _misfit(state, xs) or why_not(step, params, state, xs)
        if reason is None and length_of(xs):
            return scan_kernel
        if reason and engine == "fused":
            raise ValueError(f"`engine` 'fused' needs {reason}.")
    return scan_elementwise if elementwise else _scan_any


def _misfit(state: Any, xs: Any) -> str | None:
    """What keeps arrays of these shapes from any kernel, if anything does."""
    shape = jax.tree.leaves(state)[0].shape
    if not all(isinstance(size, int) for size in (length_of(xs), *shape)):
        return f"sizes that are known when it is compiled, not {(length_of(xs), *shape)}"
    for x in jax.tree.leaves(xs):
        if x.shape[1:] != shape or jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return (
                f"inputs of the state's shape {shape} at every step, not {x.shape[1:]} of {x.dtype}"
                " (spikes drawn at random have their keys there)"
            )
    return f"steps of at least one neuron, not of shape {shape}" if 0 in shape else None


def _kernel() -> tuple[Callable[..., str | None], Callable[..., Any]]:
    """What runs a step over time as one kernel on this device, and what says where it cannot."""
    # Both take a while to import.
    if policy.kernel_device() == "cpu":
        from tracetorch_jax.functional.engines import native

        return native.why_not, native.scan_native
    from tracetorch_jax.functional.engines import fused

    return fused.why_not, fused.scan_fused


# Each step has a `jax.jit` of its own, which is let go with all that it compiled when `lru_cache`
# drops it. With `step` as a static argument, one cache of JAX would keep thousands of programs of
# some 2 MB, and what their steps refer to: a loop that makes a new lambda each time would fill it.
@functools.lru_cache(maxsize=128)
def _program(
    scan: Callable[..., Any], step: Step, unroll: int, every: int | None, clean: bool
) -> Callable[..., Any]:
    """What runs a step over time, compiled; the last that were used are kept."""

    @jax.jit
    def run(params: Any, state: Any, xs: Any, valid: Any) -> tuple[Any, Any]:
        return _run(scan, step, unroll, every, clean, params, state, xs, valid)

    return run


def _run(
    scan: Callable[..., Any],
    step: Step,
    unroll: int,
    every: int | None,
    clean: bool,
    params: Any,
    state: Any,
    xs: Any,
    valid: Any,
) -> tuple[Any, Any]:
    # The input is masked too, though an ended sequence keeps its state. Backwards its steps get a
    # cotangent of 0, and 0 times a derivative at NaN is NaN in the gradients of the parameters.
    if not clean:
        xs = _zero_padding(xs, valid)
    if scan is _scan_any:
        state = place_state(step, params, state, xs) if length_of(xs) else state
    elif scan is scan_feedback:
        state, xs = place_elementwise(params["cell"], state, xs, valid)
        # What feeds back may vary over devices of a `jax.shard_map` where nothing else does.
        fed_back = [placement_of(leaf).varying for leaf in jax.tree.leaves(params["feedback"])]
        varying = Placement(varying=frozenset().union(*fed_back))
        state, xs = jax.tree.map(varying.put, (state, xs))
    else:
        state, xs = place_elementwise(params, state, xs, valid)
    state, ys = scan(step, unroll, every, params, state, (xs, valid))
    return state, _zero_padding(ys, valid)


def _zero_padding(tree: Any, valid: jax.Array | None) -> Any:
    """`zero_padding` of all real numbers; others, such as keys, may have no batch axis."""
    return jax.tree.map(lambda x: zero_padding(x, valid) if is_inexact(x) else x, tree)


def _scan_any(
    step: Step, unroll: int, every: int | None, params: Any, state: Any, inputs: Any
) -> tuple[Any, Any]:
    # The policy of `jax.checkpoint`, keep the inputs and nothing else, is what makes a gradient
    # store one state per step. In a loop there is nothing for XLA to merge the second computation
    # with, hence `prevent_cse=False`, which would only hinder it.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(state: Any, inputs: Any) -> tuple[Any, Any]:
        x, alive = inputs
        new, out = step(params, state, x)
        check_new_state(new, state)
        if alive is not None:
            new = keep_ended(alive, new, state)
        return new, out

    scan = functools.partial(jax.lax.scan, body, unroll=unroll)
    if every is None:
        return scan(state, inputs)
    chunk = jax.checkpoint(scan, prevent_cse=False)
    ys = []
    for part in in_chunks(inputs, every):
        state, out = jax.lax.scan(chunk, state, part)
        ys.append(out)
    return state, out_of_chunks(ys)


def _root(length: int) -> int:
    """About the square root; a divisor if there is one near, which saves `in_chunks` a copy."""
    root = max(1, math.isqrt(length))
    return next((k for k in range(root, 2 * root) if length % k == 0), root)


def check_pieces(unroll: Any, every: Any) -> tuple[int, Any]:
    """Return `unroll`, and `checkpoint_every` where it is a number, as Python's integers."""
    if every is not None and every != "sqrt":
        rule = "an integer of at least 1, 'sqrt' or None"
        every = check_integer("checkpoint_every", every, rule=rule)
    return check_integer("unroll", unroll), every


def _step_shapes(xs: Any) -> list[tuple[int, ...]]:
    """Shapes of one step of every real-valued array."""
    return [x.shape[1:] for x in inexact(xs)]


def _check_recurrent(params: Any, state: Any) -> None:
    for name, got, want in (
        ("params", params, ("cell", "feedback")),
        ("state", state, ("cell", "prev_output")),
    ):
        if not isinstance(got, Mapping):
            raise TypeError(
                f"`{name}` of a recurrent step must be a dict of {list(want)}; "
                f"got {type(got).__name__}."
            )
        check_names(name, got, want, "a recurrent step")


def _check_elementwise(params: Any, state: Any) -> None:
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    if len(shapes) != 1:
        raise ValueError(
            f"`elementwise` steps need states that all have one shape; got {sorted(shapes)}."
        )
    (shape,) = shapes
    for param in jax.tree.leaves(params):
        try:
            fits = jnp.broadcast_shapes(param.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"`params` of an `elementwise` step must broadcast to the state's shape {shape}; "
                f"got {param.shape}."
            )
