"""Bad input raises before anything runs, and says which argument, which rule and what was got."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import snn, spikes
from tracetorch_jax.snn import flex

EACH_LAYER = pytest.mark.parametrize("name", reference.EACH)
FAMILIES = pytest.mark.parametrize("family", [snn, flex], ids=["snn", "flex"])
N = 3


def parameters(name):
    return snn.ALL_LAYERS[name](N).spec.parameters


def bad_values(parameter, constraint):
    """Values that a parameter must refuse, with a pattern of the message."""
    yield from (
        (float("nan"), ValueError, "must be finite; got nan"),
        (float("inf"), ValueError, "must be finite; got inf"),
        (np.array([0.5, np.nan, 0.5]), ValueError, "must be finite; got nan"),
        (np.full(N + 1, 0.5), ValueError, rf"shape \({N},\); got shape \({N + 1},\)"),
        (np.full(1, 0.5), ValueError, rf"shape \({N},\); got shape \(1,\)"),
        ((0.5, 0.5), ValueError, rf"shape \({N},\); got shape \(2,\)"),
        (np.full((N, 1), 0.5), ValueError, rf"0 or 1 axes; got shape \({N}, 1\)"),
        ("0.5", TypeError, "must be a number.*got '0.5'"),
        (None, TypeError, "must be a number.*got None"),
        (True, TypeError, "must be a number.*got True"),
        (0.5j, TypeError, "must be a number"),
        ({"value": 0.5}, TypeError, "must be a number"),
        ((0.5, "a", 0.5), TypeError, "must be a number"),
    )
    if constraint.name == "sigmoid":
        for value in (0.0, 1.0, -0.1, 1.5, (0.5, 0.5, 1.0)):
            yield value, ValueError, "must lie strictly between 0 and 1; got"
    if constraint.name == "softplus":
        for value in (0.0, -1.0, (0.5, 0.5, -0.5)):
            yield value, ValueError, "must be greater than 0; got"


@FAMILIES
@EACH_LAYER
def test_every_parameter_refuses_bad_values(name, family):
    layer = getattr(family, name)
    for parameter, constraint in parameters(name).items():
        for value, error, words in bad_values(parameter, constraint):
            with pytest.raises(error, match=f"`{parameter}` {words}|`{parameter}`.*{words}"):
                layer(N, **{parameter: value})
        for rank, error in ((2, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)):
            with pytest.raises(error, match=rf"`{parameter}_rank` must be 0 .* or 1"):
                layer(N, **{f"{parameter}_rank": rank})
        with pytest.raises(TypeError, match=f"`{parameter}_learnable` must be True or False"):
            layer(N, **{f"{parameter}_learnable": 1})
        with pytest.raises(TypeError, match=f"`{parameter}` must be a number or an array if it is"):
            layer(N, **{parameter: jax.nn.initializers.ones, f"{parameter}_learnable": False})
        with pytest.raises(TypeError, match=f"`{parameter}` must be known before tracing"):
            jax.jit(lambda v, p=parameter: layer(N, **{p: v}).num_neurons)(0.5)


@FAMILIES
@pytest.mark.parametrize("name", reference.EVERY)
def test_constructors_refuse_unknown_and_positional_arguments(name, family):
    layer = getattr(family, name)
    with pytest.raises(TypeError, match="takes only `num_neurons` by position"):
        layer(N, 0.9)
    with pytest.raises(TypeError, match=f"{name} needs `num_neurons`"):
        layer()
    decay = "pos_beta" if name in reference.DUAL else "beta"
    unknown = ["tau", f"learn_{decay}", "beta" if name in reference.DUAL else "pos_beta"]
    if name not in reference.FIRING:
        unknown += ["threshold", "spike", "pos_threshold", "pos_scale"]
    else:
        unknown += ["ema"]
    if name not in reference.DUAL:
        unknown += ["zero_split"]
    if "R" not in name:
        unknown += ["gamma", "rec_weight"]
    for argument in unknown:
        with pytest.raises(TypeError, match=f"{name} has no argument `{argument}`; it takes"):
            layer(N, **{argument: 0.5})
    with pytest.raises(TypeError, match="Did you mean `dim`"):
        layer(N, dims=-1)


@FAMILIES
@EACH_LAYER
def test_constructors_refuse_other_bad_arguments(name, family):
    layer = getattr(family, name)
    for value, error in ((0, ValueError), (-2, ValueError), (2.0, TypeError), ("3", TypeError),
                         (None, TypeError), (True, (TypeError, ValueError))):  # fmt: skip
        with pytest.raises(error, match="`num_neurons` must be an integer of at least 1; got"):
            layer(value)
    for value, error in ((0, ValueError), (1, ValueError), (-1.0, TypeError), (None, TypeError)):
        with pytest.raises(error, match="`dim` must be"):
            layer(N, dim=value)
    for argument in ("dtype", "param_dtype"):
        for value in (jnp.int32, "float33", 5, jnp.complex64, jnp.float8_e4m3fn, np.longdouble):
            with pytest.raises(TypeError, match=f"`{argument}` must be a floating-point dtype"):
                layer(N, **{argument: value})
    with pytest.raises(
        TypeError, match="`param_dtype` must be a floating-point dtype, .*; got None"
    ):
        layer(N, param_dtype=None)
    if name in reference.FIRING:
        for value in (None, "atan", 2.0):
            with pytest.raises(TypeError, match="`spike` must be a function"):
                layer(N, spike=value)
    else:
        with pytest.raises(TypeError, match="`ema` must be True or False"):
            layer(N, ema="yes")
    if name in reference.DUAL:
        with pytest.raises(ValueError, match="`zero_split` must be one of 'half', 'both'"):
            layer(N, zero_split="quarter")


@pytest.mark.slow
@FAMILIES
@EACH_LAYER
def test_inputs_and_carries_that_do_not_fit(name, family):
    layer = getattr(family, name)(N)
    label = type(layer).__name__
    variables = layer.init(jax.random.key(0), None, jnp.ones((2, N)))
    carry, x = layer.initialize_carry(None, (2, N)), jnp.ones((2, N))
    state = layer.spec.states[0]

    def step(carry, x):
        return jax.eval_shape(layer.apply, variables, carry, x)

    for size in (1, N + 1, 0):
        words = (
            rf"must have num_neurons = 3 at axis -1 for {label}; got {size} in shape \(2, {size}\)"
        )
        with pytest.raises(ValueError, match=f"`x` {words}"):
            step(None, jnp.ones((2, size)))
        with pytest.raises(ValueError, match=f"`input_shape` {words}"):
            layer.initialize_carry(None, (2, size))
        seen = rf"got {size} in steps of shape \(2, {size}\)"  # wherever the time axis is
        with pytest.raises(ValueError, match=f"`xs` must have num_neurons = 3 .*{seen}"):
            snn.Unroll(layer).init(jax.random.key(0), jnp.ones((2, 4, size)))
    for lengths in (jnp.array([1, 2, 3]), jnp.array([[1], [2]]), jnp.array(2)):
        with pytest.raises(ValueError, match=r"`seq_lengths` must have one length .* shape \(2,\)"):
            snn.Unroll(layer).init(jax.random.key(0), jnp.ones((2, 4, N)), seq_lengths=lengths)
    with pytest.raises(ValueError, match="at axis -1"):
        step(None, jnp.ones((N, 2)))  # axes mixed up
    with pytest.raises(ValueError, match="must have an axis -1 in each step"):
        step(None, jnp.ones(()))
    with pytest.raises(ValueError, match=r"must have an axis -3 .* dim=-3; got shape \(2, 3\)"):
        getattr(family, name)(N, dim=-3).initialize_carry(None, (2, 3))
    with pytest.raises(TypeError, match="`x` must be real numbers; got dtype complex64"):
        step(None, jnp.ones((2, N), jnp.complex64))

    missing = {k: v for k, v in carry.items() if k != state}
    with pytest.raises(
        ValueError, match=rf"`carry` of {label} must hold exactly .* lacks \['{state}'\]"
    ):
        step(missing, x)
    with pytest.raises(ValueError, match=r"it has unknown \['ghost'\]"):
        step(carry | {"ghost": carry[state]}, x)
    for shape in ((1, N), (2, 1), (N,), (3, N), ()):
        with pytest.raises(
            ValueError, match=rf"`carry\['{state}'\]` must have the shape of one step"
        ):
            step(carry | {state: jnp.zeros(shape)}, x)
    with pytest.raises(ValueError, match=rf"`carry\['{state}'\]` must be float32.*got bfloat16"):
        step(carry | {state: jnp.zeros((2, N), jnp.bfloat16)}, x)
    with pytest.raises(TypeError, match="`x` must be an array; got dict.*cell\\(carry, x\\)"):
        step(x, carry)
    with pytest.raises(TypeError, match="`carry` must be a dict.*cell\\(carry, x\\)"):
        step(x, x)
    with pytest.raises(TypeError, match="`carry` must be a dict"):
        step(tuple(carry.values()), x)


@EACH_LAYER
def test_checkpoints_of_another_size_are_refused(name):
    variables = snn.ALL_LAYERS[name](4).init(jax.random.key(0), None, jnp.ones((2, 4)))
    import flax

    with pytest.raises(flax.errors.ScopeParamShapeError):
        snn.ALL_LAYERS[name](N).apply(variables, None, jnp.ones((2, N)))


@EACH_LAYER
def test_initializers_outside_the_domain_are_refused(name):
    for parameter, constraint in parameters(name).items():
        if constraint.name == "none":
            continue
        layer = snn.ALL_LAYERS[name](N, **{parameter: jax.nn.initializers.constant(-2.0)})
        with pytest.raises(ValueError, match=f"`{parameter}` must .*; got -2"):
            layer.init(jax.random.key(0), None, jnp.ones((1, N)))
        layer = snn.ALL_LAYERS[name](
            N, **{parameter: lambda key, shape, dtype: jnp.ones(N + 1) / 2}
        )
        with pytest.raises(
            ValueError, match=rf"`{parameter}`: its initializer must return shape \(3,\)"
        ):
            layer.init(jax.random.key(0), None, jnp.ones((1, N)))


class TestLeakyIntegrator:
    def test_options_of_the_wrong_kind(self):
        good = {"pos_beta": flex.Decay(0.9)}
        for option, value, kind in (
            ("pos_beta", 0.9, "Decay"),
            ("neg_alpha", flex.Weight(0.5), "Decay"),
            ("pos_threshold", flex.Decay(0.5), "Threshold"),
            ("pos_scale", 1.0, "Weight"),
            ("bias", flex.Threshold(1.0), "Weight"),
        ):
            with pytest.raises(TypeError, match=f"`{option}` must be a {kind}, such as"):
                flex.LeakyIntegrator(N, **(good | {option: value}))

    def test_options_that_contradict_each_other(self):
        beta = {"pos_beta": flex.Decay(0.9)}
        for options, words in (
            ({}, "`pos_beta` .* is needed"),
            (beta | {"pos_rec_weight": flex.Weight(1.0)}, "`rec_weight` needs a recurrent trace"),
            (beta | {"neg_scale": flex.Weight(1.0)}, "`scale` needs something emitted"),
            (beta | {"zero_split": "none"}, "`zero_split` must be one of"),
        ):
            with pytest.raises(ValueError, match=words):
                flex.LeakyIntegrator(N, **options)

    def test_values_are_checked_under_their_own_names(self):
        with pytest.raises(ValueError, match="`neg_beta` must lie strictly between 0 and 1; got 2"):
            flex.LeakyIntegrator(N, neg_beta=flex.Decay(2.0))
        with pytest.raises(ValueError, match="`Decay.rank` must be 0"):
            flex.Decay(0.5, rank=3)
        with pytest.raises(TypeError, match="`Threshold.spike` must be a function"):
            flex.Threshold(0.5, spike="atan")
        with pytest.raises(TypeError, match="`Threshold.passthrough` must be True or False"):
            flex.Threshold(0.5, passthrough=1)
        with pytest.raises(TypeError, match="`Decay.ema` must be True or False"):
            flex.Decay(0.5, ema=1)

    def test_stochastic_on_one_side_only(self):
        layer = flex.LeakyIntegrator(
            N,
            pos_beta=flex.Decay(0.9),
            pos_threshold=flex.Threshold(1.0, spike=spikes.bernoulli()),
            neg_threshold=flex.Threshold(1.0),
        )
        with pytest.raises(ValueError, match="both signs or for neither"):
            layer.init(jax.random.key(0), None, jnp.ones((1, N)))


class TestSequential:
    @pytest.mark.parametrize(
        ("layers", "kwargs", "error", "words"),
        [
            ([], {}, ValueError, "`layers` must hold at least one layer"),
            (snn.LI(3), {}, TypeError, "`layers` must be a list"),
            ([3], {}, TypeError, r"`layers\[0\]` must be callable; got 3"),
            ([snn.LI(3), snn.Unroll(snn.LI(3))], {}, TypeError, r"`layers\[1\]` must be a cell"),
            ([snn.LI(3)], {"feature_axes": -1}, ValueError, "`feature_axes` must be"),
        ],
        ids=str,
    )
    def test_constructor(self, layers, kwargs, error, words):
        with pytest.raises(error, match=words):
            snn.Sequential(layers, **kwargs)

    def test_carry(self):
        model = snn.Sequential([snn.LI(3), snn.LI(3)])
        carry = model.initialize_carry(None, (2, 3))
        variables = model.init(jax.random.key(0), carry, jnp.ones((2, 3)))
        with pytest.raises(ValueError, match=r"lacks \['layers_1'\]"):
            model.apply(variables, {"layers_0": carry["layers_0"]}, jnp.ones((2, 3)))
        with pytest.raises(TypeError, match="`carry` must be a dict"):
            model.apply(variables, jnp.ones((2, 3)), carry)

    def test_checkpointing_other_cells(self):
        import flax.linen as nn

        with pytest.raises(ValueError, match="`checkpoint_every` is for trace layers; GRUCell"):
            snn.Unroll(nn.GRUCell(3), checkpoint_every=2).init(
                jax.random.key(0), jnp.ones((2, 4, 3))
            )


def test_every_argument_is_documented():
    for layer in [*snn.ALL_LAYERS.values(), flex.LeakyIntegrator]:
        for argument in inspect.signature(layer).parameters:
            if argument not in ("name", "parent"):
                assert f"\n    {argument}: " in inspect.cleandoc(layer.__doc__), (layer, argument)
