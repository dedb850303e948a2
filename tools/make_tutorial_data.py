"""Write the small data sets of docs/tutorials/data from those that the examples read.

    python tools/make_tutorial_data.py mnist.npz fsdd_mel.npz qtdb_ecg_spikes.npz

Parts small enough for a clone, so that the tutorials run without a network; see the README in that
folder for sources and licences.
"""

import argparse
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent.parent / "docs/tutorials/data"
PARTS = (("train", 4000), ("test", 1000))  # of MNIST
STEPS = 48  # of a spoken digit, of two frames each


def mnist(data):
    """The first 4000 training and 1000 test images."""
    images = {f"x_{part}": data[f"x_{part}"][:size] for part, size in PARTS}
    return images | {f"y_{part}": data[f"y_{part}"][:size] for part, size in PARTS}


def spoken(data):
    """Up to 16 recordings per digit of each of five speakers; 20 of the sixth to test on.

    Pairs of frames and of mel bands are averaged: 48 steps of 20 bands.
    """
    names = ("x", "length", "y", "speaker")
    xs, lengths, labels, speakers = (
        np.concatenate([data[f"{name}_train"], data[f"{name}_test"]]) for name in names
    )
    pairs = xs.reshape(len(xs), 50, 2, 20, 2).mean((2, 4))[:, :STEPS]
    lengths = np.minimum((lengths + 1) // 2, STEPS)
    found = {}
    for part, size, who in (("train", 16, speakers > 0), ("test", 20, speakers == 0)):
        rows = np.concatenate(
            [
                np.flatnonzero(who & (speakers == s) & (labels == digit))[:size]
                for s in np.unique(speakers[who])
                for digit in range(10)
            ]
        )
        found |= {
            f"x_{part}": pairs[rows].astype(np.uint8),
            f"lengths_{part}": lengths[rows].astype(np.uint8),
            f"y_{part}": labels[rows],
        }
    return found


def ecg(data):
    """The first 240 training and 60 test sequences, spikes as bits."""
    found = {"classes": data["classes"], "channels": data["channels"]}
    for part, size in (("train", 240), ("test", 60)):
        found[f"spikes_{part}"] = np.packbits(data[f"x_{part}"][:size], axis=1)
        found[f"y_{part}"] = data[f"y_{part}"][:size]
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    makers = {"mnist": mnist, "spoken": spoken, "ecg": ecg}
    for name in makers:
        parser.add_argument(name, type=pathlib.Path)
    args = vars(parser.parse_args())
    for name, make in makers.items():
        with np.load(args[name]) as data:
            np.savez_compressed(FOLDER / f"{name}.npz", **make(dict(data)))


if __name__ == "__main__":
    main()
