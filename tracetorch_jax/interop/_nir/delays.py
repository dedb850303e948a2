"""Delays: in steps here, in seconds in NIR."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tracetorch_jax import snn
from tracetorch_jax.interop._nir.graph import Node

_MOST = 2**24
"""Up to where float32 tells whole numbers apart."""


def delay_node(
    layer: snn.Delay,
    learnt: np.ndarray,
    dt: float,
    rounded: bool,
    full: Callable[[np.ndarray], np.ndarray],
    where: str,
) -> Node:
    """A delay for each channel as a node.

    Args:
        layer: what is written.
        learnt: its delays as `parameters` gives them, in steps.
        dt: length of a step in seconds.
        rounded: whether delays are rounded to whole steps.
        full: gives a value the shape of one step.
        where: what to call the layer in an error.

    Raises:
        ValueError: a delay between two steps, or a layer with a window around its delays.
    """
    if layer.sigma is not None:
        raise ValueError(
            f"{where} takes in its input through a window around each delay, and the Delay of NIR "
            f"takes one moment: write it with `sigma` None, as it is evaluated; got {layer.sigma}."
        )
    # Constants are used as they are given, not as `param_dtype` has them.
    steps = learnt if layer.delay_learnable else np.asarray(layer.delay)
    steps = steps.astype(np.float64)
    whole, between = _whole(steps)
    if np.any(between) and not rounded:
        raise ValueError(
            f"`delay` of {where} must be whole numbers of steps, since NIR has nothing that "
            f"interpolates between steps; got {steps[between].ravel()[0]:.7g}. "
            f"round_delays=True rounds it, and nir_mismatch(..., round_delays=True) measures how "
            f"much that changes."
        )
    dtype = np.result_type(np.float32, learnt.dtype) if learnt.itemsize > 2 else np.float32
    return Node("Delay", {"delay": (full(whole) * dt).astype(dtype)})


def steps_of(name: str, node: Node, dt: float) -> np.ndarray:
    """The delays of a node in whole steps.

    Raises:
        ValueError: a delay is negative, between two steps or too long.
    """
    steps = np.asarray(node.values["delay"], np.float64) / dt
    whole, between = _whole(steps)
    wrong = between | (whole < 0) | (whole >= _MOST)
    if np.any(wrong):
        got = np.asarray(node.values["delay"])[wrong].ravel()[0]
        raise ValueError(
            f"Node {name!r} (Delay) must have `delay` a whole number of steps of `dt` = {dt:g} s, "
            f"at least 0 and less than 2**24; got {got:g} s."
        )
    return whole.astype(np.int32)


def _whole(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest whole numbers, and where they differ by more than float32 rounds."""
    whole = np.round(steps)
    return whole, ~np.isclose(steps, whole, rtol=1e-6, atol=1e-6)
