"""One layer that can be any named layer, and what lies between and beyond them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

from tracetorch_jax._core.leaky_integrator import (
    AbstractLeakyIntegrator,
    Decay,
    Threshold,
    Weight,
    counterpart,
    describe,
)
from tracetorch_jax.nnx import _family
from tracetorch_jax.nnx._cell import TraceCell

_Arguments = ParamSpec("_Arguments")


class LeakyIntegrator(AbstractLeakyIntegrator, TraceCell):
    __doc__ = describe(
        example="""
            >>> layer = flex.LeakyIntegrator(
            ...     4,
            ...     pos_alpha=flex.Decay(0.8),
            ...     neg_alpha=flex.Decay(0.3),
            ...     pos_beta=flex.Decay(0.95),
            ...     pos_threshold=flex.Threshold(0.5, learnable=False),
            ... )
            >>> carry, y = layer(None, jnp.ones((2, 4)))
            >>> sorted(carry)
            ['mem', 'neg_syn', 'pos_syn']
        """,
        own="rngs: random numbers, needed for an initializer and for stochastic spikes.",
    )


def _counterpart(layer: Callable[_Arguments, TraceCell]) -> Callable[_Arguments, LeakyIntegrator]:
    return counterpart(layer, LeakyIntegrator, own=("rngs",))


LI = _counterpart(_family.LI)
DLI = _counterpart(_family.DLI)
SLI = _counterpart(_family.SLI)
DSLI = _counterpart(_family.DSLI)
LIB = _counterpart(_family.LIB)
DLIB = _counterpart(_family.DLIB)
SLIB = _counterpart(_family.SLIB)
RLIB = _counterpart(_family.RLIB)
DSLIB = _counterpart(_family.DSLIB)
DRLIB = _counterpart(_family.DRLIB)
SRLIB = _counterpart(_family.SRLIB)
DSRLIB = _counterpart(_family.DSRLIB)
ALIB = _counterpart(_family.ALIB)
ASLIB = _counterpart(_family.ASLIB)
ARLIB = _counterpart(_family.ARLIB)
ASRLIB = _counterpart(_family.ASRLIB)
LIT = _counterpart(_family.LIT)
DLIT = _counterpart(_family.DLIT)
SLIT = _counterpart(_family.SLIT)
RLIT = _counterpart(_family.RLIT)
DSLIT = _counterpart(_family.DSLIT)
DRLIT = _counterpart(_family.DRLIT)
SRLIT = _counterpart(_family.SRLIT)
DSRLIT = _counterpart(_family.DSRLIT)
ALIT = _counterpart(_family.ALIT)
ASLIT = _counterpart(_family.ASLIT)
ARLIT = _counterpart(_family.ARLIT)
ASRLIT = _counterpart(_family.ASRLIT)
LITS = _counterpart(_family.LITS)
DLITS = _counterpart(_family.DLITS)
SLITS = _counterpart(_family.SLITS)
RLITS = _counterpart(_family.RLITS)
DSLITS = _counterpart(_family.DSLITS)
DRLITS = _counterpart(_family.DRLITS)
SRLITS = _counterpart(_family.SRLITS)
DSRLITS = _counterpart(_family.DSRLITS)
ALITS = _counterpart(_family.ALITS)
ASLITS = _counterpart(_family.ASLITS)
ARLITS = _counterpart(_family.ARLITS)
ASRLITS = _counterpart(_family.ASRLITS)

__all__ = ["Decay", "LeakyIntegrator", "Threshold", "Weight"]
__all__ += _family.__all__
