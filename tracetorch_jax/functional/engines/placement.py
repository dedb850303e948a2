"""Where arrays lie on a mesh of devices, as far as their types say.

On a mesh with explicit axes, which is what `jax.make_mesh` makes, an array's type says over which
axes of the mesh it is split; inside `jax.shard_map` it says along which it varies. A loop wants a
carry whose type no step changes, so a state has to start out split as a step leaves it. On a single
device and on a mesh with automatic axes types say nothing, and nothing here does anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from tracetorch_jax.functional.engines.masks import expand_mask

Entry = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where an array lies.

    Attributes:
        mesh: a mesh with explicit axes, or None.
        spec: over which of these axes each axis of the array is split.
        varying: axes of `jax.shard_map` along which the array varies.
    """

    mesh: Any = None
    spec: tuple[Entry, ...] = ()
    varying: frozenset[str] = frozenset()

    @property
    def split(self) -> bool:
        """Whether devices hold parts of the array."""
        return any(entry is not None for entry in self.spec)

    @property
    def known(self) -> bool:
        """Whether the type says anything."""
        return self.split or bool(self.varying)

    def sharding(self, leading: int = 0) -> NamedSharding | None:
        """For an array with so many more axes in front, which stay whole."""
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, PartitionSpec(*(None,) * leading, *self.spec))

    def put(self, x: jax.Array, leading: int = 0) -> jax.Array:
        """Move an array there."""
        own = placement_of(x)
        if missing := self.varying - own.varying:
            x = jax.lax.pcast(x, tuple(sorted(missing)), to="varying")
        if self.mesh is None or own.spec == (None,) * leading + self.spec:
            return x
        return jax.sharding.reshard(x, self.sharding(leading))


def placement_of(x: Any) -> Placement:
    """Where an array lies.

    Example:
        >>> placement_of(jnp.ones(3)).split
        False
    """
    kind = jax.typeof(x)
    sharding = kind.sharding
    manual = getattr(kind, "manual_axis_type", None)
    varying: frozenset[str] = frozenset(getattr(manual, "varying", ()))
    explicit = sharding is not None and sharding.mesh.explicit_axes
    spec = tuple(sharding.spec) if explicit else ()
    spec += (None,) * (len(kind.shape) - len(spec))
    return Placement(sharding.mesh if explicit else None, spec, varying)


def is_split(tree: Any) -> bool:
    """Whether the type of any array says that devices hold parts of it."""
    return any(placement_of(leaf).split for leaf in jax.tree.leaves(tree))


def common_placement(shape: tuple[int, ...], arrays: dict[str, jax.Array]) -> Placement:
    """Where an array of this shape lies that is computed from all of these, element by element.

    Args:
        shape: of what is computed.
        arrays: by what their user calls them. Axes are counted from the end; one of another size
            than that in `shape` does not count.

    Raises:
        ValueError: two arrays are split in ways that do not go together.
    """
    entries: list[Entry] = [None] * len(shape)
    sources = [""] * len(shape)
    mesh: Any = None
    varying: frozenset[str] = frozenset()
    for name, array in arrays.items():
        own = placement_of(array)
        varying |= own.varying
        if not own.split:
            continue
        mesh = own.mesh
        for axis in range(-min(len(shape), array.ndim), 0):
            entry = own.spec[axis]
            if entry is None or array.shape[axis] != shape[axis] or entry == entries[axis]:
                continue
            here = f"`{name}` of shape {tuple(array.shape)} is split over {_axes(entry)}"
            advice = "Use jax.sharding.reshard on one of them."
            if entries[axis] is not None:
                raise ValueError(
                    f"All arrays of a step must be split alike; got {here} along axis {axis}, and "
                    f"`{sources[axis]}` over {_axes(entries[axis])}. {advice}"
                )
            for other in range(-len(shape), 0):
                if set(_names(entry)) & set(_names(entries[other])):
                    raise ValueError(
                        f"All arrays of a step must be split alike; got {here} along axis {axis}, "
                        f"and `{sources[other]}` over it along axis {other}. {advice}"
                    )
            entries[axis], sources[axis] = entry, name
    return Placement(mesh, tuple(entries), varying)


def _names(entry: Entry) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _axes(entry: Entry) -> str:
    return " and ".join(map(repr, _names(entry)))


def broadcast_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """Broadcast to the shape of `like` and to where it lies."""
    target = placement_of(like)
    x = jnp.broadcast_to(x, like.shape, out_sharding=target.sharding() if target.split else None)
    return dataclasses.replace(target, mesh=None).put(x)


def full_like(like: jax.Array, value: Any, dtype: Any = None) -> jax.Array:
    """`jax.numpy.full_like` that lies where `like` does, also where no mesh is set."""
    return placement_of(like).put(jnp.full_like(like, value, dtype))


def place_elementwise(params: Any, state: Any, xs: Any, valid: Any) -> tuple[Any, Any]:
    """State and inputs of an elementwise step, placed as it leaves the state.

    Args:
        params: pytree of arrays that broadcast against the state's.
        state: pytree of arrays of one shape.
        xs: pytree of arrays ``[T, ...]``.
        valid: mask ``[T, ...]`` of leading axes of the state, or None.

    Raises:
        ValueError: see `common_placement`; or `xs` is split along time.
    """
    check_time(xs)
    shape = jax.tree.leaves(state)[0].shape
    arrays = {
        f"{argument}{jax.tree_util.keystr(path)}": leaf
        for argument, tree in {"xs": xs, "params": params, "state": state}.items()
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
    if valid is not None:
        arrays["seq_lengths"] = expand_mask(valid, 1 + len(shape))
    target = common_placement(shape, arrays)
    if not target.known:
        return state, xs

    def put(x: jax.Array) -> jax.Array:
        return target.put(x, leading=1) if x.shape[1:] == shape else x

    return jax.tree.map(target.put, state), jax.tree.map(put, xs)


def place_state(step: Callable[..., Any], params: Any, state: Any, inputs: Any) -> Any:
    """The state of any step, placed as the step leaves it.

    Args:
        step: ``step(params, state, inputs of a step)`` gives the new state and an output.
        params: pytree of arrays.
        state: pytree of arrays.
        inputs: pytree of arrays ``[T, ...]``, T at least 1.

    Raises:
        ValueError: `inputs` are split along time.
    """
    check_time(inputs)
    if not any(placement_of(leaf).known for leaf in jax.tree.leaves((params, state, inputs))):
        return state

    def advance(params: Any, state: Any, inputs: Any) -> Any:
        return step(params, state, jax.tree.map(lambda x: x[0], inputs))[0]

    # A step spreads a placement from parameters and inputs to states, and from each state to those
    # computed from it. The longest way through n states takes n steps, so n passes are enough.
    for _ in jax.tree.leaves(state):
        new = jax.eval_shape(advance, params, state, inputs)
        leaves, structure = jax.tree.flatten(state)
        changed: Any = jax.tree.structure(new)
        if structure != changed:
            break  # the scan says what is wrong
        targets = map(placement_of, jax.tree.leaves(new))
        placed = [target.put(leaf) for target, leaf in zip(targets, leaves, strict=True)]
        state = jax.tree.unflatten(structure, placed)
    return state


def check_time(xs: Any) -> None:
    for path, x in jax.tree.leaves_with_path(xs):
        entry = placement_of(x).spec[0]
        if entry is not None:
            raise ValueError(
                f"`xs{jax.tree_util.keystr(path)}` must not be split along time, over which a loop "
                f"runs; got axis 0 of shape {tuple(x.shape)} split over {_axes(entry)}."
            )
