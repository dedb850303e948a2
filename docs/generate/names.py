"""The public names of the library, module by module."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import tracetorch_jax
from tracetorch_jax import nnx, snn
from tracetorch_jax.functional.spec import letters

LAYERS = tuple(snn.ALL_LAYERS)
# Prefixes, in the order in which tables of the layers have them.
GRID = sorted(dict.fromkeys(letters(cls(1).spec)[0] for cls in snn.ALL_LAYERS.values()), key=len)
FRONT_ENDS = ("snn", "nnx")
# Modules within a module, or within the package (""), that share its page.
INNER = {
    "snn.flex": snn.flex,
    "nnx.flex": nnx.flex,
}


def modules() -> dict[str, ModuleType]:
    """Modules with public names, by what follows ``tracetorch_jax.``; the package is ``""``."""
    found: dict[str, ModuleType] = {"": tracetorch_jax}
    for name in tracetorch_jax.__all__:
        if inspect.ismodule(part := getattr(tracetorch_jax, name)):
            found[name] = part
    return found | INNER


def shared_page(part: str) -> str:
    """The module on whose page a module is: itself, unless it is within another."""
    return part.rpartition(".")[0] if part in INNER else part


def public(part: ModuleType) -> list[str]:
    """Its functions, classes and constants, without modules and what the package itself has."""
    return [
        name
        for name in part.__all__
        if not inspect.ismodule(getattr(part, name))
        and (part is tracetorch_jax or name not in tracetorch_jax.__all__)
    ]


def full(part: str, name: str) -> str:
    """Such as ``tracetorch_jax.snn.LIB``."""
    return ".".join(each for each in ("tracetorch_jax", part, name) if each)


def everywhere() -> dict[str, Any]:
    """All public functions, classes and constants, by their full names."""
    return {
        full(part, name): getattr(module, name)
        for part, module in modules().items()
        for name in public(module)
    }


def everything() -> list[str]:
    """All public names in full, of modules too."""
    return [full(part, "") for part in modules()] + list(everywhere())


# Methods by which the library's own parts talk to each other.
_INTERNAL = frozenset(
    "ahead batch_of_carry bias_init canonicalize cells check_common check_fields check_shape "
    "delay_parameter describe draw_key fresh_carries fresh_carry keep_states keeps_states "
    "num_feature_axes observe raw run scale_init set_field setting setup stages synaptic_delays "
    "weights width zeros".split()
)


def public_bases(cls: type) -> list[type]:
    """Public classes of the library that a class is derived from, nearest first."""
    things = [thing for thing in everywhere().values() if inspect.isclass(thing)]
    return [base for base in cls.__mro__[1:] if base in things]


def methods(cls: type) -> list[str]:
    """Of a class, what its users call and no public class has given it."""
    bases = public_bases(cls)
    found: list[str] = []
    for base in cls.__mro__:
        if base.__module__.startswith("tracetorch_jax") and not any(
            issubclass(public_base, base) for public_base in bases
        ):
            found += [name for name in vars(base) if _is_for_users(base, name, found)]
    return found


def _is_for_users(cls: type, name: str, found: list[str]) -> bool:
    if name in found or name in _INTERNAL or (name.startswith("_") and name != "__call__"):
        return False
    value: Any = vars(cls)[name]
    code = value.fget if isinstance(value, property) else value
    return inspect.isfunction(code) and bool(code.__doc__)


def documented(page: str) -> dict[str, Any]:
    """Everything on a page that has a docstring, by its full name: methods and layers too."""
    found: dict[str, Any] = {}
    for part, module in modules().items():
        if shared_page(part) != page:
            continue
        for name in public(module):
            thing = getattr(module, name)
            if callable(thing):
                found[full(part, name)] = thing
            if inspect.isclass(thing):
                for method in methods(thing):
                    found[f"{full(part, name)}.{method}"] = inspect.getattr_static(thing, method)
    return found
