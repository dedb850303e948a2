"""What a trace layer is, whatever front end holds its parameters."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import functional
from tracetorch_jax._core.inputs import check_axis, dtypes_for, real_input
from tracetorch_jax._core.parameters import Parameter, Rank, check_dim, check_dtype
from tracetorch_jax._core.sequence_cell import SequenceCell
from tracetorch_jax._shared.checks import as_array, cell_call, check_carry, check_integer
from tracetorch_jax._shared.dtypes import widen
from tracetorch_jax._shared.shapes import along
from tracetorch_jax.functional.engines import policy
from tracetorch_jax.functional.engines.masks import Valid
from tracetorch_jax.functional.engines.unroll import Engine
from tracetorch_jax.functional.spec import PREFIXES, Spec, parameter_row
from tracetorch_jax.functional.steps import DEFAULT_SPIKE, is_stochastic

Carry = dict[str, jax.Array]


@dataclasses.dataclass(init=False, repr=False, eq=False)
class AbstractCell(SequenceCell):
    """One step of a trace layer, and many of them: all but where parameters are kept.

    A layer says what it is made of (`spec`), what it fires with (`spike_function`) and what each
    parameter was set to (`setting`). A front end says what its parameters are now (`raw`), and
    where random numbers come from (`draw_key`).
    """

    num_neurons: int
    dim: int = dataclasses.field(default=-1, kw_only=True)
    dtype: Any = dataclasses.field(default=None, kw_only=True)
    param_dtype: Any = dataclasses.field(default=jnp.float32, kw_only=True)

    # What a layer says of itself.

    @property
    def spec(self) -> Spec:
        """Static description of the layer."""
        raise NotImplementedError

    @property
    def spike_function(self) -> Any:
        """Spike function, or a pair for the two signs."""
        return DEFAULT_SPIKE

    def canonicalize(self) -> None:
        """Bring the fields to their hashable form, checking their types."""

    def setting(self, name: str) -> tuple[str, Any, Rank, bool]:
        """Of a parameter: what its user calls it, its value, its rank, and if it is learnable."""
        raise NotImplementedError

    # What a front end says.

    def raw(self, name: str) -> jax.Array:
        """The raw value of a learnable parameter."""
        raise NotImplementedError

    def draw_key(self) -> jax.Array:
        """A PRNG key for stochastic spikes."""
        raise NotImplementedError

    def keep_states(self, states: Carry) -> None:
        """Take every state after every step, ``[T, ...]``, if `keeps_states`."""

    @property
    def keeps_states(self) -> bool:
        """Whether `keep_states` is to be called."""
        return False

    def observe(self, carry: Carry | None, xs: jax.Array | None, ys: jax.Array) -> jax.Array:
        """Look at a run over time, and give the outputs that the network goes on with.

        Args:
            carry: states before the first step; None for zeros.
            xs: what the layer got, ``[T, ...]``; may be None unless it `keeps_states`.
            ys: what it gives, ``[T, ...]``.
        """
        del carry, xs
        return ys

    # Fields.

    def check_fields(self) -> None:
        """Check every argument of the constructor, and bring it to its hashable form."""
        self.set_field("num_neurons", check_integer("num_neurons", self.num_neurons))
        self.set_field("dim", check_dim(self.dim))
        if self.dtype is not None:
            self.set_field("dtype", check_dtype("dtype", self.dtype))
        self.set_field("param_dtype", check_dtype("param_dtype", self.param_dtype))
        self.canonicalize()
        for parameter in self.describe():
            parameter.check()

    def set_field(self, name: str, value: Any) -> None:
        """Set a field while the layer is made."""
        object.__setattr__(self, name, value)

    # Parameters.

    def describe(self) -> tuple[Parameter, ...]:
        """Every parameter of the layer."""
        described = []
        for name, constraint in self.spec.parameters.items():
            label, value, rank, learnable = self.setting(name)
            described.append(
                Parameter(
                    name=name,
                    label=label,
                    constraint=constraint,
                    value=value,
                    rank=rank,
                    learnable=learnable,
                    num_neurons=self.num_neurons,
                    dtype=self.param_dtype,
                    compute=self.dtype,
                )
            )
        return tuple(described)

    def parameters(self) -> dict[str, jax.Array]:
        """Constrained value of every parameter, learnable or not, by name.

        Returns:
            Arrays of shape ``(num_neurons,)`` or ``()``, of `param_dtype`.

        Example:
            >>> layer = snn.LIB(2, beta=0.5)
            >>> variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 2)))
            >>> layer.apply(variables, method="parameters")["beta"].tolist()
            [0.5, 0.5]
        """
        return {p.name: p.constrained(self.raw) for p in self.describe()}

    def _along_dim(self, dtype: Any) -> dict[str, jax.Array]:
        """Constrained values, cast for computing and shaped along `dim`."""
        return {
            name: along(value.astype(dtype), self.dim) for name, value in self.parameters().items()
        }

    # One step.

    @property
    def num_feature_axes(self) -> int:
        """Axes of a step's tensor from `dim` on; those before it are batch axes."""
        return -self.dim

    def zeros(self, input_shape: tuple[int, ...], dtype: Any = None) -> Carry:
        """Zeros for every state, of `dtype`, by default that of the layer or its parameters."""
        self._check_shape("input_shape", tuple(input_shape))
        dtype = dtype or self.dtype or self.param_dtype
        return {name: jnp.zeros(tuple(input_shape), dtype) for name in self.spec.states}

    @cell_call
    def __call__(self, carry: Carry | None, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Advance by one step.

        Args:
            carry: states by name, each of the shape of `x`; None for zeros.
            x: input, with `num_neurons` at axis `dim`. Any other axes are batch or space.

        Returns:
            The new carry, and the output: the shape of `x`, and its dtype unless `dtype` says
            otherwise. States keep the computation's dtype: `dtype`, by default the wider of those
            of `x` and of the parameters, so that a bfloat16 input has float32 states.

        Raises:
            ValueError: `x` of the wrong size at `dim` or of too few axes; a carry with missing,
                extra or misshapen states, or of another dtype than the computation's.
            TypeError: `x` or the carry is of the wrong kind.
        """
        x, compute, out = self._prepare("x", x)
        carry = self._check_carry(carry, x.shape, compute)
        key = self.draw_key() if is_stochastic(self.spike_function) else None
        state, y = functional.step(
            self.spec,
            self._along_dim(compute),
            carry,
            widen(x, compute),
            spike=self.spike_function,
            key=key,
        )
        return state, y.astype(out)

    # Many steps.

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
            carry: states before the first step; None for zeros.
            xs: ``[T, ...]``, each slice an input of one step.
            seq_lengths: see `functional.unroll`; `Unroll` passes on the mask it made of them.
            engine: see `functional.unroll`.
            unroll: see `functional.unroll`.
            checkpoint_every: see `functional.unroll`.

        Returns:
            The last carry, and the outputs ``[T, ...]``.

        Raises:
            ValueError: as one step and as `functional.unroll` do.
            TypeError: as one step and as `functional.unroll` do.
        """
        given = carry
        xs, compute, out = self._prepare("xs", xs, leading=1)
        carry = self._check_carry(carry, xs.shape[1:], compute)
        random, recording = is_stochastic(self.spike_function), self.keeps_states
        loops = random or recording or not all(isinstance(size, int) for size in xs.shape)
        cast = xs.dtype != compute and policy.widens_at_once(engine, loops)
        inputs: Any = widen(xs, compute) if cast else xs
        if random:
            inputs = inputs, jax.random.split(self.draw_key(), xs.shape[0])
        step: Any = functional.LayerStep(
            self.spec, self.spike_function, compute, compute if cast else out
        )
        options: dict[str, Any] = {"engine": engine, "unroll": unroll}
        if recording:
            step, options = Recorded(step), {}
        state, ys = functional.unroll(
            step,
            self._along_dim(compute),
            carry,
            inputs,
            elementwise=not recording,
            seq_lengths=seq_lengths,
            checkpoint_every=checkpoint_every,
            **options,
        )
        if recording:
            ys, states = ys
            self.keep_states(states)
        return state, self.observe(given, xs, ys.astype(out))

    # Checks.

    def _prepare(self, name: str, x: Any, leading: int = 0) -> tuple[jax.Array, Any, Any]:
        """Check an input; return it with the dtypes of computation and of output."""
        x = real_input(name, x)
        self._check_shape(name, x.shape[leading:], "steps of shape" if leading else "shape")
        return x, *dtypes_for(x, self.dtype, self.param_dtype)

    def _check_shape(self, name: str, shape: tuple[int, ...], got: str = "shape") -> None:
        """Check the shape of a step's tensor, and of sequences that of each step."""
        size = "num_neurons", self.num_neurons
        check_axis(type(self).__name__, name, shape, self.dim, size, got)

    def _check_carry(self, carry: Any, shape: tuple[int, ...], dtype: Any) -> Carry:
        layer = type(self).__name__
        if carry is None:
            return self.zeros(shape, dtype)
        carry = check_carry(carry, self.spec.states, layer)
        carry = {name: as_array(f"carry[{name!r}]", carry[name]) for name in self.spec.states}
        for name, state in carry.items():
            if np.shape(state) != shape:
                hint = ""
                if len(shape) > np.ndim(state):
                    hint = " A cell takes one step; Unroll(cell) runs a sequence."
                raise ValueError(
                    f"`carry[{name!r}]` must have the shape of one step of the input, {shape}; "
                    f"got {np.shape(state)}.{hint}"
                )
            if state.dtype != dtype:
                raise ValueError(
                    f"`carry[{name!r}]` must be {dtype}, in which {layer} computes for this input; "
                    f"got {state.dtype}. Set `dtype` or `param_dtype` of the layer."
                )
        return carry


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A step whose output holds the new state as well."""

    step: Any

    def __call__(self, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        state, y = self.step(params, state, x)
        return state, (y, state)


def checked_init(
    cls: type,
    init: Any,
    hidden: tuple[str, ...] = (),
    positional: tuple[str, ...] = ("num_neurons",),
) -> Any:
    """Let a constructor say what is wrong with its arguments in the words of this library.

    Args:
        cls: a front end's layer.
        init: its ``__init__``.
        hidden: arguments that are the front end's own, and are not suggested.
        positional: arguments that are needed, the first ones, and may be given by position.
    """
    known = [field for field in inspect.signature(init).parameters if field != "self"]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:
            if len(args) > len(positional):
                only = " and ".join(f"`{name}`" for name in positional)
                raise TypeError(
                    f"{cls.__name__} takes only {only} by position; write the others as "
                    f"name=value; got {len(args)} positional arguments."
                )
            unknown = [name for name in kwargs if name not in known]
            if unknown:
                public = [name for name in known if name not in hidden]
                raise TypeError(
                    f"{cls.__name__} has no argument `{unknown[0]}`; it takes "
                    f"{', '.join(public)}.{_hint(cls.__name__, unknown[0], public)}"
                )
            for name in positional[len(args) :]:
                if name not in kwargs:
                    raise TypeError(f"{cls.__name__} needs `{name}`; got none.")
        init(self, *args, **kwargs)

    return checked


def _hint(layer: str, unknown: str, known: list[str]) -> str:
    """What to write instead of an argument that a layer does not have, or why it has none."""
    root = unknown.removeprefix("pos_").removeprefix("neg_")
    for name in (root, f"pos_{root}", f"{root}_init"):  # single for dual, or the reverse
        if name in known:
            return f" Did you mean `{name}`?"
    if root == "ema":
        return " `ema` is an option of `flex.Decay`, a decay of `flex.LeakyIntegrator`."
    if root in _OF_FIRING and "spike" not in known:
        return f" `{root}` is of layers that fire, and {layer} does not."
    for feature in PREFIXES:
        if root in feature.arguments:
            return f" `{root}` is of {feature.word} layers, which have {feature.letter} before LI."
    if parameter_row(root) and root not in _OF_FIRING:
        return f" `{root}` is an option of `flex.LeakyIntegrator`."
    close = difflib.get_close_matches(unknown, known, n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


_OF_FIRING = ("threshold", "scale", "spike", "reset", "detach_reset")
