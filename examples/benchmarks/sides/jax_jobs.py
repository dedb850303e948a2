"""What all sides in JAX share: jobs that are one compiled program."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import LEARNING_RATE, Case, layer_data, network_data
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Apply = Callable[[Any, jax.Array], jax.Array]

MOMENTUM = 0.9  # Adam's default; a first step makes its moments out of the rest of the gradient


class Program:
    """A jitted function, compiled for its arguments.

    Attributes:
        compile_s: seconds for tracing, lowering and compiling.
        temp_bytes: memory for everything that is neither argument nor result.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        jax.clear_caches()  # what earlier cases have traced, as if the shape were new
        start = time.perf_counter()
        self.compiled = jax.jit(function).lower(*args).compile()
        self.compile_s = time.perf_counter() - start
        self.temp_bytes = self.compiled.memory_analysis().temp_size_in_bytes

    def __call__(self, *args: Any) -> Any:
        """Start it; the result may take a while."""
        return self.compiled(*args)


class Placement:
    """Where a job's arrays lie: on one device, or the batch on several.

    Args:
        batch: B.
        most: how many devices to use at most; as many as B can be divided by.
    """

    def __init__(self, batch: int = 1, most: int = 1) -> None:
        count = max(n for n in range(1, most + 1) if batch % n == 0)
        self.mesh = None
        if count > 1:
            devices = jax.devices()[:count]
            self.mesh = jax.make_mesh(
                (count,), ("data",), axis_types=(AxisType.Auto,), devices=devices
            )

    def put(self, tree: Any, *axes: str | None) -> Any:
        """Arrays whose axes are split as said; on every device as a whole if nothing is said."""
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(*axes)))

    def sequence(self, x: Any) -> jax.Array:
        """``[T, B, ...]``."""
        return self.put(x, None, "data")


class LayerJob:
    """A layer over a sequence, with or without its gradients."""

    def __init__(
        self, apply: Apply, params: Any, case: Case, placement: Placement | None = None
    ) -> None:
        placement = placement or Placement()
        data = (jnp.asarray(array, case.dtype) for array in layer_data(case))
        x, g = map(placement.sequence, data)
        params = placement.put(params)
        self.gradient = case.gradient

        def forward_and_backward(params: Any, x: jax.Array, g: jax.Array) -> Any:
            y, pull = jax.vjp(apply, params, x)
            return y, *pull(g)

        self.args = (params, x, g) if case.gradient else (params, x)
        self.program = Program(forward_and_backward if case.gradient else apply, *self.args)
        self.compile_s = self.program.compile_s
        self.temp_bytes = self.program.temp_bytes

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            out = self.program(*self.args)
        jax.block_until_ready(out)

    def result(self) -> dict[str, np.ndarray]:
        out = self.program(*self.args)
        if not self.gradient:
            return flatten({"y": out})
        y, params, x = out
        return flatten({"y": y, "x": x}) | flatten(params)


class TrainingJob:
    """A network's training step. Every run goes on from the parameters of the one before.

    Args:
        logits: from parameters and input ``[T, B, 256]`` to the readout ``[T, B, 20]``.
        params: the parameters to start from.
        case: gives the data.
        placement: where they go.
    """

    def __init__(
        self, logits: Apply, params: Any, case: Case, placement: Placement | None = None
    ) -> None:
        placement = placement or Placement()
        optimiser = optax.adam(LEARNING_RATE, b1=MOMENTUM)
        x, labels = network_data(case)
        self.x = placement.sequence(x)
        self.labels = placement.put(labels, "data")
        params = placement.put(params)

        def loss(params: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
            mean = logits(params, x).mean(axis=0)
            return optax.softmax_cross_entropy_with_integer_labels(mean, labels).mean()

        def update(params: Any, state: Any, x: jax.Array, labels: jax.Array) -> Any:
            value, gradient = jax.value_and_grad(loss)(params, x, labels)
            updates, state = optimiser.update(gradient, state)
            return optax.apply_updates(params, updates), state, value

        self.params, self.state = params, placement.put(jax.jit(optimiser.init)(params))
        self.first = self.params, self.state
        self.program = Program(update, self.params, self.state, self.x, self.labels)
        self.compile_s = self.program.compile_s
        self.temp_bytes = self.program.temp_bytes

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            self.params, self.state, _ = self.program(self.params, self.state, self.x, self.labels)
        jax.block_until_ready(self.params)

    def result(self) -> dict[str, np.ndarray]:
        _, state, loss = self.program(*self.first, self.x, self.labels)
        moments = flatten(optax.tree_utils.tree_get(state, "mu"))
        gradients = {name: moment / (1 - MOMENTUM) for name, moment in moments.items()}
        return flatten({"loss": loss}) | gradients


def describe_devices() -> dict[str, str]:
    """What JAX runs on."""
    devices = jax.devices()
    return {
        "platform": jax.default_backend(),
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Leaves of a tree by dotted names, in a dtype that NumPy can store."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf, np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
