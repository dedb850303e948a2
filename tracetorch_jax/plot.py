"""Pictures of spikes, traces, decays and delays, with matplotlib (extra ``plot``).

Every function draws on `ax`, or on a new figure's axes if that is None, and returns what it drew
on. None calls ``show``, and none needs a display. Sequences are ``[T, N]``, or ``[B, T, N]`` of
which one, `sequence`, is drawn.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from tracetorch_jax._shared.axes import check_positive
from tracetorch_jax._shared.checks import as_array, check_integer
from tracetorch_jax.diagnostics import Recording
from tracetorch_jax.functional.constraints import half_life
from tracetorch_jax.functional.spec import parameter_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.ticker import MaxNLocator

__all__ = ["activity", "animate", "delays", "half_lives", "raster", "spike_train", "traces"]

# Colour-blind readers tell them apart; their contrast to white is 4.5 at least. `docs/generate`
# draws in them as well.
POSITIVE, NEGATIVE, THRESHOLD = "#b84700", "#0b66a8", "#1a7a56"


def raster(
    spikes: ArrayLike, ax: Axes | None = None, *, sequence: int = 0, size: float | None = None
) -> Axes:
    """A dot for every spike: neurons upwards, steps to the right, a colour for each sign.

    Args:
        spikes: ``[T, N]`` or ``[B, T, N]``; 0 where there is none.
        ax: matplotlib axes, or None for new ones.
        sequence: which of the batch.
        size: area of a dot in points squared; by default what fits the axes.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: an argument of another kind.
        ValueError: `spikes` of another rank, `sequence` out of range, or `size` not greater than 0.

    Example:
        >>> ax = plot.raster(np.eye(10))
        >>> ax.get_ylabel()
        'neuron'
    """
    steps = _one(spikes, "spikes", sequence)
    if size is not None:
        check_positive("size", size)
    ax = _axes(ax)
    if size is None:
        box = ax.get_window_extent()
        points = 72 / ax.figure.dpi
        pitch = min(box.height * points / steps.shape[1], box.width * points / len(steps))
        size = float(np.clip(0.8 * pitch, 1, 8) ** 2)
    ternary = (steps < 0).any()
    for sign, color, label in ((1, POSITIVE, "+"), (-1, NEGATIVE, "\N{MINUS SIGN}")):
        when, who = np.nonzero(np.sign(steps) == sign)
        if len(when) or (sign > 0 and not ternary):
            ax.scatter(when, who, s=size, color=color, marker="o", linewidths=0, label=label)
    if ternary:
        ax.legend(**_OUTSIDE, ncols=2, markerscale=max(1, 4 / size**0.5))
    if not steps.any():
        ax.text(0.5, 0.5, "no spikes", color="0.5", ha="center", transform=ax.transAxes)
    ax.set_xlim(-0.5, len(steps) - 0.5)
    ax.set_ylim(-0.5, steps.shape[1] - 0.5)
    _whole(ax, *steps.shape)
    return ax


def traces(
    states: Mapping[str, ArrayLike] | ArrayLike,
    ax: Axes | None = None,
    *,
    neuron: int = 0,
    sequence: int = 0,
) -> Axes:
    """A neuron's states over time, one line each.

    Args:
        states: ``[T, N]`` or ``[B, T, N]`` by name, as `tracetorch_jax.record` gives them; or one
            such array.
        ax: matplotlib axes, or None for new ones.
        neuron: which neuron.
        sequence: which of the batch.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: an argument of another kind.
        ValueError: no states or states of another rank, `neuron` or `sequence` out of range.

    Example:
        >>> ax = plot.traces({"syn": np.ones((10, 3)), "mem": np.zeros((10, 3))})
        >>> [line.get_label() for line in ax.get_lines()]
        ['syn', 'mem']
    """
    named = states if isinstance(states, Mapping) else {"": states}
    if not named:
        raise ValueError("`states` must hold at least one state; got none.")
    lines = {}
    for name, values in named.items():
        steps = _one(values, f"states[{name!r}]" if name else "states", sequence)
        lines[name] = steps[:, _index("neuron", neuron, steps.shape[1])]
    ax = _axes(ax)
    for name, line in lines.items():
        ax.plot(line, label=name or None, marker="o" if len(line) == 1 else None)
    if isinstance(states, Mapping):
        ax.legend(**_OUTSIDE, ncols=min(len(lines), 4))
    ax.set(xlabel="step", ylabel="state")
    ax.margins(x=0)
    return ax


def spike_train(
    membrane: ArrayLike,
    spikes: ArrayLike,
    ax: Axes | None = None,
    *,
    threshold: float | ArrayLike | None = None,
    neg_threshold: float | ArrayLike | None = None,
    before: ArrayLike | None = None,
    neuron: int = 0,
    sequence: int = 0,
) -> Axes:
    """Membrane potential and thresholds of one neuron, with its spikes.

    A layer's `mem` is what remains after the reset, so that the line falls at a spike instead of
    crossing the threshold. With `before` it crosses the threshold and then falls.

    Args:
        membrane: ``[T, N]`` or ``[B, T, N]``.
        spikes: of the same shape.
        ax: matplotlib axes, or None for new ones.
        threshold: of positive spikes: a number, one per neuron, or of the shape of `membrane` where
            it changes, as `Recording.thresholds` gives it.
        neg_threshold: of negative spikes, as a positive number, likewise.
        before: the membrane before the reset, of the shape of `membrane`, as `Recording.membrane`
            gives it; or None.
        neuron: which neuron.
        sequence: which of the batch.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: an argument of another kind.
        ValueError: arrays of different shapes or other ranks, thresholds of another number than
            neurons or not greater than 0, `neuron` or `sequence` out of range.

    Example:
        >>> ax = plot.spike_train(np.zeros((10, 3)), np.ones((10, 3)), threshold=1.0)
        >>> ax.get_ylabel()
        'membrane'
    """
    mem, fired = _one(membrane, "membrane", sequence), _one(spikes, "spikes", sequence)
    peaks = mem if before is None else _one(before, "before", sequence)
    for name, values in (("spikes", fired), ("before", peaks)):
        if mem.shape != values.shape:
            raise ValueError(
                f"`{name}` must have the shape of `membrane`, {mem.shape}; got {values.shape}."
            )
    i = _index("neuron", neuron, mem.shape[1])
    lines = [
        sign * _level(name, given, mem.shape, i, sequence)
        for name, given, sign in (
            ("threshold", threshold, 1),
            ("neg_threshold", neg_threshold, -1),
        )
        if given is not None
    ]
    ax = _axes(ax)
    drawn = mem[:, i] if before is None else np.stack([peaks[:, i], mem[:, i]], axis=1).ravel()
    steps = np.arange(len(mem)).repeat(len(drawn) // len(mem))
    ax.plot(steps, drawn, color="black", linewidth=1, label="membrane")
    levels = [0.0, *drawn]
    style: dict[str, Any] = {"color": THRESHOLD, "linestyle": ":", "linewidth": 1}
    for line in lines:
        levels += [*line]
        if len(line) == 1:
            ax.axhline(line[0], **style)
        else:
            ax.plot(line, **style)
    low, high = min(levels), max(levels)
    height = 0.08 * ((high - low) or 1)
    for sign, color, base in ((1, POSITIVE, high + height), (-1, NEGATIVE, low - height)):
        when = np.flatnonzero(np.sign(fired[:, i]) == sign)
        if len(when):
            ax.vlines(when, base, base + sign * height, color=color, linewidth=1.5)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="step", ylabel="membrane")
    ax.set_xlim(-0.5, len(mem) - 0.5)
    return ax


def _level(
    name: str, given: ArrayLike, shape: tuple[int, ...], neuron: int, sequence: int
) -> np.ndarray:
    """A neuron's threshold: one value, or one for each step."""
    if np.ndim(given) > 1:
        values = _one(given, name, sequence)
        if values.shape != shape:
            raise ValueError(
                f"`{name}` must have the shape of `membrane`, {shape}, if it changes from step to "
                f"step; got {values.shape}."
            )
    elif np.size(given) not in (1, shape[1]):
        raise ValueError(
            f"`{name}` must be a number, or one for each of {shape[1]} neurons; got shape "
            f"{np.shape(given)}."
        )
    check_positive(name, given)
    if np.ndim(given) > 1:
        return values[:, neuron]
    each = np.ravel(np.asarray(given, np.float64))
    return each[[neuron if each.size > 1 else 0]]


def half_lives(decays: Any, ax: Axes | None = None, *, before: Any = None, bins: int = 30) -> Axes:
    """Distribution of decays as half-lives on a logarithmic axis, and of those before training.

    Args:
        decays: an array of any shape, in (0, 1); a layer's parameters by name, as its `parameters`
            gives them; a `Recording`; or those of a whole network by path, as
            `tracetorch_jax.record` gives them. Of parameters, all decays are drawn together, but
            for constants of 0 and 1, which have no half-life.
        ax: matplotlib axes, or None for new ones.
        before: the decays before training, given likewise, or None.
        bins: of the histogram.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: decays that are no numbers, or `bins` that is no integer.
        ValueError: no decays or one outside (0, 1), or `bins` below 1.

    Example:
        >>> ax = plot.half_lives(np.linspace(0.5, 0.99, 8), before=np.full(8, 0.9))
        >>> ax.get_xlabel()
        'half-life (steps)'
    """
    bins = check_integer("bins", bins)
    steps = {}
    for name, given in (("before", before), ("decays", decays)):
        if given is None:
            continue
        values = _decays(name, given)
        bad = values[~((values > 0) & (values < 1))]
        if bad.size or not values.size:
            got = bad[0] if values.size else "none"
            raise ValueError(f"`{name}` must be decays strictly between 0 and 1; got {got}.")
        steps[name] = half_life(values)
    ax = _axes(ax)
    everything = np.concatenate(list(steps.values()))
    low, high = everything.min(), everything.max()
    margin = max(1.1, (10 * low / high) ** 0.5)  # show a factor of ten at least
    edges = np.geomspace(low / margin, high * margin, bins + 1)
    styles = {"before": ("0.6", "before training"), "decays": (POSITIVE, "after training")}
    for name, values in steps.items():
        color, label = styles[name]
        ax.hist(values, edges.tolist(), color=color, alpha=0.7, label=label)
    cast("MaxNLocator", ax.yaxis.get_major_locator()).set_params(integer=True)
    if before is not None:
        ax.legend(**_OUTSIDE, ncols=2)
    ax.set_xscale("log")
    labelled = (1, 2, 5) if edges[-1] < 1000 * edges[0] else (1,)
    for which in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        which(lambda x, _: f"{x:g}" if int(f"{x:e}"[0]) in labelled else "")
    ax.set(xlabel="half-life (steps)", ylabel="neurons")
    return ax


def delays(
    sets: Any, ax: Axes | None = None, *, max_delay: float | None = None, bins: int = 30
) -> Axes:
    """Distribution of delays in steps, of one set or of several, such as before and after training.

    Args:
        sets: an array of delays of any shape, as a layer's `parameters` gives them; or several such
            arrays by what they are called.
        ax: matplotlib axes, or None for new ones.
        max_delay: the longest delay, where the axis ends; by default the greatest of the delays.
        bins: of the histogram.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: delays that are no numbers, or `bins` that is no integer.
        ValueError: no delays, one that is negative, not finite or above `max_delay`, or `bins`
            below 1.

    Example:
        >>> before, after = np.linspace(0, 10, 50), np.full(50, 4.0)
        >>> ax = plot.delays({"before training": before, "after training": after}, max_delay=10)
        >>> ax.get_xlabel(), [text.get_text() for text in ax.get_legend().get_texts()]
        ('delay (steps)', ['before training', 'after training'])
    """
    bins = check_integer("bins", bins)
    if max_delay is not None:
        check_positive("max_delay", max_delay)
    named = sets if isinstance(sets, Mapping) else {"": sets}
    if not named:
        raise ValueError("`sets` must hold at least one set of delays; got none.")
    steps = {}
    for label, given in named.items():
        name = f"sets[{label!r}]" if label else "sets"
        convert = functools.partial(np.asarray, dtype=np.float64)
        values = np.ravel(cast("Any", as_array(name, given, _GIVEN_DELAYS, convert=convert)))
        most = np.inf if max_delay is None else max_delay
        bad = values[~((values >= 0) & (values <= most) & np.isfinite(values))]
        if bad.size or not values.size:
            rule = "finite and not negative" if max_delay is None else f"between 0 and {max_delay}"
            raise ValueError(
                f"`{name}` must hold delays, {rule}; got {bad[0] if bad.size else 'none'}."
            )
        steps[label] = values
    ax = _axes(ax)
    top = max(values.max() for values in steps.values()) if max_delay is None else max_delay
    edges = np.linspace(0, top or 1, bins + 1).tolist()
    colors = ["0.6"] * (len(steps) > 1) + [POSITIVE]
    for i, (label, values) in enumerate(steps.items()):
        color = colors[i] if i < len(colors) else None
        ax.hist(values, edges, color=color, alpha=0.7, label=label or None)
    if any(steps):
        ax.legend(**_OUTSIDE, ncols=min(len(steps), 4))
    cast("MaxNLocator", ax.yaxis.get_major_locator()).set_params(integer=True)
    ax.set(xlabel="delay (steps)", ylabel="number")
    ax.set_xlim(0, top or 1)
    return ax


_GIVEN_DELAYS = 'See the `parameters` of a layer, which are delays in steps by the name "delay".'


def _decays(name: str, given: object) -> np.ndarray:
    """All decays of an array, of parameters by name, or of recordings."""
    if isinstance(given, Recording):
        given = given.parameters
    if not isinstance(given, Mapping):
        values: Any = as_array(name, given, _GIVEN, convert=lambda x: np.asarray(x, np.float64))
        return np.ravel(values)
    found = []
    for key, value in given.items():
        if isinstance(value, (Recording, Mapping)):
            found.append(_decays(f"{name}[{key!r}]", value))
        elif _is_decay(key):
            values = np.ravel(np.asarray(value, np.float64))
            found.append(values[(values != 0) & (values != 1)])
        elif _is_decay(key.removeprefix("raw_")):
            raise ValueError(
                f"`{name}` must hold decays, not the raw parameters of `params`; got {key!r}. "
                f"{_GIVEN}"
            )
    return np.concatenate(found) if found else np.empty(0)


def _is_decay(name: str) -> bool:
    row = parameter_row(name)
    return row is not None and row.kind == "decay"


_GIVEN = "See tracetorch_jax.record, or a layer's `parameters`."


def activity(
    values: ArrayLike, ax: Axes | None = None, *, sequence: int = 0, colorbar: bool = True
) -> Axes:
    """Heat map of spikes, membranes or rates: neurons upwards, steps to the right.

    What has both signs is drawn from blue through white, for 0, to red; what is not finite is grey.

    Args:
        values: ``[T, N]`` or ``[B, T, N]``.
        ax: matplotlib axes, or None for new ones.
        sequence: which of the batch.
        colorbar: whether to draw the scale next to it.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: an argument of another kind.
        ValueError: `values` of another rank, or `sequence` out of range.

    Example:
        >>> ax = plot.activity(np.random.default_rng(0).normal(size=(10, 3)))
        >>> ax.get_images()[0].get_array().shape
        (3, 10)
    """
    steps = _one(values, "values", sequence)
    ax = _axes(ax)
    image = _image(ax, steps.T, _colors(steps, "viridis"), aspect="auto", origin="lower")
    if colorbar:
        ax.figure.colorbar(image, ax=ax)
    _whole(ax, *steps.shape)
    return ax


def animate(
    frames: ArrayLike,
    path: str | pathlib.Path,
    *,
    shape: Sequence[int] | None = None,
    sequence: int = 0,
    fps: int = 20,
) -> pathlib.Path:
    """Write a GIF of a sequence of images.

    Args:
        frames: ``[T, H, W]`` or ``[B, T, H, W]``; or, with `shape`, ``[T, N]`` or ``[B, T, N]``.
            What has both signs is drawn from blue through white to red.
        path: where to write, ending in ``.gif``.
        shape: ``(H, W)`` of each step's N values.
        sequence: which of the batch.
        fps: frames per second.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: an argument of another kind.
        ValueError: frames of another rank, a `shape` that does not hold N values, a `path` that
            does not end in ``.gif``, `fps` below 1.

    Example:
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> plot.animate(np.eye(16), folder / "spikes.gif", shape=(4, 4)).stat().st_size > 0
        True
    """
    path = pathlib.Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"`path` must end in .gif; got {path.name!r}.")
    fps = check_integer("fps", fps)
    if shape is not None:
        images = _one(frames, "frames", sequence)
        if np.shape(shape) != (2,) or np.prod(shape) != images.shape[1]:
            raise ValueError(
                f"`shape` must be (H, W) with H * W = {images.shape[1]}, the values of a step; got "
                f"{shape}."
            )
        images = images.reshape(-1, *shape)
    else:
        images = _one(frames, "frames", sequence, axes=3, what="[T, H, W] or [B, T, H, W]")
    matplotlib = _matplotlib()
    from matplotlib.animation import PillowWriter

    height, width = images.shape[1:]
    scale = 4 / max(height, width)
    figure = matplotlib.figure.Figure(figsize=(width * scale, height * scale + 0.4))
    ax = figure.add_axes((0, 0, 1, height * scale / (height * scale + 0.4)))
    ax.set_axis_off()
    image = _image(ax, images[0], _colors(images, "gray"))
    writer = PillowWriter(fps=fps)
    still = {"savefig.bbox": None}  # or frames differ in size
    with matplotlib.rc_context(still), writer.saving(figure, path, dpi=None):
        for step, values in enumerate(images):
            image.set_data(values)
            ax.set_title(f"step {step}", fontsize=9)
            writer.grab_frame()
    return path


_OUTSIDE: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "frameon": False,
    "borderpad": 0,
    "handletextpad": 0.3,
    "columnspacing": 1,
}


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(
            "tracetorch_jax.plot needs matplotlib: pip install 'matplotlib>=3.9'."
        ) from error
    return matplotlib


def _axes(ax: Axes | None) -> Axes:
    """The axes to draw on: those given, or those of a new figure of pyplot's."""
    _matplotlib()
    from matplotlib.axes import Axes

    if isinstance(ax, Axes):
        return ax
    if ax is not None:
        raise TypeError(f"`ax` must be matplotlib axes, or None; got {type(ax).__name__}.")
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained").add_subplot()


def _colors(values: np.ndarray, cmap: str) -> dict[str, Any]:
    """Colours from 0 to the greatest value, or around 0 where there are both signs."""
    finite = values[np.isfinite(values)]
    greatest = np.abs(finite).max(initial=0) or 1.0
    if (finite < 0).any():
        return {"cmap": "RdBu_r", "vmin": -greatest, "vmax": greatest}
    return {"cmap": cmap, "vmin": 0, "vmax": greatest}


def _image(ax: Axes, values: np.ndarray, colors: dict[str, Any], **options: Any) -> AxesImage:
    """Draw a matrix, grey where it is not finite."""
    ax.set_facecolor("0.8")
    shown = np.ma.masked_invalid(values)
    return ax.imshow(shown, interpolation="nearest", **colors, **options)


def _whole(ax: Axes, steps: int, neurons: int) -> None:
    """Name the axes and count them in whole numbers."""
    ax.set(xlabel="step", ylabel="neuron")
    for axis, size in ((ax.xaxis, steps), (ax.yaxis, neurons)):
        if size == 1:
            axis.set_ticks([0])
        else:
            cast("MaxNLocator", axis.get_major_locator()).set_params(integer=True)


def _one(
    values: object, name: str, sequence: int, axes: int = 2, what: str = "[T, N] or [B, T, N]"
) -> np.ndarray:
    """One sequence of a batch, as NumPy."""
    array: Any = as_array(name, values, convert=np.asarray)
    if array.dtype.kind in "cSUO":
        raise TypeError(f"`{name}` must be real numbers; got dtype {array.dtype}.")
    array = array.astype(np.float64)
    if array.ndim not in (axes, axes + 1) or not array.size:
        raise ValueError(f"`{name}` must be {what}, and not empty; got shape {array.shape}.")
    return array if array.ndim == axes else array[_index("sequence", sequence, len(array))]


def _index(name: str, index: int, size: int) -> int:
    return check_integer(name, index, -size, size - 1, f"an integer between 0 and {size - 1}")
