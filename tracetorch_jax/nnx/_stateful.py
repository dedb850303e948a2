"""Layers that own their state, as traceTorch's do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tracetorch_jax._core.cell import AbstractCell
from tracetorch_jax._core.delays import AbstractDelayCell
from tracetorch_jax._core.sequence_cell import SequenceCell
from tracetorch_jax._core.sequential import AbstractSequential
from tracetorch_jax._core.unroll import check_cell
from tracetorch_jax._shared.checks import check_names
from tracetorch_jax._shared.dtypes import asarray
from tracetorch_jax._shared.trees import path_name
from tracetorch_jax.nnx._front_end import NNX
from tracetorch_jax.nnx._unroll import Unroll


class TraceState(nnx.Variable[Any]):
    """The state of a `Stateful` layer: the carry of its cell.

    A variable type of its own, so that optimisers and gradients, which ask for `nnx.Param`, pass it
    by, and ``nnx.state(model, TraceState)`` finds it. The layer makes it.

    Example:
        >>> layer = snn.Stateful(snn.LI(2), input_shape=(1, 2))
        >>> [*nnx.state(layer, snn.TraceState)], [*nnx.state(layer, nnx.Param)]
        (['carry'], ['cell'])
    """


class Stateful(nnx.Module):
    """A cell that stores its own carry, so that it is called with its input alone.

    States start as zeros, go on from call to call, and are handled for a whole model at once with
    `zero_states`, `detach_states`, `save_states` and `load_states`. They live in one `TraceState`,
    `carry`, of which Flax's own transformations take care: what a call under `nnx.jit` leaves
    behind is there afterwards. It is made at the first call, unless `input_shape` is given. A loop
    of Flax's or JAX's (`nnx.scan`, `nnx.fori_loop`) cannot begin with a call that makes something,
    so give `input_shape` there, or see `unroll`.

    Args:
        cell: a trace layer, a `Sequential`, or any other `flax.nnx.RNNCellBase`.
        input_shape: shape of one step's input, batch axes included, to make the states at once.

    Raises:
        TypeError: `cell` is not a cell.
        ValueError: an `input_shape` that does not fit the cell.

    Example:
        >>> layer = snn.Stateful(snn.LI(2, beta=0.5))
        >>> [layer(jnp.ones((1, 2)))[0, 0].item() for _ in range(3)]
        [0.5, 0.75, 0.875]
        >>> layer.carry["mem"].shape
        (1, 2)
        >>> snn.zero_states(layer)
        >>> layer(jnp.ones((1, 2)))[0, 0].item()
        0.5
    """

    carry: TraceState | None

    def __init__(self, cell: Any, *, input_shape: tuple[int, ...] | None = None) -> None:
        check_cell(cell, NNX)
        self.cell = cell
        # A plain None would make the attribute static, and nnx would refuse a variable in it later.
        self.carry = nnx.data(None)
        self.batch_shape: tuple[int, ...] | None = None
        if input_shape is not None:
            shape = tuple(input_shape)
            carry = NNX.fresh_carry(cell, None, shape)
            self.set_carry(carry, self._batch_of(shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Advance by one step.

        Args:
            x: what the cell takes.

        Returns:
            What it gives.

        Raises:
            ValueError: another batch than the states were made for, or as the cell does.
            TypeError: as the cell does.
        """
        x = asarray(x)
        batch_shape = self._check_batch(x.shape)
        carry = self._current()
        if carry is None and not isinstance(self.cell, SequenceCell):
            carry = NNX.fresh_carry(self.cell, None, x.shape)
        carry, y = self.cell(carry, x)
        self.set_carry(carry, batch_shape)
        return y

    def unroll(
        self, xs: jax.Array, *, seq_lengths: jax.Array | None = None, **options: Any
    ) -> jax.Array:
        """Advance over a sequence in one compiled loop, from the present states on.

        Args:
            xs: ``[B, T, ...]``, or ``[T, ...]`` without a batch axis.
            seq_lengths: see `Unroll`.
            **options: of `Unroll`: ``time_major``, ``hold``, ``engine``, ``unroll``,
                ``checkpoint_every``.

        Returns:
            The outputs, with axes as in `xs`.

        Raises:
            ValueError: another batch than the states were made for, or as `Unroll` does.
            TypeError: as `Unroll` does.

        Example:
            >>> layer = snn.Stateful(snn.LI(1, beta=0.5))
            >>> layer.unroll(jnp.ones((1, 2, 1)))[0, :, 0].tolist(), layer(jnp.ones((1, 1))).item()
            ([0.5, 0.75], 0.875)
        """
        xs = asarray(xs)
        model = Unroll(self.cell, return_carry=True, **options)
        axes = self.cell.num_feature_axes
        time_axis = 0 if model.time_major or xs.ndim <= axes + 1 else 1
        batch_shape = self._check_batch(xs.shape[:time_axis] + xs.shape[time_axis + 1 :])
        carry, ys = model(xs, self._current(), seq_lengths)
        self.set_carry(carry, batch_shape)
        return ys

    def set_carry(self, carry: Any, batch_shape: tuple[int, ...]) -> None:
        """Replace the states, without a check; `load_states` checks.

        Args:
            carry: of the cell.
            batch_shape: its batch axes, such as ``(32,)``.
        """
        if self.carry is None:
            self.carry = TraceState(carry)
        else:
            self.carry.set_value(carry)
        self.batch_shape = batch_shape

    def _current(self) -> Any:
        return None if self.carry is None else self.carry.get_value()

    def _batch_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[: max(len(shape) - self.cell.num_feature_axes, 0)]

    def _check_batch(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        batch_shape = self._batch_of(shape)
        if self.batch_shape not in (None, batch_shape):
            raise ValueError(
                f"`x` must have the batch axes of the states of {type(self.cell).__name__}, "
                f"{self.batch_shape}; got {batch_shape}. To go on with another batch, call "
                f"zero_states(model, batch_shape={batch_shape})."
            )
        return batch_shape


def zero_states(model: nnx.Module, batch_shape: tuple[int, ...] | None = None) -> None:
    """Set all states of a model to zeros, in place.

    Args:
        model: anything that holds `Stateful` layers, or one. A layer that is shared counts once.
        batch_shape: batch axes of the inputs to come, such as ``(32,)``, by default those of the
            inputs before. Layers that have not been called yet take them from their first input.

    Raises:
        ValueError: `model` holds no `Stateful` layer.

    Example:
        >>> layer = snn.Stateful(snn.LI(2), input_shape=(1, 2))
        >>> snn.zero_states(layer, batch_shape=(3,))
        >>> layer(jnp.ones((3, 2))).shape
        (3, 2)
    """
    for layer in _stateful_layers(model).values():
        if layer.carry is None:
            continue
        old = layer.batch_shape or ()
        new = old if batch_shape is None else tuple(batch_shape)
        carry = jax.tree.map(
            lambda state, old=old, new=new: jnp.zeros(new + state.shape[len(old) :], state.dtype),
            layer.carry.get_value(),
        )
        layer.set_carry(carry, new)


def detach_states(model: nnx.Module) -> None:
    """Stop gradients through the present states of a model (truncated BPTT), in place.

    Within a function that is differentiated, this is what truncates backpropagation through time.
    Between such functions there is nothing to detach: states are values there.

    Args:
        model: anything that holds `Stateful` layers, or one.

    Raises:
        ValueError: `model` holds no `Stateful` layer.

    Example:
        >>> layer = snn.Stateful(snn.LI(2), input_shape=(1, 2))
        >>> @nnx.grad
        ... def gradient(layer):
        ...     layer(jnp.ones((1, 2)))
        ...     snn.detach_states(layer)
        ...     return layer(jnp.zeros((1, 2))).sum()
        >>> gradient(layer)["cell"]["raw_beta"].shape
        (2,)
    """
    for layer in _stateful_layers(model).values():
        if layer.carry is not None:
            layer.carry.set_value(jax.lax.stop_gradient(layer.carry.get_value()))


def save_states(model: nnx.Module) -> dict[str, Any]:
    """All states of a model, as a tree.

    Args:
        model: anything that holds `Stateful` layers, or one.

    Returns:
        A dict from the path of each `Stateful` layer, such as ``"blocks/0/lif"`` (``"."`` for the
        model itself), to its carry, or None if it has none yet. Save it with
        `tracetorch_jax.checkpoint`, or anything that takes trees of arrays.

    Raises:
        ValueError: `model` holds no `Stateful` layer.

    Example:
        >>> layer = snn.Stateful(snn.SLIB(2), input_shape=(1, 2))
        >>> states = snn.save_states(layer)
        >>> sorted(states["."])
        ['mem', 'syn']
        >>> snn.load_states(layer, states)
    """
    return {path: layer._current() for path, layer in _stateful_layers(model).items()}


def load_states(model: nnx.Module, states: Mapping[str, Any]) -> None:
    """Restore the states that `save_states` returned, in place.

    Args:
        model: anything that holds `Stateful` layers, or one.
        states: a carry for each of them by path, or None for zeros.

    Raises:
        ValueError: `model` holds no `Stateful` layer; a layer or state is missing or unknown, or
            does not fit its layer. Nothing is loaded then.
        TypeError: a carry is not of the kind that its cell has.

    Example:
        >>> layer = snn.Stateful(snn.LI(1, beta=0.5), input_shape=(1, 1))
        >>> before = snn.save_states(layer)
        >>> layer(jnp.ones((1, 1))).item(), layer(jnp.ones((1, 1))).item()
        (0.5, 0.75)
        >>> snn.load_states(layer, before)
        >>> layer(jnp.ones((1, 1))).item()
        0.5
    """
    layers = _stateful_layers(model)
    check_names("states", states, tuple(layers), type(model).__name__)
    checked = {}
    for path, layer in layers.items():
        if states[path] is not None:
            carry = jax.tree.map(jnp.asarray, states[path])
            checked[path] = carry, _check_carry(f"states[{path!r}]", layer, layer.cell, carry)
    for path, layer in layers.items():
        if path in checked:
            layer.set_carry(*checked[path])
        else:
            layer.carry, layer.batch_shape = None, None


def _stateful_layers(model: nnx.Module) -> dict[str, Stateful]:
    found = {
        path_name(path) or ".": node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, Stateful)
    }
    if not found:
        raise ValueError(f"`model` must hold Stateful layers; got {type(model).__name__}.")
    return found


def _check_carry(name: str, layer: Stateful, cell: Any, carry: Any) -> tuple[int, ...]:
    """The batch axes that a carry is for, if it fits its cell."""
    if isinstance(cell, AbstractSequential):
        cells = cell.cells()
        _check_mapping(name, cell, carry, tuple(cells))
        parts = {
            own: _check_carry(f"{name}[{own!r}]", layer, cells[own], carry[own]) for own in cells
        }
        if len(set(parts.values())) > 1:
            raise ValueError(f"`{name}` must be for one batch; its batch axes are {parts}.")
        return next(iter(parts.values()), layer.batch_shape or ())
    if isinstance(cell, AbstractCell):
        _check_mapping(name, cell, carry, cell.spec.states)
        shapes = {own: carry[own].shape for own in cell.spec.states}
        for own, shape in shapes.items():
            cell._check_shape(f"{name}[{own!r}]", shape)
        if len(set(shapes.values())) > 1:
            raise ValueError(f"`{name}` must hold states of one shape; got {shapes}.")
    if isinstance(cell, AbstractDelayCell):
        _check_mapping(name, cell, carry, ("past",))
        return cell.batch_of_carry(name, carry)
    leaves = jax.tree.leaves(carry)
    return leaves[0].shape[: leaves[0].ndim - cell.num_feature_axes]


def _check_mapping(name: str, cell: Any, carry: Any, want: tuple[str, ...]) -> None:
    kind = type(cell).__name__
    if not isinstance(carry, Mapping):
        raise TypeError(f"`{name}` must be a dict of {list(want)} for {kind}; got {carry!r}.")
    check_names(name, carry, want, kind)
