"""Stacks of cells and ordinary modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import flax.linen as nn
import jax
import jax.numpy as jnp

from tracetorch_jax.functional.sequences import expand_mask, mask_steps, valid_steps
from tracetorch_jax.snn._cell import TraceCell, check_names
from tracetorch_jax.snn._foreign import unroll_any_cell

# Modules that treat every leading axis alike, so that a whole [T, B, ...] sequence can be handed
# to them as it is. Others get [B * T, ...], the number of axes that they see in a single step.
_ANY_LEADING_AXES = (
    nn.Dense,
    nn.Conv,
    nn.ConvTranspose,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.BatchNorm,
    nn.Embed,
    nn.PReLU,
)


class Sequential(nn.RNNCellBase):
    """Cells, ordinary modules and functions, one after the other; itself a cell.

    Called as a cell, it takes one step through the whole stack: for streaming and for feedback.
    Under `Unroll` it runs layer by layer over the whole sequence, so that a Dense layer sees one
    large matrix product rather than T small ones. Both give the same numbers, but for what is
    random (Dropout) or measured over the batch (BatchNorm in training averages over time as well
    when it sees the whole sequence, leaving out the padding).

    The carry is a dict from the name of each cell in the stack (``layers_0``, ``layers_1``, ...
    by position, as the parameters of a stack on its own are named) to its own carry.

    Args:
        layers: cells (trace layers, `Sequential`, any other `flax.linen.RNNCellBase`), modules and
            functions of one array.
        feature_axes: number of axes of one step's tensor that are not batch axes. By default that
            of the first layer that tells: a cell, a Dense (1), an Embed (0), a Conv (its kernel's
            axes and the channels); else 1.

    Raises:
        TypeError: `layers` holds something that cannot be called, or a module that runs over time
            (`Unroll`, `flax.linen.RNN`, `flax.linen.Bidirectional`): put its cell there instead.
        ValueError: `layers` is empty, or `feature_axes` is negative.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from tracetorch_jax import snn
        >>> model = snn.Sequential([nn.Dense(16), snn.LIB(16), nn.Dense(4), snn.LI(4)])
        >>> xs = jnp.ones((2, 10, 8))
        >>> variables = snn.Unroll(model).init(jax.random.key(0), xs)
        >>> snn.Unroll(model).apply(variables, xs).shape
        (2, 10, 4)

        One step at a time, as a stream, with the same parameters:

        >>> variables = {"params": variables["params"]["cell"]}
        >>> carry = model.initialize_carry(None, (2, 8))
        >>> sorted(carry)
        ['layers_1', 'layers_3']
        >>> carry, y = model.apply(variables, carry, xs[:, 0])
        >>> y.shape
        (2, 4)
    """

    layers: Sequence[Callable[..., Any]]
    feature_axes: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        from tracetorch_jax.snn._unroll import Unroll

        if not isinstance(self.layers, Sequence) or isinstance(self.layers, str):
            raise TypeError(f"`layers` must be a list of layers; got {self.layers!r}.")
        if not self.layers:
            raise ValueError("`layers` must hold at least one layer; got none.")
        for i, layer in enumerate(self.layers):
            if isinstance(layer, (Unroll, nn.RNN, nn.Bidirectional)):
                raise TypeError(
                    f"`layers[{i}]` must be a cell, not {type(layer).__name__}, which runs over "
                    f"time by itself: put its cell here and the whole stack into Unroll."
                )
            if not callable(layer):
                raise TypeError(f"`layers[{i}]` must be callable; got {layer!r}.")
        axes = self.feature_axes
        if axes is not None and (isinstance(axes, bool) or not isinstance(axes, int) or axes < 0):
            raise ValueError(f"`feature_axes` must be an integer of at least 0; got {axes!r}.")
        object.__setattr__(self, "layers", tuple(self.layers))  # hashable, unlike a list
        super().__post_init__()

    @property
    def num_feature_axes(self) -> int:
        """Axes of a step's tensor that are not batch axes."""
        if self.feature_axes is not None:
            return self.feature_axes
        for layer in self.layers:
            if _is_cell(layer):
                return layer.num_feature_axes
            if isinstance(layer, (nn.Conv, nn.ConvTranspose)):
                size = layer.kernel_size
                return 2 if isinstance(size, int) else len(size) + 1
            if isinstance(layer, nn.Embed):
                return 0
            if isinstance(layer, nn.Dense):
                return 1
        return 1

    @nn.nowrap
    def cells(self) -> dict[str, nn.RNNCellBase]:
        """The cells of the stack by name."""
        return {f"layers_{i}": layer for i, layer in enumerate(self.layers) if _is_cell(layer)}

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> Any:
        """Fresh carries of all cells.

        Args:
            rng: handed on to the cells; trace layers make no use of it.
            input_shape: shape of one step's tensor.

        Returns:
            A dict from the name of each cell to its carry.
        """
        rng = jax.random.key(0) if rng is None else rng
        x = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)
        last = max((i for i, layer in enumerate(self.layers) if _is_cell(layer)), default=-1)
        carry = {}
        for i, layer in enumerate(self.layers[: last + 1]):
            own = None
            if _is_cell(layer):
                own = carry[f"layers_{i}"] = layer.initialize_carry(rng, x.shape)
            if i < last:
                x = _output(layer, own, x)
        return carry

    @nn.compact
    def __call__(self, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """Advance the whole stack by one step.

        Args:
            carry: carries by name of the cell; None for fresh ones.
            x: input of the first layer.

        Returns:
            The new carries, and the output of the last layer.

        Raises:
            ValueError: a carry with missing or extra names.
        """
        carry = self._check_carry(carry)
        new = {}
        for i, layer in enumerate(self.layers):
            name = f"layers_{i}"
            if _is_cell(layer):
                own = carry[name]
                if own is None and not isinstance(layer, (TraceCell, Sequential)):
                    own = layer.initialize_carry(jax.random.key(0), x.shape)
                new[name], x = layer(own, x)
            else:
                x = layer(x)
        return new, x

    @nn.compact
    def unroll(
        self, carry: Any, xs: jax.Array, *, seq_lengths: jax.Array | None = None, **options: Any
    ) -> tuple[Any, jax.Array]:
        """Advance layer by layer over the leading axis of `xs`; `Unroll` calls this.

        Args:
            carry: carries by name of the cell; None for fresh ones.
            xs: ``[T, ...]``, each slice an input of one step.
            seq_lengths: see `functional.unroll`.
            **options: `engine`, `unroll` and `checkpoint_every`, see `functional.unroll`.

        Returns:
            The last carries, and the outputs of the last layer, ``[T, ...]``.
        """
        carry = self._check_carry(carry)
        batched = xs.ndim - 1 > self.num_feature_axes
        valid = None
        if seq_lengths is not None:
            valid = valid_steps(seq_lengths, xs.shape[0], [xs.shape[1:]])
            xs = mask_steps(valid, xs)
        new = {}
        for i, layer in enumerate(self.layers):
            name = f"layers_{i}"
            if _is_cell(layer):
                new[name], xs = unroll_cell(
                    layer, carry[name], xs, seq_lengths=seq_lengths, **options
                )
            else:
                xs = _over_time(layer, xs, batched, valid)
        if valid is not None:
            xs = mask_steps(valid, xs)  # a bias, say, made something of the padding
        return new, xs

    @nn.nowrap
    def _check_carry(self, carry: Any) -> Mapping[str, Any]:
        names = tuple(self.cells())
        if carry is None:
            return dict.fromkeys(names)
        if not isinstance(carry, Mapping):
            raise TypeError(
                f"`carry` must be a dict from the names of the cells, {list(names)}, to their "
                f"carries; got {type(carry).__name__}. A cell is called as cell(carry, x)."
            )
        check_names("carry", carry, names, type(self).__name__)
        return carry


def unroll_cell(
    cell: nn.RNNCellBase,
    carry: Any,
    xs: jax.Array,
    *,
    init_key: jax.Array | None = None,
    **options: Any,
) -> tuple[Any, jax.Array]:
    """Advance any cell over the leading axis of `xs`: by itself if it can, else with Flax's scan.

    Args:
        cell: the cell, bound.
        carry: its carry before the first step; None for a fresh one.
        xs: ``[T, ...]``.
        init_key: PRNG key of a fresh carry, for cells that start from random ones.
        **options: `seq_lengths`, `engine`, `unroll` and `checkpoint_every`, see
            `functional.unroll`.

    Returns:
        The last carry, and the outputs ``[T, ...]``.
    """
    if isinstance(cell, (TraceCell, Sequential)):
        return cell.unroll(carry, xs, **options)
    return unroll_any_cell(cell, carry, xs, init_key=init_key, **options)


def _is_cell(layer: Any) -> TypeGuard[nn.RNNCellBase]:
    return isinstance(layer, nn.RNNCellBase)


def _output(layer: Any, carry: Any, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Shape of a layer's output, found without computing it."""
    if isinstance(layer, TraceCell):
        return x
    if not isinstance(layer, nn.Module):
        return jax.eval_shape(layer, x)
    if isinstance(layer, nn.Embed):
        x = jax.ShapeDtypeStruct(x.shape, jnp.int32)
    unbound = layer.clone(parent=None)
    inputs = (carry, x) if _is_cell(layer) else (x,)
    keys = {name: jax.random.key(0) for name in ("params", "dropout", "spike")}
    out, _ = jax.eval_shape(unbound.init_with_output, keys, *inputs)
    return out[1] if _is_cell(layer) else out


def _over_time(layer: Any, xs: jax.Array, batched: bool, valid: jax.Array | None) -> jax.Array:
    """Apply something that keeps no state to every step of a sequence ``[T, ...]``."""
    if not isinstance(layer, nn.Module):
        return jax.vmap(layer)(xs)
    if isinstance(layer, nn.BatchNorm):
        return layer(xs, mask=None if valid is None else expand_mask(valid, xs.ndim))
    if not batched or _takes_any_leading_axes(layer):
        return _same_length(layer, layer(xs), xs.shape[:1])
    # The batch goes first: only then does it stay split where it is split over devices.
    xs = jnp.swapaxes(xs, 0, 1)
    merged = xs.reshape(xs.shape[0] * xs.shape[1], *xs.shape[2:])
    ys = _same_length(layer, layer(merged), merged.shape[:1])
    return jnp.swapaxes(ys.reshape(*xs.shape[:2], *ys.shape[1:]), 0, 1)


def _takes_any_leading_axes(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Dropout):
        return not layer.broadcast_dims
    if isinstance(layer, (nn.Conv, nn.ConvTranspose)) and jax.device_count() > 1:
        return False  # Flax merges the axes in their order, which would gather a split batch
    return isinstance(layer, _ANY_LEADING_AXES)


def _same_length(layer: Any, ys: jax.Array, leading: tuple[int, ...]) -> jax.Array:
    if ys.shape[:1] != leading:
        raise ValueError(
            f"{type(layer).__name__} must keep its leading axis of size {leading[0]} to be run "
            f"over a sequence; got an output of shape {ys.shape}."
        )
    return ys
