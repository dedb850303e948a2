"""What it costs that a spike of NaN is NaN: each layer with and without that, on this machine.

    python examples/benchmarks/nan.py
    python examples/benchmarks/nan.py --layer DSRLIT --rounds 40
    python examples/benchmarks/nan.py --smoke

Both programs of a case live in one process and run in turn, the other one first in every round. It
prints the median over all rounds of the ratio, with over without, and its quartiles.
"""

import argparse
import os
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from machine import processor
from team import CPU

from tracetorch_jax import snn, spikes


def programs(name, steps, batch, neurons):
    """The compiled forward and gradient of a layer over a sequence, and their arguments."""
    jax.clear_caches()  # of what was traced before for the other side
    model = snn.Unroll(snn.ALL_LAYERS[name](neurons), time_major=True)
    xs = 2 * jax.random.normal(jax.random.key(0), (steps, batch, neurons))
    variables = model.init(jax.random.key(1), xs[:1])

    def loss(variables, xs):
        return jnp.square(model.apply(variables, xs)).mean()

    return {
        what: jax.jit(function).lower(variables, xs).compile()
        for what, function in (
            ("forward", lambda variables, xs: model.apply(variables, xs)),
            ("gradient", jax.value_and_grad(loss, (0, 1))),
        )
    }, (variables, xs)


def seconds(program, args, runs):
    """The fastest of some runs."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(program(*args))
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    """Measure every case and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layer", action="append", choices=[*snn.ALL_LAYERS])
    parser.add_argument("--shape", default="100x128x128", help="TxBxN (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=10, help="runs a round takes the fastest of")
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, to see that it runs")
    options = parser.parse_args()
    if not CPU.items() <= os.environ.items():  # memory settings, read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | CPU)
    if options.smoke:
        options.shape, options.rounds, options.runs = "5x2x3", 2, 1
    shape = [int(size) for size in options.shape.split("x")]
    print(f"{processor()}, jax {jax.__version__}, {options.shape}, {options.rounds} rounds")
    for name in options.layer or ("LIB", "LIT", "SLITS", "DSRLIT", "DSRLITS"):
        kept, args = programs(name, *shape)
        with mock.patch.object(spikes, "keep_nan", lambda out, *origins: out):
            bare, _ = programs(name, *shape)
        for what in kept:
            if kept[what].as_text() == bare[what].as_text():
                sys.exit(f"error: {name} has one program for both sides, so nothing is compared")
            sides, ratios = [("with", kept[what]), ("without", bare[what])], []
            for _ in range(options.rounds):
                took = {side: seconds(program, args, options.runs) for side, program in sides}
                ratios.append(took["with"] / took["without"])
                sides.reverse()
            low, median, high = np.percentile(ratios, (25, 50, 75))
            print(f"{name:8} {what:8}  with / without: {median:.3f}  ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
