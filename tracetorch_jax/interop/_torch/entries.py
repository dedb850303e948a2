"""Arrays that are the same in torch and in Flax, apart from the order of their axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import flax.linen as nn
import numpy as np

from tracetorch_jax.interop._torch.survey import Found, Leaf

# The order in which torch's modules create what they have.
_ORDER = "weight bias running_mean running_var"
_NORMS = (nn.BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm, nn.RMSNorm)
_KNOWN = (nn.Dense, nn.Conv, nn.ConvTranspose, nn.Embed, *_NORMS)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array that is the same in both, apart from the order of its axes.

    Attributes:
        torch: its name in torch.
        leaf: collection and name in Flax.
        axes: of Flax's axes, which torch's each one is.
        flip: torch's axes that run the other way.
        features: torch's axis along which the features lie that come in.
    """

    torch: str
    leaf: Leaf
    axes: tuple[int, ...]
    flip: tuple[int, ...] = ()
    features: int | None = None

    def to_flax(self, array: np.ndarray, order: np.ndarray | None) -> np.ndarray:
        """Torch's array as Flax has it; `order` says where each incoming feature was."""
        if order is not None and self.features is not None:
            array = np.take(array, order, self.features)
        return np.transpose(np.flip(array, self.flip), self.axes)

    def to_torch(self, array: np.ndarray, order: np.ndarray | None) -> np.ndarray:
        """The inverse of `to_flax`."""
        array = np.flip(np.transpose(array, np.argsort(self.axes)), self.flip)
        if order is not None and self.features is not None:
            array = np.take(array, np.argsort(order), self.features)
        return array

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in torch of an array of this `shape` in Flax."""
        return tuple(shape[axis] for axis in np.argsort(self.axes))


def entries_of(found: Found) -> list[Entry]:
    """The entries of a module that is no trace layer, in torch's order.

    Raises:
        ValueError: it is one of Flax's own that is not known here.
    """
    return sorted(_unsorted(found), key=lambda entry: _ORDER.find(entry.torch))


def _is_flax(module: nn.Module) -> bool:
    """Whether a module is Flax's own; `nn.remat` and the like give theirs to whatever they wrap."""
    kinds = [kind.__module__ for kind in type(module).__mro__]
    return next(kind for kind in kinds if kind != "flax.linen.transforms").startswith("flax.")


def _unsorted(found: Found) -> Iterator[Entry]:
    """The entries of a module in the order of its leaves."""
    module = found.module
    axes = {leaf: tuple(range(len(value.shape))) for leaf, value in found.leaves.items()}
    known: dict[Leaf, Entry] = {}
    kernel, bias, embedding = ("params", "kernel"), ("params", "bias"), ("params", "embedding")
    if isinstance(module, nn.Dense) and len(axes[kernel]) == 2:
        known[kernel] = Entry("weight", kernel, (1, 0), features=1)
    elif isinstance(module, nn.Conv):
        ndim = len(axes[kernel])
        known[kernel] = Entry("weight", kernel, (*range(2, ndim), 1, 0))
    elif isinstance(module, nn.ConvTranspose):
        # Flax correlates with the kernel as it is; with `transpose_kernel`, as torch does.
        space = tuple(range(2, len(axes[kernel])))
        if module.transpose_kernel:
            known[kernel] = Entry("weight", kernel, (*space, 1, 0))
        else:
            known[kernel] = Entry("weight", kernel, (*space, 0, 1), flip=space)
    elif isinstance(module, nn.Embed):
        known[embedding] = Entry("weight", embedding, (0, 1))
    elif isinstance(module, _NORMS):
        vectors = {
            ("params", "scale"): "weight",
            ("params", "bias"): "bias",
            ("batch_stats", "mean"): "running_mean",
            ("batch_stats", "var"): "running_var",
        }
        known = {
            leaf: Entry(name, leaf, axes[leaf], features=0 if len(axes[leaf]) == 1 else None)
            for leaf, name in vectors.items()
            if leaf in axes
        }
    if _is_flax(module) and (not isinstance(module, _KNOWN) or axes.keys() - known.keys() - {bias}):
        raise ValueError(
            f"`model` must be made of trace layers, modules of your own, and of Flax's "
            f"{', '.join(kind.__name__ for kind in _KNOWN)}; got {found.label}."
        )
    for leaf in axes:  # whatever a module of the user's own calls its parameters
        yield known.get(leaf) or Entry(leaf[1], leaf, axes[leaf])
