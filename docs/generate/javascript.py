"""The layers in JavaScript, for the interactive page.

The step of a layer is its `equations`, which are JavaScript but for the declarations. What the page
says of parameters and states comes from the library as well.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib

import numpy as np

from generate import colors
from generate.signatures import argument
from tracetorch_jax import snn
from tracetorch_jax.functional.constraints import Constraint
from tracetorch_jax.functional.equations import equations, raised_thresholds
from tracetorch_jax.functional.spec import (
    OPTIONS,
    PREFIXES,
    SUFFIXES,
    TRACES,
    Spec,
    letters,
)

# The functions that equations call, for one neuron; NaN stays NaN.
HEADER = """\
// Generated from tracetorch_jax by docs/generate/javascript.py.
globalThis.tracetorch ??= {};
(function (tracetorch) {
"use strict";
const pos = (v) => Math.max(v, 0);
const neg = (v) => Math.min(v, 0);
const spike = (u) => (Number.isNaN(u) ? u : Number(u > 0));
"""

# Of each constraint by its name, the maps from and to raw parameters. Tests compare them with the
# library's.
MAPS = {
    "sigmoid": ("1 / (1 + Math.exp(-raw))", "Math.log(value) - Math.log1p(-value)"),
    "softplus": (
        "Math.max(raw, 0) + Math.log1p(Math.exp(-Math.abs(raw)))",
        "value + Math.log(-Math.expm1(-value))",
    ),
    "none": ("raw", "value"),
}


def write(folder: pathlib.Path) -> None:
    """Write ``interactive/layers.js``, a classic script, which needs no server, and ``colors.css``.

    Args:
        folder: the documentation's folder of static files.
    """
    path = folder / "interactive" / "layers.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script())
    (path.parent / "colors.css").write_text(colors.css())


def script() -> str:
    """A script that sets ``tracetorch.layers``, ``tracetorch.constraints`` and what letters mean.

    Raises:
        ValueError: a layer has a constraint that is not in `MAPS`.
    """
    layers = {name: layer(1) for name, layer in snn.ALL_LAYERS.items()}
    prefixes = {
        feature.letter: feature.word
        for feature in PREFIXES
        if any(feature.within(layer.spec) for layer in layers.values())
    }
    found = [c for layer in layers.values() for c in layer.spec.parameters.values()]
    constraints = {constraint.name: constraint for constraint in found}
    return "\n".join(
        [
            HEADER,
            "tracetorch.layers = {",
            *(_layer(name, layer) for name, layer in layers.items()),
            "};",
            "tracetorch.constraints = {",
            *map(_constraint, constraints.values()),
            "};",
            f"tracetorch.resets = {json.dumps(OPTIONS['reset'])};",
            f"tracetorch.prefixes = {json.dumps(prefixes)};",
            f"tracetorch.suffixes = {json.dumps(SUFFIXES)};",
            "tracetorch.halfLife = (decay) => -Math.LN2 / Math.log(decay);",
            "tracetorch.timeConstant = (decay) => -1 / Math.log(decay);",
            "})(globalThis.tracetorch);\n",
        ]
    )


def _layer(name: str, layer: snn.TraceCell) -> str:
    """One layer as a property of an object: what it is made of, and its step."""
    lines, resets = updates(layer.spec)
    described = {
        "summary": (layer.__doc__ or "").splitlines()[0],
        "equations": lines,
        "resets": resets,
        "reset": layer.spec.reset if resets else None,
        "parameters": [
            {
                "name": parameter.name,
                "value": parameter.value,
                "constraint": parameter.constraint.name,
                "about": argument(layer.__doc__ or "", parameter.name),
            }
            for parameter in layer.describe()
        ],
        "letters": letters(layer.spec),
        "traces": {f.state: f.trace for f in TRACES if f.within(layer.spec)},
        "states": layer.spec.states,
        "thresholds": layer.spec.thresholds,
        "raised": raised_thresholds(layer.spec),
    }
    lines = [f"    {key}: {json.dumps(value)}," for key, value in described.items()]
    return "\n".join([f"  {name}: {{", *lines, step(layer.spec), "  },"])


def updates(spec: Spec) -> tuple[list[str], dict[str, list[str]]]:
    """The first `equations`, which do not depend on the reset, and the others by the reset.

    A layer that does not fire has none of the others.
    """
    if not spec.fires:
        return equations(spec), {}
    found = {r: equations(dataclasses.replace(spec, reset=r)) for r in OPTIONS["reset"]}
    rows = zip(*found.values(), strict=False)
    shared = [line for line, *_ in itertools.takewhile(lambda row: len(set(row)) == 1, rows)]
    return shared, {reset: lines[len(shared) :] for reset, lines in found.items()}


def step(spec: Spec) -> str:
    """``step(params, state, x, reset)``, which returns states, output and signals worth a look.

    ``membrane`` is the membrane before the reset, ``mem`` after it. Like every other trace they are
    sums of their channels. Thresholds that adaptation raises are signals as well.
    """
    lines, resets = updates(spec)
    made = dict.fromkeys(line.partition(" = ")[0] for line in sum(resets.values(), lines))
    fresh = ["membrane", *(name for name in made if name not in spec.states)]
    integrated = next(i for i, line in enumerate(lines) if line.startswith("mem = "))
    lines.insert(integrated + 1, "membrane = mem")
    lines += [f'if (reset === "{reset}") {{ {"; ".join(rest)} }}' for reset, rest in resets.items()]
    if spec.membrane.dual:
        lines.append("mem = pos_mem + neg_mem")
    signals = ["membrane", *(feature.state for feature in TRACES if feature.within(spec))]
    signals += filter(None, raised_thresholds(spec))
    return "\n".join(
        [
            "    step: function (params, state, x, reset) {",
            f"      const {{ {', '.join(spec.parameters)} }} = params;",
            f"      let {{ {', '.join(spec.states)} }} = state;",
            f"      let {', '.join(fresh)};",
            *(f"      {line};" for line in lines),
            "      return {",
            f"        state: {{ {', '.join(spec.states)} }},",
            "        out,",
            f"        signals: {{ {', '.join(signals)} }},",
            "      };",
            "    },",
        ]
    )


def _constraint(constraint: Constraint) -> str:
    """A constraint's rule, the ends of its range, and its maps from and to raw parameters."""
    if constraint.name not in MAPS:
        raise ValueError(f"`MAPS` must have the constraint {constraint.name!r}; it does not.")
    constrain, invert = MAPS[constraint.name]
    low, high = (
        str(float(end)).replace("inf", "Infinity")
        for end in constraint.value(np.array([-np.inf, np.inf]))
    )
    return "\n".join(
        [
            f"  {constraint.name}: {{",
            f"    rule: {json.dumps(constraint.rule)},",
            f"    low: {low},",
            f"    high: {high},",
            f"    constrain: (raw) => {constrain},",
            f"    invert: (value) => {invert},",
            "  },",
        ]
    )
