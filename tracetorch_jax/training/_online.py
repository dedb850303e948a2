"""Gradients of a layer, or of a network, as its sequence runs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import functional
from tracetorch_jax._core.cell import AbstractCell
from tracetorch_jax._core.front_end import impure
from tracetorch_jax._core.recurrent import AbstractRecurrent
from tracetorch_jax._core.sequential import AbstractSequential
from tracetorch_jax._shared.checks import as_array, check_choice, check_names, is_of_nnx, within
from tracetorch_jax._shared.dtypes import asarray, wider
from tracetorch_jax._shared.shapes import along
from tracetorch_jax._shared.trees import key_name
from tracetorch_jax.functional.engines.adjoint import is_inexact, reduce_to
from tracetorch_jax.functional.engines.placement import Placement, common_placement, placement_of
from tracetorch_jax.functional.steps import is_stochastic

Method = Literal["e-prop", "ottt"]
Names = tuple[str, ...]  # a parameter's path, of which linen and nnx have the same
Own = dict[Names, jax.Array]  # parameters of a part of the network


class OnlineState(NamedTuple):
    """State of `online`: the carry, and its derivatives by the parameters.

    For a `Sequential`, each is a dict by name of the cell, such as ``"layers_1"``, and parameters
    have their path as a name, such as ``"layers_0/kernel"``.

    Attributes:
        carry: the layer's states, ``[B, N]`` each; the carry of a `Sequential`.
        eligibility: by state and parameter. Of the layer's own parameters and of biases ``[B, N]``:
            the derivative of each neuron's state with respect to its parameter. Of a kernel
            ``[B, I, N]``, that with respect to each weight; with ``method="ottt"`` ``[B, I]``, what
            is left in the state of the input so far.
        filtered: of a `Sequential` that ends in a leaky readout, by parameter of the cell before
            it: how what that cell has fired so far, as the readout remembers it, depends on the
            parameter. Otherwise empty.
    """

    carry: dict[str, Any]
    eligibility: dict[str, Any]
    filtered: dict[str, jax.Array] = {}  # noqa: RUF012


def online(
    layer: Any, *, method: Method = "e-prop"
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Online gradients (RTRL, e-prop, OTTT) of a layer or network, computed while a sequence runs.

    Forward accumulation (real-time recurrent learning; Williams & Zipser, Neural Computation 1,
    1989) carries the derivative of every state with respect to every parameter along. No neuron of
    a trace layer depends on another. So this takes one number per state, parameter and neuron, and
    one per state and synapse for the Dense in front of the layer. Memory does not grow with T.

    For a trace layer, a Dense in front of it, and what follows without a state, the sum over the
    steps is the gradient of backpropagation through time, surrogate gradients included. In deeper
    networks two things are left out, as in e-prop (Bellec et al., Nature Communications 11, 2020):
    what reaches a layer through the *later* states of another one, and what reaches a neuron of a
    `Recurrent` through its feedback. One exception: the memory of a leaky readout at the end is
    kept for the layer before it, with the readout's mean decay; if its decays are equal and what
    lies between the two is linear, such as a Dense, that is exact.

    ``"ottt"`` (Xiao et al., NeurIPS 2022) keeps one number per state and *input* of a Dense or a
    convolution, instead of one per synapse. The layer's neurons share it, so it is that of their
    mean decay, and it leaves out resets by subtraction. It equals ``"e-prop"`` if all neurons of a
    layer have one decay and ``detach_reset=True``, but for a leaky readout, whose memory it does
    not keep.

    Args:
        layer: a trace layer, of linen or nnx; or a `Sequential` of trace layers, of `Recurrent`
            ones with a Dense as feedback, and of modules and functions without a state. Modules in
            front of the last cell have no parameters, but for a Dense directly in front of a cell,
            and with ``"ottt"`` a convolution there.
        method: ``"e-prop"`` or ``"ottt"``; for a trace layer alone they are the same.

    Returns:
        Two functions. ``init(params, x)`` gives an `OnlineState` of zeros for inputs like `x`,
        ``[B, N]``. ``step(params, state, x)`` takes one step and returns ``(state, out,
        gradient)``; ``gradient(d_out)`` turns the derivative of this step's loss with respect to
        `out` into that with respect to `params`: add them up over the steps. `params` are the dict
        ``variables["params"]``, or ``nnx.state(layer, nnx.Param)``, of which gradients have the
        structure.

    Raises:
        TypeError: `layer` is none of these; when called, an argument that is not what `init` and
            `step` take.
        ValueError: its spikes are random, it holds a module twice, or `method` is unknown; when
            called, an input of another shape than the states, a `d_out` of another than `out`,
            `params` that are not the layer's, or parameters where none are allowed.

    Example:
        >>> network = snn.Sequential([nn.Dense(3), snn.LIB(3), nn.Dense(1)])
        >>> xs = jnp.ones((10, 2, 5))
        >>> params = network.init(jax.random.key(0), None, xs[0])["params"]
        >>> init, step = training.online(network)
        >>> state, total = init(params, xs[0]), jax.tree.map(jnp.zeros_like, params)
        >>> for x in xs:
        ...     state, out, gradient = step(params, state, x)
        ...     total = jax.tree.map(jnp.add, total, gradient(2 * out))  # of sum(out ** 2)
        >>> total["layers_0"]["kernel"].shape
        (5, 3)
    """
    check_choice("method", method, ("e-prop", "ottt"))
    if isinstance(layer, AbstractSequential):
        return _of_network(_parts(layer, method))
    one = _TraceLayer(layer, "`layer`")

    def init(params: Any, x: jax.Array) -> OnlineState:
        own = {names[0]: leaf for names, leaf in _named(params).items()}
        carry = one.first_carry(own, x)
        return OnlineState(carry, one.first_eligibility(own, carry, {}))

    def step(
        params: Any, state: OnlineState, x: jax.Array
    ) -> tuple[OnlineState, jax.Array, Callable[[jax.Array], Any]]:
        _check_state(state)
        x = as_array("x", x)
        for leaf in jax.tree.leaves(state):
            _check_step(x, jnp.shape(leaf))
        check(params, state, x)
        own = {names[0]: leaf for names, leaf in _named(params).items()}
        done = one.step(own, state.carry, state.eligibility, x, {})

        def gradient(d_out: jax.Array) -> Any:
            d_out = _check_derivative(d_out, done.out)
            return _filled(params, {(name,): g for name, g in done.gradients(d_out).items()})

        return OnlineState(done.carry, done.eligibility), done.out, gradient

    check = _checked(init)
    return init, step


@dataclasses.dataclass(frozen=True)
class _Synapses:
    """Weights that add up to what a layer gets.

    Attributes:
        run: from the module's parameters and its input to its output.
        own: its parameters, of which ``kernel`` and perhaps ``bias``.
        x: its input.
        shared: whether an eligibility is kept per input and shared by all neurons.
        axes: how many of the last axes are the features of a sequence.
    """

    run: Callable[[Own, Any], jax.Array]
    own: Own
    x: jax.Array
    shared: bool
    axes: int

    @property
    def kernel(self) -> jax.Array:
        return self.own[("kernel",)]

    def mean(self, x: jax.Array) -> jax.Array:
        """The mean over the neurons of each sequence, all axes kept."""
        return x.mean(tuple(range(-min(self.axes, x.ndim), 0)), keepdims=True)

    def of_kernel(self, x: jax.Array, d: jax.Array) -> jax.Array:
        """The gradient of the kernel for an input and the derivative of the output."""
        x = x.astype(self.kernel.dtype)
        out, pull = jax.vjp(
            lambda kernel: self.run({**self.own, ("kernel",): kernel}, x), self.kernel
        )
        return pull(d.astype(out.dtype))[0]


class _Done(NamedTuple):
    """A step of a trace layer.

    Attributes:
        carry: the new states.
        eligibility: the new ones, by state and parameter.
        influence: the derivative of the output by parameter, likewise; of shared synapses pairs of
            an input and of the derivative of the output by what it is added to.
        out: the output.
        by_x: the derivative of the output by the input.
        kept: the derivative of each state by the one before, of the same name.
        gradients: from the derivative of the loss by the output, and an influence if it is another
            one, to that by parameter.
    """

    carry: dict[str, jax.Array]
    eligibility: dict[str, dict[str, jax.Array]]
    influence: dict[str, Any]
    out: jax.Array
    by_x: jax.Array
    kept: dict[str, jax.Array]
    gradients: Callable[..., dict[str, jax.Array]]


class _TraceLayer:
    """A trace layer as a function of its parameters."""

    def __init__(self, layer: Any, called: str) -> None:
        if not isinstance(layer, AbstractCell):
            raise TypeError(f"{called} must be a trace layer; got {type(layer).__name__}.")
        if is_stochastic(layer.spike_function):
            raise ValueError(f"{called} must not fire at random; got a stochastic spike function.")
        self.layer = layer
        self.names = tuple(p.raw_name for p in layer.describe() if p.learnable)

    def first_carry(self, own: dict[str, jax.Array], x: jax.Array) -> dict[str, jax.Array]:
        """States of zeros."""
        check_names("params", own, self.names, type(self.layer).__name__)
        x, compute, _ = self.layer._prepare("x", x)
        wide = self._wide(own, x.shape)
        target = common_placement(x.shape, {"x": x, **wide})
        return {name: target.put(jnp.zeros(x.shape, compute)) for name in self.layer.spec.states}

    def first_eligibility(
        self,
        own: dict[str, jax.Array],
        carry: dict[str, jax.Array],
        synapses: Mapping[str, _Synapses],
    ) -> dict[str, dict[str, jax.Array]]:
        """Eligibilities of zeros."""

        def zeros(like: jax.Array) -> dict[str, jax.Array]:
            # One array for each entry, so that all can be donated.
            zero = jnp.zeros_like(like, dtype=wider(like.dtype, self.layer.param_dtype))
            found = {name: jnp.zeros_like(zero) for name in self.names}
            for name, each in synapses.items():
                inputs = jnp.zeros_like(each.x, dtype=zero.dtype)
                shaped = inputs if each.shared else inputs[..., :, None] * zero[..., None, :]
                found[f"{name}/kernel"] = shaped
                if ("bias",) in each.own:
                    found[f"{name}/bias"] = jnp.zeros_like(zero)
            return found

        return {state: zeros(like) for state, like in carry.items()}

    def step(
        self,
        own: dict[str, jax.Array],
        before: dict[str, jax.Array],
        eligibility: dict[str, dict[str, jax.Array]],
        x: jax.Array,
        synapses: Mapping[str, _Synapses],
    ) -> _Done:
        """Take a step, of which the carry, the output and their derivatives are given."""
        layer, precise = self.layer, self.layer.param_dtype
        x = asarray(x)
        elementwise = [e[name] for e in eligibility.values() for name in self.names]
        for leaf in [*before.values(), *elementwise]:
            _check_step(x, jnp.shape(leaf))
        check_names("params", own, self.names, type(layer).__name__)
        x, compute, given = layer._prepare("x", x)
        x, fine = x.astype(compute), wider(compute, precise)
        # One set of parameters per neuron and sequence makes every derivative elementwise: a
        # pullback of ones then gives one row of every neuron's own Jacobian.
        wide = self._wide(own, x.shape)
        (carry, out), of_carry, of_out = _rows(layer, wide, before, x, fine, layer.spike_function)
        shared = any(each.shared for each in synapses.values())
        # What neurons share can't depend on which of them fires.
        smooth = _rows(layer, wide, before, x, fine, _flat(layer))[1] if shared else {}

        # With e[s][p] the derivative of state s with respect to parameter p, the chain rule gives
        #   e_t[s][p] = d s_t / d p + sum over states r of (d s_t / d r_{t-1}) * e_{t-1}[r][p]
        # Bellec et al. (e-prop, Nature Communications 11, 2020) call these eligibility vectors.
        def total(row: _Row, steady: _Row | None) -> dict[str, Any]:
            def passed(name: str, direct: Any, by: Callable[[Any], Any] = lambda d: d) -> Any:
                return direct + sum(by(row.carry[s]) * eligibility[s][name] for s in row.carry)

            found: dict[str, Any] = {name: passed(name, row.params[name]) for name in wide}
            for name, each in synapses.items():
                if ("bias",) in each.own:
                    found[f"{name}/bias"] = passed(f"{name}/bias", row.x)
                kernel, inputs = f"{name}/kernel", each.x.astype(fine)
                if not each.shared:
                    direct = inputs[..., :, None] * row.x[..., None, :]
                    found[kernel] = passed(kernel, direct, lambda d: d[..., None, :])
                elif steady is not None:
                    found[kernel] = inputs * each.mean(steady.x) + sum(
                        each.mean(steady.carry[s]) * eligibility[s][kernel] for s in row.carry
                    )
                else:
                    pairs = [(eligibility[s][kernel], row.carry[s]) for s in row.carry]
                    found[kernel] = [(inputs, row.x), *pairs]
            return found

        new = {name: total(row, smooth.get(name)) for name, row in of_carry.items()}
        influence = total(of_out, None)

        def gradients(d: jax.Array, influence: dict[str, Any] = influence) -> dict[str, jax.Array]:
            d, found = d.astype(fine), {}
            for name in self.names:
                found[name] = _narrow(d * influence[name], own[name], layer.dim).astype(precise)
            for name, each in synapses.items():
                kernel, bias = each.kernel, each.own.get(("bias",))
                if bias is not None:
                    sums = reduce_to(along(bias, -1, d.ndim), d * influence[f"{name}/bias"])
                    found[f"{name}/bias"] = sums.reshape(bias.shape).astype(bias.dtype)
                value = influence[f"{name}/kernel"]
                if each.shared:
                    products = [each.of_kernel(x, d * by) for x, by in value]
                    found[f"{name}/kernel"] = functools.reduce(jnp.add, products)
                else:
                    product = reduce_to(along(kernel, -1, value.ndim), d[..., None, :] * value)
                    found[f"{name}/kernel"] = product.reshape(kernel.shape).astype(kernel.dtype)
            return found

        kept = {name: row.carry[name] for name, row in of_carry.items()}
        return _Done(carry, new, influence, out.astype(given), of_out.x, kept, gradients)

    def _wide(self, own: dict[str, jax.Array], shape: tuple[int, ...]) -> dict[str, jax.Array]:
        return {name: _widen(own[name], self.layer.dim, shape) for name in self.names}


class _Row(NamedTuple):
    """The derivatives of a state or an output, elementwise."""

    params: dict[str, jax.Array]
    carry: dict[str, jax.Array]
    x: jax.Array


def _rows(
    layer: Any,
    wide: dict[str, jax.Array],
    carry: dict[str, jax.Array],
    x: jax.Array,
    dtype: Any,
    spike: Any,
) -> tuple[tuple[dict[str, jax.Array], jax.Array], dict[str, _Row], _Row]:
    """A step, and the derivatives of each new state and of the output."""

    def advance(raw: Any, carry: Any, x: jax.Array) -> Any:
        return _per_element(layer, raw, carry, x, spike)

    # In jax.shard_map, the derivative by what is the same on all devices would be a sum over them.
    given = wide, carry, x
    leaves = jax.tree.leaves(given)
    place = Placement(varying=frozenset().union(*(placement_of(leaf).varying for leaf in leaves)))
    (new, out), pullback = jax.vjp(advance, *jax.tree.map(place.put, given))
    zeros = jax.tree.map(jnp.zeros_like, new), jnp.zeros_like(out)

    def row(d_carry: Any, d_out: jax.Array) -> _Row:
        return _Row(*jax.tree.map(lambda g: g.astype(dtype), pullback((d_carry, d_out))))

    of_carry = {
        name: row({**zeros[0], name: jnp.ones_like(state)}, zeros[1]) for name, state in new.items()
    }
    return (new, out), of_carry, row(zeros[0], jnp.ones_like(out))


def _flat(layer: Any) -> Callable[..., jax.Array]:
    """The layer's spikes, without a gradient."""
    return lambda *inputs: jax.lax.stop_gradient(layer.spike_function(*inputs))


@dataclasses.dataclass(frozen=True)
class _Part:
    """A layer of a network.

    Attributes:
        place: its name in carries, parameters and errors.
        layer: itself.
        run: a module without a state, or a function, of its parameters and an input; else None.
        cell: a trace layer, also that of a `Recurrent`; else None.
        feedback: the feedback of a `Recurrent`, of its parameters and an output.
        weights: whether it is a Dense or a convolution.
        feeds: whether it is a Dense or a convolution directly in front of a cell.
        shared: whether eligibilities are kept per input.
        axes: how many axes its features take, if it feeds a cell.
    """

    place: str
    layer: Any
    run: Any
    cell: _TraceLayer | None
    feedback: Callable[[Own, Any], Any] | None
    weights: bool
    feeds: bool
    shared: bool
    axes: int


def _parts(network: AbstractSequential, method: Method) -> list[_Part]:
    """The layers of a network, checked."""
    front, layers, shared = network.front_end, list(network.layers), method == "ottt"
    linear = front.dense + front.conv if shared else front.dense
    cells = [isinstance(layer, front.cell) for layer in layers]
    parts = []
    for i, layer in enumerate(layers):
        place, run, cell, feedback = f"layers_{i}", None, None, None
        called = f"`layer.layers[{i}]`"
        same = next((j for j in range(i) if layers[j] is layer), None)
        if same is not None and isinstance(layer, front.module):
            raise ValueError(
                f"{called} must be a layer of its own; got the {type(layer).__name__} that is "
                f"layers[{same}], too."
            )
        feeds = _runs_as(layer, linear) and i + 1 < len(layers) and cells[i + 1]
        if isinstance(layer, AbstractRecurrent):
            if not isinstance(layer.cell, AbstractCell) or not _runs_as(
                layer.feedback, front.dense
            ):
                raise TypeError(
                    f"{called} must be a Recurrent of a trace layer with a Dense as feedback; got "
                    f"{type(layer.cell).__name__} and {type(layer.feedback).__name__}."
                )
            cell, feedback = _TraceLayer(layer.cell, called), _function(layer.feedback)
        elif cells[i]:
            if not isinstance(layer, AbstractCell):
                raise TypeError(
                    f"{called} must be a trace layer, a Recurrent of one, or a module without a "
                    f"state; got {type(layer).__name__}."
                )
            cell = _TraceLayer(layer, called)
        elif isinstance(layer, front.batch_norm) or (
            isinstance(layer, front.dropout) and not layer.deterministic
        ):
            raise impure(f"layer.layers[{i}]", layer)
        else:
            run = _function(layer)
        axes = front.feature_axes(layer) or 1
        weights = isinstance(layer, front.dense + front.conv)
        parts.append(_Part(place, layer, run, cell, feedback, weights, feeds, shared, axes))
    if not any(cells):
        raise ValueError("`layer` must hold at least one trace layer; got none.")
    return parts


def _runs_as(layer: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a layer is of one of these classes, and computes what that computes."""
    return any(isinstance(layer, kind) and type(layer).__call__ is kind.__call__ for kind in kinds)


def _function(module: Any) -> Callable[[Own, Any], Any]:
    """A module as a function of its parameters and an input; any function as it is."""
    if is_of_nnx(module):
        from flax import nnx

        graph, params, *rest = nnx.split(module, nnx.Param, nnx.Not(nnx.Param))
        return lambda own, x: nnx.merge(
            graph, _filled(params, own, _inner_names), *rest, copy=True
        )(x)
    if not hasattr(module, "apply"):
        return lambda own, x: module(x)
    return lambda own, x: module.apply({"params": flax.traverse_util.unflatten_dict(own)}, x)


def _of_network(parts: list[_Part]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two functions of `online` for the layers of a network."""
    cells = [part for part in parts if part.cell is not None]
    last = cells[-1]
    before: _Part | None = None  # the cell that a leaky readout reads
    if len(cells) > 1 and not last.shared and last.feedback is None:
        spec = last.layer.spec
        before = cells[-2] if not spec.fires and len(spec.states) == 1 else None

    def init(params: Any, x: jax.Array) -> OnlineState:
        zero, _, _ = run(params, None, x)
        return jax.tree.map(jnp.zeros_like, zero)

    def step(
        params: Any, state: OnlineState, x: jax.Array
    ) -> tuple[OnlineState, jax.Array, Callable[[jax.Array], Any]]:
        _check_state(state)
        x = as_array("x", x)
        check(params, state, x)
        return run(params, state, x)

    def run(params: Any, state: OnlineState | None, x: jax.Array) -> Any:
        flat, x = _named(params), as_array("x", x)
        got = {names[0] for names in flat}
        strange = sorted(got - {part.place for part in parts})
        if strange:
            raise ValueError(
                "`params` must be those of the network, with an entry per layer, such as "
                f"{last.place!r}; got {strange}."
            )
        lacking = [part.place for part in parts if part.weights and part.place not in got]
        if lacking:
            raise ValueError(
                "`params` must be those of the network, with an entry per layer; it lacks "
                f"{', '.join(map(repr, lacking))}."
            )
        carry, eligibility, filtered = {}, {}, {}
        backwards: list[Callable[..., jax.Array]] = []
        influence: dict[str, jax.Array] = {}
        fed: dict[str, _Synapses] = {}
        for i, part in enumerate(parts):
            own = {names[1:]: leaf for names, leaf in flat.items() if names[0] == part.place}
            with within(part.place, part.layer):
                if part.cell is None:
                    synaptic = part.feeds and bool(own)
                    if own and not synaptic and any(each.cell for each in parts[i:]):
                        kinds = "a Dense or a convolution" if part.shared else "a Dense"
                        raise ValueError(
                            f"`layer.layers[{i}]` must have no parameters, unless it is {kinds} "
                            f"directly in front of a cell; got {type(part.layer).__name__}."
                        )
                    if synaptic:
                        _check_weights(own, part.place)
                        fed = {part.place: _Synapses(part.run, own, x, part.shared, part.axes)}
                    x, back = _stateless(part, own, x, frozen=synaptic)
                else:
                    held = state and (state.carry[part.place], state.eligibility[part.place])
                    new, done, back = _through(part, own, held, x, fed)
                    carry[part.place], eligibility[part.place], x = new, done.eligibility, done.out
                    fed = {}
                    if part is before:
                        influence = done.influence
                    elif part is last and influence:
                        (kept,) = done.kept.values()
                        old = influence if state is None else state.filtered
                        # As what the readout holds decays, so does what made it.
                        filtered = {
                            name: kept.mean() * old[name] + value
                            for name, value in influence.items()
                        }
            backwards.append(back)
        out = x

        def gradient(d_out: jax.Array) -> Any:
            d = _check_derivative(d_out, out)
            found: dict[Names, jax.Array] = {}
            for part, back in zip(reversed(parts), reversed(backwards), strict=True):
                d = back(d, found, *([filtered] if part is before else []))
            return _filled(params, found)

        return OnlineState(carry, eligibility, filtered), out, gradient

    check = _checked(init)
    return init, step


def _stateless(part: _Part, own: Own, x: Any, frozen: bool) -> tuple[Any, Callable[..., Any]]:
    """What a part without a state gives, and how derivatives go back through it."""
    run: Any = part.run
    out, pull = jax.vjp(run, own, x)

    def back(d: Any, found: dict[Names, jax.Array]) -> jax.Array:
        if not is_inexact(out):  # such as a comparison, through which nothing goes back
            d = np.zeros(out.shape, jax.dtypes.float0)
        d_own, d_x = pull(d if d.dtype == jax.dtypes.float0 else d.astype(out.dtype))
        if not frozen:  # else the cell behind it gives them
            found.update({(part.place, *names): g for names, g in d_own.items()})
        return d_x

    return out, back


def _through(
    part: _Part,
    own: Own,
    held: tuple[Any, Any] | None,
    x: jax.Array,
    fed: dict[str, _Synapses],
) -> tuple[Any, _Done, Callable[..., Any]]:
    """A step of a cell: its new carry, what it did, and how derivatives go back through it."""
    cell: Any = part.cell
    carry, eligibility = held or (None, None)
    raw = own
    if part.feedback is not None:
        raw = {names[1:]: leaf for names, leaf in own.items() if names[0] == "cell"}
        weights = {names[1:]: leaf for names, leaf in own.items() if names[0] == "feedback"}
        strange = sorted({names[0] for names in own} - {"cell", "feedback"})
        if strange:
            raise ValueError(
                f"`params` must hold `cell` and `feedback` of a Recurrent; got {strange}."
            )
        _check_weights(weights, f"{part.place}/feedback")
        if carry is None:
            carry = {"cell": None, "prev_output": jnp.zeros_like(cell.layer._prepare("x", x)[0])}
        prev = carry["prev_output"]
        fed = {
            **fed,
            f"{part.place}/feedback": _Synapses(part.feedback, weights, prev, part.shared, 1),
        }
        x = _check_step(cell.layer._prepare("x", x)[0], prev.shape)
        x, states = x + part.feedback(weights, prev), carry["cell"]
    else:
        states = carry
    named = {names[0]: leaf for names, leaf in raw.items()}
    if states is None:
        states = cell.first_carry(named, x)
        eligibility = cell.first_eligibility(named, states, fed)
    done = cell.step(named, states, eligibility, x, fed)
    new = done.carry
    if part.feedback is not None:
        new = {"cell": new, "prev_output": done.out.astype(prev.dtype)}
    path = (part.place,) if part.feedback is None else (part.place, "cell")

    def back(d: jax.Array, found: dict[Names, jax.Array], *influence: Any) -> jax.Array:
        for name, g in done.gradients(d, *influence).items():
            found[tuple(name.split("/")) if "/" in name else (*path, name)] = g
        return (d * done.by_x).astype(x.dtype)

    return new, done, back


def _named(params: Any) -> Own:
    """Parameters by path, the same for linen and nnx."""
    return {_names(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def _names(path: tuple[Any, ...]) -> Names:
    names = _inner_names(path)
    if not names:
        raise TypeError("`params` must be a tree of arrays; got an array.")
    return (f"layers_{names[1]}", *names[2:]) if names[0] == "layers" else names


def _inner_names(path: tuple[Any, ...]) -> Names:
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey):  # the value of a variable of nnx
        path = path[:-1]
    return tuple(key_name(key) for key in path)


def _filled(params: Any, own: Own, names: Callable[..., Names] = _names) -> Any:
    """A tree like `params`, with the leaves of `own`."""
    return jax.tree.map_with_path(lambda path, _: own[names(path)], params)


def _check_step(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if x.shape != shape:
        raise ValueError(f"`x` must have the shape of the states, {shape}; got {x.shape}.")
    return x


def _check_state(state: Any) -> None:
    if not isinstance(state, OnlineState):
        raise TypeError(
            f"`state` must be an OnlineState, as `init` and `step` give it; got "
            f"{type(state).__name__}."
        )


_Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def _shapes(tree: Any) -> _Shapes:
    """The path and the shape of each leaf."""
    leaves = jax.tree.leaves_with_path(tree)
    return tuple(("/".join(map(key_name, path)), jnp.shape(leaf)) for path, leaf in leaves)


def _checked(init: Callable[..., OnlineState]) -> Callable[..., None]:
    """A check that a state is like that of `init`, which runs once for all steps."""
    expected: dict[_Shapes, _Shapes] = {}

    def check(params: Any, state: OnlineState, x: jax.Array) -> None:
        seen = _shapes((params, x))
        if seen not in expected:  # also where no step is compiled
            expected[seen] = _shapes(jax.eval_shape(init, params, x))
        _check_like(state, expected[seen])

    return check


def _check_like(state: OnlineState, expected: _Shapes) -> None:
    found, wanted = dict(_shapes(state)), dict(expected)
    wrong = [f"lacks {name!r}" for name in wanted.keys() - found.keys()]
    wrong += [f"has {name!r}, which is not in it" for name in found.keys() - wanted.keys()]
    wrong += [
        f"has shape {shape} instead of {wanted[name]} at {name!r}"
        for name, shape in found.items()
        if shape != wanted.get(name, shape)
    ]
    if wrong:
        raise ValueError(
            "`state` must be what `init` of the same network and method gives for these `params` "
            f"and this `x`; it {min(wrong)}."
        )


def _check_weights(own: Own, place: str) -> None:
    names = {"/".join(names) for names in own}
    if "kernel" not in names or names - {"kernel", "bias"}:
        raise ValueError(
            f"`params` must hold a kernel, with a bias or alone, at {place!r}; got {sorted(names)}."
        )


def _check_derivative(d_out: Any, out: jax.Array) -> jax.Array:
    d_out = as_array("d_out", d_out)
    if d_out.shape != out.shape:
        raise ValueError(f"`d_out` must have the shape of `out`, {out.shape}; got {d_out.shape}.")
    return d_out


def _per_element(
    layer: Any, raw: dict[str, jax.Array], carry: Any, x: jax.Array, spike: Any
) -> Any:
    """One step of a layer with a raw parameter for every element of the input."""
    values = {}
    for p in layer.describe():
        value = p.constrained(lambda name: raw[f"raw_{name}"])
        wide = value if p.learnable else _widen(value, layer.dim, x.shape)
        values[p.name] = wide.astype(x.dtype)
    return functional.step(layer.spec, values, carry, x, spike=spike)


def _widen(value: jax.Array, dim: int, shape: tuple[int, ...]) -> jax.Array:
    """A parameter along `dim`, one for each element of the input."""
    return jnp.broadcast_to(along(jnp.asarray(value), dim, len(shape)), shape)


def _narrow(value: jax.Array, like: jax.Array, dim: int) -> jax.Array:
    """Undo `_widen` for gradients: sum over all that shared the parameter."""
    return reduce_to(along(jnp.asarray(like), dim, value.ndim), value).reshape(jnp.shape(like))
