"""Numbers of NumPy, Python and JAX of whatever type mean what they say."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracetorch_jax import decode, encode, functional, losses, metrics, nnx, snn

KEY = jax.random.key(0)
BIG = 2**32 + 5  # cut to 32 bits it is 5
XS = np.array([[[BIG], [-BIG], [2 * BIG]]])  # [B, T, N]
LABELS = np.array([0])


def unroll(xs):
    return snn.Unroll(snn.LI(1)).init_with_output(KEY, xs)[0]


def stateful(xs):
    return nnx.Stateful(nnx.LI(1)).unroll(xs)


def core(xs):
    spec = functional.Spec(membrane=functional.Trace(ema=False))
    return functional.step(spec, {"beta": jnp.array(0.5)}, {"mem": jnp.zeros(1)}, xs[0, 0])[1]


# Functions of whole numbers, as NumPy has them.
WHOLE = {
    "mean": decode.mean,
    "last": decode.last,
    "max": decode.max,
    "count": decode.count,
    "cross_entropy": lambda xs: losses.cross_entropy(np.repeat(xs, 2, -1), LABELS),
    "count_target": lambda xs: losses.count_target(xs, LABELS, correct=1, incorrect=0),
    "correct": lambda xs: losses.count_target(np.ones((1, 3, 1)), LABELS, correct=xs[:, 0],
                                              incorrect=0),
    "incorrect": lambda xs: losses.count_target(np.ones((1, 3, 2)), LABELS, correct=1,
                                                incorrect=xs[0, 0, 0]),
    "first_spike_target": lambda xs: losses.first_spike_target(np.ones((1, 3, 1)), xs[:, 0]),
    "spike_rate": lambda xs: metrics.spike_rate(xs % BIG + 2**32).total,
    "constant": lambda xs: encode.constant(xs[:, 0], 2),
    "delta": lambda xs: encode.delta(xs, 1.0),
    "level_crossing": lambda xs: encode.level_crossing(xs, 1.0, counts=True),
    "threshold": lambda xs: encode.level_crossing(1e10 * np.ones((3, 1)).cumsum(0), xs[0, 0],
                                                  counts=True),
    "population": lambda xs: encode.population(xs[:, 0], 3, low=0, high=2 * BIG),
    "half-life": lambda xs: functional.halflife_to_decay(xs[0, 0]),
    "unroll": unroll,
    "stateful": stateful,
    "cell": lambda xs: snn.LI(1).init_with_output(KEY, None, xs[:, 0])[0][1],
    "functional.step": core,
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_numbers_above_31_bits(name):
    """They are those of the same floats, to the bit."""
    got, want = (WHOLE[name](xs) for xs in (XS, XS.astype(np.float32)))
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype and np.isfinite(want).all()


def test_narrow_targets_do_not_wrap():
    def loss(number, correct, incorrect):
        return number(jnp.ones((1, 2, 2)), LABELS, correct=correct, incorrect=incorrect)

    zero, one = np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8)
    for number, want in ((losses.count_target, 2.5), (losses.rate_target, 0.5)):
        assert loss(number, zero, one).tolist() == [want]
        assert loss(number, np.uint8(0), np.uint8(1)).tolist() == [want]
        traced = jax.jit(lambda a, b, number=number: loss(number, a, b))
        assert traced(np.uint8(0), np.uint8(1)).tolist() == [want]


def test_lists_and_indices():
    assert decode.max(XS.tolist()).tolist() == [[float(np.float32(2 * BIG))]]
    assert decode.max(np.array([[[2**64 - 1], [5]]], np.uint64)).tolist() == [[2.0**64]]
    traced = jax.jit(lambda x: decode.max([[[x], [2 * x]]]))(jnp.float32(3))
    assert traced.tolist() == [[6]]
    model = snn.Unroll(snn.Sequential([nn.Embed(4, 4), snn.LI(4)]))
    assert model.init_with_output(KEY, np.array([[1, 3]]))[0].shape == (1, 2, 4)


# Functions of an array of floats and of numbers that meet it; values for each of these.
MEETING = {
    "temperature": (lambda xs, n: losses.first_spike_cross_entropy(xs, LABELS, temperature=n), 2),
    "max_rate": (lambda xs, n: losses.rate_penalty(xs, max_rate=n), 0.125),
    "min_rate": (lambda xs, n: losses.silence_penalty(xs, min_rate=n), 0.75),
    "label_smoothing": (lambda xs, n: losses.cross_entropy(xs, LABELS, label_smoothing=n), 0.125),
    "correct": (lambda xs, n: losses.count_target(xs, LABELS, correct=n, incorrect=n), 0.5),
    "latency": (lambda xs, n: encode.latency(xs[0], 9, threshold=n, scale="log"), 0.125),
    "delta": (lambda xs, n: encode.delta(xs, n), 0.25),
    "level_crossing": (lambda xs, n: encode.level_crossing(xs, n), 0.25),
    "population": (lambda xs, n: encode.population(xs, 3, low=n - n, high=n, width=n), 0.5),
    "saturated": (lambda xs, n: metrics.saturated(xs, rate=n), 0.75),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEETING)
def test_numbers_take_the_type_of_what_they_meet(name, x64):
    """Under strict promotion, and exactly: the numbers here are short in binary."""
    run, number = MEETING[name]
    values = np.random.default_rng(0).random((1, 5, 2)).round(2)
    for dtype in (jnp.float64, jnp.float32):
        xs = jnp.asarray(values, dtype)
        want = run(xs, number)
        for given in (np.float32(number), np.float64(number), jnp.float32(number)):
            got = run(xs, given)
            np.testing.assert_array_equal(got, want)
            assert got.dtype == want.dtype


@pytest.mark.parametrize("name", ["temperature", "correct", "delta", "level_crossing"])
def test_traced_numbers_take_it_too(name, x64):
    run, number = MEETING[name]
    xs = jnp.asarray(np.arange(10.0).reshape(1, 5, 2))
    got = jax.jit(run)(xs, jnp.float32(number))
    np.testing.assert_allclose(got, run(xs, number), rtol=1e-12)


@pytest.mark.parametrize("small", [1e-50, 1e-40, np.array([1e-50]), 1e300])
def test_what_float32_cannot_hold_is_refused(small):
    xs = jnp.ones((2, 3, 1))
    for run in (
        lambda: encode.level_crossing(xs, small),
        lambda: encode.delta(xs, small),
        lambda: encode.population(xs, 3, low=0, high=1, width=small),
        lambda: losses.first_spike_cross_entropy(xs, [0, 0], temperature=small),
    ):
        with pytest.raises(ValueError, match="greater than 0, also as float32; got"):
            run()
    assert encode.level_crossing(np.zeros((2, 1), np.float32), 2e-38).tolist() == [[0], [0]]


NAN = jnp.array([[0.5, jnp.nan]] * 2)  # as [B, N] or [T, N]
ENCODERS = {
    "rate": lambda xs: encode.rate(KEY, xs, 4),
    "rate, signed": lambda xs: encode.rate(KEY, xs, 4, signed=True, time_major=True),
    "latency": lambda xs: encode.latency(xs, 4),
    "latency, log": lambda xs: encode.latency(xs, 4, scale="log", time_major=True),
    "constant": lambda xs: encode.constant(xs, 4),
    "delta": lambda xs: encode.delta(xs, 0.1),
    "level_crossing": lambda xs: encode.level_crossing(xs, 0.1),
    "population": lambda xs: encode.population(xs[..., None], 2, low=0, high=1)[..., 0],
    "threshold of delta": lambda xs: encode.delta(jnp.ones_like(xs), xs[0]),
    "threshold of level_crossing": lambda xs: encode.level_crossing(jnp.ones_like(xs), xs[0]),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_traced_and_not_a_number_stays_so(name):
    for dtype in (jnp.float32, jnp.float16):
        out = jax.jit(ENCODERS[name])(NAN.astype(dtype))
        assert np.isnan(out[..., 1]).all() and not np.isnan(out[..., 0]).any()


def test_neurons_of_nan_are_neither_dead_nor_saturated():
    assert metrics.dead(NAN).tolist() == [False, False]
    assert metrics.saturated(NAN).tolist() == [True, False]
