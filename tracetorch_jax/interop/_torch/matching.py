"""Which module of a torch model is which of a Flax model, and in what order features were."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import flax.linen as nn
import numpy as np

from tracetorch_jax._shared.trees import differences, listed, path_name
from tracetorch_jax.interop._torch.layouts import layout_of
from tracetorch_jax.interop._torch.survey import Found

Flatten = Mapping[str, Sequence[int] | None]

# What torch.compile and torch.nn.DataParallel put in front of every name.
_WRAPPERS = re.compile(r"^((_orig_mod|module)(\.|$))+")


def match(
    prefixes: Iterable[str], modules: list[Found], names: Mapping[str, str] | None
) -> dict[str, Found]:
    """Pair the prefixes of a state dict with the modules of a model.

    Args:
        prefixes: without the last part of the keys.
        modules: of the model.
        names: see `from_torch`.

    Returns:
        The module of each prefix.

    Raises:
        TypeError: `names` is no dict.
        ValueError: they cannot be paired.
    """
    prefixes = list(prefixes)
    check_names(names)
    if names is not None:
        return _by_mapping(prefixes, modules, names)
    by_name = {module.name: module for module in modules}
    bare = {prefix: _WRAPPERS.sub("", prefix) for prefix in prefixes}
    if set(bare.values()) == set(by_name):
        return {prefix: by_name[name] for prefix, name in bare.items()}
    ordered = _in_order([tuple(prefix.split(".")) for prefix in prefixes])
    stacked = _in_order([tuple(module.name.split(".")) for module in modules])
    if ordered and stacked and len(ordered) == len(stacked) and _is_stack(modules):
        return {
            ".".join(prefix): by_name[".".join(name)]
            for prefix, name in zip(ordered, stacked, strict=True)
        }
    example = ""
    if prefixes and modules:
        example = f", such as {{{prefixes[0]!r}: {path_name(modules[0].path)!r}, ...}}"
    raise ValueError(
        f"`state_dict` and `model` must have the same modules, by the same names or in a stack; "
        f"got {sorted(prefixes, key=_natural)} and {[module.label for module in modules]}. If "
        f"they do have the same, say which is which with `names`{example}."
    )


def check_names(names: Mapping[str, str] | None) -> None:
    """Raise unless `names` is a dict or None."""
    if names is not None and not isinstance(names, Mapping):
        raise TypeError(f"`names` must be a dict from prefix to path; got {names!r}.")


def _by_mapping(
    prefixes: list[str], modules: list[Found], names: Mapping[str, str]
) -> dict[str, Found]:
    paths = {path_name(module.path): module for module in modules}
    problems = differences(names, prefixes)
    problems += [f"lacks {module.label}" for p, module in paths.items() if p not in names.values()]
    problems += [
        f"has {prefix!r} for {path!r}, which is no module with parameters of the model"
        for prefix, path in names.items()
        if path not in paths
    ]
    twice = {path for path in names.values() if list(names.values()).count(path) > 1}
    problems += [f"has {path!r} twice" for path in sorted(twice)]
    if problems:
        raise ValueError(
            f"`names` must pair every prefix of the state dict with a path of the model; it "
            f"{listed(problems)}."
        )
    return {prefix: paths[names[prefix]] for prefix in prefixes}


def _is_stack(modules: list[Found]) -> bool:
    """Whether the places of all modules are numbers."""
    return all(re.fullmatch(r"(\d+(\.\d+)*)?", module.name) for module in modules)


def _in_order(names: list[tuple[str, ...]]) -> list[tuple[str, ...]] | None:
    """Names sorted by their numbers, or None if not only numbers tell them apart."""
    if len(names) < 2:
        return names
    if not all(names):
        return None
    heads = {name[0] for name in names}
    if len(heads) > 1 and not all(head.isdigit() for head in heads):
        return None
    ordered = []
    for head in sorted(heads, key=_natural):
        rest = _in_order([name[1:] for name in names if name[0] == head])
        if rest is None:
            return None
        ordered += [(head, *name) for name in rest]
    return ordered


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts "2" before "10"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def flattened(flatten: Flatten | None, pairs: Mapping[str, Found]) -> dict[str, np.ndarray]:
    """Where each feature of a flattened input was in torch, by prefix.

    Raises:
        TypeError: `flatten` is of the wrong kind.
        ValueError: it names an unknown prefix or a shape of the wrong size, or lacks one.
    """
    flatten = {} if flatten is None else flatten
    if not isinstance(flatten, Mapping):
        raise TypeError(f"`flatten` must be a dict from prefix to [C, H, W]; got {flatten!r}.")
    unknown = [prefix for prefix in flatten if prefix not in pairs]
    if unknown:
        raise ValueError(f"`flatten` must name prefixes of {list(pairs)}; got {unknown}.")
    orders, channels = {}, None
    for prefix, found in sorted(pairs.items(), key=lambda pair: pair[1].position):
        size = layout_of(found).num_features
        if prefix in flatten:
            order = _order(prefix, flatten[prefix], size, found)
            if order is not None:
                orders[prefix] = order
        elif channels and size and size != channels and size % channels == 0:
            shape = _guess(found.before, size) or f"({channels}, height, width)"
            raise ValueError(
                f"`flatten` must say in what order the {size} features of {found.label} were, "
                f"since a convolution of {channels} channels comes before it: torch flattens "
                f"[C, H, W] and Flax [H, W, C]. Use flatten={{{prefix!r}: {shape}}}, or "
                f"flatten={{{prefix!r}: None}} if the model does as torch does; "
                f"got {dict(flatten)}."
            )
        if isinstance(found.module, (nn.Conv, nn.ConvTranspose)):
            channels = found.module.features
        elif isinstance(found.module, nn.Dense):
            channels = None
    return orders


def _order(
    prefix: str, shape: Sequence[int] | None, size: int | None, found: Found
) -> np.ndarray | None:
    if shape is None:
        return None
    sizes = tuple(shape)
    if size is None or math.prod(sizes) != size:
        raise ValueError(
            f"`flatten[{prefix!r}]` must be the [C, H, W] of the {size} features of {found.label}; "
            f"got {sizes}."
        )
    return np.moveaxis(np.arange(size).reshape(sizes), 0, -1).ravel()


def _guess(before: tuple[int, ...] | None, size: int) -> tuple[int, ...] | None:
    """The shape, channels first, that was flattened, if it is the output of a module."""
    for axes in range(2, len(before or ()) + 1):
        space, channels = (before or ())[-axes:-1], (before or ())[-1]
        if math.prod(space) * channels == size:
            return (channels, *space)
    return None
