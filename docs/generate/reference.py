"""Pages of the reference: a page for each room, an entry for each public name."""

from __future__ import annotations

import inspect
import pathlib
from types import ModuleType
from typing import Any

from generate.names import FRONT_ENDS, LAYERS, full, methods, public, rooms


def write(folder: pathlib.Path) -> None:
    """Write the pages into `folder`, and remove those of rooms that are no more."""
    folder.mkdir(exist_ok=True)
    pages = {"index": _index()}
    for room, module in rooms().items():
        if room and "." not in room:
            pages[room] = _page(room, module)
    for path in folder.iterdir():
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:  # so that Sphinx reads what has changed
            path.write_text(text)


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n\n"


def first_line(thing: object) -> str:
    """What a docstring says first."""
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


def _index() -> str:
    package = rooms()[""]
    text = _title("Reference", "=") + (
        "Every public name, from the docstrings, whose examples the tests run.\n\n"
    )
    text += ".. list-table::\n   :widths: 25 75\n\n"
    for room, module in rooms().items():
        if room and "." not in room:
            text += f"   * - :doc:`{room} <{room}>`\n     - {first_line(module)}\n"
    text += "\n.. toctree::\n   :hidden:\n\n"
    text += "".join(f"   {room}\n" for room in rooms() if room and "." not in room) + "\n"
    text += _title("The package itself", "-") + ".. py:module:: tracetorch_jax\n\n"
    return text + "".join(_entry("", package, name) for name in public(package))


def _page(room: str, module: ModuleType) -> str:
    text = _title(f"tracetorch_jax.{room}", "=")
    text += _module(room)
    names = public(module)
    if room in FRONT_ENDS:
        text += _layers(room, names)
        names = [name for name in names if name not in LAYERS]
    text += "".join(_entry(room, module, name) for name in names)
    if flex := rooms().get(f"{room}.flex"):
        text += _title("flex", "-") + _module(f"{room}.flex")
        own = [name for name in public(flex) if name not in LAYERS]
        text += "".join(_entry(f"{room}.flex", flex, name) for name in own)
        text += _flex_layers(f"{room}.flex", flex)
    return text


def _module(room: str) -> str:
    return f".. automodule:: tracetorch_jax.{room}\n   :no-members:\n\n"


def _layers(room: str, names: list[str]) -> str:
    """The 28 layers have pages of their own."""
    text = "The layers, each with a page of its own:\n\n.. hlist::\n   :columns: 4\n\n"
    for name in names:
        if name in LAYERS:
            text += f"   * :doc:`{name} </family/{name}>`\n"
    return text + "\n"


def _flex_layers(room: str, module: ModuleType) -> str:
    text = ""
    for name in LAYERS:
        says = first_line(getattr(module, name))
        text += f".. py:function:: {name}(num_neurons, **arguments)\n\n   {says}\n\n"
    return text


def signature(thing: Any) -> str:
    """Arguments with their defaults, without types."""
    code = thing.__init__ if inspect.isclass(thing) else thing
    found = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter.default))
        for parameter in inspect.signature(code).parameters.values()
        if parameter.name not in ("self", "parent", "name") and not parameter.name.startswith("_")
    ]
    return str(inspect.Signature(found))


class _Shown(str):
    """A default as it would be typed."""

    __repr__ = str.__str__


def _default(value: Any) -> Any:
    if isinstance(value, type) and value is not inspect.Parameter.empty:
        return _Shown(f"{value.__module__}.{value.__name__}")
    if inspect.isfunction(value):
        return _Shown(value.__name__)
    return value


# What `help` cannot say of a constant.
_CONSTANTS = {
    "functional.DECAY": "Constraint of decays: in (0, 1), the sigmoid of a raw parameter.",
    "functional.THRESHOLD": "Constraint of thresholds: above 0, the softplus of a raw parameter.",
    "functional.UNBOUNDED": "Constraint of scales, weights and biases: any finite number.",
    "export.PLATFORMS": "Platforms for which programs are written unless you name others.",
    "snn.ALL_LAYERS": "The classes of the 28 layers by their names.",
    "nnx.ALL_LAYERS": "The classes of the 28 layers by their names.",
}


def _entry(room: str, module: ModuleType, name: str) -> str:
    thing = getattr(module, name)
    path = full(room, name)
    if not callable(thing):
        return f".. py:data:: {name}\n\n   {_CONSTANTS[f'{room}.{name}']}\n\n"
    if not inspect.isclass(thing):
        return f".. autofunction:: {path}\n\n"
    linen = room.replace("nnx", "snn")
    if linen != room and getattr(rooms()[linen], name, None) is thing:
        says = f"The same class as :class:`{full(linen, name)}`."
        return f".. py:class:: {name}{signature(thing)}\n\n   {says}\n\n"
    text = f".. autoclass:: {path}\n\n"
    for method in methods(thing, module):
        kind = "property" if isinstance(getattr(thing, method), property) else "method"
        text += f"   .. auto{kind}:: {path}.{method}\n\n"
    return text
