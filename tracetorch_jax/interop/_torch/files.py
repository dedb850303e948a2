"""Reading the files in which PyTorch models are kept, where possible without torch."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from tracetorch_jax._shared.checks import in_brief, readable

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

# With what a file of torch before 1.6 begins: a pickle of this number.
_OLD = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def load_torch(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the arrays of a ``.safetensors``, ``.pt`` or ``.pth`` file.

    A ``.pt`` file is a pickle, and unpickling can run any code. Here nothing but tensors and plain
    containers and numbers is ever read from it; any other file is refused or, if torch is
    installed, left to ``torch.load(weights_only=True)``, which refuses it too unless it is merely
    older.

    Args:
        path: the file; one whose name ends in ``.safetensors`` is read as such.

    Returns:
        What was saved, with NumPy arrays in the place of tensors: for a state dict a dict from
        name to array. A checkpoint that holds more is a nested dict; give its part with the
        weights to `from_torch`. Arrays of tensors that share memory share memory, too.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the package that the file needs is missing: ``safetensors`` (extra
            ``safetensors``), or torch for a file that only torch can read.
        IsADirectoryError: there is a folder.
        ValueError: the file is damaged or holds something else than tensors in dicts, such as a
            whole model; or a tensor has more elements than the file holds of it, as ``expand``
            makes it.

    Example:
        >>> import safetensors.numpy
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> safetensors.numpy.save_file({"raw_beta": np.zeros(3, np.float32)}, path)
        >>> interop.load_torch(path)["raw_beta"].tolist()
        [0.0, 0.0, 0.0]
    """
    path = readable("path", path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with path.open("rb") as file:
        start = file.read(20)
    if start.startswith(b"PK"):
        try:
            return _mapping(_read_zip(path), path)
        except _OnlyTorch:
            pass
    elif _OLD not in start:
        raise ValueError(
            f"`path` must be a file of torch.save, or one that ends in .safetensors; {path} is "
            f"none, or is damaged."
        )
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
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            "reading a .safetensors file needs safetensors: pip install 'safetensors>=0.5'."
        ) from error
    try:
        return dict(load_file(path))
    except Exception as error:  # of the library in Rust, and of NumPy
        raise ValueError(
            f"`path` must be a safetensors file; {path} is not: {in_brief(error)}."
        ) from error


class _OnlyTorch(Exception):
    """Something that is in no ordinary state dict."""


_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_DICT = "collections OrderedDict"
_GLOBALS = (_TENSOR, _PARAMETER, _DICT, *(f"torch {name}" for name in _DTYPES))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
    "SHORT_BINBYTES BINBYTES BINBYTES8".split()
)
_PLAIN = (bool, int, float, str, bytes, type(None))


@dataclasses.dataclass(frozen=True)
class _Global:
    """The name of something that a pickle would import. Nothing is imported."""

    name: str


class _Pickle:
    """What a pickle of ``torch.save`` holds (torch 1.6 and later).

    Its instructions are followed here rather than by `pickle`, which a file can make use any amount
    of memory or end the process, even where it may import nothing. What is referred to twice is
    one object.
    """

    def __init__(self, file: zipfile.ZipFile, root: str) -> None:
        self.file = file
        self.root = root
        self.storages: dict[str, bytearray] = {}
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        data = self.file.read(f"{self.root}data.pkl")
        for opcode, argument, _ in pickletools.genops(data):
            self.follow(opcode.name, argument)
        return self.stack.pop()

    def follow(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        stack, pop = self.stack, self.stack.pop
        if name in _VALUES:
            stack.append(argument)
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name == "TUPLE":
            items = self.marked()
            self.stack.append(tuple(items))
        elif name == "APPEND":
            item = pop()
            _only(stack[-1], list).append(item)
        elif name == "APPENDS":
            items = self.marked()
            _only(self.stack[-1], list).extend(items)
        elif name == "SETITEM":
            item, key = pop(), pop()
            _fill(stack[-1], [key, item])
        elif name == "SETITEMS":
            items = self.marked()
            _fill(self.stack[-1], items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            found = " ".join([pop(-2), pop()]) if argument is None else argument
            if found not in _GLOBALS:
                raise _OnlyTorch(found)
            stack.append(_Global(found))
        elif name == "REDUCE":
            arguments, function = pop(), pop()
            stack.append(self.call(_only(function, _Global).name, _only(arguments, tuple)))
        elif name == "BINPERSID":
            stack.append(self.storage(pop()))
        elif name == "BUILD":  # attributes of an OrderedDict
            pop()
            _only(stack[-1], dict)
        else:
            raise _OnlyTorch(name)

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def call(self, function: str, arguments: tuple[Any, ...]) -> Any:
        if function == _PARAMETER:
            return arguments[0]
        if function == _DICT and not arguments:
            return {}
        if function != _TENSOR:
            raise _OnlyTorch(function)
        storage, offset, shape, strides, *_ = arguments
        try:
            return _view(_only(storage, np.ndarray), offset, shape, strides)
        except ValueError as error:
            before = [item for items in (*self.outer, self.stack) for item in items]
            names = [item for item in before if isinstance(item, str)]
            raise ValueError(f"{error}, {names[-1]!r}" if names else str(error)) from error

    def storage(self, pid: Any) -> np.ndarray:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise _OnlyTorch("persistent id")
        kind, key = _only(pid[1], _Global).name.removeprefix("torch "), _only(pid[2], str)
        if kind not in _DTYPES:
            raise _OnlyTorch(kind)
        if key not in self.storages:
            self.storages[key] = bytearray(self.file.read(f"{self.root}data/{key}"))
        return np.frombuffer(self.storages[key], np.dtype(_DTYPES[kind]))


def _only(value: Any, kind: Any) -> Any:
    """The value, if it is of a kind."""
    if not isinstance(value, kind):
        raise _OnlyTorch(type(value).__name__)
    return value


def _fill(mapping: Any, items: list[Any]) -> None:
    """Put keys and values in turn into a dict; a key must be quick to hash."""
    # Python 3.11 computes the hash of a tuple anew each time. A few bytes of a pickle can nest 40
    # pairs, each of the one before twice, whose hash takes 2**40 steps. So a tuple holds no tuple.
    for key, value in zip(items[::2], items[1::2], strict=True):
        for part in key if isinstance(key, tuple) else (key,):
            _only(part, _PLAIN)
        _only(mapping, dict)[key] = value


def _view(whole: np.ndarray, offset: Any, shape: Any, strides: Any) -> np.ndarray:
    """A tensor of a storage; two tensors of one storage share it, as in torch."""
    if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor with sizes that are none")
    if len(shape) != len(strides):
        raise ValueError("a tensor with axes and strides of different number")
    if 0 in shape:
        return np.zeros(shape, whole.dtype)
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if offset + last >= whole.size:
        raise ValueError("a tensor beyond its storage")
    if math.prod(shape) > whole.size:
        raise ValueError(
            f"a tensor of {math.prod(shape)} elements in a storage of {whole.size}, as torch's "
            f"`expand` makes it (save its clone())"
        )
    return np.lib.stride_tricks.as_strided(
        whole[offset:], shape, [step * whole.itemsize for step in strides]
    )


def _read_zip(path: pathlib.Path) -> Any:
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("it is compressed, which torch.save does not do")
            # Members of an archive may overlap: a small file can declare any amount of data.
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise ValueError("it declares more data than it holds")
            pickles = [name for name in file.namelist() if name.endswith("data.pkl")]
            if len(pickles) != 1:
                raise ValueError("it must hold one data.pkl")
            root = pickles[0].removesuffix("data.pkl")
            order = f"{root}byteorder"
            if order in file.namelist() and file.read(order) != b"little":
                raise _OnlyTorch("byte order")
            return _Pickle(file, root).load()
    except _OnlyTorch:
        raise
    except Exception as error:  # a damaged archive or pickle can raise anything
        raise ValueError(
            f"`path` must be a file of torch.save; {path} is damaged: {in_brief(error)}."
        ) from error


def _read_with_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is no ordinary state dict of torch 1.6 or later, and only torch can read it: "
            f"pip install torch, or save model.state_dict() anew, best as .safetensors."
        ) from error
    try:
        return _from_tensors(torch.load(path, map_location="cpu", weights_only=True), {})
    except Exception as error:
        raise ValueError(
            f"`path` must hold a state dict, saved with torch.save(model.state_dict(), path); "
            f"torch.load(weights_only=True) says of {path}: {error}"
        ) from error


def _from_tensors(saved: Any, done: dict[int, Any]) -> Any:
    """Arrays in the place of tensors; what is referred to twice stays one object."""
    if id(saved) in done:
        return done[id(saved)]
    if isinstance(saved, Mapping):
        made = done[id(saved)] = {}
        made |= {key: _from_tensors(value, done) for key, value in saved.items()}
        return made
    return done.setdefault(id(saved), as_array(saved) if hasattr(saved, "detach") else saved)


def as_array(value: Any) -> np.ndarray:
    """A NumPy array of an array of any framework, torch's tensors included."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            value = value.float()  # NumPy knows no such type
        value = value.resolve_conj().resolve_neg().numpy()
    return np.asarray(value)
