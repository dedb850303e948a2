"""The libraries that are compared, one file each, behind one interface."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from cases import Case

OWN = ("ours", "ours-sharded", "ours-scan", "ours-scan-sharded", "autodiff", "floor")
GROWTH = ("ours", "ours-sqrt", "autodiff", "floor")
GPU = (
    *("copy", "autodiff", "ours-scan", "ours-scan-4", "ours-scan-8", "ours-scan-16"),
    *("ours-parallel", "ours-fused"),
)
TORCH = (
    *("tracetorch", "tracetorch-smooth", "snntorch"),
    *("spikingjelly", "spikingjelly-fixed", "norse", "sinabs"),
)
JAX = ("spyx", "spyx-threshold", "jaxpike")
PEERS = (*TORCH, *JAX, "sparx")
SPIKINGJELLY = tuple(
    f"spikingjelly-{variant}{backend}"
    for variant in ("", "fixed-")
    for backend in ("triton", "cuda", "cupy")
)
GPU_PEERS = (*SPIKINGJELLY, "sparx", "jaxpike")
ALL = tuple(dict.fromkeys((*OWN, *GROWTH, *GPU, *PEERS, *GPU_PEERS)))


class Unsupported(Exception):
    """A case that the library itself refuses, with its reason."""


class Job(Protocol):
    """One case of one side, ready to run."""

    @property
    def compile_s(self) -> float | None:
        """Seconds that tracing and compiling took, if anything was compiled before a run."""

    @property
    def temp_bytes(self) -> int | None:
        """Greatest memory for intermediate results, if the compiler tells."""

    def run(self, times: int = 1) -> None:
        """Do it, once or several times in a row, and wait until all is done."""

    def result(self) -> dict[str, np.ndarray]:
        """What it computes, by name, time-major; gradients are named as the parameters are.

        A layer gives ``y`` and, with gradients, ``x`` and its parameters. A network gives ``loss``
        and the gradients of its parameters before the first update.
        """


class Side(Protocol):
    """One way to compute the cases.

    Attributes:
        packages: distributions whose versions are reported.
        layout: axes of a sequence in memory.
        notes: where it computes something else than `ours` does.
    """

    packages: tuple[str, ...]
    layout: str
    notes: str

    def build(self, case: Case) -> Job | None:
        """Make a case ready, or None if there is nothing of the kind.

        Raises:
            Unsupported: the library refuses this case.
        """

    def equals_ours(self, case: Case) -> frozenset[str]:
        """Names of the results that must equal those of `ours` to rounding; ``"*"`` for all."""

    def details(self) -> Mapping[str, str]:
        """Anything else worth a line in the report."""


def load(name: str) -> Side:
    """Import a side, and with it the library that it measures."""
    module, _, variant = name.partition("-")
    if name not in ALL:
        raise ValueError(f"`name` must be one of {', '.join(ALL)}; got {name!r}.")
    return importlib.import_module(f"sides.{module}").side(variant)
