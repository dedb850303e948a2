"""The bias of traceTorch 0.18 and 0.19, which is not ours.

There a bias B is added to the membrane where it meets the threshold, and nowhere else; here a bias
b is part of what the membrane integrates. A membrane that starts at B and takes in (1 - beta) B per
step is always B above one that does neither, so with that b and that start the two fire alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._models import takes_nnx
from tracetorch_jax.functional.spec import channel_names
from tracetorch_jax.snn import Sequential, TraceCell, Unroll


def bias_factor(layer: TraceCell, decays: Mapping[str, np.ndarray], bias: np.ndarray) -> np.ndarray:
    """Ours over traceTorch's bias: 1 - beta, of the channel into which the bias goes."""
    # traceTorch fires by v + B, with v = beta * v + x. In m = v + B that is
    #   m = beta * m + x + (1 - beta) * B
    # and resets act on v and m alike. So ours is (1 - beta) * B for a membrane that sums, and B for
    # one that averages, which multiplies all that it takes in by 1 - beta.
    factors = [
        np.ones_like(decay) if averages else 1 - decay
        for decay, averages in zip(decays.values(), layer.spec.membrane.averages, strict=True)
    ]
    return factors[0] if len(factors) == 1 else np.where(bias >= 0, *factors)


@takes_nnx
def initial_carry(variables: Mapping[str, Any], model: nn.Module, xs: Any) -> Any:
    """Carry from which a model with the bias of traceTorch 0.18 or 0.19 starts.

    There a bias B is added to the membrane where it meets the threshold, and nowhere else. Here
    ``flex.LeakyIntegrator`` has a bias b that the membrane takes in at every step. With
    ``b = (1 - beta) * B`` and a membrane that starts at B instead of 0 the two fire alike, step by
    step; `from_torch` makes the b, and this the start.

    Args:
        variables: the model's; left out for a model of nnx, which holds them.
        model: a trace layer, a `Sequential`, or an `Unroll` of either.
        xs: what the model is called with (for a cell, one step's input), for its shape.

    Returns:
        A carry for ``model.apply(variables, xs, initial_carry=carry)``, or for the first step of a
        cell: zeros but for the membranes of layers that have a bias.

    Raises:
        TypeError: `model` is something else.
        ValueError: `xs` is of the wrong shape for the model.

    Example:
        >>> layer = snn.flex.LIB(1).clone(bias=snn.flex.Weight(0.0))
        >>> state_dict = {
        ...     "raw_beta": np.zeros(1), "raw_threshold": np.ones(1), "raw_bias": np.sinh([0.5])
        ... }
        >>> variables = interop.from_torch(state_dict, layer)
        >>> variables["params"]["raw_bias"].tolist()
        [0.25]
        >>> interop.initial_carry(variables, layer, np.zeros((2, 1)))["mem"].tolist()
        [[0.5], [0.5]]
    """
    shape = tuple(xs.shape) if hasattr(xs, "shape") else np.shape(xs)
    cell, params = model, variables.get("params", {})
    if isinstance(model, Unroll):
        cell, params = model.cell, params.get("cell", {})
        batched = len(shape) > cell.num_feature_axes + 1
        axis = 1 if batched and not model.time_major else 0
        shape = shape[:axis] + shape[axis + 1 :]
    if not isinstance(cell, (TraceCell, Sequential)):
        raise TypeError(
            f"`model` must be a trace layer, a Sequential, or an Unroll of either; got "
            f"{type(model).__name__}."
        )
    return _start(cell, params, cell.initialize_carry(None, shape))


def _start(cell: nn.Module, params: Mapping[str, Any], carry: Any) -> Any:
    """A carry with the membranes of layers that have a bias where they settle."""
    if isinstance(cell, Sequential):
        return {
            name: _start(inner, params.get(name, {}), carry[name])
            for name, inner in cell.cells().items()
        }
    if not isinstance(cell, TraceCell) or not cell.spec.bias:
        return carry
    return carry | cell.apply({"params": params}, carry, method=_settled)


def _settled(cell: TraceCell, carry: Any) -> Any:
    """The membrane of a layer on which only its bias acts, once it no longer moves."""
    dtype = next(iter(carry.values())).dtype
    values, membrane = cell._along_dim(dtype), cell.spec.membrane
    signs = (jnp.maximum, jnp.minimum) if membrane.dual else (lambda bias, _: bias,)
    settled = {}
    for i, averages in enumerate(membrane.averages):
        state = channel_names("mem", membrane.dual)[i]
        bias = signs[i](values["bias"], 0)
        if not averages:
            bias = bias / (1 - values[channel_names("beta", membrane.dual)[i]])
        settled[state] = jnp.broadcast_to(bias, carry[state].shape)
    return settled
