"""Many live streams in one batch."""

from __future__ import annotations

import functools
import threading
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import Exported

from tracetorch_jax._shared.checks import as_array, check_integer
from tracetorch_jax._shared.dtypes import as_given, in_words, type_of
from tracetorch_jax._shared.trees import differences, leaves_by_name, listed
from tracetorch_jax.export._forms import initial_carry, step_arguments


class Streams:
    """Run many live streams as one batch; each has its own carry.

    A stream has a name and one of `capacity` slots in a batch. It joins and leaves at any time, and
    only the streams that have a sample take a step; the carries of the others stay as they are.
    What a stream gets does not depend on its slot nor on what the others do, a NaN of theirs
    included, if the model computes each row of its batch from that row alone, as the layers and
    stacks of this library do. All is compiled when the object is made and never again. Several
    threads may use it; their calls wait for one another.

    Args:
        program: what `step` gave or `load` read, for any number of streams: the first size of its
            shape a name, all others numbers, as of ``"b, 20"``.
        capacity: how many streams there may be at a time. Every step computes as many, however many
            have a sample.

    Raises:
        TypeError: `program` is not a `jax.export.Exported`, or `capacity` no integer.
        ValueError: `program` is no step, or one for other devices; takes one number of streams only
            or an input whose size is open; has a state or an output without one axis of streams;
            takes variables (``bake=False``); or draws random numbers, which would depend on the
            slot. `capacity` below 1.

    Example:
        >>> cell = snn.LI(2, beta=0.5)
        >>> variables = cell.init(jax.random.key(0), None, jnp.zeros((1, 2)))
        >>> streams = export.Streams(export.step(cell, variables, "b, 2"), capacity=8)
        >>> streams.join("left")
        >>> streams.join("right")
        >>> streams.step({"left": np.ones(2), "right": np.zeros(2)})["left"].tolist()
        [0.5, 0.5]
        >>> streams.step({"left": np.ones(2)})["left"].tolist()
        [0.75, 0.75]
        >>> streams.carry("right")["mem"].tolist()
        [[0.0, 0.0]]
    """

    def __init__(self, program: Exported, *, capacity: int) -> None:
        if not isinstance(program, Exported):
            raise TypeError(
                f"`program` must be a jax.export.Exported, as export.step gives it; got "
                f"{type(program).__name__}."
            )
        self._capacity = check_integer("capacity", capacity)
        state, x = _check(program)
        of, *sizes = x.shape
        _, y = jax.tree.unflatten(program.out_tree, program.out_avals)
        axes, output_axes = (
            jax.tree.map(functools.partial(_axis_of, str(of)), tree) for tree in (state, y)
        )
        one, xs = (
            jax.ShapeDtypeStruct((number, *sizes), x.dtype) for number in (1, self._capacity)
        )
        fresh, carry = initial_carry(program, one), initial_carry(program, xs)
        self._sample = jax.ShapeDtypeStruct(tuple(sizes), x.dtype)
        self._fresh, self._carry = fresh, carry
        self._slots: dict[Hashable, int] = {}
        self._free = list(reversed(range(self._capacity)))
        self._lock = threading.Lock()

        # Compiled now, so that no sample waits for it and what cannot run is an error here.
        active = jax.ShapeDtypeStruct((self._capacity,), bool)
        slot = jax.ShapeDtypeStruct((), jnp.int32)
        advance = functools.partial(_advance, program, axes, output_axes)
        put, take = functools.partial(_put, axes), functools.partial(_take, axes)
        self._advance = jax.jit(advance, donate_argnums=0).lower(carry, xs, active).compile()
        self._put = jax.jit(put, donate_argnums=0).lower(carry, fresh, slot).compile()
        self._take = jax.jit(take).lower(carry, slot).compile()

    @property
    def capacity(self) -> int:
        """How many streams there may be at a time."""
        return self._capacity

    @property
    def streams(self) -> tuple[Hashable, ...]:
        """Names of the streams that are there, in the order in which they joined."""
        with self._lock:
            return tuple(self._slots)

    def join(self, name: Hashable, carry: Any = None) -> None:
        """Let a stream begin, or go on.

        Args:
            name: of the stream, anything hashable.
            carry: the states it goes on from, as the method `carry` gives them; None for zeros,
                from which every layer of this library starts.

        Raises:
            TypeError: `name` is not hashable.
            ValueError: a stream of this name is there, or `capacity` streams are; a carry with
                other states, shapes or dtypes than those of the program.
        """
        one = self._fresh if carry is None else self._checked(carry)
        with self._lock:
            if name in self._slots:
                raise ValueError(f"`name` must be one that no stream has; got {name!r}.")
            if not self._free:
                raise ValueError(
                    f"`capacity` must be greater than the number of streams for {name!r} to join; "
                    f"got {self._capacity}, and as many streams."
                )
            slot = self._free[-1]
            self._carry = self._put(self._carry, one, np.int32(slot))
            self._slots[name] = self._free.pop()

    def leave(self, name: Hashable) -> None:
        """Let a stream end. Another may have its slot and its name from here on.

        Args:
            name: of the stream.

        Raises:
            TypeError: `name` is not hashable.
            ValueError: there is no stream of this name.
        """
        with self._lock:
            slot = self._slot("name", name)
            del self._slots[name]
            self._free.append(slot)

    def step(self, samples: Mapping[Any, Any]) -> dict[Any, Any]:
        """Advance the streams that have a sample by one step, all at once.

        Args:
            samples: by name of the stream, the next input of each: the shape that the program takes
                without the axis of streams, and its dtype. NumPy's and Python's 64-bit numbers
                stand for those of 32 bits, as everywhere in JAX.

        Returns:
            The outputs by the same names, as NumPy arrays without the axis of streams.

        Raises:
            TypeError: `samples` is not a dict, or a sample no array.
            ValueError: a name that no stream has; a sample of another shape or dtype. No stream has
                advanced then.
        """
        if not isinstance(samples, Mapping):
            raise TypeError(
                f"`samples` must be a dict from names of streams to their inputs; got "
                f"{type(samples).__name__}."
            )
        rows = {name: self._row(name, sample) for name, sample in samples.items()}
        with self._lock:
            slots = {name: self._slot("samples", name) for name in rows}
            if not slots:
                return {}
            xs = np.zeros((self._capacity, *self._sample.shape), self._sample.dtype)
            active = np.zeros(self._capacity, bool)
            for name, slot in slots.items():
                xs[slot], active[slot] = rows[name], True
            self._carry, ys = self._advance(self._carry, xs, active)
        leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, ys))
        # Copies: a view of one row would keep those of all slots.
        return {
            name: jax.tree.unflatten(structure, [np.array(y[slot]) for y in leaves])
            for name, slot in slots.items()
        }

    def carry(self, name: Hashable) -> Any:
        """The states of a stream now: to save, to `join` with elsewhere, or to run it alone.

        Args:
            name: of the stream.

        Returns:
            A copy of the carry, for a batch of one, as `initial_carry` gives it and the program
            takes it.

        Raises:
            TypeError: `name` is not hashable.
            ValueError: there is no stream of this name.
        """
        with self._lock:
            return self._take(self._carry, np.int32(self._slot("name", name)))

    def _slot(self, argument: str, name: Hashable) -> int:
        if name not in self._slots:
            rule = "be" if argument == "name" else "hold only names"
            raise ValueError(f"`{argument}` must {rule} of streams that have joined; got {name!r}.")
        return self._slots[name]

    def _row(self, name: Hashable, sample: Any) -> np.ndarray[Any, Any]:
        """A sample that fits into a row of the input."""
        want = self._sample
        row: Any = sample
        if not isinstance(sample, np.ndarray):
            row = as_array(f"samples[{name!r}]", sample, convert=np.asarray)
        if row.shape == want.shape and row.dtype == want.dtype:
            return row
        numeric = row.dtype.kind in "iuf"
        held = jax.dtypes.canonicalize_dtype(row.dtype) if numeric else row.dtype
        if row.shape != want.shape or held != want.dtype:
            raise ValueError(
                f"`samples[{name!r}]` must be {type_of(want)}, one input of the program; got "
                f"{type_of(row)}."
            )
        cast = row.astype(want.dtype)
        if row.dtype.kind in "iu" and not np.array_equal(cast, row):
            raise ValueError(
                f"`samples[{name!r}]` must hold integers that {want.dtype} holds; got {row}."
            )
        return cast

    def _checked(self, carry: Any) -> Any:
        """A carry of one stream, in the containers that the program has."""
        want = leaves_by_name("carry", self._fresh)
        got = {name: as_given(x) for name, x in leaves_by_name("carry", carry).items()}
        if problems := differences(got, want, type_of):
            raise ValueError(
                f"`carry` must be that of one stream of the program, {list(want)}; it "
                f"{listed(problems)}."
            )
        return jax.tree.unflatten(jax.tree.structure(self._fresh), [got[name] for name in want])


def _check(program: Exported) -> tuple[Any, Any]:
    """What a step takes of all streams, the carry and the input, if a stream can have a row."""
    variables, carry, x, named = step_arguments(program)
    if variables:
        raise ValueError("`program` must hold its variables; got one made with bake=False.")
    if named:
        raise ValueError(
            "`program` must draw no random numbers, since those of a stream would depend on its "
            "slot; got one made with `rngs`."
        )
    of, *sizes = x.shape or (0,)
    if not str(of).isidentifier() or not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            f"`program` must take any number of streams along its first axis, and be of fixed size "
            f'along the others, such as "b, 20"; got {in_words(x.shape)}.'
        )
    return carry, x


def _axis_of(of: str, array: Any) -> int:
    """The axis of streams of a state or an output."""
    axes = [axis for axis, size in enumerate(array.shape) if not isinstance(size, int)]
    if [str(array.shape[axis]) for axis in axes] != [of]:
        raise ValueError(
            f"`program` must have one axis of streams, {of}, in each state and output, and be of "
            f"fixed size along the others; got {type_of(array)}."
        )
    return axes[0]


def _advance(
    program: Exported, state_axes: Any, output_axes: Any, carry: Any, xs: Any, active: Any
) -> tuple[Any, Any]:
    """One step of every slot, kept where `active`; of the outputs, slots are the first axis."""
    new, ys = program.call(carry, xs)

    def kept(axis: int, new: jax.Array, old: jax.Array) -> jax.Array:
        others = [other for other in range(new.ndim) if other != axis]
        return jnp.where(jnp.expand_dims(active, others), new, old)

    ys = jax.tree.map(lambda axis, y: jnp.moveaxis(y, axis, 0), output_axes, ys)
    return jax.tree.map(kept, state_axes, new, carry), ys


def _put(axes: Any, carry: Any, one: Any, slot: Any) -> Any:
    """The carry of all slots with that of one stream in a slot."""
    put = jax.lax.dynamic_update_index_in_dim
    return jax.tree.map(lambda axis, every, own: put(every, own, slot, axis), axes, carry, one)


def _take(axes: Any, carry: Any, slot: Any) -> Any:
    """The carry of the stream in a slot, for a batch of one."""
    take = jax.lax.dynamic_index_in_dim
    return jax.tree.map(lambda axis, state: take(state, slot, axis), axes, carry)
