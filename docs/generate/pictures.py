"""What a layer does with one input, as a picture for light and one for dark pages."""

from __future__ import annotations

import io
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import tracetorch_jax as tt
from tracetorch_jax import snn
from tracetorch_jax.functional.spec import TRACES

# What text and axes are drawn in, and what replaces it on pages of either kind.
INK = "#123456"
INKS = {"light": "#24292f", "dark": "#d6d9dc"}
# Told apart by colour-blind readers, and visible on both kinds of page.
BLUE, ORANGE, GREEN, GREY = "#2b83ba", "#d95f02", "#1b9e77", "#8a8f98"

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


def recording(name: str) -> tt.diagnostics.Recording:
    """What a layer of one neuron does with the test input."""
    model = snn.Unroll(snn.ALL_LAYERS[name](1, **settings(name)))
    xs = jnp.asarray(test_input())[None, :, None]
    variables = model.init(jax.random.key(0), xs)
    (found,) = tt.record(model, variables, xs)[1].values()
    return found


def response(name: str) -> Figure:
    """Input, traces, membrane with thresholds, and output, below one another."""
    found = recording(name)
    states = {state: np.asarray(values)[0, :, 0] for state, values in found.states.items()}
    spec, fires = found.layer.spec, found.layer.spec.fires
    traces = {feature.state: feature.trace for feature in TRACES if feature.within(spec)}
    rows = ["input", *traces, *(["output"] if fires else [])]
    heights = [2.2 if row == "mem" else 1 for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 0.72 * sum(heights) + 0.6), layout="constrained")
        axes = figure.subplots(len(rows), sharex=True, height_ratios=heights)
        for ax, row in zip(axes, rows, strict=True):
            ax.axhline(0, color=GREY, linewidth=0.6)
            if row == "input":
                ax.step(range(STEPS), test_input(), where="mid", color=INK, linewidth=1.2)
                ax.set_ylabel("input")
            elif row == "output":
                _spikes(ax, np.asarray(found.outputs)[0, :, 0])
            else:
                _lines(ax, row, states)
                words = traces[row].replace(" ", "\n")
                ax.set_ylabel(words + ("" if fires or row != "mem" else "\n= output"))
        if fires:
            levels = {k: np.asarray(v)[0, :, 0] for k, v in found.thresholds.items()}
            _thresholds(axes[rows.index("mem")], levels)
        axes[-1].set_xlabel("step")
        axes[-1].set_xlim(-1, STEPS)
        figure.align_ylabels()
    return figure


STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "tracetorch_jax",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def _lines(ax: matplotlib.axes.Axes, kind: str, states: dict[str, np.ndarray]) -> None:
    """A trace; of a dual one both parts as well."""
    if kind in states:
        ax.plot(states[kind], color=INK, linewidth=1.4)
        return
    pos, neg = states[f"pos_{kind}"], states[f"neg_{kind}"]
    parts = (("positive", pos, ORANGE), ("negative", neg, BLUE), ("sum", pos + neg, INK))
    for height, (name, part, color) in zip((0.95, 0.15, 0.55), parts, strict=True):
        ax.plot(part, color=color, linewidth=1.4 if name == "sum" else 1.0)
        ax.text(1.01, height, name, color=color, va="top", fontsize=9, transform=ax.transAxes)


def _thresholds(ax: matplotlib.axes.Axes, values: dict[str, np.ndarray]) -> None:
    for name, sign in (("threshold", 1), ("pos_threshold", 1), ("neg_threshold", -1)):
        if name in values:
            level = sign * values[name]
            ax.plot(level, color=GREEN, linewidth=1, linestyle=(0, (4, 3)))
            label = "threshold" if sign > 0 else "\N{MINUS SIGN} threshold"
            where = (0, level[0])
            ax.annotate(
                label,
                where,
                xytext=(2, 2 * sign),
                textcoords="offset points",
                color=GREEN,
                va="bottom" if sign > 0 else "top",
                fontsize=9,
            )


def _spikes(ax: matplotlib.axes.Axes, out: np.ndarray) -> None:
    for sign, color in ((1, ORANGE), (-1, BLUE)):
        (when,) = np.nonzero(np.sign(out) == sign)
        ax.vlines(when, 0, out[when], color=color, linewidth=1.6)
    ax.set_ylabel("output")
    ax.margins(y=0.15)


def save(figure: Figure, folder: pathlib.Path, name: str) -> None:
    """Write ``<name>-light.svg`` and ``<name>-dark.svg``."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawing = text.getvalue().replace("#000000", INK)
    for kind, ink in INKS.items():
        (folder / f"{name}-{kind}.svg").write_text(drawing.replace(INK, ink))


def image(name: str, alt: str, folder: str = "") -> str:
    """MyST for both pictures, of which a page shows one."""
    return "".join(
        f"```{{image}} {folder}{name}-{kind}.svg\n:alt: {alt}\n:class: only-{kind}\n```\n\n"
        for kind in INKS
    )
