"""What is saved comes back, bit by bit, or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from tracetorch_jax import checkpoint, snn

KEY = jax.random.key(0)


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
        ValueError, match=r"has params/cell/raw_beta as float32\[3\] instead of .*\[4\]"
    ):
        checkpoint.restore(path, wide)
    other = snn.Unroll(snn.LIB(3)).init(KEY, jnp.ones((2, 4, 3)))["params"]
    with pytest.raises(ValueError, match=r"lacks params/cell/raw_threshold.*unknown .*raw_alpha"):
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
        with pytest.raises(ValueError, match=f"has {next(iter(change))} as a number .* instead of"):
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
        with pytest.raises(ValueError, match=f"has {name} as key<.*> instead of"):
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
    with pytest.raises(ValueError, match="lacks params/raw_beta"):
        checkpoint.restore(tmp_path / "DLIB", reference.scrambled("LIB")[1])


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
