"""Names of leaves in trees."""

from __future__ import annotations

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


def leaves_by_path(tree: Any) -> dict[tuple[str, ...], Any]:
    """Every leaf of a tree of dicts by its keys; boxes such as `nn.Partitioned` do not count."""
    return {
        tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
