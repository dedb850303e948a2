"""What the examples share: their command line, data from files, and results over seeds."""

import argparse
import pathlib
import sys
import urllib.request
import zipfile
import zlib

import jax
import numpy as np

from tracetorch_jax import metrics

# What NumPy and zipfile raise for damaged files; RuntimeError for an unknown compression.
READING = (
    *(EOFError, OSError, RuntimeError, TypeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)


def count(text):
    """An argument that counts something: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value


def parser(description, **defaults):
    """Command line of an example; `defaults` sets `epochs`, `batch` and `rate`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, metavar="PATH", help="the data as a local file")
    add("--seed", type=int, default=0, help="of the weights, the order of the data and dropout")
    add("--seeds", type=count, help="train this many networks, from --seed on, and report the mean")
    add("--epochs", type=count, default=defaults["epochs"], help="passes over the training set")
    add("--batch", type=count, default=defaults["batch"], help="sequences per update")
    add("--rate", type=float, default=defaults["rate"], help="greatest learning rate")
    add("--smoke", action="store_true", help="tiny data and networks, to see that it runs")
    return parser


def fail(message):
    """End with a message instead of a traceback."""
    sys.exit(f"error: {message}")


def arrays(path):
    """Arrays of an .npz file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}.")
    try:
        with path.open("rb") as file, np.load(file) as found:
            return {name: found[name] for name in found.files}
    except READING as error:
        message = f"{path} can't be read as an .npz file: it is damaged or something else."
        raise ValueError(message) from error


def read(path, how_to_get):
    """Arrays of an .npz file, or an end that says where to get it."""
    try:
        return arrays(path)
    except (FileNotFoundError, ValueError) as error:
        fail(f"{error} {how_to_get}")


def check_range(name, values, limit):
    """End unless all of `values` are integers of at least 0 and below `limit`."""
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.integer):
        fail(f"{name} must be integers; got {values.dtype}.")
    if values.size and not 0 <= values.min() <= values.max() < limit:
        fail(f"{name} must lie between 0 and {limit - 1}; got {values.min()} to {values.max()}.")


def fetch(url, name, folder=pathlib.Path("data")):
    """Path of a file from the net, kept in `folder` for the next time."""
    path = folder / name
    if not path.exists():
        folder.mkdir(exist_ok=True)
        partial = path.with_name(path.name + ".part")
        try:
            urllib.request.urlretrieve(url, partial)
        except OSError as error:
            fail(f"could not fetch {url} ({error}). Get it yourself and name it {path}.")
        partial.rename(path)
    return path


def mnist(path=None):
    """Images ``[B, 28, 28]`` of bytes and their classes, for training and for testing.

    They are those of Keras' mnist.npz: the file at `path`, or one that is fetched.
    """
    url = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
    arrays = read(path or fetch(url, "mnist.npz"), "Leave out --data to fetch the images.")
    return [
        (arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int32)) for part in ("train", "test")
    ]


def number(variables):
    """How many parameters a network has."""
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def nanojoules(model, variables, *args):
    """Energy of a network's synaptic operations for one sequence, as `metrics.energy` counts it."""
    return 1e9 * metrics.energy(metrics.synaptic_operations(model, variables, *args))


def interval(values):
    """The mean of one value per seed and its interval of 95 %, as text; NaN are left out."""
    from scipy import stats

    values = np.asarray(values)[np.isfinite(values)]
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):+.3f} ± {half:.3f}"


def over_seeds(args, run, name="test accuracy"):
    """Run for each seed asked for; print the results, the mean as the last line."""
    seeds = range(args.seed, args.seed + (args.seeds or 1))
    results = [run(seed) for seed in seeds]
    if len(results) > 1:
        spread = f", standard deviation {np.std(results, ddof=1):.3f}"
        print("by seed:", " ".join(f"{result:.3f}" for result in results) + spread)
    print(f"{name} {np.mean(results):.3f}")
