"""How a free raw parameter is bound to its domain, and time scales turned into decays.

Optimisers move *raw* parameters over the whole real line. A decay is the sigmoid of its raw
parameter and so stays in (0, 1); a threshold is the softplus of its own and so stays positive.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tracetorch_jax._shared.dtypes import asarray


def _floating(name: str, value: ArrayLike) -> jax.Array:
    array = asarray(value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"`{name}` must be real; got dtype {array.dtype}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    return array


def _require(name: str, value: jax.Array, inside: jax.Array, rule: str) -> None:
    """Raise if a concrete `value` breaks the rule; a traced one cannot be looked at."""
    if isinstance(inside, jax.core.Tracer):
        return
    if not bool(jnp.all(inside)):
        bad = np.asarray(value)[~np.asarray(inside)].flat[0]
        raise ValueError(f"`{name}` must {rule}; got {bad:g}.")


def _checked(
    rule: str, inside: Callable[[jax.Array], jax.Array]
) -> Callable[[Callable[[jax.Array], jax.Array]], Callable[[ArrayLike], jax.Array]]:
    """Make `convert` check its only argument, named as in its own signature."""

    def wrap(convert: Callable[[jax.Array], jax.Array]) -> Callable[[ArrayLike], jax.Array]:
        name = convert.__code__.co_varnames[0]

        @functools.wraps(convert)
        def checked(value: ArrayLike) -> jax.Array:
            array = _floating(name, value)
            _require(name, array, inside(array), rule)
            return convert(array)

        checked.__annotations__ = {name: "ArrayLike", "return": "jax.Array"}
        return checked

    return wrap


_positive = _checked("be greater than 0", lambda v: v > 0)
_unit = _checked("lie strictly between 0 and 1", lambda v: (v > 0) & (v < 1))


# From values to raw ones, in JAX or in NumPy (`xp`). For the way back JAX has functions of its own,
# with derivatives of their own; NumPy has none, so the formulas stand with each constraint.


def _logit(value: Any, xp: Any) -> Any:
    return xp.log(value) - xp.log1p(-value)


def _inverse_softplus(value: Any, xp: Any) -> Any:
    return value + xp.log(-xp.expm1(-value))


@_unit
def sigmoid_inverse(value: jax.Array) -> jax.Array:
    """Raw parameter whose sigmoid is `value`: ``log(v) - log1p(-v)``.

    Args:
        value: any shape, strictly between 0 and 1.

    Returns:
        An array of the same shape; integer input becomes floating.

    Raises:
        ValueError: a concrete value lies outside (0, 1). Traced values give NaN instead.
        TypeError: `value` is complex.

    Example:
        >>> float(functional.sigmoid_inverse(0.5))
        0.0
    """
    return _logit(value, jnp)


@_checked("be greater than 0 and finite", lambda v: (v > 0) & jnp.isfinite(v))
def softplus_inverse(value: jax.Array) -> jax.Array:
    """Raw parameter whose softplus is `value`: ``v + log(-expm1(-v))``.

    This form neither overflows for a large value nor cancels for a small one, unlike
    ``log(expm1(v))``, which is infinite in float32 from 89 on.

    Args:
        value: any shape, greater than 0.

    Returns:
        An array of the same shape; integer input becomes floating.

    Raises:
        ValueError: a concrete value is not positive and finite. Traced values give NaN instead.
        TypeError: `value` is complex.

    Example:
        >>> float(functional.softplus_inverse(100.0))
        100.0
    """
    return _inverse_softplus(value, jnp)


class _Numpy(NamedTuple):
    """The same pair of functions on NumPy arrays, for values known before any computation."""

    constrain: Callable[[np.ndarray], np.ndarray]
    invert: Callable[[np.ndarray], np.ndarray]
    inside: Callable[[np.ndarray], np.ndarray]
    inside_constant: Callable[[np.ndarray], np.ndarray]
    ends: Callable[[Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Constraint:
    """A domain for a parameter, with the map that keeps it there.

    Attributes:
        name: ``"sigmoid"``, ``"softplus"`` or ``"none"``.
        rule: what a learnable value must satisfy, as error messages say it.
        constant_rule: what a value that is never trained must satisfy.
        constrain: raw array to constrained array.
        invert: constrained array to raw array.

    Example:
        >>> functional.DECAY.constrain(jnp.zeros(2)).tolist()
        [0.5, 0.5]
    """

    name: str
    rule: str
    constant_rule: str
    constrain: Callable[[jax.Array], jax.Array] = dataclasses.field(repr=False)
    invert: Callable[[jax.Array], jax.Array] = dataclasses.field(repr=False)
    _numpy: _Numpy = dataclasses.field(repr=False)

    def clip(self, value: jax.Array, compute: Any = None) -> jax.Array:
        """The nearest values that can be stored as raw ones: what initial values go through.

        Args:
            value: floating-point, any shape, traced or not.
            compute: another dtype in which the values must survive as well.

        Returns:
            An array of the same shape and dtype. A value that lies outside the domain, or so close
            to its end that the raw value would be infinite or a dtype would round the value to the
            end, becomes the nearest that the dtypes can hold. Other values, and NaN, stay as they
            are.

        Raises:
            TypeError: `value` is not floating-point.

        Example:
            >>> decays = jnp.array([-1.0, 0.5, 1.0], jnp.bfloat16)
            >>> functional.DECAY.clip(decays)[1:].tolist()
            [0.5, 0.99609375]
        """
        value = jnp.asarray(value)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(f"`value` must be floating-point; got dtype {value.dtype}.")
        return jnp.clip(value, *_ends(self, value.dtype, jnp.dtype(compute or value.dtype)))

    def check_inside(self, name: str, value: np.ndarray, learnable: bool = True) -> None:
        """Check that a value is legal as it is, before rounding to any type.

        Args:
            name: what to call the value in the error.
            value: float64, any shape.
            learnable: whether the `rule` counts, or the `constant_rule`.

        Raises:
            ValueError: it breaks the rule, or is not finite.
        """
        bad = value[~np.isfinite(value)]
        if bad.size:
            raise ValueError(f"`{name}` must be finite; got {bad[0]}.")
        inside, rule = self._domain(learnable)
        bad = value[~inside(value)]
        if bad.size:
            raise ValueError(f"`{name}` must {rule}; got {float(bad[0])!r}.")

    def check(
        self,
        name: str,
        value: np.ndarray,
        dtype: Any,
        learnable: bool = True,
        compute: Any = None,
    ) -> None:
        """Check that a value is legal, also after rounding to `dtype` and to `compute`.

        Args:
            name: what to call the value in the error.
            value: float64, any shape.
            dtype: what the parameter will be stored as. 1 - 1e-9 is a decay, but float32 rounds
                it to 1, so it can't be kept in float32.
            learnable: whether the value must survive the way to its raw parameter and back. A
                constant at the very end of its range stays legal.
            compute: what the parameter will be computed with; by default `dtype`.

        Raises:
            ValueError: it breaks the `rule` (`constant_rule` if it is not learnable), is not
                finite, or is rounded to the end of its range.
        """
        self.check_inside(name, value, learnable)
        for argument, used in (("param_dtype", dtype), ("dtype", compute or dtype)):
            bad = value[~self._survives(value, dtype, used, learnable)]
            if bad.size:
                _, rule = self._domain(learnable)
                raise ValueError(
                    f"`{name}` must {rule}, also as {jnp.dtype(used).name}; got "
                    f"{float(bad[0])!r}, which that type rounds to the end of its range. Use a "
                    f"wider `{argument}`."
                )

    def _domain(self, learnable: bool) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
        """Whether a value is legal, and the rule in words."""
        if learnable:
            return self._numpy.inside, self.rule
        return self._numpy.inside_constant, self.constant_rule

    def _survives(
        self, value: np.ndarray, dtype: Any, compute: Any, learnable: bool = True
    ) -> np.ndarray:
        """Whether a legal float64 value is off the ends when stored as `dtype`, used as `compute`.

        A constant may be exactly at an end, but must not be rounded to it.
        """
        with np.errstate(all="ignore"):
            stored = value.astype(dtype)
            if learnable:
                raw = self._numpy.invert(value).astype(dtype)
                stored = self._numpy.constrain(raw).astype(dtype)
            stored = stored.astype(compute).astype(np.float64)
        inside = self._numpy.inside
        return (inside(stored) | ~inside(value)) & np.isfinite(stored)

    def raw(self, value: np.ndarray) -> np.ndarray:
        """Raw values of legal NumPy `value`, computed in float64."""
        return self._numpy.invert(value.astype(np.float64))

    def value(self, raw: np.ndarray) -> np.ndarray:
        """Constrained values of raw ones, computed by NumPy in float64.

        Args:
            raw: any shape, any real numbers.

        Returns:
            A float64 array of the same shape.
        """
        with np.errstate(over="ignore"):
            return np.asarray(self._numpy.constrain(raw.astype(np.float64)))


@functools.cache
def _ends(constraint: Constraint, dtype: Any, compute: Any) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value that survive as raw ones of `dtype`, used as `compute`."""
    ends = [constraint._numpy.ends(jnp.finfo(each)) for each in (dtype, compute)]
    with np.errstate(over="ignore"):
        least = np.asarray(max(float(low) for low, _ in ends), dtype)
        greatest = np.asarray(min(float(high) for _, high in ends), dtype)

    def survives(end: np.ndarray) -> np.ndarray:
        return constraint._survives(end.astype(np.float64), dtype, compute)

    # The way to the raw value and back rounds as well: in float32 it makes 1 of 1 - 2**-24. For all
    # pairs of dtypes that a layer takes, the next value inside comes back inside.
    if not survives(least):
        least = np.nextafter(least, greatest)
    if not survives(greatest):
        greatest = np.nextafter(greatest, least)
    return least, greatest


DECAY = Constraint(
    "sigmoid",
    "lie strictly between 0 and 1",
    "lie between 0 and 1",
    jax.nn.sigmoid,
    sigmoid_inverse,
    _Numpy(
        lambda raw: 1 / (1 + np.exp(-raw)),
        functools.partial(_logit, xp=np),
        lambda v: (v > 0) & (v < 1),
        lambda v: (v >= 0) & (v <= 1),
        # Not `tiny`: on its way to the raw value and back it falls below, which XLA flushes to 0.
        lambda info: (2 * info.tiny, 1 - info.epsneg),
    ),
)
"""Decays: ``sigmoid(raw)``, in (0, 1)."""

THRESHOLD = Constraint(
    "softplus",
    "be greater than 0",
    "be greater than 0",
    jax.nn.softplus,
    softplus_inverse,
    _Numpy(
        lambda raw: np.log1p(np.exp(-np.abs(raw))) + np.maximum(raw, 0),
        functools.partial(_inverse_softplus, xp=np),
        lambda v: v > 0,
        lambda v: v > 0,
        lambda info: (2 * info.tiny, info.max),
    ),
)
"""Thresholds: ``softplus(raw)``, greater than 0."""

UNBOUNDED = Constraint(
    "none",
    "be finite",
    "be finite",
    operator.pos,
    operator.pos,
    _Numpy(
        operator.pos, operator.pos, np.isfinite, np.isfinite, lambda info: (-info.max, info.max)
    ),
)
"""Scales, weights and biases: the raw parameter itself, of any sign."""


@_positive
def halflife_to_decay(halflife: jax.Array) -> jax.Array:
    """Decay with which a trace halves in `halflife` steps: ``0.5 ** (1 / halflife)``.

    Args:
        halflife: steps, greater than 0, any shape.

    Returns:
        Decays in (0, 1), of the same shape; integer input becomes floating.

    Raises:
        ValueError: a concrete `halflife` is not positive. Traced values are not checked.
        TypeError: `halflife` is complex.

    Example:
        >>> float(functional.halflife_to_decay(1.0))
        0.5
    """
    return jnp.exp2(-1 / halflife)


def half_life(decay: np.ndarray) -> np.ndarray:
    """Half-lives in steps of known decays, in float64; 0 and infinity for decays of 0 and 1.

    Example:
        >>> half_life(np.array([0.5, 1.0])).tolist()
        [1.0, inf]
    """
    with np.errstate(divide="ignore"):
        return np.log(2) / np.abs(np.log(np.asarray(decay, np.float64)))


@_unit
def decay_to_halflife(decay: jax.Array) -> jax.Array:
    """Steps in which a trace with this `decay` halves: ``-1 / log2(decay)``.

    Args:
        decay: strictly between 0 and 1, any shape.

    Returns:
        Steps, of the same shape.

    Raises:
        ValueError: a concrete `decay` lies outside (0, 1). Traced values are not checked.
        TypeError: `decay` is complex.

    Example:
        >>> float(functional.decay_to_halflife(0.5))
        1.0
    """
    return -1 / jnp.log2(decay)


@_positive
def time_constant_to_decay(time_constant: jax.Array) -> jax.Array:
    """Decay with which a trace falls to 1/e in `time_constant` steps: ``exp(-1 / tau)``.

    Args:
        time_constant: tau in steps (a time in seconds divided by the step), greater than 0,
            any shape.

    Returns:
        Decays in (0, 1), of the same shape; integer input becomes floating.

    Raises:
        ValueError: a concrete `time_constant` is not positive. Traced values are not checked.
        TypeError: `time_constant` is complex.

    Example:
        >>> round(float(functional.time_constant_to_decay(10.0)), 4)
        0.9048
    """
    return jnp.exp(-1 / time_constant)


@_unit
def decay_to_time_constant(decay: jax.Array) -> jax.Array:
    """Steps in which a trace with this `decay` falls to 1/e: ``-1 / log(decay)``.

    Args:
        decay: strictly between 0 and 1, any shape.

    Returns:
        Steps, of the same shape.

    Raises:
        ValueError: a concrete `decay` lies outside (0, 1). Traced values are not checked.
        TypeError: `decay` is complex.

    Example:
        >>> round(float(functional.decay_to_time_constant(0.9)), 3)
        9.491
    """
    return -1 / jnp.log(decay)


@_checked("be greater than 1", lambda v: v > 1)
def timesteps_to_decay(timesteps: jax.Array) -> jax.Array:
    """Decay of an average over about `timesteps` steps: ``1 - 1 / timesteps``.

    Args:
        timesteps: greater than 1, any shape.

    Returns:
        Decays in (0, 1), of the same shape; integer input becomes floating.

    Raises:
        ValueError: a concrete `timesteps` is not greater than 1. Traced values are not checked.
        TypeError: `timesteps` is complex.

    Example:
        >>> float(functional.timesteps_to_decay(4.0))
        0.75
    """
    return 1 - 1 / timesteps


@_unit
def decay_to_timesteps(decay: jax.Array) -> jax.Array:
    """Number of steps that an average with this `decay` spans: ``1 / (1 - decay)``.

    Args:
        decay: strictly between 0 and 1, any shape.

    Returns:
        Steps, of the same shape.

    Raises:
        ValueError: a concrete `decay` lies outside (0, 1). Traced values are not checked.
        TypeError: `decay` is complex.

    Example:
        >>> float(functional.decay_to_timesteps(0.75))
        4.0
    """
    return 1 / (1 - decay)
