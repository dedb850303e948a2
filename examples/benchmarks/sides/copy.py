"""How fast the device copies its memory: a fact about the card, whatever the case."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, copy_bytes

from sides import Job
from sides.jax_jobs import Program, describe_devices


class CopyJob:
    """Reads an array and writes another, with nothing that the compiler could leave out."""

    def __init__(self) -> None:
        size = copy_bytes(jax.default_backend())
        self.args = jnp.ones(size // 4, jnp.float32), jnp.float32(0)
        self.program = Program(lambda x, zero: x + zero, *self.args)
        self.compile_s = self.program.compile_s
        self.temp_bytes = self.program.temp_bytes

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            out = self.program(*self.args)
        jax.block_until_ready(out)

    def result(self) -> dict[str, np.ndarray]:
        return {}


class Copy:
    packages = ("jax", "jaxlib", "numpy")
    layout = "one axis"
    notes = "y = x + 0, of 1 GiB on a GPU, whatever the case"

    def build(self, case: Case) -> Job | None:
        return CopyJob()

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset()

    def details(self) -> dict[str, str]:
        return describe_devices()


def side(variant: str) -> Copy:
    return Copy()
