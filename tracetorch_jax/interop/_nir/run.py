"""NIR graphs in steps of time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from tracetorch_jax._shared.checks import check_choice
from tracetorch_jax.interop._nir.delays import steps_of
from tracetorch_jax.interop._nir.exporting import check_dt
from tracetorch_jax.interop._nir.graph import Graph, Node
from tracetorch_jax.interop._nir.order import delayed_edges, order
from tracetorch_jax.interop._nir.read import of_file, read

Reset = Literal["v_reset", "subtract"]
Method = Literal["euler", "exponential"]
Values = dict[str, Any]
State = dict[str, np.ndarray]

_TIMED = ("CubaLI", "CubaLIF", "Delay", "I", "IF", "LI", "LIF")


def run_nir(
    graph: Any,
    xs: Any,
    *,
    dt: float | None = None,
    reset: Reset = "v_reset",
    method: Method = "euler",
) -> np.ndarray:
    """Simulate a NIR graph in steps, on NumPy.

    Each node takes the sum of what its sources give in the same step. On a cycle, what returns to
    a node that is also fed from outside of the cycle arrives one step later; a `Delay` on it comes
    on top. Every state starts from 0, but for the membrane of a node that fires and is set to
    ``v_reset``: it starts from there.

    Args:
        graph: a ``nir.NIRGraph``, or the path of a file.
        xs: input ``[B, T, ...]``, or ``[T, ...]`` without a batch axis, each step of the shape of
            the graph's input.
        dt: length of a step in seconds; by default what the graph's metadata say.
        reset: what `LIF`, `CubaLIF` and `IF` do after a spike: take on ``v_reset``, as NIR defines
            them, or ``"subtract"`` the threshold, as some hardware and simulators read them.
        method: of the steps, see `from_nir`.

    Returns:
        The output ``[B, T, ...]`` or ``[T, ...]``, of the dtype of `xs`, at least float32.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: `nir` is missing.
        IsADirectoryError: there is a folder.
        ValueError: a graph that `from_nir` would not read either, or input that does not fit it;
            no `dt`.

    Example:
        >>> layer = snn.LIB(1, beta=0.5)
        >>> variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 1)))
        >>> graph = interop.to_nir(layer, variables, input_shape=(1,))
        >>> interop.run_nir(graph, np.full((4, 1), 0.75))[:, 0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    check_conventions(reset, method)
    dt = dt if dt is None else check_dt(dt)
    with of_file(graph):
        plain = read(graph)
        dt = find_dt(plain, dt)
        plain = stepped(plain, dt, method)
    xs = np.asarray(xs)
    shape = plain.input_shape
    batched = xs.ndim == len(shape) + 2
    if xs.ndim - len(shape) not in (1, 2) or xs.shape[xs.ndim - len(shape) :] != shape:
        raise ValueError(
            f"`xs` must be [B, T, ...] or [T, ...] with steps of the shape {shape}, which the "
            f"input of `graph` has; got shape {xs.shape}."
        )
    xs = xs.astype(np.result_type(xs.dtype, np.float32))
    with of_file(graph):
        outputs = simulate(plain, xs if batched else xs[None], dt, reset)[plain.output]
    return outputs if batched else outputs[0]


def check_conventions(reset: Reset, method: Method) -> None:
    """Check what NIR leaves open and a caller says."""
    check_choice("reset", reset, ("v_reset", "subtract"))
    check_choice("method", method, ("euler", "exponential"))


def stepped(graph: Graph, dt: float, method: Method) -> Graph:
    """The graph of which forward Euler steps are steps of `method` of this one."""
    if method == "euler":
        return graph
    nodes = {}
    for name, node in graph.nodes.items():
        values = dict(node.values)
        for tau in {"tau", "tau_syn", "tau_mem"} & values.keys():
            # 1 - dt / new = exp(-dt / tau)
            new = -dt / np.expm1(-dt / values[tau].astype(np.float64))
            values[tau] = new.astype(np.result_type(values[tau], np.float32))
        nodes[name] = dataclasses.replace(node, values=values)
    return dataclasses.replace(graph, nodes=nodes)


def find_dt(graph: Graph, dt: float | None) -> float:
    """The length of a step: as given, or as the graph says; of no matter if nothing takes time."""
    if dt is not None:
        return check_dt(dt)
    if "dt" not in graph.metadata:
        if not any(node.kind in _TIMED for node in graph.nodes.values()):
            return 1.0
        raise ValueError(
            "`dt` is needed: the metadata of `graph` do not hold it, and its time constants are in "
            "a unit of their writer. snnTorch and SpikingJelly write for steps of 1e-4, sinabs for "
            "1, Spyx for the `dt` that its to_nir was given (1 by default), Rockpool for that of "
            "its modules (1e-3), and norse 1.1 multiplies its time constants by its step, so that "
            "for its 1e-3 the square, 1e-6, is right (1 for its IAFCell)."
        )
    written = np.asarray(graph.metadata["dt"])
    if written.dtype.kind not in "iuf" or written.size != 1:
        raise ValueError(f"The metadata of `graph` must hold `dt` as a number; got {written}.")
    return check_dt(written.item())


def simulate(graph: Graph, xs: np.ndarray, dt: float, reset: Reset) -> dict[str, np.ndarray]:
    """What every node gives, ``[B, T, ...]``, for input ``[B, T, ...]``."""
    delayed = delayed_edges(graph)
    steps = {name: _step(name, node, dt, reset) for name, node in graph.nodes.items()}
    names = order(graph, delayed)
    sources = {name: graph.sources[name] for name in names}
    states: dict[str, State] = {name: {} for name in names}
    history: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def step(
        x_t: np.ndarray, before: dict[str, np.ndarray], states: dict[str, State], silent: bool
    ) -> dict[str, np.ndarray]:
        now: dict[str, np.ndarray] = {}
        for name in names:
            if name == graph.input:
                now[name] = x_t
                continue
            arriving = [
                before.get(a, xs.dtype.type(0)) if (a, name) in delayed else now[a]
                for a in sources[name]
            ]
            x = arriving[0]
            for other in arriving[1:]:
                x = x + other
            now[name] = _checked(name, steps[name], states[name], x)
            if silent and graph.nodes[name].kind in (*_TIMED, "Threshold"):
                now[name] = np.zeros_like(now[name])
        return now

    # What a matrix with a bias gives in a cycle before the first step, when nothing has fired.
    now = step(np.zeros_like(xs[:, 0]), {}, {name: {} for name in names}, True) if delayed else {}
    for t in range(xs.shape[1]):
        now = step(xs[:, t], now, states, False)
        for name in names:
            history[name].append(now[name])
    return {name: np.stack(values, 1) for name, values in history.items()}


def _checked(name: str, step: Any, state: State, x: np.ndarray) -> np.ndarray:
    try:
        return step(state, x)
    except ValueError as error:
        raise ValueError(f"Node {name!r} does not fit its input {x.shape[1:]}: {error}.") from error


def _step(name: str, node: Node, dt: float, reset: Reset) -> Callable[[State, Any], Any]:
    """One node's step: it changes its state and returns its output."""
    kind, p = node.kind, node.values
    if kind in ("Input", "Output"):
        return lambda state, x: x
    if kind == "Delay":
        steps = steps_of(name, node, dt)
        return lambda state, x: _delay(steps, state, x)
    if kind in ("Affine", "Linear"):
        bias = p.get("bias", np.zeros((), np.float32))
        return lambda state, x: x @ p["weight"].T.astype(x.dtype) + bias.astype(x.dtype)
    if kind == "Scale":
        return lambda state, x: p["scale"].astype(x.dtype) * x
    if kind == "Threshold":
        return lambda state, x: (x > p["threshold"].astype(x.dtype)).astype(x.dtype)
    if kind == "Flatten":
        return lambda state, x: x.reshape(x.shape[0], *_flattened(node, x.shape[1:]))
    if kind in ("Conv1d", "Conv2d"):
        return lambda state, x: _convolve(name, node, x)
    if kind in ("AvgPool2d", "SumPool2d"):
        return lambda state, x: _pool(node, x)
    return lambda state, x: _integrate(kind, p, dt, reset, state, x)


def _integrate(
    kind: str, p: Values, dt: float, reset: Reset, state: State, x: np.ndarray
) -> np.ndarray:
    """Euler steps of all that integrates."""

    def euler(name: str, tau: str | None, leak: Any, drive: np.ndarray) -> np.ndarray:
        old = state.get(name, np.zeros_like(drive))
        rate = dt * np.ones_like(drive) if tau is None else (dt / p[tau]).astype(drive.dtype)
        pull = drive if tau is None else leak - old + drive
        state[name] = old + rate * pull
        return state[name]

    r = p["r"].astype(x.dtype)
    if kind.endswith("IF") and reset == "v_reset" and not state:
        state["v"] = np.zeros_like(x) + p["v_reset"].astype(x.dtype)
    if kind in ("I", "IF"):
        v = euler("v", None, None, r * x)
    else:
        v_leak = p["v_leak"].astype(x.dtype)
        if kind.startswith("Cuba"):
            x = euler("i", "tau_syn", x.dtype.type(0), p["w_in"].astype(x.dtype) * x)
        v = euler("v", "tau_mem" if kind.startswith("Cuba") else "tau", v_leak, r * x)
    if not kind.endswith("IF"):
        return v
    threshold = p["v_threshold"].astype(x.dtype)
    spikes = (v > threshold).astype(x.dtype)
    if reset == "subtract":
        state["v"] = v - threshold * spikes
    else:
        state["v"] = np.where(spikes > 0, p["v_reset"].astype(x.dtype), v)
    return spikes


def _delay(steps: np.ndarray, state: State, x: np.ndarray) -> np.ndarray:
    """What each element was so many steps ago."""
    past = state.get("past", np.zeros((steps.max(initial=0), *x.shape), x.dtype))
    latest = np.concatenate([x[None], past])  # the newest first
    state["past"] = latest[:-1]
    return np.take_along_axis(latest, np.broadcast_to(steps, x.shape)[None], 0)[0]


def _flattened(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    axes = len(shape)
    start, end = (int(node.values[key]) % axes for key in ("start_dim", "end_dim"))
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def pair(value: object, axes: int) -> tuple[int, ...]:
    """An integer for each axis."""
    return tuple(int(v) for v in np.broadcast_to(np.asarray(value), (axes,)))


def padding_of(name: str, node: Node, axes: int) -> tuple[int, ...]:
    """Padding on both sides of each axis."""
    padding = node.values["padding"]
    if not isinstance(padding, str):
        return pair(padding, axes)
    if padding == "valid":
        return (0,) * axes
    sizes = node.values["weight"].shape[2:]
    total = [d * (k - 1) for d, k in zip(pair(node.values["dilation"], axes), sizes, strict=True)]
    if any(t % 2 for t in total):
        raise ValueError(
            f"Node {name!r} ({node.kind}) must have an odd kernel for `padding` 'same', which is "
            f"uneven otherwise; got {sizes}."
        )
    return tuple(t // 2 for t in total)


def _windows(x: np.ndarray, size: Any, stride: Any, dilation: Any, padding: Any) -> np.ndarray:
    """``[B, C, *out, *size]``."""
    axes = len(size)
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    spans = tuple(d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(2, 2 + axes)))
    steps = tuple(slice(None, None, s) for s in (*stride, *dilation))
    return windows[(slice(None), slice(None), *steps)]


def _convolve(name: str, node: Node, x: np.ndarray) -> np.ndarray:
    weight, groups = node.values["weight"].astype(x.dtype), int(node.values["groups"])
    axes = weight.ndim - 2
    windows = _windows(
        x,
        weight.shape[2:],
        pair(node.values["stride"], axes),
        pair(node.values["dilation"], axes),
        padding_of(name, node, axes),
    )
    if windows.shape[1] != weight.shape[1] * groups:
        raise ValueError(f"its weight {weight.shape} takes {weight.shape[1] * groups} channels")
    over = "ij"[:axes]
    parts = [
        np.einsum(f"bcxy{over},oc{over}->boxy" if axes == 2 else "bcxi,oci->box", part, kernel)
        for part, kernel in zip(
            np.split(windows, groups, 1), np.split(weight, groups, 0), strict=True
        )
    ]
    bias = node.values["bias"].astype(x.dtype).reshape(-1, *(1,) * axes)
    return np.concatenate(parts, 1) + bias


def _pool(node: Node, x: np.ndarray) -> np.ndarray:
    size, stride, padding = (pair(node.values[k], 2) for k in ("kernel_size", "stride", "padding"))
    windows = _windows(x, size, stride, (1, 1), padding)
    return windows.mean((-1, -2)) if node.kind == "AvgPool2d" else windows.sum((-1, -2))
