"""Bad input raises before anything runs, and says which argument, which rule and what was got."""

import functools
import inspect
import pathlib
import re
import tempfile

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import (
    encode,
    export,
    functional,
    interop,
    metrics,
    nnx,
    plot,
    snn,
    spikes,
    training,
)
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
        for rank, error in ((2, ValueError), (-1, ValueError), (True, TypeError)):
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
    if name in reference.FIRING:
        with pytest.raises(TypeError, match="`ema` is an option of `flex.Decay`"):
            layer(N, ema=True)


@FAMILIES
@EACH_LAYER
def test_constructors_refuse_other_bad_arguments(name, family):
    layer = getattr(family, name)
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
        ValueError, match=rf"`carry` of {label} must hold exactly .* lacks '{state}'"
    ):
        step(missing, x)
    with pytest.raises(ValueError, match="it has unknown 'ghost'"):
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
        with pytest.raises(ValueError, match="lacks 'layers_1'"):
            model.apply(variables, {"layers_0": carry["layers_0"]}, jnp.ones((2, 3)))
        with pytest.raises(TypeError, match="`carry` must be a dict"):
            model.apply(variables, jnp.ones((2, 3)), carry)

    def test_checkpointing_other_cells(self):
        with pytest.raises(ValueError, match="`checkpoint_every` is for trace layers; GRUCell"):
            snn.Unroll(nn.GRUCell(3), checkpoint_every=2).init(
                jax.random.key(0), jnp.ones((2, 4, 3))
            )


def test_every_argument_is_documented():
    layers = [*snn.ALL_LAYERS.values(), *nnx.ALL_LAYERS.values()]
    for layer in [*layers, flex.LeakyIntegrator]:
        doc = inspect.cleandoc(layer.__doc__)
        found = set(inspect.signature(layer.__init__).parameters)
        options = {f"{name}_{option}" for name in found for option in ("rank", "learnable")} & found
        assert bool(options) == (layer in layers)
        for option in ("rank", "learnable") if options else ():
            explained = set(re.findall(rf"`(\w+_{option})`", doc))  # with a parameter of the layer
            assert len(explained) == 1 and explained <= options, (layer, option)
        for argument in found - options - {"self", "name", "parent"}:
            assert f"\n    {argument}: " in doc, (layer, argument)


def in_both(name, argument, *values, **others):
    """A case for each front end; a cell of three neurons where the class needs one."""
    for room in (snn, nnx):
        function = functools.reduce(getattr, name.split("."), room)
        cell = {
            "Unroll": {"cell": room.LI(N)},
            "Sequential": {"layers": [room.LI(N)]},
            "Residual": {"layers": [room.LI(N)]},
        }.get(name, {})
        yield functools.partial(function, **others, **cell), argument, *values


def frames(**arguments):
    times, channels = np.zeros(1), np.zeros(1, int)
    others = {"num_steps": 1, "num_channels": 1, "step": 1.0}
    return encode.frames(times, channels, **(others | arguments))


def add(params, carry, x):
    return carry + x, x


BATCH = np.zeros((2, 4, N), np.float32)
unrolled = functools.partial(functional.unroll, add, None, np.zeros(N), np.zeros((4, N)))


def counted(batch_size):
    model = snn.Unroll(snn.Sequential([nn.Dense(N), snn.LIB(N)]))
    variables = model.init(jax.random.key(0), BATCH)
    return metrics.synaptic_operations(model, variables, BATCH, batch_size=batch_size)


def saved(vjp_order):
    program = jax.export.export(jax.jit(jnp.sin))(1.0)
    with tempfile.TemporaryDirectory() as folder:
        export.save(pathlib.Path(folder) / "it", program, vjp_order=vjp_order)


def to_nir(size):
    cell = snn.LI(N)
    params = cell.init(jax.random.key(0), None, jnp.ones((1, N)))
    interop.to_nir(cell, params, input_shape=(size,))


# Each public argument that is one integer: what takes it, its name, one that is right, one that is
# not, and the name that errors have for it if that is another.
INTEGERS = [
    *in_both("LIB", "num_neurons", 1, 0),
    *in_both("LIB", "dim", -1, 0, num_neurons=N),
    *in_both("LIB", "beta_rank", 0, 2, num_neurons=N),
    *in_both("flex.LIB", "num_neurons", 1, -1),
    *in_both("flex.LeakyIntegrator", "num_neurons", 1, 0, pos_beta=flex.Decay(0.9)),
    *in_both("flex.LeakyIntegrator", "dim", -1, 0, num_neurons=N, pos_beta=flex.Decay(0.9)),
    *in_both("flex.Decay", "rank", 1, -1, "Decay.rank", value=0.9),
    *in_both("Unroll", "hold", 1, 0),
    *in_both("Unroll", "unroll", 1, 0),
    *in_both("Unroll", "checkpoint_every", 1, 0),
    *in_both("Sequential", "feature_axes", 0, -1),
    *in_both("Residual", "axis", -1, 0),
    (unrolled, "unroll", 1, 0),
    (unrolled, "checkpoint_every", 1, -1),
    (functools.partial(encode.constant, np.zeros(N)), "num_steps", 1, 0),
    (functools.partial(encode.rate, jax.random.key(0), np.zeros(N)), "num_steps", 1, -1),
    (functools.partial(encode.latency, np.zeros(N)), "num_steps", 2, 0),
    (functools.partial(encode.population, np.zeros(N), low=0, high=1), "num_neurons", 2, 1),
    (frames, "num_steps", 1, 0),
    (frames, "num_channels", 1, 0),
    (functools.partial(training.chunks, BATCH), "length", 1, 0),
    (functools.partial(training.piecewise_value_and_grad, add), "length", 1, 0),
    (counted, "batch_size", 1, 0),
    (interop.Flatten, "axes", 1, 0),
    (interop.ChannelsLast, "axes", 2, 1),
    (interop.ChannelsFirst, "axes", 2, -1),
    (interop.AvgPool, "size", 1, 0),
    (lambda size: interop.Scale((size,)), "size", 3, 0, "shape"),
    (to_nir, "size", N, 0, "input_shape"),
    (saved, "vjp_order", 0, -1),
    (interop.SumPool, "stride", 1, 0),
    (functools.partial(plot.raster, BATCH), "sequence", 1, 2),
    (functools.partial(plot.traces, {"mem": BATCH}), "neuron", -3, -4),
    (functools.partial(plot.half_lives, [0.5]), "bins", 1, 0),
]


@pytest.mark.parametrize(
    ("function", "argument", "right", "wrong", "name"),
    [(*case, case[1]) if len(case) == 4 else case for case in INTEGERS],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_integers_are_checked_alike(function, argument, right, wrong, name):
    """A wrong kind is a TypeError, a wrong value a ValueError, and NumPy's integers are right."""
    for value in (right, np.int32(right)):
        function(**{argument: value})
    kinds = [float(right), True, np.True_, str(right), [right], np.array([right])]
    for value, error in ((wrong, ValueError), *((kind, TypeError) for kind in kinds)):
        with pytest.raises(error, match=rf"`{name}` must be .*; got {re.escape(repr(value))}"):
            function(**{argument: value})
