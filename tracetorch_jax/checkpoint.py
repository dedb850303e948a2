"""Saving and loading of everything that training needs to go on, with orbax (extra ``checkpoint``).

For a series of checkpoints, of which the oldest are deleted, use orbax's own ``CheckpointManager``.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

__all__ = ["restore", "save"]


def save(path: str | pathlib.Path, state: Any, *, overwrite: bool = False) -> pathlib.Path:
    """Write a tree of arrays to a folder: parameters, optimiser, carry, PRNG key, step.

    It is written under another name first and renamed when it is complete, so that what stands
    under `path` is never half a checkpoint.

    Args:
        path: the folder to create.
        state: any tree of arrays and numbers, such as ``{"params": params, "optimiser": state,
            "carry": carry, "key": key, "step": 1000}``.
        overwrite: whether a checkpoint that is already there is replaced.

    Returns:
        The folder's absolute path.

    Raises:
        FileExistsError: there is something at `path` already, and `overwrite` is False.
        ImportError: orbax is missing.
        TypeError: `state` holds something else.
        ValueError: `state` is empty.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "step-1"
        >>> state = {"params": {"raw_beta": jnp.ones(3)}, "step": 1}
        >>> restore(save(path, state), like=state)["params"]["raw_beta"].tolist()
        [1.0, 1.0, 1.0]
    """
    orbax = _orbax()
    path = pathlib.Path(path).absolute()
    leaves = _leaves(state)
    if not leaves:
        raise ValueError("`state` must hold at least one array; got none.")
    for name, leaf in leaves.items():
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (int, float, complex, bool)):
            raise TypeError(
                f"`state` must hold arrays and numbers; got {type(leaf).__name__} at {name}."
            )
    if path.exists() and not overwrite:
        raise FileExistsError(f"`path` exists: {path}. Use overwrite=True to replace it.")
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state, force=overwrite)
    return path


def restore(path: str | pathlib.Path, like: Any) -> Any:
    """Read what `save` wrote.

    Args:
        path: the folder.
        like: a tree of the same structure, shapes and dtypes, such as a freshly initialised state
            or what ``jax.eval_shape`` says of it. Arrays are placed as those of `like` are.

    Returns:
        A tree like `like`.

    Raises:
        FileNotFoundError: there is no checkpoint at `path`.
        ImportError: orbax is missing.
        ValueError: the checkpoint is of something else; all that is missing, unknown or of another
            shape or dtype is listed, and nothing is loaded.
    """
    orbax = _orbax()
    path = pathlib.Path(path).absolute()
    if not (path / "_CHECKPOINT_METADATA").exists():
        raise FileNotFoundError(f"`path` must be a checkpoint; there is none at {path}.")
    with orbax.StandardCheckpointer() as checkpointer:
        saved = checkpointer.metadata(path)
        _compare(_leaves(getattr(saved, "item_metadata", saved).tree), _leaves(like), path)
        return checkpointer.restore(path, like)


def _compare(saved: dict[str, Any], wanted: dict[str, Any], path: pathlib.Path) -> None:
    """Raise unless a checkpoint holds exactly what is wanted."""
    problems = [f"lacks {name}" for name in wanted if name not in saved]
    problems += [f"has unknown {name}" for name in saved if name not in wanted]
    # What a model is shows in its parameters; optimiser and carry only follow them.
    common = [name for name in wanted if name in saved]
    for name in sorted(common, key=lambda name: "params" not in name.split(".")):
        got, want = _kind(saved[name]), _kind(wanted[name])
        if got != want:
            problems.append(f"has {name} as {got} instead of {want}")
    if problems:
        shown = "; ".join(problems[:20]) + ("; ..." if len(problems) > 20 else "")
        raise ValueError(f"`like` must match the checkpoint at {path}, which {shown}.")


def _kind(leaf: Any) -> str:
    """Shape and dtype in words; a number of Python's is whatever it was saved as."""
    if isinstance(leaf, (bool, int, float, complex)) or type(leaf).__name__ == "ScalarMetadata":
        return "a number"
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) and jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    ):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _leaves(tree: Any) -> dict[str, Any]:
    """Every leaf by its path, in words that do not depend on the containers."""
    return {
        ".".join(
            str(next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a)))
            for key in path
        ): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError(
            "tracetorch_jax.checkpoint needs orbax: pip install 'tracetorch_jax[checkpoint]'."
        ) from error
    return orbax.checkpoint
