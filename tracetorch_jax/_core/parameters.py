"""What the front ends share: how a parameter is described, checked, stored and made."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from tracetorch_jax._shared.checks import as_float, check_integer, check_known
from tracetorch_jax.functional.constraints import Constraint

Rank = Literal[0, 1]
Initializer = Callable[[jax.Array, tuple[int, ...], Any], Any]


class FrozenArray:
    """A read-only array that hashes and compares by value, so that modules can hold it.

    Converts back with ``np.asarray``.

    Args:
        value: real numbers, kept as float64.

    Example:
        >>> FrozenArray([0.5, 0.9]) == FrozenArray(np.array([0.5, 0.9]))
        True
    """

    __slots__ = ("_array", "_hash")

    def __init__(self, value: ArrayLike) -> None:
        array = np.array(value, np.float64)
        array.setflags(write=False)
        self._array = array
        self._hash = hash((array.shape, (array + 0.0).tobytes()))  # -0.0 and 0.0 are equal

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def ndim(self) -> int:
        return self._array.ndim

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype=dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenArray):
            return NotImplemented
        return self.shape == other.shape and bool(np.array_equal(self._array, other._array))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:
        return FrozenArray, (self._array,)  # another process hashes bytes to other numbers

    def __repr__(self) -> str:
        return repr(self._array)


Value = float | FrozenArray | Initializer | ArrayLike | tuple[float, ...]
"""What a parameter can be set to: a float, a 0-d or 1-d array or tuple, or an initializer."""


def freeze_value(name: str, value: Any) -> float | FrozenArray | Initializer:
    """Bring a parameter's value to one of the three forms that are hashable.

    Raises:
        TypeError: neither a number, an array or tuple of numbers, nor an initializer.
        ValueError: an array of more than one axis.
    """
    if isinstance(value, FrozenArray):
        return value
    wrong = TypeError(
        f"`{name}` must be a number, a 0-d or 1-d array or tuple of numbers, or an initializer "
        f"(key, shape, dtype) -> values; got {value!r}."
    )
    check_known(
        name,
        value,
        "Create the layer outside of jit, grad and vmap, or set its parameters in `params`.",
    )
    if isinstance(value, (bool, np.bool_, str, bytes)) or value is None:
        raise wrong
    if isinstance(value, (numbers.Real, np.generic)) and not isinstance(value, np.complexfloating):
        return as_float(value)
    if callable(value):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        raise wrong from None
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise wrong
    if array.ndim > 1:
        raise ValueError(f"`{name}` must have 0 or 1 axes; got shape {array.shape}.")
    return FrozenArray(array)


def check_rank(name: str, rank: Any) -> int:
    """Return `rank` if it is 0 or 1."""
    return check_integer(name, rank, 0, 1, "0 (scalar) or 1 (vector)")


def check_flag(name: str, flag: Any) -> bool:
    """Return `flag` if it is a bool."""
    if not isinstance(flag, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False; got {flag!r}.")
    return bool(flag)


def check_dim(dim: Any) -> int:
    """Return `dim` as a negative int."""
    end = "counted from the end of one step's tensor (-1 for [B, N], -3 for [B, C, H, W])"
    return check_integer("dim", dim, None, -1, f"a negative integer, {end}")


def check_dtype(name: str, dtype: DTypeLike) -> np.dtype:
    """Return `dtype` in the one form that hashes as it compares, if a layer can compute in it."""
    try:
        given = None if dtype is None else jnp.dtype(dtype)  # to NumPy None is float64
    except TypeError:
        given = None
    known = "float16", "bfloat16", "float32", "float64"  # JAX promotes no narrower ones
    if given is None or given.name not in known:
        raise TypeError(
            f"`{name}` must be a floating-point dtype, one of {', '.join(known)}; got {dtype!r}."
        )
    return given


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a layer: what it starts from and whether it is trained.

    Attributes:
        name: as in ``Spec.parameters``.
        label: what its user calls it, for error messages.
        constraint: its domain.
        value: start value, as `freeze_value` returns it.
        rank: 0 or 1; counts for a float or an initializer.
        learnable: False makes it a constant.
        num_neurons: length of a vector.
        dtype: what it is stored as.
        compute: what is computed with, if the layer says so.
    """

    name: str
    label: str
    constraint: Constraint
    value: float | FrozenArray | Initializer
    rank: int
    learnable: bool
    num_neurons: int
    dtype: DTypeLike
    compute: DTypeLike

    @property
    def raw_name(self) -> str:
        """Name under which the raw parameter is stored."""
        return f"raw_{self.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        """``()`` or ``(num_neurons,)``."""
        if isinstance(self.value, FrozenArray):
            return self.value.shape
        return (self.num_neurons,) if self.rank else ()

    def check(self) -> None:
        """Raise unless the value is legal.

        Raises:
            TypeError: a constant that is given as an initializer.
            ValueError: a vector of the wrong length, or a value outside its domain.
        """
        if isinstance(self.value, FrozenArray) and self.shape not in ((), (self.num_neurons,)):
            raise ValueError(
                f"`{self.label}` must have one value per neuron, shape ({self.num_neurons},); "
                f"got shape {self.shape}."
            )
        if not callable(self.value):
            value = np.asarray(self.value, np.float64)
            self.constraint.check(self.label, value, self.dtype, self.learnable, self.compute)
        elif not self.learnable:
            raise TypeError(
                f"`{self.label}` must be a number or an array if it is not learnable, since a "
                f"constant is in no checkpoint; got the initializer {self.value!r}."
            )

    def init(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Make the raw parameter; boxes such as `nn.Partitioned` stay around it."""
        if not callable(self.value):
            raw = self.constraint.raw(np.asarray(self.value, np.float64))
            return jnp.asarray(np.broadcast_to(raw, shape), dtype)
        return jax.tree.map(self.raw_of, self.value(key, shape, dtype))

    def raw_of(self, value: Any) -> jax.Array:
        """The raw parameter of what an initializer returned, clipped to what its dtypes can hold.

        Raises:
            ValueError: the wrong shape, or a known value outside the domain.
        """
        if np.shape(value) != self.shape:
            raise ValueError(
                f"`{self.label}`: its initializer must return shape {self.shape}; "
                f"got {np.shape(value)}."
            )
        if not isinstance(value, jax.core.Tracer):
            self.constraint.check_inside(self.label, np.asarray(value, np.float64))
        with np.errstate(over="ignore"):  # of NumPy's values in a narrower type
            value = jnp.asarray(value, self.dtype)
        return self.constraint.invert(self.constraint.clip(value, self.compute)).astype(self.dtype)

    def constant(self) -> jax.Array:
        """The value of a parameter that is not learnable."""
        value = np.asarray(self.value, np.float64)
        return jnp.asarray(np.broadcast_to(value, self.shape), self.dtype)
