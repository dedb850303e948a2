"""The nnx front end: what linen's gives, to the last bit."""

import copy
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

from tracetorch_jax import functional, snn, spikes, training
from tracetorch_jax import nnx as tt

EACH_LAYER = pytest.mark.parametrize("name", reference.EACH)
KEY = jax.random.key(0)


def pair(name, num_neurons=3, **kwargs):
    """A layer in linen, its variables, and the same one in nnx."""
    layer, variables = reference.scrambled(name, num_neurons, **kwargs)
    same = getattr(tt, name)(num_neurons, **kwargs)
    return layer, variables, tt.from_linen(variables, same)


def rngs():
    return nnx.Rngs(0)


def weighted(run, inputs):
    """A scalar that depends on every output: something to differentiate."""
    return lambda model, xs: sum(
        (leaf * reference.inputs(*leaf.shape, seed=i)).sum()
        for i, leaf in enumerate(jax.tree.leaves(run(model, xs)))
    )


@pytest.mark.parametrize(
    ("name", "lengths"),
    [pytest.param(*each.values, None, marks=each.marks) for each in reference.FEW]
    + [(name, (4, 2)) for name in ("LI", "SLIB", "DSRLITS")],
)
def test_bit_equal_to_linen(name, lengths):
    """Values, states and every gradient, of a sequence and of a step."""
    layer, variables, same = pair(name)
    xs = reference.inputs(2, 4, 3)
    lengths = None if lengths is None else jnp.array(lengths)

    def in_linen(params, xs):
        model = snn.Unroll(layer, return_carry=True)
        return model.apply({"params": {"cell": params}}, xs, seq_lengths=lengths)

    def in_nnx(model, xs):
        return tt.Unroll(model, return_carry=True)(xs, seq_lengths=lengths)

    want = in_linen(variables["params"], xs)
    reference.assert_trees_close(in_nnx(same, xs), want, 0)
    d_params, d_xs = jax.grad(weighted(in_linen, xs), (0, 1))(variables["params"], xs)
    d_model, d_xs_too = nnx.grad(weighted(in_nnx, xs), argnums=(0, 1))(same, xs)
    reference.assert_trees_close(dict(nnx.to_pure_dict(d_model)), d_params, 0)
    np.testing.assert_array_equal(d_xs_too, d_xs)

    if lengths is None:
        carry, y = same(None, xs[:, 0])
        want_carry, want_y = layer.apply(variables, None, xs[:, 0])
        reference.assert_trees_close((carry, y), (want_carry, want_y), 0)
        reference.assert_trees_close(same(carry, xs[:, 1]), same(want_carry, xs[:, 1]), 0)


@EACH_LAYER
def test_inside_flax(name):
    """nnx.RNN, nnx.jit, nnx.vmap over a population, nnx.eval_shape, copies, split and merge."""
    _, _, layer = pair(name)
    xs = reference.inputs(2, 4, 3)
    want = tt.Unroll(layer)(xs)
    np.testing.assert_allclose(nnx.RNN(layer)(xs), want, atol=1e-6)

    graph, state = nnx.split(layer)
    np.testing.assert_array_equal(tt.Unroll(nnx.merge(graph, state))(xs), want)
    np.testing.assert_array_equal(tt.Unroll(copy.deepcopy(layer))(xs), want)

    traced = 0

    @nnx.jit
    def run(model, xs):
        nonlocal traced
        traced += 1
        return tt.Unroll(model)(xs)

    np.testing.assert_allclose(run(layer, xs), want, atol=1e-6)
    run(layer, xs + 1)
    assert traced == 1

    many = nnx.vmap(lambda _: getattr(tt, name)(3), in_axes=0)(jnp.arange(4))
    assert all(leaf.shape == (4, 3) for leaf in jax.tree.leaves(nnx.state(many, nnx.Param)))
    ys = nnx.vmap(lambda model, x: model(None, x)[1], in_axes=(0, None))(many, xs[:, 0])
    np.testing.assert_array_equal(ys[2], getattr(tt, name)(3)(None, xs[:, 0])[1])

    abstract = nnx.eval_shape(lambda: getattr(tt, name)(3))
    assert {leaf.shape for leaf in jax.tree.leaves(nnx.state(abstract))} == {(3,)}


@pytest.mark.parametrize("name", reference.LAYERS)
def test_same_arguments_parameters_and_documentation(name):
    ours, linens = getattr(tt, name), snn.ALL_LAYERS[name]
    fields = {f.name: f.default for f in dataclasses.fields(linens)}
    del fields["parent"], fields["name"]
    assert {f.name: f.default for f in dataclasses.fields(ours)} == fields | {"rngs": None}
    assert [base.__name__ for base in ours.__bases__] == [b.__name__ for b in linens.__bases__]
    assert tt.ALL_LAYERS[name] is ours

    assert linens.__doc__.startswith(ours.__doc__.split("\n\n")[0])

    layer = ours(3)
    raw = {f"raw_{p}" for p in layer.spec.parameters}
    assert set(nnx.to_pure_dict(nnx.state(layer))) == raw  # and no other variable
    fixed = {f"{p}_learnable": False for p in layer.spec.parameters}
    assert not nnx.to_pure_dict(nnx.state(ours(3, **fixed)))


@EACH_LAYER
def test_flex_is_the_named_layer(name):
    _, variables, layer = pair(name)
    xs = reference.inputs(2, 4, 3)
    flex = getattr(tt.flex, name)(3)
    assert isinstance(flex, tt.flex.LeakyIntegrator)
    raw = {key.replace("raw_", ""): v for key, v in variables["params"].items()}
    for key in nnx.to_pure_dict(nnx.state(flex)):
        getattr(flex, key)[...] = raw[key.removeprefix("raw_")]
    np.testing.assert_array_equal(tt.Unroll(flex)(xs), tt.Unroll(layer)(xs))


class TestArguments:
    """Errors are those of linen, whose words these are."""

    @pytest.mark.parametrize(
        "arguments",
        [
            {"num_neurons": 0},
            {"num_neurons": 2.5},
            {"dim": 1},
            {"beta": 1.5},
            {"beta": [0.5, 0.9]},
            {"beta": np.full((3, 1), 0.5)},
            {"beta": "0.9"},
            {"beta_rank": 2},
            {"beta_learnable": 1},
            {"threshold": 0.0},
            {"treshold": 1.0},
            {"spike": 3},
            {"dtype": int},
            {"param_dtype": None},
        ],
        ids=str,
    )
    def test_bad_ones(self, arguments):
        arguments = {"num_neurons": 3} | arguments
        with pytest.raises((TypeError, ValueError)) as linens:
            snn.LIB(**arguments)
        with pytest.raises(linens.type) as ours:
            tt.LIB(**arguments)
        assert str(ours.value).replace(", rngs", "") == str(linens.value)

    def test_by_position(self):
        with pytest.raises(TypeError, match="only `num_neurons` by position"):
            tt.LIB(3, 0.9)
        with pytest.raises(TypeError, match="needs `num_neurons`"):
            tt.LIB()

    @pytest.mark.parametrize(
        "value", [0.5, (0.2, 0.5, 0.7), np.array([0.2, 0.5, 0.7]), jnp.array([0.2, 0.5, 0.7])]
    )
    def test_values_start_parameters_and_are_static(self, value):
        layer = tt.SLIB(3, beta=value)
        np.testing.assert_allclose(layer.parameters()["beta"], value, rtol=1e-6)
        assert set(nnx.to_pure_dict(nnx.state(layer))) == {
            "raw_alpha", "raw_beta", "raw_threshold"
        }  # fmt: skip
        assert nnx.graphdef(layer) == nnx.graphdef(tt.SLIB(3, beta=value))
        hash(nnx.graphdef(layer))

    def test_initializers(self):
        def init(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, 0.2, 0.8)

        layer = tt.LIB(3, beta=init, rngs=rngs())
        beta = layer.parameters()["beta"]
        assert len(set(beta.tolist())) == 3 and 0.2 < beta.min() < beta.max() < 0.8
        other = tt.LIB(3, beta=init, rngs=nnx.Rngs(1)).parameters()["beta"]
        assert not jnp.array_equal(beta, other)
        with pytest.raises(ValueError, match="`rngs` is needed for the initializer of `beta`"):
            tt.LIB(3, beta=init)
        with pytest.raises(ValueError, match="its initializer must return shape"):
            tt.LIB(3, beta=lambda key, shape, dtype: jnp.ones((2,)), rngs=rngs())
        with pytest.raises(TypeError, match=r"`rngs` must be an nnx\.Rngs.*got 3"):
            tt.LIB(3, rngs=3)

    def test_initializers_say_where_parameters_lie(self):
        init = nnx.with_partitioning(lambda key, shape, dtype: jnp.full(shape, 0.5), ("model",))
        with jax.set_mesh(jax.make_mesh((1,), ("model",))):
            layer = tt.LIB(4, beta=init, rngs=rngs())
        assert "model" in str(layer.raw_beta.get_metadata())
        np.testing.assert_allclose(layer.parameters()["beta"], 0.5, rtol=1e-6)

    def test_calls(self):
        layer = tt.SLIB(3)
        with pytest.raises(ValueError, match="num_neurons = 3 at axis -1 for SLIB; got 1"):
            layer(None, jnp.ones((2, 1)))
        with pytest.raises(ValueError, match="it lacks 'syn'"):
            layer({"mem": jnp.ones((2, 3))}, jnp.ones((2, 3)))
        with pytest.raises(TypeError, match="cell must be a cell|`cell` must be a cell"):
            tt.Unroll(nnx.Linear(2, 2, rngs=rngs()))
        with pytest.raises(ValueError, match="`engine` must be one of"):
            tt.Unroll(layer, engine="fast")


class TestRandomSpikes:
    def test_differ_per_step_and_call(self):
        layer = tt.LIB(50, spike=spikes.bernoulli(spikes.sigmoid(4.0)), rngs=rngs())
        xs = jnp.full((1, 4, 50), 0.5)
        first, second = tt.Unroll(layer)(xs), tt.Unroll(layer)(xs)
        assert not jnp.array_equal(first, second)
        assert not jnp.array_equal(first[:, 1], first[:, 2])
        again = tt.LIB(50, spike=spikes.bernoulli(spikes.sigmoid(4.0)), rngs=rngs())
        np.testing.assert_array_equal(tt.Unroll(again)(xs), first)

    def test_advance_under_jit(self):
        layer = tt.LIB(50, spike=spikes.bernoulli(spikes.sigmoid(4.0)), rngs=rngs())
        run = nnx.jit(lambda layer, x: layer(None, x)[1])
        x = jnp.full((1, 50), 0.5)
        assert not jnp.array_equal(run(layer, x), run(layer, x))

    def test_need_random_numbers(self):
        with pytest.raises(ValueError, match="`rngs` is needed for the stochastic spikes of LIB"):
            tt.LIB(3, spike=spikes.bernoulli(spikes.sigmoid(4.0)))


def dense(features_in, features_out):
    return nnx.Linear(features_in, features_out, rngs=rngs())


class TestStacks:
    @pytest.mark.slow
    def test_is_the_stack_of_linen(self):
        linens = snn.Sequential(
            [
                nn.Dense(4),
                snn.SRLITS(4),
                jnp.tanh,
                snn.Residual([nn.Dense(4), snn.LIB(4)]),
                snn.Residual([nn.Dense(3), snn.LI(3)], merge="concatenate"),
            ]
        )
        stack = tt.Sequential(
            [
                dense(2, 4),
                tt.SRLITS(4),
                jnp.tanh,
                tt.Residual([dense(4, 4), tt.LIB(4)]),
                tt.Residual([dense(4, 3), tt.LI(3)], merge="concatenate"),
            ]
        )
        xs = 3 * reference.inputs(2, 6, 2)
        lengths = jnp.array([6, 3])
        variables = snn.Unroll(linens).init(KEY, xs)
        model = tt.from_linen(variables, tt.Unroll(stack, return_carry=True))
        want = snn.Unroll(linens, return_carry=True).apply(variables, xs, seq_lengths=lengths)
        reference.assert_trees_close(model(xs, seq_lengths=lengths), want, 1e-6)
        reference.assert_trees_close(tt.to_linen(model), dict(variables), 0)
        carry = stack.initialize_carry((2, 2))
        reference.assert_trees_close(carry, linens.initialize_carry(None, (2, 2)), 0)

        for t in range(6):
            carry, y = stack(carry, xs[:, t])
            np.testing.assert_allclose(y, model(xs)[1][:, t], atol=1e-6)

    @pytest.mark.slow
    def test_convolutions_batch_norm_and_dropout(self):
        def network():
            keys = rngs()
            return tt.Sequential(
                [
                    nnx.Conv(1, 3, (3, 3), rngs=keys),
                    nnx.BatchNorm(3, rngs=keys),
                    tt.LIB(3, threshold=0.2),
                    nnx.Dropout(0.5, rngs=keys),
                    functools.partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2)),
                    lambda x: x.reshape(*x.shape[:-3], -1),
                    nnx.Linear(12, 2, rngs=keys),
                    tt.LI(2),
                ],
                feature_axes=3,
            )

        xs = reference.inputs(2, 3, 4, 4, 1)
        model = tt.Unroll(network())
        with jax.numpy_rank_promotion("allow"):  # Flax's own normalisation relies on it
            model.train()
            first, second = model(xs), model(xs)
            assert first.shape == (2, 3, 2) and not jnp.array_equal(first, second)
            mean = model.cell.layers[1].mean[...]
            assert float(jnp.abs(mean).sum()) > 0  # has been measured
            model.eval()
            ys = model(xs)
            np.testing.assert_array_equal(model(xs), ys)
            carry = model.cell.initialize_carry((2, 4, 4, 1))
            for t in range(3):
                carry, y = model.cell(carry, xs[:, t])
                np.testing.assert_allclose(y, ys[:, t], atol=1e-5)
            np.testing.assert_array_equal(model.cell.layers[1].mean[...], mean)
            variables = tt.to_linen(model)
            np.testing.assert_array_equal(
                variables["batch_stats"]["cell"]["layers_1"]["mean"], mean
            )
            again = tt.from_linen(variables, tt.Unroll(network()))
            again.eval()
            np.testing.assert_array_equal(again(xs), ys)

    def test_padding_is_left_out_of_batch_norm(self):
        model = tt.Unroll(tt.Sequential([nnx.BatchNorm(2, rngs=rngs()), tt.LI(2)]))
        xs = reference.inputs(2, 4, 2)
        spoilt = xs.at[1, 2:].set(1e6)
        lengths = jnp.array([4, 2])
        with jax.numpy_rank_promotion("allow"):
            model(spoilt, seq_lengths=lengths)
        valid = jnp.concatenate([xs[0], xs[1, :2]])
        np.testing.assert_allclose(
            model.cell.layers[0].mean[...], 0.01 * valid.mean(axis=0), atol=1e-6
        )

    @pytest.mark.slow
    def test_cells_of_flax(self):
        gru = nnx.GRUCell(3, 5, rngs=rngs())
        xs = reference.inputs(2, 4, 3)
        lengths = jnp.array([4, 2])
        carry, ys = tt.Unroll(gru, return_carry=True)(xs, seq_lengths=lengths)
        want_carry, want = nnx.RNN(gru, return_carry=True)(xs, seq_lengths=lengths)
        np.testing.assert_allclose(carry, want_carry, atol=1e-6)
        np.testing.assert_allclose(ys[0], want[0], atol=1e-6)
        assert not ys[1, 2:].any()
        stack = tt.Sequential([gru, tt.LI(5)])
        assert sorted(stack.initialize_carry((2, 3), rngs())) == ["layers_0", "layers_1"]
        last, _ = tt.Unroll(stack, return_carry=True)(xs)
        assert last["layers_0"].shape == (2, 5)
        with pytest.raises(ValueError, match="'fused' is for trace layers; GRUCell is none"):
            tt.Unroll(gru, engine="fused")(xs)

    def test_cells_of_ones_own(self):
        class Counting(nnx.RNNCellBase):
            num_feature_axes = 1

            def __init__(self):
                self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

            def __call__(self, carry, x):
                self.calls[...] += 1
                return carry, x

            def initialize_carry(self, input_shape, rngs):
                return jax.random.normal(rngs.carry(), input_shape)

        cell = Counting()
        tt.Unroll(cell)(jnp.ones((2, 4, 3)))
        assert cell.calls[...] == 4
        one, other = (
            tt.Sequential([cell]).initialize_carry((2, 3), nnx.Rngs(seed)) for seed in (0, 1)
        )
        assert not jnp.array_equal(one["layers_0"], other["layers_0"])

    def test_bad_ones(self):
        with pytest.raises(TypeError, match="`layers` must be a list"):
            tt.Sequential(tt.LIB(3))
        with pytest.raises(ValueError, match="at least one layer"):
            tt.Sequential([])
        with pytest.raises(TypeError, match=r"`layers\[0\]` must be a cell, not Unroll"):
            tt.Sequential([tt.Unroll(tt.LIB(3))])
        with pytest.raises(TypeError, match=r"`layers\[0\]` must be a cell, not RNN"):
            tt.Sequential([nnx.RNN(tt.LIB(3))])
        with pytest.raises(ValueError, match="`merge` must be one of"):
            tt.Residual([tt.LIB(3)], merge="multiply")
        with pytest.raises(ValueError, match="must give what they get"):
            tt.Residual([dense(3, 2)])(None, jnp.ones((1, 3)))


def half(key, shape, dtype):
    return jnp.full(shape, 0.5, dtype)


class TestConversion:
    def test_names_what_does_not_fit(self):
        model = tt.Unroll(tt.Sequential([dense(2, 3), tt.LIB(3)]))
        before = tt.to_linen(model)
        params = tt.to_linen(model)["params"]["cell"]
        del params["layers_0"]["bias"]
        params["layers_1"]["raw_beta"] = jnp.ones(4)
        params["layers_2"] = {"raw_beta": jnp.ones(3)}
        with pytest.raises(ValueError) as error:
            tt.from_linen({"params": {"cell": params}}, model)
        for problem in (
            "lacks 'params/cell/layers_0/bias'",
            "has unknown 'params/cell/layers_2/raw_beta'",
            "has 'params/cell/layers_1/raw_beta' as float32[4] instead of float32[3]",
        ):
            assert problem in str(error.value)
        reference.assert_trees_close(tt.to_linen(model), before, 0)

    def test_types_and_boxes(self):
        xs = jnp.ones((1, 2, 3))
        linens = snn.Unroll(snn.LIB(3, beta=nn.with_partitioning(half, ("neurons",))))
        variables = linens.init(KEY, xs)
        model = tt.from_linen(variables, tt.Unroll(tt.LIB(3)))
        np.testing.assert_allclose(model.cell.parameters()["beta"], 0.5)
        narrow = jax.tree.map(lambda x: x.astype(jnp.float16), variables)
        with pytest.raises(ValueError, match=r"raw_beta' as float16\[3\] instead of float32\[3\]"):
            tt.from_linen(narrow, model)

    def test_modules_of_ones_own(self):
        class InLinen(nn.Module):
            def setup(self):
                self.read = nn.Dense(4)
                self.blocks = [snn.Unroll(snn.LIB(4)), snn.Unroll(snn.LI(4))]

            def __call__(self, xs):
                return self.blocks[1](self.blocks[0](self.read(xs)))

        class InNnx(nnx.Module):
            def __init__(self, rngs):
                self.read = nnx.Linear(2, 4, rngs=rngs)
                self.blocks = nnx.List([tt.Unroll(tt.LIB(4)), tt.Unroll(tt.LI(4))])

            def __call__(self, xs):
                return self.blocks[1](self.blocks[0](self.read(xs)))

        xs = 3 * reference.inputs(2, 5, 2)
        variables = InLinen().init(KEY, xs)
        model = tt.from_linen(variables, InNnx(nnx.Rngs(1)))
        np.testing.assert_allclose(model(xs), InLinen().apply(variables, xs), atol=1e-6)
        reference.assert_trees_close(tt.to_linen(model), dict(variables), 0)


@pytest.mark.slow
def test_trains_with_optax_and_its_own_rates():
    model = tt.Unroll(tt.Sequential([dense(3, 8), tt.SLIB(8), dense(8, 2), tt.LI(2)]))
    xs = reference.inputs(16, 10, 3)
    labels = (xs.sum(axis=(1, 2)) > 0).astype(jnp.int32)
    rates = dict.fromkeys(training.PARAMETER_LABELS, optax.set_to_zero())
    rates["other"] = optax.adam(5e-2)
    tx = optax.multi_transform(rates, training.parameter_labels)
    optimiser = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = tt.to_linen(model)["params"]["cell"]

    @nnx.jit
    def update(model, optimiser):
        def loss(model):
            logits = model(xs).mean(axis=1)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimiser.update(model, gradients)
        return value

    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        losses = [float(update(model, optimiser)) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    after = tt.to_linen(model)["params"]["cell"]
    np.testing.assert_array_equal(after["layers_1"]["raw_beta"], before["layers_1"]["raw_beta"])
    assert not jnp.array_equal(after["layers_0"]["kernel"], before["layers_0"]["kernel"])


def test_decay_mask_knows_variables():
    model = tt.Sequential([dense(3, 8), tt.SLIB(8)])
    mask = nnx.to_pure_dict(training.decay_mask(nnx.state(model, nnx.Param)))
    assert mask == {
        "layers": {
            0: {"bias": False, "kernel": True},
            1: {"raw_alpha": False, "raw_beta": False, "raw_threshold": False},
        }
    }


def test_half_lives_can_be_read():
    layer = tt.LIB(2, beta=functional.halflife_to_decay(jnp.array([3.0, 30.0])))
    np.testing.assert_allclose(
        functional.decay_to_halflife(layer.parameters()["beta"]), [3.0, 30.0], rtol=1e-4
    )
