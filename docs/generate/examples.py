"""Examples in docstrings, and the lines after which those of a page of the reference run."""

from __future__ import annotations

import ast
import builtins
import doctest
import inspect
from typing import Any

from generate.names import documented, modules

# What examples call it: the line that brings it. In the order in which lines are shown.
_IMPORTS = {
    "dataclasses": "import dataclasses",
    "pathlib": "import pathlib",
    "tempfile": "import tempfile",
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "np": "import numpy as np",
    "optax": "import optax",
    "nn": "from flax import linen as nn",
    "P": "from jax.sharding import PartitionSpec as P",
}
_PACKAGE = {"tt": "import tracetorch_jax as tt"}
# Flax has the name `nnx` too.
_NNX = {
    "nnx": "from flax import nnx",
    "snn": "from tracetorch_jax import nnx as snn",
    "flex": "from tracetorch_jax.nnx import flex",
}
_FLEX = {"flex": "from tracetorch_jax.snn import flex"}


def imports(page: str) -> str:
    """The import lines after which every example of a page runs.

    Args:
        page: of a module, or ``""`` for that of the package itself.

    Raises:
        ValueError: an example uses a name that is not known here.
    """
    used: set[str] = set()
    for thing in documented(page).values():
        used |= free_names(inspect.getdoc(thing) or "")
    known = dict(_IMPORTS)
    own = [name for name in modules() if name and "." not in name and name in used]
    if page == "nnx":
        known, own = known | _PACKAGE | _NNX, []
    else:
        known |= _PACKAGE | _FLEX
    if unknown := used - set(known) - set(own):
        raise ValueError(f"examples of {page or 'the package'} use {sorted(unknown)}, from nowhere")
    lines = [line for name, line in known.items() if name in used]
    if own:
        lines.insert(len(lines) - ("flex" in used), f"from tracetorch_jax import {', '.join(own)}")
    return "".join(f"{line}\n" for line in lines)


def free_names(docstring: str) -> set[str]:
    """Names that a docstring's examples use without having made them."""
    code = "".join(example.source for example in doctest.DocTestParser().get_examples(docstring))
    tree = ast.parse(code)
    used, made = set(), set(vars(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
    return used - made


def namespace(page: str) -> dict[str, Any]:
    """What a reader has after typing the import lines of a page."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(imports(page), names)
    return names
