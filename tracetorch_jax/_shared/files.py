"""Files and folders that stand under their names only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import pathlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SPECIAL = set("*?[]\\:")  # of patterns, and of addresses such as gs://bucket


@contextlib.contextmanager
def replacing(
    path: pathlib.Path, overwrite: bool, token: int | None = None
) -> Iterator[pathlib.Path]:
    """A place to write a file or a folder in, which is put under `path` when it is complete.

    The place is in a hidden folder that no other writer has, next to `path`. So of several writers
    of one path each puts there what it wrote, as a whole. What a writer left that was stopped is
    removed by the next that succeeds.

    Args:
        path: an absolute path.
        overwrite: whether a file, or a folder, that is there is replaced.
        token: what the hidden folder's name ends in, below 2**32; by default random.

    Raises:
        FileExistsError: something came to be at `path` and `overwrite` is False.
        OSError: the disk is full.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "it"
        >>> with replacing(path, overwrite=False) as incoming:
        ...     _ = incoming.write_text("all of it")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('all of it', 1)
    """
    folder = workspace(path, secrets.randbits(32) if token is None else token)
    new, old = folder / "new", folder / "old"
    lock = _make(folder)
    try:
        yield new
        _place(new, path, old, overwrite)
        for other in _workspaces(path):
            _remove_if_left(other)
    except Exception as error:
        code = next((c for c in _FULL if os.strerror(c) in str(error)), None)
        if code is None:
            raise
        raise OSError(code, f"`path` is not written: {os.strerror(code)}", str(path)) from error
    finally:
        finish(path)
        if path.exists() or not old.exists():  # else this is the only copy
            _remove(folder)
        if lock is not None:
            os.close(lock)


def workspace(path: pathlib.Path, token: int) -> pathlib.Path:
    """The hidden folder of the writer that has the token."""
    return path.with_name(f"{_hidden(path)}{token:08x}")


def _hidden(path: pathlib.Path) -> str:
    """What the names of a path's hidden folders begin with, which may be shorter than its own."""
    own = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return f".{path.name[:32]}-{own}.incoming-"


@contextlib.contextmanager
def plainly(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder, by a link if orbax would take its path for a pattern or an address.

    Args:
        folder: an absolute path; nothing need be there yet.

    Example:
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "run[0]"
        >>> with plainly(folder) as link:
        ...     folder.mkdir()
        ...     link.name, link.samefile(folder)
        ('folder', True)
    """
    if not _SPECIAL & set(str(folder.relative_to(folder.anchor))):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        link = pathlib.Path(place) / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def absolute(
    path: str | os.PathLike[str], argument: str = "path", *, links: bool = False
) -> pathlib.Path:
    """An absolute path.

    Args:
        path: any path; ``~`` is the home folder, ``~name`` that of a user.
        argument: what it is called in the error.
        links: whether links stay in it. A link to what is replaced must not, for it would be
            replaced instead.

    Raises:
        ValueError: there is no such user, or links form a loop.
    """
    try:
        path = pathlib.Path(path).expanduser()
        return path.absolute() if links else path.resolve()
    except RuntimeError as error:
        raise ValueError(f"`{argument}` must lead somewhere; got {path}: {error}") from error


def finish(path: pathlib.Path) -> None:
    """Put a folder under `path` if a writer was stopped after it had taken the old one away."""
    if path.exists():
        return
    for folder in _workspaces(path):
        if (folder / "old").exists():  # so the new one was complete
            with contextlib.suppress(OSError):  # unless another process was faster
                (folder / "new").rename(path)
                return


def _place(new: pathlib.Path, path: pathlib.Path, old: pathlib.Path, overwrite: bool) -> None:
    """Put `new` under `path`; of a folder that was there, `new` or `old` is left."""
    if new.is_file():
        if overwrite:
            new.replace(path)
        else:
            _claim(new, path)
        return
    # Every change is one rename. So a process that is killed leaves a whole folder at `path`, or
    # two in its hidden one: `old`, and `new`, which is complete where `old` is. `finish` goes on
    # from there. The loop is for other writers, who may come between two renames.
    while True:
        try:
            new.rename(path)  # fails if a folder is there that holds something
            return
        except FileNotFoundError:
            if old.exists():  # `finish`, in another process, was faster
                return
            raise
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if not overwrite:
                raise _exists(path) from error
        if _exchange(new, path):
            return
        # Until the next rename, `finish` is what brings `path` back.
        _remove(old)
        with contextlib.suppress(FileNotFoundError):
            path.rename(old)


def _claim(new: pathlib.Path, path: pathlib.Path) -> None:
    """Put a file under `path` unless something is there."""
    try:
        os.link(new, path)  # which, unlike a rename, replaces nothing
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError:  # a file system without links
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError as error:
            raise _exists(path) from error
        new.replace(path)


def _exchange(one: pathlib.Path, two: pathlib.Path) -> bool:
    """Swap two folders in one moment, if the system can: Linux, on most file systems."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(one), here, os.fsencode(two), exchange) == 0


def _exists(path: pathlib.Path) -> FileExistsError:
    return FileExistsError(f"`path` exists: {path}. Use overwrite=True to replace it.")


def _workspaces(path: pathlib.Path) -> list[pathlib.Path]:
    return list(path.parent.glob(f"{glob.escape(_hidden(path))}*"))


def _make(folder: pathlib.Path) -> int | None:
    """Make a folder and lock it, so that others see that its writer is still running."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = None
        with contextlib.suppress(FileNotFoundError):  # removed by another before it was locked
            lock = _lock(folder)
            if lock is None or os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        if lock is not None:
            os.close(lock)


def _lock(folder: pathlib.Path, wait: bool = True) -> int | None:
    """Lock a folder until the file descriptor is closed or the process ends.

    None if another has locked it, or if there are no locks here.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_if_left(folder: pathlib.Path) -> None:
    """Remove a folder whose writer is no longer running."""
    with contextlib.suppress(OSError):
        lock = _lock(folder, wait=False)
        if lock is not None:
            _remove(folder)
            os.close(lock)


def _remove(folder: pathlib.Path) -> None:
    # Twice, since a thread of a writer that failed may still have added something.
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
