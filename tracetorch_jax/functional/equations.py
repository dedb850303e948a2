"""The update of a layer as lines of text, in execution order; for docstrings and documentation.

The lines are Python: a test executes them against the reference vectors.
"""

from __future__ import annotations

from tracetorch_jax.functional.spec import (
    FIRST_FIELDS,
    Spec,
    Trace,
    channel_names,
    has_adaptation_current,
    require,
)

# Fields of a spec that the lines tell of. `equations` refuses any other.
_KNOWN = FIRST_FIELDS | set("reset adaptation adapt_weight adapt_coupling adapt_jump".split())


def _update(trace: Trace, decay: str, state: str, inputs: tuple[str, ...]) -> list[str]:
    lines = []
    names = zip(
        channel_names(decay, trace.dual), channel_names(state, trace.dual), trace.averages, inputs,
        strict=True,
    )  # fmt: skip
    for a, s, averages, x in names:
        bracketed = f"({x})" if averages and " " in x else x
        lines.append(f"{s} = {a} * {s} + " + (f"(1 - {a}) * {bracketed}" if averages else x))
    if trace.dual:
        lines.append(f"{state} = " + " + ".join(channel_names(state, True)))
    return lines


def _parts(signal: str, dual: bool) -> tuple[str, ...]:
    return (f"pos({signal})", f"neg({signal})") if dual else (signal,)


def _delta(spec: Spec, drive: str) -> tuple[str, ...]:
    """What is added to each channel of the membrane."""
    dual = spec.membrane.dual
    terms = [[part] for part in _parts(drive, dual)]
    if spec.recurrence:
        parts = _parts("rec", dual or spec.rec_weight == "dual")
        if spec.rec_weight:
            weights = channel_names("rec_weight", spec.rec_weight == "dual")
            weights *= len(parts) // len(weights)
            parts = tuple(f"{w} * {part}" for w, part in zip(weights, parts, strict=True))
        for channel, found in zip(terms, zip(parts) if dual else (parts,), strict=True):
            channel += found
    if spec.bias:
        for channel, part in zip(terms, _parts("bias", dual), strict=True):
            channel.append(part)
    sums = tuple(" + ".join(channel) for channel in terms)
    if not has_adaptation_current(spec):
        return sums
    parts = _parts("adapt", dual)
    return tuple(f"{total} - {part}" for total, part in zip(sums, parts, strict=True))


def equations(spec: Spec) -> list[str]:
    """Lines of the update that `spec` describes.

    ``pos(v)`` and ``neg(v)`` are the positive and negative part of ``v``, ``spike(u)`` is 1 where
    ``u > 0`` and else 0. Every name is a parameter, a state, the input ``x`` or the output ``out``.

    Args:
        spec: any layer's.

    Raises:
        ValueError: a spec with a field that these lines do not know.

    Example:
        >>> for line in equations(Spec(membrane=Trace(ema=False), positive="spike")):
        ...     print(line)
        mem = beta * mem + x
        out = spike(mem - threshold)
        mem = mem - threshold * out
    """
    require(spec, _KNOWN, "The text of the equations")
    lines, drive = [], "x"
    if spec.synapse:
        lines += _update(spec.synapse, "alpha", "syn", _parts("x", spec.synapse.dual))
        drive = "syn"
    if spec.recurrence:
        dual = spec.recurrence.dual
        lines += _update(spec.recurrence, "gamma", "rec", _parts("prev_output", dual))
    lines += _update(spec.membrane, "beta", "mem", _delta(spec, drive))
    lines += _firing(spec)
    if spec.recurrence:
        lines.append("prev_output = out")
    return lines


def _firing(spec: Spec) -> list[str]:
    if not spec.emits:
        return ["out = mem"]
    raised = raised_thresholds(spec)
    lines = [
        f"{theta} = {name} + adapt_weight * adapt"
        for theta, name in zip(raised, spec.thresholds, strict=True)
        if theta
    ]
    pos, neg = raised if spec.adapt_weight else spec.thresholds
    scales = [f"{name} * " if name else "" for name in spec.scales]
    alone = spec.positive == "spike" and spec.negative is None and spec.scale is None
    p = "out" if alone else "p"
    if spec.positive:
        lines.append(f"{p} = spike(mem - {pos})" if pos else "p = pos(mem)")
    if spec.negative:
        lines.append(f"q = spike(-mem - {neg})" if neg else "q = -neg(mem)")
    if not alone:
        out = (f"{scales[0]}p" if spec.positive else "") + (
            f" - {scales[1]}q" if spec.negative else ""
        )
        lines.append(f"out = {out.strip()}")
    spikes = [p] * bool(pos) + ["q"] * bool(neg)
    lines += _reset(spec, p, spikes, (pos, neg))
    if spec.adaptation:
        activity = " + ".join(spikes)
        if has_adaptation_current(spec):
            lines += ["mem = pos_mem + neg_mem"] * (spec.adapt_coupling and spec.membrane.dual)
            terms = ["adapt_coupling * mem"] * spec.adapt_coupling
            activity = " + ".join(terms + ["adapt_jump * out"] * spec.adapt_jump)
        lines += _update(spec.adaptation, "rho", "adapt", (activity,))
    return lines


def raised_thresholds(spec: Spec) -> tuple[str | None, str | None]:
    """What each of ``spec.thresholds`` is called with what adaptation adds to it, if it does."""
    pos, neg = (
        name.replace("threshold", "theta") if name and spec.adapt_weight else None
        for name in spec.thresholds
    )
    return pos, neg


def _reset(
    spec: Spec, p: str, spikes: list[str], thresholds: tuple[str | None, str | None]
) -> list[str]:
    """What the spikes of each sign do to the membrane."""
    mems, (pos, neg) = channel_names("mem", spec.membrane.dual), thresholds
    if spec.reset == "none" or not spec.fires:
        return []
    if spec.reset == "zero":
        fired = " + ".join(spikes)
        kept = f"(1 - ({fired}))" if " " in fired else f"(1 - {fired})"
        return [f"{mem} = {mem} * {kept}" for mem in mems]
    half = "0.5 * " if spec.membrane.dual else ""
    off = (f" - {half}{pos} * {p}" if pos else "") + (f" + {half}{neg} * q" if neg else "")
    return [f"{mem} = {mem}{off}" for mem in mems]
