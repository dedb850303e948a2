"""State dicts of traceTorch's releases as models of ours: same outputs, and back again."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
import reference
from reference import assert_close, under
from torch_vectors import (
    BIASED,
    NO_SYNAPSE,
    ONLY_ON_HEAD,
    RELEASES,
    SPIKES,
    counterpart,
    sub,
    torch_cases,
)

from tracetorch_jax import functional, interop, snn, spikes

ENDS = ("0.12.0", "0.19.2")
FEW = ("LIB", "SRLIT", "DSRLITS")
# Releases of which nothing but the spike function is their own.
SAMPLED = {"0.13.1": ("LIB", "SLIB", "DLIT", "DSRLITS"), "0.18.2": FEW}


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(spec, spike, values, carry, xs, weights):
    """Outputs, and the gradient of their weighted sum; one program for all ranks."""
    step = functional.LayerStep(spec, spike, xs.dtype, xs.dtype)
    out, pullback = jax.vjp(lambda xs: functional.unroll(step, values, carry, xs)[1], xs)
    return out, pullback(weights)[0]


@pytest.mark.slow
@pytest.mark.parametrize("release", reference.first([*ENDS, *sorted({*RELEASES} - {*ENDS})], 2))
def test_every_layer_of_a_release(release, trials):
    """Outputs and gradients from its state dict are those of the layer that it was taken from."""
    cases = [case for case in torch_cases(release).values() if "layer" in case.info]
    # Whose outputs are compared; the newest release has all of them.
    sample = SAMPLED.get(release) or trials(None if release == "0.19.2" else FEW, None)
    assert len(cases) == 2 * (28 if release < "0.16" else 32)
    for case in cases:
        name = case.info["layer"]
        learnable = case.info["learnable"]
        layer, ignore = counterpart(release, name, 3, case.state_dict, learnable=learnable)
        variables = interop.from_torch(case.state_dict, layer, ignore=ignore)
        like = interop.to_torch(variables, layer, like=case.state_dict, ignore=ignore)
        assert_same(like, case.state_dict, exactly=release not in BIASED)
        if sample and name not in sample:
            continue
        values = layer.apply(variables, method="parameters")
        values = {k: jnp.broadcast_to(v, 3) for k, v in values.items()}
        carry = interop.initial_carry(variables, layer, case["xs"][0])
        spec, spike = layer.spec, layer.spike_function
        out, grad = run(spec, spike, values, carry, case["xs"], case["weights"])
        assert np.any(case["out"] != 0)
        assert_close(out, case["out"], 1e-5, f"{release} {case.info['name']}: out")
        assert_close(grad, case["grad"], 1e-4, f"{release} {case.info['name']}: grad")


@pytest.mark.parametrize("release", ["0.15.0", "0.17.0", "0.18.2"])
def test_a_layer_that_fires_at_random(release):
    """It fires as often as it does in the releases that leave it to chance."""
    case = torch_cases(release)["random"]
    spike = spikes.bernoulli(spikes.sigmoid(4.0))
    layer = snn.LIB(20_000, beta_rank=0, threshold_rank=0, spike=spike)
    variables = interop.from_torch(case.state_dict, layer)
    xs = jnp.broadcast_to(case["xs"][:, None], (case["xs"].size, 20_000))
    rngs = {"spike": jax.random.key(0)}
    rates = snn.Unroll(layer).apply(under(variables), xs, rngs=rngs).mean(axis=1)
    assert np.ptp(rates) > 0.5
    np.testing.assert_allclose(rates, case["rates"], atol=0.02)  # four standard deviations


@pytest.mark.slow
def test_every_layer_of_the_head():
    """The git head of traceTorch: the same state dicts, and most layers the same."""
    cases = torch_cases("head")
    names = {case.info["layer"] for case in cases.values()}
    assert len(names) == 32
    for name in names:
        case = cases[f"{name}/hard"]
        smooth = name in ONLY_ON_HEAD and not name.endswith(("LI", "LIEMA"))
        if smooth:  # where nothing hangs on whether a threshold was crossed
            case = cases[f"{name}/smooth"]
        layer, _ = counterpart("head", name, 3, case.state_dict)
        variables = interop.from_torch(case.state_dict, layer)
        values = layer.apply(variables, method="parameters")
        spike = spikes.smooth(4.0) if smooth else layer.spike_function
        carry = layer.initialize_carry(None, case["xs"].shape[1:])
        out, _ = run(layer.spec, spike, values, carry, case["xs"], np.ones_like(case["xs"]))
        if name in ONLY_ON_HEAD:
            assert np.abs(out - case["out"]).max() > 0.01, name
        else:
            assert_close(out, case["out"], 1e-5, name)


def assert_same(got, want, *, exactly=True):
    """Two state dicts with the same keys in the same order, shapes, types and numbers."""
    assert list(got) == list(want)
    for key, array in want.items():
        assert (got[key].dtype, got[key].shape) == (array.dtype, array.shape), key
        assert got[key].flags.c_contiguous
        if exactly or not key.endswith("raw_bias"):
            np.testing.assert_array_equal(got[key], array, err_msg=key)
        else:  # our bias is another number
            np.testing.assert_allclose(got[key], array, rtol=1e-5, atol=1e-7, err_msg=key)


# Whole networks.


def trace(case, prefix, name, num_neurons, **kwargs):
    """Our layer for the one below a prefix."""
    return counterpart(case.release, name, num_neurons, sub(case.state_dict, prefix), **kwargs)[0]


def dense(case):
    learnable = {"beta": False, "threshold": True}
    layers = [
        nn.Dense(8),
        trace(case, "1", "LIB", 8, learnable=learnable),
        nn.Dense(6),
        trace(case, "3", "RLITS", 6),
        nn.Dense(3),
        trace(case, "5", "LI", 3),
    ]
    return snn.Unroll(snn.Sequential(layers), time_major=True)


def pool(x):
    """Average over windows of 2 x 2."""
    return x.reshape(-1, x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3]).mean((2, 4))


def flatten(x):
    return x.reshape(x.shape[0], -1)


def conv(case):
    layers = [
        nn.Conv(4, (3, 3), padding=1),
        nn.BatchNorm(use_running_average=True),
        trace(case, "2", "LIB", 4),
        pool,
        flatten,
        trace(case, "5", "LIT", 24),
        nn.Dense(5),
        trace(case, "7", "LI", 5),
    ]
    return snn.Unroll(snn.Sequential(layers), time_major=True)


def transposed(case):
    kernel = nn.ConvTranspose(3, (3, 4), strides=(2, 2), padding=[(1, 1), (2, 2)])
    return snn.Unroll(snn.Sequential([kernel, trace(case, "1", "DLIT", 3)]), time_major=True)


class Named(nn.Module):
    spikes: nn.Module
    readout: nn.Module

    @nn.compact
    def __call__(self, xs, carry=None):
        steps = xs.shape[:2]
        x = nn.Conv(
            6, (3,), padding=1, feature_group_count=2, use_bias=False, name="encoder"
        )(xs.reshape(-1, *xs.shape[2:]))  # fmt: skip
        x = self.spikes(x.reshape(*steps, *x.shape[1:]), carry)
        x = nn.LayerNorm(epsilon=1e-5, name="norm")(x.reshape(*steps, -1))
        return self.readout(nn.Dense(4, name="head")(x))


def named(case):
    return Named(
        snn.Unroll(trace(case, "spikes", "SLIT", 6), time_major=True),
        snn.Unroll(trace(case, "readout", "LI", 4), time_major=True),
    )


NETWORKS = {
    "dense": (dense, {}),
    "conv": (conv, {"5": (4, 3, 2), "6": (4, 3, 2)}),
    "transposed": (transposed, {}),
    "named": (named, {"norm": (6, 5), "head": (6, 5)}),
}


def channels_last(xs):
    return np.moveaxis(xs, 2, -1) if xs.ndim > 3 else xs


def start(model, variables, xs):
    """The carry that the bias of some releases asks for."""
    if not isinstance(model, Named):
        return interop.initial_carry(variables, model, xs)
    own = {"params": variables["params"]["spikes"]}
    return interop.initial_carry(
        own, model.spikes, jax.ShapeDtypeStruct((*xs.shape[:3], 6), jnp.float32)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("release", ["0.12.0", "0.15.0", "0.19.2"])
def test_whole_networks(release, name):
    """torch's [C, H, W] against our [H, W, C], flattening included; and back to torch."""
    case = torch_cases(release)[name]
    make, shapes = NETWORKS[name]
    model, xs = make(case), channels_last(case["xs"])
    variables = interop.from_torch(case.state_dict, model, xs, flatten=shapes)
    apply = jax.jit(model.apply)
    ys = apply(variables, xs, start(model, variables, xs))
    assert np.any(case["out"] != 0)
    assert_close(ys, channels_last(case["out"]), 2e-5, name)
    if shapes:  # the parameters do depend on the order
        other = interop.from_torch(case.state_dict, model, xs, flatten=dict.fromkeys(shapes))
        assert not np.allclose(apply(other, xs, start(model, other, xs)), ys, atol=1e-2)

    options = {"flatten": shapes, "like": case.state_dict}
    written = interop.to_torch(variables, model, xs, **options)
    assert_same(written, case.state_dict, exactly=release not in BIASED)
    fresh = interop.to_torch(variables, model, xs, flatten=shapes, release=release[:4])
    assert set(fresh) == set(case.state_dict)
    for key, array in case.state_dict.items():
        np.testing.assert_allclose(fresh[key], array, rtol=1e-5, atol=1e-6, err_msg=key)
    again = interop.from_torch(written, model, xs, flatten=shapes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), again, variables)


def test_the_page_says_what_is_tested():
    """The page on weights names the spike functions and layers of `torch_vectors`."""
    page = pages.read("coming-from/weights")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    found = {
        eval(code, {"spikes": spikes})
        for row in rows
        for code in re.findall(r"spikes\.\w+\([\d.]+\)", row[-1])
    }
    assert found == set(SPIKES.values())
    only = [re.findall(r"`(\w+)`", row[0]) for row in rows if row[-1].strip().startswith("none: ")]
    unscaled = [re.findall(r"`(\w+)`", row[0]) for row in rows if "unless the scales" in row[-1]]
    assert sorted(only[0] + unscaled[0]) == sorted(ONLY_ON_HEAD)
    (bug,) = [row for row in rows if "ignore=" in row[-1]]
    names = re.findall(r"`(\w+)`", bug[0]), re.findall(r"`(\w+)`", bug[-1])
    assert dict(zip(*names, strict=True)) == NO_SYNAPSE


@pytest.mark.parametrize("shape", [(2, 4, 3), (4, 3)])
def test_where_a_carry_starts(shape):
    """Whatever holds the layer, its membrane starts at traceTorch's bias, and all else at 0."""
    layer = snn.flex.SLIB(3, beta=0.5).clone(bias=snn.flex.Weight((0.25, 0.5, -1.0)))
    inner = snn.Residual([nn.Dense(3), layer])
    model = snn.Unroll(snn.Sequential([snn.LI(3), inner]))
    variables = model.init(jax.random.key(0), jnp.zeros(shape))
    carry = jax.jit(lambda v: interop.initial_carry(v, model, np.zeros(shape)))(variables)
    batch = shape[:-2]
    want = model.cell.initialize_carry(None, (*batch, 3))
    chex.assert_trees_all_equal_shapes_and_dtypes(carry, want)
    assert not np.any(carry["layers_0"]["mem"]) and not np.any(carry["layers_1"]["layers_1"]["syn"])
    start = np.broadcast_to(np.float32([0.5, 1.0, -2.0]), (*batch, 3))
    np.testing.assert_array_equal(carry["layers_1"]["layers_1"]["mem"], start)


def test_where_a_carry_of_a_time_major_model_starts():
    layer = snn.flex.LIB(3).clone(bias=snn.flex.Weight(0.25))
    model, xs = snn.Unroll(layer, time_major=True), np.zeros((4, 2, 3))
    variables = model.init(jax.random.key(0), xs)
    assert interop.initial_carry(variables, model, xs)["mem"].shape == (2, 3)


def test_the_bias_of_a_membrane_that_averages():
    """An average settles at its bias, a sum at its bias over 1 - beta."""
    state_dict = {"raw_beta": np.zeros(1), "raw_threshold": np.ones(1), "raw_bias": np.sinh([0.5])}
    for ema, want in ((True, 0.5), (False, 0.25)):
        layer = snn.flex.LeakyIntegrator(
            1,
            pos_beta=snn.flex.Decay(0.5, ema=ema),
            pos_threshold=snn.flex.Threshold(1.0),
            bias=snn.flex.Weight(0.0),
        )
        variables = interop.from_torch(state_dict, layer)
        assert float(variables["params"]["raw_bias"][0]) == pytest.approx(want)
        start = interop.initial_carry(variables, layer, np.zeros((1, 1)))
        assert float(start["mem"][0, 0]) == pytest.approx(0.5)
