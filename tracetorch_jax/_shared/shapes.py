"""How a parameter lies in the tensor that it is for."""

from __future__ import annotations

from typing import Any


def along(value: Any, dim: int, ndim: int = 0) -> Any:
    """A value of shape ``()`` or ``(N,)`` as it lies along axis `dim` of a step's tensor.

    Args:
        value: array of JAX or NumPy. A scalar stays as it is.
        dim: axis of the tensor, from the end.
        ndim: axes of the tensor, to have as many where rank must not differ.

    Example:
        >>> import numpy as np
        >>> along(np.ones(3), -2).shape, along(np.ones(3), -2, 4).shape
        ((3, 1), (1, 1, 3, 1))
    """
    shape = value.shape
    if shape:
        shape += (1,) * (-dim - 1)
        shape = (1,) * (ndim - len(shape)) + shape
    return value.reshape(shape)
