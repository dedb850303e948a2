"""Reading NIR graphs as networks of trace layers (extra ``nir``)."""

from __future__ import annotations

import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._shared.dtypes import misfit
from tracetorch_jax._shared.trees import differences, listed
from tracetorch_jax.interop._nir import metadata as written
from tracetorch_jax.interop._nir.exporting import check_dt
from tracetorch_jax.interop._nir.foreign import read_foreign
from tracetorch_jax.interop._nir.graph import Graph, Node, has_float64
from tracetorch_jax.interop._nir.read import of_file, read
from tracetorch_jax.interop._nir.run import Method, Reset, check_conventions, find_dt, stepped
from tracetorch_jax.interop._nir.writer import FORMAT, KEY, write

_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    json.JSONDecodeError,
)


def from_nir(
    graph: Any,
    *,
    dt: float | None = None,
    reset: Reset = "v_reset",
    method: Method = "euler",
    metadata: bool = True,
) -> tuple[nn.Module, dict[str, Any]]:
    """Read a NIR graph as a network of trace layers.

    A graph that `to_nir` wrote comes back as the same module with the same variables, bit for bit,
    once it has been checked that its nodes still say what its metadata do. (An initializer is the
    exception: it comes back as the values that it made.) The graphs of others are read by what
    their nodes mean in steps of `dt`, or refused; nothing is approximated. What can
    be read is in ``docs/how-to/nir.md``.

    Args:
        graph: a ``nir.NIRGraph``, or the path of a file.
        dt: length of a step in seconds; by default what the graph's metadata say.
        reset: what the graph's writer means by `LIF`, `CubaLIF` and `IF` nodes: that a spike sets
            the membrane to ``v_reset``, as NIR defines them, which makes them layers with
            ``reset="zero"``, the membrane measured from ``v_reset``; or that it takes off the
            threshold in the same step (``"subtract"``), for which ``v_reset`` must be 0.
        method: what a step of `dt` makes of a time constant: a decay of ``1 - dt / tau``, as in
            forward Euler steps, or (``"exponential"``) of ``exp(-dt / tau)``, which is exact for
            input that is constant during a step.
        metadata: False to go by the nodes alone even if `to_nir` wrote the graph.

    Returns:
        The model, and its variables. Graphs of others come as `Unroll` of a `Sequential` that
        takes one step's tensor in the shape of the graph's input.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: `nir` is missing.
        IsADirectoryError: there is a folder.
        TypeError: `graph` is neither a graph nor a path.
        ValueError: a file that is damaged or holds something else; no `dt`; nodes, parameters or
            cycles that have no counterpart here, by name; shapes that do not fit; values that are
            not finite or too large for float32 (or float64 where JAX has it); a graph of `to_nir`
            that was changed since.

    Example:
        >>> layer = snn.SRLIT(4, beta=0.8, rec_weight=-0.5)
        >>> variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 4)))
        >>> graph = interop.to_nir(layer, variables, input_shape=(4,))
        >>> same, same_variables = interop.from_nir(graph)
        >>> same == layer
        True
    """
    check_conventions(reset, method)
    dt = dt if dt is None else check_dt(dt)
    with of_file(graph):
        plain = read(graph)
        if metadata and KEY in plain.metadata:
            if (reset, method) != ("v_reset", "euler"):
                raise ValueError(
                    f"`reset` and `method` say what the nodes of other writers mean, and must be "
                    f"left out for a `graph` that to_nir wrote, whose metadata say what it is; got "
                    f"{reset!r} and {method!r}. With metadata=False they apply to its nodes."
                )
            return _read_own(plain, dt)
        dt = find_dt(plain, dt)
        return read_foreign(stepped(plain, dt, method), dt, reset)


def _read_own(graph: Graph, dt: float | None) -> tuple[nn.Module, dict[str, Any]]:
    document = _document(graph)
    own_dt = find_dt(graph, None)
    if dt is not None and check_dt(dt) != own_dt:
        raise ValueError(
            f"`dt` must be the one that `graph` was written with, {own_dt}; got {dt}. With "
            f"metadata=False the nodes are read by themselves, for any `dt`."
        )
    reader = _Reader(graph)
    try:
        model, params = reader.module(document["model"])
        values = iter(reader.values)
        shape = tuple(document["input_shape"])
        expected, *_ = write(
            model,
            params,
            shape,
            own_dt,
            document["style"],
            lambda layer, own: next(values),
            document["round_delays"],
        )
    except _DAMAGE as error:
        raise _damaged(f"{type(error).__name__}: {error}") from error
    _compare(graph, expected)
    variables = jax.tree.map(jnp.asarray, params)
    return model, {"params": variables} if variables else {}


def _document(graph: Graph) -> dict[str, Any]:
    try:
        document = json.loads(str(graph.metadata[KEY]))
        form = document["format"]
        if form == FORMAT:
            known = {key: document[key] for key in ("model", "input_shape", "style")}
            return {**known, "round_delays": document.get("round_delays", False)}
    except _DAMAGE as error:
        raise _damaged(f"{type(error).__name__}: {error}") from error
    raise ValueError(
        f"`graph` must be of format {FORMAT} of tracetorch_jax; got {form!r}. With metadata=False "
        f"its nodes are read by themselves."
    )


def _damaged(problem: str) -> ValueError:
    return ValueError(
        f"The metadata of `graph` must be what to_nir wrote; they are damaged ({problem}). With "
        f"metadata=False the nodes are read by themselves."
    )


class _Reader:
    """Modules and parameters from descriptions; `values` collects those of the layers."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: list[dict[str, np.ndarray]] = []

    def module(self, described: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        kind = described["kind"]
        if kind == "Unroll":
            cell, params = self.module(described["cell"])
            model = written.restore(kind, described["arguments"], {}, {"cell": cell})
            return model, {"cell": params} if params else {}
        if kind in written.STACKS:
            layers, params = [], {}
            for i, child in enumerate(described["layers"]):
                layer, own = self.module(child)
                layers.append(layer)
                if own:
                    params[f"layers_{i}"] = own
            return written.restore(kind, described["arguments"], {}, {"layers": layers}), params
        if kind == "Recurrent":
            cell, own = self.module(described["cell"])
            way = described["feedback"]
            feedback, weights = self.module(
                {**way, "kind": "Sequential"} if "layers" in way else way
            )
            if "layers" in way:
                feedback = nn.Sequential(tuple(feedback.layers))
            children = {"cell": cell, "feedback": None if described["default"] else feedback}
            params = {name: p for name, p in (("cell", own), ("feedback", weights)) if p}
            return written.restore(kind, described["arguments"], {}, children), params
        if "node" not in described:
            return written.restore(kind, described["arguments"], {}, {}), {}
        node = self.graph.nodes[described["node"]]
        arguments = str(node.metadata["arguments"])
        values = {
            name.removeprefix("value_"): np.asarray(value)
            for name, value in node.metadata.items()
            if name.startswith("value_")
        }
        module = written.restore(kind, arguments, values, {})
        dtypes = json.loads(str(node.metadata["dtypes"]))
        if kind in written.LAYERS:
            self.values.append(values)
            arrays = {name: node.metadata[name] for name in dtypes}
        else:
            arrays = _arrays(node, dtypes, module)
        return module, {name: _cast(arrays[name], dtypes[name], name) for name in dtypes}


def _arrays(node: Node, names: dict[str, str], module: Any) -> dict[str, np.ndarray]:
    """Parameters of a module that is a single node, from that node."""
    if not names:
        return {}
    order = node.metadata.get("order", ...)  # of a signal that NIR flattens in another order
    if node.kind == "Scale":
        scale = np.empty(node.values["scale"].size, node.values["scale"].dtype)
        scale[order] = node.values["scale"].ravel()
        return {"scale": scale.reshape(module.shape)}
    weight = node.values["weight"]
    axes = (-1, -2) if weight.ndim == 2 else (1, 0)
    kernel = np.moveaxis(weight, axes, (-2, -1))
    found = {"kernel": np.empty_like(kernel)}
    found["kernel"][order] = kernel
    if "bias" in names:
        found["bias"] = node.values["bias"]
    return found


def _cast(array: object, dtype: str, name: str) -> np.ndarray:
    wanted = jnp.dtype(dtype)
    if wanted == np.float64 and not has_float64():
        raise ValueError(
            f"`{name}` of `graph` is float64, which JAX rounds to float32 unless jax_enable_x64 is "
            f"set: set it to read this graph without loss."
        )
    if wrong := misfit(array, wanted):
        raise ValueError(f"`{name}` of `graph` has {wrong}.")
    return np.asarray(array).astype(wanted)


def _compare(graph: Graph, expected: Graph) -> None:
    """Raise unless the graph is what its metadata describe."""
    problems = differences(graph.nodes, expected.nodes, lambda node: node.kind)
    for name in expected.nodes.keys() & graph.nodes.keys():
        got, want = graph.nodes[name], expected.nodes[name]
        problems += [
            f"has another `{parameter}` of {name!r}"
            for parameter in want.values
            if got.kind == want.kind
            and parameter in got.values
            and not np.array_equal(np.asarray(got.values[parameter]), want.values[parameter])
        ]
    for edge in set(expected.edges) ^ set(graph.edges):
        problems.append(f"{'lacks' if edge in expected.edges else 'has'} the edge {edge}")
    if problems:
        raise ValueError(
            f"`graph` was changed since to_nir wrote it, and its metadata no longer describe it: "
            f"it {listed(sorted(problems), 10)}. With metadata=False the nodes are read by "
            "themselves."
        )
