"""A trained network at work, as a GIF for light and one for dark pages: `make animation`.

    PYTHONPATH=docs:examples python -m generate.animation examples/pretrained/digits

Reads the files of a network of `examples/digits.py` and writes ``docs/images/digits-light.gif``,
``digits-dark.gif`` and ``preview.png``, which links to the site show. The network classifies the
first test images, none left out.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

import digits
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from generate import pictures
from generate.colors import INK, KINDS, NEGATIVE, PAGES, POSITIVE, QUIET, in_kind

IMAGES, EVERY = 4, 3  # how many test images, and of which neurons the spikes are shown
FRAME, LAST = 130, 1800  # milliseconds
SHADES, DPI = 16, 150


def write(checkpoint: pathlib.Path, folder: pathlib.Path) -> None:
    """Write both files into a folder.

    Args:
        checkpoint: the network's files, without an ending; each image is shown at every step.
        folder: is made if need be.
    """
    folder.mkdir(exist_ok=True)
    _, images, _, labels = digits.load("image", seed=0)
    shown = [
        digits.stream(checkpoint, image, int(label), "image")
        for image, label in zip(images[:IMAGES], labels, strict=False)
    ]
    for kind in KINDS:
        frames = [frame for each in shown for frame in _frames(*each, kind)]
        palette = _palette(kind)
        first, *others = (
            frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames
        )
        steps = len(frames) // len(shown)
        first.save(
            folder / f"digits-{kind}.gif",
            save_all=True,
            append_images=others,
            duration=[*[FRAME] * (steps - 1), LAST] * len(shown),
            loop=0,
        )
        if kind == "light":
            _preview(frames[-1]).save(folder / "preview.png", optimize=True)


def _preview(frame: Image.Image) -> Image.Image:
    """What a link to the site shows elsewhere: the size that most places ask for."""
    page = Image.new("RGB", (1200, 630), PAGES["light"])
    frame.thumbnail((1160, 590))
    page.paste(frame, ((page.width - frame.width) // 2, (page.height - frame.height) // 2))
    return page.quantize(64)


def _palette(kind: str) -> Image.Image:
    """All shades from the page to each colour of the pictures."""
    page = np.array(to_rgb(PAGES[kind]))
    ends = [to_rgb(in_kind(color, kind)) for color in (INK, QUIET, POSITIVE, NEGATIVE)]
    shades = [page + (end - page) * i / (SHADES - 1) for end in ends for i in range(SHADES)]
    image = Image.new("P", (1, 1))
    image.putpalette(np.rint(255 * np.array(shades)).astype(int).ravel().tolist())
    return image


def _frames(
    xs: np.ndarray, readout: np.ndarray, logits: np.ndarray, layers: dict, kind: str
) -> Iterator[Image.Image]:
    """One image going through the network: a frame for each step."""
    style = {k: in_kind(v, kind) if isinstance(v, str) else v for k, v in pictures.STYLE.items()}
    spikes = [np.asarray(each.outputs) for each in layers.values() if each.layer.spec.fires]
    for step in range(len(xs)):
        with matplotlib.rc_context(style | {"axes.facecolor": "none"}):
            figure = _frame(xs, readout, spikes, step, kind)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
        if step == len(xs) - 1:
            pictures.check(figure, "digits")
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _frame(
    xs: np.ndarray, readout: np.ndarray, spikes: list[np.ndarray], step: int, kind: str
) -> Figure:
    """The image, the spikes up to a step, and the classes in the lead so far."""
    ink, quiet, positive, negative = (in_kind(c, kind) for c in (INK, QUIET, POSITIVE, NEGATIVE))
    figure = Figure(
        figsize=(pictures.WIDTH, 4.4), dpi=DPI, facecolor=PAGES[kind], layout="constrained"
    )
    axes = figure.subplot_mosaic(
        [["image", "layer 1"], ["image", "layer 2"], ["classes", "readout"]],
        width_ratios=(1, 1.8),
    )
    gray = LinearSegmentedColormap.from_list("gray", [PAGES[kind], ink])
    axes["image"].imshow(xs[step].reshape(8, 8), cmap=gray)
    axes["image"].set(title="image", xticks=[], yticks=[])
    axes["image"].spines[:].set_visible(True)

    for i, fired in enumerate(spikes, 1):
        ax, some = axes[f"layer {i}"], fired[: step + 1, ::EVERY]
        for sign, color in ((1, positive), (-1, negative)):
            when, which = np.nonzero(np.sign(some) == sign)
            ax.scatter(when, which, s=np.where(when == step, 14, 6), color=color, linewidths=0)
        ax.set(ylim=(-1, fired[:, ::EVERY].shape[1]), yticks=[], ylabel=f"layer {i}")
    axes["layer 1"].set_title("spikes of the hidden layers")

    logits = readout[: step + 1].mean(axis=0)
    leader = int(logits.argmax())
    colors = [positive if digit == leader else quiet for digit in range(digits.CLASSES)]
    ax = axes["readout"]
    for digit in sorted(range(digits.CLASSES), key=lambda digit: digit == leader):
        ax.plot(
            readout[: step + 1, digit],
            color=colors[digit],
            linewidth=2.5 if digit == leader else 0.8,
        )
    low, high = readout.min(), readout.max()
    ax.set(ylim=(low - 0.5, high + 0.5), yticks=[], ylabel="readout", xlabel="step")
    for name in ("layer 1", "layer 2", "readout"):
        axes[name].set(xlim=(-0.7, len(xs) - 0.3), xticks=[0, 5, 10, 15])
        axes[name].tick_params(labelbottom=name == "readout")

    ax = axes["classes"]
    likely = np.exp(logits - logits.max())
    ax.bar(range(digits.CLASSES), likely / likely.sum(), color=colors)
    ax.set(ylim=(0, 1), yticks=[0, 1], xticks=range(digits.CLASSES), title=f"class {leader}")
    ax.tick_params(axis="x", length=0)
    return figure


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parents[1] / "images")
