"""Trained networks that come with the examples: what they are, and one at work.

    python examples/pretrained.py              lists them
    python examples/pretrained.py ecg          runs one on rows of its test set

From Python, in the folder `examples`:

    import pretrained

    network = pretrained.load("digits")
    outputs = network.model.apply(network.variables, *network.prepare(**network.inputs))

Each has three files in `examples/pretrained`: NAME.npz holds the variables by their path, NAME.json
the card, which says what was measured and how the network was made, and NAME_test.npz a few rows of
the test set. The command on the card writes these files: see the option --save of that example.
"""

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import pathlib
import platform
import shlex
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import harness
import jax
import numpy as np
from flax import traverse_util

import tracetorch_jax

FOLDER = pathlib.Path(__file__).parent / "pretrained"
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained network.

    Attributes:
        model: takes what `prepare` gives: ``model.apply(variables, *prepare(**inputs))``.
        variables: of the model.
        prepare: from arrays as they are in `inputs`, ``[B, ...]``, to arguments of the model.
        answer: from variables and these arguments to classes, ``[B]`` or ``[B, T]``, and spikes per
            neuron and step, ``[B]``.
        inputs: rows of the test set.
        labels: their classes, ``[B]`` or ``[B, T]``.
        counted: which of the labels count for the accuracy.
        card: the task, its classes, inputs and source, and what was measured.
    """

    model: nn.Module
    variables: dict
    prepare: Callable[..., tuple]
    answer: Callable[..., tuple]
    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    counted: np.ndarray
    card: dict[str, Any]


def names(folder=FOLDER):
    """The names of the networks in a folder."""
    return sorted(path.stem for path in pathlib.Path(folder).glob("*.json"))


def load(name, folder=FOLDER):
    """A trained network: its model, its variables, and what is said about it.

    Args:
        name: one of `names`.
        folder: where its three files are.

    Raises:
        FileNotFoundError: a file of it is missing.
        ValueError: there is none of that name, or a file is damaged or does not fit the others.
    """
    if name not in names(folder):
        raise ValueError(f"`name` must be one of {names(folder)}; got {name!r}.")
    path = pathlib.Path(folder) / name
    card, variables, rows = restore(path)
    try:
        check_rows(rows)
        labels, counted = rows.pop("y"), rows.pop("counted").astype(bool)
        model, prepare, answer = example_of(card).trained(card["options"], variables)
        needed = jax.eval_shape(model.init, jax.random.key(0), *prepare(**rows))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the files of {path} do not fit together: {error}") from error
    found, needed = (
        jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (variables, needed)
    )
    if found != needed:
        raise ValueError(f"the variables in {path}.npz are not those of the network on its card.")
    return Pretrained(model, variables, prepare, answer, rows, labels, counted, card)


def check_rows(rows):
    """Raise unless there are rows, as many of each array, and labels say which of them count."""
    lacking = {"y", "counted"} - set(rows)
    if lacking:
        raise ValueError(f"the rows lack {sorted(lacking)}.")
    if rows["counted"].shape != rows["y"].shape:
        raise ValueError(f"y and counted have shapes {rows['y'].shape}, {rows['counted'].shape}.")
    numbers = {name: len(x) if x.ndim else None for name, x in rows.items()}
    if len(set(numbers.values())) > 1 or not numbers["y"]:
        raise ValueError(f"the arrays must have one number of rows each; got {numbers}.")


def example_of(card):
    """The example that made a network, as a module."""
    name = card["example"]
    known = {path.stem for path in pathlib.Path(__file__).parent.glob("*.py")}
    example = importlib.import_module(name) if name in known else None
    if not hasattr(example, "trained"):
        raise ValueError(f"no example {name!r} can load a network.")
    return example


def place(text):
    """The path of --save; an error before anything is trained, if nothing can be written there."""
    path = pathlib.Path(text.removesuffix(".npz"))
    if path.name in ("", ".."):
        raise argparse.ArgumentTypeError(f"must end with a name for the network; got {text!r}")
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"must lie in a folder; {folder} is none")
    try:
        about(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def about(path):
    """What a person wrote on the card that is already there, if one is."""
    written = path.with_name(f"{path.name}.json")
    if not written.exists():
        return {}
    try:
        return json.loads(written.read_text())["about"]
    except KeyError:
        return {}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{written} is no card, and would be overwritten") from error


def add_save(parser):
    """Give the command line of an example the option --save."""
    parser.add_argument(
        "--save",
        type=place,
        metavar="PATH",
        help="write the network, its card and some test rows: PATH.npz, PATH.json, PATH_test.npz",
    )


def save(path, variables, rows, answers, rates, *, stored, seed, options, **test):
    """Write a trained network, its card, and rows of the test set, which are drawn by chance.

    Args:
        path: of the files, without an ending.
        variables: a tree of arrays.
        rows: arrays of the whole test set: ``y``, the classes ``[B]`` or ``[B, T]``; ``counted``,
            which of these count, by default all; and others, which the example can prepare.
        answers: of the network, of the shape of ``y``.
        rates: ``[B]``, spikes per neuron and step.
        stored: how many rows are written.
        seed: of the training, for the card.
        options: what the example needs to build the model, for the card.
        **test: more about the test set, for the card.
    """
    rows = {"counted": np.ones(rows["y"].shape, bool)} | rows
    right = answers == rows["y"]
    drawn = np.sort(np.random.default_rng(0).permutation(len(right))[:stored])

    def measured(chosen):
        return {
            "rows": len(right[chosen]),
            "accuracy": float(right[chosen][rows["counted"][chosen]].mean()),
            "firing_rate": float(rates[chosen].mean()),
        }

    card = {
        "about": about(path),  # stays
        "example": pathlib.Path(sys.argv[0]).stem,
        "command": shlex.join(["python", *sys.argv]),
        "seed": seed,
        "options": options,
        "parameters": harness.number(variables),
        "test": measured(slice(None)) | test,
        "stored": measured(drawn),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "tracetorch_jax": tracetorch_jax.__version__},
    }
    written = path.with_name(f"{path.name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = traverse_util.flatten_dict(variables, sep="/")
    np.savez_compressed(path.with_name(f"{path.name}.npz"), **arrays)
    arrays = {name: compact(x[drawn]) for name, x in rows.items()}
    np.savez_compressed(path.with_name(f"{path.name}_test.npz"), **arrays)
    written.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def compact(x):
    """An array as bytes, if they hold its values."""
    with np.errstate(invalid="ignore"):
        small = x.astype(np.uint8)
    return small if np.array_equal(small, x) else x


def restore(path):
    """What `save` wrote: the card, the variables, and the rows of the test set.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or something else.
    """
    written = path.with_name(f"{path.name}.json")
    if not written.exists():
        raise FileNotFoundError(f"there is no {written}.")
    try:
        card = json.loads(written.read_text())
        lacking = {"example", "options", "parameters", "test", "stored"} - set(card)
        if lacking:
            raise ValueError(f"it lacks {sorted(lacking)}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{written} is not the card of a network, or a damaged one.") from error
    variables, rows = (harness.arrays(path.with_name(f"{path.name}{e}.npz")) for e in ("", "_test"))
    return card, traverse_util.unflatten_dict(variables, sep="/"), rows


def score(network, rows):
    """Of some rows: the accuracy, spikes per neuron and step, and nJ of a row."""
    inputs = network.prepare(**{name: x[rows] for name, x in network.inputs.items()})
    answers, rates = network.answer(network.variables, *inputs)
    right = (answers == network.labels[rows])[network.counted[rows]]
    energy = harness.nanojoules(network.model, network.variables, *inputs)
    return float(np.mean(right)), float(np.mean(rates)), energy


def show_all():
    print(f"{'name':8}{'parameters':>10}{'accuracy':>10}{'test rows':>11}  task")
    for name in names():
        card = restore(FOLDER / name)[0]
        test, task = card["test"], card.get("about", {}).get("task", "")
        print(f"{name:8}{card['parameters']:10}{test['accuracy']:10.3f}{test['rows']:11}  {task}")


def show(name, network, rows):
    card, test = network.card, network.card["test"]
    about = card.get("about", {})
    about = {name: " ".join(x) if isinstance(x, list) else x for name, x in about.items()}
    versions = ", ".join(f"{package} {version}" for package, version in card["versions"].items())
    about |= {"command": card["command"], "versions": versions, "parameters": card["parameters"]}
    print(name)
    for key, value in about.items():
        print(textwrap.fill(f"{key}: {value}", 100, initial_indent="  ", subsequent_indent="    "))
    accuracy, rate, energy = score(network, rows)
    number = len(network.labels[rows])
    print(f"{'':18}{'rows':>6}{'firing rate':>13}{'nJ a row':>10}{'accuracy':>10}")
    for row in (
        ("whole test set", test["rows"], test["firing_rate"], "", test["accuracy"]),
        ("stored rows, now", number, rate, f"{energy:.1f}", accuracy),
    ):
        print("{:18}{:6}{:13.3f}{:>10}{:10.3f}".format(*row))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", nargs="?", choices=names(), help="a network to run; by default none"
    )
    parser.add_argument("--smoke", action="store_true", help="run it on two rows")
    args = parser.parse_args()
    try:
        if args.name is None:
            show_all()
            return
        network = load(args.name)
    except (FileNotFoundError, ValueError) as error:
        harness.fail(error)
    show(args.name, network, slice(2 if args.smoke else None))


if __name__ == "__main__":
    main()
