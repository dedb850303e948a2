"""What a spike does to the membrane potential: `reset` and `detach_reset`.

`test_trials.py` compares random layers with the specification, values and gradients, and
`test_peers.py` with what other libraries give.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import export, functional, interop, nnx, snn, spikes

RESETS = ("subtract", "zero", "none")
SOME = ("LIB", "DSRLIB", "RLIT", "DLITS")


def outputs(layer, xs):
    """Outputs of constant values ``[T]`` under one neuron."""
    model = snn.Unroll(layer)
    xs = jnp.reshape(jnp.asarray(xs, jnp.float32), (-1, 1))
    return np.asarray(model.apply(model.init(jax.random.key(0), xs), xs))[:, 0]


@pytest.mark.parametrize("name", SOME)
def test_resets_agree_without_a_spike(name):
    layer, variables = reference.scrambled(name)
    params = variables["params"]
    params |= {k: v + 100 for k, v in params.items() if k.endswith("threshold")}
    found = []
    for reset in RESETS:
        model = snn.Unroll(layer.clone(reset=reset), return_carry=True)
        found.append(model.apply(reference.under(variables), reference.inputs(2, 9, 3)))
    reference.assert_trees_close(found[1], found[0], 1e-6)
    reference.assert_trees_close(found[2], found[0], 1e-6)


def test_after_a_spike_a_layer_that_resets_to_zero_starts_anew():
    fired = outputs(snn.LIB(1, reset="zero"), np.full(60, 0.3))
    (when,) = np.nonzero(fired)
    assert len(when) > 5 and set(np.diff(when)) == {when[0] + 1}
    # What is left above the threshold is kept by the other reset.
    kept, lost = (outputs(snn.LIB(1, reset=r), np.full(60, 0.9)).sum() for r in RESETS[:2])
    assert kept > 1.5 * lost


def test_without_a_reset_a_neuron_fires_as_long_as_it_is_above_the_threshold():
    fired = outputs(snn.LIB(1, beta=0.5, reset="none"), [3.0, 0, 0, 0, -1.0, 0])
    assert fired.tolist() == [1, 1, 0, 0, 0, 0]


def test_a_bias_is_no_concern_of_firing():
    spec = functional.Spec(membrane=functional.Trace(ema=False), positive="spike", bias=True)
    params, mem = {"threshold": jnp.array(1.0)}, jnp.array(1.25)
    state, out = functional.fire(params, {"mem": mem}, mem, spec=spec)
    assert (float(state["mem"]), float(out)) == (0.25, 1.0)


@pytest.mark.parametrize("count", [2.0, 3.0])
def test_spikes_that_count_leave_a_membrane_at_0(count):
    """As where two random spike functions fire on both sides at once."""
    spec = functional.Spec(
        membrane=functional.Trace(ema=False), positive="spike", reset="zero", negative="spike"
    )
    params = {"pos_threshold": jnp.array(1.0), "neg_threshold": jnp.array(1.0)}
    mem = jnp.array([3.5, 0.5])
    state, _ = functional.fire(
        params, {"mem": mem}, mem, spec=spec, spike=lambda u: count * (u > 0).astype(u.dtype)
    )
    assert state["mem"].tolist() == [0, 0.5]


@pytest.mark.parametrize("name", ["LIT", "LITS", "DLIT"])
def test_a_negative_spike_resets_to_zero_too(name):
    layer = snn.ALL_LAYERS[name](2, reset="zero")
    variables = layer.init(jax.random.key(0), None, jnp.zeros(2))
    carry, out = layer.apply(variables, None, jnp.array([-4.0, -0.25]))
    assert out.tolist() == [-1, 0]
    assert sum(state for state in carry.values()).tolist() == [0, -0.25]


@pytest.mark.parametrize("name", ["DLIB", "DLITS"])
def test_both_channels_of_a_dual_layer_are_reset(name):
    spec = dataclasses.replace(snn.ALL_LAYERS[name](1).spec, reset="zero")
    params = {parameter: jnp.array(0.5) for parameter in spec.parameters}
    state = {"pos_mem": jnp.array([4.0, 0.0, 1.0]), "neg_mem": jnp.array([-1.0, -0.5, -1.0])}
    new, out = functional.fire(params, state, state["pos_mem"] + state["neg_mem"], spec=spec)
    assert out[0] != 0 and out[1] == out[2] == 0
    assert new["pos_mem"].tolist() == [0, 0, 1] and new["neg_mem"].tolist() == [0, -0.5, -1]


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("name", reference.first(SOME, 2))
def test_equations_are_what_a_step_computes(name, reset, x64):
    layer, variables = reference.scrambled(name, 1, param_dtype=jnp.float64)
    reference.check_equations(layer.clone(reset=reset), variables)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_through_a_reset(reset, detach, x64):
    """By finite differences, for which a spike has to be smooth; detached, it is held still."""
    spike, beta, threshold = spikes.smooth(4.0), 0.8, 1.0
    xs = np.random.default_rng(1).normal(0.5, 0.5, 6)

    def run(xs, held=None):
        mem, fired, total = 0.0, [], 0.0
        for t, x in enumerate(xs):
            mem = beta * mem + x
            s = float(1 / (1 + np.exp(-4.0 * (mem - threshold))))
            spent = s if held is None else held[t]
            mem = mem - threshold * spent if reset == "subtract" else mem * (1 - spent)
            fired.append(s)
            total += (t + 1) * s
        return total, fired

    held = run(xs)[1] if detach else None
    steps = 1e-5 * np.eye(len(xs))
    want = [(run(xs + d, held)[0] - run(xs - d, held)[0]) / 2e-5 for d in steps]
    layer = snn.LIB(
        1, beta=beta, threshold=threshold, beta_learnable=False, threshold_learnable=False,
        spike=spike, reset=reset, detach_reset=detach, param_dtype=jnp.float64,
    )  # fmt: skip
    weights = jnp.arange(1.0, len(xs) + 1)[:, None]
    got = jax.grad(lambda xs: (weights * snn.Unroll(layer).apply({}, xs)).sum())(xs[:, None])
    np.testing.assert_allclose(got[:, 0], want, rtol=1e-6)


def test_a_detached_reset_still_trains_the_threshold():
    model = snn.Unroll(snn.LIB(1, detach_reset=True, spike=spikes.straight_through(1e-6)))
    xs = jnp.full((20, 1), 0.4)
    variables = model.init(jax.random.key(0), xs)
    carries = snn.Unroll(model.cell, return_carry=True)
    gradient = jax.grad(lambda v: carries.apply(v, xs)[0]["mem"].sum())(variables)
    assert gradient["params"]["cell"]["raw_threshold"][0] < 0  # through the reset alone


@pytest.mark.parametrize("name", SOME)
def test_front_ends_and_flex_agree(name):
    layer, variables = reference.scrambled(name, reset="zero", detach_reset=True)
    xs = reference.inputs(2, 9, 3)
    run = snn.Unroll(layer).apply
    want = run(reference.under(variables), xs)
    flex = getattr(snn.flex, name)(3, reset="zero", detach_reset=True)
    assert flex.spec == layer.spec
    other = nnx.Unroll(getattr(nnx, name)(3, reset="zero", detach_reset=True))
    other = nnx.from_linen(reference.under(variables), other)
    assert np.array_equal(other(xs), want)
    assert layer == layer.clone() != layer.clone(reset="none")


def test_online_gradients_are_those_through_time():
    reference.check_online(snn.LIB(3, reset="zero"), reference.inputs(7, 2, 3))


def test_a_program_holds_the_reset():
    model = snn.Unroll(snn.LIB(2, reset="zero"))
    xs = jnp.full((1, 9, 2), 0.6)
    variables = model.init(jax.random.key(0), xs)
    program = export.sequence(model, variables, "b, t, 2", platforms=["cpu"])
    assert np.array_equal(program.call(xs), model.apply(variables, xs))


def test_a_method_called_reset_is_no_argument():
    class Mine(snn.LI):
        def reset(self):
            return "mine"

    class Ours(nnx.LI):
        def reset(self):
            return "ours"

    assert Mine(2).reset() == "mine" and Ours(2).reset() == "ours"
    assert Mine(2).spec == snn.LI(2).spec


def test_a_detached_reset_is_no_obstacle_elsewhere():
    """It changes derivatives alone."""
    layer = snn.LIB(2, detach_reset=True)
    variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 2)))
    written = interop.to_torch(variables, layer)
    reference.assert_trees_close(interop.from_torch(written, layer), variables)
    graph = interop.to_nir(layer, variables, input_shape=(2,))
    assert interop.from_nir(graph)[0] == layer


def test_what_cannot_hold_a_reset_refuses_it():
    model = snn.LIB(2, reset="zero")
    variables = model.init(jax.random.key(0), None, jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="traceTorch cannot hold `reset` of LIB; got 'zero'"):
        interop.to_torch(variables, model)


@pytest.mark.parametrize("family", [snn, nnx])
def test_bad_resets(family):
    with pytest.raises(ValueError, match="`reset` must be one of 'subtract', 'zero', 'none'; got"):
        family.LIB(2, reset="hard")
    with pytest.raises(TypeError, match="`detach_reset` must be True or False; got 'yes'"):
        family.LIB(2, detach_reset="yes")
    for wrong in (["zero"], np.array(["zero"]), None, 0):
        with pytest.raises(ValueError, match="`reset` must be one of 'subtract', 'zero', 'none'"):
            family.LIB(2, reset=wrong)
        with pytest.raises(ValueError, match="`reset` must be one of 'subtract', 'zero', 'none'"):
            functional.Spec(positive="spike", reset=wrong)
    assert type(family.LIB(2, reset=np.str_("zero")).reset) is str
    with pytest.raises(TypeError, match="LI has no argument `reset`"):
        family.LI(2, reset="zero")
    flex = family.flex
    for given in ({}, {"pos_threshold": flex.Threshold(passthrough=True)}):
        with pytest.raises(
            ValueError, match="`reset` needs spikes: .* threshold that spikes; got 'zero'"
        ):
            flex.LeakyIntegrator(2, pos_beta=flex.Decay(0.9), reset="zero", **given)
    with pytest.raises(ValueError, match="`detach_reset` needs spikes: .*; got True"):
        functional.Spec(detach_reset=True)
