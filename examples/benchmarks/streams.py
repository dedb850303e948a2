"""Many live streams in one batch: `export.Streams` against the same program one stream at a time.

    python examples/benchmarks/streams.py
    python examples/benchmarks/streams.py --neurons 512 --streams 64
    python examples/benchmarks/streams.py --smoke

Each of `--streams` streams takes a step: on one side in one call of `Streams.step`, on the other in
a call for each of the program compiled for a batch of one, which also writes where the states were.
Samples are NumPy arrays, and so are outputs. Both sides run in turn in one process, the other first
in every round. It prints the median over all rounds of the CPU time of a round for each side, of
their ratio, with its quartiles, and of the wall time. For one core run it under ``taskset -c 0``.
"""

import argparse
import os
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from machine import processor
from team import CPU

from tracetorch_jax import export, snn

FEATURES = 20


def sides(neurons, number):
    """One step of all streams on each side, from samples ``[number, FEATURES]`` to outputs."""
    model = snn.Unroll(
        snn.Sequential([nn.Dense(neurons), snn.SLIT(neurons), nn.Dense(10), snn.LI(10)])
    )
    variables = model.init(jax.random.key(0), jnp.zeros((1, 1, FEATURES)))
    program = export.step(model, variables, f"b, {FEATURES}", platforms=["cpu"])
    streams = export.Streams(program, capacity=number)
    for name in range(number):
        streams.join(name)

    one = jnp.zeros((1, FEATURES))
    first = export.initial_carry(program, one)
    step = jax.jit(program.call, donate_argnums=0).lower(first, one).compile()
    carries = [export.initial_carry(program, one) for _ in range(number)]

    def batched(xs):
        return streams.step(dict(enumerate(xs)))

    def alone(xs):
        outs = {}
        for name, x in enumerate(xs):
            carries[name], y = step(carries[name], x[None])
            outs[name] = np.asarray(y)[0]
        return outs

    return {"streams": batched, "alone": alone}


def main():
    """Measure every case and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--neurons", type=int, action="append")
    parser.add_argument("--streams", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, to see that it runs")
    options = parser.parse_args()
    if not CPU.items() <= os.environ.items():  # memory settings, read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | CPU)
    if options.smoke:
        options.neurons, options.streams, options.rounds = [3], [2], 2
    print(f"{processor()}, jax {jax.__version__}, {options.rounds} rounds")
    for neurons in options.neurons or (128, 512):
        for number in options.streams or (1, 8, 64, 512):
            compared = sides(neurons, number)
            draws = np.random.default_rng(0)
            order, took = [*compared], {name: [] for name in compared}
            for i in range(options.rounds + 1):
                xs = draws.standard_normal((number, FEATURES), np.float32)
                outs = {}
                for name in order:
                    start = time.process_time(), time.perf_counter()
                    outs[name] = [*compared[name](xs).values()]
                    ended = time.process_time(), time.perf_counter()
                    took[name].append(np.subtract(ended, start))
                order.reverse()
                # Later a rounding may have moved a spike.
                if i == 0 and not np.allclose(outs["streams"], outs["alone"]):
                    sys.exit("The outputs of the sides differ.")
            # The first round pays for its memory.
            ours, alone = (1e3 * np.array(took[name][1:]) for name in ("streams", "alone"))
            (cpu, wall), (cpu_alone, _) = np.median(ours, 0), np.median(alone, 0)
            low, median, high = np.percentile(alone[:, 0] / ours[:, 0], (25, 50, 75))
            print(
                f"{neurons:4} neurons, {number:4} streams: {cpu:.3f} ms (wall {wall:.3f}), "
                f"alone {cpu_alone:.3f} ms; alone / streams: {median:.2f} "
                f"({low:.2f} to {high:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
