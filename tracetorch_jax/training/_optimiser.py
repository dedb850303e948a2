"""An optimiser that suits spiking networks."""

from __future__ import annotations

import math

import optax

from tracetorch_jax._shared.checks import check_integer, check_number
from tracetorch_jax.training._labels import decay_mask


def adamw(
    learning_rate: float,
    updates: int,
    *,
    warmup: float = 0.05,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    accumulate: int = 1,
) -> optax.GradientTransformation:
    """AdamW with a warm-up, a cosine decay of the learning rate and clipped gradients.

    The learning rate rises linearly from 0, then falls to 0 along half a cosine. A gradient that is
    not finite changes nothing, unless it is the eleventh in a row: over hundreds of steps, that of
    recurrent or adaptive neurons may overflow now and then. It is one expression of optax, to be
    copied where another is wanted::

        optax.apply_if_finite(
            optax.chain(
                optax.clip_by_global_norm(clip),
                optax.adamw(
                    optax.warmup_cosine_decay_schedule(0, learning_rate, warmup * updates, updates),
                    weight_decay=weight_decay,
                    mask=training.decay_mask,
                ),
            ),
            max_consecutive_errors=10,
        )

    Args:
        learning_rate: the greatest, greater than 0; 1e-3 to 1e-2 suits most networks here.
        updates: number of updates in all; `num_updates` counts them. From there on the rate is 0.
        warmup: share of the updates in which the rate rises, in [0, 1).
        clip: greatest norm of the gradient of all parameters together, greater than 0; ``inf`` for
            none. Gradients of spiking networks have rare large values.
        weight_decay: of the parameters that `decay_mask` names, at least 0.
        accumulate: gradients whose mean makes one change of the parameters, so that a batch may be
            that much smaller; `updates` counts gradients.

    Returns:
        The optimiser, of which the state is a tree as usual in optax.

    Raises:
        TypeError: `updates` or `accumulate` is no integer, or another argument no number.
        ValueError: an argument out of its range.

    Reference: Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Example:
        >>> optimiser = training.adamw(5e-3, training.num_updates(1000, 32, epochs=20))
        >>> state = optimiser.init({"raw_beta": jnp.ones(3)})
    """
    advice = "For a schedule or a traced number, write the expression above."
    learning_rate = check_number("learning_rate", learning_rate, advice)
    warmup, clip = check_number("warmup", warmup, advice), check_number("clip", clip, advice)
    weight_decay = check_number("weight_decay", weight_decay, advice)
    updates = check_integer("updates", updates)
    accumulate = check_integer("accumulate", accumulate)
    for name, value, fits, rule in (
        ("learning_rate", learning_rate, 0 < learning_rate < math.inf, "be positive and finite"),
        ("warmup", warmup, 0 <= warmup < 1, "lie in [0, 1)"),
        ("clip", clip, clip > 0, "be greater than 0"),
        ("weight_decay", weight_decay, weight_decay >= 0, "be at least 0"),
    ):
        if not fits:
            raise ValueError(f"`{name}` must {rule}; got {value!r}.")
    steps = max(updates // accumulate, 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, int(warmup * steps), max(steps, 2)
    )
    chain = optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, weight_decay=weight_decay, mask=decay_mask),
    )
    optimiser = optax.apply_if_finite(chain, max_consecutive_errors=10)
    if accumulate == 1:
        return optimiser
    return optax.MultiSteps(optimiser, accumulate).gradient_transformation()


def num_updates(rows: int, batch_size: int, epochs: int) -> int:
    """Number of updates that `fit` makes for a number of rows.

    Args:
        rows: of the data.
        batch_size: rows of an update.
        epochs: passes over the data.

    Returns:
        ``epochs * (rows // min(batch_size, rows))``.

    Raises:
        TypeError: an argument that is no integer.
        ValueError: an argument below 1.

    Example:
        >>> training.num_updates(1000, 32, epochs=20)
        620
    """
    rows, batch_size = check_integer("rows", rows), check_integer("batch_size", batch_size)
    return check_integer("epochs", epochs) * (rows // min(batch_size, rows))
