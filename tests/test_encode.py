"""From values and events to spikes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import encode

KEY = jax.random.key(0)


CALLS = {
    "constant": lambda v, steps, **k: encode.constant(v, steps, **k),
    "rate": lambda v, steps, **k: encode.rate(KEY, v, steps, **k),
    "latency": lambda v, steps, **k: encode.latency(v, steps, **k),
    "latency log": lambda v, steps, **k: encode.latency(v, steps, scale="log", **k),
}


class TestSamples:
    """What `constant`, `rate` and `latency` have in common."""

    every = pytest.mark.parametrize("name", CALLS)

    @pytest.mark.slow
    @every
    def test_the_time_axis(self, name):
        run = CALLS[name]
        values = np.random.default_rng(0).random((2, 3, 4), np.float32)
        batch_first = run(values, 5)
        assert batch_first.shape == (2, 5, 3, 4) and batch_first.dtype == np.float32
        assert run(values, 5, time_major=True).shape == (5, 2, 3, 4)
        assert run(values[0, 0], 5).shape == (5, 4)
        np.testing.assert_array_equal(jax.jit(run, static_argnums=1)(values, 5), batch_first)
        assert jax.vmap(lambda v: run(v, 5))(values).shape == (2, 3, 5, 4)
        if name != "rate":
            np.testing.assert_array_equal(
                run(values, 5, time_major=True), jnp.moveaxis(batch_first, 1, 0)
            )

    @every
    def test_bad_input_is_named(self, name):
        run = CALLS[name]
        with pytest.raises(TypeError, match="`values` must be real numbers"):
            run(jnp.zeros(3, jnp.complex64), 5)
        if name != "constant":
            for bad in (1.5, -0.5, np.nan):
                with pytest.raises(ValueError, match=rf"`values` must lie in \[0, 1\]; got {bad}"):
                    run(jnp.array([0.5, bad]), 5)

    @every
    def test_integers_become_floats(self, name):
        assert CALLS[name](np.array([0, 1], np.uint8), 5).dtype == np.float32

    def test_constant_repeats(self):
        values = reference.inputs(2, 3)
        assert np.all(encode.constant(values, 4) == values[:, None])

    def test_rates_are_probabilities(self):
        values = jnp.array([0.0, 0.2, 0.7, 1.0])
        spikes = encode.rate(KEY, values, 4000)
        np.testing.assert_allclose(spikes.mean(0), values, atol=0.03)
        assert set(np.unique(spikes)) == {0, 1}
        np.testing.assert_array_equal(spikes, encode.rate(KEY, values, 4000))
        assert not np.array_equal(spikes, encode.rate(jax.random.key(1), values, 4000))

    def test_signed_rates(self):
        spikes = encode.rate(KEY, jnp.array([-0.6, 0.3]), 4000, signed=True)
        np.testing.assert_allclose(spikes.mean(0), [-0.6, 0.3], atol=0.03)
        with pytest.raises(ValueError, match=r"`values` must lie in \[-1, 1\]; got -1.5"):
            encode.rate(KEY, jnp.array([-1.5]), 3, signed=True)

    @pytest.mark.parametrize("scale", ["linear", "log"])
    def test_latency_is_the_formula(self, scale):
        values = np.array([1.0, 0.5, 0.1, 0.05, 0.0499, 0.0], np.float32)
        spikes = encode.latency(values, 11, scale=scale, threshold=0.05)
        counts = spikes.sum(0)
        assert counts.tolist() == [1, 1, 1, 1, 0, 0]  # at most one spike, none lost
        when = spikes.argmax(0)[:4]
        if scale == "linear":
            want = 10 * (1 - values[:4]) / 0.95
        else:
            want = 10 * np.log(values[:4]) / np.log(0.05)
        assert when.tolist() == np.round(want).tolist()
        assert (when[0], when[3]) == (0, 10)

    def test_small_probabilities_in_half_precision(self):
        values = jnp.full(1, 1e-3, jnp.bfloat16)
        spikes = encode.rate(KEY, values, 20_000)
        assert spikes.dtype == jnp.bfloat16 and 10 <= np.count_nonzero(spikes) <= 30

    @pytest.mark.parametrize("scale", ["linear", "log"])
    def test_many_steps_in_half_precision(self, scale):
        values = jnp.linspace(0.1, 1, 50).astype(jnp.bfloat16)
        spikes = encode.latency(values, 2001, scale=scale, threshold=0.1)
        want = encode.latency(values.astype(jnp.float32), 2001, scale=scale, threshold=0.1)
        assert spikes.dtype == jnp.bfloat16 and spikes.sum() == 50
        np.testing.assert_array_equal(spikes.argmax(0)[1:], want.argmax(0)[1:])

    @pytest.mark.parametrize(("dtype", "least"), [(jnp.bfloat16, 0.7), (jnp.float16, 0.1)])
    def test_a_value_that_is_the_threshold_fires(self, dtype, least):
        """Also where its type rounds both down."""
        values = jnp.array([least], dtype)
        assert float(values[0]) < least
        assert encode.latency(values, 4, threshold=least)[:, 0].tolist() == [0, 0, 0, 1]

    def test_bad_latency(self):
        with pytest.raises(ValueError, match="`scale` must be one of 'linear', 'log'"):
            encode.latency(jnp.zeros(2), 3, scale="square")
        for bad in (0, 1):
            with pytest.raises(ValueError, match="`threshold` must lie strictly between 0 and 1"):
                encode.latency(jnp.zeros(2), 3, threshold=bad)


class TestSignals:
    @staticmethod
    def signal(batch=2, steps=50, channels=3):
        rng = np.random.default_rng(0)
        return np.cumsum(rng.normal(size=(batch, steps, channels)) * 0.2, 1).astype(np.float32)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["delta", "level_crossing"])
    def test_axes_and_errors(self, name):
        run = getattr(encode, name)
        xs = self.signal()
        out = run(xs, 0.3)
        assert out.shape == xs.shape and set(np.unique(out)) == {-1, 0, 1}
        np.testing.assert_array_equal(run(xs[0], 0.3), out[0])
        np.testing.assert_array_equal(
            run(xs.swapaxes(0, 1), 0.3, time_major=True), out.swapaxes(0, 1)
        )
        np.testing.assert_array_equal(jax.jit(run)(xs, 0.3), out)
        np.testing.assert_array_equal(run(xs, jnp.full(3, 0.3)), out)
        for bad in (0, -1.0, np.nan, jnp.array([0.1, 0.0, 0.1])):
            with pytest.raises(ValueError, match="`threshold` must be finite and greater than 0"):
                run(xs, bad)
        with pytest.raises(ValueError, match=r"`xs` must be \[B, T, ...\]"):
            run(xs[0, :, 0], 0.3)
        np.testing.assert_array_equal(run(xs, [0.3, 0.3, 0.3]), out)
        for bad in (None, "0.3"):
            with pytest.raises(TypeError, match="`threshold` must be a number; got"):
                run(xs, bad)
        for shape in ((4,), (50, 2, 3), (2, 50, 3)):
            with pytest.raises(ValueError, match=r"`threshold` must broadcast .* \(2, 3\); got"):
                run(xs, np.ones(shape))
        assert run(xs[:, :0], 0.3).shape == (2, 0, 3)
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match=f"`xs` must be finite; got {bad}"):
                run(np.where(np.arange(3) == 1, bad, xs), 0.3)
        assert run(jnp.asarray(xs, jnp.bfloat16), 0.3).dtype == jnp.bfloat16

    def test_delta_is_the_change(self):
        xs = self.signal()
        change = np.diff(xs, axis=1, prepend=0)
        want = (change >= 0.3).astype(int) - (change <= -0.3).astype(int)
        np.testing.assert_array_equal(encode.delta(xs, 0.3), want)
        np.testing.assert_array_equal(encode.delta(xs, 0.3, signed=False), np.maximum(want, 0))

    def test_level_crossing_follows_the_signal(self):
        xs = self.signal()
        counts = encode.level_crossing(xs, 0.05, counts=True)
        staircase = xs[:, :1] + 0.05 * np.cumsum(counts, 1)
        assert np.abs(staircase - xs).max() < 0.05 + 1e-4 and np.abs(counts).max() > 1
        slow = np.sin(np.linspace(0, 6, 200))[None, :, None].astype(np.float32)
        staircase = slow[:, :1] + 0.05 * np.cumsum(encode.level_crossing(slow, 0.05), 1)
        assert np.abs(staircase - slow).max() < 0.05 + 1e-4

    def test_a_slow_signal_fires_by_level_and_not_by_delta(self):
        ramp = np.linspace(0, 1, 101, dtype=np.float32)[:, None]
        assert encode.delta(ramp, 0.1).sum() == 0
        assert 9 <= encode.level_crossing(ramp, 0.1).sum() <= 10

    def test_each_channel_has_a_threshold_of_its_own(self):
        xs = np.array([[0.0, 0.0], [0.6, 0.6], [1.2, 1.2]])
        for run in (encode.delta, encode.level_crossing):
            assert run(xs, [0.5, 1.0]).sum(axis=0).tolist() == [2, run is encode.level_crossing]

    def test_a_change_by_just_the_threshold_fires(self):
        xs = np.array([[0.0], [0.5], [0.0]])
        for run in (encode.delta, encode.level_crossing):
            assert run(xs, 0.5)[:, 0].tolist() == [0, 1, -1]

    def test_crossings_within_a_step_come_one_by_one(self):
        xs = np.array([[0.0], [1.2], [1.2], [1.2]])
        assert encode.level_crossing(xs, 0.5)[:, 0].tolist() == [0, 1, 1, 0]


class TestPopulation:
    def test_the_neuron_that_prefers_a_value_answers_most(self):
        out = encode.population(jnp.array([[0.0, 0.5], [1.0, 0.25]]), 5, low=0.0, high=1.0)
        assert out.shape == (2, 10)
        peaks = out.reshape(2, 2, 5)
        assert peaks.argmax(-1).tolist() == [[0, 2], [4, 1]] and np.all(peaks.max(-1) == 1)
        np.testing.assert_allclose(peaks[0, 0, 1], np.exp(-0.5), rtol=1e-5)

    def test_bad_input_is_named(self):
        x = jnp.zeros(2)
        with pytest.raises(ValueError, match="`low` must be less than `high`; got 1 and 1"):
            encode.population(x, 3, low=1, high=1)
        with pytest.raises(ValueError, match="`width` must be finite and greater than 0"):
            encode.population(x, 3, low=0, high=1, width=0)
        with pytest.raises(ValueError, match="`values` must have an axis of features"):
            encode.population(0.5, 3, low=0, high=1)


SIZE = {"num_steps": 10, "num_channels": 4, "step": 2.0}


class TestEvents:
    @staticmethod
    def recordings():
        rng = np.random.default_rng(0)
        for n in (30, 1, 12):
            yield (
                np.sort(rng.uniform(0, 20, n)),
                rng.integers(0, 4, n),
                rng.choice([-1, 1], n),
            )

    @staticmethod
    def by_hand(times, channels, polarities, start=0.0):
        out = np.zeros((10, 4), np.float32)
        np.add.at(out, (np.floor((times - start) / 2.0).astype(int), channels), polarities)
        return out

    def test_frames_of_too_many_elements_are_refused(self):
        words = r"`num_steps` times `num_channels` must be below 2\*\*31; got 65536 \* 32768"
        with pytest.raises(ValueError, match=words):
            encode.frames([0.0], [0], num_steps=2**16, num_channels=2**15, step=1.0)

    @pytest.mark.slow
    def test_frames_add_up_the_events(self):
        for times, channels, signs in self.recordings():
            want = self.by_hand(times, channels, signs)
            np.testing.assert_array_equal(encode.frames(times, channels, signs, **SIZE), want)
            flags = signs > 0
            np.testing.assert_array_equal(encode.frames(times, channels, flags, **SIZE), want)
            counts = encode.frames(times, channels, **SIZE)
            np.testing.assert_array_equal(counts, self.by_hand(times, channels, 1))
            binary = encode.frames(times, channels, signs, binary=True, **SIZE)
            np.testing.assert_array_equal(binary, np.sign(want))
            later = encode.frames(times + 100, channels, signs, start=100.0, **SIZE)
            np.testing.assert_array_equal(later, want)

    @pytest.mark.slow
    def test_a_padded_batch_is_its_recordings(self):
        recordings = list(self.recordings())
        events = encode.pad_events(recordings)
        assert events.times.shape == (3, 30) and events.lengths.tolist() == [30, 1, 12]
        want = np.stack([encode.frames(*recording, **SIZE) for recording in recordings])

        def run(times, channels, signs, lengths, **options):
            return encode.frames(times, channels, signs, num_events=lengths, **SIZE, **options)

        np.testing.assert_array_equal(run(*events), want)
        np.testing.assert_array_equal(jax.jit(run)(*events), want)
        np.testing.assert_array_equal(run(*events, time_major=True), want.swapaxes(0, 1))
        plain = encode.pad_events([recording[:2] for recording in recordings])
        assert plain.polarities is None

    def test_what_cannot_be_checked_is_left_out(self):
        @jax.jit
        def run(times, channels):
            return encode.frames(times, channels, **SIZE)

        out = run(np.array([-1.0, 0.0, 25.0, 1.0]), np.array([0, 1, 2, 9]))
        assert out.sum() == 1 and out[0, 1] == 1

    def test_a_list_of_no_events_that_is_traced_is_empty(self):
        @jax.jit
        def run(numbers):
            return encode.frames(
                jnp.ones((2, 3)), jnp.ones((2, 3), int), num_events=numbers, **SIZE
            )

        assert run(jnp.array([0, 2])).sum((1, 2)).tolist() == [0, 2]

    def test_every_list_of_a_batch_is_in_order(self):
        with pytest.raises(ValueError, match="`times` must be in ascending order; got 1.0 after 5"):
            encode.frames([[0.0, 1.0], [5.0, 1.0]], [[0, 0], [0, 0]], **SIZE)

    def test_microseconds_in_a_long_recording(self):
        """Float32 could not tell these apart."""
        times = 3600.0 + np.array([0.5e-6, 1.5e-6, 2.5e-6])
        out = encode.frames(times, [0, 0, 0], num_steps=3, num_channels=1, step=1e-6, start=3600.0)
        assert out.ravel().tolist() == [1, 1, 1]

    def test_whole_numbers_are_divided_exactly(self):
        """Float32 could not tell these apart, and unsigned integers must not wrap."""
        times = [16_777_999, 16_778_000, 16_778_001]
        size = {"num_steps": 16_779, "num_channels": 1, "step": 1000}
        for dtype in (np.uint32, np.uint64, np.int64):
            out = encode.frames(np.array(times, dtype), [0, 0, 0], **size)
            assert out[16_777, 0] == 1 and out[16_778, 0] == 2
        where = jnp.zeros(3, jnp.int32)
        run = jax.jit(lambda times: encode.frames(times, where, **size))
        for step in (run, lambda times: encode.frames(times, where, **size)):
            out = step(jnp.array(times))
            assert out[16_777, 0] == 1 and out[16_778, 0] == 2
        late = {"num_steps": 4, "num_channels": 1, "step": 1, "start": 10**15}
        out = encode.frames(np.array([10**15, 10**15 + 3], np.uint64), [0, 0], **late)
        assert out.ravel().tolist() == [1, 0, 0, 1]
        with pytest.raises(ValueError, match="`times` must lie in .*; got 9"):
            encode.frames(np.array([9, 10**15], np.uint64), [0, 0], **late)
        out = encode.frames(jnp.array([1, 2]), [0, 0], num_steps=2, num_channels=1, step=1.5)
        assert out.ravel().tolist() == [1, 1]

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "bfloat16"])
    def test_any_type_counts_or_refuses(self, dtype):
        """Events are counted in int32, their sign is taken, and only then the type is changed."""

        def run(events, sign=None, binary=False, traced=False):
            times, where = np.zeros(events), np.zeros(events, int)
            signs = None if sign is None else np.full(events, sign)
            size = {"num_steps": 2, "num_channels": 1, "step": 1.0, "dtype": dtype}

            def call(times):
                return encode.frames(times, where, signs, binary=binary, **size)

            out = (jax.jit(call) if traced else call)(times)
            assert out.dtype == dtype
            return float(out[0, 0])

        info = jnp.iinfo if "int" in dtype else jnp.finfo
        end = float(info(dtype).max)
        for events in (200, 256, 301, 70_000):
            assert run(events, binary=True) == 1
            if events > end:
                words = (
                    f"`dtype` must hold .* got {dtype}, which ends at {end:.0f}, for .* {events}"
                )
                with pytest.raises(ValueError, match=words):
                    run(events)
                assert run(events, traced=True) == end
            else:
                assert run(events) == float(jnp.asarray(events, dtype))
            if dtype != "uint8" and events > end:
                with pytest.raises(ValueError, match=f"`dtype` must hold .* of -{events}"):
                    run(events, -1)
                assert run(events, -1, traced=True) == float(info(dtype).min)
            if dtype != "uint8":
                assert run(events, -1, binary=True) == -1

    def test_times_of_any_type(self):
        """Neither few bits nor many, nor a start beyond what the type can hold, move an event."""
        half = np.array([300.5, 301.5], np.float16)
        size = {"num_steps": 6000, "num_channels": 1, "step": 0.1}
        for times in (half, jnp.asarray(half), half.astype(jnp.bfloat16)):
            for call in (encode.frames, jax.jit(encode.frames, static_argnames=size)):
                out = call(times, np.zeros(2, np.uint8), **size)
                want = np.floor(np.asarray(times, np.float32) / np.float32(0.1))
                assert np.flatnonzero(out).tolist() == want.tolist()
        start, size = 2**60 + 1, {"num_steps": 3, "num_channels": 1, "step": 1}
        late = np.array([start, start + 1])  # a float64 start would be 2**60
        assert encode.frames(late, [0, 0], start=start, **size).ravel().tolist() == [1, 1, 0]
        lags = np.array([1, 2], "timedelta64[us]")
        assert encode.frames(lags, [0, 0], **size).ravel().tolist() == [0, 1, 1]
        where = np.array([0, 0], np.uint8)

        def traced(times, step, start):
            size = {"num_steps": 2, "num_channels": 1, "step": step, "start": start}
            return jax.jit(lambda t: encode.frames(t, where, **size))(times).ravel().tolist()

        assert traced(np.array([5, 2**31 + 10], np.uint32), 2**31, 10) == [0, 1]
        far = np.array([2**31 - 1, 2**31 - 1], np.int32)
        assert traced(far, 2**31 - 1, -(2**31) + 2) == [0, 2]
        assert traced(far, 2**31 - 2, -(2**31) + 1) == [0, 0]  # step 2 of 2
        with pytest.raises(ValueError, match="`start` must be in the range of `times`.*got -5"):
            traced(np.array([1, 2], np.uint32), 1, -5)
        steps = jax.jit(lambda step: encode.frames([1, 2], where, num_steps=3, num_channels=1,
                                                   step=step))  # fmt: skip
        assert steps(1.0).ravel().tolist() == [0, 1, 1]

    def test_numbers_of_events_of_any_type(self):
        """Places are counted in int32."""
        times, where = np.zeros((1, 300)), np.zeros((1, 300), int)

        def run(number):
            return encode.frames(times, where, num_events=number, **SIZE)[0, 0, 0]

        for dtype in (np.uint8, np.int8, np.uint16, np.int64, np.uint64):
            assert run(np.array([20], dtype)) == 20
            if np.dtype(dtype).itemsize < 8:
                assert jax.jit(run)(np.array([20], dtype)) == 20
        with pytest.raises(ValueError, match="`num_events` must lie .* E = 300; got 4294967297"):
            run(np.array([2**32 + 1]))

    def test_what_is_no_number_is_left_out(self):
        times, where = np.array([[0.0, 2.0, np.nan]]), np.array([[0, 0, 7]])
        want = self.by_hand(times[0, :2], where[0, :2], 1)
        np.testing.assert_array_equal(encode.frames(times, where, num_events=[2], **SIZE)[0], want)
        got = jax.jit(lambda *events: encode.frames(*events, **SIZE))(times[0], where[0] * 0)
        np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"times": [0.0, 20.0]}, ValueError, r"`times` must lie in .*\[0.0, 20.0\); got 20.0"),
            ({"times": [-0.1, 1.0]}, ValueError, "`times` must lie in .*got -0.1"),
            ({"times": [5.0, 1.0]}, ValueError, "`times` must be in ascending order; got 1"),
            ({"channels": [0, 4]}, ValueError, "`channels` must lie between 0 and .* 3; got 4"),
            ({"channels": [-1, 0]}, ValueError, "`channels` must lie between 0 and .* 3; got -1"),
            ({"channels": [0.0, 1.0]}, TypeError, "`channels` must be integers; got dtype float"),
            ({"channels": [0]}, ValueError, r"`channels` must have the shape of `times`, \(2,\)"),
            ({"polarities": [1, 2]}, ValueError, "`polarities` must be 1 or -1, .*; got 2"),
            ({"polarities": [1, 0]}, ValueError, "`polarities` must be 1 or -1, .*; got 0"),
            ({"polarities": [1]}, ValueError, "`polarities` must have the shape of `times`"),
            ({"step": 0.0}, ValueError, "`step` must be finite and greater than 0; got 0.0"),
            ({"start": np.nan}, ValueError, "`start` must be finite; got nan"),
            ({"times": [0.0, np.nan]}, ValueError, "`times` must lie in .*got nan"),
            ({"num_events": [1, 1]}, ValueError, "`num_events` must have one number per list"),
            ({"num_events": 3}, ValueError, "`num_events` must lie between 1 and E = 2; got 3"),
            ({"times": [], "channels": np.zeros(0, int)}, ValueError, "`times` must hold at least"),
            ({"times": 1.0, "channels": 1}, ValueError, r"`times` must be \[E\] or \[B, E\]"),
            ({"times": ["0", "1"]}, TypeError, "`times` must be real numbers; got dtype <U1"),
            ({"step": np.ones(2)}, ValueError, "`step` must be a single number; got shape"),
            ({"start": "0"}, TypeError, "`start` must be a number; got '0'"),
            ({"num_events": 1.5}, TypeError, "`num_events` must be integers; got dtype float"),
            ({"dtype": bool}, TypeError, "`dtype` must be .* that can be summed; got bool"),
            ({"dtype": jnp.uint8, "polarities": [1, -1]}, TypeError, "`dtype` must be signed"),
        ],
    )  # fmt: skip
    def test_bad_input_is_named(self, change, error, message):
        good = {"times": [0.0, 1.0], "channels": [0, 1], **SIZE}
        assert encode.frames(**good).sum() == 2
        with pytest.raises(error, match=message):
            encode.frames(**good | change)

    def test_bad_recordings_are_named(self):
        with pytest.raises(ValueError, match="`recordings` must hold at least one recording"):
            encode.pad_events([])
        with pytest.raises(ValueError, match=r"`recordings\[1\]` must hold at least one event"):
            encode.pad_events([([0.1], [0]), ([], [])])
        with pytest.raises(ValueError, match=r"`recordings\[0\]` must be vectors of one length"):
            encode.pad_events([([0.1, 0.2], [0])])
        with pytest.raises(ValueError, match="`recordings` must all be"):
            encode.pad_events([([0.1], [0]), ([0.1], [0], [1])])


class TestStandardiser:
    XS = np.random.default_rng(0).normal(3, [1, 20], (5, 7, 2)).astype(np.float32)

    def test_mean_0_and_deviation_1_in_any_order_of_the_axes(self):
        standardise = encode.standardiser(self.XS)
        ys = np.asarray(standardise(self.XS))
        np.testing.assert_allclose(ys.mean((0, 1)), 0, atol=1e-6)
        np.testing.assert_allclose(ys.std((0, 1)), 1, rtol=1e-5)
        major = encode.standardiser(self.XS.swapaxes(0, 1), time_major=True)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), major, standardise)
        np.testing.assert_array_equal(standardise(self.XS.swapaxes(0, 1)).swapaxes(0, 1), ys)
        np.testing.assert_array_equal(standardise(self.XS[:, 3]), ys[:, 3])  # a step of a stream
        np.testing.assert_allclose(jax.jit(standardise)(self.XS), ys, rtol=1e-5, atol=1e-6)
        alone = encode.standardiser(self.XS[0])
        np.testing.assert_allclose(alone.mean, self.XS[0].mean(0), rtol=1e-5)

    def test_only_what_is_there_counts(self):
        lengths = np.array([7, 3, 0, 1, 5])
        valid = np.arange(7) < lengths[:, None]
        padded = np.where(valid[..., None], self.XS, np.inf)
        padded[0, 2, 1] = np.nan
        standardise = encode.standardiser(padded, seq_lengths=lengths)
        there = padded[valid].astype(np.float64)
        np.testing.assert_allclose(standardise.mean, np.nanmean(there, axis=0), rtol=1e-6)
        np.testing.assert_allclose(standardise.deviation, np.nanstd(there, axis=0), rtol=1e-6)
        assert np.isnan(standardise(padded)[0, 2, 1])

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -1e-9, 1e-42])
    def test_a_channel_that_does_not_change_becomes_0(self, value):
        xs = np.full((4, 50, 1), value, np.float32)
        assert not encode.standardiser(xs)(xs).any()

    def test_a_deviation_that_float32_has_not_becomes_0(self):
        xs = np.array([[[1e-42], [3e-42]]], np.float32)
        standardise = encode.standardiser(xs)
        assert standardise.deviation > 0 and not standardise(xs).any()

    def test_small_units_are_standardised_as_well(self):
        xs = 1e-9 * self.XS
        assert float(encode.standardiser(xs)(xs).std()) == pytest.approx(1, rel=1e-4)

    def test_dtypes(self):
        counts = np.arange(8, dtype=np.uint8).reshape(2, 4, 1)
        assert encode.standardiser(counts)(counts).dtype == jnp.float32
        half = jnp.asarray(self.XS, jnp.bfloat16)
        assert encode.standardiser(half)(half).dtype == jnp.bfloat16

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda xs: encode.standardiser(xs[0, 0]), ValueError, "`xs` must be"),
            (lambda xs: encode.standardiser(xs / 0), ValueError, "`xs` must be finite"),
            (lambda xs: encode.standardiser(xs * [np.nan, 1]), ValueError, "a value of each"),
            (lambda xs: encode.standardiser(xs[:0]), ValueError, "a value of each channel"),
            (lambda xs: encode.standardiser(xs, seq_lengths=[8] * 5), ValueError, "`seq_lengths`"),
            (lambda xs: jax.jit(encode.standardiser)(xs), TypeError, "`xs` must be known"),
            (lambda xs: encode.standardiser(xs)(xs[..., :1]), ValueError, "the axes of the mean"),
            (lambda xs: encode.standardiser(xs)(np.float32(1)), ValueError, "axes of the mean"),
        ],
    )
    def test_bad_arguments(self, call, error, words):
        with np.errstate(all="ignore"), pytest.raises(error, match=words):
            call(self.XS)
