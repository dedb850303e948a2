"""What a faithful port from snnTorch costs, and which of its parts costs it: handwritten digits.

    python examples/ported.py --seeds 5                  rows of the images, one after the other
    python examples/ported.py --seeds 5 --mode image     the whole image at every step

A small classifier learns scikit-learn's digits for 200 updates of Adam. The port has what the
tutorials of snnTorch have: the steep surrogate `fast_sigmoid` of slope 25, fixed decays, a reset
without a gradient, and a readout that fires, whose spikes are counted. The other forms change one
part of it, or several. Every form takes the learning rate that is best on a fifth of the training
set; then the test set, a fifth of all, is read once. All networks of a form are trained at once,
and the table has their mean, with an interval of 95 % of the t distribution, and their firing rate.
"""

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tracetorch_jax import losses, metrics, record, snn, spikes, training

RATES = (1e-3, 3e-3, 1e-2)
HOLD = {"rows": 3, "image": 16}  # steps for which a row, or the image, stays
FIXED = {"beta_learnable": False}
PORT = {"surrogate": "fast_sigmoid(25)", "readout": "spikes, counted", "decays": "fixed"}
FORMS = {
    "the port": PORT,
    "surrogate atan(2), the default": PORT | {"surrogate": "atan(2)"},
    "LI readout that averages, mean": PORT | {"readout": "LI"},
    "LI readout that sums (ema=False), mean": PORT | {"readout": "LI, ema=False"},
    "decays and thresholds learnt": PORT | {"decays": "learnt"},
    "half-lives spread, learnt": PORT | {"decays": "spread"},
    "surrogate and LI readout": PORT | {"surrogate": "atan(2)", "readout": "LI"},
    "all three": {"surrogate": "atan(2)", "readout": "LI", "decays": "spread"},
    "surrogate and LI that sums": PORT | {"surrogate": "atan(2)", "readout": "LI, ema=False"},
    "all three, LI that sums": {
        "surrogate": "atan(2)", "readout": "LI, ema=False", "decays": "spread"
    },
}  # fmt: skip


def network(width, mode, surrogate, readout, decays):
    """Two Dense layers, a hidden layer that fires, and a readout of ten classes."""
    spike = spikes.fast_sigmoid(25.0) if surrogate == "fast_sigmoid(25)" else spikes.atan(2.0)
    options = {"spike": spike, "detach_reset": True}
    fixed = FIXED if decays == "fixed" else {}
    still = {"threshold_learnable": False} if decays == "fixed" else {}
    if decays == "spread":
        hidden = snn.layer("LIB", width, half_lives=(0.3, 24.0), **options)
    else:
        hidden = snn.LIB(width, beta=0.9, **fixed, **still, **options)
    if readout == "spikes, counted":
        last = snn.LIB(10, beta=0.9, **fixed, **still, **options)
    else:
        last = snn.LI(10, beta=0.9, ema=readout == "LI", **fixed)
    cell = snn.Sequential([nn.Dense(width), hidden, nn.Dense(10), last])
    return snn.Unroll(cell, hold=HOLD[mode])


def load(mode, rows=None):
    """Training, validation and test set, of rows ``[B, 8, 8]`` or images ``[B, 1, 64]``."""
    digits = load_digits()
    xs = (digits.images / 16).astype(np.float32)[:rows]
    xs = xs if mode == "rows" else xs.reshape(-1, 1, 64)
    xs, test_x, labels, test_y = train_test_split(
        xs, digits.target[:rows], test_size=0.2, random_state=0
    )
    xs, held_x, labels, held_y = train_test_split(xs, labels, test_size=0.2, random_state=0)
    return (xs, labels), (held_x, held_y), (test_x, test_y)


def trial(args, width, data, form):
    """Learning rate, test accuracies ``[S]`` of as many networks, and their firing rate."""
    learn, held, test = data
    model = network(width, args.mode, **form)
    keys = jax.vmap(jax.random.key)(args.seed + jnp.arange(args.seeds or 1))
    variables = jax.vmap(model.init, (0, None))(keys, learn[0][:1])
    decode = "count" if form["readout"] == "spikes, counted" else "mean"

    def loss(variables, batch, key):
        ys = model.apply(variables, batch[0])
        return losses.cross_entropy(ys, batch[1], decode=decode).mean()

    def score(variables, batch):
        return metrics.accuracy(model.apply(variables, batch[0]), batch[1], decode=decode)

    def right(variables, rows):
        every = jax.vmap(score, (0, None), out_axes=1)
        return training.predict(every, variables, rows, batch_size=200).mean(axis=0)

    per_epoch = training.num_updates(len(learn[0]), args.batch, 1)
    epochs = args.epochs or -(-args.updates // per_epoch)
    fitted = {}
    for rate in RATES[: 1 if args.smoke else None]:
        optimiser = training.adamw(rate, epochs * per_epoch)
        fitted[rate] = training.fit(
            loss, variables, optimiser, learn, epochs=epochs, batch_size=args.batch, key=keys
        ).variables
    best = max(fitted, key=lambda rate: right(fitted[rate], held).mean())
    _, layers = jax.vmap(lambda own: fired(model, own, test[0]))(fitted[best])
    return best, right(fitted[best], test), float(layers.mean())


def fired(model, variables, xs):
    ys, layers = record(model, variables, xs)
    return ys, layers["cell/layers_1"].outputs.mean()


def main():
    parser = harness.parser(__doc__, epochs=None, batch=64, rate=None)
    parser.add_argument("--mode", choices=HOLD, default="rows", help="how an image is presented")
    parser.add_argument("--updates", type=harness.count, default=200, help="of each network")
    args = parser.parse_args()
    if args.data or args.rate:
        harness.fail("--data and --rate have no use here: digits, and the best of three rates.")
    width, rows = (16, 128) if args.smoke else (64, None)
    args.epochs = 1 if args.smoke else args.epochs
    data = load(args.mode, rows)
    print(f"{'form':>40}       accuracy  firing rate  learning rate")
    for name, form in list(FORMS.items())[: 2 if args.smoke else None]:
        rate, right, busy = trial(args, width, data, form)
        accuracy = harness.interval(right) if len(right) > 1 else f"{right.mean():.3f}"
        print(f"{name:>40}  {accuracy.lstrip('+'):>13}  {busy:11.3f}  {rate:13g}", flush=True)


if __name__ == "__main__":
    main()
