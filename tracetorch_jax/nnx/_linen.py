"""From linen variables to nnx modules and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx

from tracetorch_jax._shared.trees import differences, leaves_by_path, listed, path_name

_COLLECTIONS: dict[type, str] = {nnx.Param: "params", nnx.BatchStat: "batch_stats"}

Model = TypeVar("Model", bound=nnx.Module)


def to_linen(model: nnx.Module) -> dict[str, Any]:
    """Variables of the linen model of the same structure.

    Names are matched by the one difference there is: the i-th module of a list is ``name_i`` in
    linen. So `Sequential`, `Residual`, `Unroll` and trace layers match those of
    `tracetorch_jax.snn`; a module of your own matches one whose submodules have the same names.

    Args:
        model: an nnx module.

    Returns:
        ``{"params": ...}``, and ``"batch_stats"`` if there are any. Random streams and the states
        of `Stateful` layers have no place in it.

    Raises:
        ValueError: two variables of one name.

    Example:
        >>> layer = snn.LIB(2, beta=0.5)
        >>> variables = snn.to_linen(snn.Unroll(layer))
        >>> tt.snn.Unroll(tt.snn.LIB(2)).apply(variables, jnp.ones((1, 10, 2))).shape
        (1, 10, 2)
    """
    variables: dict[str, Any] = {}
    for path, variable in _by_linen_path(model).items():
        tree = variables
        for name in path[:-1]:
            tree = tree.setdefault(name, {})
        tree[path[-1]] = variable.get_value()
    return variables


def from_linen(variables: Mapping[str, Any], model: Model) -> Model:
    """Set the parameters of an nnx model to those of a linen model, in place.

    Args:
        variables: ``{"params": ..., "batch_stats": ...}``, as ``model.init`` of linen gives, boxed
            or not.
        model: an nnx module of the same structure, see `to_linen`.

    Returns:
        `model`.

    Raises:
        ValueError: a variable is missing, unknown, or of another shape or dtype; all are listed and
            nothing is loaded.

    Example:
        >>> xs = jnp.ones((1, 10, 2))
        >>> model = tt.snn.Unroll(tt.snn.LIB(2, beta=0.5))
        >>> variables = model.init(jax.random.key(0), xs)
        >>> layer = snn.from_linen(variables, snn.Unroll(snn.LIB(2))).cell
        >>> layer.parameters()["beta"].tolist()
        [0.5, 0.5]
    """
    wanted = _by_linen_path(model)
    given = leaves_by_path(nn.unbox(dict(variables)))
    own = {path: variable.get_value() for path, variable in wanted.items()}
    if problems := differences(given, own, lambda x: f"{jnp.result_type(x)}{list(jnp.shape(x))}"):
        raise ValueError(f"`variables` must match {type(model).__name__}; it {listed(problems)}.")
    for path, variable in wanted.items():
        if given[path] is not own[path]:  # one of outside of a transformation can't be set within
            variable.set_value(jnp.asarray(given[path]))
    return model


def _by_linen_path(model: nnx.Module) -> dict[tuple[str, ...], nnx.Variable[Any]]:
    """Every variable that linen has too, by its collection and path there."""
    found: dict[tuple[str, ...], nnx.Variable[Any]] = {}
    for path, variable in nnx.iter_graph(model):
        collection = next(
            (name for kind, name in _COLLECTIONS.items() if isinstance(variable, kind)), None
        )
        if collection is None:
            continue
        names = [collection]
        for key in path:
            if isinstance(key, int):
                names[-1] = f"{names[-1]}_{key}"
            else:
                names.append(str(key))
        if tuple(names) in found:
            raise ValueError(f"`model` has two variables that are {path_name(names)} in linen.")
        found[tuple(names)] = variable
    return found
