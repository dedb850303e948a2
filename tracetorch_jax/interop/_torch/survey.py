"""What a Flax model consists of: its modules, in order, with the variables that each one owns."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from tracetorch_jax._shared.checks import check_linen
from tracetorch_jax._shared.shapes import along
from tracetorch_jax._shared.trees import leaves_by_path, path_name
from tracetorch_jax.snn import Delay, Sequential, TraceCell, Unroll

_HOLDERS = (list, tuple, Mapping)

# Of Dense layers for each gate, where torch has one matrix for all of them.
_CELLS_OF_FLAX = (
    nn.ConvLSTMCell,
    nn.GRUCell,
    nn.LSTMCell,
    nn.MGUCell,
    nn.OptimizedLSTMCell,
    nn.SimpleCell,
)

Path = tuple[str, ...]
Leaf = tuple[str, str]


@dataclasses.dataclass
class Found:
    """One module that has parameters, or may have them as constants.

    Attributes:
        path: where its variables are, below the name of the collection.
        module: the module itself.
        name: the path as torch would write it: without what `Unroll` adds, with a number for a
            place in a stack, and with a dot before what a list or a dict holds.
        leaves: shape and dtype of its variables by collection and name.
        position: its place in the order of calls.
        before: shape of what the module called before it gave out, or None for the first.
    """

    path: Path
    module: nn.Module
    name: str
    leaves: dict[Leaf, jax.ShapeDtypeStruct]
    position: int
    before: tuple[int, ...] | None

    @property
    def label(self) -> str:
        """Type and path in words."""
        where = f" {path_name(self.path)!r}" if self.path else ""
        return f"{type(self.module).__name__}{where}"


@dataclasses.dataclass
class Survey:
    """What a model consists of.

    Attributes:
        modules: all of them in the order in which they are called.
        variables: their shapes and dtypes.
        gated: cells of Flax's own, type and path in words.
    """

    modules: list[Found]
    variables: Any
    gated: list[str]


def survey(model: nn.Module, inputs: tuple[Any, ...]) -> Survey:
    """Initialise a model without computing anything, and note what happens."""
    seen: dict[Path, nn.Module] = {}
    calls: dict[Path, tuple[int, ...] | None] = {}
    last: list[tuple[int, ...] | None] = [None]

    def look(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        path = tuple(context.module.path)
        seen.setdefault(path, context.module)
        runs = context.method_name in ("__call__", "unroll")
        if runs and not _is_container(context.module):
            calls.setdefault(path, last[0])
        out = method(*args, **kwargs)
        if runs:
            last[0] = _shape(out)
        return out

    leaves, treedef = jax.tree.flatten(_complete(model, inputs))
    arrays = {i: x for i, x in enumerate(leaves) if hasattr(x, "shape")}  # the others are options

    def init(key: jax.Array, arrays: dict[int, jax.Array]) -> Any:
        args = jax.tree.unflatten(treedef, [arrays.get(i, x) for i, x in enumerate(leaves)])
        keys = {name: key for name in ("params", "dropout", "spike")}
        with nn.intercept_methods(look):
            return model.init(keys, *args)

    variables = jax.eval_shape(init, jax.random.key(0), arrays)
    owned: dict[Path, dict[Leaf, jax.ShapeDtypeStruct]] = {path: {} for path in calls}
    for (collection, *names), leaf in leaves_by_path(variables).items():
        owner = tuple(names[:-1])
        while owner not in seen:
            owner = owner[:-1]
        owned.setdefault(owner, {})[collection, path_name(names[len(owner) :])] = leaf
    modules = [
        Found(path, seen[path], _name(path, seen), owned[path], position, calls.get(path))
        for position, path in enumerate(owned)
        if owned[path] or isinstance(seen[path], (TraceCell, Delay))
    ]
    gated = [
        f"{type(module).__name__} {path_name(path)!r}"
        for path, module in seen.items()
        if isinstance(module, _CELLS_OF_FLAX)
    ]
    return Survey(modules, variables, gated)


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, (Unroll, Sequential, nn.Sequential, nn.RNN))


def _name(path: Path, seen: Mapping[Path, nn.Module]) -> str:
    """A path in torch's words."""
    names = []
    for i, name in enumerate(path):
        parent = seen.get(path[:i])
        if isinstance(parent, (Unroll, nn.RNN)) and name == "cell":
            continue
        if isinstance(parent, (Sequential, nn.Sequential)):
            names.append(name.removeprefix("layers_"))
            continue
        entry = re.fullmatch(r"(\w+)_(\w+)", name)  # of a list or dict, such as torch's ModuleList
        held = vars(parent).get(entry[1]) if parent is not None and entry else None
        names += entry.groups() if entry and isinstance(held, _HOLDERS) else [name]
    return ".".join(names)


def _shape(out: Any) -> tuple[int, ...] | None:
    """Shape of an output; of a cell's pair of carry and output, that of the output."""
    if isinstance(out, tuple) and out:
        out = out[-1]
    return tuple(out.shape) if hasattr(out, "shape") else None


def _complete(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of ``model.init`` after the key."""
    check_linen("model", model)
    if not inputs:
        cell = model.cell if isinstance(model, Unroll) else model
        if not isinstance(cell, TraceCell):
            raise TypeError(
                f"`inputs` must be what {type(model).__name__} is called with, such as a sequence "
                f"of zeros: only a single trace layer says by itself what shapes its parameters "
                f"have; got none."
            )
        step = along(np.zeros(cell.num_neurons, np.float32), cell.dim)
        inputs = (step[None] if isinstance(model, Unroll) else step,)
    if isinstance(model, nn.RNNCellBase) and len(inputs) == 1:
        inputs = (None, *inputs)
    return inputs
