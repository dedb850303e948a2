"""Many networks at once: `jax.vmap` over parameters, `flax.linen.vmap` over modules."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from tracetorch_jax import snn

pytestmark = pytest.mark.slow

MEMBERS = 3
XS = reference.inputs(4, 6, 5) * 2
LABELS = jnp.array([0, 1, 2, 1])
KEYS = jax.random.split(jax.random.key(0), MEMBERS)


def stack(layer):
    return snn.Unroll(snn.Sequential([nn.Dense(6), layer(6), nn.Dense(3), snn.LI(3)]))


def member(population, i):
    return jax.tree.map(lambda leaf: leaf[i], population)


@pytest.mark.parametrize("layer", reference.first(["DSRLITS", "LIB"]))
def test_a_member_is_trained_as_if_it_were_alone(layer):
    model = stack(snn.ALL_LAYERS[layer])
    optimiser = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)

    def init(key, rate):
        params = model.init(key, XS)
        state = optimiser.init(params)
        state.hyperparams["learning_rate"] = rate
        return params, state

    def update(params, state):
        def loss(params):
            logits = model.apply(params, XS).mean(axis=1)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    def train(advance, params, state):
        values = []
        for _ in range(3):
            params, state, value = advance(params, state)
            values.append(value)
        return params, jnp.stack(values, axis=-1)

    rates = jnp.array([1e-3, 1e-2, 3e-2])
    with jax.numpy_dtype_promotion("standard"):
        together = train(jax.jit(jax.vmap(update)), *jax.vmap(init)(KEYS, rates))
        alone = jax.jit(update)
        each = [train(alone, *init(*own)) for own in zip(KEYS, rates, strict=True)]
    for i, want in enumerate(each):
        reference.assert_trees_close(member(together, i), want, 1e-4)
    losses = np.asarray(together[1])
    assert len({*losses[:, 0]}) == MEMBERS and (losses[:, -1] < losses[:, 0]).all()


@pytest.mark.parametrize("engine", ["scan", "parallel"])
def test_an_ensemble_is_a_module(engine):
    cell = snn.Sequential([nn.Dense(6), snn.SLIB(6)])
    options = {"engine": engine, "return_carry": True}
    Ensemble = nn.vmap(
        snn.Unroll,
        in_axes=None,
        axis_size=MEMBERS,
        variable_axes={"params": 0},
        split_rngs={"params": True},
    )
    ensemble = Ensemble(cell, **options)
    params = ensemble.init(jax.random.key(0), XS)
    carry, ys = ensemble.apply(params, XS)
    assert ys.shape == (MEMBERS, 4, 6, 6)
    kernel = params["params"]["cell"]["layers_0"]["kernel"]
    assert kernel.shape == (MEMBERS, 5, 6) and not (kernel[0] == kernel[1]).all()
    for i in range(MEMBERS):
        want = snn.Unroll(cell, **options).apply(member(params, i), XS)
        reference.assert_trees_close(member((carry, ys), i), want)
