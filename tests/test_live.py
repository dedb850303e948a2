"""The page that runs a trained network: it computes what the library computes."""

import importlib

import numpy as np
import pytest
from generate import network
from interactive import call
from pages import DOCS
from py_mini_racer import MiniRacer

from tracetorch_jax import metrics, record

FOLDER = DOCS / "_static" / "live"


@pytest.fixture(scope="module")
def engine():
    """JavaScript without a browser."""
    engine = MiniRacer()
    for source in (network.script(), (FOLDER / "network.js").read_text()):
        engine.eval(source)
    engine.eval("var net = tracetorch.network(tracetorch.digits)")
    return engine


@pytest.fixture(scope="module")
def rows():
    """What the library gives for the stored images: spikes of both layers, and the readout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(network.TRAINED.parent)
        trained = importlib.import_module("pretrained").load("digits")
    readout, layers = record(trained.model, trained.variables, *trained.prepare(**trained.inputs))
    spikes = [layer.outputs for layer in layers.values() if layer.layer.spec.fires]
    images = trained.inputs["pixels"].reshape(-1, 64)
    return {"y": trained.labels, "images": images, "readout": readout, "spikes": spikes}


RUN = """(pixels) => {
  const { hidden, readout, answer, rate } = net.run(pixels);
  return { spikes: hidden.map(({ out }) => out), readout, answer, rate };
}"""


def test_the_network_computes_what_the_library_does(engine, rows):
    for i, pixels in enumerate(rows["images"]):
        found = call(engine, RUN, pixels.tolist())
        spikes = [np.asarray(layer[i]) for layer in rows["spikes"]]
        assert all(map(np.array_equal, found["spikes"], spikes)), i
        np.testing.assert_allclose(found["readout"], rows["readout"][i], atol=1e-4)
        rate = np.mean([metrics.spike_rate(layer[None]).total.mean() for layer in spikes])
        assert found["rate"] == pytest.approx(float(rate), abs=1e-6)


def test_the_score_is_that_of_the_stored_images(engine, rows):
    right = np.mean(np.asarray(rows["readout"]).mean(axis=1).argmax(axis=-1) == rows["y"])
    found = {factor: call(engine, "(factor) => net.score(factor)", factor) for factor in (1, 1.2)}
    assert found[1]["accuracy"] == pytest.approx(right)
    assert found[1.2]["rate"] < 0.6 * found[1]["rate"]
    assert found[1.2]["accuracy"] > right - 0.05


def circle(x, y, width, height):
    return [[x + width * np.cos(a), y + height * np.sin(a)] for a in np.linspace(0, 2 * np.pi, 30)]


DRAWN = {
    0: [circle(5, 5, 4, 5)],
    1: [[[3, 2], [5, 0], [5, 10]]],
    2: [[[0, 2], [2, 0], [5, 0], [6, 2], [5, 4], [0, 10], [7, 10]]],
    3: [[[0, 0], [5, 0], [6, 2], [3, 5], [6, 7], [5, 10], [0, 10]]],
    4: [[[4, 0], [0, 6], [7, 6]], [[5, 4], [5, 10]]],
    5: [[[6, 0], [1, 0], [0, 4], [4, 4], [6, 7], [4, 10], [0, 9]]],
    6: [[[5, 0], [1, 5], [0, 8], [3, 10], [6, 8], [4, 6], [1, 7]]],
    7: [[[0, 0], [7, 0], [3, 10]]],
    8: [[[3, 5], [0, 2], [3, 0], [6, 2], [0, 8], [3, 10], [6, 8], [3, 5]]],
    9: [[[6, 2], [3, 0], [0, 3], [3, 5], [6, 2], [5, 10]]],
}


def test_drawn_digits_are_read(engine):
    read = "(strokes) => net.run(tracetorch.pixelsOf(strokes)).answer"
    found = {digit: call(engine, read, strokes) for digit, strokes in DRAWN.items()}
    assert sum(digit == answer for digit, answer in found.items()) >= 9, found


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (0.01, 3), (200, -50)])
def test_where_and_how_large_a_drawing_is_makes_no_difference(engine, scale, shift):
    pixels = "(strokes) => tracetorch.pixelsOf(strokes)"
    moved = [[[scale * x + shift, scale * y - shift] for x, y in stroke] for stroke in DRAWN[4]]
    assert call(engine, pixels, moved) == pytest.approx(call(engine, pixels, DRAWN[4]), abs=1)


def test_a_pad_without_ink_is_empty(engine):
    assert call(engine, "() => tracetorch.pixelsOf([])") == [0] * 64
    dot = np.reshape(call(engine, "() => tracetorch.pixelsOf([[[3, 3]]])"), (8, 8))
    assert dot.sum() == dot[3:5, 3:5].sum() > 0  # in the middle


def test_the_page_is_small():
    files = [FOLDER / name for name in ("network.js", "live.js", "live.css")]
    assert len(network.script()) + sum(path.stat().st_size for path in files) < 200_000
