"""Recurrence between neurons, in every front end."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from tracetorch_jax import functional
from tracetorch_jax._core.cell import AbstractCell, Recorded
from tracetorch_jax._core.sequence_cell import SequenceCell
from tracetorch_jax._core.unroll import AbstractUnroll, check_cell
from tracetorch_jax._shared.checks import CALL, as_array, cell_call, check_carry, check_front_end
from tracetorch_jax._shared.dtypes import wider
from tracetorch_jax.functional.engines.feedback import add_feedback
from tracetorch_jax.functional.engines.masks import Valid
from tracetorch_jax.functional.engines.unroll import Engine
from tracetorch_jax.functional.steps import is_stochastic

Carry = dict[str, Any]


def weak(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A first kernel for the default feedback: orthogonal, with gain 0.3."""
    # JAX decomposes no matrix of half precision.
    return jax.nn.initializers.orthogonal(0.3)(key, shape, wider(dtype, jnp.float32)).astype(dtype)


@dataclasses.dataclass(init=False, repr=False, eq=False)
class AbstractRecurrent(SequenceCell):
    """A cell that gets its own last output back: all but where parameters are kept."""

    front_end: ClassVar[Any]
    cell: Any
    feedback: Any = None

    def check_fields(self, cell: Any, feedback: Any) -> None:
        """Check the arguments of the constructor."""
        check_cell(cell, self.front_end)
        kind = type(cell).__name__
        if feedback is None and not isinstance(cell, AbstractCell):
            raise ValueError(
                f"`feedback` must be given for {kind}, since only a trace layer tells its size; "
                "got None."
            )
        if feedback is None and cell.dim != -1:
            raise ValueError(
                f"`feedback` must be given for {kind} with dim={cell.dim}, since the default one "
                "mixes the last axis; got None."
            )
        module, keeps_state = self.front_end.module, (self.front_end.cell, AbstractUnroll)
        if feedback is None:
            return
        check_front_end("feedback", feedback, module)
        if not isinstance(feedback, module) or isinstance(feedback, keeps_state):
            got = type(feedback).__name__ if isinstance(feedback, module) else repr(feedback)
            raise TypeError(
                f"`feedback` must be a module without a state, such as Dense or Conv; got {got}."
            )

    @property
    def num_feature_axes(self) -> int:
        """Axes of a step's tensor that are not batch axes: a convolution mixes more than a cell."""
        return max(self.cell.num_feature_axes, self.front_end.feature_axes(self.feedback) or 0)

    def fresh_carry(self, key: Any, input_shape: tuple[int, ...]) -> Carry:
        """A first carry: that of the cell, and an output of zeros."""
        carry = self.front_end.fresh_carry(self.cell, key, tuple(input_shape))
        x = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)
        if isinstance(self.cell, AbstractCell):
            x = jax.ShapeDtypeStruct(x.shape, self.cell.dtype or self.cell.param_dtype)
        else:
            x = self.front_end.output(self.cell, carry, x)
        return {"cell": carry, "prev_output": jnp.zeros(x.shape, x.dtype)}

    @cell_call
    def __call__(self, carry: Carry | None, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Advance by one step.

        Args:
            carry: ``{"cell": carry of the cell, "prev_output": its last output}``; None for a fresh
                one.
            x: input of the cell, to which the feedback is added.

        Returns:
            The new carry, and the output of the cell.

        Raises:
            ValueError: a carry with missing, extra or misshapen entries; a feedback that gives
                another shape than that of `x`; or as the cell does.
            TypeError: a carry that is no dict, or as the cell does.
        """
        if not isinstance(self.cell, AbstractCell):
            x = as_array("x", x, f"{CALL}.")
            carry = self.fresh_carry(None, x.shape) if carry is None else self._check(carry)
            prev = carry["prev_output"]
            compute, out = prev.dtype, None
        else:
            x, compute, out = self.cell._prepare("x", x)
            carry = self._check_carry(carry, x.shape, compute)
            prev = carry["prev_output"]
        drive = add_feedback(x, self.feedback(prev), compute)
        new, y = self.cell(carry["cell"], drive)
        y = y if out is None else y.astype(out)
        return {"cell": new, "prev_output": y.astype(prev.dtype)}, y

    def unroll(
        self,
        carry: Carry | None,
        xs: jax.Array,
        *,
        seq_lengths: jax.Array | Valid | None = None,
        engine: Engine = "auto",
        unroll: int = 1,
        checkpoint_every: int | Literal["sqrt"] | None = None,
    ) -> tuple[Carry, jax.Array]:
        """Advance over the leading axis of `xs`; `Unroll` is the module that calls this.

        Args:
            carry: the carry before the first step; None for a fresh one.
            xs: ``[T, ...]``, each slice an input of one step.
            seq_lengths: see `functional.unroll`; `Unroll` passes on the mask it made of them.
            engine: ``"auto"`` or ``"scan"``: other engines can't mix neurons.
            unroll: see `functional.unroll`.
            checkpoint_every: see `functional.unroll`; for a trace layer only.

        Returns:
            The last carry, and the outputs ``[T, ...]``.

        Raises:
            ValueError: as one step and as `functional.unroll` do.
            TypeError: as one step and as `functional.unroll` do; a feedback that draws random
                numbers or changes variables.
        """
        options: dict[str, Any] = {
            "seq_lengths": seq_lengths,
            "engine": engine,
            "unroll": unroll,
            "checkpoint_every": checkpoint_every,
        }
        if not isinstance(self.cell, AbstractCell):
            carry = carry if carry is None else self._check(carry)
            return self.front_end.unroll_any(self, carry, xs, **options)
        cell = self.cell
        xs, compute, out = cell._prepare("xs", xs, leading=1)
        first = self._check_carry(carry, xs.shape[1:], compute)
        feedback, weights = self.front_end.pure("feedback", self.feedback, first["prev_output"])
        inputs: Any = xs
        if is_stochastic(cell.spike_function):
            inputs = xs, jax.random.split(cell.draw_key(), xs.shape[0])
        layer = functional.LayerStep(cell.spec, cell.spike_function, compute, out)
        step = functional.RecurrentStep(layer, feedback)
        params = {"cell": cell._along_dim(compute), "feedback": weights}
        drives, recording = None, cell.keeps_states
        run: Any = Recorded(step) if recording else step
        last, ys = functional.unroll(run, params, first, inputs, **options)
        if recording:
            ys, states = ys
            before = jnp.concatenate([first["prev_output"][None], states["prev_output"]])[:-1]
            drives = jax.vmap(functools.partial(step._driven, weights))(before, xs)
            cell.keep_states(states["cell"])
        self.observe(first["prev_output"], ys)
        return last, cell.observe(first["cell"] if carry is not None else None, drives, ys)

    def observe(self, first: jax.Array, ys: jax.Array) -> None:
        """Look at a run over time.

        Args:
            first: the output before the first step.
            ys: the outputs ``[T, ...]``.
        """

    def _check(self, carry: Any) -> Carry:
        return dict(check_carry(carry, ("cell", "prev_output"), type(self).__name__))

    def _check_carry(self, carry: Any, shape: tuple[int, ...], dtype: Any) -> Carry:
        if carry is None:
            return {
                "cell": self.cell._check_carry(None, shape, dtype),
                "prev_output": jnp.zeros(shape, dtype),
            }
        carry = self._check(carry)
        prev = as_array("carry['prev_output']", carry["prev_output"])
        if prev.shape != shape or prev.dtype != dtype:
            raise ValueError(
                f"`carry['prev_output']` must have the shape of one step of the input, {shape}, "
                f"and be {dtype}, in which {type(self.cell).__name__} computes for this input; "
                f"got {prev.shape} and {prev.dtype}."
            )
        return {"cell": self.cell._check_carry(carry["cell"], shape, dtype), "prev_output": prev}
