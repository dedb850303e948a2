"""snnTorch: ``Leaky``, called once per step with the membrane passed in."""

from __future__ import annotations

import snntorch
import torch
from cases import VALUES

from sides.torch_jobs import TorchSide


class SnnTorch(TorchSide):
    packages = ("snntorch", "torch", "numpy")
    notes = (
        "Leaky, decay and threshold learnt per neuron; a spike is taken off the membrane one step "
        "later, undecayed, and no gradient flows through that; the readout is a Leaky without "
        "reset: it sums rather than averages, and computes spikes that nobody uses"
    )

    def neurons(self, layer: str, count: int) -> torch.nn.Module:
        return snntorch.Leaky(
            beta=torch.full((count,), VALUES["beta"]),
            threshold=torch.full((count,), VALUES["threshold"]),
            learn_beta=True,
            learn_threshold=True,
        )

    def readout(self, count: int) -> torch.nn.Module:
        beta = torch.full((count,), VALUES["beta"])
        return snntorch.Leaky(beta=beta, learn_beta=True, reset_mechanism="none")

    def unroll(self, module: torch.nn.Module, xs: torch.Tensor) -> torch.Tensor:
        integrates = module.reset_mechanism == "none"
        mem, outputs = module.reset_mem(), []
        for x in xs:
            spikes, mem = module(x, mem)
            outputs.append(mem if integrates else spikes)
        return torch.stack(outputs)


def side(variant: str) -> SnnTorch:
    return SnnTorch()
