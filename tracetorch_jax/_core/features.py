"""The fields of every feature, shared by all front ends, and what a set of features spells.

A layer is a list of features: ``class SLIB(Binary, Membrane, Synapse, Layer)``. Each feature here
holds fields and nothing else; their documentation becomes that of the layer's arguments.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

from tracetorch_jax import spikes
from tracetorch_jax._core.parameters import Rank, Value, check_flag
from tracetorch_jax._shared.checks import check_choice
from tracetorch_jax.functional.spec import OPTIONS, PARAMETERS, Arity, Reset, Spec, Trace
from tracetorch_jax.functional.traces import ZeroSplit

# The decorator is repeated in full, since type checkers do not see fields behind an alias of it.
# Without it linen's layers do not take the fields as arguments. With `repr` a layer would print the
# fields of this one class instead of its own.


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class Membrane:
    """beta: membrane decay per step, in (0, 1)."""

    beta: Value = 0.9
    beta_rank: Rank = 1
    beta_learnable: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class Synapse:
    """alpha: decay of the synaptic trace per step, in (0, 1)."""

    alpha: Value = 0.5
    alpha_rank: Rank = 1
    alpha_learnable: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class Recurrence:
    """
    gamma: decay of the recurrent trace per step, in (0, 1).
    rec_weight: weight of the recurrent trace on its way to the membrane, of any sign.
    """

    gamma: Value = 0.9
    gamma_rank: Rank = 1
    gamma_learnable: bool = True
    rec_weight: Value = 0.0
    rec_weight_rank: Rank = 1
    rec_weight_learnable: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class Dual:
    """
    zero_split: gradient of the split into positive and negative parts where the signal is exactly
        0: ``"half"`` or ``"both"`` (traceTorch's), see `functional.split`.
    """

    zero_split: ZeroSplit = "half"


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class DualMembrane(Dual):
    """
    pos_beta: decay of the positive membrane per step, in (0, 1).
    neg_beta: decay of the negative membrane per step, in (0, 1).
    """

    pos_beta: Value = 0.9
    pos_beta_rank: Rank = 1
    pos_beta_learnable: bool = True
    neg_beta: Value = 0.9
    neg_beta_rank: Rank = 1
    neg_beta_learnable: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class DualSynapse:
    """
    pos_alpha: decay of the positive synaptic trace per step, in (0, 1).
    neg_alpha: decay of the negative synaptic trace per step, in (0, 1).
    """

    pos_alpha: Value = 0.5
    pos_alpha_rank: Rank = 1
    pos_alpha_learnable: bool = True
    neg_alpha: Value = 0.5
    neg_alpha_rank: Rank = 1
    neg_alpha_learnable: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class DualRecurrence:
    """
    pos_gamma: decay of the positive recurrent trace per step, in (0, 1).
    neg_gamma: decay of the negative recurrent trace per step, in (0, 1).
    pos_rec_weight: weight of the recurrent trace while it is positive, of any sign.
    neg_rec_weight: weight of the recurrent trace while it is negative, of any sign.
    """

    pos_gamma: Value = 0.9
    pos_gamma_rank: Rank = 1
    pos_gamma_learnable: bool = True
    neg_gamma: Value = 0.9
    neg_gamma_rank: Rank = 1
    neg_gamma_learnable: bool = True
    pos_rec_weight: Value = 0.0
    pos_rec_weight_rank: Rank = 1
    pos_rec_weight_learnable: bool = True
    neg_rec_weight: Value = 0.0
    neg_rec_weight_rank: Rank = 1
    neg_rec_weight_learnable: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class Potential:
    """ema: True for a membrane that averages its input, False for a plain leaky sum."""

    ema: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class Firing:
    """
    spike: spike function, from `tracetorch_jax.spikes` or your own.
    reset: what a spike does to the membrane potential: ``"subtract"`` takes the threshold off (soft
        reset), ``"zero"`` sets it to 0 (hard reset), ``"none"`` leaves it.
    detach_reset: whether spikes are constants for the gradient in the reset, and only there.
    """

    spike: spikes.Spike = spikes.atan(2.0)  # noqa: RUF009
    reset: Reset = "subtract"
    detach_reset: bool = False


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class Binary(Firing):
    """threshold: membrane above which a neuron fires, greater than 0."""

    threshold: Value = 1.0
    threshold_rank: Rank = 1
    threshold_learnable: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class Ternary(Firing):
    """
    pos_threshold: membrane above which a neuron emits +1, greater than 0.
    neg_threshold: a neuron emits -1 below minus this, greater than 0.
    """

    pos_threshold: Value = 1.0
    pos_threshold_rank: Rank = 1
    pos_threshold_learnable: bool = True
    neg_threshold: Value = 1.0
    neg_threshold_rank: Rank = 1
    neg_threshold_learnable: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class ScaledTernary(Ternary):
    """
    pos_scale: what a positive spike is multiplied by on emission, of any sign.
    neg_scale: what a negative spike is multiplied by on emission, of any sign.
    """

    pos_scale: Value = 1.0
    pos_scale_rank: Rank = 1
    pos_scale_learnable: bool = True
    neg_scale: Value = 1.0
    neg_scale_rank: Rank = 1
    neg_scale_learnable: bool = True


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class Adaptation:
    """
    rho: decay of the adaptation trace per step, in (0, 1).
    adapt_weight: by how much the adaptation trace, an average of the neuron's spikes, raises the
        thresholds, greater than 0. A neuron that fires in every tenth step raises them by a tenth
        of it. Started near 0 it hardly moves in training, since it is stored as its softplus.
    """

    rho: Value = 0.95
    rho_rank: Rank = 1
    rho_learnable: bool = True
    adapt_weight: Value = 3.0
    adapt_weight_rank: Rank = 1
    adapt_weight_learnable: bool = True


def options_of(layer: Any) -> dict[str, Any]:
    """Of a layer, the arguments that are fields of its spec as they are."""
    fields = type(layer).__dataclass_fields__  # a subclass may have a method of that name
    return {name: getattr(layer, name) for name in OPTIONS if name in fields}


def check_options(layer: Any) -> None:
    """Raise unless each is one of what it may be."""
    for name, value in options_of(layer).items():
        if isinstance(OPTIONS[name][0], bool):
            layer.set_field(name, check_flag(name, value))
        else:
            layer.set_field(name, check_choice(name, value, OPTIONS[name]))


def spec_of(names: Iterable[str], *, ema: bool | None = None, **options: Any) -> Spec:
    """The spec that a set of field names spells.

    Args:
        names: names of a layer's fields, or of the options given to a `LeakyIntegrator`.
        ema: whether the membrane averages; by default it does unless the layer fires.
        **options: as `options_of` returns them.

    Example:
        >>> spec_of({"alpha", "beta", "threshold"}).states
        ('syn', 'mem')
    """
    return _spec_of(frozenset(names), ema, tuple(options.items()))


@functools.lru_cache(maxsize=256)  # every step of a layer asks for its spec, several times
def _spec_of(names: frozenset[str], ema: bool | None, options: tuple[tuple[str, Any], ...]) -> Spec:
    def arity(name: str) -> Arity | None:
        # With one sign alone, an option of `LeakyIntegrator` is single, as in traceTorch.
        if f"pos_{name}" in names and f"neg_{name}" in names:
            return "dual"
        return "single" if names & {name, f"pos_{name}", f"neg_{name}"} else None

    fields: dict[str, Any] = {}
    for row in PARAMETERS:
        found = arity(row.name)
        if row.kind == "decay":
            fields[row.field] = Trace(dual=found == "dual") if found else None
        elif row.field == row.name:
            fields[row.field] = found if row.signed else bool(found)
    if fields["membrane"] is None:
        raise ValueError("`beta` is what every layer has; got none.")
    positive = bool(names & {"threshold", "pos_threshold"})
    negative = "neg_threshold" in names
    averages = not (positive or negative) if ema is None else ema
    fields["membrane"] = dataclasses.replace(fields["membrane"], ema=averages)
    return Spec(
        **fields,
        positive="spike" if positive else None,
        negative="spike" if negative else None,
        **dict(options),
    )
