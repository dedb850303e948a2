"""Cells that delay their input, whatever front end holds their parameters."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import lecun_normal, zeros

from tracetorch_jax import functional
from tracetorch_jax._core.inputs import check_axis, dtypes_for, real_input
from tracetorch_jax._core.parameters import (
    FrozenArray,
    Initializer,
    Parameter,
    Rank,
    Value,
    check_dim,
    check_dtype,
    check_flag,
    check_rank,
    freeze_value,
)
from tracetorch_jax._core.sequence_cell import SequenceCell
from tracetorch_jax._shared.checks import (
    as_array,
    cell_call,
    check_carry,
    check_choice,
    check_integer,
)
from tracetorch_jax._shared.dtypes import widen, wider
from tracetorch_jax._shared.shapes import along
from tracetorch_jax.functional.delays import Sigma, check_sigma, delay_range
from tracetorch_jax.functional.engines.masks import Valid
from tracetorch_jax.functional.engines.unroll import ENGINES, Engine, check_pieces

Carry = dict[str, jax.Array]


class AbstractDelayCell(SequenceCell):
    """A cell whose carry is its last inputs: all but where parameters are kept.

    A front end says what its parameters are now (`raw`, and `weights` of `AbstractDelayedDense`)
    and how wide the delays are (`width`).
    """

    # What a front end says.

    def raw(self, name: str) -> jax.Array:
        """The raw value of a learnable parameter."""
        raise NotImplementedError

    @property
    def width(self) -> Any:
        """The present `sigma`."""
        raise NotImplementedError

    # What a cell says.

    max_delay: int
    sigma: Any
    dtype: Any
    param_dtype: Any

    @property
    def num_feature_axes(self) -> int:
        """Axes of a step's tensor that are not batch axes."""
        raise NotImplementedError

    def check_shape(self, name: str, shape: tuple[int, ...], got: str = "shape") -> None:
        """Check the shape of a step's tensor, and of sequences that of each step."""
        raise NotImplementedError

    def run(self, past: jax.Array, xs: jax.Array, valid: Any) -> tuple[jax.Array, jax.Array]:
        """The new past and the outputs, from a past and inputs of the computation's dtype."""
        raise NotImplementedError

    # Fields.

    def set_field(self, name: str, value: Any) -> None:
        """Set a field while the cell is made."""
        object.__setattr__(self, name, value)

    def check_common(self) -> None:
        """Check the arguments that all these cells have."""
        self.set_field("max_delay", check_integer("max_delay", self.max_delay))
        if self.dtype is not None:
            self.set_field("dtype", check_dtype("dtype", self.dtype))
        self.set_field("param_dtype", check_dtype("param_dtype", self.param_dtype))
        self.set_field("sigma", check_sigma(self.sigma))

    def delay_parameter(
        self, label: str, value: Any, shape: tuple[int, ...], learnable: bool = True
    ) -> Parameter:
        """The delays as a parameter."""
        return _Shaped(
            name="delay",
            label=label,
            constraint=delay_range(self.max_delay),
            value=value,
            rank=min(len(shape), 1),
            learnable=learnable,
            num_neurons=shape[0] if shape else 1,
            dtype=self.param_dtype,
            compute=self.param_dtype,  # delays are not rounded to what is computed with
            sizes=shape,
        )

    # One step and many.

    def zeros(self, input_shape: tuple[int, ...], dtype: Any = None) -> Carry:
        """A past of zeros, of `dtype`, by default that of the cell or its parameters."""
        shape = tuple(input_shape)
        self.check_shape("input_shape", shape)
        dtype = dtype or self.dtype or self.param_dtype
        return {"past": jnp.zeros(self._past_shape(shape), dtype)}

    @cell_call
    def __call__(self, carry: Carry | None, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Advance by one step.

        Args:
            carry: ``{"past": ...}``, the last `max_delay` inputs, the oldest first, along an axis
                behind the batch axes; None for zeros.
            x: input of one step.

        Returns:
            The new carry, of the computation's dtype, and the output, of the dtype of `x` unless
            `dtype` says otherwise. See the named layers.

        Raises:
            ValueError: `x` of the wrong size or of too few axes; a carry of other names, of the
                wrong shape, or of another dtype than the computation's.
            TypeError: `x` or the carry is of the wrong kind.
        """
        x = real_input("x", x)
        self.check_shape("x", x.shape)
        carry, ys = self._advance(carry, x[None])
        return carry, ys[0]

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
        """Advance over the leading axis of `xs`, for all steps at once; `Unroll` calls this.

        Args:
            carry: see a single step.
            xs: ``[T, ...]``, each slice an input of one step.
            seq_lengths: see `functional.unroll`; `Unroll` passes on the mask it made of them.
            engine: changes nothing, since there is no loop over time that it could run.
            unroll: changes nothing.
            checkpoint_every: changes nothing; a gradient keeps the input and no state.

        Returns:
            The last carry, and the outputs ``[T, ...]``.

        Raises:
            ValueError: as one step and as `functional.unroll` do.
            TypeError: as one step and as `functional.unroll` do.
        """
        check_choice("engine", engine, ENGINES)
        check_pieces(unroll, checkpoint_every)
        xs = real_input("xs", xs)
        self.check_shape("xs", xs.shape[1:], "steps of shape")
        return self._advance(carry, xs, seq_lengths)

    def _advance(
        self, carry: Any, xs: jax.Array, seq_lengths: Any = None
    ) -> tuple[Carry, jax.Array]:
        compute, out = dtypes_for(xs, self.dtype, self.param_dtype)
        carry = self._check_carry(carry, xs.shape[1:], compute)
        axis = self._past_axis(xs.ndim - 1)
        past = jnp.moveaxis(carry["past"], axis, 0)
        past, ys = self.run(past, widen(xs, compute), seq_lengths)
        return {"past": jnp.moveaxis(past, 0, axis)}, ys.astype(out)

    # Checks.

    def _past_axis(self, ndim: int) -> int:
        """Where the axis of delays is in a carry: behind the batch axes, of which Flax knows."""
        return ndim - self.num_feature_axes

    def _past_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = self._past_axis(len(shape))
        return (*shape[:axis], self.max_delay, *shape[axis:])

    def _check_carry(self, carry: Any, shape: tuple[int, ...], dtype: Any) -> Carry:
        layer = type(self).__name__
        if carry is None:
            return self.zeros(shape, dtype)
        carry = check_carry(carry, ("past",), layer)
        past = as_array("carry['past']", carry["past"])
        if past.shape != self._past_shape(shape):
            raise ValueError(
                f"`carry['past']` must hold max_delay = {self.max_delay} inputs behind the batch "
                f"axes of a step of shape {tuple(shape)}: {self._past_shape(shape)}; got "
                f"{past.shape}."
            )
        if past.dtype != dtype:
            raise ValueError(
                f"`carry['past']` must be {dtype}, in which {layer} computes for this input; got "
                f"{past.dtype}. Set `dtype` or `param_dtype` of the layer."
            )
        return {"past": past}

    def batch_of_carry(self, name: str, carry: Any) -> tuple[int, ...]:
        """The batch axes that a carry is for, if it fits the cell."""
        shape = carry["past"].shape
        axis = len(shape) - 1 - self.num_feature_axes
        if axis < 0 or shape[axis] != self.max_delay:
            raise ValueError(
                f"`{name}['past']` must hold max_delay = {self.max_delay} inputs of "
                f"{type(self).__name__}; got shape {shape}."
            )
        self.check_shape(f"{name}['past']", shape[:axis] + shape[axis + 1 :])
        return shape[:axis]


@dataclasses.dataclass(init=False, repr=False, eq=False)
class AbstractDelay(AbstractDelayCell):
    """A delay for each channel: all but where parameters are kept."""

    num_channels: int
    max_delay: int
    delay: Value | None = dataclasses.field(default=None, kw_only=True)
    delay_rank: Rank = dataclasses.field(default=1, kw_only=True)
    delay_learnable: bool = dataclasses.field(default=True, kw_only=True)
    sigma: Sigma = dataclasses.field(default=None, kw_only=True)
    dim: int = dataclasses.field(default=-1, kw_only=True)
    dtype: Any = dataclasses.field(default=None, kw_only=True)
    param_dtype: Any = dataclasses.field(default=jnp.float32, kw_only=True)

    def check_fields(self) -> None:
        """Check every argument of the constructor, and bring it to its hashable form."""
        self.set_field("num_channels", check_integer("num_channels", self.num_channels))
        self.check_common()
        self.set_field("dim", check_dim(self.dim))
        value = self.max_delay / 2 if self.delay is None else self.delay
        self.set_field("delay", freeze_value("delay", value))
        self.set_field("delay_rank", check_rank("delay_rank", self.delay_rank))
        learnable = check_flag("delay_learnable", self.delay_learnable)
        self.set_field("delay_learnable", learnable)
        if isinstance(self.delay, FrozenArray) and self.delay.shape not in (
            (),
            (self.num_channels,),
        ):
            raise ValueError(
                f"`delay` must have one value per channel, shape ({self.num_channels},); got shape "
                f"{self.delay.shape}."
            )
        self.describe()[0].check()

    def describe(self) -> tuple[Parameter, ...]:
        """The delays as a parameter."""
        shape: tuple[int, ...] = (self.num_channels,) if self.delay_rank else ()
        if isinstance(self.delay, FrozenArray):
            shape = self.delay.shape
        return (self.delay_parameter("delay", self.delay, shape, self.delay_learnable),)

    def parameters(self) -> dict[str, jax.Array]:
        """The delays in steps, learnable or not.

        Returns:
            ``{"delay": ...}``, of shape ``(num_channels,)`` or ``()`` and of `param_dtype`.

        Example:
            >>> layer = snn.Delay(2, 8, delay=3.0)
            >>> variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 2)))
            >>> layer.apply(variables, method="parameters")["delay"].tolist()
            [3.0, 3.0]
        """
        return {p.name: p.constrained(self.raw) for p in self.describe()}

    @property
    def num_feature_axes(self) -> int:
        return -self.dim

    def check_shape(self, name: str, shape: tuple[int, ...], got: str = "shape") -> None:
        size = "num_channels", self.num_channels
        check_axis(type(self).__name__, name, shape, self.dim, size, got)

    def run(self, past: jax.Array, xs: jax.Array, valid: Any) -> tuple[jax.Array, jax.Array]:
        (parameter,) = self.describe()
        delays: Any
        if self.delay_learnable:
            delays = _wide(parameter.constrained(self.raw))
        else:
            delays = np.broadcast_to(np.asarray(self.delay, np.float64), parameter.shape)
        delays = along(delays, self.dim)
        return functional.delay(delays, past, xs, sigma=self.width, seq_lengths=valid)


@dataclasses.dataclass(init=False, repr=False, eq=False)
class AbstractDelayedDense(AbstractDelayCell):
    """A weight and a delay for each synapse: all but where parameters are kept."""

    features: int
    max_delay: int
    sigma: Sigma = dataclasses.field(default=None, kw_only=True)
    use_bias: bool = dataclasses.field(default=True, kw_only=True)
    kernel_init: Initializer = dataclasses.field(default=lecun_normal(), kw_only=True)
    delay_init: Initializer | None = dataclasses.field(default=None, kw_only=True)
    bias_init: Initializer = dataclasses.field(default=zeros, kw_only=True)
    dtype: Any = dataclasses.field(default=None, kw_only=True)
    param_dtype: Any = dataclasses.field(default=jnp.float32, kw_only=True)

    def weights(self, num_inputs: int | None = None) -> dict[str, jax.Array]:
        """``kernel``, ``raw_delay`` and ``bias`` if there is one; those of linen may be new."""
        raise NotImplementedError

    @property
    def num_feature_axes(self) -> int:
        return 1

    def parameters(self) -> dict[str, jax.Array]:
        """Weights, and delays in steps.

        Returns:
            ``kernel`` and ``delay``, ``[N, features]``, and ``bias``, ``[features]``, if there is
            one.

        Example:
            >>> layer = snn.DelayedDense(3, 8)
            >>> variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 2)))
            >>> layer.apply(variables, method="parameters")["delay"].shape
            (2, 3)
        """
        weights = dict(self.weights())
        delays = delay_range(self.max_delay).constrain(weights.pop("raw_delay"))
        return {**weights, "delay": delays}

    def check_fields(self) -> None:
        """Check every argument of the constructor, and bring it to its hashable form."""
        self.set_field("features", check_integer("features", self.features))
        self.check_common()
        self.set_field("use_bias", check_flag("use_bias", self.use_bias))
        for name in ("kernel_init", "bias_init", "delay_init"):
            value = getattr(self, name)
            if not callable(value) and not (name == "delay_init" and value is None):
                raise TypeError(
                    f"`{name}` must be an initializer (key, shape, dtype) -> values; got {value!r}."
                )

    def synaptic_delays(self, num_inputs: int) -> Parameter:
        """The delays as a parameter."""
        value = _Spread(self.max_delay) if self.delay_init is None else self.delay_init
        return self.delay_parameter("delay_init", value, (num_inputs, self.features))

    def check_shape(self, name: str, shape: tuple[int, ...], got: str = "shape") -> None:
        if not shape:
            raise ValueError(
                f"`{name}` must have an axis of inputs in each step for {type(self).__name__}; got "
                f"{got} {shape}."
            )

    def run(self, past: jax.Array, xs: jax.Array, valid: Any) -> tuple[jax.Array, jax.Array]:
        weights = self.weights(xs.shape[-1])
        bias = weights.get("bias")
        return functional.delayed_dense(
            weights["kernel"].astype(xs.dtype),
            _wide(delay_range(self.max_delay).constrain(weights["raw_delay"])),
            past,
            xs,
            bias=None if bias is None else bias.astype(xs.dtype),
            sigma=self.width,
            seq_lengths=valid,
        )


@dataclasses.dataclass(frozen=True)
class _Shaped(Parameter):
    """A parameter of any shape."""

    sizes: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sizes


@dataclasses.dataclass(frozen=True)
class _Spread:
    """Delays spread evenly from 0 to the longest, at random."""

    max_delay: int

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        most = jnp.asarray(self.max_delay, dtype)
        return delay_range(self.max_delay).clip(most * jax.random.uniform(key, shape, dtype))


def _wide(delays: jax.Array) -> jax.Array:
    """Delays in float32 at least: bfloat16 has no step between 16 and 16.125."""
    return delays.astype(wider(delays.dtype, jnp.float32))
