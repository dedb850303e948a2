"""Training over epochs."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import unfreeze

from tracetorch_jax import checkpoint
from tracetorch_jax._shared.checks import check_integer, is_of_nnx
from tracetorch_jax._shared.dtypes import countable
from tracetorch_jax._shared.trees import path_name
from tracetorch_jax.functional.engines.masks import keep_ended
from tracetorch_jax.training._rows import anew, arrays, mean_of_rows, over_rows, rows_of, take


class Fit(NamedTuple):
    """The result of `fit`.

    Attributes:
        variables: those of the best epoch; without `validation`, of the last one.
        history: for each epoch the mean ``"loss"`` of its updates and, with `validation`, the
            ``"score"``: arrays ``[epochs]``, or ``[epochs, S]`` of S networks.
        best_epoch: the epoch that `variables` are of, from 0; an array ``[S]`` for S networks.
    """

    variables: Any
    history: dict[str, np.ndarray]
    best_epoch: Any


def fit(
    loss: Callable[[Any, Any, jax.Array], Any],
    variables: Any,
    optimiser: optax.GradientTransformation,
    data: Any,
    *,
    epochs: int,
    batch_size: int,
    key: jax.Array,
    validation: Any = None,
    score: Callable[[Any, Any], jax.Array] | None = None,
    patience: int | None = None,
    average: float = 0.0,
    folder: str | pathlib.Path | None = None,
    progress: bool | str = False,
) -> Fit:
    """Train for a number of epochs, and keep the best variables.

    Every epoch draws the rows in a new order, cuts it into batches and updates the parameters with
    each. Rows that do not fill a batch are left out in that epoch. With `validation`, every epoch
    ends with the mean of `score` over all its rows, and the variables of the epoch with the
    greatest one are given. The same key gives the same training.

    Several networks train at once, in one program, if `key` holds a key for each. Each network has
    an order of its own, and learns what it would learn alone, up to rounding. What `loss` and
    `score` refer to is read when `fit` is called: it compiles them anew.

    Args:
        loss: from ``(variables, batch, key)`` to a scalar, or to a pair of it and a dict of the
            collections that changed, as ``model.apply(..., mutable=["batch_stats"])`` gives them.
            A collection that was not in `variables` is an error.
            `batch` is a tree like `data`, of `batch_size` rows. `key` is for dropout and
            augmentation.
        variables: what ``model.init`` gave, a dict with ``"params"``; or a model of nnx, which
            `loss` and `score` then get instead, and which holds the result in the end. They get it
            in the mode it is in: `score` may have to call ``model.eval()``.
        optimiser: of optax, such as `adamw` here.
        data: a tree of arrays of one length, such as ``(xs, labels)``. Or, for data that no memory
            holds, a function from the number of the epoch to an iterable of batches, which all
            networks get alike.
        epochs: passes over the data, at least 1.
        batch_size: rows of an update, all of the data if it has fewer; and of `validation` at once.
        key: PRNG key; or keys ``[S]`` for S networks, whose variables have S as first axis:
            ``jax.vmap(model.init, (0, None))(keys, xs)``.
        validation: a tree of arrays like `data`, of rows that are not trained on.
        score: from ``(variables, batch)`` to a value of each row, ``[rows]``, greater for better:
            ``metrics.accuracy(model.apply(variables, xs), labels)``, or a loss with a minus sign.
            An epoch whose score is NaN is better than none.
        patience: epochs without a greater score after which training ends; None for never.
        average: decay per update, in [0, 1), of a running mean of the parameters, which is what is
            scored and given instead of the last ones; 0 for no mean. 0.99 suits some hundreds of
            updates or more.
        folder: where the variables that would be given are saved, with `checkpoint.save`: at the
            start and whenever they are new. A checkpoint that is there is replaced. Of a model of
            nnx it is ``nnx.state(model)``. `checkpoint.restore` reads them, also after training was
            interrupted.
        progress: whether a bar is shown, or its title. It needs tqdm.

    Returns:
        A `Fit`: the variables, the history and the best epoch.

    Raises:
        FileExistsError: `folder` holds something else than a checkpoint.
        FloatingPointError: the mean loss of an epoch is not finite (of every network, if there are
            several): see `diagnose`. After an epoch with a score, training ends with a warning
            instead, and the best variables are given. If only some networks are lost, a warning
            names them.
        ImportError: tqdm is missing, or orbax with `folder`.
        TypeError: an argument of the wrong kind.
        ValueError: arrays of different lengths or no rows, `score` without `validation` or one that
            does not give a value for each row, a `loss` that is no scalar, an argument out of its
            range.

    Example:
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(8), snn.LIB(8), nn.Dense(2), snn.LI(2)]))
        >>> xs = jax.random.normal(jax.random.key(0), (64, 10, 3))
        >>> labels = (xs.mean((1, 2)) > 0).astype(int)
        >>> def loss(variables, batch, key):
        ...     xs, labels = batch
        ...     return losses.cross_entropy(model.apply(variables, xs), labels).mean()
        >>> def score(variables, batch):
        ...     return metrics.accuracy(model.apply(variables, batch[0]), batch[1])
        >>> fitted = training.fit(
        ...     loss,
        ...     model.init(jax.random.key(1), xs),
        ...     training.adamw(1e-2, training.num_updates(48, 16, epochs=5)),
        ...     (xs[:48], labels[:48]),
        ...     epochs=5,
        ...     batch_size=16,
        ...     key=jax.random.key(2),
        ...     validation=(xs[48:], labels[48:]),
        ...     score=score,
        ... )
        >>> {name: values.shape for name, values in fitted.history.items()}
        {'loss': (5,), 'score': (5,)}
    """
    epochs, batch_size = check_integer("epochs", epochs), check_integer("batch_size", batch_size)
    if not 0 <= average < 1:
        raise ValueError(f"`average` must lie in [0, 1); got {average!r}.")
    if (score is None) != (validation is None) or (score is None and patience is not None):
        raise ValueError(
            "`validation` and `score` must be given together, and `patience` only with them."
        )
    patience = epochs if patience is None else check_integer("patience", patience)
    for name, function in (("loss", loss), ("score", score)):
        if not (callable(function) or (name == "score" and function is None)):
            raise TypeError(f"`{name}` must be a function; got {function!r}.")
    data = data if callable(data) else arrays("data", data)
    validation = None if score is None else arrays("validation", validation)
    key = _keys(key)
    nets = key.ndim  # leading axes of what belongs to a network
    model = variables if is_of_nnx(variables) else None
    whole: Callable[[Any], Any] = dict
    if model is not None:
        variables, loss, score, whole = _without_objects(model, loss, score)
    variables = _checked(variables, key.shape)
    if folder is not None:  # what is in the way is known before there is anything to lose
        checkpoint.save(folder, whole(variables), overwrite=True)
    start, update = _programs(loss, optimiser, average, bool(nets), callable(data))
    if score is not None:
        score = anew(jax.vmap(score, (0, None)) if nets else score)
    state, best = start(variables), variables
    best_score, best_epoch = np.full(key.shape, np.nan), np.zeros(key.shape, int)
    history: dict[str, list[np.ndarray]] = {}
    with _bar(epochs, progress) as bar:
        for epoch in bar:
            order, own = _split(key, np.int32(epoch))
            values = []
            for i, batch in enumerate(_batches(data, batch_size, order, epoch)):
                state, value = update(state, batch, own, np.int32(i))
                values.append(value)
            mean, problem = _mean_loss(values, epoch)
            if problem and not history.get("score"):
                raise FloatingPointError(problem)
            if problem:
                warnings.warn(f"{problem} Training ends with the best so far.", stacklevel=2)
                break
            history.setdefault("loss", []).append(mean)
            current = {**state.variables, "params": state.scored}
            better = epoch - best_epoch <= patience  # a network that has ended stays as it is
            if score is not None:
                now = mean_of_rows(
                    over_rows("score", score, current, validation, batch_size, nets), nets
                )
                history.setdefault("score", []).append(now)
                better &= (now > best_score) | np.isnan(best_score) | (epoch == 0)
                best_score = np.where(better, now, best_score)
            best_epoch = np.where(better, epoch, best_epoch)
            if better.all():
                best = current
            elif better.any():
                best = keep_ended(jnp.asarray(better), current, best)
            if folder is not None and better.any():
                checkpoint.save(folder, whole(best), overwrite=True)
            if progress:
                last = {name: np.mean(values[-1]) for name, values in history.items()}
                bar.set_postfix({name: f"{value:.3f}" for name, value in last.items()})
            if (epoch - best_epoch >= patience).all():
                break
    lost = np.flatnonzero(~np.isfinite(history["loss"][-1]))
    if lost.size:
        warnings.warn(
            f"`loss` must be finite; that of the networks {lost.tolist()} of {key.size} is not any "
            "more. See `history`.",
            stacklevel=2,
        )
    if model is not None:
        from flax import nnx

        nnx.update(model, best["params"], best["rest"])
    return Fit(
        best if model is None else model,
        {name: np.stack(each) for name, each in history.items()},
        best_epoch if nets else int(best_epoch),
    )


class _State(NamedTuple):
    """What an update changes: variables, optimiser, mean of the parameters and what is scored."""

    variables: Any
    optimiser: Any
    mean: Any
    scored: Any


def _programs(
    loss: Callable[..., Any],
    optimiser: optax.GradientTransformation,
    average: float,
    many: bool,
    shared: bool,
) -> tuple[Callable[[Any], _State], Callable[..., tuple[_State, jax.Array]]]:
    """What makes the first state, and an update; of several networks, with one batch for all."""
    ema, optimiser = optax.ema(average), optax.with_extra_args_support(optimiser)

    def start(variables: Any) -> _State:
        params = variables["params"]
        mean = ema.init(jax.tree.map(_wide, params)) if average else None
        return _State(variables, optimiser.init(params), mean, params)

    def update(state: _State, batch: Any, key: jax.Array, i: Any) -> tuple[_State, jax.Array]:
        params = state.variables["params"]

        def objective(params: Any) -> tuple[jax.Array, Any]:
            given = loss({**state.variables, "params": params}, batch, jax.random.fold_in(key, i))
            return _checked_loss(given, state.variables)

        (value, changed), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):  # for optax
            change, moments = optimiser.update(gradient, state.optimiser, params, value=value)
            params = optax.apply_updates(params, change)
            scored, mean = params, state.mean
            if average:  # in float32 at least: a narrow mean would not stay at a constant
                means, mean = ema.update(jax.tree.map(_wide, params), mean)
                scored = jax.tree.map(lambda p, m: m.astype(p.dtype), params, means)
        variables = {**state.variables, **changed, "params": params}
        return _State(variables, moments, mean, scored), value

    if many:
        start, update = jax.vmap(start), jax.vmap(update, (0, None if shared else 0, 0, None))
    return start, jax.jit(update)


def _keys(key: Any) -> jax.Array:
    """A typed key, or an array ``[S]`` of them."""
    if not isinstance(key, jax.Array):
        raise TypeError(f"`key` must be a PRNG key, or an array of them; got {key!r}.")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim > 1 or not key.size:
        raise ValueError(f"`key` must be a PRNG key, or keys [S]; got shape {key.shape}.")
    return key


def _checked(given: Any, networks: tuple[int, ...]) -> dict[str, Any]:
    """Variables as a dict of arrays, those of several networks with their number as first axis."""
    variables: Any = given
    if not (isinstance(variables, Mapping) and "params" in variables):
        raise TypeError(
            "`variables` must be a dict with 'params', as `model.init` gives it; got "
            f"{type(variables).__name__}."
        )
    for path, leaf in jax.tree.leaves_with_path(variables):
        if jnp.shape(leaf)[: len(networks)] != networks:
            raise ValueError(
                f"`variables` must have the number of keys, {networks[0]}, as first axis, as "
                "jax.vmap(model.init, (0, None))(keys, xs) gives them; got shape "
                f"{jnp.shape(leaf)} of {path_name(path)}."
            )
    return {name: jax.tree.map(jnp.asarray, unfreeze(x)) for name, x in variables.items()}


def _checked_loss(given: Any, variables: dict[str, Any]) -> tuple[jax.Array, Mapping[str, Any]]:
    """A loss, and the collections that it changed."""
    pair: Any = given if isinstance(given, tuple) else (given, {})
    value, changed = pair if len(pair) == 2 else (None, None)
    if value is None or jnp.shape(value) or not isinstance(changed, Mapping):
        raise ValueError(
            "`loss` must give a scalar, or a pair of a scalar and a dict of the collections that "
            f"changed; got {jax.tree.map(jnp.shape, given)}."
        )
    for name, values in changed.items():
        if name == "params" or name not in variables:
            known = [each for each in variables if each != "params"]
            raise ValueError(
                f"`loss` must give collections of `variables` that changed ({known}), and nothing "
                f"else; got {name!r}."
            )
        old, new = (str(jax.tree.structure(unfreeze(x))) for x in (variables[name], values))
        if old != new:
            raise ValueError(
                f"`loss` must give the collection {name!r} with the structure that it has in "
                f"`variables`, {old}; got {new}."
            )
    return value, {name: unfreeze(values) for name, values in changed.items()}


def _wide(x: jax.Array) -> jax.Array:
    return countable(x) if jnp.issubdtype(x.dtype, jnp.floating) else x


@jax.jit
def _split(key: jax.Array, epoch: Any) -> tuple[jax.Array, jax.Array]:
    """Keys of an epoch: for the order of the rows, and for the updates."""
    own = jax.vmap(jax.random.fold_in, (0, None))(jnp.atleast_1d(key), epoch)
    both = jax.vmap(jax.random.split)(own).reshape(*key.shape, 2)
    return both[..., 0], both[..., 1]


@functools.partial(jax.jit, static_argnums=1)
def _order(key: jax.Array, rows: int) -> jax.Array:
    permute = functools.partial(jax.random.permutation, x=rows)
    return jax.vmap(permute)(key) if key.ndim else permute(key)


def _batches(data: Any, batch_size: int, key: jax.Array, epoch: int) -> Iterator[Any]:
    """Batches of an epoch; of several networks, each its own."""
    if callable(data):
        yield from data(epoch)
        return
    rows = rows_of(data)
    batch_size = min(batch_size, rows)
    order = np.asarray(_order(key, rows))
    for start in range(0, rows - batch_size + 1, batch_size):
        yield take(data, order[..., start : start + batch_size])


def _mean_loss(values: list[jax.Array], epoch: int) -> tuple[np.ndarray, str | None]:
    """Mean of an epoch's losses, and what is wrong if that of no network is finite."""
    if not values:
        raise ValueError(f"`data` must give at least one batch; got none in epoch {epoch}.")
    mean = np.stack([np.asarray(value, np.float64) for value in values]).mean(axis=0)
    if np.isfinite(mean).any():
        return mean, None
    return mean, (
        f"`loss` must be finite; its mean in epoch {epoch} is {mean}. In a compiled program "
        "labels outside 0 to C - 1 give NaN. If yours are right, `diagnose` says where what is not "
        "finite comes from; a lower learning rate may help."
    )


def _without_objects(model: Any, loss: Any, score: Any) -> tuple[Any, Any, Any, Any]:
    """Variables of a model of nnx, functions of these instead of it, and what gives its state."""
    from flax import nnx

    is_rest = nnx.Not(nnx.Param)
    graph, params, *others = nnx.split(model, nnx.Param, is_rest)

    def merge(variables: Any) -> Any:
        # Copied, since Dropout counts up a variable, which must be of this trace.
        return nnx.merge(graph, variables["params"], variables["rest"], copy=True)

    def loss_of(variables: Any, batch: Any, key: jax.Array) -> Any:
        merged = merge(variables)
        value = loss(merged, batch, key)
        return value, {"rest": nnx.state(merged, is_rest)}

    def score_of(variables: Any, batch: Any) -> Any:
        return score(merge(variables), batch)

    def whole(variables: Any) -> Any:
        return nnx.state(merge(variables))

    return {"params": params, "rest": others[0]}, loss_of, score and score_of, whole


def _bar(epochs: int, progress: bool | str) -> Any:
    """Epochs, with a bar if it is wanted."""
    if not progress:
        return contextlib.nullcontext(range(epochs))
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("`progress` needs tqdm: pip install 'tqdm>=4.66'.") from error
    title = progress if isinstance(progress, str) else None
    return tqdm(range(epochs), desc=title, unit="epoch", dynamic_ncols=True)
