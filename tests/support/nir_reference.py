"""What a NIR graph does, written down from NIR's definitions alone: forward Euler, on NumPy.

In every step, nodes are computed as soon as all of their sources are. Where that ends, at cycles, a
node of which the sources that are missing only wait for the node itself takes what these gave in
the step before. Before the first step no neuron has fired, and a weight with a bias gives its bias.
"""

import numpy as np


def run(graph, xs, dt, subtract=False):
    """Output ``[B, T, ...]`` of a ``nir.NIRGraph`` without graphs in it, in the dtype of `xs`.

    With `subtract`, spikes take the threshold off instead.
    """
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    (end,) = (name for name, kind in kinds.items() if kind == "Output")
    sources = {name: [a for a, b in graph.edges if b == name] for name in kinds}
    states = {name: {} for name in kinds}
    before = {name: silence(node) for name, node in graph.nodes.items() if hasattr(node, "bias")}
    ys = []
    for t in range(xs.shape[1]):
        now, open_ = {}, dict(sources)
        while len(now) < len(kinds):
            missing = {n: set(sources[n]) - now.keys() for n in kinds if n not in now}
            ready = [n for n in missing if not missing[n]] or [
                n
                for n in missing
                if missing[n] < set(sources[n]) and all(waits(open_, m, n) for m in missing[n])
            ]
            for name in ready:
                # What has been taken from the step before is no longer waited for.
                open_[name] = [a for a in sources[name] if a not in missing[name]]
                if kinds[name] == "Input":
                    out = xs[:, t]
                else:
                    given = [
                        now.get(a, before.get(a, np.zeros((), xs.dtype))) for a in sources[name]
                    ]
                    x = sum(given[1:], given[0])
                    out = STEPS[kinds[name]](graph.nodes[name], states[name], x, dt)
                    if subtract and kinds[name].endswith("IF"):
                        v = states[name]["before reset"]
                        states[name]["v"] = v - graph.nodes[name].v_threshold * out
                now[name] = np.asarray(out, xs.dtype)
        ys.append(now[end])
        before = now
    return np.stack(ys, 1)


def silence(node):
    """What a weight gives for an input of zeros."""
    return node.bias.reshape(-1, *(1,) * (node.weight.ndim - 2))


def waits(sources, node, other):
    """Whether `node` is computed, over any number of steps, from `other`."""
    seen, asked = set(), [node]
    while asked:
        for source in sources[asked.pop()]:
            if source not in seen:
                seen.add(source)
                asked.append(source)
    return other in seen


def euler(state, name, rate, x):
    state[name] = state.get(name, 0) + rate(state.get(name, 0))
    return state[name]


def li(node, state, x, dt):
    return euler(state, "v", lambda v: dt / node.tau * (node.v_leak - v + node.r * x), x)


def cuba_li(node, state, x, dt):
    i = euler(state, "i", lambda i: dt / node.tau_syn * (node.w_in * x - i), x)
    return euler(state, "v", lambda v: dt / node.tau_mem * (node.v_leak - v + node.r * i), x)


def integrator(node, state, x, dt):
    return euler(state, "v", lambda v: dt * node.r * x, x)


def fires(membrane):
    """A neuron at rest is where a spike leaves it."""

    def step(node, state, x, dt):
        state.setdefault("v", node.v_reset + np.zeros_like(x))
        state["before reset"] = membrane(node, state, x, dt)
        spikes = state["before reset"] > node.v_threshold
        state["v"] = np.where(spikes, node.v_reset, state["v"])
        return spikes

    return step


def conv2d(node, state, x, dt):
    """As defined, one output at a time."""
    (ph, pw), (sh, sw), (dh, dw) = node.padding, node.stride, node.dilation
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    kh, kw = node.weight.shape[2:]
    rows = range(0, x.shape[2] - dh * (kh - 1), sh)
    columns = range(0, x.shape[3] - dw * (kw - 1), sw)
    out = np.zeros((len(x), len(node.weight), len(rows), len(columns)), x.dtype)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            patch = x[:, :, top : top + dh * kh : dh, left : left + dw * kw : dw]
            out[:, :, i, j] = np.tensordot(patch, node.weight, ((1, 2, 3), (1, 2, 3))) + node.bias
    return out


def conv1d(node, state, x, dt):
    x = np.pad(x, ((0, 0), (0, 0), (node.padding, node.padding)))
    span = node.dilation * (node.weight.shape[2] - 1) + 1
    starts = range(0, x.shape[2] - span + 1, int(node.stride))
    patches = [x[:, :, start : start + span : int(node.dilation)] for start in starts]
    out = [np.tensordot(p, node.weight, ((1, 2), (1, 2))) + node.bias for p in patches]
    return np.stack(out, -1)


def pool(average):
    def step(node, state, x, dt):
        (kh, kw), (sh, sw) = node.kernel_size, node.stride
        rows, columns = range(0, x.shape[2] - kh + 1, sh), range(0, x.shape[3] - kw + 1, sw)
        out = [[x[:, :, i : i + kh, j : j + kw].sum((2, 3)) for j in columns] for i in rows]
        return np.moveaxis(np.array(out), (0, 1), (2, 3)) / (kh * kw if average else 1)

    return step


def delay(node, state, x, dt):
    """One element at a time, from a list of all inputs so far."""
    state.setdefault("inputs", []).append(x)
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape[1:]):
        k = round(float(np.broadcast_to(node.delay, x.shape[1:])[index]) / dt)
        if k < len(state["inputs"]):
            out[(slice(None), *index)] = state["inputs"][-1 - k][(slice(None), *index)]
    return out


STEPS = {
    "Affine": lambda node, state, x, dt: x @ node.weight.T + node.bias,
    "AvgPool2d": pool(average=True),
    "Conv1d": conv1d,
    "Conv2d": conv2d,
    "CubaLI": cuba_li,
    "CubaLIF": fires(cuba_li),
    "Delay": delay,
    "Flatten": lambda node, state, x, dt: x.reshape(len(x), -1),
    "I": integrator,
    "IF": fires(integrator),
    "LI": li,
    "LIF": fires(li),
    "Linear": lambda node, state, x, dt: x @ node.weight.T,
    "Output": lambda node, state, x, dt: x,
    "Scale": lambda node, state, x, dt: node.scale * x,
    "SumPool2d": pool(average=False),
    "Threshold": lambda node, state, x, dt: x > node.threshold,
}
