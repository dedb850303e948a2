"""What is saved comes back, bit by bit, or not at all."""

import collections
import contextlib
import gc
import logging
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import writers
from hypothesis import given, settings
from hypothesis import strategies as st

from tracetorch_jax import checkpoint, snn
from tracetorch_jax._shared import files as _files

KEY = jax.random.key(0)


@pytest.fixture
def collected():
    """Orbax leaves its coroutines behind where one of them fails; not for the next test."""
    yield
    gc.collect()


def orbax_fails(test):
    ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    return ignored(pytest.mark.usefixtures("collected")(test))


@pytest.fixture(autouse=True)
def standard():
    """Optax and orbax compute with mixed dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def start(width=3):
    """A training run's state, and its update."""
    model = snn.Unroll(snn.SRLITS(width), return_carry=True)
    optimiser = optax.adam(1e-2)
    params = model.init(KEY, jnp.ones((2, 4, width)))["params"]
    state = {
        "params": params,
        "optimiser": optimiser.init(params),
        "carry": model.cell.initialize_carry(None, (2, width)),
        "key": KEY,
        "step": 0,
    }

    @jax.jit
    def update(state):
        key, own = jax.random.split(state["key"])
        xs = jax.random.normal(own, (2, 4, width))

        def loss(params):
            carry, ys = model.apply({"params": params}, xs, state["carry"])
            return jnp.square(ys - 1).mean(), carry

        (_, carry), gradient = jax.value_and_grad(loss, has_aux=True)(state["params"])
        updates, moments = optimiser.update(gradient, state["optimiser"])
        return {
            "params": optax.apply_updates(state["params"], updates),
            "optimiser": moments,
            "carry": carry,
            "key": key,
            "step": state["step"] + 1,
        }

    return state, update


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if hasattr(a, "dtype") and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


@pytest.mark.slow
def test_resuming_is_not_pausing(tmp_path):
    state, update = start()
    for _ in range(3):
        state = update(state)
    path = checkpoint.save(tmp_path / "three", state)
    fresh, _ = start()
    resumed = checkpoint.restore(path, {**fresh, "step": jnp.asarray(0)})
    assert_same(resumed, state)
    for _ in range(3):
        state, resumed = update(state), update(resumed)
    assert_same(resumed, state)


def test_shapes_are_enough_to_restore(tmp_path):
    state = start()[0]["params"]
    path = checkpoint.save(tmp_path / "it", state)
    assert_same(checkpoint.restore(path, jax.eval_shape(lambda: state)), state)


def test_reading_without_knowing(tmp_path):
    """Everything comes back, containers as dicts and lists."""
    state, update = start()
    state = update(state)
    path = checkpoint.save(tmp_path / "it", state | {"rate": 0.5, "best": True, "step": 7})
    got = checkpoint.read(path)
    assert set(got) == {*state, "rate", "best"}
    assert_same(got["params"], state["params"])
    assert_same(got["key"], state["key"])
    assert_same(jax.tree.leaves(got["optimiser"]), jax.tree.leaves(state["optimiser"]))
    assert type(got["optimiser"]) is list and type(got["optimiser"][0]) is dict
    assert [(type(x), x) for x in (got["rate"], got["best"], got["step"])] == [
        (float, 0.5), (bool, True), (int, 7),
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match="`path` must be a checkpoint; there is none"):
        checkpoint.read(tmp_path)


def test_reading_what_a_manager_keeps(tmp_path):
    import orbax.checkpoint

    state = {"params": {"raw_beta": jnp.arange(3.0)}}
    with orbax.checkpoint.CheckpointManager(tmp_path) as manager:
        manager.save(4, args=orbax.checkpoint.args.StandardSave(state))
        manager.wait_until_finished()
    for folder in (tmp_path / "4", tmp_path / "4" / "default"):
        assert_same(checkpoint.read(folder), state)
    with pytest.raises(FileNotFoundError, match="`path` must be a checkpoint; there is none"):
        checkpoint.read(tmp_path)


def test_another_model_is_refused(tmp_path):
    path = checkpoint.save(tmp_path / "it", start()[0])
    wide = start(width=4)[0]
    with pytest.raises(
        ValueError, match=r"has 'params/cell/raw_beta' as float32\[3\] instead of .*\[4\]"
    ):
        checkpoint.restore(path, wide)
    other = snn.Unroll(snn.LIB(3)).init(KEY, jnp.ones((2, 4, 3)))["params"]
    with pytest.raises(ValueError, match=r"lacks 'params/cell/raw_threshold'.*unknown .*raw_alpha"):
        checkpoint.restore(path, {**start()[0], "params": other})


def test_nothing_is_overwritten_unasked(tmp_path):
    one, two = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    path = checkpoint.save(tmp_path / "it", one)
    with pytest.raises(FileExistsError, match="Use overwrite=True"):
        checkpoint.save(path, two)
    assert_same(checkpoint.restore(path, one), one)
    checkpoint.save(path, two, overwrite=True)
    assert_same(checkpoint.restore(path, one), two)


def test_what_is_missing_or_no_checkpoint_is_named(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match="`path` must be a checkpoint; there is none"):
            checkpoint.restore(path, {"a": jnp.zeros(2)})
    with pytest.raises(ValueError, match="`state` must hold at least one array"):
        checkpoint.save(tmp_path / "it", {})
    with pytest.raises(TypeError, match="`state` must hold arrays and numbers; got str at a/b"):
        checkpoint.save(tmp_path / "it", {"a": {"b": "text"}, "c": jnp.ones(2)})
    assert not (tmp_path / "it").exists()


def test_numbers_and_arrays_of_no_axes_are_one(tmp_path):
    """A state starts with step 0 and comes out of jit with an array."""
    from flax.training.train_state import TrainState

    params = {"raw_beta": jnp.ones(3)}
    fresh = TrainState.create(apply_fn=None, params=params, tx=optax.adam(1e-3))
    after = jax.jit(lambda s: s.apply_gradients(grads=params))(fresh)
    path = checkpoint.save(tmp_path / "after", after)
    assert checkpoint.restore(path, fresh).step == 1
    state = {"step": 3, "rate": 0.5, "best": True, "last": np.float32(2.5), "params": params}
    path = checkpoint.save(tmp_path / "numbers", state)
    assert_same(checkpoint.restore(path, {**state, "last": jnp.float32(0)}), state)
    shapes = checkpoint.restore(path, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state)))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(shapes))
    assert float(shapes["rate"]) == 0.5 and int(shapes["step"]) == 3
    for change in ({"rate": 0}, {"best": 0}, {"step": True}, {"step": jnp.zeros(2, int)}):
        with pytest.raises(
            ValueError, match=f"has {next(iter(change))!r} as a number .* instead of"
        ):
            checkpoint.restore(path, state | change)


def test_keys_keep_their_kind(tmp_path):
    state = {"key": jax.random.key(3, impl="rbg"), "many": jax.random.split(KEY, 3)}
    path = checkpoint.save(tmp_path / "keys", state)
    assert_same(checkpoint.restore(path, jax.eval_shape(lambda: state)), state)
    for change in (
        {"key": jax.random.key(3, impl="unsafe_rbg")},
        {"many": jax.random.key_data(state["many"])},
    ):
        (name,) = change
        with pytest.raises(ValueError, match=f"has {name!r} as key<.*> instead of"):
            checkpoint.restore(path, state | change)


def test_only_checkpoints_are_overwritten(tmp_path):
    folder, file = tmp_path / "results", tmp_path / "notes"
    folder.mkdir()
    (folder / "precious").write_text("x")
    file.write_text("x")
    for path in (folder, file):
        with pytest.raises(FileExistsError, match="`path` is no checkpoint and is left alone"):
            checkpoint.save(path, {"a": jnp.zeros(2)}, overwrite=True)
    assert (folder / "precious").read_text() == file.read_text() == "x"
    (folder / "precious").rename(folder / "_METADATA")
    with pytest.raises(FileExistsError, match="`path` is no checkpoint and is left alone"):
        checkpoint.save(folder, {"a": jnp.zeros(2)}, overwrite=True)
    assert (folder / "_METADATA").read_text() == "x"


def test_what_lies_in_a_checkpoint_is_not_lost(tmp_path):
    """Such as what it was configured by, or another checkpoint; entries of its own may vary."""
    path = checkpoint.save(tmp_path / "it", {"a": jnp.zeros(2), "key": KEY})
    checkpoint.save(path, {"step": 1}, overwrite=True)
    (path / "ocdbt.process_1").mkdir()
    checkpoint.save(path, {"a": jnp.zeros(2)}, overwrite=True)
    checkpoint.save(path / "best", {"a": jnp.zeros(2)})
    (path / "config.yaml").write_text("x")
    for other in ("best", "config.yaml"):
        with pytest.raises(FileExistsError, match=f"more than a checkpoint.* {path / other}"):
            checkpoint.save(path, {"a": jnp.ones(2)}, overwrite=True)
        assert not checkpoint.read(path)["a"].any()
        (path / other).rename(tmp_path / other)
    checkpoint.save(path, {"a": jnp.ones(2)}, overwrite=True)
    assert checkpoint.read(path)["a"].all()


def test_steps_of_a_manager_are_not_overwritten(tmp_path):
    import orbax.checkpoint

    state = {"params": {"raw_beta": jnp.arange(3.0)}}
    with orbax.checkpoint.CheckpointManager(tmp_path) as manager:
        manager.save(4, args=orbax.checkpoint.args.StandardSave(state))
    for path in (tmp_path / "4", tmp_path / "4" / "default"):
        with pytest.raises(FileExistsError, match="left alone"):
            checkpoint.save(path, {"a": jnp.ones(2)}, overwrite=True)
    assert_same(checkpoint.read(tmp_path / "4"), state)


def test_a_failed_overwrite_leaves_what_was_there(tmp_path, monkeypatch):
    import orbax.checkpoint

    state = {"a": jnp.zeros(2)}
    path = checkpoint.save(tmp_path / "it", state)

    def fail(*args, **kwargs):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(orbax.checkpoint.StandardCheckpointer, "save", fail)
        with pytest.raises(OSError, match="no space"):
            checkpoint.save(path, {"a": jnp.ones(2)}, overwrite=True)
    assert_same(checkpoint.restore(path, state), state)
    checkpoint.save(path, {"a": jnp.ones(2)}, overwrite=True)
    assert [folder.name for folder in tmp_path.iterdir()] == ["it"]


def test_what_orbax_does_not_take_is_named(tmp_path):
    for bad, error, message in (
        (jnp.ones(2), TypeError, "`state` must be a tree, such as a dict"),
        ({"a": 1j}, TypeError, "`state` must hold arrays and numbers; got complex at a"),
        (
            {"a": jnp.ones((0, 2))},
            ValueError,
            r"`state` must not hold empty arrays; .*\(0, 2\) at a",
        ),
    ):
        with pytest.raises(error, match=message):
            checkpoint.save(tmp_path / "it", bad)
    assert not list(tmp_path.iterdir())


def test_the_layers_of_a_family_share_no_checkpoint(tmp_path):
    """A name is enough to tell one layer's checkpoint from another's."""
    for name in ("LIB", "DLIB"):
        _, variables = reference.scrambled(name)
        checkpoint.save(tmp_path / name, variables)
    with pytest.raises(ValueError, match="lacks 'params/raw_beta'"):
        checkpoint.restore(tmp_path / "DLIB", reference.scrambled("LIB")[1])


@orbax_fails
def test_a_damaged_checkpoint_is_called_so(tmp_path):
    state = {"a": jnp.arange(3.0), "b": {"c": jnp.ones((2, 2))}}
    for part in ("_METADATA", "manifest.ocdbt", "d"):
        path = checkpoint.save(tmp_path / part, state)
        damaged = [file for file in path.rglob("*") if part in (file.name, file.parent.name)]
        assert damaged
        for file in damaged:
            file.is_file() and file.write_bytes(file.read_bytes()[:10])
        with pytest.raises(ValueError, match="`path` holds a checkpoint that can't be read"):
            checkpoint.restore(path, state)
        with pytest.raises((ValueError, FileNotFoundError), match="`path`"):
            checkpoint.read(path)


def test_damage_is_not_logged_as_well(tmp_path, caplog, monkeypatch):
    """Nor by tasks that orbax leaves behind, which asyncio speaks of when they are collected."""
    import orbax.checkpoint

    class Task:
        def __init__(self):
            self.itself = self

        def __del__(self):
            logging.getLogger("asyncio").error("Task exception was never retrieved")

    def fail(*args):
        Task()
        logging.getLogger("absl").error("damaged")
        raise ValueError("damaged")

    path = checkpoint.save(tmp_path / "it", {"a": jnp.ones(2)})
    monkeypatch.setattr(orbax.checkpoint.StandardCheckpointer, "metadata", fail)
    with pytest.raises(ValueError, match="`path` holds a checkpoint that can't be read"):
        checkpoint.read(path)
    gc.collect()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_is_no_number_leaves_no_trace(tmp_path):
    for bad, kind in (
        (np.array(["x"]), "<U1"),
        (np.array([None]), "object"),
        (np.zeros(2, "datetime64[s]"), "datetime64"),
    ):
        with pytest.raises(TypeError, match=f"`state` must hold .* numbers; got dtype {kind}.* a"):
            checkpoint.save(tmp_path / "it", {"a": bad})
    with pytest.raises(TypeError, match="`state` must hold values; got one being traced at a"):
        jax.jit(lambda x: checkpoint.save(tmp_path / "it", {"a": x}) and x)(jnp.ones(2))
    assert not list(tmp_path.iterdir())


def test_a_link_to_a_checkpoint_stays_one(tmp_path):
    one, two = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    path = checkpoint.save(tmp_path / "step-1", one)
    link = tmp_path / "latest"
    link.symlink_to(path, target_is_directory=True)
    assert_same(checkpoint.restore(link, one), one)
    checkpoint.save(link, two, overwrite=True)
    assert link.is_symlink()
    for name in (link, path):
        assert_same(checkpoint.restore(name, one), two)
    assert {folder.name for folder in tmp_path.iterdir()} == {"step-1", "latest"}


@pytest.mark.slow
def test_folders_of_any_name(tmp_path):
    """Of which orbax would take some for patterns, others for addresses."""
    one, two = ({"a": np.full(2, i), "key": jax.random.key(i)} for i in range(2))
    plain = checkpoint.save(tmp_path / "plain", one)
    for name in ("run[0],lr=*", "a\\b", "**", "gs:", "?\n é"):
        path = tmp_path / name / "it[1]"
        checkpoint.save(path, two)
        checkpoint.save(path, one, overwrite=True)
        copied = shutil.copytree(plain, tmp_path / name / "copied")
        moved = path.rename(tmp_path / "moved")
        for found in (moved, copied):
            assert bits(checkpoint.read(found)) == bits(one)
            assert bits(checkpoint.restore(found, two)) == bits(one)
        shutil.rmtree(moved)
    for name in ("a" * 255, "é" * 127):  # file systems allow 255 bytes, in hidden names too
        path = checkpoint.save(tmp_path / name, one)
        assert bits(checkpoint.read(path)) == bits(one)


@orbax_fails
def test_what_orbax_would_not_read_is_not_written(tmp_path, monkeypatch):
    one, two = ({"a": np.full(2, i), "key": jax.random.key(i)} for i in range(2))
    path = checkpoint.save(tmp_path / "[0]" / "it", one)
    monkeypatch.setattr(checkpoint, "plainly", contextlib.nullcontext)
    with pytest.raises(ValueError, match="is not written, as orbax would not find a there: .*/it"):
        checkpoint.save(path, two, overwrite=True)
    monkeypatch.undo()
    assert bits(checkpoint.read(path)) == bits(one)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("act", ["read", "restore", "save"])
def test_paths_that_lead_nowhere(act, tmp_path):
    def to(path):
        state = {"a": np.ones(2)}
        if act == "save":
            return checkpoint.save(path, state)
        return checkpoint.read(path) if act == "read" else checkpoint.restore(path, state)

    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for start in ("~there_is_no_such_user", loop):
        with pytest.raises((OSError, ValueError), match=str(start)):
            to(f"{start}/it")


def bits(tree):
    """Every leaf's type and bytes, by which nothing that differs is the same."""

    def of(leaf):
        if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return str(leaf.dtype), of(jax.random.key_data(leaf))
        array = np.asarray(leaf)
        kind = type(leaf) if isinstance(leaf, (bool, int, float)) else type(leaf).__module__
        return kind, array.dtype.name, array.shape, array.tobytes()

    return [of(leaf) for leaf in jax.tree.leaves(tree)]


def test_numbers_of_64_bits_are_exact(tmp_path):
    state = {
        "array": np.array([1e300, -0.0]),
        "complex": np.array([1 + 1e-300j]),
        "scalar": np.int64(2**33),
        "unsigned": np.array([2**64 - 1], np.uint64),
        "number": 2**40,
        "greatest": 2**64 - 1,
        "least": -(2**63),
        "rate": 0.1,
    }
    path = checkpoint.save(tmp_path / "it", state)
    got = checkpoint.read(path)
    assert all(isinstance(got[name], np.ndarray) for name in ("array", "complex", "scalar"))
    assert [x[1:] for x in bits(got)] == [x[1:] for x in bits(state)]
    got = checkpoint.restore(path, state)
    assert bits(got) == bits(state) and type(got["scalar"]) is np.int64
    shapes = {**state, "array": jax.ShapeDtypeStruct((2,), np.float64), "scalar": 0, "rate": 0.0}
    got = checkpoint.restore(path, shapes)
    assert bits(got) == bits(state | {"scalar": 2**33})
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for name, like, message in (
        ("number", jnp.int32(0), "has 'number' as 1099511627776, which int32.* can't hold"),
        ("least", 0.0, None),
        ("greatest", 0.0, "has 'greatest' as 18446744073709551615, which a number .float. can't"),
        ("scalar", jnp.float32(0), "has 'scalar' as int64.. instead of float32.."),
        (
            "array",
            jax.ShapeDtypeStruct((2,), np.float64, sharding=here),
            "has 'array' as float64.2., which no device holds without jax_enable_x64",
        ),
    ):
        if message is None:
            assert checkpoint.restore(path, state | {name: like})[name] == float(state[name])
            continue
        with pytest.raises(ValueError, match=message):
            checkpoint.restore(path, state | {name: like})
    with jax.enable_x64(True):
        got = checkpoint.read(path)
        assert isinstance(got["array"], jax.Array) and got["array"].dtype == np.float64
        assert bits(got["array"])[0][1:] == bits(state["array"])[0][1:]
        got = checkpoint.restore(path, state | {"number": jnp.int64(0)})
        assert got["number"].item() == 2**40


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_whole_numbers_of_more_bits_are_refused(number, tmp_path):
    with pytest.raises(ValueError, match=f"whole numbers of at most 64 bits; got {number} at a/0"):
        checkpoint.save(tmp_path / "it", {"a": [number]})
    with pytest.raises(TypeError, match="numbers; got dtype float128 at a"):
        checkpoint.save(tmp_path / "it", {"a": np.ones(2, np.longdouble)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "state",
    [
        {"a.b": np.ones(1), "a": {"b": np.zeros(1)}},
        {"a/b": np.ones(1), "a": {"b": np.zeros(1)}},
        {"a.0": np.ones(1), "a": [np.zeros(1)]},
    ],
)
def test_leaves_of_one_name_are_refused(state, tmp_path):
    with pytest.raises(
        ValueError, match="`state` must have a name of its own for every leaf.* a.[b0]"
    ):
        checkpoint.save(tmp_path / "it", state)
    assert not list(tmp_path.iterdir())
    path = checkpoint.save(tmp_path / "it", {"a.b": np.ones(1), "a/c": np.zeros(1)})
    assert bits(checkpoint.restore(path, {"a.b": np.zeros(1), "a/c": np.ones(1)})) == bits(
        {"a.b": np.ones(1), "a/c": np.zeros(1)}
    )
    with pytest.raises(ValueError, match="`like` must have a name of its own for every leaf"):
        checkpoint.restore(path, state)


def test_a_checkpoint_without_checksums(tmp_path):
    """As they were written before there were any."""
    state = {
        "params": {"cell": {"layers_1": {"raw_beta": jnp.arange(3.0) / 4}}},
        "moments": (np.array([1e300, -0.0]), jnp.asarray([1.5], jnp.bfloat16)),
        "key": jax.random.key(3),
        "step": 2**40,
        "rate": 0.1,
        "best": True,
    }
    old = shutil.copytree(reference.DATA / "checkpoint", tmp_path / "old")
    assert bits(checkpoint.restore(old, state)) == bits(state)
    assert bits(checkpoint.read(old)) == bits(state)


@orbax_fails
def test_lost_checksums_are_noticed(tmp_path):
    """A checkpoint that was written with them is not taken for an old one."""
    state = {"params": jnp.ones(2), "key": jax.random.key(3), "step": 1}
    path = checkpoint.save(tmp_path / "new", state)
    sums = path / "_CHECKSUMS"
    for left in ("{}", "[]", "null", "", None):
        sums.unlink() if left is None else sums.write_text(left)
        for act in (checkpoint.read, lambda path: checkpoint.restore(path, state)):
            with pytest.raises(ValueError, match=f"can't be read: {path}. It is damaged"):
                act(path)


@pytest.mark.slow
@orbax_fails
def test_damage_is_found_wherever_it_is(tmp_path, trials):
    """Whatever is changed in any file: the right values, or an error that says where."""
    state = {
        "params": {"kernel": jnp.arange(300.0).reshape(30, 10), "raw_beta": jnp.arange(3.0)},
        "moments": (np.array([1e300, -0.0]), jnp.asarray([1.5], jnp.bfloat16)),
        "key": jax.random.key(3),
        "step": 2**40,
    }
    path = checkpoint.save(tmp_path / "it", state)
    want = bits(state)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    draw, found = np.random.default_rng(0), collections.Counter()
    for file in files * trials(1, 40):
        whole = file.read_bytes()
        at = int(draw.integers(len(whole)))
        changes = {
            "bit": whole[:at] + bytes([whole[at] ^ 1 << draw.integers(8)]) + whole[at + 1 :],
            "end": whole[:at],
            "byte": whole[:at] + whole[at + 1 :],
        }
        for change, damaged in changes.items():
            file.write_bytes(damaged)
            for act in (lambda: checkpoint.restore(path, state), lambda: checkpoint.read(path)):
                try:
                    assert bits(act()) == want, (file, change, at)
                    found["right"] += 1
                except ValueError as error:
                    assert f"`path` holds a checkpoint that can't be read: {path}. It is" in str(
                        error
                    )
                    found["error"] += 1
        file.unlink()
        try:
            assert bits(checkpoint.read(path)) == want, file
        except ValueError as error:
            assert str(path) in str(error)
        file.write_bytes(whole)
    assert min(found.values()) > 10  # some files say only when it was saved


@orbax_fails
def test_damaged_data_are_named(tmp_path):
    state = {"params": {"kernel": jnp.arange(300.0), "bias": jnp.ones(3)}}
    path = checkpoint.save(tmp_path / "it", state)
    (sums,) = path.glob("_CHECKSUMS")
    sums.write_text(sums.read_text().replace("params/bias", "params/bios"))
    with pytest.raises(ValueError, match="can't be read: .*/it. .* .*params/bi[ao]s is damaged"):
        checkpoint.read(path)
    other = checkpoint.save(tmp_path / "other", jax.tree.map(lambda x: x + 1, state))
    shutil.copy(other / "_CHECKSUMS", sums)
    with pytest.raises(ValueError, match="params/(kernel|bias) is damaged"):
        checkpoint.restore(path, state)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_replaced(tmp_path, trials):
    """What is restored is the last that was written, or the one that was being written."""
    written = writers.run("kill", "checkpoints", tmp_path, trials(6, 60), "exchange")
    for i, value in enumerate(written):
        path = tmp_path / str(i) / "it"
        found = {x for leaf in jax.tree.leaves(checkpoint.read(path)) for x in leaf.tolist()}
        assert len(found) == 1 and found <= {value, value + 1}
    checkpoint.save(path, {"a": jnp.ones(2)}, overwrite=True)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("act", ["read", "restore", "save"])
def test_an_exchange_that_was_stopped_is_finished(act, tmp_path):
    """Where it takes two renames, there is a moment with nothing under the path."""
    old, new = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    path, left = tmp_path / "it", _files.workspace(tmp_path / "it", 7)
    checkpoint.save(left / "old", old)
    checkpoint.save(left / "new", new)
    if act == "save":
        with pytest.raises(FileExistsError, match="Use overwrite=True"):
            checkpoint.save(path, old)
    elif act == "read":
        assert bits(checkpoint.read(path)) == bits(new)
    assert bits(checkpoint.restore(path, old)) == bits(new)


@pytest.mark.slow
def test_processes_that_write_one_checkpoint(tmp_path):
    for i, outcome in enumerate(writers.run("race", "checkpoints", tmp_path, 4, "exchange")):
        state = checkpoint.read(tmp_path / str(i))
        (found,) = {x for leaf in jax.tree.leaves(state) for x in leaf.tolist()}
        assert len(state) == writers.PARTS
        if i % 2:
            assert outcome == ["written"] * 3
        else:
            assert sorted(outcome) == ["exists", "exists", "written"]
            assert found == outcome.index("written")
    assert len(list(tmp_path.iterdir())) == 4


def test_threads_that_save_at_once(tmp_path):
    def save(value):
        for name in (str(value), "common"):
            checkpoint.save(tmp_path / name, {"a": jnp.full(3, value)}, overwrite=True)

    threads = [threading.Thread(target=save, args=(i,), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    got = [checkpoint.read(tmp_path / name)["a"].tolist() for name in ("0", "1", "2", "common")]
    assert got[:3] == [[0] * 3, [1] * 3, [2] * 3] and got[3] in got[:3]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_reader_sees_one_or_the_other(tmp_path, monkeypatch):
    """A checkpoint that is replaced while it is read is read again."""
    import orbax.checkpoint

    one, two = ({"a": jnp.full(100, value)} for value in (1.0, 2.0))
    path = checkpoint.save(tmp_path / "it", one)
    restore = orbax.checkpoint.StandardCheckpointer.restore

    def slow(*args, **kwargs):
        monkeypatch.undo()
        checkpoint.save(path, two, overwrite=True)
        return restore(*args, **kwargs)

    monkeypatch.setattr(orbax.checkpoint.StandardCheckpointer, "restore", slow)
    assert bits(checkpoint.restore(path, one)) == bits(two)


@orbax_fails
def test_a_full_disk_is_said_in_one_line(tmp_path, full_disk, capfd):
    state = {"a": jnp.ones(2)}
    path = checkpoint.save(tmp_path / "it", state)
    large = {"a": jax.random.normal(KEY, (100_000,))}
    full_disk(100_000)
    for target, overwrite in ((path, True), (tmp_path / "new", False)):
        with pytest.raises(
            OSError, match=f"`path` is not written: File too large: '{target}'$"
        ) as caught:
            checkpoint.save(target, large, overwrite=overwrite)
        assert len(str(caught.value).splitlines()) == 1
    assert bits(checkpoint.restore(path, state)) == bits(state)
    assert list(tmp_path.iterdir()) == [path]
    assert "Traceback" not in capfd.readouterr().err


Pair = collections.namedtuple("Pair", "left right")
DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
]


@st.composite
def arrays(draw):
    """Of any bits, as NumPy's or on a device."""
    dtype = jnp.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    size = int(np.prod(shape)) * dtype.itemsize
    data = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    array = (data & 1 if dtype.kind == "b" else data).view(dtype).reshape(shape)
    on_device = jax.dtypes.canonicalize_dtype(dtype) == dtype and draw(st.booleans())
    if on_device:
        return jax.device_put(array)
    return array[()] if not shape and dtype != jnp.bfloat16 and draw(st.booleans()) else array


@st.composite
def keys(draw):
    key = jax.random.key(
        draw(st.integers(0, 9)), impl=draw(st.sampled_from(["threefry2x32", "rbg"]))
    )
    return draw(st.sampled_from([key, jax.random.split(key, 2)]))


LEAVES = st.one_of(arrays(), keys(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats())
NAMES = st.text(min_size=1, max_size=3) | st.sampled_from(["raw_beta", "cell", "a.b", "c/d", "0"])


def containers(children):
    return st.one_of(
        st.dictionaries(NAMES, children, max_size=3),
        st.lists(children, max_size=3),
        st.lists(children, max_size=2).map(tuple),
        st.builds(Pair, children, children),
    )


def distinct(tree):
    """Whether there are leaves, and no two of one name."""
    names = [
        ".".join(
            map(str, (getattr(k, "key", getattr(k, "idx", getattr(k, "name", None))) for k in path))
        )
        for path, _ in jax.tree.leaves_with_path(tree)
    ]
    names = [name.replace("/", ".") for name in names]
    return 0 < len(set(names)) == len(names)


# Saving is slow, so that a few large trees say more than many small ones.
@pytest.mark.slow
@settings(max_examples=settings().max_examples // 4)
@given(
    tree=st.lists(st.recursive(LEAVES, containers, max_leaves=10), min_size=2, max_size=12).filter(
        distinct
    )
)
def test_any_tree_comes_back_to_the_bit(tree, tmp_path_factory):
    path = checkpoint.save(tmp_path_factory.mktemp("trees") / "it", tree)
    got = checkpoint.restore(path, like=tree)
    assert jax.tree.structure(got) == jax.tree.structure(tree)
    assert bits(got) == bits(tree)
    got = checkpoint.read(path)
    assert collections.Counter(x[-1] for x in bits(got)) == collections.Counter(
        x[-1] for x in bits(tree)
    )
