"""Residual stacks, and what else stands between spiking layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import snn

pytestmark = pytest.mark.slow


def block(num_neurons, merge="add"):
    return snn.Residual([nn.Dense(num_neurons), snn.SRLIT(num_neurons)], merge=merge)


def deep(merge):
    return snn.Sequential(
        [nn.Dense(4), snn.LIB(4, threshold=0.3), block(4, merge), nn.Dense(2), snn.LI(2)]
    )


@pytest.mark.parametrize("merge", ["add", "concatenate"])
def test_step_by_step_is_layer_by_layer(merge):
    cell = deep(merge)
    xs = reference.inputs(2, 9, 3)
    lengths = jnp.array([9, 5])
    model = snn.Unroll(cell, return_carry=True)
    variables = model.init(jax.random.key(0), xs)
    carry, ys = model.apply(variables, xs)
    own, steps = cell.initialize_carry(None, (2, 3)), []
    assert jax.tree.structure(own) == jax.tree.structure(carry)
    for t in range(9):
        own, y = cell.apply(reference.inner(variables), own, xs[:, t])
        steps.append(y)
    reference.assert_trees_close(jnp.stack(steps, 1), ys)
    reference.assert_trees_close(own, carry)
    short, shorter = model.apply(variables, xs.at[1, 5:].set(jnp.nan), seq_lengths=lengths)
    assert np.all(shorter[1, 5:] == 0)
    reference.assert_trees_close(shorter[1, :5], ys[1, :5])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(short))


def test_what_goes_past_is_added_or_set_beside():
    xs = reference.inputs(2, 9, 4)
    inside = snn.Unroll(snn.Sequential([nn.Dense(4), snn.SRLIT(4)]))
    variables = inside.init(jax.random.key(0), xs)
    ys = inside.apply(variables, xs)
    for merge, want in (("add", xs + ys), ("concatenate", jnp.concatenate([xs, ys], -1))):
        got = snn.Unroll(block(4, merge)).apply(variables, xs)  # the same parameters
        np.testing.assert_array_equal(got, want)


def test_padding_that_goes_past_is_zero():
    xs = jnp.ones((1, 4, 2)).at[0, 2:].set(jnp.nan)
    model = snn.Unroll(snn.Residual([snn.LI(2)]))
    variables = model.init(jax.random.key(0), xs)
    ys = model.apply(variables, xs, seq_lengths=jnp.array([2]))
    assert np.all(ys[0, 2:] == 0) and np.isfinite(ys).all()


def test_images_are_set_beside_along_their_channels():
    cell = snn.Residual([snn.LIB(3, dim=-3)], merge="concatenate", axis=-3)
    model = snn.Unroll(cell)
    xs = jnp.ones((2, 5, 3, 4, 4))
    assert model.apply(model.init(jax.random.key(0), xs), xs).shape == (2, 5, 6, 4, 4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`merge` must be one of 'add', 'concatenate'; got 'mul'"):
        snn.Residual([snn.LI(2)], merge="mul")
    model = snn.Unroll(snn.Residual([nn.Dense(3), snn.LI(3)]))
    with pytest.raises(ValueError, match="`layers` of a Residual must give what they get"):
        model.init(jax.random.key(0), jnp.ones((1, 4, 2)))


class TestConvolutionBatchNormAndDropout:
    """As one puts them between spiking layers, in training and evaluation."""

    @staticmethod
    def network(training):
        first, last = (0, 2, 3, 1), (0, 3, 1, 2)

        def channels_last(x):
            return jnp.transpose(x, first)

        def channels_first(x):
            return jnp.transpose(x, last)

        return snn.Sequential(
            [
                channels_last,
                nn.Conv(4, (3, 3)),
                nn.BatchNorm(use_running_average=not training),
                channels_first,
                snn.LIB(4, dim=-3, threshold=0.3),
                nn.Dropout(0.5, deterministic=not training),
                snn.Residual([snn.SLIT(4, dim=-3)]),
            ],
            feature_axes=3,
        )

    def test_training_updates_statistics_and_drops(self):
        xs = reference.inputs(2, 5, 1, 6, 6)
        model = snn.Unroll(self.network(True))
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        variables = model.init(rngs, xs)

        def run(key):
            return model.apply(variables, xs, rngs={"dropout": key}, mutable=["batch_stats"])

        ys, changed = run(jax.random.key(2))
        again, _ = run(jax.random.key(3))
        assert ys.shape == (2, 5, 4, 6, 6) and not np.array_equal(ys, again)
        before, after = (jax.tree.leaves(v["batch_stats"]) for v in (variables, changed))
        assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def test_evaluation_is_the_same_step_by_step(self):
        xs = reference.inputs(2, 5, 1, 6, 6)
        cell = self.network(False)
        model = snn.Unroll(cell)
        variables = model.init(jax.random.key(0), xs)
        ys = model.apply(variables, xs)
        carry, steps = cell.initialize_carry(None, (2, 1, 6, 6)), []
        for t in range(5):
            carry, y = cell.apply(reference.inner(variables), carry, xs[:, t])
            steps.append(y)
        reference.assert_trees_close(jnp.stack(steps, 1), ys)
