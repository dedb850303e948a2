"""What each parameter is, for optax."""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax

from tracetorch_jax._shared.trees import key_name, path_name
from tracetorch_jax.functional.spec import Kind, parameter_row

PARAMETER_LABELS: tuple[str, ...] = (*get_args(Kind), "other")
"""Everything that `parameter_labels` may say of a parameter."""


def parameter_labels(params: Any) -> Any:
    """Label each parameter by its kind, for `optax.multi_transform`.

    `PARAMETER_LABELS` holds all labels. A mapping made of it fits every network, whatever its
    layers are.

    Args:
        params: a tree of parameters, as ``model.init(...)["params"]``.

    Returns:
        A tree of the same structure that holds for each leaf ``"decay"``, ``"threshold"``,
        ``"scale"``, ``"rec_weight"``, ``"bias"`` or ``"adaptation"`` (its weights) of a trace layer
        or ``"delay"`` of a `Delay` or `DelayedDense` (stored as ``raw_...``), and ``"other"`` for
        everything else, such as the weights of a Dense layer.

    Raises:
        ValueError: a leaf named ``raw_...`` that is none of a trace layer's parameters.

    Example:
        >>> params = snn.LIB(8).init(jax.random.key(0), None, jnp.zeros((1, 8)))["params"]
        >>> training.parameter_labels(params)
        {'raw_beta': 'decay', 'raw_threshold': 'threshold'}
        >>> rates = dict.fromkeys(training.PARAMETER_LABELS, optax.adam(1e-2))
        >>> rates["other"] = optax.adam(1e-3)
        >>> state = optax.multi_transform(rates, training.parameter_labels).init(params)
    """
    return jax.tree.map_with_path(lambda path, _: _kind(path), params)


def decay_mask(params: Any) -> Any:
    """Mask for weight decay: which parameters are to decay.

    All but a trace layer's parameters, delays, biases and the scales of normalisations.

    Decaying a raw parameter towards 0 would draw every decay to 0.5, every threshold to 0.69 and
    every delay to half of the longest.

    Args:
        params: a tree of parameters, as ``model.init(...)["params"]``.

    Returns:
        A tree of booleans, for the `mask` of `optax.adamw` and others.

    Raises:
        ValueError: a leaf named ``raw_...`` that is none of a trace layer's parameters.

    Example:
        >>> optimiser = optax.adamw(1e-3, weight_decay=1e-2, mask=training.decay_mask)
        >>> params = {"Dense_0": {"kernel": 1.0, "bias": 0.0}, "cell": {"raw_beta": 2.0}}
        >>> training.decay_mask(params)
        {'Dense_0': {'bias': False, 'kernel': True}, 'cell': {'raw_beta': False}}
    """
    return jax.tree.map_with_path(
        lambda path, _: _kind(path) == "other" and _leaf_name(path) not in ("bias", "scale"),
        params,
    )


def _leaf_name(path: Any) -> str:
    """Name of a parameter, also of one in a box such as `flax.linen.Partitioned`."""
    names = [key_name(key) for key in path]
    while names and names[-1] == "value":
        names.pop()
    return names[-1] if names else ""


def _kind(path: Any) -> Kind | Literal["other"]:
    """What a parameter is, by its name."""
    name = _leaf_name(path)
    if not name.startswith("raw_"):
        return "other"
    if name == "raw_delay":
        return "delay"
    row = parameter_row(name.removeprefix("raw_"))
    if row is None:
        raise ValueError(f"`params` must hold parameters of known layers; got {path_name(path)}.")
    return row.kind
