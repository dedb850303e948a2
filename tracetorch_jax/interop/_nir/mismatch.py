"""How far a lossy NIR graph is from the network that it was made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import snn
from tracetorch_jax._core.parameters import check_flag
from tracetorch_jax._models import takes_nnx
from tracetorch_jax._shared.checks import check_choice
from tracetorch_jax.interop._nir.exporting import check_dt, constrained
from tracetorch_jax.interop._nir.layers import Style
from tracetorch_jax.interop._nir.run import Reset, simulate
from tracetorch_jax.interop._nir.writer import write


class Mismatch(NamedTuple):
    """The result of `nir_mismatch`: differences between the outputs of a graph and its network.

    Attributes:
        share: of the output's elements that differ, in [0, 1]; of spikes, any difference counts,
            of membranes one of more than 1e-4 of the greatest.
        greatest: greatest difference.
        events: number of elements of the network's output that are not 0.
        events_graph: the same of the graph's output.
    """

    share: float
    greatest: float
    events: int
    events_graph: int


@takes_nnx
def nir_mismatch(
    model: nn.Module,
    variables: Any,
    xs: Any,
    *,
    dt: float = 1e-3,
    style: Style = "lif",
    reset: Reset = "v_reset",
    round_delays: bool = False,
) -> Mismatch:
    """Compare the outputs of a network with those of the graph that `to_nir` writes.

    Args:
        model: see `to_nir`.
        variables: see `to_nir`.
        xs: a sample of its input, ``[B, T, ...]`` (``[T, B, ...]`` if `model` is a time-major
            `Unroll`). The graph gets each step `hold` times.
        dt: see `to_nir`.
        style: see `to_nir`.
        reset: see `run_nir`: ``"v_reset"`` as NIR defines its nodes, ``"subtract"`` for back ends
            that take off the threshold, as layers here do unless told otherwise.
        round_delays: see `to_nir`.

    Returns:
        A `Mismatch` of the outputs.

    Raises:
        ImportError: `nir` is missing.
        TypeError: as `to_nir` does.
        ValueError: as `to_nir` does; `xs` has fewer than three axes.

    Example:
        >>> layer = snn.LIB(8, beta=0.8)
        >>> variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 8)))
        >>> xs = jax.random.uniform(jax.random.key(1), (4, 50, 8))
        >>> interop.nir_mismatch(layer, variables, xs).share > 0
        True
        >>> interop.nir_mismatch(layer, variables, xs, reset="subtract").share
        0.0
    """
    check_choice("reset", reset, ("v_reset", "subtract"))
    check_choice("style", style, ("exact", "lif"))
    dt = check_dt(dt)
    if not isinstance(model, snn.Unroll):
        cell: Any = model
        model = snn.Unroll(cell)
        variables = {name: {"cell": own} for name, own in variables.items()}
    xs = jnp.asarray(xs)
    if xs.ndim < 3:
        raise ValueError(f"`xs` must have axes [B, T, ...]; got shape {xs.shape}.")
    params = nn.unbox(variables.get("params", {}))
    graph, first, last = write(
        model,
        params,
        xs.shape[2:],
        dt,
        style,
        constrained,
        check_flag("round_delays", round_delays),
    )
    ours: Any = model.apply(variables, xs, return_carry=False)
    if model.time_major:
        xs, ours = jnp.swapaxes(xs, 0, 1), jnp.swapaxes(ours, 0, 1)
    steps = np.asarray(xs).astype(np.result_type(xs.dtype, np.float32))
    steps = steps.reshape(*xs.shape[:2], -1)[..., first.index]
    theirs = simulate(graph, np.repeat(steps, model.hold, axis=1), dt, reset)["output"]
    want = np.asarray(ours, np.float64).reshape(*theirs.shape[:2], -1)[..., last.index]
    difference = np.abs(theirs - want)
    limit = 1e-4 * max(np.max(np.abs(want), initial=0), np.max(np.abs(theirs), initial=0))
    return Mismatch(
        float(np.mean(difference > limit)),
        float(np.max(difference)),
        int(np.count_nonzero(want)),
        int(np.count_nonzero(theirs)),
    )
