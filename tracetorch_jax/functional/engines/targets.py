"""The kinds of device that the fused kernel is compiled for, each with its part of Pallas.

NVIDIA's cards have two parts. Mosaic GPU is what JAX keeps, but it needs a Hopper and jax 0.11.
Triton runs on all of them; JAX has announced its removal.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.extend.core import Literal

Function = Callable[..., Any]


def in_groups(
    unroll: int,
    size: Any,
    load: Callable[[Any], Any],
    one: Callable[[Any, Any, Any], Any],
    carry: Any,
) -> Any:
    """Steps 0 to `size`, in groups whose loads do not wait for one another."""
    if isinstance(size, int):
        unroll = min(unroll, size)

    def steps(first: Any, number: int, carry: Any) -> Any:
        loaded = [load(first + u) for u in range(number)]
        for u in range(number):
            carry = one(first + u, loaded[u], carry)
        return carry

    groups = size // unroll
    carry = jax.lax.fori_loop(0, groups, lambda g, c: steps(g * unroll, unroll, c), carry)
    return jax.lax.fori_loop(groups * unroll, size, lambda i, c: steps(i, 1, c), carry)


def in_a_queue(
    ahead: int,
    size: Any,
    load: Callable[[Any], Any],
    one: Callable[[Any, Any, Any], Any],
    carry: Any,
) -> Any:
    """Steps 0 to `size`, with as many others loaded as wait in a queue."""

    def load_any(i: Any) -> Any:
        return load(jnp.minimum(i, size - 1))

    def step(i: Any, state: Any) -> Any:
        (first, *others), carry = state
        return [*others, load_any(i + ahead)], one(i, first, carry)

    queue = [load_any(i) for i in range(ahead)]
    return jax.lax.fori_loop(0, size, step, (queue, carry))[1]


@dataclasses.dataclass(frozen=True)
class Target:
    """How a kind of device wants the work cut.

    Attributes:
        rows: rows of 128 neurons that one program owns.
        time_bytes: on-chip memory for a block of time, of all that is streamed; None for no limit,
            which makes all of time one block.
        ahead: values of a neuron to load before they are needed.
        make: gives what takes the arguments of `pl.pallas_call` and does what that does, from how
            many values of a neuron stay on the chip, whether a program reads what it has written,
            and `part`.
        part: the module of Pallas for these devices alone, if there is one. It is imported where it
            is used, since a JAX may come without it.
        since: the first version of JAX whose `part` compiles these kernels.
        spell_out: rewrites a step, or its gradient, in operations that `part` knows.
        walk: the loop over time.
    """

    rows: int
    time_bytes: int | None
    ahead: int
    make: Callable[[int, bool, Any], Function]
    part: str | None = None
    since: tuple[int, ...] = ()
    spell_out: Callable[[Function], Function] = lambda function: function
    walk: Function = in_groups

    def pallas_call(self, resident: int, rereads: bool = False) -> Function:
        """What to call in place of `pl.pallas_call`; arguments as those of `make`."""
        part = importlib.import_module(self.part) if self.part else None
        return self.make(resident, rereads, part)

    @property
    def available(self) -> bool:
        if jax.__version_info__ < self.since:
            return False
        try:
            self.pallas_call(1)
        except (AttributeError, ImportError):
            return False
        return True


def _triton(resident: int, _: bool, triton: Any) -> Function:
    # A row of 128 neurons is four per thread of one warp, or one per thread of four; the former
    # loads 16 bytes at a time, the latter leaves each thread more registers.
    params = triton.CompilerParams(num_warps=1 if resident <= 16 else 4)
    return functools.partial(pl.pallas_call, compiler_params=params)


def _mosaic_gpu(_: int, rereads: bool, mosaic: Any) -> Function:
    # By default all threads wait for one another before and after every write, in case one of them
    # reads what another wrote. They need not where nothing is read that the kernel writes.
    params = mosaic.CompilerParams(unsafe_no_auto_barriers=not rereads)

    def call(
        kernel: Function,
        *,
        grid: tuple[int, int],
        in_specs: Any,
        out_specs: Any,
        out_shape: Any,
        name: str,
    ) -> Function:
        del in_specs, out_specs  # A program takes its row, ``[128]``, instead of a block of one.

        def body(*refs: Any) -> None:
            row = jax.lax.axis_index("row")

            def own(ref: Any) -> Any:
                return ref.at[row] if len(ref.shape) == 2 else ref.at[:, row]

            kernel(*jax.tree.map(own, refs))

        return mosaic.kernel(
            body,
            out_type=out_shape,
            grid=grid[:1],
            grid_names=("row",),
            compiler_params=params,
            kernel_name=name,
        )

    return call


def _tpu(_: int, __: bool, mosaic: Any) -> Function:
    # Neurons are independent, so several cores may share their blocks. Blocks of time must run in
    # order on one core, since each starts from the state that the one before left.
    params = mosaic.CompilerParams(dimension_semantics=("parallel", "arbitrary"))
    return functools.partial(pl.pallas_call, compiler_params=params)


def _interpreter(_: int, __: bool, ___: None) -> Function:
    return functools.partial(pl.pallas_call, interpret=True)


class UnknownOperation(Exception):
    """Mosaic GPU cannot compile this step, but Triton may."""


# Operations on real numbers that Mosaic GPU of every jax from 0.11 on compiles.
_KNOWN = frozenset(
    "abs add and atan2 broadcast_in_dim clamp convert_element_type cos div eq erf exp exp2 ge gt "
    "integer_pow le log logistic lt max min mul ne neg not one_minus_square optimization_barrier "
    "or reshape round rsqrt select_n sign sin square squeeze sub tanh xor".split()
)
# Where a call keeps what it calls. Rules for differentiation are no longer needed.
_CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def _spell_out(function: Function) -> Function:
    """Take calls apart, and write sums of cotangents as sums, since Mosaic GPU knows neither."""

    @functools.wraps(function)
    def spelt(*args: Any) -> Any:
        jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(out), _replay(jaxpr, jax.tree.leaves(args)))

    return spelt


def _replay(closed: Any, args: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(atoms: Sequence[Any]) -> list[Any]:
        return [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]

    for eqn in jaxpr.eqns:
        name, operands = eqn.primitive.name, read(eqn.invars)
        if name == "add_any":
            results = [jax.lax.add(*operands)]
        elif name == "reshape" and operands[0].shape == eqn.outvars[0].aval.shape:
            results = operands  # It changes the sharding alone, which has no meaning in a kernel.
        elif name in _CALLS:
            results = _replay(eqn.params[_CALLS[name]], operands)
        elif name not in _KNOWN and TRITON.available:
            raise UnknownOperation(name)
        else:
            results = eqn.primitive.bind(*operands, **eqn.params)
            results = results if eqn.primitive.multiple_results else [results]
        values.update(zip(eqn.outvars, results, strict=True))
    return read(jaxpr.outvars)


_PALLAS = "jax.experimental.pallas"
TRITON = Target(1, None, 24, _triton, f"{_PALLAS}.triton")
MOSAIC_GPU = Target(
    1, None, 8, _mosaic_gpu, f"{_PALLAS}.mosaic_gpu", (0, 11), _spell_out, in_a_queue
)
TPU = Target(32, 4 * 2**20, 12, _tpu, f"{_PALLAS}.tpu")
INTERPRETER = Target(1, None, 1, _interpreter)


def gpu() -> Target:
    """Mosaic GPU for NVIDIA's cards from Hopper on, and Triton for all others."""
    # Where there is no card to ask, as where a program is exported, Hopper is assumed.
    capability = getattr(jax.devices()[0], "compute_capability", "9.0")
    major = capability.partition(".")[0]
    nvidia = major.isdecimal()  # AMD's are like "gfx942"
    if not (nvidia and MOSAIC_GPU.available):
        return TRITON
    # Once JAX has removed Triton, older cards have Mosaic GPU or nothing.
    return MOSAIC_GPU if int(major) >= 9 or not TRITON.available else TRITON
