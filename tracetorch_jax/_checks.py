"""Checks of arguments that more than one room makes."""

from __future__ import annotations

from typing import Any


def check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise unless `value` is one of `allowed`."""
    if value not in allowed:
        known = ", ".join(map(repr, allowed))
        raise ValueError(f"`{name}` must be one of {known}; got {value!r}.")
