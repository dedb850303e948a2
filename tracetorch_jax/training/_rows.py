"""What a model gives for all rows of a data set, a batch at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tracetorch_jax._shared.checks import check_integer, is_of_nnx
from tracetorch_jax._shared.trees import path_name


def predict(
    function: Callable[[Any, Any], Any], variables: Any, data: Any, *, batch_size: int
) -> Any:
    """Outputs of a function for all rows, computed in batches.

    It is compiled once in a call: a last batch with fewer rows is filled with copies of its last
    row, whose results are dropped. What `jax.jit` gave is compiled once for all calls.

    Args:
        function: from ``(variables, batch)`` to a tree of arrays ``[rows, ...]``; `batch` is a tree
            like `data`. A row's result must not depend on the other rows.
        variables: of the model; or a model of nnx, which `function` then gets.
        data: a tree of arrays of one length, such as ``(xs, labels)``.
        batch_size: rows at a time.

    Returns:
        A tree of NumPy arrays, of all rows in their order.

    Raises:
        TypeError: `batch_size` is no integer, or `function` no function.
        ValueError: arrays of different lengths, no rows, or results without an axis of rows.

    Example:
        >>> model = snn.Unroll(snn.LI(3))
        >>> xs = jnp.ones((50, 10, 3))
        >>> variables = model.init(jax.random.key(0), xs)
        >>> guess = lambda variables, xs: decode.mean(model.apply(variables, xs)).argmax(-1)
        >>> training.predict(guess, variables, xs, batch_size=32).shape
        (50,)
    """
    batch_size = check_integer("batch_size", batch_size)
    if not callable(function):
        raise TypeError(f"`function` must be a function; got {function!r}.")
    if is_of_nnx(variables):
        from flax import nnx

        graph, variables = nnx.split(variables)
        of_model = function

        def function(state: Any, batch: Any) -> Any:
            return of_model(nnx.merge(graph, state, copy=True), batch)

    run = function if hasattr(function, "lower") else anew(function)
    return over_rows("function", run, variables, arrays("data", data), batch_size)


def evaluate(
    score: Callable[[Any, Any], jax.Array], variables: Any, data: Any, *, batch_size: int
) -> float:
    """Mean of a score over all rows, in batches; each row counts once.

    Args:
        score: from ``(variables, batch)`` to a value of each row, ``[rows]``, such as
            ``metrics.accuracy(model.apply(variables, xs), labels)``.
        variables: of the model; or a model of nnx, which `score` then gets.
        data: a tree of arrays of one length.
        batch_size: rows at a time; it makes no difference to the result but rounding.

    Returns:
        The mean, in float64.

    Raises:
        TypeError: `batch_size` is no integer, or `score` no function.
        ValueError: arrays of different lengths, no rows, or a score that is not one value a row.

    Example:
        >>> model = snn.Unroll(snn.LI(3))
        >>> xs, labels = jnp.ones((50, 10, 3)), jnp.zeros(50, int)
        >>> variables = model.init(jax.random.key(0), xs)
        >>> def score(variables, batch):
        ...     return metrics.accuracy(model.apply(variables, batch[0]), batch[1])
        >>> training.evaluate(score, variables, (xs, labels), batch_size=32)
        1.0
    """
    return float(mean_of_rows(predict(score, variables, data, batch_size=batch_size)))


def anew(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, compiled for this once, since it may refer to what has changed since the last."""
    return jax.jit(
        functools.partial(function)
    )  # not known to JAX, which keeps programs by function


def arrays(name: str, data: Any) -> Any:
    """Check that it is a tree of arrays of one length, and give it."""
    data = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.asarray(x), data)
    for path, x in jax.tree.leaves_with_path(data):
        if not isinstance(x, jax.Array) and x.dtype.kind in "OSUV":
            raise TypeError(
                f"`{name}` must be a tree of arrays of numbers; got dtype {x.dtype} at "
                f"{path_name(path)!r}. `np.unique(names, return_inverse=True)[1]` makes classes of "
                "names."
            )
    shapes = {path_name(path): x.shape for path, x in jax.tree.leaves_with_path(data)}
    lengths = {shape[0] if shape else None for shape in shapes.values()}
    if len(lengths) != 1 or lengths & {None, 0}:
        several = dict(list(shapes.items())[:5])
        raise ValueError(
            f"`{name}` must be a tree of arrays of one length, their first axis, of at least one "
            f"row; got {len(shapes)} with shapes {several}{' ...' * (len(shapes) > 5)}. A list is "
            "a tree: make it an array."
        )
    return data


def rows_of(data: Any) -> int:
    """Number of rows of what `arrays` gave."""
    return int(jax.tree.leaves(data)[0].shape[0])


def take(data: Any, rows: np.ndarray) -> Any:
    """Rows of what `arrays` gave."""
    return jax.tree.map(lambda x: _rows(x, rows) if isinstance(x, jax.Array) else x[rows], data)


@jax.jit
def _rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    return x[rows]


def over_rows(
    name: str,
    run: Callable[[Any, Any], Any],
    variables: Any,
    data: Any,
    batch_size: int,
    axis: int = 0,
) -> Any:
    """Results of a compiled function for all rows, along an axis."""
    rows = rows_of(data)
    batch_size = min(batch_size, rows)
    parts = []
    for start in range(0, rows, batch_size):
        part = run(
            variables, take(data, np.minimum(np.arange(start, start + batch_size), rows - 1))
        )
        for leaf in jax.tree.leaves(part):
            if leaf.shape[axis : axis + 1] != (batch_size,):
                raise ValueError(
                    f"`{name}` must give a value for each of the {batch_size} rows of a batch; got "
                    f"shape {leaf.shape[axis:]}."
                )
        parts.append(part)
    keep = (slice(None),) * axis + (slice(rows),)

    def joined(*each: Any) -> np.ndarray:
        return np.concatenate([np.asarray(x) for x in each], axis)[keep]

    return jax.tree.map(joined, *parts)


def mean_of_rows(values: Any, axis: int = 0) -> np.ndarray:
    """Mean of one value a row, along the last of `axis + 1` axes."""
    if getattr(values, "ndim", None) != axis + 1:
        shapes = [np.shape(leaf)[axis:] for leaf in jax.tree.leaves(values)]
        raise ValueError(f"`score` must give one value a row, [rows]; got {shapes} of all rows.")
    return np.asarray(values.mean(axis=axis, dtype=np.float64))
