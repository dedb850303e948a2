"""Constructor arguments as text and back, without pickles, so that a NIR file holds them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import snn, spikes
from tracetorch_jax._core.parameters import FrozenArray
from tracetorch_jax.functional.spec import OPTIONS
from tracetorch_jax.functional.steps import is_stochastic
from tracetorch_jax.interop._nir import modules

_OPTIONS = (snn.flex.Decay, snn.flex.Threshold, snn.flex.Weight)
_SPIKES = {
    name: kind
    for name, kind in vars(spikes).items()
    if isinstance(kind, type)
    and issubclass(kind, spikes.SpikeFunction)
    and kind is not spikes.SpikeFunction
}
_OBJECTS: dict[str, Any] = {kind.__name__: kind for kind in _OPTIONS} | _SPIKES
LAYERS: dict[str, Any] = {
    **snn.ALL_LAYERS,
    "Delay": snn.Delay,
    "LeakyIntegrator": snn.flex.LeakyIntegrator,
}
"""Those whose parameters are in the metadata, raw."""

STACKS: dict[str, Any] = {
    "Residual": snn.Residual,
    "Sequential": snn.Sequential,
    "Unroll": snn.Unroll,
}
FUNCTIONS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        modules.AvgPool,
        modules.ChannelsFirst,
        modules.ChannelsLast,
        modules.Flatten,
        modules.SumPool,
    )
}
WEIGHTED: dict[str, Any] = {"Conv": nn.Conv, "Dense": nn.Dense, "Scale": modules.Scale}
KINDS: dict[str, Any] = {
    **LAYERS,
    **STACKS,
    **FUNCTIONS,
    **WEIGHTED,
    "Recurrent": snn.Recurrent,
}
"""Everything that can be written, by name."""

_INITIALIZERS = ("kernel_init", "bias_init", "scale_init")
_CHILDREN = ("layers", "cell", "feedback")


def describe(module: Any, where: str) -> str:
    """A module's arguments, children left out, as JSON.

    Args:
        module: one of `KINDS`.
        where: what to call it in an error.

    Raises:
        TypeError: an argument that has no written form.
    """
    arguments = {}
    for field in dataclasses.fields(module):
        if field.name in ("parent", *_CHILDREN, *_INITIALIZERS):
            continue
        value = getattr(module, field.name)
        # An earlier version knows no option that came later, and reads what does not use it.
        default = field.name in OPTIONS and value == field.default
        default |= type(module).__name__ in WEIGHTED and value is field.default
        if default or (value is None and field.name == "name"):
            continue
        if field.name in ("dtype", "param_dtype"):
            arguments[field.name] = None if value is None else jnp.dtype(value).name
        else:
            arguments[field.name] = _encode(
                value, f"`{field.name}` of {where}", type(module).__name__ in LAYERS
            )
    return json.dumps(arguments)


def _encode(value: Any, argument: str, initializer: bool = False) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, FrozenArray):
        return {"array": np.asarray(value).tolist()}
    if isinstance(value, (tuple, list)):
        items = [_encode(item, argument) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    kind = type(value)
    if _OBJECTS.get(kind.__name__) is kind:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {
            "kind": kind.__name__,
            "fields": {k: _encode(v, argument, initializer) for k, v in fields.items()},
        }
    if callable(value) and initializer:
        return {"initializer": None}  # what it made is in the variables
    raise TypeError(f"{argument} has no written form in a NIR graph; got {value!r}.")


def check_spike(layer: Any, where: str) -> None:
    """Raise unless a layer fires with a step function that is known by name."""
    if not layer.spec.fires:
        return
    functions = layer.spike_function
    for function in functions if isinstance(functions, tuple) else (functions,):
        kind = type(function)
        if is_stochastic(function):
            reason = "NIR has no node that fires at random"
        elif kind is spikes.smooth:
            reason = "it emits a sigmoid, and the Threshold of NIR steps from 0 to 1"
        elif _SPIKES.get(kind.__name__) is not kind:
            reason = "what it emits is not known to be a step, which is what NIR's Threshold is"
        else:
            continue
        raise ValueError(
            f"{where} fires with {function!r}, which has no counterpart in NIR: {reason}. "
            f"Give it a spike function of tracetorch_jax.spikes, such as spikes.atan()."
        )


def restore(kind: str, text: str, values: Mapping[str, Any], children: dict[str, Any]) -> Any:
    """The module that `describe` described.

    Args:
        kind: its name.
        text: JSON.
        values: constrained parameters by name, to stand for initializers.
        children: its `layers`, or `cell` and `feedback`.
    """
    arguments = json.loads(text)
    decoded: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in ("dtype", "param_dtype"):
            decoded[name] = None if value is None else getattr(jnp, value)
            continue
        own = (name, name.removeprefix("pos_"), name.removeprefix("neg_"))
        decoded[name] = _decode(value, next((values[n] for n in own if n in values), None))
    return KINDS[kind](**decoded, **children)


def _decode(value: object, initial: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item, None) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return FrozenArray(value["array"])
    if "tuple" in value:
        return tuple(_decode(item, None) for item in value["tuple"])
    if "initializer" in value:
        return np.asarray(initial, np.float64)
    fields = {name: _decode(item, initial) for name, item in value["fields"].items()}
    return _OBJECTS[value["kind"]](**fields)
