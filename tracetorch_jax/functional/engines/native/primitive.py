"""The kernels as primitives of JAX.

What their calls are in a compiled program depends on where it runs: on a CPU, a call of the kernel,
cut among the devices as the arrays are; on other devices, and in a program that is exported, the
scan of `adjoint`. The same scan defines derivatives of the kernels.

All arrays have a first axis, over which `jax.vmap` maps, and parameters have all axes of a state.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import (
    AbstractMesh,
    NamedSharding,
    PartitionSpec,
    get_abstract_mesh,
    use_abstract_mesh,
)

from tracetorch_jax.functional.engines import adjoint
from tracetorch_jax.functional.engines.native.handler import ATTRIBUTES
from tracetorch_jax.functional.engines.native.kernels import Arrays, each
from tracetorch_jax.functional.engines.native.program import Program, Signature, trace

# By measurement on two cores; results do not depend on them.
BLOCK = 512  # neurons that a task owns of a row; as many rows as make that up go together
GROUPS = 8  # of rows: the most tasks that a block of neurons is cut into
LANES = 16  # neurons at a time, of which a row should be a multiple
SMALL = 50_000  # updates of a state, below which one thread is faster than two


@dataclasses.dataclass(frozen=True)
class Call:
    """What is known of a call when it is traced.

    Attributes:
        signature: of the step.
        every: K, the steps of a chunk.
        lengths: how many axes the lengths of sequences have, or None if all go on to the end.
        backward: the direction.
        keep: forwards, whether the state before each chunk is an output.
    """

    signature: Signature
    every: int
    lengths: int | None
    backward: bool = False
    keep: bool = False

    @property
    def program(self) -> Program:
        traced = trace(self.signature)
        assert isinstance(traced, Program)
        return traced

    @property
    def arrays(self) -> Arrays:
        """What it takes and gives."""
        types, lengths = self.program.types, self.lengths is not None
        if self.backward:
            return Arrays.backward(types, lengths)
        return Arrays.forward(types, lengths, self.keep)

    def split(self, args: Sequence[Any]) -> list[list[Any]]:
        """The arguments by group."""
        rest = iter(args)
        return [[next(rest) for _ in dtypes] for _, dtypes in self.arrays.read]

    def results(self, args: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the results."""
        batch, steps, *shape = self.split(args)[2][0].shape
        axes = {"s": (), "x": (steps,), "k": (-(-steps // self.every),)}
        return [
            jax.ShapeDtypeStruct((batch, *axes[kind], *shape), dtype)
            for kind, dtype in each(self.arrays.written)
        ]


# Its parameters are the call, and the jaxpr that a CPU runs, in which JAX sees that a lowering has
# to know the devices.
scan_p = Primitive("tracetorch_scan")
scan_p.multiple_results = True


def scan(call: Call, *args: jax.Array) -> list[jax.Array]:
    """Run a kernel; arguments and results as `Call.arrays` lists them."""
    kinds = tuple((a.shape, a.dtype) for a in args)
    return scan_p.bind(*args, call=call, on_cpu=_on_cpu(call, kinds, get_abstract_mesh()))


@functools.lru_cache(maxsize=256)
def _on_cpu(call: Call, kinds: Any, mesh: Any) -> Any:
    args = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in kinds]
    return jax.make_jaxpr(functools.partial(_partitioned, call))(*args)


@scan_p.def_impl  # type: ignore[untyped-decorator]
def _implement(*args: jax.Array, call: Call, on_cpu: Any) -> Any:
    with jax.disable_jit(False):  # it has no other way to run
        return jax.jit(functools.partial(scan, call))(*args)


@scan_p.def_abstract_eval  # type: ignore[untyped-decorator]
def _abstract(*args: Any, call: Call, on_cpu: Any) -> list[Any]:
    return [jax.core.ShapedArray(r.shape, r.dtype) for r in call.results(args)]


# The kernel.


def _run(call: Call, *args: jax.Array) -> list[jax.Array]:
    """Call the kernel, with all axes but time joined into rows and neurons."""
    wanted = call.results(args)
    if args[0].shape[0] == 0:  # mapped over nothing
        return [jnp.zeros(w.shape, w.dtype) for w in wanted]
    params, _, (x, *_), *_ = call.split(args)
    batch, steps, *shape = x.shape
    leading, own = _layout(tuple(shape), [p.shape[1:] for p in params], call.lengths)
    R, N = math.prod(shape[:leading]), math.prod(shape[leading:])

    def pack(kind: str, a: jax.Array) -> jax.Array:
        if kind == "p":
            rows = shape[:leading] if own else (1,) * leading
            a = jnp.broadcast_to(a, (batch, *rows, *shape[leading:]))
            return a.reshape(batch, math.prod(rows), N)
        if kind == "l":
            a = a.reshape(*a.shape, *(1,) * (leading + 1 - a.ndim))
            return jnp.broadcast_to(a, (batch, *shape[:leading])).reshape(batch, R)
        return a.reshape(*a.shape[: a.ndim - len(shape)], R, N)

    if call.backward:
        name = call.program.backward(call.lengths is not None)
    else:
        name = call.program.forward(call.lengths is not None, call.keep)
    updates = batch * steps * R * N * len(call.program.types.state)
    outs = jax.ffi.ffi_call(
        name,
        [
            jax.ShapeDtypeStruct((*w.shape[: len(w.shape) - len(shape)], R, N), w.dtype)
            for w in wanted
        ],
    )(
        *map(pack, [kind for kind, _ in each(call.arrays.read)], args),
        **_attributes(R, N, min(call.every, steps), own, updates),
    )
    return [out.reshape(w.shape) for out, w in zip(outs, wanted, strict=True)]


def _layout(
    shape: tuple[int, ...], params: Sequence[tuple[int, ...]], lengths: int | None
) -> tuple[int, bool]:
    """How many axes make the rows, and whether each row has parameters of its own."""
    varying = [axis for axis in range(len(shape)) if any(p[axis] != 1 for p in params)]
    shared = min(varying, default=len(shape) - 1)
    least = lengths or 0
    if shared >= least and (math.prod(shape[shared:]) % LANES == 0 or shared == least):
        return shared, False
    # Short rows would leave most lanes empty, so they are joined.
    return least, shared < least or least > 0


def _attributes(R: int, N: int, every: int, own: bool, updates: int) -> dict[str, np.int64]:
    block = min(BLOCK, -(-N // GROUPS)) if R == 1 else BLOCK
    values = {
        "block": -(-block // LANES) * LANES,
        "chunk": every,
        # Four rows at least, where there are as many: what a task reads of a step is one run of
        # memory, which should not be short.
        "groups": min(R, GROUPS, max(2, R // 4)),
        "parameter_rows": int(own),
        "rows": max(1, BLOCK // N),
        "threads": 1 if updates < SMALL else _cores(),
    }
    return {name: np.int64(values[name]) for name in ATTRIBUTES}


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


# The same by scan.


def _scan(call: Call, *args: jax.Array) -> list[jax.Array]:
    one = functools.partial(_scan_back if call.backward else _scan_forth, call)
    if args[0].shape[0] == 1:
        return [out[None] for out in one(*(a[0] for a in args))]
    return jax.vmap(one)(*args)


def _scan_forth(call: Call, *args: jax.Array) -> list[jax.Array]:
    p, s, x, lengths = call.split(args)
    params, state, xs = call.signature.unflatten(p, s, x)
    inputs, step = (xs, _alive(lengths, x[0].shape[0])), call.signature.step
    advance = adjoint.forwards(step, params, state)
    if call.keep:
        last, ys, kept = adjoint.keep_states(advance, 1, call.every, state, inputs)
        kept = [a[: -(-x[0].shape[0] // call.every)] for a in jax.tree.leaves(kept)]
    else:
        (last, ys), kept = jax.lax.scan(advance, state, inputs), []
    return [*jax.tree.leaves(last), *jax.tree.leaves(ys), *kept]


def _scan_back(call: Call, *args: jax.Array) -> list[jax.Array]:
    p, kept, x, lengths, d_last, d_ys = call.split(args)
    kept = [jnp.concatenate([a, a[-1:]]) for a in kept]  # the place that nobody reads
    params, state, xs = call.signature.unflatten(p, kept, x)
    totals, d_state, d_xs, _ = adjoint.backwards(
        call.signature.step,
        1,
        call.every,
        params,
        state,
        (xs, _alive(lengths, x[0].shape[0])),
        (d_last, d_ys),
    )
    return [*d_state, *totals, *d_xs]


def _alive(lengths: Sequence[jax.Array], steps: int) -> jax.Array | None:
    if not lengths:
        return None
    return jnp.arange(steps).reshape(-1, *(1,) * lengths[0].ndim) < lengths[0]


# Rules.


def _partitioned(call: Call, *args: jax.Array) -> Any:
    """The kernel on every device for its own part of the arrays."""
    # Without this, XLA would gather all arrays of a program that it splits, on every device.
    params, _, (x, *_), *_ = call.split(args)
    return _partitioning(call, x.ndim - 2, tuple(a.shape[1:] for a in params))(*args)


@functools.lru_cache(maxsize=256)
def _partitioning(call: Call, ndim: int, params: tuple[tuple[int, ...], ...]) -> Any:
    run = custom_partitioning(functools.partial(_run, call))
    axes = [f"a{axis}" for axis in range(ndim)]
    names = {
        "s": ["v", *axes],
        "x": ["v", "t", *axes],
        "k": ["v", "c", *axes],
        "l": ["v", *axes[: call.lengths or 0]],
    }
    factors = []
    for number, (kind, _) in enumerate(each(call.arrays.read)):
        if kind == "p":
            sizes = params[number]
            own = [a if n != 1 else f"u{number}{a}" for a, n in zip(axes, sizes, strict=True)]
            factors.append(["v", *own])
        else:
            factors.append(names[kind])
    results = [names[kind] for kind, _ in each(call.arrays.written)]
    rule = " -> ".join(
        ", ".join(" ".join(factor) for factor in side) for side in (factors, results)
    )
    # Whole on every device: what a loop runs over. In the order in which the rule names them.
    order = dict.fromkeys(name for side in (factors, results) for f in side for name in f)
    whole = tuple(name for name in order if name in ("t", "c"))

    def partition(mesh: Any, given: Any, wanted: Any) -> Any:
        # XLA may offer arrays that are split in ways that do not go together, and moves them to
        # where they are asked for. What the inputs are split over decides, then the others.
        arrays = [*zip(given, factors, strict=True), *zip(wanted, results, strict=True)]
        arrays.sort(key=lambda pair: "t" not in pair[1])
        split = _split_of([(array.sharding, names) for array, names in arrays], whole)

        def shardings(named: list[list[str]]) -> list[NamedSharding]:
            return [NamedSharding(mesh, PartitionSpec(*map(split.get, names))) for names in named]

        def run_part(*args: jax.Array) -> list[jax.Array]:
            # A part is on one device. On a mesh with explicit axes that is still set, JAX would
            # ask for shardings in it, which XLA has no more use for.
            with use_abstract_mesh(AbstractMesh((), ())):
                return _run(call, *args)

        return mesh, run_part, shardings(results), tuple(shardings(factors))

    run.def_partition(partition=partition, sharding_rule=rule, need_replication_factors=whole)
    return run


def _split_of(arrays: Sequence[tuple[Any, list[str]]], whole: tuple[str, ...]) -> dict[str, Any]:
    """Over which axes of a mesh each named axis is split; the first array that says so decides."""
    found: dict[str, Any] = {}
    taken: set[str] = set()
    for sharding, names in arrays:
        spec = tuple(sharding.spec) if isinstance(sharding, NamedSharding) else ()
        for name, entry in zip(names, spec, strict=False):
            over = {entry} if isinstance(entry, str) else set(entry or ())
            if over and name not in whole and name not in found and not over & taken:
                found[name] = entry
                taken |= over
    return found


def _lower(ctx: Any, *args: Any, call: Call, on_cpu: Any) -> Any:
    return mlir.lower_fun(functools.partial(_scan, call), multiple_results=True)(ctx, *args)


def _lower_cpu(ctx: Any, *args: Any, call: Call, on_cpu: Any) -> Any:
    # The kernel is known to this process alone, so a program that leaves it takes the scan.
    if ctx.module_context.lowering_parameters.for_export:
        return _lower(ctx, *args, call=call, on_cpu=on_cpu)
    return mlir.lower_fun(jaxpr_as_fun(on_cpu), multiple_results=True)(ctx, *args)


mlir.register_lowering(scan_p, _lower)
mlir.register_lowering(scan_p, _lower_cpu, platform="cpu")


def _batch(args: Any, dims: Any, *, call: Call, on_cpu: Any) -> tuple[Any, Any]:
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)

    def front(a: jax.Array, dim: int | None) -> jax.Array:
        a = jnp.broadcast_to(a, (size, *a.shape)) if dim is None else jnp.moveaxis(a, dim, 0)
        return a.reshape(size * a.shape[1], *a.shape[2:])

    outs = scan(call, *map(front, args, dims))
    inner = next(a.shape[d == 0] for a, d in zip(args, dims, strict=True))
    return [out.reshape(size, inner, *out.shape[1:]) for out in outs], [0] * len(outs)


batching.primitive_batchers[scan_p] = _batch


def _differentiate(primals: Any, tangents: Any, *, call: Call, on_cpu: Any) -> Any:
    real = [adjoint.is_inexact(a) for a in primals]

    def apply(*moving: jax.Array) -> list[jax.Array]:
        rest = iter(moving)
        return _scan(call, *(next(rest) if r else a for a, r in zip(primals, real, strict=True)))

    moving = [a for a, r in zip(primals, real, strict=True) if r]
    along = [ad.instantiate_zeros(t) for t, r in zip(tangents, real, strict=True) if r]
    return jax.jvp(apply, moving, along)


ad.primitive_jvps[scan_p] = _differentiate
