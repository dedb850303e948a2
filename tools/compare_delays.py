"""What learning the delays gains on the task of docs/how-to/delays.md, with its three neurons.

    python tools/compare_delays.py

Prints the accuracy on 1000 new examples of each seed: for learnt delays, for random ones that are
not learnt, and for a Dense layer.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tracetorch_jax import snn, training

GAPS, MAX_DELAY, HIDDEN, UPDATES, SEEDS = jnp.array([7, 14]), 16, 3, 150, 10


def data(key: jax.Array, size: int = 32) -> tuple[jax.Array, jax.Array]:
    """Spikes ``[size, 36, 2]`` and their classes."""
    keys = jax.random.split(key)
    labels = jax.random.randint(keys[0], (size,), 0, len(GAPS))
    start = jax.random.randint(keys[1], (size, 1), 0, 16)
    times = start + jnp.stack([0 * labels, GAPS[labels]], axis=-1)
    return jax.nn.one_hot(times, 36, axis=1), labels


def network(kind: str, sigma: Any = None) -> snn.Unroll:
    """The network of the page, or the same with a Dense layer."""
    strong = nn.initializers.variance_scaling(4.0, "fan_in", "truncated_normal")
    first: Any = nn.Dense(HIDDEN, kernel_init=strong)
    if kind != "Dense":
        first = snn.DelayedDense(HIDDEN, MAX_DELAY, sigma=sigma, kernel_init=strong)
    hidden = [first, snn.LIB(HIDDEN, beta=0.5)]
    return snn.Unroll(snn.Sequential([*hidden, nn.Dense(len(GAPS)), snn.LI(len(GAPS))]))


def accuracy(kind: str, seed: jax.Array) -> jax.Array:
    """Of one training."""
    key = jax.random.key(seed)
    learnt = kind == "learnt"
    rates = dict.fromkeys(training.PARAMETER_LABELS, optax.adam(3e-2))
    rates["delay"] = optax.adam(1e-1) if learnt else optax.set_to_zero()
    optimiser = optax.multi_transform(rates, training.parameter_labels)
    widths = jax.vmap(training.sigma_schedule(MAX_DELAY, UPDATES // 2))(jnp.arange(UPDATES))

    def logits(params: Any, xs: jax.Array, sigma: Any = None) -> jax.Array:
        return network(kind, sigma).apply({"params": params}, xs).sum(axis=1)

    def update(carry: Any, now: Any) -> tuple[Any, None]:
        params, state = carry
        key, sigma = now

        def loss(params: Any) -> jax.Array:
            xs, labels = data(key)
            ys = logits(params, xs, sigma if learnt else None)
            return optax.softmax_cross_entropy_with_integer_labels(ys, labels).mean()

        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    params = network(kind).init(key, data(key)[0])["params"]
    carry = params, optimiser.init(params)
    keys = jax.random.split(jax.random.fold_in(key, 1), UPDATES)
    (params, _), _ = jax.lax.scan(update, carry, (keys, widths))
    xs, labels = data(jax.random.fold_in(key, 2), 1000)
    return (logits(params, xs).argmax(-1) == labels).mean()


if __name__ == "__main__":
    for kind in ("learnt", "random", "Dense"):
        each = jax.jit(jax.vmap(lambda seed, kind=kind: accuracy(kind, seed)))(jnp.arange(SEEDS))
        print(f"{kind:7} mean {each.mean():.2f}:", " ".join(f"{one:.2f}" for one in each))
