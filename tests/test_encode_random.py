"""Random lists of events, of any types, against exact fractions."""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracetorch_jax import encode

pytestmark = pytest.mark.slow

WHOLE = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
FLOATING = ["float16", "bfloat16", "float32", "float64"]
CHANNELS = 3


def reference(times, channels, signs, number, step, start, num_steps, binary):
    """Sums ``[T, N]`` of one list as Python's integers, and whether all events lay in range."""
    sums, complete = np.zeros((num_steps, CHANNELS), int), True
    for time, channel, sign in list(zip(times, channels, signs, strict=True))[:number]:
        where = math.floor((Fraction(float(time)) - Fraction(start)) / Fraction(step))
        if 0 <= where < num_steps:
            sums[where, int(channel)] += sign
        else:
            complete = False
    return np.sign(sums) if binary else sums, complete


@st.composite
def calls(draw):
    """Arguments of `frames`, few of them of shapes or types that need a program of their own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, events = draw(st.sampled_from([(), (2,)])), draw(st.sampled_from([1, 8, 300]))
    num_steps = draw(st.sampled_from([1, 300]))
    step, start = draw(st.sampled_from([(1, 0), (4, 16), (0.25, 2), (2, -8.0), (0.5, -0.75)]))
    dtype = jnp.dtype(draw(st.sampled_from(WHOLE + FLOATING)))
    least, most = (-0.1, 1.1) if draw(st.booleans()) else (0, 1)
    quarters = rng.integers(int(least * 4 * num_steps), int(most * 4 * num_steps), (*batch, events))
    times = np.sort(start + quarters / 4 * step, axis=-1)
    if dtype.name in WHOLE:
        times = np.clip(np.floor(times), np.iinfo(dtype).min, np.iinfo(dtype).max)
    kind = draw(st.sampled_from([None, "bool", "int8", "int64", "float16", "float32"]))
    signs = rng.choice([-1, 1], times.shape, p=[0.1, 0.9])
    polarities = None if kind is None else (signs > 0 if kind == "bool" else signs).astype(kind)
    given_as = ["float32", "bfloat16", "float16", "int8", "int32"] + ["uint8"] * (kind is None)
    number = draw(st.sampled_from([None, "uint8", "int16", "int64"]))
    if number is not None:
        number = rng.integers(1, min(events, 255) + 1, batch).astype(number)
    return {
        "times": times.astype(dtype),
        "channels": rng.integers(0, CHANNELS, times.shape).astype(draw(st.sampled_from(WHOLE))),
        "polarities": polarities,
        "num_events": number,
    }, {
        "num_steps": num_steps,
        "num_channels": CHANNELS,
        "step": step,
        "start": start,
        "binary": draw(st.booleans()),
        "time_major": draw(st.booleans()),
        "dtype": draw(st.sampled_from(given_as)),
    }  # fmt: skip


@given(calls())
def test_frames_are_the_sums_of_the_events(call):
    events, options = call
    times, channels, signs, number = events.values()
    shape = times.shape
    ones = np.ones(shape, int)
    signs = ones if signs is None else np.where(signs > 0, 1, -1)
    number = np.full(shape[:-1], shape[-1]) if number is None else number
    lists = zip(
        *(a.reshape(-1, shape[-1]) for a in (times, channels, signs)), number.ravel(), strict=True
    )
    fixed = {name: options[name] for name in ("step", "start", "num_steps", "binary")}
    sums, complete = zip(*(reference(*each, **fixed) for each in lists), strict=True)
    want = np.stack(sums).reshape(*shape[:-1], *sums[0].shape)
    want = want.swapaxes(0, 1) if options["time_major"] and len(shape) > 1 else want

    dtype = jnp.dtype(options["dtype"])
    info = jnp.iinfo if "int" in dtype.name else jnp.finfo
    low, high = float(info(dtype).min), float(info(dtype).max)
    whole = np.abs(want) <= max(abs(low), high)
    if not all(complete):
        with pytest.raises(ValueError, match="`times` must lie in"):
            encode.frames(**events, **options)
    elif not np.all((want >= low) & (want <= high)):
        with pytest.raises(ValueError, match=f"`dtype` must hold the sum .*{dtype}"):
            encode.frames(**events, **options)
    else:
        got = encode.frames(**events, **options)
        assert got.dtype == dtype and whole.all()
        np.testing.assert_array_equal(got, jnp.asarray(want, dtype))
    if times.dtype.itemsize < 8 and not (times.dtype.kind == "u" and options["start"] < 0):
        got = compiled(**options)(**events)  # what is out of range is left out or clipped
        np.testing.assert_array_equal(got, jnp.asarray(np.clip(want, low, high), dtype))


@functools.cache
def compiled(**options):
    return jax.jit(functools.partial(encode.frames, **options))
