"""Delays, and dense layers with delays."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from tracetorch_jax._core.cell import checked_init
from tracetorch_jax._core.delays import AbstractDelay, AbstractDelayedDense, Carry
from tracetorch_jax.snn._front_end import bound, check_own
from tracetorch_jax.snn._sequential import through

_HIDDEN = ("parent", "name")


class Delay(AbstractDelay, nn.RNNCellBase):
    """A cell that delays each channel of its input by its own time.

        k = floor(d), f = d - k
        y_t = (1 - f) * x_{t-k} + f * x_{t-k-1}

    Inputs before the first step are 0. A delay is learnt through the interpolation: its gradient is
    ``x_{t-k-1} - x_{t-k}``, to which only the two inputs next to it matter. Where the input is
    spikes, that is nearly always 0. With `sigma`, a Gaussian window around d takes the place of the
    interpolation: spikes that are some steps off count in the gradient. Narrow it during training
    with `tracetorch_jax.training.sigma_schedule`, see `DelayedDense`.

    The carry is ``{"past": ...}``: the last `max_delay` inputs, the oldest first, along an axis
    behind the batch axes, ``[B, max_delay, N]``. Over a sequence all steps are computed at once, so
    every `engine` gives the same. A gradient keeps the input and no copies of it. Without `sigma`
    the cost does not depend on `max_delay`.

    A learnable delay is stored under ``raw_delay`` in the collection ``params`` and is ``max_delay
    * sigmoid(raw)``, so the same parameters mean other delays with another `max_delay`. One that is
    not learnable is used exactly: a whole number of steps, 0 and
    `max_delay` among them, copies the input without arithmetic.

    Args:
        num_channels: size of axis `dim`, at least 1.
        max_delay: the longest delay in steps, at least 1.
        delay: steps: a number, an array or tuple of one per channel, or an initializer ``(key,
            shape, dtype) -> steps``; by default half of `max_delay`. Strictly between 0 and
            `max_delay` if learnable.
        delay_rank: 0 for one delay shared by all channels, 1 for one per channel.
        delay_learnable: whether `delay` is trained; otherwise it stays a constant.
        sigma: width of the Gaussian window in steps, greater than 0, which may be traced; None for
            linear interpolation. A traced 0 cannot raise, and gives NaN.
        dim: axis of one step's tensor that holds the channels, counted from the end.
        dtype: what is computed in and given out, see the trace layers.
        param_dtype: what parameters are stored as.

    Raises:
        TypeError: an argument is unknown or of the wrong kind.
        ValueError: `num_channels` or `max_delay` below 1, a delay outside its range or not finite,
            a vector of the wrong length, a rank other than 0 or 1, `sigma` not greater than 0, or
            `dim` not negative.

    Example:
        >>> layer = snn.Delay(2, 3, delay=(0.0, 2.0), delay_learnable=False)
        >>> xs = jnp.arange(1.0, 5.0)[:, None] * jnp.ones((1, 2))
        >>> ys = snn.Unroll(layer).apply({}, xs)
        >>> ys[:, 0].tolist(), ys[:, 1].tolist()
        ([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 2.0])
    """

    # Flax wraps what it finds in the class itself.
    parameters = bound(AbstractDelay.parameters)
    __call__ = bound(AbstractDelay.__call__)
    unroll = bound(AbstractDelay.unroll)

    def __post_init__(self) -> None:
        self.check_fields()
        super().__post_init__()

    def setup(self) -> None:
        """Create the raw delays."""
        (parameter,) = self.describe()
        if parameter.learnable:
            check_own(self, [parameter.raw_name])
            init, shape = parameter.init, parameter.shape
            self._raw = self.param(parameter.raw_name, init, shape, self.param_dtype)

    def raw(self, name: str) -> jax.Array:
        """The raw delays."""
        del name
        return self._raw

    @property
    def width(self) -> Any:
        """The present `sigma`."""
        return self.sigma

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> Carry:
        """A past of zeros.

        Args:
            rng: not used; Flax gives one to every cell.
            input_shape: shape of one step's tensor, with `num_channels` at axis `dim`.

        Returns:
            ``{"past": ...}``, of `dtype` (by default `param_dtype`).

        Raises:
            ValueError: `input_shape` lacks axis `dim` or has another size there.

        Example:
            >>> snn.Delay(8, 5).initialize_carry(None, (2, 8))["past"].shape
            (2, 5, 8)
        """
        del rng
        return self.zeros(input_shape)


class DelayedDense(AbstractDelayedDense, nn.RNNCellBase):
    """A cell: a dense layer with a learnable delay for each synapse.

        y_t[o] = bias[o] + sum over i, k of kernel[i, o] * g(k - d[i, o]) * x_{t-k}[i]

    It takes the place of a Dense layer before spiking neurons. With `sigma`, g is a Gaussian of
    that width in steps, normalised over k = 0, ..., max_delay. Without it, which is evaluation,
    delays are rounded to whole steps, g is 1 there and 0 elsewhere, and the delays get no gradient.
    Train with a `sigma` that starts wide, so that spikes at many distances count in the gradient,
    and ends below one step, so that rounding changes little: see
    `tracetorch_jax.training.sigma_schedule`. `sigma` may be traced, so a model that is made in the
    compiled function is compiled once for all widths::

        def network(sigma=None):
            return snn.Unroll(snn.Sequential([snn.DelayedDense(64, 25, sigma=sigma), snn.LIB(64)]))

        @jax.jit
        def outputs(params, xs, sigma):
            return network(sigma).apply({"params": params}, xs)

    Parameters do not depend on `sigma`: ``network().apply(...)`` evaluates what was trained.

    Parameters are ``kernel`` and ``raw_delay``, ``[N, features]``, and ``bias``; a delay is
    ``max_delay * sigmoid(raw)``. The carry is ``{"past": ...}``: the last `max_delay` inputs, the
    oldest first, ``[B, max_delay, N]``. Over a sequence all steps are computed at once, in
    ``max_delay + 1`` matrix products, so every `engine` gives the same; step by step the numbers
    are equal but for the order of sums. A gradient keeps the input and no copies of it.

    Args:
        features: number of outputs, at least 1. The number of inputs is that of the last axis.
        max_delay: the longest delay in steps, at least 1.
        sigma: width of the Gaussian in steps, greater than 0, which may be traced; None for rounded
            delays. A traced 0 cannot raise, and gives NaN.
        use_bias: whether to add a bias.
        kernel_init: initializer of the weights.
        delay_init: initializer ``(key, shape, dtype) -> steps`` of the delays, within (0,
            max_delay); by default spread evenly over the range, at random. Under `jax.jit`, where
            nothing can raise, a delay outside becomes the nearest inside.
        bias_init: initializer of the bias.
        dtype: what is computed in and given out; by default the wider of the dtypes of input and
            parameters, and the output that of the input.
        param_dtype: what parameters are stored as.

    Raises:
        TypeError: an argument is unknown or of the wrong kind.
        ValueError: `features` or `max_delay` below 1, `sigma` not greater than 0, or an initializer
            that gives delays outside the range.

    Reference: Hammouamri, Khalfaoui-Hassani and Masquelier, "Learning delays in spiking neural
    networks using dilated convolutions with learnable spacings", ICLR 2024.

    Example:
        >>> model = snn.Unroll(snn.Sequential([snn.DelayedDense(4, 8), snn.LIB(4)]))
        >>> xs = jnp.ones((2, 10, 3))
        >>> variables = model.init(jax.random.key(0), xs)
        >>> sorted(variables["params"]["cell"]["layers_0"])
        ['bias', 'kernel', 'raw_delay']
        >>> model.apply(variables, xs).shape
        (2, 10, 4)
    """

    # Flax wraps what it finds in the class itself, and asks for a scope before anything else.
    _step = nn.compact(AbstractDelayedDense.__call__)
    _unroll = nn.compact(AbstractDelayedDense.unroll)

    __call__ = nn.nowrap(bound(through("_step", AbstractDelayedDense.__call__)))
    unroll = nn.nowrap(bound(through("_unroll", AbstractDelayedDense.unroll)))
    parameters = bound(AbstractDelayedDense.parameters)

    def __post_init__(self) -> None:
        self.check_fields()
        super().__post_init__()

    @property
    def width(self) -> Any:
        """The present `sigma`."""
        return self.sigma

    @nn.nowrap
    def weights(self, num_inputs: int | None = None) -> dict[str, jax.Array]:
        """The kernel, the raw delays and the bias, made if the number of inputs is given."""
        if num_inputs is None:
            return dict(nn.unbox(self.variables["params"]))
        check_own(self, ["kernel", "raw_delay"])
        shape = num_inputs, self.features
        raw = self.synaptic_delays(num_inputs).init
        dtype = self.param_dtype
        made = {
            "kernel": self.param("kernel", self.kernel_init, shape, dtype),
            "raw_delay": self.param("raw_delay", raw, shape, dtype),
        }
        if self.use_bias:
            made["bias"] = self.param("bias", self.bias_init, shape[1:], dtype)
        return made

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> Carry:
        """A past of zeros.

        Args:
            rng: not used; Flax gives one to every cell.
            input_shape: shape of one step's tensor.

        Returns:
            ``{"past": ...}``, of `dtype` (by default `param_dtype`).

        Raises:
            ValueError: `input_shape` has no axis.

        Example:
            >>> snn.DelayedDense(8, 5).initialize_carry(None, (2, 3))["past"].shape
            (2, 5, 3)
        """
        del rng
        return self.zeros(input_shape)


def _check_arguments(cls: Any, first: str) -> None:
    cls.__init__ = checked_init(cls, cls.__init__, _HIDDEN, (first, "max_delay"))


_check_arguments(Delay, "num_channels")
_check_arguments(DelayedDense, "features")
