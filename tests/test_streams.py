"""Streams that share a batch: each gets what it would get alone."""

import concurrent.futures

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from tracetorch_jax import export, snn, spikes
from tracetorch_jax import nnx as tnnx

KEY = jax.random.key(0)
N = 4


class Sideways(nn.RNNCellBase):
    """A cell whose batch is the second axis of its states and of one of its outputs."""

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((2, *input_shape))

    @property
    def num_feature_axes(self):
        return 1

    def __call__(self, carry, x):
        carry = 0.5 * carry + jnp.stack([x, x * x])
        return carry, {"first": carry[0], "both": carry.sum(-1)}


STACK = snn.Sequential(
    [
        nn.Dense(N),
        snn.DSRLIB(N),
        snn.RLIT(N),
        snn.ASRLITS(N),
        snn.Recurrent(snn.LIB(N)),
        snn.Delay(N, 3),
        snn.DelayedDense(N, 5),
        nn.GRUCell(N),
        snn.Residual([nn.Dense(N), snn.SLIT(N)]),
        snn.LI(N),
    ]
)
IMAGES = snn.Sequential(
    [nn.Conv(2, (2, 2)), snn.SLIB(2), lambda x: x.reshape(*x.shape[:-3], -1), nn.Dense(2)]
)
FEWER = snn.Sequential([nn.Dense(N), snn.Recurrent(snn.LIB(N)), snn.Delay(N, 2), snn.LI(N)])
MODELS = {
    "layers": (STACK, "b, 3", {}),
    "images": (IMAGES, "b, 4, 4, 1", {}),
    "words": (snn.Sequential([nn.Embed(9, N), snn.LIB(N)], feature_axes=0), "b", {"dtype": int}),
    "sideways": (Sideways(), "b, 3", {}),
    "fewer": (FEWER, "b, 3", {}),
    "half": (snn.SRLIT(3), "b, 3", {"dtype": "bfloat16"}),
}


def drawn(*shape, seed=0):
    """By NumPy, which compiles nothing."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def variables_of(cell, x):
    """Any values, in the shapes of the cell's variables."""
    carry = cell.initialize_carry(KEY, x.shape)
    shapes = jax.eval_shape(
        cell.init, KEY, carry, jnp.zeros(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))
    )
    leaves, structure = jax.tree.flatten(shapes)
    return structure.unflatten([drawn(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)])


def prepared(name):
    """A cell, variables, its program, and inputs ``[T, 3, ...]``."""
    cell, shape, options = MODELS[name]
    xs = 2 * drawn(12, 3, *(int(size) for size in shape.split(",")[1:]))
    xs = (abs(xs) if name == "words" else xs).astype(options.get("dtype", "float32"))
    with jax.numpy_dtype_promotion("standard"):
        variables = variables_of(cell, xs[0])
        program = export.step(cell, variables, shape, platforms=["cpu"], **options)
    return cell, variables, program, xs


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def alone(streams, xs, name="alone"):
    """Outputs and the last carry of one stream among no others."""
    streams.join(name)
    outs = [streams.step({name: x})[name] for x in xs]
    carry = streams.carry(name)
    streams.leave(name)
    return outs, carry


@pytest.mark.parametrize("model", reference.first(MODELS, 4))
def test_a_stream_gets_what_it_would_get_alone(model):
    """One joins late, and one leaves early, into whose slot another comes. Some wait."""
    cell, variables, program, xs = prepared(model)
    streams = export.Streams(program, capacity=3)
    outs = {"a": [], "b": [], "c": []}
    own = dict(zip(outs, (xs[:6, 0], xs[:8, 1], xs[:5, 2]), strict=True))
    streams.join("a")
    streams.join("b")
    for t in range(12):
        if t == 6:
            assert len(outs["a"]) == 6
            last = streams.carry("a")
            streams.leave("a")
            streams.join("c")
        takes = [name for name in streams.streams if name != "b" or t % 3]
        now = {n: own[n][len(outs[n])] for n in takes if len(outs[n]) < len(own[n])}
        waits = [name for name in streams.streams if name not in now]
        before = [streams.carry(name) for name in waits]
        got = streams.step(now)
        assert list(got) == list(now)
        for name, y in got.items():
            outs[name].append(y)
        assert_equal([streams.carry(name) for name in waits], before)
    lasts = {"a": last, "b": streams.carry("b"), "c": streams.carry("c")}
    other = export.Streams(program, capacity=3)
    with jax.numpy_dtype_promotion("standard"):
        step = jax.jit(lambda carry, x: cell.apply(variables, carry, x))
    for name, x in own.items():
        assert_equal((outs[name], lasts[name]), alone(other, x))
        carry = export.initial_carry(program, x[:1])
        for x_t, y in zip(x, outs[name], strict=True):
            with jax.numpy_dtype_promotion("standard"):
                carry, want = step(carry, x_t[None])
            want = jax.tree.map(lambda a, b: np.reshape(b, a.shape), y, want)  # a batch of one
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), y, want)
            assert jax.tree.leaves(y)[0].dtype == jax.tree.leaves(want)[0].dtype
    assert any(np.any(y) for y in jax.tree.leaves(outs))


@pytest.fixture(scope="module")
def small():
    """The program of a stack, and streams ``[T, 3, N]``."""
    _, _, program, xs = prepared("fewer")
    return program, xs


def outputs(streams, xs, names=("a", "b", "c")):
    """Each step's outputs of streams that all take every step."""
    return [streams.step(dict(zip(names, x, strict=True))) for x in xs]


def joined(program, names, capacity=4):
    streams = export.Streams(program, capacity=capacity)
    for name in names:
        streams.join(name)
    return streams


@pytest.mark.optimised
@pytest.mark.slow
def test_bit_for_bit_as_users_compile():
    """First, middle and last slots; sizes that are no powers of two."""
    cell = snn.Sequential([nn.Dense(37), snn.SRLIT(37), nn.Dense(9), snn.LI(9)])
    xs = drawn(20, 19, 5)
    program = export.step(cell, variables_of(cell, xs[0]), "b, 5", platforms=["cpu"])
    together = outputs(joined(program, range(19), capacity=19), xs, range(19))
    other = export.Streams(program, capacity=19)
    for name in (0, 7, 8, 18):
        got, _ = alone(other, xs[:, name])
        assert_equal(got, [y[name] for y in together])
    assert np.any(together[-1][0])


def test_nan_stays_in_its_stream_and_leaves_with_it(small):
    program, xs = small
    want = outputs(joined(program, "abc"), xs)
    streams, broken = joined(program, "abc"), xs.copy()
    broken[3, 1] = np.nan
    for t, x in enumerate(broken):
        got = streams.step(dict(zip("abc", x, strict=True)))
        assert_equal([got["a"], got["c"]], [want[t]["a"], want[t]["c"]])
    assert np.isnan(got["b"]).all()
    streams.leave("b")
    streams.join("d")  # takes the slot that had NaN
    assert_equal([streams.step({"d": x})["d"] for x in xs[:, 1]], [y["b"] for y in want])


def test_a_stream_moves_and_goes_on(small, tmp_path):
    """To a greater server, of a program read from a file, through NumPy; and on its own."""
    program, xs = small
    want = [y["a"] for y in outputs(joined(program, "abc"), xs)]
    streams = joined(program, "abc")
    outputs(streams, xs[:5])
    carry = jax.tree.map(np.asarray, streams.carry("a"))
    loaded = export.load(export.save(tmp_path / "it", program))
    other = joined(loaded, "xyz", capacity=6)
    other.join("a", carry)
    got = [other.step({"a": x, "z": x})["a"] for x in xs[5:, 0]]
    np.testing.assert_allclose(got, want[5:], atol=1e-5)
    step = jax.jit(program.call)
    for x, y in zip(xs[5:, 0], want[5:], strict=True):
        carry, out = step(carry, x[None])
        np.testing.assert_allclose(out[0], y, atol=1e-5)


def test_a_carry_is_a_copy(small):
    """Also where the batch has one slot, which is the whole of it; and a given one stays."""
    program, xs = small
    streams = joined(program, "a", capacity=1)
    streams.step({"a": xs[0, 0]})
    carry = streams.carry("a")
    before = jax.tree.map(np.array, carry)
    streams.step({"a": xs[1, 0]})
    assert_equal(carry, before)
    streams.leave("a")
    streams.join("b", carry)
    streams.step({"b": xs[2, 0]})
    assert_equal(carry, before)
    streams.leave("b")
    streams.join("c")
    assert not any(map(np.any, jax.tree.leaves(streams.carry("c"))))


def test_models_of_nnx():
    model = tnnx.Sequential([nnx.Linear(3, N, rngs=nnx.Rngs(0)), tnnx.SLIT(N)])
    streams = joined(export.step(model, "b, 3", platforms=["cpu"]), "ab")
    carry, x = None, np.ones(3, np.float32)
    for _ in range(6):
        carry, y = model(carry, jnp.asarray(x[None]))
        np.testing.assert_allclose(streams.step({"b": x})["b"], y[0], atol=1e-6)
    assert not any(map(np.any, jax.tree.leaves(streams.carry("a"))))
    assert np.any(streams.carry("b")["layers_1"]["mem"])


def test_nothing_is_compiled_after_the_start(small):
    program, xs = small
    streams = export.Streams(program, capacity=3)
    seen = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *a, **k: seen.append(name))
    jax.jit(lambda x: x + 3.25)(np.zeros((1, 2, 3)))
    assert any("backend_compile" in name for name in seen)  # it does listen
    seen.clear()
    for t, x in enumerate(xs[:6]):
        streams.join(t)
        streams.step({name: x[0] for name in streams.streams})
        if t > 1:
            streams.leave(t - 2)
        carry = streams.carry(t)
        streams.leave(t)
        streams.join(t, carry)
    assert streams.streams == (4, 5)
    assert not seen


def test_carries_are_not_copied_to_take_a_step(small):
    """The step writes where the states were: each has its buffer from one step to the next."""
    program, xs = small
    streams = joined(program, "abc")
    buffers = []
    for x in xs[:3]:
        streams.step({"a": x[0]})
        leaves = jax.tree.leaves(streams._carry)
        buffers.append(sorted(leaf.unsafe_buffer_pointer() for leaf in leaves))
    assert buffers[0] == buffers[1] == buffers[2]


def test_names(small):
    streams = export.Streams(small[0], capacity=3)
    x = small[1][0, 0]
    for name in ("a", 7, ("b", 1)):
        streams.join(name)
    assert streams.streams == ("a", 7, ("b", 1)) and streams.capacity == 3
    assert set(streams.step({7: x, ("b", 1): x})) == {7, ("b", 1)}
    streams.leave("a")
    streams.join("a")
    assert streams.streams == (7, ("b", 1), "a")
    assert streams.step({}) == {}


def test_threads_wait_for_one_another(small):
    program, xs = small
    streams = joined(program, "a", capacity=9)
    want = alone(export.Streams(program, capacity=9), np.tile(xs[:, 0], (25, 1)))

    def come_and_go(own):
        for _ in range(60):
            streams.join(own)
            streams.step({own: xs[0, 1]})
            carry = streams.carry(own)
            streams.leave(own)
            streams.join(own, carry)
            streams.leave(own)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        others = [pool.submit(come_and_go, own) for own in range(3)]
        outs = [streams.step({"a": x})["a"] for x in np.tile(xs[:, 0], (25, 1))]
        for other in others:
            other.result()
    assert_equal((outs, streams.carry("a")), want)
    assert streams.streams == ("a",)


def test_samples_of_any_kind(small):
    program, xs = small
    x = xs[0, 0]
    streams = joined(program, "abcd")
    given = {"a": x, "b": x.tolist(), "c": x.astype(np.float64), "d": jnp.asarray(x)}
    want, *others = streams.step(given).values()
    for y in others:
        np.testing.assert_array_equal(y, want)


def test_integers_of_64_bits_keep_their_value():
    _, _, program, _ = prepared("words")
    streams = joined(program, "ab")
    want = streams.step({"a": np.int32(3)})["a"]
    assert_equal(streams.step({"b": 3})["b"], want)
    with pytest.raises(
        ValueError, match=r"`samples\['a'\]` must hold integers that int32 holds; g"
    ):
        streams.step({"a": 2**32 + 3})


LAYER = snn.LIB(N)
OWN = LAYER.init(KEY, None, jnp.zeros((1, N)))


def of(shape, cell=LAYER, variables=OWN, platforms=("cpu",), **options):
    return export.step(cell, variables, shape, platforms=platforms, **options)


class Shared(Sideways):
    """A cell that counts the steps of all streams at once."""

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((), jnp.int32)

    def __call__(self, carry, x):
        return carry + 1, x


PROGRAMS = [
    (lambda: LAYER, TypeError, "`program` must be a jax.export.Exported.*got LIB"),
    (
        lambda: export.sequence(snn.Unroll(LAYER), {"params": {"cell": OWN["params"]}}, "b, t, 4"),
        ValueError,
        "`program` must be one step of a stream; got 'sequence'",
    ),
    (lambda: of("1, 4"), ValueError, r"any number of streams along its first axis.*got \[1, 4\]"),
    (lambda: of("4"), ValueError, r"any number of streams along its first axis.*got \[4\]"),
    (lambda: of("2*b, 4"), ValueError, r"any number of streams.*got \[2\*b, 4\]"),
    (lambda: of("b, t, 4"), ValueError, r"fixed size along the others.*got \[b, t, 4\]"),
    (lambda: of("b, 4", platforms=["tpu"]), ValueError, "exported for platforms.*tpu"),
    (lambda: of("b, 4", bake=False), ValueError, "must hold its variables.*bake=False"),
    (
        lambda: of("b, 4", snn.LIB(N, spike=spikes.bernoulli(spikes.atan(2.0))), rngs=["spike"]),
        ValueError,
        "`program` must draw no random numbers.*got one made with `rngs`",
    ),
    (
        lambda: of("b, 4", Shared(), {}),
        ValueError,
        r"one axis of streams, b, in each state and output.*got int32\[\]",
    ),
    (
        lambda: of(
            "b, 4",
            snn.Sequential([LAYER, lambda x: x.sum(0)]),
            {"params": {"layers_0": OWN["params"]}},
        ),
        ValueError,
        r"one axis of streams, b, in each state and output.*got float32\[4\]",
    ),
]


@pytest.mark.parametrize("i", range(len(PROGRAMS)))
def test_programs_that_have_no_streams(i):
    make, error, message = PROGRAMS[i]
    program = make()
    with pytest.raises(error, match=message):
        export.Streams(program, capacity=2)


USES = [
    (lambda s: s.join("a"), ValueError, "`name` must be one that no stream has; got 'a'"),
    (lambda s: s.join([1]), TypeError, "unhashable"),
    (lambda s: s.leave("z"), ValueError, "`name` must be of streams that have joined; got 'z'"),
    (lambda s: s.carry("z"), ValueError, "`name` must be of streams that have joined; got 'z'"),
    (
        lambda s: s.join("d"),
        ValueError,
        "`capacity` must be greater than the number of streams for 'd' to join; got 3, and as many",
    ),
    (lambda s: s.step([1]), TypeError, "`samples` must be a dict from names.*got list"),
    (
        lambda s: s.step({"a": np.ones(N), "z": np.ones(N)}),
        ValueError,
        "`samples` must hold only names of streams that have joined; got 'z'",
    ),
    (
        lambda s: s.step({"a": np.ones(N), "b": np.ones((1, N))}),
        ValueError,
        r"`samples\['b'\]` must be float32\[4\], one input of the program; got float64\[1, 4\]",
    ),
    (
        lambda s: s.step({"a": np.ones(N), "b": np.ones(N, int)}),
        ValueError,
        r"`samples\['b'\]` must be float32\[4\], one input of the program; got int64\[4\]",
    ),
    (lambda s: s.step({"a": np.ones(N, bool)}), ValueError, r"got bool\[4\]"),
    (lambda s: s.step({"a": np.ones(N, np.float16)}), ValueError, r"got float16\[4\]"),
    (lambda s: s.step({"a": None}), TypeError, r"`samples\['a'\]` must be an array; got NoneType"),
    (lambda s: s.step({"a": [[1.0], 2.0]}), TypeError, r"`samples\['a'\]` must be an array"),
]
CARRIES = [
    ({}, "lacks 'mem'"),
    ({"mem": np.ones((1, N), np.float32), "syn": np.ones(N)}, "has unknown 'syn' float64"),
    (
        {"mem": np.ones((2, N), np.float32)},
        r"has 'mem' as float32\[2, 4\] instead of float32\[1, 4\]",
    ),
    ({"mem": np.ones((1, N))}, r"has 'mem' as float64\[1, 4\] instead of float32\[1, 4\]"),
]


@pytest.fixture(scope="module")
def full():
    return joined(of("b, 4"), "abc", capacity=3)


@pytest.mark.parametrize("i", range(len(USES)))
def test_misuse_changes_nothing(i, full):
    act, error, message = USES[i]
    before = {name: full.carry(name) for name in full.streams}
    with pytest.raises(error, match=message):
        act(full)
    assert full.streams == ("a", "b", "c")
    assert_equal({name: full.carry(name) for name in full.streams}, before)


@pytest.mark.parametrize("i", range(len(CARRIES)))
def test_carries_of_other_programs(i):
    carry, message = CARRIES[i]
    streams = export.Streams(of("b, 4"), capacity=1)
    with pytest.raises(
        ValueError, match=rf"`carry` must be that of one stream.*\['mem'\]; it {message}"
    ):
        streams.join("d", carry)
    assert streams.streams == ()


@pytest.mark.parametrize("capacity", [0, 2.0])
def test_capacities(capacity):
    with pytest.raises(
        (TypeError, ValueError), match="`capacity` must be an integer of at least 1"
    ):
        export.Streams(of("b, 4"), capacity=capacity)
