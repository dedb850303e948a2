"""Writing networks of trace layers as NIR graphs (extra ``nir``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from tracetorch_jax._core.parameters import check_flag
from tracetorch_jax._models import takes_nnx
from tracetorch_jax._shared.checks import check_choice, check_integer, check_linen
from tracetorch_jax.interop._nir.graph import build, import_nir
from tracetorch_jax.interop._nir.layers import Style
from tracetorch_jax.interop._nir.writer import write
from tracetorch_jax.snn import Delay, TraceCell


@takes_nnx
def to_nir(
    model: nn.Module,
    variables: Any,
    *,
    input_shape: tuple[int, ...],
    dt: float = 1e-3,
    style: Style = "exact",
    round_delays: bool = False,
) -> Any:
    """Write a network as a NIR graph.

    Every single layer, ``LI`` to ``SRLITS``, is written exactly, with `LI`, `Threshold` and `Scale`
    nodes: a simulator that takes forward Euler steps of `dt`, and in which a signal that returns to
    a node arrives one step later, gives the same spikes. With ``reset="zero"`` a layer with one
    threshold is an `LIF`, `CubaLIF` or `IF`, as exactly; a ternary one has no counterpart. Dual
    layers are written as their single counterparts if their two halves are equal. A `Delay` is a
    `Delay` if each of its delays is a whole number of steps; a `DelayedDense` has no counterpart.
    ``docs/how-to/nir.md`` shows the graphs.

    What else the graph needs to come back by `from_nir` bit for bit (arguments of constructors,
    raw parameters, `dt`) is in the metadata of its nodes, as text and arrays.

    Args:
        model: a trace layer, `flex.LeakyIntegrator`, `Delay`, `Sequential`, `Residual` or
            `Recurrent`, or `Unroll` of one. A stack may hold these, `flax.linen.Dense` and
            `flax.linen.Conv`, and `Scale`, `Flatten`, `ChannelsFirst`, `ChannelsLast`, `AvgPool`
            and `SumPool` of this module. The `feedback` of a `Recurrent` is one of the latter, or a
            `flax.linen.Sequential` of them. Or the same of nnx, whose ``Linear`` is Dense. Of an
            `Unroll` with `hold`, a simulator has to be given each step of the input that often.
        variables: its variables; left out for a model of nnx, which holds them.
        input_shape: shape of one step's tensor, without batch and time.
        dt: length of a step in seconds.
        style: ``"exact"``, or ``"lif"`` for one node that integrates and fires (`LIF`, `CubaLIF`,
            `IF`) per sign, as hardware has them. NIR resets these to 0, so the spikes of layers
            that take the threshold off, and of ternary ones, differ: `nir_mismatch` measures by how
            much. It makes no difference to a binary layer with ``reset="zero"``, nor to what fires
            with ``reset="none"``.
        round_delays: whether delays between two steps are rounded to the nearest one, halves to
            the even one. `nir_mismatch` measures how much that changes.

    Returns:
        A ``nir.NIRGraph``; ``nir.write(path, graph)`` makes a file of it. Its arrays are of the
        parameters' dtype, at least float32.

    Raises:
        ImportError: `nir` is missing.
        TypeError: a module that NIR has no counterpart for, by its place in the stack; an argument
            of the wrong kind.
        ValueError: a dual layer whose halves differ, a ternary layer that resets to zero, a spike
            function that does not step from 0 to 1, a decay of 1 for some neurons only, a delay
            between two steps unless `round_delays`, a `Delay` with a `sigma`, and whatever else has
            no exact counterpart; variables that do not fit the model; a `dt` that is not
            positive.

    Reference: Pedersen et al., "Neuromorphic intermediate representation: a unified instruction set
    for interoperable brain-inspired computing", Nature Communications 15, 2024.

    Example:
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(4), snn.LIB(4)]))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> graph = interop.to_nir(model, variables, input_shape=(3,))
        >>> sorted(graph.nodes)  # doctest: +NORMALIZE_WHITESPACE
        ['input', 'layers_0', 'layers_1_mem', 'layers_1_reset', 'layers_1_spike', 'output']
    """
    import_nir()
    check_linen("model", model)
    check_choice("style", style, ("exact", "lif"))
    round_delays = check_flag("round_delays", round_delays)
    dt, input_shape = check_dt(dt), _check_shape(input_shape)
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"`variables` must be a dict of collections; got {type(variables).__name__}."
        )
    others = [name for name in variables if name != "params"]
    if others:
        raise ValueError(f"`variables` must hold `params` alone to be written; got {others} too.")
    params = nn.unbox(variables.get("params", {}))
    return build(write(model, params, input_shape, dt, style, constrained, round_delays)[0])


def check_dt(dt: Any) -> float:
    """Return `dt` as a positive float."""
    if isinstance(dt, bool) or not isinstance(dt, (int, float, np.number)):
        raise TypeError(f"`dt` must be a number of seconds; got {dt!r}.")
    if not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"`dt` must be greater than 0 and finite, in seconds; got {dt!r}.")
    return float(dt)


def _check_shape(shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(shape)
    except TypeError:
        raise TypeError(f"`input_shape` must be a tuple of integers; got {shape!r}.") from None
    if not sizes:
        raise ValueError("`input_shape` must be sizes of at least 1, at least one; got none.")
    return tuple(check_integer("input_shape", n, rule="integers of at least 1") for n in sizes)


def constrained(layer: TraceCell | Delay, own: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Constrained values of a layer's parameters, as it computes with them."""
    variables = {"params": dict(own)} if own else {}
    values: Any = layer.clone(parent=None, name=None).apply(variables, method="parameters")
    return {name: np.asarray(value) for name, value in values.items()}
