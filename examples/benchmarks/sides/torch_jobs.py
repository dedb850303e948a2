"""What all sides in PyTorch share: jobs that run eagerly, layer by layer."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import torch
from cases import (
    CLASSES,
    LEARNING_RATE,
    Case,
    cores,
    layer_data,
    network_data,
    network_weights,
)


class TorchSide(abc.ABC):
    """A PyTorch library. A subclass says what its neurons are and how they run over time.

    Attributes:
        layers: the layers of `cases.LAYERS` that the library has.
        batch_major: whether sequences are ``[B, T, N]`` rather than ``[T, B, N]``.
        device: where everything lies.
    """

    packages: tuple[str, ...] = ("torch", "numpy")
    notes = ""
    layers: tuple[str, ...] = ("LIB",)
    batch_major = False
    device = "cpu"

    def __init__(self) -> None:
        torch.set_num_threads(cores())

    @property
    def layout(self) -> str:
        return "[B, T, N]" if self.batch_major else "[T, B, N]"

    @abc.abstractmethod
    def neurons(self, layer: str, count: int) -> torch.nn.Module:
        """A layer of spiking neurons."""

    @abc.abstractmethod
    def readout(self, count: int) -> torch.nn.Module:
        """A layer of leaky integrators."""

    @abc.abstractmethod
    def unroll(self, module: torch.nn.Module, xs: torch.Tensor) -> torch.Tensor:
        """Run what `neurons` or `readout` made over a sequence, from zero states."""

    def build(self, case: Case) -> LayerJob | TrainingJob | None:
        if case.dtype != "float32" or case.layer not in self.layers:
            return None
        return TrainingJob(self, case) if case.network else LayerJob(self, case)

    def equals_ours(self, case: Case) -> frozenset[str]:
        return frozenset()

    def details(self) -> dict[str, str]:
        if self.device == "cuda":
            return {"device": torch.cuda.get_device_name(), "CUDA": torch.version.cuda}
        return {"threads": str(torch.get_num_threads())}

    def sequence(self, x: np.ndarray) -> torch.Tensor:
        """A time-major array in the library's own layout."""
        x = x.swapaxes(0, 1).copy() if self.batch_major else x
        return torch.from_numpy(x).to(self.device)

    def time_major(self, xs: torch.Tensor) -> np.ndarray:
        """The way back."""
        x = to_numpy(xs)
        return x.swapaxes(0, 1) if self.batch_major else x


def to_numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


class EagerJob(abc.ABC):
    """Nothing is compiled, and nothing tells how much memory is used."""

    compile_s: float | None = None
    temp_bytes: int | None = None
    side: TorchSide

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            self._once()
        if self.side.device == "cuda":
            torch.cuda.synchronize()

    @abc.abstractmethod
    def _once(self) -> Any:
        """Do it, or on a GPU have it done."""


class LayerJob(EagerJob):
    """A layer over a sequence, with or without its gradients."""

    def __init__(self, side: TorchSide, case: Case) -> None:
        self.side, self.gradient = side, case.gradient
        self.x, self.g = map(side.sequence, layer_data(case))
        self.module = side.neurons(case.layer, case.neurons).to(side.device)
        self.learnt = {
            name: value for name, value in self.module.named_parameters() if value.requires_grad
        }
        self.x.requires_grad_(case.gradient)

    def _once(self) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        if not self.gradient:
            with torch.no_grad():
                return self.side.unroll(self.module, self.x), ()
        y = self.side.unroll(self.module, self.x)
        return y, torch.autograd.grad(y, [self.x, *self.learnt.values()], self.g)

    def result(self) -> dict[str, np.ndarray]:
        y, gradients = self._once()
        arrays = {"y": self.side.time_major(y)}
        if self.gradient:
            x, *rest = gradients
            arrays["x"] = self.side.time_major(x)
            arrays |= dict(zip(self.learnt, map(to_numpy, rest), strict=True))
        return arrays


class TrainingJob(EagerJob):
    """A network's training step. Every run goes on from the parameters of the one before."""

    def __init__(self, side: TorchSide, case: Case) -> None:
        x, labels = network_data(case)
        self.side = side
        self.x, self.labels = side.sequence(x), torch.from_numpy(labels).to(side.device)
        self.parts = torch.nn.ModuleList()
        for kernel, bias in network_weights(case):
            dense = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                dense.weight.copy_(torch.from_numpy(kernel.T))
                dense.bias.copy_(torch.from_numpy(bias))
            self.parts += [dense, side.neurons(case.layer, case.neurons)]
        self.parts[-1] = side.readout(CLASSES)
        self.parts.to(side.device)
        self.first = [value.detach().clone() for value in self.parts.parameters()]
        self.optimiser = torch.optim.Adam(self.parts.parameters(), lr=LEARNING_RATE)

    def loss(self) -> torch.Tensor:
        xs = self.x
        for part in self.parts:
            xs = part(xs) if isinstance(part, torch.nn.Linear) else self.side.unroll(part, xs)
        mean = xs.mean(dim=1 if self.side.batch_major else 0)
        return torch.nn.functional.cross_entropy(mean, self.labels)

    def _once(self) -> None:
        self.optimiser.zero_grad()
        self.loss().backward()
        self.optimiser.step()

    def result(self) -> dict[str, np.ndarray]:
        with torch.no_grad():
            for value, first in zip(self.parts.parameters(), self.first, strict=True):
                value.copy_(first)
        self.optimiser.zero_grad()
        loss = self.loss()
        loss.backward()
        gradients = {
            name: to_numpy(value.grad).copy()
            for name, value in self.parts.named_parameters()
            if value.grad is not None
        }
        return {"loss": to_numpy(loss), **gradients}
