"""What depends on the kind of device, each decision by itself."""

from __future__ import annotations

import jax


def steps_per_state() -> int:
    """K, where a gradient of an elementwise step keeps the state before each K-th step."""
    # On CPU keeping fewer states is also faster: what is computed again stays in the cache.
    # Elsewhere keeping all is faster.
    return 8 if jax.default_backend() == "cpu" else 1


def runs_in_stages() -> bool:
    """Whether a step is compiled as the stages that it is made of."""
    # XLA on CPU gives every result of a step a kernel of its own, and computes in each of them what
    # they share. Cut into stages, it computes that once.
    return jax.default_backend() == "cpu"


def runs_kernel(engine: str) -> bool:
    """Whether an elementwise step is run as one kernel, where that is possible."""
    return engine == "fused" or (engine == "auto" and why_no_kernel() is None)


def why_no_kernel() -> str | None:
    """What keeps the engine that `"auto"` takes from being a kernel, if anything does."""
    if kernel_device() != "cpu":
        # What is faster on GPU and TPU has not been measured.
        return 'engine="fused" on a GPU or TPU'
    from tracetorch_jax.functional.engines.native import build

    return build.why_not()


def widens_at_once(engine: str, loops: bool) -> bool:
    """Whether a sequence of narrow numbers is cast before the loop rather than step by step.

    Args:
        engine: as of `unroll`.
        loops: whether no kernel can run the step.
    """
    # Narrow numbers are best cast step by step, but XLA on CPU may convert all of a bfloat16 array
    # whenever a step of a loop writes into it.
    return jax.default_backend() == "cpu" and (loops or not runs_kernel(engine))


def kernel_device() -> str:
    """The device that the fused kernel is written for: ``"gpu"``, ``"tpu"`` or ``"cpu"``."""
    backend = jax.default_backend()
    return backend if backend in ("gpu", "tpu") else "cpu"
