"""What the layers of a network did: their inputs, states and outputs at every step."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tracetorch_jax._models import keyword_arguments, set_statistics, takes_nnx
from tracetorch_jax._shared.dtypes import wider
from tracetorch_jax._shared.shapes import along
from tracetorch_jax._shared.trees import below
from tracetorch_jax._watch import SteppedLayers, check_over_time, each_unrolled, sown
from tracetorch_jax.functional.steps import integrate, sum_membrane, thresholds
from tracetorch_jax.snn import TraceCell

_SEEN = "recorded"  # next to the states, by their names


class Recording(NamedTuple):
    """The inputs, states and outputs of one trace layer, from `record`.

    Attributes:
        layer: the layer, without parameters.
        inputs: ``[B, T, ...]``, or ``[T, ...]`` without a batch axis.
        outputs: of the same shape.
        states: every state after every step, by name, of the same shape.
        parameters: constrained values by name, ``(num_neurons,)`` or ``()``.
        carry: every state before the first step, by name, ``[B, ...]``; None for zeros.
    """

    layer: TraceCell
    inputs: jax.Array
    outputs: jax.Array
    states: dict[str, jax.Array]
    parameters: dict[str, jax.Array]
    carry: dict[str, jax.Array] | None = None

    @property
    def membrane(self) -> jax.Array:
        """The membrane potential at every step before the reset, summed over its channels.

        Of the shape of `inputs`, in float32 at least.

        Example:
            >>> model, xs = snn.Unroll(snn.LIB(1, beta=0.5)), jnp.array([[0.75], [1.0], [1.0]])
            >>> _, layers = tt.record(model, model.init(jax.random.key(0), xs), xs)
            >>> layers["cell"].membrane[:, 0].tolist(), layers["cell"].states["mem"][:, 0].tolist()
            ([0.75, 1.375, 1.1875], [0.75, 0.375, 0.1875])
        """
        params, previous, xs = self._before()
        return sum_membrane(self.layer.spec, integrate(self.layer.spec, params, previous, xs))

    @property
    def thresholds(self) -> dict[str, jax.Array]:
        """Each threshold at every step, with what adaptation adds to it, by the parameter's name.

        Of the shape of `inputs`, in float32 at least; none of a layer that does not fire.

        Example:
            >>> model = snn.Unroll(snn.ALIB(1, rho=0.5, adapt_weight=1.0))
            >>> xs = jnp.array([[4.0], [0.0], [0.0]])
            >>> _, layers = tt.record(model, model.init(jax.random.key(0), xs), xs)
            >>> layers["cell"].thresholds["threshold"][:, 0].tolist()
            [1.0, 1.5, 1.75]
        """
        params, previous, xs = self._before()
        found = zip(
            self.layer.spec.thresholds,
            thresholds(self.layer.spec, params, previous),
            strict=True,
        )
        return {
            name: jnp.broadcast_to(level, xs.shape)
            for name, level in found
            if name and level is not None
        }

    def _before(self) -> tuple[Any, dict[str, jax.Array], jax.Array]:
        """Parameters along the axes of a step, states before every step, and inputs."""
        wide = wider(self.states[self.layer.spec.states[0]].dtype, jnp.float32)
        states, parameters, xs = jax.tree.map(
            lambda x: jnp.asarray(x, wide), (self.states, self.parameters, self.inputs)
        )
        time = 0 if xs.ndim == 1 + self.layer.num_feature_axes else 1
        first = self.carry or {
            name: jnp.zeros(s.shape[:time] + s.shape[time + 1 :], wide)
            for name, s in states.items()
        }
        previous = {
            name: jax.lax.slice_in_dim(
                jnp.concatenate(
                    [jnp.expand_dims(jnp.asarray(first[name], wide), time), state], axis=time
                ),
                0,
                -1,
                axis=time,
            )
            for name, state in states.items()
        }
        params = {name: along(p, self.layer.dim, xs.ndim) for name, p in parameters.items()}
        return params, previous, xs


@takes_nnx
def record(
    model: nn.Module, variables: Any, *args: Any, **kwargs: Any
) -> tuple[Any, dict[str, Recording]]:
    """Run a model once and return the inputs, states and outputs of each trace layer.

    A layer that something else runs step by step, such as `flax.linen.RNN` or a `Recurrent` of
    several layers, is not seen. Nothing is kept otherwise: this call is a program of its own, which
    stores all of it. Of a layer that runs several times, its last run is kept.

    Args:
        model: a module that runs trace layers through `tracetorch_jax.snn.Unroll`; or one of nnx,
            which updates its BatchNorm statistics as its own call does.
        variables: its variables; left out for a model of nnx, which holds them.
        *args: arguments of the model.
        **kwargs: keyword arguments of ``model.apply``, such as `rngs` and `mutable`.

    Returns:
        The model's output, which with `mutable` is a pair with the collections that changed, as of
        ``model.apply``; and a dict from each trace layer's path, such as ``cell/layers_1``, to its
        `Recording`, in the order in which they ran.

    Raises:
        TypeError: `model` is a cell, no module of Flax, or one of nnx that has no counterpart in
            linen.
        ValueError: no trace layer of the model was run by `Unroll`, or one under Flax's `vmap` or
            `scan`.

    Example:
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(4), snn.SLIB(4)]))
        >>> xs = jnp.ones((2, 10, 3))
        >>> variables = model.init(jax.random.key(0), xs)
        >>> ys, layers = tt.record(model, variables, xs)
        >>> layers["cell/layers_1"].states["mem"].shape
        (2, 10, 4)
    """
    check_over_time(model)
    layers: dict[str, TraceCell] = {}
    axes: dict[str, int] = {}

    def watch(path: str, cell: TraceCell, carry: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
        layers[path] = cell.clone(parent=None, name=None)
        axes[path] = ys.ndim
        cell.sow("trace_states", _SEEN, (xs, ys, cell.parameters(), carry))
        return ys

    stepped = SteppedLayers()
    with nn.intercept_methods(each_unrolled(watch)), nn.intercept_methods(stepped.watch):
        named = keyword_arguments(model, kwargs)
        out, recorded = sown(model, variables, "trace_states", args, named)
    if named is not kwargs:
        out, changed = out
        set_statistics(model, variables, changed)
    stepped.check(layers)
    recordings = {}
    for path in layers:
        own = below(recorded, path)
        if _SEEN not in own or own[_SEEN][-1][0].ndim != axes[path]:
            raise ValueError(
                f"`model` must not run its trace layers under nn.vmap or nn.scan to be recorded; "
                f"{path} is."
            )
        inputs, outputs, parameters, carry = own[_SEEN][-1]
        batched = inputs.ndim > 1 + layers[path].num_feature_axes
        recordings[path] = Recording(
            layers[path],
            _batch_first(inputs, batched),
            _batch_first(outputs, batched),
            {name: _batch_first(own[name][-1], batched) for name in layers[path].spec.states},
            parameters,
            carry,
        )
    return out, recordings


def _batch_first(xs: jax.Array, batched: bool) -> jax.Array:
    return jnp.moveaxis(xs, 0, 1) if batched else xs
