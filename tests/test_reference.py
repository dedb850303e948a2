"""The reference: every public name has an entry, says what it has to, and its example runs."""

import builtins
import doctest
import functools
import importlib
import inspect
import pkgutil
import re

import matplotlib.pyplot as plt
import pytest
from generate import examples, names, reference
from generate.signatures import arguments, described, explained_once, section

import tracetorch_jax
from tracetorch_jax import losses

PAGES = sorted({names.shared_page(part) for part in names.modules()})
DOCUMENTED = {page: names.documented(page) for page in PAGES}
EVERYTHING = {path: thing for things in DOCUMENTED.values() for path, thing in things.items()}

# Results, each shown by the example of the function that gives it, which it names.
RESULTS = {
    "training.Fit": "fit",
    "diagnostics.Diagnosis": "diagnose",
    "diagnostics.DelayReport": "diagnose",
    "diagnostics.LayerReport": "diagnose",
    "diagnostics.NeuronGroup": "diagnose",
    "encode.Events": "pad_events",
    "encode.Standardiser": "standardiser",
    "interop.Mismatch": "nir_mismatch",
    "metrics.Operations": "synaptic_operations",
    "metrics.Rates": "spike_rate",
    "diagnostics.Recording": "record",
    "training.OnlineState": "online",
}
# What takes whatever it is given.
RAISES_NOTHING = {
    *RESULTS,
    "functional.Constraint",
    "functional.Constraint.value",
    "functional.ema",
    "functional.leak",
    "initializers.half_lives.__call__",
    "nnx.Stateful.set_carry",
}


def doc_of(thing):
    return inspect.getdoc(thing.fget if isinstance(thing, property) else thing) or ""


def short(path):
    return path.removeprefix("tracetorch_jax.")


def is_flex(path):
    """Functions that are described together: `flex.LIB` takes what `LIB` takes."""
    return ".flex." in path and path.rpartition(".")[2] in names.LAYERS


def is_method(path):
    return inspect.isclass(EVERYTHING.get(path.rpartition(".")[0]))


def described_by_themselves(page):
    return {path: thing for path, thing in DOCUMENTED[page].items() if not is_flex(path)}


# What a docstring has to say.


def problem_with(path, thing):
    """What is missing in a docstring, or None."""
    doc, takes = doc_of(thing), []
    if not isinstance(thing, property):
        takes = [name for name in arguments(thing) if name not in explained_once(thing)]
    first = doc.partition("\n\n")[0].replace("\n", " ")
    if not re.fullmatch(r"[`A-Z0-9].{1,200}[.:?]", first):
        return f"no sentence to begin with: {first!r}"
    if sorted(described(doc)) != sorted(takes):
        return f"describes {described(doc)} and takes {takes}"
    if isinstance(thing, property):
        return None
    gives = not inspect.isclass(thing) and inspect.signature(thing).return_annotation != "None"
    if bool(section(doc, "Returns", "Yields")) != gives:
        return f"{'does not say' if gives else 'says'} what is returned"
    raises = section(doc, "Raises")
    if bool(raises) != (bool(takes) and short(path) not in RAISES_NOTHING):
        return f"{'says' if raises else 'does not say'} what is raised"
    for name in re.findall(r"^(\w+):", raises or "", re.M):
        if not issubclass(getattr(builtins, name, int), Exception):
            return f"raises {name}, which is no exception"
    if giver := RESULTS.get(short(path)):
        return None if f"`{giver}`" in doc else f"does not name {giver}"
    if not is_method(path) and not section(doc, "Example"):
        return "has no example"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_docstrings_say_all_that_they_have_to(page):
    problems = {
        path: problem
        for path, thing in described_by_themselves(page).items()
        if (problem := problem_with(path, thing))
    }
    assert not problems, "\n".join(f"{path}: {problem}" for path, problem in problems.items())


def test_exceptions_to_the_rules_are_still_there():
    assert RAISES_NOTHING | set(RESULTS) <= set(map(short, EVERYTHING))


@pytest.mark.parametrize(
    ("doc", "problem"),
    [
        ("", "no sentence"),
        ("Adds.\n\nReturns:\n    The sum.\n\nRaises:\n    ValueError: no.", "describes []"),
        ("Adds.\n\nArgs:\n    x: a.\n    y: b.\n    z: c.", "describes ['x', 'y', 'z']"),
        ("Adds.\n\nArgs:\n    x: a.\n    y: b.", "does not say what is returned"),
        (
            "Adds.\n\nArgs:\n    x: a.\n    y: b.\n\nReturns:\n    It.",
            "does not say what is raised",
        ),
    ],
    ids=["nothing", "no arguments", "an argument too many", "no result", "no errors"],
)
def test_what_is_missing_in_a_docstring_is_found(doc, problem):
    def add(x, y):
        return x + y

    add.__doc__ = doc
    assert problem_with("tracetorch_jax.losses.add", add).startswith(problem)


@pytest.mark.parametrize("part", ["snn", "nnx"])
def test_flex_layers_take_what_layers_take(part):
    things = DOCUMENTED[part]
    for name in names.LAYERS:
        flex, layer = (things[f"tracetorch_jax.{part}{inner}.{name}"] for inner in (".flex", ""))
        assert inspect.signature(flex) == inspect.signature(layer)


# Examples.


def modules():
    yield tracetorch_jax
    for found in pkgutil.walk_packages(tracetorch_jax.__path__, "tracetorch_jax."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def all_examples():
    """Every example of the package by name, with the page on which it is shown, or None.

    A docstring that both front ends have is run as its own page has it.
    """
    pages = {}
    for page in PAGES:
        for thing in DOCUMENTED[page].values():
            pages.setdefault(doc_of(thing), []).append(page)
    found = {}
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in modules():
        for test in finder.find(module, module.__name__):
            shown = pages.get(inspect.cleandoc(test.docstring), [None])
            own = short(test.name).partition(".")[0]
            if test.examples:
                found[test.name] = test, own if own in shown else shown[0]
    return found


EXAMPLES = all_examples()
NEEDS = {"tracetorch_jax.export._onnx.onnx": "jax2onnx"}
namespace = functools.cache(examples.namespace)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    """After the import lines of their page; those of private functions, in their module."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    test, page = EXAMPLES[name]
    if page is not None:
        test.globs = dict(namespace(page))
    output = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    runner.run(test, out=output.append)
    plt.close("all")
    assert not output, "".join(output)


def test_examples_of_public_names_are_known_to_be():
    """Each docstring with an example is among those run as their page shows them."""
    shown = {doc_of(thing) for thing in EVERYTHING.values() if ">>>" in doc_of(thing)}
    assert shown == {
        inspect.cleandoc(test.docstring) for test, page in EXAMPLES.values() if page is not None
    }


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_the_lines_after_which_their_examples_run(page):
    text = reference.pages()[page or "index"]
    shown = re.search(r"run after:\n\n\.\. code-block:: python\n\n((?:   .*\n)+)", text)
    assert (shown[1].replace("   ", "") if shown else "") == examples.imports(page)


def test_names_from_nowhere_are_found(monkeypatch):
    monkeypatch.setattr(losses.rate_penalty, "__doc__", "Pay.\n\nExample:\n    >>> rate_penalty(1)")
    with pytest.raises(ValueError, match=r"losses use \['rate_penalty'\], from nowhere"):
        examples.imports("losses")


# Entries.


def entries():
    """Objects that the generated pages describe, in full."""
    found = {f"tracetorch_jax.{part}.{name}" for part in names.FRONT_ENDS for name in names.LAYERS}
    for text in reference.pages().values():
        module = ""
        for kind, name in re.findall(r"^ *\.\. ((?:auto|py:)\w+):: ([\w.]+)", text, re.M):
            if kind in ("automodule", "py:module"):
                module = name
            whole = kind.startswith("auto") or kind == "py:module"
            found.add(name if whole else f"{module}.{name}")
    return found


def test_every_public_name_has_an_entry():
    assert set(names.everything()) <= entries()
    assert set(EVERYTHING) <= entries()


def test_a_new_name_needs_a_docstring(monkeypatch):
    monkeypatch.setattr(losses, "new", lambda xs: xs, raising=False)
    monkeypatch.setattr(losses, "__all__", [*losses.__all__, "new"])
    path = "tracetorch_jax.losses.new"
    assert path in names.everything()
    assert problem_with(path, names.documented("losses")[path])
    monkeypatch.setattr(losses, "NEW", 3, raising=False)
    monkeypatch.setattr(losses, "__all__", [*losses.__all__, "NEW"])
    with pytest.raises(KeyError, match=r"losses\.NEW"):
        reference.pages()


def test_a_new_room_needs_a_group(monkeypatch):
    monkeypatch.setattr(tracetorch_jax, "loses", losses, raising=False)
    monkeypatch.setattr(tracetorch_jax, "__all__", [*tracetorch_jax.__all__, "loses"])
    with pytest.raises(ValueError, match="in no group"):
        reference.pages()
