"""What a layer is made of, as a value: the static description that every front end shares."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from tracetorch_jax._shared.checks import check_choice
from tracetorch_jax.functional.constraints import DECAY, THRESHOLD, UNBOUNDED, Constraint
from tracetorch_jax.functional.traces import ZeroSplit

Arity = Literal["single", "dual"]
Emission = Literal["spike", "passthrough"]

POLARITIES = ("pos", "neg")


def channel_names(name: str, dual: bool) -> tuple[str, ...]:
    """Names of the channels of a signal: itself when single, one per polarity when dual.

    Example:
        >>> channel_names("mem", dual=False), channel_names("mem", dual=True)
        (('mem',), ('pos_mem', 'neg_mem'))
    """
    return tuple(f"{polarity}_{name}" for polarity in POLARITIES) if dual else (name,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """One trace of a layer.

    Attributes:
        dual: whether it has a positive and a negative channel.
        ema: whether it averages (`functional.ema`) or sums (`functional.leak`); a pair sets the
            two channels of a dual trace apart.

    Raises:
        ValueError: a pair for a trace that is not dual.

    Example:
        >>> functional.Trace(dual=True, ema=(True, False)).averages
        (True, False)
    """

    dual: bool = False
    ema: bool | tuple[bool, bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.ema, tuple):
            if not self.dual:
                raise ValueError(f"`ema` is a pair only for a dual trace; got {self.ema!r}.")
            if self.ema[0] == self.ema[1]:
                object.__setattr__(self, "ema", self.ema[0])

    @property
    def averages(self) -> tuple[bool, ...]:
        """Whether each channel averages."""
        if isinstance(self.ema, tuple):
            return self.ema
        return (self.ema,) * (2 if self.dual else 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Static description of a layer: which features it has, and nothing about their values.

    A spec is hashable and compared by value. All branching in `step` is on a spec, so a feature
    that is off leaves nothing behind in the compiled program.

    Attributes:
        membrane: the trace that integrates the input. It averages if nothing fires.
        synapse: the trace that smooths the input before the membrane, or None.
        recurrence: the trace of the layer's own output, or None.
        rec_weight: how the recurrent trace is weighted on its way to the membrane: by one weight,
            by one for each sign, or (None) not at all.
        positive: what a membrane above the positive threshold does: ``"spike"``, emit its
            positive part unchanged (``"passthrough"``), or nothing (None).
        negative: the same below the negative threshold.
        scale: whether emissions are scaled: by one factor, by one for each sign, or not at all.
        bias: whether a bias is added to what the membrane integrates.
        zero_split: gradient of the sign splits at 0, see `functional.split`.

    Raises:
        ValueError: a weight without a recurrent trace, a scale without anything emitted, or an
            unknown word.

    Example:
        >>> functional.Spec(membrane=functional.Trace(ema=False), positive="spike").parameters
        mappingproxy({'beta': ..., 'threshold': ...})
    """

    membrane: Trace = Trace()
    synapse: Trace | None = None
    recurrence: Trace | None = None
    rec_weight: Arity | None = None
    positive: Emission | None = None
    negative: Emission | None = None
    scale: Arity | None = None
    bias: bool = False
    zero_split: ZeroSplit = "half"

    def __post_init__(self) -> None:
        for name, allowed in {
            "rec_weight": ("single", "dual", None),
            "positive": ("spike", "passthrough", None),
            "negative": ("spike", "passthrough", None),
            "scale": ("single", "dual", None),
            "zero_split": ("half", "both"),
        }.items():
            check_choice(name, getattr(self, name), allowed)
        if self.rec_weight and not self.recurrence:
            raise ValueError("`rec_weight` needs a recurrent trace: configure `gamma` too.")
        if self.scale and not self.emits:
            raise ValueError("`scale` needs something emitted: configure a threshold too.")

    def __getstate__(self) -> dict[str, object]:
        """The fields, without what was computed from them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def emits(self) -> bool:
        """Whether spikes or passed-through parts are emitted, rather than the membrane itself."""
        return bool(self.positive or self.negative)

    @property
    def fires(self) -> bool:
        """Whether the layer has at least one threshold."""
        return "spike" in (self.positive, self.negative)

    @property
    def thresholds(self) -> tuple[str | None, str | None]:
        """Name of the positive and of the negative threshold, None where nothing spikes."""
        alone = "threshold" if self.negative is None else "pos_threshold"
        return (
            alone if self.positive == "spike" else None,
            "neg_threshold" if self.negative == "spike" else None,
        )

    @property
    def scales(self) -> tuple[str | None, str | None]:
        """Name of the factor on what the positive and the negative side emit, None without one."""
        if self.scale == "dual":
            return "pos_scale", "neg_scale"
        return (None, None) if self.scale is None else ("scale", "scale")

    @functools.cached_property
    def parameters(self) -> Mapping[str, Constraint]:
        """Every parameter's name and constraint, in traceTorch's order."""
        names: dict[str, Constraint] = {}

        def add(name: str, dual: bool, constraint: Constraint) -> None:
            names.update(dict.fromkeys(channel_names(name, dual), constraint))

        if self.synapse:
            add("alpha", self.synapse.dual, DECAY)
        add("beta", self.membrane.dual, DECAY)
        if self.recurrence:
            add("gamma", self.recurrence.dual, DECAY)
        names.update(dict.fromkeys(filter(None, self.thresholds), THRESHOLD))
        if self.scale:
            add("scale", self.scale == "dual", UNBOUNDED)
        if self.rec_weight:
            add("rec_weight", self.rec_weight == "dual", UNBOUNDED)
        if self.bias:
            names["bias"] = UNBOUNDED
        return MappingProxyType(names)

    @functools.cached_property
    def states(self) -> tuple[str, ...]:
        """Every state's name, in the order in which a step updates them."""
        names: tuple[str, ...] = ()
        if self.synapse:
            names += channel_names("syn", self.synapse.dual)
        if self.recurrence:
            names += channel_names("rec", self.recurrence.dual)
        names += channel_names("mem", self.membrane.dual)
        if self.recurrence:
            names += ("prev_output",)
        return names
