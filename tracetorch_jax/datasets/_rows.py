"""Rows of a data set, each of which is read when it is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import jax
import numpy as np
from numpy.typing import ArrayLike

from tracetorch_jax import encode
from tracetorch_jax._shared.axes import check_positive
from tracetorch_jax._shared.checks import check_integer

PIECE = 256  # sounds at once


class _Rows:
    """What sets of events and of sounds share."""

    labels: np.ndarray
    speakers: np.ndarray | None
    classes: tuple[str, ...]
    _rows: np.ndarray
    _read: Callable[[np.ndarray], Iterable[Any]]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read(self._rows))

    def __getitem__(self, index: Any) -> Any:
        """One row for an integer; for a slice, a mask or integers the set of these rows."""
        rows = self._rows[index]
        if np.ndim(rows) == 0:
            return next(iter(self._read(rows[None])))
        chosen = object.__new__(type(self))
        vars(chosen).update(vars(self))
        chosen._rows, chosen.labels = rows, self.labels[index]
        chosen.speakers = None if self.speakers is None else self.speakers[index]
        return chosen

    def hold_out(self, speakers: ArrayLike) -> tuple[Self, Self]:
        """Part the rows by speaker, such as to choose the epoch on people not trained on.

        Args:
            speakers: one or several of `speakers`.

        Returns:
            The rows of all others, and the rows of these speakers.

        Raises:
            ValueError: the set has no speakers, or not these, or no others.
        """
        if self.speakers is None:
            raise ValueError("`hold_out` needs speakers, and this set has none.")
        known, chosen = np.unique(self.speakers), np.atleast_1d(speakers)
        if not np.isin(chosen, known).all() or np.isin(known, chosen).all():
            raise ValueError(
                f"`speakers` must be some of {known.tolist()}, and not all; got {chosen.tolist()}."
            )
        held = np.isin(self.speakers, chosen)
        return self[~held], self[held]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} rows, {len(self.classes)} classes>"

    def _set(
        self,
        read: Callable[[np.ndarray], Iterable[Any]],
        labels: ArrayLike,
        speakers: ArrayLike | None,
        classes: Iterable[str],
    ) -> None:
        labels = np.asarray(labels)
        if labels.size and not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"`labels` must be integers; got dtype {labels.dtype}.")
        if labels.ndim != 1:
            raise ValueError(f"`labels` must be [rows]; got shape {labels.shape}.")
        self.labels = labels.astype(np.int32)
        self.speakers = None if speakers is None else np.asarray(speakers)
        if self.speakers is not None and self.speakers.shape != labels.shape:
            raise ValueError(
                f"`speakers` must have the shape of `labels`, {labels.shape}; got "
                f"{self.speakers.shape}."
            )
        self.classes = tuple(classes)
        self._rows, self._read = np.arange(len(self.labels)), read


class Recordings(_Rows):
    """Recordings of events, as `shd`, `ssc`, `n_mnist` and `dvs_gesture` give them.

    ``recordings[3]`` reads a recording, ``(times, channels)``, as `encode.pad_events` takes several
    of them. ``recordings[10:20]``, ``recordings[mask]`` and ``recordings[[4, 2]]`` are recordings
    of fewer rows, of which nothing is read. Iterating reads one after the other.

    All arguments but `read` are attributes of this name.

    Args:
        read: from row numbers ``[n]`` to the recordings of these, ``(times, channels)`` in order of
            time, one after the other: for recordings of your own.
        labels: the class of each row, int32 ``[rows]``.
        shape: of the channels. Of a camera it is ``(height, width, 2)``: of each pixel first the
            events of getting darker, then those of getting brighter.
        speakers: who made each recording, ``[rows]``; None if that is not known.
        classes: names of the classes.

    Raises:
        TypeError: labels that are no integers.
        ValueError: labels that are no vector, or speakers of another length.

    Example:
        >>> events = [([0.1, 0.7], [0, 1]), ([0.4], [2])]  # which `read` may take from a file
        >>> def read(rows):
        ...     for row in rows:
        ...         times, channels = events[row]
        ...         yield np.array(times), np.array(channels)
        >>> recordings = datasets.Recordings(read, [1, 0], shape=(3,))
        >>> recordings.frames(2, step=0.5).tolist()
        [[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]]
    """

    shape: tuple[int, ...]

    def __init__(
        self,
        read: Callable[[np.ndarray], Iterable[tuple[np.ndarray, np.ndarray]]],
        labels: ArrayLike,
        *,
        shape: tuple[int, ...],
        speakers: ArrayLike | None = None,
        classes: Iterable[str] = (),
    ) -> None:
        self._set(read, labels, speakers, classes)
        self.shape = tuple(shape)

    def frames(
        self, num_steps: int, step: float | None, *, merge: int = 1, cut: bool = False
    ) -> np.ndarray:
        """Read all rows as counts of events in each step and channel.

        What `encode.frames` gives, on the host and a recording at a time. The result takes rows *
        `num_steps` * channels bytes.

        Args:
            num_steps: T.
            step: length of a step, in the unit of the times. Or None: every recording then has a
                step of its own, with which its events fill all steps, so that fast and slow
                speakers look alike.
            merge: how many neighbouring channels are summed to one; of a camera in height and in
                width, so that 4 makes 32 x 32 of 128 x 128 pixels.
            cut: whether events after the last step are left out. Otherwise they are an error.

        Returns:
            uint8 ``[rows, T, *shape]``, with the `shape` divided by `merge` and rounded up. 255
            stands for 255 events or more.

        Raises:
            TypeError: `num_steps` or `merge` is no integer.
            ValueError: an argument below 1 or not above 0; without `cut` an event after the last
                step; a file that is damaged.
        """
        steps, merge = check_integer("num_steps", num_steps), check_integer("merge", merge)
        if step is not None:
            check_positive("step", step)
        pooled = len(self.shape) - (len(self.shape) == 3)  # not the two signs of a pixel
        parts = (merge,) * pooled + (1,) * (len(self.shape) - pooled)
        shape = tuple(-(-n // part) for n, part in zip(self.shape, parts, strict=True))
        size = math.prod(shape)
        frames = np.zeros((len(self), steps * size), np.uint8)
        for row, (times, channels) in zip(frames, self, strict=True):
            places = np.unravel_index(channels, self.shape)
            merged = tuple(place // part for place, part in zip(places, parts, strict=True))
            bins = _paced(times, steps) if step is None else _bins(times, step)
            if not cut and bins.size and bins.max() >= steps:
                raise ValueError(
                    f"`num_steps` * `step` must be greater than every time; got {steps} * {step} "
                    f"for an event at {times.max()}. Take more steps, or cut=True to leave out "
                    "what comes later."
                )
            flat = bins * size + np.ravel_multi_index(merged, shape)
            counts = np.bincount(flat[bins < steps], minlength=steps * size)
            np.minimum(counts, 255, out=row, casting="unsafe")
        return frames.reshape(-1, steps, *shape)


class Sounds(_Rows):
    """Recordings of sound of one length, as `speech_commands` gives them.

    ``sounds[3]`` reads a sound, float32 ``[samples]`` between -1 and 1. ``sounds[10:20]``,
    ``sounds[mask]`` and ``sounds[[4, 2]]`` are sounds of fewer rows, of which nothing is read.
    Iterating reads one after the other: ``np.stack(list(sounds[:100]))`` is an array of a hundred.

    All arguments but `read` are attributes of this name.

    Args:
        read: from row numbers ``[n]`` to the sounds of these, one after the other: for recordings
            of your own.
        labels: the class of each row, int32 ``[rows]``.
        rate: samples per second.
        speakers: who speaks, ``[rows]``; None if that is not known.
        classes: names of the classes.

    Raises:
        TypeError: labels that are no integers, or a `rate` that is none.
        ValueError: labels that are no vector, speakers of another length, or a `rate` below 1.

    Example:
        >>> def read(rows):
        ...     for row in rows:
        ...         yield np.sin(np.arange(8000) * (row + 1) / 10).astype(np.float32)
        >>> sounds = datasets.Sounds(read, [0, 1], rate=8000)
        >>> sounds.log_mel(20).shape
        (2, 98, 20)
    """

    rate: int

    def __init__(
        self,
        read: Callable[[np.ndarray], Iterable[np.ndarray]],
        labels: ArrayLike,
        *,
        rate: int,
        speakers: ArrayLike | None = None,
        classes: Iterable[str] = (),
    ) -> None:
        self._set(read, labels, speakers, classes)
        self.rate = check_integer("rate", rate)

    def log_mel(self, num_mels: int = 40, **options: Any) -> np.ndarray:
        """Read all rows as the logarithm of their power in bands, with `encode.log_mel`.

        The result takes rows * frames * `num_mels` * 4 bytes: with the defaults 16 kB for a sound
        of a second.

        Args:
            num_mels: bands.
            **options: of `encode.log_mel`, without `rate`.

        Returns:
            float32 ``[rows, frames, num_mels]``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: no rows, an argument out of its range, or a file that is damaged.
        """
        if not len(self):
            raise ValueError("`log_mel` needs at least one row; this set has none.")

        @jax.jit
        def encoded(piece: jax.Array) -> jax.Array:
            return encode.log_mel(piece, num_mels, rate=self.rate, **options)

        starts = range(0, len(self), PIECE)
        return np.concatenate([encoded(np.stack(list(self[i : i + PIECE]))) for i in starts])


def _bins(times: np.ndarray, step: float) -> np.ndarray:
    """The step of each event, as `encode.frames` has it."""
    if np.issubdtype(times.dtype, np.integer) and step == int(step):
        return times // int(step)
    return np.floor(times / step).astype(np.int64)


def _paced(times: np.ndarray, steps: int) -> np.ndarray:
    """The step of each event if the first is in the first step, and the last in the last."""
    since = times.astype(np.float64) - times[:1]
    part = since / max(since.max(initial=0.0), np.finfo(np.float64).tiny)
    return np.minimum((steps * part).astype(np.int64), steps - 1)
