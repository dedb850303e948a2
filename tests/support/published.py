"""Tiny data sets, written in the layouts in which those of `tracetorch_jax.datasets` are published.

Each class has a signal of its own, so that a network can learn something.
"""

import pathlib
import struct
import wave

import numpy as np

WORDS = "backward bed bird cat dog down eight five follow forward four go happy house".split()


def heidelberg(path, recordings, **arrays):
    """A file of spikes in times and units; other arrays by name, such as ``labels``."""
    import h5py

    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for column, (name, dtype) in enumerate((("times", np.float16), ("units", np.uint16))):
            kind = h5py.vlen_dtype(dtype)
            values = file.create_dataset(f"spikes/{name}", (len(recordings),), kind)
            for i, recording in enumerate(recordings):
                values[i] = np.asarray(recording[column], dtype)
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array


def tones(path, classes, rows, speakers, seed=0):
    """A file of spikes, in which each class has units of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows, dtype=np.uint16) % classes
    times = np.sort(rng.uniform(0, 0.9, (rows, 60)), axis=1)
    units = 700 // classes * labels[:, None] + rng.integers(0, 15, times.shape)
    heidelberg(
        path,
        list(zip(times, units, strict=True)),
        labels=labels,
        extra__speaker=np.resize(np.asarray(speakers), rows),
        extra__keys=[f"word {i}" for i in range(classes)],
    )


def saccades(path, events):
    """A file of N-MNIST, of (x, y, polarity, microseconds)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(
        bytes([x, y]) + (sign << 23 | time).to_bytes(3, "big") for x, y, sign, time in events
    )
    path.write_bytes(data)


def aedat(path, packets):
    """A file in AEDAT 3.1, of packets (kind, laps of the clock, [(x, y, polarity, time)])."""
    data = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Start-Time: 2016-01-01\r\n#!END-HEADER\r\n"
    for kind, laps, events in packets:
        number = len(events)
        data += struct.pack("<HHIIIIII", kind, 1, 8, 4, laps, number, number, number)
        for x, y, sign, time in events:
            data += struct.pack("<II", x << 17 | y << 2 | sign << 1 | 1, time)
    path.write_bytes(data)


def gestures(folder, trials, windows):
    """Recordings of DVS Gesture for each split, with the same gestures (class, start, end)."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    table = "class,startTime_usec,endTime_usec\n" + "".join(
        f"{label},{start},{end}\n" for label, start, end in windows
    )
    for split, names in trials.items():
        (folder / f"trials_to_{split}.txt").write_text("".join(f"{n}.aedat\n" for n in names))
        for name in names:
            (folder / f"{name}_labels.csv").write_text(table)
            events = [
                (int(rng.integers(10 * label, 10 * label + 10)), 64, 1, int(time))
                for label, start, end in windows
                for time in np.sort(rng.integers(start, end, 40))
            ]
            aedat(folder / f"{name}.aedat", [(1, 0, events[:30]), (1, 0, events[30:])])


def sound(path, samples, rate=16000, channels=1, width=2):
    """A WAV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, f"<i{width}").tobytes())


def speech(folder, words=WORDS, people=6):
    """Words of a tone each, spoken by people: two to validate with, two to test."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    names = {}
    for i, word in enumerate(words):
        for person in range(people):
            name = f"{word}/{person:08x}_nohash_0.wav"
            tone = np.sin(2 * np.pi * (300 + 200 * i) * np.arange(16000) / 16000)
            sound(folder / name, 8000 * tone + 100 * rng.normal(size=16000))
            names.setdefault(person, []).append(name)
    sound(folder / "_background_noise_" / "hum.wav", np.zeros(32000))
    for path, who in (("validation_list.txt", (2, 3)), ("testing_list.txt", (4, 5))):
        lines = [f"{name}\n" for person in who for name in names.get(person, [])]
        (folder / path).write_text("".join(lines))


def everything(folder):
    """All sets, each in a folder of its own."""
    folder = pathlib.Path(folder)
    for part, rows, speakers in (("train", 80, [0, 1, 2, 3, 6, 7, 8, 9]), ("test", 40, [4, 5])):
        tones(folder / "shd" / f"shd_{part}.h5", 20, rows, speakers)
    for seed, part in enumerate(("train", "valid", "test")):
        tones(folder / "ssc" / f"ssc_{part}.h5", 35, 70, [b"0a", b"0b"], seed)
    for part in ("Train", "Test"):
        for digit in range(10):
            for i in range(4):
                events = [(3 * digit, 5 * i, i % 2, 7000 * j) for j in range(40)]
                saccades(folder / "nmnist" / part / str(digit) / f"{i:05d}.bin", events)
    trials = {"train": [f"user{i:02d}_lab" for i in (1, 2, 3)], "test": ["user24_lab"]}
    windows = [(label, 10**6 * label, 10**6 * label + 900_000) for label in range(1, 12)]
    gestures(folder / "gesture", trials, windows)
    speech(folder / "speech")
