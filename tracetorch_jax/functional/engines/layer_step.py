"""A layer's step as the engines take it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax._shared.checks import check_spike
from tracetorch_jax._shared.dtypes import widen
from tracetorch_jax.functional.engines.parallel import linear_recurrence
from tracetorch_jax.functional.spec import Spec
from tracetorch_jax.functional.steps import (
    DEFAULT_SPIKE,
    Params,
    State,
    advance,
    align,
    channels,
    emit,
    integrate,
    is_stochastic,
    sides,
)


def _all_steps(
    update: Callable[..., jax.Array], decay: jax.Array, trace: jax.Array, x: jax.Array
) -> jax.Array:
    # Both updates, `ema` and `leak`, are decay * trace + added. What they give of a trace of 0 is
    # `added`, so neither equation is written a second time here. `align` gave a vector the rank
    # of ``[T, ...]``, with a first axis of size 1.
    added = update(decay, jnp.zeros_like(x), x)
    return linear_recurrence(decay[0] if decay.ndim == x.ndim else decay, added, trace)


@dataclasses.dataclass(frozen=True)
class LayerStep:
    """A layer's step as one hashable function, for `unroll`.

    Attributes:
        spec: which features the layer has.
        spike: spike function, or a pair.
        dtype: what the step computes in, by default the type of the input.
        out_dtype: type of the output, by default the one it is computed in.

    Called with ``(params, state, x)``; if `spike` is stochastic, ``x`` is a pair of the input and
    the step's PRNG key.

    Raises:
        TypeError: a spike function that may change without a change of its hash.

    Example:
        >>> layer = functional.LayerStep(functional.Spec())
        >>> layer({"beta": jnp.array(0.5)}, {"mem": jnp.zeros(1)}, jnp.ones(1))[1].tolist()
        [0.5]
    """

    spec: Spec
    spike: Any = DEFAULT_SPIKE
    dtype: Any = None
    out_dtype: Any = None

    def __post_init__(self) -> None:
        for spike in sides(self.spike):
            check_spike("spike", spike)
        for name in ("dtype", "out_dtype"):
            if getattr(self, name) is not None:  # types that are equal also hash equal then
                object.__setattr__(self, name, jnp.dtype(getattr(self, name)))

    def __call__(self, params: Params, state: State, x: Any) -> tuple[State, jax.Array]:
        """Advance by one step; see `step`.

        Args:
            params: constrained values by name; each broadcasts against the input.
            state: states by name, each of the shape of the input.
            x: input ``[..., N]``, or a pair of it and a PRNG key.

        Returns:
            The new state, and the output, of the shape of the input.

        Raises:
            KeyError: a parameter or state is missing.
            ValueError: as `step` does.
        """
        return self._finish(params, self._begin(params, state, x), x)

    @property
    def stages(self) -> tuple[Any, ...]:
        """The step in two parts: the traces before the reset; the reset and the output.

        With a single state it is one part: there is too little to share for a cut to pay.
        """
        return (self,) if len(self.spec.states) == 1 else (self._begin, self._finish)

    def ahead(
        self, params: Params, state: State, xs: Any
    ) -> tuple[State, LayerStep | None, Params, Any]:
        """Advance the traces that depend on the input alone over all steps at once.

        Args:
            params: constrained values by name.
            state: states before the first step.
            xs: inputs ``[T, ...]``, or a pair of inputs and keys.

        Returns:
            States ``[T, ...]`` by name; the step that is left, or None; its parameters; and its
            inputs, or where no step is left the outputs.

        Raises:
            ValueError: no trace depends on the input alone.
        """
        x, key = self._split(xs, rounded=True)
        spec = self.spec
        if not spec.fires and not spec.recurrence:
            traces = integrate(spec, params, state, x, _all_steps, leading=1)
            new, out = emit(spec, params, traces, self.spike, key)
            return new, None, params, self._cast(out)
        if not spec.synapse:
            raise ValueError(
                "`engine` 'parallel' needs a trace that depends on the input alone, a synaptic one "
                "or the membrane of a layer without spikes and recurrence; got a layer with the "
                f"states {list(spec.states)}."
            )
        parts = channels(x, spec.synapse.dual, spec.zero_split)
        traces, drive = advance(
            spec.synapse, ("alpha", "syn"), align(params, x.ndim), state, parts, _all_steps, 1
        )
        rest = dataclasses.replace(self, spec=dataclasses.replace(spec, synapse=None))
        params = {name: params[name] for name in rest.spec.parameters}
        return traces, rest, params, drive if key is None else (drive, key)

    def _begin(self, params: Params, state: State, x: Any) -> State:
        return integrate(self.spec, params, state, self._split(x)[0])

    def _finish(self, params: Params, state: State, x: Any) -> tuple[State, jax.Array]:
        new, out = emit(self.spec, params, state, self.spike, self._split(x)[1])
        return new, self._cast(out)

    def _split(self, x: Any, rounded: bool = False) -> tuple[jax.Array, jax.Array | None]:
        x, key = x if is_stochastic(self.spike) else (x, None)
        x = jnp.asarray(x)
        if self.dtype is not None:
            # A step of a loop or a kernel reads what was rounded when it was stored.
            x = widen(x, self.dtype) if rounded else x.astype(self.dtype)
        return x, key

    def _cast(self, out: jax.Array) -> jax.Array:
        return out if self.out_dtype is None else out.astype(self.out_dtype)
