"""What the layers of a network did: their inputs, states and outputs at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tracetorch_jax.snn import TraceCell

__all__ = ["Recording", "record"]


class Recording(NamedTuple):
    """What one trace layer did.

    Attributes:
        layer: the layer, without parameters.
        inputs: ``[B, T, ...]``, or ``[T, ...]`` without a batch axis.
        outputs: of the same shape.
        states: every state after every step, by name, of the same shape.
        parameters: constrained values, by name.
    """

    layer: TraceCell
    inputs: jax.Array
    outputs: jax.Array
    states: dict[str, jax.Array]
    parameters: dict[str, jax.Array]


def record(
    model: nn.Module, variables: Any, *args: Any, **kwargs: Any
) -> tuple[Any, dict[str, Recording]]:
    """Run a model once and keep what each of its trace layers received, held and gave.

    Nothing is kept otherwise: this call is a program of its own, which stores all of it.

    Args:
        model: a module that runs trace layers through `tracetorch_jax.snn.Unroll`.
        variables: its variables.
        *args: arguments of the model.
        **kwargs: keyword arguments of ``model.apply``, such as `rngs`.

    Returns:
        The model's output, and a dict from each trace layer's path, such as ``cell/layers_1``, to
        its `Recording`, in the order in which they ran.

    Raises:
        ValueError: no trace layer of the model was run by `Unroll`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from tracetorch_jax import snn
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(4), snn.SLIB(4)]))
        >>> xs = jnp.ones((2, 10, 3))
        >>> variables = model.init(jax.random.key(0), xs)
        >>> ys, layers = record(model, variables, xs)
        >>> layers["cell/layers_1"].states["mem"].shape
        (2, 10, 4)
    """
    paths: list[str] = []
    layers: dict[str, TraceCell] = {}
    mutable = kwargs.pop("mutable", [])

    def run(
        variables: Any, args: Any, kwargs: Any
    ) -> tuple[Any, dict[str, tuple[jax.Array, jax.Array, dict[str, jax.Array]]], Any]:
        seen = {}

        def watch(path: str, cell: TraceCell, xs: jax.Array, ys: jax.Array) -> jax.Array:
            paths.append(path)
            layers[path] = cell.clone(parent=None, name=None)
            seen[path] = xs, ys, cell.parameters()
            return ys

        with nn.intercept_methods(each_unrolled(watch)):
            out, updated = model.apply(
                variables, *args, mutable=[*_as_list(mutable), "states"], **kwargs
            )
        return out, seen, updated["states"] if "states" in updated else {}

    out, seen, states = run(variables, args, kwargs)
    if not seen:
        raise ValueError(
            "`model` must run trace layers through tracetorch_jax.snn.Unroll; none was run."
        )
    recordings = {}
    for path in paths:
        inputs, outputs, parameters = seen[path]
        batched = inputs.ndim > 1 + layers[path].num_feature_axes
        own = states
        for name in path.split("/") if path else []:
            own = own[name]
        recordings[path] = Recording(
            layers[path],
            _batch_first(inputs, batched),
            _batch_first(outputs, batched),
            {name: _batch_first(own[name][-1], batched) for name in layers[path].spec.states},
            parameters,
        )
    return out, recordings


def each_unrolled(
    watch: Callable[[str, TraceCell, jax.Array, jax.Array], jax.Array],
) -> Callable[..., Any]:
    """Interceptor of Flax methods that hands to `watch` each trace layer run over time.

    `watch` gets the layer's path, the layer, its input and output ``[T, ...]``, and returns the
    output that the network goes on with.
    """

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        cell = context.module
        if not (isinstance(cell, TraceCell) and context.method_name == "unroll"):
            return next_fun(*args, **kwargs)
        carry, ys = next_fun(*args, **kwargs)
        return carry, watch("/".join(cell.path), cell, jnp.asarray(args[1]), ys)

    return intercept


def _batch_first(xs: jax.Array, batched: bool) -> jax.Array:
    return jnp.moveaxis(xs, 0, 1) if batched else xs


def _as_list(mutable: Any) -> list[str]:
    return [mutable] if isinstance(mutable, str) else list(mutable or [])
