"""Saving and loading of everything that training needs to go on, with orbax (extra ``checkpoint``).

For a series of checkpoints, of which the oldest are deleted, use orbax's own ``CheckpointManager``.
"""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._paths import key_name

__all__ = ["read", "restore", "save"]


def save(path: str | pathlib.Path, state: Any, *, overwrite: bool = False) -> pathlib.Path:
    """Write a tree of arrays to a folder: parameters, optimiser, carry, PRNG key, step.

    It is written under another name first and renamed when it is complete, so that what stands
    under `path` is never half a checkpoint, and a checkpoint that is replaced is there until then.

    Args:
        path: the folder to create.
        state: any tree of arrays and numbers, such as ``{"params": params, "optimiser": state,
            "carry": carry, "key": key, "step": 1000}``.
        overwrite: whether a checkpoint that is already there is replaced. Nothing else ever is.

    Returns:
        The folder's absolute path.

    Raises:
        FileExistsError: there is a checkpoint at `path` already and `overwrite` is False, or there
            is something else.
        ImportError: orbax is missing.
        TypeError: `state` holds something else or what is being traced, or is a single array.
        ValueError: `state` is empty, or an array in it is.

    Example:
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "step-1"
        >>> state = {"params": {"raw_beta": jnp.ones(3)}, "step": 1}
        >>> folder = checkpoint.save(path, state)
        >>> checkpoint.restore(folder, like=state)["params"]["raw_beta"].tolist()
        [1.0, 1.0, 1.0]
    """
    orbax = _orbax()
    path = _absolute(path)
    leaves = _leaves(state)
    if not leaves:
        raise ValueError("`state` must hold at least one array; got none.")
    if "" in leaves:
        raise TypeError(f"`state` must be a tree, such as a dict; got {type(state).__name__}.")
    for name, leaf in leaves.items():
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (int, float, bool)):
            raise TypeError(
                f"`state` must hold arrays and numbers; got {type(leaf).__name__} at {name}."
            )
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(f"`state` must hold values; got one being traced at {name}.")
        if not (_is_key(leaf) or _family(getattr(leaf, "dtype", type(leaf))) in "bifc"):
            raise TypeError(
                f"`state` must hold arrays of numbers; got dtype {leaf.dtype} at {name}."
            )
        if not np.size(leaf):
            raise ValueError(
                f"`state` must not hold empty arrays; got shape {leaf.shape} at {name}."
            )
    if path.exists() and not _is_checkpoint(path):
        raise FileExistsError(f"`path` is no checkpoint and is left alone: {path}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"`path` exists: {path}. Use overwrite=True to replace it.")
    # NumPy's scalars are all that orbax does not take.
    state = jax.tree.map(lambda x: np.asarray(x) if isinstance(x, np.generic) else x, state)
    replaces = path.exists() and jax.process_count() == 1
    target = path.with_name(f".{path.name}.incoming") if replaces else path
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(target, state, force=overwrite)
    if replaces:
        old = path.with_name(f".{path.name}.outgoing")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        target.rename(path)
        shutil.rmtree(old)
    return path


def restore(path: str | pathlib.Path, like: Any) -> Any:
    """Read what `save` wrote.

    Args:
        path: the folder.
        like: a tree of the same structure, shapes and dtypes, such as a freshly initialised state
            or what ``jax.eval_shape`` says of it. Arrays are placed as those of `like` are, on
            whatever mesh and by however many processes they were saved; those that are not said to
            lie anywhere, on the first device. Of a number of Python's and an array of no axes,
            either may stand for the other.

    Returns:
        A tree like `like`.

    Raises:
        FileNotFoundError: there is no checkpoint at `path`.
        ImportError: orbax is missing.
        ValueError: the checkpoint is of something else; all that is missing, unknown or of another
            shape or dtype is listed, and nothing is loaded. Or it is damaged.

    Example:
        >>> state = {"params": {"raw_beta": jnp.ones(3)}, "key": jax.random.key(0), "step": 1}
        >>> path = checkpoint.save(pathlib.Path(tempfile.mkdtemp()) / "step-1", state)
        >>> checkpoint.restore(path, like=jax.eval_shape(lambda: state))["step"].item()
        1
    """
    orbax = _orbax()
    path = _absolute(path)
    if not _is_checkpoint(path):
        raise FileNotFoundError(f"`path` must be a checkpoint; there is none at {path}.")
    with orbax.StandardCheckpointer() as checkpointer:
        _compare(_leaves(_saved(checkpointer, path)), _leaves(like), path)
        restored = checkpointer.restore(path, jax.tree.map(_placed, like))
    # A checkpoint only says of PRNG keys what they are once they are read.
    got, want = _leaves(restored), _leaves(like)
    problems = [
        f"has {name} as {got[name].dtype} instead of {want[name].dtype}"
        for name in want
        if _is_key(got[name]) != _is_key(want[name])
        or (_is_key(want[name]) and got[name].dtype != want[name].dtype)
    ]
    if problems:
        raise ValueError(f"`like` must match the checkpoint at {path}, which {problems[0]}.")
    return jax.tree.map(
        lambda wanted, x: (
            jnp.asarray(x) if isinstance(wanted, jax.ShapeDtypeStruct) and not _is_key(x) else x
        ),
        like,
        restored,
    )


def read(path: str | pathlib.Path) -> Any:
    """Read what `save` wrote without knowing what it is of.

    Args:
        path: the folder; or that of a step, written by orbax's ``CheckpointManager``.

    Returns:
        A tree of dicts, lists, arrays on the first device, and numbers. Containers of other kinds,
        an optimiser's say, come as dicts and lists.

    Raises:
        FileNotFoundError: there is no checkpoint at `path`.
        ImportError: orbax is missing.
        ValueError: it is damaged.

    Example:
        >>> path = checkpoint.save(pathlib.Path(tempfile.mkdtemp()) / "it", {"a": (jnp.ones(2), 3)})
        >>> checkpoint.read(path)["a"][1]
        3
    """
    orbax = _orbax()
    path = _absolute(path)
    folders = [folder for folder in (path, path / "default") if (folder / "_METADATA").exists()]
    if not folders:
        raise FileNotFoundError(f"`path` must be a checkpoint; there is none at {path}.")

    def like(saved: Any) -> Any:
        if _is_number(saved):
            return np.dtype(saved.dtype).type(0).item()
        return _on_first_device(saved)

    with orbax.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(
            folders[0], jax.tree.map(like, _saved(checkpointer, folders[0]))
        )


def _saved(checkpointer: Any, path: pathlib.Path) -> Any:
    """What a checkpoint says that it holds: a tree of shapes and dtypes."""
    saved = checkpointer.metadata(path)
    tree = getattr(getattr(saved, "item_metadata", saved), "tree", None)
    if tree is None:
        raise ValueError(
            f"`path` holds a checkpoint that can't be read: {path}. It is damaged or was made "
            f"by something else."
        )
    return tree


def _compare(saved: dict[str, Any], wanted: dict[str, Any], path: pathlib.Path) -> None:
    """Raise unless a checkpoint holds exactly what is wanted."""
    problems = [f"lacks {name}" for name in wanted if name not in saved]
    problems += [f"has unknown {name}" for name in saved if name not in wanted]
    # What a model is shows in its parameters; optimiser and carry only follow them.
    common = [name for name in wanted if name in saved]
    for name in sorted(common, key=lambda name: "params" not in name.split(".")):
        got, want = _kind(saved[name]), _kind(wanted[name])
        if got != want and not _same_number(saved[name], wanted[name]):
            problems.append(f"has {name} as {got} instead of {want}")
    if problems:
        shown = "; ".join(problems[:20]) + ("; ..." if len(problems) > 20 else "")
        raise ValueError(f"`like` must match the checkpoint at {path}, which {shown}.")


def _is_number(leaf: Any) -> bool:
    """Whether a leaf is a number of Python's, or was when it was saved."""
    return isinstance(leaf, (bool, int, float)) or type(leaf).__name__ == "ScalarMetadata"


def _same_number(saved: Any, wanted: Any) -> bool:
    """Whether one is a number of Python's for which the other can stand without loss."""
    if not (_is_number(saved) or _is_number(wanted)) or _is_key(wanted):
        return False
    if getattr(saved, "shape", ()) or getattr(wanted, "shape", ()):
        return False
    got, want = (_family(getattr(leaf, "dtype", type(leaf))) for leaf in (saved, wanted))
    return got == want or (got, want) == ("i", "f")


def _family(kind: Any) -> str:
    """b, i, f or c for truth values, whole numbers, floating point and complex numbers; else ?."""
    dtype: Any = np.dtype(kind)
    kinds: dict[str, Any] = {
        "b": jnp.bool_,
        "i": jnp.integer,
        "f": jnp.floating,
        "c": jnp.complexfloating,
    }
    return next((letter for letter in kinds if jnp.issubdtype(dtype, kinds[letter])), "?")


def _is_key(leaf: Any) -> bool:
    """Whether a leaf is a PRNG key."""
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(leaf: Any) -> str:
    """Shape and dtype in words."""
    if isinstance(leaf, (bool, int, float)):
        return f"a number ({type(leaf).__name__})"
    if _is_number(leaf):
        return f"a number ({np.dtype(leaf.dtype).name.rstrip('0123456789')})"
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _leaves(tree: Any) -> dict[str, Any]:
    """Every leaf by its path, in words that do not depend on the containers."""
    return {".".join(map(key_name, path)): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _placed(leaf: Any) -> Any:
    """A leaf that says where it belongs, so that it does not matter where it was."""
    if not isinstance(leaf, jax.ShapeDtypeStruct) or leaf.sharding is not None:
        return leaf
    return _on_first_device(leaf)


def _on_first_device(leaf: Any) -> jax.ShapeDtypeStruct:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)


def _absolute(path: str | pathlib.Path) -> pathlib.Path:
    """An absolute path without links, of which one to a checkpoint would be replaced by it."""
    return pathlib.Path(path).expanduser().resolve()


def _is_checkpoint(path: pathlib.Path) -> bool:
    return (path / "_CHECKPOINT_METADATA").exists()


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError(
            "tracetorch_jax.checkpoint needs orbax: pip install 'tracetorch_jax[checkpoint]'."
        ) from error
    return orbax.checkpoint
