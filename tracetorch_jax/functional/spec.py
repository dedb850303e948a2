"""What a layer is made of: a row for each parameter and each feature, and `Spec`, a choice of them.

Whatever has to know the parts of a layer reads the rows: names of layers, optax labels, arguments,
documentation, pictures. The mathematics is in `steps`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from tracetorch_jax._shared.checks import check_choice
from tracetorch_jax.functional.constraints import DECAY, THRESHOLD, UNBOUNDED, Constraint
from tracetorch_jax.functional.traces import ZeroSplit

Arity = Literal["single", "dual"]
Emission = Literal["spike", "passthrough"]
Reset = Literal["subtract", "zero", "none"]

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


Kind = Literal["decay", "threshold", "scale", "rec_weight", "bias", "adaptation", "delay"]


@dataclasses.dataclass(frozen=True)
class ParameterRow:
    """A parameter that a layer may have.

    Attributes:
        name: without a sign.
        kind: what `training.parameter_labels` says of it.
        constraint: its domain.
        field: of `Spec`, which says whether a layer has it, and whether it has one for each sign.
        signed: whether there can be one for each sign, ``pos_<name>`` and ``neg_<name>``.
    """

    name: str
    kind: Kind
    constraint: Constraint
    field: str
    signed: bool = True


# In traceTorch's order, in which state dicts have them.
PARAMETERS = (
    ParameterRow("alpha", "decay", DECAY, "synapse"),
    ParameterRow("beta", "decay", DECAY, "membrane"),
    ParameterRow("gamma", "decay", DECAY, "recurrence"),
    ParameterRow("threshold", "threshold", THRESHOLD, "positive"),
    ParameterRow("scale", "scale", UNBOUNDED, "scale"),
    ParameterRow("rec_weight", "rec_weight", UNBOUNDED, "rec_weight"),
    ParameterRow("bias", "bias", UNBOUNDED, "bias", signed=False),
    ParameterRow("rho", "decay", DECAY, "adaptation", signed=False),
    # Positive, so that no threshold falls below its own value, at which both signs could fire.
    ParameterRow("adapt_weight", "adaptation", THRESHOLD, "adapt_weight", signed=False),
    ParameterRow("adapt_coupling", "adaptation", UNBOUNDED, "adapt_coupling", signed=False),
    ParameterRow("adapt_jump", "adaptation", UNBOUNDED, "adapt_jump", signed=False),
)


def parameter_row(name: str) -> ParameterRow | None:
    """The row of a parameter, with or without a sign; None for a name that no layer has.

    Example:
        >>> parameter_row("neg_alpha").kind, parameter_row("pos_bias")
        ('decay', None)
    """
    for row in PARAMETERS:
        if name == row.name or (row.signed and name in channel_names(row.name, dual=True)):
            return row
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
    """A part of a layer, its letter in the layer's name, and the trace that it brings.

    Attributes:
        field: of `Spec`; the feature is there if it is true.
        letter: in front of ``LI``; empty for what every layer has.
        word: what the letter stands for.
        about: what the feature does, in a sentence without a full stop.
        state: name of its trace, without a sign; empty if it has none.
        trace: what the trace is called in words.
        holds: what the trace holds.
        arguments: what named layers with the feature take and others do not, without a sign.
    """

    field: str
    letter: str = ""
    word: str = ""
    about: str = ""
    state: str = ""
    trace: str = ""
    holds: str = ""
    arguments: tuple[str, ...] = ()

    def within(self, spec: Spec) -> bool:
        """Whether a layer has the feature."""
        return bool(operator.attrgetter(self.field)(spec))


DUAL = Feature(
    field="membrane.dual",
    letter="D",
    word="dual",
    about="positive and negative parts of every signal are kept in traces of their own",
    arguments=("zero_split",),
)
SYNAPSE = Feature(
    field="synapse",
    letter="S",
    word="synaptic",
    about="the input is smoothed by a trace before it reaches the membrane",
    state="syn",
    trace="synaptic trace",
    holds="the input, smoothed",
    arguments=("alpha",),
)
RECURRENCE = Feature(
    field="recurrence",
    letter="R",
    word="recurrent",
    about="a trace of the layer's own output is fed back, with a learnt weight",
    state="rec",
    trace="recurrent trace",
    holds="the layer's own output, smoothed",
    arguments=("gamma", "rec_weight"),
)
MEMBRANE = Feature(
    field="membrane", state="mem", trace="membrane", holds="the integrated input, after the reset"
)

ADAPTATION = Feature(
    field="adaptation",
    letter="A",
    word="adaptive",
    about="a trace of the neuron's own activity makes it fire less",
    state="adapt",
    trace="adaptation trace",
    holds="the neuron's own activity, smoothed",
    arguments=("rho", "adapt_weight"),
)

# In the order in which a step updates them.
TRACES = (SYNAPSE, RECURRENCE, MEMBRANE, ADAPTATION)
# In the order in which a name has their letters. Behind ``LI`` it says what the layer puts out.
PREFIXES = (ADAPTATION, DUAL, SYNAPSE, RECURRENCE)
SUFFIXES = {
    "": ("no spikes", "the membrane itself is the output"),
    "B": ("binary", "spikes of 0 and 1"),
    "T": ("ternary", "spikes of -1, 0 and 1"),
    "TS": ("ternary scaled", "spikes of both signs, each sign with its own learnt factor"),
}


def letters(spec: Spec) -> tuple[str, str]:
    """What stands before and after ``LI`` in the name of a layer.

    Example:
        >>> letters(Spec(membrane=Trace(dual=True), synapse=Trace(dual=True), positive="spike"))
        ('DS', 'B')
    """
    suffix = ("T" if spec.negative else "B") if spec.emits else ""
    before = (feature.letter for feature in PREFIXES if feature.within(spec))
    return "".join(before), suffix + "S" * bool(spec.scale)


def name_of(spec: Spec) -> str:
    """The name of a layer: its letters around ``LI``."""
    return "LI".join(letters(spec))


def has_adaptation_current(spec: Spec) -> bool:
    """Whether the adaptation trace is subtracted from what the membrane integrates."""
    return spec.adapt_coupling or spec.adapt_jump


# Fields of `Spec` that layers have as arguments of the same name, and what they may be.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "reset": get_args(Reset),
    "detach_reset": (False, True),
    "zero_split": get_args(ZeroSplit),
}

# Fields of `Spec` that make the 28 layers and what `LeakyIntegrator` adds to them. A format that
# was written for these refuses all that came later, until it names it as well.
FIRST_FIELDS = frozenset(
    "membrane synapse recurrence rec_weight positive negative scale bias".split()
) | {"detach_reset", "zero_split"}  # which change derivatives alone


def require(spec: Spec, known: Collection[str], format: str, layer: str = "the layer") -> None:
    """Refuse a layer with a feature or an option that a format was not written for.

    Args:
        spec: of the layer.
        known: fields of `Spec` that the format can hold.
        format: what cannot hold the others, as the subject of a sentence.
        layer: what to call the layer.

    Raises:
        ValueError: a field that is not `known` differs from its default.

    Example:
        >>> require(Spec(bias=True), {"membrane"}, "A plain integrator")
        Traceback (most recent call last):
        ValueError: A plain integrator cannot hold `bias` of the layer; got True.
    """
    if unknown := beyond(spec, known):
        got = getattr(spec, unknown[0])
        raise ValueError(f"{format} cannot hold `{unknown[0]}` of {layer}; got {got!r}.")


def beyond(spec: Spec, known: Collection[str]) -> list[str]:
    """Fields of a spec that are not `known` and differ from their defaults."""
    return [
        field.name
        for field in dataclasses.fields(spec)
        if field.name not in known and getattr(spec, field.name) != field.default
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Static description of a layer: its features, without values of parameters.

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
        adaptation: the trace of the neuron's own activity, or None.
        adapt_weight: whether the trace, of spikes of either sign, raises the thresholds: an
            adaptive threshold.
        adapt_coupling: whether the trace takes in the membrane after the reset and is subtracted
            from what the membrane integrates: an adaptation current.
        adapt_jump: the same for the output.
        reset: what a spike does to the membrane: takes the threshold off (``"subtract"``), sets it
            to 0 (``"zero"``), or nothing (``"none"``).
        detach_reset: whether spikes are constants for the gradient in the reset, and only there.
        zero_split: gradient of the sign splits at 0, see `functional.split`.

    Raises:
        ValueError: a weight without a recurrent trace, a scale without anything emitted, a reset or
            an adaptation without spikes, an adaptation without a weight or of both forms, or an
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
    adaptation: Trace | None = None
    adapt_weight: bool = False
    adapt_coupling: bool = False
    adapt_jump: bool = False
    reset: Reset = "subtract"
    detach_reset: bool = False
    zero_split: ZeroSplit = "half"

    def __post_init__(self) -> None:
        for name, allowed in {
            "rec_weight": ("single", "dual", None),
            "positive": ("spike", "passthrough", None),
            "negative": ("spike", "passthrough", None),
            "scale": ("single", "dual", None),
            **OPTIONS,
        }.items():
            check_choice(name, getattr(self, name), allowed)
        if self.rec_weight and not self.recurrence:
            raise ValueError("`rec_weight` needs a recurrent trace: configure `gamma` too.")
        if self.scale and not self.emits:
            raise ValueError("`scale` needs something emitted: configure a threshold too.")
        self._check_adaptation()
        for name, default in (("reset", "subtract"), ("detach_reset", False)):
            got = getattr(self, name)
            if not self.fires and got != default:
                raise ValueError(
                    f"`{name}` needs spikes: configure a threshold that spikes; got {got!r}."
                )

    def _check_adaptation(self) -> None:
        names = ("adapt_weight", "adapt_coupling", "adapt_jump")
        given = [name for name in names if getattr(self, name)]
        if self.adaptation is None and given:
            raise ValueError(f"`{given[0]}` needs an adaptation trace: configure `rho` too.")
        if self.adaptation is None:
            return
        if self.adaptation.dual:
            raise ValueError("`adaptation` is one trace of both signs, so it cannot be dual.")
        if not self.fires:
            raise ValueError("`adaptation` (`rho`) needs spikes: configure a threshold too.")
        if not given:
            raise ValueError(
                "`adaptation` (`rho`) needs `adapt_weight`, `adapt_coupling` or `adapt_jump`; "
                "without one the trace does nothing."
            )
        if self.adapt_weight and len(given) > 1:
            raise ValueError(
                f"`adapt_weight` is of an adaptive threshold and `{given[1]}` of an adaptation "
                "current: a layer has one or the other."
            )

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
        names = ((name, row) for row in PARAMETERS for name in self._names(row))
        return MappingProxyType({name: row.constraint for name, row in names})

    def _names(self, row: ParameterRow) -> Iterator[str]:
        """Names under which the layer has a parameter."""
        if row.name == "threshold":
            yield from filter(None, self.thresholds)
            return
        found = getattr(self, row.field)
        if found:
            yield from channel_names(row.name, found == "dual" or getattr(found, "dual", False))

    @functools.cached_property
    def states(self) -> tuple[str, ...]:
        """Every state's name, in the order in which a step updates them."""
        names: list[str] = []
        for feature in TRACES:
            trace: Trace | None = getattr(self, feature.field)
            names += channel_names(feature.state, trace.dual) if trace else ()
        return (*names, *(["prev_output"] if self.recurrence else []))
