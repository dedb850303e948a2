"""A step as jaxprs, and the kernels that they become."""

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


SETTINGS = ("jax_enable_x64", "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")


@dataclasses.dataclass(frozen=True)
class Signature:
    """A step, and the structures and dtypes of what it is called with.

    Attributes:
        step: ``step(params, state, x) -> (state, out)``.
        structures: of `params`, `state` and `x`.
        dtypes: names of those of their leaves.
        weak: which leaves of `params` and `x` are plain numbers, which take the type of others.
        shape: of each of them, parameters broadcast.
        settings: of JAX, that may change what a step does.
    """

    step: Step
    structures: tuple[Any, Any, Any]
    dtypes: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    weak: tuple[tuple[bool, ...], tuple[bool, ...], tuple[bool, ...]]
    shape: tuple[int, ...]
    settings: tuple[Any, ...]

    @classmethod
    def of(cls, step: Step, params: Tree, state: Tree, xs: Tree) -> Signature:
        trees = params, state, xs
        structures: Any = tuple(map(jax.tree.structure, trees))
        dtypes: Any = tuple(tuple(str(a.dtype) for a in jax.tree.leaves(tree)) for tree in trees)
        weak: Any = tuple(
            tuple(jax.typeof(a).weak_type for a in jax.tree.leaves(tree)) for tree in trees
        )
        shape = jax.tree.leaves(state)[0].shape
        settings = tuple(getattr(jax.config, name, None) for name in SETTINGS)
        return cls(step, structures, dtypes, weak, shape, settings)

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

    def forward(self, lengths: bool, keep: bool) -> str:
        """The name of the compiled forward pass."""
        width = self._lanes(16)
        return _registered(self, kernels.forward, width, lengths=lengths, keep=keep)

    def backward(self, lengths: bool) -> str:
        """The name of the compiled backward pass."""
        # With more states there is more to hold than there are registers, by measurement.
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
    """Trace a step, or say what it would have to be to be compiled.

    Raises:
        TypeError: as `adjoint.check_new_state`, or what the step raises.
        ValueError: as `adjoint.check_new_state`, or what the step raises.
    """
    shape = signature.shape
    P, S, X = signature.unflatten(
        *(
            [jax.ShapeDtypeStruct(shape, d, weak_type=w) for d, w in zip(dtypes, weak, strict=True)]
            for dtypes, weak in zip(signature.dtypes, signature.weak, strict=True)
        )
    )
    new, out = jax.eval_shape(signature.step, P, S, X)
    check_new_state(new, S)
    outs = jax.tree.leaves(out)
    for y in outs:
        if y.shape != shape or not jnp.issubdtype(y.dtype, jnp.inexact):
            return f"real-valued outputs of the state's shape {shape}, not {y.shape} of {y.dtype}"

    def advance(p: Tree, s: Tree, x: Tree) -> Any:
        def apply(p: Tree, s: Tree, w: list[Any]) -> Any:
            return tuple(map(jax.tree.leaves, signature.step(p, s, fill(x, w))))

        # A `custom_vjp` gives way to its rule for the forward pass, as it does in training.
        return jax.vjp(apply, p, s, inexact(x))

    def pull(p: Tree, s: Tree, x: Tree, d_state: list[Any], d_outs: list[Any]) -> Any:
        return advance(p, s, x)[1]((d_state, d_outs))

    try:
        step = jax.make_jaxpr(lambda *args: advance(*args)[0])(P, S, X)
        back = jax.make_jaxpr(pull)(P, S, X, jax.tree.leaves(S), outs)
    except Exception as error:  # it may have no derivative, which only a gradient needs
        return f"a step that can be differentiated, not one that raises {in_brief(error)}"
    if step.effects or back.effects:
        return "a step without effects, such as what jax.debug.print has"
    reason = untranslatable(step) or untranslatable(back)
    if reason is not None:
        return f"a step of operations that can be compiled, not {reason}"
    types = kernels.Types(*signature.dtypes, tuple(str(y.dtype) for y in outs))
    return Program(types, jax.tree.structure(out), step, back)
