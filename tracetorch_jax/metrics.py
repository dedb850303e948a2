"""How well a network classifies, how much it fires, and what that costs.

Spikes and outputs are ``[B, T, ...]`` (``[T, B, ...]`` with `time_major`, ``[T, N]`` without a
batch axis).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tracetorch_jax._core.front_end import is_in_loop
from tracetorch_jax._models import keyword_arguments, takes_nnx
from tracetorch_jax._shared.axes import plain, time_first
from tracetorch_jax._shared.checks import check_integer, check_linen
from tracetorch_jax._shared.labels import check_labels, check_outputs
from tracetorch_jax._shared.trees import path_name
from tracetorch_jax.decode import Decoder, decoded
from tracetorch_jax.functional.engines.masks import lengths_of, steps_of, zero_padding
from tracetorch_jax.snn import DelayedDense, Recurrent, Unroll

__all__ = [
    "Operations",
    "Rates",
    "accuracy",
    "confusion_matrix",
    "dead",
    "energy",
    "saturated",
    "spike_rate",
    "synaptic_operations",
]

CONNECTIONS = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvLocal, nn.ConvTranspose)


def accuracy(
    outputs: ArrayLike,
    labels: ArrayLike,
    *,
    decode: Decoder = "mean",
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """1 for each sequence that is classified correctly. Takes the arguments of `cross_entropy`.

    The class is that of the greatest logit, the first of several.

    Args:
        outputs: ``[B, T, C]``: membranes of a readout, or spikes for ``decode="count"``.
        labels: ``[B]`` integers in ``[0, C)``.
        decode: how outputs become logits: ``"mean"``, ``"last"`` or ``"max"`` over time of a
            membrane, or the spike ``"count"``.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs` is ``[T, B, C]``.

    Returns:
        ``[B]``: 1 or 0, of which the mean is the accuracy; NaN where a logit is NaN or, while
        labels are being traced, where one is out of range.

    Raises:
        ValueError: `outputs` with fewer than two axes; labels out of range or one-hot, a batch size
            that differs, unknown `decode`.
        TypeError: labels that are not integers, `outputs` that are not real numbers.

    Example:
        >>> outputs = jnp.array([[[0.0, 1.0]], [[0.0, 1.0]]])
        >>> metrics.accuracy(outputs, jnp.array([1, 0])).tolist()
        [1.0, 0.0]
    """
    logits, classes, known = _classified(outputs, labels, decode, seq_lengths, time_major)
    right = logits.argmax(axis=-1) == classes
    return jnp.where(known, right.astype(logits.dtype), jnp.nan)


def confusion_matrix(
    outputs: ArrayLike,
    labels: ArrayLike,
    *,
    decode: Decoder = "mean",
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Confusion matrix: predicted classes for each true class. Takes the arguments of `accuracy`.

    Those of several batches add up.

    Args:
        outputs: ``[B, T, C]``.
        labels: ``[B]`` integers in ``[0, C)``.
        decode: see `accuracy`.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `outputs` is ``[T, B, C]``.

    Returns:
        ``[C, C]`` integers: sequences of the class of the row that are taken for the class of the
        column. The sum is B, less the sequences for which `accuracy` is NaN.

    Raises:
        ValueError: as `accuracy`.
        TypeError: as `accuracy`.

    Example:
        >>> outputs = jnp.array([[[0.0, 1.0]], [[0.0, 1.0]], [[2.0, 1.0]]])
        >>> metrics.confusion_matrix(outputs, jnp.array([1, 0, 0])).tolist()
        [[1, 1], [0, 1]]
    """
    logits, classes, known = _classified(outputs, labels, decode, seq_lengths, time_major)
    number = logits.shape[-1]
    rows = jnp.where(known, classes, number)  # what is out of range is dropped
    counts = jnp.zeros((number, number), int)
    return counts.at[rows, logits.argmax(axis=-1)].add(1, mode="drop")


def _classified(
    outputs: Any, labels: Any, decode: Decoder, seq_lengths: Any, time_major: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits and class of each sequence, and whether both are known."""
    logits = decoded(check_outputs(outputs), decode, seq_lengths, time_major)
    classes = check_labels(labels, logits)
    inside = (classes >= 0) & (classes < logits.shape[-1])
    return logits, classes, inside & ~jnp.isnan(logits).any(axis=-1)


class Rates(NamedTuple):
    """Firing rates of neurons from `spike_rate`, in spikes per step, by sign.

    Attributes:
        positive: ``[...]`` in [0, 1].
        negative: ``[...]`` in [0, 1].
    """

    positive: jax.Array
    negative: jax.Array

    @property
    def total(self) -> jax.Array:
        """Spikes of either sign per step."""
        return self.positive + self.negative


def spike_rate(
    spikes: ArrayLike, *, seq_lengths: ArrayLike | None = None, time_major: bool = False
) -> Rates:
    """Spikes per step of each neuron, over the steps of all sequences.

    Args:
        spikes: ``[B, T, ...]``; what is greater than 0 is a positive spike, what is less a negative
            one, of whatever size.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `spikes` is ``[T, B, ...]``.

    Returns:
        Rates of each sign, of the shape of the axes after batch and time; NaN for a neuron of which
        a spike is NaN.

    Raises:
        ValueError: `spikes` has fewer than two axes, or `seq_lengths` does not fit.
        TypeError: `spikes` are not real.

    Example:
        >>> spikes = jnp.array([[[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])
        >>> rates = metrics.spike_rate(spikes)
        >>> rates.positive.tolist(), rates.negative.tolist()
        ([0.5, 0.0], [0.25, 0.0])
    """
    xs = time_first("spikes", spikes, time_major)
    valid = steps_of(xs, seq_lengths)
    xs = zero_padding(xs, valid)
    steps = jnp.maximum(lengths_of(xs, valid).sum(), 1).astype(jnp.float32)
    axes = (0, 1) if xs.ndim > 2 else (0,)
    unknown = (xs != xs).any(axes)  # NaN
    counts = (fired.sum(axes).astype(jnp.float32) for fired in (xs > 0, xs < 0))
    return Rates(*(jnp.where(unknown, jnp.nan, count / steps) for count in counts))


def dead(
    spikes: ArrayLike, *, seq_lengths: ArrayLike | None = None, time_major: bool = False
) -> jax.Array:
    """Which neurons never fire.

    Args:
        spikes: ``[B, T, ...]``.
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `spikes` is ``[T, B, ...]``.

    Returns:
        Booleans of the shape of the axes after batch and time; their mean is the share. False for a
        neuron of which a spike is NaN, which is neither dead nor saturated.

    Raises:
        ValueError: `spikes` has fewer than two axes, or `seq_lengths` does not fit.
        TypeError: `spikes` are not real.

    Example:
        >>> metrics.dead(jnp.array([[[1.0, 0.0], [0.0, 0.0]]])).tolist()
        [False, True]
    """
    return spike_rate(spikes, seq_lengths=seq_lengths, time_major=time_major).total == 0


def saturated(
    spikes: ArrayLike,
    *,
    rate: float = 0.9,
    seq_lengths: ArrayLike | None = None,
    time_major: bool = False,
) -> jax.Array:
    """Which neurons fire at nearly every step and so carry little information.

    Args:
        spikes: ``[B, T, ...]``.
        rate: spikes per step, of either sign, from which on a neuron is saturated, in (0, 1].
        seq_lengths: ``[B]`` integers in [0, T].
        time_major: whether `spikes` is ``[T, B, ...]``.

    Returns:
        Booleans of the shape of the axes after batch and time; their mean is the share. False for a
        neuron of which a spike is NaN, which is neither dead nor saturated.

    Raises:
        ValueError: `rate` outside (0, 1], `spikes` with fewer than two axes, or `seq_lengths` that
            does not fit.
        TypeError: `spikes` are not real.

    Example:
        >>> metrics.saturated(jnp.array([[[1.0, 0.0], [1.0, 1.0]]])).tolist()
        [True, False]
    """
    if not 0 < rate <= 1:
        raise ValueError(f"`rate` must lie in (0, 1]; got {rate!r}.")
    return spike_rate(spikes, seq_lengths=seq_lengths, time_major=time_major).total >= plain(rate)


class Operations(NamedTuple):
    """Operations of one connection from `synaptic_operations`, for one sample, all of its steps.

    Attributes:
        macs: effective multiply-accumulates: of a connection whose input is not only -1, 0 and 1.
        acs: effective accumulates: of one whose input is.
        dense: operations if no zero were skipped.
        events: inputs that are not 0.
        fan_out: synapses of an input, on average: dense operations per input.
    """

    macs: float
    acs: float
    dense: float
    events: float
    fan_out: float


@takes_nnx
def synaptic_operations(
    model: nn.Module, variables: Any, *args: Any, batch_size: int | None = None, **kwargs: Any
) -> dict[str, Operations]:
    """Count the operations of every Dense, DelayedDense and convolution, after NeuroBench.

    Those of the `feedback` of a `Recurrent` are counted as well.

    An operation is effective if neither the input nor the weight is 0. Those of a connection whose
    inputs are all -1, 0 or 1 are accumulates, those of another are multiply-accumulates: also those
    behind a layer of scaled spikes, though hardware can multiply its weights by the scales
    beforehand. A synapse of a `DelayedDense` counts once for each input, as hardware with delay
    lines computes it, whatever `sigma` is and also if the delayed input arrives after the last
    step. Biases, padding of convolutions and the neurons' own arithmetic are not counted.

    Reference: Yik et al., "The NeuroBench framework", Nature Communications 16, 2025.

    Args:
        model: any Flax module, of linen or nnx.
        variables: its variables; left out for a model of nnx, which holds them.
        *args: arguments of the model. Where sequences are padded, the padding must be 0.
        batch_size: samples among which the count is shared; by default the size of the first
            argument's batch axis: axis 0, or 1 for a time-major `Unroll`.
        **kwargs: keyword arguments of ``model.apply``.

    Returns:
        A dict from the path of each connection, such as ``cell/layers_0``, to its `Operations`.

    Raises:
        TypeError: `model` is no module of Flax, or one of nnx that has no counterpart in linen;
            `batch_size` is no integer.
        ValueError: the model has none of these layers, or runs them where they can't be watched, as
            under `jax.jit` or in `flax.linen.RNN`; `batch_size` below 1.

    Example:
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(4), snn.LIB(4), nn.Dense(2)]))
        >>> xs = jnp.zeros((1, 10, 3)).at[0, 0].set(1.0)
        >>> variables = model.init(jax.random.key(0), xs)
        >>> metrics.synaptic_operations(model, variables, xs)["cell/layers_0"].acs
        12.0
    """
    check_linen("model", model)
    if batch_size is None:
        batch_size = _batch_size(model, args, kwargs)
    batch_size = check_integer("batch_size", batch_size)
    calls: dict[str, list[tuple[nn.Module, Any, Any]]] = {}

    def intercept(next_fun: Any, inputs: Any, options: Any, context: Any) -> Any:
        layer = context.module
        out = next_fun(*inputs, **options)
        if isinstance(layer, Recurrent) and context.method_name == "observe":
            first, ys = inputs
            before = jnp.concatenate([first[None], ys.astype(first.dtype)])[:-1]
            layer.feedback(before)  # all at once, seen below
        if is_in_loop():
            return out
        if isinstance(layer, DelayedDense) and context.method_name in ("__call__", "unroll"):
            x = (*inputs, options.get("xs", options.get("x")))[1]
            dense = nn.Dense(layer.features), layer.variables["params"], x
            calls.setdefault(path_name(layer.path), []).append(dense)
        elif isinstance(layer, CONNECTIONS) and context.method_name == "__call__":
            call = layer.clone(parent=None, name=None), layer.variables["params"], inputs[0]
            calls.setdefault(path_name(layer.path), []).append(call)
        return out

    with nn.intercept_methods(intercept):
        model.apply(variables, *args, **keyword_arguments(model, kwargs))
    if not calls:
        names = ", ".join(each.__name__ for each in (*CONNECTIONS, DelayedDense))
        raise ValueError(f"`model` must have connections to count ({names}); it has none.")
    operations = {}
    for path, each in calls.items():
        counts = [_count(layer, params, x) for layer, params, x in each]
        effective, dense, events, inputs, spiking = np.sum(counts, axis=0)
        only_spikes = spiking == len(each)
        operations[path] = Operations(
            macs=0.0 if only_spikes else float(effective / batch_size),
            acs=float(effective / batch_size) if only_spikes else 0.0,
            dense=float(dense / batch_size),
            events=float(events / batch_size),
            fan_out=float(dense / inputs),
        )
    return operations


def energy(
    operations: dict[str, Operations], *, mac: float = 4.6e-12, ac: float = 0.9e-12
) -> float:
    """Estimated energy of synaptic operations for one sample, from the energy of one operation.

    The defaults are those of 32-bit floating point in a 45 nm process: 3.7 pJ for a product and 0.9
    pJ for a sum (Horowitz, ISSCC 2014). Memory, which often costs more, is not in them.

    Args:
        operations: what `synaptic_operations` gave.
        mac: joules of a multiply-accumulate.
        ac: joules of an accumulate.

    Returns:
        Joules.

    Raises:
        ValueError: a negative cost.

    Example:
        >>> each = metrics.Operations(macs=0, acs=1000, dense=4000, events=10, fan_out=100)
        >>> metrics.energy({"layer": each})
        9e-10
    """
    for name, value in (("mac", mac), ("ac", ac)):
        if not value >= 0:
            raise ValueError(f"`{name}` must not be negative; got {value!r}.")
    return sum(each.macs * mac + each.acs * ac for each in operations.values())


def _count(layer: nn.Module, params: Any, x: Any) -> np.ndarray:
    """Effective and dense operations, events, inputs, and whether the inputs are spikes."""
    if isinstance(x, jax.core.Tracer):
        raise ValueError(
            "`model` must run its connections outside of jit and scan to be counted: put cells "
            "into snn.Unroll rather than nn.RNN, a Dense in front of a Recurrent rather than into "
            "it, and call this outside of jax.jit."
        )
    x = jnp.asarray(x)
    bare = layer.clone(use_bias=False, dtype=jnp.float32)

    def operations(kernel: jax.Array, x: jax.Array) -> float:
        out = bare.apply({"params": {"kernel": kernel}}, x)
        return float(np.asarray(out).sum(dtype=np.float64))

    kernel, present = params["kernel"], (x != 0).astype(jnp.float32)
    effective = operations((kernel != 0).astype(jnp.float32), present)
    dense = operations(jnp.ones(kernel.shape), jnp.ones(x.shape))
    spiking = bool(jnp.all((x == 0) | (jnp.abs(x) == 1)))
    events = np.count_nonzero(x)  # a sum in float32 would end at 2**24
    return np.array([effective, dense, events, x.size, spiking])


def _batch_size(model: Any, args: Any, kwargs: Any) -> int:
    """Sequences in the first argument."""
    unroll = isinstance(model, Unroll)
    if not args and not (unroll and "xs" in kwargs):
        raise ValueError("`batch_size` must be given if the model has no argument by position.")
    shape = jnp.shape(args[0] if args else kwargs["xs"])
    if unroll:
        if len(shape) == model.cell.num_feature_axes + 1:
            return 1
        time_major = kwargs.get("time_major")
        return shape[1 if (model.time_major if time_major is None else time_major) else 0]
    return shape[0] if shape else 1
