"""Names of leaves in trees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax


def key_name(key: Any) -> str:
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
