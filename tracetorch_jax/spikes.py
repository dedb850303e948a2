"""Spike functions: what a neuron emits, and the derivative that training uses instead.

A spike function is called with ``u``, the membrane's distance above its threshold. Its forward
value is a step, 1 where ``u > 0`` and 0 where not, whose derivative is 0 almost everywhere; in the
backward pass a *surrogate* derivative takes its place (Neftci, Mostafa and Zenke, "Surrogate
gradient learning in spiking neural networks", IEEE Signal Processing Magazine 36, 2019).

A spike of NaN is NaN, and so is its derivative: a NaN in the input or in a parameter reaches the
loss, rather than silencing a neuron. In a layer this holds for spike functions of your own, too.
From then on the neuron's state is NaN, until it is reset.

Each one here is a small immutable object, equal and hashable by value, so two models with
``atan(2.0)`` share one compiled program. ``f(u)`` carries the surrogate through ``jax.custom_jvp``;
``f.forward(u)`` and ``f.derivative(u)`` are the plain functions. Any other function from ``u`` to
spikes, such as a ``jax.custom_vjp`` function of your own, can be used in their place.

A compiled program keeps the spike function that it was compiled with. An object whose attributes
can be set is therefore refused, as is one that holds such an object, a list, a dict or an array: to
change the steepness during training, make a layer with a new ``spikes.atan(alpha)`` for each phase.
A plain function is always taken. What it reads from outside, its own attributes included, is read
once, when the program is compiled.

To add one, subclass `SpikeFunction` as a frozen dataclass and write `derivative`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tracetorch_jax._shared.checks import check_number, check_spike
from tracetorch_jax._shared.dtypes import wider

__all__ = [
    "Spike",
    "SpikeFunction",
    "atan",
    "bernoulli",
    "fast_sigmoid",
    "gaussian",
    "sigmoid",
    "smooth",
    "straight_through",
    "triangular",
]


@runtime_checkable
class Spike(Protocol):
    """Protocol of spike functions: ``u`` to spikes of the same shape and dtype.

    The type of the argument `spike` of layers. A function of your own needs nothing but a gradient.

    Example:
        >>> @jax.custom_vjp
        ... def always(u):
        ...     return jnp.heaviside(u, 0.0)
        >>> always.defvjp(lambda u: (always(u), None), lambda _, cotangent: (cotangent,))
        >>> isinstance(always, spikes.Spike), snn.LIB(8, spike=always).spike is always
        (True, True)
    """

    def __call__(self, u: jax.Array, /) -> jax.Array:
        """Spikes of `u`.

        Args:
            u: distance of the membrane above the threshold, any shape.

        Returns:
            The spikes, of the shape and dtype of `u`.

        Raises:
            ValueError: by a layer, if what is returned has another shape.
        """
        ...


def _positive(name: str, value: object) -> float:
    advice = "Create the spike function outside of jit, grad and vmap, a new one per value."
    value = check_number(name, value, advice)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be greater than 0 and finite; got {value!r}.")
    return value


def keep_nan(out: jax.Array, *origins: jax.Array) -> jax.Array:
    """`out`, or NaN where something that it was decided from is, which a comparison hides.

    Adding -0 changes no number, and unlike a choice it is nothing to the gradient.
    """
    # Not 0.0, since -0.0 + 0.0 is 0.0: only with -0.0 does every number stay the same to the bit.
    unknown = functools.reduce(jnp.logical_or, (origin != origin for origin in origins))
    return out + jnp.where(unknown, jnp.nan, -0.0).astype(out.dtype)


def emit(spike: Any, u: jax.Array, draw: jax.Array | None = None) -> jax.Array:
    """What a layer takes from a spike function, before `keep_nan`: it does that once for all."""
    # A subclass with a `__call__` of its own may do anything in it, so that is what is called.
    if isinstance(spike, SpikeFunction) and type(spike).__call__ is SpikeFunction.__call__:
        return _fire(spike, u)
    if type(spike) is bernoulli:
        return _sample(spike, u, draw)
    return spike(u) if draw is None else spike(u, draw)


def _bare(spike: SpikeFunction, u: jax.Array) -> jax.Array:
    if type(spike).forward is SpikeFunction.forward:
        return (u > 0).astype(u.dtype)
    return spike.forward(u)


def _real(u: ArrayLike) -> jax.Array:
    array = jnp.asarray(u)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"`u` must be a real floating-point array; got dtype {array.dtype}.")
    return array


# The rules are those of forward mode, from which JAX has the backward pass as well. What a rule
# emits is differentiated by the surrogate in turn, so that second derivatives are those of one
# network, but in `jax.lax.scan`, where JAX drops the rule after the first differentiation.


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _fire(spike: SpikeFunction, u: jax.Array) -> jax.Array:
    return _bare(spike, u)


@_fire.defjvp
def _fire_jvp(spike: SpikeFunction, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (u,), (d_u,) = primals, tangents
    return _fire(spike, u), spike.derivative(u) * d_u


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sample(spike: bernoulli, u: jax.Array, draw: jax.Array) -> jax.Array:
    if type(spike).forward is not bernoulli.forward:
        return spike.forward(u, draw)
    probability = spike.probability(u)
    return (draw.astype(probability.dtype) < probability).astype(u.dtype)


@_sample.defjvp
def _sample_jvp(spike: bernoulli, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (u, draw), (d_u, _) = primals, tangents
    return _sample(spike, u, draw), spike.derivative(u) * d_u


@dataclasses.dataclass(frozen=True)
class SpikeFunction:
    """Base of the deterministic spike functions: a step with a surrogate derivative.

    A subclass is a frozen dataclass, of which every field is a number greater than 0. It writes
    `derivative`, and `probability` if `bernoulli` is to fire with it.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class quadratic(spikes.SpikeFunction):
        ...     def derivative(self, u):
        ...         return 1 / (1 + u**2)
        >>> float(jax.grad(quadratic())(1.0))
        0.5
    """

    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _positive(field.name, getattr(self, field.name)))

    def forward(self, u: ArrayLike) -> jax.Array:
        """What is emitted: 1 where ``u > 0``, 0 where ``u <= 0``, NaN where ``u`` is NaN.

        Args:
            u: distance of the membrane above the threshold, floating-point, any shape.

        Returns:
            The spikes, of the shape and dtype of `u`.

        Raises:
            TypeError: `u` is not floating-point.
        """
        u = _real(u)
        return keep_nan((u > 0).astype(u.dtype), u)

    def derivative(self, u: ArrayLike) -> jax.Array:
        """Surrogate derivative.

        Args:
            u: distance of the membrane above the threshold, floating-point, any shape.

        Returns:
            The derivative at `u`, of its shape and dtype.

        Raises:
            NotImplementedError: the subclass has none.
            TypeError: `u` is not floating-point.
        """
        raise NotImplementedError(f"{type(self).__name__} has no derivative.")

    def probability(self, u: ArrayLike) -> jax.Array:
        """Integral of the derivative over everything below `u`, scaled to reach 1.

        Args:
            u: distance of the membrane above the threshold, floating-point, any shape.

        Returns:
            Probabilities in [0, 1], of the shape and dtype of `u`.

        Raises:
            NotImplementedError: the subclass has none.
            TypeError: `u` is not floating-point.
        """
        raise NotImplementedError(f"{type(self).__name__} has no probability.")

    def __call__(self, u: ArrayLike) -> jax.Array:
        """Spikes, differentiated by the surrogate.

        Args:
            u: distance of the membrane above the threshold, floating-point, any shape.

        Returns:
            What `forward` gives, with the gradient that `derivative` gives.

        Raises:
            TypeError: `u` is not floating-point.
        """
        u = _real(u)
        return keep_nan(_fire(self, u), u)


@dataclasses.dataclass(frozen=True)
class atan(SpikeFunction):
    """Step whose derivative is that of a scaled arctangent; the default.

        forward     1[u > 0]
        derivative  (alpha / 2) / (1 + (pi / 2 * alpha * u)**2)

    Args:
        alpha: steepness, greater than 0; the derivative at 0 is ``alpha / 2``.

    Raises:
        TypeError: `alpha` is not a number.
        ValueError: `alpha` is not greater than 0 and finite.

    Reference: Fang et al., "Incorporating learnable membrane time constant to enhance learning of
    spiking neural networks", ICCV 2021; ``atan_surrogate`` of traceTorch 0.12.

    Example:
        >>> float(spikes.atan(2.0)(0.3)), float(jax.grad(spikes.atan(2.0))(0.0))
        (1.0, 1.0)
    """

    alpha: float = 2.0

    def derivative(self, u: ArrayLike) -> jax.Array:
        return (self.alpha / 2) / (1 + (math.pi / 2 * self.alpha * _real(u)) ** 2)

    def probability(self, u: ArrayLike) -> jax.Array:
        return 0.5 + jnp.arctan(math.pi / 2 * self.alpha * _real(u)) / math.pi


@dataclasses.dataclass(frozen=True)
class sigmoid(SpikeFunction):
    """Step whose derivative is that of a logistic sigmoid.

        forward     1[u > 0]
        derivative  slope * s * (1 - s)        with s = 1 / (1 + exp(-slope * u))

    Args:
        slope: steepness, greater than 0; the derivative at 0 is ``slope / 4``.

    Raises:
        TypeError: `slope` is not a number.
        ValueError: `slope` is not greater than 0 and finite.

    Reference: ``sigmoid_surrogate`` of traceTorch 0.12.

    Example:
        >>> float(jax.grad(spikes.sigmoid(4.0))(0.0))
        1.0
    """

    slope: float = 25.0

    def derivative(self, u: ArrayLike) -> jax.Array:
        u = self.slope * _real(u)
        return self.slope * jax.nn.sigmoid(u) * jax.nn.sigmoid(-u)

    def probability(self, u: ArrayLike) -> jax.Array:
        return jax.nn.sigmoid(self.slope * _real(u))


@dataclasses.dataclass(frozen=True)
class fast_sigmoid(SpikeFunction):
    """Step whose derivative is that of a fast sigmoid, as in SuperSpike.

        forward     1[u > 0]
        derivative  1 / (1 + slope * abs(u))**2

    Args:
        slope: steepness, greater than 0; the derivative at 0 is 1 whatever the slope.

    Raises:
        TypeError: `slope` is not a number.
        ValueError: `slope` is not greater than 0 and finite.

    Reference: Zenke and Ganguli, "SuperSpike: supervised learning in multilayer spiking neural
    networks", Neural Computation 30, 2018.

    Example:
        >>> float(jax.grad(spikes.fast_sigmoid(1.0))(-1.0))
        0.25
    """

    slope: float = 25.0

    def derivative(self, u: ArrayLike) -> jax.Array:
        return 1 / (1 + self.slope * jnp.abs(_real(u))) ** 2

    def probability(self, u: ArrayLike) -> jax.Array:
        u = self.slope * _real(u)
        greatest = float(jnp.finfo(u.dtype).max)
        u = jnp.clip(u, -greatest, greatest)  # the quotient of two infinities is NaN
        return 0.5 + 0.5 * u / (1 + jnp.abs(u))


@dataclasses.dataclass(frozen=True)
class triangular(SpikeFunction):
    """Step whose derivative is a triangle of area 1.

        forward     1[u > 0]
        derivative  max(0, 1 - abs(u) / width) / width

    Args:
        width: distance from 0 at which the derivative ends, greater than 0.

    Raises:
        TypeError: `width` is not a number.
        ValueError: `width` is not greater than 0 and finite.

    Reference: Bellec et al., "Long short-term memory and learning-to-learn in networks of spiking
    neurons", NeurIPS 2018.

    Example:
        >>> float(jax.grad(spikes.triangular(1.0))(0.25))
        0.75
    """

    width: float = 1.0

    def derivative(self, u: ArrayLike) -> jax.Array:
        return jax.nn.relu(1 - jnp.abs(_real(u)) / self.width) / self.width

    def probability(self, u: ArrayLike) -> jax.Array:
        u = jnp.clip(_real(u) / self.width, -1, 1)
        return 0.5 + u - 0.5 * u * jnp.abs(u)


@dataclasses.dataclass(frozen=True)
class gaussian(SpikeFunction):
    """Step whose derivative is a normal density.

        forward     1[u > 0]
        derivative  exp(-(u / width)**2 / 2) / (width * sqrt(2 * pi))

    Args:
        width: standard deviation of the density, greater than 0.

    Raises:
        TypeError: `width` is not a number.
        ValueError: `width` is not greater than 0 and finite.

    Reference: Yin, Corradi and Bohté, "Accurate and efficient time-domain classification with
    adaptive spiking recurrent neural networks", Nature Machine Intelligence 3, 2021.

    Example:
        >>> round(float(jax.grad(spikes.gaussian(0.5))(0.0)), 4)
        0.7979
    """

    width: float = 0.5

    def derivative(self, u: ArrayLike) -> jax.Array:
        u = _real(u) / self.width
        return jnp.exp(-(u**2) / 2) / (self.width * math.sqrt(2 * math.pi))

    def probability(self, u: ArrayLike) -> jax.Array:
        return 0.5 + 0.5 * jax.lax.erf(_real(u) / (self.width * math.sqrt(2)))


@dataclasses.dataclass(frozen=True)
class straight_through(SpikeFunction):
    """Step whose derivative is a box of area 1 around 0: the windowed straight-through estimator.

        forward     1[u > 0]
        derivative  1[abs(u) <= width / 2] / width

    Args:
        width: full width of the box, greater than 0; with 1 the gradient passes unchanged within
            half a unit of the threshold.

    Raises:
        TypeError: `width` is not a number.
        ValueError: `width` is not greater than 0 and finite.

    Reference: Wu et al., "Spatio-temporal backpropagation for training high-performance spiking
    neural networks", Frontiers in Neuroscience 12, 2018 (its curve h1).

    Example:
        >>> slope = jax.grad(spikes.straight_through(1.0))
        >>> float(slope(0.4)), float(slope(0.6))
        (1.0, 0.0)
    """

    width: float = 1.0

    def derivative(self, u: ArrayLike) -> jax.Array:
        u = _real(u)
        return keep_nan((jnp.abs(u) <= self.width / 2).astype(u.dtype) / self.width, u)

    def probability(self, u: ArrayLike) -> jax.Array:
        return jnp.clip(0.5 + _real(u) / self.width, 0, 1)


@dataclasses.dataclass(frozen=True)
class smooth(sigmoid):
    """A sigmoid in place of spikes, with its exact gradient.

        forward     s                          with s = 1 / (1 + exp(-slope * u))
        derivative  slope * s * (1 - s)

    For checking gradients and for annealing towards a step: as the slope grows, this becomes
    `sigmoid`'s forward.

    Args:
        slope: steepness, greater than 0.

    Raises:
        TypeError: `slope` is not a number.
        ValueError: `slope` is not greater than 0 and finite.

    Reference: the default spike of traceTorch 0.18.3 to 0.19.2, with slope 4.

    Example:
        >>> float(spikes.smooth(4.0)(0.0)), float(jax.grad(spikes.smooth(4.0))(0.0))
        (0.5, 1.0)
    """

    slope: float = 4.0

    def forward(self, u: ArrayLike) -> jax.Array:
        return self.probability(u)


@dataclasses.dataclass(frozen=True)
class bernoulli:
    """Stochastic spikes: fires with a probability that rises with ``u``.

        forward     1[draw < surrogate.probability(u)]        draw uniform in [0, 1)
        derivative  surrogate.derivative(u)

    In a layer the draws come from the Flax rng stream ``"spike"`` and differ at every step and for
    every element. A ternary layer uses one draw for both signs, ``draw`` for the positive and
    ``1 - draw`` for the negative spike, so with one surrogate for both the two never fire
    together. (Under `jax.vmap` with one
    key all mapped sequences share their draws; pass batched sequences, or map over keys too.)

    Args:
        surrogate: a `SpikeFunction` with a `probability`: the integral of its derivative, scaled
            to run from 0 to 1. For `atan`, `sigmoid`, `triangular`, `gaussian` and
            `straight_through` the surrogate is then the exact gradient of the expected spike.

    Raises:
        TypeError: `surrogate` is no `SpikeFunction` with a probability.

    Reference: the default spike of traceTorch 0.14.1 to 0.18.2, with independent draws there.

    Example:
        >>> spike = spikes.bernoulli(spikes.sigmoid(4.0))
        >>> spike(jnp.array([-1.0, 0.1]), jnp.array([0.5, 0.5])).tolist()
        [0.0, 1.0]
    """

    surrogate: SpikeFunction = atan(2.0)

    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        kind = type(self.surrogate)
        if not (isinstance(self.surrogate, SpikeFunction)) or (
            kind.probability is SpikeFunction.probability
        ):
            raise TypeError(
                f"`surrogate` must be a SpikeFunction that has a probability; "
                f"got {self.surrogate!r}."
            )
        check_spike("surrogate", self.surrogate)

    def probability(self, u: ArrayLike) -> jax.Array:
        """Chance of a spike.

        Args:
            u: distance of the membrane above the threshold, floating-point, any shape.

        Returns:
            Probabilities in [0, 1], of the shape of `u`, in its dtype or float32 if that is wider.

        Raises:
            TypeError: `u` is not floating-point.
        """
        u = _real(u)
        return self.surrogate.probability(u.astype(wider(u.dtype, jnp.float32)))

    def forward(self, u: ArrayLike, draw: ArrayLike) -> jax.Array:
        """What is emitted: 1 where ``draw < probability(u)``, 0 where not, NaN where either is NaN.

        Args:
            u: distance of the membrane above the threshold, floating-point, any shape.
            draw: uniform in [0, 1), of the shape of `u`.

        Returns:
            The spikes, of the shape and dtype of `u`.

        Raises:
            TypeError: `u` is not floating-point.
        """
        u, draw = _real(u), jnp.asarray(draw)
        return keep_nan(_sample(self, u, draw), u, draw)

    def derivative(self, u: ArrayLike) -> jax.Array:
        """The surrogate's derivative.

        Args:
            u: distance of the membrane above the threshold, floating-point, any shape.

        Returns:
            The derivative at `u`, of its shape and dtype.

        Raises:
            TypeError: `u` is not floating-point.
        """
        return self.surrogate.derivative(u)

    def __call__(self, u: ArrayLike, draw: ArrayLike) -> jax.Array:
        """Spikes, differentiated by the surrogate.

        Args:
            u: distance of the membrane above the threshold, floating-point, any shape.
            draw: uniform in [0, 1), of the shape of `u`.

        Returns:
            What `forward` gives, with the gradient that `derivative` gives.

        Raises:
            TypeError: `u` is not floating-point.
            ValueError: `draw` has another shape than `u`.
        """
        u, draw = _real(u), jnp.asarray(draw)
        if u.shape != draw.shape:
            raise ValueError(f"`draw` must have the shape of `u`, {u.shape}; got {draw.shape}.")
        return keep_nan(_sample(self, u, draw), u, draw)
