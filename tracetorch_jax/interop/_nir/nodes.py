"""Single nodes of a NIR graph as modules, by what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import snn
from tracetorch_jax._core.features import spec_of
from tracetorch_jax._shared.dtypes import misfit
from tracetorch_jax.functional.spec import name_of, parameter_row
from tracetorch_jax.interop._nir import modules
from tracetorch_jax.interop._nir.cycles import Cycle, decay_of, reset_of
from tracetorch_jax.interop._nir.delays import steps_of
from tracetorch_jax.interop._nir.graph import PARAMETERS, Graph, Node, has_float64
from tracetorch_jax.interop._nir.run import Reset, padding_of, pair

Layers = list[tuple[Any, dict[str, Any]]]
"""Modules with their own parameters, one after the other."""


class NodeReader:
    """Reads nodes one after the other; `shape` is that of the signal that they get.

    Parameters are of float32, or of float64 where the graph has any and JAX does.
    """

    def __init__(self, graph: Graph, dt: float, reset: Reset) -> None:
        self.graph, self.dt, self.reset = graph, dt, reset
        self.shape = graph.input_shape
        arrays = [v for node in graph.nodes.values() for v in node.values.values()]
        wide = any(getattr(array, "dtype", None) == np.float64 for array in arrays)
        self.dtype = jnp.float64 if wide and has_float64() else jnp.float32

    def array(self, name: str, parameter: str, value: object) -> jax.Array:
        """A parameter, made of that of a node."""
        self.check(name, parameter, value)
        return jnp.asarray(value, self.dtype)

    def check(self, name: str, parameter: str, value: object) -> None:
        """Raise unless a parameter can hold a value."""
        if wrong := misfit(value, self.dtype):
            raise ValueError(f"Node {name!r} makes `{parameter}` {wrong}.")

    def node(self, name: str, node: Node) -> Layers:
        """The modules that a node is."""
        if node.kind not in _METHODS:
            raise ValueError(f"Node {name!r} ({node.kind}) has no counterpart in this library.")
        layers: Layers = getattr(self, f"_{_METHODS[node.kind]}")(name, node)
        return layers

    def values(self, name: str, node: Node) -> dict[str, np.ndarray]:
        """Parameters of an elementwise node, float64, of the shape of the signal or ()."""
        found = {p: np.asarray(node.values[p], np.float64) for p in PARAMETERS[node.kind]}
        for parameter, value in found.items():
            if value.shape not in ((), self.shape):
                raise ValueError(
                    f"Node {name!r} ({node.kind}) has `{parameter}` of shape {value.shape}, but "
                    f"gets steps of shape {self.shape}."
                )
        return found

    def _linear(self, name: str, node: Node) -> Layers:
        weight = node.values["weight"]
        if weight.ndim != 2 or self.shape != (weight.shape[1],):
            raise ValueError(
                f"Node {name!r} ({node.kind}) has `weight` of shape {weight.shape}, [out, in], but "
                f"gets steps of shape {self.shape}."
            )
        features = weight.shape[0]
        kernel = self.array(name, "weight", weight.T)
        params = {"kernel": kernel}
        if node.kind == "Affine":
            bias = node.values["bias"]
            if bias.shape != (features,):
                raise ValueError(
                    f"Node {name!r} (Affine) has `bias` of shape {bias.shape}, but gives "
                    f"{features} values."
                )
            params["bias"] = self.array(name, "bias", bias)
        self.shape = (features,)
        dense = nn.Dense(features, use_bias=node.kind == "Affine", param_dtype=self.dtype)
        return [(dense, params)]

    def _scale(self, name: str, node: Node) -> Layers:
        return self.factor(name, self.values(name, node)["scale"])

    def factor(self, name: str, factor: np.ndarray) -> Layers:
        """A factor, unless it is 1 to the rounding of float32."""
        if np.allclose(factor, 1, rtol=0, atol=1e-6):
            return []
        return self.scale(name, factor)

    def identity(self, name: str) -> Layers:
        """A module that does nothing, where there has to be one."""
        return self.scale(name, np.ones(()))

    def scale(self, name: str, factor: np.ndarray) -> Layers:
        """A factor for each element of a step."""
        scale = self.array(name, "scale", np.broadcast_to(factor, self.shape))
        return [(modules.Scale(self.shape, param_dtype=self.dtype), {"scale": scale})]

    def _threshold(self, name: str, node: Node) -> Layers:
        threshold = self.values(name, node)["threshold"]
        return [self.layer(name, {"beta": np.zeros(()), "threshold": threshold})]

    def _delay(self, name: str, node: Node) -> Layers:
        self.values(name, node)
        steps = steps_of(name, node, self.dt)
        along, dim = _along_one_axis(name, {"delay": steps}, self.shape)
        delay = snn.Delay(
            self.shape[dim],
            max(1, int(steps.max())),
            delay=along["delay"],
            delay_learnable=False,
            dim=dim,
            param_dtype=self.dtype,
        )
        return [(delay, {})]

    def _integrator(self, name: str, node: Node) -> Layers:
        """I, LI, CubaLI, IF, LIF and CubaLIF."""
        kind, p = node.kind, self.values(name, node)
        if kind in ("I", "IF"):
            beta, gain, leak = np.ones(()), self.dt * p["r"], np.zeros(())
        else:
            tau = "tau_mem" if kind.startswith("Cuba") else "tau"
            beta = decay_of(name, node, tau, self.dt)
            gain, leak = (1 - beta) * p["r"], (1 - beta) * p["v_leak"]
        values = {"beta": beta}
        if kind.startswith("Cuba"):
            values["alpha"] = decay_of(name, node, "tau_syn", self.dt)
            gain = gain * p["w_in"]
        if kind.endswith("IF"):
            reset, v_reset = reset_of(name, node, self.reset)
            values["threshold"] = p["v_threshold"] - v_reset
            leak = leak - (1 - beta) * v_reset
            return [*self.factor(name, gain), self.layer(name, values, bias=leak, reset=reset)]
        summing = np.allclose(gain, 1, rtol=0, atol=1e-6) or np.all(beta == 1)
        if not summing:
            gain, leak = gain / (1 - beta), leak / (1 - beta)
        return [*self.factor(name, gain), self.layer(name, values, bias=leak, ema=not summing)]

    def cycle(self, cycle: Cycle) -> Layers:
        """The layer that a cycle is."""
        layer = self.layer(cycle.name, cycle.values, bias=cycle.bias, reset=cycle.reset)
        return [*self.factor(cycle.name, cycle.gain), layer]

    def layer(
        self,
        name: str,
        values: Mapping[str, np.ndarray],
        *,
        bias: np.ndarray | None = None,
        **options: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """A trace layer with these constrained values and options, and its parameters."""
        values = dict(values)
        if bias is not None and np.any(bias != 0):
            values["bias"] = bias
        for threshold in ("threshold", "pos_threshold", "neg_threshold"):
            if threshold in values and np.any(values[threshold] <= 0):
                raise ValueError(
                    f"Node {name!r} fires at a threshold of {values[threshold].min():g}; layers "
                    f"here have thresholds greater than 0."
                )
        along, dim = _along_one_axis(name, values, self.shape)
        options |= {"dim": dim, "param_dtype": self.dtype}
        for key, value in along.items():
            self.check(name, key, value)
            options[key] = value
            row = parameter_row(key)
            if row and row.kind == "decay":
                stored = value.astype(options["param_dtype"])
                options[f"{key}_learnable"] = bool(np.all((stored > 0) & (stored < 1)))
        made = _make(self.shape[dim], options)
        params = {
            p.raw_name: p.init(jax.random.key(0), p.shape, p.dtype)
            for p in made.describe()
            if p.learnable
        }
        for raw_name, raw in params.items():
            self.check(name, raw_name, raw)
        return made, params

    # Images.

    def _flatten(self, name: str, node: Node) -> Layers:
        axes = len(self.shape)
        start, end = (int(node.values[key]) for key in ("start_dim", "end_dim"))
        if start % axes != 0 or end % axes != axes - 1:
            raise ValueError(
                f"Node {name!r} (Flatten) must flatten all {axes} axes of a step, of shape "
                f"{self.shape}; got `start_dim` {start} and `end_dim` {end}."
            )
        self.shape = (math.prod(self.shape),)
        return [(modules.Flatten(axes), {})] if axes > 1 else []

    def _conv(self, name: str, node: Node) -> Layers:
        weight, bias = node.values["weight"], node.values["bias"]
        axes = 1 if node.kind == "Conv1d" else 2
        groups = int(node.values["groups"])
        if weight.ndim != axes + 2 or len(self.shape) != axes + 1:
            raise ValueError(
                f"Node {name!r} ({node.kind}) has `weight` of shape {weight.shape}, but gets steps "
                f"of shape {self.shape}."
            )
        if self.shape[0] != weight.shape[1] * groups or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"Node {name!r} ({node.kind}) has `weight` of shape {weight.shape}, `bias` of "
                f"shape {bias.shape} and `groups` {groups}, but gets steps of shape {self.shape}."
            )
        declared = node.values["input_shape"]
        if declared is not None and pair(declared, axes) != self.shape[1:]:
            raise ValueError(
                f"Node {name!r} ({node.kind}) has `input_shape` {pair(declared, axes)}, but gets "
                f"steps of shape {self.shape}."
            )
        stride, dilation = (pair(node.values[key], axes) for key in ("stride", "dilation"))
        padding = padding_of(name, node, axes)
        size = weight.shape[2:]
        out = tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(self.shape[1:], padding, dilation, size, stride, strict=True)
        )
        if min(out) < 1:
            raise ValueError(
                f"Node {name!r} ({node.kind}) has a kernel of {size}, larger than its padded input "
                f"of shape {self.shape}."
            )
        kernel = self.array(name, "weight", np.moveaxis(weight, (0, 1), (-1, -2)))
        conv = nn.Conv(
            weight.shape[0],
            size,
            strides=stride,
            padding=tuple((p, p) for p in padding),
            kernel_dilation=dilation,
            feature_group_count=groups,
            param_dtype=self.dtype,
        )
        self.shape = (weight.shape[0], *out)
        bias = self.array(name, "bias", bias)
        return self.channels_last((conv, {"kernel": kernel, "bias": bias}))

    def _pool(self, name: str, node: Node) -> Layers:
        size, stride, padding = (
            pair(node.values[key], 2) for key in ("kernel_size", "stride", "padding")
        )
        if len(self.shape) != 3 or any(padding) or len({*size}) > 1 or len({*stride}) > 1:
            raise ValueError(
                f"Node {name!r} ({node.kind}) must pool over squares of [C, H, W] without padding; "
                f"got `kernel_size` {size}, `stride` {stride} and `padding` {padding} for steps of "
                f"shape {self.shape}."
            )
        kind = modules.AvgPool if node.kind == "AvgPool2d" else modules.SumPool
        out = tuple((n - size[0]) // stride[0] + 1 for n in self.shape[1:])
        if min(out) < 1:
            raise ValueError(
                f"Node {name!r} ({node.kind}) pools over {size}, larger than {self.shape}."
            )
        self.shape = (self.shape[0], *out)
        return self.channels_last((kind(size[0], stride[0]), {}))

    def channels_last(self, module: tuple[Any, dict[str, Any]]) -> Layers:
        axes = len(self.shape)
        return [(modules.ChannelsLast(axes), {}), module, (modules.ChannelsFirst(axes), {})]


_METHODS = {
    "Affine": "linear",
    "AvgPool2d": "pool",
    "Conv1d": "conv",
    "Conv2d": "conv",
    "Delay": "delay",
    "CubaLI": "integrator",
    "CubaLIF": "integrator",
    "Flatten": "flatten",
    "I": "integrator",
    "IF": "integrator",
    "LI": "integrator",
    "LIF": "integrator",
    "Linear": "linear",
    "Scale": "scale",
    "SumPool2d": "pool",
    "Threshold": "threshold",
}


def _along_one_axis(
    name: str, values: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], int]:
    """Values along the one axis on which they differ, and that axis from the end."""
    for dim in dict.fromkeys((-len(shape), -1)):
        found = {}
        for key, value in values.items():
            whole = np.broadcast_to(value, shape)
            others = tuple(i for i in range(len(shape)) if i != len(shape) + dim)
            line = whole[tuple(0 if i in others else slice(None) for i in range(len(shape)))]
            if not np.array_equal(np.broadcast_to(np.expand_dims(line, others), shape), whole):
                break
            found[key] = value if value.ndim == 0 else line
        else:
            return found, dim
    raise ValueError(
        f"Node {name!r} has parameters that differ within one channel, of shape {shape}; layers "
        f"here have one value per channel (`dim`)."
    )


def _make(num_neurons: int, options: dict[str, Any]) -> Any:
    """A named layer, or a `LeakyIntegrator` if it has a bias."""
    kind = name_of(spec_of(options))
    bias = options.pop("bias", None)
    if bias is None:
        return snn.ALL_LAYERS[kind](num_neurons, **options)
    layer = getattr(snn.flex, kind)(num_neurons, **options)
    return layer.clone(bias=snn.flex.Weight(bias))
