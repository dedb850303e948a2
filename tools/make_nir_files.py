"""Writes `tests/data/nir`: graphs of other libraries, what they make of them, nirtorch's results.

Run by hand, in an environment of its own, from the root of the repository:

    pip install torch nir nirtorch snntorch norse spikingjelly jax flax pytest
    PYTHONPATH=.:tests:tests/support python tools/make_nir_files.py

`tests/data/nir/README.md` says which versions wrote the files that are there.
"""

import pathlib
import tempfile

import nir
import nir_cases
import norse.torch as norse
import numpy as np
import snntorch
import snntorch.export_nir
import snntorch.utils
import spikingjelly.activation_based as spikingjelly
import test_nir_torch
import torch
from spikingjelly.activation_based.nir_exchange import export_to_nir

from tracetorch_jax import interop

DATA = pathlib.Path(__file__).parents[1] / "tests" / "data" / "nir"
STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 50, 2, 4, 6, 3


def save(name, graph, xs, ys):
    nir.write(DATA / f"{name}.nir", graph)
    np.savez_compressed(DATA / f"{name}.npz", xs=xs.numpy(), ys=ys.detach().numpy())
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


def main():
    torch.manual_seed(0)
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


if __name__ == "__main__":
    main()
