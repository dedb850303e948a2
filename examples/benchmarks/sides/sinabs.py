"""sinabs: layers over batch-major sequences, with states inside."""

from __future__ import annotations

import math

import sinabs.layers
import torch
from cases import VALUES, Case
from sinabs.activation import MembraneSubtract, SingleSpike

from sides.torch_jobs import TorchSide

TIME_CONSTANT = -1 / math.log(VALUES["beta"])


class Sinabs(TorchSide):
    packages = ("sinabs", "torch", "numpy")
    batch_major = True
    notes = (
        "LIF with SingleSpike and reset by subtraction; decays learnt per neuron, thresholds are "
        "constants; surrogate derivative SingleExponential, its default; it slices the input step "
        "by step, so that the gradient of the input takes time that grows with T squared"
    )

    def neurons(self, layer: str, count: int) -> torch.nn.Module:
        return sinabs.layers.LIF(
            tau_mem=torch.full((count,), TIME_CONSTANT),
            spike_threshold=torch.full((count,), VALUES["threshold"]),
            spike_fn=SingleSpike,
            reset_fn=MembraneSubtract(),
            train_alphas=True,
            norm_input=False,
        )

    def readout(self, count: int) -> torch.nn.Module:
        tau = torch.full((count,), TIME_CONSTANT)
        return sinabs.layers.ExpLeak(tau_mem=tau, train_alphas=True, norm_input=True)

    def unroll(self, module: torch.nn.Module, xs: torch.Tensor) -> torch.Tensor:
        module.reset_states()
        return module(xs)

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset({"loss"} if case.network else {"y"})


def side(variant: str) -> Sinabs:
    return Sinabs()
