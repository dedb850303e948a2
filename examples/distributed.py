"""Train one spiking network on all the devices there are: one, several, or those of several hosts.

    python examples/distributed.py                      whatever JAX finds
    python examples/distributed.py --devices 8          eight virtual devices on one CPU
    python examples/distributed.py --devices 8 --model 2

Several hosts run the same command, each with a number of its own, and find one another at an
address of the first; here two processes on one machine:

    python examples/distributed.py --coordinator 127.0.0.1:1234 --processes 2 --process-id 0 &
    python examples/distributed.py --coordinator 127.0.0.1:1234 --processes 2 --process-id 1

The batch is split over the mesh axis "data", neurons over "model", parameters by name. Each host
holds only its own part of a batch. However many devices there are, an update is the same to
rounding; after many, a spike more or less may have made a difference.

The data are scikit-learn's handwritten digits, each shown for 16 steps; a fifth, drawn by the seed,
is the test set.
"""

import argparse
import pathlib
import time

import flax.linen as nn
import harness
import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from tracetorch_jax import checkpoint, losses, sharding, snn, training

CLASSES, STEPS = 10, 16
RULES = {
    "layers_[45]/": P(),  # the readout is whole on every device
    "kernel$": P(None, "model"),
    "bias$": P("model"),
    "raw_": P("model"),
}


def network(width):
    return snn.Sequential(
        [
            nn.Dense(width),
            snn.layer("SLITS", width, half_lives=(0.3, 8.0)),
            nn.Dense(width),
            snn.layer("SLITS", width, half_lives=(0.3, 8.0)),
            nn.Dense(CLASSES),
            snn.LI(CLASSES, beta=0.8),
        ]
    )


def load(seed):
    """Training and test sequences of one step, ``[B, 1, pixels]``, and classes."""
    digits = load_digits()
    xs = (digits.data[:, None] / 16).astype(np.float32)
    return train_test_split(
        xs, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )


def connect(args):
    """Start JAX with the devices asked for, and lay them out as a mesh."""
    if args.devices:
        jax.config.update("jax_num_cpu_devices", args.devices)
    if args.coordinator:
        jax.distributed.initialize(args.coordinator, args.processes, args.process_id)
    devices, here = jax.device_count(), jax.local_device_count()
    if here % args.model:
        harness.fail(f"--model must divide the {here} devices of each host; got {args.model}.")
    if args.batch % (devices // args.model):
        harness.fail(
            f"--batch must be a multiple of the {devices // args.model} parts that it is split in; "
            f"got {args.batch}."
        )
    shape = (devices // args.model, args.model)
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def spread(mesh, *arrays):
    """Split rows that are alike on every host over the mesh, each host keeping only its own."""
    split = NamedSharding(mesh, P("data"))
    own = len(arrays[0]) // jax.process_count()
    rows = slice(own * jax.process_index(), own * (jax.process_index() + 1))
    return [jax.make_array_from_process_local_data(split, array[rows]) for array in arrays]


def train(args, mesh):
    """Train; return the parameters, the last loss and the test accuracy."""
    train_x, test_x, train_y, test_y = load(args.seed)
    train_x, train_y = train_x[: args.rows], train_y[: args.rows]
    model = snn.Unroll(network(args.width), hold=STEPS)
    per_epoch = len(train_x) // args.batch
    optimiser = training.adamw(args.rate, args.epochs * per_epoch)

    def init(key):
        params = model.init(key, train_x[:1])["params"]
        return {"params": params, "optimiser": optimiser.init(params)}

    key = jax.random.key(args.seed)
    shapes = jax.eval_shape(init, key)
    places = sharding.shardings(shapes, mesh, sharding.partition_specs(shapes, RULES))
    state = jax.jit(init, out_shardings=places)(key)  # made where it belongs

    @jax.jit
    def update(state, xs, labels):
        def loss(params):
            return losses.cross_entropy(model.apply({"params": params}, xs), labels).mean()

        value, gradient = jax.value_and_grad(loss)(state["params"])
        updates, moments = optimiser.update(gradient, state["optimiser"], state["params"])
        return {
            "params": optax.apply_updates(state["params"], updates),
            "optimiser": moments,
        }, value

    @jax.jit
    def right(params, xs, labels):
        return (model.apply({"params": params}, xs).mean(axis=1).argmax(axis=-1) == labels).sum()

    rng = np.random.default_rng(args.seed)
    times = []
    first = jax.process_index() == 0
    with tqdm(range(args.epochs), desc="training", unit="epoch", disable=not first) as bar:
        for _ in bar:
            order = rng.permutation(len(train_x))[: per_epoch * args.batch]
            start = time.perf_counter()
            for chosen in order.reshape(per_epoch, args.batch):
                state, value = update(state, *spread(mesh, train_x[chosen], train_y[chosen]))
            value = float(value)
            times.append((time.perf_counter() - start) / per_epoch)
            bar.set_postfix(loss=f"{value:.3f}")

    missing = -len(test_x) % args.batch  # rows that make the test set divide, of no class
    test_x = np.concatenate([test_x, np.zeros_like(test_x[:missing])])
    test_y = np.concatenate([test_y, np.full(missing, -1)])
    accuracy = int(right(state["params"], *spread(mesh, test_x, test_y))) / (len(test_x) - missing)
    if first:
        print(f"time per step {1e3 * np.median(times[1:]):.2f} ms, median over epochs")
    return state["params"], value, accuracy


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--devices", type=int, help="virtual devices on each host's CPU")
    add("--model", type=int, default=1, help="devices over which neurons are split")
    add("--coordinator", metavar="HOST:PORT", help="address of the first of several processes")
    add("--processes", type=int, default=1, help="how many there are")
    add("--process-id", type=int, default=0, help="which this is, from 0 on")
    add("--seed", type=int, default=0, help="of the split, the weights and the order of the data")
    add("--epochs", type=int, default=30, help="passes over the training set")
    add("--batch", type=int, default=64, help="sequences per update, of all devices together")
    add("--rate", type=float, default=4e-3, help="greatest learning rate")
    add("--save", type=pathlib.Path, metavar="PATH", help="write the parameters to this folder")
    add("--smoke", action="store_true", help="tiny and quick, to see that it runs")
    args = parser.parse_args()
    args.width, args.rows = 128, None
    if args.smoke:
        args.width, args.rows, args.epochs = 16, 128, 2

    mesh = connect(args)
    if jax.process_index() == 0:
        sizes = " x ".join(f"{size} {name}" for name, size in mesh.shape.items())
        print(f"{jax.process_count()} hosts, mesh of {sizes}, {jax.devices()[0].device_kind}")
    params, value, accuracy = train(args, mesh)
    if args.save:
        checkpoint.save(args.save, params)
    print(f"process {jax.process_index()}: last loss {value:.6f}")
    if jax.process_index() == 0:
        print(f"test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
