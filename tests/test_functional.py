"""Constraints, time scales, splits, and `unroll` of any step."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from tracetorch_jax import functional, initializers, snn, spikes
from tracetorch_jax import nnx as tt_nnx
from tracetorch_jax.snn import flex

PAIRS = {
    "halflife": (functional.halflife_to_decay, functional.decay_to_halflife),
    "time_constant": (functional.time_constant_to_decay, functional.decay_to_time_constant),
    "timesteps": (functional.timesteps_to_decay, functional.decay_to_timesteps),
}


class TestConstraints:
    def test_inverses_match_tracetorch(self, x64):
        z = np.load(reference.DATA / "functional.npz")
        for name, constraint in {
            "decay": functional.DECAY,
            "threshold": functional.THRESHOLD,
        }.items():
            value, raw = z[name], z[f"{name}_raw"]
            np.testing.assert_allclose(constraint.invert(value), raw, rtol=1e-9)
            np.testing.assert_allclose(constraint.raw(value), raw, rtol=1e-9)
            np.testing.assert_allclose(constraint.constrain(raw), value, rtol=1e-8)

    @pytest.mark.parametrize("value", [1e-6, 1e-3, 0.5, 1.0, 20.0, 88.0, 89.0, 100.0, 1e4])
    def test_thresholds_survive_float32(self, value):
        raw = functional.softplus_inverse(jnp.float32(value))
        assert float(jax.nn.softplus(raw)) == pytest.approx(value, rel=1e-5)
        layer = snn.LIB(1, threshold=value)
        variables = layer.init(jax.random.key(0), None, jnp.zeros((1, 1)))
        got = layer.apply(variables, method="parameters")["threshold"]
        assert float(got[0]) == pytest.approx(value, rel=1e-6)

    @pytest.mark.parametrize("value", [1e-6, 1e-3, 0.5, 0.999, 0.99999])
    def test_decays_survive_float32(self, value):
        raw = functional.sigmoid_inverse(jnp.float32(value))
        assert float(jax.nn.sigmoid(raw)) == pytest.approx(value, rel=1e-6)
        lost = 1 - float(np.float32(value))  # which is what half-lives depend on
        assert float(jax.nn.sigmoid(-raw)) == pytest.approx(lost, rel=1e-5)

    def test_thresholds_of_any_size_in_numpy(self):
        assert functional.THRESHOLD.value(np.array([-1e3, 1e3])).tolist() == [0, 1e3]

    @pytest.mark.parametrize("function", [functional.sigmoid_inverse, functional.softplus_inverse])
    def test_outside_the_domain(self, function):
        for bad in (0.0, -1.0, [0.5, -2.0], float("nan")):
            with pytest.raises(ValueError, match="`value` must"):
                function(bad)
        with pytest.raises(TypeError, match="must be real"):
            function(1j)
        assert np.isnan(jax.jit(function)(-1.0))

    def test_a_value_that_its_type_cannot_hold_is_refused(self):
        with pytest.raises(ValueError, match="`beta` must .* float32; got 0.999999999"):
            snn.LI(2, beta=1 - 1e-9)
        with pytest.raises(ValueError, match="bfloat16"):
            snn.LI(2, beta=0.9999, param_dtype=jnp.bfloat16)
        snn.LI(2, beta=0.9999)

    @pytest.mark.parametrize("argument", ["dtype", "param_dtype"])
    @pytest.mark.parametrize("learnable", [True, False])
    def test_neither_type_may_round_a_value_to_the_end(self, argument, learnable):
        rule = "lie strictly between 0 and 1" if learnable else "lie between 0 and 1"
        half = {argument: jnp.bfloat16}
        for value in (0.9999, np.array([0.5, 0.9999, 0.5])):
            message = f"`beta` must {rule}, also as bfloat16; got 0.9999.*wider `{argument}`"
            for family in (snn, tt_nnx):
                keys = {} if family is snn else {"rngs": nnx.Rngs(0)}
                with pytest.raises(ValueError, match=message):
                    family.LI(3, beta=value, beta_learnable=learnable, **half, **keys)
            with pytest.raises(ValueError, match=message.replace("beta", "pos_beta")):
                decay = flex.Decay(value, learnable=learnable)
                flex.LeakyIntegrator(3, pos_beta=decay, **half)
        for value in (1e-9, 70000.0):
            with pytest.raises(ValueError, match=f"also as float16.*wider `{argument}`"):
                snn.LIB(3, threshold=value, threshold_learnable=learnable,
                        **{argument: jnp.float16})  # fmt: skip
        if not learnable:
            for end in (0, 1):
                snn.LI(3, beta=end, beta_learnable=False, **half)
        snn.LI(3, beta=0.996, beta_learnable=learnable, **half)


class TestInitialValues:
    """What an initializer returns is kept to what can be stored."""

    VALUES = (0.5, -np.inf, -1.0, 0.0, 1e-45, 1e-7, 0.999999999, 1.0, 2.0, np.inf, np.nan)
    DTYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])

    @pytest.mark.slow
    @DTYPES
    def test_out_of_range_under_jit(self, dtype, x64):
        values = jnp.asarray(self.VALUES, dtype)
        count = len(values)

        def traced(key, shape, dtype):
            return values + 0 * jax.random.uniform(key, shape, dtype)

        options = dict.fromkeys(snn.LITS(1).spec.parameters, traced)
        options["param_dtype"] = dtype
        layer, x = snn.LITS(count, **options), jnp.zeros((1, count), dtype)
        key = jax.random.key(0)
        variables = jax.jit(layer.init)(key, None, x)
        for other in (
            jax.jit(flex.LITS(count, **options).init)(key, None, x)["params"],
            jax.jit(lambda: nnx.state(tt_nnx.LITS(count, **options, rngs=nnx.Rngs(0))))(),
        ):
            for name, raw in variables["params"].items():
                got, want = (np.asarray(a, float) for a in (other[name][...], raw))
                np.testing.assert_array_equal(got, want)
        constrained = layer.apply(variables, method="parameters")
        for p in layer.describe():
            raw = np.asarray(variables["params"][p.raw_name], np.float64)
            got = np.asarray(constrained[p.name], np.float64)
            low, high = {"sigmoid": (0, 1), "softplus": (0, np.inf)}.get(
                p.constraint.name, (-np.inf, np.inf)
            )
            assert np.isfinite(raw[:-1]).all() and np.isnan(raw[-1]), p.name
            assert ((low < got) & (got < high))[:-1].all(), p.name
            assert raw[0] == float(p.constraint.invert(values[:1])[0]), p.name
            assert (np.diff(raw[1:-1]) >= 0).all(), p.name

    @pytest.mark.slow
    @DTYPES
    def test_legal_values_whose_raw_ones_are_infinite(self, dtype, x64):
        """Eagerly as under `jit`, also where the type itself rounds them to the end."""
        values = np.array([1e-310, 1e-50, 0.5, 1 - 2.0**-53, 1 - 2.0**-20])
        layer = snn.LIT(5, beta=lambda *_: values, neg_threshold=lambda *_: values * 1e300,
                        param_dtype=dtype)  # fmt: skip
        arguments = jax.random.key(0), None, jnp.zeros((1, 5), dtype)
        eager, jitted = layer.init(*arguments), jax.jit(layer.init)(*arguments)
        jax.tree.map(np.testing.assert_array_equal, eager, jitted)
        assert all(np.isfinite(np.asarray(p, float)).all() for p in jax.tree.leaves(eager))
        decays = layer.apply(eager, method="parameters")["beta"]
        assert ((decays > 0) & (decays < 1)).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("param_dtype", ["float16", "bfloat16", "float32"])
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_what_is_computed_with_is_off_the_ends(self, dtype, param_dtype):
        values = np.array([1e-30, 1e-6, 0.5, 0.9999, 1 - 1e-7])
        big = values * 1e38
        options = {"beta": values, "pos_threshold": values, "neg_threshold": big, "pos_scale": -big,
                   "neg_scale": big}  # fmt: skip
        options = {name: lambda *_, v=v: v for name, v in options.items()}
        layer = snn.LITS(5, **options, dtype=dtype, param_dtype=param_dtype)
        x = jnp.ones((1, 5), param_dtype)
        for init in (layer.init, jax.jit(layer.init)):
            variables = init(jax.random.key(0), None, x)
            for name, value in layer.apply(variables, method="parameters").items():
                value = value.astype(dtype).astype(float)
                low = -np.inf if "scale" in name else 0
                high = 1 if name == "beta" else np.inf
                assert ((low < value) & (value < high)).all(), name

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_slow_averages_in_narrow_types_move(self, dtype):
        model = snn.Unroll(snn.LI(3, beta=initializers.half_lives(5000.0, 20000.0), dtype=dtype))
        ys = model.init_with_output(jax.random.key(0), jnp.ones((1, 20, 3)))[0]
        assert (ys[0, -1] > 0).all()

    def test_a_normal_draw_under_jit(self):
        layer = snn.LIB(3, beta=nn.initializers.normal(1.0))
        arguments = jax.random.key(5), None, jnp.ones((1, 3))
        assert np.isfinite(jax.jit(layer.init)(*arguments)["params"]["raw_beta"]).all()
        with pytest.raises(ValueError, match="`beta` must lie strictly between 0 and 1; got "):
            layer.init(*arguments)


class TestTimeScales:
    @pytest.mark.parametrize("name", ["halflife", "timesteps"])
    def test_match_tracetorch(self, name, x64):
        z = np.load(reference.DATA / "functional.npz")
        there, back = PAIRS[name]
        np.testing.assert_allclose(there(z[name]), z[f"{name}_to_decay"], rtol=1e-12)
        np.testing.assert_allclose(back(z[f"{name}_to_decay"]), z[name], rtol=1e-9)

    @pytest.mark.parametrize("name", PAIRS)
    def test_round_trip_of_floats_and_arrays(self, name, x64):
        there, back = PAIRS[name]
        for value in (2, 3.5, np.array([1.5, 10.0, 1000.0]), jnp.ones((2, 2)) * 7):
            np.testing.assert_allclose(back(there(value)), value, rtol=1e-9)

    def test_mean_what_they_say(self, x64):
        assert functional.halflife_to_decay(7.0) ** 7 == pytest.approx(0.5)
        assert functional.time_constant_to_decay(7.0) ** 7 == pytest.approx(np.exp(-1))
        assert functional.timesteps_to_decay(10.0) == pytest.approx(0.9)

    @pytest.mark.parametrize("name", PAIRS)
    def test_out_of_range(self, name):
        there, back = PAIRS[name]
        for bad in (0.0, -3.0, [4.0, float("nan")]):
            with pytest.raises(ValueError, match=f"`{name}` must"):
                there(bad)
        for bad in (0.0, 1.0, 1.5):
            with pytest.raises(ValueError, match="`decay` must lie strictly"):
                back(bad)


class TestSplit:
    @pytest.mark.parametrize("rule", ["half", "both"])
    def test_parts_sum_to_the_signal(self, rule):
        x = reference.inputs(50)
        pos, neg = functional.split(x, rule)
        np.testing.assert_array_equal(pos, np.maximum(x, 0))
        np.testing.assert_array_equal(neg, np.minimum(x, 0))

    @pytest.mark.parametrize(("rule", "at_zero"), [("half", 0.5), ("both", 1.0)])
    def test_gradient_at_zero_is_the_rules(self, rule, at_zero):
        for part, slopes in ((0, (0, at_zero, 1)), (1, (1, at_zero, 0))):
            for x, slope in zip((-2.0, 0.0, 3.0), slopes, strict=True):
                assert jax.grad(lambda v, p=part: functional.split(v, rule)[p])(x) == slope

    def test_extremes_stay_exact(self):
        for x in (3e38, -3e38, 1e-30):
            pos, neg = functional.split(jnp.float32(x))
            assert float(pos + neg) == np.float32(x)

    def test_unknown_rule(self):
        with pytest.raises(ValueError, match='`zero_split` must be "half" or "both"; got \'all\''):
            functional.split(1.0, "all")


class TestSpec:
    @pytest.mark.parametrize("name", reference.TRACETORCH)
    def test_names_follow_the_reference(self, name):
        spec = snn.ALL_LAYERS[name](1).spec
        import json

        meta = json.loads(str(np.load(reference.DATA / f"{name}.npz")["meta"]))
        assert list(spec.parameters) == meta["param_names"]
        assert set(spec.states) == set(meta["state_names"])
        assert {k: c.name for k, c in spec.parameters.items()} == meta["constraints"]
        assert hash(spec) == hash(snn.ALL_LAYERS[name](5, dim=-2).spec)

    def test_inconsistent_specs_are_refused(self):
        for kwargs in (
            {"rec_weight": "single"},
            {"scale": "dual"},
            {"positive": "spikes"},
            {"zero_split": "none"},
        ):
            with pytest.raises(ValueError, match="`"):
                functional.Spec(**kwargs)
        with pytest.raises(ValueError, match="pair only for a dual"):
            functional.Trace(ema=(True, False))

    def test_a_pair_of_equals_is_no_pair(self):
        for ema in (True, False):
            assert functional.Trace(dual=True, ema=(ema, ema)) == functional.Trace(
                dual=True, ema=ema
            )

    @pytest.mark.parametrize(("rule", "share"), [("half", 0.5), ("both", 1.0)])
    def test_every_split_at_zero_is_as_asked_for(self, rule, share):
        """Also those that no named layer has at work: of a pass-through side, and of a bias."""
        zero, dual = jnp.zeros(()), functional.Trace(dual=True)
        for function, decay, state in (
            (functional.synapse, "alpha", "syn"), (functional.recurrence, "gamma", "rec"),
        ):  # fmt: skip
            params = {f"pos_{decay}": 0.5, f"neg_{decay}": 0.25}
            states = {f"pos_{state}": zero, f"neg_{state}": zero}
            run = functools.partial(function, params, states, trace=dual, zero_split=rule)
            assert jax.grad(lambda x, run=run: run(x)[1])(zero) == share * (0.5 + 0.75)
        spec = functional.Spec(positive="passthrough", zero_split=rule)
        assert jax.grad(lambda m: functional.fire({}, {"mem": m}, m, spec=spec)[1])(zero) == share
        spec = functional.Spec(membrane=dual, bias=True, zero_split=rule)
        params = {"pos_beta": jnp.array(0.5), "neg_beta": jnp.array(0.25)}
        states = {"pos_mem": zero, "neg_mem": zero}

        def out(bias):
            return functional.step(spec, params | {"bias": bias}, states, zero + 1)[1]

        assert jax.grad(out)(zero) == share * (0.5 + 0.75)

    @pytest.mark.parametrize("name", reference.EACH)
    def test_step_is_the_cell(self, name):
        layer, variables = reference.scrambled(name)
        carry, x = layer.initialize_carry(None, (2, 3)), reference.inputs(2, 3)
        params = layer.apply(variables, method="parameters")
        got = functional.step(layer.spec, params, carry, x)
        want = layer.apply(variables, carry, x)
        reference.assert_trees_close(got, want, 1e-6)

    def test_stochastic_step_needs_a_key_and_both_sides(self):
        spec = snn.LIT(1).spec
        params = {k: jnp.array(0.5) for k in spec.parameters}
        state = {"mem": jnp.zeros(2)}
        with pytest.raises(ValueError, match="`key` is needed"):
            functional.step(spec, params, state, jnp.ones(2), spike=spikes.bernoulli())
        with pytest.raises(ValueError, match="both signs or for neither"):
            functional.step(
                spec, params, state, jnp.ones(2), spike=(spikes.bernoulli(), spikes.atan())
            )


class TestShapesOfStates:
    """Nothing but parameters broadcasts."""

    @pytest.mark.parametrize("name", ["LI", "DSLI", "LIB", "DSRLIB", "RLIT", "DRLITS"])
    def test_of_a_layers_step(self, name):
        layer, variables = reference.scrambled(name)
        params = layer.apply(variables, method="parameters")
        full, x = layer.initialize_carry(None, (4, 3)), jnp.ones((4, 3))
        step = functional.LayerStep(layer.spec)
        for state in full:
            for wrong in (jnp.zeros((1, 3)), jnp.zeros(3), 0.0):
                for run in (step, functools.partial(functional.step, layer.spec)):
                    with pytest.raises(ValueError, match=rf"`state\['{state}'\]` must .*\(4, 3\)"):
                        run(params, full | {state: wrong}, x)
        for param in params:
            with pytest.raises(ValueError, match=rf"`params\['{param}'\]` must .*got \(5, 4, 3\)"):
                step(params | {param: jnp.ones((5, 4, 3))}, full, x)
        ways = [{}, {"elementwise": True}, {"elementwise": True, "engine": "fused"}]
        if name in reference.LINEAR:
            ways += [{"elementwise": True, "engine": "parallel"}]
        for xs in (jnp.ones((5, 1, 3)), jnp.ones((5, 3)), jnp.ones((5, 2, 4, 3))):
            for options in ways:
                with pytest.raises(ValueError, match=r"`engine`|`state\[.*got \(4, 3\)"):
                    functional.unroll(step, params, full, xs, **options)

    def test_of_each_feature(self):
        one, spec = jnp.ones((1, 3)), snn.LIB(1).spec
        wide, params = jnp.ones((4, 3)), {"alpha": 0.5, "beta": 0.5, "gamma": 0.5, "threshold": 1.0}
        calls = {
            "syn": lambda p, s, x: functional.synapse(p, {"syn": s}, x),
            "rec": lambda p, s, x: functional.recurrence(p, {"rec": s}, x),
            "mem": lambda p, s, x: functional.membrane(p, {"mem": s}, (x,)),
        }
        calls["mem "] = lambda p, s, x: functional.fire(p, {"mem": s}, x, spec=spec)
        for name, call in calls.items():
            call(params, wide, wide)
            for state, x in ((one, wide), (wide, one)):
                with pytest.raises(ValueError, match=rf"`state\['{name.strip()}'\]` must have"):
                    call(params, state, x)
            with pytest.raises(ValueError, match=r"`params\['[a-z]*'\]` must broadcast"):
                call(dict.fromkeys(params, wide), one, one)

    @pytest.mark.parametrize("options", [{}, {"elementwise": True}], ids=str)
    def test_of_a_users_step(self, options):
        def run(step, state, xs):
            params = {"decay": jnp.array(0.5), "jump": jnp.array(0.3)}
            return functional.unroll(step, params, state, xs, **options)

        narrow, xs = {"mem": jnp.zeros((1, 3)), "rise": jnp.zeros((1, 3))}, jnp.ones((5, 2, 3))
        with pytest.raises(ValueError, match=r"`step` must .* of `state\['mem'\]`, \(1, 3\).*2, 3"):
            run(adaptive, narrow, xs)
        with pytest.raises(TypeError, match="`step` must return a new state of the type of"):
            run(lambda p, s, x: (s.astype(jnp.bfloat16), x), jnp.zeros((2, 3)), xs)
        with pytest.raises(TypeError, match="`step` must return a new state of the structure"):
            run(lambda p, s, x: ((s, s), x), jnp.zeros((2, 3)), xs)
        # An input may be shared by all neurons, and a number takes on the type of what is added.
        _, ys = run(lambda p, s, x: (s + x, s + x), jnp.zeros((2, 3)), jnp.ones(5))
        assert ys[-1].tolist() == [[5.0] * 3] * 2
        _, ys = run(lambda p, s, x: (s + x, s + x), 0.0, jnp.ones(5, jnp.bfloat16))
        assert ys.dtype == jnp.bfloat16 and float(ys[-1]) == 5


def adaptive(params, state, x):
    """A user's own step: a threshold that rises with every spike."""
    mem = params["decay"] * state["mem"] + x
    out = spikes.atan()(mem - 1 - state["rise"])
    return {"mem": mem - out, "rise": 0.9 * state["rise"] + params["jump"] * out}, (out, mem)


def mixing(params, state, x):
    """A step that mixes neurons."""
    state = jnp.tanh(state @ params["w"] + x["in"])
    return state, state


class Unhashable:
    __hash__ = None

    def __repr__(self):
        return "Unhashable()"

    def __call__(self, params, state, x):
        return state, x


@functools.cache
def by_plain_scan():
    """Values and gradients of `adaptive` over 11 steps."""

    def plain(params, state, xs):
        full = jax.tree.map(lambda p: jnp.broadcast_to(p, (2, 3)), params)
        return jax.lax.scan(lambda s, x: adaptive(full, s, x), state, xs)

    return reference.value_and_grads(plain, PARAMS, STATE, reference.inputs(11, 2, 3) * 2)


PARAMS = {"decay": jnp.array([0.8, 0.9, 0.5]), "jump": jnp.array(0.3)}
STATE = {"mem": jnp.zeros((2, 3)), "rise": jnp.zeros((2, 3))}


class TestUnroll:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"unroll": 3},
            *({"checkpoint_every": k} for k in (1, 3, 5, 11, 50, "sqrt")),
            {"unroll": 3, "checkpoint_every": 1},
            {"engine": "fused", "unroll": 4},
            {"engine": "fused", "checkpoint_every": 3},
        ],
        ids=str,
    )
    def test_a_users_step_gives_values_and_gradients_of_plain_scan(self, options):
        xs = reference.inputs(11, 2, 3) * 2
        want = by_plain_scan()
        got = reference.value_and_grads(
            lambda *args: functional.unroll(adaptive, *args, elementwise=True, **options),
            PARAMS, STATE, xs,
        )  # fmt: skip
        assert got[0][1][0].sum() > 0
        reference.assert_trees_close(got, want, 1e-5)

    @pytest.mark.parametrize("every", [None, 2])
    def test_a_step_that_mixes_neurons(self, every):
        params, xs = {"w": reference.inputs(3, 3)}, {"in": reference.inputs(5, 2, 3)}
        want = reference.value_and_grads(
            lambda p, s, xs: jax.lax.scan(lambda s, x: mixing(p, s, x), s, xs),
            params, jnp.zeros((2, 3)), xs,
        )  # fmt: skip
        got = reference.value_and_grads(
            lambda *args: functional.unroll(mixing, *args, checkpoint_every=every),
            params, jnp.zeros((2, 3)), xs,
        )  # fmt: skip
        reference.assert_trees_close(got, want, 1e-5)

    def test_padding_changes_nothing(self):
        xs, lengths = reference.inputs(6, 2, 3) * 2, jnp.array([6, 4])
        dirty = xs.at[4:, 1].set(jnp.nan)

        def run(params, xs):
            return functional.unroll(
                adaptive, params, STATE, xs, elementwise=True, seq_lengths=lengths
            )

        (state, ys), (d_params, d_xs) = reference.value_and_grads(run, PARAMS, dirty)
        for b, length in enumerate([6, 4]):
            one = jax.tree.map(lambda s: s[:1], STATE)
            last, out = functional.unroll(
                adaptive, PARAMS, one, xs[:length, b : b + 1], elementwise=True
            )
            reference.assert_trees_close(jax.tree.map(lambda s, b=b: s[b : b + 1], state), last, 0)
            got = jax.tree.map(lambda y, b=b, n=length: y[:n, b : b + 1], ys)
            reference.assert_trees_close(got, out, 0)
        assert all(float(jnp.abs(y[4:, 1]).max()) == 0 for y in ys)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(d_params))
        assert float(jnp.abs(d_xs[4:, 1]).max()) == 0

    @pytest.mark.optimised
    @pytest.mark.slow
    def test_gradient_stores_states_and_nothing_else(self):
        """Temporary memory of a gradient: states, and not the step's inner values."""
        xs = jnp.zeros((200, 8, 128))

        def temporary(layer, every):
            layer, variables = reference.scrambled(layer, 128)
            run = snn.Unroll(layer, time_major=True, checkpoint_every=every).apply
            gradient = jax.jit(lambda v, xs, cotangent: jax.vjp(run, v, xs)[1](cotangent))
            compiled = gradient.lower(reference.under(variables), xs, xs).compile()
            return compiled.memory_analysis().temp_size_in_bytes / xs.nbytes

        for layer, states in {"LIB": 1, "SLIB": 2, "SRLIT": 4, "DSRLITS": 7}.items():
            assert states - 0.5 < temporary(layer, 1) < states + 0.5, layer
            assert temporary(layer, None) < 0.3 * states + 0.2, layer

    @pytest.mark.optimised
    def test_inference_stores_nothing(self):
        layer, variables = reference.scrambled("SRLIT", 128)
        xs = jnp.zeros((200, 8, 128))
        run = jax.jit(snn.Unroll(layer, time_major=True).apply)
        compiled = run.lower(reference.under(variables), xs).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * xs.nbytes

    @pytest.mark.optimised
    @pytest.mark.slow
    @pytest.mark.parametrize("length", reference.first([397, 400]))
    def test_checkpointing_bounds_memory(self, length):
        xs = jnp.zeros((length, 8, 64))
        layer, variables = reference.scrambled("SRLIT", 64)

        def temporary(every):
            model = snn.Unroll(layer, time_major=True, checkpoint_every=every)

            def gradient(v, xs, cotangent):
                return jax.vjp(model.apply, v, xs)[1](cotangent)

            compiled = jax.jit(gradient).lower(reference.under(variables), xs, xs).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        assert temporary("sqrt") < 0.2 * temporary(1)

    @pytest.mark.optimised
    @pytest.mark.slow
    def test_checkpointing_bounds_memory_of_any_step(self):
        xs = {"in": jnp.zeros((420, 8, 64))}

        def temporary(every):
            def run(params):
                return functional.unroll(
                    mixing, params, jnp.zeros((8, 64)), xs, checkpoint_every=every
                )[0].sum()

            compiled = jax.jit(jax.grad(run)).lower({"w": jnp.eye(64)}).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        assert temporary("sqrt") < temporary(None) - 0.7 * xs["in"].nbytes

    @pytest.mark.parametrize("name", reference.EACH)
    def test_parameter_gradients_are_reduced_after_the_loop(self, name):
        """No step of the backward loop sums over the batch."""
        layer, variables = reference.scrambled(name)

        def run(v, xs):
            return snn.Unroll(layer, engine="scan").apply(v, xs).sum()

        jaxpr = jax.make_jaxpr(jax.grad(run))(reference.under(variables), jnp.ones((2, 4, 3)))
        loops = []

        def walk(jaxpr, inside):
            for eqn in jaxpr.eqns:
                loops.extend([eqn] * (eqn.primitive.name == "scan"))
                assert not (inside and "reduce" in eqn.primitive.name), eqn
                for value in jax.tree.leaves(list(eqn.params.values())):
                    inner = getattr(value, "jaxpr", value)
                    if hasattr(inner, "eqns"):
                        walk(inner, inside or eqn.primitive.name == "scan")

        walk(jaxpr.jaxpr, False)
        assert len(loops) >= 2

    @pytest.mark.parametrize("every", [None, 2])
    def test_gradients_reach_what_a_step_closes_over(self, every):
        xs = reference.inputs(5, 3)

        def last(w, unroll):
            return unroll(lambda p, s, x: (w * s + x, s), None, jnp.zeros(3), xs)[0].sum()

        def plain(step, params, state, xs):
            return jax.lax.scan(lambda s, x: step(params, s, x), state, xs)

        unroll = functools.partial(functional.unroll, checkpoint_every=every)
        want = jax.grad(last)(0.5, plain)
        assert float(jax.grad(last)(0.5, unroll)) == pytest.approx(float(want), rel=1e-5)
        assert float(jax.jit(jax.grad(lambda w: last(w, unroll)))(0.5)) == pytest.approx(
            float(want), rel=1e-5
        )

    def test_a_gradient_past_the_arguments_of_an_elementwise_step_raises(self):
        """Rather than being silently zero."""

        def last(w):
            return functional.unroll(
                lambda p, s, x: (w * s + x, s), None, jnp.zeros(3), jnp.ones((5, 3)),
                elementwise=True,
            )[0].sum()  # fmt: skip

        assert float(last(1.0)) == 15.0
        with pytest.raises(Exception, match="closed-over value"):
            jax.grad(last)(0.5)

    def test_random_keys_can_be_scanned(self):
        def step(params, state, x):
            x, key = x
            return state + x + jax.random.uniform(key, x.shape), state

        keys = jax.random.split(jax.random.key(0), 5)
        for every in (None, 2):
            state, _ = functional.unroll(
                step, None, jnp.zeros(3), (jnp.ones((5, 3)), keys), checkpoint_every=every
            )
            want = 5 + sum(jax.random.uniform(key, (3,)) for key in keys)
            np.testing.assert_allclose(state, want, rtol=1e-6)

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"engine": "warp"}, ValueError, "`engine` must be one of .*'fused'.*; got 'warp'"),
            ({"unroll": 0}, ValueError, "`unroll` must be an integer of at least 1; got 0"),
            ({"unroll": 1.5}, TypeError, "`unroll` must be an integer of at least 1; got 1.5"),
            ({"checkpoint_every": -2}, ValueError, "`checkpoint_every` must .* got -2"),
            ({"checkpoint_every": "log"}, TypeError, "`checkpoint_every` must .* got 'log'"),
            ({"seq_lengths": jnp.array([1.0, 2.0])}, TypeError, "`seq_lengths` must be integers"),
            ({"seq_lengths": jnp.array([1, 2, 3])}, ValueError, "`seq_lengths` must have one"),
            ({"seq_lengths": jnp.array([1, 9])}, ValueError, "between 0 and T = 5; got 9"),
            ({"seq_lengths": jnp.array([[1, 2]])}, ValueError, "must be a vector"),
            ({"xs": ()}, ValueError, "`xs` must hold arrays"),
            ({"xs": jnp.array(1.0)}, ValueError, "`xs` must hold arrays"),
            ({"xs": (jnp.ones((5, 2, 3)), jnp.ones((4, 2, 3)))}, ValueError, "agree"),
            ({"params": {"decay": jnp.ones(4), "jump": jnp.ones(())}}, ValueError, "broadcast"),
            ({"state": {"mem": jnp.zeros((2, 3)), "rise": jnp.zeros(3)}}, ValueError, "one shape"),
            ({"step": 3}, TypeError, "`step` must be a function"),
            ({"step": Unhashable()}, TypeError, "`step` must be a function, or an obj"),
        ],
        ids=str,
    )  # fmt: skip
    def test_bad_input(self, change, error, words):
        arguments = {
            "step": adaptive, "params": PARAMS, "state": STATE,
            "xs": jnp.ones((5, 2, 3)), "elementwise": True,
        }  # fmt: skip
        with pytest.raises(error, match=words):
            functional.unroll(**(arguments | change))


class TestHalfLives:
    def test_they_cover_their_range_evenly_on_a_logarithmic_scale(self):
        decays = initializers.half_lives(1.0, 100.0)(jax.random.key(0), (4000,), jnp.float32)
        steps = np.log10(functional.decay_to_halflife(decays))
        counts, _ = np.histogram(steps, 4, (0, 2))
        assert counts.sum() == 4000 and counts.min() > 900

    def test_layers_of_equal_ranges_are_equal(self):
        one, two = (snn.LIB(3, beta=initializers.half_lives(1, 9)) for _ in range(2))
        assert one == two != snn.LIB(3, beta=initializers.half_lives(1, 8))
        assert hash(one) == hash(two)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    @pytest.mark.parametrize("ends", [(1.0, 2000.0), (1e-9, 1e9)], ids=str)
    def test_they_stay_where_a_narrow_type_can_hold_them(self, dtype, ends):
        layer = snn.LI(200, beta=initializers.half_lives(*ends), param_dtype=dtype)
        arguments = jax.random.key(0), None, jnp.zeros((1, 200), dtype)
        for init in (layer.init, jax.jit(layer.init)):
            variables = init(*arguments)
            assert np.isfinite(variables["params"]["raw_beta"].astype(float)).all()
            decays = layer.apply(variables, method="parameters")["beta"]
            assert ((decays > 0) & (decays < 1)).all()

    @pytest.mark.parametrize("bad", [(0, 1), (2, 1), (-1, 1), (1, np.inf), (1, np.nan)])
    def test_bad_ranges_raise(self, bad):
        with pytest.raises(ValueError, match="`low` and `high` must be finite and 0 < low <= high"):
            initializers.half_lives(*bad)

    def test_what_is_no_known_number_is_refused(self):
        for bad, words in (
            ("1", "be a number; got '1'"),
            (jnp.ones(()), "be a number"),
            (True, "be"),
        ):
            with pytest.raises(TypeError, match=f"`low` must {words}"):
                initializers.half_lives(bad, 2.0)
        with pytest.raises(TypeError, match="`high` must be known before tracing"):
            jax.jit(lambda high: initializers.half_lives(1.0, high).low)(2.0)
        with pytest.raises(ValueError, match="`low` and `high` must be finite"):
            initializers.half_lives(1, 10**400)
