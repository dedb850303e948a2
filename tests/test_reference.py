"""The reference: every public name has an entry, says what it has to, and its example runs."""

import doctest
import functools
import importlib
import inspect
import pkgutil
import re

import matplotlib.pyplot as plt
import pytest
from generate import examples, names, reference, signatures

import tracetorch_jax
from tracetorch_jax import losses

PAGES = sorted({names.shared_page(room) for room in names.rooms()})
DOCUMENTED = {
    path: (page, thing) for page in PAGES for path, thing in names.documented(page).items()
}
# Functions that are described together: `flex.LIB` takes what `LIB` takes.
FLEX = {path for path in DOCUMENTED if ".flex." in path and path.rpartition(".")[2] in names.LAYERS}
# What has the same docstring in both front ends is looked at once.
DESCRIBED = [path for path in DOCUMENTED if path not in FLEX]


def code_of(thing):
    return thing.fget if isinstance(thing, property) else thing


# Examples.


def modules():
    yield tracetorch_jax
    for found in pkgutil.walk_packages(tracetorch_jax.__path__, "tracetorch_jax."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def page_of(test, pages):
    """The page on which the docstring of an example is, if it is on one."""
    own = test.name.removeprefix("tracetorch_jax.").partition(".")[0]
    found = pages.get(inspect.cleandoc(test.docstring), [])
    return own if own in found else next(iter(found), None)


def all_examples():
    """Every example of the package by name, with the page on which it is shown, if any."""
    pages = {}
    for page, thing in DOCUMENTED.values():
        doc = inspect.getdoc(code_of(thing)) or ""
        pages.setdefault(doc, []).append(page)
    finder = doctest.DocTestFinder(exclude_empty=True)
    return {
        test.name: (test, page_of(test, pages))
        for module in modules()
        for test in finder.find(module, module.__name__)
    }


EXAMPLES = all_examples()
namespace = functools.cache(examples.namespace)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    """After the import lines of their page; those of private functions, in their module."""
    test, page = EXAMPLES[name]
    if page is not None:
        test.globs = dict(namespace(page))
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    output = []
    result = runner.run(test, out=output.append, clear_globs=False)
    plt.close("all")
    assert not result.failed, "".join(output)


def test_examples_of_public_names_are_found():
    """Those of every class and function, each on its page."""
    on_pages = {name for name, (_, page) in EXAMPLES.items() if page is not None}
    assert {"tracetorch_jax.losses.count_target", "tracetorch_jax.nnx._family.LIB"} <= on_pages
    with_examples = {path for path, (_, thing) in DOCUMENTED.items() if ">>>" in str(doc_of(thing))}
    assert len(on_pages) >= len({inspect.getdoc(DOCUMENTED[path][1]) for path in with_examples})


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_the_lines_after_which_their_examples_run(page):
    text = reference.pages()[page or "index"]
    shown = re.search(r"run after:\n\n\.\. code-block:: python\n\n((?:   .*\n)+)", text)[1]
    assert shown.replace("   ", "") == examples.imports(page)


# Sections.


def doc_of(thing):
    return inspect.getdoc(code_of(thing)) or ""


def section(doc, *titles):
    """The lines of the first section of these that is there, without their indentation."""
    for title in titles:
        if found := re.search(rf"^{title}:\n((?:    .*\n|\n)+)", f"{doc}\n", re.M):
            return inspect.cleandoc(found[1])
    return None


def described(doc):
    """Names in the sections of arguments."""
    text = section(doc, "Args", "Attributes") or ""
    return re.findall(r"^\*{0,2}(\w+)(?: \(.*\))?:", text, re.M)


def takes(thing):
    """Arguments that a docstring has to describe."""
    return [] if isinstance(thing, property) else list(signatures.arguments(thing))


# Made by the library, never by its users.
MADE_FOR_USERS = {"Diagnosis", "LayerReport", "Recording"}


@pytest.mark.parametrize("path", DESCRIBED)
def test_arguments_are_described(path):
    """All that there are, and no others, in their order."""
    thing = DOCUMENTED[path][1]
    assert described(doc_of(thing)) == takes(thing)


@pytest.mark.parametrize("path", DESCRIBED)
def test_docstrings_begin_with_a_sentence(path):
    first = doc_of(DOCUMENTED[path][1]).partition("\n\n")[0]
    assert re.fullmatch(r"[`A-Z0-9].*[.:?]", first.replace("\n", " ")), first
    assert len(first) < 200


def gives(thing):
    """Whether a function returns something."""
    if inspect.isclass(thing) or isinstance(thing, property):
        return False
    return inspect.signature(thing).return_annotation not in ("None", None)


@pytest.mark.parametrize("path", DESCRIBED)
def test_what_is_returned_is_described(path):
    thing = DOCUMENTED[path][1]
    assert bool(section(doc_of(thing), "Returns", "Yields")) == gives(thing)


# What takes anything that it is given.
RAISES_NOTHING = set()


@pytest.mark.parametrize("path", DESCRIBED)
def test_errors_are_described(path):
    thing = DOCUMENTED[path][1]
    if isinstance(thing, property) or not takes(thing):
        return
    text = section(doc_of(thing), "Raises")
    assert bool(text) == (path.removeprefix("tracetorch_jax.") not in RAISES_NOTHING)
    for name in re.findall(r"^(\w+):", text or "", re.M):
        assert issubclass(getattr(__import__("builtins"), name), Exception), name


@pytest.mark.parametrize("path", DESCRIBED)
def test_functions_and_classes_have_an_example(path):
    room, _, name = path.rpartition(".")
    if inspect.isclass(DOCUMENTED.get(room, (None, None))[1]):
        return  # a method: shown by the example of its class
    assert section(doc_of(DOCUMENTED[path][1]), "Example")


@pytest.mark.parametrize("path", FLEX)
def test_flex_layers_are_described_by_the_layers(path):
    room, _, name = path.rpartition(".")
    layer = DOCUMENTED[f"{room.removesuffix('.flex')}.{name}"][1]
    assert inspect.signature(DOCUMENTED[path][1]) == inspect.signature(layer)


# Entries.


def entries():
    """Objects that the pages describe, in full."""
    found = set()
    for text in reference.pages().values():
        module = ""
        for kind, name in re.findall(r"^ *\.\. ((?:auto|py:)\w+):: ([\w.]+)", text, re.M):
            if kind in ("automodule", "py:module"):
                module = name
            found.add(name if kind.startswith("auto") or kind == "py:module" else f"{module}.{name}")
    return found


def family_entries():
    return {f"tracetorch_jax.{room}.{name}" for room in names.FRONT_ENDS for name in names.LAYERS}


def test_every_public_name_has_an_entry():
    assert set(names.everything()) == {
        entry for entry in entries() | family_entries() if entry in set(names.everything())
    }


def test_a_new_name_needs_a_docstring(monkeypatch):
    monkeypatch.setattr(losses, "new", lambda xs: xs, raising=False)
    monkeypatch.setattr(losses, "__all__", [*losses.__all__, "new"])
    assert "tracetorch_jax.losses.new" in names.everything()
    with pytest.raises(AssertionError):
        assert described(doc_of(names.documented("losses")["tracetorch_jax.losses.new"])) == ["xs"]


def test_every_room_is_in_a_group(monkeypatch):
    monkeypatch.setitem(names.rooms.__globals__["INNER"], "loses", losses)
    assert "loses" in names.rooms()
