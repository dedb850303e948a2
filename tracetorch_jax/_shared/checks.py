"""Checks of arguments that more than one module makes."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import inspect
import itertools
import math
import numbers
import operator
import os
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np

from tracetorch_jax._shared.dtypes import asarray
from tracetorch_jax._shared.files import absolute
from tracetorch_jax._shared.trees import differences, listed

CALL = "A cell is called as cell(carry, x), with None for a carry of zeros"

Method = TypeVar("Method", bound=Callable[..., Any])


def check_choice(name: str, value: object, allowed: tuple[Any, ...]) -> Any:
    """The one of `allowed` that `value` is."""
    for choice in allowed:
        if isinstance(value, type(choice)) and value == choice:
            return choice
    known = ", ".join(map(repr, allowed))
    raise ValueError(f"`{name}` must be one of {known}; got {value!r}.")


def check_integer(
    name: str, value: Any, least: int | None = 1, most: int | None = None, rule: str = ""
) -> int:
    """Return `value` as Python's integer.

    Args:
        name: of the argument.
        value: an integer, of Python or NumPy, or an array that is one.
        least: the least that is allowed; None for any.
        most: the most that is allowed; None for any.
        rule: what it must be, in words; by default an integer of at least `least`.

    Raises:
        TypeError: not an integer. A bool is none, nor is a number that is being traced.
        ValueError: an integer that is not allowed.
    """
    wrong = f"`{name}` must be {rule or f'an integer of at least {least}'}; got {value!r}."
    if isinstance(value, (bool, np.bool_)):  # older NumPy takes its own for an integer
        raise TypeError(wrong)
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(wrong) from None
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(wrong)
    return number


def check_fixed(name: str, function: object, hint: str = "") -> None:
    """Raise unless equality tells all that a function does, as far as an object can say.

    A compiled program is found again by what it was compiled for, and keeps that as it was. An
    object that is equal to itself although its attributes have changed would silently keep the old
    ones.
    """
    changeable = _changeable(function)
    if changeable is not None:
        raise TypeError(
            f"`{name}` must be a function, or an object that is hashable and equal by value, such "
            "as a frozen dataclass: compiled programs keep it as it was. "
            f"Got {changeable!r}.{hint}"
        )


_FIXED = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, enum.Enum)


def _changeable(value: Any) -> Any:
    """The part of a value that may change while the value stays equal to itself, or None."""
    kind = type(value)
    try:
        hash(value)
    except TypeError:
        return None if isinstance(value, jax.Array) else value
    parts: Iterable[Any] = ()
    if issubclass(kind, _FIXED):
        pass
    elif issubclass(kind, types.MethodType):
        parts = value.__func__, value.__self__
    elif issubclass(kind, functools.partial):
        parts = value.func, *value.args, *value.keywords.values()
    elif kind.__module__.partition(".")[0] in ("jax", "jaxlib", "functools"):
        # What JAX and `lru_cache` make of functions has attributes, but none of the user's.
        parts = (getattr(value, "__wrapped__", None),)
    else:
        # The class that defines equality decides. A dataclass compares its fields: each is looked
        # into, and an attribute that is no field is refused. `object` compares identity, and a type
        # written in C its content: they compare no attributes, so any attribute is refused.
        judge = next(base for base in kind.__mro__ if "__eq__" in vars(base))
        made = vars(judge).get("__dataclass_params__")
        if isinstance(judge.__eq__, types.FunctionType) and not (made and made.eq):
            return None  # an equality written by hand is believed
        fields = dataclasses.fields(judge) if made and made.eq else ()
        compared = {field.name for field in fields if field.compare}
        setter: Any = kind.__setattr__
        sealed = judge is kind and setter is not object.__setattr__
        names = {field.name for field in fields}
        if not sealed:  # attributes can be set that are no fields
            slots = (vars(base).get("__slots__", ()) for base in kind.__mro__)
            names |= {*getattr(value, "__dict__", ()), *itertools.chain(*slots)} - {"__weakref__"}
        if names - compared:
            return value
        parts = [getattr(value, name, None) for name in compared]
        if issubclass(kind, tuple | frozenset):
            parts = value
    return next((part for part in map(_changeable, parts) if part is not None), None)


def check_names(argument: str, got: Mapping[str, Any], want: tuple[str, ...], owner: str) -> None:
    """Raise unless the mapping has exactly the wanted keys."""
    if problems := differences(got, want):
        raise ValueError(
            f"`{argument}` of {owner} must hold exactly {list(want)}; it {listed(problems)}."
        )


def check_carry(carry: object, states: tuple[str, ...], owner: str) -> Mapping[str, Any]:
    """A carry, which has to be a dict of exactly these states."""
    if not isinstance(carry, Mapping):
        raise TypeError(
            f"`carry` must be a dict of the states of {owner}, {list(states)}; got "
            f"{type(carry).__name__}. {CALL}."
        )
    check_names("carry", carry, states, owner)
    return carry


def as_array(
    name: str, value: object, hint: str = "", convert: Callable[[Any], Any] = asarray
) -> jax.Array:
    """An array of numbers, or what can be made one.

    Raises:
        TypeError: it is neither.
    """
    try:
        if value is None or isinstance(value, (str, bytes, Mapping)) or _looks_like_carry(value):
            raise TypeError
        return convert(value)
    except (TypeError, ValueError):
        pass
    if _looks_like_carry(value):
        hint = "That is (carry, outputs), as return_carry=True gives it: take the second."
    got = type(value).__name__
    raise TypeError(f"`{name}` must be an array; got {got}.{' ' * bool(hint)}{hint}")


def _looks_like_carry(value: object) -> bool:
    """Whether it is what Unroll returns with `return_carry`."""
    return (
        type(value) is tuple
        and len(value) == 2
        and isinstance(value[0], (Mapping, tuple))
        and hasattr(value[1], "shape")
    )


def check_spike(name: str, spike: object) -> None:
    """Raise unless `spike` is a function of a membrane that a compiled program can keep."""
    if isinstance(spike, type):
        path = "spikes." if spike.__module__ == "tracetorch_jax.spikes" else ""
        raise TypeError(
            f"`{name}` must be a function from u to spikes; got the class {path}{spike.__name__}, "
            f"which makes one: {path}{spike.__name__}()."
        )
    if not callable(spike):
        raise TypeError(
            f"`{name}` must be a function from u to spikes, such as spikes.atan(2.0); "
            f"got {spike!r}."
        )
    hint = " To change it during training, make a layer with a new one, such as spikes.atan(4.0)."
    check_fixed(name, spike, hint)


def as_float(number: Any) -> float:
    """A number as Python's float; infinite if it is a whole number that is too large for that."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def check_number(name: str, value: object, advice: str) -> float:
    """One known number as a float."""
    check_known(name, value, advice)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number; got {value!r}.")
    return as_float(value)


def check_known(name: str, value: object, advice: str) -> None:
    """Raise if `value` is being traced."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"`{name}` must be known before tracing; got a traced array of shape {value.shape}. "
            f"{advice}"
        )


def check_linen(name: str, model: object, what: str = "a Flax module") -> None:
    """Raise unless `model` is a linen module, as one of nnx has become by then."""
    if not isinstance(model, type) and _is_of("flax.linen", model):
        return
    raise TypeError(f"`{name}` must be {what}; got {type(model).__name__}.")


def is_of_nnx(module: object) -> bool:
    """Whether it is a module of flax.nnx, which is not imported."""
    return not isinstance(module, type) and _is_of("flax.nnx", module)


def check_front_end(name: str, module: object, base: type) -> None:
    """Raise if it is a module of Flax's other front end than that of `base`, or a class."""
    ours, other = "flax.linen", "flax.nnx"
    if base.__module__.startswith(other):
        ours, other = other, ours
    if isinstance(module, type) and (_is_of(ours, module) or _is_of(other, module)):
        first = ", ".join(list(inspect.signature(vars(module)["__init__"]).parameters)[1:2])
        raise TypeError(
            f"`{name}` must be a layer; got the class {module.__name__}. Make a layer of it: "
            f"{module.__name__}({first}, ...)."
        )
    if not isinstance(module, base) and _is_of(other, module):
        modules = {"flax.linen": "tracetorch_jax.snn", "flax.nnx": "tracetorch_jax.nnx"}
        raise TypeError(
            f"`{name}` must be of {ours}, as all of one model; got {type(module).__name__} of "
            f"{other}. Layers for {ours} are in {modules[ours]}."
        )


def _is_of(package: str, module: object) -> bool:
    """Whether it is a module, or a class of them, of this front end, which is not imported."""
    bases = (module if isinstance(module, type) else type(module)).__mro__
    return any(b.__module__.startswith(f"{package}.") and b.__name__ == "Module" for b in bases)


def cell_call(method: Method) -> Method:
    """Let the call of a cell say what it takes if the carry is left out."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) + len(kwargs) < 2:
            got = "one argument" if args or kwargs else "none"
            raise TypeError(f"`carry` and `x` are needed; got {got}. {CALL}.")
        return method(self, *args, **kwargs)

    return cast(Method, call)


@contextlib.contextmanager
def within(name: str, layer: object, hint: str = "") -> Iterator[None]:
    """Say of an error in which layer of a stack it is: in its message, else in a note."""
    try:
        yield
    except Exception as error:
        mark = " In layer `"
        plain = isinstance(error, (TypeError, ValueError)) and len(error.args) == 1
        text, found, rest = str(error.args[0]).rpartition(mark) if plain else ("", "", "")
        place = f"{name}/{rest}" if found else f"{name}` ({type(layer).__name__})."
        if plain:
            error.args = (f"{text if found else rest}{mark}{place}",)
        else:
            error.add_note(f"{mark}{place}".strip())
        if hint:
            error.add_note(hint)
        raise


def readable(argument: str, path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file that can be opened.

    Raises:
        FileNotFoundError: there is nothing at `path`, or no ordinary file.
        IsADirectoryError: there is a folder.
        PermissionError: the file must not be read.
        ValueError: the path begins with the name of a user that there is not.
    """
    path = absolute(path, argument, links=True)
    if path.is_dir():
        raise IsADirectoryError(f"`{argument}` must be a file; {path} is a folder.")
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` must be a file; there is none at {path}.")
    path.open("rb").close()
    return path


def in_brief(error: Exception) -> str:
    """What an error says, for a sentence of our own."""
    return str(error).rstrip(".") or type(error).__name__
