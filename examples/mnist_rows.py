"""Name a handwritten digit whose image arrives piece by piece.

    python examples/mnist_rows.py --seeds 3             a row of 28 pixels per step, 28 steps
    python examples/mnist_rows.py --mode pixels         one pixel per step, 784 steps

MNIST: 60000 images to train on and 10000 to test. Logistic regression on whole images reaches
92.1 %; pixel by pixel, the adaptive recurrent spiking network of Yin, Corradi & Bohte (Nature
Machine Intelligence 3, 2021) reaches 98.2 %.

The network's blocks add what their neurons fire, ternary and scaled, to a stream of real values;
all memory is in the neurons' traces. What the readout says while the last seventh of the image
arrives decides. In training, images that come by rows are moved by up to two pixels, each its own
way.

Pixels go through two spiking layers first, of which the second is four times slower than the first,
and the blocks seven times slower again: a layer reads the spikes of the four or seven steps before
at once, as through synapses with delays. Nothing but spikes gets past these layers.

Without --data the images are fetched, as one file, from where Keras gets them.
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
    "pixels": {"moved": 0, "epochs": 4, "batch": 50, "rate": 6e-3, "dropout": 0.05},
}
READERS = {"rows": (), "pixels": ((32, 4), (64, 7))}  # width, and steps that the next reads at once


class Network(nn.Module):
    """Layers that read the input, residual blocks, and a leaky readout."""

    readers: tuple[tuple[int, int], ...]
    width: int
    blocks: int
    layer: str
    dropout: float
    slowest: float
    training: bool = False

    @nn.compact
    def __call__(self, xs):
        for width, steps in self.readers:
            spikes = snn.Unroll(snn.Sequential([nn.Dense(width), self.neurons(width)]))(xs)
            xs = spikes.reshape(len(spikes), -1, steps * width)
        blocks = [self.block() for _ in range(self.blocks)]
        readout = [nn.LayerNorm(), nn.Dense(CLASSES), snn.LI(CLASSES, beta=0.8)]
        return snn.Unroll(snn.Sequential([nn.Dense(self.width), *blocks, *readout]))(xs)

    @nn.nowrap
    def neurons(self, width):
        return snn.layer(self.layer, width, half_lives=(0.3, self.slowest))

    @nn.nowrap
    def block(self):
        return snn.Residual(
            [
                nn.LayerNorm(),
                nn.Dense(self.width),
                self.neurons(self.width),
                nn.Dense(self.width),
                nn.Dropout(self.dropout, deterministic=not self.training),
            ]
        )


def present(images, mode):
    """Sequences ``[B, T, pixels per step]`` of bytes ``[B, H, W]``."""
    images = images.astype(jnp.float32) / 255
    return images if mode == "rows" else images.reshape(len(images), -1, 1)


def at_the_end(readout):
    """What counts of a readout ``[B, T, C]``: its last seventh, four rows of an image."""
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


def train(args, seed, train_set, test_set, options):
    """Train a network; return its accuracy on the test set."""
    learner, model = Network(**options, training=True), Network(**options)
    first, key = jax.random.split(jax.random.key(seed))

    def loss(variables, arrays, key):
        shift, drop = jax.random.split(key)
        xs = present(move(arrays[0], shift, args.moved), args.mode)
        readout = learner.apply(variables, xs, rngs={"dropout": drop})
        return losses.cross_entropy(at_the_end(readout), arrays[1]).mean()

    def score(variables, arrays):
        readout = model.apply(variables, present(arrays[0], args.mode))
        return metrics.accuracy(at_the_end(readout), arrays[1])

    start = time.perf_counter()
    updates = training.num_updates(len(train_set[0]), args.batch, args.epochs)
    fitted = training.fit(
        loss,
        jax.jit(model.init)(first, present(train_set[0][:1], args.mode)),
        training.adamw(args.rate, updates, weight_decay=0.01),
        train_set,
        epochs=args.epochs,
        batch_size=args.batch,
        key=key,
        average=0.99,
        progress=f"{args.mode}, seed {seed}",
    )
    print(f"trained in {time.perf_counter() - start:.0f} s")
    return training.evaluate(score, fitted.variables, test_set, batch_size=args.batch)


def main():
    parser = harness.parser(__doc__, epochs=None, batch=None, rate=None)
    parser.add_argument("--mode", choices=MODES, default="rows", help="what arrives at each step")
    parser.add_argument("--layer", choices=snn.ALL_LAYERS, default="SLITS", metavar="NAME")
    parser.add_argument("--width", type=int, default=128, help="neurons of each block")
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks")
    parser.add_argument("--slowest", type=float, default=30, help="longest half-life at first")
    parser.add_argument("--moved", type=int, help="pixels by which images are moved in training")
    parser.add_argument("--dropout", type=float, help="share of spikes left out")
    args = parser.parse_args()
    for name, value in MODES[args.mode].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.smoke:
        args.epochs, args.width, args.blocks = 2, 16, 1
        train_set, test_set = made_up(64), made_up(32)
    else:
        train_set, test_set = harness.mnist(args.data)
    names = ("width", "blocks", "layer", "dropout", "slowest")
    options = {name: getattr(args, name) for name in names} | {"readers": READERS[args.mode]}

    def run(seed):
        accuracy = train(args, seed, train_set, test_set, options)
        print(f"seed {seed}: {accuracy:.4f}")
        return accuracy

    harness.over_seeds(args, run)


if __name__ == "__main__":
    main()
