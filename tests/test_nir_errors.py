"""What cannot be written as NIR or read from it is refused, by name, and nothing is half done."""

import gzip
import json
import sys

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import nir
import numpy as np
import pytest
from nir_cases import chain, full

from tracetorch_jax import interop, snn, spikes
from tracetorch_jax.snn.flex import Decay, LeakyIntegrator, Threshold

KEY = jax.random.key(0)


def shapes(model, shape):
    """Parameters of the right shapes, made without computing."""
    made = jax.eval_shape(
        lambda: model.init({"params": KEY, "spike": KEY}, jnp.zeros((1, 1, *shape)))
    )
    made = {"params": made.get("params", {})}
    return jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), made)


def sequential(*layers):
    return snn.Sequential(list(layers))


twice = snn.LIB(3)


class Mine(snn.LIB):
    """A subclass may do anything."""


REFUSED = {
    "Dropout": (
        sequential(snn.LIB(3), nn.Dropout(0.5, deterministic=True)),
        TypeError,
        "Dropout at `layers_1` has no counterpart in NIR.*leave it out",
    ),
    "a function": (sequential(snn.LIB(3), jnp.tanh), TypeError, "at `layers_1` has no counterpart"),
    "a subclass": (sequential(Mine(3)), TypeError, "Mine at `layers_0` has no counterpart in NIR"),
    "another cell": (
        sequential(sequential(nn.GRUCell(3))),
        TypeError,
        "GRUCell at `layers_0/layers_0` has no counterpart",
    ),
    "sharing": (
        sequential(twice, twice),
        ValueError,
        "LIB at `layers_1` is the same module as the one at `layers_0`; NIR has no shared weights",
    ),
    "chance": (
        snn.LIB(3, spike=spikes.bernoulli()),
        ValueError,
        r"LIB \(`model`\) fires with bernoulli.*NIR has no node that fires at random",
    ),
    "no spike": (
        sequential(snn.LIB(3, spike=spikes.smooth(4.0))),
        ValueError,
        "LIB at `layers_0` fires with smooth.*it emits a sigmoid",
    ),
    "unknown spike": (
        snn.LIT(3, spike=jnp.sign),
        ValueError,
        "what it emits is not known to be a step",
    ),
    "pass-through": (
        LeakyIntegrator(3, pos_beta=Decay(0.5), pos_threshold=Threshold(passthrough=True)),
        ValueError,
        r"LeakyIntegrator \(`model`\) passes its membrane through on one side",
    ),
    "halves that average and sum": (
        LeakyIntegrator(3, pos_beta=Decay(0.5, ema=True), neg_beta=Decay(0.5, ema=False)),
        ValueError,
        "is dual.*both of its beta traces must average, or both sum",
    ),
    "some without leak": (
        snn.LIB(3, beta=(0.5, 1.0, 1.0), beta_learnable=False),
        ValueError,
        r"has a `beta` of 1, which is an integrator without leak \(I\) in NIR: all of its neurons",
    ),
    "an average without leak": (
        snn.SLI(3, alpha=1.0, alpha_learnable=False),
        ValueError,
        "has a `alpha` of 1",
    ),
    "ternary spikes that reset to zero": (
        sequential(snn.RLITS(3, reset="zero")),
        ValueError,
        "RLITS at `layers_0` fires on both sides and resets to zero.*; got `reset` 'zero'",
    ),
    "backwards": (snn.Unroll(snn.LIB(3), reverse=True), ValueError, "`model` must run forward"),
    "concatenation": (
        snn.Residual([snn.LIB(3)], merge="concatenate"),
        ValueError,
        r"Residual \(`model`\) concatenates, which no NIR node does",
    ),
    "precision": (
        nn.Dense(3, precision=jax.lax.Precision.HIGHEST),
        TypeError,
        "`precision` of Dense at `layers_0` has no written form in a NIR graph",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nir_cannot_say_is_refused(name):
    model, error, message = REFUSED[name]
    if isinstance(model, nn.Dense):
        model = sequential(model)
    model = model if isinstance(model, snn.Unroll) else snn.Unroll(model)
    variables = shapes(model, (3,))
    with pytest.raises(error, match=message):
        interop.to_nir(model, variables, input_shape=(3,))


IMAGES = {
    "Dense": (nn.Dense(3), r"Dense at `layers_0` must get vectors.*got the shape \(6, 5, 2\)"),
    "oblong": (nn.Conv(3, (3, 2)), "must have a square kernel"),
    "uneven": (nn.Conv(3, (2, 2)), r"must be padded alike at both ends of an axis.*\(0, 1\)"),
    "circular": (nn.Conv(3, (3, 3), padding="CIRCULAR"), 'must have padding "SAME", "VALID" or'),
    "groups": (nn.Conv(2, (3, 3), feature_group_count=2), "must have feature_group_count=1"),
    "large": (
        nn.Conv(2, (7, 7), padding="VALID"),
        r"kernel larger than its input of shape \(6, 5, 2\)",
    ),
    "one axis": (nn.Conv(2, (3,)), "must convolve over 1 or 2 axes"),
    "order": (
        sequential(snn.LIB(6, dim=-3), sequential(snn.LIB(6, dim=-3)), nn.Conv(2, (3, 3))),
        None,
    ),
    "channels": (
        sequential(interop.ChannelsLast(), interop.ChannelsFirst(), nn.Conv(2, (3, 3))),
        r"Conv at `layers_2` must get channels last.*Put ChannelsLast before it",
    ),
    "end": (
        sequential(nn.Conv(2, (3, 3)), interop.Flatten(3)),
        "`model` must not end with flattened channels-last images",
    ),
    "axes": (sequential(interop.Flatten(2)), "must flatten all axes of one step's tensor"),
    "moved": (sequential(interop.ChannelsLast(2)), "must see all axes of one step's tensor, 3"),
    "pool": (interop.AvgPool(8), r"must get \[H, W, C\], neither side less than 8"),
    "factor": (sequential(interop.Flatten(3), interop.Scale((3,))), "must get the shape of one"),
}


@pytest.mark.parametrize("name", [name for name in IMAGES if IMAGES[name][1]])
def test_what_nir_cannot_say_of_images_is_refused(name):
    cell, message = IMAGES[name]
    cell = cell if isinstance(cell, snn.Sequential) else sequential(cell)
    model = snn.Unroll(sequential(*cell.layers))
    variables = {"params": {}}
    if name not in ("large", "one axis", "pool", "factor"):
        variables = shapes(snn.Unroll(snn.Sequential(cell.layers, feature_axes=3)), (6, 5, 2))
    elif name in ("large", "one axis"):
        kernel = np.zeros((*cell.layers[0].kernel_size, 2, 2))
        variables = {"params": {"cell": {"layers_0": {"kernel": kernel, "bias": np.zeros(2)}}}}
    elif name == "factor":
        variables = {"params": {"cell": {"layers_1": {"scale": np.ones(3)}}}}
    with pytest.raises(ValueError, match=message):
        interop.to_nir(model, variables, input_shape=(6, 5, 2))


def test_arguments_of_to_nir_are_checked():
    model = sequential(nn.Dense(3), snn.LIB(3))
    params = shapes(snn.Unroll(model), (2,))["params"]["cell"]

    def write(params=params, input_shape=(2,), **options):
        return interop.to_nir(model, {"params": params}, input_shape=input_shape, **options)

    write()
    for options, error, message in (
        ({"dt": 0.0}, ValueError, "`dt` must be greater than 0 and finite, in seconds; got 0.0"),
        ({"dt": float("inf")}, ValueError, "`dt` must be greater than 0 and finite"),
        ({"dt": "1ms"}, TypeError, "`dt` must be a number of seconds; got '1ms'"),
        ({"style": "lossy"}, ValueError, "`style` must be one of 'exact', 'lif'; got 'lossy'"),
        ({"input_shape": 2}, TypeError, "`input_shape` must be a tuple of integers; got 2"),
        ({"input_shape": ()}, ValueError, "`input_shape` must be sizes of at least 1"),
        ({"input_shape": (4,)}, ValueError, r"`kernel` of Dense at `layers_0` .* \(4, 3\); got"),
        (
            {"params": {}},
            ValueError,
            r"Dense at `layers_0` must hold .*; it lacks 'bias'; lacks 'kernel'",
        ),
        (
            {"params": {**params, "more": {}}},
            ValueError,
            r"\['layers_0', 'layers_1'\]; got \['more",
        ),
        ({"params": 3}, TypeError, "`params` of Sequential .* must be a dict; got int"),
    ):
        with pytest.raises(error, match=message):
            write(**options)
    with pytest.raises(
        ValueError, match="must hold `params` alone to be written; got .'batch_stat"
    ):
        interop.to_nir(model, {"params": params, "batch_stats": {}}, input_shape=(2,))
    with pytest.raises(TypeError, match="`variables` must be a dict of collections; got list"):
        interop.to_nir(model, [], input_shape=(2,))
    with pytest.raises(TypeError, match="`bias` of Dense at `layers_0` must be known, not traced"):
        jax.jit(lambda params: write(params) and 0)(params)
    with pytest.raises(TypeError, match="`model` must be a Flax module; got str"):
        interop.to_nir("LIB", {}, input_shape=(2,))
    wide = {**params, "layers_1": {**params["layers_1"], "raw_beta": np.zeros(4, np.float32)}}
    with pytest.raises(ValueError, match=r"`raw_beta` of LIB at `layers_1` .* \(3,\); got \(4,\)"):
        write(wide)
    with pytest.raises(ValueError, match="`input_shape` must have num_neurons = 3 at axis -1"):
        interop.to_nir(snn.LIB(3), {"params": params["layers_1"]}, input_shape=(4,))


# Reading.


def li(n=3, tau=4e-3, r=1.0, v_leak=0.0):
    return nir.LI(tau=full(tau, n), r=full(r, n), v_leak=full(v_leak, n))


def graph_of(nodes, *edges, size=3):
    ends = {name: np.array([size]) for name in ("input", "output")}
    nodes = {
        "input": nir.Input({"input": ends["input"]}),
        **nodes,
        "output": nir.Output({"output": ends["output"]}),
    }
    return nir.NIRGraph(nodes, [tuple(edge.split()) for edge in edges], type_check=False)


def scale(value, n=3):
    return nir.Scale(full(value, n))


def threshold(value, n=3):
    return nir.Threshold(full(value, n))


class Odd(nir.NIRNode):
    """A primitive of a NIR to come."""

    def __init__(self):
        self.input_type, self.output_type = {"input": np.array([3])}, {"output": np.array([3])}
        self.metadata = {}


def layer(back=-0.75, **nodes):
    """A LIB of decay 0.75 and threshold 1, or something close to it."""
    made = {"mem": li(r=4.0), "spike": threshold(1.0), "reset": scale(back), **nodes}
    return graph_of(made, "input mem", "mem spike", "spike reset", "reset mem", "spike output")


def with_edges(graph, *edges):
    graph.edges = [*graph.edges, *(tuple(edge.split()) for edge in edges)]
    return graph


LIF = {"tau": full(4e-3), "r": full(4.0), "v_leak": full(0.0), "v_threshold": full(1.0)}
READ = {
    "unknown type": (lambda: chain(Odd(), shape=(3,)), "node 'n0' is of type Odd"),
    "edge to nowhere": (
        lambda: graph_of({"a": li()}, "input a", "a output", "a b"),
        r"has an edge \('a', 'b'\), but no node 'b'; its nodes are \['a', 'input', 'output'\]",
    ),
    "edge twice": (
        lambda: graph_of({"a": li()}, "input a", "a output", "input a"),
        r"must have each edge once; it repeats \[\('input', 'a'\)\]",
    ),
    "two inputs": (
        lambda: graph_of({"a": li(), "b": nir.Input({"input": np.array([3])})}, "input a", "b a"),
        r"must have one Input node; it has 2: \['input', 'b'\]",
    ),
    "stray": (
        lambda: graph_of({"a": li(), "b": li()}, "input a", "a output", "a b"),
        r"must lie between its input 'input' and its output 'output'; \['b'\] does not",
    ),
    "no shape": (
        lambda: nir.NIRGraph(
            {"input": nir.Input({"input": None}), "output": nir.Output({"output": None})},
            [("input", "output")],
            type_check=False,
        ),
        r"Node 'input' \(Input\) of `graph` must have a shape; got None",
    ),
    "nothing": (lambda: graph_of({}, "input output"), "must do something between its input and"),
    "size": (
        lambda: chain(li(3), li(4)),
        r"Node 'n1' \(LI\) has `tau` of shape \(4,\), but gets steps of shape \(3,\)",
    ),
    "size of a weight": (
        lambda: chain(li(3), nir.Linear(np.ones((2, 5)))),
        r"Node 'n1' \(Linear\) has `weight` of shape \(2, 5\), \[out, in\], but gets .*\(3,\)",
    ),
    "size of a bias": (
        lambda: chain(nir.Affine(np.ones((2, 3)), np.ones(3))),
        r"Node 'n0' \(Affine\) has `bias` of shape \(3,\), but gives 2 values",
    ),
    "not a number": (lambda: chain(li(r=np.nan)), r"Node 'n0' \(LI\) must have finite `r`"),
    "negative time": (lambda: chain(li(tau=-1.0)), r"\(LI\) must have `tau` greater than 0"),
    "short time": (
        lambda: chain(li(tau=4e-4)),
        r"Node 'n0' \(LI\) has `tau` = 0.0004 s, less than the step `dt` = 0.001 s",
    ),
    "no threshold": (lambda: chain(threshold(0.0)), "Node 'n0' fires at a threshold of 0; layers"),
    "reset to a value": (
        lambda: chain(nir.LIF(**LIF, v_reset=full(-0.5))),
        r"Node 'n0' \(LIF\) must have `v_reset` 0 to be read with reset='subtract'.*; got -0.5",
    ),
    "cycle without entry": (
        lambda: graph_of(
            {"a": li(), "b": scale(1.0), "c": scale(1.0)},
            "input a", "a output", "b c", "c b", "b a", "a b",
        ),
        r"The cycle \['a', 'b', 'c'\] of `graph` is no layer of this library",
    ),
    "two matrices back": (
        lambda: graph_of(
            {"a": li(), "v": nir.Linear(np.eye(3)), "w": nir.Linear(np.eye(3))},
            "input a", "a v", "v a", "a w", "w a", "a output",
        ),
        r"The cycle \['a', 'v', 'w'\] of `graph` must have one way back to 'a'; got \[\['v'\], "
        r"\['w'\]\]",
    ),
    "a matrix back of another size": (
        lambda: graph_of(
            {"a": li(), "w": nir.Linear(np.ones((2, 3)))}, "input a", "a w", "w a", "a output"
        ),
        r"Node 'a' adds up steps of different shapes: \(3,\) from outside, \(2,\) from 'w'",
    ),
    "a matrix back that does not fit": (
        lambda: graph_of(
            {"a": li(), "w": nir.Linear(np.ones((3, 2)))}, "input a", "a w", "w a", "a output"
        ),
        r"Node 'w' \(Linear\) has `weight` of shape \(3, 2\), .* gets steps of shape \(3,\)",
    ),
    "a matrix back from elsewhere": (
        lambda: graph_of(
            {"a": li(), "b": li(), "c": li(), "w": nir.Linear(np.eye(3))},
            "input a", "a b", "a c", "b w", "w a", "c output", "b c",
        ),
        r"The cycle \['a', 'b', 'w'\] of `graph` must lead back to 'a' from where it is left; it "
        r"does from 'b', and is left from \['",
    ),
    "a neuron on the way back": (
        lambda: graph_of(
            {"a": li(), "b": li(), "w": nir.Linear(np.eye(3))},
            "input a", "a b", "b w", "w a", "a output",
        ),
        r"The cycle \['a', 'b', 'w'\] of `graph` must lead back to 'a' from where it is left; 'b' "
        r"feeds nothing else",
    ),
    "another reset": (
        lambda: layer(back=-1.0),
        r"'reset' must take the threshold off, one step later: .* = -0.75; got -1",
    ),
    "two resets": (
        lambda: with_edges(layer(again=scale(-0.75)), "spike again", "again mem"),
        r"from 'spike' one Scale must lead back to 'mem' .* off; got \['reset', 'again'\]",
    ),
    "a reset on one side": (
        lambda: graph_of(
            {
                "mem": li(r=4.0), "pos": threshold(1.0), "reset": scale(-0.75), "minus": scale(-1),
                "neg": threshold(1.0), "sign": scale(-1), "a": li(), "b": li(), "w": scale(1),
                "u": scale(1),
            },
            "input mem", "mem pos", "mem minus", "minus neg", "pos reset", "reset mem",
            "neg sign", "sign b", "b u", "u mem", "pos a", "a w", "w mem", "pos output",
            "sign output",
        ),
        r"positive and negative spikes reset it in other ways, \['subtract', 'none'\]",
    ),
    "membrane read": (
        lambda: with_edges(layer(), "mem output"),
        "'mem', its membrane, also feeds 'output', outside of it",
    ),
    "fed inside": (
        lambda: with_edges(layer(), "input reset"),
        "is fed from outside, by .'input'., as well as|feeds",
    ),
    "begins elsewhere": (
        lambda: graph_of({"a": threshold(0.5), "b": li()}, "input a", "a b", "b a", "b output"),
        "'a', where it begins, is no LI, I, LIF or IF, but Threshold",
    ),
    "size within a layer": (
        lambda: layer(spike=threshold(1.0, 4), back=-0.75),
        r"Node 'spike' \(Threshold\) has `threshold` of shape \(4,\), but gets .*\(3,\)",
    ),
    "branches": (
        lambda: graph_of(
            {"a": scale(2.0), "b": scale(3.0), "c": li()},
            "input a", "input b", "a c", "b c", "c output",
        ),
        r"Node 'c' \(LI\) adds up \['a', 'b'\]; graphs can be read that are a chain of nodes",
    ),
    "residual of another shape": (
        lambda: graph_of(
            {"a": nir.Linear(np.ones((2, 3))), "b": scale(1.0)},
            "input a", "a b", "input b", "b output",
        ),
        r"Node 'b' adds up steps of different shapes: \(3,\) from \['input'\], \(2,\) from \['a'\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_graphs_that_cannot_be_read_are_refused(name):
    make, message = READ[name]
    graph = make()
    with pytest.raises(ValueError, match=message):
        interop.from_nir(graph, dt=1e-3, reset="subtract")


def test_the_examples_of_cycles_are_close_to_a_layer():
    """So that what is refused above is refused for what it says."""
    model, variables = interop.from_nir(layer(), dt=1e-3)
    (cell,) = model.cell.layers
    assert type(cell) is snn.LIB
    values = cell.apply({"params": variables["params"]["cell"]["layers_0"]}, method="parameters")
    np.testing.assert_allclose(values["beta"], 0.75, rtol=1e-6)
    np.testing.assert_allclose(values["threshold"], 1.0, rtol=1e-6)


def test_images_with_a_value_per_pixel_are_refused():
    tau = np.full((2, 3, 3), 4e-3)
    tau[0, 1, 1] = 8e-3
    graph = chain(nir.LI(tau=tau, r=np.ones_like(tau), v_leak=np.zeros_like(tau)))
    with pytest.raises(
        ValueError, match=r"Node 'n0' has parameters that differ within one channel"
    ):
        interop.from_nir(graph, dt=1e-3)


def image(*nodes, shape=(2, 5, 5)):
    graph = chain(*nodes, shape=shape)
    graph.nodes["output"] = nir.Output({"output": np.array([1])})
    return graph


def conv(size=3, channels=2, groups=1, bias=4):
    weight = np.zeros((4, channels, size, size), np.float32)
    return nir.Conv2d(None, weight, 1, 0, 1, groups, np.zeros(bias, np.float32))


@pytest.mark.parametrize(
    "node, message",
    [
        (
            conv(channels=3),
            r"\(Conv2d\) has `weight` of shape \(4, 3, 3, 3\).*steps of shape \(2, 5",
        ),
        (
            nir.Conv2d((4, 4), np.zeros((4, 2, 3, 3)), 1, 0, 1, 1, np.zeros(4)),
            r"\(Conv2d\) has `input_shape` \(4, 4\), but gets steps of shape \(2, 5, 5\)",
        ),
        (
            nir.Conv2d(None, np.zeros((4, 2, 2, 2)), 1, "same", 1, 1, np.zeros(4)),
            r"Node 'n0' \(Conv2d\) must have an odd kernel for `padding` 'same'",
        ),
        (conv(bias=3), r"`bias` of shape \(3,\) and `groups` 1"),
        (conv(size=6), r"has a kernel of \(6, 6\), larger than its padded input"),
        (
            nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([1, 1])),
            r"\(AvgPool2d\) must pool over squares of \[C, H, W\] without padding",
        ),
        (nir.SumPool2d(np.array([7, 7]), np.array([1, 1]), np.array([0, 0])), "pools over"),
        (nir.Flatten({"input": np.array([2, 5, 5])}, 1, -1), "must flatten all 3 axes of a step"),
    ],
)
def test_images_that_do_not_fit_are_refused(node, message):
    with pytest.raises(ValueError, match=message):
        interop.from_nir(image(node))


# Files.


def test_files_are_checked(tmp_path):
    path = tmp_path / "graph.nir"
    with pytest.raises(FileNotFoundError, match="`graph` must be a file; there is none at"):
        interop.from_nir(path)
    path.write_text("no HDF5")
    with pytest.raises(ValueError, match="`graph` must be a NIR file; .*graph.nir is none"):
        interop.from_nir(str(path))
    (tmp_path / "graph.nir.gz").write_bytes(gzip.compress(b"no HDF5"))
    with pytest.raises(ValueError, match="graph.nir.gz is none: .* unpack it with gunzip"):
        interop.from_nir(tmp_path / "graph.nir.gz")
    with h5py.File(path, "w") as file:
        file["something"] = 1
    with pytest.raises(ValueError, match="`graph` must be a NIR file; .*graph.nir is none"):
        interop.from_nir(path)
    with pytest.raises(
        TypeError, match="`graph` must be a nir.NIRGraph or the path of a file; got"
    ):
        interop.from_nir({"nodes": {}})

    def damaged(change):
        nir.write(path, chain(li(), nir.Linear(np.ones((2, 3)))))
        with h5py.File(path, "a") as file:
            change(file["node/nodes"])
        return path

    def retype(nodes):
        del nodes["n0/type"]
        nodes["n0/type"] = "Izhikevich"

    def resize(nodes):
        del nodes["n0/r"]
        nodes["n0/r"] = np.ones(4)

    def lose(nodes):
        del nodes["n1/weight"]

    for change, message in (
        (retype, "node 'n0' is of the unknown type Izhikevich"),
        (resize, r"node 'n0' \(LI\) has parameters of different shapes, .*'r': \(4,\)"),
        (lose, r"node 'n1' \(Linear\) lacks \['weight'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.from_nir(damaged(change), dt=1e-3)


def own_graph():
    cell = sequential(nn.Dense(3), snn.LIB(3))
    model = snn.Unroll(cell)
    return interop.to_nir(model, shapes(model, (3,)), input_shape=(3,))


def test_graphs_that_were_changed_are_noticed():
    def weight(graph):
        graph.nodes["layers_0"].weight = graph.nodes["layers_0"].weight + 1

    def tau(graph):
        graph.nodes["layers_1_mem"].tau = graph.nodes["layers_1_mem"].tau * 2

    def kind(graph):
        graph.nodes["layers_1_spike"] = scale(1.0)

    def edge(graph):
        graph.edges.remove(("layers_1_reset", "layers_1_mem"))
        graph.edges.append(("layers_1_reset", "output"))

    weight_only = own_graph()
    weight(weight_only)
    _, variables = interop.from_nir(weight_only)  # it lies in the node alone, so all is well
    np.testing.assert_array_equal(variables["params"]["cell"]["layers_0"]["kernel"], 1.5)
    for change, message in (
        (tau, "has another `tau` of 'layers_1_mem'.*With metadata=False"),
        (kind, "has 'layers_1_spike' as Scale instead of Threshold"),
        (edge, r"has the edge \('layers_1_reset', 'output'\); .*lacks the edge"),
    ):
        graph = own_graph()
        change(graph)
        with pytest.raises(
            ValueError, match=f"`graph` was changed since to_nir wrote it.*{message}"
        ):
            interop.from_nir(graph)
    with pytest.raises(
        ValueError, match="`dt` must be the one that `graph` was written with, 0.001"
    ):
        interop.from_nir(own_graph(), dt=1e-4)


def test_conventions_are_for_graphs_of_others():
    for options in ({"reset": "subtract"}, {"method": "exponential"}):
        with pytest.raises(
            ValueError, match="`reset` and `method` .* must be left out.*; got .*(subtract|exp)"
        ):
            interop.from_nir(own_graph(), **options)
    assert interop.from_nir(own_graph(), metadata=False, reset="subtract")
    for call in (interop.from_nir, lambda g, **o: interop.run_nir(g, np.ones((1, 2, 3)), **o)):
        with pytest.raises(ValueError, match="`method` must be one of 'euler', 'exponential'"):
            call(chain(li()), dt=1e-3, method="exact")


def test_damaged_metadata_are_noticed():
    def document(**changes):
        graph = own_graph()
        content = json.loads(graph.metadata["tracetorch_jax"])
        graph.metadata["tracetorch_jax"] = json.dumps(content | changes)
        return graph

    with pytest.raises(ValueError, match="must be of format 1 of tracetorch_jax; got 2"):
        interop.from_nir(document(format=2))
    with pytest.raises(ValueError, match="metadata of `graph` must be what to_nir wrote.*KeyError"):
        interop.from_nir(document(model={"kind": "Unroll"}))
    with pytest.raises(ValueError, match="metadata of `graph` must be what to_nir wrote.*KeyError"):
        interop.from_nir(document(model={"kind": "os.system", "node": "layers_0"}))
    graph = own_graph()
    graph.metadata["tracetorch_jax"] = "{"
    with pytest.raises(ValueError, match="are damaged.*With metadata=False"):
        interop.from_nir(graph)
    assert interop.from_nir(graph, metadata=False)
    for lost in ("raw_beta", "value_beta", "arguments"):
        graph = own_graph()
        del graph.nodes["layers_1_mem"].metadata[lost]
        with pytest.raises(ValueError, match=f"are damaged.*{lost.removeprefix('value_')}"):
            interop.from_nir(graph)


def test_running_checks_its_input():
    graph = chain(li())
    with pytest.raises(
        ValueError, match=r"`xs` must be .* of the shape \(3,\).*got shape \(2, 5, 4"
    ):
        interop.run_nir(graph, np.zeros((2, 5, 4)), dt=1e-3)
    with pytest.raises(
        ValueError, match="`reset` must be one of 'v_reset', 'subtract'; got 'zero'"
    ):
        interop.run_nir(graph, np.zeros((2, 5, 3)), dt=1e-3, reset="zero")
    with pytest.raises(ValueError, match=r"Node 'n1' does not fit its input \(3,\)"):
        interop.run_nir(chain(li(3), li(4)), np.zeros((2, 5, 3)), dt=1e-3)


def test_without_nir_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    for call in (
        lambda: interop.to_nir(snn.LIB(3), {}, input_shape=(3,)),
        lambda: interop.from_nir("graph.nir"),
        lambda: interop.run_nir("graph.nir", np.zeros((2, 5, 3))),
    ):
        with pytest.raises(ImportError, match=r"pip install 'nir"):
            call()


def test_modules_check_their_arguments():
    for make, message in (
        (lambda: interop.Flatten(3)(jnp.zeros((2, 2))), r"`x` must have at least 3 axes"),
        (lambda: interop.SumPool(2)(jnp.zeros((2, 2))), r"`x` must have axes \[..., H, W, C\]"),
        (lambda: interop.Scale((3,)).init(KEY, jnp.zeros((2, 4))), r"`x` must end in the shape"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="`param_dtype` must be a floating-point dtype"):
        interop.Scale((3,), param_dtype=jnp.int32)
