"""How many spikes an accuracy costs: digits, with a penalty on firing rates or a higher threshold.

    python examples/sparsity.py --seeds 5

Networks of two binary spiking layers classify the digits of scikit-learn, 16 steps each. Once the
weight of `losses.rate_penalty` differs, once the threshold at which the neurons start. All seeds
are trained at once. The table has the accuracy on a fifth of the images, drawn by the seed, the
spikes per image of both layers together, and the energy of the synaptic operations that they cause,
by NeuroBench's way of counting. The plot goes to `demo/sparsity.png`.
"""

import pathlib

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tracetorch_jax import losses, metrics, record, snn, training

matplotlib.use("Agg")  # works without a display
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

STEPS, CLASSES = 16, 10
WEIGHTS = {"weight of the penalty": (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)}
THRESHOLDS = {"threshold at the start": (1.0, 2.0, 4.0, 8.0, 16.0)}


def network(width, threshold, learning):
    def hidden():
        neurons = snn.layer("LIB", width, half_lives=(1.0, 8.0), threshold=threshold)
        return [nn.Dense(width), neurons, nn.Dropout(0.2, deterministic=not learning)]

    readout = [nn.Dense(CLASSES), snn.LI(CLASSES, beta=0.8)]
    return snn.Unroll(snn.Sequential([*hidden(), *hidden(), *readout]), hold=STEPS)


def load(rows):
    """Images ``[B, 1, 64]`` and classes, for training and for testing."""
    digits = load_digits()
    xs = (digits.images.reshape(-1, 1, 64) / 16).astype(np.float32)[:rows]
    return train_test_split(xs, digits.target[:rows], test_size=0.2, random_state=0)


def trial(args, width, data, weight, threshold):
    """Accuracy, spikes per image and nJ per image of a network for each seed."""
    train_x, test_x, train_y, test_y = data
    learner, model = (network(width, threshold, learning) for learning in (True, False))
    keys = jax.vmap(jax.random.key)(args.seed + jnp.arange(args.seeds or 1))

    def loss(variables, batch, key):
        ys, layers = record(learner, variables, batch[0], rngs={"dropout": key})
        busy = weight * losses.rate_penalty(layers, max_rate=0.02)
        return losses.cross_entropy(ys, batch[1]).mean() + busy

    updates = training.num_updates(len(train_x), args.batch, args.epochs)
    variables = training.fit(
        loss,
        jax.vmap(model.init, (0, None))(keys, train_x[:1]),
        training.adamw(args.rate, updates),
        (train_x, train_y),
        epochs=args.epochs,
        batch_size=args.batch,
        key=keys,
        progress=f"weight {weight:g}, threshold {threshold:g}",
    ).variables
    results = []
    for i in range(len(keys)):
        own = jax.tree.map(lambda x, i=i: x[i], variables)
        ys, layers = record(model, own, test_x)
        energy = harness.nanojoules(model, own, test_x)
        number = sum(x.outputs.sum() for x in layers.values() if x.layer.spec.fires)
        results.append([metrics.accuracy(ys, test_y).mean(), number / len(test_x), energy])
    return np.array(results).T


def main():
    parser = harness.parser(__doc__, epochs=40, batch=64, rate=5e-3)
    parser.add_argument("--out", type=pathlib.Path, default="demo", help="folder for the plot")
    args = parser.parse_args()
    if args.data:
        harness.fail("--data has no use here: the digits come with scikit-learn.")
    width, data, sweeps = 128, load(None), WEIGHTS | THRESHOLDS
    if args.smoke:
        args.epochs, width, data = 2, 16, load(128)
        sweeps = {name: values[:2] for name, values in sweeps.items()}
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, values in sweeps.items():
        print(f"\n{name:>22}  accuracy  (deviation)  spikes per image  nJ per image")
        points = []
        for value in values:
            weight, threshold = (value, 1.0) if name in WEIGHTS else (0.0, value)
            right, number, energy = trial(args, width, data, weight, threshold)
            points.append((number.mean(), right.mean(), right.std()))
            print(
                f"{value:22g}  {right.mean():8.3f}  {right.std():11.3f}  {number.mean():16.0f}  "
                f"{energy.mean():12.1f}",
                flush=True,
            )
        x, y, deviation = np.transpose(points)
        ax.errorbar(
            x, y, deviation, marker="o", capsize=3, label=f"{name}: {values[0]:g} to {values[-1]:g}"
        )
    ax.set(xscale="log", xlabel="spikes per image, both layers", ylabel="test accuracy")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_formatter("")
    ax.legend()
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "sparsity.png", dpi=120)
    print(f"\nplot: {args.out / 'sparsity.png'}")


if __name__ == "__main__":
    main()
