"""What runs in a linen model, as interceptors of Flax's methods see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from tracetorch_jax._core.delays import AbstractDelayCell
from tracetorch_jax._core.front_end import is_in_loop
from tracetorch_jax._shared.checks import check_linen
from tracetorch_jax._shared.trees import path_name
from tracetorch_jax.snn import DelayedDense, TraceCell


def check_over_time(model: object) -> None:
    """Raise unless `model` is a linen module that runs over time."""
    check_linen("model", model)
    if isinstance(model, nn.RNNCellBase):
        raise TypeError(
            f"`model` must run over time: put the cell {type(model).__name__} into snn.Unroll."
        )


def sown(
    model: nn.Module, variables: Any, collection: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    """What ``model.apply`` gives, and what its modules sow into a collection meanwhile.

    As with ``model.apply``, the first is a pair with the other collections that change, if
    `mutable` is among its arguments.
    """
    asked = mutable = kwargs.get("mutable", False)
    if mutable is not True and not isinstance(mutable, nn.DenyList):  # which takes the collection
        mutable = [*([mutable] if isinstance(mutable, str) else mutable or []), collection]
    out, updated = model.apply(variables, *args, **kwargs | {"mutable": mutable})
    changed = {name: value for name, value in updated.items() if name != collection}
    return (out if asked is False else (out, changed)), updated.get(collection, {})


class Arguments(NamedTuple):
    """What a model is called with, but for the arrays; hashable if all else is.

    Attributes:
        leaves: the type of each, so that 1 is not taken for True, and its value.
        tree: their structure.
    """

    leaves: tuple[tuple[type, Any], ...]
    tree: Any

    def filled(self, arrays: dict[int, jax.Array]) -> Any:
        """The arguments by position and by name, with arrays at their places."""
        leaves = [arrays.get(i, leaf) for i, (_, leaf) in enumerate(self.leaves)]
        return jax.tree.unflatten(self.tree, leaves)


def compiled(
    make: Any, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[int, jax.Array]]:
    """The program that `make` gives for a model and what it is called with, and the arrays of that.

    Args:
        make: from a model and `Arguments` to a program, under `functools.lru_cache`: one that was
            made before is found again.
        model: a linen module.
        args: its arguments by position.
        kwargs: its arguments by name.
    """
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}
    rest = tuple((type(x), None if i in arrays else x) for i, x in enumerate(leaves))
    try:
        program = make(model, Arguments(rest, tree))
    except TypeError:  # not hashable
        program = make.__wrapped__(model, Arguments(rest, tree))
    return program, arrays


def each_unrolled(
    watch: Callable[[str, TraceCell, Any, jax.Array, jax.Array], jax.Array],
) -> Callable[..., Any]:
    """Interceptor of Flax methods that calls `watch` for each trace layer run over time.

    `watch` gets the layer's path, the layer, its first carry, its input and output ``[T, ...]``. It
    returns the output that the network goes on with.
    """

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        cell = context.module
        if isinstance(cell, TraceCell) and context.method_name == "observe":
            return watch(path_name(cell.path), cell, *args)
        return next_fun(*args, **kwargs)

    return intercept


class SteppedLayers:
    """The trace layers that something runs step by step, so that nothing sees their whole run.

    Attributes:
        paths: of these layers, in the order in which they ran.
    """

    def __init__(self) -> None:
        self.paths: dict[str, str] = {}

    def watch(self, next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Interceptor of Flax methods."""
        layer = context.module
        if isinstance(layer, TraceCell) and context.method_name == "__call__":
            if not layer.is_initializing():  # then only a shape is asked for
                self.paths[path_name(layer.path)] = type(layer).__name__
        return next_fun(*args, **kwargs)

    def named(self) -> str:
        """The layers in words."""
        layers = ", ".join(f"{path} ({kind})" for path, kind in self.paths.items())
        return f"{layers} step by step, as nn.RNN and a Recurrent of several layers do"

    def check(self, layers: Mapping[str, TraceCell]) -> None:
        """Raise if there are no layers that were run over time."""
        if not layers:
            got = f"it runs {self.named()}" if self.paths else "none was run"
            raise ValueError(
                f"`model` must run trace layers through tracetorch_jax.snn.Unroll; {got}."
            )


class Source(NamedTuple):
    """A module with weights whose output a layer receives."""

    path: str
    name: str  # of the parameter


class Sources:
    """Which module with weights ran last before each trace layer.

    Attributes:
        of: that module by the layer's path. A layer that does not fire scales with its input, so
            that what is before it is before the next layer, too.
        scaled: paths of layers after a normalisation.
        delays: cells of delays by their paths, without parameters.
    """

    def __init__(self) -> None:
        self.of: dict[str, Source] = {}
        self.scaled: set[str] = set()
        self.delays: dict[str, Any] = {}
        self._last: Source | None = None
        self._scaled = False

    def watch(self, next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Interceptor of Flax methods."""
        module: Any = context.module
        out = next_fun(*args, **kwargs)
        path = path_name(module.path)
        if is_in_loop():
            return out
        if isinstance(module, TraceCell) and context.method_name == "observe":
            if self._last is not None:
                self.of[path] = self._last
            if self._scaled:
                self.scaled.add(path)
            if module.spec.fires:
                self._last = None
        elif isinstance(module, AbstractDelayCell):
            cell, runs = context.module, context.method_name in ("__call__", "unroll")
            if runs and not cell.is_initializing():
                self.delays[path] = cell.clone(parent=None, name=None)
                if isinstance(module, DelayedDense):
                    self._last = Source(path, "kernel")
        elif context.method_name == "__call__" and not isinstance(module, TraceCell):
            for name in ("kernel", "scale"):
                if module.has_variable("params", name):
                    self._last = Source(path, name)
                    self._scaled |= name == "scale"
        return out
