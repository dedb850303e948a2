"""Graphs that others wrote do here what they do there, or differ by what is said.

`tools/make_nir_files.py` wrote the files, with the output of each network in its own library. Those
named `paper_...` are of the folder `paper` of github.com/neuromorphs/NIR (Pedersen et al. 2024).
"""

import jax
import nir
import nir_cases
import nir_reference
import numpy as np
import pytest

from tracetorch_jax import interop, snn

pytestmark = pytest.mark.slow


def run(path, xs, **options):
    """The network of a graph, its output, and that of `run_nir`, which is the same."""
    model, variables = interop.from_nir(path, **options)
    ys = np.asarray(jax.jit(model.apply)(variables, xs))
    np.testing.assert_allclose(interop.run_nir(path, xs, **options), ys, rtol=0, atol=1e-5)
    return model, ys


def kinds(model):
    return [type(layer).__name__ for layer in model.cell.layers]


SUBTRACT = {"snntorch": {"dt": 1e-4, "reset": "subtract"}, "sinabs": {"dt": 1, "reset": "subtract"}}
SAME = {
    "snntorch_rleaky_all": (SUBTRACT["snntorch"], ["Dense", "Recurrent", "Dense", "LIB"]),
    "snntorch_rleaky_one": (SUBTRACT["snntorch"], ["Dense", "Recurrent", "Dense", "LIB"]),
    "snntorch_rleaky_zero": ({"dt": 1e-4}, ["Dense", "Recurrent", "Dense", "LIB"]),
    "norse_iaf": ({"dt": 1}, ["Dense", "LIB"]),
    "sinabs_lif": (SUBTRACT["sinabs"] | {"method": "exponential"}, ["Dense", "Scale", "LIB"]),
    "sinabs_iaf": (SUBTRACT["sinabs"], ["Dense", "LIB"]),
    "sinabs_leak": ({"dt": 1, "method": "exponential"}, ["Dense", "LI"]),
}


@pytest.mark.parametrize("name", SAME)
def test_graphs_do_what_their_writer_does(name, tmp_path):
    options, layers = SAME[name]
    with np.load(nir_cases.DATA / f"{name}.npz") as there:
        model, ys = run(nir_cases.packed(name, tmp_path), there["xs"], **options)
        tolerance = 1e-6 if layers[-1] == "LI" else 0
        np.testing.assert_allclose(ys, there["ys"], rtol=0, atol=tolerance)
        assert np.count_nonzero(there["ys"]) > 12
    assert kinds(model) == layers


def norse(node):
    node.w_in = node.tau_syn / 1e-6


def rockpool(node):
    tau = node.tau if isinstance(node, nir.LIF) else node.tau_mem
    node.r = -1 / np.expm1(-1e-3 / tau)
    if isinstance(node, nir.CubaLIF):
        node.w_in = 1 / np.expm1(1e-3 / node.tau_syn)


def spyx(node):
    node.r = node.tau_mem if isinstance(node, nir.CubaLIF) else node.tau
    if isinstance(node, nir.CubaLIF):
        node.w_in = node.tau_syn


ROCKPOOL = {"dt": 1e-3, "reset": "subtract", "method": "exponential"}
SPYX = {"dt": 1, "reset": "subtract"}
# The share of the output that differs as it is; what has to be set on its nodes; how many steps
# later its writer emits.
CORRECTED = {
    "norse_cuba": ({"dt": 1e-6}, 0.44, norse, 0),
    "rockpool_neuron": (ROCKPOOL, 0.1, rockpool, 0),
    "rockpool_lif": (ROCKPOOL, 0.26, rockpool, 0),
    "spyx_if": (SPYX, 0.5, None, 1),
    "spyx_cuba": (SPYX, 0.38, spyx, 1),
    "spyx_psu": (SPYX, 0.94, spyx, 0),
}


@pytest.mark.parametrize("name", CORRECTED)
def test_graphs_whose_gains_are_not_those_of_their_writer(name, tmp_path):
    """What a file says is read as it is; with the gains of its writer set, the spikes are equal."""
    options, share, correct, late = CORRECTED[name]
    # The Output of Rockpool has the shape of a batch, which nir refuses to read otherwise.
    graph = nir.read(nir_cases.packed(name, tmp_path), type_check=False)
    with np.load(nir_cases.DATA / f"{name}.npz") as there:
        xs, want = there["xs"], there["ys"]
    _, ys = run(graph, xs, **options)
    np.testing.assert_allclose(np.mean(ys != want), share, atol=0.01)
    for node in graph.nodes.values():
        if correct and isinstance(node, (nir.LI, nir.LIF, nir.CubaLIF)):
            correct(node)
    _, ys = run(graph, xs, **options)
    np.testing.assert_array_equal(ys[:, : ys.shape[1] - late], want[:, late:])
    assert not np.any(want[:, :late]) and np.count_nonzero(want) > 40


DIFFERENT = {
    "snntorch_rsynaptic": (SUBTRACT["snntorch"], 0.15),  # resets one step later
    "sinabs_multi": (SUBTRACT["sinabs"] | {"method": "exponential"}, 0.18),  # several a step
    "spyx_lif": (SPYX, 0.29),  # resets one step later
    "spyx_rlif": (SPYX, 0.3),  # has its input behind the recurrent weights
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_by_a_convention_that_no_argument_says(name, tmp_path):
    options, share = DIFFERENT[name]
    with np.load(nir_cases.DATA / f"{name}.npz") as there:
        _, ys = run(nir_cases.packed(name, tmp_path), there["xs"], **options)
        np.testing.assert_allclose(np.mean(ys != there["ys"]), share, atol=0.01)


def test_snntorch_resets_recurrent_synaptic_neurons_one_step_later(tmp_path):
    """Which is all that makes its `RSynaptic` differ."""
    graph = nir.read(nir_cases.packed("snntorch_rsynaptic", tmp_path)).nodes
    lif, back = graph["1.lif"], graph["1.w_rec"]
    with np.load(nir_cases.DATA / "snntorch_rsynaptic.npz") as there:
        xs, want = there["xs"], there["ys"]
    alpha, beta = 1 - 1e-4 / lif.tau_syn, 1 - 1e-4 / lif.tau_mem
    last = graph["3"]
    syn, mem, spikes, v, ys = 0.0, 0.0, np.zeros((2, 6)), 0.0, []
    for x in xs.swapaxes(0, 1):
        drive = x @ graph["0"].weight.T + graph["0"].bias
        syn = alpha * syn + drive + spikes @ back.weight.T + back.bias
        mem = beta * mem + syn - lif.v_threshold * spikes
        spikes = (mem > lif.v_threshold).astype(float)
        v = (1 - 1e-4 / last.tau) * v + spikes @ graph["2"].weight.T + graph["2"].bias
        ys.append(v > last.v_threshold)
        v = v - last.v_threshold * ys[-1]
    np.testing.assert_array_equal(np.stack(ys, 1), want)


BRAILLE = {
    "paper_braille_noDelay_bias_zero": "v_reset",
    "paper_braille_noDelay_noBias_subtract": "subtract",
}


@pytest.mark.parametrize("name", BRAILLE)
def test_the_recurrent_networks_of_the_paper(name, tmp_path):
    path, reset = nir_cases.packed(name, tmp_path), BRAILLE[name]
    rng = np.random.default_rng(0)
    xs = (rng.random((3, 100, 12)) < 0.3).astype(np.float32)
    model, ys = run(path, xs, dt=1e-4, reset=reset)
    assert kinds(model) == ["Dense", "Scale", "Recurrent", "Dense", "Scale", "SLIB"]
    assert model.cell.layers[2].cell.reset == {"v_reset": "zero"}.get(reset, reset)
    graph = nir.read(path)
    want = nir_reference.run(graph, xs, 1e-4, subtract=reset == "subtract")
    np.testing.assert_array_equal(ys, want)
    assert np.count_nonzero(want) > 50
    other = nir_reference.run(graph, xs, 1e-4, subtract=reset != "subtract")
    assert np.mean(other != want) > 0.01


def test_the_convolutional_network_of_the_paper(tmp_path):
    path = nir_cases.packed("paper_cnn_sinabs", tmp_path)
    xs = (np.random.default_rng(0).random((2, 30, 2, 34, 34)) < 0.2).astype(np.float32)
    for reset in ("v_reset", "subtract"):
        model, ys = run(path, xs, dt=1, reset=reset)
        want = nir_reference.run(nir.read(path), xs, 1, subtract=reset == "subtract")
        np.testing.assert_array_equal(ys, want)
        assert np.count_nonzero(want) > 10
    assert kinds(model).count("LIB") == 5


CONVENTIONS = {  # decay, gain: as norse, snnTorch (its input is 1 / 0.04 times), exact; as sinabs
    "euler": [460, 510, 710, 760],
    "exponential": [460, 510, 710, 760],
}


@pytest.mark.parametrize("method", CONVENTIONS)
def test_the_lif_of_the_paper_fires_when_it_should(method, tmp_path):
    """sinabs and Rockpool took ``exp(-dt / tau)`` for the decay, but ``dt / tau`` for the gain."""
    path = nir_cases.packed("paper_lif_norse", tmp_path)
    model, variables = interop.from_nir(path, dt=1e-4, method=method)
    with np.load(nir_cases.DATA / "paper_lif.npz") as there:
        (when,) = np.nonzero(model.apply(variables, there["xs"])[0, :, 0])
        assert when.tolist() == CONVENTIONS[method] == there["norse"].tolist()
        assert there["snntorch"].tolist() == there["norse"].tolist()
        mixed = snn.Unroll(snn.LIB(1, beta=np.exp(-0.04), threshold=0.1, reset="zero"))
        own = mixed.init(jax.random.key(0), there["xs"])
        (when,) = np.nonzero(mixed.apply(own, 0.04 * there["xs"])[0, :, 0])
        assert when.tolist() == there["sinabs"].tolist() == [450, 500, 710, 760]
