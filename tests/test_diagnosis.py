"""What `diagnose` says holds, and each advice helps: it is read from the text and followed."""

import functools
import re
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tracetorch_jax as tt
from tracetorch_jax import losses, snn, spikes
from tracetorch_jax.snn import flex

KEY = jax.random.key(0)
LABELS = np.arange(48) % 3
DRAW = np.random.default_rng(0)
# Three classes, each a pattern over eight features of mean 0 and deviation 1. The first half of
# the sequences is trained on.
XS = DRAW.normal(size=(3, 1, 8))[LABELS] + 2 * DRAW.normal(size=(48, 20, 8))
XS = ((XS - XS.mean((0, 1))) / XS.std((0, 1))).astype(np.float32)
EARLY = np.where(np.arange(20)[:, None] < 5, XS, 0)  # from the sixth step on, to be remembered
OFFSET = XS + 4
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
    loss = lambda ys: losses.cross_entropy(ys, LABELS, decode=decode).mean()  # noqa: E731
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


great, small = (nn.initializers.variance_scaling(gain, "fan_in", "normal") for gain in (1e4, 1e-5))
low = {"bias_init": nn.initializers.constant(-2.0)}
high = {"bias_init": nn.initializers.constant(3.0)}
CASES = {
    # name: layers, input, index of the layer, level, words of the advice
    "input too great": (stack(), 100 * XS, 1, "problems", "divide by its deviation"),
    "input never negative": (stack(), np.abs(OFFSET), 1, "problems", "never negative"),
    "one feature too great": (stack(), XS * ([1e3] + 7 * [1]), 1, "problems", "std((0, 1))"),
    "input too small": (stack(), 0.02 * XS, 1, "problems", "divide by its deviation"),
    "weights too great": (stack(at_2={"kernel_init": great}), XS, 3, "problems", "layers_2 by 0.0"),
    "weights too small": (stack(at_2={"kernel_init": small}), XS, 3, "problems", "layers_2 by"),
    "threshold too high": (stack(at_3={"threshold": 50.0}), XS, 3, "problems", "`threshold="),
    "ternary thresholds too high": (
        stack(snn.LIT, snn.LI, at_1={"pos_threshold": 90.0, "neg_threshold": 90.0}),
        XS, 1, "problems", "` and `neg_threshold=",
    ),
    "driven below 0": (stack(at_2=low), XS, 3, "problems", "nn.LayerNorm()"),
    "firing always": (stack(at_2=high), XS, 3, "problems", "nn.LayerNorm()"),
    "firing by itself": (
        stack(
            snn.RLIB, snn.LI,
            at_0={"bias_init": nn.initializers.constant(0.7)}, at_1={"rec_weight": 20.0},
        ),
        XS, 1, "problems", "`rec_weight=",
    ),
    "values too great": (stack(snn.LI, snn.LI), 1e5 * XS, 1, "problems", "by its deviation"),
    "values too small": (stack(snn.LI, snn.LI), 1e-3 * XS, 1, "problems", "by its deviation"),
    "logits too great": (
        stack(snn.LI, snn.LI, at_2={"kernel_init": nn.initializers.normal(3e3)}),
        XS, 3, "notes", "If they are logits",
    ),
    "averages too slow": (stack(at_5={"beta": 0.9999}), XS, 5, "problems", "`beta="),
    "synapses too slow": (stack(snn.SLIB, snn.LI, at_1={"alpha": 0.9999}), XS, 1, "problems", "`alpha="),
    "gradients vanish": (
        stack(*[snn.LIB] * 4, snn.LI, **{f"at_{i}": {"spike": spikes.fast_sigmoid(1e4)} for i in (1, 3, 5, 7)}),
        2 * XS, 1, "problems", "vanishes",
    ),
    "gradients explode": (
        stack(*[snn.LI] * 5, **{f"at_{i}": {"kernel_init": nn.initializers.normal(1e-6 if i == 0 else 50.0)} for i in (0, 2, 4, 6, 8)}),
        XS, 1, "problems", "explodes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_advice_helps(name):
    layers, xs, index, level, words = CASES[name]
    path = f"cell/layers_{index}"
    variables, diagnosis = examine(layers, xs)
    said = [each for each in remarks(diagnosis, path, level) if words in each]
    print(diagnosis)
    assert len(said) == 1, diagnosis
    assert diagnosis.healthy == (level == "notes") or diagnosis.layers[0].path != path
    better, ys = follow(said[0], layers, index, xs)
    fresh, after = examine(better, ys)
    path = f"cell/layers_{index + len(better) - len(layers)}"
    print(after)
    assert not remarks(after, path, "problems"), after
    assert not any(words in each for each in remarks(after, path, "notes")), after
    _, without = trained(bare(layers), variables, xs)
    _, with_it = trained(bare(better), fresh, ys)
    print(without, with_it)
    silent = [np.mean([each.dead or 0 for each in d.layers]) for d in (diagnosis, after)]
    assert with_it < 0.95 * without or silent[1] < 0.5 * silent[0]
