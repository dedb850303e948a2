"""NIR graphs as plain values."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

Edge = tuple[str, str]

PARAMETERS: dict[str, tuple[str, ...]] = {
    "Affine": ("weight", "bias"),
    "AvgPool2d": ("kernel_size", "stride", "padding"),
    "Conv1d": ("input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"),
    "Conv2d": ("input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
    "Delay": ("delay",),
    "Flatten": ("start_dim", "end_dim"),
    "I": ("r",),
    "IF": ("r", "v_threshold", "v_reset"),
    "Input": (),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "Linear": ("weight",),
    "Output": (),
    "Scale": ("scale",),
    "SumPool2d": ("kernel_size", "stride", "padding"),
    "Threshold": ("threshold",),
}
"""Every primitive of NIR 1.x and its parameters."""

ELEMENTWISE = ("CubaLI", "CubaLIF", "Delay", "I", "IF", "LI", "LIF", "Scale", "Threshold")
"""Those that act on each element by itself."""


@dataclasses.dataclass
class Node:
    """One node: its primitive, its parameters, and what else is written on it."""

    kind: str
    values: dict[str, Any]
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Graph:
    """Nodes by name, edges, and the graph's own metadata; the input's shape is that of one step."""

    nodes: dict[str, Node]
    edges: list[Edge]
    metadata: dict[str, Any]
    input_shape: tuple[int, ...]

    @functools.cached_property
    def sources(self) -> dict[str, list[str]]:
        """The nodes that feed each node."""
        found: dict[str, list[str]] = {name: [] for name in self.nodes}
        for a, b in self.edges:
            found[b].append(a)
        return found

    @functools.cached_property
    def targets(self) -> dict[str, list[str]]:
        """The nodes that each node feeds."""
        found: dict[str, list[str]] = {name: [] for name in self.nodes}
        for a, b in self.edges:
            found[a].append(b)
        return found

    @property
    def input(self) -> str:
        """Name of the only input."""
        return next(name for name, node in self.nodes.items() if node.kind == "Input")

    @property
    def output(self) -> str:
        """Name of the only output."""
        return next(name for name, node in self.nodes.items() if node.kind == "Output")


def storable(value: np.ndarray) -> Any:
    """An array as `nir` can write it, without loss: float32 or float64; a scalar without axes."""
    return value[()] if value.dtype in (np.float32, np.float64) else value.astype(np.float32)[()]


def has_float64() -> bool:
    """Whether JAX computes in float64 where it is told to."""
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def import_nir() -> Any:
    """The package `nir`, or an error that says how to get it."""
    try:
        import nir
    except ImportError as error:
        raise ImportError(
            "NIR graphs need the package nir: pip install 'nir>=1.0.8,<2'."
        ) from error
    return nir


def build(graph: Graph) -> Any:
    """The graph as a ``nir.NIRGraph``, types checked by `nir` itself."""
    nir = import_nir()
    nodes = {}
    for name, node in graph.nodes.items():
        make, values = getattr(nir, node.kind), dict(node.values)
        if node.kind in ("Input", "Flatten"):
            values["input_type"] = {"input": values.pop("shape")}
        elif node.kind == "Output":
            values["output_type"] = {"output": values.pop("shape")}
        nodes[name] = make(**values, metadata=dict(node.metadata))
    return nir.NIRGraph(nodes=nodes, edges=list(graph.edges), metadata=dict(graph.metadata))
