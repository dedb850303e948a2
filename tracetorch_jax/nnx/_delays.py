"""Delays, and dense layers with delays."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import lecun_normal, zeros

from tracetorch_jax._core.cell import checked_init
from tracetorch_jax._core.delays import (
    AbstractDelay,
    AbstractDelayCell,
    AbstractDelayedDense,
    Carry,
)
from tracetorch_jax._core.inputs import check_axis
from tracetorch_jax._core.parameters import Initializer, freeze_value
from tracetorch_jax._shared.checks import check_front_end, check_integer
from tracetorch_jax._shared.dtypes import wider
from tracetorch_jax.functional.delays import Sigma, check_sigma
from tracetorch_jax.nnx._cell import check_rngs, create, stream


class DelayWidth(nnx.Variable[Any]):
    """The `sigma` of a `Delay` or `DelayedDense`, which changes during training.

    A variable type of its own, so that optimisers and gradients, which ask for `nnx.Param`, pass it
    by, and compiled functions take it as an input. `set_sigma` makes and changes it.

    Example:
        >>> layer = snn.Delay(2, 8, sigma=4.0)
        >>> isinstance(layer.sigma, snn.DelayWidth), [*nnx.state(layer, nnx.Param)]
        (True, ['raw_delay'])
    """


class _HasWidth(AbstractDelayCell):
    """What both cells do in nnx."""

    sigma: Any

    def set_field(self, name: str, value: object) -> None:
        """Set a field while the cell is made."""
        setattr(self, name, value)

    @property
    def width(self) -> Any:
        """The present `sigma`."""
        return None if self.sigma is None else self.sigma[...]

    def _set_sigma(self, sigma: Any) -> None:
        sigma = check_sigma(sigma)
        if sigma is None:
            # A plain None would make the attribute static, and nnx would refuse a variable later.
            self.sigma = nnx.data(None)
            return
        sigma = jnp.asarray(sigma, wider(self.param_dtype, jnp.float32))
        if isinstance(self.sigma, DelayWidth):
            self.sigma.set_value(sigma)
        else:
            self.sigma = nnx.data(DelayWidth(sigma))

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ) -> Carry:
        """A past of zeros.

        Args:
            input_shape: shape of one step's tensor.
            rngs: not used; Flax gives some to every cell.
            carry_init: not used.

        Returns:
            ``{"past": ...}``, of `dtype` (by default `param_dtype`).

        Raises:
            ValueError: `input_shape` lacks the axis of the input, or has another size there.

        Example:
            >>> snn.Delay(8, 5).initialize_carry((2, 8))["past"].shape
            (2, 5, 8)
        """
        del rngs, carry_init
        return self.zeros(input_shape)


@dataclasses.dataclass(repr=False, eq=False)
class Delay(_HasWidth, AbstractDelay, nnx.RNNCellBase):
    """A cell that delays each channel of its input by its own time.

        k = floor(d), f = d - k
        y_t = (1 - f) * x_{t-k} + f * x_{t-k-1}

    See `tracetorch_jax.snn.Delay`, whose mathematics and arguments these are. A learnable delay is
    `nnx.Param` ``raw_delay``, and ``max_delay * sigmoid(raw)``. A `sigma` is kept in a variable,
    `DelayWidth`; `set_sigma` changes it.

    Args:
        num_channels: size of axis `dim`, at least 1.
        max_delay: the longest delay in steps, at least 1.
        delay: steps: a number, an array or tuple of one per channel, or an initializer ``(key,
            shape, dtype) -> steps``; by default half of `max_delay`. Strictly between 0 and
            `max_delay` if learnable.
        delay_rank: 0 for one delay shared by all channels, 1 for one per channel.
        delay_learnable: whether `delay` is trained; otherwise it stays a constant.
        sigma: width of the Gaussian window in steps, greater than 0; None for linear interpolation.
        dim: axis of one step's tensor that holds the channels, counted from the end.
        dtype: what is computed in and given out, see the trace layers.
        param_dtype: what parameters are stored as.
        rngs: random numbers (stream ``params``), needed for an initializer.

    Raises:
        TypeError: an argument is unknown or of the wrong kind.
        ValueError: as `tracetorch_jax.snn.Delay` does.

    Example:
        >>> layer = snn.Delay(2, 3, delay=(0.0, 2.0), delay_learnable=False)
        >>> ys = snn.Unroll(layer)(jnp.arange(1.0, 5.0)[:, None] * jnp.ones((1, 2)))
        >>> ys[:, 0].tolist(), ys[:, 1].tolist()
        ([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 2.0])
    """

    rngs: Any = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_rngs(self.rngs)
        self.check_fields()
        (parameter,) = self.describe()
        if parameter.learnable:
            self.raw_delay = create(parameter, self.rngs)
        self.rngs = nnx.data(None)
        self._set_sigma(self.sigma)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "delay" and value is not None:
            # nnx takes an array for a variable; what a parameter starts from is none.
            value = freeze_value(name, value)
        super().__setattr__(name, value)

    def raw(self, name: str) -> jax.Array:
        """The raw delays."""
        return getattr(self, f"raw_{name}")[...]

    def parameters(self) -> dict[str, jax.Array]:
        """The delays in steps, learnable or not.

        Returns:
            ``{"delay": ...}``, of shape ``(num_channels,)`` or ``()`` and of `param_dtype`.

        Example:
            >>> snn.Delay(2, 8, delay=3.0).parameters()["delay"].tolist()
            [3.0, 3.0]
        """
        return super().parameters()


class DelayedDense(_HasWidth, AbstractDelayedDense, nnx.RNNCellBase):
    """A cell: a dense layer with a learnable delay for each synapse.

        y_t[o] = bias[o] + sum over i, k of kernel[i, o] * g(k - d[i, o]) * x_{t-k}[i]

    See `tracetorch_jax.snn.DelayedDense`. Parameters are `nnx.Param` ``kernel``, ``raw_delay`` and
    ``bias``. `sigma` is kept in a variable, `DelayWidth`, so a compiled function takes it as an
    input and is compiled once for all widths. `set_sigma` changes that of a whole model: to a
    number that narrows during training, see `tracetorch_jax.training.sigma_schedule`, and to None,
    for rounded delays, to evaluate.

    Args:
        in_features: number of inputs, at least 1.
        features: number of outputs, at least 1.
        max_delay: the longest delay in steps, at least 1.
        sigma: width of the Gaussian in steps, greater than 0; None for rounded delays.
        use_bias: whether to add a bias.
        kernel_init: initializer of the weights.
        delay_init: initializer ``(key, shape, dtype) -> steps`` of the delays, within (0,
            max_delay); by default spread evenly over the range, at random. Under `jax.jit`, where
            nothing can raise, a delay outside becomes the nearest inside.
        bias_init: initializer of the bias.
        dtype: what is computed in and given out; by default the wider of the dtypes of input and
            parameters, and the output that of the input.
        param_dtype: what parameters are stored as.
        rngs: random numbers (stream ``params``).

    Raises:
        TypeError: an argument is unknown or of the wrong kind.
        ValueError: as `tracetorch_jax.snn.DelayedDense` does; no `rngs`.

    Example:
        >>> layer = snn.DelayedDense(3, 4, 8, sigma=4.0, rngs=nnx.Rngs(0))
        >>> model = snn.Unroll(snn.Sequential([layer, snn.LIB(4)]))
        >>> model(jnp.ones((2, 10, 3))).shape
        (2, 10, 4)
        >>> snn.set_sigma(model, None)  # evaluation: delays are rounded
        >>> model(jnp.ones((2, 10, 3))).shape
        (2, 10, 4)
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        max_delay: int,
        *,
        sigma: Sigma = None,
        use_bias: bool = True,
        kernel_init: Initializer = lecun_normal(),  # noqa: B008
        delay_init: Initializer | None = None,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self.in_features = check_integer("in_features", in_features)
        self.features = features
        self.max_delay = max_delay
        self.use_bias = use_bias
        self.kernel_init = kernel_init
        self.delay_init = delay_init
        self.bias_init = bias_init
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.sigma = nnx.data(None)
        check_rngs(rngs)
        self.check_fields()
        shape = self.in_features, self.features
        kinds = {"kernel": (kernel_init, shape), "bias": (bias_init, shape[1:])}
        for name, (init, size) in kinds.items():
            if name == "kernel" or self.use_bias:
                key = stream(rngs, "params", f"`{name}_init`")()
                setattr(self, name, nnx.Param(init(key, size, self.param_dtype)))
        self.raw_delay = create(self.synaptic_delays(self.in_features), rngs)
        self._set_sigma(sigma)

    def weights(self, num_inputs: int | None = None) -> dict[str, jax.Array]:
        """The kernel, the raw delays and the bias."""
        del num_inputs
        names = ("kernel", "raw_delay", *(["bias"] if self.use_bias else []))
        return {name: getattr(self, name)[...] for name in names}

    def check_shape(self, name: str, shape: tuple[int, ...], got: str = "shape") -> None:
        size = "in_features", self.in_features
        check_axis(type(self).__name__, name, shape, -1, size, got)

    def parameters(self) -> dict[str, jax.Array]:
        """Weights, and delays in steps.

        Returns:
            ``kernel`` and ``delay``, ``[in_features, features]``, and ``bias``, ``[features]``, if
            there is one.

        Example:
            >>> snn.DelayedDense(2, 3, 8, rngs=nnx.Rngs(0)).parameters()["delay"].shape
            (2, 3)
        """
        return super().parameters()


def set_sigma(model: nnx.Module, sigma: float | jax.Array | None) -> None:
    """Set the width of every `Delay` and `DelayedDense` of a model, in place.

    Changing a number to another compiles nothing anew; between a number and None it does, once.

    Args:
        model: anything that holds such cells, or one.
        sigma: width in steps, greater than 0; None to evaluate: `DelayedDense` rounds its delays,
            and `Delay` interpolates.

    Raises:
        TypeError: `sigma` is no number, or `model` is of linen, where `sigma` is an argument.
        ValueError: `sigma` is not greater than 0, or `model` holds no such cell.

    Example:
        >>> model = snn.Unroll(snn.DelayedDense(3, 4, 8, rngs=nnx.Rngs(0)))
        >>> snn.set_sigma(model, 2.5)
        >>> model.cell.sigma[...].item()
        2.5
    """
    check_sigma(sigma)
    check_front_end("model", model, nnx.Module)
    cells = [node for _, node in nnx.iter_graph(model) if isinstance(node, (Delay, DelayedDense))]
    if not cells:
        raise ValueError(
            f"`model` must hold a Delay or a DelayedDense; got {type(model).__name__}."
        )
    for cell in cells:
        cell._set_sigma(sigma)


def _check_arguments(cls: Any, *positional: str) -> None:
    cls.__init__ = checked_init(cls, cls.__init__, positional=positional)


_check_arguments(Delay, "num_channels", "max_delay")
_check_arguments(DelayedDense, "in_features", "features", "max_delay")
