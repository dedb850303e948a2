"""Train a spiking network on handwritten digits, look into it, and run it as a stream.

    python examples/digits.py                 each image is shown for 16 steps
    python examples/digits.py --mode rows     each image arrives row by row
    python examples/digits.py --seeds 5       test accuracy over five seeds

The data are the 1797 images of 8x8 pixels that come with scikit-learn; a fifth of them, drawn by
the seed, is the test set. The two hidden layers fire ternary spikes, at about a tenth of the steps,
since the loss has a penalty for more. Decays and thresholds are learnt too. A picture of the
trained network at work and the network itself go to `demo`; --save gives the latter another place.
"""

import argparse
import functools
import pathlib
import time

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pretrained
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tracetorch_jax import losses, metrics, plot, record, snn, training
from tracetorch_jax.initializers import half_lives

CLASSES = 10
HOLD = {"image": 16, "rows": 3}  # steps for which the image, or one of its rows, is shown
WIDTH = {"image": 128, "rows": 192}
RATE = {"image": 4e-3, "rows": 5e-3}
MOST, COST = 0.1, 10.0  # spikes per step from which on a neuron pays, and how much


def network(mode, width, *, training=False):
    """Two spiking layers and a leaky readout, as one cell.

    Rows have to be remembered until the last one is in: membranes are slower then, and a trace of
    each neuron's own output feeds back.
    """

    def spiking():
        if mode == "image":
            return snn.SLIT(width, alpha=half_lives(0.3, 2.0), beta=half_lives(1.0, 8.0))
        return snn.SRLIT(width, alpha=half_lives(0.3, 2.0), beta=half_lives(1.0, 24.0))

    return snn.Sequential(
        [
            nn.Dense(width),
            spiking(),
            nn.Dropout(0.2, deterministic=not training),
            nn.Dense(width),
            spiking(),
            nn.Dropout(0.2, deterministic=not training),
            nn.Dense(CLASSES),
            snn.LI(CLASSES, beta=0.8),
        ]
    )


def load(mode, seed):
    """Training and test sequences and labels: ``[B, 1, 64]`` of an image, ``[B, 8, 8]`` of rows."""
    digits = load_digits()
    xs = (digits.images / 16).astype(np.float32)
    xs = xs.reshape(len(xs), 1, 64) if mode == "image" else xs
    return train_test_split(
        xs, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )


def evidence(readout, mode):
    """The steps of the readout that count: all, or those at which the last row is shown."""
    return readout if mode == "image" else readout[:, -HOLD[mode] :]


def answer(mode, model, variables, xs):
    """Of each sequence the class ``[B]``, and the spikes per neuron and step ``[B]``."""
    readout, layers = record(model, variables, xs)
    spikes = [abs(jnp.sign(x.outputs)) for x in layers.values() if x.layer.spec.fires]
    classes = evidence(readout, mode).mean(axis=1).argmax(axis=-1)
    return classes, sum(each.mean(axis=(1, 2)) for each in spikes) / len(spikes)


def trained(options, variables):
    """Of a network that was saved: the model, and how its input is prepared and its output read."""
    mode = options["mode"]
    model = snn.Unroll(network(**options), hold=HOLD[mode])

    def prepare(pixels):
        xs = np.asarray(pixels, np.float32) / 16
        return (xs.reshape(len(xs), 1, 64) if mode == "image" else xs,)

    return model, prepare, functools.partial(answer, mode, model)


def train(mode, seed, data, *, width, epochs, batch=64, samples=None):
    """Train a network on what `load` gave.

    Returns its variables, the loss of every epoch, and of the test set the answers, the firing
    rates and the energy in nJ per image.
    """
    train_x, test_x, train_y, _ = data
    train_x, train_y = train_x[:samples], train_y[:samples]
    learner = snn.Unroll(network(mode, width, training=True), hold=HOLD[mode])
    model = snn.Unroll(network(mode, width), hold=HOLD[mode])
    first, key = jax.random.split(jax.random.key(seed))

    def loss(variables, rows, key):
        x, y = rows
        readout, layers = record(learner, variables, x, rngs={"dropout": key})
        busy = losses.rate_penalty(layers, max_rate=MOST)
        return losses.cross_entropy(evidence(readout, mode), y).mean() + COST * busy

    fitted = training.fit(
        loss,
        model.init(first, train_x[:1]),
        training.adamw(RATE[mode], training.num_updates(len(train_x), batch, epochs)),
        (train_x, train_y),
        epochs=epochs,
        batch_size=batch,
        key=key,
        progress=f"{mode}, seed {seed}",
    )
    run = functools.partial(answer, mode, model)
    answers, rates = training.predict(run, fitted.variables, test_x, batch_size=batch)
    energy = harness.nanojoules(model, fitted.variables, test_x)
    return fitted.variables, fitted.history["loss"], answers, rates, energy


def draw(path, xs, label, readout, logits, layers, curve, shown=48):
    """Picture of one test image going through the network, and of how it was trained."""
    figure, axes = plt.subplot_mosaic(
        [
            ["input", "curve"],
            ["spikes 0", "neuron 0"],
            ["spikes 1", "neuron 1"],
            ["readout", "evidence"],
        ],
        figsize=(12, 13),
        width_ratios=(1.3, 1),
        height_ratios=(1, 1.3, 1.3, 1),
        layout="constrained",
    )
    guess = int(logits.argmax())
    colors = ["tab:gray"] * CLASSES
    colors[label], colors[guess] = plot.NEGATIVE, plot.POSITIVE

    ax = axes["input"]
    if xs.shape[1] == 64:
        ax.imshow(xs[0].reshape(8, 8), cmap="gray_r")
        ax.set(title=f"input: a test image of a {label}, at every step", xticks=[], yticks=[])
    else:
        ax.imshow(xs.T, aspect="auto", cmap="gray_r")
        ax.set(title=f"input: a test image of a {label}, row by row", xlabel="step", ylabel="pixel")

    ax = axes["curve"]
    ax.semilogy(np.arange(1, len(curve) + 1), curve, color="black")
    ax.set(title="training", xlabel="epoch", ylabel="loss: cross-entropy and penalty")

    spiking = (each for each in layers.values() if each.layer.spec.fires)
    for i, each in enumerate(spiking):
        rates = metrics.spike_rate(each.outputs).total
        some = each.outputs[:, :shown]
        ax = plot.raster(some, axes[f"spikes {i}"], size=16)
        title = f"hidden layer {i + 1}: {some.shape[1]} neurons, firing rate {rates.mean():.0%}"
        ax.set_title(title, loc="left")

        busiest = int(rates.argmax())
        ax = plot.spike_train(
            each.states["mem"],
            each.outputs,
            axes[f"neuron {i}"],
            threshold=each.thresholds["pos_threshold"],
            neg_threshold=each.thresholds["neg_threshold"],
            before=each.membrane,
            neuron=busiest,
        )
        ax.set(ylabel="membrane; thresholds dotted")
        ax.set_title(f"neuron {busiest} of hidden layer {i + 1}", loc="left")

    ax = axes["readout"]
    for digit in np.argsort([digit in (label, guess) for digit in range(CLASSES)]):
        strong = digit in (label, guess)
        ax.plot(readout[:, digit], color=colors[digit], linewidth=2.5 if strong else 1)
    ax.set(title="readout: membranes of the classes", xlabel="step", ylabel="membrane")
    ax.margins(x=0.02)

    ax = axes["evidence"]
    ax.bar(np.arange(CLASSES), logits, color=colors)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(
        title=f"evidence: most for class {guess}",
        xlabel="class",
        xticks=np.arange(CLASSES),
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)


def stream(path, xs, label, mode):
    """Reload a checkpoint and classify a test image one step at a time.

    Returns the steps of the image, the readout ``[T, classes]``, the evidence for each class, and
    what `record` gives of each layer.
    """
    card, variables, _ = pretrained.restore(path)
    cell, variables = network(**card["options"]), {"params": variables["params"]["cell"]}
    steps = np.repeat(xs, HOLD[mode], axis=0)
    advance = jax.jit(cell.apply)
    carry, readout = cell.initialize_carry(None, steps[0].shape), []
    for x in steps:
        carry, y = advance(variables, carry, x)
        readout.append(y)
    readout = np.stack(readout)
    logits = evidence(readout[None], mode)[0].mean(axis=0)

    whole = snn.Unroll(cell, hold=HOLD[mode], return_carry=True)
    found, layers = record(whole, {"params": {"cell": variables["params"]}}, xs)
    apart = max(
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves((carry, readout)), jax.tree.leaves(found), strict=True)
    )
    print(f"\nreloaded {path}; test image of a {label} as a stream, one step at a time:")
    for step in range(0, len(steps), 3):
        guess, mem = readout[step].argmax(), readout[step].max()
        print(f"  step {step + 1:2d}: strongest class {guess} (membrane {mem:6.2f})")
    print(f"  verdict: {logits.argmax()}")
    states = ", ".join(f"{name}: {' '.join(own)}" for name, own in carry.items())
    print(f"carry passed from step to step: {states}")
    print(f"greatest difference from the whole sequence at once, carry and readout: {apart:.1e}")
    if apart > 1e-3:
        raise SystemExit("the stream and the whole sequence differ")
    return steps, readout, logits, layers


def main():
    matplotlib.use("Agg")  # works without a display
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=HOLD, default="image", help="how an image is presented")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training set")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the weights and dropout")
    parser.add_argument("--seeds", type=int, help="train this many networks and report accuracies")
    parser.add_argument("--out", type=pathlib.Path, default="demo", help="folder for the results")
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, to see that it runs")
    pretrained.add_save(parser)
    args = parser.parse_args()
    if args.save and args.seeds:
        harness.fail("--save writes one network: leave out --seeds.")
    settings = {"width": WIDTH[args.mode], "epochs": args.epochs}
    if args.smoke:
        settings = {"width": 16, "epochs": 2, "samples": 128}

    if args.seeds:
        measured = []
        for seed in range(args.seeds):
            data = load(args.mode, seed)
            _, _, answers, rates, energy = train(args.mode, seed, data, **settings)
            measured.append([(answers == data[3]).mean(), rates.mean(), energy])
        results, rates, energies = np.transpose(measured)
        print("by seed:", " ".join(f"{result:.3f}" for result in results))
        print(f"firing rate {rates.mean():.3f} (mean of {len(results)} seeds)")
        print(
            f"synaptic operations {energies.mean():.1f} nJ per image (mean of {len(results)} seeds)"
        )
        print(f"test accuracy {results.mean():.3f} (mean of {len(results)} seeds)")
        return

    data = load(args.mode, args.seed)
    start = time.perf_counter()
    variables, curve, answers, rates, energy = train(args.mode, args.seed, data, **settings)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    _, test_x, _, test_y = data
    path = args.save or args.out / f"digits-{args.mode}"
    rows = {"pixels": 16 * test_x.reshape(-1, 8, 8), "y": test_y}
    options = {"mode": args.mode, "width": settings["width"]}
    pretrained.save(
        path, variables, rows, answers, rates, stored=50, seed=args.seed, options=options
    )

    steps, readout, logits, layers = stream(path, test_x[0], int(test_y[0]), args.mode)
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / f"digits-{args.mode}.png"
    draw(picture, steps, int(test_y[0]), readout, logits, layers, curve)
    print(f"picture: {picture}")
    print(f"firing rate {rates.mean():.3f} spikes per neuron and step")
    print(f"synaptic operations {energy:.1f} nJ per image")
    print(f"test accuracy {(answers == test_y).mean():.3f}")


if __name__ == "__main__":
    main()
