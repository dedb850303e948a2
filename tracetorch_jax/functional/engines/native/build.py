"""From LLVM IR to the address of a function, with llvmlite."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import pathlib
import platform
import sys
import threading
from typing import Any

import jax
from jax.interpreters import mlir

from tracetorch_jax._shared.files import replacing
from tracetorch_jax.functional.engines.native.handler import module
from tracetorch_jax.functional.engines.native.header import UnknownHeader, header
from tracetorch_jax.functional.engines.native.kernels import Code

OLDEST = (0, 46)
NEEDED = f"llvmlite>={OLDEST[0]}.{OLDEST[1]}"

OPTIONS = {"speed_level": 2, "opt": 3}  # of the passes and of the code generator

_lock = threading.Lock()
_engines: list[Any] = []  # what XLA may still call must never be freed
_names: set[str] = set()


@functools.cache
def why_not() -> str | None:
    """What keeps this process from running kernels of its own, if anything does."""
    # Where else it runs has not been tried.
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"Linux on x86-64, not {sys.platform} on {platform.machine()}"
    try:
        import llvmlite
        import llvmlite.binding as llvm
    except ImportError:
        return f"the package {NEEDED} on a CPU (pip install '{NEEDED}')"
    if tuple(map(int, llvmlite.__version__.split(".")[:2])) < OLDEST:
        return f"the package {NEEDED} on a CPU, not {llvmlite.__version__}"
    if "for_export" not in getattr(mlir.LoweringParameters, "__dataclass_fields__", ()):
        return "a JAX that says which programs are exported"
    try:
        header()
        _machine()
        llvm.check_jit_execution()  # systems may forbid memory that is both written and run
    except (UnknownHeader, OSError, RuntimeError) as error:
        return f"a CPU and a jaxlib that kernels can be compiled for, not this: {error}"
    return None


def _machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=OPTIONS["opt"],
        reloc="pic",
    )


def register(code: Code) -> str:
    """Compile a kernel, and make it known to XLA.

    Returns:
        The name that `jax.ffi.ffi_call` takes.
    """
    text = module(code)
    # The name is that of the code, not of the process: JAX's compilation cache may hold programs
    # that call it, of this process or of another.
    name = f"tracetorch_jax_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    with _lock:  # threads may trace at once, and a name can be registered once only
        if name not in _names:
            address = ctypes.c_void_p(_load(_object(text)))
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
            _names.add(name)
    return name


def _compile(text: str) -> bytes:
    import llvmlite.binding as llvm

    machine = _machine()
    parsed = llvm.parse_assembly(text)
    parsed.triple, parsed.data_layout = machine.triple, str(machine.target_data)
    parsed.verify()
    # The code is written in vectors, and a loop over time gains nothing from being unrolled.
    options = llvm.create_pipeline_tuning_options(speed_level=OPTIONS["speed_level"])
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    return machine.emit_object(parsed)


def _load(code: bytes) -> int:
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address("handler")


# Objects are kept where JAX keeps compiled programs, if its user has chosen a folder for these.


def _object(text: str) -> bytes:
    path = _path(text)
    if path is None:
        return _compile(text)
    code = _read(path)
    if code is None:
        code = _compile(text)
        _write(path, code)
    return code


def _path(text: str) -> pathlib.Path | None:
    import llvmlite.binding as llvm

    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    if not folder or "://" in folder or not getattr(jax.config, "jax_enable_compilation_cache", 1):
        return None
    key = [
        text,
        llvm.get_default_triple(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
    ]
    key += [str(llvm.llvm_version_info), str(OPTIONS)]
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()
    return pathlib.Path(folder).absolute() / f"tracetorch_jax_{digest}.o"


def _read(path: pathlib.Path) -> bytes | None:
    """An object, or None if there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: pathlib.Path, code: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, overwrite=True) as incoming:
            incoming.write_bytes(hashlib.sha256(code).digest() + code)
    except OSError:  # a folder that cannot be written to costs the next process a moment
        pass
