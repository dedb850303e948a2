"""Learn from a stream that never ends, of which nothing is stored.

    python examples/online_stream.py
    python examples/online_stream.py --method bptt --seeds 3
    python examples/online_stream.py --cosines

Scikit-learn's handwritten digits follow one another without a pause, a row of eight pixels per
step, in several streams at once. No step says where a digit begins. The network says its class in
the second half of its rows, is told the right one, and changes its weights at every step.
`training.online` carries along what that needs, so that memory does not depend on how long the
stream is.

To compare, --method bptt keeps the rows of each digit and goes back through time over them, as
truncated backpropagation does: one update per digit, the states passed on. --cosines prints, for
each layer and method, the cosine between the sums of its gradients over --steps steps and that of
backpropagation through all of these steps, for the network as it is after training.

A fifth of the digits is the test set, which is read once, as a stream of its own.
"""

import time

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
from distributed import CLASSES, load
from tqdm import tqdm

from tracetorch_jax import losses, snn, training

ROWS = 8  # steps of a digit
METHODS = ("e-prop", "ottt", "bptt")


def network(width, layer):
    """Two spiking layers, of which the second feeds itself back, and a leaky readout."""
    first, second = (snn.layer(layer, width, half_lives=(0.5, 8.0)) for _ in range(2))
    readout = [nn.Dense(CLASSES), snn.LI(CLASSES, beta=0.5, beta_rank=0)]
    return snn.Sequential(
        [nn.Dense(width), first, nn.Dense(width), snn.Recurrent(second), *readout]
    )


def stream(key, data, streams, digits):
    """Rows ``[T, B, 8]`` and classes ``[T, B]`` of digits drawn at random."""
    xs, labels = map(jnp.asarray, data)
    chosen = jax.random.randint(key, (digits, streams), 0, len(labels))
    rows = jnp.moveaxis(xs[chosen], 2, 1)  # [digits, 8, B, 8]
    return rows.reshape(-1, streams, ROWS), jnp.repeat(labels[chosen], ROWS, axis=0)


def error(out, labels, row):
    """Mean cross-entropy of a step, in the second half of a digit; before that 0."""
    errors = losses.step_cross_entropy(out[:, None], labels[:, None])
    return jnp.where(row >= ROWS // 2, errors.mean(), 0.0)


def errors(params, cell, carry, xs, labels):
    """The sum over the steps, and the carry after them."""
    model = snn.Unroll(cell, time_major=True, return_carry=True)
    carry, outs = model.apply({"params": {"cell": params}}, xs, carry)
    return jax.vmap(error)(outs, labels, jnp.arange(len(xs)) % ROWS).sum(), carry


def gradients(cell, params, xs, labels, method):
    """Gradients of the sum over a whole stream, as a method finds them."""
    if method == "bptt":
        carry = cell.initialize_carry(None, xs.shape[1:])
        return jax.grad(errors, has_aux=True)(params, cell, carry, xs, labels)[0]
    init, step = training.online(cell, method=method)

    def advance(carry, inputs):
        (state, total), (x, labels, row) = carry, inputs
        state, out, gradient = step(params, state, x)
        found = gradient(jax.grad(error)(out, labels, row))
        return (state, jax.tree.map(jnp.add, total, found)), None

    start = init(params, xs[0]), jax.tree.map(jnp.zeros_like, params)
    inputs = xs, labels, jnp.arange(len(xs)) % ROWS
    return jax.lax.scan(advance, start, inputs)[0][1]


def updates_of(cell, optimiser, method):
    """``update(state, xs, labels)`` learns from one digit of each stream, and a first state."""
    init, step = training.online(cell, method="e-prop" if method == "bptt" else method)

    def first(params, x):
        carry = init(params, x)
        return params, optimiser.init(params), carry.carry if method == "bptt" else carry

    def descend(params, moments, gradient):
        changes, moments = optimiser.update(gradient, moments, params)
        return jax.tree.map(jnp.add, params, changes), moments

    def one(state, inputs):
        (params, moments, online), (x, labels, row) = state, inputs
        online, out, gradient = step(params, online, x)
        found = gradient(jax.grad(error)(out, labels, row))
        return (*descend(params, moments, found), online), None

    def online(state, xs, labels):
        return jax.lax.scan(one, state, (xs, labels, jnp.arange(ROWS)))[0]

    def truncated(state, xs, labels):
        params, moments, carry = state
        found, carry = jax.grad(errors, has_aux=True)(params, cell, carry, xs, labels)
        return *descend(params, moments, found), carry

    return jax.jit(truncated if method == "bptt" else online, donate_argnums=0), first


def train(args, seed, data, test):
    """Learn from a stream; return the accuracy on another one, and the parameters."""
    cell = network(args.width, args.layer)
    digits = -(-args.epochs * len(data[1]) // args.batch)
    number = digits * (1 if args.method == "bptt" else ROWS)
    update, first = updates_of(cell, training.adamw(args.rate, number), args.method)
    key = jax.random.key(seed)
    params = cell.init(key, None, jnp.zeros((args.batch, ROWS)))["params"]
    state = first(params, jnp.zeros((args.batch, ROWS)))
    draw = jax.jit(lambda key: stream(key, data, args.batch, 1))
    start = time.process_time()
    for i in tqdm(range(digits), f"{args.method}, seed {seed}"):
        state = update(state, *draw(jax.random.fold_in(key, i)))
    seconds = time.process_time() - start
    params = state[0]
    xs, labels = stream(jax.random.key(seed), test, 100, 40)
    carry = cell.initialize_carry(None, xs.shape[1:])
    model = snn.Unroll(cell, time_major=True)
    outs = model.apply({"params": {"cell": params}}, xs, carry).reshape(-1, ROWS, 100, CLASSES)
    answers = outs[:, ROWS // 2 :].mean(1).argmax(-1)
    accuracy = float((answers == labels[::ROWS]).mean())
    print(f"seed {seed}: {accuracy:.4f}; {seconds:.0f} s of the processor")
    return accuracy, params


def cosines(args, params, data):
    """Print by layer and method the cosine to the gradient of backpropagation through time."""
    cell = network(args.width, args.layer)
    xs, labels = stream(jax.random.key(1), data, args.batch, args.steps // ROWS)
    found = {name: gradients(cell, params, xs, labels, name) for name in METHODS}

    def vector(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    for name, want in found.pop("bptt").items():
        for method, gradient in found.items():
            got, along = vector(gradient[name]), vector(want)
            cosine = got @ along / np.linalg.norm(got) / np.linalg.norm(along)
            print(f"{name} {method} {cosine:.3f}")


def main():
    parser = harness.parser(__doc__, epochs=20, batch=16, rate=2e-3)
    parser.add_argument("--method", choices=METHODS, default="e-prop")
    parser.add_argument("--layer", choices=snn.ALL_LAYERS, default="LIB", metavar="NAME")
    parser.add_argument("--width", type=harness.count, default=64, help="neurons of each layer")
    parser.add_argument("--cosines", action="store_true", help="to backpropagation's gradient")
    parser.add_argument("--steps", type=harness.count, default=400, help="of these cosines")
    args = parser.parse_args()
    if args.data:
        harness.fail("--data has no use here: the digits come with scikit-learn.")
    if args.smoke:
        args.width, args.epochs, args.steps = 16, 1, 16
    xs, others, *classes = load(0)
    data, test = zip((xs.reshape(-1, 8, ROWS), others.reshape(-1, 8, ROWS)), classes, strict=True)
    if args.smoke:
        data = data[0][: 2 * args.batch], data[1][: 2 * args.batch]

    def run(seed):
        accuracy, params = train(args, seed, data, test)
        if args.cosines:
            cosines(args, params, test)
        return accuracy

    harness.over_seeds(args, run)


if __name__ == "__main__":
    main()
