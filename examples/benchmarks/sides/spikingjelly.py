"""SpikingJelly: multi-step neurons, which take the whole sequence."""

from __future__ import annotations

import inspect
import os

import torch
from cases import VALUES, Case
from spikingjelly.activation_based import functional, neuron, surrogate

from sides.torch_jobs import TorchSide

TIME_CONSTANT = 1 / (1 - VALUES["beta"])


class SpikingJelly(TorchSide):
    """``ParametricLIFNode``, or ``LIFNode`` if nothing is learnt.

    Args:
        learnt: which of the two.
        backend: ``"torch"`` on a CPU; what it has for GPUs depends on its version.

    Raises:
        RuntimeError: the back end cannot be used here, with the reason.
    """

    packages = ("spikingjelly", "torch", "numpy")

    def __init__(self, learnt: bool, backend: str) -> None:
        super().__init__()
        self.learnt = learnt
        self.options: dict[str, str] = {}
        if backend != "torch":
            self._use_gpu(backend)
        self.notes = (
            f"ParametricLIFNode, step_mode='m', {backend} back end; learns one decay for the layer"
            if learnt
            else f"LIFNode, step_mode='m', {backend} back end; learns nothing"
        ) + "; thresholds are constants, as is the decay of the readout (NonSpikingLIFNode)"

    def _use_gpu(self, backend: str) -> None:
        """Choose a back end, as an argument of the neurons or (from 2.0.0 on) for the process."""
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no GPU")
        self.device = "cuda"
        if "backend" in inspect.signature(neuron.LIFNode.__init__).parameters:
            self.options = {"backend": backend}
        elif backend not in ("triton", "cuda"):
            raise RuntimeError(f"this version has no {backend} back end; those before 2.0.0 have")
        for kind in ("LIF", "PLIF"):  # read when its operators are first used
            os.environ[f"SJ_{kind}_CUDA_IMPLEMENTATION"] = backend
        x = torch.zeros((2, 1, 1), device=self.device, requires_grad=True)
        self.unroll(self.neurons("LIB", 1).to(self.device), x).sum().backward()

    def neurons(self, layer: str, count: int) -> torch.nn.Module:
        make = neuron.ParametricLIFNode if self.learnt else neuron.LIFNode
        return make(
            TIME_CONSTANT,
            decay_input=False,
            v_threshold=VALUES["threshold"],
            v_reset=None,  # by subtraction
            surrogate_function=surrogate.ATan(2.0),
            step_mode="m",
            **self.options,
        )

    def readout(self, count: int) -> torch.nn.Module:
        return neuron.NonSpikingLIFNode(TIME_CONSTANT)

    def unroll(self, module: torch.nn.Module, xs: torch.Tensor) -> torch.Tensor:
        if isinstance(module, neuron.NonSpikingLIFNode):
            return torch.stack(module(xs))
        functional.reset_net(module)
        return module(xs)

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset({"loss"} if case.network else {"y", "x"})


def side(variant: str) -> SpikingJelly:
    words = [*filter(None, variant.split("-"))]
    learnt = "fixed" not in words
    return SpikingJelly(learnt, "torch" if words in ([], ["fixed"]) else words[-1])
