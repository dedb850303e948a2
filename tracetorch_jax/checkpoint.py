"""Saving and loading of everything that training needs to go on, with orbax (extra ``checkpoint``).

For a series of checkpoints, of which the oldest are deleted, use orbax's own ``CheckpointManager``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import pathlib
import secrets
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from tracetorch_jax._shared.checks import is_of_nnx
from tracetorch_jax._shared.files import absolute, finish, plainly, replacing, workspace
from tracetorch_jax._shared.trees import differences, leaves_by_name, listed

__all__ = ["read", "restore", "save"]

_CHECKSUMS = "_CHECKSUMS"
# What a checkpoint may hold in addition to what each process wrote. All else is someone's own.
_ENTRIES = {
    *("_CHECKPOINT_METADATA", "_METADATA", _CHECKSUMS, "_sharding", "array_metadatas"),
    *("commit_success.txt", "d", "manifest.ocdbt"),
}
# Orbax keeps this, by which a checkpoint that has lost its checksums is no old one.
_MARK = {"checksums": _CHECKSUMS}
_saving = threading.Lock()  # orbax confuses, or waits for good, where several threads save


def save(path: str | pathlib.Path, state: Any, *, overwrite: bool = False) -> pathlib.Path:
    """Write a tree of arrays to a folder: parameters, optimiser, carry, PRNG key, step.

    It is written in a hidden folder of its own and put under `path` when it is complete. So what
    is under `path` is never half a checkpoint, nor a mixture of two that were written at once, and
    a checkpoint that is replaced is there until then. A checksum of every leaf is written too.

    Args:
        path: the folder to create.
        state: any tree of arrays and numbers, such as ``{"params": params, "optimiser": state,
            "carry": carry, "key": key, "step": 1000}``. Whole numbers have at most 64 bits.
        overwrite: whether a checkpoint that is already there is replaced. Nothing else ever is: no
            other folder, and no checkpoint with something else in it.

    Returns:
        The folder's absolute path.

    Raises:
        FileExistsError: there is a checkpoint at `path` already and `overwrite` is False, or there
            is something else, in it too.
        ImportError: orbax is missing.
        OSError: the disk is full; what was there is still there.
        TypeError: `state` holds something else or what is being traced, or is a single array.
        ValueError: `state` is empty, or an array in it is; two leaves have one name, "." and "/"
            being the same; a whole number has more than 64 bits. Or `path` leads nowhere.

    Example:
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "step-1"
        >>> state = {"params": {"raw_beta": jnp.ones(3)}, "step": 1}
        >>> folder = checkpoint.save(path, state)
        >>> checkpoint.restore(folder, like=state)["params"]["raw_beta"].tolist()
        [1.0, 1.0, 1.0]
    """
    orbax = _orbax()
    path = absolute(path)
    leaves = leaves_by_name("state", state)
    if not leaves:
        raise ValueError("`state` must hold at least one array; got none.")
    if leaves.get("") is state:
        raise TypeError(f"`state` must be a tree, such as a dict; got {type(state).__name__}.")
    for name, leaf in leaves.items():
        _check("state", name, leaf)
    finish(path)
    if path.exists() and not _is_checkpoint(path, ("_CHECKPOINT_METADATA", _CHECKSUMS)):
        raise FileExistsError(f"`path` is no checkpoint and is left alone: {path}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"`path` exists: {path}. Use overwrite=True to replace it.")
    # NumPy's scalars are all that orbax does not take.
    state = jax.tree.map(lambda x: np.asarray(x) if isinstance(x, np.generic) else x, state)

    def write(folder: pathlib.Path) -> dict[str, str | None]:
        with (
            _saving,
            _without_errors_in_the_log(),
            plainly(folder.parent) as parent,
            orbax.StandardCheckpointer() as checkpointer,
        ):
            checkpointer.save(parent / folder.name, state, custom_metadata=_MARK)
            return {name: _checksum(leaf) for name, leaf in leaves.items()}  # while orbax writes

    if jax.process_index():  # the first process does all that one process can do
        write(workspace(path, _as_the_first_has_it(0)) / "new")
        if _as_the_first_has_it(0):
            raise OSError(f"`path` is not written; the first process says why: {path}.")
        return path
    token, written, failed = _as_the_first_has_it(secrets.randbits(32)), False, True
    try:
        with replacing(path, overwrite, token) as incoming:
            sums = write(incoming)
            written = True
            (incoming / _CHECKSUMS).write_text(json.dumps(sums))
            _check_written(incoming, path, leaves, state)
            _check_replaced(path, incoming)
        failed = False
    finally:
        # A broadcast waits for all processes. The others come to theirs once their `write` is done,
        # so this one must come too once its own is, even if what follows has failed.
        if written:
            _as_the_first_has_it(failed)
    return path


def restore(path: str | pathlib.Path, like: Any) -> Any:
    """Read a checkpoint into a tree of the same structure.

    Args:
        path: the folder.
        like: a tree of the same structure, shapes and dtypes, such as a freshly initialised state
            or what ``jax.eval_shape`` says of it. Arrays are placed as those of `like` are, on
            whatever mesh and by however many processes they were saved; those that are not said to
            lie anywhere, on the first device. Of a number of Python's and an array of no axes,
            either may stand for the other if it can hold the value.

    Returns:
        A tree like `like`, with arrays of NumPy where it has them, and where it has shapes of
        64-bit types without a place and JAX does not hold these.

    Raises:
        FileNotFoundError: there is no checkpoint at `path`.
        ImportError: orbax is missing.
        TypeError: `like` holds something else than arrays, shapes and numbers.
        ValueError: the checkpoint is of something else; all that is missing, unknown or of another
            shape or dtype is listed, and nothing is loaded. Or it is damaged.

    Example:
        >>> state = {"params": {"raw_beta": jnp.ones(3)}, "key": jax.random.key(0), "step": 1}
        >>> path = checkpoint.save(pathlib.Path(tempfile.mkdtemp()) / "step-1", state)
        >>> checkpoint.restore(path, like=jax.eval_shape(lambda: state))["step"].item()
        1
    """
    path = absolute(path)
    wanted, structure = leaves_by_name("like", like), jax.tree.structure(like)
    for name, leaf in wanted.items():
        _check("like", name, leaf)

    def targets(saved: Any) -> Any:
        leaves = leaves_by_name("path", saved)
        _compare(leaves, wanted, path)
        return jax.tree.unflatten(
            structure, [_target(leaves[name], wanted[name]) for name in wanted]
        )

    restored = jax.tree.leaves(_load(path, targets))
    problems, result = [], []
    for (name, want), got in zip(wanted.items(), restored, strict=True):
        # A checkpoint only says of PRNG keys what they are once they are read.
        if (_is_key(got) or _is_key(want)) and got.dtype != want.dtype:
            problems.append(f"has {name!r} as {got.dtype} instead of {want.dtype}")
            continue
        result.append(_converted(got, want))
        if result[-1] is None:
            problems.append(f"has {name!r} as {got}, which {_kind(want)} can't hold")
    if problems:
        raise ValueError(f"`like` must match the checkpoint at {path}, which {problems[0]}.")
    return jax.tree.unflatten(structure, result)


def read(path: str | pathlib.Path) -> Any:
    """Read a checkpoint without a tree to compare it with.

    Args:
        path: the folder; or that of a step, written by orbax's ``CheckpointManager``.

    Returns:
        A tree of dicts, lists, arrays on the first device, and numbers. Containers of other kinds,
        an optimiser's say, come as dicts and lists. Arrays of 64-bit types are NumPy's, unless
        ``jax_enable_x64`` lets JAX hold them.

    Raises:
        FileNotFoundError: there is no checkpoint at `path`.
        ImportError: orbax is missing.
        ValueError: it is damaged.

    Example:
        >>> path = checkpoint.save(pathlib.Path(tempfile.mkdtemp()) / "it", {"a": (jnp.ones(2), 3)})
        >>> checkpoint.read(path)["a"][1]
        3
    """
    return _load(absolute(path), lambda saved: jax.tree.map(_target, saved, saved))


def _load(path: pathlib.Path, targets: Callable[[Any], Any]) -> Any:
    """The tree in a checkpoint, if it is what was saved.

    Args:
        path: where it is.
        targets: from what orbax says that is saved, makes a tree of what it is to give.
    """
    orbax = _orbax()
    while True:
        finish(path)
        if not _is_checkpoint(path):
            raise FileNotFoundError(f"`path` must be a checkpoint; there is none at {path}.")
        managed = path / "default"
        folder, found = managed if (managed / "_METADATA").exists() else path, path.stat()
        try:
            with (
                _without_errors_in_the_log(),
                plainly(folder) as plain,
                orbax.StandardCheckpointer() as checkpointer,
            ):
                with _explained(path):
                    saved, sums = _saved_tree(checkpointer, plain)
                target = targets(saved)
                with _explained(path):
                    tree = checkpointer.restore(plain, target)
                    _verify(tree, sums)
            return tree
        except ValueError:
            # Another process may have replaced it meanwhile.
            if not path.exists() or os.path.samestat(found, path.stat()):
                raise


def _saved_tree(checkpointer: Any, folder: pathlib.Path) -> tuple[Any, dict[str, Any] | None]:
    """The tree of what orbax says of each leaf, and its checksums; None if it is an old one."""
    saved = checkpointer.metadata(folder)
    tree = getattr(getattr(saved, "item_metadata", saved), "tree", None)
    if tree is None:
        raise ValueError("it holds no tree of arrays")
    file = folder / _CHECKSUMS
    if not file.exists() and getattr(saved, "custom_metadata", None) != _MARK:
        return tree, None
    return tree, dict(json.loads(file.read_text()))


def _check_written(
    folder: pathlib.Path, path: pathlib.Path, leaves: dict[str, Any], state: Any
) -> None:
    """Raise unless orbax finds all leaves in what it wrote for `path`."""
    try:
        with plainly(folder) as plain, _orbax().StandardCheckpointer() as checkpointer:
            found = leaves_by_name("path", _saved_tree(checkpointer, plain)[0])
        lost = sorted(leaves.keys() - found.keys())
    except ValueError:
        lost = sorted(leaves)
    if lost:
        models = filter(is_of_nnx, jax.tree.leaves(state, is_leaf=is_of_nnx))
        hint = " Of a model of flax.nnx save nnx.state(model)." if any(models) else ""
        raise ValueError(
            f"`path` is not written, as orbax would not find {lost[0]} there: {path}.{hint}"
        )


def _check_replaced(path: pathlib.Path, new: pathlib.Path) -> None:
    """Raise if more than a checkpoint is at `path`, as far as this orbax's own new one tells."""
    try:
        found = set(os.listdir(path))
    except FileNotFoundError:
        return
    others = sorted(found - _ENTRIES - set(os.listdir(new)))
    others = [name for name in others if not name.startswith("ocdbt.process_")]
    if others:
        raise FileExistsError(
            f"`path` holds more than a checkpoint and is left alone: {path / others[0]}."
        )


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    """Turn whatever the readers of other formats raise into an error that names the checkpoint."""
    try:
        yield
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"`path` holds a checkpoint that can't be read: {path}. It is damaged or was made by "
            f"something else ({type(error).__name__}: {said})."
        ) from error


@contextlib.contextmanager
def _without_errors_in_the_log() -> Iterator[None]:
    """Keep orbax from logging, in hundreds of lines, an error that it raises anyway."""

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    logs = logging.getLogger("absl"), logging.getLogger("asyncio")
    for log in logs:
        log.addFilter(keep)
    try:
        yield
    except Exception:
        gc.collect(1)  # asyncio logs the errors of tasks when these are collected
        raise
    finally:
        for log in logs:
            log.removeFilter(keep)


def _as_the_first_has_it(value: int) -> int:
    """A number that all processes take from the first one."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.uint32(value)))


def _checksum(leaf: Any) -> str | None:
    """What a leaf is, with a checksum of its bytes; None if only several processes hold it all."""
    kind, data = _kind(leaf), leaf
    if _is_key(leaf):
        kind, data = f"{leaf.dtype}{list(leaf.shape)}", jax.random.key_data(leaf)
    if isinstance(data, jax.Array):
        if data.is_fully_replicated:
            data = data.addressable_data(0)
        elif not data.is_fully_addressable:
            return None
    data = np.asarray(data)
    if data.dtype.byteorder == ">":
        data = data.astype(data.dtype.newbyteorder("<"))
    return f"{kind} {zlib.crc32(np.ascontiguousarray(data).reshape(-1).view(np.uint8)):08x}"


def _verify(tree: Any, sums: dict[str, Any] | None) -> None:
    """Raise unless all leaves are what they were when they were saved."""
    if sums is None:
        return
    leaves = leaves_by_name("path", tree)
    for name in sums.keys() | leaves.keys():
        got = _checksum(leaves[name]) if name in leaves else "nothing"
        want = sums.get(name, "nothing")
        if None not in (got, want) and got != want:
            raise ValueError(f"{name} is damaged: its checksum is of {want}, its data are {got}")


def _target(saved: Any, wanted: Any) -> Any:
    """What orbax is asked for: a number, an array of NumPy, or one on a device."""
    if _is_number(saved):
        return np.dtype(saved.dtype).type(0).item()
    on_host = _is_number(wanted) or isinstance(wanted, (np.ndarray, np.generic))
    if on_host or not _is_held(saved.dtype):
        return np.broadcast_to(np.zeros((), saved.dtype), saved.shape)
    if isinstance(wanted, jax.Array):
        return wanted
    place = wanted.sharding if isinstance(wanted, jax.ShapeDtypeStruct) else None
    return jax.ShapeDtypeStruct(wanted.shape, wanted.dtype, sharding=place or _first_device())


def _converted(got: Any, wanted: Any) -> Any:
    """A leaf as `like` has it; None if that can't hold its value."""
    if isinstance(wanted, np.generic) and not _is_number(got):
        return got[()]
    if not (_is_number(got) or _is_number(wanted)):
        return got
    value, families = np.asarray(got), (_family(got), _family(wanted))
    if _is_number(wanted):
        new = {"b": bool, "i": int, "f": float}[families[1]](value)
    else:
        with np.errstate(over="ignore"):
            new = value.astype(wanted.dtype)
    whole = "f" not in families or families[0] == "i"
    if int(new) != int(value) if whole else np.isfinite(new) != np.isfinite(value):
        return None
    if isinstance(wanted, np.generic):
        return new[()]
    if _is_number(wanted) or isinstance(wanted, np.ndarray) or not _is_held(wanted.dtype):
        return new
    return jax.device_put(new, wanted.sharding or _first_device())


def _compare(saved: dict[str, Any], wanted: dict[str, Any], path: pathlib.Path) -> None:
    """Raise unless a checkpoint holds exactly what is wanted."""
    # What a model is shows in its parameters; optimiser and carry only follow them.
    names = sorted(wanted, key=lambda name: "params" not in name.split("/"))
    fits = {name for name in names if name in saved and _same_number(saved[name], wanted[name])}
    problems = differences(saved, {n: (saved if n in fits else wanted)[n] for n in names}, _kind)
    for name in names:
        leaf = wanted[name]
        same = name in fits or (name in saved and _kind(saved[name]) == _kind(leaf))
        held = not getattr(leaf, "sharding", None) or _is_key(leaf) or _is_held(leaf.dtype)
        if same and not held:
            got = _kind(saved[name])
            problems.append(f"has {name!r} as {got}, which no device holds without jax_enable_x64")
    if problems:
        raise ValueError(f"`like` must match the checkpoint at {path}, which {listed(problems)}.")


def _check(argument: str, name: str, leaf: Any) -> None:
    """Raise unless a leaf can be saved."""
    if not hasattr(leaf, "dtype") and not isinstance(leaf, (int, float, bool)):
        raise TypeError(
            f"`{argument}` must hold arrays and numbers; got {type(leaf).__name__} at {name}."
        )
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"`{argument}` must hold values; got one being traced at {name}.")
    if isinstance(leaf, int) and not -(2**63) <= leaf < 2**64:
        raise ValueError(
            f"`{argument}` must hold whole numbers of at most 64 bits; got {leaf} at {name}."
        )
    if not _is_key(leaf) and _family(leaf) not in "bifc":
        raise TypeError(
            f"`{argument}` must hold arrays of numbers; got dtype {leaf.dtype} at {name}."
        )
    if not np.size(leaf):
        raise ValueError(
            f"`{argument}` must not hold empty arrays; got shape {leaf.shape} at {name}."
        )


def _is_number(leaf: object) -> bool:
    """Whether a leaf is a number of Python's, or was when it was saved."""
    if type(leaf).__name__ == "ScalarMetadata":
        return True
    return isinstance(leaf, (bool, int, float)) and not isinstance(leaf, np.generic)


def _same_number(saved: Any, wanted: Any) -> bool:
    """Whether one is a number of Python's for which the other can stand."""
    if not (_is_number(saved) or _is_number(wanted)) or _is_key(wanted):
        return False
    if getattr(saved, "shape", ()) or getattr(wanted, "shape", ()):
        return False
    got, want = _family(saved), _family(wanted)
    return got == want or (got, want) == ("i", "f")


def _family(leaf: object) -> str:
    """b, i, f or c for truth values, whole numbers, floating point and complex numbers; else ?."""
    dtype: Any = np.dtype(leaf.dtype) if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    kinds: dict[str, Any] = {
        "b": jnp.bool_,
        "i": jnp.integer,
        "f": jnp.floating,
        "c": jnp.complexfloating,
    }
    known = next((letter for letter in kinds if jnp.issubdtype(dtype, kinds[letter])), "?")
    # Nothing reads the wide numbers of C's long double.
    return known if dtype.itemsize <= (16 if known == "c" else 8) else "?"


def _is_held(dtype: DTypeLike) -> bool:
    """Whether arrays on devices can be of a type; 64 bits take ``jax_enable_x64``."""
    return jax.dtypes.canonicalize_dtype(dtype) == dtype


def _is_key(leaf: object) -> bool:
    """Whether a leaf is a PRNG key."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(leaf: Any) -> str:
    """Shape and dtype in words."""
    if not hasattr(leaf, "dtype") and not _is_number(leaf):
        return f"a {type(leaf).__name__}"
    if _is_number(leaf):
        return f"a number ({ {'b': 'bool', 'i': 'int', 'f': 'float'}[_family(leaf)] })"
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _first_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _is_checkpoint(
    path: pathlib.Path, signs: Sequence[str] = ("_CHECKPOINT_METADATA", "_METADATA", _CHECKSUMS)
) -> bool:
    """Whether there is one, or what is left of one."""
    return any((path / name).exists() for name in signs)


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError(
            "tracetorch_jax.checkpoint needs orbax: pip install 'orbax-checkpoint>=0.11.22'."
        ) from error
    return orbax.checkpoint
