"""What does not fit: state dicts, files and arguments, each by its message."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_vectors import torch_cases

from tracetorch_jax import interop, snn
from tracetorch_jax.snn.flex import Decay, LeakyIntegrator, Threshold, Weight


def says(*parts):
    """A pattern of all parts in any order."""
    return "(?s)" + "".join(f"(?=.*{re.escape(part)})" for part in parts)


LIB = {"raw_beta": np.zeros(3), "raw_threshold": np.ones(3)}
STACK = {
    "0.weight": np.ones((3, 2)),
    "0.bias": np.zeros(3),
    "1.raw_beta": np.zeros(3),
    "1.raw_threshold": np.ones(3),
}
XS = jax.ShapeDtypeStruct((1, 4, 2), jnp.float32)


def stack(layer=None):
    return snn.Unroll(snn.Sequential([nn.Dense(3), layer or snn.LIB(3)]))


def test_everything_that_does_not_fit_is_listed_at_once():
    state_dict = {
        "0.weight": np.ones((2, 3)),
        "0.gain": np.ones(3),
        "1.raw_beta": np.zeros(4),
        "1.raw_threshold": np.array(1.0),
    }
    with pytest.raises(ValueError, match="`state_dict` must fit `model`, but it") as error:
        interop.from_torch(state_dict, stack(), XS)
    for part in (
        "lacks '0.bias' for Dense 'cell/layers_0'",
        "has unknown '0.gain' [3] for Dense 'cell/layers_0'",
        "has '0.weight' as [2, 3] where Dense 'cell/layers_0' needs [3, 2]",
        "has '1.raw_beta' as [4] where LIB 'cell/layers_1' needs [3]",
        "has '1.raw_threshold' as [] where LIB 'cell/layers_1' needs [3] (use `threshold_rank` 0)",
    ):
        assert part in str(error.value)


def test_a_layer_of_another_kind():
    """A state dict does not name its layers, but what it holds tells most of them apart."""
    case = torch_cases("0.12.0")["LIT/0"]
    with pytest.raises(
        ValueError, match=says("lacks 'raw_threshold' for LIB", "has unknown 'raw_neg_threshold'")
    ):
        interop.from_torch(case.state_dict, snn.LIB(3))
    with pytest.raises(ValueError, match=says("call TTdecompile() before state_dict()")):
        interop.from_torch({"beta": np.full(3, 0.5), "threshold": np.ones(3)}, snn.LIB(3))


def test_a_buffer_must_be_the_constant_of_the_model():
    beta = np.float32(np.log(0.95) - np.log1p(-0.95))
    state_dict = LIB | {"raw_beta": np.full(3, beta)}
    with pytest.raises(
        ValueError, match=says("has 'raw_beta' for 0.949999", "LIB has the constant 0.9 (give the")
    ):
        interop.from_torch(state_dict, snn.LIB(3, beta_learnable=False))
    interop.from_torch(state_dict, snn.LIB(3, beta=0.95, beta_learnable=False))
    with pytest.raises(ValueError, match="has the constant 0.9501"):  # that near
        interop.from_torch(state_dict, snn.LIB(3, beta=0.9501, beta_learnable=False))
    mixed = LIB | {"raw_beta": np.array([0.0, 0.0, 2.0])}
    with pytest.raises(ValueError, match=says("beta=[0.5, 0.5, 0.880797078]", "`layer_arguments`")):
        interop.from_torch(mixed, snn.LIB(3, beta=0.5, beta_learnable=False))
    values = interop.layer_arguments(mixed)
    variables = interop.from_torch(mixed, snn.LIB(3, **values, beta_learnable=False))
    assert set(variables["params"]) == {"raw_threshold"}
    integrator = snn.LI(3, beta=1.0, beta_learnable=False, ema=False)  # without leak
    state_dict = interop.to_torch(integrator.init(jax.random.key(0), None, np.ones(3)), integrator)
    assert np.all(np.isinf(state_dict["raw_beta"]))
    assert interop.from_torch(state_dict, integrator) == {}


def test_a_scalar_stays_a_scalar():
    values = interop.layer_arguments({"a.b.raw_beta": np.array(0.0, np.float32)}, "a.b")
    assert snn.LI(3, **values).describe()[0].shape == ()
    assert values["beta"].dtype == np.float64


def test_a_bias_needs_a_layer_that_has_one():
    biased = LIB | {"raw_bias": np.full(3, np.sinh(0.25))}
    for layer, hint in (
        (snn.LIB(3), "(use snn.flex.LIB(...).clone(bias=snn.flex.Weight(0.0)) and"),
        (snn.flex.LIB(3), "(use snn.flex.LeakyIntegrator(..., bias=snn.flex.Weight(0.0)) and"),
    ):
        with pytest.raises(ValueError, match=says("has 'raw_bias' up to 0.25", "no bias", hint)):
            interop.from_torch(biased, layer)
    variables = interop.from_torch(LIB | {"raw_bias": np.zeros(3)}, snn.LIB(3))
    assert set(variables["params"]) == set(LIB)
    layer = LeakyIntegrator(
        3, pos_beta=Decay(), pos_threshold=Threshold(), bias=Weight(0.0, learnable=False)
    )
    with pytest.raises(ValueError, match=says("has 'raw_bias' for 0.125", "constant 0.0")):
        interop.from_torch(biased, layer)
    with pytest.raises(ValueError, match="lacks 'raw_bias'"):
        interop.from_torch(LIB, layer)
    with pytest.raises(ValueError, match=says("has unknown 'raw_bias' [3] for LI")):
        interop.from_torch({"raw_beta": np.zeros(3), "raw_bias": np.zeros(3)}, snn.LI(3))


@pytest.mark.parametrize("keys", [["0", "1", "2"], ["fc", "spikes"], ["0", "1.0", "1.1"]])
def test_modules_that_cannot_be_paired(keys):
    state_dict = {f"{key}.raw_beta": np.zeros(3) for key in keys}
    pattern = says("must have the same modules", "Dense 'cell/layers_0'", *keys)
    with pytest.raises(ValueError, match=pattern):
        interop.from_torch(state_dict, stack(), XS)


class Auto(nn.Module):
    @nn.compact
    def __call__(self, xs):
        scale = self.param("gain", nn.initializers.ones, (1, 1, 2))
        return snn.Unroll(snn.LIB(3))(nn.Dense(3)(xs * scale))


def test_names_pair_modules_of_your_own():
    own = {"gain": np.full((1, 1, 2), 2.0), "fc.weight": np.ones((3, 2)), "fc.bias": np.zeros(3)}
    own |= {f"spikes.{key}": value for key, value in LIB.items()}
    names = {"": "", "fc": "Dense_0", "spikes": "LIB_0"}
    variables = interop.from_torch(own, Auto(), XS, names=names)
    assert variables["params"]["gain"].tolist() == [[[2.0, 2.0]]]
    assert variables["params"]["Dense_0"]["kernel"].shape == (2, 3)
    written = interop.to_torch(variables, Auto(), XS, names=names, release="0.15")
    assert set(written) == set(own)
    default = interop.to_torch(variables, Auto(), XS)
    assert set(default) == {
        "gain", "Dense_0.weight", "Dense_0.bias",
        "LIB_0.raw_beta", "LIB_0.raw_threshold", "LIB_0.raw_bias",
    }  # fmt: skip
    wrapped = {f"module.{key}": value for key, value in default.items()}  # as DataParallel does
    jax.tree.map(np.testing.assert_array_equal, interop.from_torch(wrapped, Auto(), XS), variables)
    for write in (False, True):
        arguments = (variables,) if write else (own,)
        with pytest.raises(TypeError, match="`names` must be a dict from prefix to path"):
            (interop.to_torch if write else interop.from_torch)(*arguments, Auto(), XS, names="fc")
    for wrong, message in (
        ({}, "lacks 'fc'"),
        (names | {"fc": "Dense_1"}, "has 'fc' for 'Dense_1', which is no module"),
        (names | {"fc2": "Dense_0"}, "has unknown 'fc2'"),
        (names | {"fc": "LIB_0"}, "lacks Dense 'Dense_0'"),
        (names | {"fc": "LIB_0"}, "has 'LIB_0' twice"),
    ):
        with pytest.raises(ValueError, match=says("`names` must pair every prefix", message)):
            interop.from_torch(own, Auto(), XS, names=wrong)


class Listed(nn.Module):
    def setup(self):
        self.blocks = [nn.remat(nn.Dense)(3), nn.Dense(3)]
        self.heads_of = {"a": snn.Unroll(snn.LIB(3))}

    def __call__(self, inputs, train):
        x = self.blocks[1](self.blocks[0](inputs["x"]))
        return self.heads_of["a"](x) if train else x


def test_lists_and_options():
    """As ``torch.nn.ModuleList`` and ``ModuleDict`` count; arguments may be trees and flags."""
    inputs = {"x": jax.ShapeDtypeStruct((1, 4, 2), jnp.float32)}
    state_dict = {f"blocks.{i}.bias": np.full(3, float(i)) for i in (0, 1)}
    state_dict |= {"blocks.0.weight": np.ones((3, 2)), "blocks.1.weight": np.ones((3, 3))}
    state_dict |= {f"heads_of.a.{key}": value for key, value in LIB.items()}
    variables = interop.from_torch(state_dict, Listed(), inputs, True)
    assert variables["params"]["blocks_1"]["bias"].tolist() == [1.0] * 3
    written = interop.to_torch(variables, Listed(), inputs, True, release="head")
    assert set(written) == set(state_dict)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [nn.GRUCell, nn.OptimizedLSTMCell])
def test_cells_of_flax_have_no_counterpart(cell):
    model = snn.Unroll(snn.Sequential([cell(3), snn.LIB(3)]))
    xs = np.ones((1, 4, 2), np.float32)
    variables = model.init(jax.random.key(0), xs)
    with pytest.raises(ValueError, match=says("must be one that torch has", "'cell/layers_0'")):
        interop.to_torch(variables, model, xs)


def test_modules_of_flax_without_a_counterpart():
    model = snn.Sequential([nn.OptimizedLSTMCell(3)])
    x = np.ones((1, 2), np.float32)
    many = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True})(3)
    with pytest.raises(ValueError, match=says("`model` must be made of", "got VmapDense")):
        interop.from_torch({"weight": np.ones((3, 2)), "bias": np.ones(3)}, many, x)
    with pytest.raises(ValueError, match="must have the same modules"):
        interop.from_torch({"0.weight_ih": np.ones((9, 2))}, model, x)


def test_stacks_are_paired_by_position():
    """Torch counts layers without parameters, too, and tens come after twos."""
    layers = [nn.Dense(3), *(snn.LI(3) for _ in range(10))]
    keys = [0, *range(2, 22, 2)]
    state_dict = {f"net.{keys[i]}.raw_beta": np.full(3, float(i)) for i in range(10, 0, -1)}
    state_dict |= {"net.0.weight": np.ones((3, 2)), "net.0.bias": np.zeros(3)}
    variables = interop.from_torch(state_dict, snn.Sequential(layers), jnp.ones((1, 2)))
    for i in range(1, 11):
        assert variables["params"][f"layers_{i}"]["raw_beta"][0] == i


def test_flattening_needs_a_word():
    conv = {"0.weight": np.ones((4, 1, 3, 3)), "0.bias": np.zeros(4)}
    state_dict = conv | {"2.weight": np.ones((2, 24)), "2.bias": np.zeros(2)}
    layers = [nn.Conv(4, (3, 3), padding=1), lambda x: x.reshape(x.shape[0], -1), nn.Dense(2)]
    model, x = snn.Sequential(layers), jnp.ones((1, 3, 2, 1))

    def read(flatten):
        return interop.from_torch(state_dict, model, x, flatten=flatten)

    with pytest.raises(ValueError, match=says("`flatten` must say", "flatten={'2': (4, 3, 2)}")):
        read(None)
    with pytest.raises(ValueError, match=says("`flatten['2']` must be the [C, H, W] of the 24")):
        read({"2": (4, 3, 3)})
    with pytest.raises(ValueError, match=says("`flatten` must name prefixes of ['0', '2']")):
        read({"3": (4, 3, 2)})
    with pytest.raises(ValueError, match=says("`flatten['0']` must be")):
        read({"2": (4, 3, 2), "0": (4, 3, 2)})
    with pytest.raises(TypeError, match="`flatten` must be a dict"):
        read((4, 3, 2))
    assert read({"2": None})["params"]["layers_2"]["kernel"].shape == (24, 2)


def test_arguments_of_the_wrong_kind():
    with pytest.raises(TypeError, match="`inputs` must be what Unroll is called with"):
        interop.from_torch(STACK, stack())
    with pytest.raises(TypeError, match="`model` must be a Flax"):
        interop.from_torch(STACK, snn.LIB)
    with pytest.raises(TypeError, match="`state_dict` must be a dict from names to arrays"):
        interop.from_torch([1.0], snn.LIB(3))

    class Module:
        def state_dict(self):
            return {}

    with pytest.raises(TypeError, match="got Module. Use its state_dict"):
        interop.from_torch(Module(), snn.LIB(3))
    with pytest.raises(TypeError, match="got dict at 'model'. Of a checkpoint"):
        interop.from_torch({"model": LIB}, snn.LIB(3))
    with pytest.raises(TypeError, match=re.escape("`state_dict['raw_beta']` must be real numbers")):
        interop.from_torch({"raw_beta": np.zeros(3, complex)}, snn.LI(3))
    with pytest.raises(ValueError, match="`ignore` must be patterns of keys"):
        interop.from_torch(LIB, snn.LIB(3), ignore=["*.raw_alpha"])
    with pytest.raises(ValueError, match=says("`prefix` must be that of a trace layer")):
        interop.layer_arguments(STACK, "2")
    with pytest.raises(TypeError, match="`model` must be a trace layer, a Sequential"):
        interop.initial_carry({}, nn.Dense(3), np.ones((1, 3)))


def test_writing_what_cannot_be_written():
    layer = snn.flex.LIB(3).clone(bias=Weight(0.1))
    variables = layer.init(jax.random.key(0), None, np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="LeakyIntegrator has a bias, as traceTorch 0.18 to 0.19"):
        interop.to_torch(variables, layer, release="0.17")
    written = interop.to_torch(variables, layer, release="0.19.2")
    np.testing.assert_allclose(written["raw_bias"], np.sinh(1.0), rtol=1e-5)
    endless = layer.clone(pos_beta=Decay(1.0, learnable=False))
    own = endless.init(jax.random.key(0), None, np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="has a bias and a decay of 1"):
        interop.to_torch(own, endless, release="0.18")
    for release in ("0.11", "1.0", "0.20.0", "newest"):
        with pytest.raises(ValueError, match="`release` must be '0.12' to '0.19' or 'head'"):
            interop.to_torch(variables, layer, release=release)
    with pytest.raises(ValueError, match=says("`variables` must be", "lacks 'params/raw_beta'")):
        interop.to_torch({"params": {"raw_gamma": np.zeros(3)}}, layer)
    shapes = jax.tree.map(lambda x: x[:2], variables)
    with pytest.raises(ValueError, match=says("has 'params/raw_beta' as [2] instead of [3]")):
        interop.to_torch(shapes, layer)
    one = written | {"raw_bias": np.float32(1.0)}
    uneven = {"params": variables["params"] | {"raw_bias": jnp.arange(3.0)}}
    with pytest.raises(ValueError, match="`like` has one 'raw_bias' for all neurons"):
        interop.to_torch(uneven, layer, like=one)


def test_a_named_layer_is_written_with_a_bias_of_zero_for_the_releases_that_have_one():
    variables = stack().init(jax.random.key(0), jnp.ones(XS.shape))
    plain = interop.to_torch(variables, stack(), XS, release="head")
    assert list(plain) == list(STACK)
    biased = interop.to_torch(variables, stack(), XS, release="0.18.1")
    assert set(biased) - set(plain) == {"1.raw_bias"}
    assert biased["1.raw_bias"].tolist() == [0.0] * 3


def test_types_are_those_of_the_model():
    model = snn.Sequential([nn.Dense(3, dtype=jnp.float32, param_dtype=jnp.bfloat16), snn.LIB(3)])
    variables = interop.from_torch(STACK, model, jnp.ones((1, 2)))
    assert variables["params"]["layers_0"]["kernel"].dtype == jnp.bfloat16
    assert variables["params"]["layers_1"]["raw_beta"].dtype == jnp.float32
    assert interop.to_torch(variables, model, jnp.ones((1, 2)))["0.weight"].dtype == np.float32
    narrow = {key: value.astype(jnp.bfloat16) for key, value in STACK.items()}
    like = interop.to_torch(variables, model, jnp.ones((1, 2)), like=narrow)
    assert {array.dtype for array in like.values()} == {np.dtype(jnp.bfloat16)}


def test_boxes_stay_around_parameters():
    kernel = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
    model = snn.Sequential([nn.Dense(3, kernel_init=kernel), snn.LIB(3)])
    variables = interop.from_torch(STACK, model, jnp.ones((1, 2)))
    assert isinstance(variables["params"]["layers_0"]["kernel"], nn.Partitioned)
    written = interop.to_torch(variables, model, jnp.ones((1, 2)))
    np.testing.assert_array_equal(written["0.weight"], STACK["0.weight"])


def test_other_modules_of_torch():
    """Embeddings and the norms that keep no statistics."""
    model = nn.Sequential([nn.Embed(5, 4), nn.GroupNorm(2), nn.RMSNorm()])
    state_dict = {
        "0.weight": np.arange(20.0).reshape(5, 4),
        "1.weight": np.full(4, 2.0),
        "1.bias": np.full(4, 3.0),
        "2.weight": np.full(4, 4.0),
    }
    tokens = np.zeros((2, 3), np.int32)
    params = interop.from_torch(state_dict, model, tokens)["params"]
    assert params["layers_0"]["embedding"][2].tolist() == [8.0, 9.0, 10.0, 11.0]
    assert params["layers_1"]["scale"][0] == 2.0 and params["layers_1"]["bias"][0] == 3.0
    assert params["layers_2"]["scale"][0] == 4.0


def test_a_transposed_convolution_with_either_kind_of_kernel():
    state_dict = {"weight": np.arange(24.0).reshape(2, 3, 4), "bias": np.arange(3.0)}
    x, ys = np.arange(10, dtype=np.float32).reshape(1, 5, 2), []
    for transpose_kernel in (False, True):
        layer = nn.ConvTranspose(3, (4,), transpose_kernel=transpose_kernel)
        variables = interop.from_torch(state_dict, layer, x)
        ys.append(layer.apply(variables, x))
        written = interop.to_torch(variables, layer, x)
        np.testing.assert_array_equal(written["weight"], state_dict["weight"])
    np.testing.assert_array_equal(*ys)
