"""Steps as ONNX models."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tracetorch_jax._models import takes_nnx
from tracetorch_jax._shared.trees import key_name
from tracetorch_jax.export._programs import Shape, array_spec, carry_spec, cell_of, free_path, write


@takes_nnx
def onnx(
    model: nn.Module,
    variables: Any,
    shape: Shape,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> pathlib.Path:
    """Write one step of a stream as an ONNX model, through jax2onnx.

    Its inputs are ``x`` and ``carry.<state>`` for each state, its outputs ``y`` and
    ``next.<state>``, in the same order. What was ``next`` is given as ``carry`` in the next
    step; zeros come first.

    jax2onnx needs an environment of its own, since the newest jax is too new for it. The extra
    `onnx` installs it.

    Args:
        model: as in `step`.
        variables: as in `step`.
        shape: of one step's tensor, as in `step`. What is computed is float32.
        path: the file, which ends in ``.onnx`` by custom.
        overwrite: whether a file that is there is replaced.

    Returns:
        The file's absolute path.

    Raises:
        FileExistsError: as `save` does.
        ImportError: jax2onnx is missing.
        TypeError: as `step` does.
        ValueError: as `step` does.

    Example:
        >>> cell = snn.LIB(3)
        >>> variables = cell.init(jax.random.key(0), None, jnp.zeros((1, 3)))
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "it.onnx"
        >>> export.onnx(cell, variables, "b, 3", path).name
        'it.onnx'
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise ImportError(
            "export.onnx needs jax2onnx, in an environment of its own: "
            "pip install 'jax2onnx>=0.17.1,<0.18' 'jax<0.12' 'jaxlib<0.12'."
        ) from error
    path = free_path(path, overwrite)
    cell, variables = cell_of(model, variables)
    x = array_spec("shape", shape, jnp.float32, jax.export.SymbolicScope())
    carry = carry_spec(cell, variables, x, {})
    names = [".".join(map(key_name, path)) for path, _ in jax.tree.leaves_with_path(carry)]
    states, structure = jax.tree.flatten(carry)

    def step(x: object, *states: Any) -> Any:
        carry, y = cell.apply(variables, jax.tree.unflatten(structure, states), x)
        # Where an output is a state as well, ONNX wants a value of its own for each.
        return (y, *map(jnp.copy, jax.tree.leaves(carry)))

    converted = jax2onnx.to_onnx(
        step,
        [tuple(d if isinstance(d, int) else str(d) for d in a.shape) for a in (x, *states)],
        model_name=type(cell).__name__,
        input_names=["x", *(f"carry.{name}" for name in names)],
        output_names=["y", *(f"next.{name}" for name in names)],
    )
    return write(path, converted.SerializeToString(), overwrite)
