"""Names of leaves in trees."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax


def key_name(key: object) -> str:
    """A step of a path into a tree, in words that do not depend on the containers.

    Example:
        >>> [tuple(map(key_name, path)) for path, _ in jax.tree.leaves_with_path({"a": [1.0]})]
        [('a', '0')]
    """
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def path_name(path: Iterable[Any]) -> str:
    """A path as the library spells it everywhere, which is how Flax spells its own.

    Entries of an argument are named otherwise, as code has them: ``carry['mem']``.

    Args:
        path: keys of a tree, or names.

    Example:
        >>> [path_name(path) for path, _ in jax.tree.leaves_with_path({"cell": {"kernel": [1.0]}})]
        ['cell/kernel/0']
    """
    return "/".join(map(key_name, path))


def below(tree: Any, path: str) -> Any:
    """What a tree has at a path, as `path_name` spells it; an empty dict where it has nothing.

    Example:
        >>> below({"cell": {"kernel": 1.0}}, "cell/kernel"), below({}, "cell")
        (1.0, {})
    """
    for name in path.split("/") if path else []:
        tree = tree[name] if name in tree else {}
    return tree


def differences(
    got: Mapping[Any, Any], want: Collection[Any], kind: Callable[[Any], Any] | None = None
) -> list[str]:
    """What a tree with named leaves lacks, has beyond what is wanted, or has otherwise, in words.

    Args:
        got: leaves by name, or by path.
        want: the names that it must have; with `kind` a mapping from them to leaves.
        kind: what a leaf must be like, such as its shape, to be compared and shown.

    Returns:
        The end of a sentence for each, see `listed`.

    Example:
        >>> got, want = {"cell/bias": [0.1, 0.2]}, {"cell/bias": [0.1], "cell/kernel": [0.3]}
        >>> listed(differences(got, want, len))
        "lacks 'cell/kernel'; has 'cell/bias' as 2 instead of 1"
    """

    def shown(name: Any) -> str:
        return repr(name if isinstance(name, str) else path_name(name))

    problems = [f"lacks {shown(name)}" for name in want if name not in got]
    for name in got:
        if name not in want:
            problems.append(f"has unknown {shown(name)}" + (f" {kind(got[name])}" if kind else ""))
    if kind and isinstance(want, Mapping):
        for name in want:
            if name in got and kind(got[name]) != kind(want[name]):
                problems.append(
                    f"has {shown(name)} as {kind(got[name])} instead of {kind(want[name])}"
                )
    return problems


def listed(problems: list[str], most: int = 40) -> str:
    """What is wrong as the end of one sentence: the first `most`, and how many more there are."""
    more = [f"and {len(problems) - most} more"] * (len(problems) > most)
    return "; ".join(problems[:most] + more)


def leaves_by_name(argument: str, tree: Any) -> dict[str, Any]:
    """Every leaf of a tree by its name.

    Args:
        argument: what the tree is called in an error.
        tree: any tree.

    Raises:
        ValueError: two leaves have one name, or would have if it were spelt with dots, as orbax
            does.
    """
    leaves: dict[str, Any] = {}
    spelt: set[str] = set()
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = path_name(path)
        if name.replace("/", ".") in spelt:
            raise ValueError(
                f"`{argument}` must have a name of its own for every leaf, '.' and '/' being the "
                f"same; got two that are {name}."
            )
        spelt.add(name.replace("/", "."))
        leaves[name] = leaf
    return leaves


def leaves_by_path(tree: Any) -> dict[tuple[str, ...], Any]:
    """Every leaf of a tree of dicts and lists by its keys; boxes of Flax do not count."""
    counted = (jax.tree_util.DictKey, jax.tree_util.SequenceKey)
    return {
        tuple(key_name(key) for key in path if isinstance(key, counted)): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
