"""Steps, events and classes are counted in int32, whatever type of integers says how many."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import tracetorch_jax as tt
from tracetorch_jax import decode, encode, functional, losses, metrics, snn

pytestmark = pytest.mark.slow

STEPS = 300  # more than 8 bits can count
LENGTHS = [7, 100, 0]  # which 8 bits can hold, signed too
NARROW = ["uint8", "int8", "uint16", "int16", "uint32"]
WIDE = ["int64", "uint64"]  # NumPy's are cut by JAX unless `jax_enable_x64` is set

XS = reference.inputs(len(LENGTHS), STEPS, 2)
KEY = jax.random.key(0)


def linen(cell, **options):
    model = snn.Unroll(cell, return_carry=True, **options)
    variables = model.init(KEY, XS[:, :1])
    return lambda lengths: model.apply(variables, XS, seq_lengths=lengths)


def in_nnx(cell, **options):
    model = tt.nnx.Unroll(cell, return_carry=True, **options)
    return lambda lengths: model(XS, seq_lengths=lengths)


def by_hand(lengths):
    def step(params, state, x):
        state = params * state + x
        return state, state

    return functional.unroll(
        step, 0.9, jnp.zeros(XS[:, 0].shape), jnp.swapaxes(XS, 0, 1), seq_lengths=lengths
    )


def stack():
    return snn.Sequential([nn.Dense(2), snn.Residual([snn.SLIB(2)]), nn.GRUCell(2)])


LABELS, STEP_LABELS = np.array([0, 1, 1]), np.zeros((3, STEPS), int)

# Everything that takes lengths: makers of functions of them.
TAKERS = {
    "a layer": lambda: linen(snn.LI(2)),
    "a layer, reversed": lambda: linen(snn.LI(2), reverse=True),
    "a layer, reversed, in order": lambda: linen(snn.LI(2), reverse=True, keep_order=True),
    "a layer, in parallel": lambda: linen(snn.LI(2), engine="parallel"),
    "a stack": lambda: linen(stack()),
    "nnx": lambda: in_nnx(tt.nnx.LI(2)),
    "nnx, reversed": lambda: in_nnx(tt.nnx.LI(2), reverse=True, keep_order=True),
    "functional.unroll": lambda: by_hand,
    **{
        f"decode.{run.__name__}": lambda run=run: lambda n: run(XS, seq_lengths=n)
        for run in (decode.count, decode.first_spike, decode.last, decode.max, decode.mean)
    },
    "losses.cross_entropy": lambda: lambda n: losses.cross_entropy(XS, LABELS, seq_lengths=n),
    "losses.step_cross_entropy": lambda: (
        lambda n: losses.step_cross_entropy(XS, STEP_LABELS, seq_lengths=n)
    ),
    "losses.rate_penalty": lambda: lambda n: losses.rate_penalty(XS, max_rate=0.1, seq_lengths=n),
    "metrics.spike_rate": lambda: lambda n: metrics.spike_rate(XS, seq_lengths=n),
}


@functools.cache
def taker(name):
    """A function of lengths, as it is and compiled."""
    run = TAKERS[name]()
    return run, jax.jit(run)


@pytest.mark.parametrize("name", TAKERS)
def test_every_type_of_integers_gives_the_same(name, trials):
    run, compiled = taker(name)
    eager, traced = run(jnp.array(LENGTHS)), compiled(jnp.array(LENGTHS))
    every = NARROW + WIDE
    for dtype in trials(every if name == "a layer" else ["uint8", "int64"], every):
        lengths = np.array(LENGTHS, dtype)
        reference.assert_trees_close(run(lengths), eager, 0)
        if dtype in ("uint8", "int8"):  # the others below
            reference.assert_trees_close(compiled(lengths), traced, 0)


@pytest.mark.parametrize("name", ["a layer, reversed, in order", "decode.mean"])
def test_64_bits_in_jax(name, x64):
    run = jax.jit(TAKERS[name]())
    want = run(jnp.array(LENGTHS, jnp.int32))
    for dtype in WIDE:
        reference.assert_trees_close(run(jnp.array(LENGTHS, dtype)), want, 0)


@pytest.mark.parametrize("name", TAKERS)
def test_lengths_out_of_range(name):
    """Known ones are refused, also those that 32 bits would cut; traced ones are clipped."""
    run, compiled = taker(name)
    for bad in (STEPS + 1, -1, 2**32 + 7, -(2**32) + 7):
        with pytest.raises(ValueError, match=rf"`seq_lengths` must lie .* T = 300; got {bad}\."):
            run(np.array([0, 0, bad]))
    want = compiled(np.array([STEPS, 0, STEPS], np.int32))
    for dtype, huge in (("uint32", 2**32 - 1), ("int16", 2**15 - 1)):
        reference.assert_trees_close(compiled(np.array([huge, 0, huge], dtype)), want, 0)
    got = compiled(np.array([-5, -128, 100], np.int8))
    reference.assert_trees_close(got, compiled(np.array([0, 0, 100], np.int32)), 0)


def test_single_numbers_of_few_bits():
    """Sums and differences of NumPy's scalars wrap."""
    ones, labels = jnp.ones((1, 5, 2)), np.array([0])
    narrow = losses.count_target(ones, labels, correct=np.uint8(2), incorrect=np.uint8(5))
    assert narrow.tolist() == losses.count_target(ones, labels, correct=2, incorrect=5).tolist()
    codes = [
        encode.population(jnp.array([50.0]), 3, low=low, high=high)
        for low, high in ((-100, 100), (np.int8(-100), np.int8(100)))
    ]
    np.testing.assert_array_equal(*codes)
    size = {"num_steps": 300, "num_channels": np.uint8(200)}
    events = np.array([0.0, 1.0]), np.array([199, 199], np.uint8)
    frames = [encode.frames(*events, step=step, **size) for step in (2, np.uint8(2))]
    np.testing.assert_array_equal(*frames)
    assert encode.constant(jnp.ones(1), np.uint8(200)).shape == (200, 1)


def test_programs_and_diagnoses():
    model = snn.Unroll(snn.LIB(2), reverse=True)
    variables = model.init(KEY, XS)
    program = tt.export.sequence(model, variables, "b, t, 2", seq_lengths="b", platforms=["cpu"])
    want = jax.jit(model.apply)(variables, XS, seq_lengths=np.array([7, 300, 0]))
    for most in (300, 999):  # a program can't refuse what is out of range
        got = program.call(XS, seq_lengths=np.array([7, most, 0], np.int32))
        reference.assert_trees_close(got, want, 1e-6)
    reports = (
        tt.diagnose(model, variables, XS, seq_lengths=np.array(LENGTHS, dtype))
        for dtype in ("int32", "uint8", "uint64")
    )
    times = dict.fromkeys(("compile_seconds", "run_seconds"), 0.0)
    assert len({str(dataclasses.replace(report, **times)) for report in reports}) == 1
