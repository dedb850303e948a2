"""What stacks and `Unroll` have to know of Flax's linen modules."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import flax
import flax.linen as nn
import jax

from tracetorch_jax._core.front_end import FrontEnd, impure, in_loop
from tracetorch_jax._core.sequential import AbstractSequential
from tracetorch_jax._core.unroll import AbstractUnroll
from tracetorch_jax._shared.checks import Method


def bound(method: Method) -> Method:
    """Let a module that is called by itself say how linen calls it, and with whose variables."""

    @functools.wraps(method)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.scope is None:
            over_time = isinstance(self, AbstractUnroll)
            inputs = "xs" if over_time else "carry, x"
            zeros = "" if over_time else ", with None for a carry of zeros"
            raise TypeError(
                f"{type(self).__name__} holds no parameters, so it cannot be called by itself: "
                f"variables = model.init(key, {inputs}), then model.apply(variables, {inputs})"
                f"{zeros}. Inside a module of flax.linen it is called as is."
            )
        if isinstance(self, AbstractSequential):
            check_own(
                self,
                [
                    layer.name or f"layers_{i}"
                    for i, layer in enumerate(self.layers)
                    if isinstance(layer, nn.Module)
                ],
            )
        elif isinstance(self, AbstractUnroll):
            params = self.variables.get("params", {})
            if any(name.startswith(("raw_", "layers_")) for name in params):
                raise ValueError(
                    f"`variables` must be those of the Unroll, which has its cell's under 'cell'; "
                    f'got {list(params)}: use {{"params": {{"cell": variables["params"]}}}}.'
                )
        return method(self, *args, **kwargs)

    return cast(Method, call)


def check_own(cell: nn.Module, names: list[str]) -> None:
    """Raise if a cell got the variables of its Unroll."""
    has = functools.partial(cell.has_variable, "params")
    if has("cell") and names and not any(map(has, names)):
        raise ValueError(
            f"`variables` must be those of the cell {type(cell).__name__}; got those of its Unroll "
            f'or RNN, which has them under \'cell\': use {{"params": variables["params"]["cell"]}}.'
        )


def _fresh_carry(cell: nn.RNNCellBase, key: Any, input_shape: tuple[int, ...]) -> Any:
    return cell.initialize_carry(jax.random.key(0) if key is None else key, input_shape)


def _output(layer: nn.Module, carry: Any, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    is_cell = isinstance(layer, nn.RNNCellBase)
    inputs = (carry, x) if is_cell else (x,)
    keys = {name: jax.random.key(0) for name in ("params", "dropout", "spike")}
    out, _ = jax.eval_shape(layer.clone(parent=None).init_with_output, keys, *inputs)
    return out[1] if is_cell else out


@dataclasses.dataclass(frozen=True)
class _Pure:
    """A module as a function of its variables and an input."""

    module: nn.Module

    def __call__(self, variables: Any, x: jax.Array) -> Any:
        with in_loop():
            return self.module.apply(variables, x)


def _pure(name: str, module: nn.Module, x: jax.Array) -> tuple[Callable[[Any, Any], Any], Any]:
    if module.is_initializing():
        module(x)
    inner, _ = module.unbind()
    function, variables = _Pure(inner), _variables(module, inner.bind({}))
    try:
        jax.eval_shape(function, variables, x)
    except (flax.errors.InvalidRngError, flax.errors.ModifyScopeVariableError) as error:
        raise impure(name, module) from error
    return function, variables


def _variables(module: nn.Module, twin: nn.Module) -> dict[str, Any]:
    """The variables of a module for its unbound copy, which `twin` is, bound to none.

    Modules that were given to it may keep theirs elsewhere, with the caller that made them.
    """
    flat: dict[tuple[str, ...], Any] = {}
    pairs = [(module, twin)]
    for part, copy in pairs:  # which grows meanwhile
        pairs += zip(_given(part), _given(copy), strict=True)
        own = flax.traverse_util.flatten_dict(dict(part.variables))
        flat |= {(kind, *copy.path, *names): leaf for (kind, *names), leaf in own.items()}
    return dict(flax.traverse_util.unflatten_dict(flat))


def _given(module: nn.Module) -> list[nn.Module]:
    """The modules in the fields of a module."""
    fields = [getattr(module, f.name) for f in dataclasses.fields(module) if f.name != "parent"]
    leaves = jax.tree.leaves(fields, is_leaf=lambda leaf: isinstance(leaf, nn.Module))
    return [leaf for leaf in leaves if isinstance(leaf, nn.Module)]


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
    pure=_pure,
    scan=_scan,
)
