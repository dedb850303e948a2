"""Named layers: fields to spec, and docstrings composed from the features."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from tracetorch_jax._core.cell import AbstractCell
from tracetorch_jax._core.features import Firing, check_options, options_of, spec_of
from tracetorch_jax._core.parameters import Rank, check_flag, check_rank, freeze_value
from tracetorch_jax._shared.checks import check_choice, check_spike
from tracetorch_jax.functional.constraints import DECAY
from tracetorch_jax.functional.equations import equations
from tracetorch_jax.functional.spec import Spec
from tracetorch_jax.functional.steps import DEFAULT_SPIKE
from tracetorch_jax.initializers import half_lives as spread

_COMMON_ARGS = """
num_neurons: size of axis `dim`, at least 1.
{features}
dim: axis of one step's tensor that holds the neurons, counted from the end: -1 for ``[B, N]``, -3
    for ``[B, C, H, W]``.
dtype: what is computed in and given out; by default computation takes the wider of the dtypes of
    input and parameters, and the output that of the input. Values of parameters must survive the
    rounding to it: bfloat16 rounds a decay above 0.998 to 1, which raises; an initializer's value
    becomes the nearest that it can hold. What training makes of them is not checked.
param_dtype: what parameters are stored as.
"""

_VALUES = """
Each parameter is a number, an array or tuple of values, or an initializer ``(key, shape, dtype) ->
values``. For each one, such as `{first}`, there are two more arguments: `{first}_rank`, 1 for a
value of each neuron (default) or 0 for one of the layer, where an array's own rank counts; and
`{first}_learnable`, whether training changes it (default) or it stays a constant. A learnable one
is stored under ``raw_<name>``{where}, where any number is allowed.

A value out of range raises. Under `jax.jit` nothing can raise: there, what an initializer gives
becomes the nearest value that `param_dtype` and `dtype` can hold.
"""

_RAISES = """
TypeError: an argument is unknown, positional, or of the wrong kind, such as None for `param_dtype`.
ValueError: a value outside its domain or not finite, a vector of the wrong length, a rank other
    than 0 or 1, `num_neurons` below 1, or `dim` not negative.
"""

_ADAPTATION = """\
Reference: Bellec et al., "Long short-term memory and learning-to-learn in networks of spiking
neurons", NeurIPS 2018, for the thresholds."""


@functools.lru_cache(maxsize=256)
def _field_names(layer: type[AbstractLayer]) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(layer))


class AbstractLayer(AbstractCell):
    """A layer whose features are its base classes."""

    @property
    def spec(self) -> Spec:
        layer: Any = type(self)
        return spec_of(
            _field_names(layer),
            ema=getattr(self, "ema", None),
            **options_of(self),
        )

    @property
    def spike_function(self) -> Any:
        return getattr(self, "spike", DEFAULT_SPIKE)

    def canonicalize(self) -> None:
        if isinstance(self, Firing):
            check_spike("spike", self.spike)
        check_options(self)
        if hasattr(self, "ema"):
            self.set_field("ema", check_flag("ema", self.ema))
        for name in self.spec.parameters:
            self.set_field(name, freeze_value(name, getattr(self, name)))
            rank, learnable = f"{name}_rank", f"{name}_learnable"
            self.set_field(rank, check_rank(rank, getattr(self, rank)))
            self.set_field(learnable, check_flag(learnable, getattr(self, learnable)))

    def setting(self, name: str) -> tuple[str, Any, Rank, bool]:
        rank, learnable = getattr(self, f"{name}_rank"), getattr(self, f"{name}_learnable")
        return name, getattr(self, name), rank, learnable


def _indent(text: str, by: int = 4) -> str:
    pad = " " * by
    return "\n".join(pad + line if line else line for line in text.strip().splitlines())


def layer_by_name(
    layers: Mapping[str, type[Any]],
    name: str,
    num_neurons: int,
    half_lives: tuple[float, float] | None,
    options: Mapping[str, Any],
) -> Any:
    """A layer of `layers`, its decays spread over a range of half-lives if one is given."""
    cls = layers[check_choice("name", name, tuple(layers))]
    if half_lives is None:
        return cls(num_neurons, **options)
    try:
        shortest, longest = half_lives
        decay = spread(shortest, longest)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`half_lives` must be a pair (shortest, longest) of steps; got {half_lives!r}. {error}"
        ) from None
    kinds = spec_of(field.name for field in dataclasses.fields(cls)).parameters
    decays = [parameter for parameter, kind in kinds.items() if kind is DECAY]
    return cls(num_neurons, **{**dict.fromkeys(decays, decay), **options})


LAYER_BY_NAME = """Make a layer by its name.

Args:
    name: a name of `ALL_LAYERS`.
    num_neurons: size of the axis of neurons.
    half_lives: shortest and longest half-life in steps, ``0 < shortest <= longest``. All decays of
        the layer are drawn from `initializers.half_lives` of these. By default they start as the
        layer's own arguments say.
    **options: further arguments of the layer, which win over `half_lives`.

Returns:
    The layer.

Raises:
    TypeError: an argument that the layer does not have, or half-lives that are no numbers.
    ValueError: `name` is of no layer, `half_lives` is no such pair, or an argument of the layer is
        out of its range.

Example:
    >>> layer = {call}
    >>> layer.alpha == layer.beta != 0.9
    True
"""


def compose(cls: type[AbstractLayer], example: tuple[str, ...], where: str, own: str = "") -> str:
    """A layer's docstring: its own sentence, its equations, its features' arguments, an example.

    Args:
        cls: the layer.
        example: lines of its doctest.
        where: in what learnable parameters are stored.
        own: arguments of the front end's own.
    """
    features = [base for base in cls.__mro__ if base.__module__ == "tracetorch_jax._core.features"]
    spec = spec_of(field.name for field in dataclasses.fields(cls))
    lines = "\n".join(inspect.cleandoc(base.__doc__ or "") for base in reversed(features))
    arguments = _COMMON_ARGS.format(features=lines) + own
    upstream = cls.__name__ if spec.emits else f"{cls.__name__}EMA"
    reference = f"Reference: ``tracetorch.snn.{upstream}`` of traceTorch 0.19.2."
    if spec.adaptation:
        reference = _ADAPTATION
    return "\n".join(
        [
            inspect.cleandoc(cls.__doc__ or ""),
            "",
            _indent("\n".join(equations(spec))),
            "",
            _VALUES.format(where=where, first=next(iter(spec.parameters))).strip(),
            "",
            "Args:",
            _indent(arguments),
            "",
            "Raises:",
            _indent(_RAISES),
            "",
            "Example:",
            _indent("\n".join(example)),
            "",
            reference,
        ]
    )
