"""Reading the files in which PyTorch models are kept, where possible without torch."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def load_torch(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the arrays of a ``.safetensors``, ``.pt`` or ``.pth`` file.

    A ``.pt`` file is a pickle, and unpickling can run any code. Here nothing but tensors and plain
    containers and numbers is ever unpickled; any other file is refused or, if torch is installed,
    left to ``torch.load(weights_only=True)``, which refuses it too unless it is merely older.

    Args:
        path: the file; one whose name ends in ``.safetensors`` is read as such.

    Returns:
        What was saved, with NumPy arrays in the place of tensors: for a state dict a dict from
        name to array. A checkpoint that holds more is a nested dict; hand its part with the
        weights to `from_torch`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the package that the file needs is missing: ``safetensors`` (extra
            ``safetensors``), or torch for a file that only torch can read.
        ValueError: the file is damaged or holds something else than tensors in dicts, such as a
            whole model.

    Example:
        >>> import safetensors.numpy
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> safetensors.numpy.save_file({"raw_beta": np.zeros(3, np.float32)}, path)
        >>> interop.load_torch(path)["raw_beta"].tolist()
        [0.0, 0.0, 0.0]
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a file; there is none at {path}.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if zipfile.is_zipfile(path):
        try:
            return _mapping(_read_zip(path), path)
        except _OnlyTorch:
            pass
    return _mapping(_read_with_torch(path), path)


def _mapping(saved: Any, path: pathlib.Path) -> dict[str, Any]:
    if not isinstance(saved, dict):
        raise ValueError(
            f"`path` must hold a state dict, saved with torch.save(model.state_dict(), path); "
            f"{path} holds a {type(saved).__name__}."
        )
    return saved


def _read_safetensors(path: pathlib.Path) -> dict[str, Any]:
    try:
        import safetensors
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            "reading a .safetensors file needs safetensors: "
            "pip install 'tracetorch_jax[safetensors]'."
        ) from error
    try:
        return dict(load_file(path))
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"`path` must be a safetensors file; {path} is not: {error}.") from error


class _OnlyTorch(Exception):
    """Something that is in no ordinary state dict."""


@dataclasses.dataclass(frozen=True)
class _StorageType:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    kind: Any
    key: Any


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """What a pickle says of a tensor; nothing is believed of it until `_Archive` has looked."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _Unpickler(pickle.Unpickler):
    """Makes records of tensors, and refuses everything that is not in a state dict."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(
                storage, offset, shape, strides
            )
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        raise _OnlyTorch(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise _OnlyTorch(str(pid))
        return _Storage(pid[1], pid[2])


class _Archive:
    """The numbers of a file that ``torch.save`` wrote (torch 1.6 and later)."""

    def __init__(self, file: zipfile.ZipFile, root: str) -> None:
        self.file = file
        self.root = root
        self.storages: dict[str, np.ndarray] = {}

    def resolve(self, value: Any) -> Any:
        """Put arrays in the place of records, and plain dicts in that of ordered ones."""
        if isinstance(value, _Tensor):
            return self.array(value)
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.resolve(item) for item in value]
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        raise _OnlyTorch(type(value).__name__)

    def array(self, tensor: _Tensor) -> np.ndarray:
        whole = self.storage(tensor.storage)
        sizes = (tensor.offset, *tensor.shape, *tensor.strides)
        if not all(type(n) is int and n >= 0 for n in sizes):
            raise ValueError("a tensor with sizes that are none")
        if len(tensor.shape) != len(tensor.strides):
            raise ValueError("a tensor with axes and strides of different number")
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, whole.dtype)
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
        if tensor.offset + last >= whole.size:
            raise ValueError("a tensor beyond its storage")
        return np.lib.stride_tricks.as_strided(
            whole[tensor.offset :],
            tensor.shape,
            [step * whole.itemsize for step in tensor.strides],
        ).copy()

    def storage(self, storage: Any) -> np.ndarray:
        if not isinstance(storage, _Storage) or not isinstance(storage.kind, _StorageType):
            raise _OnlyTorch("storage")
        name = f"{self.root}data/{storage.key}"
        if name not in self.storages:
            dtype = np.dtype(_DTYPES[storage.kind.name])
            self.storages[name] = np.frombuffer(self.file.read(name), dtype)
        return self.storages[name]


def _read_zip(path: pathlib.Path) -> Any:
    try:
        with zipfile.ZipFile(path) as file:
            pickles = [name for name in file.namelist() if name.endswith("data.pkl")]
            if len(pickles) != 1:
                raise _OnlyTorch("no data.pkl")
            root = pickles[0].removesuffix("data.pkl")
            order = f"{root}byteorder"
            if order in file.namelist() and file.read(order) != b"little":
                raise _OnlyTorch("byte order")
            with file.open(pickles[0]) as stream:
                saved = _Unpickler(stream).load()
            return _Archive(file, root).resolve(saved)
    except _OnlyTorch:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"`path` must be a file of torch.save; {path} is damaged: {error}.") from (
            error
        )


def _read_with_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is no ordinary state dict of torch 1.6 or later, and only torch can read it: "
            f"pip install torch, or save model.state_dict() anew, best as .safetensors."
        ) from error
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"`path` must hold a state dict, saved with torch.save(model.state_dict(), path); "
            f"torch.load(weights_only=True) says of {path}: {error}"
        ) from error
    return _from_tensors(saved)


def _from_tensors(saved: Any) -> Any:
    if isinstance(saved, Mapping):
        return {key: _from_tensors(value) for key, value in saved.items()}
    return as_array(saved) if hasattr(saved, "detach") else saved


def as_array(value: Any) -> np.ndarray:
    """A NumPy array of an array of any framework, torch's tensors included."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            value = value.float()  # NumPy knows no such type
        value = value.resolve_conj().resolve_neg().numpy()
    return np.asarray(value)
