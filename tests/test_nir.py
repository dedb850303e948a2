"""NIR graphs: written exactly, executed by others with the same spikes, read back bit for bit."""

import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import nir
import nir_cases
import nir_reference
import numpy as np
import pytest
import reference
from nir_cases import chain, full

from tracetorch_jax import initializers, interop, snn, spikes
from tracetorch_jax.snn.flex import Decay, LeakyIntegrator, Threshold, Weight

pytestmark = pytest.mark.slow

DATA = pathlib.Path(__file__).parent / "data" / "nir"
KEY = jax.random.key(0)


def assert_comes_back(model, variables, xs, shape, folder, channels_last=False, atol=1e-5):
    """A model is written and read, as it was and by its nodes alone, and gives the same outputs.

    Returns:
        The graph, the model that is read by the nodes alone, and the outputs.
    """
    graph = through_file(interop.to_nir(model, variables, input_shape=shape), folder)
    want = np.asarray(jax.jit(model.apply)(variables, xs))
    assert interop.nir_mismatch(model, variables, xs, style="exact").share == 0
    assert_same(interop.from_nir(graph), (model, variables))
    read, own = interop.from_nir(graph, metadata=False)
    if channels_last:
        xs, want = np.moveaxis(xs, -1, 2), np.moveaxis(want, -1, 2)
    for got in (
        nir_reference.run(graph, xs, 1e-3), interop.run_nir(graph, xs),
        jax.jit(read.apply)(own, xs),
    ):  # fmt: skip
        np.testing.assert_allclose(got, want, rtol=0, atol=atol)
    return graph, read, want


def through_file(graph, folder):
    """A graph written and read again, by `nir`."""
    path = folder / "graph.nir"
    nir.write(path, graph)
    return nir.read(path)


def start(cell, shape=(3,), seed=0, dtype=np.float32):
    """A network of a cell, scrambled parameters, and input ``[2, 12, *shape]``."""
    model = snn.Unroll(cell)
    rng = np.random.default_rng(seed)
    variables = model.init(KEY, jnp.zeros((1, 1, *shape), dtype))
    xs = rng.normal(0.3, 1.5, (2, 12, *shape)).astype(dtype)
    return model, nir_cases.scramble(variables, rng), xs


def assert_same(got, want):
    """Two pairs of a model and its variables."""
    assert got[0] == want[0]
    assert jax.tree.structure(got[1]) == jax.tree.structure(want[1])
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def assert_executes(model, variables, xs, shape, folder, exact=True, **options):
    """The graph, re-read and executed by the reference, gives what the model gives."""
    graph = through_file(interop.to_nir(model, variables, input_shape=shape, **options), folder)
    want = np.asarray(nir_cases.run(model, variables, xs))
    got = nir_reference.run(graph, xs, options.get("dt", 1e-3))
    assert got.shape == want.shape
    if exact:
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))
    return graph


# Exactness.


@pytest.mark.parametrize("name", nir_cases.NAMES)
def test_graphs_are_executed_with_the_same_spikes(name, tmp_path):
    """By the reference, by `run_nir`, and by nirtorch when the data were made."""
    model, variables, xs = nir_cases.case(name)
    exact = nir_cases.fires(name)
    graph = assert_executes(model, variables, xs, (nir_cases.N,), tmp_path, exact)
    want = np.asarray(nir_cases.run(model, variables, xs))
    with np.load(DATA / "nirtorch.npz") as results:
        for got in (interop.run_nir(graph, xs), results[name]):
            tolerance = 0 if exact else 1e-5
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    assert np.count_nonzero(want) > 20


@pytest.mark.parametrize("name", nir_cases.SINGLE)
def test_graphs_come_back_bit_for_bit(name, tmp_path):
    model, variables, _ = nir_cases.case(name)
    for style in ("exact", "lif"):
        graph = interop.to_nir(model, variables, input_shape=(nir_cases.N,), dt=2e-4, style=style)
        graph = through_file(graph, tmp_path)
        assert float(graph.metadata["dt"]) == 2e-4
        assert_same(interop.from_nir(graph), (model, variables))
        assert_same(interop.from_nir(tmp_path / "graph.nir", dt=2e-4), (model, variables))


@pytest.mark.parametrize("name", nir_cases.NAMES)
def test_graphs_are_read_without_their_metadata(name):
    """Another module, perhaps, that does the same."""
    model, variables, xs = nir_cases.case(name)
    graph = interop.to_nir(model, variables, input_shape=(nir_cases.N,))
    for node in graph.nodes.values():
        node.metadata = {}
    graph.metadata = {}
    read, own = interop.from_nir(graph, dt=1e-3)
    got, want = nir_cases.run(read, own, xs), nir_cases.run(model, variables, xs)
    np.testing.assert_allclose(got, want, rtol=0, atol=0 if nir_cases.fires(name) else 1e-5)


def test_exact_in_float64(x64, tmp_path):
    """Graphs have the parameters' dtype, and differ from the layer by rounding alone."""
    for name in ("SRLITS", "SLI"):
        layer = snn.ALL_LAYERS[name](3, param_dtype=jnp.float64)
        model, variables, xs = start(layer, dtype=np.float64)
        graph = interop.to_nir(model, variables, input_shape=(3,))
        graph = through_file(graph, tmp_path)
        assert graph.nodes["layer_mem"].tau.dtype == (np.float64)
        want = np.asarray(model.apply(variables, xs))
        got = nir_reference.run(graph, xs, 1e-3)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
        assert_same(interop.from_nir(graph), (model, variables))
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64, which JAX rounds"):
        interop.from_nir(graph)


def test_nothing_differs_where_nothing_is_rounded(tmp_path):
    """With powers of two, also after thousands of steps and right at the threshold."""
    layer = snn.RLIT(
        2, beta=0.5, gamma=0.75, rec_weight=-0.25, pos_threshold=1.0, neg_threshold=0.5,
        beta_learnable=False, gamma_learnable=False, pos_threshold_learnable=False,
        neg_threshold_learnable=False,
    )  # fmt: skip
    model, variables = (
        snn.Unroll(layer),
        {"params": {"cell": {"raw_rec_weight": jnp.full(2, -0.25)}}},
    )
    xs = np.random.default_rng(0).integers(-8, 9, (2, 60, 2)).astype(np.float32) / 4
    xs[:, :4] = np.array([[1.0], [0.5], [-0.5], [-1.0]], np.float32)
    assert_executes(model, variables, xs, (2,), tmp_path, dt=2.0**-10)


SETTINGS = {
    "ranks": snn.SRLITS(3, alpha_rank=0, beta_rank=0, gamma_rank=0, rec_weight_rank=0),
    "constants": snn.RLITS(
        3, beta=(0.5, 0.6, 0.0), beta_learnable=False, gamma=0.0, gamma_learnable=False,
        rec_weight=np.array([0.5, -1.0, 2.0]), pos_scale_learnable=False,
    ),
    "no leak": snn.LIB(3, beta=1.0, beta_learnable=False, threshold=2.5),
    "a sum without leak": snn.LI(3, beta=1.0, beta_learnable=False, ema=False),
    "a leaky sum": snn.SLI(3, ema=False),
    "spike": snn.SLIB(3, spike=spikes.fast_sigmoid(10.0)),
    "initializers": snn.LIB(3, beta=initializers.half_lives(2.0, 20.0), threshold_rank=0),
    "dtypes": snn.LIT(3, param_dtype=jnp.bfloat16, dtype=jnp.float32),
    "bias": LeakyIntegrator(
        3, pos_beta=Decay(0.8), bias=Weight(0.25), pos_threshold=Threshold(0.75)
    ),
    "bias of an average": LeakyIntegrator(3, pos_beta=Decay(0.8), bias=Weight(-0.5, rank=0)),
    "firing average": LeakyIntegrator(
        3, pos_beta=Decay(0.6, ema=True), pos_threshold=Threshold(0.25),
        neg_threshold=Threshold(0.5, spike=spikes.sigmoid(4.0)), pos_scale=Weight(0.5),
    ),
    "negative spikes": LeakyIntegrator(3, pos_beta=Decay(0.8), neg_threshold=Threshold(0.5)),
    "sums": LeakyIntegrator(
        3, pos_alpha=Decay(0.5, ema=False), pos_beta=Decay(0.8), pos_gamma=Decay(0.5, ema=False),
        pos_threshold=Threshold(1.0), pos_scale=Weight(2.0),
    ),
    "recurrent membrane": LeakyIntegrator(
        3, pos_beta=Decay(0.5), pos_gamma=Decay(0.5), pos_rec_weight=Weight(-0.5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_exact_and_comes_back(setting, tmp_path):
    layer = SETTINGS[setting]
    model, variables, xs = start(layer)
    graph = assert_executes(model, variables, xs, (3,), tmp_path, exact=False)
    read, own = interop.from_nir(graph)
    if setting == "initializers":
        values = layer.apply({"params": variables["params"]["cell"]}, method="parameters")
        np.testing.assert_array_equal(
            np.asarray(read.cell.beta, np.float32), np.asarray(values["beta"])
        )
        read = model
    assert_same((read, own), (model, variables))
    if setting in ("negative spikes", "sums", "recurrent membrane"):
        with pytest.raises(
            ValueError, match=r"The cycle \['layer_.*of `graph` is no layer of this"
        ):
            interop.from_nir(graph, metadata=False)
        return
    read, own = interop.from_nir(graph, metadata=False)
    want = np.asarray(model.apply(variables, xs))
    np.testing.assert_allclose(read.apply(own, xs), want, rtol=0, atol=2e-5)


@functools.cache
def equal_halves(name):
    """A dual layer whose halves are equal."""
    model, variables, xs = start(snn.ALL_LAYERS[name](3), seed=1)
    raw = dict(variables.get("params", {}).get("cell", {}))
    for key in raw:
        if key.startswith("raw_neg") and not key.endswith(("threshold", "scale")):
            raw[key] = raw[key.replace("neg", "pos")]
    return model, {"params": {"cell": raw}}, xs


@pytest.mark.parametrize("name", reference.each(reference.DUAL))
def test_dual_layers_are_written_if_their_halves_are_equal(name, tmp_path):
    model, variables, xs = equal_halves(name)
    graph = assert_executes(model, variables, xs, (3,), tmp_path, exact=False)
    assert_same(interop.from_nir(graph), (model, variables))
    raw = dict(variables["params"]["cell"])
    raw["raw_neg_beta"] = raw["raw_neg_beta"].at[1].add(0.5)
    with pytest.raises(
        ValueError, match=rf"^{name} \(`model`\) is dual.*`pos_beta` and `neg_beta`"
    ):
        interop.to_nir(model, {"params": {"cell": raw}}, input_shape=(3,))


# Resets.


def with_reset(name, reset, **options):
    """A case of `nir_cases` whose layer has another reset."""
    model, variables, xs = nir_cases.case(name)
    return snn.Unroll(model.cell.clone(reset=reset, **options)), variables, xs


def assert_read_as(reset, graph, variables_of, xs):
    """By its nodes alone, the graph is a layer with this reset that gives the same."""
    read, own = interop.from_nir(graph, metadata=False)
    layer = getattr(read.cell, "layers", [read.cell])[-1]
    assert layer.reset == reset
    model, variables = variables_of
    want = nir_cases.run(model, variables, xs)
    np.testing.assert_array_equal(nir_cases.run(read, own, xs), want)


ONE_NODE = {
    "LIB": ["LIF"],
    "RLIB": ["LIF", "LI", "Scale"],
    "SLIB": ["CubaLIF"],
    "SRLIB": ["LI", "LIF", "LI", "Scale"],
}


@pytest.mark.parametrize("name", ONE_NODE)
def test_a_layer_that_resets_to_zero_is_one_node(name, tmp_path):
    model, variables, xs = with_reset(name, "zero", detach_reset=True)
    for style in ("exact", "lif"):
        graph = assert_executes(model, variables, xs, xs.shape[2:], tmp_path, style=style)
        _, *kinds, _ = (type(node).__name__ for node in graph.nodes.values())
        assert sorted(kinds) == sorted(ONE_NODE[name])
        want = np.asarray(nir_cases.run(model, variables, xs))
        np.testing.assert_array_equal(interop.run_nir(graph, xs), want)
        assert_same(interop.from_nir(graph), (model, variables))
        assert_read_as("zero", graph, (model, variables), xs)
        assert interop.nir_mismatch(model, variables, xs, style=style).share == 0
    assert np.count_nonzero(want) > 20
    assert interop.nir_mismatch(model, variables, xs, reset="subtract").share > 0.01


@pytest.mark.parametrize("name", [name for name in nir_cases.SINGLE if nir_cases.fires(name)])
def test_a_layer_without_a_reset_is_written_without_a_way_back(name, tmp_path):
    model, variables, xs = with_reset(name, "none")
    for style in ("exact", "lif"):
        graph = assert_executes(model, variables, xs, xs.shape[2:], tmp_path, style=style)
        assert not [node for node in graph.nodes if node.endswith("reset")]
        assert_same(interop.from_nir(graph), (model, variables))
    if "R" in name:
        assert_read_as("none", graph, (model, variables), xs)
    elif name.endswith("B"):  # as a membrane, and a layer that keeps nothing
        assert_read_as("subtract", graph, (model, variables), xs)


RESETS = {
    "no leak": (snn.LIB(3, beta=1.0, beta_learnable=False, reset="zero"), "IF"),
    "no leak behind a synapse": (
        snn.SLIB(3, beta=1.0, beta_learnable=False, reset="zero"), "IF"
    ),
    "bias": (snn.flex.LIB(3, reset="zero").clone(bias=Weight(0.25)), "LIF"),
    "bias behind a synapse": (snn.flex.SLIB(3, reset="zero").clone(bias=Weight(0.25)), "CubaLIF"),
    "average": (
        LeakyIntegrator(
            3, pos_beta=Decay(0.6, ema=True), pos_threshold=Threshold(0.25), reset="zero"
        ), "LIF",
    ),
    "negative spikes": (
        LeakyIntegrator(
            3, pos_beta=Decay(0.8), neg_threshold=Threshold(0.5), bias=Weight(-0.1), reset="zero"
        ), "LIF",
    ),
    "recurrent negative spikes": (
        LeakyIntegrator(
            3, pos_beta=Decay(0.8), neg_threshold=Threshold(0.5), pos_gamma=Decay(0.5),
            pos_rec_weight=Weight(-0.5), reset="zero",
        ), "LIF",
    ),
    "scale": (
        LeakyIntegrator(
            3, pos_beta=Decay(0.8), pos_threshold=Threshold(0.5), pos_scale=Weight(2.0),
            reset="zero",
        ), "LIF",
    ),
    "equal halves": (snn.DSLIB(3, reset="zero"), "CubaLIF"),
}  # fmt: skip


@pytest.mark.parametrize("setting", RESETS)
def test_every_setting_that_resets_to_zero_is_exact(setting, tmp_path):
    layer, kind = RESETS[setting]
    model, variables, xs = start(layer)
    if setting == "equal halves":
        variables = model.init(KEY, xs)
    xs = -xs if "negative" in setting else xs
    graph = assert_executes(model, variables, xs, (3,), tmp_path)
    assert kind in [type(node).__name__ for node in graph.nodes.values()]
    assert_same(interop.from_nir(graph), (model, variables))
    assert np.count_nonzero(model.apply(variables, xs)) > 5
    if setting != "recurrent negative spikes":
        read, own = interop.from_nir(graph, metadata=False)
        want = np.asarray(model.apply(variables, xs))
        np.testing.assert_allclose(read.apply(own, xs), want, rtol=1e-6)


def test_what_ternary_layers_lose_that_reset_to_zero():
    """As with the other reset, one node does not know of the spikes of the other."""
    model, variables, xs = with_reset("LIT", "zero")
    lossy = interop.nir_mismatch(model, variables, xs)
    assert 0 < lossy.share < 0.5
    graph = interop.to_nir(model, variables, input_shape=xs.shape[2:], style="lif")
    assert_same(interop.from_nir(graph), (model, variables))


# Stacks.


def conv_stack():
    return snn.Sequential(
        [
            nn.Conv(4, (3, 3), strides=2, padding=1),
            snn.LIB(4),
            interop.AvgPool(2, 1),
            nn.Conv(2, (2, 2), padding="VALID", use_bias=False),
            interop.ChannelsFirst(),
            snn.LIT(2, dim=-3),
            interop.Flatten(3),
            interop.Scale((12,)),
            nn.Dense(3),
            snn.LI(3),
        ]
    )


STACKS = {
    "channels last": (conv_stack(), (7, 9, 2)),
    "channels first": (
        snn.Sequential(
            [
                snn.SLIB(2, dim=-3),
                interop.ChannelsLast(),
                nn.Conv(3, (3, 3)),
                interop.SumPool(2),
                interop.Flatten(3),
                snn.LIB(12),
                nn.Dense(2),
            ]
        ),
        (2, 4, 4),
    ),
    "one axis": (
        snn.Sequential(
            [nn.Conv(3, (3,), kernel_dilation=2), snn.RLIB(3), interop.Flatten(2), nn.Dense(2)]
        ),
        (6, 2),
    ),
    "rows": (snn.Sequential([snn.LIB(3), snn.SLI(3)]), (2, 3)),
    "names": (
        snn.Sequential([nn.Dense(4, name="first"), snn.LIB(4, name="input"), snn.SLI(4)]),
        (3,),
    ),
    "nested": (
        snn.Sequential(
            [
                snn.Sequential([nn.Dense(3), snn.LIB(3)]),
                snn.Residual([snn.Residual([snn.LIB(3)]), nn.Dense(3, dtype=jnp.float32)]),
            ]
        ),
        (3,),
    ),
}


def to_graph_layout(xs, shape):
    return np.moveaxis(xs, -1, 2) if xs.shape[2:] != tuple(shape) else xs


@pytest.mark.parametrize("name", reference.first(STACKS, 3))
def test_stacks_are_exact_and_come_back(name, tmp_path):
    cell, shape = STACKS[name]
    model, variables, xs = start(cell, shape)
    graph = through_file(interop.to_nir(model, variables, input_shape=shape), tmp_path)
    want = np.asarray(model.apply(variables, xs))
    given = to_graph_layout(xs, graph.nodes["input"].input_type["input"])
    for got in (nir_reference.run(graph, given, 1e-3), interop.run_nir(graph, given)):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert interop.nir_mismatch(model, variables, xs, style="exact").share == 0
    assert_same(interop.from_nir(graph), (model, variables))
    read, own = interop.from_nir(graph, metadata=False)
    got = read.apply(own, given)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_bare_cells_come_back_as_such():
    cell = snn.Sequential([nn.Dense(3), snn.LIB(3)])
    variables = cell.init(KEY, None, jnp.zeros((1, 3)))
    graph = interop.to_nir(cell, variables, input_shape=(3,))
    assert_same(interop.from_nir(graph), (cell, variables))
    options = {"time_major": True, "checkpoint_every": 4, "return_carry": True}
    model = snn.Unroll(cell, **options)
    variables = {"params": {"cell": variables["params"]}}
    graph = interop.to_nir(model, variables, input_shape=(3,))
    assert_same(interop.from_nir(graph), (model, variables))


def test_files_of_earlier_versions_are_read():
    """`own.nir` is never to be written again: what is in it must stay readable."""
    model, variables, _ = nir_cases.case("RLIB")
    read, own = interop.from_nir(DATA / "own.nir")
    assert read == model
    same = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-6), own, variables)
    assert jax.tree.all(same)


def test_arguments_that_came_later_are_written_only_where_they_are_used():
    """So that earlier versions read the graphs of layers that they have."""
    for options in ({}, {"reset": "none"}, {"reset": "zero", "detach_reset": True}):
        layer = snn.LIB(3, **options)
        variables = layer.init(KEY, None, jnp.zeros((1, 3)))
        graph = interop.to_nir(layer, variables, input_shape=(3,))
        (text,) = (n.metadata["arguments"] for n in graph.nodes.values() if "path" in n.metadata)
        assert {"reset", "detach_reset"} & json.loads(text).keys() == options.keys()


# Lossy graphs.


@pytest.mark.parametrize("name", nir_cases.SINGLE)
def test_lossy_graphs_have_one_node_that_fires_per_sign(name, tmp_path):
    model, variables, xs = nir_cases.case(name)
    graph = interop.to_nir(model, variables, input_shape=(nir_cases.N,), style="lif")
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    fires = kinds.count("LIF") + kinds.count("CubaLIF")
    assert fires == {"B": 1, "T": 2, "S": 2, "I": 0}[name[-1]]
    assert ("CubaLIF" in kinds) == (fires > 0 and "S" in name[:-1] and "R" not in name)
    assert "Threshold" not in kinds
    if name[-1] == "B" and "R" not in name:
        assert kinds == ["Input", "CubaLIF" if "S" in name else "LIF", "Output"]

    want = np.asarray(nir_cases.run(model, variables, xs))
    got = nir_reference.run(through_file(graph, tmp_path), xs, 1e-3)
    measured = interop.nir_mismatch(model, variables, xs)
    if not fires:
        assert measured.share == 0 and measured.greatest < 1e-5
        return
    np.testing.assert_allclose(measured.share, np.mean(np.abs(got - want) > 1e-4), atol=1e-12)
    assert 0.01 < measured.share < 0.5
    np.testing.assert_allclose(measured.greatest, np.max(np.abs(got - want)), rtol=1e-6)
    assert measured.events == np.count_nonzero(want) > measured.events_graph > 0
    subtracting = interop.nir_mismatch(model, variables, xs, reset="subtract")
    if name[-1] == "B":
        assert subtracting.share == 0
    else:
        assert 0 < subtracting.share < measured.share


def test_the_trace_of_an_output_may_have_a_gain():
    model, variables, xs = nir_cases.case("RLIB")
    graph = interop.to_nir(model, variables, input_shape=(nir_cases.N,))
    (trace,) = (node for name, node in graph.nodes.items() if name.endswith("_rec"))
    (weight,) = (node for name, node in graph.nodes.items() if name.endswith("_rec_weight"))
    trace.r, weight.scale = 2 * trace.r, weight.scale / 2
    read, own = interop.from_nir(graph, metadata=False)
    want = nir_cases.run(model, variables, xs)
    np.testing.assert_array_equal(nir_cases.run(read, own, xs), want)


def test_lossy_graphs_that_subtract_are_read_as_layers():
    for name in ("LIB", "SLIB", "RLIB"):
        model, variables, xs = nir_cases.case(name)
        graph = interop.to_nir(model, variables, input_shape=(nir_cases.N,), style="lif")
        read, _ = interop.from_nir(graph, metadata=False)
        assert read.cell.layers[-1].reset == "zero"  # which is what NIR says of the node
        read, own = interop.from_nir(graph, metadata=False, reset="subtract")
        want = nir_cases.run(model, variables, xs)
        np.testing.assert_array_equal(nir_cases.run(read, own, xs), want)


def test_lossy_graphs_of_negative_spikes_leak_to_the_negative_of_a_bias():
    layer = LeakyIntegrator(
        3, pos_beta=Decay(0.8), bias=Weight(-0.25), neg_threshold=Threshold(0.5)
    )
    model, variables, xs = start(layer)
    measured = interop.nir_mismatch(model, variables, xs, reset="subtract")
    assert measured.share == 0 and measured.events == measured.events_graph > 5


def test_a_mismatch_counts_events_of_both():
    model, variables, xs = start(snn.LIB(3, threshold=0.5))
    measured = interop.nir_mismatch(model, variables, xs)
    graph = interop.to_nir(model, variables, input_shape=(3,), style="lif")
    assert measured.events == np.count_nonzero(model.apply(variables, xs))
    assert measured.events_graph == np.count_nonzero(interop.run_nir(graph, xs))
    assert measured.events != measured.events_graph


def test_mismatch_takes_every_form_of_input():
    cell = snn.Sequential([nn.Dense(4), snn.SLIB(4)])
    model, variables, xs = start(cell)
    want = interop.nir_mismatch(model, variables, xs)
    major = snn.Unroll(cell, time_major=True)
    assert interop.nir_mismatch(major, variables, np.swapaxes(xs, 0, 1)) == want
    bare = {"params": variables["params"]["cell"]}
    assert interop.nir_mismatch(cell, bare, xs) == want
    with pytest.raises(ValueError, match=r"`xs` must have axes \[B, T, ...\]; got shape \(12, 3\)"):
        interop.nir_mismatch(cell, bare, xs[0])


# Graphs of others: see tools/make_nir_files.py.


OTHERS = {
    "snntorch_leaky": (1e-4, "subtract", ["Dense", "LIB", "Dense", "LIB"]),
    "snntorch_synaptic": (1e-4, "subtract", ["Dense", "Scale", "SLIB", "Dense", "LIB"]),
    "snntorch_zero": (1e-4, "v_reset", ["Dense", "LIB", "Dense", "LIB"]),
    "norse_li": (1e-6, "v_reset", ["Dense", "LI"]),
    "norse_lif": (1e-6, "v_reset", ["Dense", "Scale", "LIB"]),
    "spikingjelly_lif": (1e-4, "v_reset", ["Dense", "Scale", "LIB", "Dense", "LIB"]),
    "spikingjelly_conv": (None, "v_reset", [
        "ChannelsLast", "Conv", "ChannelsFirst", "ChannelsLast", "AvgPool", "ChannelsFirst",
        "Flatten", "Dense",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_graphs_of_others_do_what_they_did_there(name):
    dt, reset, layers = OTHERS[name]
    model, variables = interop.from_nir(DATA / f"{name}.nir", dt=dt, reset=reset)
    assert [type(layer).__name__ for layer in model.cell.layers] == layers
    with np.load(DATA / f"{name}.npz") as there:
        ys = model.apply(variables, there["xs"])
        spiking = layers[-1] == "LIB"
        np.testing.assert_allclose(ys, there["ys"], rtol=0, atol=0 if spiking else 2e-6)
        assert np.count_nonzero(there["ys"]) > 20
        ys = interop.run_nir(DATA / f"{name}.nir", there["xs"], dt=dt, reset=reset)
        np.testing.assert_allclose(ys, there["ys"], rtol=0, atol=0 if spiking else 2e-6)


def test_the_step_is_needed_where_anything_takes_time():
    with pytest.raises(ValueError, match="`dt` is needed: the metadata of `graph` do not hold it"):
        interop.from_nir(DATA / "snntorch_leaky.nir")


# Single nodes.


NODES = {
    "LI": nir.LI(tau=full(4e-3), r=full(1.0), v_leak=full(0.0)),
    "LI that sums": nir.LI(tau=full(4e-3), r=full(4.0), v_leak=full(0.0)),
    "LI with r": nir.LI(tau=full(4e-3), r=np.array([0.5, -1.0, 3.0], np.float32), v_leak=full(0.0)),
    "LI with a leak": nir.LI(tau=full(4e-3), r=full(2.0), v_leak=full(-0.3)),
    "LI that forgets": nir.LI(tau=full(1e-3), r=full(1.0), v_leak=full(0.0)),
    "CubaLI": nir.CubaLI(
        tau_syn=full(2e-3), tau_mem=full(5e-3), r=full(5.0), v_leak=full(0.1), w_in=full(2.0)
    ),
    "I": nir.I(r=full(500.0)),
    "Scale": nir.Scale(np.array([1.0, -2.0, 0.5], np.float32)),
    "Threshold": nir.Threshold(np.array([0.5, 1.0, 0.1], np.float32)),
    "Affine": nir.Affine(np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)),
    "Linear": nir.Linear(np.arange(6, dtype=np.float32).reshape(2, 3)),
}


@pytest.mark.parametrize("name", NODES)
def test_single_nodes_are_read_with_their_meaning(name):
    graph = chain(NODES[name])
    xs = np.random.default_rng(0).normal(0.3, 1, (2, 10, 3)).astype(np.float32)
    model, variables = interop.from_nir(graph, dt=1e-3)
    got, want = model.apply(variables, xs), nir_reference.run(graph, xs, 1e-3)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(interop.run_nir(graph, xs, dt=1e-3), want, rtol=0, atol=1e-5)
    assert np.count_nonzero(want) > 5


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 1e-2])
def test_a_time_constant_of_one_step_keeps_nothing(dt):
    """Float32 makes it a little more or less than the step."""
    graph = chain(nir.LI(tau=full(dt), r=full(1.0), v_leak=full(0.0)))
    model, _ = interop.from_nir(graph, dt=dt)
    assert np.all(np.asarray(model.cell.layers[0].beta) == 0)


FIRE = {"v_threshold": full(0.8), "v_reset": full(0.0)}
FIRING = {
    "LIF": nir.LIF(tau=full(4e-3), r=full(2.0), v_leak=full(0.4), **FIRE),
    "CubaLIF": nir.CubaLIF(
        tau_syn=full(2e-3), tau_mem=full(5e-3), r=full(2.0), v_leak=full(0.1), **FIRE
    ),
    "IF": nir.IF(r=full(300.0), **FIRE),
}


@pytest.mark.parametrize("name", FIRING)
@pytest.mark.parametrize("reset", ["v_reset", "subtract"])
def test_nodes_that_fire_are_read_with_their_reset(name, reset):
    graph = chain(FIRING[name])
    xs = np.random.default_rng(0).normal(0.6, 1, (2, 30, 3)).astype(np.float32)
    model, variables = interop.from_nir(graph, dt=1e-3, reset=reset)
    assert model.cell.layers[-1].reset == {"v_reset": "zero"}.get(reset, reset)
    want = interop.run_nir(graph, xs, dt=1e-3, reset=reset)
    np.testing.assert_array_equal(model.apply(variables, xs), want)
    assert 10 < np.count_nonzero(want)
    if reset == "v_reset":
        np.testing.assert_array_equal(nir_reference.run(graph, xs, 1e-3), want)


@pytest.mark.parametrize("name", ["LI with a leak", "CubaLI", "LIF", "CubaLIF", "IF"])
def test_exponential_steps_decay_by_the_exponential(name):
    """Written out; exact for input that is constant during a step."""
    node = (NODES | FIRING)[name]
    graph = chain(node)
    xs = np.random.default_rng(0).normal(0.6, 1, (2, 30, 3)).astype(np.float32)

    def toward(tau, old, target):
        decay = np.exp(-1e-3 / tau)
        return decay * old + (1 - decay) * target

    i, v, want = 0.0, 0.0, []
    for x in xs.astype(np.float64).swapaxes(0, 1):
        if name == "IF":
            v = v + 1e-3 * node.r * x
        elif name.startswith("Cuba"):
            i = toward(node.tau_syn, i, node.w_in * x)
            v = toward(node.tau_mem, v, node.v_leak + node.r * i)
        else:
            v = toward(node.tau, v, node.v_leak + node.r * x)
        want.append(v > node.v_threshold if name in FIRING else v)
        v = np.where(want[-1], 0, v) if name in FIRING else v
    want = np.stack(want, 1)
    model, variables = interop.from_nir(graph, dt=1e-3, method="exponential")
    for got in (
        model.apply(variables, xs),
        interop.run_nir(graph, xs, dt=1e-3, method="exponential"),
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    euler = interop.run_nir(graph, xs, dt=1e-3)
    assert (np.abs(euler - want).max() > 0.05) == (name != "IF")


def test_exponential_steps_of_time_constants_that_are_integers():
    whole, same = (
        chain(nir.LI(tau=full(10).astype(dtype), r=full(1.0), v_leak=full(0.0)))
        for dtype in (np.int32, np.float32)
    )
    xs, options = np.ones((1, 5, 3), np.float32), {"dt": 1.0, "method": "exponential"}
    np.testing.assert_allclose(
        interop.run_nir(whole, xs, **options), interop.run_nir(same, xs, **options), rtol=1e-6
    )


VALUES = {"v_reset": np.array([0.0, -0.5, 0.3], np.float32), "v_threshold": full(0.8)}
TO_A_VALUE = {
    "LIF": nir.LIF(tau=full(4e-3), r=full(2.0), v_leak=full(0.4), **VALUES),
    "LIF far from 0": nir.LIF(
        tau=full(4e-3), r=full(20.0), v_leak=full(-65.0), v_threshold=full(-50.0),
        v_reset=np.array([-65.0, -70.0, -60.0], np.float32),
    ),
    "CubaLIF": nir.CubaLIF(
        tau_syn=full(2e-3), tau_mem=full(5e-3), r=full(2.0), v_leak=full(0.1), **VALUES
    ),
    "IF": nir.IF(r=full(300.0), **VALUES),
}  # fmt: skip


@pytest.mark.parametrize("name", TO_A_VALUE)
def test_a_reset_to_a_value_is_one_to_zero_measured_from_it(name):
    """Forward Euler of the node itself gives the same spikes, file after file."""
    node = TO_A_VALUE[name]
    graph = chain(node)
    xs = np.random.default_rng(1).normal(0.6, 1, (2, 60, 3)).astype(np.float32)
    want = nir_reference.run(graph, xs, 1e-3)
    model, variables = interop.from_nir(graph, dt=1e-3)
    assert model.cell.layers[-1].reset == "zero"
    np.testing.assert_array_equal(model.apply(variables, xs), want)
    np.testing.assert_array_equal(interop.run_nir(graph, xs, dt=1e-3), want)
    again = interop.to_nir(model, variables, input_shape=(3,))
    np.testing.assert_array_equal(nir_reference.run(again, xs, 1e-3), want)
    assert_same(interop.from_nir(again), (model, variables))
    node.v_reset, kept = 0 * node.v_reset, node.v_reset
    differs = nir_reference.run(graph, xs, 1e-3) != want
    node.v_reset = kept
    assert np.any(differs[..., 1:]) and np.count_nonzero(want) > 15
    with pytest.raises(ValueError, match=r"`v_reset` 0 to be read with reset='subtract'.*; got -"):
        interop.from_nir(graph, dt=1e-3, reset="subtract")


def test_a_membrane_may_start_elsewhere_than_where_it_is_reset_to():
    graph = chain(TO_A_VALUE["LIF"])
    xs = np.random.default_rng(1).normal(0.6, 1, (2, 60, 3)).astype(np.float32)
    model, variables = interop.from_nir(graph, dt=1e-3)
    carry = model.cell.initialize_carry(KEY, (2, 3))
    carry["layers_1"]["mem"] = jnp.broadcast_to(0 - TO_A_VALUE["LIF"].v_reset, (2, 3))
    got = model.apply(variables, xs, initial_carry=carry)
    v, want = np.zeros((2, 3)), []
    for x in xs.astype(np.float64).swapaxes(0, 1):
        v = v + 0.25 * (0.4 - v + 2 * x)
        want.append(v > np.float32(0.8))
        v = np.where(want[-1], VALUES["v_reset"], v)
    np.testing.assert_array_equal(got, np.stack(want, 1))
    assert np.any(np.stack(want, 1) != nir_reference.run(graph, xs, 1e-3))


def test_a_cycle_may_reset_to_a_value():
    """As that of `RLIB`, a trace of the spikes on its way back to the membrane."""
    model, variables, xs = with_reset("RLIB", "zero")
    graph = interop.to_nir(model, variables, input_shape=(nir_cases.N,))
    lif = graph.nodes["layer_spike"]
    lif.v_reset = np.linspace(-0.5, 0.5, nir_cases.N, dtype=np.float32)
    want = nir_reference.run(graph, xs, 1e-3)
    read, own = interop.from_nir(graph, metadata=False)
    np.testing.assert_array_equal(nir_cases.run(read, own, xs), want)
    assert np.any(want != nir_cases.run(model, variables, xs))


IMAGES = {
    "groups": ("Conv2d", {"weight": (4, 1, 3, 3), "groups": 2, "stride": (2, 1), "padding": 1}),
    "same": ("Conv2d", {"weight": (3, 2, 3, 5), "padding": "same", "dilation": (1, 1)}),
    "dilation": ("Conv2d", {"weight": (3, 2, 2, 3), "dilation": (2, 1), "padding": "valid"}),
    "one axis": ("Conv1d", {"weight": (3, 2, 3), "stride": 2, "padding": 1, "dilation": 2}),
    "pool": ("AvgPool2d", {}),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_read_with_their_meaning(name):
    kind, values = IMAGES[name]
    rng = np.random.default_rng(0)
    if kind == "AvgPool2d":
        node = nir.AvgPool2d(np.array([2, 2]), np.array([1, 1]), np.array([0, 0]))
    else:
        weight = rng.normal(0, 1, values["weight"]).astype(np.float32)
        bias = rng.normal(0, 1, len(weight)).astype(np.float32)
        plain = {"input_shape": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        node = getattr(nir, kind)(**plain | values | {"weight": weight, "bias": bias})
    shape = (2, 7, 6) if kind.endswith("2d") else (2, 9)
    graph = chain(node, shape=shape)
    graph.nodes["output"] = nir.Output({"output": np.array([1])})
    xs = rng.normal(0, 1, (2, 3, *shape)).astype(np.float32)
    model, variables = interop.from_nir(graph)
    got, want = model.apply(variables, xs), interop.run_nir(graph, xs)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    if name in ("pool", "one axis"):
        np.testing.assert_allclose(want, nir_reference.run(graph, xs, 1.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 2])
def test_values_along_either_end_of_an_image(axis):
    shape = (2, 3, 4)
    line = np.linspace(2e-3, 5e-3, shape[axis], dtype=np.float32)
    tau = np.broadcast_to(np.expand_dims(line, [a for a in range(3) if a != axis]), shape).copy()
    graph = chain(nir.LI(tau=tau, r=np.ones_like(tau), v_leak=0 * tau), shape=shape)
    graph.nodes["output"] = nir.Output({"output": np.array([1])})
    model, variables = interop.from_nir(graph, dt=1e-3)
    assert model.cell.layers[0].dim == axis - 3
    xs = np.random.default_rng(0).normal(0.3, 1, (2, 4, *shape)).astype(np.float32)
    want = interop.run_nir(graph, xs, dt=1e-3)
    np.testing.assert_allclose(model.apply(variables, xs), want, rtol=0, atol=1e-6)


def test_a_scalar_stands_for_all_neurons():
    li = nir.LI(tau=np.array(4e-3), r=np.array(2.0), v_leak=np.array(0.0))
    graph = chain(nir.Linear(np.ones((3, 2), np.float32)), li)
    graph.nodes["output"] = nir.Output({"output": np.array([3])})
    model, variables = interop.from_nir(graph, dt=1e-3)
    assert variables["params"]["cell"]["layers_2"]["raw_beta"].shape == ()
    xs = np.ones((1, 5, 2), np.float32)
    np.testing.assert_allclose(
        model.apply(variables, xs), nir_reference.run(graph, xs, 1e-3), rtol=1e-6
    )


def test_graphs_within_a_graph_are_read():
    inner = chain(nir.Scale(full(2.0)), NODES["LI"])
    graph = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([3])}),
            "block": inner,
            "output": nir.Output({"output": np.array([3])}),
        },
        [("input", "block"), ("block", "output")],
        type_check=False,
    )
    flat = chain(nir.Scale(full(2.0)), NODES["LI"])
    xs = np.random.default_rng(0).normal(0.3, 1, (2, 10, 3)).astype(np.float32)
    model, variables = interop.from_nir(graph, dt=1e-3)
    want = nir_reference.run(flat, xs, 1e-3)
    np.testing.assert_allclose(model.apply(variables, xs), want, rtol=0, atol=1e-6)
