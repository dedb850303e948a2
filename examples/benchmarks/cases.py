"""What is measured: layers, networks, their sizes and their data.

Every side imports this file in its own process and makes the same numbers out of it, so it needs
nothing but NumPy.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

SHAPES = ((100, 64, 512), (1000, 32, 128), (4000, 8, 128))
NETWORK_SHAPES = ((100, 64, 256), (100, 16, 128))
GROWTH_STEPS = (100, 320, 1000, 3200, 10_000, 32_000)
GROWTH_BATCH, GROWTH_NEURONS = 8, 128
LONG_NETWORK = (100_000, 2, 128)

GPU_SHAPES = ((1000, 128, 1024), (100, 64, 512), (4000, 8, 128))
DTYPES = ("float32", "bfloat16")

SMOKE_SHAPES = ((12, 4, 8),)
SMOKE_STEPS = (6, 12)
SMOKE_LONG_NETWORK = (60, 2, 8)

LAYERS = {
    "LIB": ("beta", "threshold"),
    "SRLIT": ("alpha", "beta", "gamma", "pos_threshold", "neg_threshold", "rec_weight"),
    "DSRLITS": (
        *("pos_alpha", "neg_alpha", "pos_beta", "neg_beta", "pos_gamma", "neg_gamma"),
        *("pos_threshold", "neg_threshold", "pos_scale", "neg_scale"),
        *("pos_rec_weight", "neg_rec_weight"),
    ),
}
"""Layers, and the names of their parameters: one value for each neuron, all learnt."""

STATES = {"LIB": 1, "SRLIT": 4, "DSRLITS": 7}
"""How many arrays ``[B, N]`` a layer carries from step to step."""

NETWORK_LAYERS = ("LIB", "DSRLITS")
"""The hidden layers of the networks."""

VALUES = {
    "alpha": 0.5,
    "beta": 0.9,
    "gamma": 0.9,
    "threshold": 1.0,
    "scale": 1.0,
    "rec_weight": 0.1,
}
"""What parameters start from, in both signs."""

AMPLITUDE = 0.7  # standard deviation of a layer's input; about every tenth neuron fires
WEIGHT_GAINS = (0.7, 2.0, 1.0)  # of the three Dense layers, for about the same rate
INPUTS, CLASSES = 256, 20
LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is timed.

    Attributes:
        layer: its name; of a network, that of both hidden layers.
        network: whether it is a network; that is always trained.
        gradient: whether a layer's gradients are computed too.
        steps: T.
        batch: B.
        neurons: N.
        dtype: of a layer's input; sides that know float32 only leave other cases out.
    """

    layer: str
    gradient: bool
    steps: int
    batch: int
    neurons: int
    network: bool = False
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """As selected by ``--case`` and printed in the table."""
        work = f"{self.layer}/{'gradient' if self.gradient else 'forward'}"
        if self.network:
            work = f"network-{self.layer}/training"
        other = "" if self.dtype == "float32" else f"/{self.dtype}"
        return f"{work}/{self.steps}x{self.batch}x{self.neurons}{other}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """``[T, B, N]``."""
        return self.steps, self.batch, self.neurons

    def message(self) -> dict[str, Any]:
        """As it is sent to a worker."""
        return dataclasses.asdict(self)


def _case(layer: str, gradient: bool, shape: tuple[int, int, int], **more: Any) -> Case:
    steps, batch, neurons = shape
    return Case(layer=layer, gradient=gradient, steps=steps, batch=batch, neurons=neurons, **more)


def _network(layer: str, shape: tuple[int, int, int]) -> Case:
    return _case(layer, True, shape, network=True)


def default_cases(smoke: bool = False) -> list[Case]:
    """Every layer, forward and with gradients, at every size; then the networks.

    To see that it runs, most layers do with gradients, which come with the outputs.
    """
    cases = [
        _case(layer, gradient, shape)
        for layer in LAYERS
        for shape in (SMOKE_SHAPES if smoke else SHAPES)
        for gradient in (False, True)
        if gradient or layer == "LIB" or not smoke
    ]
    shapes = SMOKE_SHAPES if smoke else NETWORK_SHAPES
    return cases + [_network(layer, shape) for layer in NETWORK_LAYERS for shape in shapes]


def gpu_cases(
    layers: Sequence[str], shapes: Sequence[tuple[int, int, int]], smoke: bool = False
) -> list[Case]:
    """Layers, forward and with gradients, in every dtype at every size.

    To see that it runs, forward in the one and with gradients in the other.
    """
    return [
        _case(layer, gradient, shape, dtype=dtype)
        for layer in layers
        for shape in shapes
        for dtype in DTYPES
        for gradient in (False, True)
        if gradient == (dtype != "float32") or not smoke
    ]


def growth_cases(smoke: bool = False) -> list[Case]:
    """A layer with gradients over longer and longer sequences, and a very long training step."""
    cases = [
        _case("LIB", True, (steps, GROWTH_BATCH, GROWTH_NEURONS))
        for steps in (SMOKE_STEPS if smoke else GROWTH_STEPS)
    ]
    return [*cases, _network("LIB", SMOKE_LONG_NETWORK if smoke else LONG_NETWORK)]


def layer_values(layer: str) -> dict[str, float]:
    """The value of every parameter of a layer."""
    return {name: _value(name) for name in LAYERS[layer]}


def _value(name: str) -> float:
    return VALUES[name.removeprefix("pos_").removeprefix("neg_")]


def layer_data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """A layer's input, and what its output is weighted by in the sum to be differentiated."""
    rng = np.random.default_rng(case.shape)
    x = AMPLITUDE * rng.standard_normal(case.shape, dtype=np.float32)
    return x, rng.standard_normal(case.shape, dtype=np.float32)


def network_data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Input ``[T, B, 256]`` and labels ``[B]``."""
    rng = np.random.default_rng(case.shape)
    x = rng.standard_normal((case.steps, case.batch, INPUTS), dtype=np.float32)
    return x, rng.integers(CLASSES, size=case.batch)


def network_weights(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel ``[in, out]`` and bias ``[out]`` of every Dense layer."""
    rng = np.random.default_rng(case.neurons)
    sizes = (INPUTS, case.neurons, case.neurons, CLASSES)
    weights = []
    for gain, fan_in, fan_out in zip(WEIGHT_GAINS, sizes, sizes[1:], strict=False):
        kernel = rng.standard_normal((fan_in, fan_out), dtype=np.float32)
        kernel *= np.float32(gain / math.sqrt(fan_in))
        weights.append((kernel, np.zeros(fan_out, np.float32)))
    return weights


def copy_bytes(platform: str) -> int:
    """Size of what is copied to see how fast the device's memory is: many times a GPU's caches."""
    return 1 << (30 if platform == "gpu" else 20)


def cores() -> int:
    """Processor cores that this process may use; every side is told to use them all."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
