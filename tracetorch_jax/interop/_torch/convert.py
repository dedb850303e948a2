"""State dicts of traceTorch and torch as Flax variables, and back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._models import fills_nnx, takes_nnx
from tracetorch_jax._shared.trees import differences, leaves_by_path, listed, path_name
from tracetorch_jax.interop._torch.layouts import Arrays, layout_of
from tracetorch_jax.interop._torch.matching import Flatten, check_names, flattened, match
from tracetorch_jax.interop._torch.state_dict import StateDict, arrays_of, grouped, without
from tracetorch_jax.interop._torch.survey import Found, Path, Survey, survey
from tracetorch_jax.snn import Delay, DelayedDense


@fills_nnx
def from_torch(
    state_dict: StateDict | str | os.PathLike[str],
    model: Any,
    *inputs: Any,
    names: Mapping[str, str] | None = None,
    flatten: Flatten | None = None,
    ignore: Iterable[str] = (),
) -> Any:
    """Variables of a Flax model from a state dict of traceTorch (0.12 to 0.19 and head) or torch.

    Modules are paired by name if all names are the same, with ``"."`` for ``"/"``, and in stacks by
    position, whatever the numbers: the first of ``torch.nn.Sequential`` that has parameters with
    the first of a `Sequential` that does, and so on. Otherwise `names` says which is which.

    Trace layers, `flax.linen.Dense`, ``Conv``, ``ConvTranspose``, ``Embed`` and the norms are
    transposed as they need; arrays that a module of your own creates are taken as they are if they
    have the same name and shape. A parameter that is not learnable is a buffer in traceTorch and a
    constant of the module here, so the two must have the same value.

    What a state dict does not say is yours to set: which spike function, whether ``LI`` sums or
    averages, padding and strides, the epsilon of norms. ``docs/coming-from/weights.md`` has a table
    of what each release needs.

    Args:
        state_dict: arrays or tensors by name, or the path of a ``.safetensors``, ``.pt`` or
            ``.pth`` file, see `load_torch`.
        model: the module to fill, of linen or nnx.
        *inputs: what `model` is called with, for its shapes; `jax.ShapeDtypeStruct` will do. A
            single trace layer needs none.
        names: by prefix in torch, such as ``"fc1"``, the path in the variables, such as
            ``"cell/layers_0"``; for all modules.
        flatten: by prefix in torch of a module whose input was flattened from ``[C, H, W]``, that
            shape. Flax's convolutions keep channels last and so flatten ``[H, W, C]``; the
            parameters are permuted accordingly. None instead of a shape leaves them as they are,
            for a model that moves its channels to torch's place before it flattens.
        ignore: patterns of keys to leave out, such as ``"*.raw_alpha"``.

    Returns:
        Variables for ``model.apply``: ``{"params": ...}``, with ``"batch_stats"`` if there are
        any, in the dtypes that the model's parameters have. For a model of nnx, the model itself,
        into which they are set.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a file needs a package that is missing.
        IsADirectoryError: there is a folder.
        TypeError: an argument of the wrong kind, or `inputs` is missing.
        ValueError: the state dict does not fit the model: all keys that are missing, unknown, of
            another shape, of another value than the model's constant, or with values that are not
            finite or too large for the parameter's dtype, are listed. Or the modules cannot be
            paired, or a convolution's output is flattened and `flatten` does not say from what.

    Example:
        >>> state_dict = {
        ...     "0.weight": np.ones((2, 3)), "0.bias": np.zeros(2), "1.raw_beta": np.zeros(2)
        ... }
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(2), snn.LI(2, ema=False)]))
        >>> xs = jnp.ones((1, 3, 3))
        >>> variables = interop.from_torch(state_dict, model, xs)
        >>> model.apply(variables, xs)[0, :, 0].tolist()
        [3.0, 4.5, 5.25]
    """
    arrays = without(arrays_of(state_dict), ignore)
    found = survey(model, inputs)
    leaves = _load(arrays, found, names, flatten)
    keys = iter(leaves_by_path(found.variables))
    return jax.tree.map(lambda leaf: jnp.asarray(leaves[next(keys)], leaf.dtype), found.variables)


@takes_nnx
def to_torch(
    variables: Mapping[str, Any],
    model: nn.Module,
    *inputs: Any,
    names: Mapping[str, str] | None = None,
    flatten: Flatten | None = None,
    release: str = "0.19",
    like: StateDict | str | os.PathLike[str] | None = None,
    ignore: Iterable[str] = (),
) -> Arrays:
    """State dict of the torch model that equals a Flax model: the inverse of `from_torch`.

    Args:
        variables: the model's variables; left out for a model of nnx, which holds them.
        model: the module.
        *inputs: see `from_torch`.
        names: by prefix in torch, the path in the variables; by default the path with ``"."``,
            without the ``cell`` of `Unroll`, and with numbers for the places in a stack.
        flatten: see `from_torch`.
        release: of traceTorch, ``"0.12"`` to ``"0.19"`` or ``"head"``. In 0.18 and 0.19 layers
            that fire have a bias, which is written as 0 unless the model has one; in all others
            they have none, and nothing else differs.
        like: the state dict that the model was read from, or its file. Then names, order, dtypes
            and whatever the model has no place for (such as a bias of 0 and the counters of norms)
            are taken from there, and `release` does not matter.
        ignore: patterns of keys of `like` that are kept as they are.

    Returns:
        NumPy arrays by name, contiguous: ``{k: torch.tensor(v) for k, v in ...items()}`` is for
        ``load_state_dict``, and ``safetensors.numpy.save_file`` takes them as they are. Narrower
        types than float32 become float32.

    Raises:
        TypeError: an argument of the wrong kind, or `inputs` is missing.
        ValueError: `variables` are not those of the model, `like` does not fit it, or the model
            has what no state dict of that release holds.

    Example:
        >>> layer = snn.SLIB(2, alpha=0.5, alpha_learnable=False, beta_rank=0)
        >>> variables = layer.init(jax.random.key(0), None, jax.numpy.ones((1, 2)))
        >>> {name: array.shape for name, array in interop.to_torch(variables, layer).items()}
        {'raw_alpha': (2,), 'raw_beta': (), 'raw_threshold': (2,), 'raw_bias': (2,)}
    """
    bias = _has_bias(release)
    found = survey(model, inputs)
    if found.gated:
        raise ValueError(
            f"`model` must be one that torch has, but {' and '.join(found.gated)} has a matrix for "
            f"each gate, where torch has one for all."
        )
    delayed = [f.label for f in found.modules if isinstance(f.module, (Delay, DelayedDense))]
    if delayed:
        raise ValueError(
            f"`model` must be one that torch has, but {' and '.join(delayed)} has delays, which "
            "neither torch nor traceTorch has."
        )
    leaves = _own_leaves(variables, found)
    old: Arrays = {}
    if like is None:
        pairs = _named(found.modules, names)
    else:
        old = arrays_of(like)
        fitting = without(old, ignore)
        _load(fitting, found, names, flatten, argument="like")
        pairs = match(grouped(fitting), found.modules, names)
        bias = any(key.rpartition(".")[2] == "raw_bias" for key in old)
    orders = flattened(flatten, pairs)
    written: Arrays = {}
    problems = []
    for prefix, module in pairs.items():
        layout = layout_of(module)
        own = {leaf: leaves[leaf[0], *module.path, *leaf[1].split("/")] for leaf in module.leaves}
        arrays, wrong = layout.dump(own, orders.get(prefix), bias)
        problems += wrong
        variable = {entry.torch for entry in layout.entries}
        written |= {
            f"{prefix}.{name}" if prefix else name: array
            for name, array in arrays.items()
            if like is None or name in variable
        }
    if problems:
        raise ValueError(f"`model` must be one that traceTorch has, but {listed(problems)}.")
    if like is not None:
        learned = written
        written = {
            key: _like(key, learned[key], array) if key in learned else array
            for key, array in old.items()
        }
    return {key: np.array(array, order="C") for key, array in written.items()}


def _named(modules: list[Found], names: Mapping[str, str] | None) -> dict[str, Found]:
    """Modules by their prefix in torch: that of `names`, or else what their path suggests."""
    check_names(names)
    names = names or {}
    renamed = {path: prefix for prefix, path in names.items()}
    prefixes = {renamed.get(path_name(m.path), m.name): path_name(m.path) for m in modules}
    return match(prefixes, modules, prefixes | {**names})


def _load(
    arrays: Arrays,
    found: Survey,
    names: Mapping[str, str] | None,
    flatten: Flatten | None,
    argument: str = "state_dict",
) -> dict[Path, np.ndarray]:
    """Flax's arrays by path, all of them, or an error that lists all that is wrong."""
    groups = grouped(arrays)
    pairs = match(groups, found.modules, names)
    orders = flattened(flatten, pairs)
    leaves: dict[Path, np.ndarray] = {}
    problems = []
    for prefix, module in pairs.items():
        values, wrong = layout_of(module).load(
            f"{prefix}." if prefix else "", groups[prefix], orders.get(prefix)
        )
        problems += wrong
        for (collection, name), value in values.items():
            leaves[collection, *module.path, *name.split("/")] = value
    if problems:
        raise ValueError(f"`{argument}` must fit `model`, but it {listed(problems)}.")
    return leaves


def _like(key: str, array: np.ndarray, old: np.ndarray) -> np.ndarray:
    """An array in the dtype of what it replaces, and in its shape: a bias may have been one."""
    if array.shape != old.shape:
        if old.ndim or not np.allclose(array, array.flat[0], rtol=1e-5):
            raise ValueError(
                f"`like` has one {key!r} for all neurons, but the model now has one for each."
            )
        array = np.asarray(array.mean())
    return array.astype(old.dtype)


def _own_leaves(variables: Any, found: Survey) -> dict[Path, np.ndarray]:
    """A model's variables by path, or an error that lists what is wrong with them."""
    got, wanted = leaves_by_path(variables), leaves_by_path(found.variables)
    if problems := differences(got, wanted, lambda leaf: list(np.shape(leaf))):
        raise ValueError(f"`variables` must be those of `model`, but it {listed(problems)}.")
    arrays = {path: np.asarray(leaf) for path, leaf in got.items()}
    return {
        path: array if array.dtype in (np.float64, np.float32) else array.astype(np.float32)
        for path, array in arrays.items()
    }


def _has_bias(release: str) -> bool:
    """Whether layers that fire have a bias in a release of traceTorch."""
    if release == "head":
        return False
    found = re.fullmatch(r"0\.(\d+)(\.\d+)?", str(release))
    if not found or not 12 <= int(found[1]) <= 19:
        raise ValueError(f"`release` must be '0.12' to '0.19' or 'head'; got {release!r}.")
    return int(found[1]) >= 18
