"""Forward mode and second derivatives, by the routes that the pages name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.flatten_util import ravel_pytree

from tracetorch_jax import functional, nnx, snn, spikes

pytestmark = pytest.mark.slow

T, B, N = 10, 2, 2  # more steps than one chunk of the backward pass
XS = jax.random.normal(jax.random.key(0), (B, T, N))
LAYERS = {
    "SLI": snn.SLI(N),
    "DSRLITS": snn.DSRLITS(N, pos_threshold=0.5, neg_threshold=0.5),
}


def by_rnn(layer, params):
    return nn.RNN(layer).apply({"params": {"cell": params}}, XS)


def by_cell(layer, params):
    def step(carry, x):
        return layer.apply({"params": params}, carry, x)

    carry = layer.initialize_carry(None, (B, N))
    return jnp.moveaxis(jax.lax.scan(step, carry, jnp.moveaxis(XS, 1, 0))[1], 0, 1)


def by_any_step(layer, params):
    values = layer.apply({"params": params}, method="parameters")
    step = functional.LayerStep(layer.spec, layer.spike_function)
    carry = layer.initialize_carry(None, (B, N))
    ys = functional.unroll(step, values, carry, jnp.moveaxis(XS, 1, 0), elementwise=False)[1]
    return jnp.moveaxis(ys, 0, 1)


def by_unroll(layer, params, **options):
    return snn.Unroll(layer, **options).apply({"params": {"cell": params}}, XS)


ROUTES = {"RNN": by_rnn, "cell": by_cell, "functional.unroll": by_any_step}


def loss_of(name, route):
    """A loss as a function of one vector of parameters, and where it starts."""
    layer = LAYERS[name]
    flat, unravel = ravel_pytree(layer.init(jax.random.key(0), None, XS[:, 0])["params"])
    weights = jax.random.normal(jax.random.key(1), (B, T, N))
    return lambda flat: jnp.square(route(layer, unravel(flat)) + weights).mean(), flat


@pytest.mark.parametrize(
    ("name", "route"), [("SLI", "RNN"), ("SLI", "functional.unroll"), ("DSRLITS", "cell")]
)
def test_forward_mode(name, route):
    loss, flat = loss_of(name, ROUTES[route])
    gradient = jax.jit(jax.grad(loss_of(name, by_unroll)[0]))(flat)
    assert np.abs(gradient).max() > 1e-3
    forward = jax.jit(lambda flat: (*jax.jvp(loss, (flat,), (gradient,)), jax.jacfwd(loss)(flat)))
    value, slope, columns = forward(flat)
    np.testing.assert_allclose(value, loss(flat), rtol=1e-5)
    np.testing.assert_allclose(slope, gradient @ gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(columns, gradient, rtol=1e-4, atol=1e-6)


def plain(u):
    """The default spike function with its surrogate, in what plain autodiff knows."""
    smooth = spikes.atan(2.0).probability(u)
    return smooth + jax.lax.stop_gradient((u > 0).astype(u.dtype) - smooth)


@pytest.mark.parametrize("name", reference.first(LAYERS))
def test_second_derivatives_through_unroll(name):
    fires = LAYERS[name].spec.fires

    def by_plain_autodiff(layer, params):
        return by_cell(layer.clone(spike=plain) if fires else layer, params)

    loss, flat = loss_of(name, by_plain_autodiff)
    want = jax.jit(jax.hessian(loss))(flat)
    assert np.abs(want).max() > 1e-3
    loss = loss_of(name, by_unroll)[0]
    np.testing.assert_allclose(jax.jit(jax.hessian(loss))(flat), want, rtol=1e-3, atol=1e-5)
    if fires:
        return
    for route in (lambda *args: by_unroll(*args, engine="parallel"), by_rnn):
        got = jax.jit(jax.hessian(loss_of(name, route)[0]))(flat)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    twice = loss_of(name, lambda *args: by_unroll(*args, checkpoint_every=1))[0]
    got = jax.jit(jax.jacrev(jax.grad(twice)))(flat)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("spike", [spikes.atan(2.0), spikes.sigmoid(4.0), spikes.gaussian(0.5)])
def test_spikes_in_forward_mode_and_twice(spike):
    u = jnp.array([-0.3, 0.0, 0.4])
    out, slope = jax.jvp(spike, (u,), (jnp.ones(3),))
    np.testing.assert_array_equal(out, spike.forward(u))
    np.testing.assert_array_equal(slope, spike.derivative(u))
    of_derivative = jax.vmap(jax.grad(spike.derivative))(u)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(spike)))(u), of_derivative, rtol=1e-6)
    draw = jnp.full(3, 0.5)
    random = spikes.bernoulli(spike)
    out, slope = jax.jvp(lambda u: random(u, draw), (u,), (jnp.ones(3),))
    np.testing.assert_array_equal(out, random.forward(u, draw))
    np.testing.assert_array_equal(slope, random.derivative(u))


BACKWARDS_ONLY = "no forward mode: jax.jvp, .* need Flax's own RNN"


class TestWhatIsSaidOtherwise:
    @pytest.mark.parametrize("engine", ["scan", "parallel"])
    def test_forward_mode_through_unroll(self, engine):
        layer = LAYERS["SLI"]
        params = layer.init(jax.random.key(0), None, XS[:, 0])["params"]
        with pytest.raises(TypeError, match=BACKWARDS_ONLY):
            jax.jvp(lambda params: by_unroll(layer, params, engine=engine), (params,), (params,))

    def test_forward_mode_through_unroll_of_nnx(self):
        model = nnx.Unroll(nnx.LI(N))
        with pytest.raises(TypeError, match=BACKWARDS_ONLY):
            jax.jvp(model, (XS,), (XS,))
