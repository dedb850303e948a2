"""What training trace layers asks for beyond optax: who is who among the parameters, long sequences
in pieces, and gradients that need no past.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tracetorch_jax import functional
from tracetorch_jax._axes import check_count
from tracetorch_jax._dtypes import asarray, countable
from tracetorch_jax._online import OnlineState, online
from tracetorch_jax._paths import key_name, path_name
from tracetorch_jax.functional import DECAY, THRESHOLD
from tracetorch_jax.functional.placement import place_state

__all__ = [
    "OnlineState",
    "chunks",
    "decay_mask",
    "online",
    "parameter_labels",
    "piecewise_value_and_grad",
]

Kind = Literal["decay", "threshold", "scale", "rec_weight", "bias", "other"]


def parameter_labels(params: Any) -> Any:
    """Say of each parameter what it is, for `optax.multi_transform`.

    Args:
        params: a tree of parameters, as ``model.init(...)["params"]``.

    Returns:
        A tree of the same structure that holds for each leaf ``"decay"``, ``"threshold"``,
        ``"scale"``, ``"rec_weight"`` or ``"bias"`` of a trace layer (stored as ``raw_...``), and
        ``"other"`` for everything else, such as the weights of a Dense layer.

    Raises:
        ValueError: a leaf named ``raw_...`` that is none of a trace layer's parameters.

    Example:
        >>> params = snn.LIB(8).init(jax.random.key(0), None, jnp.zeros((1, 8)))["params"]
        >>> training.parameter_labels(params)
        {'raw_beta': 'decay', 'raw_threshold': 'threshold'}
        >>> kinds = ("decay", "threshold", "scale", "rec_weight", "bias")
        >>> rates = {"other": optax.adam(1e-3), **{kind: optax.adam(1e-2) for kind in kinds}}
        >>> state = optax.multi_transform(rates, training.parameter_labels).init(params)
    """
    return jax.tree.map_with_path(lambda path, _: _kind(path), params)


def decay_mask(params: Any) -> Any:
    """Which parameters weight decay is for: all but a trace layer's own, biases and the scales of
    normalisations.

    Decaying a raw parameter towards 0 would draw every decay to 0.5 and every threshold to 0.69.

    Args:
        params: a tree of parameters, as ``model.init(...)["params"]``.

    Returns:
        A tree of booleans, for the `mask` of `optax.adamw` and others.

    Raises:
        ValueError: a leaf named ``raw_...`` that is none of a trace layer's parameters.

    Example:
        >>> optimiser = optax.adamw(1e-3, weight_decay=1e-2, mask=training.decay_mask)
        >>> params = {"Dense_0": {"kernel": 1.0, "bias": 0.0}, "cell": {"raw_beta": 2.0}}
        >>> training.decay_mask(params)
        {'Dense_0': {'bias': False, 'kernel': True}, 'cell': {'raw_beta': False}}
    """
    return jax.tree.map_with_path(
        lambda path, _: _kind(path) == "other" and _leaf_name(path) not in ("bias", "scale"),
        params,
    )


def chunks(batch: Any, length: int) -> Iterator[Any]:
    """Cut sequences into pieces of `length` steps, to be run one after the other.

    Args:
        batch: a tree of arrays ``[B, T, ...]``.
        length: steps of a piece; the last one may be shorter.

    Yields:
        Trees of arrays ``[B, length, ...]``.

    Raises:
        ValueError: arrays that differ in T or lack a time axis, or `length` below 1.

    Example:
        >>> [piece.shape for piece in training.chunks(jnp.zeros((2, 10, 3)), 4)]
        [(2, 4, 3), (2, 4, 3), (2, 2, 3)]
    """
    length = check_count("length", length)
    steps = _steps("batch", batch)

    def cut(start: int) -> Any:
        return jax.tree.map(lambda x: x[:, start : start + length], batch)

    return map(cut, range(0, steps, length))


def piecewise_value_and_grad(
    loss: Callable[[Any, Any, Any], tuple[jax.Array, Any]], length: int, *, truncate: bool = False
) -> Callable[[Any, Any, Any], tuple[tuple[jax.Array, Any], Any]]:
    """Value and gradient of long sequences, run in pieces through which the carry is handed on.

    Only the carries between pieces are kept; what happens within a piece is computed again on the
    way back, so that memory is that of a piece, plus a carry for each. The gradient is that of the
    whole sequence. With `truncate`, nothing flows back from one piece into the one before and
    nothing is computed twice: truncated backpropagation through time (Williams & Peng, Neural
    Computation 2, 1990).

    To update parameters after every piece instead, call ``jax.value_and_grad(loss, has_aux=True)``
    on each of `chunks` and hand the carry on.

    Args:
        loss: from ``(params, carry, batch)`` of one piece to ``(value, carry)``, the value a mean
            over the steps.
        length: steps of a piece, which must divide T. About the square root of T is cheapest. A
            batch with T = 0 is one piece of no steps.
        truncate: whether gradients stop at the borders of pieces.

    Returns:
        A function from ``(params, carry, batch)`` to ``((value, carry), gradient)`` like that of
        ``jax.value_and_grad(loss, has_aux=True)``, for a batch of arrays ``[B, T, ...]``: means
        over the pieces. The first carry is one such as ``initialize_carry`` gives, not None.

    Raises:
        TypeError: `loss` is not a function; when called, it does not return a pair, or no carry.
        ValueError: `length` below 1; when called, a T that `length` does not divide, a value that
            is no scalar.

    Example:
        >>> model = snn.Unroll(snn.LI(3), return_carry=True)
        >>> xs = jnp.ones((2, 12, 3))
        >>> params = model.init(jax.random.key(0), xs)["params"]
        >>> def loss(params, carry, xs):
        ...     carry, ys = model.apply({"params": params}, xs, carry)
        ...     return jnp.square(ys).mean(), carry
        >>> carry = model.cell.initialize_carry(None, (2, 3))
        >>> (value, carry), gradient = training.piecewise_value_and_grad(loss, 4)(params, carry, xs)
        >>> gradient["cell"]["raw_beta"].shape
        (3,)
    """
    length = check_count("length", length)
    if not callable(loss):
        raise TypeError(f"`loss` must be a function of (params, carry, batch); got {loss!r}.")

    def checked(params: Any, carry: Any, batch: Any) -> tuple[jax.Array, Any]:
        given = loss(params, carry, batch)
        if not (isinstance(given, tuple) and len(given) == 2):
            raise TypeError(f"`loss` must return (value, carry); got {type(given).__name__}.")
        if jnp.shape(given[0]):
            raise ValueError(f"`loss` must give a scalar value; got shape {jnp.shape(given[0])}.")
        return given

    def run(params: Any, carry: Any, batch: Any) -> tuple[tuple[jax.Array, Any], Any]:
        steps = _steps("batch", batch)
        if steps % length:
            raise ValueError(
                f"`length` must divide T = {steps}, so that all pieces weigh the same; got "
                f"{length}. See `chunks` for pieces of different lengths."
            )
        if carry is None:
            raise TypeError("`carry` must be what `initialize_carry` gives; got None.")
        batch = jax.tree.map(asarray, batch)
        number = steps // length or 1  # no steps are one piece of none
        carry = place_state(once, (params, batch), carry, jnp.arange(number))
        if truncate:
            return truncated(params, carry, batch, number)
        return jax.value_and_grad(whole, has_aux=True)(params, carry, batch, number)

    def piece_of(batch: Any, i: jax.Array) -> Any:
        # Cut out where it is used: pieces side by side would be a copy of the whole batch.
        return jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(
                jnp.asarray(x), i * length, min(length, jnp.shape(x)[1]), axis=1
            ),
            batch,
        )

    def once(given: Any, carry: Any, i: jax.Array) -> tuple[Any, None]:
        params, batch = given
        return checked(params, carry, piece_of(batch, i))[1], None

    def whole(params: Any, carry: Any, batch: Any, number: int) -> tuple[jax.Array, Any]:
        @jax.checkpoint
        def piece(carry: Any, i: jax.Array) -> tuple[Any, jax.Array]:
            value, carry = checked(params, carry, piece_of(batch, i))
            return carry, value

        carry, values = jax.lax.scan(piece, carry, jnp.arange(number))
        return values.mean(), carry

    def truncated(params: Any, carry: Any, batch: Any, number: int) -> Any:
        def piece(state: Any, i: jax.Array) -> tuple[Any, jax.Array]:
            carry, total = state
            (value, carry), gradient = jax.value_and_grad(checked, has_aux=True)(
                params, carry, piece_of(batch, i)
            )
            total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradient)
            return (carry, total), value

        zeros = jax.tree.map(lambda p: countable(jnp.zeros_like(p)), params)
        (carry, total), values = jax.lax.scan(piece, (carry, zeros), jnp.arange(number))
        mean = jax.tree.map(lambda p, g: (g / number).astype(jnp.result_type(p)), params, total)
        return (values.mean(), carry), mean

    return run


def _steps(name: str, batch: Any) -> int:
    """T of a tree of arrays ``[B, T, ...]``."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if not shapes or any(len(shape) < 2 for shape in shapes):
        raise ValueError(f"`{name}` must hold arrays [B, T, ...]; got shapes {shapes}.")
    if len({shape[1] for shape in shapes}) > 1:
        raise ValueError(f"`{name}` must agree in T, its second axis; got shapes {shapes}.")
    return shapes[0][1]


def _leaf_name(path: Any) -> str:
    """Name of a parameter, also of one in a box such as `flax.linen.Partitioned`."""
    names = [key_name(key) for key in path]
    while names and names[-1] == "value":
        names.pop()
    return names[-1] if names else ""


def _kind(path: Any) -> Kind:
    """What a parameter is, by its name."""
    known = kind_of(_leaf_name(path))
    if known is None:
        raise ValueError(f"`params` must hold parameters of known layers; got {path_name(path)}.")
    return known


def kind_of(name: str) -> Kind | None:
    """What a parameter of this name is; None for one of an unknown layer."""
    return _kinds().get(name) if name.startswith("raw_") else "other"


@functools.cache
def _kinds() -> dict[str, Kind]:
    """Kind of each raw parameter in the family."""
    single, dual = functional.Trace(), functional.Trace(dual=True)
    kinds: dict[str, Kind] = {}
    for trace, arity in ((single, "single"), (dual, "dual")):
        for positive, negative in (("spike", None), ("spike", "spike")):
            spec = functional.Spec(
                membrane=trace,
                synapse=trace,
                recurrence=trace,
                rec_weight=arity,  # type: ignore[arg-type]
                positive=positive,  # type: ignore[arg-type]
                negative=negative,  # type: ignore[arg-type]
                scale=arity,  # type: ignore[arg-type]
                bias=True,
            )
            for name, constraint in spec.parameters.items():
                last = name.removeprefix("pos_").removeprefix("neg_")
                kind = {DECAY: "decay", THRESHOLD: "threshold"}.get(constraint, last)
                kinds[f"raw_{name}"] = kind  # type: ignore[assignment]
    return kinds
