"""LeakyIntegrator: its counterparts are the named layers, and what lies beyond them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import snn, spikes
from tracetorch_jax.snn import flex
from tracetorch_jax.snn.flex import Decay, LeakyIntegrator, Threshold, Weight


@pytest.mark.parametrize("name", reference.EACH)
def test_compiles_from_the_named_layers_program(name):
    """What XLA gets of sequence and gradient is equal to the letter, whatever options are set."""
    kwargs = {"dim": -2}
    if name in reference.DUAL:
        kwargs["zero_split"] = "both"
    kwargs |= {"spike": spikes.sigmoid(5.0)} if name in reference.FIRING else {"ema": False}
    programs = []
    for family in (snn, flex):
        layer, variables = reference.scrambled(name, family=family, **kwargs)

        def run(variables, xs, layer=layer):
            return (snn.Unroll(layer).apply(reference.under(variables), xs) ** 2).sum()

        lowered = jax.jit(jax.value_and_grad(run, (0, 1))).lower(variables, jnp.ones((2, 4, 3, 2)))
        programs.append(lowered.as_text())
        assert isinstance(layer, LeakyIntegrator) == (family is flex)
    assert programs[0] == programs[1]


@pytest.mark.parametrize("name", reference.LAYERS)
def test_counterparts_have_the_named_layers_interface(name):
    assert inspect.signature(getattr(flex, name)) == inspect.signature(snn.ALL_LAYERS[name])
    parameter = next(iter(snn.ALL_LAYERS[name](3).spec.parameters))
    kwargs = {parameter: 0.3, f"{parameter}_rank": 0}
    named, flexible = snn.ALL_LAYERS[name](3, **kwargs), getattr(flex, name)(3, **kwargs)
    x = jnp.ones((2, 3))
    for variables in zip(
        *(
            jax.tree.leaves_with_path(layer.init(jax.random.key(0), None, x))
            for layer in (named, flexible)
        ),
        strict=True,
    ):
        (path, leaf), (other_path, other_leaf) = variables
        assert path == other_path
        np.testing.assert_array_equal(leaf, other_leaf)
    assert (
        named.initialize_carry(None, (2, 3)).keys()
        == flexible.initialize_carry(None, (2, 3)).keys()
    )
    frozen = getattr(flex, name)(3, **{f"{p}_learnable": False for p in named.spec.parameters})
    assert "params" not in frozen.init(jax.random.key(0), None, x)


def trace(xs, *, emit=None, **options):
    """Run a LeakyIntegrator on a list of scalars; return outputs and last carry."""
    layer = LeakyIntegrator(1, **options)
    xs = jnp.asarray(xs, jnp.float32).reshape(-1, 1)
    variables = layer.init({"params": jax.random.key(0)}, None, xs[0])
    carry, ys = snn.Unroll(layer, return_carry=True).apply(reference.under(variables), xs)
    return np.asarray(ys)[:, 0], {k: float(v[0]) for k, v in carry.items()}, variables


class TestBeyondTheNamedLayers:
    def test_only_a_negative_threshold(self):
        ys, carry, variables = trace([-1.5, 2.0], pos_beta=Decay(0.5), neg_threshold=Threshold(1.0))
        assert set(variables["params"]) == {"raw_beta", "raw_neg_threshold"}
        np.testing.assert_allclose(ys, [-1.0, 0.0])
        assert carry["mem"] == pytest.approx(0.5 * -0.5 + 2.0)

    def test_no_spike_at_rest(self):
        ys, _, _ = trace([0.0], pos_beta=Decay(0.9), neg_threshold=Threshold(0.1))
        assert ys.tolist() == [0.0]

    def test_a_lone_negative_option_is_single(self):
        _, carry, variables = trace([1.0], neg_beta=Decay(0.5), neg_alpha=Decay(0.5))
        assert set(variables["params"]) == {"raw_alpha", "raw_beta"}
        assert set(carry) == {"syn", "mem"}

    def test_ema_defaults_and_overrides(self):
        firing = {"pos_threshold": Threshold(100.0)}
        for ema, fires, want in (
            (None, False, 0.5), (None, True, 1.0), (True, True, 0.5), (False, False, 1.0),
        ):  # fmt: skip
            _, carry, _ = trace([1.0], pos_beta=Decay(0.5, ema=ema), **(firing if fires else {}))
            assert carry["mem"] == pytest.approx(want)

    def test_each_polarity_averages_by_itself(self):
        _, carry, _ = trace(
            [1.0, -1.0], pos_beta=Decay(0.5, ema=True), neg_beta=Decay(0.5, ema=False)
        )
        assert carry == pytest.approx({"pos_mem": 0.25, "neg_mem": -1.0})

    def test_summing_synapse(self):
        _, carry, _ = trace([1.0, 1.0], pos_beta=Decay(0.5), pos_alpha=Decay(0.5, ema=False))
        assert carry["syn"] == pytest.approx(1.5)

    def test_dual_synapse_before_a_single_membrane(self):
        ys, carry, _ = trace(
            [1.0, -1.0],
            pos_alpha=Decay(0.5), neg_alpha=Decay(0.75), pos_beta=Decay(0.5, ema=False),
        )  # fmt: skip
        assert carry["pos_syn"] == pytest.approx(0.25)
        assert carry["neg_syn"] == pytest.approx(-0.25)
        np.testing.assert_allclose(ys, [0.5, 0.25], rtol=1e-6)

    def test_single_synapse_before_a_dual_membrane(self):
        _, carry, _ = trace(
            [1.0, -3.0],
            pos_alpha=Decay(0.5), pos_beta=Decay(0.5, ema=False), neg_beta=Decay(0.5, ema=False),
        )  # fmt: skip
        assert carry == pytest.approx({"syn": -1.25, "pos_mem": 0.25, "neg_mem": -1.25})

    def test_recurrence_without_weight_has_weight_one(self):
        common = {
            "pos_beta": Decay(0.5), "pos_gamma": Decay(0.5), "pos_threshold": Threshold(1.0),
        }  # fmt: skip
        bare, weighted = (
            trace([2.0, 0.3, 0.6, 0.1], **common, **extra)
            for extra in ({}, {"pos_rec_weight": Weight(1.0)})
        )
        assert "raw_rec_weight" not in bare[2]["params"]
        np.testing.assert_allclose(bare[0], weighted[0])
        assert bare[1] == pytest.approx(weighted[1])

    def test_dual_weight_on_a_single_membrane_acts_by_sign(self):
        options = {
            "pos_beta": Decay(0.5), "pos_gamma": Decay(0.5), "pos_threshold": Threshold(1.0),
            "neg_threshold": Threshold(1.0), "pos_rec_weight": Weight(3.0),
            "neg_rec_weight": Weight(5.0),
        }  # fmt: skip
        _, carry, _ = trace([1.5, 0.0], **options)
        assert carry["mem"] == pytest.approx(0.5 * 0.5 + 3.0 * 0.5 - 1.0)
        _, carry, _ = trace([-1.5, 0.0], **options)
        assert carry["mem"] == pytest.approx(-0.5 * 0.5 - 5.0 * 0.5 + 1.0)

    def test_single_weight_on_a_dual_membrane(self):
        _, carry, _ = trace(
            [1.5, 0.0], pos_beta=Decay(0.5), neg_beta=Decay(0.5), pos_gamma=Decay(0.5),
            pos_threshold=Threshold(1.0), pos_rec_weight=Weight(3.0),
        )  # fmt: skip
        # after step 1: mem (1, -.5) of the split 1.5; after step 2: + 1.5, fires, - .5 each
        assert carry["pos_mem"] == pytest.approx(0.5 * 1.0 + 1.5 - 0.5)
        assert carry["neg_mem"] == pytest.approx(0.5 * -0.5 - 0.5)

    def test_one_scale_for_both_signs(self):
        options = {
            "pos_beta": Decay(0.5), "pos_threshold": Threshold(1.0),
            "neg_threshold": Threshold(1.0), "pos_scale": Weight(-2.5),
        }  # fmt: skip
        ys, carry, variables = trace([1.5, -3.0], **options)
        assert "raw_scale" in variables["params"]
        np.testing.assert_allclose(ys, [-2.5, 2.5])
        assert carry["mem"] == pytest.approx(0.25 - 3.0 + 1.0)

    def test_scales_act_on_the_spike_not_on_the_sign_of_the_result(self):
        options = {
            "pos_beta": Decay(0.5), "pos_threshold": Threshold(1.0),
            "neg_threshold": Threshold(1.0), "pos_scale": Weight(-2.0), "neg_scale": Weight(5.0),
        }  # fmt: skip
        ys, _, _ = trace([1.5, -3.0], **options)
        np.testing.assert_allclose(ys, [-2.0, -5.0])

    def test_passthrough_emits_the_part_and_resets_nothing(self):
        ys, carry, variables = trace(
            [2.0, -4.0], pos_beta=Decay(0.5), pos_threshold=Threshold(passthrough=True)
        )
        assert set(variables["params"]) == {"raw_beta"}
        np.testing.assert_allclose(ys, [2.0, 0.0])
        assert carry["mem"] == pytest.approx(1.0 - 4.0)
        ys, _, _ = trace(
            [2.0, -4.0],
            pos_beta=Decay(0.5, ema=False),
            pos_threshold=Threshold(passthrough=True),
            neg_threshold=Threshold(1.0),
        )
        np.testing.assert_allclose(ys, [2.0, -1.0])
        ys, carry, _ = trace(
            [2.0, -4.0], pos_beta=Decay(0.5), neg_threshold=Threshold(passthrough=True)
        )
        np.testing.assert_allclose(ys, [0.0, -3.0])
        assert carry["mem"] == pytest.approx(1.0 - 4.0)

    def test_bias_is_added_to_what_the_membrane_integrates(self):
        _, carry, variables = trace([1.0, 1.0], pos_beta=Decay(0.5, ema=False), bias=Weight(-0.25))
        assert float(variables["params"]["raw_bias"][0]) == -0.25
        assert carry["mem"] == pytest.approx(0.75 * 1.5)
        _, carry, _ = trace(
            [1.0],
            pos_beta=Decay(0.5, ema=False),
            neg_beta=Decay(0.5, ema=False),
            bias=Weight(-0.25),
        )
        assert carry == pytest.approx({"pos_mem": 1.0, "neg_mem": -0.25})

    def test_a_spike_function_for_each_sign(self):
        layer = LeakyIntegrator(
            1,
            pos_beta=Decay(0.5),
            pos_threshold=Threshold(1.0, spike=spikes.straight_through(1.0)),
            neg_threshold=Threshold(1.0, spike=spikes.fast_sigmoid(1.0)),
        )
        variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 1)))

        def out(x):
            return layer.apply(variables, None, jnp.full((1, 1), x))[1].sum()

        # p' = 1 within half a unit of 1, q' = 1 / (1 + |u|)^2 with u = -x - 1; out' = p' + q'
        assert float(jax.grad(out)(0.8)) == pytest.approx(1 + 1 / 2.8**2, rel=1e-5)
        assert float(jax.grad(out)(-0.8)) == pytest.approx(1 / 1.2**2, rel=1e-5)

    @pytest.mark.slow
    def test_bias_and_every_parameter_get_gradients(self):
        layer = LeakyIntegrator(
            3, pos_alpha=Decay(0.5), neg_alpha=Decay(0.6), pos_beta=Decay(0.9),
            pos_gamma=Decay(0.7), neg_gamma=Decay(0.8),
            pos_threshold=Threshold(0.4), neg_threshold=Threshold(0.5),
            pos_scale=Weight(1.5), pos_rec_weight=Weight(0.3), neg_rec_weight=Weight(0.2),
            bias=Weight(0.1),
        )  # fmt: skip
        xs = reference.inputs(2, 8, 3) * 2
        variables = snn.Unroll(layer).init(jax.random.key(0), xs)
        gradients = jax.grad(lambda v: (snn.Unroll(layer).apply(v, xs) ** 2).sum())(variables)
        for path, g in jax.tree.leaves_with_path(gradients):
            assert float(jnp.abs(g).sum()) > 0, path

    def test_documented_equations(self):
        from tracetorch_jax.functional.equations import equations

        layer = LeakyIntegrator(
            1, pos_alpha=Decay(0.5), pos_beta=Decay(0.9), pos_gamma=Decay(0.7),
            pos_threshold=Threshold(0.4), neg_threshold=Threshold(passthrough=True),
            pos_scale=Weight(1.5), bias=Weight(0.1),
        )  # fmt: skip
        assert equations(layer.spec) == [
            "syn = alpha * syn + (1 - alpha) * x",
            "rec = gamma * rec + (1 - gamma) * prev_output",
            "mem = beta * mem + syn + rec + bias",
            "p = spike(mem - pos_threshold)",
            "q = -neg(mem)",
            "out = scale * p - scale * q",
            "mem = mem - pos_threshold * p",
            "prev_output = out",
        ]
