"""What a feature is stands in one place, and who cannot hold a new one refuses it by name."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracetorch_jax import export, functional, interop, snn, training
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
