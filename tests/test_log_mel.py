"""Sounds as power in bands, held against sums written out."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracetorch_jax import encode

RATE = 4000
SOUND = np.random.default_rng(0).normal(0, 0.1, (2, 1000)).astype(np.float32)


def by_hand(sound, bands, rate=RATE, window=0.025, step=0.01, low=20.0, high=None, floor=1e-6):
    """Band by band and window by window, with the transform written as sums."""
    size, hop = round(window * rate), round(step * rate)
    points = next(2**k for k in range(20) if 2**k >= size)
    ends = [2595 * np.log10(1 + f / 700) for f in (low, high or rate / 2)]
    corners = [
        700 * (10 ** ((ends[0] + i * (ends[1] - ends[0]) / (bands + 1)) / 2595) - 1)
        for i in range(bands + 2)
    ]
    rows = []
    for start in range(0, len(sound) - size + 1, hop):
        n = np.arange(size)
        piece = sound[start : start + size] * np.sin(np.pi * n / size) ** 2
        f = np.arange(points // 2 + 1)[:, None]
        power = np.abs((piece * np.exp(-2j * np.pi * f * n / points)).sum(axis=1)) ** 2
        place = f[:, 0] * rate / points
        rows.append([power @ np.interp(place, corners[i : i + 3], [0, 1, 0]) for i in range(bands)])
    return np.log(np.maximum(rows, floor))


@pytest.mark.parametrize(
    "options",
    [{}, {"window": 0.03, "step": 0.02}, {"low": 300.0, "high": 1500.0, "floor": 1e-3}],
)
def test_bands_are_sums_of_power(options):
    mels = encode.log_mel(SOUND, 6, rate=RATE, **options)
    for sound, got in zip(SOUND, mels, strict=True):
        np.testing.assert_allclose(got, by_hand(sound, 6, **options), rtol=1e-4, atol=1e-4)
    one = jax.jit(lambda sound: encode.log_mel(sound, 6, rate=RATE, **options))(SOUND[1])
    np.testing.assert_allclose(one, mels[1], rtol=1e-5, atol=1e-5)


def test_a_stream_gives_the_same():
    whole = encode.log_mel(SOUND, 6, rate=RATE)
    later = encode.log_mel(SOUND[:, 3 * 40 :], 6, rate=RATE)  # three windows on
    np.testing.assert_allclose(later, whole[:, 3:], rtol=1e-5, atol=1e-5)


def test_silence_whole_numbers_and_narrow_types():
    silent = encode.log_mel(np.zeros(1000, np.int16), 6, rate=RATE, floor=0.5)
    assert silent.dtype == jnp.float32 and np.allclose(silent, np.log(0.5))
    narrow = encode.log_mel(jnp.asarray(SOUND, jnp.bfloat16), 6, rate=RATE)
    assert narrow.dtype == jnp.bfloat16
    wide = encode.log_mel(jnp.asarray(SOUND, jnp.bfloat16).astype(jnp.float32), 6, rate=RATE)
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"sounds": np.zeros(99)}, ValueError, r"of at least a window, 100; got \(99,\)"),
        ({"sounds": 1.0}, ValueError, r"`sounds` must be \[..., samples\]"),
        ({"sounds": np.zeros(1000, complex)}, TypeError, "`sounds` must be real numbers"),
        ({"num_mels": 0}, ValueError, "`num_mels` must be an integer of at least 1; got 0"),
        ({"num_mels": 120}, ValueError, "`num_mels` must leave each band a frequency .* 31 Hz"),
        ({"rate": 0.5}, TypeError, "`rate` must be an integer"),
        ({"window": 0.0}, ValueError, "`window` must be at least one sample; got 0.0 s"),
        ({"step": 1e-5}, ValueError, "`step` must be at least one sample"),
        ({"step": "0"}, TypeError, "`step` must be a number; got '0'"),
        ({"floor": 0.0}, ValueError, "`floor` must be greater than 0; got 0.0"),
        ({"low": -1.0}, ValueError, "0 <= low < high <= rate / 2 = 2000.0; got -1.0 and 2000.0"),
        ({"low": 500.0, "high": 400.0}, ValueError, "got 500.0 and 400.0"),
        ({"high": 2001.0}, ValueError, "got 20.0 and 2001.0"),
    ],
)
def test_bad_input_is_named(changed, error, message):
    given = {"sounds": SOUND, "num_mels": 6, "rate": RATE} | changed
    with pytest.raises(error, match=message):
        encode.log_mel(**given)


@pytest.mark.skipif(not importlib.util.find_spec("librosa"), reason="needs librosa")
def test_bands_are_those_of_librosa():
    import librosa

    sound = np.random.default_rng(1).normal(0, 0.1, 16000).astype(np.float32)
    theirs = librosa.feature.melspectrogram(
        y=np.pad(sound, 56), sr=16000, n_fft=512, win_length=400, hop_length=160,
        window="hann", center=False, htk=True, norm=None, n_mels=40, fmin=20,
    )  # fmt: skip
    expected = np.log(np.maximum(theirs.T, 1e-6))
    np.testing.assert_allclose(encode.log_mel(sound), expected, rtol=1e-4, atol=1e-4)
