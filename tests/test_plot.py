"""Pictures: what is drawn, on what, and what is refused."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from tracetorch_jax import plot

RNG = np.random.default_rng(0)
SPIKES = RNG.choice([-1.0, 0.0, 0.0, 1.0], size=(2, 30, 5))
MEMBRANE = RNG.normal(size=(2, 30, 5))
DRAW = {
    "raster": lambda xs, ax=None, **k: plot.raster(xs, ax, **k),
    "traces": lambda xs, ax=None, **k: plot.traces({"mem": xs, "syn": -xs}, ax, **k),
    "spike_train": lambda xs, ax=None, **k: plot.spike_train(xs, xs, ax, threshold=1.0, **k),
    "activity": lambda xs, ax=None, **k: plot.activity(xs, ax, **k),
}
every = pytest.mark.parametrize("name", DRAW)


@pytest.fixture(autouse=True)
def tidy(monkeypatch):
    def show(*args, **kwargs):
        raise AssertionError("no function shows anything by itself")

    monkeypatch.setattr(plt, "show", show)
    yield
    plt.close("all")


def data_of(ax):
    """What an axes shows, in numbers."""
    parts = [np.asarray(line.get_data(), float) for line in ax.get_lines()]
    parts += [np.asarray(c.get_offsets(), float) for c in ax.collections]
    parts += [np.asarray(image.get_array(), float) for image in ax.get_images()]
    return [part.tolist() for part in parts]


@every
def test_draws_on_given_and_on_new_axes(name):
    own = plt.figure().add_subplot()
    assert DRAW[name](SPIKES[0], own) is own
    new = DRAW[name](SPIKES[0])
    assert new is not own and data_of(new) == data_of(own) and data_of(new)
    new.figure.canvas.draw()


@every
def test_one_sequence_of_a_batch(name):
    whole, alone = DRAW[name](SPIKES, sequence=1), DRAW[name](SPIKES[1])
    assert data_of(whole) == data_of(alone) != data_of(DRAW[name](SPIKES))


@every
def test_bad_input_is_named(name):
    for bad in (np.zeros(3), np.zeros((1, 2, 3, 4)), np.zeros((0, 3))):
        with pytest.raises(ValueError, match=r"must be \[T, N\] or \[B, T, N\]"):
            DRAW[name](bad)
    with pytest.raises(ValueError, match="`sequence` must be an integer between 0 and 1; got 2"):
        DRAW[name](SPIKES, sequence=2)
    if name in ("traces", "spike_train"):
        with pytest.raises(ValueError, match="`neuron` must be an integer between 0 and 4; got 5"):
            DRAW[name](SPIKES, neuron=5)


def test_a_dot_for_every_spike_of_each_sign():
    ax = plot.raster(SPIKES[0])
    positive, negative = ax.collections
    for sign, dots in ((1, positive), (-1, negative)):
        want = {tuple(map(float, place)) for place in np.argwhere(SPIKES[0] == sign)}
        assert set(map(tuple, dots.get_offsets().tolist())) == want
    assert not np.array_equal(positive.get_facecolor(), negative.get_facecolor())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["+", "\N{MINUS SIGN}"]
    binary = plot.raster(np.abs(SPIKES[0]))
    assert len(binary.collections) == 1 and binary.get_legend() is None
    silent = plot.raster(np.zeros((4, 2)))
    assert len(silent.collections[0].get_offsets()) == 0


def test_traces_are_the_states():
    ax = plot.traces({"mem": MEMBRANE, "syn": SPIKES}, neuron=3)
    mem, syn = ax.get_lines()
    np.testing.assert_array_equal(mem.get_ydata(), MEMBRANE[0, :, 3])
    np.testing.assert_array_equal(syn.get_ydata(), SPIKES[0, :, 3])
    assert (mem.get_label(), syn.get_label()) == ("mem", "syn")
    assert plot.traces(MEMBRANE).get_legend() is None


def test_thresholds_of_a_spike_train():
    ax = plot.spike_train(
        MEMBRANE, SPIKES, threshold=np.arange(1.0, 6.0), neg_threshold=2.0, neuron=2
    )
    levels = {float(line.get_ydata()[0]) for line in ax.get_lines() if len(line.get_ydata()) == 2}
    assert levels == {3.0, -2.0, 0.0}
    with pytest.raises(ValueError, match=r"`spikes` must have the shape of `membrane`, \(30, 5\)"):
        plot.spike_train(MEMBRANE, SPIKES[0, :, :3])


def test_spikes_of_a_train_point_away_from_the_membrane():
    ax = plot.spike_train(MEMBRANE, SPIKES, neuron=2)
    for sign, bars in zip((1, -1), ax.collections, strict=True):
        steps, heights = np.array(bars.get_segments()).transpose(2, 0, 1)
        np.testing.assert_array_equal(steps[:, 0], np.flatnonzero(SPIKES[0, :, 2] == sign))
        assert np.all(sign * np.diff(heights) > 0)
        assert np.all(sign * (heights - MEMBRANE[0, :, 2].mean()) > 0)


def test_bad_states_and_thresholds_are_named():
    with pytest.raises(ValueError, match="`states` must hold at least one state; got none"):
        plot.traces({})
    for name in ("threshold", "neg_threshold"):
        with pytest.raises(ValueError, match=f"`{name}` must be a number, or one for each of 5"):
            plot.spike_train(MEMBRANE, SPIKES, **{name: [1.0, 2.0]})


def test_thresholds_are_all_positive():
    with pytest.raises(ValueError, match="`threshold` must be finite and greater than 0"):
        plot.spike_train(MEMBRANE, SPIKES, threshold=[1.0, 1.0, 0.0, 1.0, 1.0])


def test_half_lives_are_counted_on_a_logarithmic_axis():
    before, after = np.full(40, 0.5), 0.5 ** (1 / np.geomspace(1, 100, 40))
    ax = plot.half_lives(after, before=before, bins=10)
    assert ax.get_xscale() == "log"
    counts = [sum(bar.get_height() for bar in bars) for bars in ax.containers]
    assert counts == [40, 40]
    first, second = ax.containers
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["before training", "after training"]
    assert max(bar.get_height() for bar in first) == 40 > max(bar.get_height() for bar in second)
    alone = plot.half_lives(before)
    constants = plot.half_lives({"pos_beta": [0.0, 0.5, 1.0], "threshold": [2.0]})
    assert sum(bar.get_height() for bar in constants.containers[0]) == 1
    assert len(alone.containers) == 1 and alone.get_xlim()[1] > 9 * alone.get_xlim()[0]
    for drawn in (ax, alone):
        drawn.figure.canvas.draw()
        labels = [text.get_text() for text in drawn.get_xticklabels(which="both")]
        assert "1" in labels and not any("10^" in label for label in labels)
    for bad in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="`before` must be decays strictly between 0 and 1"):
            plot.half_lives(before, before=[bad])
    with pytest.raises(ValueError, match="`decays` must be decays .*; got none"):
        plot.half_lives([])


def test_activity_has_both_signs_around_white():
    image = plot.activity(MEMBRANE).get_images()[0]
    assert image.get_clim()[0] == -image.get_clim()[1]
    assert plot.activity(np.abs(MEMBRANE)).get_images()[0].get_clim()[0] == 0
    np.testing.assert_array_equal(image.get_array(), MEMBRANE[0].T)
    ticks = plot.activity(MEMBRANE[0, :, :3]).get_yticks()
    assert np.all(ticks == ticks.round())  # neurons are whole
    for colorbar in (True, False):
        assert len(plot.activity(MEMBRANE, colorbar=colorbar).figure.axes) == 1 + colorbar


def test_an_animation_has_a_frame_per_step(tmp_path):
    frames = RNG.random((2, 6, 4, 3))
    for name, xs, options in (
        ("batch", frames, {"sequence": 1}),
        ("flat", frames.reshape(2, 6, 12), {"shape": (4, 3)}),
    ):
        path = plot.animate(xs, tmp_path / f"{name}.gif", **options)
        with Image.open(path) as gif:
            assert gif.n_frames == 6
    with pytest.raises(ValueError, match="`path` must end in .gif; got 'it.mp4'"):
        plot.animate(frames, tmp_path / "it.mp4")
    for bad in ((5, 3), 12):
        with pytest.raises(ValueError, match=r"`shape` must be \(H, W\) with H \* W = 12"):
            plot.animate(frames.reshape(2, 6, 12), tmp_path / "it.gif", shape=bad)
    with pytest.raises(ValueError, match=r"`frames` must be \[T, H, W\] or \[B, T, H, W\]"):
        plot.animate(frames[0, 0], tmp_path / "it.gif")


def test_an_animation_shows_the_steps_of_its_sequence(tmp_path):
    xs = np.zeros((2, 3, 1, 3))
    xs[1, range(3), 0, range(3)] = 1  # a light that moves to the right
    path = plot.animate(xs, tmp_path / "it.gif", sequence=1, fps=4)
    with Image.open(path) as gif:
        for step in range(3):
            gif.seek(step)
            assert gif.info["duration"] == 250
            row = np.asarray(gif.convert("L"))[int(0.8 * gif.height)]
            assert np.argmax([part.mean() for part in np.array_split(row, 3)]) == step


def test_without_matplotlib_the_package_is_named(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'matplotlib"):
        plot.raster(SPIKES)


def test_one_neuron_and_one_step_are_counted_whole():
    for xs in (np.ones((20, 1)), np.ones((1, 20)), np.ones((1, 1))):
        for draw in (plot.raster, plot.activity):
            ax = draw(xs)
            ax.figure.canvas.draw()
            for axis in (ax.xaxis, ax.yaxis):
                low, high = axis.get_view_interval()
                shown = [tick for tick in axis.get_ticklocs() if low <= tick <= high]
                assert shown and all(tick == round(tick) for tick in shown), (xs.shape, draw)
    (line,) = plot.traces(np.ones((1, 2))).get_lines()
    assert line.get_marker() not in ("None", "", None)  # a line of one point is not seen


def test_a_silent_raster_says_so():
    assert [text.get_text() for text in plot.raster(np.zeros((4, 2))).texts] == ["no spikes"]
    assert not plot.raster(SPIKES).texts


def test_what_is_not_finite_leaves_the_scale_alone():
    xs = np.abs(MEMBRANE[0])
    for hole in (np.nan, np.inf):
        holed = np.where(np.arange(30)[:, None] == 3, hole, xs)
        low, high = plot.activity(holed).get_images()[0].get_clim()
        assert (low, high) == (0, np.delete(xs, 3, axis=0).max())


def test_bad_arguments_are_named_before_anything_is_drawn():
    for function, arguments, error, message in (
        (plot.raster, {"size": 0}, ValueError, "`size` must be finite and greater than 0; got 0"),
        (plot.raster, {"ax": 3}, TypeError, "`ax` must be matplotlib axes, or None; got int"),
    ):
        with pytest.raises(error, match=message):
            function(SPIKES, **arguments)
    with pytest.raises(TypeError, match="`ax` must be matplotlib axes, or None; got Figure"):
        plot.activity(SPIKES, plt.figure())
    plt.close("all")
    with pytest.raises(TypeError, match="`values` must be real numbers; got dtype complex128"):
        plot.activity(np.ones((3, 3), complex))
    for name in ("threshold", "neg_threshold"):
        with pytest.raises(ValueError, match=f"`{name}` must be finite and greater than 0; got -1"):
            plot.spike_train(MEMBRANE, SPIKES, **{name: -1.0})
    assert not plt.get_fignums()


def test_a_threshold_that_changes_and_the_fall_at_a_spike_are_drawn():
    level, before = 2 + np.abs(MEMBRANE), MEMBRANE + 1
    ax = plot.spike_train(
        MEMBRANE, SPIKES, threshold=level, neg_threshold=1.0, before=before, neuron=2
    )
    membrane, threshold = (line for line in ax.get_lines() if len(line.get_ydata()) > 2)
    np.testing.assert_array_equal(membrane.get_ydata()[0::2], before[0, :, 2])
    np.testing.assert_array_equal(membrane.get_ydata()[1::2], MEMBRANE[0, :, 2])
    np.testing.assert_array_equal(membrane.get_xdata()[0::2], membrane.get_xdata()[1::2])
    np.testing.assert_array_equal(threshold.get_ydata(), level[0, :, 2])
    other = plot.spike_train(MEMBRANE, SPIKES, threshold=level, neuron=1, sequence=1)
    assert any(np.array_equal(line.get_ydata(), level[1, :, 1]) for line in other.get_lines())
    with pytest.raises(
        ValueError, match=r"`threshold` must have the shape of `membrane`, \(30, 5\)"
    ):
        plot.spike_train(MEMBRANE, SPIKES, threshold=level[:, :-1])
    with pytest.raises(ValueError, match=r"`before` must have the shape of `membrane`, \(30, 5\)"):
        plot.spike_train(MEMBRANE, SPIKES, before=before[..., :2])
    with pytest.raises(ValueError, match="`threshold` must be finite and greater than 0"):
        plot.spike_train(MEMBRANE, SPIKES, threshold=level - 9)
