"""Makes ``tests/data/peers/<library>.npz``: what the neurons of other libraries give.

Run by hand, once in each of the environments that examples/benchmarks/README.md makes; it writes a
file for each library that is installed, or those that are named:

    PYTHONPATH=tests/support .venv-torch/bin/python tools/make_peer_vectors.py
    PYTHONPATH=tests/support .venv-jax/bin/python tools/make_peer_vectors.py
    PYTHONPATH=tests/support .venv-sparx/bin/python tools/make_peer_vectors.py

All numbers are multiples of a power of 2, so that membranes hit thresholds exactly, in float32,
too. traceTorch rounds its parameters, so there one sequence starts at the threshold that it made.
`test_peers.py` reads the files and, where a library is installed, runs it again.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import sys

import numpy as np
import peers
from peer_neurons import STEPS, time_major

T, B, N = 8, 5, 4
PACKAGES = {
    "tracetorch": ("tracetorch", "torch"),
    "snntorch": ("snntorch", "torch"),
    "spyx": ("spyx", "jax", "flax"),
    "jaxpike": ("jaxpike", "jax"),
    "sparx": ("sparxml", "jax", "flax"),
    "spikingjelly": ("spikingjelly", "torch"),
    "norse": ("norse", "torch"),
}


def inputs():
    """Sequences ``[T, B, N]``, exact hits of scaled and unscaled inputs among them, and weights."""
    rng = np.random.default_rng(0)
    xs = rng.integers(-8, 24, (T, B, N)) / 8  # up to twice the threshold
    xs[:, 1, 2:] *= 4
    xs[:, 2] = rng.integers(-24, 32, (T, N)) / 4
    xs[:, 3:] = rng.integers(-4, 8, (T, 2, N)) / 16  # small steps over the threshold
    xs[:, 0, 0] = [1.5, 0.375, 0.375, 0.5, 2, -1, 0.375, 1.5]
    xs[:, 0, 1] = 4 * xs[:, 0, 0]
    xs[:, 0, 2] = [1.5, -0.375, 0.1875, 0.75, -2, 3, 3, 3]
    xs[:, 0, 3] = 4 * xs[:, 0, 2]
    xs[0, 1, 0] = 3  # for a current that averages
    xs[-1] = rng.integers(-8, 8, (B, N)) / 8  # leaves something in the membranes
    return np.float32(xs), np.float32(rng.integers(-8, 9, (T, B, N)) / 8)


def namespace(library):
    """What the expressions of its rows are made of."""
    if library == "spyx":
        import spyx
        from flax import nnx

        return {"spyx": spyx, "axn": spyx.axn, "rngs": nnx.Rngs(0)}
    if library == "jaxpike":
        import jaxpike

        return {"jaxpike": jaxpike}
    if library == "sparx":
        import sparx

        return {"sparx": sparx}
    import torch

    names = {"torch": torch, "tensor": torch.tensor}
    if library == "tracetorch":
        from tracetorch import functional, snn

        return names | {
            "snn": snn,
            "round_ste": functional.round_ste,
            "sigmoid4x": functional.sigmoid4x,
        }
    if library == "snntorch":
        import snntorch
        from snntorch import surrogate

        return names | {"snntorch": snntorch, "surrogate": surrogate}
    if library == "spikingjelly":
        from spikingjelly.activation_based import neuron, surrogate

        sequence = {"step_mode": "m", "store_v_seq": True}
        names |= {"neuron": neuron, "surrogate": surrogate}
        return names | {"SEQUENCE": sequence, "exp": np.exp}
    import norse.torch as norse
    from norse.torch.functional.leaky_integrator_box import LIBoxParameters
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.functional.threshold import threshold

    return names | {
        "norse": norse,
        "LIBoxParameters": LIBoxParameters,
        "LIFBoxParameters": LIFBoxParameters,
        "reset_subtract": reset_subtract,
        "spike": lambda method, alpha: lambda u: threshold(u, method, alpha),
    }


GRID = np.linspace(-1.1, 1.1, 12, dtype=np.float32)


def derivative(library, expression):
    """Derivative that a spike function of a library has on the grid."""
    spike = eval(expression, namespace(library))
    if library in IN_JAX:
        import jax

        return np.asarray(jax.vmap(jax.grad(spike))(GRID))
    import torch

    u = torch.from_numpy(GRID).requires_grad_()
    return torch.autograd.grad(spike(u).sum(), u)[0].numpy()


def make(row):
    """The neuron itself."""
    return eval(row.make, {**namespace(row.package), **row.arguments, "N": N})


def stepwise(row, neuron, xs, state=None):
    """Outputs and membranes of one call per step, and the state, unless the neuron keeps it."""
    import torch

    ys, vs = [], []
    for x in xs:
        if row.package == "tracetorch":
            y, v = neuron(x), neuron.mem
        elif row.package == "snntorch":
            y, *_, v = neuron(x)
        else:
            y, state = neuron(x, state)
            v = state.v
        ys.append(y)
        vs.append(v)
    return torch.stack(ys), torch.stack(vs), state


def whole(row, neuron, xs, state=None):
    """The same for a neuron that takes a sequence."""
    import torch

    if row.package == "norse":
        ys, states = neuron(xs, state)
        return ys, states.v, type(states)(*(s[-1] for s in states))
    ys = neuron(xs)
    if row.fires is None:
        ys = torch.stack(ys)
        return ys, ys, None
    return ys, neuron.v_seq, None


def in_torch(row, neuron, xs, w):
    import torch

    call = stepwise if row.sequences == STEPS else whole
    x = torch.from_numpy(xs).requires_grad_()
    ys, vs, state = call(row, neuron, x)
    (grad,) = torch.autograd.grad((ys * torch.from_numpy(w)).sum(), x, retain_graph=True)
    found = {"y": ys, "v": vs, "grad": grad, "again": call(row, neuron, x)[0]}
    if row.state == "caller":
        found["resumed"] = call(row, neuron, x, state)[0]
    return {name: value.detach().numpy() for name, value in found.items()}


def of_spyx(neuron):
    """How a neuron runs over a sequence, what state a step leaves, and the membrane in that."""
    import spyx

    def step(x, state):
        return neuron(x, neuron.initial_state(len(x)) if state is None else state)[1]

    def run(xs, state):
        return spyx.nn.run(neuron, xs, *(() if state is None else (state,)))

    return run, step, lambda state: state[:, :N]  # the membrane comes first


def of_sparx(neuron):
    def run(xs, state):
        return neuron.apply({} if state is None else state, xs, mutable="state")

    def membrane(state):
        carry = state["state"]["carry"]
        return carry.v if hasattr(carry, "v") else carry[-1].v  # of synapse and membrane

    return run, lambda x, state: run(x[None], state)[1], membrane


def of_jaxpike(neuron):
    import jaxpike

    def step(x, state):
        return neuron(neuron.init_state(x.shape) if state is None else state, x)[0]

    return lambda xs, state: jaxpike.unroll(neuron, xs, state), step, lambda state: state.v


IN_JAX = {"spyx": of_spyx, "sparx": of_sparx, "jaxpike": of_jaxpike}


def in_jax(row, neuron, xs, w):
    import jax
    import jax.numpy as jnp

    run, step, membrane = IN_JAX[row.package](neuron)
    xs, w = jnp.asarray(xs), jnp.asarray(w)

    def loss(xs):
        ys, state = run(xs, None)
        return (ys * w).sum(), (ys, state)

    grad, (ys, state) = jax.grad(loss, has_aux=True)(xs)
    at, vs = None, []
    for x in xs:
        at = step(x, at)
        vs.append(membrane(at))
    found = {"y": ys, "v": jnp.stack(vs), "grad": grad}
    found["again"] = run(xs, None)[0]
    found["resumed"] = run(xs, state)[0]
    return {name: np.asarray(value) for name, value in found.items()}


def run(row):
    """Arguments, input, weights, and what the neuron makes of them, with the axes of the row."""
    neuron, arguments, (xs, w) = make(row), dict(row.arguments), inputs()
    if row.package == "tracetorch":
        arguments = {name: getattr(neuron, name)[0].item() for name in arguments}
        xs[1:] += 1 / 64
        if row.fires is not None:
            xs[0, 0, :2] = arguments["threshold"] * np.float32([1, 2])  # with and without synapse
    xs, w = time_major(row, xs), time_major(row, w)
    found = (in_jax if row.package in IN_JAX else in_torch)(row, neuron, xs, w)
    return {"arguments": np.array(json.dumps(arguments)), "x": xs, "w": w, **found}


def recurrent():
    """What a layer of sparx gives that feeds its spikes back through a matrix, and gradients."""
    import jax
    import jax.numpy as jnp

    layer = make(dataclasses.replace(peers.ROWS["sparx.LIF"], make=peers.RECURRENT))
    xs, w = map(jnp.asarray, inputs())
    xs += 1 / 128  # off the threshold
    kernel = np.float32(np.random.default_rng(1).integers(-8, 9, (N, N)) / 16)

    def loss(kernel, xs):
        ys = layer.apply({"params": {"recurrent": kernel}}, xs)
        return (ys * w).sum(), ys

    (by_kernel, grad), ys = jax.grad(loss, (0, 1), has_aux=True)(kernel, xs)
    return {"kernel": kernel, "x": xs, "w": w, "y": ys, "grad": grad, "grad_kernel": by_kernel}


def installed(library):
    return importlib.util.find_spec(library) is not None


def versions(library):
    found = {name: importlib.metadata.version(name) for name in PACKAGES[library]}
    return {library: found[PACKAGES[library][0]], **found}  # which is another name for sparx


if __name__ == "__main__":
    for library in sys.argv[1:] or filter(installed, PACKAGES):
        arrays = {"versions": np.array(json.dumps(versions(library)))}
        for row in peers.ROWS.values():
            if row.package == library:
                for name, array in run(row).items():
                    arrays[f"{row.name}/{name}"] = array
        if library == "sparx":
            arrays |= {f"recurrent/{name}": array for name, array in recurrent().items()}
        for there, expression, _ in peers.SURROGATES[library]:
            arrays[f"derivative/{there}"] = derivative(library, expression or there)
        np.savez_compressed(peers.FOLDER / f"{library}.npz", **arrays)
        print(library, versions(library))
