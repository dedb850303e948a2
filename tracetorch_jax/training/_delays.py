"""How the width of learnt delays changes during training."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tracetorch_jax._shared.checks import check_integer, check_number


def sigma_schedule(
    max_delay: int, steps: int, *, start: float | None = None, end: float = 0.25
) -> Callable[[ArrayLike], jax.Array]:
    """Schedule for the width of delays: from wide to below one step, then constant.

        sigma(n) = start * (end / start) ** min(n / steps, 1)

    With a wide window a delay gets a gradient from spikes at all distances. A window below one step
    is nearly that of a rounded delay. Hammouamri et al. narrow the window over the first quarter of
    the training, and keep its width from there on. It is called as the schedules of optax are.

    Args:
        max_delay: of the `DelayedDense` or `Delay`, at least 1.
        steps: updates over which the width narrows, at least 1.
        start: width in steps at first; by default half of `max_delay`.
        end: width in steps from `steps` on, greater than 0 and at most `start`.

    Returns:
        A function from the number of updates so far, an integer or an array of them, to float32
        widths in steps, which can be traced.

    Raises:
        TypeError: an argument that is no number.
        ValueError: `max_delay` or `steps` below 1, or not ``0 < end <= start``, or not finite.

    Reference: Hammouamri, Khalfaoui-Hassani and Masquelier, "Learning delays in spiking neural
    networks using dilated convolutions with learnable spacings", ICLR 2024.

    Example:
        >>> schedule = training.sigma_schedule(16, 100)
        >>> [round(float(schedule(n)), 2) for n in (0, 50, 100, 400)]
        [8.0, 1.41, 0.25, 0.25]
    """
    max_delay, steps = check_integer("max_delay", max_delay), check_integer("steps", steps)
    advice = "Make the schedule outside of jit, grad and vmap."
    first = max_delay / 2 if start is None else check_number("start", start, advice)
    last = check_number("end", end, advice)
    if not (0 < last <= first and math.isfinite(first)):
        raise ValueError(
            f"`start` and `end` must be finite and 0 < end <= start; got {first!r} and {last!r}."
        )

    def sigma(count: ArrayLike) -> jax.Array:
        done = jnp.clip(jnp.asarray(count).astype(jnp.float32) / steps, 0, 1)
        return first * (last / first) ** done

    return sigma
