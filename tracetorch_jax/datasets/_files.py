"""Files of data sets: where they are, and what to say of those that are missing or damaged."""

from __future__ import annotations

import os
import pathlib
from typing import NoReturn

from tracetorch_jax._shared.files import absolute


def folder_of(folder: str | os.PathLike[str], how: str) -> pathlib.Path:
    """The folder of a data set.

    Args:
        folder: any path; ``~`` is the home folder.
        how: where the set is published and how to get it, as sentences.

    Raises:
        FileNotFoundError: there is no folder.
    """
    path = absolute(folder, "folder", links=True)
    if not path.is_dir():
        raise FileNotFoundError(
            f"`folder` must be the folder of the data set; there is no folder {path}. {how}"
        )
    return path


def there(path: pathlib.Path, how: str) -> pathlib.Path:
    """The path, at which something has to be.

    Raises:
        FileNotFoundError: there is nothing, or only its packed form.
    """
    if path.exists():
        return path
    for ending, command in ((".gz", "gunzip --keep"), (".zip", "unzip")):
        packed = path.with_name(path.name + ending)
        if packed.exists():
            raise FileNotFoundError(
                f"`folder` must hold {path.name}, unpacked; there is only {packed}. Type: "
                f"{command} {packed}"
            )
    raise FileNotFoundError(f"`folder` must hold {path.name}; there is no {path}. {how}")


def damaged(path: pathlib.Path, must: str) -> NoReturn:
    """Raise what is said of a file that is not what it should be."""
    raise ValueError(f"{path} must {must}. The file is damaged, or another one.")
