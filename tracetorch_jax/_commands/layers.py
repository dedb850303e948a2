"""What layers there are."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from typing import Any

from tracetorch_jax import snn
from tracetorch_jax._shared.text import table
from tracetorch_jax.functional.equations import equations
from tracetorch_jax.functional.spec import Spec

HELP = "list the layers, or show the equations of some"
DESCRIPTION = """\
A table of all layers: what they keep from step to step, how many parameters each neuron has, and
what they put out. With names, the equations of one step of these layers, with their parameters."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", type=layer, help="such as SRLIT")


def layer(name: str) -> str:
    """A layer's name, whatever its case."""
    if name.upper() in snn.ALL_LAYERS:
        return name.upper()
    cells = {each.lower(): each for each in snn.__all__ if isinstance(getattr(snn, each), type)}
    if cell := cells.get(name.lower()):
        what = getattr(snn, cell).__doc__.splitlines()[0]
        raise argparse.ArgumentTypeError(
            f"{cell} is no trace layer, and has no equations here; it is in tracetorch_jax.snn: "
            f"{what}"
        )
    close = difflib.get_close_matches(name.upper(), snn.ALL_LAYERS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"they are {', '.join(snn.ALL_LAYERS)}"
    raise argparse.ArgumentTypeError(f"there is no layer {name!r}; {hint}")


def run(arguments: argparse.Namespace) -> None:
    if arguments.names:
        print("\n\n".join(map(_one, arguments.names)))
    else:
        print(_all())


def _all() -> str:
    rows = [("layer", "parameters", "output", "states")]
    for name, cls in snn.ALL_LAYERS.items():
        spec = cls(1).spec
        rows.append((name, str(len(spec.parameters)), _output(spec), " ".join(spec.states)))
    return (
        f"{table(rows, right=[1])}\n\n"
        "parameters: of each neuron, all learnt unless you say otherwise. output: mem, the\n"
        "membrane itself; else spikes, where p and q are the two scales. For equations: layers NAME"
    )


def _output(spec: Spec) -> str:
    if not spec.fires:
        return "mem"
    if spec.scale:
        return "-q 0 p"
    return "-1 0 1" if spec.negative else "0 1"


def _one(name: str) -> str:
    cell: Any = snn.ALL_LAYERS[name]
    values = {field.name: field.default for field in dataclasses.fields(cell)}
    spec = cell(1).spec
    rows = [("parameter", "starts at", "must")]
    for parameter, constraint in spec.parameters.items():
        rows.append((parameter, f"{values[parameter]:g}", constraint.rule))
    lines = [f"{name}: {cell.__doc__.splitlines()[0]}", ""]
    lines += [f"    {line}" for line in equations(spec)]
    lines += ["", table(rows, indent=4), "", f"    states: {' '.join(spec.states)}"]
    return "\n".join(lines)
