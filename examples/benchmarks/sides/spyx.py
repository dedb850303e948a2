"""Spyx: ``nnx`` modules unrolled by ``spyx.nn.run``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import spyx.axn
import spyx.nn
from cases import CLASSES, VALUES, Case, network_weights
from flax import nnx

from sides import Job
from sides.jax_jobs import LayerJob, TrainingJob, describe_devices


class Spyx:
    """``LIF`` with learnt decays, and learnt thresholds too if asked for."""

    packages = ("spyx", "jax", "jaxlib", "flax", "optax", "numpy")
    layout = "[T, B, N]"

    def __init__(self, learn_threshold: bool) -> None:
        self.learn_threshold = learn_threshold
        learnt = (
            "changed: the threshold, a number by design, is an nnx.Param per neuron"
            if learn_threshold
            else "as it comes: the threshold is a constant"
        )
        self.notes = (
            f"LIF, decays learnt per neuron; {learnt}; spikes one step later than ours; surrogate "
            "derivative arctan; a network runs layer by layer, like ours; the readout sums rather "
            "than averages"
        )

    def build(self, case: Case) -> Job | None:
        if case.layer != "LIB":
            return None
        if case.network:
            return self._network(case)
        graph, params = nnx.split(self._neurons(case.neurons))

        def apply(params: Any, x: jax.Array) -> jax.Array:
            return spyx.nn.run(nnx.merge(graph, params), x)[0]

        return LayerJob(apply, params, case)

    def _neurons(self, count: int) -> nnx.Module:
        threshold: Any = VALUES["threshold"]
        if self.learn_threshold:
            threshold = nnx.Param(jnp.full((count,), threshold))
        layer = spyx.nn.LIF(
            (count,), threshold=threshold, activation=spyx.axn.arctan(), rngs=nnx.Rngs(0)
        )
        layer.beta[...] = jnp.full((count,), VALUES["beta"])
        return layer

    def _network(self, case: Case) -> Job:
        parts: list[nnx.Module] = []
        for kernel, bias in network_weights(case):
            dense = nnx.Linear(*kernel.shape, rngs=nnx.Rngs(0))
            dense.kernel[...], dense.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
            parts += [dense, self._neurons(case.neurons)]
        parts[-1] = spyx.nn.LI((CLASSES,), rngs=nnx.Rngs(0))
        parts[-1].beta[...] = jnp.full((CLASSES,), VALUES["beta"])
        graphs, params = zip(*map(nnx.split, parts), strict=True)

        def logits(params: Any, xs: jax.Array) -> jax.Array:
            for graph, part in zip(graphs, params, strict=True):
                module = nnx.merge(graph, part)
                xs = module(xs) if isinstance(module, nnx.Linear) else spyx.nn.run(module, xs)[0]
            return xs

        return TrainingJob(logits, params, case)

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset()

    def details(self) -> dict[str, str]:
        return describe_devices()


def side(variant: str) -> Spyx:
    return Spyx({"": False, "threshold": True}[variant])
