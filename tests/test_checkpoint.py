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


def test_another_model_is_refused(tmp_path):
    path = checkpoint.save(tmp_path / "it", start()[0])
    wide = start(width=4)[0]
    with pytest.raises(
        ValueError, match=r"has params.cell.raw_beta as float32\[3\] instead of .*\[4\]"
    ):
        checkpoint.restore(path, wide)
    other = snn.Unroll(snn.LIB(3)).init(KEY, jnp.ones((2, 4, 3)))["params"]
    with pytest.raises(ValueError, match=r"lacks params.cell.raw_threshold.*unknown .*raw_alpha"):
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
    with pytest.raises(TypeError, match="`state` must hold arrays and numbers; got str at a.b"):
        checkpoint.save(tmp_path / "it", {"a": {"b": "text"}, "c": jnp.ones(2)})
    assert not (tmp_path / "it").exists()


def test_the_layers_of_a_family_share_no_checkpoint(tmp_path):
    """A name is enough to tell one layer's checkpoint from another's."""
    for name in ("LIB", "DLIB"):
        _, variables = reference.scrambled(name)
        checkpoint.save(tmp_path / name, variables)
    with pytest.raises(ValueError, match="lacks params.raw_beta"):
        checkpoint.restore(tmp_path / "DLIB", reference.scrambled("LIB")[1])
