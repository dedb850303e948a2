"""A model as a program of whole sequences, or of one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.export import Exported
from jax.typing import DTypeLike

from tracetorch_jax._models import takes_nnx
from tracetorch_jax._shared.checks import check_linen
from tracetorch_jax._shared.dtypes import in_words, type_of
from tracetorch_jax.export._programs import (
    PLATFORMS,
    Shape,
    array_spec,
    carry_spec,
    cell_of,
    key_specs,
    trace,
)


@takes_nnx
def sequence(
    model: nn.Module,
    variables: Any,
    shape: Shape,
    *,
    dtype: DTypeLike = jnp.float32,
    seq_lengths: Shape | None = None,
    rngs: Sequence[str] = (),
    bake: bool = True,
    platforms: Sequence[str] = PLATFORMS,
    **kwargs: Any,
) -> Exported:
    """Export a model of whole sequences as a program: ``program.call(xs)``.

    Args:
        model: a module that is called with a sequence, such as `snn.Unroll`; or one of nnx.
        variables: its variables, as from ``model.init``; left out for a model of nnx, which holds
            them.
        shape: of the sequence, sizes and names as `jax.export.symbolic_shape` reads them:
            ``"b, t, 20"`` for any batch and any number of steps, ``"1, t, 20"`` for one stream.
        dtype: of the sequence.
        seq_lengths: shape of the lengths, ``"b"``, to have them as another argument,
            ``program.call(xs, seq_lengths=lengths)``, of int32.
        rngs: names of what the model draws random numbers from, such as ``("spike",)`` for
            stochastic spikes: ``program.call(xs, rngs={"spike": key})``.
        bake: whether the variables are part of the program. False makes them its first argument,
            ``program.call(variables, xs)``, so that they can be exchanged; for a model of nnx those
            that `nnx.to_linen` gives.
        platforms: any of ``"cpu"``, ``"cuda"``, ``"rocm"`` and ``"tpu"``.
        **kwargs: further arguments of the model, constants of the program: ``train=False``.

    Returns:
        A `jax.export.Exported`: `save` it, or run ``jax.jit(program.call)``. On the same device its
        results are bit for bit those of ``jax.jit(lambda xs: model.apply(variables, xs))`` with
        ``engine="scan"``, and to rounding those of other engines and of a model that gets its
        variables as an argument.

    Raises:
        TypeError: `model` is not a module, or one of nnx that has no counterpart in linen.
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


@takes_nnx
def step(
    model: nn.Module,
    variables: Any,
    shape: Shape,
    *,
    dtype: DTypeLike = jnp.float32,
    rngs: Sequence[str] = (),
    bake: bool = True,
    platforms: Sequence[str] = PLATFORMS,
) -> Exported:
    """Export one step of a stream as a program: ``carry, y = program.call(carry, x)``.

    The carry is the dict that the cell has. It starts from zeros (`initial_carry`), as that of
    every layer here does.

    Args:
        model: a cell (a trace layer, a `snn.Sequential`, any `flax.linen.RNNCellBase`), or the
            `snn.Unroll` of one, that it was trained as; or one of nnx. With the `hold` of an
            `Unroll`, a stream has to give each input that often.
        variables: those of `model`; left out for a model of nnx, which holds them.
        shape: of one step's tensor, ``"b, 20"`` for any batch; see `sequence`.
        dtype: see `sequence`.
        rngs: see `sequence`; draw a new key for every step.
        bake: see `sequence`; if False, the cell's own variables come first,
            ``program.call(variables, carry, x)``.
        platforms: see `sequence`.

    Returns:
        A `jax.export.Exported`; see `sequence`.

    Raises:
        TypeError: `model` is neither a cell nor the Unroll of one, or it is one of nnx that has no
            counterpart in linen.
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
    """The initial carry of a stream: zeros.

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
    _, carry, want, _ = step_arguments(program)
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


def step_arguments(program: Exported) -> tuple[list[Any], Any, Any, dict[str, Any]]:
    """What one step of a stream takes: variables if any, the carry, an input, and by name.

    Raises:
        ValueError: `program` is not a step.
    """
    args, named = jax.tree.unflatten(program.in_tree, program.in_avals)
    if program.fun_name != "step" or len(args) < 2:
        raise ValueError(f"`program` must be one step of a stream; got {program.fun_name!r}.")
    *variables, carry, x = args
    return variables, carry, x, named
