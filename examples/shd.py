"""Spiking Heidelberg Digits: spoken digits, English and German, as the spikes of a model cochlea.

    python examples/shd.py
    python examples/shd.py --data folder --seeds 3
    python examples/shd.py --set ssc --batch 256 --epochs 20
    python examples/shd.py --smoke

8156 recordings to train on and 2264 to test, 700 channels, 20 classes. There is no validation set,
and 81 % of the test set are from two speakers who are not in the training set. So the epoch is
chosen on two speakers of the training set who are left out of training (--held-out); the test set
is read once, at the end. --set ssc takes the Spiking Speech Commands, 35 classes, which come with a
validation set.

The publishers of the data keep a list of results (zenkelab.org). Their own recurrent network is at
83.2 +/- 1.3 % (Cramer, Stradmann, Schemmel & Zenke, IEEE Trans. Neural Netw. Learn. Syst. 33,
2022). Others can be compared only if they are chosen alike. For 93.5 +/- 0.7 % the speakers of the
training set were left out in turn (Nowotny, Turner & Knight, Neuromorph. Comput. Eng. 5, 2025). In
the code published for 94.6 % (github.com/idiap/sparch; Bittar & Garner, 2022) and for 95.1 +/-
0.3 % (github.com/Thvnvtos/SNN-delays; Hammouamri, Khalfaoui-Hassani & Masquelier, ICLR 2024) the
test set takes the place of the validation set, so that the epoch is the best of the test.

The network and what is done to its training data are those of spoken_digits.py, ten neighbouring
channels summed into one, in 48 steps that each recording fills. This example has not been run on
the real data, so that it has no result of its own yet and its settings are those found on other
recordings. --smoke writes small files in the published layout and reads them in the same way.

--data is the folder with shd_train.h5 and shd_test.h5, or with ssc_train.h5, ssc_valid.h5 and
ssc_test.h5; without it they are fetched.
"""

import gzip
import pathlib
import shutil
import tempfile

import harness
import numpy as np
import spoken_digits

from tracetorch_jax import datasets

SETS = {"shd": ("train", "test"), "ssc": ("train", "valid", "test")}
CLASSES = {"shd": 20, "ssc": 35}
MERGED, STEPS = 10, 48
SOURCE = "https://zenkelab.org/datasets/"


def load(folder, name, held_out):
    """Counts ``[B, T, N]`` and classes: to train on, to choose the epoch with, and to test."""
    try:
        train, *validation, test = (getattr(datasets, name)(folder, part) for part in SETS[name])
        if not validation:
            train, *validation = train.hold_out(held_out)
        parts = (train, *validation, test)
        return [(part.frames(STEPS, None, merge=MERGED), part.labels) for part in parts]
    except (ImportError, OSError, ValueError) as error:
        harness.fail(f"{error} Leave out --data to fetch the recordings.")


def fetch(name):
    """The folder with the files of a set, fetched and unpacked unless they are there."""
    for part in SETS[name]:
        packed = harness.fetch(f"{SOURCE}{name}_{part}.h5.gz", f"{name}_{part}.h5.gz")
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


def made_up(folder, name):
    """Small files in the published layout, in which every class has a tone of its own."""
    import h5py

    rng = np.random.default_rng(0)
    for part in SETS[name]:
        labels = np.arange(80 if part == "train" else 40) % CLASSES[name]
        times = np.sort(rng.uniform(0, 0.4, (len(labels), 200)), axis=1)
        units = 700 // CLASSES[name] * labels[:, None] + rng.integers(0, 20, times.shape)
        with h5py.File(folder / f"{name}_{part}.h5", "w") as file:
            for key, values, dtype in (("times", times, np.float16), ("units", units, np.uint16)):
                rows = file.create_dataset(f"spikes/{key}", (len(labels),), h5py.vlen_dtype(dtype))
                rows[:] = list(values.astype(dtype))
            file["labels"], file["extra/speaker"] = labels, rng.permutation(len(labels)) % 12
    return folder


def main():
    args, options = spoken_digits.settings(
        __doc__,
        epochs=60,
        set={"choices": SETS, "default": "shd", "help": "shd: digits; ssc: speech commands"},
        held_out={
            "type": int,
            "nargs": "+",
            "default": [3, 6],
            "metavar": "SPEAKER",
            "help": "speakers of the training set of shd with whom the epoch is chosen",
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        if args.smoke:
            args.data = made_up(pathlib.Path(folder), args.set)
        parts = load(args.data or fetch(args.set), args.set, args.held_out)

    def run(seed):
        train_set, validation, test_set = parts
        return spoken_digits.train(
            args, seed, f"seed {seed}", train_set, test_set, CLASSES[args.set], options, validation
        )

    harness.over_seeds(args, run)


if __name__ == "__main__":
    main()
