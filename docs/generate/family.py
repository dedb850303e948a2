"""Pages of the family: the table of all layers, and a page for each."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import string
import textwrap
from typing import Any

import jax
import jax.numpy as jnp

from generate import pictures, tree
from generate.files import update
from generate.names import LAYERS
from generate.reference import first_line
from generate.signatures import argument
from tracetorch_jax import functional, snn
from tracetorch_jax.functional import DECAY, THRESHOLD, UNBOUNDED
from tracetorch_jax.functional.equations import equations
from tracetorch_jax.functional.spec import (
    PREFIXES,
    SUFFIXES,
    TRACES,
    Spec,
    channel_names,
    letters,
)


def write(folder: pathlib.Path, *, drawn: bool) -> None:
    """Write pages, and pictures if they are to be drawn, into `folder`, which is made."""
    folder.mkdir(exist_ok=True)
    for name in LAYERS:
        picture = ""
        if drawn:
            figure, words = pictures.response(name)
            pictures.save(figure, folder, name)
            picture = pictures.image(name, words)
        update(folder / f"{name}.md", page(name, picture))
    update(folder / "index.md", _index())


def spec_of(name: str) -> Spec:
    return snn.ALL_LAYERS[name](1).spec


def operations(name: str) -> int:
    """Floating-point operations per neuron and step, forward, as XLA counts them."""
    spec = spec_of(name)
    zero = jax.ShapeDtypeStruct((), jnp.float32)
    params = dict.fromkeys(spec.parameters, zero)
    state = dict.fromkeys(spec.states, zero)

    def step(params: Any, state: Any, x: jax.Array) -> Any:
        return functional.step(spec, params, state, x)

    return int(jax.jit(step).lower(params, state, zero).cost_analysis()["flops"])


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _letters(name: str) -> str:
    """A name taken apart."""
    spec = spec_of(name)
    _, suffix = letters(spec)
    rows = [[f"`{f.letter}`", f.word, f.about] for f in PREFIXES if f.within(spec)]
    kind = "sum of its input that decays" if suffix else "average of its input"
    rows.append(["`LI`", "leaky integrator", f"the membrane: a running {kind}"])
    rows.append([f"`{suffix}`" if suffix else "no suffix", *SUFFIXES[suffix]])
    return _table(["letters", "word", "meaning"], rows)


def _defaults(name: str) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(snn.ALL_LAYERS[name])}


def _parameters(name: str) -> str:
    layer, defaults = snn.ALL_LAYERS[name], _defaults(name)
    rows = []
    for parameter, constraint in spec_of(name).parameters.items():
        words = _RANGE.sub("", argument(layer.__doc__, parameter))
        rows.append([f"`{parameter}`", f"{defaults[parameter]:g}", _RANGES[constraint], words])
    return _table(["parameter", "default", "range", "meaning"], rows)


_RANGE = re.compile(r", (in \(0, 1\)|greater than 0|of any sign)\.$")  # has a column of its own
_RANGES = {DECAY: "(0, 1)", THRESHOLD: "> 0", UNBOUNDED: "any"}


# What layers take that is no parameter, but for what all of them take.
_OPTIONS = ("ema", "reset", "detach_reset", "spike", "zero_split")


def _arguments(name: str) -> str:
    layer, defaults = snn.ALL_LAYERS[name], _defaults(name)
    rows = [
        [f"`{option}`", f"`{defaults[option]!r}`", argument(layer.__doc__, option)]
        for option in _OPTIONS
        if option in defaults
    ]
    text = _table(["argument", "default", "meaning"], rows).replace("``", "`")
    return re.sub(r"`(tracetorch_jax\.spikes|functional\.split)`", r"{py:obj}`\1`", text)


_SIGNS = {"": "", "pos_": "; positive part", "neg_": "; negative part"}


def _states(name: str) -> str:
    found = {
        f"{sign}{feature.state}": f"{feature.trace}: {feature.holds}{part}"
        for feature in TRACES
        for sign, part in _SIGNS.items()
    } | {"prev_output": "output of the step before"}
    rows = [[f"`{state}`", found[state]] for state in spec_of(name).states]
    return _table(["state", "meaning"], rows)


def snippet(name: str) -> str:
    """A layer run, recorded and drawn."""
    settings = pictures.settings(name)
    arguments = ", ".join(["1", *(f"{k}={v:g}" for k, v in settings.items())])
    if len(settings) > 2:
        arguments = f"\n{textwrap.indent(textwrap.fill(arguments, 76), '    ')}\n"
    draw = "tt.plot.traces(layer.states)"
    if spec_of(name).fires:
        parts = channel_names("mem", spec_of(name).membrane.dual)
        membrane = " + ".join(f'layer.states["{part}"]' for part in parts)
        levels = zip(("threshold", "neg_threshold"), spec_of(name).thresholds, strict=True)
        drawn = [membrane, "layer.outputs", "before=layer.membrane"]
        drawn += [f'{side}=layer.thresholds["{level}"]' for side, level in levels if level]
        lines = "".join(f"    {argument},\n" for argument in drawn)
        draw = f"tt.plot.spike_train(\n{lines})"
    return f"""\
import jax
import jax.numpy as jnp
import tracetorch_jax as tt
from tracetorch_jax import snn

layer = snn.{name}({arguments})
model = snn.Unroll(layer)
xs = 0.35 * jnp.ones((1, 50, 1))  # [batch, time, neurons]
variables = model.init(jax.random.key(0), xs)
ys, layers = tt.record(model, variables, xs)
(layer,) = layers.values()
ax = {draw}
"""


# Similar neurons of other libraries, for readers who search for these names.
ELSEWHERE = {
    "LI": "`LIEMA` of traceTorch, `LeakyIntegrator` of jaxpike; with `ema=False` `LI` of "
    "traceTorch, Spyx and sparx",
    "LIB": "LIF: `Leaky` of snnTorch, `LIFNode` of SpikingJelly, `LIF` of Spyx, sparx, jaxpike and "
    "sinabs, `LIFBoxCell` of norse",
    "SLIB": "current-based LIF: `Synaptic` of snnTorch and sparx, `CuBaLIF` of Spyx and NIR, "
    "`LIFCell` of norse",
    "RLIB": "`RLeaky` of snnTorch with one weight for each neuron",
    "ALIB": "adaptive LIF: `ALIF` of Spyx, sparx and jaxpike",
}


def _elsewhere(name: str) -> str:
    if name not in ELSEWHERE:
        return ""
    return (
        f"\n\nIn other libraries, with [differences](../coming-from/index.md#the-neurons): "
        f"{ELSEWHERE[name]}."
    )


def neighbours(name: str) -> str:
    """Layers that differ by one letter."""
    prefixes, suffix = letters(spec_of(name))
    order = "".join(feature.letter for feature in PREFIXES)
    found = []
    for letter in order:
        others = prefixes.replace(letter, "") if letter in prefixes else prefixes + letter
        found.append("".join(sorted(others, key=order.index)) + "LI" + suffix)
    found += [f"{prefixes}LI{other}" for other in SUFFIXES if other != suffix]
    return ", ".join(f"[{other}]({other}.md)" for other in found if other in LAYERS)


def page(name: str, picture: str) -> str:
    """The page of a layer, in Markdown."""
    spec = spec_of(name)
    settings = pictures.settings(name)
    words = [_SPIKE] * spec.fires + [_PARTS] * spec.membrane.dual + [_RAISED] * spec.adapt_weight
    return _fill(
        "layer",
        name=name,
        summary=first_line(snn.ALL_LAYERS[name]) + _elsewhere(name),
        letters=_letters(name),
        picture=picture,
        shown=" ".join([_CROSSES] * spec.fires + [_AFTER] * (spec.fires and spec.membrane.dual)),
        fragment="&".join([f"layer={name}", *(f"{k}={v:g}" for k, v in settings.items())]),
        settings="the parameters of the [code below](#in-code)" if settings else "the defaults",
        equations="\n".join(equations(spec)),
        words=" ".join(words),
        states=_states(name),
        parameters=_parameters(name),
        arguments=_arguments(name),
        snippet=snippet(name),
        costs=f"{_counted(len(spec.states), 'state')} ({4 * len(spec.states)} bytes in float32), "
        f"{_counted(len(spec.parameters), 'parameter')}, and {operations(name)} floating-point "
        "operations per step, forward, as XLA counts them",
        neighbours=neighbours(name),
    )


_CROSSES = """The membrane potential is drawn before and after each reset: at a spike, a dot, it has
crossed a threshold, dotted, and falls."""
_AFTER = "Its positive and negative parts are drawn after the reset alone."
_SPIKE = """`spike(u)` is 1 where `u > 0` and else 0; its derivative is that of a
[surrogate](../ideas.md#surrogate-gradients). These are the equations of `reset="subtract"`, the
default; `"zero"` and `"none"` are [other resets](../ideas.md#the-reset)."""
_RAISED = "Thresholds rise with the neuron's own spikes, see [adaptation](../ideas.md#adaptation)."
_PARTS = "`pos(v)` and `neg(v)` are the positive and the negative part of `v`."


def _fill(template: str, **values: str) -> str:
    """A page from ``<template>.md`` next to this file."""
    text = (pathlib.Path(__file__).parent / f"{template}.md").read_text()
    return string.Template(text).substitute(values)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _index() -> str:
    costs = []
    for name in LAYERS:
        numbers = (len(spec_of(name).states), len(spec_of(name).parameters), operations(name))
        costs.append([f"[{name}]({name}.md)", *map(str, numbers)])
    return _fill(
        "family",
        tree=tree.svg(),
        costs=_table(["layer", "states", "parameters", "operations"], costs),
        pages="\n".join(LAYERS),
    )
