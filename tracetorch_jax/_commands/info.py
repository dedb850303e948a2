"""What a checkpoint or an exported program holds."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import jax
import numpy as np

from tracetorch_jax import snn
from tracetorch_jax._shared.dtypes import type_of
from tracetorch_jax._shared.text import table
from tracetorch_jax._shared.trees import path_name
from tracetorch_jax.functional.constraints import DECAY, Constraint, half_life

HELP = "say what a checkpoint or an exported program holds"
DESCRIPTION = """\
Of a checkpoint (a folder written by tracetorch_jax.checkpoint.save): its arrays, and which of them
are trace layers, with the half-lives that their decays stand for, and the ranges of their other
parameters. Of a program (a file written by tracetorch_jax.export.save): what it runs on, takes and
gives. Neither needs the model's code."""

_RAW = "raw_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=pathlib.Path, help="a checkpoint or a program")


def run(arguments: argparse.Namespace) -> None:
    path = arguments.path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path}.")
    print(_checkpoint(path) if path.is_dir() else _program(path))


def _checkpoint(path: pathlib.Path) -> str:
    from tracetorch_jax import checkpoint

    groups: dict[str, dict[str, Any]] = {}
    for keys, leaf in jax.tree.leaves_with_path(checkpoint.read(path)):
        groups.setdefault(path_name(keys[:-1]), {})[path_name(keys[-1:])] = leaf
    leaves = [leaf for group in groups.values() for leaf in group.values()]
    learnt = _parameters(groups)
    count = sum(np.size(leaf) for name in learnt for leaf in groups[name].values())
    lines = [
        f"checkpoint: {len(leaves)} arrays and numbers, {count:,} parameters",
        "half-lives are in steps",
    ]
    for folder in sorted(groups, key=lambda folder: folder not in learnt):
        group = groups[folder]
        layer = _layer(group) if folder in learnt else None
        rows = [
            (name, _kind(leaf), _values(name, leaf, layer) if layer else "")
            for name, leaf in group.items()
        ]
        title = folder or "at the top"
        lines += ["", f"{title}: {layer[0]}" if layer else title, table(rows, indent=2)]
    return "\n".join(lines)


def _parameters(groups: dict[str, Any]) -> list[str]:
    """Folders of the model's parameters, and not of an optimiser's copies of them.

    They are those under the ``params`` nearest to the top, or all if there is no such folder.
    """
    depths = {
        folder: parts.index("params")
        for folder in groups
        if "params" in (parts := folder.split("/"))
    }
    if not depths:
        return list(groups)
    return [folder for folder, depth in depths.items() if depth == min(depths.values())]


def _layer(group: dict[str, Any]) -> tuple[str, dict[str, Constraint]] | None:
    """The layer that a set of raw parameters spells, in words, and its constraints."""
    found = {name.removeprefix(_RAW) for name in group if name.startswith(_RAW)}
    if not found or len(found) < len(group):
        return None
    fits = []
    for name, cls in snn.ALL_LAYERS.items():
        constraints = cls(1).spec.parameters
        if found <= set(constraints):
            fits.append((len(constraints) - len(found), name, dict(constraints)))
    if not fits:
        return None
    extra, name, constraints = min(fits, key=lambda fit: fit[0])
    rest = ", ".join(parameter for parameter in constraints if parameter not in found)
    return (f"{name}, with {rest} as constants" if extra else name), constraints


def _values(name: str, raw: Any, layer: tuple[str, dict[str, Constraint]]) -> str:
    """The range of a parameter's values; of a decay, of its half-lives."""
    constraint = layer[1][name.removeprefix(_RAW)]
    values, decays = constraint.value(np.asarray(raw)), constraint is DECAY
    if decays:
        values = half_life(values)
    low, high = (f"{value:.3g}" for value in (values.min(), values.max()))
    return ("half-life " if decays else "") + (low if low == high else f"{low} to {high}")


def _kind(leaf: Any) -> str:
    return type_of(leaf) if hasattr(leaf, "shape") else f"{type(leaf).__name__} {leaf}"


def _program(path: pathlib.Path) -> str:
    from tracetorch_jax import export

    program = export.load(path)
    args, named = jax.tree.unflatten(program.in_tree, program.in_avals)
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    names = {
        ("step", 2): ("carry", "x"),
        ("step", 3): ("variables", "carry", "x"),
        ("sequence", 1): ("xs",),
        ("sequence", 2): ("variables", "xs"),
    }.get((program.fun_name, len(args)), tuple(map(str, range(len(args)))))
    inputs = {**dict(zip(names, args, strict=True)), **named}
    gives: Any = outputs
    if program.fun_name == "step" and len(outputs) == 2:
        gives = dict(zip(("carry", "y"), outputs, strict=True))
    differentiable = "can" if program.has_vjp() else "cannot"
    return "\n".join(
        [
            f"program: {program.fun_name}, {path.stat().st_size:,} bytes",
            f"runs on: {', '.join(program.platforms)}",
            f"{differentiable} be differentiated",
            "",
            "takes",
            _arrays(inputs),
            "gives",
            _arrays(gives),
        ]
    )


def _arrays(tree: Any) -> str:
    rows = [
        (path_name(keys) or "ys", type_of(leaf)) for keys, leaf in jax.tree.leaves_with_path(tree)
    ]
    return table(rows, indent=2)
