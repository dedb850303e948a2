"""From a checkpoint to a program."""

from __future__ import annotations

import argparse
import importlib
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from tracetorch_jax._models import as_linen
from tracetorch_jax._shared.checks import is_of_nnx

HELP = "make a program that runs without the model's code"
DESCRIPTION = """\
Puts a model and what it learnt into one file, for jax.export: a whole sequence, or one step of a
stream. To run it takes JAX and nothing else; see docs/how-to/deployment.md.

example:
  python -m tracetorch_jax export network:make runs/best digits.program --shape "b, t, 64"
  python -m tracetorch_jax export network:make runs/best digits.step --form step --shape "b, 64\""""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODULE:NAME",
        help="a Python module, and in it a Flax module or a function without arguments that makes "
        "one: network:make for make() in network.py. For one of nnx, the checkpoint is of "
        "nnx.to_linen(model)",
    )
    parser.add_argument("checkpoint", type=pathlib.Path, help="written by checkpoint.save")
    parser.add_argument("out", type=pathlib.Path, help="the file to write")
    parser.add_argument(
        "--shape",
        required=True,
        help='of the input: "b, t, 20" for any batch and any number of steps of 20 features, '
        '"b, 20" for a step',
    )
    parser.add_argument("--form", choices=["sequence", "step"], default="sequence")
    parser.add_argument(
        "--at",
        default="",
        metavar="PATH",
        help="where in the checkpoint the variables are (params, batch_stats, ...): by default at "
        "the top; state/model for what is under 'model' of 'state'",
    )
    parser.add_argument("--dtype", default="float32", help="of the input (default: float32)")
    parser.add_argument("--seq-lengths", metavar="SHAPE", help='take lengths as well: "b"')
    parser.add_argument(
        "--rngs", nargs="+", default=[], metavar="NAME", help="take random keys as well: spike"
    )
    parser.add_argument("--platforms", nargs="+", metavar="NAME", help="default: cpu cuda rocm tpu")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def run(arguments: argparse.Namespace) -> None:
    from tracetorch_jax import checkpoint, export

    model = _model(arguments.model)
    variables = _variables(checkpoint.read(arguments.checkpoint), arguments.at)
    options: dict[str, Any] = {"dtype": arguments.dtype, "rngs": arguments.rngs}
    if arguments.platforms:
        options["platforms"] = arguments.platforms
    if arguments.form == "sequence":
        options["seq_lengths"] = arguments.seq_lengths
    elif arguments.seq_lengths is not None:
        raise ValueError("--seq-lengths is for whole sequences; a step has none.")
    make = export.sequence if arguments.form == "sequence" else export.step
    try:
        program = make(model, variables, arguments.shape, **options)
    except (TypeError, ValueError):
        raise
    except Exception as error:  # whatever the model's own code raises
        raise ValueError(f"{arguments.model} raised {type(error).__name__}: {error}") from error
    path = export.save(arguments.out, program, overwrite=arguments.overwrite)
    size = f"{path.stat().st_size:,} bytes"
    print(f"{path}: {arguments.form} for {', '.join(program.platforms)}, {size}")


def _model(spec: str) -> nn.Module:
    """What ``module:name`` stands for."""
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise ValueError(f"MODULE:NAME must have both, such as network:make; got {spec!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise
        raise ValueError(f"there is no Python module {module_name!r} here.") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name} has no {name!r}.")
        found = getattr(found, part)
    if not isinstance(found, nn.Module) and not is_of_nnx(found) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise ValueError(f"{spec} raised {type(error).__name__}: {error}") from error
    if is_of_nnx(found):
        return as_linen(found)[0]
    if not isinstance(found, nn.Module):
        raise TypeError(f"{spec} must be or make a Flax module; got {type(found).__name__}.")
    return found


def _variables(tree: Any, at: str) -> dict[str, Any]:
    """The collections of a checkpoint that a model can have."""
    for part in filter(None, at.split("/")):
        if not isinstance(tree, Mapping) or part not in tree:
            raise ValueError(f"--at {at}: the checkpoint has no {part!r} there; {_held(tree)}.")
        tree = tree[part]
    if not isinstance(tree, Mapping) or not isinstance(tree.get("params"), Mapping):
        raise ValueError(f"the checkpoint must have 'params' there (see --at); {_held(tree)}.")
    # What else lies there, an optimiser or a step number, is none of the model's.
    return {
        name: collection
        for name, collection in tree.items()
        if isinstance(collection, Mapping)
        and all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(collection))
    }


def _held(tree: Any) -> str:
    return f"it has {', '.join(tree)}" if isinstance(tree, Mapping) else "there is one array"
