"""Pictures of the documentation: what they show, in which colours, and whether it can be read."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import reference
from generate import charts, colors, family, pictures, tree
from matplotlib.figure import Figure
from pages import DOCS, ROOT
from PIL import Image


@pytest.mark.parametrize("name", reference.some(reference.FIRING, (*reference.COVER, "ASRLIT")))
def test_spikes_are_where_the_membrane_crosses_a_threshold(name):
    """In what is drawn: the line before the reset, the thresholds, dots, and bars."""
    figure, _ = pictures.response(name)
    axes = {ax.get_ylabel(): ax for ax in figure.axes}
    ax = axes["membrane"]
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    before = lines["mem"][::2]
    crossed = np.zeros(len(before))
    for label, level in lines.items():
        if label.endswith("threshold"):
            crossed += before > level if level[0] > 0 else -1.0 * (before < level)

    dots = [line for line in ax.get_lines() if line.get_label() == "spikes"]
    when = np.concatenate([line.get_xdata() for line in dots])
    np.testing.assert_array_equal(np.sort(when), np.flatnonzero(crossed))
    for line in dots:
        np.testing.assert_array_equal(line.get_ydata(), before[line.get_xdata()])

    drawn = np.zeros(len(before))
    for bar in axes["output"].patches:
        drawn[round(bar.get_x() + bar.get_width() / 2)] = np.sign(bar.get_height())
    np.testing.assert_array_equal(drawn, crossed)
    assert crossed.any()


def test_thresholds_that_adapt_are_drawn_as_they_move():
    figure, _ = pictures.response("ALIT")
    (ax,) = (ax for ax in figure.axes if ax.get_ylabel() == "membrane")
    levels = [line.get_ydata() for line in ax.get_lines() if "threshold" in line.get_label()]
    assert len(levels) == 2 and all(np.ptp(level) > 0.01 for level in levels)


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("kind", colors.KINDS)
def test_colours_can_be_read_on_both_kinds_of_page(kind):
    for name, pair in colors.COLORS.items():
        color = pair[colors.KINDS.index(kind)]
        low, high = sorted(map(luminance, (color, colors.PAGES[kind])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (name, kind)


def test_stylesheets_have_the_colours_from_their_one_place():
    properties = {f"--tt-{name}" for name in colors.COLORS}
    for path in (DOCS / "_static").rglob("*.css"):
        if path.name != "colors.css":
            defined = set(re.findall(r"(--tt-\w+):", path.read_text()))
            assert not defined & properties, path.name
    sheet = colors.css()
    for name, (light, dark) in colors.COLORS.items():
        assert sheet.count(f"--tt-{name}: {light};") == 1
        assert sheet.count(f"--tt-{name}: {dark};") == 2


def test_a_drawing_in_the_dark_has_no_light_colour():
    drawing = " ".join(light for light, _ in colors.COLORS.values())
    assert colors.in_kind(drawing, "light") == drawing
    assert colors.in_kind(drawing, "dark").split() == [dark for _, dark in colors.COLORS.values()]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([(0.5, 0.5, "word", 11)], None),
        ([(0.5, 0.5, "word", 8)], "must have 10 pixels on a phone; 'word' has 7.4"),
        ([(0.5, 0.5, "word", 11), (0.52, 0.5, "other", 11)], "'word' and 'other' do"),
        ([(0.99, 0.5, "word", 11)], "cuts off its text 'word'"),
    ],
)
def test_text_that_cannot_be_read_is_named(texts, message):
    figure = Figure(figsize=(pictures.WIDTH, 2))
    for x, y, text, size in texts:
        figure.text(x, y, text, fontsize=size)
    if message is None:
        pictures.check(figure, "one")
    else:
        with pytest.raises(ValueError, match=message):
            pictures.check(figure, "one")


def test_bars_are_the_numbers_of_the_table():
    figure, words = charts.benchmarks()
    for ax, case in zip(figure.axes, charts.CASES, strict=True):
        names = [label.get_text() for label in ax.get_yticklabels()]
        widths = dict(zip(names, (bar.get_width() for bar in ax.patches), strict=True))
        assert widths.keys() == set(charts.SIDES.values())
        for side, name in charts.SIDES.items():
            row = rf"^\| {case} \| {side} \|(.*)$"
            (cells, *_) = re.findall(row, (DOCS / "benchmarks.md").read_text(), re.M)
            assert widths[name] == float(cells.split("|")[3])
            assert f"{name} {widths[name]:.1f}" in words
    with pytest.raises(ValueError, match=r"benchmarks.md must have LIB/nothing"):
        charts.ratios("LIB/nothing")


def test_a_page_gets_the_drawings_that_it_names(tmp_path):
    page = charts.draw("before\n\n<!-- drawing: step -->\n\nafter", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step-light.svg", "step-dark.svg"}
    assert page.count("```{image}") == 2 and "drawing:" not in page
    with pytest.raises(KeyError, match="nothing"):
        charts.draw("<!-- drawing: nothing -->", tmp_path)


@pytest.mark.nightly
def test_the_tree_has_a_link_and_a_response_for_every_layer():
    root = ElementTree.fromstring(tree.svg())
    links = {link.get("href"): link for link in root.iter("a")}
    assert set(links) == {f"{name}.html" for name in family.LAYERS}
    for name in family.LAYERS:
        link = links[f"{name}.html"]
        assert link.find("text").text == name
        drawn = sum(path.get("d").count("M") for path in link.findall("path"))
        out = np.asarray(pictures.recording(name).outputs)
        spikes = np.count_nonzero(out) if family.spec_of(name).fires else 0
        assert drawn == np.count_nonzero(pictures.test_input()) + spikes


@pytest.mark.parametrize("kind", colors.KINDS)
def test_the_animation_is_small_and_shown(kind):
    path = DOCS / "images" / f"digits-{kind}.gif"
    assert path.stat().st_size <= 500_000
    with Image.open(path) as image:
        assert image.n_frames % 16 == 0
    assert f"docs/images/{path.name}" in (ROOT / "README.md").read_text()
    assert f"images/{path.name}" in (DOCS / "index.md").read_text()


@pytest.mark.nightly
def test_the_animation_of_a_network(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    from generate import animation

    monkeypatch.setattr(animation, "IMAGES", 1)
    animation.write(ROOT / "examples" / "pretrained" / "digits", tmp_path)
    for kind in colors.KINDS:
        with Image.open(tmp_path / f"digits-{kind}.gif") as image:
            assert image.n_frames == animation.digits.HOLD["image"]
