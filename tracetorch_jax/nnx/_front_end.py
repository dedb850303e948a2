"""What stacks and `Unroll` have to know of Flax's nnx modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from tracetorch_jax._core.front_end import FrontEnd


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
    scan=_scan,
)
