"""Layers that own their state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from tracetorch_jax import checkpoint
from tracetorch_jax import nnx as tt

EACH_LAYER = pytest.mark.parametrize("name", reference.EACH)


class Model(nnx.Module):
    """A network as a user of traceTorch writes it: states are nobody's business but the layers'."""

    def __init__(self, width=4):
        rngs = nnx.Rngs(0)
        self.read = nnx.Linear(3, width, rngs=rngs)
        self.hidden = nnx.List([tt.Stateful(tt.SRLIT(width, pos_threshold=0.3)) for _ in range(2)])
        self.out = tt.Stateful(tt.Sequential([nnx.Linear(width, 2, rngs=rngs), tt.LI(2)]))

    def __call__(self, x):
        x = self.read(x)
        for layer in self.hidden:
            x = layer(x)
        return self.out(x)


PATHS = ["hidden/0", "hidden/1", "out"]


def test_states_by_path():
    model = Model()
    assert tt.save_states(model) == dict.fromkeys(PATHS)
    model(jnp.ones((2, 3)))
    states = tt.save_states(model)
    assert list(states) == PATHS
    assert sorted(states["hidden/0"]) == ["mem", "prev_output", "rec", "syn"]
    assert states["out"]["layers_1"]["mem"].shape == (2, 2)
    assert len(jax.tree.leaves(nnx.state(model, tt.TraceState))) == 9


@EACH_LAYER
def test_steps_are_the_sequence(name):
    cell, xs = getattr(tt, name)(3), 2 * reference.inputs(2, 5, 3)
    want = tt.Unroll(cell)(xs)
    layer = tt.Stateful(cell)
    run = nnx.jit(lambda layer, x: layer(x))
    ys = [run(layer, xs[:, t]) for t in range(2)]
    ys.append(layer.unroll(xs[:, 2:4])[:, 0])
    np.testing.assert_allclose(jnp.stack(ys, axis=1), want[:, :3], atol=1e-6)
    np.testing.assert_allclose(run(layer, xs[:, 4]), want[:, 4], atol=1e-6)
    assert set(layer.carry.get_value()) == set(cell.spec.states)


@pytest.mark.parametrize("jit", [lambda f: f, nnx.jit], ids=["eager", "jit"])
class TestAWholeModel:
    def run(self, jit):
        return jit(lambda model, x: model(x))

    def test_zero(self, jit):
        model, x = Model(), 5 * reference.inputs(2, 3)
        run, zero = self.run(jit), jit(tt.zero_states)
        first = run(model, x)
        assert not jnp.array_equal(run(model, x), first)
        zero(model)
        assert all(not leaf.any() for leaf in jax.tree.leaves(tt.save_states(model)))
        np.testing.assert_array_equal(run(model, x), first)

    def test_save_and_load(self, jit):
        model, x = Model(), 5 * reference.inputs(2, 3)
        run = self.run(jit)
        run(model, x)
        saved = tt.save_states(model)
        second = run(model, x)
        run(model, x)
        tt.load_states(model, saved)
        np.testing.assert_array_equal(run(model, x), second)
        fresh = Model()
        jit(lambda model: tt.load_states(model, saved))(fresh)
        np.testing.assert_array_equal(run(fresh, x), second)
        tt.load_states(fresh, dict.fromkeys(PATHS))
        assert tt.save_states(fresh) == dict.fromkeys(PATHS)


def test_another_batch():
    model = Model()
    model(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"\(2,\); got \(5,\).*zero_states\(model, batch_shape"):
        model(jnp.ones((5, 3)))
    tt.zero_states(model, batch_shape=(5,))
    assert model(jnp.ones((5, 3))).shape == (5, 2)
    tt.zero_states(model, batch_shape=())
    assert model(jnp.ones(3)).shape == (2,)


def test_nothing_is_there_twice():
    class Twice(nnx.Module):
        def __init__(self):
            self.a = tt.Stateful(tt.LIB(3))
            self.b = self.a

        def __call__(self, x):
            return self.b(self.a(x))

    model = Twice()
    nnx.jit(lambda model, x: model(x))(model, jnp.ones((1, 3)))
    assert list(tt.save_states(model)) == ["a"]
    assert model.a is model.b


def test_detach_truncates_the_gradient():
    def loss(layer, detach):
        total = jnp.zeros(())
        for t in range(4):
            if detach:
                tt.detach_states(layer)
            total += layer(x[:, t]).sum()
        return total

    def gradient(detach):
        of_layer = nnx.grad(lambda layer: loss(layer, detach))
        return of_layer(tt.Stateful(tt.LI(3)))["cell"]["raw_beta"][...]

    x = reference.inputs(2, 4, 3)
    whole, cut = gradient(False), gradient(True)
    want = nnx.grad(lambda cell: tt.Unroll(cell)(x).sum())(tt.LI(3))["raw_beta"][...]
    np.testing.assert_allclose(whole, want, atol=1e-5)
    assert not np.allclose(whole, cut)

    def of_each_step(layer):
        carry, total = None, jnp.zeros(())
        for t in range(4):
            carry, y = layer(jax.lax.stop_gradient(carry), x[:, t])
            total += y.sum()
        return total

    np.testing.assert_allclose(cut, nnx.grad(of_each_step)(tt.LI(3))["raw_beta"][...], atol=1e-5)


def test_detach_reaches_every_layer():
    layers = nnx.List([tt.Stateful(tt.LI(3)), tt.Stateful(tt.LI(3))])
    x = reference.inputs(2, 3)

    @nnx.grad
    def gradient(layers):
        for layer in layers:
            layer(x)
        tt.detach_states(layers)
        return sum(layer(x).sum() for layer in layers)

    first, second = jax.tree.leaves(gradient(layers))
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_states_are_not_trained_and_go_on_through_gradients():
    model, x = Model(), 5 * reference.inputs(2, 3)

    @nnx.jit
    def update(model):
        value, gradients = nnx.value_and_grad(lambda model: jnp.square(model(x)).sum())(model)
        return value, gradients

    _, gradients = update(model)
    assert "carry" not in str(jax.tree.structure(gradients))
    assert set(tt.save_states(model)) == set(PATHS)
    reference_model = Model()
    reference_model(x)
    reference.assert_trees_close(tt.save_states(model), tt.save_states(reference_model), 1e-6)
    second, _ = update(model)
    np.testing.assert_allclose(second, jnp.square(reference_model(x)).sum(), atol=1e-6)


def test_inside_a_loop_of_flax():
    xs = reference.inputs(5, 2, 3)
    layer = tt.Stateful(tt.SLIB(3), input_shape=(2, 3))

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def loop(layer, x):
        return layer, layer(x)

    _, ys = loop(layer, xs)
    want = tt.Unroll(tt.SLIB(3), time_major=True)(xs)
    np.testing.assert_allclose(ys, want, atol=1e-6)
    with pytest.raises(ValueError, match="num_neurons = 3"):
        tt.Stateful(tt.SLIB(3), input_shape=(2, 4))


@pytest.mark.slow
def test_chunks_and_cells_of_flax():
    xs = reference.inputs(2, 6, 3)
    gru = nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))
    layer = tt.Stateful(gru)
    ys = [layer(xs[:, 0])[:, None], layer.unroll(xs[:, 1:4]), layer.unroll(xs[:, 4:])]
    np.testing.assert_allclose(jnp.concatenate(ys, axis=1), nnx.RNN(gru)(xs), atol=1e-6)
    single = tt.Stateful(tt.LI(3))
    np.testing.assert_allclose(
        jnp.concatenate([single.unroll(xs[0, :2]), single.unroll(xs[0, 2:])]),
        tt.Unroll(tt.LI(3))(xs[0]),
        atol=1e-6,
    )


def test_time_major():
    xs, cell = reference.inputs(5, 2, 3), tt.LI(3)
    layer = tt.Stateful(cell)
    ys = layer.unroll(xs[:4], time_major=True)
    assert layer.batch_shape == (2,)
    ys = jnp.concatenate([ys, layer(xs[4])[None]])
    np.testing.assert_allclose(ys, tt.Unroll(cell, time_major=True)(xs), atol=1e-6)


def test_zeros_are_of_the_type_that_the_states_were():
    layer, x = tt.Stateful(tt.LI(3, dtype=jnp.bfloat16)), jnp.ones((2, 3))
    first = layer(x)
    tt.zero_states(layer)
    np.testing.assert_array_equal(layer(x), first)
    assert layer.carry["mem"].dtype == jnp.bfloat16


def test_images():
    layer = tt.Stateful(tt.LIB(3, dim=-3))
    layer(jnp.ones((2, 3, 4, 4)))
    tt.zero_states(layer, batch_shape=(5,))
    assert layer(jnp.ones((5, 3, 4, 4))).shape == (5, 3, 4, 4)


def test_a_checkpoint(tmp_path):
    model, x = Model(), 5 * reference.inputs(2, 3)
    model(x)
    states = tt.save_states(model)
    checkpoint.save(tmp_path / "states", states)
    other = Model()
    tt.load_states(other, checkpoint.restore(tmp_path / "states", like=states))
    np.testing.assert_array_equal(other(x), model(x))


class TestErrors:
    def states(self):
        model = Model()
        model(jnp.ones((2, 3)))
        return model, tt.save_states(model)

    def fails(self, model, states, error, match):
        before = tt.save_states(model)
        with pytest.raises(error, match=match):
            tt.load_states(model, states)
        reference.assert_trees_close(tt.save_states(model), before, 0)

    def test_layers(self):
        model, states = self.states()
        self.fails(model, {}, ValueError, r"`states` of Model must hold exactly .*lacks")
        extra = states | {"hidden/2": states["out"]}
        self.fails(model, extra, ValueError, "has unknown 'hidden/2'")

    def test_states(self):
        model, states = self.states()
        partial = {name: x for name, x in states["hidden/1"].items() if name != "syn"}
        changed = jax.tree.map(jnp.ones_like, states)
        wrong = changed | {"hidden/1": partial}
        self.fails(model, wrong, ValueError, r"states\['hidden/1'\]` of SRLIT .*lacks 'syn'")
        wrong = changed | {"hidden/1": jnp.ones(3)}
        self.fails(model, wrong, TypeError, r"states\['hidden/1'\]` must be a dict of")
        wrong = changed | {"out": {"layers_0": jnp.ones(3)}}
        self.fails(model, wrong, ValueError, r"states\['out'\]` of Sequential .*layers_1")

    def test_shapes(self):
        model, states = self.states()
        wide = states | {"hidden/0": {n: jnp.ones((2, 9)) for n in states["hidden/0"]}}
        self.fails(model, wide, ValueError, r"num_neurons = 4 at axis -1 for SRLIT; got 9")
        mixed = states["hidden/0"] | {"mem": jnp.ones((3, 4))}
        self.fails(model, states | {"hidden/0": mixed}, ValueError, "states of one shape")

    def test_batches_of_a_stack(self):
        model = tt.Stateful(tt.Sequential([tt.LI(2), tt.LI(2)]))
        states = {".": {"layers_0": {"mem": jnp.ones((2, 2))}, "layers_1": {"mem": jnp.ones(2)}}}
        self.fails(model, states, ValueError, "must be for one batch")

    def test_models_without_states(self):
        for function in (tt.zero_states, tt.detach_states, tt.save_states):
            with pytest.raises(ValueError, match="must hold Stateful layers; got LIB"):
                function(tt.LIB(3))

    def test_what_is_no_cell(self):
        with pytest.raises(TypeError, match="`cell` must be a cell.*got Linear"):
            tt.Stateful(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
