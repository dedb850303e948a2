"""What a feature is stands in one place, and who cannot hold a new one refuses it by name."""

import dataclasses

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import export, functional, interop, nnx, snn, training
from tracetorch_jax._core import features
from tracetorch_jax.functional.equations import equations
from tracetorch_jax.functional.spec import (
    PARAMETERS,
    channel_names,
    name_of,
    parameter_row,
)
from tracetorch_jax.interop._nir import metadata

# Of `LeakyIntegrator`, and of no named layer.
ALONE = {"bias", "adapt_coupling", "adapt_jump"}
MIXINS = {name: field for name, field in vars(features).items() if dataclasses.is_dataclass(field)}


@pytest.mark.parametrize("name", snn.ALL_LAYERS)
def test_a_spec_has_the_name_of_its_layer(name):
    assert name_of(snn.ALL_LAYERS[name](1).spec) == name


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.name)
def test_a_row_has_arguments_in_both_kinds_of_layer(row):
    """The fields are written out for type checkers; their names follow from the row."""
    options = {field.name for field in dataclasses.fields(snn.flex.LeakyIntegrator)}
    assert options >= {*channel_names(row.name, dual=row.signed)}
    fields = {field.name for mixin in MIXINS.values() for field in dataclasses.fields(mixin)}
    if row.name not in ALONE:
        for name in channel_names(row.name, dual=row.signed):
            assert fields >= {name, f"{name}_rank", f"{name}_learnable"}


def test_every_argument_of_a_feature_has_a_row():
    for mixin in MIXINS.values():
        for field in dataclasses.fields(mixin):
            if field.name.endswith("_rank"):
                assert parameter_row(field.name.removesuffix("_rank")), field.name


def test_names_that_no_layer_has_are_known_to_nobody():
    for name in ("pos_bias", "delta", "pos_", "beta_rank", ""):
        assert parameter_row(name) is None
    with pytest.raises(ValueError, match="known layers; got raw_delta"):
        training.parameter_labels({"raw_delta": 0.0})
    with pytest.raises(ValueError, match=r"known layer below '1'; got \['raw_delta'\]"):
        interop.layer_arguments({"1.raw_beta": np.zeros(3), "1.raw_delta": np.zeros(3)}, "1")


# A feature that nothing else in the package knows of: the membrane is multiplied by a gain.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecWithGain(functional.Spec):
    gain: float = 1.0


class WithGain(snn.LIB):
    """A layer with a made-up feature."""

    @property
    def spec(self):
        return SpecWithGain(**super().spec.__getstate__(), gain=2.0)


MODEL = snn.Unroll(snn.Sequential([nn.Dense(3), WithGain(3)]))
XS = jnp.ones((1, 4, 2))


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), XS)


def test_nir_refuses_a_feature_that_it_does_not_know(variables, monkeypatch):
    monkeypatch.setitem(metadata.KINDS, "WithGain", WithGain)
    with pytest.raises(ValueError, match=r"NIR graph cannot hold `gain` of .*layers.1.*; got 2.0"):
        interop.to_nir(MODEL, variables, input_shape=(2,))


def test_state_dicts_refuse_a_feature_that_they_do_not_know(variables):
    words = r"state dict of traceTorch cannot hold `gain` of WithGain 'cell/layers_1'; got 2.0"
    with pytest.raises(ValueError, match=words):
        interop.to_torch(variables, MODEL, XS)
    state_dict = interop.to_torch(
        variables, snn.Unroll(snn.Sequential([nn.Dense(3), snn.LIB(3)])), XS
    )
    with pytest.raises(ValueError, match=words):
        interop.from_torch(state_dict, MODEL, XS)


def test_equations_refuse_a_feature_that_they_do_not_know():
    with pytest.raises(ValueError, match="equations cannot hold `gain` of the layer; got 2.0"):
        equations(WithGain(1).spec)


def test_programs_hold_whatever_a_step_does(variables):
    """They are traced, so that nothing of a feature can be left out."""
    program = export.sequence(MODEL, variables, "b, t, 2", platforms=["cpu"])
    assert np.array_equal(program.call(XS), jax.jit(MODEL.apply)(variables, XS))


@pytest.mark.parametrize("name", reference.some(snn.ALL_LAYERS, ("ASRLIB", *reference.COVER)))
def test_a_layer_by_its_name_has_decays_of_many_half_lives(name):
    """Each decay within the range, in both front ends; other arguments as they are given."""
    layer = snn.layer(name, 50, half_lives=(2.0, 30.0), param_dtype="float32")
    assert type(layer) is snn.ALL_LAYERS[name]
    x = jnp.zeros((1, 50))
    values = layer.apply(layer.init(jax.random.key(0), None, x), method="parameters")
    same = nnx.layer(name, 50, half_lives=(2.0, 30.0), rngs=flax.nnx.Rngs(0)).parameters()
    for parameter, kind in layer.spec.parameters.items():
        for found in (values[parameter], same[parameter]):
            if kind is functional.DECAY:
                steps = np.log(0.5) / np.log(np.asarray(found))
                assert 1.99 < steps.min() < 6 and 12 < steps.max() < 30.1
            else:
                assert len(np.unique(found)) == 1


def test_a_layer_by_its_name_takes_the_arguments_of_the_layer():
    layer = snn.layer("SRLIB", 3, half_lives=(1.0, 5.0), beta=0.7, reset="zero")
    assert (layer.beta, layer.reset, layer.dim) == (0.7, "zero", -1)
    assert snn.layer("LIB", 3) == snn.LIB(3)
    with pytest.raises(ValueError, match="`name` must be one of 'LI', .*; got 'LIF'"):
        snn.layer("LIF", 3)
    with pytest.raises(TypeError, match=r"`half_lives` must be a pair .*; got 3"):
        snn.layer("LIB", 3, half_lives=3)
    with pytest.raises(ValueError, match="`half_lives` must .*0 < low <= high; got 5.0 and 1.0"):
        snn.layer("LIB", 3, half_lives=(5, 1))
    with pytest.raises(TypeError, match="alpha"):
        snn.layer("LIB", 3, alpha=0.5)
