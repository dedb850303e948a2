"""Files of programs."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from jax.export import Exported

from tracetorch_jax._shared.checks import check_integer, readable
from tracetorch_jax.export._programs import check_seal, free_path, sealed, write


def save(
    path: str | os.PathLike[str],
    program: Exported,
    *,
    vjp_order: int = 0,
    overwrite: bool = False,
) -> pathlib.Path:
    """Write a program to a file that ``jax.export.deserialize`` reads on any machine.

    The file holds a checksum, by which `load` notices damage.

    Args:
        path: the file. A link stays, and what it leads to is written.
        program: what `sequence` or `step` gave.
        vjp_order: 1 to be able to differentiate what is loaded, 2 to do so twice; 0 writes the
            least.
        overwrite: whether a file that is there is replaced.

    Returns:
        The file's absolute path.

    Raises:
        FileExistsError: there is something at `path`, and `overwrite` is False or it is a folder.
        ImportError: flatbuffers is missing.
        TypeError: `program` is not a `jax.export.Exported`, or `vjp_order` no integer.
        ValueError: `vjp_order` below 0.

    Example:
        >>> cell = snn.LI(3)
        >>> variables = cell.init(jax.random.key(0), None, jnp.zeros((1, 3)))
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> path = export.save(folder / "it.step", export.step(cell, variables, "b, 3"))
        >>> export.load(path).platforms
        ('cpu', 'cuda', 'rocm', 'tpu')
    """
    if not isinstance(program, Exported):
        raise TypeError(f"`program` must be a jax.export.Exported; got {type(program).__name__}.")
    check_integer("vjp_order", vjp_order, 0)
    path = free_path(path, overwrite)
    blob = _with_flatbuffers(lambda: sealed(program.serialize(vjp_order=vjp_order)))
    return write(path, blob, overwrite)


def load(path: str | os.PathLike[str]) -> Exported:
    """Read a checkpoint into a tree of the same structure.

    Load files that you trust: they are programs.

    Args:
        path: the file.

    Returns:
        A `jax.export.Exported`; compile it once with ``run = jax.jit(program.call)``.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: flatbuffers is missing.
        IsADirectoryError: there is a folder.
        ValueError: the file holds something else, or is damaged. Files of versions that wrote no
            checksum are read without that check.

    Example:
        >>> model = snn.Unroll(snn.LI(3, beta=0.5))
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 3)))
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "it.program"
        >>> path = export.save(path, export.sequence(model, variables, "b, t, 3"))
        >>> run = jax.jit(export.load(path).call)
        >>> run(jnp.ones((1, 2, 3)))[0, :, 0].tolist()
        [0.5, 0.75]
    """
    path = readable("path", path)
    blob = bytearray(path.read_bytes())
    check_seal(path, blob)

    def deserialize() -> Exported:
        try:
            return jax.export.deserialize(blob)
        except ImportError:
            raise
        except Exception as error:  # whatever the reader of another format stumbles over
            raise ValueError(
                f"`path` must hold an exported program; {path} does not, or not one that this "
                f"version of JAX reads ({type(error).__name__}: {error})."
            ) from error

    return _with_flatbuffers(deserialize)


def _with_flatbuffers(act: Callable[[], Any]) -> Any:
    """What `act` gives; if flatbuffers is missing, say where it comes from."""
    try:
        return act()
    except ImportError as error:
        raise ImportError(
            "Files of programs need flatbuffers: pip install 'flatbuffers>=24.3'."
        ) from error
