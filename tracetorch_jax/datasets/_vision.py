"""N-MNIST and DVS Gesture: recordings of event cameras, as their files are published."""

from __future__ import annotations

import os
import pathlib
import re
import struct
from collections.abc import Iterator

import numpy as np

from tracetorch_jax._shared.checks import check_choice
from tracetorch_jax.datasets._files import damaged, folder_of, there
from tracetorch_jax.datasets._rows import Recordings

_OVERFLOW = 240  # in place of a row of pixels: the clock went on by 2**13 microseconds
GESTURES = (
    *("hand clapping", "right hand wave", "left hand wave", "right arm clockwise"),
    *("right arm counter clockwise", "left arm clockwise", "left arm counter clockwise"),
    *("arm roll", "air drums", "air guitar", "other gestures"),
)


def n_mnist(folder: str | os.PathLike[str], split: str) -> Recordings:
    """N-MNIST: the digits of MNIST, recorded by an event camera that makes three saccades.

    60000 recordings to train on and 10000 to test, of 34 x 34 pixels and about 0.3 s. There is no
    validation set: hold out a part of the training set. Frames of 30 steps of 10 ms take 4.2 GB for
    all of it; with ``merge=2`` 1.0 GB.

    Args:
        folder: where the folders ``Train`` and ``Test`` are, each with the folders ``0`` to ``9``.
        split: "train" or "test".

    Returns:
        `Recordings` with times in microseconds, int64, and channels of the shape ``(34, 34, 2)``,
        without speakers.

    Raises:
        FileNotFoundError: a folder is missing, or empty.
        ValueError: `split` is none. A recording that is read is damaged: not of 5 bytes per event,
            or with a pixel beyond the camera's.

    Reference: Orchard, Jayawant, Cohen & Thakor, "Converting static image datasets to spiking
    neuromorphic datasets using saccades", Frontiers in Neuroscience 9, 2015;
    garrickorchard.com/datasets/n-mnist, CC BY-SA 4.0.

    Example:
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for digit in range(10):
        ...     (folder / f"Train/{digit}").mkdir(parents=True)
        ...     _ = (folder / f"Train/{digit}/00001.bin").write_bytes(bytes([33, 2, 128, 0, 9]))
        >>> train = datasets.n_mnist(folder, "train")
        >>> times, channels = train[4]
        >>> times.tolist(), [int(i) for i in np.unravel_index(channels[0], train.shape)]
        ([9], [2, 33, 1])
    """
    check_choice("split", split, ("train", "test"))
    archive = split.capitalize()
    how = (
        "Get it from https://www.garrickorchard.com/datasets/n-mnist "
        f"(data.mendeley.com/datasets/468j46mzdv): {archive}.zip, and type: unzip {archive}.zip"
    )
    part = there(folder_of(folder, how) / archive, how)
    paths: list[pathlib.Path] = []
    labels: list[int] = []
    for digit in range(10):
        found = sorted((part / str(digit)).glob("*.bin"))
        if not found:
            raise FileNotFoundError(
                f"`folder` must hold recordings of each digit; there is no {part / str(digit)}"
                f"{os.sep}*.bin. {how}"
            )
        paths += found
        labels += [digit] * len(found)

    def read(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for row in rows:
            yield _saccades(paths[row])

    return Recordings(read, labels, shape=(34, 34, 2), classes=map(str, range(10)))


def _saccades(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Of each event a byte for x and y, a bit for the polarity and 23 for the microseconds."""
    data = np.fromfile(path, np.uint8)
    if data.size % 5:
        damaged(path, f"have 5 bytes for each event; got {data.size} bytes")
    x, y, *rest = data.reshape(-1, 5).astype(np.int64).T
    times = (rest[0] & 127) << 16 | rest[1] << 8 | rest[2]
    overflow = y == _OVERFLOW
    times += 2**13 * np.cumsum(overflow)
    x, y, times, signs = (values[~overflow] for values in (x, y, times, rest[0] >> 7))
    return _events(path, times, x, y, signs, (34, 34, 2))


def dvs_gesture(folder: str | os.PathLike[str], split: str) -> Recordings:
    r"""DVS Gesture: 11 hand gestures of 29 people before an event camera, in three kinds of light.

    Each of the 98 recordings to train on and 24 to test shows all gestures, one after the other,
    for about six seconds each. A row is one gesture, a line of the files of labels: 1176 to train
    on and 288 to test. The people of the test set are not in the training set. There is no
    validation set: hold out people with `Recordings.hold_out`. Frames of 50 steps and 32 x 32
    pixels (``merge=4``) take 102 kB for each gesture.

    Args:
        folder: where ``trials_to_train.txt``, ``trials_to_test.txt`` and the recordings,
            ``user01_lab.aedat`` and so on with ``user01_lab_labels.csv``, are.
        split: "train" or "test".

    Returns:
        `Recordings` with times in microseconds since the gesture's start, int64, and channels of
        the shape ``(128, 128, 2)``. `speakers` are the people's numbers. The files of labels are
        read at once. A whole recording, of some 40 MB, is read for each gesture, and once for
        those of it that follow each other. Starts and ends are those of the files: one of them,
        of gesture 9 in ``user22_led_labels.csv``, ends long after the next gesture has begun.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: `split` is none, or a file is not what it should be. Recordings are checked when
            they are read.

    Reference: Amir et al., "A low power, fully event-based gesture recognition system", CVPR 2017;
    research.ibm.com/interactive/dvsgesture, CC BY 4.0.

    Example:
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "trials_to_test.txt").write_text("user24_led.aedat\n")
        >>> table = "class,startTime_usec,endTime_usec\n2,1000,3000\n11,4000,9000\n"
        >>> _ = (folder / "user24_led_labels.csv").write_text(table)
        >>> _ = (folder / "user24_led.aedat").touch()
        >>> test = datasets.dvs_gesture(folder, "test")
        >>> len(test), test.labels.tolist(), test.speakers.tolist(), test.classes[1]
        (2, [1, 10], [24, 24], 'right hand wave')
    """
    check_choice("split", split, ("train", "test"))
    how = (
        "Get DvsGesture.tar.gz from https://research.ibm.com/interactive/dvsgesture, and type: "
        "tar -xzf DvsGesture.tar.gz"
    )
    place = folder_of(folder, how)
    trials = there(place / f"trials_to_{split}.txt", how)
    windows: list[tuple[pathlib.Path, int, int, int, int]] = []
    for name in trials.read_text(errors="replace").split():
        if not (user := re.fullmatch(r"user(\d+)_\w+\.aedat", name)):
            damaged(trials, f"list recordings such as user01_lab.aedat; got {name!r}")
        path = there(place / name, how)
        for label, start, end in _table(there(place / f"{path.stem}_labels.csv", how)):
            windows.append((path, int(user[1]), label, start, end))
    if not windows:
        damaged(trials, "list recordings with at least one gesture; there is none")

    def read(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        last = None
        for row in rows:
            path, _, _, start, end = windows[row]
            if path != last:
                (times, words), last = _polarities(path), path
            among = (times >= start) & (times < end)
            event = words[among].astype(np.int64)
            x, y, signs = event >> 17 & 0x1FFF, event >> 2 & 0x1FFF, event >> 1 & 1
            yield _events(path, times[among] - start, x, y, signs, (128, 128, 2))

    _, users, labels, _, _ = zip(*windows, strict=True)
    return Recordings(read, labels, shape=(128, 128, 2), speakers=users, classes=GESTURES)


def _table(path: pathlib.Path) -> Iterator[tuple[int, int, int]]:
    """Label, from 0 on, start and end of each gesture of a recording."""
    for line in filter(str.strip, path.read_text(errors="replace").splitlines()[1:]):
        try:
            number, start, end = (int(word) for word in line.split(","))
        except ValueError:
            damaged(path, f"have a class, a start and an end in each line; got {line!r}")
        if not 1 <= number <= len(GESTURES) or not 0 <= start < end:
            damaged(path, f"have classes from 1 to 11 and ends after starts; got {line!r}")
        yield number - 1, start, end


def _polarities(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Times and words of all events in AEDAT 3.1: text, then packets with a header of 28 bytes."""
    data = path.read_bytes()
    if not data.startswith(b"#!AER-DAT3"):
        damaged(path, f"be a recording in AEDAT 3.1; it begins with {data[:11]!r}")
    place = 0
    while data[place : place + 1] == b"#":
        place = data.find(b"\n", place) + 1 or len(data)
    times, words = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
    while place < len(data):
        if place + 28 > len(data):
            damaged(path, f"end with a whole packet; it ends within a header at byte {place}")
        kind, _, size, _, lap, _, number, _ = struct.unpack_from("<HHIIIIII", data, place)
        place += 28
        if place + size * number > len(data):
            damaged(path, f"end with a whole packet; it ends within one at byte {place}")
        if kind == 1:  # a change of brightness
            if size != 8:
                damaged(path, f"have events of 8 bytes; got {size} at byte {place}")
            events = np.frombuffer(data, "<u4", 2 * number, place).reshape(-1, 2)
            times.append((lap << 31) + events[:, 1].astype(np.int64))
            words.append(events[:, 0])
        place += size * number
    return np.concatenate(times), np.concatenate(words)


def _events(
    path: pathlib.Path,
    times: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    signs: np.ndarray,
    shape: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Times and channels in order of time."""
    for name, values, size in (("x", x, shape[1]), ("y", y, shape[0])):
        if values.size and values.max() >= size:
            damaged(path, f"have `{name}` from 0 to {size - 1}; got {values.max()}")
    order = np.argsort(times, kind="stable")
    channels = np.ravel_multi_index((y, x, signs), shape)
    return times[order], channels[order]
