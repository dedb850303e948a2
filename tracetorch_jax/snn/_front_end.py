"""What stacks and `Unroll` have to know of Flax's linen modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from tracetorch_jax._stack import FrontEnd


def _fresh_carry(cell: nn.RNNCellBase, key: Any, input_shape: tuple[int, ...]) -> Any:
    return cell.initialize_carry(jax.random.key(0) if key is None else key, input_shape)


def _output(layer: nn.Module, carry: Any, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    is_cell = isinstance(layer, nn.RNNCellBase)
    inputs = (carry, x) if is_cell else (x,)
    keys = {name: jax.random.key(0) for name in ("params", "dropout", "spike")}
    out, _ = jax.eval_shape(layer.clone(parent=None).init_with_output, keys, *inputs)
    return out[1] if is_cell else out


def _scan(
    cell: nn.RNNCellBase, step: Callable[..., Any], carry: Any, inputs: Any, unroll: int
) -> tuple[Any, Any]:
    scan = nn.scan(
        step,
        variable_broadcast="params",
        variable_axes={"intermediates": 0},
        split_rngs={"params": False, "dropout": True, "spike": True},
        unroll=unroll,
    )
    return scan(cell, carry, inputs)


LINEN = FrontEnd(
    module=nn.Module,
    cell=nn.RNNCellBase,
    over_time=(nn.RNN, nn.Bidirectional),
    conv=(nn.Conv, nn.ConvTranspose),
    dense=(nn.Dense,),
    embed=(nn.Embed,),
    batch_norm=(nn.BatchNorm,),
    rowwise=(nn.LayerNorm, nn.RMSNorm, nn.PReLU),
    dropout=(nn.Dropout,),
    fresh_carry=_fresh_carry,
    output=_output,
    scan=_scan,
)
