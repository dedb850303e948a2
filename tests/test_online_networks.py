"""Gradients of networks as their sequence runs: as backpropagation through time, and by hand."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import reference

import tracetorch_jax.nnx as tnnx
from tracetorch_jax import checkpoint, snn, training

KEY = jax.random.key(0)
T, B, INPUTS, NEURONS = 9, 2, 4, 3


def online_gradient(network, params, xs, targets, method="e-prop"):
    """Sum over the steps of a stream of the gradient of ``sum((out - target) ** 2)``."""
    init, step = training.online(network, method=method)

    def advance(carry, pair):
        (state, total), (x, target) = carry, pair
        state, out, gradient = step(params, state, x)
        found = gradient(2 * (out - target))
        return (state, jax.tree.map(jnp.add, total, found)), out

    zeros = jax.tree.map(jnp.zeros_like, params)
    (_, total), outs = jax.lax.scan(advance, (init(params, xs[0]), zeros), (xs, targets))
    return total, outs


def batch_gradient(network, params, xs, targets):
    model = snn.Unroll(network, time_major=True)

    def loss(params):
        outs = model.apply({"params": {"cell": params}}, xs)
        return jnp.square(outs - targets).sum(), outs

    return jax.grad(loss, has_aux=True)(params)


def data(outputs=2, inputs=INPUTS, steps=T, dtype=jnp.float64):
    xs = 6 * jax.random.normal(jax.random.key(1), (steps, B, inputs), dtype)
    return xs, jax.random.normal(jax.random.key(2), (steps, B, outputs), dtype)


def dense(size, **options):
    start = nn.initializers.normal(0.7)
    return nn.Dense(size, param_dtype=jnp.float64, bias_init=start, **options)


def layer(name, size=NEURONS, **options):
    return snn.layer(name, size, half_lives=(0.5, 5), param_dtype=jnp.float64, **options)


def check_equal(network, method="e-prop", **sizes):
    xs, targets = data(**sizes)
    params = network.init(KEY, None, xs[0])["params"]
    got, outs = jax.jit(lambda *args: online_gradient(network, *args, method))(params, xs, targets)
    want, same = jax.jit(lambda *args: batch_gradient(network, *args))(params, xs, targets)
    chex.assert_trees_all_close(outs, same, rtol=1e-9)
    chex.assert_trees_all_close(got, want, rtol=1e-9, atol=1e-9)
    kernels = [leaves["kernel"] for leaves in got.values() if "kernel" in leaves]
    assert kernels and all(jnp.any(kernel != 0) for kernel in kernels)


class TestExact:
    @pytest.mark.parametrize("name", reference.EACH)
    def test_weights_in_front_of_a_layer(self, name, x64):
        check_equal(snn.Sequential([dense(NEURONS), layer(name), dense(2)]))

    def test_with_a_leaky_readout_of_one_decay(self, x64):
        readout = snn.LI(2, beta=0.8, beta_rank=0, param_dtype=jnp.float64)
        check_equal(snn.Sequential([dense(NEURONS), layer("SLIB"), dense(2), readout]))

    def test_functions_and_modules_without_parameters(self, x64):
        ends = [
            nn.Dropout(0.5, deterministic=True),
            dense(2),
            jax.nn.gelu,
            dense(2),
        ]
        check_equal(snn.Sequential([jnp.tanh, dense(NEURONS, use_bias=False), layer("LIT"), *ends]))

    def test_comparisons_and_integers(self, x64):
        """Nothing goes back through them, and nothing fails."""
        signs = [lambda x: x > 0, lambda x: x.astype(jnp.float64)]
        check_equal(snn.Sequential([*signs, dense(NEURONS), layer("LIB"), dense(2)]))
        network = snn.Sequential([signs[1], dense(3), layer("LIB"), *signs, dense(2)])
        xs, targets = data()
        params = network.init(KEY, None, xs[0])["params"]
        got, _ = online_gradient(network, params, (xs > 0).astype(jnp.int32), targets)
        assert not jnp.any(got["layers_1"]["kernel"]) and jnp.any(got["layers_5"]["kernel"])

    def test_modules_that_have_names(self, x64):
        first = dense(NEURONS, name="first")
        cell = snn.LIB(NEURONS, param_dtype=jnp.float64, name="second")
        check_equal(snn.Sequential([first, cell, dense(2)]))

    def test_nothing_in_front_and_no_batch(self, x64):
        network = snn.Sequential([layer("SRLIB", INPUTS), dense(2)])
        xs, targets = data()
        params = network.init(KEY, None, xs[0])["params"]
        got, _ = online_gradient(network, params, xs[:, 0], targets[:, 0])
        want, _ = batch_gradient(network, params, xs[:, 0], targets[:, 0])
        chex.assert_trees_all_close(got, want, rtol=1e-9, atol=1e-9)

    def test_neurons_along_another_axis_than_the_weights(self, x64):
        cell = layer("LIB", 5, dim=-2)
        network = snn.Sequential([dense(NEURONS), cell, dense(2)])
        xs = 2 * jax.random.normal(KEY, (T, B, 5, INPUTS), jnp.float64)
        targets = jax.random.normal(KEY, (T, B, 5, 2), jnp.float64)
        params = network.init(KEY, None, xs[0])["params"]
        got, _ = online_gradient(network, params, xs, targets)
        want, _ = batch_gradient(network, params, xs, targets)
        chex.assert_trees_all_close(got, want, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("name", ["LIB", "SLIT"])
    def test_one_number_per_input_where_neurons_have_one_decay(self, name, x64):
        decays = {"beta": 0.7, "alpha": 0.4} if name[0] == "S" else {"beta": 0.7}
        cell = layer(name, detach_reset=True, **decays)
        check_equal(snn.Sequential([dense(NEURONS), cell, dense(2)]), "ottt")

    def test_convolutions_with_one_number_per_input(self, x64):
        conv = nn.Conv(NEURONS, (3, 3), param_dtype=jnp.float64, bias_init=nn.initializers.ones)
        cell = snn.LIB(NEURONS, beta=0.7, detach_reset=True, param_dtype=jnp.float64)
        network = snn.Sequential([conv, cell, lambda x: x.mean((-3, -2))])
        xs = 3 * jax.random.normal(KEY, (T, B, 4, 4, 2), jnp.float64)
        targets = jax.random.normal(KEY, (T, B, NEURONS), jnp.float64)
        params = network.init(KEY, None, xs[0])["params"]
        got, _ = online_gradient(network, params, xs, targets, "ottt")
        want, _ = batch_gradient(network, params, xs, targets)
        chex.assert_trees_all_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), [("DLIB", {}), ("LIB", {"reset": "zero"})])
def test_sequences_of_a_batch_do_not_mix(name, options, x64):
    """What neurons share is of their sequence alone, also where it depends on what they get."""
    network = snn.Sequential([dense(NEURONS), layer(name, **options), dense(2)])
    xs, targets = data()
    params = network.init(KEY, None, xs[0])["params"]
    gradient = jax.jit(lambda xs, ys: online_gradient(network, params, xs, ys, "ottt")[0])
    each = [gradient(xs[:, i : i + 1], targets[:, i : i + 1]) for i in range(B)]
    want = jax.tree.map(lambda *leaves: sum(leaves), *each)
    chex.assert_trees_all_close(gradient(xs, targets), want, rtol=1e-9)


def test_two_neurons_by_hand(x64):
    """Each neuron's own decay carries an eligibility on; what the other one does is left out."""
    kernel, beta = np.array([[0.0, 0.5], [-0.4, 0.3]]), np.array([0.9, 0.6])
    cell = snn.LI(2, beta=tuple(beta), ema=False, param_dtype=jnp.float64)
    network = snn.Sequential([snn.Recurrent(cell)])
    xs = np.random.default_rng(0).normal(size=(6, 2))
    params = network.init(KEY, None, xs[0])["params"]
    params["layers_0"]["feedback"]["kernel"] = jnp.asarray(kernel)
    got, outs = online_gradient(network, params, jnp.asarray(xs), jnp.zeros((6, 2)))

    mem, eligibility, of_decay, want, want_decay = np.zeros(2), np.zeros((2, 2)), 0, 0, 0
    for x, out in zip(xs, outs, strict=True):
        eligibility = beta * eligibility + mem[:, None]  # of the weight from row to column
        of_decay = beta * of_decay + mem
        mem = beta * mem + x + mem @ kernel
        np.testing.assert_allclose(out, mem, rtol=1e-12)
        want, want_decay = want + 2 * mem * eligibility, want_decay + 2 * mem * of_decay
    found = got["layers_0"]
    np.testing.assert_allclose(found["feedback"]["kernel"], want, rtol=1e-10)
    raw = beta * (1 - beta)  # the derivative of a sigmoid
    np.testing.assert_allclose(found["cell"]["raw_beta"], want_decay * raw, rtol=1e-10)


def cosine(one, other):
    one, other = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (one, other))
    return one @ other / jnp.linalg.norm(one) / jnp.linalg.norm(other)


@pytest.mark.parametrize("method", ["e-prop", "ottt"])
def test_deep_and_recurrent_networks_go_about_where_backpropagation_goes(method, x64):
    layers = [dense(16), layer("LIB", 16), dense(16), snn.Recurrent(layer("LIB", 16)), dense(2)]
    network = snn.Sequential(layers)
    xs, targets = data(steps=40)
    params = network.init(KEY, None, xs[0])["params"]
    got, outs = online_gradient(network, params, xs, targets, method)
    want, same = batch_gradient(network, params, xs, targets)
    chex.assert_trees_all_close(outs, same, rtol=1e-9)
    chex.assert_trees_all_close(got["layers_4"], want["layers_4"], rtol=1e-9)  # has no past
    for name in ("layers_0", "layers_2", "layers_3"):
        assert cosine(got[name], want[name]) > 0.5, name
    other = online_gradient(network, params, xs, targets, "e-prop")[0]
    assert (method == "e-prop") == bool(cosine(got["layers_0"], other["layers_0"]) > 1 - 1e-9)


def test_what_neurons_share_leaves_out_resets(x64):
    xs, targets = data()
    kernels = {}
    for method in ("e-prop", "ottt"):
        for detached in (True, False):
            cell = layer("LIB", beta=0.7, threshold=0.2, detach_reset=detached)
            network = snn.Sequential([dense(NEURONS), cell, dense(2)])
            params = network.init(KEY, None, xs[0])["params"]
            total, outs = online_gradient(network, params, xs, targets, method)
            kernels[method, detached] = total["layers_0"]["kernel"]
    assert jnp.any(outs[0] != outs[-1])
    chex.assert_trees_all_close(kernels["ottt", True], kernels["ottt", False], rtol=1e-9)
    assert not jnp.allclose(kernels["e-prop", True], kernels["e-prop", False], rtol=1e-3)


def test_memory_does_not_grow_with_the_sequence():
    network = snn.Sequential([nn.Dense(8), snn.Recurrent(snn.SLIB(8)), nn.Dense(2), snn.LI(2)])
    params = network.init(KEY, None, jnp.zeros((B, INPUTS)))["params"]
    init, step = training.online(network)

    def stream(params, steps):
        def advance(t, carry):
            state, total = carry
            x = jax.random.normal(jax.random.fold_in(KEY, t), (B, INPUTS))
            state, out, gradient = step(params, state, x)
            return state, jax.tree.map(jnp.add, total, gradient(out))

        start = init(params, jnp.zeros((B, INPUTS))), jax.tree.map(jnp.zeros_like, params)
        return jax.lax.fori_loop(0, steps, advance, start)

    sizes = [
        jax.jit(stream, static_argnums=1).lower(params, steps).compile().memory_analysis()
        for steps in (10, 1000)
    ]
    assert sizes[0].temp_size_in_bytes == sizes[1].temp_size_in_bytes > 0


def test_nnx_gives_what_linen_gives():
    rngs = nnx.Rngs(0)
    network = tnnx.Sequential(
        [
            nnx.Linear(INPUTS, 3, rngs=rngs),
            tnnx.Recurrent(tnnx.LIB(3, rngs=rngs), rngs=rngs),
            nnx.Linear(3, 2, rngs=rngs),
            tnnx.LI(2, rngs=rngs),
        ]
    )
    linen = snn.Sequential([nn.Dense(3), snn.Recurrent(snn.LIB(3)), nn.Dense(2), snn.LI(2)])
    params = tnnx.to_linen(network)["params"]
    xs, targets = data(dtype=jnp.float32)
    for method in ("e-prop", "ottt"):
        got, outs = online_gradient(network, nnx.state(network, nnx.Param), xs, targets, method)
        want, same = online_gradient(linen, params, xs, targets, method)
        chex.assert_trees_all_close(outs, same, rtol=1e-6)
        assert isinstance(got, nnx.State)
        leaves = got["layers"][1]["feedback"]["kernel"], want["layers_1"]["feedback"]["kernel"]
        chex.assert_trees_all_close(*map(jnp.asarray, leaves), rtol=1e-5)
        chex.assert_trees_all_close(jax.tree.leaves(got), jax.tree.leaves(want), rtol=1e-5)


def test_modules_of_nnx_that_hold_layers():
    rngs = nnx.Rngs(0)
    own = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jnp.tanh, nnx.Linear(4, 2, rngs=rngs))
    network = tnnx.Sequential([nnx.Linear(INPUTS, 3, rngs=rngs), tnnx.LIB(3, rngs=rngs), own])
    ends = [nn.Dense(4), jnp.tanh, nn.Dense(2)]
    linen = snn.Sequential([nn.Dense(3), snn.LIB(3), nn.Sequential(ends)])
    xs, targets = data(dtype=jnp.float32)
    got, _ = online_gradient(network, nnx.state(network, nnx.Param), xs, targets)
    want, _ = online_gradient(linen, tnnx.to_linen(network)["params"], xs, targets)
    chex.assert_trees_all_close(jax.tree.leaves(got), jax.tree.leaves(want), rtol=1e-5)


def test_states_survive_a_checkpoint_and_can_be_donated(tmp_path):
    network = snn.Sequential([nn.Dense(3), snn.SLIB(3), nn.Dense(2), snn.LI(2)])
    xs = jax.random.normal(KEY, (4, B, INPUTS))
    params = network.init(KEY, None, xs[0])["params"]
    init, step = training.online(network)
    state = step(params, init(params, xs[0]), xs[0])[0]
    assert set(state.filtered) >= {"layers_0/kernel", "raw_beta"}
    checkpoint.save(tmp_path / "state", state)
    again = checkpoint.restore(tmp_path / "state", state)
    chex.assert_trees_all_equal(step(params, again, xs[1])[0], step(params, state, xs[1])[0])
    donating = jax.jit(lambda params, state, x: step(params, state, x)[:2], donate_argnums=1)
    new, _ = donating(params, state, xs[1])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, again)


class Bent(nn.Dense):
    """No product of its kernel and its input."""

    def __call__(self, x):
        return jnp.tanh(super().__call__(x))


SAME = nn.Dense(3)


class TestErrors:
    @pytest.mark.parametrize(
        ("layers", "error", "message"),
        [
            ([nn.GRUCell(3)], TypeError, r"`layer.layers\[0\]` must be a trace layer, a Recurrent"),
            (
                [snn.Recurrent(snn.LIB(3), nn.Conv(3, (1,)))],
                TypeError,
                r"`layer.layers\[0\]` must be a Recurrent .* Dense as feedback; got LIB and Conv",
            ),
            ([nn.Dropout(0.5), snn.LIB(3)], TypeError, r"`layer.layers\[0\]` must neither draw"),
            ([nn.BatchNorm(), snn.LIB(3)], TypeError, r"`layer.layers\[0\]` must neither draw"),
            ([nn.Dense(3)], ValueError, "`layer` must hold at least one trace layer"),
            (
                [SAME, snn.LIB(3), SAME, snn.LIB(3)],
                ValueError,
                r"`layer.layers\[2\]` must be a layer of its own; got the Dense .* layers\[0\]",
            ),
            (
                [snn.Recurrent(snn.LIB(3), Bent(3))],
                TypeError,
                r"`layer.layers\[0\]` must be a Recurrent .* Dense as feedback; got LIB and Bent",
            ),
        ],
    )
    def test_networks_that_it_does_not_know(self, layers, error, message):
        with pytest.raises(error, match=message):
            training.online(snn.Sequential(layers))

    def test_an_unknown_method(self):
        with pytest.raises(
            ValueError, match="`method` must be one of 'e-prop', 'ottt'; got 'bptt'"
        ):
            training.online(snn.LIB(3), method="bptt")

    @pytest.mark.parametrize(
        ("first", "method", "message"),
        [
            (nn.Conv(3, (1,)), "e-prop", "unless it is a Dense directly .* got Conv"),
            (Bent(3), "e-prop", "unless it is a Dense directly .* got Bent"),
            (nn.LayerNorm(), "ottt", "unless it is a Dense or a convolution .* got LayerNorm"),
        ],
    )
    def test_parameters_whose_gradient_would_lack_the_past(self, first, method, message):
        network = snn.Sequential([first, snn.LIB(3)])
        x = jnp.zeros((B, 3))
        params = network.init(KEY, None, x)["params"]
        init, _ = training.online(network, method=method)
        with pytest.raises(
            ValueError, match=r"`layer.layers\[0\]` must have no parameters, " + message
        ):
            init(params, x)

    def test_what_does_not_fit_when_called(self):
        network = snn.Sequential([nn.Dense(3), snn.LIB(3), nn.Dense(2)])
        x = jnp.zeros((B, INPUTS))
        variables = network.init(KEY, None, x)
        params = variables["params"]
        init, step = training.online(network)
        state = init(params, x)
        with pytest.raises(
            ValueError, match=r"`params` must be those of the network.*\['params'\]"
        ):
            init(variables, x)
        with pytest.raises(ValueError, match=r"`state` .* this `x`; it has shape \(2, .* of \(1, "):
            step(params, state, x[:1])
        with pytest.raises(
            ValueError, match=re.escape("`d_out` must have the shape of `out`, (2, 2)")
        ):
            step(params, state, x)[2](jnp.zeros(2))
        with pytest.raises(ValueError, match="`params` must .*; it lacks 'layers_0'"):
            init({name: params[name] for name in ("layers_1", "layers_2")}, x)
        with pytest.raises(TypeError, match="`params` must be a tree of arrays; got an array"):
            init(x, x)
        with pytest.raises(TypeError, match="`x` must be an array; got NoneType"):
            init(params, None)
        with pytest.raises(TypeError, match="`d_out` must be an array; got str"):
            step(params, state, x)[2]("1")
        with pytest.raises(TypeError, match="`state` must be .*OnlineState.*; got dict"):
            step(params, state.carry, x)
        assert step(params, state, x.tolist())[1].shape == (2, 2)

    @pytest.mark.parametrize("shape", [(1, 3), (2, 1), (3,)])
    def test_inputs_that_would_broadcast_to_the_feedback(self, shape):
        network = snn.Sequential([snn.Recurrent(snn.LIB(3)), nn.Dense(2)])
        x = jnp.ones((B, 3))
        params = network.init(KEY, None, x)["params"]
        init, step = training.online(network)
        state = init(params, x)
        with pytest.raises(
            ValueError, match="`x` must have .*num_neurons = 3|`state` must be .* this `x`"
        ):
            step(params, state, jnp.ones(shape))

    def test_states_of_another_network_or_method(self):
        network = snn.Sequential([nn.Dense(3), snn.LIB(3), nn.Dense(2), snn.LI(2)])
        x = jnp.zeros((B, INPUTS))
        params = network.init(KEY, None, x)["params"]
        init, step = training.online(network)
        state = init(params, x)
        other = training.online(network, method="ottt")[0](params, x)
        for wrong, message in (
            (state._replace(carry={}), "it lacks 'carry/layers_1/mem'"),
            (state._replace(filtered={}), "it lacks 'filtered/"),
            (state._replace(eligibility={}), "it lacks 'eligibility/layers_1/mem/"),
            (other, "it (has|lacks)"),
        ):
            with pytest.raises(ValueError, match=f"`state` must be what `init` .*; {message}"):
                step(params, wrong, x)

    def test_states_of_another_layer(self):
        """A layer alone is checked as a network is."""
        x = jnp.zeros((B, 3))

        def made(cell):
            init, step = training.online(cell)
            params = cell.init(KEY, cell.initialize_carry(None, x.shape), x)["params"]
            return params, init(params, x), step

        params, state, step = made(snn.LIB(3))
        for wrong, message in (
            (state._replace(carry=None), "it lacks 'carry/mem'"),
            (state._replace(eligibility={}), "it lacks 'eligibility/mem/"),
            (made(snn.SLIB(3))[1], "it has 'carry/syn', which is not in it"),
        ):
            with pytest.raises(ValueError, match=f"`state` must be what `init` .*; {message}"):
                step(params, wrong, x)

    @pytest.mark.parametrize(
        "wrong",
        [{"bias": jnp.zeros(3)}, {"kernel": jnp.zeros((INPUTS, 3)), "scale": jnp.ones(3)}],
    )
    def test_weights_that_a_dense_does_not_have(self, wrong):
        network = snn.Sequential([nn.Dense(3), snn.Recurrent(snn.LIB(3))])
        x = jnp.zeros((B, INPUTS))
        params = network.init(KEY, None, x)["params"]
        init, _ = training.online(network)
        with pytest.raises(ValueError, match="`params` must hold a kernel, .* 'layers_0'; got"):
            init({**params, "layers_0": wrong}, x)
        feedback = {**params["layers_1"], "feedback": wrong}
        with pytest.raises(ValueError, match="`params` must hold a kernel, .*feedback'; got"):
            init({**params, "layers_1": feedback}, x)
        strange = {**params["layers_1"], "other": wrong}
        with pytest.raises(ValueError, match="`params` must hold `cell` and `feedback`"):
            init({**params, "layers_1": strange}, x)
