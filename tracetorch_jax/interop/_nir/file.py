"""HDF5 files: whether reading them ends, and takes no more memory than they account for."""

from __future__ import annotations

from typing import Any

_DEFLATED = 1032
"""By how much gzip compresses at most."""


def check_file(file: Any, size: int) -> None:
    """Raise unless everything in a file lies in it, once, and is no larger than it can hold.

    A file can refer to other files, contain itself, and have arrays of any size at no cost.

    Args:
        file: an open ``h5py.File``.
        size: of the file in bytes.
    """
    import h5py

    seen: set[int] = set()
    total = 0
    todo = [file]
    while todo:
        group = todo.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} is a link")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise ValueError(f"{name!r} is there twice")
            seen.add(address)
            if isinstance(item, h5py.Group):
                todo.append(item)
                continue
            if item.is_virtual or item.external:
                raise ValueError(f"{name!r} lies in another file")
            total += item.nbytes
            if total > _DEFLATED * size:
                raise ValueError(
                    f"{name!r}, of shape {item.shape}, is larger than the file can hold"
                )
