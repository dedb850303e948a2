"""Train networks whose layers start from different `adapt_weight`, and print how well they do.

    python tools/compare_adapt_weights.py digits     rows of scikit-learn's digits, one at a time
    python tools/compare_adapt_weights.py memory     a cue, a pause with noise, and then the answer

`docs/ideas.md` quotes the figures, with which the default of `adapt_weight` was chosen. Networks of
one task differ in nothing but the value from which every neuron's `adapt_weight` starts and the
seed, which is that of the weights, of the order and of the data; all are trained at once. 0 stands
for `LIB`, which has no adaptation.
"""

import argparse
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tracetorch_jax import functional, snn

WEIGHTS = (0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)


def digits(seed):
    """Rows of 8 pixels, each for 3 steps: training and test sequences, and their classes."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    xs = np.repeat((data.images / 16).astype(np.float32), 3, axis=1)
    return train_test_split(
        xs, data.target, test_size=0.2, stratify=data.target, random_state=seed
    ), 10


def memory(seed, rows=1500, cue=15, pause=80, answer=10):
    """One of 4 groups of channels fires for a while; all fire by chance; a last channel asks."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, rows)
    steps, group = cue + pause + answer, np.arange(16) // 4
    rate = np.full((rows, steps, 17), 0.05)
    rate[:, :cue, :16] += 0.5 * (group == labels[:, None])[:, None]
    rate[..., 16] = np.arange(steps) >= cue + pause
    xs = (rng.random(rate.shape) < rate).astype(np.float32)
    half = 2 * rows // 3
    return (xs[:half], xs[half:], labels[:half], labels[half:]), 4


# Of each task: its data, and the steps at the end that count.
TASKS = {"digits": (digits, 3), "memory": (memory, 10)}


def network(layer, width, classes):
    return snn.Unroll(
        snn.Sequential([nn.Dense(width), layer, nn.Dense(classes), snn.LI(classes, beta=0.8)])
    )


def start(params, weight):
    """The parameters with every `adapt_weight` at a value."""
    raw = functional.THRESHOLD.invert(jnp.float32(weight))
    return jax.tree_util.tree_map_with_path(
        lambda path, p: jnp.full_like(p, raw) if "raw_adapt_weight" in str(path[-1]) else p, params
    )


def train(layer, weights, seeds, task, *, width, epochs, batch, rate):
    """Accuracies ``[weights, seeds]`` on the test sets, and mean spikes per neuron and step."""
    load, last = TASKS[task]
    sets, (classes, *_) = zip(*map(load, seeds), strict=True)
    data = [np.stack(part) for part in zip(*sets, strict=True)]
    train_x, test_x, _, test_y = data
    model = network(layer, width, classes)
    updates = train_x.shape[1] // batch
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(rate, epochs * updates)),
    )
    each_seed = functools.partial(jax.vmap, in_axes=(0, 0, 0, 0))
    each_weight = functools.partial(jax.vmap, in_axes=(0, 0, None, None))

    params = [model.init(jax.random.key(seed), train_x[0, :1])["params"] for seed in seeds]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    params = [start(params, weight) for weight in weights]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    state = jax.vmap(jax.vmap(optimiser.init))(params)

    def logits(params, x):
        return model.apply({"params": params}, x)[:, -last:].mean(axis=1)

    @jax.jit
    def update(params, state, x, y):
        def one(params, state, x, y):
            def loss(params):
                return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()

            gradient = jax.grad(loss)(params)
            updates, state = optimiser.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        return each_weight(each_seed(one))(params, state, x, y)

    @jax.jit
    def accuracy(params, x, y):
        def one(params, _, x, y):
            return (logits(params, x).argmax(axis=-1) == y).mean()

        return each_weight(each_seed(one))(params, params, x, y)

    orders = [np.random.default_rng(seed) for seed in seeds]
    for _ in range(epochs):
        chosen = np.stack([rng.permutation(train_x.shape[1]) for rng in orders])
        for i in range(updates):
            rows = chosen[:, i * batch : (i + 1) * batch]
            x, y = (
                np.take_along_axis(a, rows.reshape(*rows.shape, *[1] * (a.ndim - 2)), axis=1)
                for a in data[::2]
            )
            params, state = update(params, state, x, y)
    return np.asarray(accuracy(params, test_x, test_y)), params


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rho", type=float, default=0.98)
    args = parser.parse_args()
    options = {"width": args.width, "epochs": args.epochs, "batch": 64, "rate": 5e-3}
    seeds = range(args.seeds)
    plain, _ = train(snn.LIB(args.width), [1.0], seeds, args.task, **options)
    found, params = train(
        snn.ALIB(args.width, rho=args.rho), WEIGHTS[1:], seeds, args.task, **options
    )
    learnt = np.asarray(
        functional.THRESHOLD.constrain(params["cell"]["layers_1"]["raw_adapt_weight"])
    )
    print(
        f"{args.task}, {args.seeds} seeds: test accuracy, its standard error, adapt_weight learnt"
    )
    for i, (weight, row) in enumerate(zip(WEIGHTS, [plain[0], *found], strict=True)):
        error = row.std(ddof=1) / len(row) ** 0.5
        ends = np.percentile(learnt[i - 1], (5, 50, 95)) if i else []
        print(f"{weight:6g}  {row.mean():.3f}  {error:.3f}", *(f"{end:.3f}" for end in ends))


if __name__ == "__main__":
    main()
