"""Train a spiking network on handwritten digits, look into it, and run it as a stream.

    python examples/digits.py                 each image is shown for 16 steps
    python examples/digits.py --mode rows     each image arrives row by row

The data are the 1797 images of 8x8 pixels that come with scikit-learn; a fifth of them, drawn by the
seed, is the test set. The network's two hidden layers fire ternary spikes with learnt scales. What
it learns, and a picture of what it does, go to the folder `demo`.
"""

import argparse
import json
import pathlib
import time

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from tracetorch_jax import functional, snn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CLASSES = 10
HOLD = {"image": 16, "rows": 3}  # steps for which the image, or one row of it, is shown


def half_lives(low, high):
    """Initializer of decays: half-lives spread evenly on a logarithmic scale, in steps."""

    def init(key, shape, dtype):
        steps = jnp.exp(jax.random.uniform(key, shape, dtype, jnp.log(low), jnp.log(high)))
        return functional.halflife_to_decay(steps)

    return init


def network(mode, *, width, train=False):
    """Two spiking layers and a leaky readout, as one cell."""
    slow = half_lives(1.0, 8.0 if mode == "image" else 24.0)
    layer = snn.SLITS if mode == "image" else snn.SRLITS

    def spiking():
        return layer(width, alpha=half_lives(0.3, 2.0), beta=slow)

    return snn.Sequential(
        [
            nn.Dense(width),
            spiking(),
            nn.Dropout(0.2, deterministic=not train),
            nn.Dense(width),
            spiking(),
            nn.Dropout(0.2, deterministic=not train),
            nn.Dense(CLASSES),
            snn.LI(CLASSES, beta=0.8),
        ]
    )


def present(images, mode):
    """Sequences ``[B, T, pixels]`` of images ``[B, 8, 8]``."""
    frames = images.reshape(len(images), 1, 64) if mode == "image" else images
    return np.repeat(frames, HOLD[mode], axis=1)


def load(mode, seed):
    """Training and test sequences and labels."""
    digits = load_digits()
    xs = present((digits.images / 16).astype(np.float32), mode)
    return train_test_split(
        xs, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )


def logits(outputs, mode):
    """Evidence for each class: the readout's mean, or its last value once all rows are in."""
    return outputs.mean(axis=1) if mode == "image" else outputs[:, -HOLD[mode] :].mean(axis=1)


def train(mode, seed, *, epochs, width, batch=64, rate=2e-3):
    """Train, and return the parameters, the curve and the test accuracy."""
    train_x, test_x, train_y, test_y = load(mode, seed)
    learner = snn.Unroll(network(mode, width=width, train=True))
    model = snn.Unroll(network(mode, width=width))
    steps = epochs * (len(train_x) // batch)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=1e-4)
    )

    key = jax.random.key(seed)
    params = model.init(key, train_x[:1])["params"]
    state = optimiser.init(params)

    @jax.jit
    def update(params, state, x, y, key):
        def loss(params):
            outputs = learner.apply({"params": params}, x, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits(outputs, mode), y).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def accuracy(params, x, y):
        return (logits(model.apply({"params": params}, x), mode).argmax(-1) == y).mean()

    curve = []
    shuffle = np.random.default_rng(seed)
    with tqdm(range(epochs), desc=f"{mode}, seed {seed}", unit="epoch") as bar:
        for _ in bar:
            order = shuffle.permutation(len(train_x))[: len(train_x) // batch * batch]
            losses = []
            for chosen in order.reshape(-1, batch):
                key, dropout = jax.random.split(key)
                params, state, value = update(
                    params, state, train_x[chosen], train_y[chosen], dropout
                )
                losses.append(value)
            curve.append(
                (float(jnp.mean(jnp.stack(losses))), float(accuracy(params, train_x, train_y)))
            )
            bar.set_postfix(loss=f"{curve[-1][0]:.3f}", train=f"{curve[-1][1]:.3f}")
    return params, curve, float(accuracy(params, test_x, test_y)), (test_x, test_y)
