"""tracetorch_jax, as its README says to use it."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import flax.linen as nn
import jax
from cases import CLASSES, INPUTS, Case, cores, layer_values, network_weights

from sides import Job, Unsupported
from sides.jax_jobs import LayerJob, Placement, TrainingJob, describe_devices
from tracetorch_jax import functional, snn


class Ours:
    """``snn.Unroll`` of a layer, or of an ``snn.Sequential``.

    Args:
        devices: virtual devices of the processor to split a batch over.
        **options: of ``snn.Unroll``.
    """

    packages = ("tracetorch_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    layout = "[T, B, N]"

    def __init__(self, devices: int = 1, **options: Any) -> None:
        self.devices, self.options = devices, options
        notes = [f"{name}={value!r}" for name, value in options.items()]
        if devices > 1:
            jax.config.update("jax_num_cpu_devices", devices)
            notes.append("the batch is split over virtual devices, one for each core")
        self.notes = "; ".join(notes)
        engine = options.get("engine", "auto")
        if engine not in functional.engines.unroll.ENGINES:
            raise ValueError(f"the installed tracetorch_jax has no engine {engine!r}")

    def build(self, case: Case) -> Job | None:
        try:
            return self._network(case) if case.network else self._layer(case)
        except ValueError as error:
            if self.options.get("engine") == "parallel":  # most layers have something nonlinear
                raise Unsupported(str(error)) from None
            raise

    def _layer(self, case: Case) -> Job:
        apply, params = self._over_time(neurons(case), (1, 1, case.neurons))
        return LayerJob(apply, params, case, Placement(case.batch, self.devices))

    def _network(self, case: Case) -> Job:
        n = case.neurons
        stack = [nn.Dense(n), neurons(case), nn.Dense(n), neurons(case), nn.Dense(CLASSES)]
        cell = snn.Sequential([*stack, snn.LI(CLASSES)])
        logits, params = self._over_time(cell, (1, 1, INPUTS))
        for index, (kernel, bias) in enumerate(network_weights(case)):
            params[f"layers_{2 * index}"] = {"kernel": kernel, "bias": bias}
        return TrainingJob(logits, params, case, Placement(case.batch, self.devices))

    def _over_time(self, cell: nn.RNNCellBase, shape: tuple[int, ...]) -> tuple[Any, Any]:
        model = snn.Unroll(cell, time_major=True, **self.options)
        init = jax.jit(model.init)  # compiled, so that the outputs, which nobody needs, are dropped
        params = init(jax.random.key(0), jax.numpy.zeros(shape))["params"]["cell"]

        def apply(params: Any, x: jax.Array) -> jax.Array:
            return model.apply({"params": {"cell": params}}, x)

        return apply, params

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset("*")

    def details(self) -> dict[str, str]:
        return describe_devices() | {"kernels on a CPU": kernels()}


def neurons(case: Case) -> nn.RNNCellBase:
    """The layer of a case."""
    return getattr(snn, case.layer)(case.neurons, **layer_values(case.layer))


def kernels() -> str:
    """With what they are compiled, or what keeps them from being."""
    try:
        from tracetorch_jax.functional.engines.native import build
    except ImportError:
        return "not in this version"
    if reason := build.why_not():
        return f"none, they need {reason}"
    return f"llvmlite {importlib.metadata.version('llvmlite')}"


VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "sqrt": {"checkpoint_every": "sqrt"},
    "sharded": {"devices": cores()},
    "fused": {"engine": "fused"},
    "scan": {"engine": "scan"},
    "scan-sharded": {"engine": "scan", "devices": cores()},
    "parallel": {"engine": "parallel"},
} | {f"scan-{steps}": {"engine": "scan", "unroll": steps} for steps in (4, 8, 16)}


def side(variant: str) -> Ours:
    return Ours(**VARIANTS[variant])
