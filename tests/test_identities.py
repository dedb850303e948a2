"""What the layers owe each other: a feature switched off is a feature that is not there."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads

from tracetorch_jax import snn, spikes


def run(name, params, xs, **kwargs):
    layer = snn.ALL_LAYERS[name](3, **kwargs)
    return snn.Unroll(layer).apply({"params": {"cell": params}}, xs)


def without(name, letter):
    return re.sub(letter, "", name, count=1)


@pytest.fixture
def xs():
    return reference.inputs(2, 12, 3) * 1.5


@pytest.mark.parametrize("name", reference.each(reference.SYNAPTIC))
def test_a_synapse_without_memory_is_none(name, xs):
    _, variables = reference.scrambled(name)
    decays = [f"{p}alpha" for p in (("pos_", "neg_") if name in reference.DUAL else ("",))]
    off = {f"{d}{k}": v for d in decays for k, v in (("", 0.0), ("_learnable", False))}
    params = {k: v for k, v in variables["params"].items() if "alpha" not in k}
    got = run(name, params, xs, **off)
    np.testing.assert_allclose(got, run(without(name, "S"), params, xs), atol=1e-6)


@pytest.mark.parametrize("name", reference.each(reference.RECURRENT))
def test_recurrence_without_weight_is_none(name, xs):
    _, variables = reference.scrambled(name)
    params = {
        k: jnp.zeros_like(v) if "rec_weight" in k else v for k, v in variables["params"].items()
    }
    plain = {k: v for k, v in params.items() if "rec_weight" not in k and "gamma" not in k}
    np.testing.assert_array_equal(run(name, params, xs), run(without(name, "R"), plain, xs))


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.each(reference.DUAL))
def test_equal_halves_are_the_single_layer(name, x64):
    """Outputs always; gradients under "half", each half of the sum of its parameters' gradients.

    Where the halves differ, the rule changes gradients only.
    """
    xs = reference.inputs(2, 12, 3, dtype=np.float64) * 1.5
    single = without(name, "D")
    kwargs = {"param_dtype": jnp.float64}
    _, variables = reference.scrambled(single, **kwargs)
    split = ("alpha", "beta", "gamma", "rec_weight")
    both = {}
    for key, value in variables["params"].items():
        stem = key.removeprefix("raw_")
        names = [f"raw_pos_{stem}", f"raw_neg_{stem}"] if stem in split else [key]
        both |= dict.fromkeys(names, value)
    want, (d_single, d_xs) = reference.value_and_grads(
        lambda p, xs: run(single, p, xs, **kwargs), variables["params"], xs
    )
    _, different = reference.scrambled(name, **kwargs)
    results = {}
    for rule in ("half", "both"):

        def dual(p, xs, rule=rule):
            return run(name, p, xs, zero_split=rule, **kwargs)

        got, (d_dual, d_xs_dual) = reference.value_and_grads(dual, both, xs)
        np.testing.assert_allclose(got, want, atol=1e-12)
        if rule == "half":
            reference.assert_close(d_xs_dual, d_xs, 1e-12, "grad x")
            for key, value in d_single.items():
                stem = key.removeprefix("raw_")
                if stem in split:
                    total = d_dual[f"raw_pos_{stem}"] + d_dual[f"raw_neg_{stem}"]
                else:
                    total = d_dual[key]
                reference.assert_close(total, value, 1e-12, key)
        results[rule] = reference.value_and_grads(dual, different["params"], xs)
    np.testing.assert_array_equal(results["half"][0], results["both"][0])
    assert not np.allclose(results["half"][1][1], results["both"][1][1])


@pytest.mark.parametrize("name", reference.each([n for n in reference.LAYERS if n.endswith("TS")]))
def test_unit_scales_are_the_unscaled_layer(name, xs):
    _, variables = reference.scrambled(name)
    params = {
        k: jnp.ones_like(v) if k.endswith("_scale") else v for k, v in variables["params"].items()
    }
    plain = {k: v for k, v in params.items() if not k.endswith("_scale")}
    np.testing.assert_array_equal(run(name, params, xs), run(name.removesuffix("S"), plain, xs))


@pytest.mark.parametrize("name", reference.each([n for n in reference.LAYERS if n.endswith("T")]))
def test_an_unreachable_negative_threshold_is_binary(name, xs):
    _, variables = reference.scrambled(name)
    params = variables["params"] | {"raw_neg_threshold": jnp.full(3, 1e6)}
    binary = {k: v for k, v in params.items() if "threshold" not in k}
    binary["raw_threshold"] = params["raw_pos_threshold"]
    got = run(name, params, xs)
    assert float(got.sum()) > 0
    np.testing.assert_allclose(got, run(name.removesuffix("T") + "B", binary, xs), atol=0)


@pytest.mark.parametrize(
    "name", reference.each([n for n in reference.FIRING if n[0] != "A" and "R" not in n])
)
def test_an_unreachable_threshold_leaves_the_leaky_sum(name, xs):
    layer, variables = reference.scrambled(name)
    params = {
        k: jnp.full(3, 1e6) if "threshold" in k else v for k, v in variables["params"].items()
    }
    carry, ys = snn.Unroll(layer, return_carry=True).apply({"params": {"cell": params}}, xs)
    assert float(jnp.abs(ys).max()) == 0
    plain = {k: v for k, v in params.items() if "threshold" not in k and "scale" not in k}
    total = run(re.sub("LI.*", "LI", name), plain, xs, ema=False)[:, -1]
    mem = sum(v for k, v in carry.items() if k.endswith("mem"))
    np.testing.assert_allclose(mem, total, atol=1e-5)


@pytest.mark.parametrize("name", reference.each(["LI", "DLI", "SLI", "DSLI"]))
def test_averages_are_bounded_by_their_input(name, xs):
    _, variables = reference.scrambled(name)
    assert float(jnp.abs(run(name, variables["params"], xs)).max()) <= float(jnp.abs(xs).max())


@pytest.mark.parametrize("name", reference.each(reference.RECURRENT))
def test_recurrent_trace_lags_one_step(name):
    layer, variables = reference.scrambled(name)
    carry, outs = layer.initialize_carry(None, (1, 3)), []
    for x in reference.inputs(10, 1, 3) * 3:
        before = sum(v for k, v in carry.items() if k.endswith("rec"))
        carry, y = layer.apply(variables, carry, x)
        after = sum(v for k, v in carry.items() if k.endswith("rec"))
        if not any(np.abs(o).any() for o in outs):
            assert float(jnp.abs(after - before).max()) == 0
        np.testing.assert_array_equal(carry["prev_output"], y)
        outs.append(y)
    assert any(np.abs(o).any() for o in outs)


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.EACH)
def test_gradients_are_those_of_finite_differences(name, x64):
    """With spikes that are smooth, the whole sequence is, wherever no sign is split at 0."""
    kwargs = {"spike": spikes.smooth(2.0)} if name in reference.FIRING else {}
    layer, variables = reference.scrambled(name, param_dtype=jnp.float64, **kwargs)
    xs = jnp.asarray(np.random.default_rng(3).normal(size=(1, 4, 3)))
    model = snn.Unroll(layer)
    check_grads(
        lambda v, xs: model.apply(reference.under(v), xs), (variables, xs), order=1, modes=["rev"]
    )


@pytest.mark.parametrize("name", reference.each(reference.FIRING))
def test_reset_is_differentiated_through_spike_and_threshold(name):
    """dmem/dx of one step from rest: 1 - threshold * h for each threshold, halves summed."""
    layer = snn.ALL_LAYERS[name](1, spike=spikes.atan(2.0))
    variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 1)))
    x = 0.7

    def mem(x):
        carry, _ = layer.apply(variables, None, jnp.full((1, 1), x))
        return sum(v for k, v in carry.items() if k.endswith("mem")).sum()

    m = 0.5 * x if "S" in name.split("LI")[0] else x
    h = spikes.atan(2.0).derivative
    slope = 1 - h(m - 1.0) - (h(-m - 1.0) if "T" in name else 0)
    slope *= 0.5 if "S" in name.split("LI")[0] else 1
    assert float(jax.grad(mem)(x)) == pytest.approx(float(slope), rel=1e-5)
