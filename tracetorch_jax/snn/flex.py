"""One layer that can be any of the 28, and what lies between and beyond them."""

from __future__ import annotations

import functools

from tracetorch_jax._core.leaky_integrator import (
    AbstractLeakyIntegrator,
    Decay,
    Threshold,
    Weight,
    counterpart,
)
from tracetorch_jax.snn import _family
from tracetorch_jax.snn._cell import TraceCell


class LeakyIntegrator(AbstractLeakyIntegrator, TraceCell):
    """A layer made of the features it is given.

    Each feature is on if it is configured. Given for both signs it is dual, given for one it is
    single and stored without prefix (a lone ``neg_threshold`` keeps its name). The 28 named layers
    are special cases and compile to the same programs; `flex.LIB` and the like give them as a
    `LeakyIntegrator`. What goes beyond them: each trace single or dual by itself, averaging or
    summing by itself, thresholds of one sign only or with spike functions of their own,
    pass-through sides, one scale for both signs, and a bias.

    A single `beta` under dual traces integrates their sums; a dual one under single traces
    integrates their positive and negative parts. Without `pos_rec_weight` the recurrent trace is
    added with weight 1.

    Args:
        num_neurons: size of axis `dim`, at least 1.
        pos_beta: decay of the membrane, or of its positive channel; this or `neg_beta` is needed.
        neg_beta: decay of its negative channel.
        pos_alpha: decay of the synaptic trace, or of its positive channel.
        neg_alpha: decay of its negative channel.
        pos_gamma: decay of the trace of the layer's own output, or of its positive channel.
        neg_gamma: decay of its negative channel.
        pos_threshold: threshold above which the layer emits.
        neg_threshold: threshold below minus which it emits.
        pos_scale: factor on what is emitted; on both sides if it is the only one.
        neg_scale: factor on what the negative side emits.
        pos_rec_weight: weight of the recurrent trace, or of its positive part.
        neg_rec_weight: weight of its negative part.
        bias: added to what the membrane integrates.
        zero_split: gradient of the split into positive and negative parts where the signal is
            exactly 0: ``"half"`` or ``"both"``, see `functional.split`.
        dim: axis of one step's tensor that holds the neurons, counted from the end.
        dtype: what is computed in and given out, see the named layers.
        param_dtype: what parameters are stored as.

    Raises:
        TypeError: an argument is unknown, positional, or of the wrong kind.
        ValueError: no beta; a value outside its domain; a weight without the trace it is for; a
            scale without a threshold.

    Reference: ``tracetorch.snn.flex.LeakyIntegrator`` of traceTorch 0.12, with the meaning that
    its documentation gives it.

    Example:
        >>> layer = flex.LeakyIntegrator(
        ...     4,
        ...     pos_alpha=flex.Decay(0.8),
        ...     neg_alpha=flex.Decay(0.3),
        ...     pos_beta=flex.Decay(0.95),
        ...     pos_threshold=flex.Threshold(0.5, learnable=False),
        ... )
        >>> carry = layer.initialize_carry(None, (2, 4))
        >>> sorted(carry)
        ['mem', 'neg_syn', 'pos_syn']
        >>> variables = layer.init(jax.random.key(0), carry, jnp.ones((2, 4)))
        >>> sorted(variables["params"])
        ['raw_beta', 'raw_neg_alpha', 'raw_pos_alpha']
    """


_counterpart = functools.partial(
    counterpart, leaky_integrator=LeakyIntegrator, own=("name", "parent")
)

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
LIT = _counterpart(_family.LIT)
DLIT = _counterpart(_family.DLIT)
SLIT = _counterpart(_family.SLIT)
RLIT = _counterpart(_family.RLIT)
DSLIT = _counterpart(_family.DSLIT)
DRLIT = _counterpart(_family.DRLIT)
SRLIT = _counterpart(_family.SRLIT)
DSRLIT = _counterpart(_family.DSRLIT)
LITS = _counterpart(_family.LITS)
DLITS = _counterpart(_family.DLITS)
SLITS = _counterpart(_family.SLITS)
RLITS = _counterpart(_family.RLITS)
DSLITS = _counterpart(_family.DSLITS)
DRLITS = _counterpart(_family.DRLITS)
SRLITS = _counterpart(_family.SRLITS)
DSRLITS = _counterpart(_family.DSRLITS)

__all__ = ["Decay", "LeakyIntegrator", "Threshold", "Weight"]
__all__ += _family.__all__
