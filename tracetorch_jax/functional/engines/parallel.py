"""Traces that take in nothing of the layer's own output, for all time steps at once.

Such a trace is a linear recurrence with a decay that does not change over time, so its steps need
not wait for one another: they can be combined in pairs, pairs of pairs, and so on, in about
``log2 T`` rounds instead of T. That is more arithmetic and less waiting.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax.functional.engines.adjoint import Step, reduce_to, scan_elementwise
from tracetorch_jax.functional.engines.masks import expand_mask


@jax.custom_vjp
def linear_recurrence(decay: jax.Array, xs: jax.Array, initial: jax.Array) -> jax.Array:
    """All values of ``y = decay * y + x``.

    Args:
        decay: what is kept per step; broadcasts against `initial`.
        xs: ``[T, ...]``, what is added at each step.
        initial: ``[...]``, the value before the first step.

    Returns:
        ``[T, ...]``, the value after each step.

    Example:
        >>> ys = linear_recurrence(jnp.array(0.5), jnp.array([1.0, 1.0, 0.0]), jnp.array(4.0))
        >>> ys.tolist()
        [3.0, 2.5, 1.25]

    Reference: Blelloch, "Prefix sums and their applications", 1990, section 1.4.
    """
    return _values(decay, xs, initial)


def _values(decay: jax.Array, xs: jax.Array, initial: jax.Array) -> jax.Array:
    if not xs.shape[0]:
        return xs
    first = xs[:1] + (decay * initial)[None]
    return _recurrence(decay, jnp.concatenate([first, xs[1:]]))


def _recurrence(decay: jax.Array, xs: jax.Array, reverse: bool = False) -> jax.Array:
    # Element t stands for the map y -> a * y + b over the steps combined so far. `a` is a power of
    # `decay` and keeps its shape, so it is computed once for all sequences.
    def combine(first: Any, then: Any) -> tuple[jax.Array, jax.Array]:
        (a, b), (c, d) = first, then
        return a * c, c * b + d

    shape = (1,) * (xs.ndim - 1 - decay.ndim) + decay.shape
    decays = jnp.broadcast_to(decay.reshape(shape), (xs.shape[0], *shape))
    return jax.lax.associative_scan(combine, (decays, xs), reverse=reverse)[1]


def _recurrence_fwd(decay: jax.Array, xs: jax.Array, initial: jax.Array) -> tuple[jax.Array, Any]:
    # Not `linear_recurrence`, which has no forward mode: a second derivative may need one here.
    ys = _values(decay, xs, initial)
    return ys, (decay, initial, ys)


def _recurrence_bwd(residuals: Any, d_ys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    decay, initial, ys = residuals
    if not ys.shape[0]:
        return jnp.zeros_like(decay), d_ys, jnp.zeros_like(initial)
    # The gradient g of y, through all later steps, is a recurrence of the same decay from the end:
    #   g_t = d_y_t + decay * g_{t+1},   d_x_t = g_t,   d_initial = decay * g_0
    #   d_decay = sum over t of g_t * y_{t-1}
    # Martin & Cundy, "Parallelizing linear recurrent neural nets over sequence length", ICLR 2018.
    d_xs = _recurrence(decay, d_ys, reverse=True)
    d_decay = d_xs[0] * initial + (d_xs[1:] * ys[:-1]).sum(0)
    return reduce_to(decay, d_decay), d_xs, decay * d_xs[0]


linear_recurrence.defvjp(_recurrence_fwd, _recurrence_bwd)


def scan_parallel(
    step: Step, unroll: int, every: int, params: Any, state: Any, inputs: Any
) -> tuple[Any, Any]:
    """Run what is linear of a step for all time steps at once, and scan what is left.

    Args:
        step: has a method ``ahead(params, state, xs)``, which gives the states ``[T, ...]`` that
            can be had at once, by name, and either the outputs, or the step that is left with its
            parameters and inputs.
        unroll: as in `adjoint.scan_elementwise`.
        every: as in `adjoint.scan_elementwise`.
        params: as in `adjoint.scan_elementwise`.
        state: dict of arrays of one shape.
        inputs: as in `adjoint.scan_elementwise`.
    """
    xs, alive = inputs
    traces, rest, params, xs = step.ahead(params, state, xs)  # type: ignore[attr-defined]
    last = {name: _at_end(trace, state[name], alive) for name, trace in traces.items()}
    if rest is None:
        return last, xs
    left = {name: value for name, value in state.items() if name not in traces}
    left, ys = scan_elementwise(rest, unroll, every, params, left, (xs, alive))
    return last | left, ys


def _at_end(trace: jax.Array, initial: jax.Array, alive: jax.Array | None) -> jax.Array:
    """The value at each sequence's own end."""
    if not trace.shape[0]:
        return initial
    if alive is None:
        return trace[-1]
    steps = expand_mask(alive.sum(0, dtype=jnp.int32), initial.ndim)
    last = jnp.take_along_axis(trace, jnp.maximum(steps - 1, 0)[None], axis=0)[0]
    return jnp.where(steps > 0, last, initial)
