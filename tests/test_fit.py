"""Training over epochs, and what is measured on all rows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx as flax_nnx

from tracetorch_jax import checkpoint, losses, metrics, nnx, snn, training

KEY = jax.random.key(0)
XS = np.asarray(jax.random.normal(jax.random.key(1), (70, 6, 3)))
LABELS = (XS.mean((1, 2)) > 0).astype(int)
TRAIN, HELD = (XS[:48], LABELS[:48]), (XS[48:], LABELS[48:])
MODEL = snn.Unroll(snn.Sequential([nn.Dense(8), snn.LIB(8), nn.Dense(2), snn.LI(2)]))
VARIABLES = MODEL.init(KEY, XS)
OPTIMISER = training.adamw(3e-2, training.num_updates(48, 16, epochs=6))
ONE = {"epochs": 6, "batch_size": 16, "key": KEY}


def loss(variables, batch, key=None):
    return losses.cross_entropy(MODEL.apply(variables, batch[0]), batch[1]).mean()


def score(variables, batch):
    return metrics.accuracy(MODEL.apply(variables, batch[0]), batch[1])


def fit(variables=VARIABLES, optimiser=OPTIMISER, data=TRAIN, loss=loss, **options):
    return training.fit(loss, variables, optimiser, data, **{**ONE, **options})


def assert_close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5), got, want)


def test_learns():
    fitted = fit(epochs=20, optimiser=optax.sgd(0.5))
    assert fitted.history["loss"].shape == (20,)
    assert fitted.history["loss"][-1] < 0.75 * fitted.history["loss"][0]
    assert fitted.best_epoch == 19


def test_an_epoch_by_hand():
    """Batches without repetition, a mean of their losses, and plain gradient descent."""
    seen = []

    def watched(variables, batch, key):
        jax.debug.callback(lambda rows: seen.append(rows), batch[2], ordered=True)
        return loss(variables, batch, key)

    data = (*TRAIN, np.arange(48))
    fitted = fit(data=data, loss=watched, optimiser=optax.sgd(0.1), epochs=2, batch_size=20)
    jax.effects_barrier()
    orders = np.reshape(seen, (2, 40))
    assert all(len(set(order)) == 40 for order in orders) and (orders[0] != orders[1]).any()
    params, means = VARIABLES["params"], []
    for rows in orders.reshape(4, 20):
        batch = tuple(x[rows] for x in TRAIN)
        value, gradient = jax.value_and_grad(loss)({"params": params}, batch)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient["params"])
        means.append(value)
    assert_close(fitted.variables["params"], params)
    np.testing.assert_allclose(fitted.history["loss"], np.reshape(means, (2, 2)).mean(1), rtol=1e-5)


def test_reproducible_by_its_key():
    one, again, other = (fit(key=jax.random.key(k), epochs=2).variables for k in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not jnp.array_equal(
        *(each["params"]["cell"]["layers_0"]["kernel"] for each in (one, other))
    )


def test_gives_the_best_variables(tmp_path):
    options = {"validation": HELD, "score": score, "optimiser": optax.sgd(8.0)}
    fitted = fit(folder=tmp_path / "best", **options)
    scores = fitted.history["score"]
    assert fitted.best_epoch == scores.argmax() < len(scores) - 1  # not the last by chance
    again = training.evaluate(score, fitted.variables, HELD, batch_size=5)
    assert again == pytest.approx(scores.max(), abs=1e-12)
    saved = checkpoint.restore(tmp_path / "best", like=VARIABLES)
    jax.tree.map(np.testing.assert_array_equal, saved, fitted.variables)
    stopped = fit(patience=1, epochs=30, **options)
    found = stopped.history["score"]
    assert len(found) == stopped.best_epoch + 2 < 30 and found[-1] <= found[-2] == found.max()


def test_networks_at_once_learn_what_they_learn_alone():
    keys = jax.random.split(KEY, 3)
    variables = jax.vmap(MODEL.init, (0, None))(keys, XS)
    options = {"validation": HELD, "score": score, "average": 0.9}
    together = fit(variables, key=keys, **options)
    assert together.history["score"].shape == (6, 3) and together.best_epoch.shape == (3,)
    assert len(set(together.best_epoch)) > 1
    for i in range(3):
        alone = fit(jax.tree.map(lambda x, i=i: x[i], variables), key=keys[i], **options)
        assert alone.best_epoch == together.best_epoch[i]
        assert_close(alone.variables, jax.tree.map(lambda x, i=i: x[i], together.variables))
        for name, values in alone.history.items():
            np.testing.assert_allclose(values, together.history[name][:, i], rtol=1e-5)


def test_mean_of_parameters():
    """A mean in which the parameters after n updates count 0.5**n, the start not at all."""
    params = []

    def watched(variables, batch, key):
        jax.debug.callback(
            lambda kernel: params.append(kernel), variables["params"]["w"], ordered=True
        )
        return jnp.square(variables["params"]["w"] - batch.mean()).sum()

    data = np.arange(4.0, dtype=np.float32)
    fitted = fit(
        {"params": {"w": jnp.ones(2)}},
        optax.sgd(0.1),
        data,
        watched,
        epochs=1,
        batch_size=1,
        average=0.5,
    )
    last = fit(
        {"params": {"w": jnp.ones(2)}}, optax.sgd(0.1), data, watched, epochs=1, batch_size=1
    )
    jax.effects_barrier()
    after = np.array([*params[1:4], last.variables["params"]["w"]])
    want = np.average(after, axis=0, weights=[1, 2, 4, 8])
    np.testing.assert_allclose(fitted.variables["params"]["w"], want, rtol=1e-5)


def test_collections_that_change():
    model = snn.Unroll(
        snn.Sequential([nn.BatchNorm(use_running_average=False), nn.Dense(2), snn.LI(2)])
    )
    variables = model.init(KEY, XS)

    def normalised(variables, batch, key):
        ys, changed = model.apply(variables, batch[0], mutable=["batch_stats"])
        return losses.cross_entropy(ys, batch[1]).mean(), changed

    fitted = fit(variables, loss=normalised)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), fitted.variables, variables)
    assert min(jax.tree.leaves(moved["batch_stats"])) > 0.01


def test_nnx_learns_what_linen_learns():
    draw = flax_nnx.Rngs(0)
    model = nnx.Unroll(
        nnx.Sequential(
            [
                flax_nnx.Linear(3, 8, rngs=draw),
                nnx.LIB(8, rngs=draw),
                flax_nnx.Dropout(0.0, rngs=draw),
                flax_nnx.Linear(8, 2, rngs=draw),
                nnx.LI(2, rngs=draw),
            ]
        )
    )
    linen = snn.Unroll(
        snn.Sequential(
            [nn.Dense(8), snn.LIB(8), nn.Dropout(0.0, deterministic=True), nn.Dense(2), snn.LI(2)]
        )
    )
    variables = nnx.to_linen(model)

    def of_linen(variables, batch, key):
        return losses.cross_entropy(linen.apply(variables, batch[0]), batch[1]).mean()

    def of_nnx(model, batch, key):
        return losses.cross_entropy(model(batch[0]), batch[1]).mean()

    def score_of_nnx(model, batch):
        model.eval()
        return metrics.accuracy(model(batch[0]), batch[1])

    want = fit(variables, loss=of_linen)
    got = fit(model, loss=of_nnx)
    assert got.variables is model
    assert_close(nnx.to_linen(model), want.variables)
    scored = fit(model, loss=of_nnx, validation=HELD, score=score_of_nnx, epochs=2)
    again = training.evaluate(score_of_nnx, model, HELD, batch_size=5)
    assert again == pytest.approx(scored.history["score"].max(), abs=1e-12)


def test_batches_from_a_function():
    epochs = []

    def read(epoch):
        epochs.append(epoch)
        for start in (0, 24):
            yield tuple(x[start : start + 24] for x in TRAIN)

    fitted = fit(data=read, epochs=3)
    assert epochs == [0, 1, 2] and np.isfinite(fitted.history["loss"]).all()
    with pytest.raises(
        ValueError, match="`data` must give at least one batch; got none in epoch 0"
    ):
        fit(data=lambda epoch: [])


def test_accumulated_gradients_are_those_of_the_whole_batch():
    data = tuple(x[:16] for x in TRAIN)

    def order(epoch):  # the same rows in parts and at once
        return [tuple(x[i : i + 4] for x in data) for i in range(0, 16, 4)]

    options = {"warmup": 0.0, "weight_decay": 0.1}
    parts = fit(data=order, optimiser=training.adamw(0.1, 8, accumulate=4, **options), epochs=2)
    whole = fit(data=lambda epoch: [data], optimiser=training.adamw(0.1, 2, **options), epochs=2)
    assert_close(parts.variables, whole.variables)


def test_adamw_is_what_it_says():
    optimiser = training.adamw(0.3, 10, warmup=0.2, clip=1.0, weight_decay=0.5)
    params = {"kernel": jnp.ones(3), "bias": jnp.ones(3), "raw_beta": jnp.ones(3)}
    gradient = jax.tree.map(lambda p: jnp.full_like(p, 100.0), params)
    state, changes = optimiser.init(params), []
    for _ in range(11):
        with jax.numpy_dtype_promotion("standard"):
            change, state = optimiser.update(gradient, state, params)
        changes.append(change)
    rates = -np.array([change["bias"][0] for change in changes])  # Adam's step is the rate
    assert rates[0] == 0 and rates[1] == pytest.approx(0.15, rel=1e-3)
    assert rates[2] == rates.max() == pytest.approx(0.3, rel=1e-3)
    assert rates[6] == pytest.approx(0.15, rel=1e-3) and rates[10] == pytest.approx(0, abs=1e-6)
    decay = np.array([float((change["bias"] - change["kernel"])[0]) for change in changes])
    np.testing.assert_allclose(decay, 0.5 * rates, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, changes[2]["bias"], changes[2]["raw_beta"])


def test_predict_gives_every_row_once():
    seen = []

    def double(variables, batch):
        seen.append(batch["x"].shape)
        return {"twice": 2 * batch["x"], "sum": batch["x"].sum(-1)}

    x = np.arange(21.0).reshape(7, 3)
    found = training.predict(double, {}, {"x": x}, batch_size=3)
    np.testing.assert_array_equal(found["twice"], 2 * x)
    np.testing.assert_array_equal(found["sum"], x.sum(-1))
    training.predict(double, {}, {"x": x[:5]}, batch_size=3)
    assert seen == [(3, 3)]  # compiled once, also for the last rows and another call


def test_evaluate_counts_each_row_once():
    values = np.arange(7.0, dtype=np.float32)
    for batch_size in (1, 3, 7, 100):
        mean = training.evaluate(lambda v, x: x, {}, values, batch_size=batch_size)
        assert mean == 3.0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"epochs": 0}, ValueError, "`epochs` must be an integer of at least 1; got 0"),
        ({"batch_size": 1.5}, TypeError, "`batch_size` must be an integer"),
        ({"average": 1.0}, ValueError, r"`average` must lie in \[0, 1\); got 1.0"),
        ({"validation": HELD}, ValueError, "`validation` and `score` must be given together"),
        ({"score": score}, ValueError, "`validation` and `score` must be given together"),
        ({"patience": 2}, ValueError, "`patience` only with them"),
        ({"loss": None}, TypeError, "`loss` must be a function; got None"),
        ({"key": 0}, TypeError, "`key` must be a PRNG key"),
        ({"data": (XS, LABELS[:3])}, ValueError, "`data` must be a tree of arrays of one length"),
        ({"data": ()}, ValueError, "`data` must be a tree of arrays of one length"),
        ({"data": (XS[:0], LABELS[:0])}, ValueError, "at least one row"),
        ({"variables": VARIABLES["params"]}, TypeError, "`variables` must be a dict with 'params'"),
        ({"key": jax.random.split(KEY)}, ValueError, "number of keys, 2, .*layers_0/bias"),
        ({"loss": lambda v, b, k: jnp.ones(3)}, ValueError, "`loss` must give a scalar"),
        ({"loss": lambda v, b, k: jnp.nan * v["params"]["cell"]["layers_0"]["bias"].sum()},
         FloatingPointError, "`loss` must be finite; its mean in epoch 0 is nan"),
        ({"validation": HELD, "score": lambda v, b: jnp.zeros(())}, ValueError,
         r"`score` must give a value for each of the 16 rows of a batch; got shape \(\)"),
        ({"validation": HELD, "score": lambda v, b: b[0]}, ValueError,
         r"`score` must give one value a row, \[rows\]; got \[\(22, 6, 3\)\]"),
    ],
)  # fmt: skip
def test_bad_arguments(options, error, words):
    with pytest.raises(error, match=words):
        fit(**{"epochs": 1, **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0}, "`learning_rate` must be greater than 0; got 0"),
        ({"warmup": 1}, r"`warmup` must lie in \[0, 1\); got 1"),
        ({"clip": -1}, "`clip` must be greater than 0; got -1"),
        ({"weight_decay": float("nan")}, "`weight_decay` must be at least 0; got nan"),
        ({"updates": 0}, "`updates` must be an integer of at least 1; got 0"),
    ],
)
def test_bad_arguments_of_adamw(options, words):
    with pytest.raises(ValueError, match=words):
        training.adamw(**{"learning_rate": 0.1, "updates": 10, **options})


def test_a_bar_without_tqdm(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(
        ImportError, match=r"`progress` needs the package tqdm \(pip install tqdm\)"
    ):
        fit(progress=True)


def test_a_bar_shows_loss_and_score(capsys):
    fit(progress="heartbeats", epochs=2, validation=HELD, score=score)
    shown = capsys.readouterr().err
    assert "heartbeats: 100%" in shown and "loss=0." in shown and "score=0." in shown
