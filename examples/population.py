"""Train a population of spiking networks at once, each with a seed and a learning rate of its own.

    python examples/population.py
    python examples/population.py --members 16 --devices 2
    python examples/population.py --alone              also one after the other, to compare

A population is a tree of parameters with one more axis in front, made, trained and tested by
`jax.vmap` of what makes, trains and tests one network; each member's learning rate is part of its
optimiser's state. The accuracy at the end is that of the population's mean opinion. With --devices
the members are split over virtual devices.

The data are scikit-learn's handwritten digits, each shown for 16 steps; a fifth is the test set.
"""

import argparse
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from distributed import CLASSES, load
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from tracetorch_jax import losses, sharding, snn


def network(width):
    return snn.Sequential(
        [
            nn.Dense(width),
            snn.layer("LIT", width, half_lives=(0.3, 8.0)),
            nn.Dense(CLASSES),
            snn.LI(CLASSES, beta=0.8),
        ]
    )


def functions(width, sample):
    """What makes, trains and tests one network."""
    model = snn.Unroll(network(width))
    optimiser = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)

    def init(key, rate):
        params = model.init(key, sample)["params"]
        moments = optimiser.init(params)
        moments.hyperparams["learning_rate"] = rate
        return params, moments

    def update(state, xs, labels):
        params, moments = state

        def loss(params):
            return losses.cross_entropy(model.apply({"params": params}, xs), labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimiser.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    def opinion(state, xs):
        return jax.nn.softmax(model.apply({"params": state[0]}, xs).mean(axis=1))

    return init, update, opinion


def batches(args, rows):
    """Rows of every update, the same for all members."""
    rng = np.random.default_rng(args.seed)
    per_epoch = rows // args.batch
    for _ in range(args.epochs):
        order = rng.permutation(rows)[: per_epoch * args.batch]
        yield order.reshape(per_epoch, args.batch)


def train(update, state, data, args, title):
    """Train one state, or all of a population; return it, and the seconds per update."""
    xs, labels = data
    times = []
    with tqdm(batches(args, len(xs)), desc=title, unit="epoch", total=args.epochs) as bar:
        for rows in bar:
            start = time.perf_counter()
            for chosen in rows:
                state, value = update(state, xs[chosen], labels[chosen])
            jax.block_until_ready(state)
            times.append((time.perf_counter() - start) / len(rows))
            bar.set_postfix(loss=f"{float(jnp.mean(value)):.3f}")
    return state, float(np.median(times[1:]))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--members", type=int, default=8, help="networks in the population")
    add("--rates", type=float, nargs=2, default=(1e-3, 2e-2), metavar=("LOW", "HIGH"),
        help="learning rates, spread evenly on a logarithmic scale")  # fmt: skip
    add("--width", type=int, default=32, help="neurons in the hidden layer")
    add("--devices", type=int, help="virtual devices, over which members are split")
    add("--alone", action="store_true", help="then train them one after the other, to compare")
    add("--seed", type=int, default=0, help="of the first member, the split and the order")
    add("--epochs", type=int, default=20, help="passes over the training set")
    add("--batch", type=int, default=64, help="sequences per update")
    add("--smoke", action="store_true", help="tiny and quick, to see that it runs")
    args = parser.parse_args()
    if args.devices:
        jax.config.update("jax_num_cpu_devices", args.devices)

    train_x, test_x, train_y, test_y = load(args.seed)
    if args.smoke:
        args.width, args.epochs, args.alone = 8, 2, True
        train_x, train_y = train_x[:128], train_y[:128]
    data = train_x, train_y
    init, update, opinion = functions(args.width, train_x[:1])

    keys = jax.vmap(jax.random.key)(args.seed + jnp.arange(args.members))
    rates = jnp.geomspace(*args.rates, args.members)
    population = jax.vmap(init)(keys, rates)
    if args.devices:
        mesh = jax.make_mesh((args.devices,), ("members",), axis_types=(AxisType.Auto,))
        population = sharding.shard(population, mesh, P("members"))
    together = jax.jit(jax.vmap(update, in_axes=(0, None, None)))
    population, seconds = train(together, population, data, args, "together")

    opinions = jax.jit(jax.vmap(opinion, in_axes=(0, None)))(population, test_x)
    accuracies = (opinions.argmax(axis=-1) == test_y).mean(axis=-1)
    for rate, accuracy in zip(rates, accuracies, strict=True):
        print(f"learning rate {rate:.4f}: test accuracy of the member {accuracy:.3f}")

    if args.alone:
        one_by_one = jax.jit(update)
        times, apart = [], 0.0
        for i in range(args.members):
            alone, spent = train(one_by_one, init(keys[i], rates[i]), data, args, f"no. {i}")
            times.append(spent)
            same = opinion(alone, test_x).argmax(axis=-1) == opinions[i].argmax(axis=-1)
            apart = max(apart, 1 - float(same.mean()))
        print(f"greatest share of test images on which a member trained alone differs: {apart:.3f}")
        ratio = sum(times) / seconds
        print(f"one update of all: {1e3 * seconds:.1f} ms together, {1e3 * sum(times):.1f} ms one "
              f"after the other, {ratio:.2f} times as long")  # fmt: skip
    print(f"test accuracy {(opinions.mean(axis=0).argmax(axis=-1) == test_y).mean():.3f}")


if __name__ == "__main__":
    main()
