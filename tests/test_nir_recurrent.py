"""Recurrence between neurons as cycles of NIR graphs: written, executed, read, read back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import nir
import nir_cases
import nir_reference
import numpy as np
import pytest
from nir_cases import full
from test_nir import assert_comes_back, assert_same

from tracetorch_jax import interop, snn

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


def stack(*layers):
    return snn.Sequential(list(layers))


CONV = nn.Sequential((interop.ChannelsLast(), nn.Conv(2, (3, 3)), interop.ChannelsFirst()))
NETWORKS = {
    "default": (snn.Recurrent(snn.LIB(3)), (3,)),
    "LIF": (
        stack(
            nn.Dense(4), snn.Recurrent(snn.SLIB(4, reset="zero"), nn.Dense(4)), nn.Dense(2),
            snn.LI(2),
        ), (3,),
    ),
    "SRLITS": (stack(snn.Recurrent(snn.SRLITS(3), nn.Dense(3))), (3,)),
    "stack": (snn.Recurrent(stack(nn.Dense(5), snn.LIB(5)), nn.Dense(3)), (3,)),
    "channels last": (snn.Recurrent(snn.LIB(2), nn.Conv(2, (3, 3))), (4, 5, 2)),
    "channels first": (snn.Recurrent(snn.LIB(2, dim=-3), CONV), (2, 4, 5)),
}  # fmt: skip


def start(cell, shape):
    model, rng = snn.Unroll(cell), np.random.default_rng(0)
    variables = nir_cases.scramble(model.init(KEY, jnp.zeros((1, 1, *shape))), rng)
    return model, variables, rng.normal(0.3, 1.5, (2, 15, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_recurrence_is_written_as_a_cycle_and_comes_back(name, tmp_path):
    model, variables, xs = start(*NETWORKS[name])
    shape, last = NETWORKS[name][1], name == "channels last"
    _, read, want = assert_comes_back(model, variables, xs, shape, tmp_path, channels_last=last)
    kinds = [type(layer).__name__ for layer in read.cell.layers]
    assert kinds.count("Recurrent") == 1 and np.count_nonzero(want) > 20


def test_what_returns_reaches_every_node_that_the_input_reaches():
    block = snn.Residual([nn.Dense(3), snn.LIB(3)])
    model, variables, xs = start(snn.Recurrent(block, nn.Dense(3)), (3,))
    graph = interop.to_nir(model, variables, input_shape=(3,))
    assert [b for a, b in graph.edges if a == "feedback"] == ["sum"]
    assert [b for a, b in graph.edges if a == "sum"] == ["cell_layers_0", "cell_add"]
    want = np.asarray(jax.jit(model.apply)(variables, xs))
    for got in (nir_reference.run(graph, xs, 1e-3), interop.run_nir(graph, xs)):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert_same(interop.from_nir(graph), (model, variables))
    read, own = interop.from_nir(graph, metadata=False)
    np.testing.assert_allclose(read.apply(own, xs), want, rtol=1e-4, atol=1e-4)


def test_a_bias_on_the_way_back_is_there_before_the_first_spike():
    lif = nir.LIF(
        tau=full(4e-3), r=full(4.0), v_leak=full(0.0), v_threshold=full(1.0), v_reset=full(0.0)
    )
    bias = np.array([1.5, 0.0, -1.0], np.float32)
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        "lif": lif,
        "back": nir.Affine(np.zeros((3, 3), np.float32), bias),
        "output": nir.Output({"output": np.array([3])}),
    }
    edges = [("input", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "output")]
    graph = nir.NIRGraph(nodes, edges)
    xs = np.full((1, 1, 3), 0.4, np.float32)
    model, variables = interop.from_nir(graph, dt=1e-3)
    for ys in (model.apply(variables, xs), interop.run_nir(graph, xs, dt=1e-3)):
        np.testing.assert_array_equal(ys, [[[1, 0, 0]]])


def test_a_matrix_that_the_input_passes_too_has_an_identity_on_the_way_back():
    """As Spyx writes its recurrent neurons."""
    rng = np.random.default_rng(0)
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        "w": nir.Linear(rng.normal(0.5, 1, (3, 3)).astype(np.float32)),
        "if": nir.IF(r=full(1e3), v_threshold=full(1.0), v_reset=full(0.0)),
        "output": nir.Output({"output": np.array([3])}),
    }
    edges = [("input", "w"), ("w", "if"), ("if", "w"), ("if", "output")]
    graph = nir.NIRGraph(nodes, edges)
    xs = rng.normal(0.3, 1, (2, 30, 3)).astype(np.float32)
    model, variables = interop.from_nir(graph, dt=1e-3)
    (cell,) = model.cell.layers
    assert [type(m).__name__ for m in cell.cell.layers] == ["Dense", "LIB"]
    want = nir_reference.run(graph, xs, 1e-3)
    np.testing.assert_array_equal(model.apply(variables, xs), want)
    np.testing.assert_array_equal(interop.run_nir(graph, xs, dt=1e-3), want)
    assert 20 < np.count_nonzero(want) < 150


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_cycle_needs_no_neuron(factor):
    """Nor anything but a sum, where it begins."""
    weight = np.random.default_rng(0).normal(0, 0.3, (3, 3)).astype(np.float32)
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        "sum": nir.Scale(full(factor)),
        "w": nir.Linear(weight),
        "output": nir.Output({"output": np.array([3])}),
    }
    edges = [("input", "sum"), ("sum", "w"), ("w", "sum"), ("sum", "output")]
    graph = nir.NIRGraph(nodes, edges)
    xs = np.random.default_rng(1).normal(0, 1, (2, 9, 3)).astype(np.float32)
    model, variables = interop.from_nir(graph, dt=1e-3)
    y, want = np.zeros((2, 3)), []
    for x in xs.swapaxes(0, 1):
        y = factor * (x + y @ weight.T)
        want.append(y)
    np.testing.assert_allclose(model.apply(variables, xs), np.stack(want, 1), rtol=0, atol=1e-6)


def test_a_way_back_that_nir_has_no_node_for_is_refused():
    model = snn.Unroll(snn.Recurrent(snn.LIB(3), nn.LayerNorm()))
    variables = model.init(KEY, jnp.zeros((1, 1, 3)))
    with pytest.raises(TypeError, match="LayerNorm at `feedback` has no counterpart in NIR"):
        interop.to_nir(model, variables, input_shape=(3,))


def test_cycles_within_cycles_are_simulated():
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        **{name: nir.LI(tau=full(4e-3), r=full(0.5), v_leak=full(0.1)) for name in "abcd"},
        "output": nir.Output({"output": np.array([3])}),
    }
    edges = [tuple(edge.split()) for edge in (
        "input a", "a output", "a b", "b c", "c d", "d b", "d a"
    )]  # fmt: skip
    graph = nir.NIRGraph(nodes, edges)
    xs = np.random.default_rng(0).normal(0.3, 1, (2, 20, 3)).astype(np.float32)
    want = nir_reference.run(graph, xs, 1e-3)
    np.testing.assert_allclose(interop.run_nir(graph, xs, dt=1e-3), want, rtol=0, atol=1e-6)
