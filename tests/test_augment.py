"""Changes of training sequences, and what the network reads of a signal at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracetorch_jax import augment, decode, encode

KEY = jax.random.key(0)
XS = np.asarray(jax.random.normal(jax.random.key(1), (40, 12, 2, 3)))
EACH = {
    augment.noise: 0.1,
    augment.scale: 0.1,
    augment.shift: 3,
    augment.warp: 0.3,
    augment.cutout: 5,
    augment.vary: 0.2,
}


@pytest.mark.parametrize("change", EACH)
def test_changes_each_sequence_in_its_own_way(change):
    """Alike under jit, and not at all where the amount is 0."""
    xs = np.repeat(XS[:1], 40, axis=0)
    changed = change(KEY, xs, EACH[change])
    assert changed.shape == xs.shape and changed.dtype == xs.dtype
    assert len(np.unique(np.asarray(changed).round(4), axis=0)) > 5
    inside = jax.jit(change, static_argnums=2)(KEY, xs, EACH[change])
    np.testing.assert_allclose(inside, changed, atol=1e-5)
    np.testing.assert_allclose(change(KEY, xs, 0), xs, atol=1e-6)
    assert change(KEY, xs.astype(jnp.bfloat16), EACH[change]).dtype == jnp.bfloat16


@pytest.mark.parametrize("change", EACH)
def test_axes_in_either_order_and_none_of_the_batch(change):
    want = change(KEY, XS[:3], EACH[change])
    major = change(KEY, XS[:3].swapaxes(0, 1), EACH[change], time_major=True)
    np.testing.assert_array_equal(major.swapaxes(0, 1), want)
    one = change(KEY, XS[0, :, 0], EACH[change])
    np.testing.assert_array_equal(one, change(KEY, XS[:1, :, 0], EACH[change])[0])
    assert not np.array_equal(one, XS[0, :, 0])


@pytest.mark.parametrize("change", EACH)
def test_padding_takes_no_part(change):
    """Whatever it holds: a sequence is changed as one that ends there, and 0 comes after it."""
    lengths = np.array([12, 7, 1, 0])
    rows = np.stack([XS[0]] * 4)
    padded = np.where(np.arange(12)[:, None, None] < lengths[:, None, None, None], rows, np.nan)
    got = np.asarray(change(KEY, padded, EACH[change], seq_lengths=lengths))
    assert np.isfinite(got).all()
    for row, length in zip(got, lengths, strict=True):
        assert not row[length:].any()
    whole = change(KEY, rows, EACH[change])
    np.testing.assert_array_equal(got[0], whole[0])
    inside = jax.jit(lambda n: change(KEY, padded, EACH[change], seq_lengths=n))(lengths)
    np.testing.assert_allclose(inside, got, atol=1e-6)
    swapped = change(KEY, padded.swapaxes(0, 1), EACH[change], seq_lengths=lengths, time_major=True)
    np.testing.assert_array_equal(swapped.swapaxes(0, 1), got)
    with pytest.raises(ValueError, match="`seq_lengths` must"):
        change(KEY, padded, EACH[change], seq_lengths=[13, 1, 1, 1])


def test_ended_sequences_move_within_their_own_steps():
    xs = np.arange(20.0, dtype=np.float32)[None, :, None].repeat(300, axis=0)
    lengths = np.full(300, 9)
    shifted = np.asarray(augment.shift(KEY, xs, 3, seq_lengths=lengths))[:, :9, 0]
    by = 4 - shifted[:, 4]
    assert sorted(set(by)) == [-3, -2, -1, 0, 1, 2, 3]
    np.testing.assert_array_equal(shifted, np.clip(np.arange(9) - by[:, None], 0, 8))
    played = np.asarray(augment.warp(KEY, xs, 0.25, seq_lengths=lengths))[:, :9, 0]
    np.testing.assert_allclose(played[:, 4], 4, atol=1e-5)
    assert played.max() == 8 and played[:, 5].min() < 4.85 and played[:, 5].max() > 5.2
    ones = np.ones((300, 20, 1), np.float32)
    gone = 1 - np.asarray(augment.cutout(KEY, ones, 5, seq_lengths=lengths))[:, :9, 0]
    assert (gone.sum(1) > 0).mean() > 0.75 and set(gone.sum(1)) == {0, 1, 2, 3, 4, 5}
    assert gone[:, 0].any() and gone[:, 8].any()


def test_noise_and_scale_have_their_deviation():
    xs = np.ones((4000, 2, 1), np.float32)
    added = augment.noise(KEY, xs, 0.3) - 1
    assert float(added.std()) == pytest.approx(0.3, rel=0.05)
    factors = augment.scale(KEY, xs, 0.3)
    assert float(jnp.log(factors).std()) == pytest.approx(0.3, rel=0.05)
    np.testing.assert_array_equal(factors[:, 0], factors[:, 1])


def test_shift_moves_by_whole_steps():
    xs = np.arange(20.0, dtype=np.float32)[None, :, None].repeat(200, axis=0)
    moved = np.asarray(augment.shift(KEY, xs, 3))[..., 0]
    by = 10 - moved[:, 10]
    assert sorted(set(by)) == [-3, -2, -1, 0, 1, 2, 3]
    np.testing.assert_array_equal(moved, np.clip(np.arange(20) - by[:, None], 0, 19))


def test_warp_changes_the_speed_around_the_middle():
    xs = np.arange(21.0, dtype=np.float32)[None, :, None].repeat(500, axis=0)
    played = np.asarray(augment.warp(KEY, xs, 0.25))[..., 0]
    np.testing.assert_allclose(played[:, 10], 10, atol=1e-5)
    speeds = played[:, 11] - played[:, 10]
    assert 0.8 <= speeds.min() < 0.83 and 1.22 < speeds.max() <= 1.25 + 1e-5
    want = np.clip(10 + speeds[:, None] * (np.arange(21) - 10), 0, 20)
    np.testing.assert_allclose(played, want, atol=1e-3)


def test_cutout_silences_one_stretch():
    cut = np.asarray(augment.cutout(KEY, np.ones((500, 12, 2), np.float32), 5))
    assert set(np.unique(cut)) == {0.0, 1.0} and (cut[..., 0] == cut[..., 1]).all()
    gone = 1 - cut[..., 0]
    edges = np.diff(np.pad(gone, [(0, 0), (1, 1)]), axis=1)
    assert (edges == 1).sum(1).max() == 1  # at most one stretch
    assert set(gone.sum(1)) == {0, 1, 2, 3, 4, 5}
    assert gone[:, 0].any() and gone[:, -1].any()


@pytest.mark.parametrize("change", EACH)
def test_bad_arguments_of_augment(change):
    with pytest.raises(ValueError, match=r"`xs` must be \[B, T, ...\]"):
        change(KEY, XS[0, 0, 0], EACH[change])
    with pytest.raises((ValueError, TypeError), match="must (be an integer|not be neg|lie in)"):
        change(KEY, XS, -1)
    with pytest.raises(TypeError, match="must be an integer of|must be a number"):
        change(KEY, XS, jnp.ones(2))


def test_amounts_of_any_kind_keep_the_dtype():
    xs = jnp.asarray(XS, jnp.bfloat16)
    for change in (augment.noise, augment.scale, augment.warp):
        want = change(KEY, xs, 0.5)
        for amount in (np.float32(0.5), np.float64(0.5), jnp.float32(0.5)):
            got = change(KEY, xs, amount)
            assert got.dtype == xs.dtype and jnp.array_equal(got, want)
        assert jax.jit(change)(KEY, xs, 0.5).dtype == xs.dtype
        with pytest.raises(TypeError, match="must be a number; got None"):
            change(KEY, xs, None)


def test_vary_makes_four_changes_of_one_strength():
    """Which leave different marks on a straight line."""
    xs = np.arange(2.0, 22.0, dtype=np.float32)[None, :, None].repeat(400, axis=0)
    got = np.asarray(augment.vary(KEY, xs, 0.2))[..., 0]
    assert set((got == 0).sum(1)) == {0, 1, 2, 3, 4}  # cut-out of a fifth of 20 steps
    whole = got[(got != 0).all(1)]
    slopes = whole[:, 15] - whole[:, 5]  # factors, of steps that no shift takes from the ends
    assert 0.15 < np.log(slopes / 10).std() < 0.25
    by = 10 - (whole[:, 10] / (slopes / 10) - 2)
    assert 2.3 < by.std() < 2.9  # uniform from -4 to 4
    rough = np.diff(whole[:, 5:15], 2, axis=1).std() / 6**0.5  # noise alone bends a line
    assert rough == pytest.approx(0.2, rel=0.1)
    with pytest.raises(ValueError, match=r"`strength` must lie in \[0, 1\]; got 1.5"):
        augment.vary(KEY, xs, 1.5)
    with pytest.raises(TypeError, match="`strength` must be known before tracing"):
        jax.jit(augment.vary)(KEY, xs, 0.1)


@pytest.mark.parametrize(
    "made",
    [
        lambda xs: encode.windows(xs, 3),
        lambda xs: encode.windows(xs, 3, stride=2),
        lambda xs: encode.delayed(xs, [0, 2]),
        encode.slopes,
        lambda xs: encode.level_crossing(xs, 0.5),
        decode.last,
        decode.first_spike,
    ],
)
def test_any_number_of_steps(made):
    """In a program that is exported, where it is open."""
    (steps,) = jax.export.symbolic_shape("t")
    exported = jax.export.export(jax.jit(made))(jax.ShapeDtypeStruct((1, steps, 2), jnp.float32))
    for xs in (jnp.ones((1, 7, 2)), jnp.arange(24.0).reshape(1, 12, 2)):
        np.testing.assert_array_equal(exported.call(xs), made(xs))


def test_windows_know_how_long_sequences_are():
    xs = np.where(np.arange(7)[:, None] < 3, XS[:2, :7, 0], np.nan)
    got = encode.windows(xs, 3, stride=2, seq_lengths=np.array([3, 3]))
    np.testing.assert_array_equal(got[:, :2], encode.windows(xs[:, :3], 3, stride=2))
    assert not got[:, 2:].any(where=np.isfinite(got[:, 2:])) and np.isfinite(got).all()


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows(width, stride):
    """Window j holds the steps up to (j + 1) stride - 1, zeros outside."""
    xs = np.arange(1.0, 2 * 7 * 2 + 1, dtype=np.float32).reshape(2, 7, 2)
    got = encode.windows(xs, width, stride=stride)
    number = -(-7 // stride)
    want = np.zeros((2, number, width, 2), np.float32)
    for j in range(number):
        for i in range(width):
            at = (j + 1) * stride - width + i
            if 0 <= at < 7:
                want[:, j, i] = xs[:, at]
    np.testing.assert_array_equal(got, want.reshape(2, number, -1))
    swapped = encode.windows(xs.swapaxes(0, 1), width, stride=stride, time_major=True)
    np.testing.assert_array_equal(swapped.swapaxes(0, 1), got)
    np.testing.assert_array_equal(encode.windows(xs[0], width, stride=stride), got[0])


def test_delayed():
    xs = XS[:, :, 0]
    got = encode.delayed(xs, [0, 2, 20])
    np.testing.assert_array_equal(got[..., :3], xs)
    np.testing.assert_array_equal(got[:, 2:, 3:6], xs[:, :-2])
    assert not got[:, :2, 3:6].any() and not got[..., 6:].any()
    images = encode.delayed(XS, [1])
    np.testing.assert_array_equal(images[:, 1:], XS[:, :-1])


def test_slopes():
    """Also of unsigned integers, whose differences NumPy wraps."""
    xs = np.array([[[3, 200], [1, 210], [4, 0]]], np.uint8)
    got = encode.slopes(xs)
    np.testing.assert_array_equal(got[..., :2], xs)
    np.testing.assert_array_equal(got[0, :, 2:], [[0, 0], [-2, 10], [3, -210]])
    np.testing.assert_array_equal(encode.slopes(xs[0]), got[0])
    major = encode.slopes(xs.swapaxes(0, 1), time_major=True)
    np.testing.assert_array_equal(major.swapaxes(0, 1), got)
    gaps = encode.slopes(np.array([[1.0], [np.nan], [2.0], [5.0]]))[:, 1]
    np.testing.assert_array_equal(gaps, [0, np.nan, np.nan, 3])
    assert encode.slopes(XS.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: encode.slopes(XS[0, 0, 0]), ValueError, r"`xs` must be \[B, T, ...\]"),
        (lambda: encode.windows(XS, 0), ValueError, "`width` must be an integer of at least 1"),
        (lambda: encode.windows(XS, 2, stride=0), ValueError, "`stride` must be an integer"),
        (lambda: encode.windows(XS, 2.0), TypeError, "`width` must be an integer"),
        (
            lambda: encode.delayed(XS, 3),
            TypeError,
            "`delays` must be a sequence of integers; got 3",
        ),
        (lambda: encode.delayed(XS, []), ValueError, "`delays` must hold at least one delay"),
        (lambda: encode.delayed(XS, [-1]), ValueError, "`delays` must be an integer of at least 0"),
        (lambda: encode.delayed(XS[0, 0, 0], [1]), ValueError, r"`xs` must be \[B, T, ...\]"),
    ],
)
def test_bad_arguments_of_windows(call, error, words):
    with pytest.raises(error, match=words):
        call()
