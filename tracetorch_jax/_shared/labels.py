"""Outputs over time, and labels of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tracetorch_jax._shared.axes import check_values, real
from tracetorch_jax._shared.checks import as_array
from tracetorch_jax._shared.dtypes import as_given, as_int32, countable


def check_outputs(outputs: Any, name: str = "outputs") -> jax.Array:
    """Check what has a time axis and an axis of classes."""
    xs = countable(real(name, outputs))
    if xs.ndim < 2:
        raise ValueError(
            f"`{name}` must be [B, T, C], [T, B, C] with time_major=True, or [T, C] without a "
            f"batch axis; got shape {xs.shape}."
        )
    return xs


def check_labels(labels: Any, logits: jax.Array) -> jax.Array:
    """Check one label per row of logits, and give them as int32."""
    labels = check_label_kind(labels, logits.shape[:-1], logits.shape[-1])
    check_range(labels, logits.shape[-1])
    return as_int32(labels)


def check_label_kind(labels: Any, want: tuple[int, ...], classes: int) -> Any:
    """Check shape and type; return JAX's or NumPy's array, in which 64 bits are still whole."""
    labels = as_array("labels", labels, convert=as_given)
    hint = ""
    if labels.shape == (*want, classes):
        hint = " They look one-hot: use labels.argmax(-1), or soft_cross_entropy."
    elif len(want) > 1 and labels.shape == (want[1], want[0], *want[2:]):
        hint = " Their batch and time axes look swapped: see `time_major`."
    if labels.shape != want:
        raise ValueError(
            f"`labels` must be class indices of shape {want}, as the outputs' batch and time axes "
            f"say; got shape {labels.shape}.{hint}"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` must be integers, indices of classes; got {labels.dtype}.")
    return labels


def check_range(labels: Any, classes: int) -> None:
    """Check that labels, where they are known, are of a class."""
    check_values(
        "labels",
        labels,
        lambda v: (v >= 0) & (v < classes),
        f"lie between 0 and C - 1 = {classes - 1}",
    )
