"""Writes `tests/data/nir`: graphs of other libraries, what they make of them, nirtorch's results.

Run by hand, in an environment of its own, from the root of the repository, for some of the writers
at a time (`first`, `snntorch`, `sinabs`, `norse`, `rockpool`, `spyx`, `nirtorch`):

    pip install torch nir nirtorch snntorch norse spikingjelly rockpool spyx jax flax pytest
    pip install --no-deps sinabs  # which declares nir<=1.0.4, and samna, which this does not need
    PYTHONPATH=.:tests:tests/support python tools/make_nir_files.py sinabs spyx

`tests/data/nir/README.md` says which versions wrote the files that are there.
"""

import gzip
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import nir
import nir_cases
import norse.torch as norse
import numpy as np
import rockpool.nn.combinators
import rockpool.nn.modules.torch as rockpool_torch
import rockpool.nn.modules.torch.nir as rockpool_nir
import sinabs.activation
import sinabs.layers
import sinabs.nir
import snntorch
import snntorch.export_nir
import snntorch.utils
import spikingjelly.activation_based as spikingjelly
import spyx.nir
import spyx.nn
import test_nir_torch
import torch
from flax import nnx
from spikingjelly.activation_based.nir_exchange import export_to_nir

from tracetorch_jax import interop

DATA = pathlib.Path(__file__).parents[1] / "tests" / "data" / "nir"
STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 50, 2, 4, 6, 3


def save(name, graph, xs, ys):
    xs, ys = torch.as_tensor(xs), ys.detach()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "graph.nir"
        nir.write(path, graph)
        (DATA / f"{name}.nir.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    np.savez_compressed(DATA / f"{name}.npz", xs=xs.numpy(), ys=ys.numpy())
    kinds = {n: type(node).__name__ for n, node in graph.nodes.items()}
    print(name, kinds, "events", int((ys != 0).sum()), "of", ys.numel())


def inputs(*shape):
    return torch.rand(BATCH, STEPS, *shape)


def linear(inputs, outputs, kind=torch.nn.Linear):
    """With positive weights, so that there are spikes, yet no current of more than a threshold.

    Beyond that snnTorch takes the threshold off twice.
    """
    module = kind(inputs, outputs)
    torch.nn.init.uniform_(module.weight, 0, 1.8 / inputs)
    torch.nn.init.zeros_(module.bias)
    return module


def beta(size):
    return torch.linspace(0.5, 0.95, size)


def threshold(size):
    return torch.linspace(0.7, 1.3, size)


def snntorch_network(name, first, second):
    net = torch.nn.Sequential(linear(INPUTS, HIDDEN), first, linear(HIDDEN, OUTPUTS), second)
    xs = inputs(INPUTS)
    graph = snntorch.export_nir.export_to_nir(net, xs[0, 0])
    snntorch.utils.reset(net)
    ys = []
    for x in xs.unbind(1):
        out = net(x)
        ys.append(out[0] if isinstance(out, tuple) else out)
    save(name, graph, xs, torch.stack(ys, 1))


def leaky(size, **options):
    return snntorch.Leaky(beta(size), threshold(size), init_hidden=True, **options)


def norse_network(name, *cells):
    net = norse.SequentialState(linear(INPUTS, HIDDEN), *cells)
    xs = inputs(INPUTS)
    graph = norse.to_nir(net, xs[0, 0])
    state, ys = None, []
    for x in xs.unbind(1):
        y, state = net(x, state)
        ys.append(y)
    save(name, graph, xs, torch.stack(ys, 1))


def spikingjelly_network(name, shape, *layers):
    net = torch.nn.Sequential(*layers)
    xs = inputs(*shape)
    graph = export_to_nir(net, xs[:, 0])
    spikingjelly.functional.reset_net(net)
    save(name, graph, xs, torch.stack([net(x) for x in xs.unbind(1)], 1))


def sinabs_network(name, *layers, scale=1.0):
    """In sinabs a network takes whole sequences, here with the axes of batch and time as one."""
    first = linear(INPUTS, HIDDEN)
    first.weight.data *= scale
    net = torch.nn.Sequential(first, *layers)
    xs = inputs(INPUTS)
    flat = xs.reshape(-1, INPUTS)
    net(flat)
    graph = sinabs.nir.to_nir(net, flat)
    for layer in layers:
        layer.reset_states()
    save(name, graph, xs, net(flat).reshape(BATCH, STEPS, HIDDEN))


def rockpool_network(name, layer):
    """In Rockpool a network takes whole sequences."""
    net = rockpool.nn.combinators.Sequential(rockpool_torch.LinearTorch((INPUTS, HIDDEN)), layer)
    net[0].weight.data.uniform_(0, 1.8 / INPUTS)
    xs = inputs(INPUTS)
    graph = rockpool_nir.to_nir(net, xs[0, 0])  # by default its Input has a batch axis
    ys, *_ = net.reset_state()(xs)
    save(name, graph, xs, ys)


def spyx_network(name, layer):
    """In Spyx time comes first, and a network is made for Flax."""
    dense = nnx.Linear(INPUTS, HIDDEN, rngs=nnx.Rngs(0))
    dense.kernel[...] = jax.random.uniform(jax.random.key(1), (INPUTS, HIDDEN)) * 1.8 / INPUTS
    net = spyx.nn.Sequential(dense, layer)
    xs = np.random.default_rng(0).uniform(size=(BATCH, STEPS, INPUTS)).astype(np.float32)
    shapes = ({"input": np.array([INPUTS])}, {"output": np.array([HIDDEN])})
    graph = spyx.nir.to_nir(net, *shapes, dt=1)
    ys, _ = spyx.nn.run(net, jnp.swapaxes(xs, 0, 1))
    save(name, graph, xs, torch.as_tensor(np.array(jnp.swapaxes(ys, 0, 1))))


def first_files():
    no_delay = {"reset_delay": False}
    snntorch_network("snntorch_leaky", leaky(HIDDEN, **no_delay), leaky(OUTPUTS, **no_delay))
    no_delay["reset_mechanism"] = "zero"
    snntorch_network("snntorch_zero", leaky(HIDDEN, **no_delay), leaky(OUTPUTS, **no_delay))
    no_delay["reset_mechanism"] = "subtract"
    synaptic = snntorch.Synaptic(
        0.1 + beta(HIDDEN) / 4, beta(HIDDEN), threshold(HIDDEN), init_hidden=True, **no_delay
    )
    snntorch_network("snntorch_synaptic", synaptic, leaky(OUTPUTS, **no_delay))
    recurrent = snntorch.RLeaky(
        beta(HIDDEN), linear_features=HIDDEN, threshold=threshold(HIDDEN), init_hidden=True
    )
    snntorch_network("snntorch_rleaky", recurrent, leaky(OUTPUTS))

    ones = torch.ones(HIDDEN)
    lif = norse.LIFBoxParameters(tau_mem_inv=100 * ones, v_leak=0 * ones, v_th=0.3 * ones)
    li = norse.LIBoxParameters(tau_mem_inv=200 * ones, v_leak=0 * ones)
    norse_network("norse_lif", norse.LIFBoxCell(lif))
    norse_network("norse_li", norse.LIBoxCell(li))

    neuron, layer = spikingjelly.neuron, spikingjelly.layer
    spikingjelly_network(
        "spikingjelly_lif",
        (INPUTS,),
        linear(INPUTS, HIDDEN, layer.Linear),
        neuron.LIFNode(tau=2.0, v_threshold=0.3),
        linear(HIDDEN, OUTPUTS, layer.Linear),
        neuron.IFNode(),
    )
    spikingjelly_network(
        "spikingjelly_conv",
        (2, 9, 8),
        layer.Conv2d(2, 3, 3, padding=1, stride=(2, 1)),
        layer.AvgPool2d(2, 2),
        layer.Flatten(),
        layer.Linear(3 * 2 * 4, OUTPUTS),
    )


def snntorch_files():
    options = {"threshold": threshold(HIDDEN), "init_hidden": True}
    all_to_all = {"linear_features": HIDDEN, **options}
    last = {"reset_delay": False}
    for reset, name in (("subtract", "snntorch_rleaky_all"), ("zero", "snntorch_rleaky_zero")):
        layer = snntorch.RLeaky(
            beta(HIDDEN), reset_delay=False, reset_mechanism=reset, **all_to_all
        )
        layer.recurrent.weight.data.uniform_(-0.2, 0.1)
        snntorch_network(name, layer, leaky(OUTPUTS, reset_mechanism=reset, **last))
    one = snntorch.RLeaky(
        beta(HIDDEN), torch.linspace(-0.6, 0.3, HIDDEN), all_to_all=False, reset_delay=False,
        **options,
    )  # fmt: skip
    snntorch_network("snntorch_rleaky_one", one, leaky(OUTPUTS, **last))
    layer = snntorch.RSynaptic(0.1 + beta(HIDDEN) / 4, beta(HIDDEN) / 2, **all_to_all)
    layer.recurrent.weight.data.uniform_(-0.2, 0.1)
    snntorch_network("snntorch_rsynaptic", layer, leaky(OUTPUTS, **last))


def norse_files():
    ones = torch.ones(HIDDEN)
    lif = norse.LIFParameters(
        tau_syn_inv=200 * ones, tau_mem_inv=100 * ones, v_leak=0 * ones, v_th=0.3 * ones,
        v_reset=0 * ones,
    )  # fmt: skip
    norse_network("norse_cuba", norse.LIFCell(lif))
    norse_network("norse_iaf", norse.IAFCell(norse.IAFParameters(v_th=2 * ones)))


def sinabs_files():
    tau = torch.linspace(2.0, 10.0, HIDDEN)
    single = {"spike_fn": sinabs.activation.SingleSpike}
    spiking = {"tau_mem": tau, "spike_threshold": threshold(HIDDEN) / 4, "batch_size": BATCH}
    layers = sinabs.layers
    sinabs_network("sinabs_lif", layers.LIFSqueeze(**spiking, **single))
    sinabs_network("sinabs_multi", layers.LIFSqueeze(**spiking), scale=2)
    iaf = layers.IAFSqueeze(spike_threshold=2 * threshold(HIDDEN), batch_size=BATCH)
    sinabs_network("sinabs_iaf", iaf)
    leak = layers.ExpLeakSqueeze(tau_mem=tau, norm_input=True, batch_size=BATCH)
    sinabs_network("sinabs_leak", leak)


def rockpool_files():
    options = {
        "tau_mem": torch.linspace(2e-3, 1e-2, HIDDEN), "threshold": 2 * threshold(HIDDEN),
        "bias": torch.zeros(HIDDEN), "dt": 1e-3,
    }  # fmt: skip
    rockpool_network("rockpool_neuron", rockpool_torch.LIFNeuronTorch((HIDDEN,), **options))
    synapse = {"tau_syn": torch.linspace(1e-3, 4e-3, HIDDEN)[:, None]}
    rockpool_network("rockpool_lif", rockpool_torch.LIFTorch((HIDDEN,), **synapse, **options))


def spyx_files():
    size, betas = (HIDDEN,), jnp.linspace(0.5, 0.9, HIDDEN)
    for name, layer in {
        "if": spyx.nn.IF(size, threshold=2.0),
        "lif": spyx.nn.LIF(size, threshold=1.0, rngs=nnx.Rngs(0)),
        "cuba": spyx.nn.CuBaLIF(size, threshold=1.5, rngs=nnx.Rngs(0)),
        "psu": spyx.nn.PSU_LIF(size, threshold=1.0, rngs=nnx.Rngs(0)),
        "rlif": spyx.nn.RLIF(size, threshold=1.0, rngs=nnx.Rngs(0)),
    }.items():
        if hasattr(layer, "beta"):
            layer.beta[...] = betas
        if hasattr(layer, "alpha"):
            layer.alpha[...] = betas[::-1] / 2
        spyx_network(f"spyx_{name}", layer)


def nirtorch_results():
    results = {}
    for name in nir_cases.NAMES:
        model, variables, xs = nir_cases.case(name)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "graph.nir"
            nir.write(path, interop.to_nir(model, variables, input_shape=xs.shape[2:]))
            results[name] = test_nir_torch.execute(path, xs)
    np.savez_compressed(DATA / "nirtorch.npz", **results)
    if not (DATA / "own.nir").exists():  # the file of an early version is to stay
        model, variables, xs = nir_cases.case("RLIB")
        nir.write(DATA / "own.nir", interop.to_nir(model, variables, input_shape=xs.shape[2:]))


FILES = {
    "first": first_files,
    "snntorch": snntorch_files,
    "norse": norse_files,
    "sinabs": sinabs_files,
    "rockpool": rockpool_files,
    "spyx": spyx_files,
    "nirtorch": nirtorch_results,
}

if __name__ == "__main__":
    for writer in sys.argv[1:]:
        torch.manual_seed(0)
        FILES[writer]()
