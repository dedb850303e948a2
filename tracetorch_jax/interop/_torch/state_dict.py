"""State dicts: names and arrays, checked, and what they say of trace layers."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from tracetorch_jax.functional.spec import parameter_row
from tracetorch_jax.interop._torch.files import as_array, load_torch
from tracetorch_jax.interop._torch.layouts import Arrays

StateDict = Mapping[str, Any]

SHOWN = 40


def arrays_of(state_dict: StateDict | str | os.PathLike[str]) -> Arrays:
    """The arrays of a state dict, checked."""
    if isinstance(state_dict, (str, os.PathLike)):
        state_dict = load_torch(state_dict)
    if not isinstance(state_dict, Mapping):
        hint = " Use its state_dict()." if hasattr(state_dict, "state_dict") else ""
        raise TypeError(
            f"`state_dict` must be a dict from names to arrays, or a path; "
            f"got {type(state_dict).__name__}.{hint}"
        )
    arrays = {}
    for name, value in state_dict.items():
        if not isinstance(name, str) or isinstance(value, Mapping):
            raise TypeError(
                f"`state_dict` must be a flat dict from names to arrays; got "
                f"{type(value).__name__} at {name!r}. Of a checkpoint that holds more, pass "
                f"the part with the weights."
            )
        array = as_array(value)
        if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_) or (
            jnp.issubdtype(array.dtype, np.complexfloating)
        ):
            raise TypeError(f"`state_dict[{name!r}]` must be real numbers; got {array.dtype}.")
        arrays[name] = array
    return arrays


def without(arrays: Arrays, ignore: Iterable[str]) -> Arrays:
    """All arrays but those whose names match a pattern."""
    patterns = [ignore] if isinstance(ignore, str) else list(ignore)
    for pattern in patterns:
        if not fnmatch.filter(arrays, pattern):
            raise ValueError(
                f"`ignore` must be patterns of keys of the state dict; got {pattern!r}, which "
                f"matches none of {list(arrays)[:SHOWN]}."
            )
    return {
        name: array
        for name, array in arrays.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def grouped(arrays: Arrays) -> dict[str, Arrays]:
    """The arrays of each module by its prefix."""
    groups: dict[str, Arrays] = {}
    for key, array in arrays.items():
        prefix, _, name = key.rpartition(".")
        groups.setdefault(prefix, {})[name] = array
    return groups


def layer_arguments(state_dict: StateDict, prefix: str = "") -> dict[str, np.ndarray]:
    """Constrained values of a trace layer's parameters: arguments for its constructor.

    For layers whose parameters are constants, and for a look into a state dict.

    Args:
        state_dict: arrays or tensors by name.
        prefix: what stands before the names of the layer, such as ``"1"`` for ``"1.raw_beta"``.

    Returns:
        By name, ``"beta"`` for ``"raw_beta"``, float64 arrays of shape ``()`` or
        ``(num_neurons,)``. A bias is as traceTorch has it, 0.18 and 0.19 only; named layers take
        none.

    Raises:
        TypeError: `state_dict` is none.
        ValueError: there is no parameter of a trace layer below `prefix`.

    Example:
        >>> values = interop.layer_arguments({"1.raw_beta": np.zeros(3)}, "1")
        >>> layer = snn.LI(3, **values, beta_learnable=False)
        >>> layer.beta
        array([0.5, 0.5, 0.5])
    """
    start = f"{prefix}.raw_" if prefix else "raw_"
    whole = arrays_of(state_dict)
    arrays = {key.removeprefix(start): a for key, a in whole.items() if key.startswith(start)}
    if not arrays:
        known = list(grouped(whole))
        raise ValueError(f"`prefix` must be that of a trace layer, of {known}; got {prefix!r}.")
    if "bias" in arrays:
        arrays["bias"] = np.arcsinh(arrays["bias"].astype(np.float64))
    rows = {name: parameter_row(name) for name in arrays}
    if unknown := [f"raw_{name}" for name, row in rows.items() if row is None]:
        raise ValueError(
            f"`state_dict` must hold parameters of a known layer below {prefix!r}; got {unknown}."
        )
    return {name: row.constraint.value(arrays[name]) for name, row in rows.items() if row}
