"""jaxpike: Equinox modules, run over time by ``jaxpike.unroll``."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxpike
from cases import CLASSES, VALUES, Case, network_weights

from sides import Job
from sides.jax_jobs import LayerJob, TrainingJob, describe_devices

TIME_CONSTANT = -1 / math.log(VALUES["beta"])
# The input enters times 1 - beta; so does the threshold, and the spikes are ours.
THRESHOLD = (1 - VALUES["beta"]) * VALUES["threshold"]


class Jaxpike:
    packages = ("jaxpike", "equinox", "jax", "jaxlib", "optax", "numpy")
    layout = "[T, B, N]"
    notes = (
        "LIF, time constants learnt per neuron, thresholds are constants; surrogate derivative "
        "FastSigmoid, its default; eight steps in an iteration of the loop, its default"
    )

    def build(self, case: Case) -> Job | None:
        if case.layer != "LIB":
            return None
        module = self._network(case) if case.network else self._neurons(case.neurons)
        params, rest = eqx.partition(module, eqx.is_inexact_array)

        def apply(params: Any, xs: jax.Array) -> jax.Array:
            return jaxpike.unroll(eqx.combine(params, rest), xs)[0]

        return (TrainingJob if case.network else LayerJob)(apply, params, case)

    def _neurons(self, count: int) -> eqx.Module:
        return jaxpike.LIF(tau=jnp.full((count,), TIME_CONSTANT), threshold=THRESHOLD)

    def _network(self, case: Case) -> eqx.Module:
        layers: list[eqx.Module] = []
        for kernel, bias in network_weights(case):
            dense = jaxpike.Dense(*kernel.shape, key=jax.random.key(0))
            weights = jnp.asarray(kernel.T), jnp.asarray(bias)
            dense = eqx.tree_at(lambda layer: (layer.weight, layer.bias), dense, weights)
            layers += [dense, self._neurons(case.neurons)]
        layers[-1] = jaxpike.LeakyIntegrator(tau=jnp.full((CLASSES,), TIME_CONSTANT))
        return jaxpike.Sequential(*layers)

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset({"loss"} if case.network else {"y"})

    def details(self) -> dict[str, str]:
        return describe_devices()


def side(variant: str) -> Jaxpike:
    return Jaxpike()
