"""The family as a tree: what each layer makes of one input, by its letters, as SVG with links."""

from __future__ import annotations

import html

import numpy as np

from generate import pictures
from generate.names import LAYERS
from tracetorch_jax.functional.spec import PREFIXES, SUFFIXES

LEFT, TOP, COLUMN, ROW = 146, 40, 142, 78  # of the first picture, and from one to the next
WIDE, HIGH = 122, 40  # of a picture, whose name is above it
INDENT = 18


def svg() -> str:
    """A row for the letters before LI, a column for those after; each row hangs from another.

    Its first letter is what it has more than that one. Colours are those of `colors.css`.
    """
    rows = _rows()
    parts = [
        _text(LEFT + COLUMN * i, 20, f"{word} {suffix}", "tt-quiet")
        for i, (suffix, (word, _)) in enumerate(SUFFIXES.items())
    ]
    lines = {
        prefixes: (6 + INDENT * len(prefixes), TOP + ROW * i) for i, prefixes in enumerate(rows)
    }
    for prefixes, (x, y) in lines.items():
        if prefixes:
            (up, above), here = lines[prefixes[1:]], y + 22
            parts.append(f'<path class="tt-branch" d="M{up + 6} {above + 30}V{here}H{x - 3}"/>')
        words = f"{prefixes[0]}  {_word(prefixes[0])}" if prefixes else "membrane only"
        parts.append(_text(x, y + 26, words, ""))
        for i, suffix in enumerate(SUFFIXES):
            if (name := f"{prefixes}LI{suffix}") in LAYERS:
                parts.append(_layer(name, LEFT + COLUMN * i, y))
    width, height = LEFT + COLUMN * len(SUFFIXES), TOP + ROW * len(rows)
    return (
        f'<div class="tt-scroll" tabindex="0"><svg class="tt-tree" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">\n<title>{_TITLE}</title>\n'
        + "\n".join(parts)
        + "\n</svg></div>"
    )


_TITLE = f"""The {len(LAYERS)} layers by their letters, each with its response to the same input:
a positive and a negative step, pulses, and both signs in turn"""


def _rows(prefixes: str = "") -> list[str]:
    """All prefixes that layers have, each after the one with its first letter less."""
    found = [prefixes]
    for letter in (feature.letter for feature in reversed(PREFIXES)):
        longer = letter + prefixes
        if any(name.startswith(f"{longer}LI") for name in LAYERS):
            found += _rows(longer)
    return found


def _word(letter: str) -> str:
    return next(feature.word for feature in PREFIXES if feature.letter == letter)


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{html.escape(words)}</text>'


def _layer(name: str, x: float, y: float) -> str:
    """A link with the layer's name, the input in grey, and its output over it."""
    found, xs = pictures.recording(name), pictures.test_input()
    out = np.asarray(found.outputs)[0, :, 0]
    steps = np.arange(pictures.STEPS) * WIDE / pictures.STEPS
    middle, scale = y + 16 + HIGH / 2, HIGH / 2
    at = [(round(x + step, 1), middle) for step in steps]
    quiet = _bars(at, xs / np.abs(xs).max() * scale, "tt-input")
    if found.layer.spec.fires:
        over = "".join(
            _bars(at, np.where(np.sign(out) == sign, out, 0) / np.abs(out).max() * scale, kind)
            for sign, kind in ((1, "tt-pos"), (-1, "tt-neg"))
        )
    else:
        heights = middle - out / np.abs(out).max() * scale
        points = " ".join(f"{here},{high:.1f}" for (here, _), high in zip(at, heights, strict=True))
        over = f'<polyline class="tt-line" points="{points}"/>'
    frame = f'<rect x="{x - 6}" y="{y}" width="{WIDE + 12}" height="{HIGH + 24}" rx="4"/>'
    return f'<a href="{name}.html">{frame}{_text(x, y + 13, name, "tt-name")}{quiet}{over}</a>'


def _bars(at: list[tuple[float, float]], heights: np.ndarray, kind: str) -> str:
    path = "".join(
        f"M{x} {middle}v{-height:.1f}"
        for (x, middle), height in zip(at, heights, strict=True)
        if height
    )
    return f'<path class="{kind}" d="{path}"/>' if path else ""
