"""One time step of each feature, and of the layer that they make up.

Every function here is pure and elementwise: ``step(params, state, x) -> (state, out)``, where
`params` maps names to *constrained* values that broadcast against `x`, and `state` maps names to
arrays of the shape of `x`. Branches are on static arguments only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import spikes
from tracetorch_jax._shared.checks import check_spike
from tracetorch_jax._shared.dtypes import asarray, is_real
from tracetorch_jax._shared.shapes import along
from tracetorch_jax.functional.spec import (
    PARAMETERS,
    Spec,
    Trace,
    channel_names,
    has_adaptation_current,
)
from tracetorch_jax.functional.traces import ZeroSplit, ema, leak, split

Params = Mapping[str, jax.Array]
State = dict[str, jax.Array]

DEFAULT_SPIKE = spikes.atan(2.0)


def channels(x: jax.Array, dual: bool, zero_split: ZeroSplit) -> tuple[jax.Array, ...]:
    return split(x, zero_split) if dual else (x,)


def _one_step(
    update: Callable[..., jax.Array], decay: jax.Array, trace: jax.Array, x: jax.Array
) -> jax.Array:
    return update(decay, trace, x)


def advance(
    trace: Trace,
    names: tuple[str, str],
    params: Params,
    state: Mapping[str, jax.Array],
    x: tuple[jax.Array, ...],
    run: Callable[..., jax.Array] = _one_step,
    leading: int = 0,
) -> tuple[State, jax.Array]:
    """Advance every channel of a trace; `names` are those of its decay and of its state."""
    decays, states = (channel_names(name, trace.dual) for name in names)
    for name, decay, value in zip(states, decays, x, strict=True):
        _check_states(state, (name,), np.shape(value)[leading:])
        _check_params(params, (decay,), np.shape(value))
    return _advance(trace, names, params, state, x, run)


def _advance(
    trace: Trace,
    names: tuple[str, str],
    params: Params,
    state: Mapping[str, jax.Array],
    x: tuple[jax.Array, ...],
    run: Callable[..., jax.Array] = _one_step,
) -> tuple[State, jax.Array]:
    """`advance` of what has been checked."""
    decays, states = (channel_names(name, trace.dual) for name in names)
    new = {
        name: run(ema if averages else leak, params[decay], state[name], value)
        for name, decay, averages, value in zip(states, decays, trace.averages, x, strict=True)
    }
    return new, sum_channels(new.values())


def _check_states(
    state: Mapping[str, jax.Array], names: Iterable[str], shape: tuple[int, ...]
) -> None:
    """Raise unless each state has the shape of the input: a batch of 1 must not broadcast."""
    for name in names:
        if np.shape(state[name]) != shape:
            raise ValueError(
                f"`state[{name!r}]` must have the shape of the input, {shape}; "
                f"got {np.shape(state[name])}."
            )


def _check_params(params: Params, names: Iterable[str], shape: tuple[int, ...]) -> None:
    """Raise unless each parameter broadcasts to the shape of the input."""
    for name in names:
        own = np.shape(params[name])
        if len(own) > len(shape) or any(
            size not in (1, wide) for size, wide in zip(own[::-1], shape[::-1], strict=False)
        ):
            raise ValueError(
                f"`params[{name!r}]` must broadcast to the shape of the input, {shape}; got {own}."
            )


def sum_channels(channels: Any) -> jax.Array:
    """The true signal behind its channels: their sum.

    Example:
        >>> float(sum_channels((jnp.array(2.0), jnp.array(-0.5))))
        1.5
    """
    first, *rest = channels
    return first + rest[0] if rest else first


def synapse(
    params: Params,
    state: Mapping[str, jax.Array],
    x: jax.Array,
    *,
    trace: Trace = Trace(),  # noqa: B008
    zero_split: ZeroSplit = "half",
) -> tuple[State, jax.Array]:
    """Update the synaptic trace: smooth the input.

        syn = alpha * syn + (1 - alpha) * x

    Args:
        params: ``alpha``, or ``pos_alpha`` and ``neg_alpha`` of a dual trace; in [0, 1], each
            broadcasts against `x`.
        state: ``syn``, or ``pos_syn`` and ``neg_syn``, each of the shape of `x`.
        x: input, any shape; a dual trace averages its positive and its negative part apart.
        trace: dual or not, averaging or summing.
        zero_split: see `split`.

    Returns:
        The new state, and the (summed) trace.

    Raises:
        KeyError: a parameter or state is missing.
        ValueError: a state of another shape, a parameter that does not broadcast, or an unknown
            `zero_split`.

    Example:
        >>> functional.synapse({"alpha": 0.5}, {"syn": 2.0}, 4.0)
        ({'syn': 3.0}, 3.0)
    """
    return advance(trace, ("alpha", "syn"), params, state, channels(x, trace.dual, zero_split))


def recurrence(
    params: Params,
    state: Mapping[str, jax.Array],
    out_tm1: jax.Array,
    *,
    trace: Trace = Trace(),  # noqa: B008
    zero_split: ZeroSplit = "half",
) -> tuple[State, jax.Array]:
    """Update the recurrent trace with the layer's own output of the step before.

        rec = gamma * rec + (1 - gamma) * out_tm1

    Args:
        params: ``gamma``, or ``pos_gamma`` and ``neg_gamma`` of a dual trace; in [0, 1], each
            broadcasts against `out_tm1`.
        state: ``rec``, or ``pos_rec`` and ``neg_rec``, each of the shape of `out_tm1`.
        out_tm1: output emitted at the previous step, any shape.
        trace: dual or not, averaging or summing.
        zero_split: see `split`.

    Returns:
        The new state, and the (summed) trace.

    Raises:
        KeyError: a parameter or state is missing.
        ValueError: a state of another shape, a parameter that does not broadcast, or an unknown
            `zero_split`.

    Example:
        >>> functional.recurrence({"gamma": 0.75}, {"rec": 0.0}, 1.0)
        ({'rec': 0.25}, 0.25)
    """
    x = channels(out_tm1, trace.dual, zero_split)
    return advance(trace, ("gamma", "rec"), params, state, x)


def membrane(
    params: Params,
    state: Mapping[str, jax.Array],
    delta: tuple[jax.Array, ...],
    *,
    trace: Trace = Trace(ema=False),  # noqa: B008
) -> tuple[State, jax.Array]:
    """Update the membrane potential with its input.

        mem = beta * mem + delta                      # a leaky sum, if the layer fires
        mem = beta * mem + (1 - beta) * delta         # an average, if it does not

    Args:
        params: ``beta``, or ``pos_beta`` and ``neg_beta`` of a dual trace; in [0, 1], each
            broadcasts against what is added.
        state: ``mem``, or ``pos_mem`` and ``neg_mem``, each of the shape of what is added.
        delta: one addend for each channel, any shape.
        trace: dual or not, averaging or summing.

    Returns:
        The new state, before any reset, and the (summed) membrane.

    Raises:
        KeyError: a parameter or state is missing.
        ValueError: `delta` is not one addend for each channel; a state of another shape, or a
            parameter that does not broadcast.

    Example:
        >>> functional.membrane({"beta": 0.5}, {"mem": 2.0}, (1.0,))
        ({'mem': 2.0}, 2.0)
    """
    return advance(trace, ("beta", "mem"), params, state, delta)


def adaptation(
    params: Params,
    state: Mapping[str, jax.Array],
    activity: jax.Array,
    *,
    trace: Trace = Trace(),  # noqa: B008
) -> tuple[State, jax.Array]:
    """Update the adaptation trace: the neuron's own recent activity, by which it fires less.

        adapt = rho * adapt + (1 - rho) * activity

    The activity is the spikes of either sign for an adaptive threshold (`fire` adds
    ``adapt_weight * adapt`` to the thresholds), and ``adapt_coupling * mem + adapt_jump * out``,
    after the reset, for an adaptation current (which `step` subtracts from what the membrane
    integrates).

    Args:
        params: ``rho``, in [0, 1], broadcasts against `activity`.
        state: ``adapt``, of the shape of `activity`.
        activity: of this step, any shape.
        trace: averaging or summing.

    Returns:
        The new state, and the trace.

    Raises:
        KeyError: a parameter or state is missing.
        ValueError: a state of another shape, or a parameter that does not broadcast.

    Reference: Bellec et al., "Long short-term memory and learning-to-learn in networks of spiking
    neurons", NeurIPS 2018, for the threshold; Baronig et al., "Advancing spatio-temporal processing
    through adaptation in spiking neural networks", Nature Communications 16, 2025, for the current
    and the order of its update.

    Example:
        >>> functional.adaptation({"rho": 0.75}, {"adapt": 0.0}, 1.0)
        ({'adapt': 0.25}, 0.25)
    """
    return advance(trace, ("rho", "adapt"), params, state, (activity,))


def fire(
    params: Params,
    state: Mapping[str, jax.Array],
    mem: jax.Array,
    *,
    spec: Spec,
    spike: spikes.Spike | tuple[spikes.Spike, spikes.Spike] = DEFAULT_SPIKE,
    draw: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """Compute the spikes of a membrane potential, and reset it.

        p = spike(mem - pos_threshold)
        q = spike(-mem - neg_threshold)
        out = pos_scale * p - neg_scale * q
        mem = mem - (pos_threshold * p - neg_threshold * q)     # spec.reset "subtract"
        mem = mem * max(0, 1 - (p + q))                         # spec.reset "zero"

    A binary layer has p alone. In a dual layer half of what is subtracted comes off each channel,
    whichever sign fired, and each channel is set to 0. The reset takes the unscaled thresholds.
    With ``spec.detach_reset`` it takes p and q as constants for the gradient; the thresholds still
    get one. Where the membrane or a threshold is NaN, so is the output. With
    ``spec.adapt_weight`` each threshold stands for ``threshold + adapt_weight * adapt``, also in
    the reset; with ``spec.adaptation`` its trace is advanced last.

    Args:
        params: the thresholds and scales that `spec` names, and the parameters of its adaptation;
            each broadcasts against `mem`.
        state: ``mem``, or ``pos_mem`` and ``neg_mem``, before the reset, of the shape of `mem`;
            ``adapt`` with an adaptation.
        mem: the (summed) membrane, any shape.
        spec: which sides emit, and what.
        spike: spike function, or one for each side.
        draw: uniform in [0, 1), of the shape of `mem`; for stochastic spike functions only.

    Returns:
        The state after the reset, and the output, of the shape of `mem`.

    Raises:
        KeyError: a parameter or state is missing.
        ValueError: a state of another shape, a parameter that does not broadcast, or a `spike` that
            returns another shape than it gets.

    Example:
        >>> spec = functional.Spec(membrane=functional.Trace(ema=False), positive="spike")
        >>> params, mem = {"threshold": jnp.array(1.0)}, jnp.array(1.25)
        >>> state, out = functional.fire(params, {"mem": mem}, mem, spec=spec)
        >>> float(state["mem"]), float(out)
        (0.25, 1.0)
    """
    names = [name for name in (*spec.thresholds, *spec.scales) if name]
    names += [name for name in _ADAPTATION if name in spec.parameters]
    _check_states(state, state, np.shape(mem))
    _check_params(params, names, np.shape(mem))
    return _fire(params, state, mem, spec, spike, draw)


_ADAPTATION = [row.name for row in PARAMETERS if row.field.startswith("adapt")]


def _fire(
    params: Params,
    state: Mapping[str, jax.Array],
    mem: jax.Array,
    spec: Spec,
    spike: Any,
    draw: jax.Array | None,
) -> tuple[State, jax.Array]:
    """`fire` of what has been checked."""
    # With P(u) the probability of a spike, both signs fire if draw < P(mem - pos_threshold) and
    # 1 - draw < P(-mem - neg_threshold). If both sides have one surrogate of `spikes`, P rises
    # and P(-u) is 1 - P(u). As thresholds are positive, the two P add up to at most 1, and this
    # never happens. Two surrogates may both fire.
    draws = (None, None) if draw is None else (draw, 1 - draw)
    functions = sides(spike)
    outs, fired, resets, distances = [], [], [], []
    each_side = zip(
        (1, -1), (spec.positive, spec.negative), thresholds(spec, params, state), spec.scales,
        functions, draws, strict=True,
    )  # fmt: skip
    for sign, emission, threshold, scale, function, side_draw in each_side:
        if emission is None:
            continue
        if threshold is None:  # the side passes the membrane through
            emitted = sign * split(mem, spec.zero_split)[0 if sign > 0 else 1]
        else:
            above = (mem if sign > 0 else -mem) - threshold
            emitted = _spikes(function, above, side_draw)
            distances.append(above)
            fired.append(emitted)
            spent = jax.lax.stop_gradient(emitted) if spec.detach_reset else emitted
            resets.append((sign, threshold * spent if spec.reset == "subtract" else spent))
        outs.append((sign, emitted if scale is None else params[scale] * emitted))

    out = _signed_sum(outs)
    if not resets:
        return dict(state), out
    out = spikes.keep_nan(out, *distances)
    new = dict(state) | _reset(spec, state, resets)
    if spec.adaptation:
        new |= _adapt(spec, params, new, fired, out)
    return new, out


def _adapt(
    spec: Spec, params: Params, state: State, fired: list[jax.Array], out: jax.Array
) -> State:
    """The adaptation trace after it has taken in what the neuron did in this step.

    Args:
        spec: of the layer.
        params: constrained values by name.
        state: states by name, after the reset.
        fired: spikes of each side.
        out: what is emitted.
    """
    assert spec.adaptation is not None
    if spec.adapt_weight:
        activity = sum_channels(fired)
    else:
        activity = sum_channels(
            params[name] * value
            for name, there, value in (
                ("adapt_coupling", spec.adapt_coupling, sum_membrane(spec, state)),
                ("adapt_jump", spec.adapt_jump, out),
            )
            if there
        )
    return _advance(spec.adaptation, ("rho", "adapt"), params, state, (activity,))[0]


def _reset(spec: Spec, state: Mapping[str, jax.Array], spent: list[tuple[int, jax.Array]]) -> State:
    """The channels of the membrane after the reset.

    Args:
        spec: of the layer.
        state: states by name, before the reset.
        spent: sign and spikes of each side that spikes, times the threshold if that comes off.
    """
    names = channel_names("mem", spec.membrane.dual)
    if spec.reset == "none":
        return {name: state[name] for name in names}
    if spec.reset == "zero":
        total = sum_channels(taken for _, taken in spent)
        kept = jnp.where(total > 1, jnp.zeros_like(total), 1 - total)  # spikes may count
        return {name: state[name] * kept for name in names}
    off = _signed_sum(spent)
    if spec.membrane.dual:
        off = 0.5 * off
    return {name: state[name] - off for name in names}


def thresholds(
    spec: Spec, params: Params, state: Mapping[str, jax.Array]
) -> tuple[jax.Array | None, jax.Array | None]:
    """The positive and the negative threshold of a step; None where nothing spikes.

    Args:
        spec: of the layer.
        params: constrained values by name.
        state: states by name, before the reset.
    """
    pos, neg = (params[name] if name else None for name in spec.thresholds)
    if spec.adapt_weight:
        raised = params["adapt_weight"] * state["adapt"]
        pos, neg = (None if each is None else each + raised for each in (pos, neg))
    return pos, neg


def _spikes(spike: Any, u: jax.Array, draw: jax.Array | None) -> jax.Array:
    out = spikes.emit(spike, u, draw if is_stochastic(spike) else None)
    dtype = getattr(out, "dtype", None)
    if dtype is None or not is_real(dtype):
        got = type(out).__name__ if dtype is None else dtype
        raise TypeError(f"`spike` must return an array of real numbers; got {got} from {spike!r}.")
    if np.shape(out) != np.shape(u):
        raise ValueError(
            f"`spike` must return an array of the shape of its input, {np.shape(u)}; "
            f"got {np.shape(out)} from {spike!r}."
        )
    return out.astype(u.dtype)


def _signed_sum(terms: list[tuple[int, jax.Array]]) -> jax.Array:
    """``+a``, ``-b`` or ``a - b``."""
    (sign, total), *rest = terms
    total = total if sign > 0 else -total
    return total - rest[0][1] if rest else total


def is_stochastic(spike: Any) -> bool:
    """Whether a spike function, or one of a pair, needs random draws."""
    return any(getattr(side, "stochastic", False) for side in sides(spike))


def sides(spike: Any) -> tuple[Any, Any]:
    """A spike function for each side; one that is a NamedTuple is no pair."""
    return spike if type(spike) is tuple else (spike, spike)


def step(
    spec: Spec,
    params: Params,
    state: Mapping[str, jax.Array],
    x: jax.Array,
    *,
    spike: spikes.Spike | tuple[spikes.Spike, spikes.Spike] = DEFAULT_SPIKE,
    key: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """Advance a layer by one time step.

    In order: the synaptic trace smooths the input, the recurrent trace takes in the output of the
    step before, the membrane integrates both, and what it fires is emitted and taken back from it;
    an adaptation trace takes in what came of it last.
    ``spec.parameters`` and ``spec.states`` list what is read and written.

    Args:
        spec: which features the layer has.
        params: constrained values by name; each broadcasts against `x`.
        state: states by name, each of the shape of `x`.
        x: input, ``[..., N]``.
        spike: spike function, or a pair for the positive and the negative side.
        key: PRNG key of this step, for stochastic spike functions.

    Returns:
        The new state, and the output, of the shape of `x`.

    Raises:
        KeyError: a parameter or state is missing.
        ValueError: a state of another shape than `x`, or a parameter that does not broadcast to it;
            a stochastic spike function without a `key`, or one on one side only; a spike function
            that returns another shape than it gets.

    Reference: the layers of traceTorch 0.19.2.

    Example:
        >>> spec = functional.Spec(membrane=functional.Trace(ema=False), positive="spike")
        >>> params = {"beta": jnp.array(0.5), "threshold": jnp.array(1.0)}
        >>> state, out = functional.step(spec, params, {"mem": jnp.zeros(2)}, jnp.array([0.5, 1.5]))
        >>> state["mem"].tolist(), out.tolist()
        ([0.5, 0.5], [0.0, 1.0])
    """
    for each in sides(spike):
        check_spike("spike", each)
    x = asarray(x)
    return emit(spec, params, integrate(spec, params, state, x), spike, key)


def integrate(
    spec: Spec,
    params: Params,
    state: Mapping[str, jax.Array],
    x: jax.Array,
    run: Callable[..., jax.Array] = _one_step,
    leading: int = 0,
) -> State:
    """The traces after they have taken in what reaches them, and before any reset."""
    params = align(params, x.ndim)
    _check_states(state, spec.states, x.shape[leading:])
    _check_params(params, spec.parameters, x.shape)
    halves = spec.zero_split
    new: State = {}

    drive = x
    if spec.synapse:
        names, parts = ("alpha", "syn"), channels(x, spec.synapse.dual, halves)
        syn, drive = _advance(spec.synapse, names, params, state, parts, run)
        new |= syn
    delta = channels(drive, spec.membrane.dual, halves)

    if spec.recurrence:
        names = "gamma", "rec"
        parts = channels(state["prev_output"], spec.recurrence.dual, halves)
        rec, feedback = _advance(spec.recurrence, names, params, state, parts)
        new |= rec
        delta = _add_feedback(spec, params, delta, feedback)
    if spec.bias:
        parts = channels(params["bias"], spec.membrane.dual, halves)
        delta = tuple(d + b for d, b in zip(delta, parts, strict=True))

    if spec.adaptation:
        new["adapt"] = state["adapt"]  # takes in this step after the reset
    if has_adaptation_current(spec):
        parts = channels(state["adapt"], spec.membrane.dual, halves)
        delta = tuple(d - a for d, a in zip(delta, parts, strict=True))

    mem, _ = _advance(spec.membrane, ("beta", "mem"), params, state, delta, run)
    return new | mem


def emit(
    spec: Spec, params: Params, state: State, spike: Any, key: jax.Array | None
) -> tuple[State, jax.Array]:
    """The state after the reset, and the output."""
    out = sum_membrane(spec, state)
    params = align(params, out.ndim)
    if spec.emits:
        draw = None
        if spec.fires and is_stochastic(spike):
            draw = _draw(spike, key, out.shape)
        state, out = _fire(params, state, out, spec, spike, draw)
    if spec.recurrence:
        state = state | {"prev_output": out}
    return state, out


def sum_membrane(spec: Spec, state: Mapping[str, jax.Array]) -> jax.Array:
    """The membrane of a layer: the sum of its channels."""
    return sum_channels([state[name] for name in channel_names("mem", spec.membrane.dual)])


def align(params: Params, ndim: int) -> dict[str, jax.Array]:
    """Give vectors the rank of what they multiply; axes are counted from the end."""
    arrays = {name: jnp.asarray(value) for name, value in params.items()}
    return {name: along(p, -1, ndim) if p.ndim else p for name, p in arrays.items()}


def _add_feedback(
    spec: Spec, params: Params, delta: tuple[jax.Array, ...], rec: jax.Array
) -> tuple[jax.Array, ...]:
    """Add the weighted recurrent trace to each channel of what the membrane integrates."""
    by_sign = spec.membrane.dual or spec.rec_weight == "dual"
    parts = channels(rec, by_sign, spec.zero_split)
    if spec.rec_weight:
        names = channel_names("rec_weight", spec.rec_weight == "dual")
        weights = [params[name] for name in names]
        weights *= len(parts) // len(weights)
        parts = tuple(w * part for w, part in zip(weights, parts, strict=True))
    if not spec.membrane.dual:
        parts = (sum_channels(parts),)
    return tuple(d + part for d, part in zip(delta, parts, strict=True))


def _draw(spike: Any, key: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    if not all(map(is_stochastic, sides(spike))):
        raise ValueError(
            "`spike` must be stochastic for both signs or for neither, so that one draw decides "
            f"both; got {spike!r}."
        )
    if key is None:
        raise ValueError(f"`key` is needed to draw the spikes of {spike!r}; got None.")
    return jax.random.uniform(key, shape)
