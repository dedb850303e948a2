"""How the parameters of one module are laid out in torch and in Flax."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

import flax.linen as nn
import numpy as np

from tracetorch_jax._parameters import Parameter
from tracetorch_jax.functional.spec import channel_names
from tracetorch_jax.interop._bias import bias_factor
from tracetorch_jax.interop._survey import Found, Leaf
from tracetorch_jax.snn import TraceCell

Arrays = dict[str, np.ndarray]

# What is not a parameter, and what a state dict without it is completed with.
COUNTERS = ("num_batches_tracked",)
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


def layout_of(found: Found) -> Layout:
    """The layout of a module, by its type."""
    return TraceLayout(found) if isinstance(found.module, TraceCell) else Layout(found)


class Layout:
    """A module whose arrays are the same in both, apart from the order of their axes."""

    def __init__(self, found: Found) -> None:
        if _is_flax(found.module) and not isinstance(found.module, _KNOWN):
            raise ValueError(
                f"`model` must be made of trace layers, modules of your own, and of Flax's "
                f"{', '.join(kind.__name__ for kind in _KNOWN)}; got {found.label}."
            )
        self.found = found
        self.entries = sorted(_entries(found), key=lambda entry: _ORDER.find(entry.torch))
        self.counters = COUNTERS if isinstance(found.module, nn.BatchNorm) else ()

    @property
    def num_features(self) -> int | None:
        """Number of features that come in, where the order of parameters follows theirs."""
        sizes = {
            entry.torch_shape(self.found.leaves[entry.leaf].shape)[entry.features]
            for entry in self.entries
            if entry.features is not None
        }
        return sizes.pop() if len(sizes) == 1 else None

    def load(
        self, prefix: str, group: Arrays, order: np.ndarray | None
    ) -> tuple[dict[Leaf, np.ndarray], list[str]]:
        """Flax's arrays from torch's, and what is wrong with those."""
        values, problems = {}, self.compare_names(prefix, group)
        for entry in self.entries:
            if entry.torch not in group:
                continue
            array, shape = group[entry.torch], self.found.leaves[entry.leaf].shape
            wanted = entry.torch_shape(shape)
            if array.shape != wanted:
                problems.append(self.misshapen(prefix + entry.torch, array.shape, wanted))
                continue
            values[entry.leaf] = entry.to_flax(array, order)
        return values, problems

    def dump(
        self, leaves: dict[Leaf, np.ndarray], order: np.ndarray | None, bias: bool
    ) -> tuple[Arrays, list[str]]:
        """Torch's arrays from Flax's, and what cannot be written.

        Args:
            leaves: Flax's.
            order: see `Entry.to_flax`.
            bias: whether layers that fire have one in torch.
        """
        arrays = {e.torch: e.to_torch(leaves[e.leaf], order) for e in self.entries}
        return arrays | {name: np.zeros((), np.int64) for name in self.counters}, []

    def names(self) -> tuple[list[str], list[str]]:
        """What torch must have, and what it may have."""
        return [entry.torch for entry in self.entries], list(self.counters)

    def compare_names(self, prefix: str, group: Arrays) -> list[str]:
        """What a group lacks or has beyond its module."""
        needed, allowed = self.names()
        label = self.found.label
        problems = [f"lacks {prefix + n!r} for {label}" for n in needed if n not in group]
        for name in group:
            if name not in (*needed, *allowed):
                shape = list(group[name].shape)
                problems.append(f"has unknown {prefix + name!r} {shape} for {label}")
        return problems

    def misshapen(self, key: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
        """A complaint about a shape."""
        return f"has {key!r} as {list(got)} where {self.found.label} needs {list(wanted)}"


def _is_flax(module: nn.Module) -> bool:
    """Whether a module is Flax's own; `nn.remat` and the like give theirs to whatever they wrap."""
    kinds = [kind.__module__ for kind in type(module).__mro__]
    return next(kind for kind in kinds if kind != "flax.linen.transforms").startswith("flax.")


def _entries(found: Found) -> Iterator[Entry]:
    """The entries of a module that is no trace layer."""
    module = found.module
    axes = {leaf: tuple(range(len(value.shape))) for leaf, value in found.leaves.items()}
    known: dict[Leaf, Entry] = {}
    kernel, embedding = ("params", "kernel"), ("params", "embedding")
    if isinstance(module, nn.Dense) and kernel in axes:
        known[kernel] = Entry("weight", kernel, (1, 0), features=1)
    elif isinstance(module, nn.Conv) and kernel in axes:
        ndim = len(axes[kernel])
        known[kernel] = Entry("weight", kernel, (*range(2, ndim), 1, 0))
    elif isinstance(module, nn.ConvTranspose) and kernel in axes:
        # Flax correlates with the kernel as it is; with `transpose_kernel`, as torch does.
        space = tuple(range(2, len(axes[kernel])))
        if module.transpose_kernel:
            known[kernel] = Entry("weight", kernel, (*space, 1, 0))
        else:
            known[kernel] = Entry("weight", kernel, (*space, 0, 1), flip=space)
    elif isinstance(module, nn.Embed) and embedding in axes:
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
    for leaf in axes:  # whatever a module of the user's own calls its parameters
        yield known.get(leaf) or Entry(leaf[1], leaf, axes[leaf])


class TraceLayout(Layout):
    """A trace layer: raw parameters, constants, and the bias of traceTorch 0.18 to 0.19.2."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.layer = cast(TraceCell, found.module)
        self.parameters = {p.raw_name: p for p in self.layer.describe()}
        self.counters = ()
        self.entries = []
        for parameter in self.parameters.values():
            if parameter.learnable:
                features = 0 if parameter.shape else None
                axes = tuple(range(len(parameter.shape)))
                leaf = ("params", parameter.raw_name)
                self.entries.append(Entry(parameter.raw_name, leaf, axes, features=features))

    @property
    def num_features(self) -> int | None:
        return self.layer.num_neurons if self.layer.dim == -1 else None

    def names(self) -> tuple[list[str], list[str]]:
        return list(self.parameters), ["raw_bias"] if self.layer.spec.fires else []

    def compare_names(self, prefix: str, group: Arrays) -> list[str]:
        problems = super().compare_names(prefix, group)
        if any(f"raw_{name}" in self.parameters for name in group):
            problems.append("was saved while compiled: call TTdecompile() before state_dict()")
        return problems

    def load(
        self, prefix: str, group: Arrays, order: np.ndarray | None
    ) -> tuple[dict[Leaf, np.ndarray], list[str]]:
        problems = self.compare_names(prefix, group)
        for name, parameter in self.parameters.items():
            got = group[name].shape if name in group else parameter.shape
            if got != parameter.shape and (name != "raw_bias" or len(got) > 1):
                complaint = self.misshapen(prefix + name, got, parameter.shape)
                if len(got) + len(parameter.shape) == 1:  # a scalar for a vector or the reverse
                    complaint += f" (use `{parameter.label}_rank` {len(got)})"
                problems.append(complaint)
        if problems:
            return {}, problems
        if order is not None:
            group = {n: np.take(a, order) if a.ndim else a for n, a in group.items()}
        group, problem = self._with_bias_of_ours(prefix, group)
        problems += problem
        values = {}
        for name, parameter in self.parameters.items():
            if name not in group:
                continue
            if parameter.learnable:
                values["params", name] = group[name]
            else:
                problems += self._differs(prefix + name, parameter, group[name])
        return values, problems

    def _differs(self, key: str, parameter: Parameter, raw: np.ndarray) -> list[str]:
        """What is wrong if a constant of the model is not what was a buffer in torch."""
        got = parameter.constraint.value(raw)
        ours = np.broadcast_to(np.asarray(parameter.value, np.float64), parameter.shape)
        if same_constant(got, ours):
            return []
        worst = np.unravel_index(np.argmax(np.abs(got - ours)), got.shape)
        return [
            f"has {key!r} for {float(got[worst])!r} where {self.found.label} has the constant "
            f"{float(ours[worst])!r} (give the layer {parameter.label}={_literal(got)})"
        ]

    def _with_bias_of_ours(self, prefix: str, group: Arrays) -> tuple[Arrays, list[str]]:
        raw = group.get("raw_bias")
        if raw is None:
            return group, []
        bias = np.arcsinh(raw.astype(np.float64))
        if "raw_bias" not in self.parameters:
            if not np.any(bias):
                return group, []
            example = "LeakyIntegrator(..., bias=Weight(0.0))"
            return group, [
                f"has {prefix + 'raw_bias'!r} up to {np.abs(bias).max():.3g}, and "
                f"{self.found.label} has no bias (use snn.flex.{example})"
            ]
        bias = bias * bias_factor(self.layer, self._decays(group), bias)
        wanted = self.parameters["raw_bias"].shape
        if bias.shape != wanted:
            return group, [self.misshapen(prefix + "raw_bias", bias.shape, wanted)]
        return group | {"raw_bias": bias}, []

    def _decays(self, group: Arrays) -> Arrays:
        names = channel_names("beta", self.layer.spec.membrane.dual)
        return {
            name: self.parameters[f"raw_{name}"].constraint.value(group[f"raw_{name}"])
            for name in names
        }

    def dump(
        self, leaves: dict[Leaf, np.ndarray], order: np.ndarray | None, bias: bool
    ) -> tuple[Arrays, list[str]]:
        arrays = {}
        for name, parameter in self.parameters.items():
            if parameter.learnable:
                arrays[name] = leaves["params", name]
            else:
                with np.errstate(divide="ignore"):  # a constant decay of 0 or 1
                    raw = parameter.constraint.raw(np.asarray(parameter.value, np.float64))
                arrays[name] = np.broadcast_to(raw, parameter.shape).astype(np.float32)
        if "raw_bias" in arrays:
            if not bias:
                return {}, [f"{self.found.label} has a bias, as traceTorch 0.18 to 0.19 has"]
            own = arrays["raw_bias"].astype(np.float64)
            factor = bias_factor(self.layer, self._decays(arrays), own)
            dtype = arrays["raw_bias"].dtype
            if not np.all(factor):
                return {}, [f"{self.found.label} has a bias and a decay of 1"]
            arrays["raw_bias"] = np.sinh(own / factor).astype(dtype)
        elif bias and self.layer.spec.fires:
            arrays["raw_bias"] = np.zeros(self.layer.num_neurons, np.float32)
        if order is not None:
            back = np.argsort(order)
            arrays = {n: np.take(a, back) if a.ndim == 1 else a for n, a in arrays.items()}
        return arrays, []


def same_constant(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two values are one, given that traceTorch inverted it in float32."""
    return bool(np.allclose(a, b, rtol=1e-6, atol=2.5e-7))


def _literal(value: np.ndarray) -> str:
    """A value as code, if it is short."""
    if value.ndim == 0:
        return repr(float(value))
    if np.all(value == value.flat[0]):
        return f"{float(value.flat[0])!r}"
    shown = ", ".join(f"{v:.9g}" for v in value[:8])
    return f"[{shown}{', ...' if value.size > 8 else ''}], see `layer_arguments`"
