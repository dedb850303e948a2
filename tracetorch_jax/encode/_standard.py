"""Signals of mean 0 and deviation 1."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tracetorch_jax._shared.axes import known, real, time_first
from tracetorch_jax._shared.dtypes import countable
from tracetorch_jax.functional.engines.masks import steps_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Standardiser:
    """The result of `standardiser`: a function that standardises sequences.

    It takes whole sequences as well as a step of a stream. To save it, save its two arrays.

    Attributes:
        mean: ``[...]``, of each channel.
        deviation: ``[...]``, of each channel, greater than 0.
    """

    mean: np.ndarray
    deviation: np.ndarray

    def __call__(self, xs: ArrayLike) -> jax.Array:
        """``(xs - mean) / deviation``.

        Args:
            xs: ``[..., *mean.shape]``: sequences in either order of the axes, or a step of them.

        Returns:
            Of the shape of `xs`, of its dtype if floating, else float32. What is NaN stays NaN.

        Raises:
            TypeError: `xs` are not real.
            ValueError: the last axes of `xs` are not those of `mean`.

        Example:
            >>> standardise = encode.Standardiser(np.array([10.0]), np.array([2.0]))
            >>> standardise(jnp.array([[10.0], [14.0]])).tolist()
            [[0.0], [2.0]]
        """
        xs = real("xs", xs)
        shape = np.shape(self.mean)
        if xs.shape[xs.ndim - len(shape) :] != shape or xs.ndim < len(shape):
            raise ValueError(
                f"`xs` must have the axes of the mean, {shape}, as its last ones; got shape "
                f"{xs.shape}."
            )
        wide = countable(xs)
        axes = range(xs.ndim - len(shape))
        mean, deviation = (
            jnp.expand_dims(jnp.asarray(x, wide.dtype), axes) for x in (self.mean, self.deviation)
        )
        return ((wide - mean) / deviation).astype(xs.dtype)


def standardiser(
    xs: ArrayLike, *, seq_lengths: ArrayLike | None = None, time_major: bool = False
) -> Standardiser:
    """Fit a function that gives each channel mean 0 and standard deviation 1.

    Take the training set, and give the result all sets: what is learnt from the others would not be
    known when the model is used. A channel that does not change is only moved to 0.

    Args:
        xs: ``[B, T, ...]``. NaN is what is missing: it does not count. Not while being traced.
        seq_lengths: ``[B]`` integers in [0, T]: what is beyond them does not count.
        time_major: whether `xs` is ``[T, B, ...]``.

    Returns:
        A `Standardiser`, a function of sequences or steps.

    Raises:
        TypeError: `xs` are not real, or are being traced.
        ValueError: `xs` has fewer than two axes or is infinite somewhere, a channel has no value,
            or `seq_lengths` does not fit.

    Example:
        >>> xs, others = jnp.array([[[1.0], [3.0]]]), jnp.array([[[2.0], [5.0]]])
        >>> standardise = encode.standardiser(xs)
        >>> standardise(xs)[..., 0].tolist(), standardise(others)[..., 0].tolist()
        ([[-1.0, 1.0]], [[0.0, 3.0]])
    """
    steps = time_first("xs", xs, time_major)
    values = known(steps)
    if values is None:
        raise TypeError("`xs` must be known, since its mean is taken once; got traced values.")
    values = values.astype(np.float64)
    axes = (0,) if values.ndim == 2 else (0, 1)
    counts = np.ones(values.shape[: len(axes)], bool)
    valid = steps_of(steps, seq_lengths)
    counts = counts if valid is None else np.asarray(valid)
    counts = counts.reshape(counts.shape + (1,) * (values.ndim - counts.ndim)) & ~np.isnan(values)
    if np.isinf(values[counts]).any():
        raise ValueError("`xs` must be finite, or NaN where it is missing; got an infinite value.")
    number = counts.sum(axes)
    if not number.all():
        raise ValueError("`xs` must have a value of each channel; one has none.")
    mean = np.where(counts, values, 0).sum(axes) / number
    apart = np.where(counts, values - mean, 0)
    deviation = np.sqrt(np.square(apart).sum(axes) / number)
    # Rounding makes a deviation of a constant, and would be blown up. float32 has no smaller one.
    constant = deviation <= np.maximum(1e-7 * np.abs(mean), np.finfo(np.float32).tiny)
    deviation = np.where(constant, 1, deviation)
    return Standardiser(mean.astype(np.float32), deviation.astype(np.float32))
