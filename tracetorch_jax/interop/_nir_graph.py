"""NIR graphs as plain values: what is read from `nir`, checked and ordered, and written back."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

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

_ELEMENTWISE = ("CubaLI", "CubaLIF", "Delay", "I", "IF", "LI", "LIF", "Scale", "Threshold")


@dataclasses.dataclass
class Node:
    """One node: its primitive, its parameters, and what else is written on it."""

    kind: str
    values: dict[str, Any]
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Graph:
    """Nodes by name, edges, and the graph's own metadata. The shapes are those of one step."""

    nodes: dict[str, Node]
    edges: list[Edge]
    metadata: dict[str, Any]
    input_shape: tuple[int, ...]

    def sources(self, name: str) -> list[str]:
        """Nodes that feed this one."""
        return [a for a, b in self.edges if b == name]

    def targets(self, name: str) -> list[str]:
        """Nodes that this one feeds."""
        return [b for a, b in self.edges if a == name]

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


def import_nir() -> Any:
    """The package `nir`, or an error that says how to get it."""
    try:
        import nir
    except ImportError as error:
        raise ImportError(
            "NIR graphs need the package nir: pip install 'tracetorch_jax[nir]'."
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


# Reading.


def read(graph: Any) -> Graph:
    """A ``nir.NIRGraph``, or the file of one, with everything about its structure checked.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: neither a graph nor a path.
        ValueError: unknown primitives, missing parameters, edges to nowhere or given twice, no or
            several inputs or outputs, shapes that do not fit, nodes that lead nowhere.
    """
    nir = import_nir()
    if isinstance(graph, (str, pathlib.Path)):
        graph = _read_file(pathlib.Path(graph))
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(
            f"`graph` must be a nir.NIRGraph or the path of a file; got {type(graph).__name__}."
        )
    nodes, edges = _inline(graph, "")
    for a, b in edges:
        for name in (a, b):
            if name not in nodes:
                raise ValueError(
                    f"`graph` has an edge ({a!r}, {b!r}), but no node {name!r}; its nodes are "
                    f"{sorted(nodes)}."
                )
    repeated = sorted({edge for edge in edges if edges.count(edge) > 1})
    if repeated:
        raise ValueError(f"`graph` must have each edge once; it repeats {repeated}.")
    for kind in ("Input", "Output"):
        found = [name for name, node in nodes.items() if node.kind == kind]
        if len(found) != 1:
            raise ValueError(f"`graph` must have one {kind} node; it has {len(found)}: {found}.")
    metadata = graph.metadata if isinstance(graph.metadata, dict) else {}
    result = Graph(nodes, edges, metadata, ())
    result.input_shape = shape_of(result.nodes[result.input].values["shape"])
    _check_connected(result)
    return result


def shape_of(value: Any) -> tuple[int, ...]:
    """A shape, however it is written."""
    return tuple(int(size) for size in np.atleast_1d(np.asarray(value)))


def _read_file(path: pathlib.Path) -> Any:
    import h5py

    nir = import_nir()
    if not path.exists():
        raise FileNotFoundError(f"`graph` must be a file; there is none at {path}.")
    try:
        with h5py.File(path, "r") as file:
            unknown = _unknown_kinds(file["node"], "")
    except (OSError, KeyError) as error:
        raise ValueError(f"`graph` must be a NIR file; {path} is none: {error}.") from error
    if unknown:
        raise ValueError(
            f"`graph` must hold primitives of NIR 1.x only, {', '.join(PARAMETERS)}; {path} has "
            + ", ".join(f"{name!r} of type {kind}" for name, kind in unknown.items())
            + "."
        )
    try:
        return nir.read(path, type_check=False)
    except Exception as error:  # `nir` asserts, and passes on whatever else goes wrong
        problem = str(error) or type(error).__name__
        raise ValueError(
            f"`graph` must be a NIR file; {path} cannot be read: {problem}."
        ) from error


def _unknown_kinds(group: Any, name: str) -> dict[str, str]:
    kind = group["type"][()]
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if kind == "NIRGraph":
        unknown: dict[str, str] = {}
        for child, node in group["nodes"].items():
            unknown |= _unknown_kinds(node, f"{name}.{child}" if name else child)
        return unknown
    return {} if kind in PARAMETERS else {name: kind}


def _inline(graph: Any, prefix: str) -> tuple[dict[str, Node], list[Edge]]:
    """Nodes and edges, those of graphs within the graph included."""
    nir = import_nir()
    nodes: dict[str, Node] = {}
    edges: list[Edge] = [(prefix + str(a), prefix + str(b)) for a, b in graph.edges]
    for child, node in graph.nodes.items():
        name = prefix + str(child)
        if not isinstance(node, nir.NIRGraph):
            nodes[name] = _plain(name, node)
            continue
        inner, inner_edges = _inline(node, f"{name}.")
        ends = {}
        for kind in ("Input", "Output"):
            found = [n for n, other in inner.items() if other.kind == kind]
            if len(found) != 1:
                raise ValueError(
                    f"`graph` must have one {kind} in the graph {name!r} within it; it has "
                    f"{len(found)}: {found}."
                )
            ends[kind] = found[0]
        nodes |= {n: other for n, other in inner.items() if n not in ends.values()}
        entries = [b for a, b in inner_edges if a == ends["Input"]]
        exits = [a for a, b in inner_edges if b == ends["Output"]]
        kept = [e for e in inner_edges if e[0] != ends["Input"] and e[1] != ends["Output"]]
        around = [(a, b) for a, b in edges if name in (a, b)]
        edges = [edge for edge in edges if edge not in around] + kept
        for a, b in around:
            heads = exits if a == name else [a]
            tails = entries if b == name else [b]
            edges += [(head, tail) for head in heads for tail in tails]
    return nodes, edges


def _plain(name: str, node: Any) -> Node:
    kind = type(node).__name__
    if kind not in PARAMETERS:
        raise ValueError(
            f"`graph` must hold primitives of NIR 1.x only, {', '.join(PARAMETERS)}; node {name!r} "
            f"is of type {kind}."
        )
    values: dict[str, Any] = {}
    for parameter in PARAMETERS[kind]:
        value = getattr(node, parameter)
        optional = parameter in ("input_shape", "padding")
        if value is None and not optional:
            raise ValueError(f"`graph` lacks `{parameter}` of node {name!r} ({kind}).")
        values[parameter] = value if value is None or isinstance(value, str) else np.asarray(value)
    if kind in _ELEMENTWISE:
        _check_elementwise(name, kind, values)
    if kind == "Input":
        values["shape"] = node.input_type["input"]
    elif kind == "Output":
        values["shape"] = node.output_type["output"]
    metadata = node.metadata if isinstance(node.metadata, dict) else {}
    return Node(kind, values, dict(metadata))


def _check_elementwise(name: str, kind: str, values: dict[str, Any]) -> None:
    shapes = {parameter: value.shape for parameter, value in values.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"`{parameter}` {shape}" for parameter, shape in shapes.items())
        raise ValueError(f"Node {name!r} ({kind}) must have parameters of one shape; got {listed}.")
    for parameter, value in values.items():
        if not np.all(np.isfinite(value.astype(np.float64))):
            raise ValueError(f"Node {name!r} ({kind}) must have finite `{parameter}`; got {value}.")
    for parameter in ("tau", "tau_syn", "tau_mem"):
        if parameter in values and np.any(values[parameter] <= 0):
            raise ValueError(
                f"Node {name!r} ({kind}) must have `{parameter}` greater than 0; "
                f"got {values[parameter].min()}."
            )


def _reached(start: str, step: Any) -> set[str]:
    """Everything that can be reached from `start`, itself only if it lies on a cycle."""
    seen: set[str] = set()
    waiting = list(step(start))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += step(name)
    return seen


def _check_connected(graph: Graph) -> None:
    after = _reached(graph.input, graph.targets)
    before = _reached(graph.output, graph.sources)
    stray = [
        name
        for name, node in graph.nodes.items()
        if node.kind not in ("Input", "Output") and not (name in after and name in before)
    ]
    if stray or graph.output not in after:
        raise ValueError(
            f"Every node of `graph` must lie between its input {graph.input!r} and its output "
            f"{graph.output!r}; {sorted(stray) or 'the output itself'} does not."
        )
    for name, feeds in ((graph.input, graph.sources), (graph.output, graph.targets)):
        if feeds(name):
            raise ValueError(f"Node {name!r} of `graph` must be an end of it; got {feeds(name)}.")


# Order.


def components(graph: Graph) -> dict[str, frozenset[str]]:
    """For each node on a cycle, all nodes that lie on cycles with it."""
    after = {name: _reached(name, graph.targets) for name in graph.nodes}
    return {
        name: frozenset(other for other in after[name] if name in after[other])
        for name in graph.nodes
        if name in after[name]
    }


def delayed_edges(graph: Graph) -> set[Edge]:
    """Edges along which a signal arrives one step later.

    NIR does not say so of any edge, yet a cycle cannot be simulated in steps without. They are
    the edges that lead, within a cycle, back to a node that is also fed from outside of it.

    Raises:
        ValueError: a cycle that this does not open.
    """
    found = components(graph)
    entries = {
        name
        for name, cycle in found.items()
        if any(source not in cycle for source in graph.sources(name))
    }
    delayed = {(a, b) for a, b in graph.edges if b in entries and a in found[b]}
    order(graph, delayed)
    return delayed


def order(graph: Graph, delayed: Iterable[Edge] = ()) -> list[str]:
    """Nodes so that each comes after all that feed it, but for what is delayed.

    Raises:
        ValueError: a cycle, naming its nodes.
    """
    skipped = set(delayed)
    waiting = {
        name: {a for a in graph.sources(name) if (a, name) not in skipped} for name in graph.nodes
    }
    done: list[str] = []
    while waiting:
        ready = [name for name, sources in waiting.items() if sources <= set(done)]
        if not ready:
            cycle = sorted(n for n in waiting if _on_cycle(n, waiting))
            raise ValueError(
                f"`graph` has a cycle that cannot be put in order: {cycle}. A signal may return "
                f"only to a node that is also fed from outside of the cycle."
            )
        done += ready
        for name in ready:
            del waiting[name]
    return done


def _on_cycle(name: str, waiting: dict[str, set[str]]) -> bool:
    return name in _reached(name, lambda n: [a for a in waiting.get(n, ()) if a in waiting])
