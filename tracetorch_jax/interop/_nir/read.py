"""Reading NIR graphs and files, with everything about their structure checked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracetorch_jax._shared.checks import in_brief, readable
from tracetorch_jax.interop._nir.file import check_file, check_heaps
from tracetorch_jax.interop._nir.graph import ELEMENTWISE, PARAMETERS, Edge, Graph, Node, import_nir
from tracetorch_jax.interop._nir.order import reached


@contextlib.contextmanager
def of_file(graph: Any) -> Iterator[None]:
    """Say which file an error is about, if `graph` is the path of one."""
    try:
        yield
    except ValueError as error:
        if isinstance(graph, (str, os.PathLike)) and str(graph) not in str(error):
            raise ValueError(f"{error} This is of the file {graph}.") from error
        raise


def read(graph: Any) -> Graph:
    """A ``nir.NIRGraph``, or the file of one, with everything about its structure checked.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: neither a graph nor a path.
        ValueError: unknown primitives, missing parameters, edges to nowhere or given twice, no or
            several inputs or outputs, shapes that do not fit, nodes that lead nowhere.
    """
    nir = import_nir()
    if isinstance(graph, (str, os.PathLike)):
        graph = _read_file(graph)
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
    result.input_shape = _input_shape(result)
    _check_connected(result)
    return result


def _input_shape(graph: Graph) -> tuple[int, ...]:
    shape = graph.nodes[graph.input].values["shape"]
    sizes = () if shape is None else tuple(int(size) for size in np.atleast_1d(shape))
    if not sizes or min(sizes) < 1:
        raise ValueError(f"Node {graph.input!r} (Input) of `graph` must have a shape; got {shape}.")
    return sizes


def _read_file(source: str | os.PathLike[str]) -> Any:
    import h5py

    nir = import_nir()
    path = readable("graph", source)
    data = b""
    try:
        data = path.read_bytes()
        check_heaps(data)
        with h5py.File(path, "r") as file:
            check_file(file, data)
            problems = list(_problems(file["node"], ""))
    except Exception as error:  # of HDF5, and what h5py makes of its contents
        gzipped = " It is compressed: unpack it with gunzip." if data[:2] == b"\x1f\x8b" else ""
        raise ValueError(
            f"`graph` must be a NIR file; {path} is none: {in_brief(error)}.{gzipped}"
        ) from error
    if problems:
        raise ValueError(f"`graph` must be a NIR 1.x file; in {path} {'; '.join(problems)}.")
    try:
        return nir.read(path, type_check=False)
    except Exception as error:  # `nir` asserts, and passes on whatever else goes wrong
        raise ValueError(
            f"`graph` must be a NIR file; {path} cannot be read: {in_brief(error)}."
        ) from error


def _problems(group: Any, name: str) -> Iterator[str]:
    """What `nir` would not accept in a file, or not say clearly."""
    kind = group["type"][()]
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if kind == "NIRGraph":
        for child, node in group["nodes"].items():
            yield from _problems(node, f"{name}.{child}" if name else child)
    elif kind not in PARAMETERS:
        yield f"node {name!r} is of the unknown type {kind}"
    else:
        needed = set(PARAMETERS[kind]) - {"input_shape", "v_reset", "w_in"}
        lacking = sorted(needed - set(group))
        if lacking:
            yield f"node {name!r} ({kind}) lacks {lacking}"
        elif kind in ELEMENTWISE:
            shapes = {key: group[key].shape for key in PARAMETERS[kind] if key in group}
            shapes.pop("w_in", None)
            if len(set(shapes.values())) > 1:
                yield f"node {name!r} ({kind}) has parameters of different shapes, {shapes}"


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
    if kind in ELEMENTWISE:
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


def _check_connected(graph: Graph) -> None:
    after = reached(graph.input, graph.targets)
    before = reached(graph.output, graph.sources)
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
        if feeds[name]:
            raise ValueError(f"Node {name!r} of `graph` must be an end of it; got {feeds[name]}.")
