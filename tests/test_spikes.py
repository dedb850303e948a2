"""Spike functions: what they emit, and the derivative they train with."""

import dataclasses
import enum
import functools
import gc
import pathlib
import weakref
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx as fnnx
from scipy import integrate, special

from tracetorch_jax import functional, nnx, snn, spikes
from tracetorch_jax.functional.engines import unroll as scan

# Between them every pair of features.
COVER = ("LI", "DSLI", "LIB", "DSRLIB", "RLIT", "DSLIT", "SLITS", "DRLITS")
GRID = np.concatenate([np.linspace(-3, 3, 61), [0.0, -0.0, 1e-12, -1e-12, 50.0, -50.0]])


def heaviside(u):
    return (u > 0).astype(u.dtype)


def logistic(u):
    return special.expit(u)


# name: (function, forward, derivative), written out from their documentation
FUNCTIONS = {
    "atan": (spikes.atan(1.5), heaviside, lambda u: 0.75 / (1 + (np.pi / 2 * 1.5 * u) ** 2)),
    "sigmoid": (
        spikes.sigmoid(5.0),
        heaviside,
        lambda u: 5 * logistic(5 * u) * logistic(-5 * u),
    ),
    "fast_sigmoid": (spikes.fast_sigmoid(10.0), heaviside, lambda u: (1 + 10 * abs(u)) ** -2.0),
    "triangular": (
        spikes.triangular(2.0),
        heaviside,
        lambda u: np.maximum(0, 1 - abs(u) / 2) / 2,
    ),
    "gaussian": (
        spikes.gaussian(0.7),
        heaviside,
        lambda u: np.exp(-0.5 * (u / 0.7) ** 2) / (0.7 * np.sqrt(2 * np.pi)),
    ),
    "straight_through": (spikes.straight_through(2.0), heaviside, lambda u: (abs(u) <= 1) / 2),
    "smooth": (
        spikes.smooth(3.0),
        lambda u: logistic(3 * u),
        lambda u: 3 * logistic(3 * u) * logistic(-3 * u),
    ),
}
SINGLE = pytest.mark.parametrize("name", FUNCTIONS)


@SINGLE
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_forward_and_derivative_follow_their_formulas(name, dtype, x64):
    function, forward, derivative = FUNCTIONS[name]
    u = jnp.asarray(GRID, dtype)
    exact = np.asarray(u, np.float64)
    tolerance = {"float64": 1e-14, "float32": 1e-6, "bfloat16": 3e-2}[dtype]
    out, pullback = jax.vjp(function, u)
    assert out.dtype == function.derivative(u).dtype == u.dtype
    np.testing.assert_allclose(np.asarray(out, np.float64), forward(exact), atol=tolerance)
    np.testing.assert_array_equal(out, function.forward(u))
    cotangent = jnp.linspace(-1, 1, u.size).astype(dtype)
    (gradient,) = pullback(cotangent)
    np.testing.assert_array_equal(gradient, cotangent * function.derivative(u))
    np.testing.assert_allclose(
        np.asarray(function.derivative(u), np.float64),
        derivative(exact),
        atol=tolerance,
        rtol=tolerance,
    )


class plain(spikes.SpikeFunction):
    """As a user writes one."""

    def derivative(self, u):
        return 1 / (1 + u**2)


class TestNotANumber:
    """A spike of NaN is NaN, so that a loss shows what went wrong."""

    FUNCTIONS = (*(f for f, _, _ in FUNCTIONS.values()), plain())

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_of_every_function(self, dtype):
        u = jnp.asarray([jnp.nan, 1.0, -jnp.nan, -1.0], dtype)
        for function in self.FUNCTIONS:
            out, pullback = jax.vjp(function, u)
            for got in (out, *pullback(jnp.ones_like(u)), function.derivative(u)):
                assert got.dtype == u.dtype
                np.testing.assert_array_equal(np.isnan(got), np.isnan(u), str(function))

    @pytest.mark.slow
    def test_of_random_spikes(self):
        u, draws = jnp.array([jnp.nan, -50.0, 50.0]), jnp.array([0.5, 0.5, 0.5])
        for function in self.FUNCTIONS[:-1]:
            for draw in (draws, 1 - draws, jnp.zeros(3), draws.astype(jnp.bfloat16)):
                out = spikes.bernoulli(function)(u, draw)
                assert np.isnan(out[0]) and not np.isnan(out[1:]).any()
        assert np.isnan(spikes.bernoulli()(1.0, jnp.nan))
        assert np.isnan(spikes.bernoulli().forward(1.0, np.nan))
        derivative = jax.grad(lambda u: spikes.bernoulli()(u, jnp.array(0.5)))(jnp.nan)
        assert np.isnan(derivative)

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_all_other_numbers_keep_their_spikes_to_the_bit(self, dtype):
        edges = [0.0, -0.0, jnp.inf, -jnp.inf, jnp.finfo(dtype).tiny, jnp.finfo(dtype).max]
        u = jnp.asarray([*GRID, *edges, *(-e for e in edges)], dtype)
        for function in (plain(), spikes.atan()):
            got, want = np.asarray(function(u)), np.asarray(heaviside(u))
            assert got.tobytes() == want.tobytes()
        box, width = spikes.straight_through(0.3), jnp.asarray(0.3 / 2, dtype)
        got, want = box.derivative(u), (jnp.abs(u) <= width).astype(dtype) / 0.3
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()
        draw, chance = jnp.full(u.shape, 0.5), spikes.bernoulli().probability(u)
        got, want = spikes.bernoulli()(u, draw), (draw < chance).astype(dtype)
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()

    @pytest.mark.parametrize(
        ("name", "engine"),
        [(name, "scan") for name in COVER]
        + [(name, way) for name in ("LIB", "DRLITS") for way in ("cell", "nnx", "fused")]
        + [(name, "parallel") for name in ("LI", "SLITS")],
    )
    def test_one_sample_shows_in_every_engine(self, name, engine):
        """In its neuron from its step on, and nowhere else."""
        layer, variables = reference.scrambled(name)
        xs = reference.inputs(6, 2, 3) * 2
        dirty = xs.at[3, 1, 2].set(jnp.nan)
        if engine == "cell":
            zeros = layer.initialize_carry(None, (2, 3))
            run = functools.partial(jax.lax.scan, functools.partial(layer.apply, variables), zeros)
        elif engine == "nnx":
            run = nnx.Unroll(getattr(nnx, name)(3), time_major=True, return_carry=True)
        else:
            model = snn.Unroll(layer, time_major=True, return_carry=True, engine=engine)
            run = functools.partial(model.apply, reference.under(variables))
        (carry, out), (clean_carry, clean) = run(dirty), run(xs)
        hit = np.zeros(xs.shape, bool)
        hit[3:, 1, 2] = True
        np.testing.assert_array_equal(np.isnan(out), hit)
        np.testing.assert_array_equal(np.where(hit, 0, out), np.where(hit, 0, clean))
        for state, clean_state in zip(*map(jax.tree.leaves, (carry, clean_carry)), strict=True):
            np.testing.assert_array_equal(np.isnan(state), hit[-1])
            np.testing.assert_array_equal(
                np.where(hit[-1], 0, state), np.where(hit[-1], 0, clean_state)
            )

    def test_either_split_keeps_it(self):
        for zero_split in ("half", "both"):
            parts = functional.split(jnp.array([jnp.nan, 1.0]), zero_split)
            assert all(np.isnan(part).tolist() == [True, False] for part in parts)
        layer = snn.DSRLITS(3, zero_split="both")
        variables = layer.init(jax.random.key(0), None, jnp.ones((1, 3)))
        _, out = layer.apply(variables, None, jnp.array([[jnp.nan, 1.0, -1.0]]))
        assert np.isnan(out).tolist() == [[True, False, False]]

    @pytest.mark.parametrize("name", ["LIB", "LIT", "DSRLITS"])
    def test_a_parameter_shows_in_the_loss(self, name):
        layer, variables = reference.scrambled(name)
        params = variables["params"]
        for path in params:
            bad = {"params": params | {path: params[path].at[..., 0].set(jnp.nan)}}
            xs = 5 * reference.inputs(2, 4, 3)  # all neurons fire with both signs
            out = snn.Unroll(layer).apply(reference.under(bad), xs)
            assert np.isnan(jnp.square(out).mean()), path


@pytest.mark.parametrize("name", ["LIB", "DSRLIT", "SLITS"])
def test_a_threshold_of_nan_shows_in_its_first_step(name):
    """Though nothing fires yet, and whichever side it belongs to."""
    layer, variables = reference.scrambled(name)
    for threshold in filter(None, layer.spec.thresholds):
        params = layer.apply(variables, method=layer.parameters)
        params = params | {threshold: jnp.asarray(params[threshold]).at[..., 0].set(jnp.nan)}
        state = {each: jnp.zeros(3) for each in layer.spec.states}
        _, out = functional.step(layer.spec, params, state, jnp.zeros(3))
        assert np.isnan(out).tolist() == [True, False, False], threshold


def test_no_spike_at_the_threshold_itself():
    for function, forward, _ in FUNCTIONS.values():
        if forward is heaviside:
            assert function(jnp.zeros(())) == 0


@pytest.mark.parametrize("kind", ["atan", "sigmoid"])
def test_surrogates_match_tracetorch(kind, x64):
    z = np.load(reference.DATA / "functional.npz")
    settings = [k.split("/")[1] for k in z.files if k.startswith(kind) and k.endswith("/forward")]
    assert len(settings) >= 3
    for setting in settings:
        function = getattr(spikes, kind)(float(setting))
        u = jnp.asarray(z["u"])
        np.testing.assert_array_equal(function(u), z[f"{kind}/{setting}/forward"])
        derivative = z[f"{kind}/{setting}/derivative"]
        np.testing.assert_allclose(function.derivative(u), derivative, atol=1e-14, rtol=1e-10)


@SINGLE
def test_probability_is_the_scaled_integral_of_the_derivative(name, x64):
    function = FUNCTIONS[name][0]
    total = integrate.quad(lambda u: float(function.derivative(u)), -np.inf, np.inf, points=None)[0]
    for u in (-0.8, 0.0, 0.3, 1.7):
        below = 0.5 * total + integrate.quad(lambda v: float(function.derivative(v)), 0, u)[0]
        assert float(function.probability(u)) == pytest.approx(below / total, abs=1e-5)
    assert 0 <= float(function.probability(-50.0)) < 0.01
    assert 0.99 < float(function.probability(50.0)) <= 1
    for u in (jnp.inf, jnp.finfo(jnp.float32).max):
        ends = function.probability(jnp.array([-u, u, jnp.nan], jnp.float32))
        np.testing.assert_allclose(ends, [0, 1, jnp.nan], atol=1e-7)


@SINGLE
def test_equal_by_value_and_shared_by_jit(name):
    function = FUNCTIONS[name][0]
    twin = type(function)(*dataclasses.astuple(function))
    other = type(function)(dataclasses.astuple(function)[0] * 2)
    assert function == twin and hash(function) == hash(twin) and function != other
    traced = []
    run = jax.jit(lambda f, u: (traced.append(f), f(u))[1], static_argnums=0)
    run(function, jnp.ones(3)), run(twin, jnp.ones(3))
    assert len(traced) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(function, dataclasses.fields(function)[0].name, 3.0)


@SINGLE
@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "2", True, None, [2.0]])
def test_bad_steepness_is_refused(name, bad):
    function = FUNCTIONS[name][0]
    field = dataclasses.fields(function)[0].name
    with pytest.raises((ValueError, TypeError), match=f"`{field}`"):
        type(function)(bad)


@SINGLE
def test_integers_are_refused(name):
    with pytest.raises(TypeError, match="`u` must be a real floating-point array; got dtype int32"):
        FUNCTIONS[name][0](jnp.arange(3))


def test_higher_derivatives_and_vmap():
    function = spikes.smooth(2.0)
    second = jax.grad(jax.grad(function))(0.4)
    s = logistic(0.8)
    assert float(second) == pytest.approx(4 * s * (1 - s) * (1 - 2 * s), rel=1e-4)
    u = reference.inputs(4, 3)
    np.testing.assert_array_equal(jax.vmap(function)(u), function(u))


@pytest.mark.slow
def test_a_users_custom_vjp_function_takes_their_place():
    @jax.custom_vjp
    def mine(u):
        return (u > 0).astype(u.dtype)

    mine.defvjp(lambda u: (mine(u), u), lambda u, g: (g * 0.25,))

    @dataclasses.dataclass(frozen=True)
    class quarter(spikes.SpikeFunction):
        def derivative(self, u):
            return jnp.full_like(u, 0.25)

    xs = reference.inputs(2, 6, 3)
    results = []
    for spike in (mine, quarter()):
        layer, variables = reference.scrambled("SRLITS", spike=spike)
        model = snn.Unroll(layer)
        results.append(
            reference.value_and_grads(
                lambda v, x, m=model: m.apply(reference.under(v), x), variables, xs
            )
        )
    reference.assert_trees_close(*results, 0)


def test_spikes_of_another_shape_are_refused():
    layer, variables = reference.scrambled("LIB", spike=lambda u: u.sum())
    with pytest.raises(ValueError, match="`spike` must return an array of the shape"):
        layer.apply(variables, None, jnp.ones((2, 3)))


@pytest.mark.parametrize(
    "wrong", [lambda u: [[0.0] * 3] * 2, lambda u: None, lambda u: jax.lax.complex(u, u)]
)
def test_spikes_that_are_no_real_numbers_are_refused(wrong):
    layer, variables = reference.scrambled("LIB", spike=wrong)
    with pytest.raises(TypeError, match="`spike` must return an array of real numbers; got"):
        layer.apply(variables, None, jnp.ones((2, 3)))


def test_slopes_of_any_size_are_answered():
    with pytest.raises(ValueError, match="`alpha` must be greater than 0 and finite; got inf"):
        spikes.atan(10**400)
    with pytest.raises(ValueError, match="`beta` must be finite; got -inf"):
        snn.LI(3, beta=-(10**400))


def test_probabilities_far_from_the_threshold_and_of_few_bits():
    steep = spikes.fast_sigmoid(1e30)
    assert steep.probability(jnp.array([-1e30, 1e30])).tolist() == [0, 1]
    random = spikes.bernoulli(spikes.straight_through(1.0))
    u, draw = jnp.array([-1.0, 1.0]), jnp.zeros(2)
    assert random(u, draw).tolist() == [0, 1]  # a draw of 0 is no spike by itself
    for dtype in (jnp.bfloat16, jnp.float16):
        assert random.probability(u.astype(dtype)).dtype == jnp.float32


class Changes:
    """A spike function as it is written without a thought of compiled programs."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, u):
        return spikes.atan(self.slope)(u)


class ChangesToo(spikes.SpikeFunction):
    """Not declared a dataclass: its slope is no part of its equality."""

    def __init__(self, slope):
        self.slope = slope

    def derivative(self, u):
        return jnp.full_like(u, self.slope)


class Slotted:
    __slots__ = ("slope",)
    __init__, __call__ = Changes.__init__, Changes.__call__


@dataclasses.dataclass
class Unhashable:
    slope: float = 1.0
    __call__ = Changes.__call__


class ByValue(Changes):
    def __eq__(self, other):
        return isinstance(other, ByValue) and self.slope == other.slope

    def __hash__(self):
        return hash(self.slope)


class Stateless:
    __slots__ = ()

    def __call__(self, u):
        return spikes.atan()(u)

    @staticmethod
    def static(u):
        return spikes.atan()(u)

    @classmethod
    def of_class(cls, u):
        return spikes.atan()(u)


class Anything(Changes):
    """Such as a mock: it has every attribute that it is asked for."""

    def __getattr__(self, name):
        return self


@dataclasses.dataclass(frozen=True)
class Holds:
    part: Any
    __call__ = Stateless.__call__


@dataclasses.dataclass(frozen=True)
class Hides:
    slope: float = dataclasses.field(default=1.0, compare=False)
    __call__ = Changes.__call__


@dataclasses.dataclass(unsafe_hash=True)
class Grows:
    slope: float = 1.0
    __call__ = Changes.__call__

    def __post_init__(self):
        self.offset = 0.0


class Named(NamedTuple):
    part: Any
    other: Any = None
    __call__ = Stateless.__call__


class Number(float):
    __call__ = Stateless.__call__


@flax.struct.dataclass
class Struct:
    slope: float = 1.0
    __call__ = Changes.__call__


class Mode(enum.Enum):
    HARD = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    values: Any
    __call__ = Stateless.__call__

    def __eq__(self, other):
        return isinstance(other, Table) and np.array_equal(self.values, other.values)

    def __hash__(self):
        return hash(self.values.tobytes())


def number():
    grown = Number(1.0)
    grown.slope = 2.0
    return grown


class TestFixed:
    """A compiled program keeps the spike function that it was compiled with."""

    @pytest.mark.parametrize(
        "spike",
        [Changes(1.0), ChangesToo(1.0), Slotted(1.0), Unhashable(), Changes(1.0).__call__,
         functools.partial(Changes(1.0)), functools.partial(lambda f, u: f(u), Changes(1.0)),
         functools.update_wrapper(Changes(1.0), jnp.sign), Anything(1.0), jax.jit(Changes(1.0)),
         *(functools.partial(jnp.add, part) for part in ([1], {}, np.ones(()), ([],))),
         functools.partial(lambda u, f: f(u), f=Changes(1.0)),
         *(Holds(part) for part in ([1], np.ones(2), (1, []), Changes(1.0), jnp.ones(2), Hides())),
         Holds(Named([])), Named([1]), Named(Changes(1.0)), Hides(), Grows(), number()],
        ids=lambda spike: type(spike).__name__,
    )  # fmt: skip
    def test_what_may_change_unseen_is_refused(self, spike):
        step = functools.partial(functional.LayerStep, functional.Spec(positive="spike"))
        for make in (
            lambda: snn.LIB(3, spike=spike),
            lambda: nnx.LIB(3, spike=spike),
            lambda: snn.flex.Threshold(1.0, spike=spike),
            lambda: step(spike),
            lambda: step((spikes.atan(), spike)),
        ):
            with pytest.raises(TypeError, match=r"spike` must be a function, or an object .*Got"):
                make()
        with pytest.raises(TypeError, match="`step` must be a function, or an object"):
            functional.unroll(spike, None, jnp.zeros(1), jnp.ones((2, 1)))

    def test_a_surrogate_that_may_change_is_refused(self):
        class mine(ChangesToo):
            def probability(self, u):
                return u

        with pytest.raises(TypeError, match=r"`surrogate` must be a function, or an object"):
            spikes.bernoulli(mine(2.0))

    @pytest.mark.parametrize(
        "spike",
        [ByValue(1.0), Stateless(), spikes.atan(1.0), plain(), jnp.sign, jax.nn.relu,
         jax.jit(lambda u: u), jax.checkpoint(lambda u: u), functools.partial(jnp.clip, max=1.0),
         spikes.atan().__call__, Stateless().__call__, Stateless.static, Stateless().of_class,
         functools.partial(jnp.clip, max=jnp.array(1.0)), Named(1.0),
         jax.tree_util.Partial(jnp.clip, max=1.0)],
        ids=lambda spike: type(spike).__name__,
    )  # fmt: skip
    def test_functions_and_values_are_taken(self, spike):
        layer, variables = reference.scrambled("LIB", spike=spike)
        snn.Unroll(layer).apply(reference.under(variables), jnp.ones((1, 2, 3)))

    @pytest.mark.parametrize(
        "spike",
        [jax.vmap(jnp.abs), jax.custom_jvp(jnp.abs), jax.custom_vjp(jnp.abs), Struct(), Number(1.0),
         Table(np.ones(2)), functools.update_wrapper(functools.partial(jnp.clip, max=1), jnp.clip),
         Holds(1.0).__call__, Named(spikes.atan()), snn.LIB(3).apply, functools.lru_cache(jnp.abs),
         *(Holds(part) for part in (1.0, "a", None, (1, "a"), Mode.HARD, jnp, jnp.sign, jnp.float32,
            np.float32(1), np.dtype("int8"), spikes.atan(), pathlib.Path("a"), frozenset({1})))],
        ids=lambda spike: type(spike).__name__,
    )  # fmt: skip
    def test_what_is_made_of_values_is_taken(self, spike):
        functional.LayerStep(functional.Spec(positive="spike"), spike)

    def test_programs_of_new_functions_are_let_go(self):
        """Only the last are kept, and none more than once."""
        kept = scan._program.cache_info().maxsize
        references = []
        for _ in range(3):

            def step(params, state, x):
                return state, x

            functional.unroll(step, None, jnp.zeros(1), jnp.ones((2, 1)))
            references.append(weakref.ref(step))
        for i in range(kept):  # programs that are never run cost nothing
            scan._program(scan._scan_any, i, 1, None, False)
        del step
        gc.collect()
        assert [found() for found in references] == [None] * 3


class TestBernoulli:
    def layer(self, name="LIT", n=3, **kwargs):
        return reference.scrambled(name, n, spike=spikes.bernoulli(spikes.sigmoid(4.0)), **kwargs)

    def test_rate_is_the_probability(self):
        function = spikes.bernoulli(spikes.atan(2.0))
        draws = jax.random.uniform(jax.random.key(0), (20_000,))
        for u in (-1.0, 0.0, 0.4):
            rate = float(function(jnp.full(draws.shape, u), draws).mean())
            assert rate == pytest.approx(float(function.probability(u)), abs=0.02)

    def test_gradient_is_that_of_the_expected_spike(self):
        function = spikes.bernoulli(spikes.gaussian(0.5))
        u = jnp.linspace(-1, 1, 9)
        gradient = jax.grad(lambda u: function(u, jnp.full(9, 0.5)).sum())(u)
        expected = jax.grad(lambda u: function.probability(u).sum())(u)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["Unroll", "RNN"])
    def test_draws_differ_by_step_and_sequence_and_repeat_with_the_seed(self, engine):
        import flax.linen as nn

        layer, variables = self.layer("LIB", 64)
        model = (
            snn.Unroll(layer)
            if engine == "Unroll"
            else nn.RNN(layer, split_rngs={"params": False, "spike": True})
        )

        def run(seed):
            rngs = {"spike": jax.random.key(seed)}
            return model.apply(reference.under(variables), jnp.full((2, 5, 64), 0.1), rngs=rngs)

        ys = np.asarray(run(0))
        flat = ys.reshape(-1, 64)
        assert len(np.unique(flat, axis=0)) == len(flat)
        np.testing.assert_array_equal(ys, run(0))
        assert not np.array_equal(ys, run(1))

    def test_draws_alone_make_steps_differ(self):
        """A neuron that keeps nothing, with the same input at every step."""
        layer = snn.LIB(64, beta=1e-6, spike=spikes.bernoulli(spikes.sigmoid(4.0)))
        xs = jnp.ones((2, 5, 64))
        keys = {"params": jax.random.key(0), "spike": jax.random.key(1)}
        ys, _ = snn.Unroll(layer).init_with_output(keys, xs)
        assert len(np.unique(np.asarray(ys).reshape(-1, 64), axis=0)) == 10

    def test_no_stream_is_an_error(self):
        layer, variables = self.layer()
        with pytest.raises(flax.errors.InvalidRngError, match="spike") as raised:
            layer.apply(variables, None, jnp.ones((2, 3)))
        assert 'rngs={"spike": key}' in raised.value.__notes__[0]
        with pytest.raises(ValueError, match=r"`rngs` .*nnx.Rngs\(spike=0\); got only .*'params'"):
            nnx.LIT(3, spike=layer.spike, rngs=fnnx.Rngs(params=0))
        with pytest.raises(ValueError, match=r"`rngs` .*nnx.Rngs\(params=0\); got only .*'spike'"):
            nnx.LIB(3, threshold=jax.nn.initializers.ones, rngs=fnnx.Rngs(spike=0))
        nnx.LIT(3, spike=layer.spike, rngs=fnnx.Rngs(spike=0))

    @pytest.mark.parametrize("surrogate", [f for n, (f, _, _) in FUNCTIONS.items()])
    @pytest.mark.parametrize("threshold", [1e-3, 0.2])
    def test_one_draw_keeps_the_signs_apart(self, surrogate, threshold):
        function = spikes.bernoulli(surrogate)
        m = jnp.linspace(-1, 1, 101)[:, None] * jnp.ones((1, 2000))
        draw = jax.random.uniform(jax.random.key(1), m.shape)
        p, q = function(m - threshold, draw), function(-m - threshold, 1 - draw)
        assert p.sum() > 0 and q.sum() > 0
        assert float((p * q).sum()) == 0

    def test_one_draw_decides_both_signs_of_a_layer(self):
        layer = snn.LITS(
            4000, spike=spikes.bernoulli(spikes.sigmoid(4.0)), pos_threshold=0.2, neg_threshold=0.2,
            neg_scale=3.0,
        )  # fmt: skip
        keys = {"params": jax.random.key(0), "spike": jax.random.key(1)}
        (_, ys), _ = layer.init_with_output(keys, None, jnp.zeros((1, 4000)))
        assert set(np.unique(ys)) == {-3.0, 0.0, 1.0}  # never both
        for emitted in (-3, 1):
            assert float((ys == emitted).mean()) == pytest.approx(1 / (1 + np.exp(0.8)), abs=0.03)

    def test_needs_a_surrogate_with_a_probability(self):
        class plain(spikes.SpikeFunction):
            def derivative(self, u):
                return u

        for bad in (plain(), "atan", lambda u: u, spikes.bernoulli()):
            with pytest.raises(TypeError, match="`surrogate` must be a SpikeFunction"):
                spikes.bernoulli(bad)

    def test_draw_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match="`draw` must have the shape"):
            spikes.bernoulli()(jnp.ones(3), jnp.ones(1))

    def test_equal_by_value(self):
        assert spikes.bernoulli(spikes.atan(2)) == spikes.bernoulli(spikes.atan(2.0))
        assert hash(spikes.bernoulli()) == hash(spikes.bernoulli(spikes.atan(2.0)))

    @pytest.mark.slow
    def test_trains(self):
        for name in ("LIB", "SRLIT", "DSRLITS"):
            layer, variables = self.layer(name)
            model = snn.Unroll(layer)
            rngs = {"spike": jax.random.key(0)}
            run = functools.partial(model.apply, rngs=rngs)
            gradients = jax.grad(lambda v, run=run: run(v, reference.inputs(2, 4, 3)).sum())(
                reference.under(variables)
            )
            assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients)), name
            assert any((g != 0).any() for g in jax.tree.leaves(gradients)), name
