"""What `to_nir` writes, executed by nirtorch: needs torch, so it runs in an environment of its own:
`make test-nir`.

Elsewhere it is skipped. `test_nir.py` holds nirtorch's results against every version, from
`data/nir/nirtorch.npz`, and executes the same graphs with an interpreter of its own.
"""

import flax.linen as nn
import jax
import nir_cases
import numpy as np
import pytest

from tracetorch_jax import interop, snn

torch = pytest.importorskip("torch", reason="needs torch; see the docstring of this file")
nirtorch = pytest.importorskip("nirtorch", reason="needs nirtorch; see the docstring of this file")
nir = pytest.importorskip("nir")

DT = 1e-3


class Stateful(torch.nn.Module):
    def __init__(self, node):
        super().__init__()
        for name in ("tau", "r", "v_leak"):
            if hasattr(node, name):
                self.register_buffer(name, torch.from_numpy(np.asarray(getattr(node, name))))


class LI(Stateful):
    """A forward Euler step; nirtorch hands the state in and out."""

    def forward(self, x, state=None):
        v = torch.zeros_like(x) if state is None else state
        v = v + DT / self.tau * (self.v_leak - v + self.r * x)
        return v, v


class I(Stateful):  # noqa: E742
    def forward(self, x, state=None):
        v = torch.zeros_like(x) if state is None else state
        v = v + DT * self.r * x
        return v, v


class Pointwise(torch.nn.Module):
    def __init__(self, value, function):
        super().__init__()
        self.register_buffer("value", torch.from_numpy(np.asarray(value)))
        self.function = function

    def forward(self, x):
        return self.function(x, self.value)


def linear(node):
    module = torch.nn.Linear(*node.weight.shape[::-1], bias=hasattr(node, "bias"))
    module.weight.data = torch.from_numpy(node.weight)
    if hasattr(node, "bias"):
        module.bias.data = torch.from_numpy(node.bias)
    return module


NODES = {
    nir.Affine: linear,
    nir.I: I,
    nir.LI: LI,
    nir.Linear: linear,
    nir.Scale: lambda node: Pointwise(node.scale, lambda x, s: s * x),
    nir.Threshold: lambda node: Pointwise(node.threshold, lambda x, t: (x > t).to(x.dtype)),
}


def execute(path, xs):
    """Outputs ``[B, T, N]`` of a graph in a file."""
    module = nirtorch.nir_to_torch(nir.read(path), NODES, dtype=torch.from_numpy(xs).dtype)
    outputs, state = [], None
    with torch.no_grad():
        for x in torch.from_numpy(xs).unbind(1):
            y, state = module(x, state)
            outputs.append(y.numpy())
    return np.stack(outputs, 1)


@pytest.mark.parametrize("name", nir_cases.NAMES)
def test_nirtorch_fires_the_same_spikes(name, tmp_path):
    model, variables, xs = nir_cases.case(name)
    path = tmp_path / "graph.nir"
    shape = xs.shape[2:]
    nir.write(path, interop.to_nir(model, variables, input_shape=shape, dt=DT))
    want = np.asarray(nir_cases.run(model, variables, xs))
    got = execute(path, xs)
    assert got.dtype == want.dtype and np.count_nonzero(want) > 20
    if nir_cases.fires(name):
        np.testing.assert_array_equal(got != 0, want != 0)
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_snntorch_runs_lossy_graphs_as_run_nir_does(tmp_path):
    pytest.importorskip("snntorch", reason="needs snntorch")
    from snntorch.import_nir import import_from_nir

    first = snn.LIB(6, beta=0.8, threshold=0.5)
    second = snn.SLIB(3, beta=0.7, alpha=0.3, threshold=0.1)
    model = snn.Unroll(snn.Sequential([nn.Dense(6), first, nn.Dense(3), second]))
    xs = np.random.default_rng(0).normal(1, 4, (2, 40, 4)).astype(np.float32)
    variables = model.init(jax.random.key(1), xs)
    path = tmp_path / "graph.nir"
    nir.write(path, interop.to_nir(model, variables, input_shape=(4,), dt=1e-4, style="lif"))
    module, outputs, state = import_from_nir(nir.read(path)), [], None
    for x in torch.from_numpy(xs).unbind(1):
        y, state = module(x, state)
        outputs.append((y[0] if isinstance(y, tuple) else y).detach().numpy())
    want = interop.run_nir(path, xs)
    np.testing.assert_array_equal(np.stack(outputs, 1), want)
    assert np.count_nonzero(want) > 20
