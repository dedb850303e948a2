"""Pages of the reference: a page for each module, an entry for each public name."""

from __future__ import annotations

import inspect
import pathlib
import re
import textwrap
from types import ModuleType
from typing import Any

from generate.examples import imports
from generate.files import update
from generate.names import (
    FRONT_ENDS,
    GRID,
    INNER,
    LAYERS,
    everywhere,
    full,
    methods,
    modules,
    public,
    public_bases,
    shared_page,
)
from generate.signatures import arguments, untyped

# What a reader may be looking for.
_GROUPS = {
    "Models": ("snn", "nnx", "spikes", "initializers", "functional"),
    "Data in, answers out": ("datasets", "encode", "augment", "decode"),
    "Training": ("losses", "training", "metrics", "diagnostics", "plot", "checkpoint", "sharding"),
    "Elsewhere": ("export", "interop"),
}


def write(folder: pathlib.Path) -> None:
    """Write the pages into `folder`, and remove those of modules that are no more."""
    folder.mkdir(exist_ok=True)
    texts = pages()
    for path in folder.iterdir():
        if path.stem not in texts:
            path.unlink()
    for name, text in texts.items():
        update(folder / f"{name}.rst", text)


def pages() -> dict[str, str]:
    """Every page by its name, in reStructuredText."""
    found = {"index": _index()}
    for part, module in modules().items():
        if part and shared_page(part) == part:
            found[part] = _page(part, module)
    return found


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n\n"


def first_line(thing: object) -> str:
    """What a docstring says first."""
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


def quote_arguments(text: str, names: set[str]) -> str:
    """Arguments in single backticks are code, even where something public has their name."""
    if not names:
        return text
    return re.sub(rf"(?<![`:\w])`({'|'.join(map(re.escape, names))})`(?!`)", r"``\1``", text)


def _index() -> str:
    text = _title("Reference", "=") + (
        "Every public name, with what it takes, gives and refuses, and an example. Arrays are "
        "``[B, T, N]``: batch, time, neurons.\n\n"
    )
    listed = set()
    for group, names in _GROUPS.items():
        rows = [(f":doc:`{part}`", first_line(modules()[part])) for part in names]
        text += _title(group, "-") + _table(rows)
        listed |= set(names)
    there = {part for part in modules() if part and part not in INNER}
    if listed != there:
        raise ValueError(f"modules that are in no group, or in one but not there: {listed ^ there}")
    text += ".. toctree::\n   :hidden:\n\n"
    text += "".join(f"   {part}\n" for part in sorted(listed)) + "\n"
    text += _title("tracetorch_jax", "-") + _module("") + _examples("")
    text += _summary("", public(modules()[""]))
    text += "".join(_entry("", modules()[""], name) for name in public(modules()[""]))
    return text


def _page(part: str, module: ModuleType) -> str:
    text = _title(part, "=") + _module(part) + _examples(part)
    names = public(module)
    if part in FRONT_ENDS:
        text += _layers()
        names = [name for name in names if name not in LAYERS]
    text += _summary(part, names)
    text += "".join(_entry(part, module, name) for name in names)
    if flex := modules().get(f"{part}.flex"):
        text += _title("flex", "-") + _module(f"{part}.flex")
        own = [name for name in public(flex) if name not in LAYERS]
        text += _summary(f"{part}.flex", own)
        text += "".join(_entry(f"{part}.flex", flex, name) for name in own)
        text += _flex_layers(flex)
    return text


def _module(part: str) -> str:
    path = full(part, "")
    return f".. automodule:: {path}\n   :no-members:\n\n"


def _examples(part: str) -> str:
    """The lines that a reader types before any example of the page."""
    lines = textwrap.indent(imports(part), "   ")
    if not lines:
        return ""
    return f"Examples on this page run after:\n\n.. code-block:: python\n\n{lines}\n"


def _table(rows: list[tuple[str, str]]) -> str:
    """A list of names and what they are."""
    text = ".. list-table::\n   :widths: auto\n   :align: left\n   :class: names\n\n"
    return text + "".join(f"   * - {name}\n     - {says}\n" for name, says in rows) + "\n"


def _summary(part: str, names: list[str]) -> str:
    rows = []
    for name in names:
        thing = getattr(modules()[part], name)
        says = _CONSTANTS.get(f"{part}.{name}") or first_line(thing)
        if callable(thing):
            says = quote_arguments(says, set(arguments(thing)))
        rows.append((f":py:obj:`{name} <{full(part, name)}>`", says))
    return _table(rows)


def _grid() -> str:
    """The names of all layers, each leading to its page."""
    text = ".. list-table::\n   :widths: auto\n   :align: left\n\n"
    for prefixes in GRID:
        for i, suffix in enumerate(("", "B", "T", "TS")):
            name = f"{prefixes}LI{suffix}"
            link = f":doc:`{name} </family/{name}>`" if name in LAYERS else ""
            text += f"   {'* ' if i == 0 else '  '}- {link}\n"
    return text + "\n"


def _layers() -> str:
    return "The layers, each with a page of its own:\n\n" + _grid()


def _flex_layers(module: ModuleType) -> str:
    """Functions of one kind, described once; each can be linked to."""
    text = "Every layer as a `LeakyIntegrator`, ``flex.LIB(8)`` and so on: functions that take "
    text += "the arguments of the layer and give one with its parameters and program.\n\n"
    for name in LAYERS:
        text += f".. py:function:: {name}(num_neurons, **arguments)\n   :no-typesetting:\n\n"
    return text + _grid()


# What `help` cannot say of a constant.
_CONSTANTS = {
    "functional.DECAY": "Constraint of decays: in (0, 1), the sigmoid of a raw parameter.",
    "functional.THRESHOLD": "Constraint of thresholds: above 0, the softplus of a raw parameter.",
    "functional.UNBOUNDED": "Constraint of scales, weights and biases: any finite number.",
    "export.PLATFORMS": "Platforms for which programs are written unless you name others.",
    "training.PARAMETER_LABELS": "Everything that `parameter_labels` may say of a parameter.",
    "snn.ALL_LAYERS": "The classes of all named layers by their names.",
    "nnx.ALL_LAYERS": "The classes of all named layers by their names.",
}


def _entry(part: str, module: ModuleType, name: str) -> str:
    thing = getattr(module, name)
    path = full(part, name)
    if not callable(thing):
        return f".. py:data:: {name}\n\n   {_CONSTANTS[f'{part}.{name}']}\n\n"
    if not inspect.isclass(thing):
        return f".. autofunction:: {path}\n\n"
    linen = part.replace("nnx", "snn")
    if linen != part and getattr(modules()[linen], name, None) is thing:
        says = f"The same class as :class:`{full(linen, name)}`."
        return f".. py:class:: {name}{untyped(thing)}\n\n   {says}\n\n"
    text = f".. autoclass:: {path}\n\n{_counterpart(part, name, thing)}"
    text += _inherited(thing)
    for method in methods(thing):
        kind = "property" if isinstance(getattr(thing, method), property) else "method"
        text += f"   .. auto{kind}:: {path}.{method}\n\n"
    return text


def _inherited(cls: type) -> str:
    """Where to find the methods that a class has from another."""
    for base in public_bases(cls):
        if methods(base):
            path = next(path for path, thing in everywhere().items() if thing is base)
            short = path.removeprefix("tracetorch_jax.")
            return f"   Methods are those of :class:`{short} <{path}>`.\n\n"
    return ""


def _counterpart(part: str, name: str, thing: Any) -> str:
    """Where to find the class of this name in the other front end."""
    front_end = part.partition(".")[0]
    if front_end not in FRONT_ENDS:
        return ""
    other = "nnx" if front_end == "snn" else "snn"
    place = other + part.removeprefix(front_end)
    if getattr(modules()[place], name, thing) is thing:
        return ""
    words = {"nnx": "In Flax nnx", "snn": "In Flax linen"}[other]
    return f"   {words}: :class:`{place}.{name} <{full(place, name)}>`.\n\n"
