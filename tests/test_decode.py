"""From outputs over time to one value per sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import decode

LENGTHS = np.array([5, 3, 0])


def by_hand(name, x):
    """What a decoder gives for one sequence ``[T, N]``, in NumPy."""
    if not len(x):
        return np.zeros(x.shape[1:], x.dtype)
    if name == "first_spike":
        fired = x != 0
        return np.where(fired.any(0), fired.argmax(0), len(x)).astype(x.dtype)
    return {"mean": x.mean(0), "last": x[-1], "max": x.max(0), "count": x.sum(0)}[name]


def spikes(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0], size=shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", decode.__all__)
def test_matches_numpy(name):
    run = getattr(decode, name)
    xs = spikes(3, 5, 4)
    want = np.stack([by_hand(name, x) for x in xs])
    reference.assert_close(run(xs), want, 1e-6, name)
    reference.assert_close(run(xs.swapaxes(0, 1), time_major=True), want, 1e-6, name)
    reference.assert_close(run(xs[0]), want[0], 1e-6, name)  # [T, N]
    reference.assert_close(jax.jit(jax.vmap(run))(xs), want, 1e-6, name)
    images = spikes(3, 5, 2, 2, 2)
    want = np.stack([by_hand(name, x) for x in images])
    reference.assert_close(run(images), want, 1e-6, name)

    xs = spikes(3, 5, 4)
    want = np.stack([by_hand(name, x[:n]) for x, n in zip(xs, LENGTHS, strict=True)])
    got = run(xs, seq_lengths=LENGTHS)
    reference.assert_close(got, want, 1e-6, name)
    got = run(xs.swapaxes(0, 1), seq_lengths=LENGTHS, time_major=True)
    reference.assert_close(got, want, 1e-6, name)
    reference.assert_close(run(xs[1], seq_lengths=3), want[1], 1e-6, name)


@pytest.mark.parametrize("name", decode.__all__)
def test_padding_has_no_effect(name):
    def run(xs):
        return getattr(decode, name)(xs, seq_lengths=LENGTHS)

    xs = jnp.asarray(spikes(3, 5, 4))
    beyond = (np.arange(5) >= LENGTHS[:, None])[..., None]
    clean = reference.value_and_grads(run, xs)
    dirty = reference.value_and_grads(run, jnp.where(beyond, jnp.nan, xs))
    reference.assert_trees_close(dirty, clean, 1e-6)
    assert np.all(np.where(beyond, clean[1][0], 0) == 0)


@pytest.mark.parametrize("name", decode.__all__)
def test_bad_input_is_named(name):
    run = getattr(decode, name)
    with pytest.raises(ValueError, match=r"`outputs` must be \[B, T, ...\].*got shape \(5,\)"):
        run(jnp.zeros(5))
    with pytest.raises(TypeError, match="`outputs` must be real numbers"):
        run(jnp.zeros((2, 5, 3), jnp.complex64))
    with pytest.raises(ValueError, match="`seq_lengths` must have one length for each"):
        run(jnp.zeros((2, 5, 3)), seq_lengths=[1, 2, 3])
    with pytest.raises(ValueError, match="`seq_lengths` must lie between 0 and T = 5; got 6"):
        run(jnp.zeros((2, 5, 3)), seq_lengths=[1, 6])
    with pytest.raises(ValueError, match="`seq_lengths` must be a scalar"):
        run(jnp.zeros((5, 3)), seq_lengths=[5])
    with pytest.raises(ValueError, match="one length per sequence"):
        run(jnp.zeros((2, 5, 3)), seq_lengths=5)
    with pytest.raises(TypeError, match="`seq_lengths` must be integers"):
        run(jnp.zeros((2, 5, 3)), seq_lengths=[1.0, 2.0])


@pytest.mark.slow
def test_the_gradient_of_the_first_spike_is_what_flipping_a_spike_does():
    train = np.array([0, 0, 1, 0, 1, 0], np.float32)[:, None]
    gradient = jax.grad(lambda s: decode.first_spike(s).sum())(train)[:, 0]

    def when(t, present):
        return float(decode.first_spike(np.where(np.arange(6)[:, None] == t, present, train))[0])

    flips = [when(t, 1.0) - when(t, 0.0) for t in range(6)]
    np.testing.assert_allclose(gradient, flips)
    assert flips == [-2, -1, -2, 0, 0, 0]


@pytest.mark.parametrize("name", decode.__all__)
def test_no_steps_at_all(name):
    run = getattr(decode, name)
    assert run(jnp.zeros((2, 0, 3))).tolist() == np.zeros((2, 3)).tolist()
    assert run(jnp.zeros((2, 0, 3)), seq_lengths=np.array([0, 0])).tolist() == [[0] * 3] * 2


def test_the_greatest_of_what_is_masked_out():
    xs = jnp.full((1, 3, 2), -jnp.inf)
    assert decode.max(xs, seq_lengths=[2]).tolist() == decode.max(xs).tolist() == [[-np.inf] * 2]


def test_first_spikes_of_either_sign_and_any_size_count():
    assert decode.first_spike(jnp.array([[0.0, 0.0], [-0.3, 2.5]])).tolist() == [1, 1]
    assert decode.first_spike(jnp.array([[0.0, 0.0], [-jnp.inf, jnp.inf]])).tolist() == [1, 1]
    assert np.isnan(decode.first_spike(jnp.array([[0.0], [jnp.nan]]))).all()


def test_steps_that_are_the_greatest_together_share_the_gradient():
    xs = jnp.array([[[1.0], [1.0], [0.0]]])
    for lengths in (None, jnp.array([3])):
        gradient = jax.grad(lambda xs, n=lengths: decode.max(xs, seq_lengths=n).sum())(xs)
        assert gradient[0, :, 0].tolist() == [0.5, 0.5, 0]


def test_a_negative_spike_comes_earlier_the_more_negative_it_is():
    gradient = jax.grad(lambda s: decode.first_spike(s).sum())(jnp.array([[0.0], [-1.0], [0.0]]))
    assert gradient[1, 0] == 2  # without it there is none, in two steps
