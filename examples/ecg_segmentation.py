"""Say at every step of an electrocardiogram which wave of the heartbeat it belongs to.

    python examples/ecg_segmentation.py --data qtdb_ecg_spikes.npz --seeds 3
    python examples/ecg_segmentation.py --feedback --layer LIB

Two leads of the QT database, coded as spikes by level crossing (one channel for rises and one for
falls of each), 1300 steps long; six classes: P, PQ, QR, RS, ST, TP. Two spiking layers of 64
neurons read it. Each hands on what it got beside what it fires, so that the readout sees both.

The data and the protocol are those of Yin, Corradi & Bohte (Nature Machine Intelligence 3, 2021),
whose adaptive recurrent network of 36 neurons reaches 84.4 to 85.9 %: the first 10 steps are
skipped, and steps without a label count as the first class. Accuracy at labelled steps alone is
printed too. Without --data the two files are fetched from the paper's repository.
"""

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import losses, snn, training

CLASSES, SKIPPED = 6, 10
SOURCE = "https://raw.githubusercontent.com/byin-cwi/Efficient-spiking-networks/main/"
FILES = {"train": "data/QTDB_train.mat", "test": "NMI_vis/ecg/QTDB_test.mat"}


def network(width, layer, dropout, slowest, feedback, *, training=False):
    """Two spiking layers, each beside what it reads, and a leaky readout."""

    def block():
        neurons = snn.layer(layer, width, half_lives=(1.0, slowest))
        return snn.Residual(
            [
                nn.Dense(width),
                snn.Recurrent(neurons) if feedback else neurons,
                nn.Dropout(dropout, deterministic=not training),
            ],
            merge="concatenate",
        )

    return snn.Unroll(
        snn.Sequential([block(), block(), nn.Dense(CLASSES), snn.LI(CLASSES, beta=0.8)])
    )


def load(path):
    """Spikes ``[B, T, 4]``, classes ``[B, T]`` and whether a step is labelled, for both sets."""
    if path is not None:
        arrays = harness.read(path, "Leave out --data to fetch the published files.")
        return [
            (arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int32), arrays[f"labelled_{part}"])
            for part in FILES
        ]
    return [convert(harness.fetch(SOURCE + name, name.split("/")[-1])) for name in FILES.values()]


def convert(path):
    """Arrays of a published MATLAB file, in which labels are one-hot and absent ones are zeros."""
    import scipy.io

    content = scipy.io.loadmat(path)
    x, y = content["x"], content["y"]
    return x.astype(np.uint8), y.argmax(axis=-1).astype(np.int32), y.any(axis=-1)


def made_up(rows, steps=60):
    """Data of the same form, in which the last channel that fired is the class."""
    rng = np.random.default_rng(0)
    x = (rng.random((rows, steps, 4)) < 0.1).astype(np.uint8)
    y = np.maximum.accumulate(np.where(x.any(-1), np.arange(steps), 0), axis=1)
    y = np.take_along_axis(x.argmax(-1), y, axis=1).astype(np.int32)
    return x, y, np.ones(y.shape, bool)


def augment(x, y, key, *, stretch=1.25, swapped=0.3, lost=0.05):
    """Stretch or shrink each sequence in time, swap the leads of some, drop some spikes."""
    keys = jax.random.split(key, 3)
    rows, steps, _ = x.shape
    span = np.log(stretch)
    factor = jnp.exp(jax.random.uniform(keys[0], (rows, 1), minval=-span, maxval=span))
    source = (factor * jnp.arange(steps)).astype(jnp.int32)
    # Beyond the end there is nothing, as after the end of a short recording.
    x = jnp.take_along_axis(x, source[..., None], axis=1, mode="fill", fill_value=0)
    y = jnp.take_along_axis(y, source, axis=1, mode="fill", fill_value=0)
    x = jnp.where(jax.random.bernoulli(keys[1], swapped, (rows, 1, 1)), x[..., [2, 3, 0, 1]], x)
    return jnp.where(jax.random.bernoulli(keys[2], lost, x.shape), 0, x), y


def train(args, seed, train_set, test_set, options):
    """Train a network; return its accuracy at all steps and at labelled ones."""
    learner = network(**options, training=True)
    model = network(**options)
    x, y, _ = train_set
    first, key = jax.random.split(jax.random.key(seed))

    def loss(variables, arrays, key):
        move, drop = jax.random.split(key)
        x, y = augment(*arrays, move)
        ys = learner.apply(variables, x.astype(np.float32), rngs={"dropout": drop})
        counted = jnp.broadcast_to(jnp.arange(y.shape[1]) >= SKIPPED, y.shape)
        return losses.step_cross_entropy(ys, y, mask=counted).mean()

    def guess(variables, x):
        return model.apply(variables, x.astype(np.float32)).argmax(axis=-1)

    fitted = training.fit(
        loss,
        model.init(first, x[:1].astype(np.float32)),
        training.adamw(args.rate, training.num_updates(len(x), args.batch, args.epochs)),
        (x, y),
        epochs=args.epochs,
        batch_size=args.batch,
        key=key,
        average=0.99,
        progress=f"ecg, seed {seed}",
    )
    guesses = training.predict(guess, fitted.variables, test_set[0], batch_size=args.batch)
    _, y, labelled = (array[:, SKIPPED:] for array in test_set)
    right = guesses[:, SKIPPED:] == y
    return right.mean(), right[labelled].mean()


def main():
    parser = harness.parser(__doc__, epochs=60, batch=32, rate=1e-2)
    parser.add_argument("--layer", choices=snn.ALL_LAYERS, default="DSRLIT", metavar="NAME")
    parser.add_argument("--width", type=int, default=64, help="neurons of each hidden layer")
    parser.add_argument("--dropout", type=float, default=0.3, help="share of spikes left out")
    parser.add_argument("--slowest", type=float, default=400, help="longest half-life at first")
    parser.add_argument(
        "--feedback", action="store_true", help="every neuron gets the spikes of all of its layer"
    )
    args = parser.parse_args()
    options = {
        name: getattr(args, name) for name in ("width", "layer", "dropout", "slowest", "feedback")
    }
    if args.smoke:
        args.epochs, options["width"] = 2, 8
        train_set, test_set = made_up(64), made_up(32)
    else:
        train_set, test_set = load(args.data)

    def run(seed):
        everywhere, labelled = train(args, seed, train_set, test_set, options)
        print(f"seed {seed}: {everywhere:.4f} of all steps, {labelled:.4f} of the labelled ones")
        return everywhere

    harness.over_seeds(args, run)


if __name__ == "__main__":
    main()
