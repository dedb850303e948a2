"""What cannot be undercut: the same memory once, and the same network without its neurons."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import STATES, Case, layer_data, network_weights

from sides import Job
from sides.autodiff import dense_over_time
from sides.jax_jobs import Program, TrainingJob


class MemoryJob:
    """Reads and writes what a layer cannot help reading and writing, and computes next to nothing.

    Forward, x is read and y written. With gradients there are two programs, one after the other,
    so that nothing can be kept in registers from the one to the other: the first reads x and
    writes y and one array of the size of x for each state of the layer, the second reads the
    gradient of y and these arrays and writes the gradient of x.

    Writing an array of residuals reads nothing: each is filled with a number that the compiler
    does not know. So no pass is counted twice, even though XLA writes every array in a loop of its
    own. Each such loop runs on as many cores as XLA sees fit, which for these sizes is all of them.
    """

    def __init__(self, case: Case) -> None:
        self.x, self.g = map(jnp.asarray, layer_data(case))
        states = STATES[case.layer] if case.gradient else 0
        self.numbers = jnp.arange(1.0, states + 2)

        def forward(x: jax.Array, numbers: jax.Array) -> Any:
            return x * numbers[0], [jnp.full(x.shape, number) for number in numbers[1:]]

        def backward(g: jax.Array, residuals: Any) -> jax.Array:
            return sum(residuals, g)

        self.forward = Program(forward, self.x, self.numbers)
        self.compile_s = self.forward.compile_s
        self.temp_bytes = self.forward.temp_bytes + states * self.x.nbytes
        self.backward = None
        if case.gradient:
            residuals = self.forward(self.x, self.numbers)[1]
            self.backward = Program(backward, self.g, residuals)
            self.compile_s += self.backward.compile_s

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            y, residuals = self.forward(self.x, self.numbers)
            done = y if self.backward is None else self.backward(self.g, residuals)
        jax.block_until_ready((y, done))

    def result(self) -> dict[str, np.ndarray]:
        return {}


class Floor:
    """The memory of a layer, the matrix products of a network."""

    packages = ("jax", "jaxlib", "optax", "numpy")
    layout = "[T, B, N]"
    notes = (
        "layers: reads and writes the same arrays once, without computing anything, on as many "
        "cores as XLA takes; network: the three Dense layers alone, same loss and optimiser"
    )

    def build(self, case: Case) -> Job | None:
        if not case.network:
            return MemoryJob(case)
        params = [
            {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
            for kernel, bias in network_weights(case)
        ]

        def logits(params: Any, xs: jax.Array) -> jax.Array:
            for dense in params:
                xs = dense_over_time(dense, xs)
            return xs

        return TrainingJob(logits, params, case)

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset()

    def details(self) -> dict[str, str]:
        return {}


def side(variant: str) -> Floor:
    return Floor()
