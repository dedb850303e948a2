"""One layer that can be any of the 28, and what lies between and beyond them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn

from tracetorch_jax._features import spec_of
from tracetorch_jax._parameters import Rank, Value, check_flag, check_rank, freeze_value
from tracetorch_jax.functional.spec import POLARITIES, Spec, Trace, channel_names
from tracetorch_jax.functional.steps import DEFAULT_SPIKE
from tracetorch_jax.functional.traces import ZeroSplit
from tracetorch_jax.snn import _family
from tracetorch_jax.snn._cell import TraceCell
from tracetorch_jax.snn._layer import Layer
from tracetorch_jax.spikes import Spike


@dataclasses.dataclass(frozen=True)
class Weight:
    """A scale, a recurrent weight or a bias.

    Args:
        value: a float, a 0-d or 1-d array or tuple whose own rank then counts, or an initializer
            ``(key, shape, dtype) -> values``. Any sign.
        rank: 0 for one value shared by the layer, 1 for one per neuron.
        learnable: whether it is trained; otherwise it stays a constant.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a rank other than 0 or 1, or an array of more than one axis.
    """

    value: Value = 1.0
    rank: Rank = dataclasses.field(default=1, kw_only=True)
    learnable: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "value", freeze_value(f"{name}.value", self.value))
        object.__setattr__(self, "rank", check_rank(f"{name}.rank", self.rank))
        object.__setattr__(self, "learnable", check_flag(f"{name}.learnable", self.learnable))


@dataclasses.dataclass(frozen=True)
class Decay(Weight):
    """A decay, and with it a trace.

    Args:
        value: in (0, 1); otherwise as `Weight`'s.
        rank: as `Weight`'s.
        learnable: as `Weight`'s.
        ema: whether the trace averages or sums what it takes in. By default synaptic and recurrent
            traces average, and the membrane does unless there is a threshold.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a rank other than 0 or 1, or an array of more than one axis.
    """

    value: Value = 0.9
    ema: bool | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema is not None:
            object.__setattr__(self, "ema", check_flag("Decay.ema", self.ema))


@dataclasses.dataclass(frozen=True)
class Threshold(Weight):
    """A threshold, and with it what is emitted on its side.

    Args:
        value: greater than 0; otherwise as `Weight`'s.
        rank: as `Weight`'s.
        learnable: as `Weight`'s.
        passthrough: True to emit the membrane's part of this sign as it is, rather than spikes;
            nothing is reset then, and the threshold has no value.
        spike: spike function of this side.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a rank other than 0 or 1, or an array of more than one axis.
    """

    value: Value = 1.0
    passthrough: bool = dataclasses.field(default=False, kw_only=True)
    spike: Spike = dataclasses.field(default=DEFAULT_SPIKE, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        flag = check_flag("Threshold.passthrough", self.passthrough)
        object.__setattr__(self, "passthrough", flag)
        if not callable(self.spike):
            raise TypeError(
                f"`Threshold.spike` must be a function from u to spikes; got {self.spike!r}."
            )


_KINDS: dict[str, type] = {
    "alpha": Decay,
    "beta": Decay,
    "gamma": Decay,
    "threshold": Threshold,
    "scale": Weight,
    "rec_weight": Weight,
}


class LeakyIntegrator(TraceCell):
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
        >>> import jax, jax.numpy as jnp
        >>> from tracetorch_jax.snn.flex import Decay, LeakyIntegrator, Threshold
        >>> layer = LeakyIntegrator(
        ...     4,
        ...     pos_alpha=Decay(0.8),
        ...     neg_alpha=Decay(0.3),
        ...     pos_beta=Decay(0.95),
        ...     pos_threshold=Threshold(0.5, learnable=False),
        ... )
        >>> carry = layer.initialize_carry(None, (2, 4))
        >>> sorted(carry)
        ['mem', 'neg_syn', 'pos_syn']
        >>> variables = layer.init(jax.random.key(0), carry, jnp.ones((2, 4)))
        >>> sorted(variables["params"])
        ['raw_beta', 'raw_neg_alpha', 'raw_pos_alpha']
    """

    pos_beta: Decay | None = None
    neg_beta: Decay | None = None
    pos_alpha: Decay | None = None
    neg_alpha: Decay | None = None
    pos_gamma: Decay | None = None
    neg_gamma: Decay | None = None
    pos_threshold: Threshold | None = None
    neg_threshold: Threshold | None = None
    pos_scale: Weight | None = None
    neg_scale: Weight | None = None
    pos_rec_weight: Weight | None = None
    neg_rec_weight: Weight | None = None
    bias: Weight | None = None
    zero_split: ZeroSplit = "half"

    @nn.nowrap
    def canonicalize(self) -> None:
        for name, kind in [*_options(), ("bias", Weight)]:
            option = getattr(self, name)
            if option is not None and type(option) is not kind:
                raise TypeError(
                    f"`{name}` must be a {kind.__name__}, such as {kind.__name__}(0.5); "
                    f"got {option!r}."
                )
        if self.pos_beta is None and self.neg_beta is None:
            raise ValueError("`pos_beta` (or `neg_beta`) is needed: every layer has a membrane.")

    @property
    def spec(self) -> Spec:
        given = {name: getattr(self, name) for name, _ in _options()}
        given = {name: option for name, option in given.items() if option is not None}
        spec = spec_of(
            given.keys() | ({"bias"} if self.bias is not None else set()),
            zero_split=self.zero_split,
        )
        return dataclasses.replace(
            spec,
            positive=_emission(self.pos_threshold),
            negative=_emission(self.neg_threshold),
            membrane=_with_ema(spec.membrane, self.pos_beta, self.neg_beta),
            synapse=_with_ema(spec.synapse, self.pos_alpha, self.neg_alpha),
            recurrence=_with_ema(spec.recurrence, self.pos_gamma, self.neg_gamma),
        )

    @property
    def spike_function(self) -> Any:
        pos, neg = self.pos_threshold, self.neg_threshold
        found = [t.spike for t in (pos, neg) if t is not None and not t.passthrough]
        if not found:
            return DEFAULT_SPIKE
        return found[0] if len(set(found)) == 1 else tuple(found)

    @nn.nowrap
    def setting(self, name: str) -> tuple[str, Any, int, bool]:
        label = name
        if name != "bias" and not name.startswith(POLARITIES):
            label = f"pos_{name}" if getattr(self, f"pos_{name}") is not None else f"neg_{name}"
        option = getattr(self, label)
        return label, option.value, option.rank, option.learnable


def _options() -> list[tuple[str, type]]:
    """Name and kind of every option that has a sign."""
    return [(name, kind) for root, kind in _KINDS.items() for name in channel_names(root, True)]


def _emission(threshold: Threshold | None) -> Any:
    if threshold is None:
        return None
    return "passthrough" if threshold.passthrough else "spike"


def _with_ema(trace: Trace | None, pos: Decay | None, neg: Decay | None) -> Any:
    """The trace with what its decays say of averaging, each for its own channel."""
    if trace is None:
        return None
    flags = [
        default if decay.ema is None else decay.ema
        for decay, default in zip(
            (decay for decay in (pos, neg) if decay is not None), trace.averages, strict=True
        )
    ]
    return dataclasses.replace(trace, ema=(flags[0], flags[1]) if trace.dual else flags[0])


def _counterpart(layer: type[Layer]) -> Any:
    """A function with a named layer's arguments that gives it as a `LeakyIntegrator`."""

    def make(*args: Any, **kwargs: Any) -> LeakyIntegrator:
        named = layer(*args, **kwargs)
        spike = {"spike": named.spike_function}
        ema = {"ema": named.ema} if hasattr(named, "ema") else {}
        options: dict[str, Any] = {}
        for name in named.spec.parameters:
            root = name.removeprefix("pos_").removeprefix("neg_")
            extra = spike if root == "threshold" else ema if root == "beta" else {}
            _, value, rank, learnable = named.setting(name)
            option = _KINDS[root](value, rank=rank, learnable=learnable, **extra)
            options[name if name.startswith(POLARITIES) else f"pos_{name}"] = option
        for shared in ("dim", "dtype", "param_dtype", "zero_split", "name", "parent"):
            if hasattr(named, shared):
                options[shared] = getattr(named, shared)
        return LeakyIntegrator(named.num_neurons, **options)

    make.__name__ = make.__qualname__ = layer.__name__
    make.__module__ = __name__
    make.__doc__ = (
        f"`snn.{layer.__name__}` as a `LeakyIntegrator`: same arguments, parameters and program."
    )
    return functools.update_wrapper(make, layer, assigned=(), updated=())  # for its signature


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

__all__ = [
    "DLI",
    "DLIB",
    "DLIT",
    "DLITS",
    "DRLIB",
    "DRLIT",
    "DRLITS",
    "DSLI",
    "DSLIB",
    "DSLIT",
    "DSLITS",
    "DSRLIB",
    "DSRLIT",
    "DSRLITS",
    "LI",
    "LIB",
    "LIT",
    "LITS",
    "RLIB",
    "RLIT",
    "RLITS",
    "SLI",
    "SLIB",
    "SLIT",
    "SLITS",
    "SRLIB",
    "SRLIT",
    "SRLITS",
    "Decay",
    "LeakyIntegrator",
    "Threshold",
    "Weight",
]
