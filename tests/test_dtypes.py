"""What goes in comes out: float32, bfloat16, float16, float64, and whole numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import functional, snn

EACH_LAYER = pytest.mark.parametrize("name", reference.EACH)
KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "options", "state"),
    [
        ("float32", {}, "float32"),
        ("bfloat16", {}, "float32"),
        ("float16", {}, "float32"),
        ("bfloat16", {"param_dtype": jnp.bfloat16}, "bfloat16"),
        ("bfloat16", {"dtype": jnp.bfloat16}, "bfloat16"),
        ("float64", {}, "float64"),
        ("float64", {"param_dtype": jnp.float64}, "float64"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", reference.FEW)
def test_output_keeps_the_inputs_type(name, dtype, options, state, x64):
    """States keep what is computed in: the wider of the types of input and parameters."""
    layer = snn.ALL_LAYERS[name](3, **options)
    xs = reference.inputs(2, 4, 3, dtype=np.float32).astype(dtype)
    model = snn.Unroll(layer, return_carry=True)
    variables = model.init(KEY, xs)
    carry, ys = model.apply(variables, xs)
    assert ys.dtype == jnp.dtype(dtype)
    assert {s.dtype for s in carry.values()} == {jnp.dtype(state)}
    assert {p.dtype for p in jax.tree.leaves(variables)} == {
        jnp.dtype(options.get("param_dtype", jnp.float32))
    }
    gradient = jax.grad(lambda x: model.apply(variables, x)[1].astype(jnp.float32).sum())(xs)
    assert gradient.dtype == xs.dtype and np.isfinite(np.asarray(gradient, np.float64)).all()
    inner = {"params": variables["params"]["cell"]}
    carry, y = layer.apply(inner, None, xs[:, 0])
    assert y.dtype == jnp.dtype(dtype)
    assert {s.dtype for s in carry.values()} == {jnp.dtype(state)}


@EACH_LAYER
def test_dtype_decides_what_is_given_out(name):
    layer = snn.ALL_LAYERS[name](3, dtype=jnp.bfloat16)
    xs = reference.inputs(2, 4, 3)
    carry, ys = snn.Unroll(layer, return_carry=True).init_with_output(KEY, xs)[0]
    assert ys.dtype == jnp.bfloat16
    assert {s.dtype for s in carry.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {s.dtype for s in layer.initialize_carry(None, (2, 3)).values()} == {
        jnp.dtype(jnp.bfloat16)
    }


@EACH_LAYER
def test_bfloat16_input_is_computed_in_float32(name):
    """In bfloat16 alone 0.999 would round to a decay of 1, and an average would stand still."""
    layer, variables = reference.scrambled(name)
    xs = reference.inputs(2, 6, 3).astype(jnp.bfloat16)
    run = snn.Unroll(layer).apply
    got = run(reference.under(variables), xs)
    want = run(reference.under(variables), xs.astype(jnp.float32))
    np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


@pytest.mark.slow
def test_a_stream_and_a_sequence_of_bfloat16_agree_with_and_without_jit():
    """XLA must not leave out the rounding between a Dense's sum and the layer behind it."""
    half = jnp.bfloat16
    cell = snn.Sequential(
        [nn.Dense(32, dtype=half), snn.LIT(32), nn.Dense(3, dtype=half), snn.LI(3)]
    )
    model, xs = snn.Unroll(cell), 4 * reference.inputs(2, 20, 8).astype(half)
    variables = jax.tree.map(lambda p: p + 0.1, model.init(KEY, xs))  # biases matter
    want = model.apply(variables, xs)
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, xs), want)
    step, carry = jax.jit(cell.apply), None
    for t in range(20):
        carry, y = step({"params": variables["params"]["cell"]}, carry, xs[:, t])
        np.testing.assert_array_equal(y, want[:, t])


@pytest.mark.optimised
@pytest.mark.parametrize("engine", ["scan", "parallel"])
def test_a_step_of_bfloat16_agrees_with_and_without_jit(engine):
    """Without the cell, which casts a whole sequence on a CPU alone."""
    layer, variables = reference.scrambled("SLI", 64)
    params = layer.apply(variables, method="parameters")
    step = functional.LayerStep(layer.spec, dtype=jnp.float32)

    def run(xs):
        xs = 3 * xs + 1  # which XLA fuses with the cast
        zeros = layer.initialize_carry(None, xs.shape[1:])
        return functional.unroll(step, params, zeros, xs, elementwise=True, engine=engine)[1]

    xs = reference.inputs(20, 2, 64).astype(jnp.bfloat16)
    np.testing.assert_array_equal(jax.jit(run)(xs), run(xs))


def test_a_slow_average_of_bfloat16_moves():
    model = snn.Unroll(snn.LI(1, beta=0.999))
    xs = jnp.ones((1, 1000, 1), jnp.bfloat16)
    ys = model.apply(model.init(KEY, xs), xs)
    assert float(ys[0, -1, 0]) == pytest.approx(1 - 0.999**1000, abs=0.01)


@pytest.mark.parametrize("name", ["LI", "LIB", "DSRLITS"])
def test_bfloat16_throughout_stays_sane(name):
    layer = snn.ALL_LAYERS[name](3, dtype=jnp.bfloat16)
    wide = snn.ALL_LAYERS[name](3)
    xs = reference.inputs(2, 6, 3)
    variables = snn.Unroll(wide).init(KEY, xs)
    got = snn.Unroll(layer).apply(variables, xs)
    want = snn.Unroll(wide).apply(variables, xs)
    if name == "LI":
        np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.02)
    else:
        assert float((got.astype(jnp.float32) == want).mean()) > 0.9


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_whole_numbers_count_as_floats(dtype):
    """Events are often stored as small integers."""
    events = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 6, 3)), dtype)
    layer, variables = reference.scrambled("SLIB")
    got = snn.Unroll(layer).apply(reference.under(variables), events)
    want = snn.Unroll(layer).apply(reference.under(variables), events.astype(jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)


def test_flax_rnn_on_wider_input_says_what_to_do(x64):
    """Flax makes the carry before it knows the input's type."""
    xs = jnp.ones((2, 4, 3), jnp.float64)
    with pytest.raises(ValueError, match="must be float64.*Set `dtype` or `param_dtype`"):
        nn.RNN(snn.LI(3)).init(KEY, xs)
    assert nn.RNN(snn.LI(3, dtype=jnp.float64)).init_with_output(KEY, xs)[0].dtype == jnp.float64
