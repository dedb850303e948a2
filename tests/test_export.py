"""Programs that run without the model's code and give what the model gives, bit for bit."""

import concurrent.futures
import re
import subprocess
import sys
import textwrap
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
import reference

from tracetorch_jax import export, functional, snn, spikes

KEY = jax.random.key(0)
N = 4
EACH_LAYER = pytest.mark.parametrize("name", reference.EACH)


def start(model, xs, rngs=KEY):
    """Variables, away from their initial values."""
    variables = model.init(rngs, xs)
    params = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(KEY, p.shape, p.dtype), variables["params"]
    )
    return {**variables, "params": params}


def sequences(batch, length, *features, dtype=jnp.float32):
    return 2 * jax.random.normal(KEY, (batch, length, *features), dtype)


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def saved(path, program):
    return export.load(export.save(path, program))


@EACH_LAYER
def test_every_layer_for_every_device_any_batch_and_any_length(name, tmp_path):
    model = snn.Unroll(snn.ALL_LAYERS[name](N), return_carry=True)
    variables = start(model, sequences(1, 1, N))
    whole = saved(tmp_path / "whole", export.sequence(model, variables, f"b, t, {N}"))
    one = saved(tmp_path / "one", export.step(model, variables, f"b, {N}"))
    for program in (whole, one):
        assert program.platforms == ("cpu", "cuda", "rocm", "tpu")
    xs = sequences(2, 9, N)
    got = jax.jit(whole.call)(xs)
    scanned = model.clone(engine="scan")
    assert_equal(got, jax.jit(lambda xs: scanned.apply(variables, xs))(xs))
    np.testing.assert_allclose(jax.jit(whole.call)(xs[:1, :1])[1], got[1][:1, :1], atol=1e-6)
    carry, advance, ys = export.initial_carry(one, xs[:, 0]), jax.jit(one.call), []
    for t in range(9):
        carry, y = advance(carry, xs[:, t])
        ys.append(y)
    assert sorted(carry) == sorted(model.cell.spec.states)
    streamed = carry, jnp.stack(ys, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), streamed, got)
    assert jnp.any(got[1])


@pytest.mark.optimised
@pytest.mark.slow
@pytest.mark.parametrize("name", reference.first(["DSRLITS", "SLI"]))
def test_equal_as_users_compile(name):
    model = snn.Unroll(snn.Sequential([nn.Dense(16), snn.ALL_LAYERS[name](16), nn.Dense(3)]))
    xs = sequences(4, 30, 5)
    variables = start(model, xs)
    program = export.sequence(model, variables, "b, t, 5")
    assert_equal(jax.jit(program.call)(xs), jax.jit(lambda xs: model.apply(variables, xs))(xs))


MODELS = {
    "time-major": (snn.Unroll(snn.SLIB(N), time_major=True), "t, b, 4", (5, 2, N), {}),
    "backwards": (snn.Unroll(snn.SLIB(N), reverse=True, keep_order=True), "b, t, 4", (2, 5, N), {}),
    "no batch": (snn.Unroll(snn.SLIB(N)), "t, 4", (5, N), {}),
    "one stream": (snn.Unroll(snn.SLIB(N)), (1, "t", 4), (1, 5, N), {}),
    "images": (snn.Unroll(snn.SRLITS(3, dim=-3)), "b, t, 3, h, w", (2, 5, 3, 2, 6), {}),
    "gradient in pieces": (
        snn.Unroll(snn.DSRLITS(N), checkpoint_every="sqrt", unroll=4), "b, t, 4", (2, 5, N), {},
    ),
    "stack": (
        snn.Unroll(
            snn.Sequential(
                [
                    nn.BatchNorm(use_running_average=True),
                    nn.Dense(N),
                    snn.LIB(N),
                    nn.Dropout(0.5, deterministic=True),
                    snn.Residual([nn.Dense(N), nn.GroupNorm(2), snn.SLIT(N)]),
                    nn.GRUCell(N),
                    jnp.tanh,
                    snn.LI(N),
                ]
            )
        ),
        "b, t, 3", (2, 5, 3), {"seq_lengths": "b"},
    ),
    "convolution": (
        snn.Unroll(
            snn.Sequential(
                [
                    nn.Conv(2, (3, 3)),
                    snn.LIB(2),
                    lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
                    lambda x: x.reshape(*x.shape[:-3], -1),
                    nn.Dense(3),
                    snn.LI(3),
                ]
            )
        ),
        "b, t, 6, 6, 1", (2, 5, 6, 6, 1), {},
    ),
    "random spikes": (
        snn.Unroll(
            snn.Sequential([nn.Dense(N), snn.LIT(N, spike=spikes.bernoulli(spikes.atan(2.0)))])
        ),
        "b, t, 3", (2, 5, 3), {"rngs": ("spike",)},
    ),
    "bfloat16": (
        snn.Unroll(snn.Sequential([nn.Dense(N, dtype=jnp.bfloat16), snn.SRLIT(N), snn.LI(N)])),
        "b, t, 4", (2, 5, N), {"dtype": jnp.bfloat16},
    ),
    "words": (
        snn.Unroll(snn.Sequential([nn.Embed(9, N), snn.LIB(N)], feature_axes=0)),
        "b, t", (2, 5), {"dtype": jnp.int32},
    ),
}  # fmt: skip


def prepared(name):
    """A model, its variables, the rest of `export.sequence`'s arguments, and an input."""
    model, shape, sizes, options = MODELS[name]
    xs = 2 * jax.random.normal(KEY, sizes)
    xs = xs.astype(options.get("dtype", jnp.float32)) if name != "words" else abs(xs).astype(int)
    given = {}
    if "seq_lengths" in options:
        given["seq_lengths"] = jnp.array([5, 2], jnp.int32)
    if "rngs" in options:
        given["rngs"] = {"spike": jax.random.key(3)}
    with jax.numpy_dtype_promotion("standard"):
        variables = start(model, xs, {"params": KEY, "spike": KEY})
    return model, variables, shape, options, xs, given


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.first(MODELS, 6))
def test_whatever_a_model_holds(name, tmp_path):
    model, variables, shape, options, xs, given = prepared(name)
    with jax.numpy_dtype_promotion("standard"):
        program = saved(tmp_path / "it", export.sequence(model, variables, shape, **options))
        want = jax.jit(lambda xs, given: model.apply(variables, xs, **given))(xs, given)
    assert_equal(jax.jit(program.call)(xs, **given), want)
    assert program.platforms == export.PLATFORMS


# With only JAX at hand: what docs/how-to/deployment.md says to do.
WITHOUT = """
    import pathlib, sys
    sys.modules["tracetorch_jax"] = sys.modules["flax"] = None

    import jax
    import jax.numpy as jnp
    import numpy as np

    data = np.load("data.npz")
    xs = jnp.asarray(data["xs"])

    program = jax.export.deserialize(bytearray(pathlib.Path("whole").read_bytes()))
    ys = jax.jit(program.call)(xs, seq_lengths=jnp.asarray(data["lengths"]))
    np.testing.assert_array_equal(ys, data["ys"])

    program = jax.export.deserialize(bytearray(pathlib.Path("one").read_bytes()))
    carry, x = jax.tree.unflatten(program.in_tree, program.in_avals)[0]
    carry = jax.tree.map(lambda state: jnp.zeros((2, *state.shape[1:]), state.dtype), carry)
    step = jax.jit(program.call)
    for t in range(xs.shape[1]):
        carry, y = step(carry, xs[:, t])
        np.testing.assert_array_equal(y, data["stream"][:, t])
    assert sorted(carry) == ["layers_2", "layers_4", "layers_5", "layers_7"], carry
    assert sorted(carry["layers_4"]["layers_2"]) == ["mem", "syn"]
    assert not [name for name in sys.modules if name.split(".")[0] in ("optax", "orbax")]
    print("equal")
"""


@pytest.mark.slow
def test_without_the_code(tmp_path):
    """In a process in which neither this package nor Flax can be imported."""
    model, variables, shape, options, xs, given = prepared("stack")
    export.save(tmp_path / "whole", export.sequence(model, variables, shape, **options))
    export.save(tmp_path / "one", export.step(model, variables, "b, 3"))
    scanned = model.clone(engine="scan")
    ys = jax.jit(lambda xs: scanned.apply(variables, xs, **given))(xs)
    own = {name: collection["cell"] for name, collection in variables.items()}
    step = jax.jit(lambda carry, x: model.cell.apply(own, carry, x))
    carry, stream = model.cell.initialize_carry(KEY, xs[:, 0].shape), []
    for t in range(xs.shape[1]):
        carry, y = step(carry, xs[:, t])
        stream.append(y)
    np.savez(
        tmp_path / "data.npz",
        xs=xs,
        ys=ys,
        lengths=given["seq_lengths"],
        stream=jnp.stack(stream, 1),
    )
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert out.stdout == "equal\n", out.stderr


@pytest.mark.slow
def test_the_page_on_deployment_runs(tmp_path, monkeypatch):
    """What it says to make, and then to run with JAX alone."""
    make, run = pages.blocks(pages.read("how-to/deployment"))[:2]
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"):
        exec(compile(make, "make", "exec"), {"__name__": "page"})
    alone = "import sys\nsys.modules['tracetorch_jax'] = sys.modules['flax'] = None\n"
    subprocess.run([sys.executable, "-c", alone + run], check=True)


def test_variables_can_stay_outside():
    model = snn.Unroll(snn.LIB(N))
    xs = sequences(2, 5, N)
    one, two = start(model, xs), model.init(KEY, xs)
    program = export.sequence(model, one, "b, t, 4", bake=False)
    for variables in (one, two):
        assert_equal(jax.jit(program.call)(variables, xs), jax.jit(model.apply)(variables, xs))
    program = export.step(model, one, "b, 4", bake=False)
    own = {"params": one["params"]["cell"]}
    carry = export.initial_carry(program, xs[:, 0])
    assert_equal(
        jax.jit(program.call)(own, carry, xs[:, 0]),
        jax.jit(model.cell.apply)(own, carry, xs[:, 0]),
    )


@pytest.mark.slow
def test_programs_can_be_differentiated(tmp_path):
    """By their input and, where they take them, by the variables."""
    model = snn.Unroll(snn.SRLIT(N))
    xs = sequences(2, 11, N)
    variables = start(model, xs)
    program = export.sequence(model, variables, "b, t, 4", bake=False)
    program = export.load(export.save(tmp_path / "it", program, vjp_order=1))
    gradient = jax.jit(
        jax.grad(lambda run, v, xs: jnp.square(run(v, xs)).sum(), (1, 2)), static_argnums=0
    )
    got, want = gradient(program.call, variables, xs), gradient(model.apply, variables, xs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
    assert max(float(abs(leaf).max()) for leaf in jax.tree.leaves(want)) > 0.1
    plain = export.load(export.save(tmp_path / "plain", program))
    with pytest.raises(ValueError, match="No VJP is available"):
        gradient(plain.call, variables, xs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_do_not_depend_on_what_is_fast_where_it_is_made(dtype, monkeypatch):
    """On a CPU a loop is cut and numbers are cast otherwise than on an accelerator."""
    model = snn.Unroll(snn.DSRLITS(N), return_carry=True)
    xs = sequences(2, 9, N).astype(dtype)
    variables = start(model, xs)
    runs = []
    for backend in ("cpu", "gpu"):
        jax.clear_caches()
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        program = export.sequence(model, variables, "b, t, 4", dtype=dtype)
        monkeypatch.undo()
        runs.append((program, jax.jit(program.call)(xs)))
    (one, here), (two, there) = runs
    assert one.mlir_module() != two.mlir_module()
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_allclose(a.astype("float32"), b.astype("float32"), atol=1e-6)
    jax.clear_caches()


def test_steps_of_ones_own_take_symbols():
    """Not elementwise, in pieces, of any length."""

    def step(params, state, x):
        state = jnp.tanh(state @ params + x)
        return state, state.sum(-1)

    def run(xs):
        params = jnp.eye(3) * 0.5
        return functional.unroll(
            step, params, jnp.zeros(xs.shape[1:]), xs, checkpoint_every=4, unroll=2
        )

    xs = jax.random.normal(KEY, (7, 2, 3))
    spec = jax.ShapeDtypeStruct(jax.export.symbolic_shape("t, b, 3"), jnp.float32)
    got = jax.jit(jax.export.export(jax.jit(run))(spec).call)(xs)
    for a, b in zip(got, run(xs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


DENSE = snn.Unroll(snn.Sequential([nn.Dense(N), snn.LIB(N)]))
GIVEN = {
    "params": {
        "cell": {
            "layers_0": {"kernel": jnp.ones((3, N)), "bias": jnp.ones(N)},
            "layers_1": {"raw_beta": jnp.ones(N), "raw_threshold": jnp.ones(N)},
        }
    }
}
RANDOM = snn.Unroll(snn.LIB(N, spike=spikes.bernoulli(spikes.atan(2.0))))
LAYER = {"params": {"cell": GIVEN["params"]["cell"]["layers_1"]}}
TRAINING = snn.Unroll(snn.Sequential([nn.BatchNorm(use_running_average=False), snn.LIB(N)]))


class Drifting(nn.RNNCellBase):
    """A cell that does not keep its carry's dtype."""

    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(input_shape, jnp.int32)

    @property
    def num_feature_axes(self):
        return 1

    def __call__(self, carry, x):
        return x, x


ERRORS = [
    (lambda: export.sequence(jnp.tanh, {}, "b"), TypeError, "`model` must be a Flax module"),
    (
        lambda: export.sequence(DENSE, None, "b, t, 3"),
        TypeError,
        "`variables` must be a dict of collections.*got NoneType",
    ),
    (
        lambda: export.sequence(DENSE, {}, "b, t, 3"),
        ValueError,
        '`variables` must be those of `model`: .*"kernel"',
    ),
    (
        lambda: export.sequence(DENSE, GIVEN["params"], "b, t, 3"),
        ValueError,
        "`variables` must be those of `model`",
    ),
    (
        lambda: export.sequence(DENSE, GIVEN, "b, t, 5"),
        ValueError,
        r"`variables` must be those of `model`.*\(5, 4\).*\(3, 4\)",
    ),
    (
        lambda: export.sequence(snn.Unroll(snn.LIB(N)), LAYER, "b, t, 5"),
        ValueError,
        "`xs` must have num_neurons = 4 at axis -1",
    ),
    (lambda: export.sequence(DENSE, GIVEN, "3"), ValueError, "`xs` must have a time axis"),
    (
        lambda: export.sequence(DENSE, GIVEN, "b t"),
        ValueError,
        "`shape` must be sizes .*, such as \"b, t, 20\"; got 'b t'",
    ),
    (
        lambda: export.sequence(DENSE, GIVEN, (0, 5, 3)),
        ValueError,
        r"`shape` must be sizes of at least 1.*got \(0, 5, 3\)",
    ),
    (
        lambda: export.sequence(DENSE, GIVEN, "b, t, 3", dtype="number"),
        TypeError,
        "`dtype` must be a type of numbers; got 'number'",
    ),
    (
        lambda: export.sequence(DENSE, GIVEN, "b, t, 3", dtype="float64"),
        ValueError,
        "`dtype` must be one that JAX holds, such as float32; float64 takes jax_enable_x64",
    ),
    (
        lambda: export.step(DENSE, GIVEN, "b, 3", dtype=jnp.float64),
        ValueError,
        "`dtype` must be one that JAX holds",
    ),
    (
        lambda: export.sequence(DENSE, GIVEN, "b, t, 3", seq_lengths="t"),
        ValueError,
        r"`seq_lengths` must have one length per sequence, shape \(b,\)",
    ),
    (
        lambda: export.sequence(DENSE, GIVEN, "b, t, 3", platforms=["gpu"]),
        ValueError,
        "`platforms` must be one of 'cpu', 'cuda', 'rocm', 'tpu'; got 'gpu'",
    ),
    (
        lambda: export.sequence(DENSE, GIVEN, "b, t, 3", platforms="cpu"),
        ValueError,
        "`platforms` must be a list of at least one; got 'cpu'",
    ),
    (
        lambda: export.sequence(DENSE, GIVEN, "b, t, 3", rngs="spike"),
        TypeError,
        "`rngs` must be a list of names; got 'spike'",
    ),
    (
        lambda: export.sequence(RANDOM, LAYER, "b, t, 4"),
        ValueError,
        '`rngs` must name what .*: .*PRNG for "spike"$',
    ),
    (
        lambda: export.sequence(TRAINING, TRAINING.init(KEY, jnp.ones((2, 2, N))), "b, t, 4"),
        ValueError,
        "`model` must be in its inference mode",
    ),
    (
        lambda: export.sequence(DENSE.clone(engine="parallel"), GIVEN, "b, t, 3"),
        ValueError,
        "`engine` 'parallel' needs a number of steps T that is known .*; got the symbol t",
    ),
    (
        lambda: export.sequence(DENSE.clone(engine="fused"), GIVEN, "b, t, 3"),
        ValueError,
        r"`engine` 'fused' needs sizes that are known .*, not \(t, b, 4\)",
    ),
    (
        lambda: export.step(nn.Dense(3), GIVEN, "b, 3"),
        TypeError,
        "`model` must be a cell, or the Unroll of one, to take steps; got Dense",
    ),
    (
        lambda: export.step(DENSE.clone(reverse=True), GIVEN, "b, 3"),
        ValueError,
        "`model` must run forwards to take steps; got an Unroll with reverse=True",
    ),
    (
        lambda: export.step(DENSE, {"params": GIVEN["params"]["cell"]}, "b, 3"),
        ValueError,
        r"`variables` must be those of the Unroll.* got \{'params': \['layers_0', 'layers_1'\]\}",
    ),
    (
        lambda: export.step(DENSE.cell, GIVEN, "b, 3"),
        ValueError,
        "`variables` must be those of the cell Sequential",
    ),
    (
        lambda: export.step(Drifting(), {}, "b, 3"),
        ValueError,
        r"`model` must give a carry as it gets it: int32\[b, 3\]; got float32\[b, 3\]",
    ),
    (
        lambda: export.save("/tmp/it", DENSE),
        TypeError,
        "`program` must be a jax.export.Exported; got Unroll",
    ),
    (
        lambda: export.load("/nowhere/it"),
        FileNotFoundError,
        "`path` must be a file; there is none at /nowhere/it",
    ),
    (
        lambda: export.load(__file__),
        ValueError,
        "`path` must hold an exported program; .*test_export.py does not",
    ),
]


@pytest.mark.parametrize("i", range(len(ERRORS)))
def test_errors(i):
    act, error, message = ERRORS[i]
    with pytest.raises(error, match=message):
        act()


def test_pythons_own_types_have_the_width_that_jax_gives_them():
    program = export.step(DENSE, GIVEN, "b, 3", dtype=float)
    assert program.in_avals[-1].dtype == jnp.float32


def test_streams_start_from_an_input_that_fits():
    program = export.step(DENSE, GIVEN, "b, 3")
    with pytest.raises(ValueError, match=r"`x` must have the shape \[b, 3\]; got \(2, 4\)"):
        export.initial_carry(program, jnp.ones((2, 4)))
    whole = export.sequence(DENSE, GIVEN, "b, t, 3")
    with pytest.raises(ValueError, match="`program` must be one step of a stream; got 'sequence'"):
        export.initial_carry(whole, jnp.ones((2, 3)))
    halved = snn.Sequential([nn.Conv(1, (2,), strides=2), snn.LIB(1)])
    variables = halved.init(KEY, None, jnp.ones((1, 8, 1)))
    fixed = export.step(halved, variables, "b, 8, 1")
    assert export.initial_carry(fixed, jnp.ones((3, 8, 1)))["layers_1"]["mem"].shape == (3, 4, 1)
    program = export.step(halved, variables, "b, w, 1")
    with pytest.raises(ValueError, match=r"states whose sizes are those of its input or fixed.*w"):
        export.initial_carry(program, jnp.ones((3, 8, 1)))


def test_streams_start_with_states_of_the_programs_type():
    cell = snn.SLI(N, dtype=jnp.bfloat16)
    variables = cell.init(KEY, None, jnp.ones((1, N)))
    program = export.step(cell, variables, "b, 4")
    x = jnp.ones((2, N))
    carry, y = program.call(export.initial_carry(program, x), x)
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, y))} == {jnp.dtype(jnp.bfloat16)}


def test_nothing_is_overwritten_unasked(tmp_path):
    program = export.step(DENSE, GIVEN, "b, 3", platforms=["cpu"])
    path = export.save(tmp_path / "it", program)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="`path` exists.*Use overwrite=True to replace it"):
        export.save(path, export.sequence(DENSE, GIVEN, "b, t, 3", platforms=["cpu"]))
    assert path.read_bytes() == before
    export.save(path, export.sequence(DENSE, GIVEN, "b, t, 3", platforms=["cpu"]), overwrite=True)
    assert export.load(path).fun_name == "sequence"
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match="It is no file"):
        export.save(tmp_path / "folder", program, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "it"]


def test_a_link_to_a_file_stays_one(tmp_path):
    program = export.step(DENSE, GIVEN, "b, 3", platforms=["cpu"])
    path, link = tmp_path / "step-1", tmp_path / "latest"
    link.symlink_to(path)
    assert export.save(link, program) == path
    old = path.read_bytes()
    export.save(link, program, vjp_order=1, overwrite=True)
    assert link.is_symlink() and path.read_bytes() != old
    for act in (lambda path: export.save(path, program), export.load):
        with pytest.raises(ValueError, match="`path` must lead somewhere; got ~no_such_user/it"):
            act("~no_such_user/it")


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_that_save_at_once_one_wins(overwrite, tmp_path):
    programs = []
    for width in (2, 3):
        cell = snn.LI(width)
        variables = cell.init(KEY, None, jnp.ones((1, width)))
        programs.append(export.step(cell, variables, f"b, {width}"))
    path, start = tmp_path / "it", threading.Barrier(2)

    def save(program):
        start.wait()
        try:
            return export.save(path, program, overwrite=overwrite)
        except FileExistsError as error:
            assert "`path` exists" in str(error)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(save, programs))
    assert sum(map(bool, done)) == 1 + overwrite
    fits = [str(export.load(path).in_avals) == str(program.in_avals) for program in programs]
    assert sum(fits) == 1 and done[fits.index(True)] == path
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_missing_says_where_it_comes_from(tmp_path, monkeypatch):
    program = export.step(DENSE, GIVEN, "b, 3", platforms=["cpu"])
    path = export.save(tmp_path / "it", program)
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if re.search("flatbuffers|serialization", name)]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "flatbuffers", None)
        for act in (lambda: export.load(path), lambda: export.save(tmp_path / "two", program)):
            with pytest.raises(ImportError, match=r"pip install 'flatbuffers"):
                act()
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'jax2onnx"):
        export.onnx(DENSE, GIVEN, "b, 3", tmp_path / "it.onnx")
