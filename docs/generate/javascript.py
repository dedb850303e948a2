"""The layers in JavaScript, for the interactive page: traced from the library, not written again.

`write` traces `functional.step` of each layer for one neuron and translates the operations that it
finds. What the page says of parameters and states comes from the library as well.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from generate.operations import Expression, Graph, Node, expression
from generate.signatures import argument
from tracetorch_jax import functional, snn
from tracetorch_jax.functional.equations import equations
from tracetorch_jax.functional.spec import Spec, channel_names
from tracetorch_jax.functional.steps import DEFAULT_SPIKE, sum_channels

SCALAR = jax.ShapeDtypeStruct((), jnp.float64)
HEADER = "// Generated from tracetorch_jax by docs/generate/javascript.py."


def write(folder: pathlib.Path) -> None:
    """Write ``interactive/layers.js`` into a folder: a classic script, which needs no server.

    Args:
        folder: the documentation's folder of static files.
    """
    path = folder / "interactive" / "layers.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script())


def script() -> str:
    """A script that sets ``tracetorch.layers`` and ``tracetorch.constraints``."""
    constraints = (functional.DECAY, functional.THRESHOLD, functional.UNBOUNDED)
    parts = [
        HEADER,
        "globalThis.tracetorch ??= {};",
        "tracetorch.layers = {",
        *(f"{_indent(_layer(name))}," for name in snn.ALL_LAYERS),
        "};",
        "tracetorch.constraints = {",
        *(f"{_indent(_constraint(constraint))}," for constraint in constraints),
        "};",
        f"tracetorch.halfLife = {_unary(functional.decay_to_halflife)};",
    ]
    return "\n".join(parts) + "\n"


def translate(
    function: Callable[..., Mapping[str, Any]], *arguments: Mapping[str, str] | str
) -> tuple[list[str], dict[str, str]]:
    """Translate a function of scalars.

    Args:
        function: called with one argument for each of `arguments`, scalars or dicts of them;
            returns named scalars.
        *arguments: what JavaScript calls each scalar.

    Returns:
        Statements that compute the results, and the expression of each result by name.

    Raises:
        NotImplementedError: the function uses an operation that has no translation.

    Example:
        >>> translate(lambda x: {"y": jnp.exp(-x)}, "x")
        (['const y = Math.exp(-x);'], {'y': 'y'})
    """
    names: list[str] = []

    def listed(*args: Any) -> list[Any]:
        found = function(*args)
        names.extend(found)
        return list(found.values())

    with jax.enable_x64(True):
        traced = jax.make_jaxpr(listed)(*jax.tree.map(lambda _: SCALAR, arguments))
    graph = Graph()
    inputs = [graph.name(name) for name in jax.tree.leaves(arguments)]
    consts = [graph.literal(value) for value in traced.consts]
    found = graph.inline(traced.jaxpr, consts, inputs)
    return _statements(graph, dict(zip(names, found, strict=True)))


def _statements(graph: Graph, results: dict[str, Node]) -> tuple[list[str], dict[str, str]]:
    """Name every result, and whatever is used more than once; write the rest where it is used."""
    uses = graph.uses(results.values())
    names: dict[Node, str] = {}
    for name, node in results.items():
        if node.operands:
            names.setdefault(node, name)
    fresh = (f"v{number}" for number in itertools.count(1))
    written: dict[Node, Expression] = {}
    lines = []
    for node in graph.order:
        if node not in uses:
            continue
        written[node] = expression(node, [written[operand] for operand in node.operands])
        if node.operands and (node in names or uses[node] > 1):
            if node not in names:
                names[node] = next(fresh)
            lines.append(f"const {names[node]} = {written[node].text};")
            written[node] = Expression(names[node])
    return lines, {name: written[node].text for name, node in results.items()}


def _layer(name: str) -> str:
    """One layer as a property of an object: what it is made of, and its step."""
    layer = snn.ALL_LAYERS[name](1)
    described = {
        "summary": (layer.__doc__ or "").splitlines()[0],
        "equations": equations(layer.spec),
        "parameters": [
            {
                "name": parameter.name,
                "value": parameter.value,
                "constraint": parameter.constraint.name,
                "about": argument(layer.__doc__ or "", parameter.name),
            }
            for parameter in layer.describe()
        ],
        "states": list(layer.spec.states),
        "thresholds": list(layer.spec.thresholds),
    }
    lines = [f"{key}: {json.dumps(value)}," for key, value in described.items()]
    return "\n".join([f"{name}: {{", *map(_indent, lines), _indent(_step(layer.spec)), "}"])


def _step(spec: Spec) -> str:
    """``step(params, state, x)``, which returns states, output and the signals worth a look."""
    signals = ["mem", "membrane"]
    signals += ["syn"] * bool(spec.synapse) + ["rec"] * bool(spec.recurrence)
    params = {name: name for name in spec.parameters}
    state = {name: f"state.{name}" for name in spec.states}
    lines, values = translate(functools.partial(_observed, spec), params, state, "x")
    return "\n".join(
        [
            "step: function (params, state, x) {",
            _indent(f"const {{ {', '.join(spec.parameters)} }} = params;"),
            *map(_indent, lines),
            "  return {",
            f"    state: {_object({name: values[name] for name in spec.states})},",
            f"    out: {values['out']},",
            f"    signals: {_object({name: values[name] for name in signals})},",
            "  };",
            "},",
        ]
    )


def _observed(spec: Spec, params: Any, state: Any, x: jax.Array) -> dict[str, jax.Array]:
    """A step and what leads up to it, by name.

    ``membrane`` is the membrane before the reset, ``mem`` after it; ``syn`` and ``rec`` are the
    traces; all are sums of their channels.
    """
    spikes: list[jax.Array] = []

    def spike(u: jax.Array) -> jax.Array:
        spikes.append(DEFAULT_SPIKE(u))
        return spikes[-1]

    # A layer of which nothing is emitted puts out its membrane.
    silent = dataclasses.replace(spec, positive=None, negative=None, scale=None)
    before, membrane = functional.step(silent, params, state, x)
    new, out = functional.step(spec, params, state, x, spike=spike)
    found = {"out": out} | {name: new[name] for name in spec.states}
    traces = {"syn": spec.synapse, "rec": spec.recurrence, "mem": spec.membrane}
    for name, trace in traces.items():
        if trace:
            found[name] = sum_channels([new[c] for c in channel_names(name, trace.dual)])
    found["membrane"] = membrane
    for name in channel_names("mem", spec.membrane.dual):
        found[f"{name}_before"] = before[name]
    return found | dict(zip("pq", spikes, strict=False))


def _constraint(constraint: functional.Constraint) -> str:
    """A constraint's rule, the ends of its range, and its maps from and to raw parameters."""
    low, high = constraint.value(np.array([-np.inf, np.inf]))
    return "\n".join(
        [
            f"{constraint.name}: {{",
            f"  rule: {json.dumps(constraint.rule)},",
            f"  low: {Graph.number(low)},",
            f"  high: {Graph.number(high)},",
            _indent(f"constrain: {_unary(constraint.constrain)},"),
            _indent(f"invert: {_unary(constraint.invert)},"),
            "}",
        ]
    )


def _unary(function: Callable[[jax.Array], jax.Array]) -> str:
    """A function of one number."""
    lines, values = translate(lambda x: {"y": function(x)}, "x")
    return "\n".join(["function (x) {", *map(_indent, lines), f"  return {values['y']};", "}"])


def _object(values: Mapping[str, str]) -> str:
    """An object in JavaScript; ``{ mem, prev_output: out }``."""
    pairs = [name if name == value else f"{name}: {value}" for name, value in values.items()]
    return f"{{ {', '.join(pairs)} }}"


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
