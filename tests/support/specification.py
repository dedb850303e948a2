"""The specification of all layers, step by step, in NumPy.

It has nothing of JAX and nothing of the package but the options of a `LeakyIntegrator`, read as
plain data. Numbers are complex: the real part is the value, and the imaginary part the derivative
in one direction, times a step so small that its square is nothing. Sums and products of complex
numbers then obey the rules of differentiation (the complex-step method); the sign splits and the
spikes, which are not analytic, say what their derivatives are.

Shapes: a step's slice of one sequence is ``[..., N, ...]``, with values that broadcast against it.
"""

import dataclasses
import math

import numpy as np

SIGNS = ("pos", "neg")
ADAPTATION = ("rho", "adapt_weight", "adapt_coupling", "adapt_jump")


def logistic(v):
    return (1 + np.tanh(v / 2)) / 2


def above(u, _):
    return 1.0 * (u > 0)


# Of each spike function: what is emitted at the distance u above the threshold, and what counts as
# its derivative.
SPIKES = {
    "atan": (above, lambda u, a: (a / 2) / (1 + (np.pi / 2 * a * u) ** 2)),
    "sigmoid": (above, lambda u, k: k * logistic(k * u) * logistic(-k * u)),
    "fast_sigmoid": (above, lambda u, k: 1 / (1 + k * abs(u)) ** 2),
    "triangular": (above, lambda u, w: np.maximum(0, 1 - abs(u) / w) / w),
    "gaussian": (above, lambda u, w: np.exp(-((u / w) ** 2) / 2) / (w * math.sqrt(2 * np.pi))),
    "straight_through": (above, lambda u, w: (abs(u) <= w / 2) / w),
    "smooth": (lambda u, k: logistic(k * u), lambda u, k: k * logistic(k * u) * logistic(-k * u)),
}


def emit(spike, u):
    (constant,) = dataclasses.astuple(spike)
    value, derivative = (f(u.real, constant) for f in SPIKES[type(spike).__name__])
    return value + 1j * derivative * u.imag


def split(v, zero_split):
    """Positive and negative part, and at 0 half of the derivative or all of it for each."""
    if zero_split == "half":
        return v * (1 + np.sign(v.real)) / 2, v * (1 - np.sign(v.real)) / 2
    return v * (v.real >= 0), v * (v.real <= 0)


def channels(options, root):
    """Of one feature: names of its parameters and their options. One of them alone has no sign."""
    given = {f"{s}_{root}": options[f"{s}_{root}"] for s in SIGNS if f"{s}_{root}" in options}
    return given if len(given) == 2 else dict(zip([root], given.values(), strict=False))


def parameters(options):
    """Every parameter's option by the parameter's name."""
    names = {}
    for root in ("alpha", "beta", "gamma", "scale", "rec_weight"):
        names |= channels(options, root)
    positive, negative = (options.get(f"{s}_threshold") for s in SIGNS)
    if positive and not positive.passthrough:
        names["pos_threshold" if negative else "threshold"] = positive
    if negative and not negative.passthrough:
        names["neg_threshold"] = negative
    names |= {name: options[name] for name in ("bias", *ADAPTATION) if name in options}
    return names


def states(options):
    names = []
    for root, state in (("alpha", "syn"), ("gamma", "rec"), ("beta", "mem")):
        names += [name.replace(root, state) for name in channels(options, root)]
    names += ["adapt"] * ("rho" in options)
    return [*names, "prev_output"] if channels(options, "gamma") else names


def constrain(name, raw):
    """The value of a parameter from what is stored."""
    if name.endswith(("alpha", "beta", "gamma", "rho")):
        return logistic(raw)
    return np.log(1 + np.exp(raw)) if name.endswith(("threshold", "adapt_weight")) else raw


def advance(options, root, state_root, values, state, inputs, average):
    new = {}
    for (name, option), x in zip(channels(options, root).items(), inputs, strict=True):
        a, s = values[name], name.replace(root, state_root)
        averages = average if option.ema is None else option.ema
        new[s] = a * state[s] + ((1 - a) * x if averages else x)
    return new, sum(new.values())


def step(options, values, state, x, zero_split="half", reset="subtract", detach_reset=False):
    """One step: the new state, the output, and how far from its threshold each side was."""

    def spent(spikes):  # the real part alone is a constant
        return spikes.real + 0j if detach_reset else spikes

    def parts(v, root):
        return split(v, zero_split) if len(channels(options, root)) == 2 else (v,)

    positive, negative = (options.get(f"{s}_threshold") for s in SIGNS)
    new, drive = {}, x
    if channels(options, "alpha"):
        halves = parts(x, "alpha")
        syn, drive = advance(options, "alpha", "syn", values, state, halves, True)
        new |= syn

    delta = list(parts(drive, "beta"))
    if channels(options, "gamma"):
        halves = parts(state["prev_output"], "gamma")
        rec, r = advance(options, "gamma", "rec", values, state, halves, True)
        new |= rec
        weights = [values[name] for name in channels(options, "rec_weight")] or [1.0]
        if len(delta) == 2:
            for i, part in enumerate(split(r, zero_split)):
                delta[i] = delta[i] + weights[i if len(weights) == 2 else 0] * part
        elif len(weights) == 2:
            p, n = split(r, zero_split)
            delta[0] = delta[0] + weights[0] * p + weights[1] * n
        else:
            delta[0] = delta[0] + weights[0] * r
    if "bias" in options:
        delta = [d + b for d, b in zip(delta, parts(values["bias"], "beta"), strict=True)]

    if "adapt_coupling" in options or "adapt_jump" in options:
        halves = parts(state["adapt"], "beta")
        delta = [d - a for d, a in zip(delta, halves, strict=True)]

    average = not (positive or negative)
    mem, m = advance(options, "beta", "mem", values, state, delta, average)
    y, distances = m, []
    if positive or negative:
        scales = [values[name] for name in channels(options, "scale")] or [1.0]
        y = z = fired = spikes = 0 * m
        raised = values["adapt_weight"] * state["adapt"] if "adapt_weight" in options else 0
        if positive and positive.passthrough:
            y = y + scales[0] * split(m, zero_split)[0]
        elif positive:
            threshold = values["pos_threshold" if negative else "threshold"] + raised
            distances.append(m - threshold)
            p = emit(positive.spike, m - threshold)
            y, z, fired = y + scales[0] * p, z + threshold * spent(p), fired + spent(p)
            spikes = spikes + p
        if negative and negative.passthrough:
            y = y + scales[-1] * split(m, zero_split)[1]
        elif negative:
            threshold = values["neg_threshold"] + raised
            distances.append(-m - threshold)
            q = emit(negative.spike, -m - threshold)
            y, z, fired = y - scales[-1] * q, z - threshold * spent(q), fired + spent(q)
            spikes = spikes + q
        if reset == "subtract":
            mem = {name: value - z / len(mem) for name, value in mem.items()}
        elif reset == "zero":
            mem = {name: value * (1 - fired) for name, value in mem.items()}
    new |= mem
    if "rho" in options:
        taken = spikes if "adapt_weight" in options else 0 * m
        taken = taken + values.get("adapt_coupling", 0) * sum(mem.values())
        taken = taken + values.get("adapt_jump", 0) * y
        share = 1 if options["rho"].ema is False else 1 - values["rho"]
        new["adapt"] = values["rho"] * state["adapt"] + share * taken
    if channels(options, "gamma"):
        new["prev_output"] = y
    return new, y, distances


@dataclasses.dataclass
class Result:
    """What a run gives, and how near a membrane came to a threshold, relative to the largest."""

    carry: dict
    ys: np.ndarray
    margin: float


def run(options, values, carry, xs, lengths=None, *, reverse=False, keep_order=False, **statics):
    """One sequence after the other, and one step after the other.

    Args:
        options: of the `LeakyIntegrator`, by name.
        values: constrained values, by the parameter's name.
        carry: states ``[B, ...]``, by name.
        xs: inputs ``[T, B, ...]``.
        lengths: ``[B]``, or None if all sequences have T steps.
        reverse: as that of `Unroll`.
        keep_order: as that of `Unroll`.
        **statics: `zero_split`, `reset` and `detach_reset`, as the layer's.
    """
    ys = np.zeros(xs.shape, complex)
    last = {name: np.array(state, complex) for name, state in carry.items()}
    nearest, largest = math.inf, 1.0
    for b in range(xs.shape[1]):
        state = {name: value[b] for name, value in last.items()}
        length = len(xs) if lengths is None else int(lengths[b])
        for i in range(length):
            t = length - 1 - i if reverse else i
            state, y, distances = step(options, values, state, xs[t, b] + 0j, **statics)
            ys[t if keep_order else i, b] = y
            for u in distances:
                nearest = min(nearest, np.abs(u.real).min(initial=math.inf))
                largest = max(largest, np.abs(u.real).max(initial=0))
        for name, value in state.items():
            last[name][b] = value
    return Result(last, ys, nearest / largest)
