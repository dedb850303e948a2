"""`Delay`: channels that arrive later, against the sum written out."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

from tracetorch_jax import checkpoint, export, functional, interop, snn, training
from tracetorch_jax import nnx as tnnx

B, T, N, MOST = 2, 9, 3, 4
XS = reference.inputs(B, T, N)
SETTINGS = {
    "learnt": {"delay": (0.3, 2.0, 3.7)},
    "shared": {"delay": 1.6, "delay_rank": 0},
    "exact": {"delay": (0.0, 2.0, 4.0), "delay_learnable": False},
    "constant": {"delay": (0.0, 2.5, 4.0), "delay_learnable": False},
    "smooth": {"delay": (0.3, 2.0, 3.7), "sigma": 0.8},
}
EACH = reference.some(SETTINGS, ("learnt", "exact", "smooth"))


def layer(name, family=snn, **more):
    return family.Delay(N, MOST, **SETTINGS[name], **more)


def made(cell, xs=XS):
    """A model of the cell, which gives its carry as well, and variables."""
    model = snn.Unroll(cell, return_carry=True)
    return model, model.init(jax.random.key(0), xs)


def written_out(delays, past, xs, sigma=None):
    """The equations, channel by channel and step by step, in float64: ``[T, B, N]``."""
    line = np.concatenate([past, xs]).astype(np.float64)
    most, ys = len(past), np.zeros(xs.shape)
    for n in range(xs.shape[-1]):
        d = float(np.broadcast_to(delays, xs.shape[-1:])[n])
        if sigma is None:
            k = min(int(np.floor(d)), most)
            weights = np.zeros(most + 2)
            weights[[k, k + 1]] = 1 - (d - k), d - k
        else:
            weights = np.exp(-((np.arange(most + 1) - d) ** 2) / (2 * sigma**2))
            weights /= weights.sum()
        for t in range(len(xs)):
            for k in range(most + 1):
                ys[t, ..., n] += weights[k] * line[most + t - k, ..., n]
    return ys


@pytest.mark.parametrize("name", EACH)
def test_a_sequence_is_the_sum_written_out_and_the_stream_is_the_sequence(name):
    cell = layer(name)
    model, variables = made(cell)
    carry, ys = jax.jit(model.apply)(variables, XS)
    past, xs = np.zeros((MOST, B, N)), np.moveaxis(XS, 1, 0)
    want = written_out(SETTINGS[name]["delay"], past, xs, SETTINGS[name].get("sigma"))
    np.testing.assert_allclose(np.moveaxis(ys, 1, 0), want, atol=1e-6)
    np.testing.assert_array_equal(carry["past"], XS[:, -MOST:])
    step = jax.jit(cell.apply)
    own, steps = None, []
    for t in range(T):
        own, y = step(reference.inner(variables), own, XS[:, t])
        steps.append(y)
    np.testing.assert_array_equal(jnp.stack(steps, 1), ys)
    np.testing.assert_array_equal(own["past"], carry["past"])


@pytest.mark.optimised
@pytest.mark.parametrize("name", SETTINGS)
def test_the_stream_is_the_sequence_as_users_compile(name):
    test_a_sequence_is_the_sum_written_out_and_the_stream_is_the_sequence(name)


@pytest.mark.parametrize("name", EACH)
def test_pieces_and_flax_s_own_loop_equal_the_whole(name):
    cell = layer(name)
    model, variables = made(cell)
    carry, ys = model.apply(variables, XS)
    middle, first = model.apply(variables, XS[:, :2])
    last, second = model.apply(variables, XS[:, 2:], middle)
    np.testing.assert_array_equal(jnp.concatenate([first, second], 1), ys)
    np.testing.assert_array_equal(last["past"], carry["past"])
    flax_last, flax = nn.RNN(cell, return_carry=True).apply(variables, XS)
    np.testing.assert_allclose(flax, ys, rtol=1e-6)  # in a loop XLA takes weights another way
    np.testing.assert_array_equal(flax_last["past"], carry["past"])


def test_a_known_shift():
    xs = jnp.zeros((8, 2)).at[1].set(1.0)
    past = jnp.zeros((5, 2))
    _, ys = functional.delay(np.array([0.0, 5.0]), past, xs)
    assert np.argwhere(ys).tolist() == [[1, 0], [6, 1]]
    _, ys = functional.delay(jnp.array([2.25, 5.0]), past, xs)
    assert ys[:, 0].tolist() == [0, 0, 0, 0.75, 0.25, 0, 0, 0]
    assert ys[:, 1].tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("name", EACH)
def test_lengths_end_sequences_and_padding_does_no_harm(name):
    model, variables = made(layer(name))
    lengths = jnp.array([9, 3])

    def run(variables, xs):
        carry, ys = model.apply(variables, xs, seq_lengths=lengths)
        return (ys**2).sum(), (carry, ys)

    gradient = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))
    (_, (carry, ys)), gradients = gradient(variables, XS.at[1, 3:].set(jnp.nan))
    _, whole = jax.jit(model.apply)(variables, XS)
    np.testing.assert_allclose(ys[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(ys[1, :3], whole[1, :3], rtol=1e-6)
    assert not ys[1, 3:].any()
    np.testing.assert_array_equal(carry["past"][0], XS[0, -MOST:])
    np.testing.assert_array_equal(carry["past"][1], jnp.pad(XS[1, :3], ((1, 0), (0, 0))))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not gradients[1][1, 3:].any()
    kept, _ = model.apply(variables, XS, carry, seq_lengths=jnp.array([0, 0]))
    np.testing.assert_array_equal(kept["past"], carry["past"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sigma", [None, 0.7])
def test_gradients_are_those_of_finite_differences(sigma):
    past, xs = (reference.inputs(n, B, N, seed=n, dtype=jnp.float64) for n in (MOST, T))
    weights = reference.inputs(T, B, N, seed=3, dtype=jnp.float64)
    delays = jnp.array([0.3, 1.6, 3.8], jnp.float64)

    def loss(delays, past, xs):
        return (weights * functional.delay(delays, past, xs, sigma=sigma)[1]).sum()

    got = jax.jit(jax.grad(loss, (0, 1, 2)))(delays, past, xs)
    for i, gradient in enumerate(got):
        flat = np.zeros(gradient.size)
        for j in range(gradient.size):
            args = [delays, past, xs]
            args[i] = args[i].ravel().at[j].add(1e-4).reshape(args[i].shape)
            up = (weights * written_out(*args, sigma)).sum()
            args[i] = args[i].ravel().at[j].add(-2e-4).reshape(args[i].shape)
            flat[j] = (up - (weights * written_out(*args, sigma)).sum()) / 2e-4
            if j == 12:  # enough of the inputs
                break
        np.testing.assert_allclose(np.ravel(gradient)[: j + 1], flat[: j + 1], atol=1e-6)


@pytest.mark.parametrize("sigma", [None, 0.8])
def test_delays_of_integers_are_those_of_numbers(sigma):
    past, xs = reference.inputs(MOST, N, seed=1), XS[0]
    whole, same = (
        functional.delay(jnp.array([0, 1, 4], dtype), past, xs, sigma=sigma)[1]
        for dtype in (jnp.int32, jnp.float32)
    )
    np.testing.assert_array_equal(whole, same)


def test_the_derivative_at_a_whole_delay_is_the_one_from_above_and_at_the_end_from_below():
    past, xs = jnp.zeros((2, 1)), jnp.array([[1.0], [10.0], [100.0]])

    def last(delay):
        return functional.delay(delay, past, xs)[1][-1, 0]

    at = [jax.grad(last)(jnp.float32(d)).item() for d in (0.0, 1.0, 2.0)]
    assert at == [10 - 100, 1 - 10, 1 - 10]


def test_a_gradient_keeps_the_input_and_no_copies_for_each_delay():
    most, xs = 60, jnp.ones((50, 4, 8))
    past = jnp.zeros((most, *xs.shape[1:]))
    delays = jnp.full(8, 7.3)
    for sigma in (None, 2.0):

        def run(delays, past, xs, sigma=sigma):
            return functional.delay(delays, past, xs, sigma=sigma)[1]

        _, pull = jax.vjp(run, delays, past, xs)
        kept = sum(leaf.size for leaf in jax.tree.leaves(pull))
        assert kept == delays.size + past.size + xs.size


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtypes_are_treated_as_by_trace_layers(dtype):
    xs = XS.astype(dtype)
    model, variables = made(layer("learnt"), xs)
    carry, ys = model.apply(variables, xs)
    other, want = snn.Unroll(snn.LI(N), return_carry=True).init_with_output(jax.random.key(0), xs)[
        0
    ]
    assert (ys.dtype, carry["past"].dtype) == (want.dtype, other["mem"].dtype)
    model, variables = made(layer("learnt", dtype=dtype), XS)
    carry, ys = model.apply(variables, XS)
    assert ys.dtype == carry["past"].dtype == dtype
    counts = jnp.ones((1, 3, N), jnp.int32)
    assert snn.Unroll(layer("exact")).apply({}, counts).dtype == jnp.float32


@pytest.mark.usefixtures("x64")
def test_float64():
    xs = XS.astype(jnp.float64)
    model, variables = made(layer("learnt", param_dtype=jnp.float64), xs)
    _, ys = model.apply(variables, xs)
    want = written_out(SETTINGS["learnt"]["delay"], np.zeros((MOST, B, N)), np.moveaxis(xs, 1, 0))
    np.testing.assert_allclose(np.moveaxis(ys, 1, 0), want, atol=1e-14)


def test_axes():
    """No batch, time first, backwards, channels first, several batch axes, `jax.vmap`."""
    cell = layer("learnt")
    model, variables = made(cell)
    _, ys = model.apply(variables, XS)
    _, one = model.apply(variables, XS[0])
    np.testing.assert_array_equal(one, ys[0])
    carry, first = model.apply(variables, jnp.moveaxis(XS, 1, 0), time_major=True)
    np.testing.assert_array_equal(jnp.moveaxis(first, 0, 1), ys)
    assert carry["past"].shape == (B, MOST, N)
    _, back = model.apply(variables, XS[:, ::-1], reverse=True)
    np.testing.assert_array_equal(back, ys)
    several = jnp.stack([XS, XS])
    _, mapped = jax.vmap(lambda xs: model.apply(variables, xs))(several)
    np.testing.assert_array_equal(mapped[1], ys)
    carry, ys4 = snn.Unroll(cell, time_major=True, return_carry=True).apply(
        variables, jnp.moveaxis(several, 2, 0)
    )
    np.testing.assert_array_equal(ys4[:, 1], jnp.moveaxis(ys, 1, 0))
    assert carry["past"].shape == (2, B, MOST, N)
    images = jnp.moveaxis(XS, -1, 2)[..., None, None] * jnp.ones((1, 1, 1, 2, 2))
    for name in ("learnt", "exact", "smooth"):
        _, flat = made(layer(name))[0].apply(made(layer(name))[1], XS)
        model, variables = made(layer(name, dim=-3), images)
        carry, ys = model.apply(variables, images)
        np.testing.assert_array_equal(ys[..., 0, 1], jnp.moveaxis(flat, -1, 2))
        assert carry["past"].shape == (B, MOST, N, 2, 2)


def test_no_steps_leave_the_carry_as_it_is():
    model, variables = made(layer("learnt"))
    carry = {"past": reference.inputs(B, MOST, N)}
    last, ys = model.apply(variables, XS[:, :0], carry)
    np.testing.assert_array_equal(last["past"], carry["past"])
    assert ys.shape == (B, 0, N)


@pytest.mark.parametrize("name", EACH)
def test_nnx_equals_linen(name):
    model, variables = made(layer(name))
    other = tnnx.Unroll(layer(name, tnnx), return_carry=True)
    assert jax.tree.map(jnp.shape, tnnx.to_linen(other)) == jax.tree.map(jnp.shape, variables)
    if variables:
        tnnx.from_linen(variables, other)
    carry, ys = other(XS)
    chex.assert_trees_all_equal((carry, ys), model.apply(variables, XS))


def test_stateful_layers_keep_their_past():
    layers = tnnx.Stateful(layer("learnt", tnnx), input_shape=(B, N))
    want = tnnx.Unroll(layer("learnt", tnnx))(XS)
    np.testing.assert_array_equal(layers.unroll(XS[:, :4]), want[:, :4])
    states = tnnx.save_states(layers)
    np.testing.assert_array_equal(layers(XS[:, 4]), want[:, 4])
    tnnx.load_states(layers, states)
    np.testing.assert_array_equal(layers(XS[:, 4]), want[:, 4])
    tnnx.zero_states(layers, (5,))
    assert layers(jnp.ones((5, N))).shape == (5, N)
    states["."]["past"] = states["."]["past"][:, 1:]
    with pytest.raises(ValueError, match=r"`states\['\.'\]\['past'\]` must hold max_delay = 4"):
        tnnx.load_states(layers, states)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["scan", "fused", "parallel"])
def test_every_engine_is_right_for_a_stack_with_a_delay(engine):
    model = snn.Unroll(snn.Sequential([layer("learnt"), snn.LI(N)]), engine=engine)
    variables = model.init(jax.random.key(0), XS)
    want = snn.Unroll(model.cell).apply(variables, XS)
    np.testing.assert_allclose(model.apply(variables, XS), want, atol=1e-6)
    with pytest.raises(ValueError, match="`engine` must be one of"):
        layer("exact").apply({}, None, XS, engine="fastest", method="unroll")
    with pytest.raises(ValueError, match="`checkpoint_every` must be an integer of at least 1"):
        layer("exact").apply({}, None, XS, checkpoint_every=0, method="unroll")


def test_stream_and_sequence_are_exported_for_any_size():
    model = snn.Unroll(layer("learnt"))
    variables = model.init(jax.random.key(0), XS)
    want = model.apply(variables, XS)
    np.testing.assert_array_equal(export.sequence(model, variables, "b, t, 3").call(XS), want)
    program = export.step(model, variables, "b, 3")
    carry = export.initial_carry(program, XS[:, 0])
    assert carry["past"].shape == (B, MOST, N)
    for t in range(3):
        carry, y = program.call(carry, XS[:, t])
        np.testing.assert_array_equal(y, want[:, t])


def test_checkpoints_and_optimisers_know_delays(tmp_path):
    _, variables = made(snn.Sequential([layer("learnt"), snn.LIB(N)]))
    checkpoint.save(tmp_path / "it", variables)
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path / "it", variables), variables)
    labels = training.parameter_labels(variables["params"])["cell"]
    assert labels["layers_0"] == {"raw_delay": "delay"}
    assert not training.decay_mask(variables["params"])["cell"]["layers_0"]["raw_delay"]


def test_a_delay_between_two_spikes_is_learnt():
    """Spikes are apart by 7 steps; the first is delayed until it meets the second."""
    first, second = np.zeros((2, 20, 1), np.float32)
    first[3], second[10] = 1, 1
    schedule = training.sigma_schedule(12, 100)
    cell = snn.Delay(1, 12, delay=2.0)
    params = cell.init(jax.random.key(0), None, first[0])["params"]
    optimiser = optax.adam(0.1)

    @jax.jit
    def update(params, state, sigma):
        def loss(params):
            # Where the other spike is smoothed as much as the first, they differ by their times.
            both = [
                snn.Unroll(snn.Delay(1, 12, sigma=sigma, delay=6.0)).apply(
                    {"params": {"cell": own}}, xs
                )
                for own, xs in ((params, first), (fixed, np.roll(second, -6)))
            ]
            return ((both[0] - both[1]) ** 2).sum() * sigma

        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    fixed = {"raw_delay": jnp.zeros(1)}  # 6 steps
    state = optimiser.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for n in range(150):
            params, state = update(params, state, schedule(n))
    learnt = cell.apply({"params": params}, method="parameters")["delay"]
    assert abs(learnt[0] - 7) < 0.1, learnt
    # Without a window no spike is next to the delay, and the gradient is 0.
    ys = jax.grad(
        lambda p: (snn.Unroll(cell).apply({"params": {"cell": p}}, first) * second).sum()
    )(cell.init(jax.random.key(0), None, first[0])["params"])
    assert not ys["raw_delay"].any()


BAD = {
    "`num_channels` must be an integer of at least 1; got 0": {"num_channels": 0},
    "`max_delay` must be an integer of at least 1; got 0": {"max_delay": 0},
    "`max_delay` must be an integer of at least 1; got 2.5": {"max_delay": 2.5},
    "`delay` must lie strictly between 0 and max_delay = 4; got 4.0": {"delay": 4},
    "`delay` must lie strictly between 0 and max_delay = 4; got 0.0": {"delay": (1, 0, 2)},
    "`delay` must lie between 0 and max_delay = 4; got 4.5": {
        "delay": 4.5,
        "delay_learnable": False,
    },
    "`delay` must lie between 0 and max_delay = 4; got -1.0": {
        "delay": -1,
        "delay_learnable": False,
    },
    "`delay` must be finite; got nan": {"delay": np.nan},
    r"`delay` must have one value per channel, shape \(3,\); got shape \(2,\)": {"delay": (1, 2)},
    "`delay` must be a number, a 0-d or 1-d array or tuple": {"delay": "2"},
    "`delay` must be a number or an array if it is not learnable": {
        "delay": nn.initializers.ones,
        "delay_learnable": False,
    },
    "`delay_rank` must be 0": {"delay_rank": 2},
    "`delay_learnable` must be True or False; got 1": {"delay_learnable": 1},
    "`sigma` must be finite and greater than 0; got 0.0": {"sigma": 0.0},
    "`sigma` must be finite and greater than 0; got nan": {"sigma": np.nan},
    r"`sigma` must be one number, or None; got shape \(2,\)": {"sigma": np.ones(2)},
    "`dim` must be a negative integer": {"dim": 1},
    "`dtype` must be a floating-point dtype": {"dtype": "int32"},
    "Delay has no argument `delays`; .* Did you mean `delay`?": {"delays": 1.0},
}


@pytest.mark.parametrize("family", [snn, tnnx], ids=["linen", "nnx"])
@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message, family):
    with pytest.raises((ValueError, TypeError), match=message):
        family.Delay(**{"num_channels": N, "max_delay": MOST, **BAD[message]})


def test_what_is_missing_or_too_much_is_named():
    for family in (snn, tnnx):
        with pytest.raises(TypeError, match="Delay needs `max_delay`; got none"):
            family.Delay(3)
        with pytest.raises(TypeError, match="only `num_channels` and `max_delay` by position"):
            family.Delay(3, 4, 2.0)
    with pytest.raises(ValueError, match="`rngs` is needed for the initializer of `delay`"):
        tnnx.Delay(3, 4, delay=nn.initializers.ones)
    with pytest.raises(ValueError, match="`delay` must lie strictly between 0 and max_delay = 4"):
        tnnx.Delay(3, 4, delay=nn.initializers.constant(5.0), rngs=nnx.Rngs(0))


CALLS = {
    "`x` must have num_channels = 3 at axis -1 for Delay; got 2": (None, np.ones((B, 2))),
    "`x` must have an axis -1 in each step for Delay": (None, np.ones(())),
    "`x` must be real numbers; got dtype complex64": (None, np.ones((B, N), np.complex64)),
    r"`carry` must be a dict of the states of Delay, \['past'\]; got list": ([], np.ones((B, N))),
    "`carry` of Delay must hold exactly": ({"mem": np.ones((B, N))}, np.ones((B, N))),
    r"`carry\['past'\]` must hold max_delay = 4 inputs behind the batch axes .*got \(4, 2, 3\)": (
        {"past": np.ones((MOST, B, N), np.float32)},
        np.ones((B, N)),
    ),
    r"`carry\['past'\]` must be float32, in which Delay computes": (
        {"past": np.ones((B, MOST, N), np.float16)},
        np.ones((B, N), np.float32),
    ),
    "`carry` and `x` are needed; got one argument": (np.ones((B, N)),),
}


@pytest.mark.parametrize("message", CALLS)
def test_bad_calls_are_named(message):
    cell = layer("exact")
    for call in (layer("exact", tnnx), lambda *args: cell.apply({}, *args)):
        with pytest.raises((ValueError, TypeError), match=message):
            call(*CALLS[message])


def test_bad_variables_and_lengths_are_named():
    model, variables = made(layer("learnt"))
    with pytest.raises(ValueError, match="`variables` must be those of the cell Delay"):
        model.cell.apply(variables, None, XS[:, 0])
    with pytest.raises(ValueError, match="`seq_lengths` must lie between 0 and T = 9; got 10"):
        model.apply(variables, XS, seq_lengths=jnp.array([10, 1]))
    with pytest.raises(TypeError, match="Delay holds no parameters, so it cannot be called"):
        model.cell(None, XS[:, 0])


PURE = {
    "`past` must hold at least one step of the shape": {"past": np.zeros((0, N), np.float32)},
    r"of the shape of a step of `xs`, \(3,\)": {"past": np.zeros((MOST, 2), np.float32)},
    "`past` and `xs` must be of one floating-point dtype": {"past": np.zeros((MOST, N), np.int32)},
    "`delays` must lie between 0 and max_delay = 4; got 4.5": {"delays": 4.5},
    r"must be a scalar or one per channel of a step of shape \(3,\)": {"delays": np.ones(2)},
    "`delays` must be an array; got str": {"delays": "1"},
    "`delays` must be real numbers; got dtype complex64": {"delays": np.ones(N, np.complex64)},
    "must have one axis of channels": {
        "delays": np.ones((N, 2)),
        "xs": np.ones((T, N, 2), np.float32),
        "past": np.ones((MOST, N, 2), np.float32),
    },
    "`sigma` must be finite and greater than 0; got -1.0": {"sigma": -1.0},
    "`seq_lengths` must be integers": {"seq_lengths": 2.0},
}


@pytest.mark.parametrize("message", PURE)
def test_the_function_names_what_is_bad(message):
    fine = {
        "delays": np.ones(N),
        "past": np.zeros((MOST, N), np.float32),
        "xs": np.ones((T, N), np.float32),
    }
    with pytest.raises((ValueError, TypeError), match=message):
        functional.delay(**{**fine, **PURE[message]})


@pytest.mark.parametrize(
    "cell",
    [snn.Delay(4, 3), snn.Delay(4, 3, delay=2.0, delay_learnable=False), snn.DelayedDense(4, 3)],
)
def test_no_state_dict_of_torch_holds_delays(cell):
    model = snn.Unroll(snn.Sequential([nn.Dense(4), cell]))
    variables = model.init(jax.random.key(0), jnp.ones((1, 4, 4)))
    with pytest.raises(ValueError, match=rf"{type(cell).__name__} .*layers_1' has delays, which"):
        interop.to_torch(variables, model, jnp.ones((1, 4, 4)))
