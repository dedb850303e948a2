"""The public names of the library, room by room."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import tracetorch_jax
from tracetorch_jax import nnx, snn

LAYERS = tuple(snn.ALL_LAYERS)
FRONT_ENDS = ("snn", "nnx")


def rooms() -> dict[str, ModuleType]:
    """Modules with public names, by what follows ``tracetorch_jax.``; the package is ``""``."""
    found: dict[str, ModuleType] = {"": tracetorch_jax}
    for name in tracetorch_jax.__all__:
        if inspect.ismodule(room := getattr(tracetorch_jax, name)):
            found[name] = room
    return found | {"snn.flex": snn.flex, "nnx.flex": nnx.flex}


def public(room: ModuleType) -> list[str]:
    """Its functions, classes and constants, without modules."""
    return [name for name in room.__all__ if not inspect.ismodule(getattr(room, name))]


def full(room: str, name: str) -> str:
    """Such as ``tracetorch_jax.snn.LIB``."""
    return ".".join(part for part in ("tracetorch_jax", room, name) if part)


def everything() -> list[str]:
    """All public names in full, of modules too."""
    found = []
    for room, module in rooms().items():
        found.append(full(room, "").rstrip("."))
        found += [full(room, name) for name in public(module)]
    return found


# Methods by which the library's own parts talk to each other.
_INTERNAL = frozenset(
    "ahead canonicalize cells check_fields describe draw_key fresh_carries keep_states "
    "keeps_states num_feature_axes raw scale_init set_field setting setup stages zeros".split()
)


def methods(cls: type, room: ModuleType) -> list[str]:
    """Of a class, what its users call and no other public class of the room has given it."""
    things = [getattr(room, name) for name in public(room)]
    public_bases = [c for c in things if inspect.isclass(c) and c is not cls and issubclass(cls, c)]
    found: list[str] = []
    for base in cls.__mro__:
        if base.__module__.startswith("tracetorch_jax") and not any(
            issubclass(public_base, base) for public_base in public_bases
        ):
            found += [name for name in vars(base) if _is_for_users(base, name, found)]
    return found


def _is_for_users(cls: type, name: str, found: list[str]) -> bool:
    if name in found or name in _INTERNAL or (name.startswith("_") and name != "__call__"):
        return False
    value: Any = vars(cls)[name]
    code = value.fget if isinstance(value, property) else value
    return inspect.isfunction(code) and bool(inspect.getdoc(code))
