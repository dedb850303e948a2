"""Checks of arguments that more than one room makes."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any


def check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise unless `value` is one of `allowed`."""
    if value not in allowed:
        known = ", ".join(map(repr, allowed))
        raise ValueError(f"`{name}` must be one of {known}; got {value!r}.")


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
