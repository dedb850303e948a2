"""A step over time, forwards and backwards, as the loops of one task.

Arrays are cut into tasks by row and by neuron: rows of one group, and a block of neurons, from the
first step to the last. In a task time goes in chunks of K steps, so that

- the states, and backwards the sums of the parameters' gradients, stay in registers for K steps;
- what is read and written at a time is a run of neurons per step, rather than one vector here and
  one there;
- only the state before each chunk is kept for a gradient; backwards the K states of a chunk are
  computed again, into a buffer that stays in the cache.

Sizes are read when a kernel runs, so one is compiled for a step and its types, whatever the shapes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from tracetorch_jax._shared.dtypes import wider
from tracetorch_jax.functional.engines.native.lanes import Body, Lanes

# Sizes that a task is called with, all int64: batch element of `jax.vmap`, group of rows and block
# of neurons; then
#   T, R, N  steps, rows, neurons of a row;
#   G, W     groups of rows, neurons of a block;
#   K, RB    steps of a chunk, rows that go through time together;
#   PR       0 if all rows share the parameters, 1 if each has its own.
SIZES = ("T", "R", "N", "G", "W", "K", "RB", "PR")
TASK = ", ".join(["ptr noalias %bufs", *(f"i64 %{name}" for name in ("v", "g", "b", *SIZES))])


@dataclasses.dataclass(frozen=True)
class Types:
    """Names of the dtypes of the leaves of all that a step takes and gives."""

    params: tuple[str, ...]
    state: tuple[str, ...]
    xs: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def sums(self) -> tuple[str, ...]:
        """Of the sums of the parameters' gradients."""
        return tuple(str(wider(dtype, "float32")) for dtype in self.params)

    @property
    def d_xs(self) -> tuple[str, ...]:
        """Of the inputs that have a derivative."""
        return tuple(dtype for dtype in self.xs if "float" in dtype)


Groups = list[tuple[str, tuple[str, ...]]]


@dataclasses.dataclass(frozen=True)
class Arrays:
    """What a kernel reads and writes, in order: groups of arrays, a kind and the dtype of each.

    A kind says which axes they have: ``p`` [1 or R, N], ``s`` [R, N], ``x`` [T, R, N], ``k``
    [chunks, R, N], ``l`` [R].
    """

    read: Groups
    written: Groups

    @classmethod
    def forward(cls, types: Types, lengths: bool, keep: bool) -> Arrays:
        """Parameters, states, inputs and lengths; last states, outputs and what is kept."""
        state, ends = types.state, ("int32",) * lengths
        read = [("p", types.params), ("s", state), ("x", types.xs), ("l", ends)]
        return cls(read, [("s", state), ("x", types.outs), ("k", state * keep)])

    @classmethod
    def backward(cls, types: Types, lengths: bool) -> Arrays:
        """Parameters, kept states, inputs, lengths, gradients of last states and of outputs; those
        of first states, of parameters, summed over time for each element, and of inputs.
        """
        state, ends = types.state, ("int32",) * lengths
        read = [("p", types.params), ("k", state), ("x", types.xs), ("l", ends)]
        read += [("s", state), ("x", types.outs)]
        return cls(read, [("s", state), ("s", types.sums), ("x", types.d_xs)])


def each(groups: Groups) -> list[tuple[str, str]]:
    """Kind and dtype of each array."""
    return [(kind, dtype) for kind, dtypes in groups for dtype in dtypes]


@dataclasses.dataclass(frozen=True)
class Code:
    """A task, and the arrays that it works on."""

    body: Body
    arrays: Arrays


class _Task:
    """Writes what forward and backward have in common."""

    def __init__(self, width: int, arrays: Arrays):
        self.body, self.width, self.arrays = Body(), width, arrays
        groups = [*arrays.read, *arrays.written]
        body = self.body
        self.row = body.mul("%R", "%N")  # elements of a step
        self.chunks = body.div(body.sub(body.add("%T", "%K"), 1), "%K")
        rows = body.add(body.mul("%PR", body.sub("%R", 1)), 1)
        sizes = {
            "p": body.mul(rows, "%N"),
            "s": self.row,
            "x": body.mul("%T", self.row),
            "k": body.mul(self.chunks, self.row),
            "l": "%R",
        }
        pointers = []
        for number, (kind, dtype) in enumerate(each(groups)):
            slot = body.op(f"getelementptr ptr, ptr %bufs, i64 {number}")
            base = body.op(f"load ptr, ptr {slot}")
            skip = body.mul(body.mul("%v", sizes[kind]), jnp.dtype(dtype).itemsize)
            pointers.append(body.op(f"getelementptr i8, ptr {base}, i64 {skip}"))
        rest = iter(pointers)
        self.pointers = [[next(rest) for _ in dtypes] for _, dtypes in groups]
        self.first_row = body.div(body.mul("%g", "%R"), "%G")
        self.end_row = body.div(body.mul(body.add("%g", 1), "%R"), "%G")
        self.first = body.mul("%b", "%W")
        self.end = body.smaller(body.add(self.first, "%W"), "%N")

    def widths(self, one: Callable[[Lanes, str], None]) -> None:
        """All neurons of the block: as many at a time as there are lanes, then 4, then 1."""
        body, start = self.body, self.first

        def over(lanes: Lanes, start: str, stop: str) -> None:
            body.loop(start, stop, lanes.width, lambda n, _: one(lanes, n))

        for width in dict.fromkeys((self.width, 4, 1)):
            stop = body.add(start, body.mul(body.div(body.sub(self.end, start), width), width))
            over(Lanes(body, width), start, stop)
            start = stop

    def over_rows(self, one: Callable[[Lanes, str], None]) -> None:
        """Every neuron of every row: `one` gets its place in an array ``[R, N]``."""
        body = self.body

        def row(r: str, _: Any) -> None:
            start = body.mul(r, "%N")
            self.widths(lambda lanes, n: one(lanes, body.add(start, n)))

        body.loop(self.first_row, self.end_row, 1, row)

    def over_chunks(self, reverse: bool, one: Callable[[str, str, str, str], None]) -> None:
        """Every chunk of time of every row: `one` gets its first step, its end, number and row."""
        body = self.body

        def block(start: str, _: Any) -> None:
            stop = body.smaller(body.add(start, "%RB"), self.end_row)

            def chunk(i: str, _: Any) -> None:
                c = body.sub(body.sub(self.chunks, 1), i) if reverse else i
                begin = body.mul(c, "%K")
                end = body.smaller(body.add(begin, "%K"), "%T")
                body.loop(start, stop, 1, lambda r, _: one(begin, end, c, r))

            body.loop("0", self.chunks, 1, chunk)

        body.loop(self.first_row, self.end_row, "%RB", block)

    def alive(self, lengths: list[str], begin: str, end: str, row: str) -> str:
        """The end of those steps of a chunk that lie within the row's sequence."""
        if not lengths:
            return end
        body = self.body
        place = body.op(f"getelementptr i32, ptr {lengths[0]}, i64 {row}")
        length = body.op(f"load i32, ptr {place}, align 4")
        length = body.op(f"sext i32 {length} to i64")
        return body.greater(body.smaller(end, length), begin)

    def zeros(
        self,
        lanes: Lanes,
        arrays: Sequence[str],
        dtypes: Sequence[str],
        steps: tuple[str, str],
        place: str,
    ) -> None:
        """Write 0 at some steps of arrays ``[T, R, N]``."""

        def zero(t: str, _: Any) -> None:
            at = self.body.add(self.body.mul(t, self.row), place)
            for array, dtype in zip(arrays, dtypes, strict=True):
                lanes.store(lanes.const(0, dtype), array, at, dtype)

        self.body.loop(steps[0], steps[1], 1, zero)

    def parameters(
        self, lanes: Lanes, arrays: list[str], dtypes: Sequence[str], row: str, n: str
    ) -> list[str]:
        place = self.body.add(self.body.mul(self.body.mul(row, "%PR"), "%N"), n)
        return _load(lanes, arrays, place, dtypes)


def forward(step: Any, types: Types, *, width: int, lengths: bool, keep: bool) -> Code:
    """The forward pass.

    Args:
        step: closed jaxpr of an elementwise step, from parameters, states and inputs to new states
            and outputs.
        types: of its arguments and results.
        width: number of lanes.
        lengths: whether rows have lengths of their own.
        keep: whether to write the state before each chunk.

    Returns:
        Code that works on `Arrays.forward`.
    """
    S = types.state
    task = _Task(width, Arrays.forward(types, lengths, keep))
    p, s, x, ends, last, y, kept = task.pointers
    body = task.body

    # Between chunks the state lies where the last one is to be.
    task.over_rows(lambda lanes, j: _store(lanes, _load(lanes, s, j, S), last, j, S))

    def chunk(begin: str, end: str, c: str, row: str) -> None:
        start = body.mul(row, "%N")
        stop = task.alive(ends, begin, end, row)

        def vector(lanes: Lanes, n: str) -> None:
            j = body.add(start, n)
            params = task.parameters(lanes, p, types.params, row, n)
            state = _load(lanes, last, j, S)
            if keep:
                _store(lanes, state, kept, body.add(body.mul(c, task.row), j), S)

            def one(t: str, state: list[str]) -> list[str]:
                at = body.add(body.mul(t, task.row), j)
                out = lanes.run(step, [*params, *state, *_load(lanes, x, at, types.xs)])
                _store(lanes, out[len(S) :], y, at, types.outs)
                return _rounded(lanes, out, S)

            carried = [(lanes.type(dtype), value) for dtype, value in zip(S, state, strict=True)]
            _store(lanes, body.loop(begin, stop, 1, one, carried), last, j, S)
            if lengths:
                task.zeros(lanes, y, types.outs, (stop, end), j)

        task.widths(vector)

    task.over_chunks(False, chunk)
    return Code(body, task.arrays)


def backward(step: Any, pull: Any, types: Types, *, width: int, lengths: bool) -> Code:
    """The backward pass.

    Args:
        step: as of `forward`.
        pull: closed jaxpr of the step's vjp: parameters, states, inputs, gradients of the new
            states and of the outputs to those of parameters, states and inputs.
        types: as of `forward`.
        width: number of lanes.
        lengths: whether rows have lengths of their own.

    Returns:
        Code that works on `Arrays.backward`.
    """
    P, S, X = types.params, types.state, types.xs
    task = _Task(width, Arrays.backward(types, lengths))
    p, kept, x, ends, d_last, d_y, d_s, totals, d_x = task.pointers
    body = task.body
    # The states of a chunk for one vector. On the heap, since K is only known now and the stack of
    # a thread that XLA made may be small.
    slot = max(jnp.dtype(dtype).itemsize for dtype in S) * width
    work = body.op(f"call ptr @malloc(i64 {body.mul('%K', len(S) * slot)})")

    def prepare(lanes: Lanes, j: str) -> None:
        _store(lanes, _load(lanes, d_last, j, S), d_s, j, S)
        _store(lanes, [lanes.const(0, d) for d in types.sums], totals, j, types.sums)

    task.over_rows(prepare)

    def chunk(begin: str, end: str, c: str, row: str) -> None:
        start = body.mul(row, "%N")
        stop = task.alive(ends, begin, end, row)

        def vector(lanes: Lanes, n: str) -> None:
            j = body.add(start, n)
            params = task.parameters(lanes, p, P, row, n)
            state = _load(lanes, kept, body.add(body.mul(c, task.row), j), S)

            def place(t: str, number: int) -> str:
                start = body.mul(body.sub(t, begin), len(S) * slot)
                at = body.add(start, number * slot)
                return body.op(f"getelementptr i8, ptr {work}, i64 {at}")

            def save(t: str, state: Sequence[str]) -> None:
                for number, (value, dtype) in enumerate(zip(state, S, strict=True)):
                    lanes.store(value, place(t, number), "0", dtype)

            def forth(t: str, state: list[str]) -> list[str]:
                save(t, state)
                at = body.add(body.mul(t, task.row), j)
                out = lanes.run(step, [*params, *state, *_load(lanes, x, at, X)])
                return _rounded(lanes, out, S)

            # The state before the last step is the last that is needed. In a chunk without a step
            # it is stored all the same, where nobody reads it.
            final = body.greater(body.sub(stop, 1), begin)
            types_ = [lanes.type(dtype) for dtype in S]
            state = body.loop(begin, final, 1, forth, list(zip(types_, state, strict=True)))
            save(final, state)

            def back(i: str, carry: list[str]) -> list[str]:
                t = body.sub(final, i)
                at = body.add(body.mul(t, task.row), j)
                state = [lanes.load(place(t, m), "0", dtype) for m, dtype in enumerate(S)]
                args = [*params, *state, *_load(lanes, x, at, X), *carry[: len(S)]]
                out = lanes.run(pull, [*args, *_load(lanes, d_y, at, types.outs)])
                more, d_state = out[: len(P)], out[len(P) : len(P) + len(S)]
                _store(lanes, out[len(P) + len(S) :], d_x, at, types.d_xs)
                sums = [
                    body.op(f"fadd {lanes.type(dtype)} {a}, {b}")
                    for a, b, dtype in zip(carry[len(S) :], more, types.sums, strict=True)
                ]
                return [*d_state, *sums]

            carry = [*_load(lanes, d_s, j, S), *_load(lanes, totals, j, types.sums)]
            types_ += [lanes.type(dtype) for dtype in types.sums]
            steps = body.sub(stop, begin)
            carry = body.loop("0", steps, 1, back, list(zip(types_, carry, strict=True)))
            _store(lanes, carry[: len(S)], d_s, j, S)
            _store(lanes, carry[len(S) :], totals, j, types.sums)
            if lengths:
                task.zeros(lanes, d_x, types.d_xs, (stop, end), j)

        task.widths(vector)

    task.over_chunks(True, chunk)
    body.do(f"call void @free(ptr {work})")
    return Code(body, task.arrays)


def _load(lanes: Lanes, arrays: Sequence[str], index: str, dtypes: Sequence[str]) -> list[str]:
    return [lanes.load(a, index, dtype) for a, dtype in zip(arrays, dtypes, strict=True)]


def _store(
    lanes: Lanes, values: Sequence[str], arrays: Sequence[str], index: str, dtypes: Sequence[str]
) -> None:
    for value, array, dtype in zip(values, arrays, dtypes, strict=True):
        lanes.store(value, array, index, dtype)


def _rounded(lanes: Lanes, values: Sequence[str], dtypes: Sequence[str]) -> list[str]:
    """New states with the precision of their types, as a loop that stores them would have."""
    return [
        lanes.convert(value, "float32", dtype) if dtype == "bfloat16" else value
        for value, dtype in zip(values, dtypes, strict=False)
    ]
