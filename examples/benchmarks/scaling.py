"""Time of a training step on one and on several virtual devices, with the batch split over them.

    python examples/benchmarks/scaling.py                  one and two devices
    python examples/benchmarks/scaling.py --devices 1 2 4
    python examples/benchmarks/scaling.py --smoke

All run in one process, in turn, and what is printed are medians over rounds. The batch is the same
however many devices share it. Virtual devices gain only what cores are free: compare on a machine
that does nothing else.
"""

import argparse
import os
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from team import CPU

from tracetorch_jax import sharding, snn

SHAPES = {"100x64, N=512": (100, 64, 512), "1000x32, N=128": (1000, 32, 128)}
NETWORK = "100x64, N=256"


def layer_step(name, steps, batch, neurons):
    """Forward and backward of one layer: the function, what is copied, and what is split."""
    model = snn.Unroll(snn.ALL_LAYERS[name](neurons))
    xs = jax.random.normal(jax.random.key(0), (batch, steps, neurons))
    params = model.init(jax.random.key(1), xs[:, :1])
    loss = jax.value_and_grad(lambda params, xs: jnp.square(model.apply(params, xs)).mean(), (0, 1))
    return loss, (params,), (xs,)


def network_step(steps, batch, neurons):
    """A training step of two hidden layers and a readout."""
    cell = snn.Sequential(
        [nn.Dense(neurons), snn.SLIB(neurons), nn.Dense(neurons), snn.SLIB(neurons), nn.Dense(10)]
    )
    model = snn.Unroll(cell)
    xs = jax.random.normal(jax.random.key(0), (batch, steps, neurons))
    labels = jnp.arange(batch) % 10
    params = model.init(jax.random.key(1), xs[:, :1])
    optimiser = optax.adam(1e-3)

    def update(params, state, xs, labels):
        def loss(params):
            logits = model.apply(params, xs).mean(axis=1)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    return update, (params, optimiser.init(params)), (xs, labels)


def cases(smoke):
    """What is measured, by name."""
    if smoke:
        return {"LIB 10x8, N=4": layer_step("LIB", 10, 8, 4), "network": network_step(5, 8, 4)}
    found = {}
    for name in ("LIB", "SRLIT", "DSRLITS"):
        for label, shape in SHAPES.items():
            found[f"{name} forward+backward {label}"] = layer_step(name, *shape)
    return found | {f"network training {NETWORK}": network_step(100, 64, 256)}


def measure(case, counts, rounds, seconds):
    """Median seconds of a call for each number of devices, measured in turn."""
    function, copied, split = case
    runs = {}
    for count in counts:
        mesh = jax.make_mesh((count,), ("data",), devices=jax.devices()[:count])
        args = *sharding.shard(copied, mesh, P()), *sharding.shard(split, mesh, P("data"))
        with jax.set_mesh(mesh):
            compiled = jax.jit(function).lower(*args).compile()
        jax.block_until_ready(compiled(*args))
        runs[count] = compiled, args
    times = {count: [] for count in counts}
    for _ in range(rounds):
        for count, (compiled, args) in runs.items():
            calls, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds or not calls:
                jax.block_until_ready(compiled(*args))
                calls += 1
            times[count].append((time.perf_counter() - start) / calls)
    return {count: float(np.median(each)) for count, each in times.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--devices", type=int, nargs="+", default=[1, 2], help="numbers of devices to compare")
    add("--rounds", type=int, default=9, help="turns of each number of devices")
    add("--seconds", type=float, default=0.3, help="time of one turn")
    add("--smoke", action="store_true", help="tiny and quick, to see that it runs")
    args = parser.parse_args()
    if not CPU.items() <= os.environ.items():  # memory settings, read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | CPU)
    if args.smoke:
        args.rounds, args.seconds = 1, 0.0
    jax.config.update("jax_num_cpu_devices", max(args.devices))

    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"jax {jax.__version__}, {os.cpu_count()} cores, load {load}\n")
    first, *others = args.devices
    columns = [f"{count} devices, ms" for count in args.devices]
    columns += [f"{first} / {count}" for count in others]
    print("| | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for name, case in cases(args.smoke).items():
        times = measure(case, args.devices, args.rounds, args.seconds)
        cells = [f"{1e3 * times[count]:.2f}" for count in args.devices]
        cells += [f"{times[first] / times[count]:.2f}" for count in others]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
