"""Random layers over random sequences, against the specification in NumPy."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import specification
from hypothesis import given, settings
from hypothesis import strategies as st

from tracetorch_jax import functional, nnx, snn, spikes
from tracetorch_jax.snn.flex import Decay, Threshold, Weight

pytestmark = pytest.mark.slow

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """All that a program is compiled for, and where its numbers come from."""

    options: dict
    statics: dict
    dim: int
    step: tuple[int, ...]
    steps: int
    dtype: str
    way: str
    engine: str
    unroll: int
    checkpoint_every: int | str | None
    lengths: str | None
    carry: bool
    time_major: bool
    reverse: bool
    keep_order: bool
    seed: int

    @property
    def arguments(self):
        """Of a `LeakyIntegrator`."""
        param_dtype = jnp.float64 if self.dtype == "float64" else jnp.float32
        return {
            "num_neurons": self.step[self.dim],
            "dim": self.dim,
            **self.statics,
            "param_dtype": param_dtype,
            **self.options,
        }

    @property
    def margin(self):
        """How near a membrane may come to its threshold for rounding not to decide on a spike."""
        return 1e-9 if self.dtype == "float64" else 1e-4

    @property
    def draws(self):
        """Of numbers: many, since what costs is compilation, unless the sequence is long."""
        return range(1 if self.steps > 9 else 4)

    @property
    def batched(self):
        return len(self.step) > -self.dim

    @property
    def loop(self):
        return {
            "engine": self.engine,
            "unroll": self.unroll,
            "checkpoint_every": self.checkpoint_every,
        }

    @property
    def order(self):
        return {
            "time_major": self.time_major or not self.batched,
            "reverse": self.reverse,
            "keep_order": self.keep_order,
        }


# How a layer is run: functions of raw parameters, carry, inputs and lengths that give the last
# carry and the outputs. All are time-major.


def of_unroll(case, call):
    """Arrange a call of `Unroll` as this case has it."""

    def run(raw, carry, xs, lengths):
        axis = 0 if case.time_major else 1
        last, ys = call(raw, carry if case.carry else None, jnp.moveaxis(xs, 0, axis), lengths)
        return last, jnp.moveaxis(ys, axis, 0)

    return run


def through_unroll(case):
    cell = snn.flex.LeakyIntegrator(**case.arguments)
    model = snn.Unroll(cell, return_carry=True, **case.loop, **case.order)
    return of_unroll(
        case,
        lambda raw, carry, xs, lengths: model.apply(
            {"params": {"cell": raw}}, xs, carry, seq_lengths=lengths
        ),
    )


def through_nnx(case):
    def call(raw, carry, xs, lengths):
        cell = nnx_cell(case, raw)
        model = nnx.Unroll(cell, return_carry=True, **case.loop, **case.order)
        return model(xs, carry, seq_lengths=lengths)

    return of_unroll(case, call)


def nnx_cell(case, raw):
    cell = nnx.flex.LeakyIntegrator(**case.arguments)
    for name, value in raw.items():
        getattr(cell, name)[...] = value
    return cell


def through_chunks(case):
    whole = through_unroll(dataclasses.replace(case, carry=True))

    def run(raw, carry, xs, lengths):
        cut = -(-len(xs) // 2)
        last, first = None, None
        if lengths is not None:
            first = jnp.minimum(lengths.astype(jnp.int32), cut)
            last = (lengths.astype(jnp.int32) - first).astype(lengths.dtype)
            first = first.astype(lengths.dtype)
        carry, ys = whole(raw, carry, xs[:cut], first)
        carry, more = whole(raw, carry, xs[cut:], last)
        return carry, jnp.concatenate([ys, more])

    return run


def through_rnn(case):
    cell = snn.flex.LeakyIntegrator(**case.arguments)
    model = nn.RNN(cell, time_major=True, return_carry=True)
    return lambda raw, carry, xs, _: model.apply({"params": {"cell": raw}}, xs, initial_carry=carry)


def through_functional(case):
    """`functional.unroll` of a step of which it knows nothing."""
    cell = snn.flex.LeakyIntegrator(**case.arguments)
    trailing = (1,) * (-case.dim - 1)

    def step(params, state, x):
        return functional.step(cell.spec, params, state, x, spike=cell.spike_function)

    def run(raw, carry, xs, lengths):
        params = {
            name: value.reshape(value.shape + trailing if value.ndim else ())
            for name, value in cell.apply({"params": raw}, method="parameters").items()
        }
        wide = xs.astype(cell.param_dtype)
        last, ys = functional.unroll(step, params, carry, wide, seq_lengths=lengths)
        return last, ys.astype(xs.dtype)

    return run


def through_cell(case):
    cell = snn.flex.LeakyIntegrator(**case.arguments)
    return by_steps(lambda raw, carry, x: cell.apply({"params": raw}, carry, x))


def through_nnx_cell(case):
    return by_steps(lambda raw, carry, x: nnx_cell(case, raw)(carry, x))


def by_steps(step):
    step = jax.jit(step)

    def run(raw, carry, xs, _):
        ys = []
        for x in xs:
            carry, y = step(raw, carry, x)
            ys.append(y)
        return carry, np.stack(ys)

    return run


JITTED = {
    "unroll": through_unroll,
    "nnx": through_nnx,
    "chunks": through_chunks,
    "rnn": through_rnn,
    "functional": through_functional,
}
EAGER = {"eager": through_unroll, "cell": through_cell, "nnx cell": through_nnx_cell}
WITHOUT_LENGTHS = ("rnn", "cell", "nnx cell")


# What is drawn.

FLAGS = st.booleans()
RANKS = st.sampled_from([1, 1, 0])
LEARNABLE = st.sampled_from([True, True, True, False])
SPIKES = [
    spikes.atan(2.0), spikes.sigmoid(5.0), spikes.fast_sigmoid(3.0), spikes.triangular(1.5),
    spikes.gaussian(0.5), spikes.straight_through(1.5),
]  # fmt: skip


@st.composite
def decays(draw):
    learnable = draw(LEARNABLE)
    return Decay(
        draw(st.sampled_from([0.9, 0.3] if learnable else [0.7, 0.0, 1.0])),
        rank=draw(RANKS), learnable=learnable, ema=draw(st.sampled_from([None, True, False])),
    )  # fmt: skip


@st.composite
def thresholds(draw, spike_functions):
    if draw(st.sampled_from([False, False, False, True])):
        return Threshold(passthrough=True)
    return Threshold(0.6, rank=draw(RANKS), learnable=draw(LEARNABLE), spike=draw(spike_functions))


@st.composite
def weights(draw):
    return Weight(draw(st.sampled_from([0.7, -0.4])), rank=draw(RANKS), learnable=draw(LEARNABLE))


def sides(draw, at_least=0):
    return draw(st.sampled_from([(), ("pos",), ("neg",), ("pos", "neg")][at_least:]))


@st.composite
def layers(draw, contracting=False):
    """Options of a `LeakyIntegrator`, by name.

    Args:
        draw: Hypothesis's.
        contracting: only layers in which rounding errors do not grow from step to step.
    """
    options = {}

    def add(root, kind, at_least=0):
        options.update({f"{side}_{root}": draw(kind) for side in sides(draw, at_least)})

    add("beta", decays(), 1)
    add("threshold", thresholds(st.sampled_from(SPIKES + [spikes.smooth(4.0)] * (not contracting))))
    if any("threshold" in name for name in options):
        add("scale", weights())
    add("alpha", decays())
    if not contracting:
        add("gamma", decays())
    if any("gamma" in name for name in options):
        add("rec_weight", weights())
    if draw(st.sampled_from([False, False, True])):
        options["bias"] = draw(weights())
    fires = any("threshold" in name and not o.passthrough for name, o in options.items())
    if fires and not contracting:
        options |= draw(adaptation())
    return options


@st.composite
def adaptation(draw):
    """An adaptive threshold, an adaptation current, or neither."""
    found = draw(
        st.sampled_from([(), (), ("weight",), ("coupling",), ("jump",), ("coupling", "jump")])
    )
    options = {f"adapt_{name}": draw(weights()) for name in found}
    if "adapt_weight" in options:
        options["adapt_weight"] = dataclasses.replace(options["adapt_weight"], value=0.5)
    return options | ({"rho": draw(decays())} if found else {})


def engines(options):
    """Those that can run a layer."""
    spikes = any("threshold" in name and not o.passthrough for name, o in options.items())
    linear = specification.channels(options, "alpha") or not (
        spikes or specification.channels(options, "gamma")
    )
    return ["auto", "scan", *(["parallel", "parallel"] if linear else []), "fused"]


@st.composite
def statics(draw, options):
    """Arguments of a layer that are no numbers."""
    found = {"zero_split": draw(st.sampled_from(["half", "both"]))}
    if any(s in options and not options[s].passthrough for s in ("pos_threshold", "neg_threshold")):
        found["reset"] = draw(st.sampled_from(["subtract", "subtract", "zero", "none"]))
        found["detach_reset"] = draw(FLAGS)
    return found


@st.composite
def cases(draw, way, dtypes):
    lengths = draw(st.sampled_from([None, *INTEGERS])) if way not in WITHOUT_LENGTHS else None
    long = lengths in ("int8", "uint8")  # more steps than these can count
    options = draw(layers(contracting=long))
    dim = draw(st.sampled_from([-1, -1, -2, -3]))
    step = draw(st.sampled_from([(3, 2, 1), (2, 3, 2), (4, 2, 2)]))[:-dim]
    step = draw(st.sampled_from([(3,), (1,), (4,), (), (2, 2)])) + step
    batched = len(step) > -dim
    engine = draw(st.sampled_from(engines(options)))
    whole = way in ("unroll", "chunks", "nnx", "eager")
    steps = range(0 if way == "functional" or whole else 1, 10)
    return Case(
        options=options,
        statics=draw(statics(options)),
        dim=dim,
        step=step,
        steps=300 if long else draw(st.sampled_from(steps)),
        dtype=draw(st.sampled_from(dtypes)),
        way=way,
        engine=engine if whole else "auto",
        unroll=draw(st.sampled_from([1, 1, 2, 5])) if whole else 1,
        checkpoint_every=draw(st.sampled_from([None, 1, 3, "sqrt"])) if whole else None,
        lengths=lengths,
        carry=draw(FLAGS),
        time_major=draw(FLAGS) if batched else True,
        reverse=draw(FLAGS) if whole and way != "chunks" else False,
        keep_order=draw(FLAGS) if whole and way != "chunks" else False,
        seed=draw(st.integers(0, 2**16)),
    )


@dataclasses.dataclass
class Numbers:
    """What a program is given; time-major, and lengths None or one for each sequence."""

    raw: dict
    carry: dict
    xs: np.ndarray
    lengths: np.ndarray | None

    @property
    def arguments(self):
        """Those that have a derivative."""
        return self.raw, self.carry, self.xs


def numbers(case, draw):
    rng = np.random.default_rng((case.seed, draw))
    narrow = "float64" if case.dtype == "float64" else "float32"
    raw = {}
    for name, option in specification.parameters(case.options).items():
        if option.learnable:
            shape = (case.step[case.dim],) if option.rank else ()
            wide = draw == 0 and name.endswith(("alpha", "beta", "gamma", "rho", "threshold"))
            raw[f"raw_{name}"] = np.asarray(rng.normal(0, 4 if wide else 1, shape), narrow)
    shape = (case.steps, *case.step)
    xs = 1.5 * rng.normal(size=shape) * (rng.random(shape) > 0.2)
    carry = {
        name: (rng.normal(0, 0.7, case.step) * case.carry).astype(narrow)
        for name in specification.states(case.options)
    }
    lengths = None
    if case.lengths is not None:
        batch = case.step[:1] if case.batched else ()
        most = min(case.steps, np.iinfo(case.lengths).max)
        lengths = np.asarray(rng.integers(0, most, batch, endpoint=True), case.lengths)
    return Numbers(raw, carry, xs.astype(jnp.dtype(case.dtype)), lengths)


# What is expected.

# Relative to the largest number. Inputs of 16 bits are computed on in float32.
DTYPES = ("float64", "float32", "bfloat16", "float16")
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "bfloat16": 2.0**-8, "float16": 2.0**-11}
TINY = 1e-200  # its square is 0


def specified(case, given, along=None):
    """What the specification gives for `given`, plus `TINY` i times its derivative.

    Args:
        case: what is run.
        given: numbers.
        along: the direction of the derivative, like ``given.arguments``; by default there is none.
    """
    if along is None:
        along = jax.tree.map(np.zeros_like, given.arguments)
    raw, carry, xs = jax.tree.map(
        lambda value, slope: value.astype(np.float64) + 1j * TINY * slope.astype(np.float64),
        given.arguments, along,
    )  # fmt: skip
    trailing = (1,) * (-case.dim - 1)
    values = {}
    for name, option in specification.parameters(case.options).items():
        value = np.array(option.value + 0j)
        if option.learnable:
            value = np.asarray(specification.constrain(name, raw[f"raw_{name}"]))
        values[name] = value.reshape(value.shape + trailing if value.ndim else ())
    lengths = given.lengths
    if not case.batched:
        carry, xs = jax.tree.map(lambda state: state[None], carry), xs[:, None]
        lengths = None if lengths is None else lengths[None]
    result = specification.run(
        case.options, values, carry, xs, lengths, **case.statics,
        reverse=case.reverse, keep_order=case.keep_order,
    )  # fmt: skip
    if not case.batched:
        carry = {name: state[0] for name, state in result.carry.items()}
        return specification.Result(carry, result.ys[:, 0], result.margin)
    return result


def check_values(case, got, want):
    last, ys = got
    assert ys.dtype == case.dtype and set(last) == set(specification.states(case.options))
    results = {"outputs": (ys, want.ys)} | {n: (last[n], want.carry[n]) for n in last}
    scale = max(1.0, *(np.abs(wanted).max(initial=0) for _, wanted in results.values()))
    for name, (array, wanted) in results.items():
        tolerance = TOLERANCE[array.dtype.name]
        array = np.asarray(array, np.float64)
        assert array.shape == wanted.shape, (name, array.shape, wanted.shape)
        error = np.abs(array - wanted.real).max(initial=0) / scale
        assert error <= tolerance, f"{name}: error {error:.3g}"


def check_gradients(case, given, weights, gradients, rng):
    """For each argument the derivative in a random direction, of the weighted sum of results."""
    nothing = jax.tree.map(np.zeros_like, given.arguments)
    treedef = jax.tree.structure(given.arguments)
    for i, (path, gradient) in enumerate(jax.tree.leaves_with_path(gradients)):
        if path[0].idx == 1 and not case.carry:
            continue  # zeros of the layer's own
        direction = rng.normal(size=gradient.shape)
        along = jax.tree.leaves(nothing)
        along[i] = direction
        slopes = specified(case, given, jax.tree.unflatten(treedef, along))
        terms = weights.xs * slopes.ys.imag / TINY
        want, size = terms.sum(), np.abs(terms).sum()
        for state, slope in slopes.carry.items():
            terms = weights.carry[state] * slope.imag / TINY
            want, size = want + terms.sum(), size + np.abs(terms).sum()
        error = abs((np.asarray(gradient) * direction).sum() - want) / max(1.0, size)
        assert error <= 1e-9, f"gradient of {jax.tree_util.keystr(path)}: error {error:.3g}"


# A fifth of the usual number for each way: with few examples Hypothesis makes all of them anew.
FEW = settings(max_examples=settings().max_examples // 5)


@pytest.mark.parametrize("way", [*JITTED, *EAGER])
@FEW
@given(data=st.data())
def test_values_are_those_of_the_specification(way, data):
    case = data.draw(cases(way, DTYPES), "case")
    with jax.enable_x64(case.dtype == "float64"):
        run = jax.jit(JITTED[way](case)) if way in JITTED else EAGER[way](case)
        for draw in case.draws:
            given = numbers(case, draw)
            want = specified(case, given)
            if want.margin > case.margin:
                check_values(case, run(*given.arguments, given.lengths), want)


@pytest.mark.parametrize("way", JITTED)
@FEW
@given(data=st.data())
def test_gradients_are_those_of_the_specification(way, data, x64):
    case = data.draw(cases(way, ["float64"]), "case")
    run = JITTED[way](case)

    @jax.jit
    def value_and_gradients(arguments, lengths, cotangents):
        out, pull_back = jax.vjp(lambda *arguments: run(*arguments, lengths), *arguments)
        return out, pull_back(cotangents)

    for draw in case.draws:
        given = numbers(case, draw)
        weights = numbers(dataclasses.replace(case, carry=True), 100 + draw)
        want = specified(case, given)
        if want.margin > case.margin:
            cotangents = weights.carry, weights.xs
            out, gradients = value_and_gradients(given.arguments, given.lengths, cotangents)
            check_values(case, out, want)
            check_gradients(case, given, weights, gradients, np.random.default_rng(case.seed))
