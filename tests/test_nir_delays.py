"""Delays as nodes of NIR graphs: written, executed, read, read back."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import nir
import nir_cases
import nir_reference
import numpy as np
import pytest
from flax import nnx as fnnx
from nir_cases import chain, full
from test_nir import assert_comes_back, assert_same, through_file

from tracetorch_jax import interop, nnx, snn

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


def fixed(num_channels, *delays, max_delay=None, **options):
    """Delays that are not learnt."""
    most = max_delay or max(1, int(max(delays)))
    return snn.Delay(num_channels, most, delay=delays, delay_learnable=False, **options)


def stack(*layers, **options):
    return snn.Sequential(list(layers), **options)


def start(cell, shape, steps=15):
    model, rng = snn.Unroll(cell), np.random.default_rng(0)
    variables = nir_cases.scramble(model.init(KEY, jnp.zeros((1, 1, *shape))), rng)
    return model, variables, rng.normal(0.3, 1.5, (2, steps, *shape)).astype(np.float32)


NETWORKS = {
    "alone": (fixed(3, 0.0, 2.0, 5.0, max_delay=9), (3,)),
    "of nothing": (stack(fixed(3, 0.0, 0.0, 0.0), snn.LIB(3)), (3,)),
    "before and behind neurons": (
        stack(nn.Dense(4), fixed(4, 1.0, 0.0, 3.0, 7.0), snn.LIB(4), fixed(4, 2.0, 2.0, 2.0, 2.0),
              nn.Dense(2), snn.LI(2)),
        (3,),
    ),
    "channels first": (fixed(2, 4.0, 1.0, dim=-3), (2, 4, 5)),
    "channels last": (
        stack(nn.Conv(2, (3, 3)), fixed(2, 4.0, 1.0), snn.LIB(2), feature_axes=3), (4, 5, 1)
    ),
    "Residual": (snn.Residual([fixed(3, 1.0, 2.0, 4.0), snn.LIB(3)]), (3,)),
    "first of a cycle": (
        snn.Recurrent(stack(fixed(3, 1.0, 0.0, 3.0), snn.LIB(3, reset="zero")), nn.Dense(3)), (3,)
    ),
    "last of a cycle": (
        snn.Recurrent(
            stack(nn.Dense(4), snn.LIT(4), fixed(4, 1.0, 0.0, 3.0, 2.0)), nn.Dense(3)
        ),
        (3,),
    ),
    "last of a cycle of one factor each": (
        snn.Recurrent(stack(snn.LIB(3), fixed(3, 1.0, 0.0, 3.0)), interop.Scale((3,))), (3,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_delays_are_nodes_and_come_back(name, tmp_path):
    model, variables, xs = start(*NETWORKS[name])
    graph, read, want = assert_comes_back(
        model, variables, xs, NETWORKS[name][1], tmp_path,
        channels_last=name == "channels last", atol=0 if name == "alone" else 1e-5,
    )  # fmt: skip
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    assert "Delay" in kinds and np.count_nonzero(want) > 20
    classes = {type(layer).__name__ for layer in jax.tree.leaves(read.cell.layers)}
    assert classes & {"Delay", "Recurrent", "Residual"}


LEARNT = {
    "learnt": snn.Delay(3, 8, delay=(1.2, 3.5, 6.9)),
    "one": snn.Delay(3, 8, delay=2.6, delay_rank=0),
    "constants": snn.Delay(3, 8, delay=(0.5, 1.5, 7.7), delay_learnable=False),
}


@pytest.mark.parametrize("name", LEARNT)
def test_delays_between_steps_are_rounded_on_request(name, tmp_path):
    layer = LEARNT[name]
    model = snn.Unroll(stack(layer, snn.LIB(3)))
    xs = np.random.default_rng(0).normal(0.3, 1.5, (2, 30, 3)).astype(np.float32)
    variables = model.init(KEY, xs)
    with pytest.raises(
        ValueError,
        match=r"`delay` of Delay at `layers_0` must be whole numbers of steps.*; got "
        r"[0-9.]+\. round_delays=True rounds it",
    ):
        interop.to_nir(model, variables, input_shape=(3,))
    with pytest.raises(ValueError, match="must be whole numbers of steps"):
        interop.nir_mismatch(model, variables, xs)
    graph = interop.to_nir(model, variables, input_shape=(3,), round_delays=True)
    graph = through_file(graph, tmp_path)
    whole = {"learnt": [1, 4, 7], "one": [3, 3, 3], "constants": [0, 2, 8]}[name]
    np.testing.assert_allclose(graph.nodes["layers_0"].delay, np.array(whole) * 1e-3, rtol=1e-6)
    assert_same(interop.from_nir(graph), (model, variables))

    rounded = snn.Unroll(stack(fixed(3, *whole), snn.LIB(3)))
    own = {"params": {"cell": {"layers_1": variables["params"]["cell"]["layers_1"]}}}
    want = np.asarray(rounded.apply(own, xs))
    np.testing.assert_array_equal(interop.run_nir(graph, xs), want)
    np.testing.assert_array_equal(nir_reference.run(graph, xs, 1e-3), want)
    measured = interop.nir_mismatch(model, variables, xs, style="exact", round_delays=True)
    assert measured.share == np.mean(np.asarray(model.apply(variables, xs)) != want) > 0
    read, other = interop.from_nir(graph, metadata=False)
    np.testing.assert_array_equal(read.apply(other, xs), want)
    first = read.cell.layers[0]
    assert (first.max_delay, first.delay_learnable) == (max(whole), False)
    np.testing.assert_array_equal(np.asarray(first.delay), whole)


def test_learnt_delays_may_be_whole_but_for_rounding():
    """In float32 a sigmoid seldom gives a whole number to the last digit."""
    layer = snn.Delay(3, 7, delay=nn.initializers.constant(3.0))
    model, xs = snn.Unroll(layer), np.random.default_rng(0).normal(0, 1, (2, 9, 3))
    variables = model.init(KEY, xs.astype(np.float32))
    graph = interop.to_nir(model, variables, input_shape=(3,))
    np.testing.assert_array_equal(graph.nodes["layer"].delay, full(3e-3))
    read, own = interop.from_nir(graph)
    assert_same((model, own), (model, variables))
    np.testing.assert_allclose(np.asarray(read.cell.delay), full(3.0), rtol=1e-6)


def test_constants_are_written_as_they_are_used():
    """A parameter of bfloat16 has no 257; a constant is none."""
    layer = fixed(2, 257.0, 3.0, param_dtype=jnp.bfloat16)
    graph = interop.to_nir(layer, {}, input_shape=(2,), dt=0.5)
    assert graph.nodes["layer"].delay.tolist() == [128.5, 1.5]
    assert interop.from_nir(graph)[0] == layer


def test_delays_of_nnx_are_written():
    model = nnx.Unroll(
        nnx.Sequential(
            [fnnx.Linear(2, 3, rngs=fnnx.Rngs(0)), nnx.Delay(3, 4, delay=2.0), nnx.LIB(3)]
        )
    )
    graph = interop.to_nir(model, input_shape=(2,))
    xs = np.random.default_rng(0).normal(0.3, 3, (2, 12, 2)).astype(np.float32)
    want = np.asarray(model(xs))
    np.testing.assert_array_equal(interop.run_nir(graph, xs), want)
    assert np.count_nonzero(want) > 5
    nnx.set_sigma(model, 1.5)
    with pytest.raises(ValueError, match="Delay at `layers_1` takes in its input through a window"):
        interop.to_nir(model, input_shape=(2,))


def test_what_nir_has_no_delay_for_is_refused():
    dense = snn.Unroll(stack(snn.DelayedDense(3, 4), snn.LIB(3)))
    variables = dense.init(KEY, jnp.zeros((1, 1, 3)))
    with pytest.raises(TypeError, match="DelayedDense at `layers_0` has a delay for each synapse"):
        interop.to_nir(dense, variables, input_shape=(3,), round_delays=True)
    wide = fixed(3, 1.0, 2.0, 3.0, sigma=0.5)
    with pytest.raises(ValueError, match="write it with `sigma` None.*; got 0.5"):
        interop.to_nir(wide, {}, input_shape=(3,), round_delays=True)
    with pytest.raises(ValueError, match="`input_shape` must have num_channels = 3 at axis -1"):
        interop.to_nir(fixed(3, 1.0, 2.0, 3.0), {}, input_shape=(4,))
    learnt = snn.Delay(3, 4)
    with pytest.raises(ValueError, match=r"`raw_delay` of Delay .* \(3,\); got \(4,\)"):
        interop.to_nir(learnt, {"params": {"raw_delay": np.zeros(4)}}, input_shape=(3,))
    for function, first in ((interop.to_nir, {"input_shape": (3,)}),
                            (interop.nir_mismatch, {"xs": np.zeros((1, 2, 3))})):  # fmt: skip
        with pytest.raises(TypeError, match="`round_delays` must be True or False; got 1"):
            function(learnt, {}, **first, round_delays=1)


@pytest.mark.parametrize(("seconds", "got"), [(2.5e-3, 0.0025), (-1e-3, -0.001), (2e4, 20000)])
def test_delays_of_others_must_be_whole_steps(seconds, got):
    graph = chain(nir.Delay(np.array([1e-3, seconds, 0.0], np.float32)))
    message = (
        rf"Node 'n0' \(Delay\) must have `delay` a whole number of steps of `dt` = 0.001 s, at "
        rf"least 0 and less than 2\*\*24; got {got} s"
    )
    with pytest.raises(ValueError, match=message):
        interop.from_nir(graph, dt=1e-3)
    with pytest.raises(ValueError, match=message):
        interop.run_nir(graph, np.zeros((1, 2, 3)), dt=1e-3)


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 0.3, 1.0])
def test_float32_rounds_no_delay_away(dt):
    steps = np.array([0, 1, 3, 999, 65535, 123457])
    graph = chain(nir.Delay((steps * dt).astype(np.float32)))
    model, _ = interop.from_nir(graph, dt=dt)
    np.testing.assert_array_equal(np.asarray(model.cell.layers[0].delay), steps)


def test_a_graph_of_delays_alone_needs_a_step():
    with pytest.raises(ValueError, match="`dt` is needed"):
        interop.from_nir(chain(nir.Delay(full(1e-3))))


def test_one_delay_for_a_whole_image_and_none_within_a_channel():
    graph = chain(
        nir.Scale(np.ones((2, 3, 3))), nir.Delay(np.array(2e-3, np.float32)), shape=(2, 3, 3)
    )
    xs = np.random.default_rng(0).normal(0, 1, (2, 5, 2, 3, 3)).astype(np.float32)
    model, variables = interop.from_nir(graph, dt=1e-3)
    np.testing.assert_array_equal(model.apply(variables, xs)[:, 2:], xs[:, :-2])
    pixels = chain(nir.Delay(np.arange(18, dtype=np.float32).reshape(2, 3, 3) * 1e-3))
    with pytest.raises(ValueError, match="has parameters that differ within one channel"):
        interop.from_nir(pixels, dt=1e-3)
    want = nir_reference.run(pixels, xs, 1e-3)
    np.testing.assert_array_equal(interop.run_nir(pixels, xs, dt=1e-3), want)


@pytest.mark.parametrize("back", ["delay w", "w delay", "delay"])
def test_a_delay_on_the_way_back_is_simulated_but_not_read(back):
    lif = nir.LIF(
        tau=full(4e-3), r=full(4.0), v_leak=full(0.0), v_threshold=full(1.0), v_reset=full(0.0)
    )
    weight = np.random.default_rng(0).normal(0, 1, (3, 3)).astype(np.float32)
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        "lif": lif,
        "output": nir.Output({"output": np.array([3])}),
    }
    known = {"delay": nir.Delay(np.array([1e-3, 2e-3, 0.0])), "w": nir.Linear(weight)}
    way = ["lif", *back.split(), "lif"]
    nodes |= {name: known[name] for name in way[1:-1]}
    edges = [("input", "lif"), ("lif", "output"), *itertools.pairwise(way)]
    graph = nir.NIRGraph(nodes, edges)
    xs = np.random.default_rng(1).normal(0.3, 1, (2, 20, 3)).astype(np.float32)
    want = nir_reference.run(graph, xs, 1e-3)
    np.testing.assert_array_equal(interop.run_nir(graph, xs, dt=1e-3), want)
    assert np.count_nonzero(want) > 20
    with pytest.raises(ValueError, match=r"Node 'delay' \(Delay\) stands on the way back to 'lif'"):
        interop.from_nir(graph, dt=1e-3)
