"""What the examples share: their command line, the loop over epochs, and results over seeds."""

import argparse
import pathlib
import sys
import urllib.request
import zipfile
import zlib

import jax
import numpy as np
import optax
from tqdm import tqdm

from tracetorch_jax import functional, snn, training
from tracetorch_jax.initializers import half_lives


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


def read(path, how_to_get):
    """Arrays of an .npz file, or an end that says where to get it."""
    if not path.exists():
        fail(f"there is no {path}. {how_to_get}")
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (EOFError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        fail(f"{path} can't be read as an .npz file: it is damaged or something else. {how_to_get}")


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


def layer(name, width, fastest, slowest, **options):
    """A layer of the family by name, its half-lives spread from `fastest` to `slowest` steps."""
    cell = snn.ALL_LAYERS[name]
    constraints = cell(1).spec.parameters.items()
    decays = [parameter for parameter, kind in constraints if kind is functional.DECAY]
    return cell(width, **dict.fromkeys(decays, half_lives(fastest, slowest)), **options)


def adam(rate, updates, *, weight_decay=0.0, warmup=0.05, clip=1.0):
    """AdamW that warms up, then cools down along a cosine; the gradient's norm is clipped."""
    schedule = optax.warmup_cosine_decay_schedule(0, rate, int(warmup * updates), max(updates, 2))
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, weight_decay=weight_decay, mask=training.decay_mask),
    )


def fit(
    variables, optimiser, loss, data, *, epochs, batch, seed, title, evaluate=None, average=0.0
):
    """Train, and return the variables.

    Args:
        variables: what ``model.init`` gave.
        optimiser: of optax.
        loss: from ``(variables, arrays, key)`` to the loss and the collections that changed.
        data: arrays of one length, of which `batch` rows at a time are drawn without repetition.
        epochs: passes over the data.
        batch: rows per update.
        seed: of the order and of `key`.
        title: of the progress bar.
        evaluate: from variables to a dict of numbers to show after every epoch.
        average: decay per update of a running mean of the parameters, which is what is evaluated
            and returned; 0 for the parameters themselves.
    """

    @jax.jit
    def update(variables, averaged, state, arrays, key):
        def objective(params):
            return loss({**variables, "params": params}, arrays, key)

        params = variables["params"]
        (value, changed), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        averaged = optax.incremental_update(params, averaged, 1 - average)
        return {**variables, **changed, "params": params}, averaged, state, value

    averaged = variables["params"]
    state = optimiser.init(variables["params"])
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    rows = len(data[0])
    batch = min(batch, rows)
    with tqdm(range(epochs), desc=title, unit="epoch", dynamic_ncols=True) as bar:
        for _ in bar:
            order = rng.permutation(rows)[: rows - rows % batch]
            losses = []
            for chosen in order.reshape(-1, batch):
                key, own = jax.random.split(key)
                arrays = tuple(array[chosen] for array in data)
                variables, averaged, state, value = update(variables, averaged, state, arrays, own)
                losses.append(value)
            result = {**variables, "params": averaged}
            shown = {"loss": float(np.mean(losses)), **(evaluate(result) if evaluate else {})}
            bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()})
    return result


def updates(rows, batch, epochs):
    """Number of updates that `fit` makes."""
    return epochs * (rows // min(batch, rows))


def predict(function, xs, batch):
    """`function` of all rows, `batch` at a time, the last batch padded so that all are alike."""
    parts = []
    for start in range(0, len(xs), batch):
        part = xs[start : start + batch]
        padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        parts.append(np.asarray(function(padded))[: len(part)])
    return np.concatenate(parts)


def over_seeds(args, run, name="test accuracy"):
    """Run for each seed asked for; print the results, the mean as the last line."""
    seeds = range(args.seed, args.seed + (args.seeds or 1))
    results = [run(seed) for seed in seeds]
    if len(results) > 1:
        spread = f", standard deviation {np.std(results, ddof=1):.3f}"
        print("by seed:", " ".join(f"{result:.3f}" for result in results) + spread)
    print(f"{name} {np.mean(results):.3f}")
