"""Neurons that fire less after they have fired: `rho` with `adapt_weight`, or with `adapt_coupling`
and `adapt_jump`, of `flex.LeakyIntegrator`.

`test_trials.py` compares random ones with the specification, values and gradients, on every engine.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import tracetorch_jax as tt
from tracetorch_jax import export, functional, interop, nnx, snn, training
from tracetorch_jax.snn.flex import Decay, LeakyIntegrator, Threshold, Weight

FIRES = {"pos_beta": Decay(0.9), "pos_threshold": Threshold(1.0)}
THRESHOLD = FIRES | {"rho": Decay(0.95), "adapt_weight": Weight(2.0)}
CURRENT = FIRES | {"rho": Decay(0.9), "adapt_coupling": Weight(0.3), "adapt_jump": Weight(0.5)}
TERNARY = {"neg_threshold": Threshold(0.8), "pos_scale": Weight(1.5)}
DUAL = {"neg_beta": Decay(0.8)}
FORMS = {
    "threshold": THRESHOLD,
    "ternary threshold": THRESHOLD | TERNARY,
    "dual threshold": THRESHOLD | DUAL,
    "current": CURRENT,
    "ternary current": CURRENT | TERNARY,
    "dual current": CURRENT | DUAL | {"reset": "zero"},
}
XS = reference.inputs(2, 30, 3) + 0.4


def run(options, xs=XS, family=snn, **more):
    """Outputs of a layer at its initial values, ``[B, T, N]``."""
    cell = family.flex.LeakyIntegrator(xs.shape[-1], **options)
    if family is nnx:
        return np.asarray(nnx.Unroll(cell, **more)(xs))
    model = snn.Unroll(cell, **more)
    return np.asarray(model.apply(model.init(jax.random.key(0), xs), xs))


def test_an_adaptive_threshold_by_hand():
    """Bellec et al., 2018: what is crossed is what comes off."""
    rng = np.random.default_rng(0)
    xs, mem, adapt, want = rng.normal(0.5, 0.5, 60), 0.0, 0.0, []
    for x in xs:
        mem = 0.9 * mem + x
        theta = 1.0 + 2.0 * adapt
        spike = float(mem > theta)
        mem -= theta * spike
        adapt = 0.95 * adapt + 0.05 * spike
        want.append(spike)
    got = run(THRESHOLD, jnp.asarray(xs, jnp.float32).reshape(1, -1, 1))
    assert got[0, :, 0].tolist() == want and 5 < sum(want) < 55


def test_the_neuron_of_se_adlif():
    """Baronig et al., 2025: a membrane that averages, is reset to 0, and then couples."""
    alpha, rho, theta, a, b = 0.85, 0.95, 0.4, 0.6, 0.8
    rng = np.random.default_rng(1)
    currents, u, w, want = rng.normal(0.6, 0.6, 80), 0.0, 0.0, []
    for current in currents:
        u = alpha * u + (1 - alpha) * (current - w)
        spike = float(u - theta > 0)
        u = u * (1 - spike)
        w = rho * w + (1 - rho) * (a * u + b * spike)
        want.append(spike)
    options = {
        "pos_beta": Decay(alpha, ema=True), "pos_threshold": Threshold(theta), "reset": "zero",
        "rho": Decay(rho), "adapt_coupling": Weight(a), "adapt_jump": Weight(b),
    }  # fmt: skip
    got = run(options, jnp.asarray(currents, jnp.float32).reshape(1, -1, 1))
    assert got[0, :, 0].tolist() == want and 5 < sum(want) < 75


@pytest.mark.parametrize("form", [{}, TERNARY, DUAL])
def test_a_jump_alone_is_a_recurrent_trace_of_negative_weight(form):
    """Values and gradients."""
    jump = FIRES | form | {"rho": Decay(0.8), "adapt_jump": Weight(0.7)}
    recurrent = FIRES | form | {"pos_gamma": Decay(0.8), "pos_rec_weight": Weight(-0.7)}

    def loss(xs, options):
        model = snn.Unroll(LeakyIntegrator(3, **options))
        ys = model.apply(model.init(jax.random.key(0), xs), xs)
        return (ys * reference.inputs(*ys.shape, seed=3)).sum(), ys

    (got, want) = (jax.grad(loss, has_aux=True)(XS, options) for options in (jump, recurrent))
    assert got[1].any()
    reference.assert_trees_close(got, want)


def test_without_coupling_and_jump_there_is_no_adaptation():
    still = {"rho": Decay(0.9), "adapt_coupling": Weight(0.0), "adapt_jump": Weight(0.0)}
    assert np.array_equal(run(FIRES | still), run(FIRES))


@pytest.mark.parametrize(("form", "x"), [("threshold", 1.5), ("current", 0.4)])
def test_the_rate_falls_over_a_constant_input(form, x):
    spikes = run(FORMS[form], jnp.full((1, 120, 1), x))[0, :, 0]
    assert spikes[:20].sum() > 1.3 * spikes[-20:].sum() > 0


def test_a_coupling_makes_a_membrane_ring():
    """Below the threshold a pulse is followed by a swing to the other side, and back."""
    options = {
        "pos_beta": Decay(0.95), "pos_threshold": Threshold(100.0), "rho": Decay(0.95),
        "adapt_coupling": Weight(3.0),
    }  # fmt: skip
    xs = jnp.zeros((1, 60, 1)).at[0, 0].set(1.0)
    model = snn.Unroll(LeakyIntegrator(1, **options))
    (found,) = tt.record(model, model.init(jax.random.key(0), xs), xs)[1].values()
    mem = np.asarray(found.states["mem"])[0, :, 0]
    assert mem[0] == 1 and mem.min() < -0.1 and mem[np.argmin(mem) :].max() > 0.05


@pytest.mark.parametrize("form", FORMS)
def test_equations_are_what_a_step_computes(form, x64):
    layer = LeakyIntegrator(1, **FORMS[form], param_dtype=jnp.float64)
    scope = reference.check_equations(layer, layer.init(jax.random.key(0), None, jnp.zeros(1)))
    assert scope["adapt"] != 0


@pytest.mark.parametrize("form", ["ternary threshold", "dual current"])
def test_every_way_gives_the_same(form):
    want = run(FORMS[form], engine="scan")
    np.testing.assert_allclose(run(FORMS[form], family=nnx, engine="scan"), want)
    np.testing.assert_allclose(run(FORMS[form], engine="fused"), want, rtol=1e-6)
    cell = LeakyIntegrator(3, **FORMS[form])
    variables, carry = cell.init(jax.random.key(0), None, XS[:, 0]), None
    for t in range(6):
        carry, y = cell.apply(variables, carry, XS[:, t])
        np.testing.assert_allclose(y, want[:, t], rtol=1e-6)
    assert set(carry) == set(cell.spec.states) and "adapt" in carry
    program = export.step(cell, variables, "b, 3", platforms=["cpu"])
    _, y = program.call(export.initial_carry(program, XS[:, 0]), XS[:, 0])
    np.testing.assert_allclose(y, want[:, 0], rtol=1e-6)


@pytest.mark.parametrize("form", ["threshold", "current"])
def test_online_gradients_are_those_through_time(form):
    reference.check_online(LeakyIntegrator(3, **FORMS[form]), XS[:, :8].swapaxes(0, 1))


def test_labels_and_what_can_be_seen():
    model = snn.Unroll(LeakyIntegrator(3, **THRESHOLD))
    variables = model.init(jax.random.key(0), XS)
    assert training.parameter_labels(variables["params"]["cell"]) == {
        "raw_beta": "decay",
        "raw_threshold": "threshold",
        "raw_rho": "decay",
        "raw_adapt_weight": "adaptation",
    }
    (report,) = tt.diagnose(model, variables, XS).layers
    assert report.half_lives["rho"] == pytest.approx([13.513] * 3, rel=1e-3)
    (found,) = tt.record(model, variables, XS)[1].values()
    assert found.states["adapt"].max() > 0


def test_diagnose_measures_the_membrane_in_raised_thresholds():
    raised = FIRES | {"rho": Decay(1.0, learnable=False), "adapt_weight": Weight(1.0)}
    model = snn.Unroll(LeakyIntegrator(1, **raised | {"pos_beta": Decay(0.0, learnable=False)}))
    xs, carry = jnp.full((1, 1, 1), 6.0), {"mem": jnp.zeros((1, 1)), "adapt": jnp.full((1, 1), 2.0)}
    (report,) = tt.diagnose(model, model.init(jax.random.key(0), xs), xs, carry).layers
    assert report.membrane == pytest.approx((2, 2, 2))


def test_what_cannot_hold_it_refuses_it():
    model = LeakyIntegrator(3, **THRESHOLD)
    variables = model.init(jax.random.key(0), None, XS[:, 0])
    with pytest.raises(ValueError, match="NIR graph cannot hold `adaptation` of LeakyIntegrator"):
        interop.to_nir(model, variables, input_shape=(3,))
    with pytest.raises(ValueError, match="traceTorch cannot hold `adaptation` of LeakyIntegrator"):
        interop.to_torch(variables, model)


@pytest.mark.parametrize("flex", [snn.flex, nnx.flex])
def test_what_does_not_go_together(flex):
    beta, theta = flex.Decay(0.9), flex.Threshold(1.0)
    rho, one = flex.Decay(0.9), flex.Weight(1.0)
    for given, words in (
        ({"rho": rho, "adapt_weight": one}, "`adaptation` .`rho`. needs spikes: .* threshold too"),
        (
            {"rho": rho, "pos_threshold": theta},
            "`adaptation` .`rho`. needs `adapt_weight`,",
        ),
        ({"adapt_jump": one, "pos_threshold": theta}, "`adapt_jump` needs .*: configure `rho` too"),
        (
            {"rho": rho, "pos_threshold": theta, "adapt_weight": one, "adapt_coupling": one},
            "`adapt_weight` is of an adaptive threshold and `adapt_coupling` of an adaptation",
        ),
        (
            {"rho": rho, "pos_threshold": theta, "adapt_weight": flex.Weight(-1.0)},
            "`adapt_weight` must be greater than 0; got -1.0",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            flex.LeakyIntegrator(2, pos_beta=beta, **given)
    with pytest.raises(TypeError, match="`rho` must be a Decay"):
        flex.LeakyIntegrator(2, pos_beta=beta, pos_threshold=theta, rho=one, adapt_weight=one)
    with pytest.raises(ValueError, match="one trace of both signs, so it cannot be dual"):
        functional.Spec(adaptation=functional.Trace(dual=True), positive="spike")


NAMED = ("ALIB", "ASRLITS")


@pytest.mark.parametrize("name", NAMED)
def test_named_layers_are_what_their_options_spell(name):
    """And those of nnx the same."""
    found = []
    for family in (snn, snn.flex, nnx):
        cell = getattr(family, name)(3, rho=0.9, adapt_weight=2.0)
        model = (nnx if family is nnx else snn).Unroll(cell)
        variables = () if family is nnx else (model.init(jax.random.key(0), XS),)
        found.append(np.asarray((model if family is nnx else model.apply)(*variables, XS)))
    assert found[0].any()
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


@pytest.mark.parametrize("name", reference.some(("ALIB", "ALIT", "ALITS", "ASRLIT"), NAMED))
def test_without_weight_a_layer_is_that_without_the_letter(name):
    constant = {"adapt_weight": 1e-30, "adapt_weight_learnable": False}
    layers = (getattr(snn, name)(3, **constant), getattr(snn, name[1:])(3))
    ys = [
        snn.Unroll(cell).apply(snn.Unroll(cell).init(jax.random.key(0), XS), XS) for cell in layers
    ]
    assert ys[0].any() and np.array_equal(*ys)


def seen(cell, xs):
    model = snn.Unroll(cell)
    variables = model.init(jax.random.key(0), xs)
    return tt.record(model, variables, xs)[1]["cell"], tt.diagnose(model, variables, xs).layers[0]


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_a_recording_has_the_membrane_and_the_thresholds_that_decided(reset):
    cell = snn.ALIT(3, rho=0.8, adapt_weight=2.0, neg_threshold=0.5, reset=reset)
    found, _ = seen(cell, XS * 2)
    levels = found.thresholds
    membrane, levels = np.asarray(found.membrane), jax.tree.map(np.asarray, levels)
    spikes = 1.0 * (membrane > levels["pos_threshold"]) - (-membrane > levels["neg_threshold"])
    assert np.array_equal(spikes, found.outputs) and (spikes < 0).any() and (spikes > 0).any()
    raised = levels["pos_threshold"] - 1.0
    np.testing.assert_allclose(raised[:, 1:], 2 * found.states["adapt"][:, :-1], atol=1e-6)
    np.testing.assert_allclose(levels["neg_threshold"], raised + 0.5, atol=1e-6)
    off = {"subtract": np.where(spikes > 0, levels["pos_threshold"], levels["neg_threshold"])}
    off |= {"zero": abs(membrane), "none": np.zeros_like(spikes)}
    want = membrane - spikes * off[reset]
    np.testing.assert_allclose(found.states["mem"], want, atol=1e-5)


def test_a_recording_without_a_batch_axis_has_them_too():
    whole, _ = seen(snn.ALIB(3), XS)
    one, _ = seen(snn.ALIB(3), XS[0])
    np.testing.assert_allclose(one.membrane, whole.membrane[0], rtol=1e-6)
    np.testing.assert_allclose(one.thresholds["threshold"], whole.thresholds["threshold"][0])
    model = snn.Unroll(snn.ALIB(3))
    none = tt.record(model, model.init(jax.random.key(0), XS), XS[:, :0])[1]["cell"]
    assert none.membrane.shape == none.thresholds["threshold"].shape == XS[:, :0].shape
    assert seen(snn.LI(3), XS)[0].thresholds == {}


def test_diagnose_says_when_thresholds_have_risen_too_far():
    xs = jnp.full((2, 60, 4), 0.3) + 0.01 * reference.inputs(2, 60, 4)
    _, report = seen(snn.ALIB(4, rho=0.99, adapt_weight=1000.0), xs)
    assert "100% of the neurons fire at first and not in the second half" in report.advice
    assert (
        "raised it up to 8.7 times. Set `adapt_weight=1.3e+02`." in report.advice
        and report.problems
    )
    _, report = seen(snn.ALIB(4, rho=0.99, adapt_weight=1e2), xs)
    assert not report.problems
    _, report = seen(snn.flex.ALIB(4, rho=0.99, adapt_weight=1000.0), xs)
    assert "Set `adapt_weight=flex.Weight(1.3e+02)`." in report.advice


def test_a_neuron_whose_input_ends_is_not_silenced_by_its_threshold():
    xs = jnp.zeros((1, 60, 4)).at[:, :20].set(0.5)
    assert "fire at first" not in seen(snn.ALIB(4, rho=0.99, adapt_weight=20.0), xs)[1].advice


def test_what_a_layer_has_no_argument_for_is_explained():
    for cls, name, words in (
        (snn.LI, "reset", "`reset` is of layers that fire, and LI does not"),
        (snn.DLI, "pos_threshold", "`threshold` is of layers that fire, and DLI does not"),
        (snn.LIB, "rho", "`rho` is of adaptive layers, which have A before LI"),
        (snn.LIB, "gamma", "`gamma` is of recurrent layers, which have R before LI"),
        (nnx.LIB, "neg_alpha", "`alpha` is of synaptic layers, which have S before LI"),
        (snn.LIB, "zero_split", "`zero_split` is of dual layers, which have D before LI"),
        (snn.ALIB, "adapt_jump", "`adapt_jump` is an option of `flex.LeakyIntegrator`"),
        (snn.ALIB, "pos_rho", "Did you mean `rho`"),
        (snn.flex.LeakyIntegrator, "pos_rho", "Did you mean `rho`"),
        (snn.DLIB, "beta", "Did you mean `pos_beta`"),
        (snn.LIB, "pos_beta", "Did you mean `beta`"),
    ):
        with pytest.raises(TypeError, match=f"no argument `{name}`; it takes .*{words}"):
            cls(2, **{name: 0.5})


def test_formats_refuse_named_layers_too():
    model = snn.Unroll(snn.ALIB(3))
    variables = model.init(jax.random.key(0), XS)
    with pytest.raises(ValueError, match="NIR graph cannot hold `adaptation` of"):
        interop.to_nir(model, variables, input_shape=(3,))
    with pytest.raises(ValueError, match="traceTorch cannot hold `adaptation` of ALIB"):
        interop.to_torch(variables, model)
