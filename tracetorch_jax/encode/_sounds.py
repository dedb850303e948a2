"""Sounds as sequences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tracetorch_jax._shared.axes import real
from tracetorch_jax._shared.checks import check_integer, check_number
from tracetorch_jax._shared.dtypes import countable


def log_mel(
    sounds: ArrayLike,
    num_mels: int = 40,
    *,
    rate: int = 16000,
    window: float = 0.025,
    step: float = 0.010,
    low: float = 20.0,
    high: float | None = None,
    floor: float = 1e-6,
) -> jax.Array:
    """Log-mel features of a sound: the log power in mel bands, for each window.

    Each window is multiplied with Hann's and transformed; the power is summed over `num_mels`
    triangles, which are evenly spread on the mel scale, 2595 log10(1 + f / 700), overlap by half
    and have height 1. There are ``1 + (samples - window) // step`` windows: none begins before the
    sound or ends after it, so that a stream gives the same.

    Args:
        sounds: ``[..., samples]``, such as values between -1 and 1.
        num_mels: N, the number of bands.
        rate: samples per second.
        window: length of a window, in seconds.
        step: from one window to the next, in seconds.
        low: where the first triangle begins, in Hz, at least 0.
        high: where the last one ends, in Hz; None for half the `rate`, which is the most.
        floor: the least power, which stands for silence; greater than 0.

    Returns:
        ``[..., T, N]`` of the dtype of the sounds if that is floating, else float32. Standardise it
        with the mean and the deviation of the training set.

    Raises:
        TypeError: sounds that are not real, or an argument of the wrong kind.
        ValueError: sounds shorter than a window, an argument out of its range, or bands so narrow
            that one of them has no frequency of the transform.

    Reference: Davis & Mermelstein, "Comparison of parametric representations for monosyllabic word
    recognition in continuously spoken sentences", IEEE Trans. Acoust. Speech Signal Process. 28,
    1980, with today's triangles.

    Example:
        >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
        >>> mels = encode.log_mel(tone[None])
        >>> mels.shape, int(mels[0].mean(axis=0).argmax())
        ((1, 98, 40), 13)
    """
    sounds, bands = real("sounds", sounds), check_integer("num_mels", num_mels)
    rate = check_integer("rate", rate)
    given = {"window": window, "step": step, "low": low, "floor": floor}
    given["high"] = rate / 2 if high is None else high
    known = {name: check_number(name, v, "It shapes the result.") for name, v in given.items()}
    size, hop = round(known["window"] * rate), round(known["step"] * rate)
    for name, samples in (("window", size), ("step", hop)):
        if samples < 1:
            raise ValueError(f"`{name}` must be at least one sample; got {known[name]} s.")
    if not known["floor"] > 0:
        raise ValueError(f"`floor` must be greater than 0; got {floor}.")
    if not 0 <= known["low"] < known["high"] <= rate / 2:
        raise ValueError(
            f"`low` and `high` must satisfy 0 <= low < high <= rate / 2 = {rate / 2}; got {low} "
            f"and {known['high']}."
        )
    if sounds.ndim < 1 or sounds.shape[-1] < size:
        raise ValueError(
            f"`sounds` must be [..., samples] of at least a window, {size}; got {sounds.shape}."
        )
    points = 1 << (size - 1).bit_length()
    triangles = _triangles(bands, points, rate, known["low"], known["high"])
    if not triangles.any(axis=0).all():
        raise ValueError(
            f"`num_mels` must leave each band a frequency of the transform, of which there is one "
            f"every {rate / points:.0f} Hz; got {bands}. Take fewer, or a longer window."
        )
    starts = np.arange(0, sounds.shape[-1] - size + 1, hop)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    wide = countable(sounds)
    pieces = wide[..., starts[:, None] + np.arange(size)]
    pieces = pieces * hann.astype(wide.dtype).reshape((1,) * sounds.ndim + (size,))
    spectrum = jnp.fft.rfft(pieces, points)
    power = spectrum.real**2 + spectrum.imag**2
    mels = jnp.maximum(power @ triangles.astype(wide.dtype), known["floor"])
    return jnp.log(mels).astype(sounds.dtype)


def _triangles(bands: int, points: int, rate: int, low: float, high: float) -> np.ndarray:
    """Weights of each frequency of the transform in each band, ``[frequencies, bands]``."""
    ends = 2595 * np.log10(1 + np.array([low, high]) / 700)
    edges = 700 * (10 ** (np.linspace(ends[0], ends[1], bands + 2) / 2595) - 1)
    place = np.fft.rfftfreq(points, 1 / rate)[:, None]
    rise = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rise, fall))
