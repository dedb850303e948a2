"""sparx: linen layers, applied to a whole sequence."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import sparx
from cases import CLASSES, INPUTS, VALUES, Case, network_weights

from sides import Job
from sides.jax_jobs import LayerJob, TrainingJob, describe_devices

TIME_CONSTANT = -1 / math.log(VALUES["beta"])


def neurons() -> nn.Module:
    return sparx.nn.LIF(tau=TIME_CONSTANT, threshold=VALUES["threshold"], learn_tau=True)


class Network(nn.Module):
    """Dense layers with neurons between them, and a readout."""

    width: int

    @nn.compact
    def __call__(self, xs: jax.Array) -> jax.Array:
        for _ in range(2):
            xs = neurons()(nn.Dense(self.width)(xs))
        return sparx.nn.LI(tau=TIME_CONSTANT, learn_tau=True)(nn.Dense(CLASSES)(xs))


class Sparx:
    packages = ("sparxml", "jax", "jaxlib", "flax", "optax", "numpy")
    layout = "[T, B, N]"
    notes = (
        "LIF, decays learnt per neuron, thresholds are constants; fires at the threshold, where "
        "ours fires above it; the readout sums rather than averages"
    )

    def build(self, case: Case) -> Job | None:
        if case.layer != "LIB":
            return None
        return self._network(case) if case.network else self._layer(case)

    def _layer(self, case: Case) -> Job:
        layer = neurons()
        start = layer.init(jax.random.key(0), jnp.zeros((1, 1, case.neurons)))["params"]

        def apply(params: Any, x: jax.Array) -> jax.Array:
            return layer.apply({"params": {"decay": params["raw_beta"]}}, x)

        # Under our name, by which its gradient is compared with ours.
        return LayerJob(apply, {"raw_beta": start["decay"]}, case)

    def _network(self, case: Case) -> Job:
        model = Network(case.neurons)
        params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, INPUTS)))["params"]
        for index, (kernel, bias) in enumerate(network_weights(case)):
            params[f"Dense_{index}"] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
        return TrainingJob(lambda params, xs: model.apply({"params": params}, xs), params, case)

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset() if case.network else frozenset({"y", "x", "raw_beta"})

    def details(self) -> dict[str, str]:
        return describe_devices()


def side(variant: str) -> Sparx:
    return Sparx()
