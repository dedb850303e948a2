"""Which device holds which part of parameters, optimiser states and batches.

A mesh arranges devices along named axes. Parameters are split over them by name, a batch along its
first axis, and `jax.jit` does the rest: the layers need no changes. `docs/how-to/devices.md`
shows how.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tracetorch_jax._shared.trees import listed, path_name

__all__ = ["partition_specs", "shard", "shardings"]


def partition_specs(tree: Any, rules: Mapping[str, PartitionSpec]) -> Any:
    """Choose by name over which axes of a mesh each array is split.

    The name of an array is its path, such as ``params/cell/layers_1/raw_beta``. That of an
    optimiser state ends alike, so that the rules of the parameters hold for it as well.

    Args:
        tree: a tree of arrays, or what ``jax.eval_shape`` says of it.
        rules: from regular expressions to partition specs. Of those found anywhere in a name (end
            with ``$`` to match its end) the first counts. What has no axes is never split and needs
            no rule.

    Returns:
        A tree like `tree` of partition specs, for `shard` and `shardings`.

    Raises:
        TypeError: `rules` is no mapping from strings to partition specs.
        ValueError: no rule for an array, one that has more axes than the array, or a pattern that
            is no regular expression.

    Example:
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(8), snn.LIB(8)]))
        >>> params = model.init(jax.random.key(0), jnp.ones((2, 5, 3)))["params"]
        >>> rules = {"kernel$": P(None, "model"), "bias$": P("model"), "raw_": P("model")}
        >>> specs = sharding.partition_specs(params, rules)["cell"]
        >>> tuple(specs["layers_0"]["kernel"]), tuple(specs["layers_1"]["raw_beta"])
        ((None, 'model'), ('model',))
    """
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"`rules` must be a dict from patterns to partition specs; got {type(rules).__name__}."
        )
    patterns = {}
    for pattern, spec in rules.items():
        if not isinstance(spec, PartitionSpec):
            raise TypeError(
                f"`rules[{pattern!r}]` must be a jax.sharding.PartitionSpec; got {spec!r}."
            )
        try:
            patterns[re.compile(pattern)] = spec
        except re.error as error:
            raise ValueError(
                f"`rules` must have regular expressions as keys; got {pattern!r}: {error}."
            ) from None
    problems = []

    def choose(path: Any, leaf: Any) -> PartitionSpec:
        name, shape = _name(path), np.shape(leaf)
        for pattern, spec in patterns.items():
            if shape and pattern.search(name):
                if len(spec) > len(shape):
                    problems.append(f"{pattern.pattern!r} gives {spec} to {name} of shape {shape}")
                return spec
        if shape:
            problems.append(f"none matches {name} of shape {shape}")
        return PartitionSpec()

    specs = jax.tree.map_with_path(choose, tree)
    _raise("`rules` must have one that fits for every array", problems)
    return specs


def shardings(tree: Any, mesh: Mesh, specs: Any) -> Any:
    """The `NamedSharding` of each array, from specs that fit the arrays and the mesh.

    For ``jax.jit(..., out_shardings=...)``, which makes parameters where they belong, and for
    `checkpoint.restore` from shapes.

    Args:
        tree: a tree of arrays, or what ``jax.eval_shape`` says of it.
        mesh: such as `jax.make_mesh` gives.
        specs: what `partition_specs` or ``flax.linen.get_partition_spec`` gave; or one
            ``PartitionSpec`` for all arrays.

    Returns:
        A tree like `tree`.

    Raises:
        ValueError: a spec names an axis that `mesh` has not, has more axes than its array, or
            splits one whose size the mesh's does not divide.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> tuple(sharding.shardings({"x": jnp.ones((8, 3))}, mesh, P("data"))["x"].spec)
        ('data',)
    """
    if isinstance(specs, PartitionSpec):
        specs = jax.tree.map(lambda _: specs, tree)
    problems: list[str] = []

    def place(path: Any, leaf: Any, spec: PartitionSpec) -> NamedSharding:
        problems.extend(_problems(_name(path), np.shape(leaf), mesh, spec))
        return NamedSharding(mesh, spec if not problems else PartitionSpec())

    placed = jax.tree.map_with_path(place, tree, specs)
    _raise(f"`specs` must fit the arrays and the mesh, {_sizes(mesh)}", problems)
    return placed


def shard(tree: Any, mesh: Mesh, specs: Any) -> Any:
    """Split arrays over the devices of a mesh.

    Args:
        tree: a tree of arrays, of parameters or a batch. Where several processes share the mesh,
            each has all of it; see ``jax.make_array_from_process_local_data`` for batches of which
            each process has a part.
        mesh: such as `jax.make_mesh` gives.
        specs: what `partition_specs` or ``flax.linen.get_partition_spec`` gave; or one
            ``PartitionSpec`` for all arrays, such as ``P("data")`` for a batch ``[B, ...]`` and
            ``P()`` for copies on every device.

    Returns:
        The same values on the mesh.

    Raises:
        ValueError: see `shardings`.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> tuple(sharding.shard(jnp.ones((8, 3)), mesh, P("data")).sharding.spec)
        ('data',)
    """
    return jax.device_put(tree, shardings(tree, mesh, specs))


def _problems(name: str, shape: tuple[int, ...], mesh: Mesh, spec: PartitionSpec) -> list[str]:
    """What keeps an array from being split so."""
    if len(spec) > len(shape):
        return [f"{name} of shape {shape} has fewer axes than {spec}"]
    problems = []
    for axis, entry in enumerate(spec):
        names = (entry,) if isinstance(entry, str) else entry or ()
        if entry is PartitionSpec.UNCONSTRAINED:
            continue
        if unknown := [n for n in names if n not in mesh.shape]:
            problems.append(f"{name} is to be split over {unknown[0]!r}")
            continue
        parts = math.prod(mesh.shape[n] for n in names)
        if shape[axis] % parts:
            over = " and ".join(map(repr, names))
            problems.append(
                f"{name} of shape {shape} has size {shape[axis]} along axis {axis}, which {over} "
                f"cannot split in {parts}"
            )
    return problems


def _sizes(mesh: Mesh) -> str:
    return ", ".join(f"{name!r} of size {size}" for name, size in mesh.shape.items())


def _name(path: Any) -> str:
    return path_name(path) or "the array"


def _raise(rule: str, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"{rule}; got: {listed(problems, 10)}.")
