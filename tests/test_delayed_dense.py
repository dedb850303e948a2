"""`DelayedDense`: a weight and a delay for each synapse, against the sum written out."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

import tracetorch_jax as tt
from tracetorch_jax import checkpoint, export, functional, metrics, plot, snn, training
from tracetorch_jax import nnx as tnnx

B, T, N, M, MOST = 2, 9, 3, 4, 5
XS = reference.inputs(B, T, N)
WIDTHS = reference.some([None, 0.02, 0.8, 2.5], (None, 0.8))


def made(sigma=None, **more):
    model = snn.Unroll(snn.DelayedDense(M, MOST, sigma=sigma, **more), return_carry=True)
    variables = model.init(jax.random.key(0), XS)
    bias = jnp.linspace(-1, 1, M)
    return model, {"params": {"cell": variables["params"]["cell"] | {"bias": bias}}}


def written_out(params, past, xs, sigma):
    """The equation, in float64: ``[T, B, M]``."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    line = np.concatenate([past, xs]).astype(np.float64)
    most = len(past)
    delays = most / (1 + np.exp(-params["raw_delay"]))
    ys = np.zeros((*xs.shape[:-1], M)) + params["bias"]
    for i, o in np.ndindex(delays.shape):
        distances = np.arange(most + 1) - delays[i, o]
        if sigma is None:
            weights = (np.arange(most + 1) == np.round(delays[i, o])).astype(float)
        else:
            nearest = np.min(distances**2)
            weights = np.exp(-(distances**2 - nearest) / (2 * sigma**2))
            weights /= weights.sum()
        for t in range(len(xs)):
            for k in range(most + 1):
                ys[t, ..., o] += params["kernel"][i, o] * weights[k] * line[most + t - k, ..., i]
    return ys


@pytest.mark.parametrize("sigma", WIDTHS)
def test_a_sequence_is_the_sum_written_out_and_so_is_the_stream(sigma):
    model, variables = made(sigma)
    carry, ys = jax.jit(model.apply)(variables, XS)
    params = reference.inner(variables)["params"]
    want = written_out(params, np.zeros((MOST, B, N)), np.moveaxis(XS, 1, 0), sigma)
    np.testing.assert_allclose(np.moveaxis(ys, 1, 0), want, atol=2e-6)
    own, steps = None, []
    for t in range(T):
        own, y = model.cell.apply({"params": params}, own, XS[:, t])
        steps.append(y)
    np.testing.assert_allclose(jnp.stack(steps, 1), ys, atol=1e-6)  # as of a Dense layer
    np.testing.assert_array_equal(own["past"], carry["past"])
    middle, first = model.apply(variables, XS[:, :4])
    last, second = model.apply(variables, XS[:, 4:], middle)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), ys, atol=1e-6)
    np.testing.assert_array_equal(last["past"], carry["past"])
    np.testing.assert_allclose(nn.RNN(model.cell).apply(variables, XS), ys, atol=1e-6)


def test_a_narrow_window_at_whole_delays_is_evaluation():
    kernel = reference.inputs(N, M)
    delays = jnp.arange(N * M).reshape(N, M).astype(jnp.float32) % (MOST + 1)
    past, xs = jnp.zeros((MOST, B, N)), jnp.moveaxis(XS, 1, 0)
    wide, narrow, rounded = (
        functional.delayed_dense(kernel, delays, past, xs, sigma=sigma)[1]
        for sigma in (1.0, 0.05, None)
    )
    np.testing.assert_allclose(narrow, rounded, atol=1e-6)
    assert np.abs(wide - rounded).max() > 0.1
    nearly = jnp.abs(delays - 0.4)  # rounded back
    _, ys = functional.delayed_dense(kernel, nearly, past, xs)
    np.testing.assert_array_equal(ys, rounded)


@pytest.mark.parametrize("sigma", [None, 0.8])
def test_lengths_end_sequences_and_padding_does_no_harm(sigma):
    model, variables = made(sigma)
    lengths = jnp.array([9, 3])

    def run(variables, xs):
        carry, ys = model.apply(variables, xs, seq_lengths=lengths)
        return (ys**2).sum(), (carry, ys)

    gradient = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))
    (_, (carry, ys)), gradients = gradient(variables, XS.at[1, 3:].set(jnp.nan))
    _, whole = model.apply(variables, XS)
    np.testing.assert_allclose(ys[0], whole[0], atol=1e-6)
    np.testing.assert_allclose(ys[1, :3], whole[1, :3], atol=1e-6)
    assert not ys[1, 3:].any()
    np.testing.assert_array_equal(carry["past"][1], jnp.pad(XS[1, :3], ((2, 0), (0, 0))))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    rounded = gradients[0]["params"]["cell"]["raw_delay"]
    assert rounded.any() == (sigma is not None)


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences():
    args = [
        reference.inputs(*shape, seed=i, dtype=jnp.float64)
        for i, shape in enumerate([(N, M), (N, M), (MOST, B, N), (T, B, N)])
    ]
    args[1] = MOST * jax.nn.sigmoid(args[1])
    weights = reference.inputs(T, B, M, seed=9, dtype=jnp.float64)

    @jax.jit
    def loss(kernel, delays, past, xs):
        return (weights * functional.delayed_dense(kernel, delays, past, xs, sigma=0.9)[1]).sum()

    for i, gradient in enumerate(jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*args)):
        for j in (0, 5, 11):

            def moved(by, i=i, j=j):
                changed = args[i].ravel().at[j].add(by).reshape(args[i].shape)
                return loss(*args[:i], changed, *args[i + 1 :])

            slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
            np.testing.assert_allclose(gradient.ravel()[j], slope, atol=1e-7)


def test_the_window_is_an_input_of_the_compiled_program():
    traced = []

    @jax.jit
    def run(variables, sigma):
        traced.append(sigma)
        return made(sigma)[0].apply(variables, XS)[1]

    _, variables = made()
    for sigma in (2.0, 0.8, 0.1):
        _, want = made(sigma)[0].apply(variables, XS)
        np.testing.assert_allclose(run(variables, sigma), want, atol=1e-6)
    assert len(traced) == 1


@pytest.mark.parametrize("sigma", [None, 0.8])
def test_nnx_equals_linen(sigma):
    model, variables = made(sigma)
    cell = tnnx.DelayedDense(N, M, MOST, sigma=sigma, rngs=nnx.Rngs(0))
    other = tnnx.Unroll(cell, return_carry=True)
    assert jax.tree.map(jnp.shape, tnnx.to_linen(other)) == jax.tree.map(jnp.shape, variables)
    tnnx.from_linen(variables, other)
    chex.assert_trees_all_equal(other(XS), model.apply(variables, XS))
    chex.assert_trees_all_equal(
        cell.parameters(), model.cell.apply(reference.inner(variables), method="parameters")
    )


def test_nnx_changes_the_window_without_compiling_again():
    _, variables = made()
    model = tnnx.Unroll(tnnx.DelayedDense(N, M, MOST, rngs=nnx.Rngs(0)))
    tnnx.from_linen(variables, model)
    traced = []

    @nnx.jit
    def run(model, xs):
        traced.append(model.cell.sigma)
        return model(xs)

    for sigma in (2.0, 0.8, None, 0.1, None):
        tnnx.set_sigma(model, sigma)
        want = made(sigma)[0].apply(variables, XS)[1]
        np.testing.assert_allclose(run(model, XS), want, atol=1e-6)
    assert len(traced) == 2
    assert [*nnx.state(model, tnnx.DelayWidth)] == []
    tnnx.set_sigma(model, 1.5)
    assert nnx.state(model, tnnx.DelayWidth)["cell"]["sigma"][...] == 1.5
    with pytest.raises(ValueError, match="`model` must hold a Delay or a DelayedDense; got LI"):
        tnnx.set_sigma(tnnx.LI(3), 1.0)
    with pytest.raises(TypeError, match="`model` must be of flax.nnx.*; got DelayedDense of flax."):
        tnnx.set_sigma(snn.DelayedDense(4, 5), 1.0)
    with pytest.raises(ValueError, match="`sigma` must be finite and greater than 0; got -1.0"):
        tnnx.set_sigma(model, -1.0)


def test_a_gradient_keeps_no_copies_for_each_delay():
    most, xs = 60, jnp.ones((50, 4, 8))
    past, kernel = jnp.zeros((most, *xs.shape[1:])), jnp.ones((8, 6))

    def run(kernel, delays, past, xs):
        return functional.delayed_dense(kernel, delays, past, xs, sigma=1.0)[1]

    _, pull = jax.vjp(run, kernel, 3 * kernel, past, xs)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pull))
    assert kept == 2 * kernel.size + past.size + xs.size


def test_initial_values_bias_and_dtypes():
    _, variables = made()
    cell = snn.DelayedDense(200, 8, use_bias=False, dtype=jnp.bfloat16)
    carry, y = cell.init_with_output(jax.random.key(0), None, jnp.ones((B, 50)))[0]
    assert y.dtype == carry["past"].dtype == jnp.bfloat16
    params = cell.init(jax.random.key(0), None, jnp.ones((B, 50)))["params"]
    assert sorted(params) == ["kernel", "raw_delay"]
    delays = np.asarray(cell.apply({"params": params}, method="parameters")["delay"])
    counts, _ = np.histogram(delays, 8, (0, 8))
    assert delays.min() > 0 and delays.max() < 8 and counts.min() > 1000
    half = made()[0].apply(variables, XS.astype(jnp.bfloat16))
    assert half[1].dtype == jnp.bfloat16 and half[0]["past"].dtype == jnp.float32


def network(sigma=None):
    cell = snn.DelayedDense(1, 10, sigma=sigma, delay_init=nn.initializers.constant(5.0))
    return snn.Unroll(snn.Sequential([cell, lambda x: 8 * x]))


def test_a_gap_between_two_spikes_is_learnt():
    """Is the second spike 7 steps behind the first? The delays make the two coincide."""
    gaps, starts = np.divmod(np.arange(100), 10)
    xs, steps = np.zeros((100, 20, 2), np.float32), np.arange(20)
    xs[:, :, 0] = steps == starts[:, None]
    xs[:, :, 1] = steps == (starts + gaps)[:, None]
    labels, schedule = jnp.asarray(gaps == 7, jnp.float32), training.sigma_schedule(10, 100)
    weights = jnp.where(labels == 1, 9.0, 1.0)
    params = network().init(jax.random.key(0), xs)["params"]
    ones = {"kernel": jnp.ones((2, 1)), "bias": jnp.full(1, -1.5)}
    params = {"cell": {"layers_0": params["cell"]["layers_0"] | ones}}
    optimiser = optax.adam(0.05)

    def logits(params, sigma=None):
        return network(sigma).apply({"params": params}, xs)[..., 0].max(1)

    @jax.jit
    def update(params, state, sigma):
        def loss(params):
            each = optax.sigmoid_binary_cross_entropy(logits(params, sigma), labels)
            return (weights * each).mean()

        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for n in range(200):
            params, state = update(params, state, schedule(n))
    delays = 10 * jax.nn.sigmoid(params["cell"]["layers_0"]["raw_delay"])[:, 0]
    assert round(float(delays[0] - delays[1])) == 7, delays
    np.testing.assert_array_equal(logits(params) > 0, labels == 1)  # with rounded delays


def test_the_schedule_narrows_and_stays():
    schedule = training.sigma_schedule(16, 100, end=0.5)
    np.testing.assert_allclose(schedule(np.array([0, 50, 100, 10**6])), [8, 2, 0.5, 0.5], rtol=1e-6)
    assert jax.jit(schedule)(100) == 0.5
    for bad, message in {
        (0, 10): "`max_delay` must be an integer of at least 1; got 0",
        (4, 0): "`steps` must be an integer of at least 1; got 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            training.sigma_schedule(*bad)
    with pytest.raises(ValueError, match=r"0 < end <= start; got 2\.0 and 3\.0"):
        training.sigma_schedule(4, 10, end=3)


def test_synaptic_operations_are_counted():
    spikes = jnp.zeros((1, 10, 3)).at[0, [0, 4], 0].set(1.0)
    model = snn.Unroll(snn.Sequential([snn.DelayedDense(4, 5), snn.LIB(4)]))
    variables = model.init(jax.random.key(0), spikes)
    counted = metrics.synaptic_operations(model, variables, spikes)["cell/layers_0"]
    assert counted == metrics.Operations(macs=0, acs=8, dense=120, events=2, fan_out=4)


def test_diagnose_shows_delays_and_says_when_they_are_at_an_end():
    for value, note in ((4.97, "set `max_delay=10`"), (0.02, "100% of the delays are at 0")):
        start = nn.initializers.constant(value)
        model = snn.Unroll(snn.Sequential([snn.DelayedDense(4, 5, delay_init=start), snn.LIB(4)]))
        diagnosis = tt.diagnose(model, model.init(jax.random.key(0), XS), XS)
        (report,) = diagnosis.delays
        assert (report.path, report.layer, report.max_delay) == ("cell/layers_0", "DelayedDense", 5)
        np.testing.assert_allclose(report.delays, [value] * 3, rtol=1e-4)
        assert note in report.notes[0]
        assert note in " ".join(str(diagnosis).split("Notes, ")[1].split())
        assert diagnosis.healthy
    model = snn.Unroll(snn.Sequential([snn.Delay(N, 6, delay=(1.0, 2.0, 5.0)), snn.LIB(N)]))
    (report,) = tt.diagnose(model, model.init(jax.random.key(0), XS), XS).delays
    np.testing.assert_allclose(report.delays, [1, 2, 5], rtol=1e-5)
    assert not report.notes
    loop = snn.Recurrent(snn.Delay(N, 6, delay=2.0, delay_learnable=False), nn.Dense(N))
    model = snn.Unroll(snn.Sequential([loop, snn.LIB(N)]))
    (report,) = tt.diagnose(model, model.init(jax.random.key(0), XS), XS).delays
    assert report.delays == (2, 2, 2)


def test_a_checkpoint_without_the_width_fits_a_fresh_model(tmp_path):
    saved = nnx.Not(tnnx.DelayWidth)
    model = tnnx.Unroll(tnnx.DelayedDense(N, M, MOST, sigma=2.0, rngs=nnx.Rngs(0)))
    checkpoint.save(tmp_path / "delays", nnx.state(model, saved))
    fresh = tnnx.Unroll(tnnx.DelayedDense(N, M, MOST, rngs=nnx.Rngs(1)))
    nnx.update(fresh, checkpoint.restore(tmp_path / "delays", like=nnx.state(fresh, saved)))
    tnnx.set_sigma(model, None)
    np.testing.assert_array_equal(fresh(XS), model(XS))


def test_the_advice_on_a_longer_max_delay_keeps_trained_delays():
    params = made()[1]["params"]["cell"]
    halved = functional.sigmoid_inverse(jax.nn.sigmoid(params["raw_delay"]) / 2)
    layer, longer = snn.DelayedDense(M, MOST), snn.DelayedDense(M, 2 * MOST)
    want = layer.apply({"params": params}, method="parameters")["delay"]
    wrong = longer.apply({"params": params}, method="parameters")["delay"]
    got = longer.apply({"params": params | {"raw_delay": halved}}, method="parameters")["delay"]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(wrong, 2 * want, rtol=1e-6)


def test_a_picture_of_several_sets():
    sets = {"before": np.linspace(0, 5, 20), "after": np.full((2, 3), 4.0)}
    ax = plot.delays(sets, max_delay=5)
    assert ax.get_xlim() == (0, 5)
    assert [len(bars) for bars in ax.containers] == [30, 30]
    heights = [sum(bar.get_height() for bar in bars) for bars in ax.containers]
    assert heights == [20, 6]
    with pytest.raises(ValueError, match=r"`sets\['after'\]` must hold delays, between 0 and 3"):
        plot.delays(sets | {"before": [1.0]}, max_delay=3)
    with pytest.raises(
        ValueError, match="`sets` must hold delays, finite and not negative; got -1"
    ):
        plot.delays([-1.0])
    with pytest.raises(ValueError, match="`sets` must hold at least one set"):
        plot.delays({})


def test_stream_and_sequence_are_exported_for_any_size():
    model, variables = made(0.8)
    model = model.clone(return_carry=False)
    want = model.apply(variables, XS)
    got = export.sequence(model, variables, "b, t, 3").call(XS)
    np.testing.assert_allclose(got, want, atol=1e-6)
    program = export.step(model, variables, "b, 3")
    carry, y = program.call(export.initial_carry(program, XS[:, 0]), XS[:, 0])
    np.testing.assert_allclose(y, want[:, 0], atol=1e-6)
    assert carry["past"].shape == (B, MOST, N)


BAD = {
    "`features` must be an integer of at least 1; got 0": {"features": 0},
    "`max_delay` must be an integer of at least 1; got 0": {"max_delay": 0},
    "`sigma` must be finite and greater than 0; got 0": {"sigma": 0},
    "`sigma` must be finite and greater than 0; got inf": {"sigma": np.inf},
    "`use_bias` must be True or False; got 1": {"use_bias": 1},
    "`kernel_init` must be an initializer": {"kernel_init": 1.0},
    "`delay_init` must be an initializer": {"delay_init": 1.0},
    "`param_dtype` must be a floating-point dtype": {"param_dtype": None},
    "DelayedDense has no argument `sigmas`": {"sigmas": 1.0},
    "DelayedDense has no argument `delay`; .* Did you mean `delay_init`?": {"delay": 1.0},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    arguments = {"features": M, "max_delay": MOST, **BAD[message]}
    with pytest.raises((ValueError, TypeError), match=message):
        snn.DelayedDense(**arguments)
    with pytest.raises((ValueError, TypeError), match=message):
        tnnx.DelayedDense(N, rngs=nnx.Rngs(0), **arguments)


def test_bad_calls_are_named():
    model, variables = made()
    carry = {"past": jnp.zeros((MOST, B, N))}
    with pytest.raises(ValueError, match=r"`carry\['past'\]` must hold max_delay = 5 inputs"):
        model.apply(variables, XS, carry)
    with pytest.raises(ValueError, match="`variables` must be those of the cell DelayedDense"):
        model.cell.apply(variables, None, XS[:, 0])
    with pytest.raises(ValueError, match="`x` must have an axis of inputs in each step"):
        model.cell.apply(reference.inner(variables), None, jnp.ones(()))
    with pytest.raises(ValueError, match="`delay_init` must lie strictly between 0 and max_delay"):
        made(delay_init=nn.initializers.constant(7.0))
    cell = tnnx.DelayedDense(N, M, MOST, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`x` must have in_features = 3 at axis -1"):
        cell(None, jnp.ones((B, 2)))
    for none in ({}, {"rngs": None}):
        with pytest.raises(ValueError, match="`rngs` is needed for `kernel_init`"):
            tnnx.DelayedDense(N, M, MOST, **none)


PURE = {
    r"`kernel` must be \[N, M\] with N the last axis of `xs`": {"kernel": np.ones((2, M))},
    r"`delays` must have the shape of `kernel`, \(3, 4\); got \(4,\)": {"delays": np.ones(M)},
    r"`bias` must have shape \(4,\); got \(3,\)": {"bias": np.ones(N)},
    "`delays` must lie between 0 and max_delay = 5; got -1.0": {"delays": -np.ones((N, M))},
    "`kernel` must be of the dtype of `xs`, float32; got int32": {
        "kernel": np.ones((N, M), np.int32)
    },
    "`bias` must be of the dtype of `xs`, float32; got float16": {"bias": np.ones(M, np.float16)},
}


@pytest.mark.parametrize("message", PURE)
def test_the_function_names_what_is_bad(message):
    fine = {
        "kernel": np.ones((N, M), np.float32),
        "delays": np.ones((N, M)),
        "past": np.zeros((MOST, N), np.float32),
        "xs": np.ones((T, N), np.float32),
    }
    with pytest.raises((ValueError, TypeError), match=message):
        functional.delayed_dense(**{**fine, **PURE[message]})


def test_half_precision_sums_over_many_delays_as_well_as_over_few():
    """Near the rounding of one product, though there are 41. A sum in bfloat16 is off by 0.007."""
    rng = np.random.default_rng(0)
    xs, kernel = rng.normal(size=(60, 1, 32)), rng.normal(size=(32, 8))
    args = kernel, rng.uniform(0, 40, (32, 8)), np.zeros((40, 1, 32)), xs
    narrow = [jnp.asarray(array, jnp.bfloat16) for array in args]

    def run(dtype):
        ys = functional.delayed_dense(*(array.astype(dtype) for array in narrow), sigma=8.0)[1]
        return np.asarray(ys, np.float32)

    half, full = run(jnp.bfloat16), run(jnp.float32)
    assert np.sqrt(np.square(half - full).mean() / np.square(full).mean()) < 0.006
