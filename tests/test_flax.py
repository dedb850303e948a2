"""The layers inside Flax's and JAX's own machinery."""

import copy
import os
import pathlib
import pickle
import subprocess
import sys

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from jax.sharding import PartitionSpec as P

from tracetorch_jax import functional, initializers, snn, spikes
from tracetorch_jax.snn import flex

EACH_LAYER = pytest.mark.parametrize("name", reference.EACH)
KEY = jax.random.key(0)


@pytest.mark.slow
@EACH_LAYER
def test_transformations(name):
    """vmap over sequences, nn.remat, nn.scan, nn.vmap and eval_shape give what the layer gives."""
    layer, variables = reference.scrambled(name)
    cell_variables = reference.under(variables)
    xs = reference.inputs(2, 4, 3)
    model = snn.Unroll(layer)
    want = model.apply(cell_variables, xs)

    mapped = jax.vmap(lambda x: model.apply(cell_variables, x))(xs)
    np.testing.assert_allclose(mapped, want, atol=1e-6)
    rematerialised = nn.remat(type(layer))(3)
    np.testing.assert_allclose(
        snn.Unroll(rematerialised).apply(cell_variables, xs), want, atol=1e-6
    )
    stepped = rematerialised.apply(variables, None, xs[:, 0])[1]
    np.testing.assert_allclose(stepped, want[:, 0], atol=1e-6)

    scanned = nn.scan(
        type(layer),
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
    )(3)
    _, ys = scanned.apply(variables, layer.initialize_carry(None, (2, 3)), xs)
    np.testing.assert_allclose(ys, want, atol=1e-6)

    shape = jax.eval_shape(model.apply, cell_variables, xs)
    assert (shape.shape, shape.dtype) == (want.shape, want.dtype)
    assert "raw_" in layer.tabulate(KEY, None, xs[:, 0], console_kwargs={"width": 200})


@EACH_LAYER
def test_a_population_of_parameters(name):
    """nn.vmap makes independent layers; jax.vmap runs stacked parameters."""
    layer = snn.ALL_LAYERS[name]
    many = nn.vmap(layer, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=(0, 0))(
        3
    )
    carry = jax.tree.map(lambda s: jnp.stack([s] * 4), layer(3).initialize_carry(None, (2, 3)))
    xs = reference.inputs(4, 2, 3)
    variables = many.init(KEY, carry, xs)
    assert all(leaf.shape == (4, 3) for leaf in jax.tree.leaves(variables))
    _, ys = many.apply(variables, carry, xs)
    stacked = jax.vmap(lambda v, c, x: layer(3).apply(v, c, x)[1])(variables, carry, xs)
    np.testing.assert_allclose(ys, stacked, atol=1e-6)


@EACH_LAYER
def test_layers_are_values(name):
    """Hashable and equal by value whatever they were given; usable as static arguments."""
    parameter = next(iter(snn.ALL_LAYERS[name](3).spec.parameters))

    def make(value):
        return snn.ALL_LAYERS[name](3, **{parameter: value})

    array = np.array([0.2, 0.5, 0.7])
    same = [make(array), make(jnp.asarray(array)), make(list(array)), make(tuple(array))]
    assert same[0] == same[2] == same[3] and len(set(map(hash, (same[0], same[2], same[3])))) == 1
    assert make(array) != make(array + 0.1)
    assert make(0.5) != make(np.array(0.5))
    array[0] = 0.9  # what the layer was given is its own
    assert same[0] == same[2]
    twin = same[0].clone()
    assert twin == same[0] and "array([0.2, 0.5, 0.7])" in repr(twin)
    traced = []
    run = jax.jit(lambda layer, x: (traced.append(layer), x)[1], static_argnums=0)
    for layer in same[::2]:
        run(layer, 1.0)
    assert len(traced) == 1


def hashable_things():
    """Equal pairs of what jit caches look up, for this process and for another."""
    arrays = np.array([0.0, 0.5, -1.0]), np.array([-0.0, 0.5, -1.0])
    spikes_ = spikes.bernoulli(spikes.sigmoid(4)), spikes.bernoulli(spikes.sigmoid(4.0))
    types = jnp.float32, np.dtype("float32")
    for array, spike, dtype in zip(arrays, spikes_, types, strict=True):
        layers = [
            snn.LITS(3, pos_scale=array, spike=spike, dtype=dtype, param_dtype=dtype),
            flex.LIB(3, threshold=initializers.half_lives(1, 9), spike=spike),
            snn.DLI(3, pos_beta=(0.5, 0.6, 0.7), param_dtype=dtype),
        ]
        steps = [functional.LayerStep(layer.spec, spike, dtype) for layer in layers]
        assert all(step.spec.parameters and step.spec.states for step in steps)
        weight = flex.Weight(array), flex.Threshold(0.5, spike=spike)
        yield [*layers, snn.Sequential(layers), snn.Unroll(layers[0]), *steps, *weight, spike]


@pytest.mark.slow
def test_equal_things_have_equal_hashes_in_every_process(tmp_path):
    first, second = hashable_things()
    for one, two in zip(first, second, strict=True):
        assert one == two and hash(one) == hash(two), one
    found = pickle.loads(pickle.dumps(first))
    assert found == first and list(map(hash, found)) == list(map(hash, first))
    # Python hashes strings and bytes to other numbers in every process.
    code = (
        "import pickle, sys; sys.path[:0] = 'tests', 'tests/support'; import test_flax\n"
        f"open({str(tmp_path / 'things')!r}, 'wb')"
        ".write(pickle.dumps(next(test_flax.hashable_things())))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "JAX_PLATFORMS": "cpu"}
    root = pathlib.Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=environment)
    for one, two in zip(pickle.loads((tmp_path / "things").read_bytes()), first, strict=True):
        assert one == two and hash(one) == hash(two), one


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.FEW)
def test_initial_values_and_ranks(name):
    """Floats are filled to the rank, arrays bring theirs, initializers get shape and key."""
    names = snn.ALL_LAYERS[name](3).spec.parameters
    for parameter in names:
        cases = [
            ({parameter: 0.4}, (3,), 0.4),
            ({parameter: 0.4, f"{parameter}_rank": 0}, (), 0.4),
            ({parameter: np.float32(0.5)}, (3,), 0.5),
            ({parameter: jnp.array(0.4)}, (), 0.4),
            ({parameter: np.array(0.4), f"{parameter}_rank": 1}, (), 0.4),
            ({parameter: [0.2, 0.4, 0.6], f"{parameter}_rank": 0}, (3,), [0.2, 0.4, 0.6]),
            ({parameter: jax.nn.initializers.constant(0.3)}, (3,), 0.3),
            ({parameter: jax.nn.initializers.constant(0.3), f"{parameter}_rank": 0}, (), 0.3),
        ]
        for kwargs, shape, value in cases:
            layer = snn.ALL_LAYERS[name](3, **kwargs)
            variables = layer.init(KEY, None, jnp.zeros((1, 3)))
            assert variables["params"][f"raw_{parameter}"].shape == shape
            got = layer.apply(variables, method="parameters")[parameter]
            np.testing.assert_allclose(got, np.broadcast_to(value, shape), rtol=1e-5)
            assert got.dtype == jnp.float32
    random = snn.ALL_LAYERS[name](
        64, **{parameter: lambda k, s, d: jax.random.uniform(k, s, d, 0.1, 0.9)}
    )
    seeds = [random.init(jax.random.key(s), None, jnp.zeros((1, 64))) for s in (0, 0, 1)]
    raw = [v["params"][f"raw_{parameter}"] for v in seeds]
    assert (raw[0] == raw[1]).all() and (raw[0] != raw[2]).all()


@EACH_LAYER
def test_constants_are_out_of_sight_of_the_optimiser(name):
    """A non-learnable parameter is not in `params`; the others still train as before."""
    names = list(snn.ALL_LAYERS[name](3).spec.parameters)
    learnable, variables = reference.scrambled(name)
    values = learnable.apply(variables, method="parameters")
    xs = reference.inputs(2, 4, 3)
    want = snn.Unroll(learnable).apply(reference.under(variables), xs)
    for frozen in (names[:1], names):
        kwargs = {f: np.asarray(values[f]) for f in frozen} | {
            f"{f}_learnable": False for f in frozen
        }
        layer = snn.ALL_LAYERS[name](3, **kwargs)
        created = layer.init(KEY, None, xs[:, 0])
        kept = {f"raw_{p}" for p in names if p not in frozen}
        assert set(created.get("params", {})) == kept
        assert set(created) <= {"params"}
        rest = {"params": {k: v for k, v in variables["params"].items() if k in kept}}
        got = snn.Unroll(layer).apply(reference.under(rest), xs)
        np.testing.assert_allclose(got, want, atol=1e-5)
    everything = layer.apply({}, method="parameters")
    reference.assert_trees_close(everything, values, 1e-6)


@EACH_LAYER
def test_constant_decays_may_be_exactly_0_or_1(name):
    names = snn.ALL_LAYERS[name](3).spec.parameters
    decays = [p for p, constraint in names.items() if constraint.name == "sigmoid"]
    fixed = {f"{decay}_learnable": False for decay in decays}
    for value in (0.0, 1.0, 0, 1):
        layer = snn.ALL_LAYERS[name](3, **dict.fromkeys(decays, value), **fixed)
        variables = layer.init(KEY, None, jnp.ones((1, 3)))
        got = layer.apply(variables, method="parameters")
        assert decays and all((got[decay] == value).all() for decay in decays)
        ys = snn.Unroll(layer).apply(reference.under(variables), reference.inputs(2, 4, 3))
        assert np.isfinite(ys).all()


def test_an_integrator_without_leak_sums():
    layer = snn.LI(1, beta=1.0, beta_learnable=False, ema=False)
    ys = snn.Unroll(layer).apply({}, jnp.ones((1, 5, 1)))
    assert ys[0, :, 0].tolist() == [1, 2, 3, 4, 5]


@EACH_LAYER
def test_partitioning_metadata_stays_around_raw_parameters(name):
    parameter = next(iter(snn.ALL_LAYERS[name](3).spec.parameters))
    boxed = nn.with_partitioning(jax.nn.initializers.constant(0.4), ("model",))
    layer = snn.ALL_LAYERS[name](3, **{parameter: boxed})
    variables = layer.init(KEY, None, jnp.ones((1, 3)))
    box = variables["params"][f"raw_{parameter}"]
    assert isinstance(box, nn.Partitioned) and box.names == ("model",)
    assert nn.get_partition_spec(variables)["params"][f"raw_{parameter}"] == P("model")
    plain = snn.ALL_LAYERS[name](3, **{parameter: 0.4})
    want = plain.apply(plain.init(KEY, None, jnp.ones((1, 3))), None, jnp.ones((1, 3)))
    reference.assert_trees_close(layer.apply(variables, None, jnp.ones((1, 3))), want, 1e-6)


@pytest.mark.parametrize("lengths", [None, [4, 2]])
def test_bidirectional(lengths):
    xs = reference.inputs(2, 4, 3)
    lengths = None if lengths is None else jnp.array(lengths)
    model = nn.Bidirectional(snn.Unroll(snn.SLIB(3)), snn.Unroll(snn.LI(3)))
    ys, variables = model.init_with_output(KEY, xs, seq_lengths=lengths)
    assert ys.shape == (2, 4, 6)
    backward = snn.Unroll(snn.LI(3), reverse=True, keep_order=True)
    want = backward.apply({"params": variables["params"]["backward_rnn"]}, xs, seq_lengths=lengths)
    np.testing.assert_allclose(ys[..., 3:], want, atol=1e-6)


class Classifier(nn.Module):
    """Layers as attributes and inside compact methods of a user's own model."""

    hidden: nn.RNNCellBase
    train: bool = False

    @nn.compact
    def __call__(self, xs):
        xs = nn.Dense(3)(xs)
        xs = snn.Unroll(self.hidden)(xs)
        xs = nn.Dropout(0.5, deterministic=not self.train)(xs)
        return snn.Unroll(readout(type(self.hidden)))(xs).mean(axis=1)


def readout(hidden):
    """A stack for one of the layers, which is enough; a leaky average for the others."""
    if hidden is snn.SRLITS:
        return snn.Sequential([nn.Dense(4), snn.LIB(4), nn.Dense(2), snn.LI(2)])
    return snn.Sequential([nn.Dense(2), snn.LI(2)])


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.FEW)
def test_training_a_users_model_with_optax(name):
    model = Classifier(snn.ALL_LAYERS[name](3), train=True)
    xs = reference.inputs(8, 6, 5) * 4
    labels = jnp.arange(8) % 2
    params = model.init({"params": KEY, "dropout": KEY}, xs)["params"]
    optimiser = optax.adam(3e-2)

    @jax.jit
    def train(params, key):
        def update(state, key):
            def loss(params):
                logits = model.apply({"params": params}, xs, rngs={"dropout": key})
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            params, state = state
            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = optimiser.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), (value, gradients)

        return jax.lax.scan(update, (params, optimiser.init(params)), jax.random.split(key, 60))

    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        _, (losses, gradients) = train(params, KEY)
    assert np.isfinite(losses).all()
    assert losses[-10:].mean() < 0.9 * losses[:3].mean()
    for path, g in jax.tree.leaves_with_path(gradients):
        idle = name.endswith("B") and ("neg_gamma" in str(path) or "neg_rec_weight" in str(path))
        assert (float(jnp.abs(g).sum()) > 0) or idle or "gamma" in str(path), path


@EACH_LAYER
def test_checkpoints_round_trip(name):
    layer, variables = reference.scrambled(name)
    carry, _ = layer.apply(variables, None, reference.inputs(2, 3))
    blank = layer.init(KEY, None, jnp.zeros((2, 3)))
    restored = flax.serialization.from_bytes(blank, flax.serialization.to_bytes(variables))
    reference.assert_trees_close(restored, variables, 0)
    again = flax.serialization.from_bytes(
        layer.initialize_carry(None, (2, 3)), flax.serialization.to_bytes(carry)
    )
    reference.assert_trees_close(again, carry, 0)


def stack():
    return snn.Sequential(
        [
            nn.Dense(5),
            snn.DSRLITS(5),
            nn.LayerNorm(),
            lambda x: 2 * x,
            snn.Sequential([nn.Dense(4), snn.RLIB(4, threshold=0.3)]),
            nn.GRUCell(3),
            nn.BatchNorm(use_running_average=True),
            snn.LI(3),
        ]
    )


def flatten(x):
    return x.reshape(x.shape[0], -1)


def pool(x):
    return nn.max_pool(x, (2, 2), (2, 2))


class TestSequential:
    @pytest.mark.slow
    def test_streaming_is_unrolling(self):
        """Values, carries and gradients of a deep stack: steps, Unroll, nn.RNN, chunks."""
        model, xs = stack(), reference.inputs(2, 3, 6) * 3
        variables = snn.Unroll(model).init(KEY, xs)
        inner = reference.inner(variables)

        def steps(variables, xs):
            carry, ys = model.initialize_carry(None, (2, 6)), []
            for t in range(3):
                carry, y = model.apply(variables, carry, xs[:, t])
                ys.append(y)
            return carry, jnp.stack(ys, 1)

        def unrolled(variables, xs):
            cell = reference.under(variables)
            return snn.Unroll(model, return_carry=True).apply(cell, xs)

        def rnn(variables, xs):
            cell = reference.under(variables)
            broadcast = ["params", "batch_stats"]
            return nn.RNN(model, return_carry=True, variable_broadcast=broadcast).apply(cell, xs)

        def chunks(variables, xs):
            cell = reference.under(variables)
            run = snn.Unroll(model, return_carry=True)
            carry, first = run.apply(cell, xs[:, :2])
            carry, rest = run.apply(cell, xs[:, 2:], carry)
            return carry, jnp.concatenate([first, rest], 1)

        want = jax.jit(lambda *a: reference.value_and_grads(steps, *a))(inner, xs)
        for way in (unrolled, rnn, chunks):
            got = jax.jit(lambda *a, way=way: reference.value_and_grads(way, *a))(inner, xs)
            reference.assert_trees_close(got, want, 1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [(2, 0, 6), (0, 3, 6), (2, 1, 6), (4, 6)])
    def test_empty_single_and_without_a_batch_axis(self, shape):
        model = snn.Unroll(stack())
        variables = model.init(KEY, jnp.ones((2, 5, 6)))
        ys = model.apply(variables, jnp.ones(shape))
        assert ys.shape == (*shape[:-1], 3) and np.isfinite(ys).all()

    def test_is_a_value(self):
        def make(beta):
            return snn.Sequential([nn.Dense(3), snn.LIB(3, beta=[beta, 0.5, 0.6])])

        assert make(0.4) == make(0.4) != make(0.3)
        assert hash(make(0.4)) == hash(make(0.4))
        assert hash(snn.Unroll(make(0.4))) == hash(snn.Unroll(make(0.4)))
        assert copy.deepcopy(make(0.4)) == make(0.4)
        layer = make(0.4).layers[1]
        assert pickle.loads(pickle.dumps(layer)) == layer

    @pytest.mark.slow
    @pytest.mark.parametrize("transform", [nn.remat, nn.jit])
    def test_transformed_as_a_whole(self, transform):
        xs = reference.inputs(2, 5, 3) * 2
        cell = snn.Sequential([nn.Dense(4), snn.SLIB(4, threshold=0.2)])
        want, variables = snn.Unroll(cell).init_with_output(KEY, xs)
        model = transform(snn.Unroll)(cell)
        chex.assert_trees_all_equal_shapes(model.init(KEY, xs), variables)
        reference.assert_trees_close(model.apply(variables, xs), want, 1e-6)

    def test_carry_shows_every_cell(self):
        carry = stack().initialize_carry(None, (2, 6))
        assert set(carry) == {"layers_1", "layers_4", "layers_5", "layers_7"}
        assert set(carry["layers_4"]["layers_1"]) == {"mem", "rec", "prev_output"}
        assert carry["layers_4"]["layers_1"]["mem"].shape == (2, 4)
        assert carry["layers_7"]["mem"].shape == (2, 3)

    def test_a_dense_layer_runs_once_over_the_sequence(self):
        model = snn.Unroll(snn.Sequential([nn.Dense(4), snn.LIB(4)]))
        variables = model.init(KEY, jnp.ones((2, 5, 3)))
        jaxpr = jax.make_jaxpr(model.apply)(variables, jnp.ones((2, 5, 3)))
        shapes = [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == "dot_general"]
        assert shapes == [(5, 2, 4)]

    @pytest.mark.slow
    @pytest.mark.parametrize("channels_last", [True, False])
    def test_images(self, channels_last):
        if channels_last:
            layers = [
                nn.Conv(4, (3, 3)),
                snn.LIB(4, threshold=0.1),
                pool,
                flatten,
                nn.Dense(2),
                snn.LI(2),
            ]
            xs = reference.inputs(2, 3, 4, 6, 1)
        else:
            layers = [snn.SLIB(2, dim=-3, threshold=0.1), flatten, nn.Dense(2), snn.LI(2)]
            xs = reference.inputs(2, 3, 2, 4, 6)
        model = snn.Sequential(layers)
        assert model.num_feature_axes == 3
        ys, variables = snn.Unroll(model).init_with_output(KEY, xs)
        assert ys.shape == (2, 3, 2)
        inner = reference.inner(variables)
        carry = model.initialize_carry(None, xs[:, 0].shape)
        for t in range(3):
            carry, y = model.apply(inner, carry, xs[:, t])
            np.testing.assert_allclose(y, ys[:, t], atol=1e-5)

    def test_a_convolution_with_a_number_for_its_kernel(self):
        model = snn.Sequential([nn.Conv(4, 3), snn.LIB(4, threshold=0.1)])
        assert model.num_feature_axes == 2
        xs = reference.inputs(2, 3, 6, 1)
        ys, variables = snn.Unroll(model).init_with_output(KEY, xs)
        alone = snn.Unroll(model).apply(variables, xs[0])
        np.testing.assert_allclose(alone, ys[0], atol=1e-6)

    @pytest.mark.slow
    def test_modules_that_look_at_the_batch_axis(self):
        """GroupNorm normalises each sample by itself, in a sequence as in a step."""
        model = snn.Sequential([nn.GroupNorm(2), snn.LI(4)])
        xs = reference.inputs(2, 5, 4)
        ys, variables = snn.Unroll(model).init_with_output(KEY, xs)
        inner = reference.inner(variables)
        _, y = model.apply(inner, None, xs[:, 0])
        np.testing.assert_allclose(y, ys[:, 0], atol=1e-5)

    @pytest.mark.slow
    def test_tokens(self):
        model = snn.Sequential([nn.Embed(11, 4), snn.SLIB(4), nn.Dense(11), snn.LI(11)])
        xs = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 5)))
        ys, variables = snn.Unroll(model).init_with_output(KEY, xs)
        assert ys.shape == (2, 5, 11)
        inner = reference.inner(variables)
        carry = model.initialize_carry(None, (2,))
        assert carry["layers_1"]["mem"].shape == (2, 4)
        for t in range(5):
            carry, y = model.apply(inner, carry, xs[:, t])
            np.testing.assert_allclose(y, ys[:, t], atol=1e-5)

    def test_padding_stays_out_of_batch_statistics(self):
        model = snn.Unroll(snn.Sequential([nn.BatchNorm(use_running_average=False), snn.LI(3)]))
        xs, lengths = reference.inputs(2, 5, 3), jnp.array([5, 2])
        dirty = xs.at[1, 2:].set(1e6)
        variables = model.init(KEY, xs)
        clean, dirty = (
            model.apply(variables, x, seq_lengths=lengths, mutable=["batch_stats"])
            for x in (xs, dirty)
        )
        reference.assert_trees_close(dirty, clean, 1e-6)

    def test_padding_is_zero_behind_a_dense_layer(self):
        model = snn.Unroll(snn.Sequential([snn.LI(3), nn.Dense(2, bias_init=nn.initializers.ones)]))
        xs, lengths = reference.inputs(2, 5, 3), jnp.array([5, 2])
        dirty = xs.at[1, 2:].set(jnp.nan)
        variables = model.init(KEY, xs)

        def run(variables, xs):
            return model.apply(variables, xs, seq_lengths=lengths)

        ys, (gradients, d_xs) = reference.value_and_grads(run, variables, dirty)
        assert float(jnp.abs(ys[1, 2:]).sum()) == 0 and float(jnp.abs(d_xs[1, 2:]).sum()) == 0
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))

    def test_leading_padding_of_nan_through_a_dense_layer_first(self):
        model = snn.Unroll(snn.Sequential([nn.Dense(3), snn.LI(3)]))
        xs, lengths = reference.inputs(2, 5, 3), jnp.array([5, 2])
        dirty = xs.at[1, 2:].set(jnp.nan)
        variables = model.init(KEY, xs)

        def run(variables, xs):
            return model.apply(variables, xs, seq_lengths=lengths)

        clean = reference.value_and_grads(run, variables, xs.at[1, 2:].set(0.0))
        got = reference.value_and_grads(run, variables, dirty)
        reference.assert_trees_close(got, clean, 1e-6)

    def test_dropout_differs_per_step(self):
        model = snn.Unroll(
            snn.Sequential([nn.Dropout(0.5, deterministic=False), snn.LI(50, beta=1e-6)])
        )
        ys = model.apply(
            model.init({"params": KEY, "dropout": KEY}, jnp.ones((1, 4, 50))),
            jnp.ones((1, 4, 50)), rngs={"dropout": KEY},
        )  # fmt: skip
        assert len(np.unique(np.asarray(ys[0]).round(3), axis=0)) == 4

    def test_dropout_that_is_shared_is_shared_within_the_batch(self):
        dropout = nn.Dropout(0.5, broadcast_dims=(0,), deterministic=False)
        model = snn.Unroll(snn.Sequential([dropout, snn.LI(50)]))
        xs, rngs = jnp.ones((2, 4, 50)), {"params": KEY, "dropout": KEY}
        ys, _ = model.init_with_output(rngs, xs)
        np.testing.assert_array_equal(ys[0], ys[1])

    def test_a_stochastic_stack(self):
        model = snn.Unroll(
            snn.Sequential([nn.Dense(8), snn.LIB(8, spike=spikes.bernoulli()), nn.Dense(2)])
        )
        xs = jnp.full((2, 5, 3), 0.1)
        variables = model.init({"params": KEY, "spike": KEY}, xs)
        one = model.apply(variables, xs, rngs={"spike": KEY})
        np.testing.assert_array_equal(one, model.apply(variables, xs, rngs={"spike": KEY}))
        assert len(np.unique(np.asarray(one).reshape(10, 2).round(4), axis=0)) > 5
