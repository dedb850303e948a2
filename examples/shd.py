"""Spiking Heidelberg Digits: spoken digits, English and German, as the spikes of a model cochlea.

    python examples/shd.py
    python examples/shd.py --data folder --seeds 3
    python examples/shd.py --smoke

8156 recordings to train on and 2264 to test, 700 channels, 20 classes. On the list of results that
the publishers of the data keep (zenkelab.org), their own recurrent spiking network, trained on
varied and noisy data, is at 83.2 +/- 1.3 % (Cramer, Stradmann, Schemmel & Zenke, IEEE Trans. Neural
Netw. Learn. Syst. 33, 2022), and networks that learn delays at 95.1 +/- 0.3 % (Hammouamri,
Khalfaoui-Hassani & Masquelier, ICLR 2024). The network and what is done to its training data are
those of spoken_digits.py, ten neighbouring channels summed into one, in steps of 10 ms.

This example has not been run on the real data, so that it has no result of its own yet and its
settings are those found on other recordings. --smoke writes a small file in the published layout
and takes it through the same loader.

--data is the folder with shd_train.h5 and shd_test.h5; without it they are fetched.
"""

import gzip
import pathlib
import shutil
import tempfile

import harness
import numpy as np
import spoken_digits

CLASSES, UNITS, MERGED = 20, 700, 10
STEPS = 48
SOURCE = "https://zenkelab.org/datasets/"


def load(folder):
    """Counts ``[B, T, N]`` and classes of the training set and of the test set."""
    return [read(folder / f"shd_{part}.h5") for part in ("train", "test")]


def read(path):
    """One file: ``spikes/times`` in seconds and ``spikes/units``, a vector each, and ``labels``."""
    import h5py

    if not path.exists():
        harness.fail(f"there is no {path}. Leave out --data to fetch the recordings.")
    try:
        with h5py.File(path, "r") as file:
            times, units = file["spikes/times"][:], file["spikes/units"][:]
            labels = file["labels"][:]
    except (KeyError, OSError) as error:
        harness.fail(f"{path} can't be read as a file of the Heidelberg digits: {error}.")
    if not len(times) == len(units) == len(labels):
        harness.fail(f"{path} must have times, units and a label for every recording.")
    harness.check_range(f"`labels` of {path}", labels, CLASSES)
    recordings = []
    for i, (when, where) in enumerate(zip(times, units, strict=True)):
        harness.check_range(f"`units` of recording {i} of {path}", where, UNITS)
        if len(when) != len(where):
            harness.fail(f"recording {i} of {path} must have a unit for every time.")
        order = np.argsort(when, kind="stable")
        recordings.append((when[order], where[order].astype(np.int32) // MERGED))
    x = spoken_digits.bin_events(recordings, UNITS // MERGED, STEPS)
    return x, labels.astype(np.int32)


def fetch():
    """The folder with both files, fetched and unpacked unless they are there."""
    for part in ("train", "test"):
        packed = harness.fetch(f"{SOURCE}shd_{part}.h5.gz", f"shd_{part}.h5.gz")
        path = packed.with_suffix("")
        if not path.exists():
            partial = path.with_suffix(".part")
            try:
                with gzip.open(packed) as source, partial.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except (EOFError, OSError) as error:
                harness.fail(f"{packed} can't be unpacked: {error}. Remove it and try again.")
            partial.rename(path)
    return packed.parent


def write(path, recordings, labels):
    """Write a file in the published layout."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, dtype, column in (("times", np.float16, 0), ("units", np.uint16, 1)):
            kind = h5py.vlen_dtype(dtype)
            values = file.create_dataset(f"spikes/{name}", (len(recordings),), kind)
            for i, recording in enumerate(recordings):
                values[i] = recording[column].astype(dtype)
        file["labels"] = labels.astype(np.uint16)


def made_up(folder):
    """Two small files, in which every class has a tone of its own."""
    rng = np.random.default_rng(0)
    for part, rows in (("train", 80), ("test", 40)):
        labels = np.arange(rows) % CLASSES
        times = np.sort(rng.uniform(0, 0.4, (rows, 200)), axis=1)
        units = 30 * labels[:, None] + rng.integers(0, 40, times.shape)
        write(folder / f"shd_{part}.h5", list(zip(times, units, strict=True)), labels)
    return folder


def main():
    args, options = spoken_digits.settings(__doc__, epochs=60)
    if args.smoke:
        with tempfile.TemporaryDirectory() as folder:
            train_set, test_set = load(made_up(pathlib.Path(folder)))
    else:
        train_set, test_set = load(args.data or fetch())

    def run(seed):
        title = f"seed {seed}"
        return spoken_digits.train(args, seed, title, train_set, test_set, CLASSES, options)

    harness.over_seeds(args, run)


if __name__ == "__main__":
    main()
