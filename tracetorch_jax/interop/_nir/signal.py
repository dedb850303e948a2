"""Where the elements of a tensor of ours lie in NIR."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tracetorch_jax._shared.shapes import along


@dataclasses.dataclass
class Signal:
    """What flows along an edge.

    `index` has the shape that the signal has in NIR, and holds where each of its elements lies in
    the flattened tensor of ours, of shape `shape`: NIR has channels first, Flax has them last.
    """

    source: str
    shape: tuple[int, ...]
    index: np.ndarray

    @classmethod
    def of_input(cls, shape: tuple[int, ...], channels_last: bool) -> Signal:
        index = np.arange(math.prod(shape)).reshape(shape)
        return cls("input", shape, np.moveaxis(index, -1, 0) if channels_last else index)

    @property
    def in_order(self) -> bool:
        """Whether flattening gives the same on both sides."""
        return np.array_equal(self.index.ravel(), np.arange(self.index.size))

    def moved(self, source: str) -> Signal:
        return dataclasses.replace(self, source=source)

    def full(self, value: np.ndarray, dim: int) -> np.ndarray:
        """A value along axis `dim` of our tensor, as an array of NIR's shape."""
        value = along(np.asarray(value).astype(np.float64), dim)
        return np.broadcast_to(value, self.shape).ravel()[self.index]
