"""What stacks and `Unroll` have to know of Flax's nnx modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import jax
from flax import nnx

from tracetorch_jax._core.front_end import FrontEnd, impure


def _fresh_carry(cell: nnx.RNNCellBase, key: Any, input_shape: tuple[int, ...]) -> Any:
    key = jax.random.key(0) if key is None else key
    return cell.initialize_carry(input_shape, nnx.Rngs(key))


def _output(layer: nnx.Module, carry: Any, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    is_cell = isinstance(layer, nnx.RNNCellBase)
    graph, state = nnx.split(layer)

    def run(state: Any, *inputs: Any) -> Any:
        out: Any = nnx.merge(graph, state)(*inputs)
        return out[1] if is_cell else out

    return jax.eval_shape(run, state, *((carry, x) if is_cell else (x,)))


class _Pure:
    """A module as a function of its variables and an input."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    # Written out, since what a graph consists of is compared by value but has no hash of its own.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pure) and bool(self._graph == other._graph)

    def __hash__(self) -> int:
        return hash(self._graph)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        module: Any = nnx.merge(self._graph, state)
        return module(x)


def _pure(name: str, module: nnx.Module, x: jax.Array) -> tuple[Callable[[Any, Any], Any], Any]:
    graph, state = nnx.split(module)

    def call(state: Any, x: jax.Array) -> Any:
        before = jax.tree.leaves(state)
        module: Any = nnx.merge(graph, state)
        y = module(x)
        after = jax.tree.leaves(nnx.split(module)[1])
        if any(a is not b for a, b in zip(after, before, strict=True)):
            raise impure(name, module)
        return y

    try:
        jax.eval_shape(call, state, x)
    except flax.errors.TraceContextError as error:
        raise impure(name, module) from error
    return _Pure(graph), state


def _scan(
    cell: nnx.RNNCellBase, step: Callable[..., Any], carry: Any, inputs: Any, unroll: int
) -> tuple[Any, Any]:
    kinds: Any = {nnx.Param: None, ...: nnx.Carry}
    axes = nnx.StateAxes(kinds)
    scan = nnx.scan(step, in_axes=(axes, nnx.Carry, 0), out_axes=(nnx.Carry, 0), unroll=unroll)
    return scan(cell, carry, inputs)


NNX = FrontEnd(
    module=nnx.Module,
    cell=nnx.RNNCellBase,
    over_time=(nnx.RNN, nnx.Bidirectional),
    conv=(nnx.Conv, nnx.ConvTranspose),
    dense=(nnx.Linear,),
    embed=(nnx.Embed,),
    batch_norm=(nnx.BatchNorm,),
    rowwise=(nnx.LayerNorm, nnx.RMSNorm, nnx.PReLU),
    dropout=(nnx.Dropout,),
    fresh_carry=_fresh_carry,
    output=_output,
    pure=_pure,
    scan=_scan,
)
