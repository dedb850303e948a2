"""Checks of arguments that more than one room makes."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any


def check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise unless `value` is one of `allowed`."""
    if value not in allowed:
        known = ", ".join(map(repr, allowed))
        raise ValueError(f"`{name}` must be one of {known}; got {value!r}.")


def check_fixed(name: str, function: Any, hint: str = "") -> None:
    """Raise unless equality tells all that a function does, as far as an object can say.

    A compiled program is found again by what it was compiled for, and keeps that as it was. An
    object that is equal to itself although its attributes have changed would silently keep the old
    ones.
    """
    try:
        hash(function)
        changeable = _changeable(function)
    except TypeError:
        changeable = function
    if changeable is not None:
        raise TypeError(
            f"`{name}` must be a function, or an object that is hashable and equal by value, such "
            "as a frozen dataclass: compiled programs keep it as it was. "
            f"Got {changeable!r}.{hint}"
        )


def _changeable(value: Any) -> Any:
    """The object behind a function that has attributes which equality does not see, or None."""
    if isinstance(value, types.MethodType):
        return _changeable(value.__self__)
    if isinstance(value, functools.partial):
        parts = map(_changeable, (value.func, *value.args, *value.keywords.values()))
        return next((part for part in parts if part is not None), None)
    if isinstance(value, types.FunctionType | type) or hasattr(value, "__wrapped__"):
        return None  # also what JAX makes of functions, which has attributes
    kind = type(value)
    judge = next(base for base in kind.__mro__ if "__eq__" in vars(base))
    attributes = set(getattr(value, "__dict__", ()))
    if judge is object:
        attributes |= {base for base in kind.__mro__ if vars(base).get("__slots__")}
    elif judge is not kind and dataclasses.is_dataclass(judge):
        attributes -= {field.name for field in dataclasses.fields(judge)}
    else:
        return None
    return value if attributes else None


def check_names(argument: str, got: Mapping[str, Any], want: tuple[str, ...], owner: str) -> None:
    """Raise unless the mapping has exactly the wanted keys."""
    missing = [name for name in want if name not in got]
    extra = [name for name in got if name not in want]
    if missing or extra:
        problems = [f"lacks {missing}"] * bool(missing) + [f"has unknown {extra}"] * bool(extra)
        raise ValueError(
            f"`{argument}` of {owner} must hold exactly {list(want)}; it {' and '.join(problems)}."
        )


def readable(argument: str, path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file that can be opened.

    Raises:
        FileNotFoundError: there is nothing at `path`, or no ordinary file.
        IsADirectoryError: there is a folder.
        PermissionError: the file must not be read.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"`{argument}` must be a file; {path} is a folder.")
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` must be a file; there is none at {path}.")
    path.open("rb").close()
    return path


def in_brief(error: Exception) -> str:
    """What an error says, for a sentence of our own."""
    return str(error).rstrip(".") or type(error).__name__
