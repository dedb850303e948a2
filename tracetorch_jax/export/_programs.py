"""What `export` is made of: shapes with open sizes, tracing, and what is said when it fails."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
from jax.typing import DTypeLike

from tracetorch_jax._core.sequence_cell import SequenceCell
from tracetorch_jax._shared.checks import check_choice, check_linen
from tracetorch_jax._shared.files import absolute, replacing
from tracetorch_jax.snn import Unroll

Shape = str | Sequence[int | str]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def trace(
    run: Callable[..., Any],
    variables: Any,
    args: tuple[Any, ...],
    named: dict[str, Any],
    bake: bool,
    platforms: Sequence[str],
) -> jax.export.Exported:
    """Export ``run(variables, *args, **named)``, the variables as constants if `bake` is True."""
    if isinstance(platforms, str) or not platforms:
        raise ValueError(f"`platforms` must be a list of at least one; got {platforms!r}.")
    for platform in platforms:
        check_choice("platforms", platform, PLATFORMS)
    variables = plain(variables)

    def baked(*args: Any, **named: Any) -> Any:
        return run(variables, *args, **named)

    baked.__name__ = run.__name__  # which is how a loaded program says what it is
    if not bake:
        args = (jax.tree.map(_spec, variables), *args)
    export = jax.export.export(jax.jit(baked if bake else run), platforms=tuple(platforms))
    return explained(lambda: export(*args, **named))


def array_spec(
    name: str, shape: Shape, dtype: DTypeLike, symbols: jax.export.SymbolicScope
) -> jax.ShapeDtypeStruct:
    """An array whose sizes may be names; `symbols` are those that its argument's peers use."""
    text = shape if isinstance(shape, str) else ", ".join(map(str, shape))
    wrong = ValueError(
        f'`{name}` must be sizes of at least 1, or names for them, such as "b, t, 20"; '
        f"got {shape!r}."
    )
    try:
        sizes = jax.export.symbolic_shape(text, scope=symbols) if text.strip() else ()
    except ValueError as error:
        raise wrong from error
    if any(isinstance(size, int) and size < 1 for size in sizes):
        raise wrong
    try:
        spec = jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))
        held = jax.dtypes.canonicalize_dtype(spec.dtype)
    except TypeError as error:
        raise TypeError(f"`dtype` must be a type of numbers; got {dtype!r}.") from error
    # Of Python's own types JAX chooses the width. NumPy's float64 equals float, but is no class.
    if isinstance(dtype, type) and dtype in (bool, int, float):
        return jax.ShapeDtypeStruct(sizes, held)
    if spec.dtype != held:
        raise ValueError(
            f"`dtype` must be one that JAX holds, such as {held}; "
            f"{spec.dtype} takes jax_enable_x64."
        )
    return spec


def key_specs(rngs: Sequence[str]) -> dict[str, Any]:
    """The argument `rngs`: a PRNG key for each name; none if there are no names."""
    if isinstance(rngs, str):
        raise TypeError(f"`rngs` must be a list of names; got {rngs!r}.")
    key = jax.eval_shape(lambda: jax.random.key(0))
    return {"rngs": dict.fromkeys(rngs, key)} if rngs else {}


def cell_of(model: object, variables: Any) -> tuple[nn.RNNCellBase, Any]:
    """The cell that takes the steps, and its own variables."""
    if isinstance(model, nn.RNNCellBase):
        return model, variables
    what = "a cell, or the Unroll of one, to take steps"
    check_linen("model", model, what)
    if not isinstance(model, Unroll):
        raise TypeError(f"`model` must be {what}; got {type(model).__name__}.")
    if model.reverse:
        raise ValueError(
            "`model` must run forwards to take steps; got an Unroll with reverse=True."
        )
    collections = plain(variables)
    own = {
        name: collection["cell"]
        for name, collection in collections.items()
        if isinstance(collection, Mapping) and "cell" in collection
    }
    if collections and not own:
        raise ValueError(
            "`variables` must be those of the Unroll, which has its cell's under 'cell'; got "
            f"{ {name: list(collection) for name, collection in collections.items()} }."
        )
    return model.cell, own


def carry_spec(cell: nn.RNNCellBase, variables: Any, x: object, named: dict[str, Any]) -> Any:
    """Shapes and dtypes of a cell's carry for an input like `x`."""

    def fresh(variables: Any, x: Any, named: Any) -> Any:
        if isinstance(cell, SequenceCell):  # whose dtypes may depend on the input's
            return cell.apply(variables, None, x, **named)[0]
        return cell.initialize_carry(jax.random.key(0), x.shape)

    return explained(lambda: jax.eval_shape(fresh, plain(variables), x, named))


def plain(variables: Any) -> dict[str, Any]:
    """Variables as a dict of collections, without boxes around them."""
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"`variables` must be a dict of collections, as `init` returns it; "
            f"got {type(variables).__name__}."
        )
    return dict(nn.unbox(flax.core.unfreeze(dict(variables))))


def explained(act: Callable[[], Any]) -> Any:
    """What `act` gives; what Flax finds wrong is said in terms of what `export` was given."""
    cause: Exception
    try:
        return act()
    except flax.errors.InvalidRngError as error:
        rule, cause = "`rngs` must name what the model draws random numbers from", error
    except flax.errors.ModifyScopeVariableError as error:
        rule, cause = "`model` must be in its inference mode, changing no variables", error
    except flax.errors.FlaxError as error:
        rule, cause = "`variables` must be those of `model`", error
    except jax.errors.TracerBoolConversionError as error:
        rule, cause = "`shape` must have numbers for sizes that the model decides by", error
    said = str(cause).split(" (https:")[0].splitlines()[0]
    raise ValueError(f"{rule}: {said}") from cause


def _spec(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))


def free_path(path: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
    """The absolute path of a file that may be written."""
    path = absolute(path)
    if path.exists() and not (overwrite and path.is_file()):
        hint = "Use overwrite=True to replace it" if path.is_file() else "It is no file"
        raise FileExistsError(f"`path` exists: {path}. {hint}.")
    return path


def write(path: pathlib.Path, blob: bytes, overwrite: bool) -> pathlib.Path:
    """Write a file so that it is never there by half."""
    with replacing(path, overwrite) as incoming:
        incoming.write_bytes(blob)
    return path


# A program is a flatbuffer: 4 bytes say where its root is, and all else is found from there by
# offsets that count from where they stand. So bytes can be inserted behind the 4 if these are
# changed, and JAX reads a sealed file without this package. Numbers are aligned to their size, so
# what is inserted is a multiple of 16 bytes.
_ROOT, _MARK = 4, b"tracetorch_jax 1"
_BODY = _ROOT + len(_MARK) + hashlib.sha256().digest_size


def sealed(blob: bytes | bytearray) -> bytes:
    """A serialized program with a checksum of it."""
    root = int.from_bytes(blob[:_ROOT], "little") + _BODY - _ROOT
    start, body = root.to_bytes(_ROOT, "little") + _MARK, blob[_ROOT:]
    return b"".join([start, hashlib.sha256(start + body).digest(), body])


def check_seal(path: pathlib.Path, blob: bytes | bytearray) -> None:
    """Raise if a program is not what was sealed; earlier versions did not seal theirs."""
    start = blob[: _ROOT + len(_MARK)]
    if not start.endswith(_MARK):
        return
    if hashlib.sha256(start + blob[_BODY:]).digest() != blob[len(start) : _BODY]:
        raise ValueError(
            f"`path` must hold an exported program; {path} is damaged: its checksum differs."
        )
