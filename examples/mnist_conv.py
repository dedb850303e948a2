"""Name a handwritten digit by a spiking convolutional network.

    python examples/mnist_conv.py --seeds 3

MNIST: 60000 images to train on and 10000 to test. LeNet-5, a classical network of about this size,
reaches 99.05 % (LeCun et al., Proceedings of the IEEE 86, 1998). Each image is presented for a few
steps as a constant current, which the first convolution has to see but once (`hold`); the readout's
mean over them decides.

The example of what stands between spiking layers: convolutions, batch normalization, pooling and
dropout. Trace layers take channels first, ``[B, C, H, W]`` with ``dim=-3``, and Flax's convolutions
channels last, so that a function before each Conv and one after it turn the axes. (All channels
last, with ``dim=-1``, works alike.) `nn.BatchNorm` measures over batch, space and, since a stack
under `Unroll` runs layer by layer, over time; what it has measured is a collection of variables
next to the parameters, ``batch_stats``, which training passes on and evaluation reads.

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


def channels_last(x):
    return jnp.moveaxis(x, -3, -1)


def channels_first(x):
    return jnp.moveaxis(x, -1, -3)


def halve(x):
    """Means over squares of 2x2 pixels."""
    return channels_first(nn.avg_pool(channels_last(x), (2, 2), strides=(2, 2)))


def flatten(x):
    return x.reshape(*x.shape[:-3], -1)


def network(channels, layer, dropout, *, training=False):
    """Three spiking convolutions and a leaky readout; `training` for Dropout and BatchNorm."""

    def spiking(channels, size, strides):
        return [
            channels_last,
            nn.Conv(channels, (size, size), strides=strides, use_bias=False),
            nn.BatchNorm(use_running_average=not training, momentum=0.95),
            channels_first,
            snn.layer(layer, channels, half_lives=(0.3, 3.0), dim=-3),
            nn.Dropout(dropout, deterministic=not training),
        ]

    return snn.Sequential(
        [
            *spiking(channels, 5, strides=2),  # [B, 1, 28, 28] to [B, C, 14, 14]
            halve,  # to [B, C, 7, 7]
            *spiking(2 * channels, 3, strides=1),  # to [B, 2 C, 7, 7]
            *spiking(4 * channels, 3, strides=2),  # to [B, 4 C, 4, 4]
            flatten,
            nn.Dense(CLASSES),
            snn.LI(CLASSES, beta=0.5),
        ]
    )


def present(images):
    """Sequences of one step, ``[B, 1, 1, H, W]``, of bytes ``[B, H, W]``."""
    return images[:, None, None].astype(jnp.float32) / 255


def move(images, key, farthest=1):
    """Images moved by up to `farthest` pixels, all of a batch the same way."""
    by = jax.random.randint(key, (2,), 0, 2 * farthest + 1)
    padded = jnp.pad(images, ((0, 0), (farthest, farthest), (farthest, farthest)))
    return jax.lax.dynamic_slice(padded, (0, *by), images.shape)


def made_up(rows, size=14):
    """Data of the same form: a bright row whose place is the class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, rows).astype(np.int32)
    x = rng.integers(0, 50, (rows, size, size))
    x[np.arange(rows), y + 2] += 200
    return x.astype(np.uint8), y


def train(args, seed, train_set, test_set, options):
    """Train a network; return its accuracy on the test set."""
    learner = snn.Unroll(network(**options, training=True), hold=args.steps)
    model = snn.Unroll(network(**options), hold=args.steps)
    first, key = jax.random.split(jax.random.key(seed))

    def loss(variables, arrays, key):
        images, labels = arrays
        shift, drop = jax.random.split(key)
        readout, changed = learner.apply(
            variables,
            present(move(images, shift)),
            rngs={"dropout": drop},
            mutable=["batch_stats"],
        )
        return losses.cross_entropy(readout, labels, decode="mean").mean(), changed

    def score(variables, arrays):
        return metrics.accuracy(model.apply(variables, present(arrays[0])), arrays[1])

    start = time.perf_counter()
    updates = training.num_updates(len(train_set[0]), args.batch, args.epochs)
    fitted = training.fit(
        loss,
        jax.jit(model.init)(first, present(train_set[0][:1])),
        training.adamw(args.rate, updates, weight_decay=0.01),
        train_set,
        epochs=args.epochs,
        batch_size=args.batch,
        key=key,
        progress=f"mnist_conv, seed {seed}",
    )
    print(f"trained in {time.perf_counter() - start:.0f} s")
    return training.evaluate(score, fitted.variables, test_set, batch_size=args.batch)


def main():
    parser = harness.parser(__doc__, epochs=4, batch=50, rate=4e-3)
    parser.add_argument("--layer", choices=snn.ALL_LAYERS, default="LIT", metavar="NAME")
    parser.add_argument("--channels", type=int, default=16, help="of the first convolution")
    parser.add_argument("--dropout", type=float, default=0.05, help="share of spikes left out")
    parser.add_argument("--steps", type=int, default=3, help="steps that an image lasts")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.channels, args.steps = 2, 4, 2
        train_set, test_set = made_up(64), made_up(32)
    else:
        train_set, test_set = harness.mnist(args.data)
    options = {"channels": args.channels, "layer": args.layer, "dropout": args.dropout}

    def run(seed):
        accuracy = train(args, seed, train_set, test_set, options)
        print(f"seed {seed}: {accuracy:.4f}")
        return accuracy

    harness.over_seeds(args, run)


if __name__ == "__main__":
    main()
