"""HDF5 files: whether reading them ends, and takes no more memory than they account for."""

from __future__ import annotations

import struct
from typing import Any

_HEAP = b"GCOL\1\0\0\0"
"""With what a heap of texts begins: then its size, and objects with a header of 16 bytes each."""

_DEFLATED = 1032
"""By how much gzip compresses at most."""


def check_heaps(data: bytes) -> None:
    """Raise unless the heaps of a file can be walked through; HDF5 does not check that it gets on.

    Args:
        data: the whole file.
    """
    start = data.find(_HEAP)
    while start >= 0:
        (size,) = struct.unpack_from("<Q", data, start + 8)
        at, end = start + 16, start + size
        while at + 16 <= end:
            index, length = struct.unpack_from("<H6xQ", data, at)
            step = 16 + -(-length // 8) * 8 if index else length
            if step == 0 or at + step > end:
                raise ValueError(f"the heap at byte {start} is damaged")
            at += step
        start = data.find(_HEAP, start + 1)


def check_file(file: Any, data: bytes) -> None:
    """Raise unless everything in a file lies in it, once, and is no larger than it can hold.

    A file can refer to other files, contain itself, and have arrays of any size at no cost.

    Args:
        file: an open ``h5py.File``.
        data: the whole file.
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
            if total <= _DEFLATED * len(data):
                total += _length_of_texts(item, data)
            if total > _DEFLATED * len(data):
                raise ValueError(
                    f"{name!r}, of shape {item.shape}, is larger than the file can hold"
                )


def _length_of_texts(item: Any, data: bytes) -> int:
    """How many bytes all texts of a dataset have; each is kept as length, heap and index."""
    start = item.id.get_offset()
    if item.dtype.kind != "O" or start is None:
        return 0
    return sum(
        length for length, *_ in struct.iter_unpack("<IQI", data[start : start + 16 * item.size])
    )
