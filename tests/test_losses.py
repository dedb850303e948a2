"""Losses over time: their minima, their axes, their errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx as flax_nnx

from tracetorch_jax import losses, nnx, record, snn

B, T, C = 3, 6, 4
LABELS = np.array([0, 3, 1])
STEP_LABELS = np.random.default_rng(0).integers(0, C, (B, T))
LENGTHS = np.array([6, 4, 2])
PER_LABEL = ("cross_entropy", "count_target", "rate_target", "first_spike_cross_entropy")


def one_hot_over_time(labels, high=1.0):
    """Every step says the label."""
    rows = np.eye(C, dtype=np.float32)[labels] * high
    return np.repeat(rows[:, None], T, axis=1) if rows.ndim == 2 else rows


def first_spike_trains(times):
    return (np.arange(T)[:, None] == np.asarray(times)[None]).astype(np.float32)


TIMES = np.array([[0, 2, 4, 6], [1, 1, 3, 3], [0, 1, 1, 0]])
SOFT = np.array([[0.7, 0.1, 0.1, 0.1], [0.25] * 4, [0.5, 0.3, 0.1, 0.1]], np.float32)
EARLY = np.where(np.eye(C, dtype=int)[LABELS] == 1, 0, T)

# Of every loss: its call on outputs, an ideal output, and the loss of that output.
CASES = {
    "cross_entropy mean": (
        lambda ys, **k: losses.cross_entropy(ys, LABELS, **k), one_hot_over_time(LABELS, 40), 0),
    "cross_entropy last": (
        lambda ys, **k: losses.cross_entropy(ys, LABELS, decode="last", **k),
        one_hot_over_time(LABELS, 40), 0),
    "cross_entropy max": (
        lambda ys, **k: losses.cross_entropy(ys, LABELS, decode="max", **k),
        one_hot_over_time(LABELS, 40), 0),
    "cross_entropy count": (
        lambda ys, **k: losses.cross_entropy(ys, LABELS, decode="count", **k),
        one_hot_over_time(LABELS, 6), 0),
    "soft_cross_entropy": (
        lambda ys, **k: losses.soft_cross_entropy(ys, SOFT, **k),
        np.repeat(np.log(SOFT)[:, None], T, axis=1), -(SOFT * np.log(SOFT)).sum(-1)),
    "step_cross_entropy": (
        lambda ys, **k: losses.step_cross_entropy(
            ys, STEP_LABELS.T if k.get("time_major") else STEP_LABELS, **k),
        one_hot_over_time(STEP_LABELS, 40), 0),
    "count_target": (
        lambda ys, **k: losses.count_target(ys, LABELS, correct=2, incorrect=0, **k),
        one_hot_over_time(LABELS) * (np.arange(T) < 2)[:, None], 0),
    "rate_target": (
        lambda ys, **k: losses.rate_target(ys, LABELS, correct=1.0, incorrect=0.0, **k),
        one_hot_over_time(LABELS), 0),
    "first_spike_cross_entropy": (
        lambda ys, **k: losses.first_spike_cross_entropy(ys, LABELS, temperature=0.1, **k),
        np.stack([first_spike_trains(row) for row in EARLY]), 0),
    "first_spike_target": (
        lambda ys, **k: losses.first_spike_target(ys, TIMES, **k),
        np.stack([first_spike_trains(row) for row in TIMES]), 0),
    "rate_penalty": (
        lambda ys, **k: losses.rate_penalty(ys, max_rate=0.2, **k), np.zeros((B, T, C)), 0),
    "silence_penalty": (
        lambda ys, **k: losses.silence_penalty(ys, min_rate=0.2, **k), np.ones((B, T, C)), 0),
}  # fmt: skip
every = pytest.mark.parametrize("name", CASES)


def test_every_loss_is_here():
    assert {name.split()[0] for name in CASES} == set(losses.__all__)


@every
def test_the_ideal_output_is_the_minimum(name):
    run, ideal, least = CASES[name]
    run = jax.jit(run)
    best = np.asarray(run(jnp.asarray(ideal, jnp.float32)))
    np.testing.assert_allclose(best, np.broadcast_to(least, best.shape), atol=1e-5)
    rng = np.random.default_rng(0)
    others = [ideal + rng.normal(size=ideal.shape) * size for size in (0.1, 1, 30) * 10]
    if name.startswith("first_spike"):
        others = [rng.random(ideal.shape) < 0.3 for _ in range(30)]
    others.append(np.zeros_like(ideal) if ideal.any() else np.ones_like(ideal))
    for other in others:
        got = np.asarray(run(jnp.asarray(other, jnp.float32)))
        assert np.all(got >= best - 1e-5)
    assert np.any(got > best + 1e-3)  # it can be worse


@pytest.mark.slow
@every
def test_axes(name):
    run, *_ = CASES[name]
    ys = reference.inputs(B, T, C)
    want = run(ys)
    assert want.shape == (() if name.endswith("penalty") else (B,))

    @jax.jit
    def others(ys):
        major = run(ys.swapaxes(0, 1), time_major=True)
        full = run(ys, seq_lengths=np.full(B, T))
        return run(ys), major, full, jax.vmap(run)(jnp.stack([ys, ys]))[1]

    for got in others(ys):
        reference.assert_close(got, want, 1e-6, name)


@pytest.mark.slow
@every
def test_padding_has_no_effect(name):
    run, *_ = CASES[name]

    def masked(ys):
        return run(ys, seq_lengths=LENGTHS)

    ys = reference.inputs(B, T, C)
    beyond = (np.arange(T) >= LENGTHS[:, None])[..., None]
    both = jax.jit(lambda ys: reference.value_and_grads(masked, ys))
    clean = both(ys)
    for filler in (7.0, np.nan):
        dirty = both(np.where(beyond, np.float32(filler), ys))
        reference.assert_trees_close(dirty, clean, 1e-6)
    if not name.startswith("rate_penalty"):
        short = run(ys[:, :2], seq_lengths=np.full(B, 2)) if "step" not in name else clean[0]
        if short.ndim and name != "first_spike_target":
            reference.assert_close(clean[0][2], short[2], 1e-5, name)


@pytest.mark.parametrize("name", PER_LABEL)
class TestLabels:
    def call(self, name, ys, labels):
        extra = {"correct": 2, "incorrect": 0} if name == "count_target" else {}
        return getattr(losses, name)(ys, labels, **extra)

    def test_out_of_range_raises_or_is_nan(self, name):
        ys = jnp.zeros((2, T, C))
        for bad in (4, -1):
            with pytest.raises(
                ValueError, match=rf"`labels` must lie between 0 and .* = 3; got {bad}"
            ):
                self.call(name, ys, np.array([0, bad]))
            got = jax.jit(lambda labels: self.call(name, ys, labels))(np.array([0, bad]))
            assert np.isfinite(got[0]) and np.isnan(got[1])

    def test_wrong_kinds_are_named(self, name):
        ys = jnp.zeros((2, T, C))
        with pytest.raises(ValueError, match="look one-hot: use labels.argmax"):
            self.call(name, ys, np.eye(C)[:2])
        with pytest.raises(TypeError, match="`labels` must be integers"):
            self.call(name, ys, np.array([0.0, 1.0]))
        with pytest.raises(ValueError, match=r"`labels` must be class indices of shape \(2,\)"):
            self.call(name, ys, np.zeros(T, int))  # of the outputs with their axes swapped
        with pytest.raises(ValueError, match="must be .B, T, C."):
            self.call(name, jnp.zeros(4), np.zeros(2, int))

    def test_without_a_batch_axis(self, name):
        ys = reference.inputs(2, T, C)
        want = self.call(name, ys, np.array([1, 2]))
        reference.assert_close(self.call(name, ys[1], 2), want[1], 1e-6, name)

    def test_few_bits_are_enough_for_the_labels(self, name):
        """Classes may be more than the labels' type can count."""
        ys = reference.inputs(2, T, 300)
        want = self.call(name, ys, np.array([250, 3]))
        for dtype in (np.uint8, np.int16, np.uint32, np.uint64):
            got = self.call(name, ys, np.array([250, 3], dtype))
            np.testing.assert_array_equal(got, want)

    @pytest.mark.slow
    def test_many_bits_are_not_cut(self, name, x64):
        """What 32 bits can't hold must not become another class."""
        ys = jnp.zeros((2, T, C), jnp.float32)
        for bad in (2**32 + 3, -(2**32) + 3):
            with pytest.raises(ValueError, match=f"`labels` must lie between .*; got {bad}"):
                self.call(name, ys, np.array([0, bad]))
            got = jax.jit(lambda labels: self.call(name, ys, labels))(jnp.array([0, bad]))
            assert np.isfinite(got[0]) and np.isnan(got[1])


@pytest.mark.slow
@every
def test_without_a_batch_axis(name, monkeypatch):
    run, *_ = CASES[name]
    ys = reference.inputs(B, T, C)
    if name.endswith("penalty"):
        reference.assert_close(run(ys[1]), run(ys[1:2]), 1e-6, name)
        return
    run = jax.jit(run, static_argnames="seq_lengths")
    want = run(ys)[1]
    for target in ("LABELS", "STEP_LABELS", "SOFT", "TIMES"):
        monkeypatch.setitem(globals(), target, globals()[target][1])
    reference.assert_close(run(ys[1]), want, 1e-6, name)
    reference.assert_close(run(ys[1], seq_lengths=T), want, 1e-6, name)


@pytest.mark.slow
@every
def test_half_precision(name):
    """Losses are computed and given in float32: half precision can't hold counts of steps."""
    run = jax.jit(lambda ys: reference.value_and_grads(CASES[name][0], ys))
    for dtype in (jnp.bfloat16, jnp.float16):
        ys = reference.inputs(B, T, C).astype(dtype)
        (value, (gradient,)), (want, (wide,)) = run(ys), run(ys.astype(jnp.float32))
        assert value.dtype == np.float32 and gradient.dtype == dtype
        np.testing.assert_array_equal(value, want)
        np.testing.assert_array_equal(gradient, wide.astype(dtype))


def test_penalties_are_of_the_steps_within_each_sequence():
    spikes, lengths = jnp.ones((2, 4, 1)), jnp.array([2, 1])
    assert losses.rate_penalty(spikes, max_rate=0.5, seq_lengths=lengths) == 0.25
    assert losses.silence_penalty(0 * spikes, min_rate=0.5, seq_lengths=lengths) == 0.25
    assert losses.silence_penalty(spikes, min_rate=0.5, seq_lengths=lengths) == 0


def test_penalties_are_of_spikes_of_either_sign():
    spikes = jnp.array([1.0, -1.0, 1.0, -1.0]).reshape(1, 4, 1)
    assert losses.rate_penalty(spikes, max_rate=0.5) == 0.25
    assert losses.silence_penalty(spikes, min_rate=0.5) == 0


class TestStepCrossEntropy:
    def test_axes_swapped_raise(self):
        with pytest.raises(ValueError, match="axes look swapped"):
            losses.step_cross_entropy(jnp.zeros((B, T, C)), STEP_LABELS.T)
        with pytest.raises(ValueError, match="look one-hot"):
            losses.step_cross_entropy(jnp.zeros((B, T, C)), np.zeros((B, T, C), int))
        with pytest.raises(ValueError, match=r"`mask` must have the shape of `labels`"):
            losses.step_cross_entropy(jnp.zeros((B, T, C)), STEP_LABELS, mask=np.ones((T, B)))

    @pytest.mark.slow
    def test_the_mean_is_over_the_steps_that_count(self):
        ys, rng = reference.inputs(B, T, C), np.random.default_rng(1)
        mask = rng.random((B, T)) < 0.5
        each = -np.asarray(jax.nn.log_softmax(ys))
        each = np.take_along_axis(each, STEP_LABELS[..., None], -1)[..., 0]
        want = (each * mask).sum(1) / np.maximum(mask.sum(1), 1)
        labels = np.where(mask, STEP_LABELS, -7)  # nonsense where it does not count
        reference.assert_close(losses.step_cross_entropy(ys, labels, mask=mask), want, 1e-5, "")
        for run in (losses.step_cross_entropy, jax.jit(losses.step_cross_entropy)):
            for numbers in (mask * np.float32(0.5), mask.astype(np.int32)):
                with pytest.raises(TypeError, match="`mask` must be booleans, .*; got (float|int)"):
                    run(ys, STEP_LABELS, mask=numbers)
        few = losses.step_cross_entropy(jnp.zeros((1, 2, 300)), np.array([[200, 3]], np.uint8))
        assert few.tolist() == pytest.approx([np.log(300)])
        labels = labels + np.int64(2**32)
        with pytest.raises(ValueError, match="`labels` must lie between .*; got 42949672"):
            losses.step_cross_entropy(ys, labels, mask=mask)
        nothing = losses.step_cross_entropy(ys, labels, mask=np.zeros((B, T), bool))
        assert nothing.tolist() == [0, 0, 0]

    def test_a_mask_counts_within_lengths_too(self):
        outputs = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]]))
        mask, lengths = jnp.array([[False, True, True]]), jnp.array([2])
        labels = jnp.zeros((1, 3), int)
        got = losses.step_cross_entropy(outputs, labels, mask=mask, seq_lengths=lengths)
        np.testing.assert_allclose(got, np.log(4), rtol=1e-6)

    def test_pixels_count_as_steps_do(self):
        """Of outputs [B, T, H, W, C] each sequence has one loss."""
        ys, rng = reference.inputs(B, T, 2, 5, C), np.random.default_rng(1)
        labels, mask = rng.integers(0, C, (B, T, 2, 5)), rng.random((B, T, 2, 5)) < 0.5
        got = losses.step_cross_entropy(ys, labels, mask=mask)
        flat = (array.reshape(B, T * 10) for array in (labels, mask))
        want = losses.step_cross_entropy(ys.reshape(B, T * 10, C), next(flat), mask=next(flat))
        reference.assert_close(got, want, 1e-6, "")

    def test_a_label_out_of_range(self):
        bad = STEP_LABELS.copy()
        bad[1, 2] = 9
        with pytest.raises(ValueError, match="`labels` must lie between 0 and C - 1 = 3; got 9"):
            losses.step_cross_entropy(jnp.zeros((B, T, C)), bad)
        got = jax.jit(losses.step_cross_entropy)(jnp.zeros((B, T, C)), bad)
        assert np.isnan(got).tolist() == [False, True, False]


def test_other_bad_arguments_are_named():
    ys = jnp.zeros((2, T, C))
    labels = np.array([0, 1])
    with pytest.raises(ValueError, match="`decode` must be one of 'mean', 'last', 'max', 'count'"):
        losses.cross_entropy(ys, labels, decode="sum")
    for run in (losses.cross_entropy, losses.step_cross_entropy):
        with pytest.raises(ValueError, match=r"`label_smoothing` must lie in \[0, 1\); got 1"):
            run(ys, labels, label_smoothing=1)
    with pytest.raises(ValueError, match="`targets` must sum to 1"):
        losses.soft_cross_entropy(ys, jnp.ones((2, C)))
    with pytest.raises(ValueError, match="`targets` must be probabilities"):
        losses.soft_cross_entropy(ys, jnp.array([[2.0, -1.0, 0, 0]] * 2))
    with pytest.raises(ValueError, match=r"`targets` must be of shape \(2, 4\); got \(2,\)"):
        losses.soft_cross_entropy(ys, labels)
    with pytest.raises(ValueError, match="`targets` must be steps from 0 on; got -1"):
        losses.first_spike_target(ys, -jnp.ones((2, C)))
    with pytest.raises(ValueError, match="`temperature` must be finite and greater than 0"):
        losses.first_spike_cross_entropy(ys, labels, temperature=0)
    for bad in (1, -0.1):
        with pytest.raises(ValueError, match="`max_rate` must lie in"):
            losses.rate_penalty(ys, max_rate=bad)
    for bad in (0, 1.1):
        with pytest.raises(ValueError, match="`min_rate` must lie in"):
            losses.silence_penalty(ys, min_rate=bad)


def test_label_smoothing_is_optax_s():
    ys = reference.inputs(2, T, C)
    soft = np.eye(C, dtype=np.float32)[[1, 2]] * 0.9 + 0.1 / C
    want = losses.soft_cross_entropy(ys, soft)
    got = losses.cross_entropy(ys, np.array([1, 2]), label_smoothing=0.1)
    reference.assert_close(got, want, 1e-6, "")


@pytest.mark.slow
def test_the_silence_penalty_wakes_a_layer():
    """Its gradient reaches silent neurons through the surrogate."""
    from tracetorch_jax import snn

    model = snn.Unroll(snn.LIB(3, threshold=2.0))
    xs = jnp.full((2, 20, 3), 0.1)
    params = model.init(jax.random.key(0), xs)

    @jax.jit
    def update(params):
        def loss(params):
            return losses.silence_penalty(model.apply(params, xs), min_rate=0.2)

        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * jnp.sign(g), params, gradient), value

    values = []
    for _ in range(60):
        params, value = update(params)
        values.append(float(value))
    assert values[0] == pytest.approx(0.04, rel=1e-5) and values[-1] < 0.01


@pytest.mark.parametrize("drive", [-1.0, 1.0])
@pytest.mark.parametrize("layer", [snn.LIB, snn.LIT, snn.LITS])
def test_penalties_change_rates_the_way_they_say(layer, drive):
    """Gradient descent on nothing else, for neurons that fire either sign or one most of all."""
    model = snn.Unroll(snn.Sequential([nn.Dense(16), layer(16)]))
    xs = drive * np.random.default_rng(0).uniform(size=(20, 15, 8)).astype(np.float32)
    start = model.init(jax.random.key(1), xs)["params"]

    def rates(params):
        fired = np.asarray(model.apply({"params": params}, xs)) != 0
        return fired.mean(axis=(0, 1))

    def descend(penalty, steps=60):
        gradient = jax.jit(jax.grad(lambda p: penalty(model.apply({"params": p}, xs))))
        params = start
        for _ in range(steps):
            params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient(params))
        return rates(params)

    before = rates(start)
    after = descend(lambda spikes: losses.rate_penalty(spikes, max_rate=0.05))
    busy = before > 0.1
    assert busy.sum() > 3 and (after[busy] < before[busy]).mean() > 0.9
    assert after.mean() < 0.7 * before.mean()
    after = descend(lambda spikes: losses.silence_penalty(spikes, min_rate=0.3))
    quiet = before < 0.15
    assert quiet.sum() > 3 and (after[quiet] >= before[quiet]).mean() > 0.9
    assert after[quiet].mean() > before[quiet].mean() + 0.05


def test_slope_of_a_rate_where_nothing_fires():
    """The sign that prevails among the spikes of a neuron; 1 for a silent one, 0 for a draw."""
    spikes = np.zeros((4, 4), np.float32)  # [T, N]
    spikes[:2, 1], spikes[:2, 2] = 1, -1
    spikes[0, 3], spikes[1, 3] = 1, -1
    slope = jax.grad(lambda s: losses.silence_penalty(s, min_rate=1.0))(spikes)[3]
    assert np.sign(slope).tolist() == [-1, -1, 1, 0]


def test_penalties_of_recordings():
    """The sum over layers that fire, alike for a model of nnx, with gradients."""
    layers = [nn.Dense(5), snn.LIB(5, threshold=0.2), nn.Dense(3), snn.LIT(3), snn.LI(3)]
    model = snn.Unroll(snn.Sequential(layers))
    xs = jax.random.normal(jax.random.key(0), (4, 9, 2))
    lengths = np.array([9, 4, 1, 6])
    variables = model.init(jax.random.key(1), xs)
    draw = flax_nnx.Rngs(0)
    layers = [flax_nnx.Linear(2, 5, rngs=draw), nnx.LIB(5), flax_nnx.Linear(5, 3, rngs=draw)]
    layers += [nnx.LIT(3), nnx.LI(3)]
    of_nnx = nnx.from_linen(variables, nnx.Unroll(nnx.Sequential(layers)))
    for penalty in (
        lambda x, **k: losses.rate_penalty(x, max_rate=0.1, **k),
        lambda x, **k: losses.silence_penalty(x, min_rate=0.9, **k),
    ):

        def total(variables, penalty=penalty):
            return penalty(record(model, variables, xs)[1], seq_lengths=lengths)

        _, recorded = record(model, variables, xs)
        fired = [recorded[f"cell/layers_{i}"].outputs for i in (1, 3)]
        want = sum(penalty(x, seq_lengths=lengths) for x in fired)
        value, gradient = jax.value_and_grad(total)(variables)
        assert value == pytest.approx(float(want)) and want > 0
        assert jnp.abs(gradient["params"]["cell"]["layers_0"]["kernel"]).max() > 0

        def total_of_nnx(of_nnx, penalty=penalty):
            return penalty(record(of_nnx, xs)[1], seq_lengths=lengths)

        assert total_of_nnx(of_nnx) == pytest.approx(float(want))
        slope = flax_nnx.grad(total_of_nnx)(of_nnx)["cell"]["layers"][0]["kernel"][...]
        np.testing.assert_allclose(
            slope, gradient["params"]["cell"]["layers_0"]["kernel"], atol=1e-6
        )
        with pytest.raises(ValueError, match="`time_major` must be left out with recordings"):
            penalty(recorded, time_major=True)
        with pytest.raises(TypeError, match="`spikes` must be an array, or recordings .*'a'"):
            penalty({"a": fired[0]})
        with pytest.raises(ValueError, match="`spikes` must have a layer that fires; .*layers_4"):
            penalty({"cell/layers_4": recorded["cell/layers_4"]})
