"""Pictures that are no layer's: one step of a cell, and the benchmarks as bars.

A page asks for one with ``<!-- drawing: NAME -->``.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from generate import pictures
from generate.colors import INK, POSITIVE, QUIET, THRESHOLD
from tracetorch_jax import snn
from tracetorch_jax.functional.equations import equations

PAGE = pathlib.Path(__file__).parent.parent / "benchmarks.md"
MARK = re.compile(r"^<!-- drawing: ([\w-]+) -->$", re.M)


def draw(text: str, folder: pathlib.Path) -> str:
    """A page with the drawings that it asks for, which are saved to a folder."""

    def drawn(match: re.Match[str]) -> str:
        folder.mkdir(exist_ok=True)
        with matplotlib.rc_context(pictures.STYLE):
            figure, words = DRAWINGS[match[1]]()
        pictures.save(figure, folder, match[1])
        return pictures.image(match[1], words, f"/{folder.name}/")

    return MARK.sub(drawn, text)


def step() -> tuple[Figure, str]:
    """One step of SRLIB, which has every single trace, as a diagram of what flows where."""
    lines = equations(snn.SRLIB(1).spec)
    first = {line.partition(" = ")[0]: line for line in reversed(lines)}
    reset = next(line for line in reversed(lines) if line.startswith("mem = "))
    figure = Figure(figsize=(pictures.WIDTH, 4.6))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, pictures.WIDTH), ylim=(0, 4.6))
    ax.set_axis_off()
    main, side = 3.85, 1.2  # middles of the two columns
    _box(ax, (main, 3.55), "S: synaptic trace", _short(first["syn"]), INK)
    _box(ax, (main, 2.45), "LI: membrane", _short(first["mem"]), INK)
    _box(ax, (main, 1.3), "B: threshold", _short(first["out"]), THRESHOLD)
    _box(ax, (side, 1.3), "R: recurrent trace", _short(first["rec"]), INK)
    ax.text(main, 4.35, "input x", ha="center", va="center", color=QUIET)
    ax.text(main, 0.25, "output", ha="center", va="center", color=POSITIVE)
    _arrow(ax, QUIET, (main, 4.22), (main, 3.87))
    _arrow(ax, INK, (main, 3.23), (main, 2.77))
    _arrow(ax, INK, (main - 0.6, 2.13), (main - 0.6, 1.62))
    _arrow(ax, THRESHOLD, (main - 0.1, 1.62), (main - 0.1, 2.13))
    ax.text(
        main + 0.02, 1.87, f"reset: {_short(reset.split(' = ')[1])}", va="center", color=THRESHOLD
    )
    _arrow(ax, POSITIVE, (main, 0.98), (main, 0.4))
    _arrow(ax, POSITIVE, (main, 0.65), (side, 0.65), (side, 0.98))
    _arrow(ax, INK, (side, 1.62), (side, 2.45), (main - 1.17, 2.45))
    ax.text(side + 0.1, 2.55, "in the next step", color=INK)
    return figure, (
        "One step of a cell as a diagram. The input goes through the synaptic trace, S, into the "
        "membrane, LI. The membrane is compared with the threshold, B, which gives the output. Two "
        "ways lead back: at a spike the reset takes the threshold off the membrane, and the output "
        "goes through the recurrent trace, R, into the membrane of the next step."
    )


_SHORT = {
    "alpha": "α", "beta": "β", "gamma": "γ", "threshold": "θ", "rec_weight": "w", " * ": " ",
    "prev_output": "out", "-": "\N{MINUS SIGN}",
}  # fmt: skip


def _short(line: str) -> str:
    """An equation in few characters."""
    for long, short in _SHORT.items():
        line = line.replace(long, short)
    return line


def _box(ax: Axes, middle: tuple[float, float], title: str, equation: str, color: str) -> None:
    x, y = middle
    box = FancyBboxPatch((x - 1.15, y - 0.3), 2.3, 0.6, "round,pad=0.02", fill=False, ec=color)
    ax.add_patch(box)
    ax.text(x, y + 0.13, title, ha="center", va="center", color=color, weight="bold")
    ax.text(x, y - 0.14, equation, ha="center", va="center")


def _arrow(ax: Axes, color: str, *points: tuple[float, float]) -> None:
    """A line through points with a head at the last."""
    *before, last, end = points
    ax.plot(*zip(*before, last, strict=True), color=color, linewidth=1.2)
    ax.annotate(
        "", end, last, arrowprops={"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0}
    )


# What the page calls a side of a benchmark, and what it is called here.
SIDES = {
    "ours": "tracetorch_jax",
    "ours-scan": "without kernels",
    "sparx": "sparx",
    "spyx": "Spyx",
    "jaxpike": "jaxpike",
    "autodiff": "jax.lax.scan",
    "spikingjelly": "SpikingJelly",
    "sinabs": "sinabs",
    "tracetorch": "traceTorch",
    "snntorch": "snnTorch",
    "norse": "norse",
}
CASES = {
    "LIB/gradient/100x64x512": "One layer, LIB, forward and backward\n"
    "100 steps, 64 sequences, 512 neurons",
    "network-LIB/training/100x64x256": "A training step of a network of LIB\n"
    "100 steps, 64 sequences, 256 neurons in a layer",
}


def ratios(case: str) -> dict[str, float]:
    """How many times longer than this library each side takes, as the page of benchmarks has it."""
    table = PAGE.read_text().partition("\n## Layers and networks\n")[2].partition("\n## ")[0]
    head, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith((f"| {case} |", "| case | side |"))
    ]
    side, ratio = head.index("side"), head.index("ours is x faster")
    found = {row[side]: float(row[ratio]) for row in rows}
    if missing := SIDES.keys() - found:
        raise ValueError(f"{PAGE.name} must have {case} for {sorted(missing)}.")
    return {name: found[name] for name in SIDES}


def benchmarks() -> tuple[Figure, str]:
    """Bars of how many times longer others take, for a layer and for a network."""
    figure = Figure(figsize=(pictures.WIDTH, 6.8), layout="constrained")
    words = []
    for ax, (case, title) in zip(figure.subplots(len(CASES)), CASES.items(), strict=True):
        found = ratios(case)
        order = sorted(found, key=lambda name: found[name], reverse=True)
        colors = [POSITIVE if name.startswith("ours") else QUIET for name in order]
        ax.barh([SIDES[name] for name in order], [found[name] for name in order], color=colors)
        for place, name in enumerate(order):
            ax.text(found[name], place, f" {found[name]:.1f}", va="center")
        ax.set_title(title, loc="left")
        ax.margins(x=0.12)
        bars = ", ".join(f"{SIDES[name]} {found[name]:.1f}" for name in reversed(order))
        words.append(title.replace("\n", ", ") + f": {bars}.")
    figure.supxlabel("times as long as tracetorch_jax, on two CPU cores", fontsize="medium")
    return figure, f"Bars, times as long as tracetorch_jax on two CPU cores. {' '.join(words)}"


DRAWINGS: dict[str, Callable[[], tuple[Figure, str]]] = {"step": step, "benchmarks": benchmarks}
