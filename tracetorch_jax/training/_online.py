"""Gradients of a trace layer as its sequence runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tracetorch_jax import functional
from tracetorch_jax._core.cell import AbstractCell
from tracetorch_jax._shared.checks import check_names
from tracetorch_jax._shared.dtypes import asarray, wider
from tracetorch_jax._shared.shapes import along
from tracetorch_jax._shared.trees import key_name
from tracetorch_jax.functional.engines.adjoint import reduce_to
from tracetorch_jax.functional.engines.placement import common_placement


class OnlineState(NamedTuple):
    """What the functions of `online` hand on: a carry, and how it depends on the parameters.

    Attributes:
        carry: the layer's states, ``[B, N]`` each.
        eligibility: by state and raw parameter, ``[B, N]``: the derivative of each neuron's state
            with respect to its parameter.
    """

    carry: dict[str, jax.Array]
    eligibility: dict[str, dict[str, jax.Array]]


def online(layer: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Gradients of a trace layer's parameters as the sequence runs, without going back in time.

    Forward accumulation (real-time recurrent learning; Williams & Zipser, Neural Computation 1,
    1989) carries the derivative of every state with respect to every parameter along. No neuron of
    a trace layer depends on another, so that this takes one number per state, parameter and neuron,
    and is exact, surrogate gradients included: for a loss that is a sum over steps it equals
    backpropagation through time. Memory does not grow with T. In a stack of layers, what reaches a
    lower layer through the later states of a higher one is left out: an approximation.

    Args:
        layer: a trace layer, of linen or nnx.

    Returns:
        Two functions. ``init(params, x)`` gives an `OnlineState` of zeros for inputs like `x`,
        ``[B, N]``. ``step(params, state, x)`` takes one step and returns ``(state, out,
        gradient)``; ``gradient(d_out)`` turns the derivative of this step's loss with respect to
        `out` into that with respect to `params`: add them up over the steps. `params` are a dict of
        raw parameters, or ``nnx.state(layer, nnx.Param)``, of which gradients have the structure.

    Raises:
        TypeError: `layer` is not a trace layer.
        ValueError: its spikes are random; when called, an input of another shape than the states, a
            `d_out` of another than `out`, or `params` that are not the layer's.

    Example:
        >>> layer = snn.LI(3)
        >>> xs = jnp.ones((10, 2, 3))
        >>> params = layer.init(jax.random.key(0), None, xs[0])["params"]
        >>> init, step = training.online(layer)
        >>> state, total = init(params, xs[0]), jax.tree.map(jnp.zeros_like, params)
        >>> for x in xs:
        ...     state, out, gradient = step(params, state, x)
        ...     total = jax.tree.map(jnp.add, total, gradient(2 * out))  # of sum(out ** 2)
        >>> total["raw_beta"].shape
        (3,)
    """
    from tracetorch_jax.functional.steps import is_stochastic

    if not isinstance(layer, AbstractCell):
        raise TypeError(f"`layer` must be a trace layer; got {type(layer).__name__}.")
    if is_stochastic(layer.spike_function):
        raise ValueError("`layer` must not fire at random; got a stochastic spike function.")

    names = tuple(p.raw_name for p in layer.describe() if p.learnable)
    precise = layer.param_dtype

    def raw_of(params: Any) -> dict[str, jax.Array]:
        own = {key_name(path[0]): leaf for path, leaf in jax.tree.leaves_with_path(params) if path}
        check_names("params", own, names, type(layer).__name__)
        return own

    def init(params: Any, x: jax.Array) -> OnlineState:
        own = raw_of(params)
        x, compute, _ = layer._prepare("x", x)
        wide = {name: _widen(own[name], layer.dim, x.shape) for name in names}
        target = common_placement(x.shape, {"x": x, **wide})
        carry = {name: target.put(jnp.zeros(x.shape, compute)) for name in layer.spec.states}

        def zeros() -> jax.Array:  # one for each entry, so that all can be donated
            return target.put(jnp.zeros(x.shape, wider(compute, precise)))

        return OnlineState(carry, {state: {name: zeros() for name in names} for state in carry})

    def step(
        params: Any, state: OnlineState, x: jax.Array
    ) -> tuple[OnlineState, jax.Array, Callable[[jax.Array], Any]]:
        x = asarray(x)
        for leaf in jax.tree.leaves(state):
            if jnp.shape(leaf) != x.shape:
                raise ValueError(
                    f"`x` must have the shape of the states, {jnp.shape(leaf)}; got {x.shape}."
                )
        own = raw_of(params)
        x, compute, given = layer._prepare("x", x)
        # One set of parameters per neuron and sequence makes every derivative elementwise: a
        # pullback of ones then gives one row of every neuron's own Jacobian.
        wide = {name: _widen(own[name], layer.dim, x.shape) for name in names}

        def advance(raw: dict[str, jax.Array], carry: dict[str, jax.Array]) -> Any:
            return _per_element(layer, raw, carry, x.astype(compute))

        (carry, out), pullback = jax.vjp(advance, wide, state.carry)
        zeros = jax.tree.map(jnp.zeros_like, (carry, out))

        def row(which: str | None) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
            d_carry, d_out = zeros
            if which is None:
                d_out = jnp.ones_like(d_out)
            else:
                d_carry = {**d_carry, which: jnp.ones_like(d_carry[which])}
            fine = wider(compute, precise)
            return jax.tree.map(lambda g: g.astype(fine), pullback((d_carry, d_out)))

        # With e[s][p] the derivative of state s with respect to parameter p, the chain rule gives
        #   e_t[s][p] = d s_t / d p + sum over states r of (d s_t / d r_{t-1}) * e_{t-1}[r][p]
        # Bellec et al. (e-prop, Nature Communications 11, 2020) call these eligibility vectors.
        def total(which: str | None) -> dict[str, jax.Array]:
            by_params, by_carry = row(which)
            return {
                name: by_params[name]
                + sum(by_carry[s] * state.eligibility[s][name] for s in by_carry)
                for name in wide
            }

        eligibility = {name: total(name) for name in carry}
        influence = total(None)

        def gradient(d_out: jax.Array) -> Any:
            d_out = jnp.asarray(d_out)
            if d_out.shape != out.shape:
                raise ValueError(
                    f"`d_out` must have the shape of `out`, {out.shape}; got {d_out.shape}."
                )

            def of(path: Any, raw: jax.Array) -> jax.Array:
                value = influence[key_name(path[0])]
                return _narrow(d_out.astype(value.dtype) * value, raw, layer.dim).astype(precise)

            return jax.tree.map_with_path(of, params)

        return OnlineState(carry, eligibility), out.astype(given), gradient

    return init, step


def _per_element(layer: Any, raw: dict[str, jax.Array], carry: Any, x: jax.Array) -> Any:
    """One step of a layer with a raw parameter for every element of the input."""
    values = {}
    for p in layer.describe():
        value = p.constrained(lambda name: raw[f"raw_{name}"])
        wide = value if p.learnable else _widen(value, layer.dim, x.shape)
        values[p.name] = wide.astype(x.dtype)
    return functional.step(layer.spec, values, carry, x, spike=layer.spike_function)


def _widen(value: jax.Array, dim: int, shape: tuple[int, ...]) -> jax.Array:
    """A parameter along `dim`, one for each element of the input."""
    return jnp.broadcast_to(along(jnp.asarray(value), dim, len(shape)), shape)


def _narrow(value: jax.Array, like: jax.Array, dim: int) -> jax.Array:
    """Undo `_widen` for gradients: sum over all that shared the parameter."""
    return reduce_to(along(jnp.asarray(like), dim, value.ndim), value).reshape(jnp.shape(like))
