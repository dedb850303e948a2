"""Signatures as they are shown: what can be given, what it is by default, and of what type."""

from __future__ import annotations

import inspect
import re
from typing import Any

import flax.linen as nn

# Names that the code has for types, and that say nothing to a reader.
_ALIASES = {
    "Arrays": "dict[str, np.ndarray]",
    "Carry": "dict[str, jax.Array]",
    "Decoder": "str",
    "Engine": "str",
    "Flatten": "Mapping[str, Sequence[int] | None]",
    "functional.engines.unroll.Engine": "str",
    "Model": "nnx.Module",
    "Params": "Mapping[str, jax.Array]",
    "Reset": "str",
    "Shape": "str | Sequence[int | str]",
    "State": "dict[str, jax.Array]",
    "StateDict": "Mapping[str, Any]",
    "Step": "Callable",
    "Style": "str",
    "ZeroSplit": "str",
}


def arguments(thing: Any) -> dict[str, inspect.Parameter]:
    """What a user can give to a function, or to a class to make one of it, by name."""
    hidden = {"self"}
    if inspect.isclass(thing):
        if not _is_made_by_users(thing):
            return {}
        if issubclass(thing, nn.Module):
            hidden |= {"parent", "name"}  # Flax's own
        thing = thing.__new__ if issubclass(thing, tuple) else thing.__init__
    return {
        name: parameter
        for name, parameter in inspect.signature(thing).parameters.items()
        if name not in hidden and not name.startswith("_")
    }


def _is_made_by_users(cls: type) -> bool:
    """Not so a protocol, nor what has nothing but a constructor of Flax's."""
    name = "__new__" if issubclass(cls, tuple) else "__init__"
    maker = next(base for base in cls.__mro__ if name in vars(base))
    return not getattr(cls, "_is_protocol", False) and maker.__module__.startswith("tracetorch_jax")


def section(docstring: str, *titles: str) -> str | None:
    """The text of the first section of these titles that a docstring has."""
    for title in titles:
        if found := re.search(rf"^{title}:\n((?:    .*\n|\n)+)", f"{docstring}\n", re.M):
            return inspect.cleandoc(found[1])
    return None


def described(docstring: str) -> list[str]:
    """Names of the arguments that a docstring describes, or of attributes that are arguments."""
    text = section(docstring, "Args", "Attributes") or ""
    return re.findall(r"^\*{0,2}(\w+)(?: \(.*\))?:", text, re.M)


def argument(docstring: str, name: str) -> str:
    """What the ``Args:`` of a docstring say of one of them, as one line.

    Raises:
        ValueError: they say nothing.
    """
    found = re.search(rf"^    {name}: (.*(?:\n {{8}}.*)*)", docstring, re.M)
    if not found:
        raise ValueError(f"`docstring` must document {name!r}; it does not.")
    return " ".join(found[1].split())


def explained_once(thing: Any) -> set[str]:
    """The two options of each parameter of a layer, which its docstring does not list."""
    names, doc = set(arguments(thing)), inspect.getdoc(thing) or ""
    options = {f"{name}_{option}" for name in names for option in ("rank", "learnable")}
    return options & names - set(described(doc))


def untyped(thing: Any) -> str:
    """Arguments with their defaults, without types, and by name in the order of the docstring."""
    options = explained_once(thing)
    found = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter.default))
        for name, parameter in arguments(thing).items()
        if name not in options
    ]
    order = described(inspect.getdoc(thing) or "")
    free = [p for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name in order]
    free.sort(key=lambda p: order.index(p.name))
    bound = [p for p in found if p not in free]
    return str(inspect.Signature(bound + free))


def typed(function: Any) -> tuple[str, str | None]:
    """Arguments and what is returned, with types as the code writes them."""
    found = [
        parameter.replace(
            annotation=_type(parameter.annotation), default=_default(parameter.default)
        )
        for parameter in arguments(function).values()
    ]
    returned = _type(inspect.signature(function).return_annotation)
    empty = returned is inspect.Signature.empty
    return str(inspect.Signature(found)), None if empty else str(returned)


class _Shown(str):
    """Something as it would be typed."""

    __repr__ = str.__str__


def _type(annotation: Any) -> Any:
    if not isinstance(annotation, str):
        return annotation
    pattern = "|".join(map(re.escape, sorted(_ALIASES, key=len, reverse=True)))
    return _Shown(re.sub(rf"(?<![\w.])({pattern})\b", lambda m: _ALIASES[m[0]], annotation))


def _default(value: Any) -> Any:
    if isinstance(value, type) and value is not inspect.Parameter.empty:
        return _Shown(f"{value.__module__}.{value.__name__}".replace("jax.numpy.", "jnp."))
    if inspect.isfunction(value):
        return _Shown(value.__name__)
    return value
