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
