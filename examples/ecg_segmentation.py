"""Say at every step of an electrocardiogram which wave of the heartbeat it belongs to.

    python examples/ecg_segmentation.py --data qtdb_ecg_spikes.npz --feedback --seeds 5
    python examples/ecg_segmentation.py --layer DLIB --width 18 --feedback --dropout 0.1 --epochs 20
    python examples/ecg_segmentation.py --past 0 --feedback --layer LIB --tune
    python examples/ecg_segmentation.py --compare --width 32 --dropout 0 --steps 650 --epochs 15

Two leads of the QT database, coded as spikes by level crossing (one channel for rises and one for
falls of each), 1300 steps long; six classes: P, PQ, QR, RS, ST, TP. Two spiking layers of 64
neurons read it. Each passes on its input with its spikes, so the readout gets both.
The first gets, as well as the present spikes, counts of past ones, see `counts`.

The data and the protocol are those of Yin, Corradi & Bohte (Nature Machine Intelligence 3, 2021),
whose adaptive recurrent network of 36 neurons reaches 84.4 to 85.9 %: the first 10 steps are
skipped, and steps without a label count as the first class. Accuracy at labelled steps alone is
printed too. Without --data the two files are fetched from the paper's repository.

--save writes the trained network, see `pretrained.py`.

--max-rate penalises neurons that fire at a greater share of the steps.

With --tune the last 120 sequences of the training set are left out of training, and tested on.
Layers, past counts and feedback were chosen in that way. --compare trains five networks of each of
some kinds so, and prints a table.
"""

import argparse
import functools
import time

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pretrained

from tracetorch_jax import encode, losses, record, snn, training

CLASSES, SKIPPED = 6, 10
PARTS = slice(None, -120), slice(-120, None)  # with --tune: to train on, to test on
SOURCE = "https://raw.githubusercontent.com/byin-cwi/Efficient-spiking-networks/main/"
FILES = {"train": "data/QTDB_train.mat", "test": "NMI_vis/ecg/QTDB_test.mat"}


def network(layer, width, blocks, dropout, slowest, feedback, *, training=False):
    """Spiking layers, of which each gives its input too, and a leaky readout."""

    def block():
        neurons = snn.layer(layer, width, half_lives=(1.0, slowest))
        return snn.Residual(
            [
                nn.Dense(width),
                snn.Recurrent(neurons) if feedback else neurons,
                nn.Dropout(dropout, deterministic=not training),
            ],
            merge="concatenate",
        )

    readout = [nn.Dense(CLASSES), snn.LI(CLASSES, beta=0.8)]
    return snn.Unroll(snn.Sequential([*(block() for _ in range(blocks)), *readout]))


def counts(x, past):
    """The spikes of each channel in the present step and in windows of the `past` steps.

    Each window is about 1.4 times as long as the next one towards the present, and its count is
    divided by the root of its length.
    """
    x = x.astype(np.float32)
    if not past:
        return x
    edges = np.geomspace(1, past, 1 + int(2 * np.log2(past))).round().astype(int)
    edges = np.unique([0, *edges])
    total = encode.delayed(jnp.cumsum(x, axis=1), edges.tolist())
    total = total.reshape(*x.shape[:2], len(edges), -1)
    scale = np.sqrt(np.diff(edges)).astype(np.float32)[:, None]
    return ((total[:, :, :-1] - total[:, :, 1:]) / scale).reshape(*x.shape[:2], -1)


def load(path):
    """Spikes ``[B, T, 4]``, classes ``[B, T]`` and whether a step is labelled, for both sets."""
    if path is not None:
        arrays = harness.read(path, "Leave out --data to fetch the published files.")
        return [
            (arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int32), arrays[f"labelled_{part}"])
            for part in FILES
        ]
    return [convert(harness.fetch(SOURCE + name, name.split("/")[-1])) for name in FILES.values()]


def convert(path):
    """Arrays of a published MATLAB file, in which labels are one-hot and absent ones are zeros."""
    import scipy.io

    content = scipy.io.loadmat(path)
    x, y = content["x"], content["y"]
    return x.astype(np.uint8), y.argmax(axis=-1).astype(np.int32), y.any(axis=-1)


def made_up(rows, steps=60):
    """Data of the same form, in which the last channel that fired is the class."""
    rng = np.random.default_rng(0)
    x = (rng.random((rows, steps, 4)) < 0.1).astype(np.uint8)
    y = np.maximum.accumulate(np.where(x.any(-1), np.arange(steps), 0), axis=1)
    y = np.take_along_axis(x.argmax(-1), y, axis=1).astype(np.int32)
    return x, y, np.ones(y.shape, bool)


def augment(x, y, key, length, *, stretch=1.25, swapped=0.3, lost=0.05):
    """Take `length` steps of each sequence, faster or slower; swap some leads, drop some spikes."""
    keys = jax.random.split(key, 4)
    rows, steps, _ = x.shape
    span = np.log(stretch)
    factor = jnp.exp(jax.random.uniform(keys[0], (rows, 1), minval=-span, maxval=span))
    start = jax.random.randint(keys[3], (rows, 1), 0, max(steps - length, 0) + 1)
    source = start + (factor * jnp.arange(min(length, steps))).astype(jnp.int32)
    # Beyond the end there is nothing, as after the end of a short recording.
    x = jnp.take_along_axis(x, source[..., None], axis=1, mode="fill", fill_value=0)
    y = jnp.take_along_axis(y, source, axis=1, mode="fill", fill_value=0)
    x = jnp.where(jax.random.bernoulli(keys[1], swapped, (rows, 1, 1)), x[..., [2, 3, 0, 1]], x)
    return jnp.where(jax.random.bernoulli(keys[2], lost, x.shape), 0, x), y


def answer(blocks, model, variables, xs):
    """The class of each step ``[B, T]``, and the spikes per neuron and step ``[B]``."""
    readout, layers = record(model, variables, xs)
    spikes = [abs(jnp.sign(each.outputs)) for each in layers.values()][:blocks]
    return readout.argmax(axis=-1), sum(each.mean(axis=(1, 2)) for each in spikes) / blocks


def trained(options, variables):
    """Of a network that was saved: the model, and how its input is prepared and its output read."""
    options = dict(options)
    past = options.pop("past")
    model = network(**options)
    return model, lambda x: (counts(x, past),), functools.partial(answer, options["blocks"], model)


def train(args, seeds, train_set, test_set, **changed):
    """Train a network for each seed, all at once; return a dict of what was measured.

    It has the accuracy at all steps and at labelled ones, the spikes per neuron and step, one
    number a network; the number of parameters and seconds of the processor per network; and of the
    last network the options, the variables, and its answers and firing rates for the test set.
    """
    args = argparse.Namespace(**{**vars(args), **changed})
    names = ("layer", "width", "blocks", "dropout", "slowest", "feedback")
    options = {name: getattr(args, name) for name in names}
    learner, model = network(**options, training=True), network(**options)
    x, y, _ = train_set
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(jnp.array(seeds))

    def loss(variables, batch, key):
        move, drop = jax.random.split(key)
        x, y = augment(*batch, move, args.steps)
        ys, layers = record(learner, variables, counts(x, args.past), rngs={"dropout": drop})
        counted = jnp.broadcast_to(jnp.arange(y.shape[1]) >= SKIPPED, y.shape)
        error = losses.step_cross_entropy(ys, y, mask=counted).mean()
        if args.max_rate is not None:
            error += 10 * losses.rate_penalty(layers, max_rate=args.max_rate) / args.blocks
        return error

    def run(variables, x):
        return answer(args.blocks, model, variables, counts(x, args.past))

    start = time.process_time()
    fitted = training.fit(
        loss,
        jax.vmap(model.init, (0, None))(keys[:, 0], counts(x[:1], args.past)),
        training.adamw(args.rate, training.num_updates(len(x), args.batch, args.epochs)),
        (x, y),
        epochs=args.epochs,
        batch_size=args.batch,
        key=keys[:, 1],
        average=0.99,
        progress=f"ecg, {args.layer}, seed {' '.join(map(str, seeds))}",
    )
    seconds = (time.process_time() - start) / len(seeds)
    x, y, labelled = test_set
    measured = {"everywhere": [], "labelled": [], "rate": []}
    for i in range(len(seeds)):
        variables = jax.tree.map(lambda leaf, i=i: leaf[i], fitted.variables)
        answers, rates = training.predict(run, variables, x, batch_size=args.batch)
        right = answers == y
        measured["everywhere"].append(right[:, SKIPPED:].mean())
        measured["labelled"].append(right[:, SKIPPED:][labelled[:, SKIPPED:]].mean())
        measured["rate"].append(rates.mean())
    return {
        **measured,
        "parameters": harness.number(variables),
        "seconds": seconds,
        "options": {**options, "past": args.past},
        "network": (variables, answers, rates),
    }


def kinds():
    """What --compare compares, and the arguments by which each differs from the others."""
    names = "LIB LIT LITS SLIB RLIB DLIB ALIB SRLIB DSRLIB SLIT RLIT DLIT DSRLIT".split()
    plain = {"past": 0, "feedback": False}
    found = {name: {**plain, "layer": name} for name in names}
    found["LIB+past"] = {**found["LIB"], "past": 256}
    for name in ("LIB", "LIT", "DSRLIT"):
        found[f"{name}+feedback"] = {**found[name], "feedback": True}
    return found


def compare(args, train_set, test_set, seeds=range(5)):
    """Train five networks of each kind; print accuracy and its differences as a table.

    Each has an interval of 95 %, and spikes per neuron and step and seconds of the processor for
    one network follow. Networks of one seed see the same data, and differences are taken by seed.
    Networks that became NaN are counted, and left out of all this.
    """
    accuracy = {}
    for kind in args.compare or kinds():
        found = train(args, seeds, train_set, test_set, **kinds()[kind])
        accuracy[kind] = np.where(np.isfinite(found["rate"]), found["everywhere"], np.nan)
        cells = [kind, harness.interval(accuracy[kind]).lstrip("+")]
        for base in ("LIB", "LIT"):
            known = base in accuracy and base != kind
            cells.append(harness.interval(accuracy[kind] - accuracy[base]) if known else "")
        cells += [f"{np.nanmean(found['rate']):.3f}", f"{found['seconds']:.0f} s"]
        lost = int(np.isnan(accuracy[kind]).sum())
        print("| " + " | ".join(cells) + " |" + (f" {lost} lost" if lost else ""), flush=True)
    return np.nanmean(accuracy[kind])


def main():
    parser = harness.parser(__doc__, epochs=26, batch=16, rate=1e-2)
    add = parser.add_argument
    add("--layer", choices=snn.ALL_LAYERS, default="DSRLIT", metavar="NAME")
    add("--width", type=harness.count, default=64, help="neurons of each hidden layer")
    add("--blocks", type=harness.count, default=2, help="hidden layers")
    add("--dropout", type=float, default=0.3, help="share of spikes left out")
    add("--slowest", type=float, default=400, help="longest half-life at first")
    add("--past", type=int, default=256, help="steps whose spikes are counted; 0 for none")
    add("--steps", type=harness.count, default=1300, help="steps of a sequence in training")
    add("--max-rate", type=float, help="spikes per step beyond which a neuron is penalised")
    add("--feedback", action="store_true", help="neurons get the spikes of all of their layer")
    add("--tune", action="store_true", help="test on the last 120 training sequences")
    add("--compare", nargs="*", choices=kinds(), metavar="KIND", help="by default all: see kinds()")
    pretrained.add_save(parser)
    args = parser.parse_args()
    if args.save and (args.seeds or args.compare is not None or args.tune):
        harness.fail("--save writes one network and its test: no --seeds, --compare or --tune.")
    if args.smoke:
        args.epochs, args.width = 2, 8
        train_set, test_set = made_up(64), made_up(32)
    else:
        train_set, test_set = load(args.data)
    if (args.tune or args.compare is not None) and not args.smoke:
        train_set, test_set = ([a[part] for a in train_set] for part in PARTS)

    def run(seed):
        found = train(args, [seed], train_set, test_set)
        print(
            f"seed {seed}: {found['everywhere'][0]:.4f} of all steps, {found['labelled'][0]:.4f} "
            f"of the labelled ones; {found['parameters']} parameters, {found['rate'][0]:.3f} "
            f"spikes per neuron and step; {found['seconds']:.0f} s of the processor",
            flush=True,
        )
        if args.save:
            variables, answers, rates = found["network"]
            x, y, labelled = test_set
            rows = {"x": x, "y": y, "counted": labelled & (np.arange(y.shape[1]) >= SKIPPED)}
            pretrained.save(
                args.save, variables, rows, answers, rates, stored=20, seed=seed,
                options=found["options"], accuracy_of_all_steps=found["everywhere"][0],
            )  # fmt: skip
        return found["everywhere"][0]

    if args.compare is not None:
        print(f"held-out accuracy of the last {compare(args, train_set, test_set):.3f}")
    else:
        harness.over_seeds(args, run)


if __name__ == "__main__":
    main()
