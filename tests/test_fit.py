"""Training over epochs, and what is measured on all rows."""

import types

import flax
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
    assert seen == [(3, 3)]  # compiled once, also for the last rows
    once = jax.jit(double)
    for rows in (7, 5):
        training.predict(once, {}, {"x": x[:rows]}, batch_size=3)
    assert len(seen) == 2
    np.testing.assert_array_equal(
        training.predict(once, {}, {"x": jnp.asarray(x)}, batch_size=3)["sum"], x.sum(-1)
    )


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
        ({"data": (XS, np.array(["a"] * len(XS)))}, TypeError, "numbers; got dtype <U1 at '1'"),
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
        ({"learning_rate": 0}, "`learning_rate` must be positive and finite; got 0"),
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
    with pytest.raises(ImportError, match="`progress` needs tqdm: pip install 'tqdm"):
        fit(progress=True)


def test_a_bar_shows_loss_and_score(capsys):
    fit(progress="heartbeats", epochs=2, validation=HELD, score=score)
    shown = capsys.readouterr().err
    assert "heartbeats: 100%" in shown and "loss=0." in shown and "score=0." in shown


W = {"params": {"w": jnp.ones(2)}}
VALUES = np.arange(8, dtype=np.float32)


def distance(variables, batch, key):
    return jnp.square(variables["params"]["w"] - batch.mean()).sum()


def fit_w(loss=distance, **options):
    given = {
        "variables": W,
        "optimiser": optax.sgd(0.1),
        "data": VALUES,
        "batch_size": 4,
        "epochs": 1,
    }
    return fit(loss=loss, **{**given, **options})


def test_reads_anew_what_functions_refer_to():
    given = types.SimpleNamespace()

    def loss(variables, batch, key):
        return given.cost + distance(variables, batch, key)

    def shifted(variables, batch):
        return batch + given.cost

    found, shown, scored = [], [], []
    for given.cost in (0.0, 10.0):
        found.append(fit_w(loss).history["loss"][0])
        shown.append(training.predict(shifted, {}, VALUES, batch_size=4)[0])
        scored.append(fit_w(validation=VALUES, score=shifted).history["score"][0])
    assert found[1] - found[0] == pytest.approx(10, rel=1e-5)
    assert np.diff(shown) == np.diff(scored) == 10


@pytest.mark.parametrize("networks", [(), (2,)])
def test_any_score_is_better_than_nan(networks):
    def score(variables, batch):
        w = variables["params"]["w"][0]
        return jnp.where(w < 2, jnp.nan, w) + 0 * batch

    variables = {"params": {"w": jnp.ones((*networks, 2))}}
    key = jax.random.split(KEY, networks) if networks else KEY
    fitted = fit_w(variables=variables, key=key, epochs=5, validation=VALUES, score=score)
    assert np.isnan(fitted.history["score"][0]).all()
    assert (np.asarray(fitted.best_epoch) == 4).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_mean_of_what_stays_the_same(dtype):
    variables = {"params": {"w": jnp.full(2, 1.1, dtype)}}

    def still(variables, batch, key):
        return 0 * variables["params"]["w"].sum()

    got = fit_w(still, variables=variables, epochs=50, average=0.99).variables["params"]["w"]
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(float), variables["params"]["w"].astype(float), rtol=1e-5)


def test_patience_of_each_network_is_its_own():
    """One network gets better all the time, the other only later than its patience lasts."""

    def loss(variables, batch, key):
        return variables["params"]["w"].sum() + 0 * batch.sum()

    def score(variables, batch):  # w falls by 0.2 an epoch
        w, kind = variables["params"]["w"][0], variables["fixed"]["kind"]
        late = jnp.where(w < 0, -w, w)
        return jnp.where(kind == 0, -w, late) + 0 * batch

    variables = {"params": {"w": jnp.ones((2, 1))}, "fixed": {"kind": jnp.arange(2)}}
    options = {"epochs": 14, "validation": VALUES, "score": score, "patience": 2}
    keys = jax.random.split(KEY)
    both = fit_w(loss, variables=variables, key=keys, **options)
    assert both.best_epoch.tolist() == [13, 0]
    for i in range(2):
        alone = fit_w(
            loss, variables=jax.tree.map(lambda x, i=i: x[i], variables), key=keys[i], **options
        )
        assert alone.best_epoch == both.best_epoch[i]
        np.testing.assert_allclose(both.variables["params"]["w"][i], alone.variables["params"]["w"])


def test_batches_from_a_function_are_for_all_networks():
    keys = jax.random.split(KEY)
    variables = {"params": {"w": jnp.array([[1.0, 1.0], [5.0, 5.0]])}}

    def read(epoch):
        return [VALUES[:2], VALUES[2:4]]  # as many rows as networks

    both = fit_w(variables=variables, key=keys, data=read).variables["params"]["w"]
    for i in range(2):
        alone = fit_w(variables=jax.tree.map(lambda x, i=i: x[i], variables), data=read)
        np.testing.assert_allclose(both[i], alone.variables["params"]["w"], rtol=1e-6)


def test_every_update_has_a_key_of_its_own():
    keys = []

    def watched(variables, batch, key):
        jax.debug.callback(
            lambda data: keys.append(tuple(np.asarray(data).tolist())), jax.random.key_data(key)
        )
        return distance(variables, batch, key)

    fit_w(watched, epochs=3, batch_size=2)
    jax.effects_barrier()
    assert len(keys) == len(set(keys)) == 12
    old = fit_w(key=jax.random.PRNGKey(0), epochs=2).variables
    jax.tree.map(
        np.testing.assert_array_equal, old, fit_w(key=jax.random.key(0), epochs=2).variables
    )


def test_folder_holds_the_best_of_each_network(tmp_path):
    def score(variables, batch):  # of one network best at first, of the other at last
        return variables["fixed"]["sign"] * variables["params"]["w"][0] + 0 * batch

    variables = {"params": {"w": jnp.ones((2, 2))}, "fixed": {"sign": jnp.array([1.0, -1.0])}}
    options = {"epochs": 4, "validation": VALUES, "score": score, "folder": tmp_path / "best"}
    fitted = fit_w(variables=variables, key=jax.random.split(KEY), **options)
    assert fitted.best_epoch.tolist() == [3, 0]
    saved = checkpoint.restore(tmp_path / "best", like=variables)
    jax.tree.map(np.testing.assert_array_equal, saved, fitted.variables)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.txt").write_text("mine")
    calls = []
    with pytest.raises(FileExistsError):
        fit_w(lambda *args: calls.append(1) or distance(*args), folder=tmp_path / "else")
    assert not calls  # before anything is trained


def test_an_nnx_model_gets_its_best_and_saves_it(tmp_path):
    draw = flax_nnx.Rngs(0)
    layers = [
        flax_nnx.Linear(3, 8, rngs=draw),
        flax_nnx.BatchNorm(8, rngs=draw),
        nnx.LIB(8, rngs=draw),
    ]
    model = nnx.Unroll(
        nnx.Sequential([*layers, flax_nnx.Linear(8, 2, rngs=draw), nnx.LI(2, rngs=draw)])
    )

    def loss(model, batch, key):
        return losses.cross_entropy(model(batch[0]), batch[1]).mean()

    def score(model, batch):
        model.eval()
        return metrics.accuracy(model(batch[0]), batch[1])

    options = {"optimiser": optax.sgd(8.0), "validation": HELD, "score": score}
    fitted = fit(model, loss=loss, folder=tmp_path / "best", epochs=8, **options)
    scores = fitted.history["score"]
    assert fitted.best_epoch == scores.argmax() < 7 and scores[-1] < scores.max()
    assert training.evaluate(score, model, HELD, batch_size=16) == pytest.approx(scores.max())
    saved = checkpoint.restore(tmp_path / "best", like=flax_nnx.state(model))
    jax.tree.map(np.testing.assert_array_equal, saved, flax_nnx.state(model))


def test_adamw_is_the_expression_that_its_docstring_shows():
    schedule = optax.warmup_cosine_decay_schedule(0, 0.3, 2, 10)
    by_hand = optax.apply_if_finite(
        optax.chain(
            optax.clip_by_global_norm(0.5),
            optax.adamw(schedule, weight_decay=0.1, mask=training.decay_mask),
        ),
        max_consecutive_errors=10,
    )
    ours = training.adamw(0.3, 10, warmup=0.2, clip=0.5, weight_decay=0.1)
    params = {"kernel": jnp.ones(3), "raw_beta": jnp.ones(3)}
    results = []
    for optimiser in (ours, by_hand):
        state, changes = optimiser.init(params), []
        for size in (100.0, 0.01, 3.0):  # the first and the last are clipped
            gradient = jax.tree.map(lambda p, size=size: jnp.full_like(p, size), params)
            with jax.numpy_dtype_promotion("standard"):
                change, state = optimiser.update(gradient, state, params)
            changes.append(change)
        results.append(changes)
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_frozen_variables_and_rates_by_kind():
    traces = []

    def watched(variables, batch, key):
        traces.append(1)
        return loss(variables, batch)

    rates = {label: optax.sgd(0.0) for label in training.PARAMETER_LABELS} | {
        "decay": optax.sgd(1.0)
    }
    optimiser = optax.multi_transform(rates, training.parameter_labels)
    frozen = flax.core.freeze(VARIABLES)
    fitted = fit(frozen, loss=watched, optimiser=optimiser, epochs=3).variables
    assert len(traces) == 1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), fitted["params"], VARIABLES["params"])
    assert training.parameter_labels(VARIABLES["params"]) == jax.tree.map(
        lambda moved, label: "decay" if moved else label,
        moved,
        training.parameter_labels(VARIABLES["params"]),
    ) and any(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda v, b, k: (distance(v, b, k), {"accuracy": 1.0}), r"\['seen'\].* got 'accuracy'"),
        (lambda v, b, k: (distance(v, b, k), {"params": v["params"]}), "got 'params'"),
        (lambda v, b, k: (distance(v, b, k), {"seen": {"more": jnp.zeros(())}}),
         "the collection 'seen' with the structure"),
        (lambda v, b, k: (distance(v, b, k), {}, 3), "`loss` must give a scalar, or a pair"),
        (lambda v, b, k: None, "`loss` must give a scalar, or a pair of .*; got None"),
    ],
)  # fmt: skip
def test_what_loss_may_give(loss, words):
    with pytest.raises(ValueError, match=words):
        fit_w(loss, variables={**W, "seen": {"mean": jnp.zeros(())}})


def test_errors_are_short():
    with pytest.raises(ValueError, match="A list is a tree: make it an array") as error:
        fit(data=(XS[:48], [0] * 48))
    assert len(str(error.value)) < 500


def test_a_loss_that_ends_up_not_finite_leaves_the_best():
    def loss(variables, batch, key):
        w = variables["params"]["w"]
        return jnp.where(w[0] < 1.5, 1.0, jnp.nan) * distance(variables, batch, key)

    def score(variables, batch):
        return variables["params"]["w"][0] + 0 * batch

    options = {"epochs": 9, "optimiser": optax.sgd(0.02), "validation": VALUES, "score": score}
    with pytest.warns(UserWarning, match="its mean in epoch .* is nan.*ends with the best so far"):
        fitted = fit_w(loss, **options)
    assert 0 < fitted.best_epoch < 8
    assert fitted.variables["params"]["w"][0] == pytest.approx(fitted.history["score"].max())


def test_a_network_that_is_lost_among_others_is_named():
    def loss(variables, batch, key):
        return variables["fixed"]["factor"] * distance(variables, batch, key)

    variables = {"params": {"w": jnp.ones((2, 2))}, "fixed": {"factor": jnp.array([1.0, jnp.nan])}}
    with pytest.warns(UserWarning, match=r"that of the networks \[1\] of 2 is not any more"):
        fitted = fit_w(loss, variables=variables, key=jax.random.split(KEY))
    assert np.isfinite(fitted.history["loss"]).tolist() == [[True, False]]


def test_a_gradient_that_overflows_changes_nothing():
    @jax.custom_jvp
    def overflow(w, batch):  # 0, with a derivative that is infinite for some batches
        return jnp.zeros(())

    @overflow.defjvp
    def _(primals, tangents):
        size = jnp.where(primals[1].max() > 6, jnp.inf, 0.0)
        return jnp.zeros(()), size * tangents[0].sum()

    def loss(variables, batch, key):
        w = variables["params"]["w"]
        return jnp.square(w).sum() + overflow(w, batch)

    optimiser = training.adamw(0.1, 6, warmup=0.0)
    got, want = (
        fit_w(loss, optimiser=optimiser, data=lambda epoch, batches=batches: batches).variables
        for batches in ([VALUES[:2], VALUES[6:], VALUES[2:4]], [VALUES[:2], VALUES[2:4]])
    )
    assert_close(got, want)
    assert (got["params"]["w"] < 0.9).all()
