"""Pictures for light and for dark pages, and that of what a layer does with one input."""

from __future__ import annotations

import functools
import io
import itertools
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import tracetorch_jax as tt
from generate.colors import INK, KINDS, NEGATIVE, POSITIVE, QUIET, THRESHOLD, in_kind
from tracetorch_jax import snn
from tracetorch_jax.functional.spec import TRACES

WIDTH, TEXT = 5.4, 11  # of a figure in inches, and of its text in points
PHONE, LEAST = 358, 10  # pixels that a phone gives to a figure, and that text must have there
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.prop_cycle": matplotlib.cycler(color=[NEGATIVE, POSITIVE, THRESHOLD, *[QUIET] * 5]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": TEXT,
    "legend.frameon": False,
    "svg.hashsalt": "tracetorch_jax",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

STEPS = 120
# Away from the defaults where these would hide what a letter does.
SETTINGS = {
    "rec_weight": -0.6,
    "pos_rec_weight": -0.6,
    "neg_rec_weight": -0.6,
    "neg_alpha": 0.8,
    "neg_beta": 0.8,
    "neg_gamma": 0.7,
    "pos_scale": 1.5,
    "neg_scale": 0.5,
}


def test_input() -> np.ndarray:
    """``[T]``: a positive and a negative step, single pulses of both signs, then both in turn."""
    x = np.zeros(STEPS, np.float32)
    x[8:32] = 0.35
    x[42:66] = -0.35
    x[[74, 80]] = 1.2
    x[[86, 92]] = -1.2
    x[98:114] = np.where(np.arange(16) // 4 % 2, -0.5, 0.5)
    return x


def settings(name: str) -> dict[str, float]:
    """Of `SETTINGS`, those that a layer has."""
    return {k: v for k, v in SETTINGS.items() if k in snn.ALL_LAYERS[name](1).spec.parameters}


@functools.cache
def recording(name: str) -> tt.diagnostics.Recording:
    """What a layer of one neuron does with the test input."""
    model = snn.Unroll(snn.ALL_LAYERS[name](1, **settings(name)))
    xs = jnp.asarray(test_input())[None, :, None]
    variables = model.init(jax.random.key(0), xs)
    (found,) = tt.record(model, variables, xs)[1].values()
    return found


def response(name: str) -> tuple[Figure, str]:
    """Input, traces, membrane with thresholds, and output, below one another; and this in words."""
    found = recording(name)
    values = {state: np.asarray(steps)[0, :, 0] for state, steps in found.states.items()}
    spec, out = found.layer.spec, np.asarray(found.outputs)[0, :, 0]
    traces = {feature.state: feature.trace for feature in TRACES if feature.within(spec)}
    rows = ["input", *traces, *(["output"] if spec.fires else [])]
    heights = [2.2 if row == "mem" else 1 for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.78 * sum(heights) + 0.6), layout="constrained")
        drawn_on = figure.subplots(len(rows), sharex=True, height_ratios=heights)
        axes = dict(zip(rows, drawn_on, strict=True))
        for row, height in zip(rows, heights, strict=True):
            axes[row].axhline(0, color=QUIET, linewidth=0.6)
            axes[row].set_ylabel(traces.get(row, row).replace(" ", "\n"))
            labels = []
            if row in traces:
                before = np.asarray(found.membrane)[0, :, 0] if row == "mem" else None
                labels = _trace(axes[row], row, values, before)
            else:
                _bars(axes[row], *((test_input(), 1) if row == "input" else (out, 0.6)))
            if row == "mem" and spec.fires:
                levels = {k: np.asarray(v)[0, :, 0] for k, v in found.thresholds.items()}
                labels += _firing(axes[row], np.asarray(found.membrane)[0, :, 0], levels, out)
            _label(axes[row], labels, 0.26 / height)
        axes[rows[-1]].set(xlabel="step", xlim=(-1, STEPS))
        if not spec.fires:
            axes["mem"].set_ylabel("membrane\n= output")
        figure.align_ylabels()
    return figure, _in_words(name, list(traces.values()), out, spec.fires)


def _bars(ax: Axes, values: np.ndarray, width: float) -> None:
    """A bar wherever a signal is not 0, in the colour of its sign."""
    for sign, color in ((1, POSITIVE), (-1, NEGATIVE)):
        (when,) = np.nonzero(np.sign(values) == sign)
        ax.bar(when, values[when], width, color=color, edgecolor=color, linewidth=0.4)
    ax.margins(y=0.15)


Label = tuple[float, str, str]  # where it belongs, in the axis's values; text; colour


def _trace(
    ax: Axes, kind: str, states: dict[str, np.ndarray], before: np.ndarray | None
) -> list[Label]:
    """A trace; of a dual one both parts as well. A membrane falls at its spikes."""
    names = {f"{sign[:3]}_{kind}": (sign, c) for sign, c in _SIGNS.items()}
    parts = {name: states[name] for name in names if name in states}
    for name, part in parts.items():
        ax.plot(part, color=names[name][1], linewidth=1, label=name)
    total = states[kind] if kind in states else np.sum(list(parts.values()), axis=0)
    drawn = total if before is None else np.stack([before, total], axis=1).ravel()
    steps = np.arange(STEPS).repeat(len(drawn) // STEPS)
    ax.plot(steps, drawn, color=INK, linewidth=1.2, label=kind)
    labels = [(part[-1], *names[name]) for name, part in parts.items()]
    return [*labels, (total[-1], "sum", INK)] if parts else []


_SIGNS = {"positive": POSITIVE, "negative": NEGATIVE}


def _firing(
    ax: Axes, before: np.ndarray, thresholds: dict[str, np.ndarray], out: np.ndarray
) -> list[Label]:
    """Thresholds, and a dot where the membrane has crossed one of them."""
    labels = []
    for name, values in thresholds.items():
        level = -values if name.startswith("neg") else values
        text = "\N{MINUS SIGN}threshold" if name.startswith("neg") else "threshold"
        ax.plot(level, color=THRESHOLD, linewidth=1.2, linestyle=":", label=name)
        labels.append((level[-1], text, THRESHOLD))
    for sign, color in ((1, POSITIVE), (-1, NEGATIVE)):
        (when,) = np.nonzero(np.sign(out) == sign)
        ax.plot(when, before[when], "o", color=color, markersize=3, label="spikes", zorder=3)
    return labels


def _label(ax: Axes, labels: list[Label], gap: float) -> None:
    """Names to the right of the lines, at their ends but a gap apart, in parts of the axis."""
    low, high = ax.get_ylim()
    ends = [((value - low) / (high - low), text, color) for value, text, color in sorted(labels)]
    for i, (end, text, color) in enumerate(ends):
        below = ends[i - 1][0] + gap if i else 0.0
        above = 1 - gap * (len(ends) - 1 - i)
        ends[i] = (max(below, min(end, above)), text, color)
        ax.text(1.01, ends[i][0], text, color=color, va="center", transform=ax.transAxes)


def _in_words(name: str, traces: list[str], out: np.ndarray, fires: bool) -> str:
    """What the picture of a layer shows."""
    shown = ", ".join(["the input", *(f"the {trace}" for trace in traces)])
    words = (
        f"One {name} neuron over {STEPS} steps. From above: {shown}. The input is a positive and a "
        "negative step, two pulses of each sign, then both signs in turn."
    )
    if not fires:
        return f"{words} The membrane follows it smoothly, and is the output."
    counts = [
        f"{(np.sign(out) == s).sum()} {word}" for s, word in ((1, "positive"), (-1, "negative"))
    ]
    counts = counts if (out < 0).any() else [str((out > 0).sum())]
    return (
        f"{words} The membrane crosses its threshold and falls back at each of "
        f"{' and '.join(counts)} spikes, which are the last row."
    )


def check(figure: Figure, name: str) -> None:
    """Check that text can be read: large on a phone, neither cut off nor over other text.

    Raises:
        ValueError: there is text that can't.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = {text: text.get_window_extent(canvas.get_renderer()) for text in _texts(figure)}
    for text in boxes:
        size = text.get_fontsize() * PHONE / (72 * figure.get_figwidth())
        if size < LEAST:
            raise ValueError(
                f"text of the picture {name!r} must have {LEAST} pixels on a phone; "
                f"{text.get_text()!r} has {size:.1f}."
            )
        if not all(map(figure.bbox.padded(1).containsx, boxes[text].intervalx)):
            raise ValueError(f"the picture {name!r} cuts off its text {text.get_text()!r}.")
    for (one, box), (other, over) in itertools.combinations(boxes.items(), 2):
        if box.overlaps(over):
            raise ValueError(
                f"texts of the picture {name!r} must not overlap; {one.get_text()!r} and "
                f"{other.get_text()!r} do."
            )


def _texts(figure: Figure) -> Iterator[Text]:
    """Text that is seen: no ticks outside of an axis."""
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high or not axis.get_visible():
                    hidden |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in hidden:
            yield text


def save(figure: Figure, folder: pathlib.Path, name: str) -> None:
    """Write ``<name>-light.svg`` and ``<name>-dark.svg``, if the figure passes the `check`."""
    check(figure, name)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawing = text.getvalue().replace("#000000", INK)
    for kind in KINDS:
        (folder / f"{name}-{kind}.svg").write_text(in_kind(drawing, kind))


def image(name: str, alt: str, folder: str = "") -> str:
    """MyST for both pictures, of which a page shows one."""
    return "".join(
        f"```{{image}} {folder}{name}-{kind}.svg\n:alt: {alt}\n:class: only-{kind}\n```\n\n"
        for kind in KINDS
    )
