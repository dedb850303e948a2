"""traceTorch: layers with states inside, called once per step."""

from __future__ import annotations

import math

import torch
import tracetorch
from cases import Case, layer_values

from sides.torch_jobs import TorchSide


class Heaviside(torch.autograd.Function):
    """Spikes with the surrogate derivative that is `ours` by default, ``spikes.atan(2.0)``."""

    @staticmethod
    def forward(ctx, u: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        (u,) = ctx.saved_tensors
        return grad / (1 + (math.pi * u).square())


class TraceTorch(TorchSide):
    """With spikes like ours, or with what it emits by default."""

    packages = ("tracetorch", "torch", "numpy")
    layers = ("LIB", "SRLIT", "DSRLITS")

    def __init__(self, smooth: bool) -> None:
        super().__init__()
        self.options = {} if smooth else {"spike_fn": Heaviside.apply}
        spikes = (
            "its default, sigmoid(4 u), emits probabilities rather than spikes"
            if smooth
            else "spikes are Heaviside with our surrogate derivative, which makes its layers ours"
        )
        self.notes = f"every parameter but the bias, a constant 0; {spikes}"

    def neurons(self, layer: str, count: int) -> torch.nn.Module:
        make = getattr(tracetorch.snn, layer)
        return make(count, **layer_values(layer), learn_bias=False, **self.options)

    def readout(self, count: int) -> torch.nn.Module:
        return tracetorch.snn.LIEMA(count)

    def unroll(self, module: torch.nn.Module, xs: torch.Tensor) -> torch.Tensor:
        module.zero_states()
        return torch.stack([module(x) for x in xs])

    def equals_ours(self, case: Case) -> frozenset[str]:
        if not self.options:
            return frozenset()
        # A dual layer of traceTorch passes gradients through both halves at exactly 0.
        if case.layer.startswith("D"):
            return frozenset({"y", "loss"})
        return frozenset({"loss"} if case.network else {"*"})


def side(variant: str) -> TraceTorch:
    return TraceTorch({"": False, "smooth": True}[variant])
