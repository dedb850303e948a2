"""Name the digit whose outline passes by, one real value per step.

    pip install mnist1d; python examples/mnist_1d.py --seeds 3
    python examples/mnist_1d.py --data mnist1d.npz --layer DSRLITS

MNIST-1D (Greydanus & Kobak, ICML 2024; github.com/greydanus/mnist1d) has 4000 sequences to train on
and 1000 to test, 40 steps long: the outlines of ten digits, moved, scaled, sheared and in noise.
Its authors report 32 % for logistic regression, 68 % for a dense network, 91 % for a GRU, 94 % for
a convolutional network and 96 % for people.

The network reads the last few values at every step. Its blocks add what their neurons fire, ternary
and scaled, to a stream of real values. Every sequence is moved, tilted and scaled anew each time it
is learnt from, in the ways in which the data were made; the figures above were got without that.
Without --data the data are made by the package `mnist1d`.
"""

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import losses, metrics, snn, training

CLASSES = 10


def network(width, blocks, layer, dropout, slowest, *, training=False):
    """Residual blocks between a Dense layer that reads the input and a leaky readout."""

    def block():
        return snn.Residual(
            [
                nn.LayerNorm(),
                nn.Dense(width),
                snn.layer(layer, width, half_lives=(0.3, slowest)),
                nn.Dense(width),
                nn.Dropout(dropout, deterministic=not training),
            ]
        )

    return snn.Sequential(
        [
            nn.Dense(width),
            *(block() for _ in range(blocks)),
            nn.LayerNorm(),
            nn.Dense(CLASSES),
            snn.LI(CLASSES, beta=0.8),
        ]
    )


def prepare(x, taps):
    """Each value with the ones before it, ``[B, T, taps]``, of sequences ``[B, T]``."""
    padded = jnp.pad(jnp.asarray(x, jnp.float32), ((0, 0), (taps - 1, 0)), mode="edge")
    steps = x.shape[1]
    return jnp.stack([padded[:, i : i + steps] for i in range(taps)], axis=-1)


def load(path):
    """Sequences ``[B, 40]`` and classes, for training and for testing."""
    if path is not None:
        arrays = harness.read(path, "Leave out --data to make the data.")
        return [(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        harness.fail(f"{error}: `pip install mnist1d` gets what makes the data.")
    made = make_dataset(get_dataset_args())
    return [(made["x"], made["y"]), (made["x_test"], made["y_test"])]


def made_up(rows, steps=20):
    """Data of the same form: waves, the faster the higher their class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, rows)
    start = rng.uniform(0, 2 * np.pi, (rows, 1))
    return np.sin(start + 0.2 * (y[:, None] + 1) * np.arange(steps)), y


def augment(x, key, *, noise=0.05, slope=0.3, scale=0.15):
    """Move each sequence around its end, tilt, scale, and add noise."""
    keys = jax.random.split(key, 4)
    rows, steps = x.shape
    start = jax.random.randint(keys[0], (rows, 1), 0, steps)
    x = jnp.take_along_axis(x, (start + jnp.arange(steps)) % steps, axis=1)
    x = x * jnp.exp(scale * jax.random.normal(keys[1], (rows, 1)))
    x = x + slope * jax.random.normal(keys[2], (rows, 1)) * jnp.linspace(-1, 1, steps)[None]
    return x + noise * jax.random.normal(keys[3], x.shape)


def train(args, seed, train_set, test_set, options):
    """Train a network; return its accuracy on the test set."""
    learner = snn.Unroll(network(**options, training=True))
    model = snn.Unroll(network(**options))
    (x, y), taps = train_set, args.taps
    first, key = jax.random.split(jax.random.key(seed))

    def loss(variables, arrays, key):
        vary, drop = jax.random.split(key)
        x = prepare(augment(arrays[0], vary), taps)
        ys = learner.apply(variables, x, rngs={"dropout": drop})
        return losses.cross_entropy(ys, arrays[1], decode=args.decode).mean()

    def score(variables, arrays):
        ys = model.apply(variables, prepare(arrays[0], taps))
        return metrics.accuracy(ys, arrays[1], decode=args.decode)

    updates = training.num_updates(len(x), args.batch, args.epochs)
    fitted = training.fit(
        loss,
        jax.jit(model.init)(first, prepare(x[:1], taps)),
        training.adamw(args.rate, updates, weight_decay=0.01),
        (x.astype(np.float32), y.astype(np.int32)),
        epochs=args.epochs,
        batch_size=args.batch,
        key=key,
        average=0.99,
        progress=f"mnist_1d, seed {seed}",
    )
    return training.evaluate(score, fitted.variables, test_set, batch_size=500)


def main():
    parser = harness.parser(__doc__, epochs=60, batch=100, rate=6e-3)
    parser.add_argument("--layer", choices=snn.ALL_LAYERS, default="SLITS", metavar="NAME")
    parser.add_argument("--width", type=int, default=64, help="neurons of each block")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--taps", type=int, default=5, help="values read at every step")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--slowest", type=float, default=20, help="longest half-life at first")
    parser.add_argument(
        "--decode", choices=["mean", "last", "max"], default="max", help="over steps"
    )
    args = parser.parse_args()
    names = ("width", "blocks", "layer", "dropout", "slowest")
    options = {name: getattr(args, name) for name in names}
    if args.smoke:
        args.epochs, options["width"], options["blocks"] = 2, 16, 1
        train_set, test_set = made_up(64), made_up(32)
    else:
        train_set, test_set = load(args.data)

    def run(seed):
        accuracy = train(args, seed, train_set, test_set, options)
        print(f"seed {seed}: {accuracy:.4f}")
        return accuracy

    harness.over_seeds(args, run)


if __name__ == "__main__":
    main()
