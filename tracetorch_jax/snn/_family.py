"""The named layers: each is the list of its features, and its name says which."""

from __future__ import annotations

from typing import Any

from tracetorch_jax._core.features import (
    Adaptation,
    Binary,
    DualMembrane,
    DualRecurrence,
    DualSynapse,
    Membrane,
    Potential,
    Recurrence,
    ScaledTernary,
    Synapse,
    Ternary,
)
from tracetorch_jax._core.layer import LAYER_BY_NAME, layer_by_name
from tracetorch_jax.snn._layer import Layer

__all__ = [  # noqa: RUF022  (the order of `ALL_LAYERS`)
    "LI", "DLI", "SLI", "DSLI",
    "LIB", "DLIB", "SLIB", "RLIB", "DSLIB", "DRLIB", "SRLIB", "DSRLIB",
    "ALIB", "ASLIB", "ARLIB", "ASRLIB",
    "LIT", "DLIT", "SLIT", "RLIT", "DSLIT", "DRLIT", "SRLIT", "DSRLIT",
    "ALIT", "ASLIT", "ARLIT", "ASRLIT",
    "LITS", "DLITS", "SLITS", "RLITS", "DSLITS", "DRLITS", "SRLITS", "DSRLITS",
    "ALITS", "ASLITS", "ARLITS", "ASRLITS",
]  # fmt: skip


class LI(Potential, Membrane, Layer):
    """Leaky integrator: the membrane itself is the output, nothing fires."""


class DLI(Potential, DualMembrane, Layer):
    """Dual leaky integrator: the membrane itself is the output, nothing fires."""


class SLI(Potential, Membrane, Synapse, Layer):
    """Synaptic leaky integrator: the membrane itself is the output, nothing fires."""


class DSLI(Potential, DualMembrane, DualSynapse, Layer):
    """Dual synaptic leaky integrator: the membrane itself is the output, nothing fires."""


class LIB(Binary, Membrane, Layer):
    """Leaky integrate-and-fire with binary spikes, 0 or 1."""


class DLIB(Binary, DualMembrane, Layer):
    """Dual leaky integrate-and-fire with binary spikes, 0 or 1."""


class SLIB(Binary, Membrane, Synapse, Layer):
    """Synaptic leaky integrate-and-fire with binary spikes, 0 or 1."""


class RLIB(Binary, Recurrence, Membrane, Layer):
    """Recurrent leaky integrate-and-fire with binary spikes, 0 or 1."""


class DSLIB(Binary, DualMembrane, DualSynapse, Layer):
    """Dual synaptic leaky integrate-and-fire with binary spikes, 0 or 1."""


class DRLIB(Binary, DualRecurrence, DualMembrane, Layer):
    """Dual recurrent leaky integrate-and-fire with binary spikes, 0 or 1."""


class SRLIB(Binary, Recurrence, Membrane, Synapse, Layer):
    """Synaptic recurrent leaky integrate-and-fire with binary spikes, 0 or 1."""


class DSRLIB(Binary, DualRecurrence, DualMembrane, DualSynapse, Layer):
    """Dual synaptic recurrent leaky integrate-and-fire with binary spikes, 0 or 1."""


class ALIB(Adaptation, Binary, Membrane, Layer):
    """Adaptive leaky integrate-and-fire with binary spikes, 0 or 1."""


class ASLIB(Adaptation, Binary, Membrane, Synapse, Layer):
    """Adaptive synaptic leaky integrate-and-fire with binary spikes, 0 or 1."""


class ARLIB(Adaptation, Binary, Recurrence, Membrane, Layer):
    """Adaptive recurrent leaky integrate-and-fire with binary spikes, 0 or 1."""


class ASRLIB(Adaptation, Binary, Recurrence, Membrane, Synapse, Layer):
    """Adaptive synaptic recurrent leaky integrate-and-fire with binary spikes, 0 or 1."""


class LIT(Ternary, Membrane, Layer):
    """Leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class DLIT(Ternary, DualMembrane, Layer):
    """Dual leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class SLIT(Ternary, Membrane, Synapse, Layer):
    """Synaptic leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class RLIT(Ternary, Recurrence, Membrane, Layer):
    """Recurrent leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class DSLIT(Ternary, DualMembrane, DualSynapse, Layer):
    """Dual synaptic leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class DRLIT(Ternary, DualRecurrence, DualMembrane, Layer):
    """Dual recurrent leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class SRLIT(Ternary, Recurrence, Membrane, Synapse, Layer):
    """Synaptic recurrent leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class DSRLIT(Ternary, DualRecurrence, DualMembrane, DualSynapse, Layer):
    """Dual synaptic recurrent leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class ALIT(Adaptation, Ternary, Membrane, Layer):
    """Adaptive leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class ASLIT(Adaptation, Ternary, Membrane, Synapse, Layer):
    """Adaptive synaptic leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class ARLIT(Adaptation, Ternary, Recurrence, Membrane, Layer):
    """Adaptive recurrent leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class ASRLIT(Adaptation, Ternary, Recurrence, Membrane, Synapse, Layer):
    """Adaptive synaptic recurrent leaky integrate-and-fire with ternary spikes, -1, 0 or 1."""


class LITS(ScaledTernary, Membrane, Layer):
    """Leaky integrate-and-fire with ternary spikes scaled by sign."""


class DLITS(ScaledTernary, DualMembrane, Layer):
    """Dual leaky integrate-and-fire with ternary spikes scaled by sign."""


class SLITS(ScaledTernary, Membrane, Synapse, Layer):
    """Synaptic leaky integrate-and-fire with ternary spikes scaled by sign."""


class RLITS(ScaledTernary, Recurrence, Membrane, Layer):
    """Recurrent leaky integrate-and-fire with ternary spikes scaled by sign."""


class DSLITS(ScaledTernary, DualMembrane, DualSynapse, Layer):
    """Dual synaptic leaky integrate-and-fire with ternary spikes scaled by sign."""


class DRLITS(ScaledTernary, DualRecurrence, DualMembrane, Layer):
    """Dual recurrent leaky integrate-and-fire with ternary spikes scaled by sign."""


class SRLITS(ScaledTernary, Recurrence, Membrane, Synapse, Layer):
    """Synaptic recurrent leaky integrate-and-fire with ternary spikes scaled by sign."""


class DSRLITS(ScaledTernary, DualRecurrence, DualMembrane, DualSynapse, Layer):
    """Dual synaptic recurrent leaky integrate-and-fire with ternary spikes scaled by sign."""


class ALITS(Adaptation, ScaledTernary, Membrane, Layer):
    """Adaptive leaky integrate-and-fire with ternary spikes scaled by sign."""


class ASLITS(Adaptation, ScaledTernary, Membrane, Synapse, Layer):
    """Adaptive synaptic leaky integrate-and-fire with ternary spikes scaled by sign."""


class ARLITS(Adaptation, ScaledTernary, Recurrence, Membrane, Layer):
    """Adaptive recurrent leaky integrate-and-fire with ternary spikes scaled by sign."""


class ASRLITS(Adaptation, ScaledTernary, Recurrence, Membrane, Synapse, Layer):
    """Adaptive synaptic recurrent leaky integrate-and-fire with ternary spikes scaled by sign."""


ALL_LAYERS: dict[str, type[Layer]] = {name: globals()[name] for name in __all__}
"""Every named layer by its name."""


def layer(
    name: str,
    num_neurons: int,
    *,
    half_lives: tuple[float, float] | None = None,
    **options: Any,
) -> Layer:
    # The docstring is shared with that of the other front end.
    found: Layer = layer_by_name(ALL_LAYERS, name, num_neurons, half_lives, options)
    return found


layer.__doc__ = LAYER_BY_NAME.format(call='snn.layer("SRLIB", 64, half_lives=(1.0, 100.0))')
