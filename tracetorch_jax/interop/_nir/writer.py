"""The graph of a network, module by module."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from tracetorch_jax import snn
from tracetorch_jax.interop._nir import metadata as written
from tracetorch_jax.interop._nir import modules
from tracetorch_jax.interop._nir.conv import conv_node, pool_node
from tracetorch_jax.interop._nir.delays import delay_node
from tracetorch_jax.interop._nir.graph import Graph, Node, storable
from tracetorch_jax.interop._nir.layers import Style, layer_nodes
from tracetorch_jax.interop._nir.params import check_params, child_params
from tracetorch_jax.interop._nir.signal import Signal
from tracetorch_jax.snn import TraceCell

FORMAT = 1
KEY = "tracetorch_jax"
Constrained = Callable[[Any, Mapping[str, Any]], dict[str, np.ndarray]]


def write(
    model: nn.Module,
    params: Mapping[str, Any],
    input_shape: tuple[int, ...],
    dt: float,
    style: Style,
    values: Constrained,
    round_delays: bool = False,
) -> tuple[Graph, Signal, Signal]:
    """The graph of a model, and how its input and output lie in ours.

    `values` gives the constrained parameters of a layer.
    """
    writer = _Writer(dt, style, values, round_delays)
    cell, tree = model, None
    if isinstance(model, snn.Unroll):
        if model.reverse:
            raise ValueError("`model` must run forward in time, as a NIR graph does; got reverse.")
        cell, tree = model.cell, model
        params = child_params(params, "cell", "`model`", ("cell",))
    first = Signal.of_input(input_shape, _channels_last_first(cell))
    writer.nodes["input"] = Node("Input", {"shape": np.array(first.index.shape)})
    last, described = writer.module(cell, params, "", first)
    if last.index.ndim == 1 and not last.in_order:
        raise ValueError(
            "`model` must not end with flattened channels-last images: NIR flattens them channels "
            "first, which is another order. Put a Dense after Flatten."
        )
    writer.nodes["output"] = Node("Output", {"shape": np.array(last.index.shape)})
    writer.edges.append((last.source, "output"))
    if tree is not None:
        described = {
            "kind": "Unroll",
            "arguments": written.describe(tree, "`model`"),
            "cell": described,
        }
    document: dict[str, Any] = {
        "format": FORMAT,
        "style": style,
        "input_shape": input_shape,
        "model": described,
    }
    if round_delays:
        document["round_delays"] = True
    metadata = {KEY: json.dumps(document), "dt": dt}
    return Graph(writer.nodes, writer.edges, metadata, first.index.shape), first, last


def _channels_last_first(module: Any) -> bool:
    """Whether a model takes images with channels last, by its first module that tells."""
    for layer in _parts(module):
        if isinstance(layer, (nn.Conv, modules.AvgPool, modules.SumPool)):
            return True
        if isinstance(layer, (nn.Dense, modules.Flatten, modules.ChannelsLast)):
            return False
    return False


def _parts(module: Any) -> Iterator[Any]:
    """The modules of a network that are no stacks, in order."""
    if isinstance(module, (snn.Sequential, nn.Sequential)):
        for layer in module.layers:
            yield from _parts(layer)
    elif isinstance(module, snn.Recurrent):
        yield from _parts(module.cell)
        yield from _parts(module.feedback)
    else:
        yield module


class _Writer:
    def __init__(self, dt: float, style: Style, values: Constrained, round_delays: bool) -> None:
        self.dt, self.style, self.values, self.round_delays = dt, style, values, round_delays
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []
        self.seen: dict[int, str] = {}

    # Modules.

    def module(
        self, module: Any, params: Any, path: str, signal: Signal
    ) -> tuple[Signal, dict[str, Any]]:
        """Write one module; return its output and its description."""
        kind = type(module).__name__
        where = f"{kind} at `{path}`" if path else f"{kind} (`model`)"
        if isinstance(module, snn.DelayedDense):
            raise TypeError(
                f"{where} has a delay for each synapse, and the Delay of NIR has one for each "
                f"channel. A Delay in front of a Dense can be written."
            )
        if written.KINDS.get(kind) is not type(module) or kind == "Unroll":
            raise TypeError(
                f"{where} has no counterpart in NIR that is known here; a network can be written "
                f"if it is made of {', '.join(n for n in written.KINDS if n != 'Unroll')}. Dropout "
                f"does nothing once training is over: leave it out."
            )
        if not isinstance(module, tuple(written.FUNCTIONS.values())):
            if id(module) in self.seen:
                raise ValueError(
                    f"{where} is the same module as the one at `{self.seen[id(module)]}`; NIR has "
                    f"no shared weights: use a copy of it."
                )
            self.seen[id(module)] = path
        if isinstance(module, snn.Sequential):
            return self.stack(module, params, path, signal, where)
        if isinstance(module, snn.Recurrent):
            return self.recurrent(module, params, path, signal, where)
        description = {"kind": kind}
        if isinstance(module, (modules.ChannelsLast, modules.ChannelsFirst)):
            description["arguments"] = written.describe(module, where)
            return self.turned(module, signal, where), description
        name = self.unique(path or "layer")
        if isinstance(module, TraceCell):
            out, name = self.layer(module, params, name, signal, where)
        elif isinstance(module, snn.Delay):
            out = self.delay(module, params, name, signal, where)
        elif isinstance(module, nn.Dense):
            out = self.dense(module, params, name, signal, where)
        elif isinstance(module, nn.Conv):
            check_params(params, {"kernel", "bias"} if module.use_bias else {"kernel"}, where)
            node, shape = conv_node(module, params, signal.shape, where)
            out = self.image(name, node, shape, signal, where)
        elif isinstance(module, modules.Scale):
            check_params(params, {"scale"}, where, {"scale": module.shape})
            if signal.shape != module.shape:
                raise ValueError(f"{where} must get the shape of one step; got {signal.shape}.")
            scale = np.asarray(params["scale"])
            values = {"scale": storable(scale.ravel()[signal.index])}
            out = self.add(name, Node("Scale", values), signal)
        elif isinstance(module, modules.Flatten):
            out = self.flatten(module, name, signal, where)
        else:
            node, shape = pool_node(module, signal.shape, where)
            out = self.image(name, node, shape, signal, where)
        self.describe(module, params, name, path, where)
        if isinstance(module, (nn.Dense, modules.Scale)) and not signal.in_order:
            self.nodes[name].metadata["order"] = signal.index.ravel()
        description["node"] = name
        return out, description

    def stack(
        self, stack: Any, params: Any, path: str, signal: Signal, where: str
    ) -> tuple[Signal, dict[str, Any]]:
        if isinstance(stack, snn.Residual) and stack.merge != "add":
            raise ValueError(f"{where} concatenates, which no NIR node does; got {stack.merge!r}.")
        start, layers = signal, []
        names = [f"layers_{i}" for i in range(len(stack.layers))]
        for name, layer in zip(names, stack.layers, strict=True):
            child = f"{path}/{name}" if path else name
            own: Any = {}
            if isinstance(layer, nn.Module):
                own = child_params(params, name, where, tuple(names))
            signal, described = self.module(layer, own, child, signal)
            layers.append(described)
        description = {
            "kind": type(stack).__name__,
            "arguments": written.describe(stack, where),
            "layers": layers,
        }
        if isinstance(stack, snn.Residual):
            if start.shape != signal.shape or not np.array_equal(start.index, signal.index):
                raise ValueError(
                    f"{where} must give what it gets, to be added to it: shape {start.shape}; "
                    f"got {signal.shape}."
                )
            name = self.unique(f"{path}_add" if path else "add")
            ones = np.ones(signal.index.shape, np.float32)
            out = self.add(name, Node("Scale", {"scale": ones}), start)
            self.edges.append((signal.source, name))
            signal, description["node"] = out, name
        return signal, description

    def recurrent(
        self, module: Any, params: Any, path: str, start: Signal, where: str
    ) -> tuple[Signal, dict[str, Any]]:
        """A cell, and the way from its output back to the nodes that take its input."""
        own, weights = (
            child_params(params, name, where, ("cell", "feedback")) for name in ("cell", "feedback")
        )
        names = [f"{path}/{name}" if path else name for name in ("cell", "feedback")]
        edges = len(self.edges)
        out, cell = self.module(module.cell, own, names[0], start)
        entries = [b for a, b in self.edges[edges:] if a == start.source]
        if len(entries) > 1:  # or it would not be clear which edges of the cycle come later
            entry = self.unique(f"{path}_sum" if path else "sum")
            self.edges[edges:] = [
                (entry if a == start.source else a, b) for a, b in self.edges[edges:]
            ]
            self.add(entry, Node("Scale", {"scale": np.ones(start.index.shape, np.float32)}), start)
            entries = [entry]
        chain = isinstance(module.feedback, nn.Sequential)
        layers: Any = module.feedback.layers if chain else [module.feedback]
        back, ways = out, []
        for i, layer in enumerate(layers):
            child = weights.get(f"layers_{i}", {}) if chain else weights
            place = f"{names[1]}/layers_{i}" if chain else names[1]
            back, way = self.module(layer, child, place, back)
            ways.append(way)
        if back.source == out.source or not entries:
            raise ValueError(f"{where} must have nodes in NIR for its `cell` and its `feedback`.")
        if back.shape != start.shape or not np.array_equal(back.index, start.index):
            raise ValueError(
                f"`feedback` of {where} must give what its cell takes, of shape {start.shape}; got "
                f"{back.shape}."
            )
        self.edges.append((back.source, entries[0]))
        default = isinstance(module.cell, TraceCell) and module.cell.dim == -1
        description = {
            "kind": "Recurrent",
            "arguments": written.describe(module, where),
            "cell": cell,
            "feedback": {"layers": ways, "arguments": "{}"} if chain else ways[0],
            "default": default and snn.Recurrent(module.cell).feedback == module.feedback,
        }
        return out, description

    # Leaves.

    def layer(
        self, layer: TraceCell, params: Any, name: str, signal: Signal, where: str
    ) -> tuple[Signal, str]:
        written.check_spike(layer, where)
        layer._check_shape("input_shape", signal.shape)
        values = self.checked_values(layer, params, where)
        piece = layer_nodes(
            layer.spec, values, self.dt, self.style, lambda v: signal.full(v, layer.dim), where
        )
        dtype = np.result_type(np.float32, *(v.dtype for v in values.values() if v.itemsize > 2))
        prefix = name
        names = {role: self.unique(f"{prefix}_{role}") for role in piece.nodes}
        for role, node in piece.nodes.items():
            node.values = {parameter: v.astype(dtype) for parameter, v in node.values.items()}
            node.metadata = {"role": role}
            self.nodes[names[role]] = node
        self.edges += [(signal.source, names[entry]) for entry in piece.entries]
        self.edges += [(names[a], names[b]) for a, b in piece.edges]
        main = names["mem" if "mem" in names else next(iter(names))]
        self.keep_values(main, values)
        for node_name in names.values():
            self.nodes[node_name].metadata["layer"] = name
        self.nodes[names[piece.exit]].metadata["exit"] = True
        return signal.moved(names[piece.exit]), main

    def delay(self, layer: snn.Delay, params: Any, name: str, signal: Signal, where: str) -> Signal:
        layer.check_shape("input_shape", signal.shape)
        values = self.checked_values(layer, params, where)
        full = functools.partial(signal.full, dim=layer.dim)
        node = delay_node(layer, values["delay"], self.dt, self.round_delays, full, where)
        out = self.add(name, node, signal)
        self.keep_values(name, values)
        return out

    def checked_values(self, layer: Any, params: Any, where: str) -> dict[str, np.ndarray]:
        """Constrained parameters of a layer, from raw ones that fit it."""
        wanted = {p.raw_name: p.shape for p in layer.describe() if p.learnable}
        check_params(params, set(wanted), where, wanted)
        return self.values(layer, params)

    def keep_values(self, name: str, values: Mapping[str, np.ndarray]) -> None:
        """Write constrained parameters on a node: another machine may round them otherwise."""
        for parameter, value in values.items():
            self.nodes[name].metadata[f"value_{parameter}"] = storable(value)

    def dense(self, dense: Any, params: Any, name: str, signal: Signal, where: str) -> Signal:
        if len(signal.shape) != 1:
            raise ValueError(
                f"{where} must get vectors, as the Linear and Affine of NIR do; got the shape "
                f"{signal.shape}. Flatten is in tracetorch_jax.interop."
            )
        shapes = {"kernel": (signal.shape[0], dense.features), "bias": (dense.features,)}
        wanted = {"kernel", "bias"} if dense.use_bias else {"kernel"}
        check_params(params, wanted, where, shapes)
        weight = storable(np.asarray(params["kernel"]))[signal.index].T
        values = {"weight": np.ascontiguousarray(weight)}
        if dense.use_bias:
            values["bias"] = storable(np.asarray(params["bias"]))
        node = Node("Affine" if dense.use_bias else "Linear", values)
        out = self.add(name, node, signal)
        return Signal(out.source, (dense.features,), np.arange(dense.features))

    def flatten(self, flatten: Any, name: str, signal: Signal, where: str) -> Signal:
        if flatten.axes != len(signal.shape):
            raise ValueError(
                f"{where} must flatten all axes of one step's tensor to be written, "
                f"{len(signal.shape)} of them; got axes={flatten.axes}."
            )
        shape = np.array(signal.index.shape)
        node = Node("Flatten", {"shape": shape, "start_dim": 0, "end_dim": -1})
        out = self.add(name, node, signal)
        return Signal(out.source, (signal.index.size,), signal.index.ravel())

    def turned(self, module: Any, signal: Signal, where: str) -> Signal:
        """Axes are moved on our side alone."""
        if module.axes != len(signal.shape):
            raise ValueError(
                f"{where} must see all axes of one step's tensor, {len(signal.shape)} of them; "
                f"got axes={module.axes}."
            )
        source, target = (0, -1) if isinstance(module, modules.ChannelsLast) else (-1, 0)
        ours = np.arange(signal.index.size).reshape(signal.shape)
        ours = np.moveaxis(ours, source, target)
        index = np.empty(signal.index.size, int)
        index[ours.ravel()] = np.arange(ours.size)
        return Signal(signal.source, ours.shape, index[signal.index])

    def image(
        self, name: str, node: Node, shape: tuple[int, ...], signal: Signal, where: str
    ) -> Signal:
        """Add a node that acts on images, which ours have channels last and NIR's first."""
        expected = Signal.of_input(signal.shape, channels_last=True).index
        if not np.array_equal(signal.index, expected):
            raise ValueError(
                f"{where} must get channels last, [H, W, C], and NIR channels first, [C, H, W]; "
                f"here both get {signal.shape}. Put ChannelsLast before it."
            )
        out = self.add(name, node, signal)
        return dataclasses.replace(Signal.of_input(shape, channels_last=True), source=out.source)

    # Nodes.

    def add(self, name: str, node: Node, signal: Signal) -> Signal:
        self.nodes[name] = node
        self.edges.append((signal.source, name))
        return signal.moved(name)

    def unique(self, name: str) -> str:
        """A node's name: letters, digits and underscores, not yet taken."""
        name = plain = re.sub(r"\W", "_", name)
        count = 1
        while name in self.nodes or name in ("input", "output"):
            count += 1
            name = f"{plain}_{count}"
        return name

    def describe(self, module: object, params: Any, name: str, path: str, where: str) -> None:
        """Write on a node what its module was made with."""
        metadata = self.nodes[name].metadata
        metadata["module"] = type(module).__name__
        metadata["arguments"] = written.describe(module, where)
        metadata["path"] = path
        metadata["dt"] = self.dt
        arrays = {key: np.asarray(value) for key, value in params.items()}
        metadata["dtypes"] = json.dumps({key: value.dtype.name for key, value in arrays.items()})
        if isinstance(module, TraceCell):
            metadata["reset"] = module.spec.reset if module.spec.fires else "none"
        if type(module).__name__ in written.LAYERS:
            metadata |= {key: storable(value) for key, value in arrays.items()}
        self.nodes[name].metadata = metadata
