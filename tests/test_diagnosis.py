"""What `diagnose` says holds, and each advice helps: it is read from the text and followed."""

import functools
import re
import types
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx as flax_nnx

import tracetorch_jax as tt
from tracetorch_jax import losses, snn, spikes, training
from tracetorch_jax import nnx as tnnx
from tracetorch_jax.functional.engines import policy
from tracetorch_jax.snn import flex

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
LABELS = np.arange(48) % 3
DRAW = np.random.default_rng(0)
# Three classes, each a pattern over eight features of mean 0 and deviation 1. The first half of
# the sequences is trained on.
XS = DRAW.normal(size=(3, 1, 8))[LABELS] + 2 * DRAW.normal(size=(48, 20, 8))
XS = ((XS - XS.mean((0, 1))) / XS.std((0, 1))).astype(np.float32)
NAMES = types.SimpleNamespace(nn=nn, spikes=spikes, flex=flex, snn=snn, jnp=jnp, losses=losses)


def stack(*layers, **changes):
    """Dense and trace layers by turns: pairs of a class and arguments, which `changes` adds to."""
    layers = layers or (snn.LIB, snn.LIB, snn.LI)
    found = []
    for i, layer in enumerate(layers):
        width = {"num_neurons": 12 if i + 1 < len(layers) else 3}
        found += [(nn.Dense, {"features": width["num_neurons"]}), (layer, width)]
    for name, arguments in changes.items():
        cls, known = found[int(name.removeprefix("at_"))]
        found[int(name.removeprefix("at_"))] = cls, known | arguments
    return found


def model_of(layers):
    return snn.Unroll(snn.Sequential([cls(**arguments) for cls, arguments in layers]))


def bare(layers):
    """The same network with other initial values, so that both run the same program."""
    kept = ("features", "num_neurons", "spike", "ema")
    return model_of([(cls, {k: v for k, v in a.items() if k in kept}) for cls, a in layers])


@functools.partial(jax.jit, static_argnames=("model", "decode", "penalty", "steps"))
def _trained(model, variables, xs, decode="mean", penalty=None, steps=30):
    optimiser = optax.adam(1e-2)

    def loss(variables, half):
        if penalty is None:
            ys, own = model.apply(variables, xs[half]), 0.0
        else:
            ys, layers = tt.record(model, variables, xs[half])
            fired = [each.outputs for each in layers.values() if each.layer.spec.fires]
            own = sum(map(penalty, fired))
        return losses.cross_entropy(ys, LABELS[half], decode=decode).mean() + own

    def update(carry, _):
        variables, moments = carry
        gradient = jax.grad(loss)(variables, slice(24))
        change, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(variables, change), moments), None

    carry, _ = jax.lax.scan(update, (variables, optimiser.init(variables)), length=steps)
    return carry[0], loss(carry[0], slice(24, None))


def trained(*args, **options):
    """Variables after a short training, and the loss on what was not trained on."""
    with jax.numpy_dtype_promotion("standard"):  # for optax
        return _trained(*args, **options)


def examine(layers, xs, variables=None, decode="mean"):
    """Initial variables, and the diagnosis."""
    if variables is None:
        variables = model_of(layers).init(KEY, jnp.asarray(xs))

    def loss(ys):
        return losses.cross_entropy(ys, LABELS, decode=decode).mean()

    return variables, tt.diagnose(bare(layers), variables, jnp.asarray(xs), loss=loss)


def follow(advice, layers, index, xs):
    """The network and its input, changed as the first advice in a text says."""
    layers = list(layers)
    code = [each for each in re.findall(r"`(.*?)`", advice) if "=" in each or "(" in each]
    (first, *_) = code
    if first.startswith("xs = "):
        names = {"xs": xs, "jnp": jnp}
        exec(first, names)
        return layers, np.asarray(names["xs"], np.float32)
    if first == "nn.LayerNorm()":
        layers.insert(index, (nn.LayerNorm, {}))
        return layers, xs
    places = [index]
    if found := re.search(r"weights of cell/layers_(\d+)", advice):
        places = [int(found[1])]
    if "after it" in advice:
        places = range(index + 1, len(layers))
    for each in code if " and `" in advice else code[:1]:
        name, value = each.split("=", 1)
        for place in places:
            cls, arguments = layers[place]
            takes = {"kernel_init": nn.Dense, "spike": (snn.LIB, snn.LIT)}.get(name, object)
            if issubclass(cls, takes):
                value_of = eval(value, vars(NAMES))
                layers[place] = cls, arguments | {name: value_of}
    return layers, xs


def remarks(diagnosis, path, level):
    (report,) = [each for each in diagnosis.layers if each.path == path]
    return getattr(report, level)


def weights(gain):
    return {"kernel_init": nn.initializers.variance_scaling(gain, "fan_in", "normal")}


def biases(value):
    return {"bias_init": nn.initializers.constant(value)}


TINY, SMALL, GREAT, HUGE = weights(1e-11), weights(1e-5), weights(1e4), weights(3e4)
NARROW = {"spike": spikes.fast_sigmoid(1e4)}
CASES = {
    # name: layers, input, index of the layer, level, words of the advice
    "input too great": (stack(), 100 * XS, 1, "problems", "divide by its deviation"),
    "input small": (stack(), 0.1 * XS, 1, "problems", "root mean square of 0.1"),
    "input never negative": (stack(), np.abs(XS + 4), 1, "problems", "never negative"),
    "one feature too great": (stack(), XS * ([1e3] + 7 * [1]), 1, "problems", "std((0, 1))"),
    "input too small": (stack(), 0.02 * XS, 1, "problems", "divide by its deviation"),
    "weights too great": (stack(at_2=GREAT), XS, 3, "problems", "layers_2 by 0.0"),
    "weights too small": (stack(at_2=SMALL), XS, 3, "problems", "layers_2 by"),
    "threshold too high": (stack(at_3={"threshold": 50.0}), XS, 3, "problems", "`threshold="),
    "ternary thresholds too high": (
        stack(snn.LIT, snn.LI, at_1={"pos_threshold": 90.0, "neg_threshold": 90.0}),
        XS, 1, "problems", "` and `neg_threshold=",
    ),
    "driven below 0": (stack(at_2=biases(-2.0)), XS, 3, "problems", "nn.LayerNorm()"),
    "firing always": (stack(at_2=biases(3.0)), XS, 3, "problems", "nn.LayerNorm()"),
    "firing by itself": (
        stack(
            snn.RLIB, snn.LI,
            at_0=biases(0.7), at_1={"rec_weight": 20.0},
        ),
        XS, 1, "problems", "`rec_weight=",
    ),
    "values too great": (stack(snn.LI, snn.LI), 1e5 * XS, 1, "problems", "by its deviation"),
    "values too small": (stack(snn.LI, snn.LI), 1e-3 * XS, 1, "problems", "by its deviation"),
    "logits too great": (
        stack(snn.LI, snn.LI, at_2=weights(1e8)),
        XS, 3, "notes", "If they are logits",
    ),
    "averages too slow": (stack(at_5={"beta": 0.9999}), XS, 5, "problems", "`beta="),
    "synapses too slow": (
        stack(snn.SLIB, snn.LI, at_1={"alpha": 0.9999}), XS, 1, "problems", "`alpha=",
    ),
    "gradients vanish": (
        stack(*[snn.LIB] * 4, snn.LI, **dict.fromkeys(("at_1", "at_3", "at_5", "at_7"), NARROW)),
        2 * XS, 1, "problems", "vanishes",
    ),
    "gradients explode": (
        stack(*[snn.LI] * 5, at_0=TINY, **dict.fromkeys(("at_2", "at_4", "at_6", "at_8"), HUGE)),
        XS, 1, "problems", "explodes",
    ),
}  # fmt: skip


# These take seconds each.
LONG = {
    "gradients vanish", "gradients explode", "input too great", "ternary thresholds too high",
    "driven below 0", "synapses too slow", "values too great",
}  # fmt: skip


@pytest.mark.parametrize("name", reference.some(CASES, CASES.keys() - LONG))
def test_advice_helps(name):
    layers, xs, index, level, words = CASES[name]
    path = f"cell/layers_{index}"
    variables, diagnosis = examine(layers, xs)
    said = [each for each in remarks(diagnosis, path, level) if words in each]
    assert len(said) == 1, diagnosis
    assert diagnosis.healthy == (level == "notes") or diagnosis.layers[0].path != path
    better, ys = follow(said[0], layers, index, xs)
    fresh, after = examine(better, ys)
    path = f"cell/layers_{index + len(better) - len(layers)}"
    assert not remarks(after, path, "problems"), after
    assert not any(words in each for each in remarks(after, path, "notes")), after
    _, without = trained(bare(layers), variables, xs)
    _, with_it = trained(bare(better), fresh, ys)
    silent = [np.mean([each.dead or 0 for each in d.layers]) for d in (diagnosis, after)]
    assert with_it < 0.95 * without or silent[1] < 0.5 * silent[0]


@pytest.mark.parametrize("name", ["weights too great", "weights too small"])
def test_a_rate_for_all_layers_helps(name):
    layers, xs, index, level, _ = CASES[name]
    variables, diagnosis = examine(layers, xs)
    (said,) = remarks(diagnosis, f"cell/layers_{index}", level)
    (code,) = re.findall("`(variables = training.*?)`", said)
    names = {"training": training, "model": bare(layers), "variables": variables, "xs": xs}
    exec(code, names)
    _, after = examine(layers, xs, names["variables"])
    assert after.healthy, after
    _, without = trained(bare(layers), variables, xs)
    _, with_it = trained(bare(layers), names["variables"], xs)
    silent = [np.mean([each.dead or 0 for each in d.layers]) for d in (diagnosis, after)]
    assert with_it < 0.95 * without or silent[1] < 0.5 * silent[0]


@pytest.mark.parametrize("name", ["weights too great", "weights too small"])
def test_a_rate_for_all_layers_of_a_model_of_nnx(name):
    layers, xs, index, level, _ = CASES[name]
    variables, _ = examine(layers, xs)
    widths, draw = [8, 12, 12, 12, 12, 3], flax_nnx.Rngs(0)
    model = [
        flax_nnx.Linear(widths[i], given["features"], rngs=draw)
        if cls is nn.Dense
        else getattr(tnnx, cls.__name__)(given["num_neurons"], rngs=draw)
        for i, (cls, given) in enumerate(layers)
    ]
    model = tnnx.from_linen(variables, tnnx.Unroll(tnnx.Sequential(model)))
    (said,) = remarks(tt.diagnose(model, xs), f"cell/layers_{index}", level)
    (code,) = re.findall("`([^`]*scale_to_rate[^`]*)`", said)
    exec(code, {"training": training, "model": model, "xs": xs})
    assert not remarks(tt.diagnose(model, xs), f"cell/layers_{index}", "problems")
    assert not np.array_equal(
        tnnx.to_linen(model)["params"]["cell"]["layers_0"]["kernel"],
        variables["params"]["cell"]["layers_0"]["kernel"],
    )


def test_a_small_input_is_to_be_scaled_before_weights():
    layers, xs, *_ = CASES["input small"]
    first = examine(layers, xs)[1].layers[0]
    assert "scale_to_rate" not in first.advice and "divide by its deviation" in first.advice


def test_weights_before_a_layer_that_does_not_fire():
    layers = stack(at_2=SMALL)
    layers.insert(3, (snn.LI, {"num_neurons": 12}))
    (said,) = remarks(examine(layers, XS)[1], "cell/layers_4", "problems")
    assert "Multiply the weights of cell/layers_2 by" in said
    _, after = examine(follow(said, layers, 4, XS)[0], XS)
    assert after.healthy, after


def test_memory_that_is_missing():
    """A class that is seen for five steps, and asked for fifteen steps later."""
    layers = stack(snn.LI, snn.LI, at_1={"beta": 0.01}, at_3={"beta": 0.01})
    xs, options = np.where(np.arange(20)[:, None] < 5, XS, 0), {"decode": "last"}
    variables, diagnosis = examine(layers, xs, **options)
    assert diagnosis.healthy  # a task may need no memory
    better = layers
    for index, report in zip((1, 3), diagnosis.layers, strict=True):
        assert "keeps next to nothing" in report.advice
        better, _ = follow(report.advice, better, index, xs)
    fresh, after = examine(better, xs, **options)
    assert not any(report.notes for report in after.layers), after
    _, without = trained(bare(layers), variables, xs, **options)
    _, with_it = trained(bare(better), fresh, xs, **options)
    assert with_it < 0.9 * without


@functools.cache
def penalty_in(advice):
    """The penalty that an advice names."""
    (code,) = re.findall(r"`(losses\.\w+\(spikes, .*?\))`", advice)
    return eval(f"lambda spikes: {code}", {"losses": losses})


def weighted(penalty):
    """Strong enough for a short training."""
    return lambda spikes: 30 * penalty(spikes)


@pytest.mark.parametrize(
    ("layer", "scale", "words"),
    [
        (snn.LIB, 6.0, "of the steps. This costs energy"),
        (snn.LIB, 0.12, "training can make them fire"),
    ],
    ids=["firing much", "firing nearly never"],
)
def test_penalties_help(layer, scale, words):
    layers, xs = stack(layer, snn.LI), scale * XS
    variables, diagnosis = examine(layers, xs)
    report = diagnosis.layers[0]
    assert diagnosis.healthy and words in report.advice, diagnosis
    penalty = weighted(penalty_in(report.advice))
    fresh, _ = trained(bare(layers), variables, xs, penalty=penalty, steps=60)
    _, after = examine(layers, xs, fresh)
    assert words not in after.layers[0].advice, after
    better = after.layers[0]
    if "costs energy" in words:
        assert sum(better.rate) < 0.75 * sum(report.rate)
    else:
        assert better.dead < 0.5 * report.dead
    assert after.healthy and after.loss < diagnosis.loss


def test_dead_and_saturated_neurons_are_told_apart():
    xs = jnp.broadcast_to(jnp.array([-5.0, -5.0, -5.0, 5.0]), (2, 20, 4))
    model = snn.Unroll(snn.LIB(4))
    variables = model.init(KEY, xs)
    (report,) = tt.diagnose(model, variables, xs).layers
    assert list(report.groups) == ["dead", "saturated"]
    dead, saturated = report.groups.values()
    assert (dead.share, saturated.share) == (0.75, 0.25)
    assert dead.rate == (0, 0) and saturated.rate == (1, 0)
    assert max(dead.membrane) < 0 < min(saturated.membrane)
    (said,) = report.problems  # one cause, one thing to change
    assert "thresholds away from 0" in said and not report.notes
    _, better = follow(said, [], 0, xs)
    (report,) = tt.diagnose(model, variables, better).layers
    assert not any("away from 0" in each for each in report.problems)
    text = str(tt.diagnose(model, variables, xs))
    assert "\n  dead       0.00 / 0.00" in text and "75% of the neurons" in text


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_layer_has_one_problem_with_its_neurons(scale, offset):
    model = snn.Unroll(snn.Sequential([snn.LIB(8), snn.DLITS(8)]))
    variables = model.init(KEY, XS)
    for report in tt.diagnose(model, variables, scale * (XS + np.float32(offset))).layers:
        of_neurons = [each for each in report.problems if "radient" not in each[:12]]
        assert len(of_neurons) < 2 and not (of_neurons and report.notes), report


def test_arguments_of_flex_are_named_as_they_are_given():
    model = snn.Unroll(flex.LIB(8, threshold=99.0))
    (report,) = tt.diagnose(model, model.init(KEY, XS), jnp.asarray(XS)).layers
    assert "`pos_threshold=flex.Threshold(1)`" in report.advice


def test_small_thresholds_and_single_steps():
    """The surrogate gradient is about as wide as a threshold of 1; one step needs no memory."""
    model = snn.Unroll(snn.LIB(8, threshold=0.02))
    (report,) = tt.diagnose(model, model.init(KEY, XS), XS).layers
    assert np.median(np.abs(report.membrane)) > 10 and "thresholds away" not in report.advice
    model = snn.Unroll(snn.LIB(8, beta=0.01))
    for xs, said in ((XS, True), (XS[:, :1], False)):
        (report,) = tt.diagnose(model, model.init(KEY, XS), jnp.asarray(xs)).layers
        assert ("keeps next to nothing" in report.advice) == said


def test_a_threshold_is_set_below_what_the_membrane_reaches():
    model, xs = snn.Unroll(snn.LIB(8, threshold=20.0, beta=0.05)), 0.3 * jnp.asarray(XS)
    (said,) = tt.diagnose(model, model.init(KEY, xs), xs).layers[0].problems
    found = re.search(r"reaches at most (\S+) thresholds. Set `threshold=(\S+)`", said)
    reached, threshold = map(float, found.groups())
    assert threshold < 20 * reached < 1


def test_lengths_by_name_and_by_position():
    model, lengths = snn.Unroll(snn.LIT(8, pos_threshold=0.3)), jnp.arange(48) % 7
    variables = model.init(KEY, XS)
    want = tt.diagnose(model, variables, XS, seq_lengths=lengths)
    assert tt.diagnose(model, variables, XS, None, lengths).layers == want.layers
    assert tt.diagnose(model, variables, XS).layers[0].rate != want.layers[0].rate


def test_the_numbers_of_a_report():
    """The 5th, 50th and 95th percentile; least, median and greatest half-life."""
    layer = snn.LI(3, beta=0.0, beta_learnable=False)
    model, xs = snn.Unroll(layer), jnp.arange(303.0).reshape(1, 101, 3) / 3
    (report,) = tt.diagnose(model, model.init(KEY, xs), xs).layers
    assert report.membrane == pytest.approx(np.percentile(np.asarray(xs), (5, 50, 95)))
    fires = snn.Unroll(snn.LIT(3, beta=0.0, beta_learnable=False))
    (report,) = tt.diagnose(fires, fires.init(KEY, xs), 0 * xs - 1.5).layers
    assert report.membrane == (-1.5, -1.5, -1.5)  # as it was when it fired
    fires = snn.Unroll(snn.LIT(3, beta=0.0, beta_learnable=False, neg_threshold=2.0))
    (report,) = tt.diagnose(fires, fires.init(KEY, xs), 0 * xs - 3.0).layers
    assert report.membrane == pytest.approx((-1.5, -1.5, -1.5))  # in thresholds of its own sign
    layer = snn.SLI(3, alpha=0.5, beta=(0.5, 0.5, 2**-0.1))
    diagnosis = tt.diagnose(snn.Unroll(layer), snn.Unroll(layer).init(KEY, xs), xs)
    assert diagnosis.layers[0].half_lives["beta"] == pytest.approx((1, 1, 10), rel=1e-4)
    layer = snn.SLI(3, alpha=2**-0.1, beta=2**-0.01)
    diagnosis = tt.diagnose(snn.Unroll(layer), snn.Unroll(layer).init(KEY, xs), xs)
    assert " beta 100 " in str(diagnosis)  # the slowest


def test_the_membrane_starts_from_the_carry_that_is_given():
    model, xs = snn.Unroll(snn.LIB(3, beta=0.5)), jnp.zeros((1, 1, 3))
    variables, carry = model.init(KEY, xs), {"mem": jnp.full((1, 3), 3.0)}
    (report,) = tt.diagnose(model, variables, xs, carry).layers
    assert report.rate == (1, 0) and report.membrane == pytest.approx((1.5, 1.5, 1.5))
    (recording,) = tt.record(model, variables, xs, carry)[1].values()
    assert np.array_equal(recording.carry["mem"], carry["mem"])
    assert tt.record(model, variables, xs)[1]["cell"].carry is None


@pytest.mark.parametrize("dim", [-1, -2])
def test_the_membrane_of_a_smooth_spike_is_that_before_the_reset(dim):
    layer = snn.LIB(3, dim=dim, beta=0.0, beta_learnable=False, spike=tt.spikes.smooth(4.0))
    xs = jnp.full((1, 4, 3, 3), 1.5)
    (report,) = tt.diagnose(snn.Unroll(layer), snn.Unroll(layer).init(KEY, xs), xs).layers
    assert report.rate is None and report.membrane == pytest.approx((1.5, 1.5, 1.5))


def test_a_layer_that_fires_below_a_threshold_alone():
    layer = flex.LeakyIntegrator(4, pos_beta=flex.Decay(0.9), neg_threshold=flex.Threshold(1.0))
    model, xs = snn.Unroll(layer), 0.5 + jax.random.uniform(KEY, (2, 20, 4))
    (report,) = tt.diagnose(model, model.init(KEY, xs), xs).layers
    assert report.dead == 1
    assert "is on the other side of 0 than the threshold" in report.problems[0]


def test_spikes_of_negative_scale():
    """The side of a membrane counts, not the sign of what is emitted."""
    sides = []
    for scale in (1.0, -1.0):
        model = snn.Unroll(snn.LITS(8, pos_scale=scale, neg_scale=scale))
        sides.append(tt.diagnose(model, model.init(KEY, XS), XS).layers[0])
    assert sides[0].membrane == pytest.approx(sides[1].membrane)
    assert sides[0].rate == sides[1].rate[::-1] and min(sides[0].rate) > 0


class TestNotFinite:
    LAYERS = stack()

    def test_input(self):
        xs = XS.copy()
        xs[1, 3, :2] = np.nan, np.inf
        variables, _ = examine(self.LAYERS, XS)
        _, diagnosis = examine(self.LAYERS, xs, variables)
        (said,) = diagnosis.problems
        assert said.startswith("2 of 7680 values of the input are NaN or infinite")
        assert "since the input has such values" in diagnosis.layers[0].advice
        layers, better = follow(said, self.LAYERS, 0, xs)
        _, after = examine(layers, better, variables)
        assert after.healthy and np.isfinite(after.loss)

    def test_where_it_is_in_the_input(self):
        variables, _ = examine(self.LAYERS, XS)
        for time_major in (False, True):
            xs = np.array(XS)
            xs[2, 3, 1] = xs[4, 0, 0] = np.nan
            xs, first = (np.swapaxes(xs, 0, 1), (3, 2)) if time_major else (xs, (2, 3))
            model = model_of(self.LAYERS).clone(time_major=time_major)
            (said,) = tt.diagnose(model, variables, xs).problems
            assert f"The first is at `xs[{first[0]}, {first[1]}]`" in said
            assert "seq_lengths" not in said

    def test_where_it_is_without_a_batch_and_within_lengths(self):
        model, xs = snn.Unroll(snn.LI(8)), np.array(XS)
        variables = model.init(KEY, XS)
        xs[2, 5:] = np.nan  # padding, if the length of the third is 5
        xs[3, 2, 0] = np.nan
        (said,) = tt.diagnose(model, variables, xs[3]).problems
        assert "The first is at `xs[2]`" in said
        lengths = np.full(len(XS), XS.shape[1])
        lengths[2] = 5
        (said,) = tt.diagnose(model, variables, xs, seq_lengths=lengths).problems
        assert said.startswith("1 of ") and "The first is at `xs[3, 2]`" in said

    def test_padding_of_nan(self):
        """Following the advice gives the diagnosis of the sequences without their padding."""
        lengths = np.full(len(XS), XS.shape[1])
        lengths[:2] = 3, 7
        xs = np.array(XS)
        xs[np.arange(XS.shape[1]) >= lengths[:, None]] = np.nan
        variables, _ = examine(self.LAYERS, XS)
        model = model_of(self.LAYERS)
        (said,) = tt.diagnose(model, variables, xs).problems
        assert "They are all at the ends of sequences" in said
        lines = re.findall("`((?:xs|seq_lengths) = .*?)`", said)
        found = {"np": np, "jnp": jnp, "xs": xs}
        for line in reversed(lines):
            exec(line, found)
        np.testing.assert_array_equal(found["seq_lengths"], lengths)
        whole = tt.diagnose(model, variables, found["xs"], seq_lengths=lengths)
        assert not whole.problems and np.isfinite(whole.loss)

    def test_parameters(self):
        variables, _ = examine(self.LAYERS, XS)
        variables["params"]["cell"]["layers_2"]["kernel"] *= np.nan
        _, diagnosis = examine(self.LAYERS, XS, variables)
        (said,) = diagnosis.problems
        assert said.startswith("`cell/layers_2/kernel` is not finite")
        assert not diagnosis.layers[0].problems and not diagnosis.healthy

    def test_the_first_layer_to_overflow(self):
        half = snn.LI(8, ema=False, dtype=jnp.float16)
        model = snn.Unroll(snn.Sequential([snn.LI(8), lambda x: 5e4 * x, half, snn.LI(8)]))
        xs = jnp.asarray(XS) + 1
        before, first, second = tt.diagnose(model, model.init(KEY, xs), xs).layers
        assert "finite" not in before.advice
        assert "the first not to be finite" in first.advice
        assert f"since {first.path} has such values" in second.advice

    def test_loss(self):
        variables, _ = examine(self.LAYERS, XS)
        infinite = tt.diagnose(
            bare(self.LAYERS), variables, jnp.asarray(XS), loss=lambda ys: jnp.log(ys - ys).sum()
        )
        assert "look in `loss`" in infinite.problems[0] and not infinite.healthy


def alone(layer, xs):
    """The report of one layer without weights before it."""
    model, xs = snn.Unroll(layer), jnp.asarray(xs)
    return tt.diagnose(model, model.init(KEY, xs), xs)


def test_an_input_of_zeros():
    diagnosis = examine(stack(), 0 * XS)[1]
    assert diagnosis.problems[0].startswith("The input is 0 at every step")
    first, second, _ = (" ".join(report.problems) for report in diagnosis.layers)
    assert "First follow the advice for the network." in first
    assert "First follow the advice for cell/layers_1." in second
    assert not re.search("Multiply|Set `", str(diagnosis))


def test_spikes_that_are_no_steps():
    report = alone(snn.LITS(8, spike=spikes.smooth()), XS).layers[0]
    assert report.rate is report.dead is report.saturated is None and not report.groups
    assert report.advice == "nothing remarkable."
    (said,) = alone(snn.LIB(8, spike=spikes.smooth()), 100 * XS).layers[0].problems
    assert "thresholds away from 0" in said and "fire" not in said


def test_weights_of_zero_are_the_cause():
    layers = stack(at_2={"kernel_init": nn.initializers.zeros})
    diagnosis = examine(layers, XS)[1]
    first, second, _ = diagnosis.layers
    assert "First follow the advice for cell/layers_3." in first.advice
    assert "The weights of cell/layers_2 are 0" in second.problems[0]
    _, after = examine(follow(second.advice, layers, 3, XS)[0], XS)
    assert after.healthy, after
    *_, hidden, readout = examine(stack(at_4={"kernel_init": nn.initializers.zeros}), XS)[1].layers
    assert "First follow the advice for cell/layers_5." in hidden.advice
    assert "The weights of cell/layers_4 are 0" in readout.problems[0]


def test_what_is_normalised_is_not_to_be_normalised_again():
    model = snn.Unroll(snn.Sequential([nn.LayerNorm(), snn.LIB(8)]))
    xs = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 8), (2, 20, 8)) + 0.01 * XS[:2]
    (said,) = tt.diagnose(model, model.init(KEY, xs), xs).layers[0].problems
    assert "layers_0 normalises the input already" in said and "`" not in said


@pytest.mark.parametrize(
    "spike", [lambda u: (u > 0).astype(u.dtype), spikes.straight_through(1e-6)], ids=["own", "box"]
)
def test_spikes_that_no_gradient_passes(spike):
    layers = stack(at_1={"spike": spike})
    diagnosis = examine(layers, XS)[1]
    assert sum(diagnosis.layers[0].rate) > 0 == diagnosis.layers[0].parameter_gradient
    (said,) = diagnosis.layers[0].problems
    assert "no gradient passes its spikes" in said
    _, after = examine(follow(said, layers, 1, XS)[0], XS)
    assert after.healthy and after.layers[0].parameter_gradient > 0


def test_what_training_cannot_make_fire():
    (said,) = alone(snn.LIB(3, threshold=(100.0, 1.0, 1.0)), XS[..., :3]).layers[0].notes
    assert "may not make them fire" in said and "`threshold=1`" in said
    (said,) = alone(snn.LIB(3), XS[..., :3] * np.float32([0.01, 1, 1])).layers[0].notes
    assert "may not make them fire" in said and "silence_penalty" in said
    assert not alone(snn.LIB(3), XS[..., :3] * np.float32(0.01)).healthy


def test_what_is_not_finite_is_not_counted():
    variables, _ = examine(stack(), XS)
    diagnosis = examine(stack(), np.nan * XS, variables)[1]
    first = diagnosis.layers[0]
    assert np.isnan([*first.rate, first.dead, first.saturated]).all() and not first.groups
    assert "0.00" not in str(diagnosis).splitlines()[2]


def leads(problems):
    """Which layers each layer's problems tell to go to first."""
    found = re.compile(r"First follow the advice for (.+?)\.(?: |$)")
    return {path: set(found.findall(said)) for path, said in problems.items()}


def contradictions(diagnosis, values):
    """Arguments moved both ways, and advice that leads nowhere or in a circle."""
    for report in diagnosis.layers:
        moved = {}
        for name, value in re.findall(r"`(\w+)=([\d.e+-]+)`", report.advice):
            higher = float(value) > values[report.path, name.split("_")[-1]]
            moved.setdefault(name, set()).add(higher)
        yield from (f"{report.path}: {name}" for name, ways in moved.items() if len(ways) > 1)
        if len(set(re.findall("Multiply|Subtract|Set `.*?threshold|LayerNorm", report.advice))) > 1:
            yield f"{report.path}: several remedies"
    problems = {each.path: " ".join(each.problems) for each in diagnosis.layers}
    problems["the network"] = " ".join(diagnosis.problems)
    onwards = leads(problems)
    for path in onwards:
        seen, ahead = set(), {path}
        while ahead:
            seen, ahead = seen | ahead, set().union(*(onwards[each] for each in ahead))
            if seen & ahead or not all(problems[each] for each in ahead):
                yield f"{path} leads to {ahead}"
                break


RAW = {  # inverses of the constraints
    "threshold": lambda value: np.log(np.expm1(value)),
    "beta": lambda value: np.log(value / (1 - value)),
    "alpha": lambda value: np.log(value / (1 - value)),
}


@pytest.mark.parametrize("layer", reference.first([snn.RLITS, snn.LIB, snn.DSLIT]))
def test_no_advice_contradicts_another(layer):
    """Of random networks, which all run one program."""
    draw = np.random.default_rng(1)
    model = model_of(stack(layer, layer, snn.LI))
    start = model.init(KEY, jnp.asarray(XS[:6]))

    def changed(path, value):
        module, name = path[-2].key, path[-1].key
        kind = name.split("_")[-1]
        if name == "kernel":
            return value * np.float32(draw.choice([0, 1e-4, 1, 1, 1, 30, 1e4]))
        if kind not in RAW:
            return value
        if (f"cell/{module}", kind) not in values:
            levels = [1e-3, 1, 1, 1, 100] if kind == "threshold" else [1e-3, 0.5, 0.9, 0.9999]
            values[f"cell/{module}", kind] = draw.choice(levels)
        return jnp.full_like(value, RAW[kind](values[f"cell/{module}", kind]))

    for _ in range(25):
        values = {}
        variables = jax.tree_util.tree_map_with_path(changed, start)
        xs = draw.choice([0, 0.01, 1, 1, 100]) * (XS[:6] + draw.choice([-3, 0, 3]))
        diagnosis = tt.diagnose(model, variables, jnp.asarray(xs, jnp.float32))
        assert not list(contradictions(diagnosis, values)), f"{diagnosis}\n{values}"


class Steep(NamedTuple):
    """A spike function that is a tuple, but no pair of two."""

    slope: float

    def __call__(self, u):
        return tt.spikes.sigmoid(self.slope)(u)


def test_a_spike_function_that_is_a_named_tuple():
    model = snn.Unroll(snn.LIB(3, spike=Steep(4.0)))
    want = snn.Unroll(snn.LIB(3, spike=tt.spikes.sigmoid(4.0)))
    variables = model.init(KEY, XS[..., :3])
    got, want = (tt.diagnose(m, variables, XS[..., :3]).layers[0] for m in (model, want))
    assert got.rate == want.rate and got.membrane == pytest.approx(want.membrane, rel=1e-5)


class ByName(nn.Module):
    """Runs a cell with arguments by name."""

    @nn.compact
    def __call__(self, xs):
        return snn.LIB(3).unroll(xs=xs, carry=None)[1]


def test_a_cell_that_is_unrolled_by_name():
    variables = ByName().init(KEY, XS[..., :3])
    ys, layers = tt.record(ByName(), variables, XS[..., :3])
    (recording,) = layers.values()
    assert np.array_equal(np.moveaxis(recording.outputs, 0, 1), ys)


def test_time_to_compile_stands_apart():
    model = snn.Unroll(snn.Sequential([nn.Dense(5), snn.LIB(5)]))  # which no other test compiles
    variables = model.init(KEY, XS)
    first, again = (tt.diagnose(model, variables, XS) for _ in range(2))
    assert first.compile_seconds > again.compile_seconds and first.run_seconds > 0
    assert re.search(r"as one program: \S+ s to compile, then \S+ s a run\.$", str(first), re.M)


@pytest.mark.parametrize("lacking", [None, "the package llvmlite"])
def test_says_what_kernels_need(lacking, monkeypatch):
    monkeypatch.setattr(policy, "why_no_kernel", lambda: lacking)
    model = snn.Unroll(snn.LIB(8))
    report = tt.diagnose(model, model.init(KEY, XS), XS)
    assert report.kernels_need == lacking
    says = "Trace layers may run faster as kernels, which need the package llvmlite." in str(report)
    assert says == (lacking is not None)
