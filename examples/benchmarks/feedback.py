"""The gradient of recurrence between neurons: `functional.unroll` against plain autodiff.

    python examples/benchmarks/feedback.py
    python examples/benchmarks/feedback.py --memory
    python examples/benchmarks/feedback.py --smoke

Both sides differentiate the same step, a layer with a matrix from its last output to its input. One
runs it with `functional.unroll`, the other with `jax.lax.scan`. The programs of a case live in one
process and run in turn, the other one first in every round. It prints the memory that each program
needs beyond arguments and results, as XLA reports it, and the median over all rounds of the ratio
of their CPU times, with its quartiles. For one core run it under ``taskset -c 0``.
"""

import argparse
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from machine import processor
from team import CPU

from tracetorch_jax import functional, snn

TIMED = "100x64x256", "1000x32x128", "250x128x512"
MEASURED = "1000x32x128", "10000x8x128"


def multiply(kernel, y):
    """The feedback: a matrix."""
    return y @ kernel


def programs(name, steps, batch, neurons):
    """The compiled gradient of each side, and its arguments."""
    layer = snn.ALL_LAYERS[name](neurons)
    xs = 2 * jax.random.normal(jax.random.key(0), (steps, batch, neurons))
    variables = layer.init(jax.random.key(1), None, xs[0])
    kernel = jax.nn.initializers.orthogonal(0.3)(jax.random.key(2), (neurons, neurons))
    params = {"cell": layer.apply(variables, method="parameters"), "feedback": kernel}
    step = functional.RecurrentStep(functional.LayerStep(layer.spec, layer.spike), multiply)

    def start(xs):
        states = {name: jnp.zeros_like(xs[0]) for name in layer.spec.states}
        return {"cell": states, "prev_output": jnp.zeros_like(xs[0])}

    def ours(params, xs):
        return functional.unroll(step, params, start(xs), xs)[1]

    def plain(params, xs):
        return jax.lax.scan(lambda state, x: step(params, state, x), start(xs), xs)[1]

    def gradient(run):
        def loss(params, xs):
            return jnp.square(run(params, xs)).mean()

        return jax.jit(jax.grad(loss, (0, 1))).lower(params, xs).compile()

    return {"ours": gradient(ours), "plain": gradient(plain)}, (params, xs)


def seconds(program, args):
    """CPU time of one run, of all threads."""
    start = time.process_time()
    jax.block_until_ready(program(*args))
    return time.process_time() - start


def main():
    """Measure every case and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layer", action="append", choices=[*snn.ALL_LAYERS])
    parser.add_argument("--shape", action="append", help="TxBxN")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--memory", action="store_true", help="compile and measure memory only")
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, to see that it runs")
    options = parser.parse_args()
    if not CPU.items() <= os.environ.items():  # memory settings, read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | CPU)
    if options.smoke:
        options.shape, options.rounds = ["5x2x3"], 2
    shapes = options.shape or (MEASURED if options.memory else TIMED)
    print(f"{processor()}, jax {jax.__version__}, {options.rounds} rounds")
    for name in options.layer or ("LIB", "DSRLIT"):
        for shape in shapes:
            sides, args = programs(name, *(int(size) for size in shape.split("x")))
            memory = {
                side: compiled.memory_analysis().temp_size_in_bytes / args[1].nbytes
                for side, compiled in sides.items()
            }
            said = ", ".join(f"{side} {share:.2f}" for side, share in memory.items())
            print(f"{name:8} {shape:12} memory in sizes of the input: {said}")
            if options.memory:
                continue
            order, ratios = [*sides], []
            for program in sides.values():
                seconds(program, args)  # the first run pays for its memory
            for _ in range(options.rounds):
                took = {side: seconds(sides[side], args) for side in order}
                ratios.append(took["ours"] / took["plain"])
                order.reverse()
            low, median, high = np.percentile(ratios, (25, 50, 75))
            print(f"{'':21} time, ours / plain: {median:.3f}  ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
