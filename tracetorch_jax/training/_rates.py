"""First weights with which the layers of a network fire at a chosen rate."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax._core.sequence_cell import SequenceCell
from tracetorch_jax._models import changes_nnx, keyword_arguments
from tracetorch_jax._shared.checks import check_known, check_number
from tracetorch_jax._shared.trees import below, key_name, path_name
from tracetorch_jax._watch import (
    Arguments,
    Source,
    Sources,
    SteppedLayers,
    check_over_time,
    compiled,
    sown,
)
from tracetorch_jax.functional.engines.masks import expand_mask, valid_steps
from tracetorch_jax.functional.steps import is_stochastic, sides
from tracetorch_jax.snn import TraceCell
from tracetorch_jax.spikes import emit

_COUNTS = "spike_counts"  # the collection, and the name in it
_OCTAVES = (1, 3, 7, 15, 31, 63)  # how far weights are scaled to pass the rate, as powers of 2
_NARROW = 2.0**-9  # octaves between two factors that are not told apart
_PASSES = 5  # over all layers, of which one is enough unless they share weights
_WHERE = "Call this outside of jit, grad and vmap."


@changes_nnx
def scale_to_rate(
    model: nn.Module,
    variables: Any,
    xs: Any,
    *args: Any,
    rate: float | Mapping[str, float] = 0.1,
    tolerance: float = 0.1,
    **kwargs: Any,
) -> Any:
    """Scale initial weights so that each layer fires at a chosen rate on a batch.

    The rate of a layer is the share of steps and neurons with a spike, of either sign and any size,
    over the whole batch. Where sequences are padded, padding does not count.

    For one layer after the other, in the order in which they run, this takes the last module with
    weights before the layer: a Dense, a convolution, a `DelayedDense`, or a normalisation with a
    ``scale``. Its ``kernel`` or ``scale`` and its ``bias`` are multiplied by one positive factor,
    and so is what it gives. The factor grows or shrinks in widening steps until the rate is passed,
    and is then found by bisection of its logarithm. Nothing else changes. Where several layers get
    their input from one module, the rate is that of these layers together.

    Each trial is a forward pass over the batch, of which a layer takes one to a dozen, by a program
    that is compiled once. It keeps no states, and needs less memory than `record` or a gradient.

    Take the batch and the input's scale as in training. An input that is far from mean 0, or whose
    features differ in scale, is better standardised first: a factor can change neither.

    Args:
        model: a module that runs trace layers through `tracetorch_jax.snn.Unroll`; or one of nnx.
        variables: its variables, with a collection ``params``; left out for a model of nnx, which
            holds them.
        xs: the batch of inputs, ``[B, T, ...]``.
        *args: further arguments of the model.
        rate: spikes per step and neuron, in (0, 1), of every layer that fires; or a dict from paths
            of layers, such as ``cell/layers_1``, to their rates, which leaves others as they are.
        tolerance: greatest distance from `rate`, relative to it, in (0, 1).
        **kwargs: keyword arguments of ``model.apply``, such as `seq_lengths` or `rngs`. With
            `mutable`, what the model changes is not returned.

    Returns:
        The variables, of the same structure, shapes and dtypes. With them, the rate of each layer
        on this batch lies within ``rate * (1 - tolerance)`` and ``rate * (1 + tolerance)``, as the
        last pass has measured. A model of nnx gets them and is returned itself.

    Raises:
        TypeError: `model` is a cell, no module of Flax, or one of nnx that has no counterpart in
            linen; `variables` is no dict; `rate` or `tolerance` is no number; a traced argument.
        ValueError: `rate` or `tolerance` outside its range; a path that is no layer's that fires; a
            layer with no weights before it, or with weights of 0; a layer that fires other values
            than spikes; an input that is 0 or not finite; a rate that a layer does not reach, with
            the nearest that it does; no trace layer that fires was run by `Unroll`. A model of nnx
            is then as it was.

    Reference: Mishkin and Matas, "All you need is a good init", ICLR 2016, which scales weights
    layer by layer to a variance of 1 on a batch; here it is a firing rate.

    Example:
        >>> model = snn.Unroll(snn.Sequential([nn.Dense(64), snn.LIB(64), nn.Dense(2), snn.LI(2)]))
        >>> xs = 0.01 * jax.random.normal(jax.random.key(0), (8, 50, 4))
        >>> variables = model.init(jax.random.key(1), xs)
        >>> scaled = training.scale_to_rate(model, variables, xs, rate=0.1)
        >>> for each in (variables, scaled):
        ...     _, layers = tt.record(model, each, xs)
        ...     print(f"{(layers['cell/layers_1'].outputs != 0).mean():.1f}")
        0.0
        0.1
    """
    check_over_time(model)
    tolerance = _share("tolerance", tolerance)
    if not isinstance(variables, Mapping):
        got = type(variables).__name__
        raise TypeError(f"`variables` must be those of the model, a dict; got {got}.")
    kwargs = keyword_arguments(model, kwargs)
    given = {"variables": variables, "xs": xs, "args": args, "kwargs": kwargs}
    for name, tree in given.items():
        for leaf in jax.tree.leaves(tree):
            check_known(name, leaf, _WHERE)

    sources, stepped, counter = Sources(), SteppedLayers(), _Counter()
    with nn.intercept_methods(sources.watch), nn.intercept_methods(stepped.watch):
        jax.eval_shape(lambda variables: counter.run(model, variables, xs, args, kwargs), variables)
    stepped.check(counter.layers)
    rates = _wanted(rate, counter.layers, stepped)
    groups = _groups(rates, counter.layers, sources, variables, tolerance)

    program, arrays = compiled(_program, model, args, kwargs)

    def measure(variables: Any) -> dict[str, _Count]:
        counts = jax.device_get(program(variables, xs, arrays))
        return {path: _Count(*count) for path, count in counts.items()}

    counts = measure(variables)
    for _ in range(_PASSES):
        for group in groups:
            group.check(counts)
            if not group.is_near(group.rate(counts)):
                variables, counts = _brought(group, variables, counts, measure)
        if all(group.is_near(group.rate(counts)) for group in groups):
            return variables
    found = {path: float(f"{counts[path].rate:.2g}") for path in rates}
    raise ValueError(
        f"`rate` must be one that all layers reach at once, which layers that share weights may "
        f"not; got {found} after {_PASSES} passes."
    )


class _Count(NamedTuple):
    """What a layer did at all steps of all sequences, in each of its runs."""

    spikes: Any
    steps: Any  # of all neurons
    driven: Any  # whether any input is not 0
    finite: Any

    @property
    def rate(self) -> float:
        return float(self.spikes / self.steps)


class _Counter:
    """Counts spikes while a model runs.

    Attributes:
        layers: the trace layers that ran, by path.
    """

    def __init__(self) -> None:
        self.layers: dict[str, TraceCell] = {}
        self._lengths: list[Any] = []

    def run(self, model: nn.Module, variables: Any, xs: Any, args: Any, kwargs: Any) -> Any:
        """A `_Count` for each layer that ran, by path."""
        with nn.intercept_methods(self.watch):
            _, tree = sown(model, variables, _COUNTS, (xs, *args), kwargs)
        counts = {}
        for path in self.layers:
            runs = below(tree, path).get(_COUNTS, ())
            if not runs:
                raise ValueError(
                    f"`model` must not run its trace layers under nn.vmap or nn.scan to be "
                    f"scaled; {path} is."
                )
            spikes, steps, driven, finite = (jnp.stack(each) for each in zip(*runs, strict=True))
            counts[path] = _Count(spikes.sum(), steps.sum(), driven.any(), finite.all())
        return counts

    def watch(self, next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Interceptor of Flax methods."""
        cell: Any = context.module
        if isinstance(cell, SequenceCell) and context.method_name == "unroll":
            self._lengths.append(kwargs.get("seq_lengths"))
            try:
                return next_fun(*args, **kwargs)
            finally:
                self._lengths.pop()
        if isinstance(cell, TraceCell) and context.method_name == "observe":
            _, xs, ys = args
            self.layers[path_name(cell.path)] = cell.clone(parent=None, name=None)
            cell.sow(_COUNTS, _COUNTS, _count(xs, ys, self._lengths[-1]))
        return next_fun(*args, **kwargs)


def _count(xs: jax.Array | None, ys: jax.Array, seq_lengths: Any) -> _Count:
    """Of a layer's input, where that is known, and its output, both ``[T, ...]``."""
    inside = jnp.ones((1,) * ys.ndim, bool)
    if seq_lengths is not None:
        inside = expand_mask(valid_steps(seq_lengths, ys.shape[0], []), ys.ndim)
    steps = _total(jnp.broadcast_to(inside, ys.shape))
    finite, driven = jnp.isfinite(ys), jnp.array(True)
    if xs is not None:
        finite, driven = finite & jnp.isfinite(xs), ((xs != 0) & inside).any()
    return _Count(_total((ys != 0) & inside), steps, driven, (finite | ~inside).all())


def _total(found: jax.Array) -> jax.Array:
    """How many are true; all of them may be more than an int32 holds."""
    return found.sum(axis=0, dtype=jnp.int32).astype(jnp.float32).sum()


@functools.lru_cache(maxsize=8)
def _program(model: nn.Module, given: Arguments) -> Any:
    """The compiled forward pass, kept for further calls with the same model."""

    @jax.jit
    def counts(variables: Any, xs: Any, arrays: dict[int, jax.Array]) -> dict[str, _Count]:
        args, kwargs = given.filled(arrays)
        return _Counter().run(model, variables, xs, args, kwargs)

    return counts


class _Group(NamedTuple):
    """Layers whose input is from one module, and the rate to which they are brought."""

    source: Source
    layers: dict[str, str]  # what each is, by path
    wanted: float
    tolerance: float

    @property
    def named(self) -> str:
        return " and ".join(f"{path} ({kind})" for path, kind in self.layers.items())

    def rate(self, counts: dict[str, _Count]) -> float:
        """Of all layers together."""
        own = [counts[path] for path in self.layers]
        return float(sum(each.spikes for each in own) / sum(each.steps for each in own))

    def is_near(self, rate: float) -> bool:
        return abs(rate - self.wanted) <= self.tolerance * self.wanted

    def check(self, counts: dict[str, _Count]) -> None:
        """Raise if there is nothing to scale."""
        for path, kind in self.layers.items():
            if not counts[path].steps:
                raise ValueError(f"`xs` must hold a step of a sequence; {path} ({kind}) runs none.")
            if not counts[path].finite:
                raise ValueError(
                    f"`xs` and `variables` must give finite values; input or output of {path} "
                    f"({kind}) has NaN or infinite ones. `diagnose` names where the first are."
                )
        if not any(counts[path].driven for path in self.layers):
            raise ValueError(
                f"`xs` must reach each layer; the input of {self.named} is 0 at every step of all "
                f"sequences. Look at what is before."
            )


def _share(name: str, value: object) -> float:
    number = check_number(name, value, _WHERE)
    if not 0 < number < 1:
        raise ValueError(f"`{name}` must lie strictly between 0 and 1; got {value!r}.")
    return number


def _wanted(rate: Any, layers: dict[str, TraceCell], stepped: SteppedLayers) -> dict[str, float]:
    """The rate of each layer by path."""
    fire = [path for path, layer in layers.items() if layer.spec.fires]
    if isinstance(rate, Mapping):
        for path in rate:
            if path not in fire:
                raise ValueError(f"`rate` must name layers that fire, of {fire}; got {path!r}.")
        return {path: _share(f"rate[{path!r}]", rate[path]) for path in fire if path in rate}
    value = _share("rate", rate)
    if stepped.paths:
        raise ValueError(
            f"`model` must run all trace layers through tracetorch_jax.snn.Unroll; it runs "
            f"{stepped.named()}. To leave them as they are, give `rate` as a dict of the others."
        )
    if not fire:
        raise ValueError(f"`model` must have trace layers that fire; got {list(layers)}.")
    return dict.fromkeys(fire, value)


def _groups(
    rates: dict[str, float],
    layers: dict[str, TraceCell],
    sources: Sources,
    variables: Any,
    tolerance: float,
) -> list[_Group]:
    """The layers by what is before them, in the order in which they run."""
    groups: dict[Source, _Group] = {}
    for path, wanted in rates.items():
        kind, source = type(layers[path]).__name__, sources.of.get(path)
        others = " To leave it as it is, give `rate` as a dict of the other layers."
        if not _is_counted(layers[path]):
            raise ValueError(
                f"`model` must emit spikes to be counted; the spike function of {path} ({kind}) "
                f"gives other values than 0 and 1. Scale the variables with another, such as "
                f"spikes.atan(2.0): they are the same for both.{others}"
            )
        if source is None:
            raise ValueError(
                f"`model` must have weights to scale before each layer; {path} ({kind}) has none "
                f"since the last layer that fires. Put a Dense before it, or scale what it "
                f"receives.{others}"
            )
        if not np.any(nn.unbox(below(variables["params"], source.path))[source.name]):
            raise ValueError(
                f"`variables` must have weights that can be scaled; those of {source.path} before "
                f"{path} ({kind}) are 0. Start with other ones.{others}"
            )
        group = groups.setdefault(source, _Group(source, {}, wanted, tolerance))
        group.layers[path] = kind
        if wanted != group.wanted:
            raise ValueError(
                f"`rate` must be the same for layers whose input is from one module; {group.named} "
                f"have theirs from {source.path}, and got {group.wanted:g} and {wanted:g}."
            )
    return list(groups.values())


def _is_counted(layer: TraceCell) -> bool:
    """Whether what a layer emits is spikes."""
    u = jnp.linspace(-4, 4, 65, dtype=jnp.float32)  # 0 and both sides
    for kind, function in zip(
        (layer.spec.positive, layer.spec.negative), sides(layer.spike_function), strict=True
    ):
        draw = jnp.full_like(u, 0.5) if is_stochastic(function) else None
        if kind and (kind != "spike" or not np.isin(emit(function, u, draw), (0, 1)).all()):
            return False
    return True


def _brought(
    group: _Group,
    variables: Any,
    counts: dict[str, _Count],
    measure: Callable[[Any], dict[str, _Count]],
) -> tuple[Any, dict[str, _Count]]:
    """Variables with which the layers of a group fire at the rate wanted, and the counts."""
    tried = {0.0: group.rate(counts)}  # rates by octaves

    def is_low(octaves: float) -> bool:  # what is not finite has become too much
        return bool(tried[octaves] < group.wanted)

    def at(octaves: float) -> tuple[Any, dict[str, _Count]]:
        scaled = _scaled(variables, group.source, 2.0**octaves)
        counts = measure(scaled)
        finite = all(counts[path].finite for path in group.layers)
        tried[octaves] = group.rate(counts) if finite else math.inf
        return scaled, counts

    up, near, far = is_low(0.0), 0.0, 0.0
    for step in _OCTAVES:
        near, far = far, float(step if up else -step)
        found = at(far)
        if group.is_near(tried[far]):
            return found
        if is_low(far) != up:
            break
    while is_low(far) != up and abs(far - near) > _NARROW:
        middle = (near + far) / 2
        found = at(middle)
        if group.is_near(tried[middle]):
            return found
        near, far = (middle, far) if is_low(middle) == up else (near, middle)
    best = min(tried, key=lambda octaves: abs(tried[octaves] - group.wanted))
    if is_low(far) != up:
        why = "In between, its rate jumps: take more sequences, or a greater `tolerance`."
    elif up:
        why = "Greater weights do not make it fire more. Ask for less."
    else:
        why = "Smaller weights do not make it fire less: its own feedback or bias drives it."
    raise ValueError(
        f"`rate` must be one that each layer reaches; {group.named} does not come within "
        f"{group.tolerance:.0%} of {group.wanted:g}. Nearest is {tried[best]:.3g}, with what "
        f"{group.source.path} gives times {2.0**best:.3g}. {why}"
    )


def _scaled(variables: Any, source: Source, factor: float) -> Any:
    """Variables with the weights of a module multiplied by a factor."""
    place = ("params", *(source.path.split("/") if source.path else ()))
    own = {(*place, name) for name in (source.name, "bias")}

    def scale(path: Any, leaf: Any) -> Any:
        keys = (key for key in path if isinstance(key, jax.tree_util.DictKey))  # not of boxes
        if tuple(map(key_name, keys)) not in own:
            return leaf
        return leaf * jnp.asarray(factor, leaf.dtype)

    return jax.tree_util.tree_map_with_path(scale, variables)
