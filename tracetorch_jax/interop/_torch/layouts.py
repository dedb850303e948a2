"""How the parameters of one module are laid out in torch and in Flax."""

from __future__ import annotations

from typing import cast

import flax.linen as nn
import numpy as np

from tracetorch_jax._core.parameters import Parameter
from tracetorch_jax._shared.dtypes import misfit
from tracetorch_jax._shared.trees import differences
from tracetorch_jax.functional.spec import FIRST_FIELDS, channel_names, require
from tracetorch_jax.interop._torch.bias import bias_factor
from tracetorch_jax.interop._torch.entries import Entry, entries_of
from tracetorch_jax.interop._torch.survey import Found, Leaf
from tracetorch_jax.snn import ALL_LAYERS, TraceCell

Arrays = dict[str, np.ndarray]

# What is not a parameter, and what a state dict without it is completed with.
COUNTERS = ("num_batches_tracked",)


def layout_of(found: Found) -> Layout:
    """The layout of a module, by its type."""
    return TraceLayout(found) if isinstance(found.module, TraceCell) else Layout(found)


class Layout:
    """A module whose arrays are the same in both, apart from the order of their axes."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.entries = entries_of(found)
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
            problems += self.unfit(prefix + entry.torch, array, entry.leaf)
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
        optional = {*allowed} - {*needed}
        got = {prefix + name: array for name, array in group.items() if name not in optional}
        want = [prefix + name for name in needed]
        problems = differences(got, want, lambda array: list(array.shape))
        return [f"{problem} for {self.found.label}" for problem in problems]

    def unfit(self, key: str, array: np.ndarray, leaf: Leaf) -> list[str]:
        """A complaint about values that a leaf cannot hold."""
        wrong = misfit(array, self.found.leaves[leaf].dtype)
        return [f"has {key!r} with {wrong}"] if wrong else []

    def misshapen(self, key: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
        """A complaint about a shape."""
        return f"has {key!r} as {list(got)} where {self.found.label} needs {list(wanted)}"


class TraceLayout(Layout):
    """A trace layer: raw parameters, constants, and the bias of traceTorch 0.18 to 0.19.2."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.layer = cast(TraceCell, found.module)
        require(self.layer.spec, FIRST_FIELDS, "A state dict of traceTorch", found.label)
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
                problems += self.unfit(prefix + name, group[name], ("params", name))
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
            name = type(self.layer).__name__
            example = f"{name}(...).clone(bias=snn.flex.Weight(0.0))"
            if name not in ALL_LAYERS:
                example = "LeakyIntegrator(..., bias=snn.flex.Weight(0.0))"
            return group, [
                f"has {prefix + 'raw_bias'!r} up to {np.abs(bias).max():.3g}, and "
                f"{self.found.label} has no bias (use snn.flex.{example} and interop.initial_carry)"
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
