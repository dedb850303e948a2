"""A step as jaxprs of scalars, and the kernels that they become."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax._shared.checks import in_brief
from tracetorch_jax.functional.engines.adjoint import check_new_state, fill, inexact
from tracetorch_jax.functional.engines.native import build, kernels
from tracetorch_jax.functional.engines.native.lanes import untranslatable

Tree = Any
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Signature:
    """A step, and the structures and dtypes of what it is called with.

    Attributes:
        step: ``step(params, state, x) -> (state, out)``.
        structures: of `params`, `state` and `x`.
        dtypes: names of those of their leaves.
        x64: whether numbers are of 64 bits where nothing else is said.
    """

    step: Step
    structures: tuple[Any, Any, Any]
    dtypes: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    x64: bool

    @classmethod
    def of(cls, step: Step, params: Tree, state: Tree, xs: Tree) -> Signature:
        trees = params, state, xs
        structures = tuple(map(jax.tree.structure, trees))
        dtypes = tuple(tuple(str(a.dtype) for a in jax.tree.leaves(tree)) for tree in trees)
        return cls(step, structures, dtypes, jnp.result_type(float) == jnp.float64)  # type: ignore[arg-type]

    def unflatten(self, *leaves: Any) -> list[Any]:
        """Parameters, state and inputs from their leaves."""
        return [
            jax.tree.unflatten(s, list(a)) for s, a in zip(self.structures, leaves, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Program:
    """A step that can be compiled.

    Attributes:
        types: dtypes of what it takes and gives.
        outs: structure of its output.
        step: closed jaxpr of it, see `kernels.forward`.
        pull: closed jaxpr of its vjp, see `kernels.backward`.
    """

    types: kernels.Types
    outs: Any
    step: Any
    pull: Any

    # Layers with many states have more to hold than there are registers.

    def forward(self, lengths: bool, keep: bool) -> str:
        """The name of the compiled forward pass."""
        width = self._lanes(16)
        return _registered(self, kernels.forward, width, lengths=lengths, keep=keep)

    def backward(self, lengths: bool) -> str:
        """The name of the compiled backward pass."""
        width = self._lanes(16 if len(self.types.state) <= 4 else 8)
        return _registered(self, kernels.backward, width, lengths=lengths)

    def _lanes(self, width: int) -> int:
        dtypes = {*self.types.params, *self.types.state, *self.types.xs}
        return width // 2 if "float64" in dtypes else width


@functools.lru_cache(maxsize=1024)
def _registered(program: Program, write: Callable[..., Any], width: int, **options: bool) -> str:
    functions = [program.step] if write is kernels.forward else [program.step, program.pull]
    return build.register(write(*functions, program.types, width=width, **options))


@functools.lru_cache(maxsize=128)
def trace(signature: Signature) -> Program | str:
    """Trace a step, or say what it would have to be to be compiled."""
    P, S, X = signature.unflatten(
        *([jax.ShapeDtypeStruct((), dtype) for dtype in dtypes] for dtypes in signature.dtypes)
    )
    structure = []

    def advance(p: Tree, s: Tree, x: Tree) -> Any:
        def apply(p: Tree, s: Tree, w: list[Any]) -> Any:
            new, out = signature.step(p, s, fill(x, w))
            check_new_state(new, s)
            structure.append(jax.tree.structure(out))
            return jax.tree.leaves(new), jax.tree.leaves(out)

        # A `custom_vjp` gives way to its rule for the forward pass, as it does in training.
        return jax.vjp(apply, p, s, inexact(x))

    def pull(p: Tree, s: Tree, x: Tree, d_state: list[Any], d_outs: list[Any]) -> Any:
        return advance(p, s, x)[1]((d_state, d_outs))

    try:
        step = jax.make_jaxpr(lambda *args: advance(*args)[0])(P, S, X)
        outs = [v.aval for v in step.jaxpr.outvars[len(signature.dtypes[1]) :]]
        if not all(jnp.issubdtype(out.dtype, jnp.inexact) for out in outs):
            return f"real-valued outputs, not {', '.join(str(out.dtype) for out in outs)}"
        back = jax.make_jaxpr(pull)(P, S, X, jax.tree.leaves(S), outs)
    except Exception as error:  # what a step of a user's own raises
        return f"a step of scalars, which raises {type(error).__name__}: {in_brief(error)}"
    reason = untranslatable(step) or untranslatable(back)
    if reason is not None:
        return f"a step of operations that can be compiled, not {reason}"
    types = kernels.Types(*signature.dtypes, tuple(str(out.dtype) for out in outs))
    return Program(types, structure[0], step, back)
