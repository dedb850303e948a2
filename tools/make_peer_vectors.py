"""Makes ``tests/data/peers/<library>.npz``: what the neurons of other libraries give.

Run by hand, once in an environment with the peers in PyTorch, once in one with Spyx
(examples/benchmarks/README.md makes both) and once in one with `jaxpike`; it writes a file for each
library that is installed, or those that are named:

    PYTHONPATH=tests/support .venv-torch/bin/python tools/make_peer_vectors.py
    PYTHONPATH=tests/support .venv-spyx/bin/python tools/make_peer_vectors.py
    PYTHONPATH=tests/support .venv-jaxpike/bin/python tools/make_peer_vectors.py jaxpike

All numbers are multiples of a power of 2, so that membranes hit thresholds exactly, in float32,
too. traceTorch rounds its parameters, so there one sequence starts at the threshold that it made.
`test_peers.py` reads the files and, where a library is installed, runs it again.
"""

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


def in_spyx(row, neuron, xs, w):
    import jax
    import jax.numpy as jnp
    import spyx

    xs, w = jnp.asarray(xs), jnp.asarray(w)

    def loss(xs):
        ys, state = spyx.nn.run(neuron, xs)
        return (ys * w).sum(), (ys, state)

    grad, (ys, state) = jax.grad(loss, has_aux=True)(xs)
    step, vs = neuron.initial_state(xs.shape[1]), []
    for x in xs:
        _, step = neuron(x, step)
        vs.append(step[:, :N])  # the membrane comes first
    found = {"y": ys, "v": jnp.stack(vs), "grad": grad}
    found["again"] = spyx.nn.run(neuron, xs)[0]
    found["resumed"] = spyx.nn.run(neuron, xs, state)[0]
    return {name: np.asarray(value) for name, value in found.items()}


def in_jaxpike(row, neuron, xs, w):
    import jax
    import jax.numpy as jnp
    import jaxpike

    xs, w = jnp.asarray(xs), jnp.asarray(w)

    def loss(xs):
        ys, state = jaxpike.unroll(neuron, xs)
        return (ys * w).sum(), (ys, state)

    grad, (ys, state) = jax.grad(loss, has_aux=True)(xs)
    step, vs = neuron.init_state(xs.shape[1:]), []
    for x in xs:
        step, _ = neuron(step, x)
        vs.append(step.v)
    found = {"y": ys, "v": jnp.stack(vs), "grad": grad}
    found["again"] = jaxpike.unroll(neuron, xs)[0]
    found["resumed"] = jaxpike.unroll(neuron, xs, state)[0]
    return {name: np.asarray(value) for name, value in found.items()}


IN_JAX = {"spyx": in_spyx, "jaxpike": in_jaxpike}


def run(row):
    """Arguments, input, weights, and what the neuron makes of them, with the axes of the row."""
    neuron, arguments, (xs, w) = make(row), dict(row.arguments), inputs()
    if row.package == "tracetorch":
        arguments = {name: getattr(neuron, name)[0].item() for name in arguments}
        xs[1:] += 1 / 64
        if row.fires is not None:
            xs[0, 0, :2] = arguments["threshold"] * np.float32([1, 2])  # with and without synapse
    xs, w = time_major(row, xs), time_major(row, w)
    found = IN_JAX.get(row.package, in_torch)(row, neuron, xs, w)
    return {"arguments": np.array(json.dumps(arguments)), "x": xs, "w": w, **found}


def installed(library):
    return importlib.util.find_spec(library) is not None


def versions(library):
    return {name: importlib.metadata.version(name) for name in PACKAGES[library]}


if __name__ == "__main__":
    for library in sys.argv[1:] or filter(installed, PACKAGES):
        arrays = {"versions": np.array(json.dumps(versions(library)))}
        for row in peers.ROWS.values():
            if row.package == library:
                for name, array in run(row).items():
                    arrays[f"{row.name}/{name}"] = array
        for there, expression, _ in peers.SURROGATES[library]:
            arrays[f"derivative/{there}"] = derivative(library, expression or there)
        np.savez_compressed(peers.FOLDER / f"{library}.npz", **arrays)
        print(library, versions(library))
