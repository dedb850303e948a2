"""Stacks of cells and ordinary modules, in every front end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tracetorch_jax._core.cell import AbstractCell
from tracetorch_jax._core.sequence_cell import SequenceCell
from tracetorch_jax._core.unroll import AbstractUnroll
from tracetorch_jax._shared.checks import (
    CALL,
    as_array,
    cell_call,
    check_front_end,
    check_integer,
    check_names,
    within,
)
from tracetorch_jax.functional.engines.masks import (
    Valid,
    expand_mask,
    held,
    valid_steps,
    without_padding,
    zero_padding,
)
from tracetorch_jax.functional.engines.placement import is_split


class AbstractSequential(SequenceCell):
    """Cells, modules and functions, one after the other: all but where parameters are kept."""

    front_end: ClassVar[Any]
    holds = True
    layers: Sequence[Any]
    feature_axes: int | None

    def check_fields(self, layers: Any, feature_axes: Any) -> None:
        """Check the arguments of the constructor."""
        if not isinstance(layers, Sequence) or isinstance(layers, str):
            raise TypeError(f"`layers` must be a list of layers; got {layers!r}.")
        if not layers:
            raise ValueError("`layers` must hold at least one layer; got none.")
        for i, layer in enumerate(layers):
            if isinstance(layer, (AbstractUnroll, *self.front_end.over_time)):
                raise TypeError(
                    f"`layers[{i}]` must be a cell, not {type(layer).__name__}, which runs over "
                    f"time by itself: put its cell here and the whole stack into Unroll."
                )
            check_front_end(f"layers[{i}]", layer, self.front_end.module)
            if not callable(layer):
                raise TypeError(f"`layers[{i}]` must be callable; got {layer!r}.")
        if feature_axes is not None:
            check_integer("feature_axes", feature_axes, 0)

    @property
    def num_feature_axes(self) -> int:
        """Axes of a step's tensor that are not batch axes."""
        if self.feature_axes is not None:
            return self.feature_axes
        told = (self.front_end.feature_axes(layer) for layer in self.layers)
        return next((axes for axes in told if axes is not None), 1)

    def cells(self) -> dict[str, Any]:
        """The cells of the stack by name."""
        return {f"layers_{i}": layer for i, layer in enumerate(self.layers) if self._is_cell(layer)}

    def fresh_carries(self, key: Any, input_shape: tuple[int, ...]) -> dict[str, Any]:
        """A first carry for each cell of the stack, by name."""
        x = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)
        last = max((i for i, layer in enumerate(self.layers) if self._is_cell(layer)), default=-1)
        carry = {}
        for i, layer in enumerate(self.layers[: last + 1]):
            own = None
            with within(f"layers_{i}", layer):
                if self._is_cell(layer):
                    own = carry[f"layers_{i}"] = self.front_end.fresh_carry(layer, key, x.shape)
                if i < last:
                    x = self._output(layer, own, x)
        return carry

    @cell_call
    def __call__(self, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """Advance the whole stack by one step.

        Args:
            carry: carries by name of the cell; None for fresh ones.
            x: input of the first layer.

        Returns:
            The new carries, and the output of the last layer.

        Raises:
            ValueError: a carry with missing or extra names.
            TypeError: a carry that is no dict.
        """
        carry = self._check_carry(carry)
        x = as_array("x", x, f"{CALL}.")
        new = {}
        for i, layer in enumerate(self.layers):
            name = f"layers_{i}"
            with within(name, layer, self._hint(layer, x)):
                if self._is_cell(layer):
                    own = carry[name]
                    if own is None and not isinstance(layer, SequenceCell):
                        own = self.front_end.fresh_carry(layer, None, x.shape)
                    new[name], x = layer(own, x)
                else:
                    x = layer(x)
        return new, x

    def unroll(
        self,
        carry: Any,
        xs: jax.Array,
        *,
        seq_lengths: jax.Array | Valid | None = None,
        hold: int = 1,
        **options: Any,
    ) -> tuple[Any, jax.Array]:
        """Advance layer by layer over the leading axis of `xs`; `Unroll` calls this.

        Args:
            carry: carries by name of the cell; None for fresh ones.
            xs: ``[T, ...]``, each slice an input of one step.
            seq_lengths: see `functional.unroll`; `Unroll` passes on the mask it made of them.
            hold: steps for which each step of `xs` stays.
            **options: ``engine``, ``unroll`` and ``checkpoint_every``, see `functional.unroll`.

        Returns:
            The last carries, and the outputs of the last layer, ``[hold * T, ...]``.

        Raises:
            ValueError: a carry with missing or extra names, a layer that changes the number of
                steps, or as `functional.unroll` does.
            TypeError: a carry that is no dict.
        """
        carry = self._check_carry(carry)
        batched = xs.ndim - 1 > self.num_feature_axes
        xs, valid = without_padding(xs, seq_lengths)
        new = {}
        for i, layer in enumerate(self.layers):
            name = f"layers_{i}"
            with within(name, layer, self._hint(layer, xs)):
                if self._is_cell(layer):
                    new[name], xs = self.front_end.unroll(
                        layer, carry[name], xs, seq_lengths=valid, hold=hold, **options
                    )
                    valid, hold = held(valid, hold), 1
                else:
                    if not self._is_same_at_equal_steps(layer):
                        (xs, valid), hold = held((xs, valid), hold), 1
                    xs = self._over_time(layer, xs, batched, valid)
                    # Not only for modules that make something of zeros: what cuts off the padding
                    # here also keeps NaN, of a derivative at 0 further on, from its gradient.
                    if valid is not None:
                        xs = zero_padding(xs, valid_steps(valid, xs.shape[0], [xs.shape[1:]]))
        return new, held(xs, hold)

    def _is_cell(self, layer: Any) -> bool:
        return isinstance(layer, self.front_end.cell)

    def _is_same_at_equal_steps(self, layer: Any) -> bool:
        """Whether something that keeps no state is known to give equal outputs for equal inputs."""
        known = self.front_end.any_leading_axes
        return not isinstance(layer, self.front_end.module) or isinstance(layer, known)

    def _check_carry(self, carry: Any) -> Mapping[str, Any]:
        names = tuple(self.cells())
        if carry is None:
            return dict.fromkeys(names)
        if not isinstance(carry, Mapping):
            raise TypeError(
                f"`carry` must be a dict from the names of the cells, {list(names)}, to their "
                f"carries; got {type(carry).__name__}. {CALL}."
            )
        check_names("carry", carry, names, type(self).__name__)
        return carry

    def _output(self, layer: Any, carry: Any, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """Shape of a layer's output, found without computing it."""
        if isinstance(layer, AbstractCell):
            return x
        if not isinstance(layer, self.front_end.module):
            return jax.eval_shape(layer, x)
        if isinstance(layer, self.front_end.embed):
            x = jax.ShapeDtypeStruct(x.shape, jnp.int32)
        return self.front_end.output(layer, carry, x)

    def _over_time(
        self, layer: Any, xs: jax.Array, batched: bool, valid: Valid | None
    ) -> jax.Array:
        """Apply something that keeps no state to every step of a sequence ``[T, ...]``."""
        if not isinstance(layer, self.front_end.module):
            return jax.vmap(layer)(xs)
        if isinstance(layer, self.front_end.batch_norm):
            mask = None if valid is None else expand_mask(valid.mask, xs.ndim)
            return layer(xs, mask=mask)
        if not batched or self._takes_any_leading_axes(layer, xs):
            return _same_length(layer, layer(xs), xs.shape[:1])
        # The batch goes first: only then does it stay split where it is split over devices.
        xs = jnp.swapaxes(xs, 0, 1)
        merged = xs.reshape(xs.shape[0] * xs.shape[1], *xs.shape[2:])
        ys = _same_length(layer, layer(merged), merged.shape[:1])
        return jnp.swapaxes(ys.reshape(*xs.shape[:2], *ys.shape[1:]), 0, 1)

    def _hint(self, layer: Any, x: Any) -> str:
        """What to say of an error in Flax's own layer that refuses a split input."""
        if isinstance(layer, self.front_end.dropout + self.front_end.embed) and is_split(x):
            return (
                f"Flax's {type(layer).__name__} refuses an input that is split over explicit axes "
                f"of a mesh: make the mesh with axis_types=(jax.sharding.AxisType.Auto,)."
            )
        return ""

    def _takes_any_leading_axes(self, layer: Any, xs: jax.Array) -> bool:
        if isinstance(layer, self.front_end.dropout):
            return not layer.broadcast_dims
        if isinstance(layer, self.front_end.conv) and (jax.device_count() > 1 or is_split(xs)):
            return False  # Flax merges the axes in their order, which would gather a split batch
        return isinstance(layer, self.front_end.any_leading_axes)


def _same_length(layer: Any, ys: jax.Array, leading: tuple[int, ...]) -> jax.Array:
    if ys.shape[:1] != leading:
        raise ValueError(
            f"{type(layer).__name__} must keep its leading axis of size {leading[0]} to be run "
            f"over a sequence; got an output of shape {ys.shape}."
        )
    return ys
