"""Models as programs that run without their code: for `jax.export`, and ONNX (extra ``export``).

There are two forms: a whole sequence, and one step of a stream with the states as input and output.
The parameters are part of the program, batch and time are left open, and one file serves CPU, CUDA,
ROCm and TPU. To run it takes JAX and nothing else: neither this package nor Flax.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.export import Exported

from tracetorch_jax._checks import check_linen, readable
from tracetorch_jax._onnx import onnx
from tracetorch_jax._programs import (
    PLATFORMS,
    Shape,
    array_spec,
    carry_spec,
    cell_of,
    check_seal,
    free_path,
    in_words,
    key_specs,
    sealed,
    trace,
    type_of,
    write,
)

__all__ = ["PLATFORMS", "initial_carry", "load", "onnx", "save", "sequence", "step"]


def sequence(
    model: nn.Module,
    variables: Any,
    shape: Shape,
    *,
    dtype: Any = jnp.float32,
    seq_lengths: Shape | None = None,
    rngs: Sequence[str] = (),
    bake: bool = True,
    platforms: Sequence[str] = PLATFORMS,
    **kwargs: Any,
) -> Exported:
    """A model of whole sequences as a program: ``program.call(xs)``.

    Args:
        model: a module that is called with a sequence, such as `snn.Unroll`.
        variables: its variables, as from ``model.init``.
        shape: of the sequence, sizes and names as `jax.export.symbolic_shape` reads them:
            ``"b, t, 20"`` for any batch and any number of steps, ``"1, t, 20"`` for one stream.
        dtype: of the sequence.
        seq_lengths: shape of the lengths, ``"b"``, to have them as another argument,
            ``program.call(xs, seq_lengths=lengths)``, of int32.
        rngs: names of what the model draws random numbers from, such as ``("spike",)`` for
            stochastic spikes: ``program.call(xs, rngs={"spike": key})``.
        bake: whether the variables are part of the program. False makes them its first argument,
            ``program.call(variables, xs)``, so that they can be exchanged.
        platforms: any of ``"cpu"``, ``"cuda"``, ``"rocm"`` and ``"tpu"``.
        **kwargs: further arguments of the model, constants of the program: ``train=False``.

    Returns:
        A `jax.export.Exported`: `save` it, or run ``jax.jit(program.call)``. On the same device its
        results are bit for bit those of ``jax.jit(lambda xs: model.apply(variables, xs))``, and
        to rounding those of a model that gets its variables as an argument.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `variables` that are not the model's, a shape that does not fit it, a dtype of
            64 bits without ``jax_enable_x64``, an unknown platform, `rngs` that are missing, a
            model in training mode.

    Example:
        >>> model = snn.Unroll(snn.LIB(3))
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 1, 3)))
        >>> program = export.sequence(model, variables, "b, t, 3")
        >>> program.call(jnp.ones((2, 5, 3))).shape
        (2, 5, 3)
    """
    check_linen("model", model)
    symbols = jax.export.SymbolicScope()
    xs = array_spec("shape", shape, dtype, symbols)
    named = key_specs(rngs)
    if seq_lengths is not None:
        named["seq_lengths"] = array_spec("seq_lengths", seq_lengths, jnp.int32, symbols)

    def sequence(variables: Any, xs: Any, **named: Any) -> Any:
        return model.apply(variables, xs, **named, **kwargs)

    return trace(sequence, variables, (xs,), named, bake, platforms)


def step(
    model: nn.Module,
    variables: Any,
    shape: Shape,
    *,
    dtype: Any = jnp.float32,
    rngs: Sequence[str] = (),
    bake: bool = True,
    platforms: Sequence[str] = PLATFORMS,
) -> Exported:
    """One step of a stream as a program: ``carry, y = program.call(carry, x)``.

    The carry is the dict that the cell has. It starts from zeros (`initial_carry`), as that of
    every layer here does.

    Args:
        model: a cell (a trace layer, a `snn.Sequential`, any `flax.linen.RNNCellBase`), or the
            `snn.Unroll` of one, that it was trained as.
        variables: those of `model`.
        shape: of one step's tensor, ``"b, 20"`` for any batch; see `sequence`.
        dtype: see `sequence`.
        rngs: see `sequence`; draw a new key for every step.
        bake: see `sequence`; if False, the cell's own variables come first,
            ``program.call(variables, carry, x)``.
        platforms: see `sequence`.

    Returns:
        A `jax.export.Exported`; see `sequence`.

    Raises:
        TypeError: `model` is neither a cell nor the Unroll of one.
        ValueError: as `sequence` does; an Unroll that runs backwards; a cell whose carry changes
            shape or dtype in a step.

    Example:
        >>> model = snn.Unroll(snn.LI(3, beta=0.5))
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 1, 3)))
        >>> program = export.step(model, variables, "b, 3")
        >>> x = jnp.ones((2, 3))
        >>> carry, y = program.call(export.initial_carry(program, x), x)
        >>> carry, y = program.call(carry, x)
        >>> carry["mem"].shape, y[0].tolist()
        ((2, 3), [0.75, 0.75, 0.75])
    """
    cell, variables = cell_of(model, variables)
    x = array_spec("shape", shape, dtype, jax.export.SymbolicScope())
    carry = carry_spec(cell, variables, x, key_specs(rngs))

    def step(variables: Any, carry: Any, x: Any, **named: Any) -> Any:
        return cell.apply(variables, carry, x, **named)

    program = trace(step, variables, (carry, x), key_specs(rngs), bake, platforms)
    new, _ = jax.tree.unflatten(program.out_tree, program.out_avals)
    if jax.tree.map(type_of, new) != jax.tree.map(type_of, carry):
        raise ValueError(
            f"`model` must give a carry as it gets it: {jax.tree.map(type_of, carry)}; "
            f"got {jax.tree.map(type_of, new)}."
        )
    return program


def initial_carry(program: Exported, x: Any) -> Any:
    """The zeros that a stream starts from.

    Args:
        program: what `step` gave, or `load` read.
        x: an input, or anything of its shape.

    Returns:
        The carry for ``program.call(carry, x)``.

    Raises:
        ValueError: `program` is not a step, or `x` is not of the shape that it takes.

    Example:
        >>> cell = snn.SLI(3)
        >>> variables = cell.init(jax.random.key(0), None, jnp.zeros((1, 3)))
        >>> carry = export.initial_carry(export.step(cell, variables, "b, 3"), jnp.ones((2, 3)))
        >>> sorted(carry), carry["mem"].shape
        (['mem', 'syn'], (2, 3))
    """
    args, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    if program.fun_name != "step" or len(args) < 2:
        raise ValueError(f"`program` must be one step of a stream; got {program.fun_name!r}.")
    *_, carry, want = args
    sizes: dict[str, int] = {}
    fits = len(x.shape) == len(want.shape)
    for size, dim in zip(x.shape, want.shape, strict=False):
        fits = fits and size == (dim if isinstance(dim, int) else sizes.setdefault(str(dim), size))
    if not fits:
        raise ValueError(f"`x` must have the shape {in_words(want.shape)}; got {tuple(x.shape)}.")

    def zeros(state: Any) -> jax.Array:
        shape = [dim if isinstance(dim, int) else sizes.get(str(dim)) for dim in state.shape]
        if None in shape:
            raise ValueError(
                f"`program` must have states whose sizes are those of its input or fixed, to start "
                f"from; got {in_words(state.shape)}."
            )
        return jnp.zeros(shape, state.dtype)

    return jax.tree.map(zeros, carry)


def save(
    path: str | os.PathLike[str],
    program: Exported,
    *,
    vjp_order: int = 0,
    overwrite: bool = False,
) -> pathlib.Path:
    """Write a program to a file, which ``jax.export.deserialize`` reads on any machine.

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
        TypeError: `program` is not a `jax.export.Exported`.

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
    path = free_path(path, overwrite)
    blob = _with_flatbuffers(lambda: sealed(program.serialize(vjp_order=vjp_order)))
    return write(path, blob, overwrite)


def load(path: str | os.PathLike[str]) -> Exported:
    """Read what `save` wrote.

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
            "Files of programs need flatbuffers: pip install 'tracetorch_jax[export]'."
        ) from error
