"""Lists of events as sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from tracetorch_jax._shared.axes import check_finite, check_positive, check_values, known, plain
from tracetorch_jax._shared.checks import check_integer
from tracetorch_jax._shared.dtypes import as_given, as_int32, countable, is_real
from tracetorch_jax.functional.engines.masks import whole_counts


class Events(NamedTuple):
    """Events of several recordings, padded to one length by `pad_events`.

    Attributes:
        times: ``[B, E]``.
        channels: ``[B, E]``.
        polarities: ``[B, E]``, or None.
        lengths: ``[B]``, how many of the E places of each recording hold events.
    """

    times: np.ndarray
    channels: np.ndarray
    polarities: np.ndarray | None
    lengths: np.ndarray


def pad_events(recordings: Sequence[tuple[ArrayLike, ...]]) -> Events:
    """Pad recordings with different numbers of events to one size, for `frames`.

    Args:
        recordings: for each, ``(times, channels)`` or ``(times, channels, polarities)``, vectors of
            one length.

    Returns:
        The padded events, as NumPy arrays.

    Raises:
        ValueError: no recordings, a recording without events, or vectors that differ in length.

    Example:
        >>> events = encode.pad_events([([0.1, 0.2], [3, 4]), ([0.5], [1])])
        >>> events.times.shape, events.lengths.tolist()
        ((2, 2), [2, 1])
    """
    if not len(recordings):
        raise ValueError("`recordings` must hold at least one recording; got none.")
    widths = {len(recording) for recording in recordings}
    if not widths <= {2, 3} or len(widths) > 1:
        raise ValueError(
            f"`recordings` must all be (times, channels) or all (times, channels, polarities); got "
            f"tuples of {sorted(widths)} arrays."
        )
    arrays = [[np.asarray(part) for part in recording] for recording in recordings]
    for i, parts in enumerate(arrays):
        shapes = [part.shape for part in parts]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise ValueError(
                f"`recordings[{i}]` must be vectors of one length; got shapes {shapes}."
            )
        if not parts[0].size:
            raise ValueError(f"`recordings[{i}]` must hold at least one event; got none.")
    lengths = np.array([parts[0].size for parts in arrays], np.int32)
    padded = [
        np.stack([np.pad(parts[k], (0, int(lengths.max()) - parts[k].size)) for parts in arrays])
        for k in range(widths.pop())
    ]
    return Events(padded[0], padded[1], padded[2] if len(padded) == 3 else None, lengths)


def frames(
    times: ArrayLike,
    channels: ArrayLike,
    polarities: ArrayLike | None = None,
    *,
    num_steps: int,
    num_channels: int,
    step: float,
    start: float = 0.0,
    binary: bool = False,
    num_events: ArrayLike | None = None,
    time_major: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Sum events, with their polarities, in each step of a sequence, on the device.

    An event at ``time`` falls into step ``floor((time - start) / step)``. A batch of lists is
    padded, see `pad_events`, with `num_events` saying how many events each list has; that takes the
    memory of the longest list for each, so bin a large set of recordings in pieces of some hundred.

    Args:
        times: ``[E]`` or ``[B, E]``, in any unit, in ascending order. Whole numbers, with a `step`
            and `start` that are whole as well, are divided exactly, of any type of integers; where
            they are known, in 64 bits.
        channels: integers in ``[0, num_channels)``, of the shape of `times`.
        polarities: +1 or -1 for each event, or booleans (False for -1); None for +1 throughout.
        num_steps: T.
        num_channels: N.
        step: length of a step in the unit of `times`, greater than 0.
        start: time at which the first step begins.
        binary: whether a frame says that there were events, by their sum's sign, rather than how
            many there were.
        num_events: ``[B]``, or a scalar: events in each list; by default all E.
        time_major: whether to give ``[T, B, N]``.
        dtype: of the frames. Events are counted in int32 and converted at the end: uint8 holds up
            to 255 events of one step and channel, and float16 and bfloat16 round what is above 2048
            and 256.

    Returns:
        ``[B, T, N]``, or ``[T, N]`` for a single list: for each step and channel the sum of the
        polarities.

    Raises:
        ValueError: shapes that differ, no events, channels or times out of range, times that are
            not ascending, polarities other than those above, `step` not greater than 0, `start`
            not finite, or one of them not a single number; more events in one step and channel than
            `dtype` can hold; T * N of 2**31 or more. While values are being traced they can't be
            checked; what lies out of range is then left out, as is a time of NaN, and a sum becomes
            the nearest that `dtype` can hold.
        TypeError: times that are not real numbers, channels or numbers of events, steps or channels
            that are not integers, a `dtype` of booleans, or an unsigned one with polarities.

    Example:
        >>> times, channels = [0.0, 0.4, 1.2], [0, 0, 1]
        >>> encode.frames(times, channels, num_steps=2, num_channels=2, step=1.0).tolist()
        [[2.0, 0.0], [0.0, 1.0]]

        A set of recordings in pieces, here of two:

        >>> recordings = [([0.1], [0]), ([0.2, 1.7], [1, 0]), ([0.0, 0.3, 1.1], [0, 1, 1])]
        >>> starts = range(0, len(recordings), 2)
        >>> pieces = [encode.pad_events(recordings[i : i + 2]) for i in starts]
        >>> size = {"num_steps": 2, "num_channels": 2, "step": 1.0}
        >>> xs = [encode.frames(*piece[:3], num_events=piece.lengths, **size) for piece in pieces]
        >>> np.concatenate(xs).shape
        (3, 2, 2)
    """
    steps = check_integer("num_steps", num_steps)
    neurons = check_integer("num_channels", num_channels)
    if steps * neurons >= 2**31:
        raise ValueError(
            f"`num_steps` times `num_channels` must be below 2**31; got {steps} * {neurons}."
        )
    check_positive("step", step)
    check_finite("start", start)
    for name, value in (("step", step), ("start", start)):
        if np.shape(value):
            raise ValueError(f"`{name}` must be a single number; got shape {np.shape(value)}.")
    step, start = plain(step), plain(start)
    if jnp.issubdtype(dtype, jnp.bool_):
        raise TypeError("`dtype` must be one of numbers that can be summed; got bool.")
    if polarities is not None and jnp.issubdtype(dtype, jnp.unsignedinteger):
        raise TypeError(f"`dtype` must be signed, as polarities are; got {jnp.dtype(dtype)}.")
    lengths = _check_events(times, channels, polarities, num_events, steps, neurons, step, start)
    bins = _bins(times, step, start)
    within = (bins >= 0) & (bins < steps)
    numeric: Any = jnp if isinstance(bins, jax.Array) else np
    when = jnp.asarray(numeric.where(within, bins, numeric.zeros_like(bins)).astype(jnp.int32))
    where = as_int32(channels)
    signs = jnp.ones(when.shape, jnp.int32) if polarities is None else _signs(polarities)
    inside = within & (where >= 0) & (where < neurons)
    if lengths is not None:
        places = jnp.arange(when.shape[-1], dtype=jnp.int32).reshape((1,) * lengths.ndim + (-1,))
        inside &= places < lengths[..., None]
    flat = jnp.where(inside, when * neurons + where, steps * neurons)

    def add(flat: jax.Array, signs: jax.Array) -> jax.Array:
        return jnp.zeros(steps * neurons, jnp.int32).at[flat].add(signs, mode="drop")

    summed = add(flat, signs) if when.ndim == 1 else jax.vmap(add)(flat, signs)
    out = summed.reshape(*when.shape[:-1], steps, neurons)
    out = _fit(jnp.sign(out) if binary else out, dtype, 1 if binary else when.shape[-1])
    return jnp.moveaxis(out, 1, 0) if time_major and out.ndim == 3 else out


def _check_events(
    times: Any,
    channels: Any,
    polarities: Any,
    num_events: Any,
    num_steps: int,
    num_channels: int,
    step: float,
    start: float,
) -> jax.Array | None:
    """Check a list of events, or a batch of padded ones; return how many each holds."""
    shape = np.shape(times)
    if len(shape) not in (1, 2):
        raise ValueError(f"`times` must be [E] or [B, E]; got shape {shape}.")
    for name, values in (("channels", channels), ("polarities", polarities)):
        if values is not None and np.shape(values) != shape:
            raise ValueError(
                f"`{name}` must have the shape of `times`, {shape}; got {np.shape(values)}."
            )
    if not shape[-1]:
        raise ValueError("`times` must hold at least one event; got none.")
    if not is_real(as_given(times).dtype):
        raise TypeError(f"`times` must be real numbers; got dtype {as_given(times).dtype}.")
    if not jnp.issubdtype(as_given(channels).dtype, jnp.integer):
        raise TypeError(f"`channels` must be integers; got dtype {as_given(channels).dtype}.")
    lengths = None
    if num_events is not None:
        if np.shape(num_events) != shape[:-1]:
            raise ValueError(
                f"`num_events` must have one number per list, shape {shape[:-1]}; got "
                f"{np.shape(num_events)}."
            )
        lengths = whole_counts("num_events", num_events, 1, shape[-1], f"1 and E = {shape[-1]}")
    counts = known(lengths) if lengths is not None else np.full(shape[:-1], shape[-1])
    if counts is None:
        return lengths
    used = np.arange(shape[-1]) < counts[..., None]
    if known(channels) is not None:
        check_values(
            "channels",
            np.asarray(channels)[used],
            lambda v: (v >= 0) & (v < num_channels),
            f"lie between 0 and num_channels - 1 = {num_channels - 1}",
        )
    if known(times) is not None:
        moments = np.asarray(times)
        if known(step) is not None and known(start) is not None:
            check_values(
                "times",
                moments[used],
                lambda v: (_bins(v, step, start) >= 0) & (_bins(v, step, start) < num_steps),
                f"lie in [start, start + num_steps * step) = [{start}, {start + num_steps * step})",
            )
        falls = (moments[..., 1:] < moments[..., :-1]) & used[..., 1:]
        if falls.any():
            first = tuple(int(i) for i in np.argwhere(falls)[0])
            raise ValueError(
                f"`times` must be in ascending order; got {moments[(*first[:-1], first[-1] + 1)]} "
                f"after {moments[first]}. Sort the events."
            )
    if polarities is not None and known(polarities) is not None:
        signs = np.asarray(polarities)
        if signs.dtype != bool:
            check_values(
                "polarities", signs[used], lambda v: abs(v) == 1, "be 1 or -1, or booleans"
            )
    return lengths


def _bins(times: Any, step: Any, start: Any) -> Any:
    """Number of the step in which each event lies, negative before `start`.

    In NumPy where all is known: 64 bits keep microseconds apart in recordings of hours.
    """
    whole = all(
        isinstance(v, (int, float)) and v == int(v) and abs(v) < 2**62 for v in (step, start)
    )
    on_host = all(known(v) is not None for v in (times, step, start))
    times = times if known(times) is None else np.asarray(times)
    if jnp.issubdtype(times.dtype, jnp.integer) and whole:
        step, start = int(step), int(start)
        return (times.astype(np.int64) - start) // step if on_host else _whole(times, step, start)
    floating = jnp.issubdtype(times.dtype, jnp.floating)
    times = countable(times) if floating else times.astype(float)
    if on_host:
        return np.floor((times - start) / step)
    times = jnp.asarray(times)
    step, start = (v.astype(times.dtype) if known(v) is None else v for v in (step, start))
    return jnp.floor((times - start) / step)


def _whole(times: jax.Array, step: int, start: int) -> jax.Array:
    """`_bins` of traced integers, exact also where their type can't hold ``time - start``."""
    times = times if times.dtype.itemsize >= 4 else times.astype(jnp.int32)
    ends = jnp.iinfo(times.dtype)
    for name, value in (("step", step), ("start", start)):
        if not int(ends.min) <= value <= int(ends.max):
            raise ValueError(
                f"`{name}` must be in the range of `times`, of type {times.dtype} and not known; "
                f"got {value}."
            )
    # A difference that leaves the range of the signed type wraps around, and is right again as an
    # unsigned number of the same width, which holds every difference from 0 on.
    unsigned = f"uint{8 * times.dtype.itemsize}"
    begin, every = jnp.array(start, times.dtype), jnp.array(step, unsigned)
    passed = (times - begin).astype(unsigned)  # right from `start` on
    bins = jnp.minimum(passed // every, jnp.iinfo(jnp.int32).max).astype(jnp.int32)
    return jnp.where(times < begin, -1, bins)


def _signs(polarities: Any) -> jax.Array:
    """Polarities as +1 and -1, and 0 for what is none."""
    signs = jnp.asarray(polarities)
    if signs.dtype == jnp.bool_:
        return jnp.where(signs, 1, -1).astype(jnp.int32)
    return jnp.where(jnp.abs(signs) == 1, jnp.sign(signs), jnp.zeros_like(signs)).astype(jnp.int32)


def _fit(sums: jax.Array, dtype: DTypeLike, most: int) -> jax.Array:
    """Sums of at most `most` events in the type asked for: refuse, or clip, what it can't hold."""
    info: Any = jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo
    ends = int(float(info(dtype).min)), int(float(info(dtype).max))
    if most > ends[1]:
        for sum_ in () if known(sums) is None else (sums.max(), sums.min()):
            if not ends[0] <= int(sum_) <= ends[1]:
                raise ValueError(
                    f"`dtype` must hold the sum of each step and channel; got {jnp.dtype(dtype)}, "
                    f"which ends at {ends[int(sum_) > 0]}, for a sum of {int(sum_)}."
                )
        sums = jnp.clip(sums, *ends)
    return sums.astype(dtype)
