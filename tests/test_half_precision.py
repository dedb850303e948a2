"""Counts, sums and levels over many steps, of bfloat16 and float16: as exact as of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracetorch_jax import decode, encode, losses, metrics, snn, training

pytestmark = pytest.mark.slow

STEPS = 70_000  # more than float16 can hold, and than bfloat16 can count
HALF = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
RNG = np.random.default_rng(0)
SPIKES = (RNG.random((1, STEPS, 2)) < [0.9, 0.001]).astype(np.float32)
SPIKES[0, :301, 1] = 0
SPIKES[0, 301, 1] = 1
LABELS = np.array([1])

# Of the outputs [B, T, N] of a network: what is given in float32, and in the outputs' own type.
WIDE = {
    "count": decode.count,
    "first_spike": decode.first_spike,
    "cross_entropy": lambda s: losses.cross_entropy(s, LABELS, decode="mean"),
    "step_cross_entropy": lambda s: losses.step_cross_entropy(s, np.zeros((1, STEPS), int)),
    "count_target": lambda s: losses.count_target(s, LABELS, correct=300, incorrect=10),
    "rate_target": lambda s: losses.rate_target(s, LABELS),
    "first_spike_cross_entropy": lambda s: losses.first_spike_cross_entropy(s, LABELS),
    "first_spike_target": lambda s: losses.first_spike_target(s, np.array([[0, 999]])),
    "soft_cross_entropy": lambda s: losses.soft_cross_entropy(s, np.array([[0.2, 0.8]])),
    "rate_penalty": lambda s: losses.rate_penalty(s, max_rate=0.01),
    "silence_penalty": lambda s: losses.silence_penalty(s, min_rate=0.5),
    "spike_rate": metrics.spike_rate,
}
OWN = {"mean": decode.mean, "last": decode.last, "max": decode.max}


@HALF
@pytest.mark.parametrize("name", WIDE | OWN)
def test_many_steps_of_spikes(name, dtype):
    run = jax.jit((WIDE | OWN)[name])
    halves, wholes = run(jnp.asarray(SPIKES, dtype)), run(SPIKES)  # 0 and 1 are exact
    for got, want in zip(jax.tree.leaves(halves), jax.tree.leaves(wholes), strict=True):
        assert got.dtype == (dtype if name in OWN else np.float32) and np.isfinite(want).all()
        np.testing.assert_array_equal(got, want.astype(got.dtype))


def test_every_decoder_and_loss_is_here():
    assert {*decode.__all__, *losses.__all__} <= {*WIDE, *OWN}


def test_known_values():
    half = jnp.zeros((1, STEPS, 2), jnp.float16)
    each = losses.step_cross_entropy(half, jnp.zeros((1, STEPS), int))
    np.testing.assert_allclose(each, np.log(2), rtol=1e-5)
    assert losses.silence_penalty(half, min_rate=0.5) == 0.25
    assert decode.mean(half + 1).tolist() == [[1, 1]]
    late = jnp.zeros((1, 400, 1), jnp.bfloat16).at[0, 301].set(512)  # of any size
    assert decode.first_spike(late).tolist() == [[301]]
    assert decode.first_spike(late.astype(jnp.float32) * 1e8).tolist() == [[301]]
    assert decode.count(jnp.ones((1, 301, 1), jnp.bfloat16)).tolist() == [[301]]


@HALF
def test_gradients_of_many_steps(dtype):
    def run(s):
        mean = decode.mean(s)[0, 0].astype(jnp.float32)
        return mean + decode.count(s)[0, 0] + losses.rate_penalty(s, max_rate=0.01)

    gradient = jax.jit(jax.grad(run))
    got, want = (gradient(jnp.asarray(SPIKES, d)) for d in (dtype, np.float32))
    np.testing.assert_allclose(got.astype(np.float32), want, rtol=0.01, atol=1e-6)
    first = jax.jit(jax.grad(lambda s: decode.first_spike(s).sum()))
    alone = jnp.zeros((1, 2000, 1)).at[0, 301].set(1)
    np.testing.assert_array_equal(first(alone.astype(dtype)), first(alone).astype(dtype))


SIGNAL = np.cumsum(RNG.normal(size=(STEPS, 1)) * 0.05, 0)
# Encoders, as functions of their values; all give back the type of these.
ENCODERS = {
    "constant": (SIGNAL[:5], lambda v: encode.constant(v, 3)),
    "rate": (RNG.random((1, 2)), lambda v: encode.rate(jax.random.key(0), v, 1000)),
    "latency": (RNG.random((1, 50)), lambda v: encode.latency(v, 5000)),
    "latency log": (RNG.random((1, 50)), lambda v: encode.latency(v, 5000, scale="log")),
    "delta": (SIGNAL, lambda v: encode.delta(v, 0.1)),
    "level_crossing": (SIGNAL, lambda v: encode.level_crossing(v, 0.1)),
    "level_crossing counts": (1000 * SIGNAL, lambda v: encode.level_crossing(v, 0.1, counts=True)),
    "population": (
        1000 * RNG.random((1, 4)),
        lambda v: encode.population(v, 300, low=0.0, high=1000.0),
    ),
}


@HALF
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, dtype):
    """What is given for values of half precision is what is given for them in float32."""
    values, run = ENCODERS[name]
    values, run = jnp.asarray(values, dtype), jax.jit(run)
    got, want = run(values), run(values.astype(jnp.float32))
    assert got.dtype == (np.float32 if name.endswith("counts") else dtype)
    np.testing.assert_array_equal(got, want.astype(got.dtype))
    assert float(jnp.abs(got).max()) > 0


@HALF
@pytest.mark.parametrize("counts", [False, True])
def test_crossings_give_the_signal_back(dtype, counts):
    xs = 100 * SIGNAL if counts else 7 * np.sin(0.005 * np.arange(STEPS))[:, None]
    xs = np.asarray(jnp.asarray(xs, dtype), np.float64)
    out = np.asarray(encode.level_crossing(jnp.asarray(xs, dtype), 0.1, counts=counts), np.float64)
    staircase = xs[0] + 0.1 * np.cumsum(out, 0)
    assert np.abs(staircase - xs).max() < 0.1 * 1.05 and np.abs(out).sum() > 1000


def test_gradients_of_many_pieces():
    """A sum in bfloat16 stands still at 256 times what is added."""
    model = snn.Unroll(snn.LI(1, param_dtype=jnp.bfloat16, beta=0.5), return_carry=True)
    xs = jnp.ones((1, 2000, 1), jnp.bfloat16)
    params = model.init(jax.random.key(0), xs)["params"]

    def loss(params, carry, xs):
        return model.apply({"params": params}, xs, carry)[1].astype(jnp.float32).mean(), carry

    carry = model.cell.initialize_carry(None, (1, 1))
    run = jax.jit(training.piecewise_value_and_grad(loss, np.uint8(2), truncate=True))
    once = jax.jit(jax.grad(loss, has_aux=True))(params, carry, xs[:, :2])[0]  # of every piece
    (_, gradient) = run(params, carry, xs)
    assert gradient["cell"]["raw_beta"].dtype == jnp.bfloat16
    np.testing.assert_allclose(
        *(np.float32(g["cell"]["raw_beta"]) for g in (gradient, once)), rtol=0.01
    )
    lengths = [piece.shape[1] for piece in training.chunks(jnp.zeros((1, 310, 1)), np.uint8(100))]
    assert lengths == [100, 100, 100, 10]
