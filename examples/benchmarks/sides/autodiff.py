"""What one would write in JAX without this library: ``jax.grad`` of ``lax.scan`` of the step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import CLASSES, Case, layer_values, network_weights

from sides import Job
from sides.jax_jobs import LayerJob, TrainingJob
from tracetorch_jax import functional, snn

READOUT = {"beta": 0.9}


def scan(spec: functional.Spec, raw: Any, xs: jax.Array) -> jax.Array:
    """A layer over a sequence; the parameters ``[N]`` are constants of the loop's body.

    Like ours, it keeps states in the dtype of the parameters and emits that of the input.
    """
    constraints = spec.parameters
    params = {name: constraints[name].constrain(raw[f"raw_{name}"]) for name in constraints}

    def body(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        state, out = functional.step(spec, params, state, x.astype(jnp.float32))
        return state, out.astype(x.dtype)

    zeros = {name: jnp.zeros(xs.shape[1:], jnp.float32) for name in spec.states}
    return jax.lax.scan(body, zeros, xs)[1]


def raw_parameters(spec: functional.Spec, values: dict[str, float], count: int) -> Any:
    """Free parameters, one for each neuron."""
    return {
        f"raw_{name}": jnp.asarray(constraint.raw(np.full(count, values[name])), jnp.float32)
        for name, constraint in spec.parameters.items()
    }


class Autodiff:
    """The same step in a plain scan: nothing is checkpointed and nothing is reordered."""

    packages = ("jax", "jaxlib", "optax", "numpy")
    layout = "[T, B, N]"
    notes = "plain jax.lax.scan of functional.step; a network layer by layer, like ours"

    def build(self, case: Case) -> Job | None:
        if case.network:
            return self._network(case)
        spec = getattr(snn, case.layer)(1).spec
        params = raw_parameters(spec, layer_values(case.layer), case.neurons)
        return LayerJob(lambda raw, x: scan(spec, raw, x), params, case)

    def _network(self, case: Case) -> Job:
        fire, integrate = getattr(snn, case.layer)(1).spec, snn.LI(1).spec
        params = {}
        for index, (kernel, bias) in enumerate(network_weights(case)):
            params[f"layers_{2 * index}"] = {"kernel": jnp.asarray(kernel), "bias": bias}
        for name in ("layers_1", "layers_3"):
            params[name] = raw_parameters(fire, layer_values(case.layer), case.neurons)
        params["layers_5"] = raw_parameters(integrate, READOUT, CLASSES)

        def logits(params: Any, xs: jax.Array) -> jax.Array:
            for index, spec in enumerate((fire, fire, integrate)):
                dense = params[f"layers_{2 * index}"]
                xs = scan(spec, params[f"layers_{2 * index + 1}"], dense_over_time(dense, xs))
            return xs

        return TrainingJob(logits, jax.device_put(params), case)

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset("*")

    def details(self) -> dict[str, str]:
        return {}


def dense_over_time(params: Any, xs: jax.Array) -> jax.Array:
    """One large matrix product over all steps."""
    return xs @ params["kernel"] + params["bias"]


def side(variant: str) -> Autodiff:
    return Autodiff()
