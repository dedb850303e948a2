"""Why does it not train? One table over the trace layers of a network."""

from __future__ import annotations

import dataclasses
import functools
import re
import textwrap
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._models import keyword_arguments, takes_nnx, was_nnx
from tracetorch_jax._shared.checks import check_linen
from tracetorch_jax._shared.text import table
from tracetorch_jax._shared.trees import below, path_name
from tracetorch_jax._watch import Arguments, Sources, SteppedLayers, compiled, each_unrolled
from tracetorch_jax.diagnostics import _advice
from tracetorch_jax.diagnostics._recording import Recording, record
from tracetorch_jax.functional import DECAY
from tracetorch_jax.functional.constraints import half_life
from tracetorch_jax.functional.engines import policy
from tracetorch_jax.functional.steps import is_stochastic, sides
from tracetorch_jax.snn import Unroll
from tracetorch_jax.spikes import emit

Percentiles = tuple[float, float, float]


class NeuronGroup(NamedTuple):
    """The report of `diagnose` on a group of a layer's neurons: dead, saturated or other ones.

    Attributes:
        share: of the layer's neurons, in (0, 1].
        rate: spikes per step and neuron, positive and negative.
        membrane: 5th, 50th and 95th percentile, as `LayerReport`'s.
    """

    share: float
    rate: tuple[float, float]
    membrane: Percentiles


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """The report of `diagnose` on one trace layer.

    Attributes:
        path: where the layer is in the model.
        layer: its name, such as ``SLIB``.
        rate: spikes per step and neuron, positive and negative; None where the layer has no spikes,
            or those of a spike function that gives other values than 0 and 1 (`spikes.smooth`).
        dead: share of neurons that never fired, in [0, 1]; None where `rate` is.
        saturated: share of neurons that fired in at least 9 of 10 steps; None where `rate` is.
        membrane: 5th, 50th and 95th percentile of the membrane potential before the reset, as a
            fraction of the threshold of its sign; in its own unit where the layer has no spikes.
        half_lives: for each decay its least, median and greatest half-life in steps.
        gradient: norm of the loss's gradient with respect to the layer's output.
        parameter_gradient: norm of the gradient with respect to the layer's own parameters.
        advice: problems and notes as one text.
        problems: what hinders learning, and what to change.
        notes: what costs energy or time, or may be meant so.
        groups: a `NeuronGroup` for each of ``"dead"`` (never fired), ``"saturated"`` (fired in at
            least 9 of 10 steps) and ``"active"`` (the others) that has neurons.

    `rate`, `dead`, `saturated` and `membrane` are NaN where the membrane or the output is not
    finite.
    """

    path: str
    layer: str
    rate: tuple[float, float] | None
    dead: float | None
    saturated: float | None
    membrane: Percentiles
    half_lives: dict[str, Percentiles]
    gradient: float
    parameter_gradient: float
    advice: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    groups: dict[str, NeuronGroup] = dataclasses.field(default_factory=dict)


class DelayReport(NamedTuple):
    """The report of `diagnose` on one `Delay` or `DelayedDense`.

    Attributes:
        path: where the cell is in the model.
        layer: its name.
        max_delay: the longest delay that it can learn, in steps.
        delays: least, median and greatest delay in steps.
        notes: where many delays hardly learn, which may be where they should be, and what to change
            otherwise.
    """

    path: str
    layer: str
    max_delay: int
    delays: tuple[float, float, float]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`: a report for every trace layer; ``print`` shows a table.

    Attributes:
        layers: a `LayerReport` each, in the order in which they run.
        loss: the loss that the gradients are of.
        problems: what hinders learning and is not a layer's: inputs, parameters, the loss.
        delays: a `DelayReport` for each `Delay` and `DelayedDense`, in the order in which they run.
        compile_seconds: what the first run of the compiled forward and backward pass on this batch
            took longer than the next; about 0 if an earlier call with the same model compiled it.
        run_seconds: what the next run took, about as long as a training step without the optimiser.
        kernels_need: what trace layers need to run as compiled kernels, which is faster; None if
            they can.
    """

    layers: tuple[LayerReport, ...]
    loss: float
    problems: tuple[str, ...] = ()
    delays: tuple[DelayReport, ...] = ()
    compile_seconds: float = dataclasses.field(default=0.0, compare=False)
    run_seconds: float = dataclasses.field(default=0.0, compare=False)
    kernels_need: str | None = dataclasses.field(default=None, compare=False)

    @property
    def healthy(self) -> bool:
        """Whether there are no problems, of the network or of a layer. Notes are no problems."""
        return not self.problems and not any(report.problems for report in self.layers)

    def __str__(self) -> str:
        head = ("layer", "rate + / -", "dead", "satur.", "membrane 5/50/95 %", "half-life")
        rows: list[tuple[str, ...]] = [(*head, "gradient", "of params")]
        for report in self.layers:
            rows.append(
                (
                    f"{report.path} {report.layer}",
                    _rate(report.rate),
                    "" if report.dead is None else f"{report.dead:.0%}",
                    "" if report.saturated is None else f"{report.saturated:.0%}",
                    _percentiles(report.membrane),
                    _slowest(report.half_lives),
                    f"{report.gradient:.1e}",
                    f"{report.parameter_gradient:.1e}",
                )
            )
            few = [report.groups[n].share for n in ("dead", "saturated") if n in report.groups]
            if len(report.groups) > 1 and max(few) >= _advice.SOME:
                for name, group in report.groups.items():
                    share = f"{group.share:.0%} of the neurons"
                    membrane = _percentiles(group.membrane)
                    rows.append((f"  {name}", _rate(group.rate), "", "", membrane, share, "", ""))
        lines = [table(rows, ruled=True)]
        if self.delays:
            titles = ("delays", "least", "median", "greatest", "max_delay")
            steps = [titles, *(_delay_row(report) for report in self.delays)]
            lines += ["", table(steps, ruled=True)]
        problems = [("network", said) for said in self.problems]
        problems += [(report.path, said) for report in self.layers for said in report.problems]
        notes = [(report.path, said) for report in self.layers for said in report.notes]
        notes += [(report.path, said) for report in self.delays for said in report.notes]
        lines += ["", "Problems, from the first to run:" if problems else "No problems."]
        lines += [_wrapped(*each) for each in problems]
        if notes:
            lines += ["", "Notes, on cost and on what may be meant so:"]
            lines += [_wrapped(*each) for each in notes]
        lines += [
            "",
            f"Forward and backward pass, as one program: {self.compile_seconds:.2g} s to compile, "
            f"then {self.run_seconds:.2g} s a run.",
        ]
        if self.kernels_need is not None:
            lines += [f"Trace layers may run faster as kernels, which need {self.kernels_need}."]
        return "\n".join(lines)


@takes_nnx
def diagnose(
    model: nn.Module,
    variables: Any,
    xs: Any,
    *args: Any,
    loss: Callable[[Any], jax.Array] | None = None,
    **kwargs: Any,
) -> Diagnosis:
    """Run a model on a batch, forward and backward, and report problems of each trace layer.

    Of `Delay` and `DelayedDense` it shows the delays, and says whether many are at an end of their
    range.

    Nothing is said of dead or saturated neurons where a spike function gives other values than 0
    and 1, such as `spikes.smooth`.

    Args:
        model: a module that runs trace layers through `tracetorch_jax.snn.Unroll`; or one of nnx.
        variables: its variables, with a collection ``params``; left out for a model of nnx, which
            holds them.
        xs: the batch of inputs, ``[B, T, ...]``.
        *args: further arguments of the model.
        loss: from the model's output to the scalar whose gradients are shown, such as ``lambda ys:
            losses.cross_entropy(ys, labels).mean()``; by default the mean of the output under
            fixed random weights.
        **kwargs: keyword arguments of ``model.apply``, such as `seq_lengths` or `rngs`.

    Returns:
        A `Diagnosis`: print it, or look into its `layers`.

    Raises:
        TypeError: `model` is a cell, no module of Flax, or one of nnx that has no counterpart in
            linen; a loss that is no floating-point number.
        ValueError: no trace layer of the model was run by `Unroll`; a loss that is no scalar; an
            empty batch.

    Example:
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(4), snn.LIB(4, threshold=1e3)]))
        >>> xs = jnp.ones((2, 10, 3))
        >>> diagnosis = tt.diagnose(model, model.init(jax.random.key(0), xs), xs)
        >>> print(diagnosis.layers[0].advice)
        100% of the neurons never fire. ... Set `threshold=1`.
    """
    check_linen("model", model)
    kwargs = keyword_arguments(model, kwargs)
    if not all(np.size(leaf) for leaf in jax.tree.leaves(xs)):
        shape = jax.tree.map(np.shape, xs)
        raise ValueError(f"`xs` must hold at least one step of one sequence; got shape {shape}.")
    sources, stepped, params = Sources(), SteppedLayers(), variables.get("params", {})
    with nn.intercept_methods(sources.watch), nn.intercept_methods(stepped.watch):
        outputs, recordings = record(model, variables, xs, *args, **kwargs)
    outputs = _without_changes(outputs, kwargs)
    measure = _probe if loss is None else loss
    _check_loss(measure(outputs))
    value, pull = jax.vjp(lambda out: jnp.asarray(measure(out)), outputs)
    of_model = _floating(pull(jnp.ones_like(value))[0])
    # A zero added to each layer's output: the gradient with respect to it is that of the output.
    taps = {path: jnp.zeros_like(_time_first(each)) for path, each in recordings.items()}
    program, arrays = compiled(_program, model, args, kwargs)
    seconds = []
    for _ in range(2):  # the first time it is compiled
        start = time.perf_counter()
        of_params, of_outputs = jax.block_until_ready(
            program(params, taps, variables, xs, arrays, of_model)
        )
        seconds.append(time.perf_counter() - start)
    lengths = kwargs.get("seq_lengths")
    if isinstance(model, Unroll) and len(args) > 1:
        lengths = args[1]
    gradients = {path: _norm([g]) for path, g in of_outputs.items()}
    last = gradients[list(recordings)[-1]]
    axes = _axes(model, kwargs, next(iter(recordings.values())))
    given = _given(xs, lengths, axes)
    problems, cause = _not_finite(given, params)
    if cause == "the input":
        problems[0] += _where_not_finite(np.asarray(xs), lengths, axes)
    silent = given is not None and not given.values.any()
    if silent:
        problems.append(
            "The input is 0 at every step of all sequences, and nothing can be learnt from it. "
            "Look at how it is loaded or encoded."
        )
    starved: set[str] = set()  # layers that are silent because of what is before them
    reports: list[LayerReport] = []
    remarks: dict[str, _advice.Remarks] = {}
    for path, recording in recordings.items():
        source = None
        if path in sources.of:
            at, name = sources.of[path]
            source = _advice.Source(at, name, np.asarray(below(params, at)[name]))
        layer = _layer(
            recording,
            None if lengths is None else _held(lengths, xs, axes, len(taps[path])),
            (gradients[path], _norm(jax.tree.leaves(below(of_params, path)))),
            None if reports or cause or path in sources.scaled else given,
            source,
            was_nnx(model),
        )
        reports.append(_report(path, layer))
        if layer.finite:
            before = [each for each in remarks if remarks[each][0]]
            before = before[-1:] or ["the network"] * silent
            lacking = _advice.of_no_input(layer, *before)
            remarks[path] = lacking or _advice.of_layer(layer, after_others=len(reports) > 1)
            if lacking and before:
                starved.add(path)
        else:
            remarks[path] = _advice.of_numbers(layer, cause)
            cause = cause or path
    if not cause and not np.isfinite(value):
        problems.append(
            "The loss is not finite, though every layer is: look in `loss` for a logarithm of 0 or "
            "a division by 0."
        )
        cause = "the loss"
    after = None
    for i, path in reversed(list(enumerate(recordings))):
        if path in starved:  # what this does to the gradient ends with it
            break
        if not cause:
            norms = list(gradients.values())
            found = _advice.of_gradient(gradients[path], last, norms[:i], after)
            remarks[path] = _advice.both(remarks[path], found)
        after = path if remarks[path][0] else after
    if stepped.paths:
        problems.append(
            f"Nothing is known of some layers. The model runs {stepped.named()}. Put what is in "
            "front of a layer in front of its Recurrent, and run cells with Unroll."
        )
    advised = tuple(_advised(report, *remarks[report.path]) for report in reports)
    delays = tuple(_delay_report(*each, params) for each in sources.delays.items())
    longer = max(seconds[0] - seconds[1], 0.0)
    needed = policy.why_no_kernel() if policy.kernel_device() == "cpu" else None
    return Diagnosis(advised, float(value), tuple(problems), delays, longer, seconds[1], needed)


@functools.lru_cache(maxsize=8)
def _program(model: nn.Module, given: Arguments) -> Any:
    """The compiled backward pass, kept for further calls with the same model.

    It takes the loss's gradient with respect to the output, as a loss may refer to what changes.
    """

    @jax.jit
    def backward(
        params: Any, taps: Any, variables: Any, xs: Any, arrays: dict[int, Any], of_model: Any
    ) -> Any:
        args, kwargs = given.filled(arrays)

        def run(params: Any, taps: dict[str, jax.Array]) -> list[jax.Array]:
            with nn.intercept_methods(each_unrolled(lambda path, _, __, ___, ys: ys + taps[path])):
                out = model.apply({**variables, "params": params}, xs, *args, **kwargs)
            return _floating(_without_changes(out, kwargs))

        return jax.vjp(run, params, taps)[1](of_model)

    return backward


def _without_changes(out: Any, kwargs: dict[str, Any]) -> Any:
    """The output of ``model.apply``, which with `mutable` comes with what changed."""
    return out if kwargs.get("mutable", False) is False else out[0]


def _floating(tree: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def _delay_report(path: str, cell: Any, params: Any) -> DelayReport:
    """The delays of a cell, and whether many are where they hardly learn."""
    own = cell.apply({"params": below(params, path)}, method="parameters")
    delays = np.asarray(own["delay"], np.float64)
    most = cell.max_delay
    notes = []
    if getattr(cell, "delay_learnable", True):
        last, first = (delays > 0.98 * most).mean(), (delays < 0.02 * most).mean()
        if last >= _advice.SOME:
            notes.append(
                f"{last:.0%} of the delays are at the longest, {most} steps, where their gradient "
                f"is nearly 0. If longer ones may help, set `max_delay={2 * most}`. That doubles "
                f"the delays of trained parameters; to keep them, take `raw_delay = "
                f"functional.sigmoid_inverse(jax.nn.sigmoid(raw_delay) / 2)`."
            )
        if first >= _advice.SOME:
            notes.append(
                f"{first:.0%} of the delays are at 0, where their gradient is nearly 0. If longer "
                f"ones may help, lower the learning rate of the delays, or start them further from "
                f"0."
            )
    least, median, greatest = np.percentile(delays, (0, 50, 100))
    spread = float(least), float(median), float(greatest)
    return DelayReport(path, type(cell).__name__, most, spread, tuple(notes))


def _delay_row(report: DelayReport) -> tuple[str, ...]:
    steps = (f"{each:.3g}" for each in report.delays)
    return f"{report.path} {report.layer}", *steps, str(report.max_delay)


def _axes(model: Any, kwargs: Any, first: Recording) -> tuple[int | None, int]:
    """Batch axis, None without one, and time axis of the input."""
    if first.inputs.ndim == 1 + first.layer.num_feature_axes:
        return None, 0
    time_major = kwargs.get("time_major")
    if time_major is None:
        time_major = getattr(model, "time_major", False)
    return (1, 0) if time_major else (0, 1)


def _held(lengths: Any, xs: Any, axes: tuple[int | None, int], steps: int) -> np.ndarray:
    """Lengths in steps of a layer, which may take several for each of the network's input."""
    given = max(map(np.shape, jax.tree.leaves(xs)), key=len)[axes[1]]
    return max(steps // given, 1) * np.asarray(lengths, np.int64)


def _given(xs: Any, seq_lengths: Any, axes: tuple[int | None, int]) -> _advice.Inputs | None:
    """The network's input within its sequences; None if it is not one array of numbers."""
    numbers = isinstance(xs, (jax.Array, np.ndarray)) and jnp.issubdtype(xs.dtype, jnp.number)
    # Integers of two axes are such as the numbers of tokens.
    if not numbers or xs.ndim < (2 if jnp.issubdtype(xs.dtype, jnp.floating) else 3):
        return None
    values = np.asarray(xs, np.float64)
    batch, time = axes
    values = values[None] if batch is None else np.moveaxis(values, (batch, time), (0, 1))
    sequences, steps = values.shape[:2]
    if seq_lengths is None:
        values = values.reshape(sequences * steps, -1)
    else:
        values = values[np.arange(steps) < np.asarray(seq_lengths).reshape(-1, 1)]
        values = values.reshape(len(values), int(np.prod(values.shape[1:])))
    code = "0" if batch is None else "(0, 1)"
    return _advice.Inputs(values, sequences, code) if values.size else None


def _not_finite(given: _advice.Inputs | None, params: Any) -> tuple[list[str], str | None]:
    """Problems with the numbers that the network is given, and what has the first."""
    problems, cause = [], None
    if given and not np.isfinite(given.values).all():
        bad = given.values.size - np.isfinite(given.values).sum()
        problems.append(
            f"{bad} of {given.values.size} values of the input are NaN or infinite. Replace them: "
            f"`xs = jnp.nan_to_num(xs, posinf=0.0, neginf=0.0)`."
        )
        cause = "the input"
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            name = path_name(path)
            problems.append(
                f"`{name}` is not finite. Go back to parameters from before this happened, and "
                f"train with a lower learning rate or with `optax.clip_by_global_norm(1.0)`."
            )
            return problems, cause or name
    return problems, cause


def _where_not_finite(xs: np.ndarray, seq_lengths: Any, axes: tuple[int | None, int]) -> str:
    """The first step with such values; what to do if all of them look like padding."""
    batch, time = axes
    features = tuple(axis for axis in range(xs.ndim) if axis not in axes)
    finite = np.isfinite(xs).all(axis=features)
    if batch is None:
        return f" The first is at `xs[{np.argmin(finite)}]`."
    by_sequence = finite if time else finite.T
    if seq_lengths is None and (np.diff(by_sequence.astype(int), axis=1) <= 0).all():
        return (
            f" They are all at the ends of sequences. If they are padding, give `seq_lengths` as "
            f"well: `seq_lengths = np.isfinite(xs).all(axis={features}).sum(axis={time})`."
        )
    if seq_lengths is not None:
        by_sequence = by_sequence | (np.arange(by_sequence.shape[1]) >= np.c_[seq_lengths])
    sequence, step = np.unravel_index(np.argmin(by_sequence), by_sequence.shape)
    first = (sequence, step) if time else (step, sequence)
    return f" The first is at `xs[{first[0]}, {first[1]}]`."


def _check_loss(value: Any) -> None:
    """Raise unless a value can be differentiated."""
    if not isinstance(value, (float, jax.Array, np.ndarray, np.generic)):
        got = type(value).__name__
    elif not jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating):
        got = str(jnp.asarray(value).dtype)
    elif jnp.shape(value):
        raise ValueError(f"`loss` must give a scalar; got shape {jnp.shape(value)}.")
    else:
        return
    raise TypeError(f"`loss` must give a floating-point number; got {got}.")


def _layer(
    recording: Recording,
    seq_lengths: Any,
    gradients: tuple[float, float],
    given: _advice.Inputs | None,
    source: _advice.Source | None,
    of_nnx: bool,
) -> _advice.Layer:
    """A layer's recording, brought to steps within sequences by neurons."""
    spec, dim = recording.layer.spec, recording.layer.dim
    values = {name: np.asarray(value) for name, value in recording.parameters.items()}
    if recording.inputs.ndim == 1 + recording.layer.num_feature_axes:  # a batch of one
        names = ("inputs", "outputs", "states", "carry")
        lone = {name: getattr(recording, name) for name in names}
        recording = recording._replace(**jax.tree.map(lambda x: x[None], lone))
        seq_lengths = None if seq_lengths is None else np.reshape(seq_lengths, 1)

    def within(xs: np.ndarray) -> np.ndarray:
        if seq_lengths is not None:
            inside = np.arange(xs.shape[1]) < np.asarray(seq_lengths)[:, None]
            xs = xs[inside] if inside.any() else np.zeros((1, xs.shape[-1]))
        return xs.reshape(-1, xs.shape[-1])

    def neurons_last(xs: Any) -> np.ndarray:
        return np.moveaxis(np.asarray(xs, np.float64), dim, -1)

    outputs = neurons_last(recording.outputs)
    membrane, slopes = neurons_last(recording.membrane), np.ones_like(outputs)
    finite = bool(np.isfinite(within(membrane)).all() and np.isfinite(within(outputs)).all())
    levels, graded, outgrown = {}, False, None
    if spec.fires:
        levels = {name: values[name].astype(np.float64) for name in spec.thresholds if name}
        raised = {name: neurons_last(level) for name, level in recording.thresholds.items()}
        # Where one side has no threshold, the other's is the unit.
        up, down = (
            raised[next(filter(None, order))] for order in (spec.thresholds, spec.thresholds[::-1])
        )
        if spec.adapt_weight:
            outgrown = _outgrown(membrane, outputs, levels, raised, seq_lengths)
        graded, slopes = _emitted(recording.layer, membrane, up, down)
        with np.errstate(invalid="ignore"):
            membrane = np.where(membrane > 0, membrane / up, membrane / down)
    half_lives = {}
    for name, constraint in spec.parameters.items():
        if constraint is DECAY:
            steps = half_life(values[name])
            half_lives[name] = float(steps.min()), float(np.median(steps)), float(steps.max())
    return _advice.Layer(
        recording=recording,
        inputs=within(neurons_last(recording.inputs)),
        membrane=within(membrane),
        spikes=within(outputs),
        slopes=within(slopes),
        graded=graded,
        finite=finite,
        levels=levels,
        outgrown=outgrown,
        half_lives=half_lives,
        gradients=gradients,
        given=given,
        source=source,
        of_nnx=of_nnx,
    )


def _outgrown(
    membrane: np.ndarray,
    outputs: np.ndarray,
    levels: dict[str, np.ndarray],
    raised: dict[str, np.ndarray],
    seq_lengths: Any,
) -> _advice.Outgrown:
    """Which neurons their own adaptation silences, and how high their thresholds are then.

    They fire, but not in the second halves of sequences, although the membrane is above the resting
    threshold there in some steps. All is ``[B, T, ..., N]``.
    """
    steps = np.arange(membrane.shape[1])
    lengths = np.full(len(membrane), len(steps)) if seq_lengths is None else np.ravel(seq_lengths)
    inside = steps < lengths[:, None]
    late = inside & (2 * steps >= lengths[:, None])
    inside, late = (
        each.reshape(each.shape + (1,) * (membrane.ndim - 2)) for each in (inside, late)
    )
    rest = tuple(range(membrane.ndim - 1))
    above, height = np.zeros(membrane.shape, bool), np.ones(membrane.shape[-1])
    for name, level in levels.items():
        above |= (-membrane if name == "neg_threshold" else membrane) > level
        height = np.maximum(height, np.where(late, raised[name] / level, 0).max(axis=rest))
    which = ((outputs != 0) & inside).any(axis=rest) & ~((outputs != 0) & late).any(axis=rest)
    missed = (above & late).sum(axis=rest) / max(
        np.broadcast_to(late, above.shape).sum() / len(which), 1
    )
    which &= missed >= _advice.MISSED
    return _advice.Outgrown(which, float(np.median(height[which])) if which.any() else 1.0)


def _emitted(
    cell: Any, membrane: np.ndarray, up: np.ndarray, down: np.ndarray
) -> tuple[bool, np.ndarray]:
    """Whether spikes are other than 0 and 1, and how what is emitted changes with the membrane."""
    graded, slopes = False, np.zeros_like(membrane)
    functions = sides(cell.spike_function)
    kinds = (cell.spec.positive, cell.spec.negative)
    above = (membrane - up, -membrane - down)
    for kind, function, each in zip(kinds, functions, above, strict=True):
        if kind == "spike":
            u = jnp.asarray(np.moveaxis(each, -1, cell.dim), jnp.float32)
            # Any draw will do: `bernoulli` gives 0 or 1 for all of them, and one derivative.
            draw = jnp.full_like(u, 0.5) if is_stochastic(function) else None
            out, pull = jax.vjp(lambda u, f=function, draw=draw: emit(f, u, draw), u)
            graded |= bool((~np.isin(out, (0, 1)) & np.isfinite(u)).any())
            slopes += np.moveaxis(np.asarray(pull(jnp.ones_like(out))[0], np.float64), cell.dim, -1)
        elif kind:
            slopes += 1
    return graded, slopes


def _report(path: str, layer: _advice.Layer) -> LayerReport:
    """The numbers of a layer."""

    def percentiles(which: Any = slice(None)) -> Percentiles:
        if not layer.finite:
            return (np.nan,) * 3
        low, median, high = np.percentile(layer.membrane[:, which], (5, 50, 95))
        return float(low), float(median), float(high)

    def rate(which: Any = slice(None)) -> tuple[float, float]:
        positive, negative = layer.rates[:, which].mean(axis=1) + unknown
        return float(positive), float(negative)

    fires, unknown = layer.fires, np.nan if not layer.finite else 0.0
    groups = {
        "dead": layer.dead,
        "active": ~(layer.dead | layer.saturated),
        "saturated": layer.saturated,
    }
    return LayerReport(
        path=path,
        layer=type(layer.recording.layer).__name__,
        rate=rate() if fires else None,
        dead=float(layer.dead.mean()) + unknown if fires else None,
        saturated=float(layer.saturated.mean()) + unknown if fires else None,
        membrane=percentiles(),
        half_lives=layer.half_lives,
        gradient=layer.gradients[0],
        parameter_gradient=layer.gradients[1],
        advice="",
        groups={
            name: NeuronGroup(float(which.mean()), rate(which), percentiles(which))
            for name, which in groups.items()
            if fires and layer.finite and which.any()
        },
    )


def _advised(report: LayerReport, problems: list[str], notes: list[str]) -> LayerReport:
    advice = " ".join(problems + notes) or "nothing remarkable."
    return dataclasses.replace(report, advice=advice, problems=tuple(problems), notes=tuple(notes))


def _wrapped(path: str, said: str) -> str:
    """One remark, in lines of about 100 characters that do not break code."""
    code = re.sub("`[^`]*`", lambda found: found[0].replace(" ", "\0"), f"- {path}: {said}")
    lines = textwrap.fill(
        code, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return lines.replace("\0", " ")


def _rate(rate: tuple[float, float] | None) -> str:
    return "" if rate is None else " / ".join(f"{each:.2f}" for each in rate)


def _percentiles(values: Percentiles) -> str:
    return " ".join(f"{each:.2f}" if abs(each) < 100 else f"{each:.0f}" for each in values)


def _norm(gradients: list[jax.Array]) -> float:
    """Euclidean norm of all of them together."""
    return float(sum(np.square(np.asarray(g, np.float64)).sum() for g in gradients) ** 0.5)


def _slowest(half_lives: dict[str, tuple[float, float, float]]) -> str:
    """Range of the slowest decay's half-lives."""
    if not half_lives:
        return ""
    name = max(half_lives, key=lambda key: half_lives[key][1])
    least, _, greatest = half_lives[name]
    low, high = f"{least:.3g}", f"{greatest:.3g}"
    return f"{name} {low}" if low == high else f"{name} {low} to {high}"


def _time_first(recording: Recording) -> jax.Array:
    """A recording's output in the order of axes in which the layer gave it."""
    batched = recording.outputs.ndim > 1 + recording.layer.num_feature_axes
    return jnp.moveaxis(recording.outputs, 1, 0) if batched else recording.outputs


def _probe(outputs: Any) -> jax.Array:
    """A loss to which every output matters, also one that is 0: a fixed random weighting."""
    parts = [
        (leaf * jax.random.normal(jax.random.key(i), leaf.shape, leaf.dtype)).mean()
        for i, leaf in enumerate(jax.tree.leaves(outputs))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return sum((part.astype(jnp.float32) for part in parts), jnp.zeros(()))
