"""Name a handwritten digit whose image arrives piece by piece.

    python examples/mnist_rows.py --seeds 3             a row of 28 pixels per step, 28 steps
    python examples/mnist_rows.py --mode pixels         one pixel per step, 784 steps
    python examples/mnist_rows.py --mode permuted       the same, in one fixed random order

MNIST: 60000 images to train on and 10000 to test. Logistic regression on whole images reaches
92.1 %. The adaptive recurrent spiking networks of Yin, Corradi & Bohte (Nature Machine Intelligence
3, 2021) reach 98.2 to 98.7 % pixel by pixel; one that they published later reaches 94.7 % in random
order. In training, images are moved by a few pixels first, each its own way.

By rows, the network's blocks add what their neurons fire, ternary and scaled, to a stream of real
values; all memory is in the neurons' traces. What the readout says while the last seventh of the
image arrives decides.

Pixel by pixel, there are five layers of neurons that fire 0 or 1. A layer reads the spikes of the
four or seven steps before at once, as through synapses with delays, and has as many fewer steps:
784, 196, 28, 7 and 1. Only the first layer gets pixels, the others get spikes alone.

--tune leaves the last 5000 training images out of training, and tests on them. Without --data the
images are fetched, as one file, from where Keras gets them.
"""

import time

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import losses, metrics, snn, training

CLASSES = 10
MODES = {  # how an image is cut up, and what suits that
    "rows": {"moved": 2, "epochs": 12, "batch": 100, "rate": 4e-3, "dropout": 0.1},
    "pixels": {"moved": 2, "epochs": 6, "batch": 50, "rate": 5e-3, "dropout": 0.1},
    "permuted": {"moved": 1, "epochs": 4, "batch": 50, "rate": 5e-3, "dropout": 0.1},
}
PARTS = slice(None, -5000), slice(-5000, None)  # with --tune: to train on, to test on
STAGES = {  # the width of each layer, and steps that the next one reads at once
    "pixels": ((32, 4), (96, 7), (192, 4), (256, 7), (256, 1)),
    "permuted": ((16, 4), (64, 7), (128, 4), (256, 7), (256, 1)),
}
SMOKE = ((8, 4), (8, 7), (8, 7))


class Network(nn.Module):
    """Residual blocks between a Dense layer that reads the input and a leaky readout."""

    width: int
    blocks: int
    layer: str
    dropout: float
    slowest: float
    training: bool = False

    @nn.compact
    def __call__(self, xs):
        blocks = [self.block() for _ in range(self.blocks)]
        readout = [nn.LayerNorm(), nn.Dense(CLASSES), snn.LI(CLASSES, beta=0.8)]
        return snn.Unroll(snn.Sequential([nn.Dense(self.width), *blocks, *readout]))(xs), []

    @nn.nowrap
    def block(self):
        return snn.Residual(
            [
                nn.LayerNorm(),
                nn.Dense(self.width),
                snn.layer(self.layer, self.width, half_lives=(0.3, self.slowest)),
                nn.Dense(self.width),
                nn.Dropout(self.dropout, deterministic=not self.training),
            ]
        )


class Stages(nn.Module):
    """Spiking layers, each with fewer steps than the one before, and a readout of the last."""

    stages: tuple[tuple[int, int], ...]
    dropout: float
    training: bool = False

    @nn.compact
    def __call__(self, xs):
        fired = []
        for i, (width, steps) in enumerate(self.stages):
            cell = snn.Sequential(
                [
                    nn.Dense(width),
                    nn.BatchNorm(use_running_average=not self.training, momentum=0.95),
                    snn.layer("LIB", width, half_lives=(0.5, 8), detach_reset=True),
                ]
            )
            fired.append(snn.Unroll(cell)(xs))
            xs = fired[-1].reshape(len(xs), -1, steps * width)
            if i:
                xs = nn.Dropout(self.dropout, deterministic=not self.training)(xs)
        return nn.Dense(CLASSES)(xs), fired


def present(images, mode):
    """Sequences ``[B, T, pixels per step]`` of bytes ``[B, H, W]``."""
    images = images.astype(jnp.float32) / 255
    if mode == "rows":
        return images
    pixels = images.reshape(len(images), -1, 1)
    if mode == "permuted":
        pixels = pixels[:, jax.random.permutation(jax.random.key(0), pixels.shape[1])]
    return pixels


def at_the_end(readout):
    """What counts of a readout ``[B, T, C]``: its last seventh, four rows of an image; or all."""
    return readout[:, -(readout.shape[1] // 7) :]


def made_up(rows, size=14):
    """Data of the same form: a bright row whose place is the class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, rows).astype(np.int32)
    x = rng.integers(0, 50, (rows, size, size))
    x[np.arange(rows), y + 2] += 200
    return x.astype(np.uint8), y


def move(images, key, farthest):
    """Images moved by up to `farthest` pixels, each its own way."""
    starts = jax.random.randint(key, (len(images), 2), 0, 2 * farthest + 1)
    padded = jnp.pad(images, ((0, 0), (farthest, farthest), (farthest, farthest)))

    def cut(image, start):
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(cut)(padded, starts)


def network(args, training=False):
    if args.mode in STAGES:
        return Stages(SMOKE if args.smoke else STAGES[args.mode], args.dropout, training)
    names = ("width", "blocks", "layer", "dropout", "slowest")
    options = {name: getattr(args, name) for name in names}
    return Network(**options, training=training)


def train(args, seed, train_set, test_set):
    """Train a network; return its accuracy on the test set, and print what it took."""
    learner, model = network(args, training=True), network(args)
    first, key = jax.random.split(jax.random.key(seed))

    def loss(variables, arrays, key):
        shift, drop = jax.random.split(key)
        xs = present(move(arrays[0], shift, args.moved), args.mode)
        (readout, _), changed = learner.apply(
            variables, xs, rngs={"dropout": drop}, mutable=["batch_stats"]
        )
        return losses.cross_entropy(at_the_end(readout), arrays[1]).mean(), changed

    def score(variables, arrays):
        readout, fired = model.apply(variables, present(arrays[0], args.mode))
        rates = [metrics.spike_rate(spikes).total.mean() for spikes in fired]
        right = metrics.accuracy(at_the_end(readout), arrays[1])
        return right, jnp.broadcast_to(jnp.array(rates), (len(right), len(rates)))

    start = time.process_time()
    updates = training.num_updates(len(train_set[0]), args.batch, args.epochs)
    variables = jax.jit(model.init)(first, present(train_set[0][:1], args.mode))
    fitted = training.fit(
        loss,
        variables,
        training.adamw(args.rate, updates, weight_decay=0.01),
        train_set,
        epochs=args.epochs,
        batch_size=args.batch,
        key=key,
        average=0.99,
        progress=f"{args.mode}, seed {seed}",
    )
    seconds = time.process_time() - start
    right, rates = training.predict(score, fitted.variables, test_set, batch_size=100)
    number = harness.number(variables)
    print(
        f"seed {seed}: {right.mean():.4f}; {number} parameters; {seconds:.0f} s of the processor",
        *(f"; layer {i}: {rate:.3f} spikes per step" for i, rate in enumerate(rates.mean(axis=0))),
        sep="",
        flush=True,
    )
    return right.mean()


def main():
    parser = harness.parser(__doc__, epochs=None, batch=None, rate=None)
    add = parser.add_argument
    add("--mode", choices=MODES, default="rows", help="what arrives at each step")
    add("--layer", choices=snn.ALL_LAYERS, default="SLITS", metavar="NAME", help="by rows only")
    add("--width", type=int, default=128, help="neurons of each residual block, by rows")
    add("--blocks", type=int, default=2, help="residual blocks, by rows")
    add("--slowest", type=float, default=30, help="longest half-life at first, by rows")
    add("--moved", type=int, help="pixels by which images are moved in training")
    add("--dropout", type=float, help="share of spikes left out")
    add("--tune", action="store_true", help="test on the last 5000 training images")
    args = parser.parse_args()
    for name, value in MODES[args.mode].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.smoke:
        args.epochs, args.width, args.blocks = 2, 16, 1
        train_set, test_set = made_up(64), made_up(32)
    else:
        train_set, test_set = harness.mnist(args.data)
        if args.tune:
            train_set, test_set = ([a[part] for a in train_set] for part in PARTS)
    harness.over_seeds(args, lambda seed: train(args, seed, train_set, test_set))


if __name__ == "__main__":
    main()
