"""norse: functions of input, state and parameters, unrolled by its module ``SNN``."""

from __future__ import annotations

import torch
from cases import VALUES, Case
from norse.torch.functional.leaky_integrator_box import (
    LIBoxParameters,
    LIBoxState,
    li_box_feed_forward_step,
)
from norse.torch.functional.lif_box import (
    LIFBoxFeedForwardState,
    LIFBoxParameters,
    lif_box_feed_forward_step,
)
from norse.torch.functional.reset import reset_subtract
from norse.torch.module.snn import SNN

from sides.torch_jobs import TorchSide

DT = 0.001
RATE = (1 - VALUES["beta"]) / DT


class Box(torch.nn.Module):
    """Leaky integrators whose input acts at once, firing or not, with parameters per neuron."""

    def __init__(self, count: int, fires: bool) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.full((count,), RATE))
        if fires:
            # The input enters times 1 - beta; so does the threshold, and the spikes are ours.
            threshold = torch.full((count,), (1 - VALUES["beta"]) * VALUES["threshold"])
            self.threshold = torch.nn.Parameter(threshold)
            parameters = LIFBoxParameters(
                tau_mem_inv=self.rate, v_th=self.threshold, reset_method=reset_subtract
            )
            step, state = lif_box_feed_forward_step, LIFBoxFeedForwardState
        else:
            parameters = LIBoxParameters(tau_mem_inv=self.rate)
            step, state = li_box_feed_forward_step, LIBoxState
        self.unroll = SNN(step, lambda xs: state(torch.zeros_like(xs[0])), parameters, dt=DT)

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        return self.unroll(xs)[0]


class Norse(TorchSide):
    packages = ("norse", "torch", "numpy")
    notes = (
        "LIF box (no synaptic current) with reset by subtraction, rate and threshold learnt per "
        "neuron; surrogate derivative SuperSpike, its default; its SNN slices the input step by "
        "step, so that the gradient of the input takes time that grows with T squared"
    )

    def neurons(self, layer: str, count: int) -> torch.nn.Module:
        return Box(count, fires=True)

    def readout(self, count: int) -> torch.nn.Module:
        return Box(count, fires=False)

    def unroll(self, module: torch.nn.Module, xs: torch.Tensor) -> torch.Tensor:
        return module(xs)

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset({"loss"} if case.network else {"y"})


def side(variant: str) -> Norse:
    return Norse()
