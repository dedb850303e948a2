"""How much networks fire, what that costs, what their layers did, and what is wrong with them."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import tracetorch_jax
from tracetorch_jax import losses, metrics, snn, spikes

KEY = jax.random.key(0)


class TestRates:
    SPIKES = np.array([[[1, 0, 1], [-1, 0, 1], [2.5, 0, 1], [0, 0, -1]]] * 2, np.float32)

    def test_of_spikes_that_are_nan(self):
        spikes = jnp.array([[[1.0, jnp.nan], [0.0, 1.0]]])
        rates = metrics.spike_rate(spikes)
        assert rates.positive[0] == 0.5 and np.isnan([r[1] for r in rates]).all()
        assert not metrics.dead(spikes).any() and not metrics.saturated(spikes).any()
        padded = metrics.spike_rate(spikes[:, ::-1], seq_lengths=jnp.array([1]))
        assert padded.positive.tolist() == [0.0, 1.0]

    def test_by_sign(self):
        for xs, options in (
            (self.SPIKES, {}),
            (self.SPIKES.swapaxes(0, 1), {"time_major": True}),
            (self.SPIKES[0], {}),
        ):
            rates = metrics.spike_rate(xs, **options)
            assert rates.positive.tolist() == [0.5, 0, 0.75]
            assert rates.negative.tolist() == [0.25, 0, 0.25]
            assert rates.total.tolist() == [0.75, 0, 1]
            assert metrics.dead(xs, **options).tolist() == [False, True, False]
            assert metrics.saturated(xs, **options).tolist() == [False, False, True]
            half = metrics.saturated(xs, rate=0.75, **options)
            assert half.tolist() == [True, False, True]

    def test_padding_does_not_count(self):
        dirty = self.SPIKES.copy()
        dirty[1, 1:] = np.nan
        rates = jax.jit(metrics.spike_rate)(dirty, seq_lengths=np.array([4, 1]))
        np.testing.assert_allclose(rates.positive, [0.6, 0, 0.8])
        np.testing.assert_allclose(rates.negative, [0.2, 0, 0.2])
        nothing = metrics.spike_rate(dirty, seq_lengths=np.array([0, 0]))
        assert nothing.total.tolist() == [0, 0, 0]

    def test_bad_input_is_named(self):
        for run in (metrics.spike_rate, metrics.dead, metrics.saturated):
            with pytest.raises(ValueError, match=r"`spikes` must be \[B, T, ...\]"):
                run(jnp.zeros(3))
        for bad in (0, 1.5):
            with pytest.raises(ValueError, match=r"`rate` must lie in \(0, 1\]"):
                metrics.saturated(self.SPIKES, rate=bad)


class TestSynapticOperations:
    """Counted by hand, after NeuroBench: an operation is effective if nothing in it is 0."""

    def test_dense(self):
        kernel = np.array([[1.0, 0.0, 2.0], [3.0, 4.0, 0.0]], np.float32)
        model = nn.Dense(3)
        variables = {"params": {"kernel": kernel, "bias": np.ones(3, np.float32)}}
        for x, kind in (([[1, 0], [-1, 1]], "acs"), ([[0.5, 0], [-1, 1]], "macs")):
            got = metrics.synaptic_operations(model, variables, jnp.array(x, jnp.float32))[""]
            # Input 0 has two synapses that are not 0, as has input 1: two inputs, four operations
            # in the second sample, two in the first.
            want = {"macs": 0.0, "acs": 0.0, "dense": 6.0, "events": 1.5, "fan_out": 3.0}
            assert got._asdict() == want | {kind: 3.0}

    def test_convolution(self):
        model = nn.Conv(4, (3, 3), strides=2, padding="SAME", feature_group_count=2)
        x = np.zeros((1, 5, 5, 2), np.float32)
        x[0, 2, 2, 0] = 1
        x[0, 0, 0, 1] = 1
        variables = jax.tree.map(jnp.ones_like, model.init(KEY, x))
        got = metrics.synaptic_operations(model, variables, x)[""]
        # Outputs are centred on rows and columns 0, 2, 4. The middle is seen by one of them, the
        # corner by one; each group has two kernels. Padding is not counted: 2, 3, 2 taps per axis.
        assert got.acs == 1 * 2 + 1 * 2 and got.macs == 0
        assert got.dense == (2 + 3 + 2) ** 2 * 4
        assert got.events == 2 and got.fan_out == got.dense / 50
        variables["params"]["kernel"] = variables["params"]["kernel"].at[1, 1, 0, :2].set(0)
        assert metrics.synaptic_operations(model, variables, x)[""].acs == 2

    @pytest.mark.slow
    def test_a_network_over_time(self):
        model = snn.Unroll(
            snn.Sequential([nn.Dense(4), snn.LIT(4, pos_threshold=0.3), nn.Dense(2)])
        )
        xs = reference.inputs(3, 7, 5)
        variables = model.init(KEY, xs)
        got = metrics.synaptic_operations(model, variables, xs)
        assert list(got) == ["cell/layers_0", "cell/layers_2"]
        first, second = got.values()
        assert first.macs == float(np.count_nonzero(xs) * 4 / 3) and first.acs == 0
        assert first.dense == 7 * 5 * 4
        _, layers = tracetorch_jax.record(model, variables, xs)
        spikes = layers["cell/layers_1"].outputs
        assert second.acs == pytest.approx(np.count_nonzero(spikes) * 2 / 3) and second.macs == 0
        major = snn.Unroll(model.cell, time_major=True)
        again = metrics.synaptic_operations(major, variables, xs.swapaxes(0, 1))
        assert again == got
        called = {"time_major": True}
        again = metrics.synaptic_operations(model, variables, xs.swapaxes(0, 1), **called)
        assert again == got == metrics.synaptic_operations(model, variables, xs=xs)
        alone = metrics.synaptic_operations(model, variables, xs[0])
        assert alone["cell/layers_0"].dense == 7 * 5 * 4

    def test_a_connection_that_also_gets_other_values_multiplies(self):
        class Twice(nn.Module):
            @nn.compact
            def __call__(self, x):
                dense = nn.Dense(2)
                return dense(x) + dense(0.5 * x)

        x = jnp.ones((1, 3))
        (got,) = metrics.synaptic_operations(Twice(), Twice().init(KEY, x), x).values()
        assert (got.macs, got.acs) == (12, 0)

    def test_scaled_spikes_are_multiplied(self):
        layer = snn.LITS(4, pos_threshold=0.3, pos_scale=1.5)
        model = snn.Unroll(snn.Sequential([layer, nn.Dense(2)]))
        xs = reference.inputs(1, 9, 4) * 2
        (got,) = metrics.synaptic_operations(model, model.init(KEY, xs), xs).values()
        assert got.acs == 0 < got.macs

    def test_energy(self):
        operations = {
            "a": metrics.Operations(macs=10.0, acs=0.0, dense=20.0, events=1.0, fan_out=2.0),
            "b": metrics.Operations(macs=0.0, acs=100.0, dense=200.0, events=1.0, fan_out=2.0),
        }
        assert metrics.energy(operations) == pytest.approx(10 * 4.6e-12 + 100 * 0.9e-12)
        assert metrics.energy(operations, mac=2.0, ac=1.0) == 120
        with pytest.raises(ValueError, match="`ac` must not be negative; got -1"):
            metrics.energy(operations, ac=-1)

    def test_what_cannot_be_counted_raises(self):
        xs = reference.inputs(1, 3, 2)
        model = snn.Unroll(snn.LI(2))
        with pytest.raises(ValueError, match="`model` must have connections to count"):
            metrics.synaptic_operations(model, model.init(KEY, xs), xs)
        model = nn.RNN(snn.Sequential([nn.Dense(2), snn.LI(2)]))
        with pytest.raises(ValueError, match=r"put cells into snn\.Unroll rather than nn\.RNN"):
            metrics.synaptic_operations(model, model.init(KEY, xs), xs)


class TestRecord:
    @pytest.mark.parametrize("name", reference.EACH)
    def test_every_state_after_every_step(self, name):
        layer, variables = reference.scrambled(name)
        xs = reference.inputs(2, 4, 3)
        model = snn.Unroll(layer, engine="scan")
        layers = {}

        @jax.jit
        def run(variables, xs):
            ys, recordings = tracetorch_jax.record(model, reference.under(variables), xs)
            layers.update({path: each.layer for path, each in recordings.items()})
            want = model.apply(reference.under(variables), xs)

            def step(carry, x):
                carry, _ = layer.apply(variables, carry, x)
                return carry, carry

            carry = layer.initialize_carry(None, xs[:, 0].shape)
            _, states = jax.lax.scan(step, carry, xs.swapaxes(0, 1))
            states = jax.tree.map(lambda states: states.swapaxes(0, 1), states)
            parameters = layer.apply(variables, method="parameters")
            return (ys, recordings["cell"]._replace(layer=None)), (want, states, parameters)

        (ys, recording), (want, states, parameters) = run(variables, xs)
        assert layers == {"cell": layer}
        np.testing.assert_array_equal(ys, want)
        np.testing.assert_array_equal(recording.outputs, ys)
        np.testing.assert_array_equal(recording.inputs, xs)
        reference.assert_trees_close(recording.states, states, 1e-5)
        reference.assert_trees_close(recording.parameters, parameters, 0)

    def test_a_model_of_several_parts(self):
        class Model(nn.Module):
            @nn.compact
            def __call__(self, xs, seq_lengths=None):
                ys = snn.Unroll(snn.Sequential([nn.Dense(4), snn.SLIB(4)]), name="one")(xs)
                return snn.Unroll(snn.LI(4), name="two", reverse=True)(ys, None, seq_lengths)

        xs = reference.inputs(2, 6, 3)
        variables = Model().init(KEY, xs)
        _, layers = tracetorch_jax.record(Model(), variables, xs, jnp.array([6, 2]))
        assert list(layers) == ["SLIB_0", "LI_0"]  # where Flax keeps the parameters
        assert set(layers) < set(variables["params"])
        assert layers["LI_0"].states["mem"].shape == (2, 6, 4)
        assert set(layers["SLIB_0"].states) == {"syn", "mem"}

    def test_images_and_sequences_without_a_batch_axis(self):
        xs = reference.inputs(2, 6, 3, 2, 2)
        model = snn.Unroll(snn.LIB(3, dim=-3), time_major=True)
        variables = model.init(KEY, xs)
        _, layers = tracetorch_jax.record(model, variables, xs)
        assert layers["cell"].outputs.shape == (6, 2, 3, 2, 2)  # [B, T, ...] whatever the model's
        _, layers = tracetorch_jax.record(model, variables, xs[:, 0])
        assert layers["cell"].states["mem"].shape == (2, 3, 2, 2)

    def test_nothing_is_stored_otherwise(self):
        xs = reference.inputs(2, 6, 3)
        model = snn.Unroll(snn.LIB(3))
        variables = model.init(KEY, xs)
        assert set(variables) == {"params"}
        _, changed = model.apply(variables, xs, mutable=["batch_stats"])
        assert not changed

    def test_gradients_go_through(self):
        """Recording is another program, but the same function."""
        xs = reference.inputs(2, 6, 3)
        model = snn.Unroll(snn.SRLIB(3))
        variables = model.init(KEY, xs)

        def plain(variables, xs):
            return model.apply(variables, xs)

        def recorded(variables, xs):
            return tracetorch_jax.record(model, variables, xs)[0]

        want = reference.value_and_grads(plain, variables, xs)
        reference.assert_trees_close(reference.value_and_grads(recorded, variables, xs), want)

    def test_the_last_of_several_runs_is_kept(self):
        class Twice(nn.Module):
            @nn.compact
            def __call__(self, xs):
                layer = snn.Unroll(snn.SLI(3))
                return layer(layer(xs))

        xs = reference.inputs(2, 6, 3)
        variables = Twice().init(KEY, xs)
        ys, layers = tracetorch_jax.record(Twice(), variables, xs)
        (layer,) = layers.values()
        np.testing.assert_array_equal(layer.outputs, ys)
        np.testing.assert_array_equal(layer.states["mem"], ys)
        assert not np.array_equal(layer.inputs, xs)

    def test_collections_that_change(self):
        model = snn.Unroll(
            snn.Sequential([nn.BatchNorm(use_running_average=False), snn.LIB(3)]), return_carry=True
        )
        xs = reference.inputs(2, 6, 3)
        variables = model.init(KEY, xs)
        for mutable in (True, ["batch_stats"], "batch_stats", nn.DenyList("params")):
            out, layers = tracetorch_jax.record(model, variables, xs, mutable=mutable)
            (carry, ys), changed = out
            assert "trace_states" not in changed
            _, want = model.apply(variables, xs, mutable=["batch_stats"])
            jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], want["batch_stats"])
            assert ys.shape == xs.shape and list(layers) == ["cell/layers_1"]
            np.testing.assert_array_equal(
                layers["cell/layers_1"].states["mem"][:, -1], carry["layers_1"]["mem"]
            )

    @pytest.mark.optimised
    def test_sequences_of_different_lengths(self):
        model = snn.Unroll(snn.SLIT(3), return_carry=True)
        xs, lengths = reference.inputs(3, 6, 3), jnp.array([6, 2, 0])
        variables = model.init(KEY, xs)
        (carry, ys), layers = tracetorch_jax.record(model, variables, xs, None, lengths)
        again = model.apply(variables, xs, None, lengths)
        reference.assert_trees_close((carry, ys), again, 0)
        for name, values in layers["cell"].states.items():
            np.testing.assert_array_equal(values[0, 5], carry[name][0])
            np.testing.assert_array_equal(values[1, 1], carry[name][1])

    def test_random_spikes_are_those_of_a_normal_call(self):
        model = snn.Unroll(snn.LIB(3, spike=spikes.bernoulli()))
        xs = reference.inputs(2, 6, 3)
        variables = model.init({"params": KEY, "spike": KEY}, xs)
        ys, _ = tracetorch_jax.record(model, variables, xs, rngs={"spike": KEY})
        np.testing.assert_array_equal(ys, model.apply(variables, xs, rngs={"spike": KEY}))

    @pytest.mark.slow
    def test_layers_under_flax_s_transformations(self):
        class Model(nn.Module):
            lift: str

            @nn.compact
            def __call__(self, xs):
                lift = nn.remat
                if self.lift == "vmap":
                    axes = {"params": 0, "trace_states": 0}
                    lift = partial(nn.vmap, variable_axes=axes, split_rngs={"params": True})
                return lift(snn.Unroll)(snn.LIB(3))(xs)

        xs = reference.inputs(2, 6, 3)
        plain = Model("remat")
        variables = plain.init(KEY, xs)
        ys, layers = tracetorch_jax.record(plain, variables, xs)
        (recording,) = layers.values()
        np.testing.assert_array_equal(recording.outputs, ys)
        assert tracetorch_jax.diagnose(plain, variables, xs).layers[0].gradient > 0
        many, xs = Model("vmap"), xs[None]
        with pytest.raises(ValueError, match="`model` must not run .* under nn.vmap or nn.scan"):
            tracetorch_jax.record(many, many.init(KEY, xs), xs)

    def test_models_without_layers_raise(self):
        with pytest.raises(ValueError, match=r"`model` must run trace layers through .*Unroll"):
            tracetorch_jax.record(nn.Dense(2), nn.Dense(2).init(KEY, jnp.ones(3)), jnp.ones(3))


@pytest.mark.slow
class TestDiagnose:
    @staticmethod
    def network(*layers):
        stack = []
        for layer in layers:
            stack += [nn.Dense(layer.num_neurons), layer]
        return snn.Unroll(snn.Sequential(stack))

    def diagnose(self, *layers, scale=1.0, **options):
        model = self.network(*layers)
        xs = reference.inputs(4, 40, 6) * scale
        return tracetorch_jax.diagnose(model, model.init(KEY, xs), xs, **options)

    def test_a_healthy_network(self):
        diagnosis = self.diagnose(snn.LIB(16), snn.SLIT(16), snn.LI(3))
        assert diagnosis.healthy, str(diagnosis)
        first, second, last = diagnosis.layers
        assert 0 < first.rate[0] < 0.5 and first.rate[1] == 0 < second.rate[1]
        assert last.rate is last.dead is last.saturated is None
        assert [report.layer for report in diagnosis.layers] == ["LIB", "SLIT", "LI"]
        assert first.half_lives["beta"] == pytest.approx([6.58] * 3, rel=1e-2)
        assert 0 < first.membrane[2] < 5 and first.gradient > 0 < first.parameter_gradient

    def test_the_table_names_every_layer(self):
        text = str(self.diagnose(snn.LIB(16), snn.DSRLITS(16), snn.LI(3)))
        head, rule, *rows = text.splitlines()
        assert "rate" in head and set(rule) <= set("- ")
        for row, name in zip(
            rows, ("layers_1 LIB", "layers_3 DSRLITS", "layers_5 LI"), strict=False
        ):
            assert name in row
        assert "No problems." in text and max(map(len, text.splitlines())) < 110

    def test_dead_layers(self):
        diagnosis = self.diagnose(snn.LIB(16, threshold=100.0), snn.LI(3))
        report = diagnosis.layers[0]
        assert report.dead == 1 and not diagnosis.healthy
        assert "100% of the neurons never fire" in report.advice
        assert "Set `threshold=1`" in report.advice

    def test_layers_that_fire_at_nearly_every_step(self):
        """Of both signs, which is no problem."""
        diagnosis = self.diagnose(snn.LIT(16, pos_threshold=1e-3, neg_threshold=1e-3))
        (report,) = diagnosis.layers
        assert report.saturated > 0.9 and diagnosis.healthy
        assert "of the steps. This costs energy" in report.notes[0]

    def test_membranes_are_measured_in_thresholds(self):
        reports = [
            self.diagnose(snn.LIT(16, pos_threshold=t, neg_threshold=t), scale=t).layers[0]
            for t in (1.0, 10.0)
        ]
        np.testing.assert_allclose(reports[0].membrane, reports[1].membrane, rtol=0.2, atol=0.05)

    def test_vanishing_gradients(self):
        narrow = snn.LIB(16, threshold=20.0, spike=spikes.gaussian(0.5))
        diagnosis = self.diagnose(snn.LIB(16), snn.LIB(16), narrow, snn.LI(3))
        first, *_, last = diagnosis.layers
        assert "No gradient reaches it. First follow the advice for" in first.advice
        assert not last.problems

    def test_what_is_not_finite(self):
        model = self.network(snn.LIB(16), snn.LI(3))
        xs = reference.inputs(4, 40, 6)
        variables = model.init(KEY, xs)
        diagnosis = tracetorch_jax.diagnose(model, variables, xs.at[0, 3, 0].set(jnp.inf))
        assert "not finite" in diagnosis.layers[0].advice
        exploded = tracetorch_jax.diagnose(
            model, variables, xs, loss=lambda ys: jnp.sqrt(ys - ys).sum()
        )
        assert "Its gradient is not finite" in exploded.layers[0].advice

    def test_half_lives(self):
        slow = self.diagnose(snn.LI(16, beta=0.9999)).layers[0]
        assert "`beta` average over many more steps than the 40 of a sequence" in slow.problems[0]
        assert "beta" not in self.diagnose(snn.LIB(16, beta=0.9999)).layers[0].advice  # a sum
        fast = self.diagnose(snn.SLIB(16, alpha=0.05, beta=0.05)).layers[0]
        assert "keeps next to nothing" in fast.notes[0] and "`beta=0.87`" in fast.notes[0]
        assert "nothing" not in self.diagnose(snn.SLIB(16, alpha=0.05)).layers[0].notes

    def test_a_loss_and_sequence_lengths(self):
        model = self.network(snn.LIB(16), snn.LI(3))
        xs, labels = reference.inputs(4, 40, 6), np.array([0, 1, 2, 0])
        variables = model.init(KEY, xs)
        lengths = jnp.array([40, 10, 3, 0])
        diagnosis = tracetorch_jax.diagnose(
            model,
            variables,
            xs.at[1, 10:].set(jnp.nan),
            seq_lengths=lengths,
            loss=lambda ys: losses.cross_entropy(ys, labels, seq_lengths=lengths).mean(),
        )
        want = losses.cross_entropy(
            model.apply(variables, xs, seq_lengths=lengths), labels, seq_lengths=lengths
        )
        assert diagnosis.loss == pytest.approx(float(want.mean()), rel=1e-5)
        assert diagnosis.healthy, str(diagnosis)
        with pytest.raises(ValueError, match=r"`loss` must give a scalar; got shape \(4,\)"):
            tracetorch_jax.diagnose(model, variables, xs, loss=lambda ys: ys.mean((1, 2)))

    @staticmethod
    def scaled(factor):
        """Six linear layers, through each of which gradients grow by a factor."""
        model = TestDiagnose.network(*(snn.LI(6) for _ in range(6)))
        xs = reference.inputs(4, 40, 6)
        params = model.init(KEY, xs)["params"]
        eyes = jax.tree.map(lambda p: factor * jnp.eye(6) if p.ndim == 2 else p, params)
        loss = lambda ys: jnp.square(ys - 1e3).mean()  # noqa: E731
        return tracetorch_jax.diagnose(model, {"params": eyes}, xs * factor**-6.0, loss=loss)

    def test_gradients_relative_to_the_last_layer_s(self):
        """The last that ran, not the last by name: layers_11 rather than layers_9."""
        first, *_, last = self.scaled(50.0).layers
        assert (first.path, last.path) == ("cell/layers_1", "cell/layers_11")
        assert "Its gradient explodes" in first.advice
        first, *_, last = self.scaled(0.02).layers
        assert "Its gradient vanishes" in first.advice
        assert "gradient" not in last.advice
        told = [each for each in self.scaled(0.02).layers if "vanishes" in each.advice]
        assert told == [first]  # which speaks for all

    def test_a_loss_that_ignores_a_layer(self):
        class Model(nn.Module):
            @nn.compact
            def __call__(self, xs, again, train):
                return snn.Unroll(snn.LIB(6))(xs), snn.Unroll(snn.LI(6))(xs)

        xs = reference.inputs(4, 40, 6)
        variables = Model().init(KEY, xs, 1, train=True)
        first, second = tracetorch_jax.diagnose(
            Model(), variables, xs, 1, True, loss=lambda out: out[0].sum()
        ).layers  # the third argument is not taken for sequence lengths
        assert "gradient" not in first.advice and "No gradient reaches it" in second.advice

    def test_without_a_batch_axis_and_without_parameters(self):
        layer = snn.LIB(6, beta_learnable=False, threshold_learnable=False)
        model = snn.Unroll(layer, return_carry=True)
        xs = reference.inputs(1, 40, 6)
        variables = model.init(KEY, xs)
        lengths = jnp.array([30])
        (want,) = tracetorch_jax.diagnose(model, variables, xs, seq_lengths=lengths).layers
        (got,) = tracetorch_jax.diagnose(model, variables, xs[0], seq_lengths=lengths[0]).layers
        assert got.parameter_gradient == 0 < got.gradient
        assert got.rate == pytest.approx(want.rate) and got.membrane == pytest.approx(want.membrane)
        images = snn.Unroll(snn.LIB(6, dim=-3))
        xs = reference.inputs(8, 6, 2, 2)
        variables = images.init(KEY, xs)
        (got,) = tracetorch_jax.diagnose(images, variables, xs, seq_lengths=jnp.array(5)).layers
        assert 0 <= got.dead <= 1 and got.rate[0] > 0

    def test_decays_of_one_and_zero(self):
        xs = reference.inputs(2, 40, 4)
        layer = snn.LI(4, beta=(1.0, 1.0, 0.5, 1.0), beta_learnable=False)
        model = snn.Unroll(layer)
        (report,) = tracetorch_jax.diagnose(model, model.init(KEY, xs), xs).layers
        assert report.half_lives["beta"] == (1.0, np.inf, np.inf)
        assert "average over many more steps" in report.advice
        model = snn.Unroll(snn.LI(4, beta=0.0, beta_learnable=False))
        (report,) = tracetorch_jax.diagnose(model, model.init(KEY, xs), xs).layers
        assert report.half_lives["beta"] == (0, 0, 0) and "next to nothing" in report.advice

    def test_outputs_of_several_types(self):
        model = snn.Unroll(snn.LIB(6), return_carry=True)
        xs = reference.inputs(2, 40, 6).astype(jnp.bfloat16)  # carries are float32
        diagnosis = tracetorch_jax.diagnose(model, model.init(KEY, xs), xs)
        assert np.isfinite(diagnosis.loss) and diagnosis.layers[0].gradient > 0

    def test_models_without_layers_raise(self):
        model, xs = nn.Dense(2), jnp.ones((2, 3))
        with pytest.raises(ValueError, match=r"`model` must run trace layers through .*Unroll"):
            tracetorch_jax.diagnose(model, model.init(KEY, xs), xs)

    def test_bad_batches_and_losses_are_named(self):
        model, xs = snn.Unroll(snn.LIB(3)), jnp.ones((2, 4, 3))
        variables = model.init(KEY, xs)
        for empty in (xs[:, :0], xs[:0]):
            with pytest.raises(ValueError, match="`xs` must hold at least one step"):
                tracetorch_jax.diagnose(model, variables, empty)
        for bad, got in (
            (lambda ys: (ys.sum(), 1), "tuple"),
            (lambda ys: None, "NoneType"),
            (lambda ys: jnp.array(1), "int32"),
        ):
            with pytest.raises(TypeError, match=f"`loss` must give a floating-point .*; got {got}"):
                tracetorch_jax.diagnose(model, variables, xs, loss=bad)
        for function in (tracetorch_jax.diagnose, tracetorch_jax.record):
            with pytest.raises(TypeError, match="`model` must run over time: put the cell LIB"):
                function(snn.LIB(3), variables, xs)

    def test_neurons_spread_over_space(self):
        model = snn.Unroll(snn.LIB(3, dim=-3, threshold=jnp.array([0.3, 0.3, 50.0])))
        xs = reference.inputs(2, 20, 3, 4, 4)
        (report,) = tracetorch_jax.diagnose(model, model.init(KEY, xs), xs).layers
        assert report.dead == pytest.approx(1 / 3)


@pytest.mark.parametrize("decode", ["mean", "last", "max", "count"])
def test_accuracy_is_of_the_greatest_logit(decode):
    draw = np.random.default_rng(0)
    ys = draw.normal(size=(50, 7, 4)).astype(np.float32)
    lengths, labels = draw.integers(1, 8, 50), draw.integers(0, 4, 50)
    if decode == "count":
        ys = (ys > 0).astype(np.float32)
    logits = getattr(tracetorch_jax.decode, decode)(ys, seq_lengths=lengths)
    right = np.asarray(logits).argmax(-1) == labels
    options = {"decode": decode, "seq_lengths": lengths}
    np.testing.assert_array_equal(metrics.accuracy(ys, labels, **options), right)
    table = np.asarray(metrics.confusion_matrix(ys, labels, **options))
    assert table.sum() == 50 and np.trace(table) == right.sum()
    np.testing.assert_array_equal(table.sum(axis=1), np.bincount(labels, minlength=4))
    swapped = metrics.accuracy(ys.swapaxes(0, 1), labels, time_major=True, **options)
    np.testing.assert_array_equal(swapped, right)


def test_accuracy_of_what_is_not_known():
    """NaN where a logit is NaN or a traced label out of range, and not counted as a confusion."""
    ys = jnp.zeros((4, 3, 2)).at[0, 0, 1].set(jnp.nan)
    labels = jnp.array([0, 0, 2, -1])
    right = jax.jit(metrics.accuracy)(ys, labels)
    np.testing.assert_array_equal(right, [np.nan, 1, np.nan, np.nan])
    assert jax.jit(metrics.confusion_matrix)(ys, labels).tolist() == [[1, 0], [0, 0]]
    for measure in (metrics.accuracy, metrics.confusion_matrix):
        with pytest.raises(ValueError, match="`labels` must lie between 0 and C - 1 = 1; got 2"):
            measure(ys, labels)
        with pytest.raises(ValueError, match="`decode` must be one of 'mean', 'last'"):
            measure(ys, labels[:2], decode="first")
