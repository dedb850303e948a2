"""A model of Flax nnx as the linen model of the same structure, for what takes linen models."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

import flax
import flax.linen as nn
import jax
import numpy as np

from tracetorch_jax import snn
from tracetorch_jax._core.sequence_cell import SequenceCell
from tracetorch_jax._shared.checks import is_of_nnx

if TYPE_CHECKING:
    from flax import nnx

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result", covariant=True)
Model = TypeVar("Model", bound="nnx.Module")

# Flax's own layers that linen has with the same parameters, under the same name or this one. Of
# others the code of nnx is run, which does for what nothing in linen asks for by its class.
_FLAX = {"Linear": "Dense", "LinearGeneral": "DenseGeneral"} | {
    name: name
    for name in (
        "Conv", "ConvTranspose", "Embed", "BatchNorm", "LayerNorm", "RMSNorm", "PReLU", "Dropout",
        "Sequential",
    )
}  # fmt: skip
_FIELDS = {"features": "out_features"}
_ELSE = (
    "Make a model of tracetorch_jax.snn and flax.linen with the same names, and give that, with "
    "tracetorch_jax.nnx.to_linen(model) for its variables."
)
_OF_NNX = "_of_nnx"
# Functions that take other arguments in nnx than in linen.
_FUNCTIONS = ("promote_dtype", "dot_general", "dot_general_cls", "conv_general_dilated")


class _TakesBoth(Protocol[Arguments, Result]):
    """A function of a linen model and its variables, or of an nnx model."""

    @overload
    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result: ...

    @overload
    def __call__(self, model: nnx.Module, /, *args: Any, **kwargs: Any) -> Result: ...


def takes_nnx(function: Callable[Arguments, Result]) -> _TakesBoth[Arguments, Result]:
    """Let a function of `model` and `variables` take an nnx model, which holds its variables.

    They are left out then, and the model comes first: ``f(model, xs)``.
    """
    linens: Any = function
    order = list(inspect.signature(function).parameters)[:2]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        at = next((i for i, given in enumerate(args[:2]) if is_of_nnx(given)), None)
        model = kwargs.get("model") if at is None else args[at]
        if not is_of_nnx(model):
            return function(*args, **kwargs)
        before, rest = args[:at], args[1:]
        if before or "variables" in kwargs or _are_variables(*rest[:1]):
            raise TypeError(
                f"`variables` must be left out for a model of flax.nnx, which holds them; got some "
                f"for {type(model).__name__}."
            )
        both = dict(zip(("model", "variables"), as_linen(model), strict=True))
        # Weak, as programs that are kept for further calls have the linen model.
        object.__setattr__(both["model"], _OF_NNX, weakref.ref(model))
        if at is None:
            return linens(**{**kwargs, **both})
        return linens(*(both[name] for name in order), *rest, **kwargs)

    return cast(_TakesBoth[Arguments, Result], call)


def was_nnx(model: nn.Module) -> bool:
    """Whether `takes_nnx` made the model of one of nnx, of which advice then has to speak."""
    return hasattr(model, _OF_NNX)


def keyword_arguments(model: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those of ``model.apply``. As in its own call, a model of nnx may change its statistics."""
    if was_nnx(model) and "mutable" not in kwargs:
        return kwargs | {"mutable": ["batch_stats"]}
    return kwargs


def set_statistics(model: nn.Module, variables: Any, changed: Mapping[str, Any]) -> None:
    """Set those of the nnx model that `takes_nnx` made `model` of."""
    from tracetorch_jax.nnx import from_linen

    if changed:
        from_linen({**variables, **changed}, getattr(model, _OF_NNX)())


def _are_variables(given: Any = None) -> bool:
    return isinstance(given, Mapping) and (not given or "params" in given)


class _ChangesBoth(Protocol[Arguments, Result]):
    """A function that gives variables of a linen model, or the nnx model that has them."""

    @overload
    def __call__(self, model: Model, /, *args: Any, **kwargs: Any) -> Model: ...

    @overload
    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result: ...


def changes_nnx(function: Callable[Arguments, Result]) -> _ChangesBoth[Arguments, Result]:
    """Let a function from `model` and `variables` to new variables take an nnx model, as
    `takes_nnx` does. It gets them, and is given back.
    """
    taking = takes_nnx(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        variables: Any = taking(*args, **kwargs)
        model = args[0] if args else kwargs["model"]
        if not is_of_nnx(model):
            return variables
        from tracetorch_jax.nnx import from_linen

        return from_linen(variables, model)

    return cast(_ChangesBoth[Arguments, Result], call)


def fills_nnx(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function that gives variables for `model` set those of an nnx model, and give that."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(function).bind(*args, **kwargs)
        model = bound.arguments["model"]
        if not is_of_nnx(model):
            return function(*args, **kwargs)
        from tracetorch_jax.nnx import from_linen

        bound.arguments["model"] = as_linen(model)[0]
        variables: Any = function(*bound.args, **bound.kwargs)
        return from_linen(variables, model)

    return cast(Callable[Arguments, Result], call)


def as_linen(model: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The linen model of the same structure, and its variables.

    Modules of this library are converted by their fields, those of Flax that linen has too by
    theirs. Of any other the own code is run, with the converted modules in its attributes.

    Raises:
        TypeError: a module that linen can't have, by its place.
    """
    from tracetorch_jax.nnx import to_linen

    converted = _converted(model, "", {})
    _check_own(model)
    return converted, to_linen(model)


def _check_own(model: nnx.Module) -> None:
    """Raise if two modules have one parameter, which linen can't keep in both."""
    from flax import nnx

    owners: dict[int, Any] = {}
    for path, module in nnx.iter_modules(model):
        for name, own in vars(module).items():
            if not isinstance(own, (nnx.Param, nnx.BatchStat)):
                continue
            if owners.setdefault(id(own), module) is not module:
                raise TypeError(
                    f"`model` must share modules rather than their parameters to be one that linen "
                    f"can have, too; got a shared `{name}` in {type(module).__name__} at "
                    f"{'/'.join(map(str, path))!r}. {_ELSE}"
                )


def _converted(value: Any, path: str, seen: dict[int, nn.Module], inside: bool = False) -> Any:
    """What an attribute is in linen: a module, one and the same wherever it is shared, or a list.

    With `inside`, it is part of a module of Flax's own, which calls its parts as those of nnx.
    """
    if isinstance(value, Sequence) and any(map(is_of_nnx, value)):  # nnx.List is a module, too
        return [_converted(each, f"{path}_{i}", seen, inside) for i, each in enumerate(value)]
    if not is_of_nnx(value):
        return value
    if id(value) not in seen:
        cls = None if inside else _linen_class(value, path)
        if cls is None:
            seen[id(value)] = _stand_in(value, path, seen)
        else:
            fields = _fields(value, cls, path).items()
            below = {name: _converted(own, _join(path, name), seen) for name, own in fields}
            seen[id(value)] = cls(**below)
    return seen[id(value)]


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _is_flaxs(module: Any) -> bool:
    return type(module).__module__.startswith("flax.nnx")


def _linen_class(module: Any, path: str) -> Any:
    """The class that linen has for a module, or None if its own code can be run there."""
    kind = type(module).__name__
    cls: Any = None
    ours = type(module).__module__.startswith("tracetorch_jax.nnx")
    if ours:
        cls = getattr(snn, kind, None) or getattr(snn.flex, kind, None)
    elif _is_flaxs(module) and kind in _FLAX:
        cls = getattr(nn, _FLAX[kind])
    if cls is None and (ours or isinstance(module, SequenceCell) or not callable(module)):
        where = f"{kind} at {path!r}" if path else kind
        raise TypeError(f"`model` must be one that linen can have, too; got {where}. {_ELSE}")
    return cls


def _fields(module: Any, cls: Any, path: str) -> dict[str, Any]:
    """What the linen module of a module is made with."""
    from flax import nnx

    fields = {}
    for field in dataclasses.fields(cls):
        name = field.name
        if name in ("parent", "name", *_FUNCTIONS) or name.endswith("_init"):
            continue
        for own in (_FIELDS.get(name, name), name):
            if hasattr(module, own):
                value = getattr(module, own)
                fields[name] = value.get_value() if isinstance(value, nnx.Variable) else value
                break
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        converted = not _is_flaxs(module) or name in {*fields, *_FIELDS.values()}
        if converted or name.endswith(("_init", "_metadata", "rngs")):
            continue
        if parameter.default is not parameter.empty and hasattr(module, name):
            value = getattr(module, name)
            if value is not parameter.default and value != parameter.default:
                raise TypeError(
                    f"`model` must have `{name}` as it is by default, as linen has no other; got "
                    f"{value!r} in {type(module).__name__} at {path!r}."
                )
    return fields


def _stand_in(module: Any, path: str, seen: dict[int, nn.Module]) -> nn.Module:
    """A linen module that runs the code of a module, with linen modules in its attributes."""
    from flax import nnx

    held = dict(sorted(vars(module).items()))  # the order in which nnx goes through them
    parts = {
        name: _converted(value, _join(path, name), seen, _is_flaxs(module))
        for name, value in held.items()
    }
    modules = {name: part for name, part in parts.items() if part is not held[name]}
    params = {name: value for name, value in held.items() if isinstance(value, nnx.Param)}
    others = [value for name, value in held.items() if name not in {*modules, *params}]
    structure: Any = nnx.split(module)[0]
    if any(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(others)):
        structure = object()
    own = type(module)
    cls = _named(own.__name__, own.__module__, isinstance(module, nnx.RNNCellBase))
    return cls(_Held(structure, module, modules, params))


@dataclasses.dataclass(frozen=True, eq=False)
class _Held:
    """An nnx module, and by attribute its own modules in linen and its own parameters.

    Equal if the structures are, so that a compiled program is found again; and to itself alone if
    the module holds other arrays, of which a program keeps the values.
    """

    structure: Any
    module: Any
    modules: dict[str, Any]
    params: dict[str, Any]

    # Written out, which tells that the other fields follow from the structure.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and bool(self.structure == other.structure)

    def __hash__(self) -> int:
        return hash(self.structure)


class _StandIn(nn.Module):
    held: _Held

    def setup(self) -> None:
        for name, module in self.held.modules.items():
            setattr(self, name, module)
        self._raw = {
            name: self.param(name, lambda _, param=param: param.get_value())
            for name, param in self.held.params.items()
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from flax import nnx

        own = type(self.held.module)
        twin: Any = object.__new__(own)
        vars(twin).update(vars(self.held.module))
        for name in self.held.modules:
            vars(twin)[name] = _shown(getattr(self, name), vars(self.held.module)[name])
        for name, raw in self._raw.items():
            vars(twin)[name] = nnx.Param(raw)
        try:
            return twin(*args, **kwargs)
        except flax.errors.InvalidRngError:
            raise
        except Exception as error:
            error.add_note(
                f"{own.__name__} of flax.nnx ran with modules of flax.linen in its attributes, so "
                f"that it can call them, and no more. {_ELSE}"
            )
            raise


def _shown(linen: Any, module: Any) -> Any:
    """A linen module as the code of an nnx model sees it; of a list, each of them."""
    if isinstance(linen, (list, tuple)):
        return [_shown(*each) for each in zip(linen, module, strict=True)]
    return _Part(linen, module) if isinstance(linen, nn.Module) else linen


class _Part:
    """A linen module that has the class and the settings of the nnx module it is called for.

    So code that asks for them takes the same way as with the nnx module.
    """

    def __init__(self, linen: nn.Module, module: Any) -> None:
        self._linen = linen
        self._module = module

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._linen(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        from flax import nnx

        value = getattr(self._module, name)
        if isinstance(value, (nnx.Variable, jax.Array, np.ndarray)):
            raise TypeError(
                f"`model` must not read `{name}` of its {type(self._module).__name__}. {_ELSE}"
            )
        if is_of_nnx(value) or inspect.ismethod(value) or isinstance(value, nnx.List):
            return _shown(getattr(self._linen, name), value)
        return value


class _StandInCell(_StandIn, nn.RNNCellBase):
    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> Any:
        from flax import nnx

        return self.held.module.initialize_carry(input_shape, nnx.Rngs(rng))

    @property
    def num_feature_axes(self) -> int:
        return self.held.module.num_feature_axes


@functools.cache  # classes of the same name are not equal
def _named(name: str, module: str, cell: bool) -> Any:
    return type(name, (_StandInCell if cell else _StandIn,), {"__module__": module})
