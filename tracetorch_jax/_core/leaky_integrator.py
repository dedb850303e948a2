"""What can be switched on and off in a `LeakyIntegrator`, in every front end."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from tracetorch_jax._core.cell import AbstractCell
from tracetorch_jax._core.features import check_options, options_of, spec_of
from tracetorch_jax._core.parameters import Rank, Value, check_flag, check_rank, freeze_value
from tracetorch_jax._shared.checks import check_spike
from tracetorch_jax.functional.spec import (
    PARAMETERS,
    ParameterRow,
    Reset,
    Spec,
    Trace,
    channel_names,
)
from tracetorch_jax.functional.steps import DEFAULT_SPIKE
from tracetorch_jax.functional.traces import ZeroSplit
from tracetorch_jax.spikes import Spike


@dataclasses.dataclass(frozen=True)
class Weight:
    """A scale, a recurrent weight, a bias, or a weight of adaptation.

    Args:
        value: a float, a 0-d or 1-d array or tuple whose own rank then counts, or an initializer
            ``(key, shape, dtype) -> values``, see `tracetorch_jax.initializers`. Any sign, but for
            `adapt_weight`, which is greater than 0.
        rank: 0 for one value shared by the layer, 1 for one per neuron.
        learnable: whether it is trained; otherwise it stays a constant.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a rank other than 0 or 1, or an array of more than one axis. Whether the value
            is legal, the layer checks.

    Example:
        >>> flex.Weight(-0.5, rank=0)
        Weight(value=-0.5, rank=0, learnable=True)
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
        ValueError: a rank other than 0 or 1, or an array of more than one axis. Whether the value
            is legal, the layer checks.

    Example:
        >>> flex.Decay(0.9, learnable=False)
        Decay(value=0.9, rank=1, learnable=False, ema=None)
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
        ValueError: a rank other than 0 or 1, or an array of more than one axis. Whether the value
            is legal, the layer checks.

    Example:
        >>> flex.Threshold(0.5).passthrough
        False
    """

    value: Value = 1.0
    passthrough: bool = dataclasses.field(default=False, kw_only=True)
    spike: Spike = dataclasses.field(default=DEFAULT_SPIKE, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        flag = check_flag("Threshold.passthrough", self.passthrough)
        object.__setattr__(self, "passthrough", flag)
        check_spike("Threshold.spike", self.spike)


_DOC = """
A layer made of the features it is given.

Each feature is on if it is configured. Given for both signs it is dual, given for one it is
single and stored without prefix (a lone ``neg_threshold`` keeps its name). All named layers
are special cases and compile to the same programs; `flex.LIB` and the like give them as a
`LeakyIntegrator`. What goes beyond them: each trace single or dual by itself, averaging or
summing by itself, thresholds of one sign only or with spike functions of their own,
pass-through sides, one scale for both signs, a bias, and an adaptation current.

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
    rho: decay of the adaptation trace, which takes in what the neuron does; it needs
        `adapt_weight`, or `adapt_coupling` or `adapt_jump`, or both of these.
    adapt_weight: by how much the trace of spikes raises the thresholds, greater than 0: an adaptive
        threshold.
    adapt_coupling: weight of the membrane in the trace, which is then subtracted from what the
        membrane integrates: an adaptation current. Any sign. It needs no threshold: without one
        the layer is a linear filter, which oscillates if the weight is great.
    adapt_jump: weight of the output in such a trace. Any sign.
    reset: what a spike does to the membrane potential: ``"subtract"`` takes the threshold off (soft
        reset), ``"zero"`` sets it to 0 (hard reset), ``"none"`` leaves it.
    detach_reset: whether spikes are constants for the gradient in the reset, and only there.
    zero_split: gradient of the split into positive and negative parts where the signal is
        exactly 0: ``"half"`` or ``"both"``, see `functional.split`.
    dim: axis of one step's tensor that holds the neurons, counted from the end.
    dtype: what is computed in and given out, see the named layers.
    param_dtype: what parameters are stored as.
{own}
Raises:
    TypeError: an argument is unknown, positional, or of the wrong kind.
    ValueError: no beta; a value outside its domain; a weight without the trace it is for; a
        scale without a threshold.

Reference: ``tracetorch.snn.flex.LeakyIntegrator`` of traceTorch 0.12, with the meaning that
its documentation gives it.

Example:
{example}
"""


def describe(example: str, own: str = "") -> str:
    """The docstring of a front end's `LeakyIntegrator`.

    Args:
        example: lines of its doctest.
        own: argument of the front end's own.
    """
    own = textwrap.indent(f"{own}\n", "    ") if own else ""
    example = textwrap.indent(inspect.cleandoc(example), "    ")
    return _DOC.strip().format(own=own, example=example)


def _option_of(row: ParameterRow) -> type[Weight]:
    """What a parameter is configured with."""
    return {"decay": Decay, "threshold": Threshold}.get(row.kind, Weight)


@functools.cache
def _options() -> dict[str, type[Weight]]:
    """Name and kind of every option."""
    return {
        name: _option_of(row)
        for row in PARAMETERS
        for name in channel_names(row.name, dual=row.signed)
    }


@dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)
class AbstractLeakyIntegrator(AbstractCell):
    """A layer made of the features it is given."""

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
    rho: Decay | None = None
    adapt_weight: Weight | None = None
    adapt_coupling: Weight | None = None
    adapt_jump: Weight | None = None
    reset: Reset = "subtract"
    detach_reset: bool = False
    zero_split: ZeroSplit = "half"

    def canonicalize(self) -> None:
        for name, kind in _options().items():
            option = getattr(self, name)
            if option is not None and type(option) is not kind:
                raise TypeError(
                    f"`{name}` must be a {kind.__name__}, such as {kind.__name__}(0.5); "
                    f"got {option!r}."
                )
        check_options(self)
        if self.pos_beta is None and self.neg_beta is None:
            raise ValueError("`pos_beta` (or `neg_beta`) is needed: every layer has a membrane.")

    @property
    def spec(self) -> Spec:
        options = ((name, getattr(self, name)) for name in _options())
        said = tuple(
            (name, getattr(option, "ema", None), getattr(option, "passthrough", False))
            for name, option in options
            if option is not None
        )
        return _spec(said, tuple(options_of(self).items()))

    @property
    def spike_function(self) -> Any:
        pos, neg = self.pos_threshold, self.neg_threshold
        found = [t.spike for t in (pos, neg) if t is not None and not t.passthrough]
        if not found:
            return DEFAULT_SPIKE
        return found[0] if len(set(found)) == 1 else tuple(found)

    def setting(self, name: str) -> tuple[str, Any, Rank, bool]:
        label = name
        if name not in _options():  # of one sign alone
            label = f"pos_{name}" if getattr(self, f"pos_{name}") is not None else f"neg_{name}"
        option = getattr(self, label)
        return label, option.value, option.rank, option.learnable


@functools.lru_cache(maxsize=256)  # every step of a layer asks for its spec, several times
def _spec(
    given: tuple[tuple[str, bool | None, bool], ...], options: tuple[tuple[str, Any], ...]
) -> Spec:
    """The spec of what is given: of each its name, its `ema`, and whether it passes through."""
    ema = {name: averages for name, averages, _ in given}
    passes = {name: through for name, _, through in given}
    spec = spec_of(ema, **dict(options))
    traces: dict[str, Any] = {}
    for row in PARAMETERS:
        trace = getattr(spec, row.field)
        if row.kind == "decay" and trace:
            names = channel_names(row.name, dual=row.signed)
            traces[row.field] = _with_ema(trace, [ema[name] for name in names if name in ema])
    emissions: dict[bool | None, Any] = {None: None, False: "spike", True: "passthrough"}
    return dataclasses.replace(
        spec,
        positive=emissions[passes.get("pos_threshold")],
        negative=emissions[passes.get("neg_threshold")],
        **traces,
    )


def _with_ema(trace: Trace, said: list[bool | None]) -> Trace:
    """The trace with what its decays say of averaging, each for its own channel."""
    flags = [
        default if averages is None else averages
        for averages, default in zip(said, trace.averages, strict=True)
    ]
    return dataclasses.replace(trace, ema=(flags[0], flags[1]) if trace.dual else flags[0])


def counterpart(layer: Any, leaky_integrator: Callable[..., Any], own: tuple[str, ...]) -> Any:
    """A function with a named layer's arguments that gives it as a `LeakyIntegrator`.

    Args:
        layer: the named layer.
        leaky_integrator: the front end's `LeakyIntegrator`.
        own: arguments of the front end's own, passed on as they are.
    """

    def make(*args: Any, **kwargs: Any) -> Any:
        handed_on = {name: kwargs[name] for name in own if name in kwargs}
        named = layer(*args, **kwargs)
        spike = {"spike": named.spike_function}
        ema = {"ema": named.ema} if hasattr(named, "ema") else {}
        options: dict[str, Any] = {}
        for name in named.spec.parameters:
            _, value, rank, learnable = named.setting(name)
            key = name if name in _options() else f"pos_{name}"
            kind = _options()[key]
            extra = spike if kind is Threshold else ema if name.endswith("beta") else {}
            options[key] = kind(value, rank=rank, learnable=learnable, **extra)
        for shared in ("dim", "dtype", "param_dtype"):
            options[shared] = getattr(named, shared)
        options |= options_of(named)
        return leaky_integrator(named.num_neurons, **options, **handed_on)

    make.__name__ = make.__qualname__ = layer.__name__
    make.__module__ = leaky_integrator.__module__
    make.__doc__ = (
        f"`{layer.__name__}` as a `LeakyIntegrator`: same arguments, parameters and program."
    )
    return functools.update_wrapper(make, layer, assigned=(), updated=())  # for its signature
