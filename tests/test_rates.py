"""`training.scale_to_rate` brings layers to a firing rate, says what hinders it, and lets deep
networks learn.
"""

import functools
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

import tracetorch_jax as tt
from tracetorch_jax import losses, snn, spikes, training
from tracetorch_jax import nnx as tnnx
from tracetorch_jax.snn import flex
from tracetorch_jax.training import _rates

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
LABELS = np.arange(64) % 4
# Four classes, each a pattern over eight features.
ALL = DRAW.normal(size=(4, 1, 8))[LABELS] + DRAW.normal(size=(64, 20, 8))
ALL = jnp.asarray(ALL, jnp.float32)
XS = ALL[:32]


def stack(*layers):
    return snn.Unroll(snn.Sequential(layers))


HIGH = {"pos_threshold": 3.0, "neg_threshold": 3.0}
PAIR = stack(nn.Dense(16), snn.LIB(16), nn.Dense(16), snn.LIT(16, **HIGH), nn.Dense(4), snn.LI(4))
ONE = stack(nn.Dense(16), snn.LIB(16))


@functools.cache
def pair():
    """The variables of `PAIR`, silent on a small input."""
    return PAIR.init(KEY, XS)


@functools.cache
def one():
    return ONE.init(KEY, XS)


def rates(model, variables, xs, *args, **kwargs):
    """Of each layer that fires: what `record` has, counted by NumPy."""
    _, layers = tt.record(model, variables, xs, *args, **kwargs)
    fire = {path: each for path, each in layers.items() if each.layer.spec.fires}
    return {path: (np.asarray(each.outputs) != 0).mean() for path, each in fire.items()}


def changes(before, after):
    """What each leaf was multiplied by, of those that are not the same array."""
    assert jax.tree.structure(before) == jax.tree.structure(after)
    found = {}
    for (path, one), other in zip(
        jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if one is not other:
            with np.errstate(invalid="ignore"):
                found["/".join(key.key for key in path[1:])] = np.asarray(other) / np.asarray(one)
    return found


def test_layers_are_brought_to_a_rate_and_nothing_else_changes():
    variables, xs = jax.tree.map(lambda x: x, pair()), 0.01 * XS
    variables["params"]["cell"]["layers_0"]["bias"] = jnp.full(16, 0.003)
    assert set(rates(PAIR, variables, xs).values()) == {0.0}
    scaled = training.scale_to_rate(PAIR, variables, xs, rate=0.3, tolerance=0.05)
    assert list(rates(PAIR, scaled, xs).values()) == pytest.approx([0.3, 0.3], rel=0.051)
    found = changes(variables, scaled)
    assert {path.rpartition("/")[0] for path in found} == {"cell/layers_0", "cell/layers_2"}
    kernel, bias = found["cell/layers_0/kernel"], found["cell/layers_0/bias"]
    factor = kernel[0, 0]
    assert factor > 10
    np.testing.assert_allclose(kernel, factor, rtol=1e-5)
    np.testing.assert_allclose(bias, factor, rtol=1e-5)
    assert training.scale_to_rate(PAIR, scaled, xs, rate=0.3) is scaled  # nothing left to do


def test_a_rate_for_some_layers():
    wanted = {"cell/layers_3": 0.4}
    scaled = training.scale_to_rate(PAIR, pair(), XS, rate=wanted)
    assert {path.rpartition("/")[0] for path in changes(pair(), scaled)} == {"cell/layers_2"}
    assert rates(PAIR, scaled, XS)["cell/layers_3"] == pytest.approx(0.4, rel=0.101)


class Pooled(nn.Module):
    """A model of one's own, time-major inside, that takes lengths under a name of its own."""

    @nn.compact
    def __call__(self, frames, ends=None):
        xs = jnp.swapaxes(nn.Conv(4, (3,))(frames), 0, 1)
        return snn.Unroll(snn.LIB(4, dim=-1), time_major=True)(xs.max(axis=-2), None, ends)


class Twice(nn.Module):
    """One Dense before two layers, with another between."""

    @nn.compact
    def __call__(self, xs):
        shared = nn.Dense(8, use_bias=False)
        ys = snn.Unroll(snn.LIB(8))(shared(xs))
        ys = snn.Unroll(snn.LIT(8))(nn.Dense(8)(ys))
        return snn.Unroll(snn.LITS(8, pos_scale=-3.0))(shared(ys))


class Again(nn.Module):
    """One layer that runs twice, on the output of one Dense and under remat."""

    @nn.compact
    def __call__(self, xs):
        block = nn.remat(snn.Unroll)(snn.Sequential([nn.Dense(8), snn.LIB(8)]))
        return block(block(xs))


CASES = {  # a model, and the module of each layer
    "recurrent": (stack(nn.Dense(8), snn.Recurrent(snn.LIB(8))), ["cell/layers_0"]),
    "normalised": (stack(nn.Dense(8), nn.LayerNorm(), snn.SLIT(8)), ["cell/layers_1"]),
    "delayed": (stack(snn.DelayedDense(8, 3), snn.DSRLIB(8)), ["cell/layers_0"]),
    "behind LI": (stack(nn.Dense(8), snn.LI(8), snn.RLIB(8)), ["cell/layers_0"]),
    "residual": (stack(nn.Dense(8), snn.LIB(8), snn.Residual([nn.Dense(8), snn.LIB(8)])),
                 ["cell/layers_0", "cell/layers_2/layers_0"]),
    "adaptive": (stack(nn.Dense(8), snn.ALITS(8)), ["cell/layers_0"]),
    "shared": (Twice(), ["Dense_0", "Dense_1"]),
    "twice": (Again(), ["Dense_0"]),
    "random": (stack(nn.Dense(8), snn.LIB(8, spike=spikes.bernoulli())), ["cell/layers_0"]),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", reference.some(CASES, {"recurrent", "normalised", "behind LI", "shared", "delayed"})
)
def test_weights_before_each_kind_of_layer(name):
    model, sources = CASES[name]
    keys = {"rngs": {"spike": KEY}} if name == "random" else {}
    variables = model.init({"params": KEY, "spike": KEY}, XS)
    scaled = training.scale_to_rate(model, variables, 0.01 * XS, rate=0.15, **keys)
    found = changes(variables, scaled)
    assert sorted({path.rpartition("/")[0] for path in found}) == sources
    assert not any("raw" in path for path in found)
    got = rates(model, scaled, 0.01 * XS, **keys)
    if name == "shared":
        first, second, third = got.values()
        got = {"together": (first + third) / 2, "between": second}
    if name == "twice":  # of which `record` keeps the last run
        own = dict(zip(("layers_0", "layers_1"), scaled["params"].values(), strict=True))
        block = stack(nn.Dense(8), snn.LIB(8)).bind({"params": {"cell": own}})
        first = block(0.01 * XS)
        got = {"together": jnp.stack([first, block(first)]).mean()}
    assert list(got.values()) == pytest.approx([0.15] * len(got), rel=0.101)


def test_padding_does_not_count():
    lengths = jnp.asarray(DRAW.integers(1, 6, size=32))
    inside = np.arange(20) < np.asarray(lengths)[:, None]
    xs = jnp.where(inside[..., None], XS, jnp.nan)
    scaled = training.scale_to_rate(ONE, one(), xs, seq_lengths=lengths)
    assert scaled is not one()
    ys = np.asarray(ONE.apply(scaled, xs, seq_lengths=lengths))
    assert ys[inside].mean() == pytest.approx(0.1, rel=0.101)
    same = training.scale_to_rate(ONE, one(), xs, None, np.asarray(lengths))
    jax.tree.map(np.testing.assert_array_equal, same, scaled)
    with pytest.raises(ValueError, match="`seq_lengths` must lie between 0 and T = 20; got 21"):
        training.scale_to_rate(ONE, one(), xs, seq_lengths=lengths.at[0].set(21))


def test_lengths_of_a_model_of_ones_own():
    frames, ends = XS[..., None], jnp.asarray(DRAW.integers(1, 6, size=32))
    model = Pooled()
    variables = model.init(KEY, frames)
    scaled = training.scale_to_rate(model, variables, frames, ends=ends, tolerance=0.2)
    assert sorted(changes(variables, scaled)) == ["Conv_0/bias", "Conv_0/kernel"]
    ys = np.swapaxes(np.asarray(model.apply(scaled, frames, ends)), 0, 1)
    inside = np.arange(20) < np.asarray(ends)[:, None]
    assert ys[inside].mean() == pytest.approx(0.1, rel=0.201)


def test_types_and_boxes_stay():
    boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "neurons"))
    model = stack(
        nn.Dense(16, kernel_init=boxed, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16),
        snn.LIB(16, param_dtype=jnp.bfloat16),
    )
    xs = XS.astype(jnp.bfloat16)
    variables = flax.core.freeze(model.init(KEY, xs))
    scaled = training.scale_to_rate(model, variables, xs, rate=0.2)
    assert isinstance(scaled, flax.core.FrozenDict)
    assert jax.tree.structure(variables) == jax.tree.structure(scaled)
    assert {leaf.dtype for leaf in jax.tree.leaves(scaled)} == {jnp.dtype(jnp.bfloat16)}
    assert list(rates(model, scaled, xs).values()) == pytest.approx([0.2], rel=0.101)


def test_what_a_batch_norm_changes_is_not_kept():
    model = stack(nn.Dense(8), nn.BatchNorm(use_running_average=False), snn.LIB(8))
    variables = model.init(KEY, XS)
    scaled = training.scale_to_rate(model, variables, XS, mutable="batch_stats")
    assert set(changes(variables, scaled)) == {"cell/layers_1/scale", "cell/layers_1/bias"}


def test_a_model_of_nnx_is_changed_and_returned():
    variables = training.scale_to_rate(ONE, one(), XS)
    layers = [nnx.Linear(8, 16, rngs=nnx.Rngs(0)), tnnx.LIB(16)]
    model = tnnx.from_linen(one(), tnnx.Unroll(tnnx.Sequential(layers)))
    with pytest.raises(ValueError, match=r"`rate` must be one that each layer reaches"):
        training.scale_to_rate(model, XS, rate=0.9)
    jax.tree.map(np.testing.assert_array_equal, tnnx.to_linen(model), one())
    assert training.scale_to_rate(model, XS) is model
    jax.tree.map(np.testing.assert_array_equal, tnnx.to_linen(model), variables)
    again = training.scale_to_rate(model=model, xs=XS, rate=0.3)
    assert np.mean(model(XS)) == pytest.approx(0.3, rel=0.101) and again is model


def refused(error, words, model=None, variables=None, xs=XS, *args, **kwargs):
    """The message, in which the words are in this order."""
    if model is None:
        model, variables = ONE, one() if variables is None else variables
    elif variables is None:
        variables = model.init(KEY, XS)
    with pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words))):
        training.scale_to_rate(model, variables, xs, *args, **kwargs)


@pytest.mark.parametrize("name", ["rate", "tolerance"])
def test_numbers_out_of_range(name):
    for value in (0, 1, -0.1, 1.5, float("nan"), float("inf")):
        words = f"`{name}` must lie strictly between 0 and 1; got {value!r}."
        refused(ValueError, [words], **{name: value})
    for value in ("0.1", None, True, [0.1]):
        refused(TypeError, [f"`{name}` must be a number; got {value!r}."], **{name: value})
    with pytest.raises(TypeError, match=f"`{name}` must be known before tracing.*outside of jit"):
        jax.jit(lambda value: training.scale_to_rate(ONE, one(), XS, **{name: value}))(0.1)


def test_wrong_models_and_variables():
    refused(TypeError, ["`model` must be a Flax module; got str"], "LIB", {})
    refused(TypeError, ["put the cell LIB into snn.Unroll"], snn.LIB(8), {})
    refused(TypeError, ["`variables` must be those of the model, a dict; got list"], variables=[1])
    with pytest.raises(TypeError, match="`variables` must be known before tracing.*outside of jit"):
        jax.jit(lambda variables: training.scale_to_rate(ONE, variables, XS))(one())
    words = ["must run trace layers through tracetorch_jax.snn.Unroll; none was run"]
    refused(ValueError, words, nn.Dense(3))
    refused(ValueError, ["must have trace layers that fire; got ['cell']"], snn.Unroll(snn.LI(8)))
    mapped = nn.vmap(snn.Unroll, variable_axes={"params": 0}, split_rngs={"params": True})
    refused(ValueError, ["under nn.vmap or nn.scan", "cell is."], mapped(snn.LIB(8)))


def test_layers_that_cannot_be_scaled():
    way = "give `rate` as a dict of the other"
    refused(ValueError, ["cell (LIB) has none", "Put a Dense before", way], snn.Unroll(snn.LIB(8)))
    model = stack(nn.Dense(8), snn.LIB(8), snn.LIB(8))
    variables = model.init(KEY, XS)
    refused(ValueError, ["cell/layers_2 (LIB) has none", way], model, variables)
    training.scale_to_rate(model, variables, XS, rate={"cell/layers_1": 0.1})
    words = ["must name layers that fire, of ['cell/layers_1', 'cell/layers_2']", "'layers_1'"]
    refused(ValueError, words, model, variables, rate={"layers_1": 0.1})
    words = ["`rate['cell/layers_1']` must lie strictly between 0 and 1; got 2."]
    refused(ValueError, words, model, variables, rate={"cell/layers_1": 2})
    model = stack(nn.Dense(8, kernel_init=nn.initializers.zeros), snn.LIB(8))
    refused(ValueError, ["those of cell/layers_0 before cell/layers_1 (LIB) are 0", way], model)
    smooth = stack(nn.Dense(8), snn.LIB(8, spike=spikes.smooth()))
    refused(ValueError, ["cell/layers_1 (LIB) gives other values than 0 and 1", way], smooth)
    stepped = stack(
        snn.Recurrent(snn.Sequential([nn.Dense(8), snn.LIT(8)]), nn.Dense(8)), nn.Dense(8),
        snn.LIB(8),
    )  # fmt: skip
    variables = stepped.init(KEY, XS)
    words = ["cell/layers_0/cell/layers_1 (LIT) step by step", "as a dict of the others"]
    refused(ValueError, words, stepped, variables)
    training.scale_to_rate(stepped, variables, XS, rate={"cell/layers_2": 0.1})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value):
    words = ["must give finite values", "cell/layers_1 (LIB) has NaN", "`diagnose` names"]
    refused(ValueError, words, xs=XS.at[0, 3, 1].set(value))
    kernel = one()["params"]["cell"]["layers_0"]["kernel"].at[0, 0].set(value)
    variables = jax.tree.map(lambda x: x, one())
    variables["params"]["cell"]["layers_0"]["kernel"] = kernel
    refused(ValueError, words, variables=variables)


def test_no_input():
    refused(ValueError, ["the input of cell/layers_1 (LIB) is 0 at every step"], xs=0 * XS)
    words = ["must hold a step of a sequence; cell/layers_1 (LIB) runs none"]
    refused(ValueError, words, seq_lengths=jnp.zeros(32, jnp.int32))
    # What reaches the second layer is 0, as the first is left silent.
    rate = {"cell/layers_3": 0.1}
    words = ["the input of cell/layers_3 (LIT) is 0"]
    refused(ValueError, words, PAIR, pair(), 1e-3 * XS, rate=rate)


def test_rates_out_of_reach():
    words = ["cell/layers_1 (LIB) does not come within 10% of 0.9. Nearest is 0.", "do not make"]
    refused(ValueError, [*words, "it fire more"], rate=0.9)
    spiking = {"pos_beta": flex.Decay(0.9), "pos_threshold": flex.Threshold(1.0)}
    own = stack(nn.Dense(8), flex.LeakyIntegrator(8, **spiking, bias=flex.Weight(1.0)))
    refused(ValueError, ["cell/layers_1 (", "Nearest is", "do not make it fire less"], own)
    # One neuron with one input fires always or never.
    alone, xs = stack(nn.Dense(1), snn.LIB(1, beta=0.01)), jnp.ones((1, 10, 1))
    variables = {"params": alone.init(KEY, xs)["params"]}
    variables["params"]["cell"]["layers_0"]["kernel"] = jnp.full((1, 1), 0.01)
    refused(ValueError, ["In between, its rate jumps"], alone, variables, xs, rate=0.7)


def test_rates_of_layers_that_share_weights(monkeypatch):
    model = Twice()
    variables = model.init(KEY, XS)
    words = ["LIB_0 (LIB) and LITS_0 (LITS) have theirs from Dense_0", "0.1 and 0.2"]
    refused(ValueError, words, model, variables, rate={"LIB_0": 0.1, "LITS_0": 0.2})
    monkeypatch.setattr(_rates, "_PASSES", 1)
    words = ["one that all layers reach at once", "got {'LIB_0': ", "after 1 passes"]
    refused(ValueError, words, model, variables, 0.01 * XS, rate=0.15)


@functools.partial(jax.jit, static_argnums=0)
def _trained(model, variables):
    """Loss and accuracy on what was not trained on, after a short training on a small input."""
    optimiser, xs = optax.adam(1e-2), 1e-3 * ALL

    def loss(variables, half):
        return losses.cross_entropy(model.apply(variables, xs[half]), LABELS[half]).mean()

    def update(carry, _):
        variables, moments = carry
        change, moments = optimiser.update(jax.grad(loss)(variables, slice(32)), moments)
        return (optax.apply_updates(variables, change), moments), None

    start = variables, optimiser.init(variables)
    (variables, _), _ = jax.lax.scan(update, start, length=30)
    rest = slice(32, None)
    right = model.apply(variables, xs[rest]).mean(axis=1).argmax(axis=-1) == LABELS[rest]
    return loss(variables, rest), right.mean()


def trained(*args):
    with jax.numpy_dtype_promotion("standard"):  # for optax
        return _trained(*args)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "gain"), [(snn.LIB, 1.0), (snn.LIT, 1e5)], ids=["silent", "saturated"]
)
def test_a_deep_network_learns_with_it_and_not_without(layer, gain):
    pairs = [each for _ in range(6) for each in (nn.Dense(24), layer(24))]
    model, xs = stack(*pairs, nn.Dense(4), snn.LI(4)), 1e-3 * XS
    variables = model.init(KEY, xs)
    for i in range(0, 12, 2):
        variables["params"]["cell"][f"layers_{i}"]["kernel"] *= gain
    first = list(rates(model, variables, xs).values())
    assert max(first) == 0 if gain == 1 else min(first) > 0.95
    scaled = training.scale_to_rate(model, variables, xs)
    assert list(rates(model, scaled, xs).values()) == pytest.approx([0.1] * 6, rel=0.101)
    (without, few), (with_it, many) = trained(model, variables), trained(model, scaled)
    assert without > 1.2 and few < 0.5
    assert with_it < 0.5 and many > 0.8
