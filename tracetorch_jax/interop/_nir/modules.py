"""What stands between layers in a NIR graph: shapes, pooling, and factors, for `snn.Sequential`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from tracetorch_jax._core.parameters import check_dtype
from tracetorch_jax._shared.checks import check_integer


@dataclasses.dataclass(frozen=True)
class _OverAxes:
    """Base of what acts on the last axes of one step's tensor."""

    axes: int = 3

    def __post_init__(self) -> None:
        axes = check_integer("axes", self.axes, 1 if isinstance(self, Flatten) else 2)
        object.__setattr__(self, "axes", axes)

    def _check(self, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        if x.ndim < self.axes:
            raise ValueError(
                f"`x` must have at least {self.axes} axes for {self!r}; got shape {x.shape}."
            )
        return x


@dataclasses.dataclass(frozen=True)
class ChannelsLast(_OverAxes):
    """``[..., C, H, W]`` to ``[..., H, W, C]``, as `flax.linen.Conv` takes it.

    Args:
        axes: axes of one step's tensor, channels included.

    Raises:
        TypeError: `axes` is no integer.
        ValueError: `axes` below 2; when called, an array of fewer axes.

    Example:
        >>> interop.ChannelsLast()(jnp.zeros((2, 5, 8, 9))).shape
        (2, 8, 9, 5)
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Move the axis of the channels.

        Args:
            x: ``[..., C, H, W]``.

        Returns:
            ``[..., H, W, C]``.

        Raises:
            ValueError: `x` has fewer axes.
        """
        return jnp.moveaxis(self._check(x), -self.axes, -1)


@dataclasses.dataclass(frozen=True)
class ChannelsFirst(_OverAxes):
    """``[..., H, W, C]`` to ``[..., C, H, W]``, where trace layers take ``dim=-3``.

    Args:
        axes: axes of one step's tensor, channels included.

    Raises:
        TypeError: `axes` is no integer.
        ValueError: `axes` below 2; when called, an array of fewer axes.

    Example:
        >>> interop.ChannelsFirst()(jnp.zeros((2, 8, 9, 5))).shape
        (2, 5, 8, 9)
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Move the axis of the channels.

        Args:
            x: ``[..., H, W, C]``.

        Returns:
            ``[..., C, H, W]``.

        Raises:
            ValueError: `x` has fewer axes.
        """
        return jnp.moveaxis(self._check(x), -1, -self.axes)


@dataclasses.dataclass(frozen=True)
class Flatten(_OverAxes):
    """Merge the last axes of one step's tensor into one.

    Args:
        axes: how many; every axis but those of the batch.

    Raises:
        TypeError: `axes` is no integer.
        ValueError: `axes` below 1; when called, an array of fewer axes.

    Example:
        >>> interop.Flatten(3)(jnp.zeros((2, 5, 8, 9))).shape
        (2, 360)
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Make the last axes one.

        Args:
            x: one step's tensor, with or without batch axes.

        Returns:
            ``[..., N]``, where N is the product of the last `axes` sizes.

        Raises:
            ValueError: `x` has fewer axes.
        """
        x = self._check(x)
        return x.reshape(*x.shape[: -self.axes], -1)


@dataclasses.dataclass(frozen=True)
class _Pool:
    """Base of pooling over squares of ``[..., H, W, C]``."""

    size: int = 2
    stride: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_integer("size", self.size))
        stride = self.size if self.stride is None else check_integer("stride", self.stride)
        object.__setattr__(self, "stride", stride)

    def _sum(self, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        if x.ndim < 3:
            raise ValueError(f"`x` must have axes [..., H, W, C]; got shape {x.shape}.")
        stride: Any = self.stride
        return nn.pool(x, 0.0, jax.lax.add, (self.size,) * 2, (stride,) * 2, "VALID")


@dataclasses.dataclass(frozen=True)
class AvgPool(_Pool):
    """Means over squares of ``[..., H, W, C]``, without padding.

    Args:
        size: side of a square.
        stride: from one square to the next, by default `size`.

    Raises:
        TypeError: an argument that is no integer.
        ValueError: an argument below 1; when called, an array of fewer than 3 axes.

    Example:
        >>> interop.AvgPool(2)(jnp.ones((1, 4, 6, 3))).shape
        (1, 2, 3, 3)
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Average over squares.

        Args:
            x: ``[..., H, W, C]``.

        Returns:
            The means, ``[..., H', W', C]``.

        Raises:
            ValueError: `x` has fewer axes.
        """
        return self._sum(x) / self.size**2


@dataclasses.dataclass(frozen=True)
class SumPool(_Pool):
    """Sums over squares of ``[..., H, W, C]``, without padding.

    Args:
        size: side of a square.
        stride: from one square to the next, by default `size`.

    Raises:
        TypeError: an argument that is no integer.
        ValueError: an argument below 1; when called, an array of fewer than 3 axes.

    Example:
        >>> float(interop.SumPool(2)(jnp.ones((1, 4, 6, 3)))[0, 0, 0, 0])
        4.0
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Sum over squares.

        Args:
            x: ``[..., H, W, C]``.

        Returns:
            The sums, ``[..., H', W', C]``.

        Raises:
            ValueError: `x` has fewer axes.
        """
        return self._sum(x)


class Scale(nn.Module):
    """One factor for each element of one step's tensor.

        y = scale * x

    Args:
        shape: of one step's tensor.
        param_dtype: what the factors are stored as.
        scale_init: initializer of the factors, by default 1.

    Raises:
        TypeError: `param_dtype` is no floating-point type, or `shape` not of integers.
        ValueError: a size below 1; when called, an array that does not end in `shape`.

    Example:
        >>> layer = interop.Scale((3,))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> layer.apply(variables, jnp.ones((2, 3))).shape
        (2, 3)
    """

    shape: tuple[int, ...]
    param_dtype: DTypeLike = dataclasses.field(default=jnp.float32, kw_only=True)
    scale_init: Callable[..., Any] = dataclasses.field(default=nn.initializers.ones, kw_only=True)

    def __post_init__(self) -> None:
        sizes = (check_integer("shape", n, rule="integers of at least 1") for n in self.shape)
        object.__setattr__(self, "shape", tuple(sizes))
        object.__setattr__(self, "param_dtype", check_dtype("param_dtype", self.param_dtype))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiply by the factors.

        Args:
            x: ``[..., *shape]``.

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: `x` does not end in `shape`.
        """
        scale = self.param("scale", self.scale_init, self.shape, self.param_dtype)
        leading = x.ndim - len(self.shape)
        if leading < 0 or x.shape[leading:] != self.shape:
            raise ValueError(f"`x` must end in the shape {self.shape}; got shape {x.shape}.")
        x, scale = nn.dtypes.promote_dtype(x, scale, dtype=None)
        return x * scale.reshape((1,) * leading + self.shape)
