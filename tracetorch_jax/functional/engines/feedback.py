"""A step that also gets its own last output, through a function such as a matrix.

The loop of an elementwise step serves here too. What is kept for the gradient, instead of the
inputs, is the inputs with the feedback added: they make a step elementwise, but for the gradient
that it passes to the output of the step before. The gradients of the feedback's weights are those
of one call over all steps, after the loop: for a matrix, a single product instead of a sum of one
at every step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax._shared.checks import check_fixed
from tracetorch_jax.functional.engines.adjoint import (
    Leaves,
    Tree,
    backwards,
    forwards,
    get_step,
    is_inexact,
    keep_states,
    place,
    reduce_all,
)
from tracetorch_jax.functional.engines.masks import keep_ended
from tracetorch_jax.functional.engines.placement import Placement, placement_of


@dataclasses.dataclass(frozen=True)
class RecurrentStep:
    """A step whose input is ``x + feedback(weights, y)``, with y its own output one step before.

        drive = x + feedback(weights, prev_output)
        state, y = step(params, state, drive)
        prev_output = y

    `functional.unroll` takes it on ``engine="scan"`` and keeps for a gradient what it keeps of an
    elementwise step: the state before every K-th step, the outputs and the inputs, here with the
    feedback added. Values and gradients are those of `jax.lax.scan` of this step.

    Attributes:
        step: an elementwise ``step(params, state, x) -> (state, y)``, such as a `LayerStep`, whose
            inputs, states and outputs have one shape.
        feedback: a pure function ``feedback(weights, y)`` from the shape of `y` to that of `x`,
            hashable and equal by value. It may mix neurons, but not the sequences of a batch.

    Raises:
        TypeError: `step` or `feedback` is no function, or may change without a change of its hash.

    Example:
        >>> layer = functional.LayerStep(functional.Spec())
        >>> step = functional.RecurrentStep(layer, lambda kernel, y: y @ kernel)
        >>> params = {"cell": {"beta": jnp.array(0.5)}, "feedback": jnp.array([[0, 1.0], [0, 0]])}
        >>> state = {"cell": {"mem": jnp.zeros(2)}, "prev_output": jnp.zeros(2)}
        >>> xs = jnp.array([[1.0, 0.0], [0.0, 0.0]])
        >>> functional.unroll(step, params, state, xs)[1].tolist()
        [[0.5, 0.0], [0.25, 0.25]]
    """

    step: Callable[..., tuple[Any, Any]]
    feedback: Callable[[Any, jax.Array], jax.Array]

    def __post_init__(self) -> None:
        for name in ("step", "feedback"):
            if not callable(getattr(self, name)):
                raise TypeError(f"`{name}` must be a function; got {getattr(self, name)!r}.")
            check_fixed(name, getattr(self, name))

    def __call__(self, params: Any, state: Any, x: Any) -> tuple[Any, jax.Array]:
        """Advance by one step.

        Args:
            params: ``{"cell": parameters of step, "feedback": weights}``; weights are any pytree.
            state: ``{"cell": states of step, "prev_output": y}``; `prev_output` has the shape of
                `x` and the dtype of the states. It is 0 before the first step.
            x: input ``[..., N]``, or a tuple that starts with it, as stochastic spikes need.

        Returns:
            The new state, and the output, of the shape of `x`.

        Raises:
            ValueError: a `feedback` that gives another shape than that of `x`, or as `step` does.
        """
        drive = self._driven(params["feedback"], state["prev_output"], x)
        new, y = self.step(params["cell"], state["cell"], drive)
        return {"cell": new, "prev_output": y.astype(state["prev_output"].dtype)}, y

    def _driven(self, weights: Any, prev_output: jax.Array, x: Any) -> Any:
        """What the step gets: the input, to which the feedback is added."""
        x, rest = (x[0], x[1:]) if isinstance(x, tuple) else (x, None)
        drive = add_feedback(x, self._fed_back(weights, prev_output), prev_output.dtype)
        return drive if rest is None else (drive, *rest)

    def _fed_back(self, weights: Any, prev_output: jax.Array) -> jax.Array:
        """What the feedback makes of an output."""
        own = placement_of(prev_output)
        if not any(own.spec[1:]):
            return self.feedback(weights, prev_output)
        # Each neuron needs the outputs of all. The batch stays split.
        batch = own.spec[:1] + (None,) * (len(own.spec) - 1)
        whole = Placement(own.mesh, batch, own.varying).put(prev_output)
        return own.put(self.feedback(weights, whole))


def add_feedback(x: jax.Array, fed_back: jax.Array, dtype: Any) -> jax.Array:
    """The input of a recurrent step.

    Raises:
        ValueError: the two differ in shape.
    """
    if fed_back.shape != x.shape:
        raise ValueError(
            f"`feedback` must give the shape of the input, {x.shape}; got {fed_back.shape}."
        )
    return x.astype(dtype) + fed_back.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def scan_feedback(
    step: RecurrentStep, unroll: int, every: int, params: Tree, state: Tree, inputs: Tree
) -> tuple[Tree, Tree]:
    """Scan a recurrent step; the arguments are those of `adjoint.scan_elementwise`."""
    last, (ys, _) = jax.lax.scan(_forwards(step, params, state), state, inputs, unroll=unroll)
    return last, ys


def _forwards(
    step: RecurrentStep, params: Tree, state: Tree
) -> Callable[[Tree, Any], tuple[Tree, tuple[Tree, Tree]]]:
    """One step forwards, which gives its output and what it got."""
    advance_cell = forwards(step.step, params["cell"], state["cell"])

    def advance(state: Tree, inputs: Any) -> tuple[Tree, tuple[Tree, Tree]]:
        x, alive = inputs
        prev = state["prev_output"]
        driven = step._driven(params["feedback"], prev, x)
        new, y = advance_cell(state["cell"], (driven, alive))
        passed = y.astype(prev.dtype)
        if alive is not None:
            passed = keep_ended(alive, passed, prev)
        return {"cell": new, "prev_output": passed}, (y, driven)

    return advance


def _forward(
    step: RecurrentStep, unroll: int, every: int, params: Tree, state: Tree, inputs: Tree
) -> tuple[tuple[Tree, Tree], Any]:
    advance = _forwards(step, params, state)
    last, (ys, driven), kept = keep_states(
        advance, unroll, every, state, inputs, needed=lambda state: state["cell"]
    )
    xs, alive = inputs
    types = jax.tree.map(lambda x: x[:0], xs)  # the gradients of the inputs are of these
    return (last, ys), (params, kept, state["prev_output"], types, driven, alive, ys)


def _backward(
    step: RecurrentStep, unroll: int, every: int, residuals: Any, cotangents: Any
) -> tuple[Tree, Tree, Any]:
    params, kept, first_output, types, driven, alive, ys = residuals
    d_last, d_ys = cotangents
    weights = params["feedback"]
    prev_outputs = jnp.concatenate([first_output[None], ys.astype(first_output.dtype)])[:-1]

    def link(t: Any, d_driven: Leaves) -> Leaves:
        prev = get_step(prev_outputs, t)
        fed_back, pull = jax.vjp(functools.partial(step._fed_back, weights), prev)
        return list(pull(d_driven[0].astype(fed_back.dtype)))

    totals, d_state, d_driven, (d_first,) = backwards(
        step.step,
        unroll,
        every,
        params["cell"],
        kept,
        (driven, alive),
        (d_last["cell"], d_ys),
        link,
        [d_last["prev_output"]],
    )

    def all_steps(weights: Any) -> jax.Array:
        return jax.vmap(functools.partial(step._fed_back, weights))(prev_outputs)

    fed_back, pull = jax.vjp(all_steps, weights)
    (d_weights,) = pull(d_driven[0].astype(fed_back.dtype))
    x = jax.tree.leaves(types)[0]
    d_xs = [d_driven[0].astype(x.dtype), *d_driven[1:]] if is_inexact(x) else d_driven[1:]
    return (
        {"cell": reduce_all(params["cell"], totals), "feedback": d_weights},
        {"cell": place(d_state, kept), "prev_output": d_first},
        place(d_xs, (types, alive)),
    )


scan_feedback.defvjp(_forward, _backward)
