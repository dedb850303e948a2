"""Labels of parameters, sequences in pieces, and online gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from tracetorch_jax import snn, training

KEY = jax.random.key(0)
KINDS = {"sigmoid": "decay", "softplus": "threshold", "adapt_weight": "adaptation"}


@pytest.fixture
def standard():
    """Optax computes with mixed dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def stack(*names):
    layers = []
    for name in names:
        layers += [nn.Dense(4), snn.ALL_LAYERS[name](4)]
    return snn.Sequential(layers)


class TestLabels:
    @pytest.mark.parametrize("family", [snn, snn.flex], ids=["snn", "flex"])
    def test_every_parameter_of_every_layer(self, family):
        for name in snn.ALL_LAYERS:
            layer = getattr(family, name)(3)
            params = {"cell": layer.init(KEY, None, jnp.zeros((1, 3)))["params"]}
            params["Dense_0"] = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
            labels = training.parameter_labels(params)
            mask = training.decay_mask(params)
            for p in layer.describe():
                last = p.name.removeprefix("pos_").removeprefix("neg_")
                kind = KINDS.get(last) or KINDS.get(p.constraint.name, last)
                assert labels["cell"][p.raw_name] == kind
                assert mask["cell"][p.raw_name] is False
            assert labels["Dense_0"] == {"kernel": "other", "bias": "other"}
            assert mask["Dense_0"] == {"kernel": True, "bias": False}
            assert jax.tree.structure(labels) == jax.tree.structure(params)

    def test_a_bias_of_a_trace_layer(self):
        layer = snn.flex.LeakyIntegrator(3, pos_beta=snn.flex.Decay(0.9), bias=snn.flex.Weight(0.1))
        params = layer.init(KEY, None, jnp.zeros((1, 3)))["params"]
        assert training.parameter_labels(params) == {"raw_beta": "decay", "raw_bias": "bias"}

    def test_one_scale_for_both_signs(self):
        both = {f"{side}_threshold": snn.flex.Threshold(1.0) for side in ("pos", "neg")}
        options = {"pos_beta": snn.flex.Decay(0.9), "pos_scale": snn.flex.Weight(2.0), **both}
        params = snn.flex.LeakyIntegrator(3, **options).init(KEY, None, jnp.zeros((1, 3)))["params"]
        assert training.parameter_labels(params)["raw_scale"] == "scale"

    def test_boxes_and_normalisations(self):
        params = {
            "cell": {"raw_beta": nn.Partitioned(jnp.ones(3), names=("neurons",))},
            "LayerNorm_0": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        }
        labels, mask = training.parameter_labels(params), training.decay_mask(params)
        assert jax.tree.leaves(labels["cell"]) == ["decay"]
        assert not any(jax.tree.leaves(mask))

    def test_unknown_raw_parameters_raise(self):
        with pytest.raises(ValueError, match="`params` must hold .* known layers; got a/raw_kappa"):
            training.parameter_labels({"a": {"raw_kappa": 1.0}})

    def test_decays_learn_at_their_own_rate(self, standard):
        model = snn.Unroll(stack("LIB", "SLI"))
        xs = reference.inputs(2, 6, 3)
        params = model.init(KEY, xs)["params"]
        kinds = {"decay": 0.5, "threshold": 0.0, "other": 0.01}
        optimiser = optax.multi_transform(
            {kind: optax.sgd(rate) for kind, rate in kinds.items()}, training.parameter_labels
        )
        ones = jax.tree.map(jnp.ones_like, params)
        updates, _ = optimiser.update(ones, optimiser.init(params))
        labels = jax.tree.leaves(training.parameter_labels(params))
        for update, label in zip(jax.tree.leaves(updates), labels, strict=True):
            np.testing.assert_allclose(update, -kinds[label], rtol=1e-6)

    def test_one_mapping_of_all_labels_fits_every_layer(self, standard):
        current = {name: snn.flex.Weight(1.0) for name in ("adapt_coupling", "adapt_jump", "bias")}
        adaptive = snn.flex.LeakyIntegrator(
            4,
            pos_beta=snn.flex.Decay(0.9),
            pos_threshold=snn.flex.Threshold(1.0),
            rho=snn.flex.Decay(0.9),
            **current,
        )
        model = snn.Unroll(snn.Sequential([snn.DelayedDense(4, 3), adaptive, stack("SRLITS")]))
        params = model.init(KEY, reference.inputs(2, 6, 3))["params"]
        assert set(jax.tree.leaves(training.parameter_labels(params))) == set(
            training.PARAMETER_LABELS
        )
        rates = dict.fromkeys(training.PARAMETER_LABELS, optax.sgd(0.5))
        optax.multi_transform(rates, training.parameter_labels).init(params)

    def test_weight_decay_leaves_raw_parameters_alone(self, standard):
        params = snn.Unroll(stack("SRLITS")).init(KEY, jnp.ones((1, 2, 3)))["params"]
        optimiser = optax.adamw(0.1, weight_decay=0.5, mask=training.decay_mask)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimiser.update(zeros, optimiser.init(params), params)
        moved = {k: bool(np.any(v != 0)) for k, v in updates["cell"]["layers_1"].items()}
        assert not any(moved.values())
        assert np.any(updates["cell"]["layers_0"]["kernel"] != 0)


class TestPieces:
    MODEL = snn.Unroll(stack("SRLIT", "LI"), return_carry=True)

    def loss(self, params, carry, batch):
        xs, targets = batch
        carry, ys = self.MODEL.apply({"params": params}, xs, carry)
        return jnp.square(ys - targets).mean(), carry

    def setup_method(self):
        self.batch = reference.inputs(2, 12, 3), reference.inputs(2, 12, 4, seed=2)
        self.params = self.MODEL.init(KEY, self.batch[0])["params"]
        self.carry = self.MODEL.cell.initialize_carry(None, (2, 3))

    def test_chunks_are_the_sequence(self):
        pieces = list(training.chunks(self.batch, 5))
        assert [piece[0].shape[1] for piece in pieces] == [5, 5, 2]
        for i in (0, 1):
            np.testing.assert_array_equal(
                jnp.concatenate([piece[i] for piece in pieces], 1), self.batch[i]
            )

    @pytest.mark.slow
    def test_whole_gradients_in_pieces(self):
        whole = jax.jit(jax.value_and_grad(self.loss, has_aux=True))
        want = whole(self.params, self.carry, self.batch)
        for length in (1, 4):
            run = jax.jit(training.piecewise_value_and_grad(self.loss, length))
            reference.assert_trees_close(run(self.params, self.carry, self.batch), want, 1e-5)

    @pytest.mark.slow
    def test_truncated_gradients(self):
        run = jax.jit(training.piecewise_value_and_grad(self.loss, 4, truncate=True))
        (value, last), got = run(self.params, self.carry, self.batch)
        one = jax.jit(jax.value_and_grad(self.loss, has_aux=True))
        carry, values, gradients = self.carry, [], []
        for piece in training.chunks(self.batch, 4):
            (each, carry), gradient = one(self.params, carry, piece)
            values.append(each)
            gradients.append(gradient)
        mean = jax.tree.map(lambda *g: sum(g) / 3, *gradients)
        reference.assert_trees_close((value, last, got), (sum(values) / 3, carry, mean), 1e-5)
        (_, _), whole = one(self.params, self.carry, self.batch)
        assert any(
            float(jnp.abs(a - b).max()) > 1e-5
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(whole), strict=True)
        )

    @pytest.mark.parametrize("truncate", [False, True])
    def test_no_steps_give_no_gradient(self, truncate):
        nothing = jax.tree.map(lambda x: x[:, :0], self.batch)
        run = training.piecewise_value_and_grad(self.loss, 4, truncate=truncate)
        (_, carry), gradient = run(self.params, self.carry, nothing)
        reference.assert_trees_close(carry, self.carry, 0)
        reference.assert_trees_close(gradient, jax.tree.map(jnp.zeros_like, self.params), 0)

    @pytest.mark.optimised
    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_sequence(self):
        cell = snn.Sequential([nn.Dense(32), snn.LIB(32), nn.Dense(2), snn.LI(2)])
        model = snn.Unroll(cell, return_carry=True)

        def loss(params, carry, xs):
            carry, ys = model.apply({"params": params}, xs, carry)
            return jnp.square(ys).mean(), carry

        def temporary(function):
            xs = jax.ShapeDtypeStruct((1, 100_000, 16), jnp.float32)
            params = jax.eval_shape(model.init, KEY, xs)["params"]
            carry = cell.initialize_carry(None, (1, 16))
            compiled = jax.jit(function).lower(params, carry, xs).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        whole = temporary(jax.value_and_grad(loss, has_aux=True))
        for truncate in (False, True):
            pieces = training.piecewise_value_and_grad(loss, 400, truncate=truncate)
            assert temporary(pieces) < 0.02 * whole

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match="`length` must divide T = 12, .*; got 5"):
            training.piecewise_value_and_grad(self.loss, 5)(self.params, self.carry, self.batch)
        with pytest.raises(ValueError, match=r"`batch` must hold arrays \[B, T, ...\]"):
            training.chunks((self.batch[0], jnp.zeros(2)), 4)
        with pytest.raises(ValueError, match="`batch` must agree in T, its second axis"):
            training.chunks((self.batch[0], jnp.zeros((2, 11))), 4)
        with pytest.raises(ValueError, match=r"`batch` must hold arrays \[B, T, ...\]; got shapes"):
            training.chunks({}, 4)
        with pytest.raises(TypeError, match="`loss` must be a function of .*; got 3"):
            training.piecewise_value_and_grad(3, 4)
        for truncate in (False, True):
            for bad, error, message in (
                (lambda *_: jnp.zeros(()), TypeError, r"`loss` must return \(value, carry\); got"),
                (lambda p, c, b: (b[0].mean(1), c), ValueError, "`loss` must give a scalar value"),
            ):
                run = training.piecewise_value_and_grad(bad, 4, truncate=truncate)
                with pytest.raises(error, match=message):
                    run(self.params, self.carry, self.batch)
        with pytest.raises(TypeError, match="`carry` must be what `initialize_carry` gives"):
            training.piecewise_value_and_grad(self.loss, 4)(self.params, None, self.batch)


def online_gradient(layer, params, xs, weights):
    """Sum over steps of ``sum(weights * out ** 2)``, forwards."""
    init, step = training.online(layer)

    def advance(state, x_and_weight):
        (state, total), (x, w) = state, x_and_weight
        state, out, gradient = step(params, state, x)
        d_out = 2 * w * out.astype(w.dtype)
        return (state, jax.tree.map(jnp.add, total, gradient(d_out))), out

    start = init(params, xs[0]), jax.tree.map(jnp.zeros_like, params)
    (state, total), outs = jax.lax.scan(advance, start, (xs, weights))
    return state.carry, outs, total


def check_online(layer, variables, xs, tolerance):
    weights = reference.inputs(*xs.shape, seed=3, dtype=layer.param_dtype)
    model = snn.Unroll(layer, time_major=True, return_carry=True)

    @jax.jit
    def both(params, xs, weights):
        def loss(params):
            carry, ys = model.apply({"params": {"cell": params}}, xs)
            return (weights * ys.astype(weights.dtype) ** 2).sum(), (carry, ys)

        gradient, (carry, ys) = jax.grad(loss, has_aux=True)(params)
        return online_gradient(layer, params, xs, weights), (carry, ys, gradient)

    got, want = both(variables["params"], xs, weights)
    reference.assert_trees_close(got, want, tolerance)


class TestOnline:
    @pytest.mark.parametrize("name", reference.EACH)
    def test_equals_backpropagation_through_time(self, name, x64):
        layer, variables = reference.scrambled(name, 3, param_dtype=jnp.float64)
        check_online(layer, variables, reference.inputs(7, 2, 3, dtype=np.float64), 1e-9)

    def test_shared_and_constant_parameters_and_images(self, x64):
        options = {"dim": -3, "beta_rank": 0, "alpha_learnable": False, "param_dtype": jnp.float64}
        layer, variables = reference.scrambled("SRLIB", 3, **options)
        del variables["params"]["raw_alpha"]
        check_online(layer, variables, reference.inputs(7, 2, 3, 2, 2, dtype=np.float64), 1e-9)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, jnp.bool_])
    def test_inputs_of_other_types(self, dtype):
        """As the layer itself takes them: spikes are often integers."""
        layer, variables = reference.scrambled("SLIB")
        xs = jnp.asarray(np.asarray(reference.inputs(6, 2, 3)) > 0, dtype)
        check_online(layer, variables, xs, 1e-2 if dtype == jnp.bfloat16 else 1e-5)

    def test_a_layer_that_computes_in_bfloat16_adds_up_in_float32(self):
        layer, x = snn.SLIB(3, dtype=jnp.bfloat16), jnp.ones((2, 3))
        params = layer.init(KEY, None, x)["params"]
        init, step = training.online(layer)
        state = init(params, x)
        after, _, _ = step(params, state, x)
        assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
        assert after.eligibility["mem"]["raw_beta"].dtype == jnp.float32

    def test_bad_parameters_are_named(self):
        layer, x = snn.SLIB(3), jnp.zeros((2, 3))
        variables = layer.init(KEY, None, x)
        init, _ = training.online(layer)
        with pytest.raises(ValueError, match="`params` of SLIB must hold exactly .*'raw_alpha'"):
            init(variables, x)

    def test_a_derivative_of_another_shape_is_named(self):
        layer, x = snn.LIB(3), jnp.ones((2, 3))
        params = layer.init(KEY, None, x)["params"]
        init, step = training.online(layer)
        _, _, gradient = step(params, init(params, x), x)
        for bad in (1.0, jnp.ones((2, 1)), jnp.ones(3)):
            with pytest.raises(ValueError, match=r"`d_out` must have the shape of `out`, \(2, 3\)"):
                gradient(bad)

    def test_state_does_not_grow(self):
        layer = snn.SLIB(3)
        params = layer.init(KEY, None, jnp.zeros((2, 3)))["params"]
        init, step = training.online(layer)
        state = init(params, jnp.zeros((2, 3)))
        after, _, _ = step(params, state, jnp.ones((2, 3)))
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
        assert after.eligibility["syn"]["raw_threshold"].max() == 0  # it does not reach it

    def test_bad_layers_raise(self):
        from tracetorch_jax import spikes

        with pytest.raises(TypeError, match="`layer` must be a trace layer; got"):
            training.online(nn.GRUCell(3))
        with pytest.raises(ValueError, match="`layer` must not fire at random"):
            training.online(snn.LIB(3, spike=spikes.bernoulli()))
        layer = snn.LI(3)
        params = layer.init(KEY, None, jnp.zeros((2, 3)))["params"]
        init, step = training.online(layer)
        with pytest.raises(ValueError, match=r"`x` must have the shape of the states, \(2, 3\)"):
            step(params, init(params, jnp.zeros((2, 3))), jnp.zeros((2, 1)))
        state, narrow = init(params, jnp.zeros((2, 3))), init(params, jnp.zeros((1, 3)))
        for mixed in (state._replace(eligibility=narrow.eligibility), narrow):
            with pytest.raises(
                ValueError, match=r"the shape of the states, \(1, 3\); got \(2, 3\)"
            ):
                step(params, mixed, jnp.zeros((2, 3)))
