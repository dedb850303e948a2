"""Convolutions and pooling: Flax's and NIR's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from tracetorch_jax.interop._nir import modules
from tracetorch_jax.interop._nir.graph import Node, storable

_PLAIN = {"input_dilation": 1, "feature_group_count": 1, "mask": None}


def conv_node(
    conv: nn.Conv, params: Mapping[str, Any], shape: tuple[int, ...], where: str
) -> tuple[Node, tuple[int, ...]]:
    """The node of a convolution, and the shape of its output, channels last.

    Args:
        conv: the module.
        params: its parameters.
        shape: of its input, channels last.
        where: what to call it in an error.
    """
    kernel = np.asarray(params["kernel"])
    size = (conv.kernel_size,) if isinstance(conv.kernel_size, int) else tuple(conv.kernel_size)
    if len(size) not in (1, 2) or len(shape) != len(size) + 1:
        raise ValueError(
            f"{where} must convolve over 1 or 2 axes of a step's tensor, and channels; "
            f"got kernel_size={size} for the shape {shape}."
        )
    if len(set(size)) > 1:
        raise ValueError(
            f"{where} must have a square kernel, of which nir knows the shape; got {size}."
        )
    for name, plain in _PLAIN.items():
        value = getattr(conv, name)
        if value not in (plain, None) and set(np.ravel(value)) != {plain}:
            raise ValueError(f"{where} must have {name}={plain} to be written; got {value!r}.")
    wanted = (*size, shape[-1], conv.features)
    if kernel.shape != wanted:
        raise ValueError(f"`kernel` of {where} must have the shape {wanted}; got {kernel.shape}.")
    strides = _per_axis(conv.strides, len(size))
    dilation = _per_axis(conv.kernel_dilation, len(size))
    padding = _padding(conv.padding, shape[:-1], size, strides, dilation, where)
    out = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(shape, padding, dilation, size, strides, strict=False)
    )
    if min(out) < 1:
        raise ValueError(
            f"{where} has a kernel larger than its input of shape {shape}; got {size}."
        )
    weight = np.moveaxis(storable(kernel), (-1, -2), (0, 1))
    bias = np.asarray(params["bias"]) if conv.use_bias else np.zeros(conv.features)
    if bias.shape != (conv.features,):
        raise ValueError(
            f"`bias` of {where} must have the shape ({conv.features},); got {bias.shape}."
        )
    one = len(size) == 1
    values = {
        "input_shape": int(shape[0]) if one else tuple(map(int, shape[:-1])),
        "weight": np.ascontiguousarray(weight),
        "stride": strides[0] if one else strides,
        "padding": padding[0] if one else padding,
        "dilation": dilation[0] if one else dilation,
        "groups": 1,
        "bias": bias.astype(weight.dtype),
    }
    return Node(f"Conv{len(size)}d", values), (*out, conv.features)


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    if value is None:
        return (1,) * axes
    return (int(value),) * axes if np.ndim(value) == 0 else tuple(map(int, value))


def _padding(
    padding: Any,
    shape: tuple[int, ...],
    size: tuple[int, ...],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
    where: str,
) -> tuple[int, ...]:
    """Padding on both sides of each axis, which NIR needs to be the same."""
    if padding == "VALID":
        return (0,) * len(size)
    pairs: list[tuple[int, int]]
    if padding == "SAME":
        pairs = []
        for n, k, s, d in zip(shape, size, strides, dilation, strict=True):
            total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            pairs.append((total // 2, total - total // 2))
    elif isinstance(padding, str):
        raise ValueError(f'{where} must have padding "SAME", "VALID" or numbers; got {padding!r}.')
    elif isinstance(padding, int):
        pairs = [(padding, padding)] * len(size)
    else:
        pairs = [(int(p), int(p)) if np.ndim(p) == 0 else (int(p[0]), int(p[1])) for p in padding]
    if any(low != high for low, high in pairs):
        raise ValueError(
            f"{where} must be padded alike at both ends of an axis, as in NIR; got {pairs} from "
            f"padding={padding!r} for the shape {shape}."
        )
    return tuple(low for low, _ in pairs)


def pool_node(
    pool: modules.AvgPool | modules.SumPool, shape: tuple[int, ...], where: str
) -> tuple[Node, tuple[int, ...]]:
    """The node of a pooling, and the shape of its output, channels last."""
    if len(shape) != 3 or min(shape[:2]) < pool.size:
        raise ValueError(
            f"{where} must get [H, W, C], neither side less than {pool.size}; got {shape}."
        )
    stride: Any = pool.stride
    values = {
        "kernel_size": np.array([pool.size] * 2),
        "stride": np.array([stride] * 2),
        "padding": np.array([0, 0]),
    }
    out = tuple((n - pool.size) // stride + 1 for n in shape[:2])
    return Node(f"{type(pool).__name__}2d", values), (*out, shape[2])
