"""Spiking Heidelberg Digits and Spiking Speech Commands: HDF5 files (extra ``datasets``)."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracetorch_jax._shared.checks import check_choice, in_brief
from tracetorch_jax.datasets._files import damaged, folder_of, there
from tracetorch_jax.datasets._rows import Recordings

UNITS = 700


def shd(folder: str | os.PathLike[str], split: str) -> Recordings:
    """Spiking Heidelberg Digits: spoken digits as spikes of 700 channels of a cochlea model.

    8156 recordings to train on and 2264 to test, of about a second, in 20 classes: 0 to 9 in
    English, then in German. Of the twelve speakers, 4 and 5 are in the test set alone, and make up
    81 % of it. There is no validation set. To choose the epoch and all settings without the test
    set, hold out speakers of the training set with `Recordings.hold_out`: a random part of it has
    no new speakers, so that it tells little of the test.

    Args:
        folder: where ``shd_train.h5`` and ``shd_test.h5`` are.
        split: "train" or "test".

    Returns:
        `Recordings` with times in seconds, float32, and channels from 0 to 699. Events of a
        recording whose times are not in order are sorted. Opening reads labels and speakers.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: h5py is missing.
        ValueError: `split` is none, or a file is not what it should be: no HDF5, an array missing,
            of another length or out of its range. Spikes are checked when they are read.

    Reference: Cramer, Stradmann, Schemmel & Zenke, "The Heidelberg spiking data sets for the
    systematic evaluation of spiking neural networks", IEEE Trans. Neural Netw. Learn. Syst. 33,
    2022; zenkelab.org/datasets, CC BY 4.0.

    Example:
        >>> import h5py
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with h5py.File(folder / "shd_train.h5", "w") as file:  # in the published layout
        ...     for name, values in (("times", [0.1, 0.9]), ("units", [3, 699])):
        ...         kind = h5py.vlen_dtype(np.float16 if name == "times" else np.uint16)
        ...         file.create_dataset(f"spikes/{name}", (2,), kind)[:] = [np.array(values)] * 2
        ...     file["labels"], file["extra/speaker"] = [7, 19], [0, 3]
        >>> train = datasets.shd(folder, "train")
        >>> xs = train.frames(100, step=0.01, merge=5)
        >>> xs.shape, train.labels.tolist(), train.speakers.tolist()
        ((2, 100, 140), [7, 19], [0, 3])
    """
    if split in ("valid", "validation"):
        raise ValueError(
            f"`split` must be 'train' or 'test'; got {split!r}. The set has no validation part: "
            "hold out speakers, `shd(folder, 'train').hold_out([3, 6])`."
        )
    check_choice("split", split, ("train", "test"))
    return _open(folder, f"shd_{split}.h5", 20)


def ssc(folder: str | os.PathLike[str], split: str) -> Recordings:
    """Spiking Speech Commands: spoken words as spikes of 700 channels of a cochlea model.

    75466 recordings to train on, 9981 to choose settings with and 20382 to test, of a second, in 35
    classes. Frames of 100 steps and 140 channels take 1.1 GB for the training set; for less, give
    `training.fit` a function that reads ``train[rows].frames(...)`` batch by batch.

    Args:
        folder: where ``ssc_train.h5``, ``ssc_valid.h5`` and ``ssc_test.h5`` are.
        split: "train", "valid" or "test".

    Returns:
        `Recordings`, as `shd` gives them.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: h5py is missing.
        ValueError: `split` is none, or a file is not what it should be, as for `shd`.

    Reference: as for `shd`; the sounds are those of `speech_commands`.

    Example:
        >>> datasets.ssc(tempfile.mkdtemp(), "valid")
        Traceback (most recent call last):
        FileNotFoundError: `folder` must hold ssc_valid.h5; ... Get it from ...: curl -LO ...
    """
    check_choice("split", split, ("train", "valid", "test"))
    return _open(folder, f"ssc_{split}.h5", 35)


def _open(folder: str | os.PathLike[str], name: str, classes: int) -> Recordings:
    """The recordings of a file, of which labels, speakers and names of classes are read."""
    source = "https://zenkelab.org/datasets"
    how = f"Get it from {source}: curl -LO {source}/{name}.gz && gunzip {name}.gz"
    path = there(folder_of(folder, how) / name, how)
    with _file(path) as file:
        needed, more = ("spikes/times", "spikes/units", "labels"), ("extra/speaker", "extra/keys")
        found = {key: file[key] for key in needed + more if getattr(file.get(key), "shape", ())}
        if missing := [key for key in needed if key not in found]:
            damaged(path, f"hold an array `{missing[0]}`; there is none")
        labels = found["labels"][:]
        speakers, names = (_words(found[key][:]) if key in found else None for key in more)
        rows = {key: len(found[key]) for key in (*needed, "extra/speaker") if key in found}
    if len(set(rows.values())) > 1:
        damaged(path, f"have arrays of one length; got {rows}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        damaged(path, f"have integers as `labels`; got {labels.dtype} of shape {labels.shape}")
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        damaged(
            path, f"have `labels` from 0 to {classes - 1}; got {labels.min()} to {labels.max()}"
        )
    if names is not None and len(names) != classes:
        damaged(path, f"have {classes} names of classes as `extra/keys`; got {len(names)}")

    def read(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with _file(path) as file:
            when, where = file["spikes/times"], file["spikes/units"]
            for row in rows:
                yield _checked(path, int(row), when[row], where[row])

    return Recordings(
        read,
        labels,
        shape=(UNITS,),
        speakers=speakers,
        classes=map(str, range(classes) if names is None else names),
    )


def _checked(path: pathlib.Path, row: int, times: Any, units: Any) -> tuple[Any, Any]:
    """Spikes of a recording in order of time."""
    times, units = np.asarray(times, np.float32), np.asarray(units)
    if times.ndim != 1 or times.shape != units.shape:
        got = f"{times.shape} and {units.shape}"
        damaged(path, f"have a unit for every time in recording {row}; got shapes {got}")
    if not np.issubdtype(units.dtype, np.integer):
        damaged(path, f"have integers as `spikes/units`; got {units.dtype} in recording {row}")
    if units.size and not 0 <= units.min() <= units.max() < UNITS:
        got = f"{units.min()} to {units.max()} in recording {row}"
        damaged(path, f"have `spikes/units` from 0 to {UNITS - 1}; got {got}")
    if not (np.isfinite(times) & (times >= 0)).all():
        wrong = times[~(np.isfinite(times) & (times >= 0))][0]
        damaged(path, f"have `spikes/times` of at least 0; got {wrong} in recording {row}")
    # The order of the file says nothing, and float16 may tie what was apart.
    order = np.argsort(times, kind="stable")
    return times[order], units[order].astype(np.int32)


def _words(values: np.ndarray) -> np.ndarray:
    """Bytes as text; numbers as they are."""
    if values.dtype.kind in "OS":
        return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])
    return values


@contextlib.contextmanager
def _file(path: pathlib.Path) -> Iterator[Any]:
    """An open file, whose errors say that it is damaged."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "The Heidelberg data sets need h5py: pip install 'h5py>=3.11'."
        ) from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except PermissionError:
        raise
    except (KeyError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} must be an HDF5 file. The file is damaged, or another one: {in_brief(error)}."
        ) from error
