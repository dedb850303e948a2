"""Classify time series: one spiking network, and one way to train it, for any data set.

    python examples/series.py --data ArrowHead.npz --seeds 3
    python examples/series.py --data ArrowHead.npz --seeds 3 --hold-out 0.25
    python examples/series.py --data fsdd_mel.npz --groups speaker

The file holds arrays x_train, y_train, x_test and y_test. Sequences are [rows, steps] or [rows,
steps, channels], classes integers or words. Sequences of different lengths are padded at their end:
with NaN, or with anything if length_train and length_test say how long they are. Nothing is chosen
for a data set: what differs follows from the number of rows and steps.

Every layer reads a few steps at once of what the layers before it fire, which is 0 or 1, and the
readout reads how often each neuron has fired. Channels are standardised; their slope and the time
are added. Sequences of more than 64 steps are read with a stride. Each time a sequence is learnt
from, it is changed anew: the more, the fewer there are. All seeds are trained at once.

--compare LIB LIT trains five networks of each kind of layer, unless --seeds says how many, and
prints how they differ from the first kind, by seed, with intervals of 95 %.

--hold-out scores a share of the training rows, drawn by --seed, and leaves the test set alone:
choose settings with it. --groups NAME joins both sets, and leaves out in turn each group that the
arrays NAME_train and NAME_test name, such as a speaker; with --only one of them. --save writes the
trained network, see `pretrained.py`.
"""

import functools
import time

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pretrained

from tracetorch_jax import augment, decode, encode, losses, snn, training

STEPS = 64  # that the network runs for, at most
TAPS = 5  # steps that a layer reads at once
MAX_RATE = 0.1  # spikes per step of a neuron, beyond which it is penalised


class Network(nn.Module):
    """Spiking layers, each a convolution over time of what those before it fire, and a readout."""

    classes: int
    layer: str
    width: int
    blocks: int
    learning: bool = False

    @nn.compact
    def __call__(self, xs, lengths):
        """Logits ``[B, classes]``, spikes ``[B, T, neurons]`` and the lengths of these."""
        dropout = nn.Dropout(0.2, deterministic=not self.learning)
        stride = -(-xs.shape[1] // STEPS)
        lengths = -(-lengths // stride)
        clock = jnp.broadcast_to(jnp.linspace(-1, 1, xs.shape[1])[:, None], (*xs.shape[:2], 1))
        read = jnp.concatenate([xs, clock], axis=-1)
        read = encode.windows(read, max(TAPS, 2 * stride + 1), stride=stride)
        fired = []
        for i in range(self.blocks):
            if i:
                gap = max(1, min(2 ** (i - 1), read.shape[1] // 8))
                read = encode.delayed(dropout(sum(fired)), range(0, TAPS * gap, gap))
            cell = snn.Sequential(
                [
                    nn.Dense(self.width),
                    nn.BatchNorm(use_running_average=not self.learning, momentum=0.95),
                    snn.layer(self.layer, self.width, half_lives=(0.3, 8), detach_reset=True),
                ]
            )
            fired.append(snn.Unroll(cell)(read, seq_lengths=lengths))
        spikes = jnp.concatenate(fired, axis=-1)
        rates = decode.mean(spikes, seq_lengths=lengths)
        return nn.Dense(self.classes)(dropout(3 * rates)), spikes, lengths


def load(path):
    """Sequences ``[B, T, N]``, lengths, classes and any other arrays, for training and testing."""
    arrays = harness.read(path, "The first lines of this example say what it holds.")
    sets = []
    for part in ("train", "test"):
        own = {name[: -len(part) - 1]: arrays[name] for name in arrays if name.endswith("_" + part)}
        if not {"x", "y"} <= set(own):
            harness.fail(f"{path} must hold x_{part} and y_{part}; it has {sorted(arrays)}.")
        x = own["x"].astype(np.float32)
        x = x[..., None] if x.ndim == 2 else x
        if x.ndim != 3 or not x.size or own["y"].shape != x.shape[:1]:
            harness.fail(f"x_{part} must be sequences with a class each; got shape {x.shape}.")
        last = x.shape[1] - np.isfinite(x).any(axis=-1)[:, ::-1].argmax(axis=1)
        lengths = np.clip(own.get("length", last), 1, x.shape[1]).astype(np.int32)
        sets.append({**own, "x": x, "length": lengths})
    if sets[0]["x"].shape[1:] != sets[1]["x"].shape[1:]:
        harness.fail(f"x_train and x_test must be of one length and number of channels in {path}.")
    if set(sets[1]["y"].tolist()) - set(sets[0]["y"].tolist()):
        harness.fail(f"y_test of {path} must have no class that y_train lacks.")
    classes = np.unique(sets[0]["y"])
    return [{**own, "y": np.searchsorted(classes, own["y"]).astype(np.int32)} for own in sets]


def made_up(rows, steps=20):
    """Data of the same form, of different lengths: waves, the faster the higher their class."""
    rng = np.random.default_rng(0)
    y = (np.arange(rows) % 3).astype(np.int32)
    x = np.sin(rng.uniform(0, 6, (rows, 1)) + 0.4 * (y[:, None] + 1) * np.arange(steps))
    lengths = rng.integers(steps // 2, steps + 1, rows).astype(np.int32)
    return {"x": x[..., None].astype(np.float32), "length": lengths, "y": y}


def features(own):
    """Values and slopes ``[B, T, 2 N]``; NaN is what is missing."""
    return np.asarray(encode.slopes(np.where(np.isfinite(own["x"]), own["x"], np.nan)))


def scales(own):
    """Of a training set: the mean and deviation of its features, and which of them are known.

    What no row has, such as the slope of a channel that misses every other step, is left out.
    """
    first = features(own)
    inside = np.arange(first.shape[1]) < own["length"][:, None]
    used = (np.isfinite(first) & inside[..., None]).any(axis=(0, 1))
    found = encode.standardiser(first[..., used], seq_lengths=own["length"])
    return {"used": used, "mean": found.mean, "deviation": found.deviation}


def standardised(scales, own):
    """Features ``[B, T, C]`` ready to be learnt, and lengths.

    The mean and the deviation of each in the training set become 0 and 1. A missing value becomes
    0, padding a copy of the last step.
    """
    standardise = encode.Standardiser(scales["mean"], scales["deviation"])
    x = np.nan_to_num(standardise(features(own)[..., scales["used"]]))
    ends = np.minimum(np.arange(x.shape[1]), own["length"][:, None] - 1)
    return np.take_along_axis(x, ends[..., None], axis=1), own["length"]


def answer(model, variables, xs, lengths):
    """Of each sequence the class ``[B]``, -1 for NaN, and spikes per neuron and step ``[B]``."""
    logits, spikes, lengths = model.apply(variables, xs, lengths)
    classes = jnp.where(jnp.isnan(logits).any(axis=-1), -1, logits.argmax(axis=-1))
    return classes, decode.mean(spikes**2, seq_lengths=lengths).mean(axis=-1)


def trained(options, variables):
    """Of a network that was saved: the model, and how its input is prepared and its output read.

    The scales are taken out of `variables`.
    """
    model, own = Network(**options), variables.pop("scales")

    def prepare(x, length):
        return standardised(own, {"x": x.astype(np.float32), "length": length.astype(np.int32)})

    return model, prepare, functools.partial(answer, model)


def train(args, train_set, test_set, title):
    """Train a network for each seed; return accuracies and firing rates, print what they took."""
    start = time.process_time()
    own = scales(train_set)
    data = (*standardised(own, train_set), train_set["y"])
    test = standardised(own, test_set)
    classes = 1 + int(max(train_set["y"].max(), test_set["y"].max()))
    options = {"classes": classes, "layer": args.layer, "width": args.width, "blocks": args.blocks}
    learner, model = Network(**options, learning=True), Network(**options)
    seeds = jax.vmap(jax.random.key)(args.seed + jnp.arange(args.seeds or 1))
    first, keys = jax.vmap(jax.random.split, out_axes=1)(seeds)
    variables = jax.jit(jax.vmap(model.init, (0, None, None)))(first, data[0][:1], data[1][:1])
    epochs = args.epochs or -(-args.updates // training.num_updates(len(data[0]), args.batch, 1))
    updates = training.num_updates(len(data[0]), args.batch, epochs)
    strength = args.strength
    if strength is None:
        strength = 0.1 * min(1, (300 / len(data[0])) ** 0.5)

    def loss(variables, batch, key):
        xs, lengths, labels = batch
        change, drop = jax.random.split(key)
        (logits, spikes, lengths), changed = learner.apply(
            variables,
            augment.vary(change, xs, strength),
            lengths,
            rngs={"dropout": drop},
            mutable=["batch_stats"],
        )
        error = losses.cross_entropy(logits[:, None], labels, label_smoothing=0.1).mean()
        rate = losses.rate_penalty(spikes, max_rate=MAX_RATE, seq_lengths=lengths)
        return error + 10 * args.blocks * rate, changed

    fitted = training.fit(
        loss,
        variables,
        training.adamw(args.rate, updates, weight_decay=0.01),
        data,
        epochs=epochs,
        batch_size=args.batch,
        key=keys,
        average=0.99,
        progress=title,
    )

    def run(variables, batch):
        return answer(model, variables, *batch)

    every = jax.vmap(run, in_axes=(0, None), out_axes=1)
    answers, rates = training.predict(every, fitted.variables, test, batch_size=100)
    networks = [jax.tree.map(lambda x, i=i: x[i], fitted.variables) for i in range(len(keys))]
    if args.save:
        rows = {name: test_set[name] for name in ("x", "length", "y")}
        pretrained.save(
            args.save, networks[0] | {"scales": own}, rows, answers[:, 0], rates[:, 0],
            stored=20, seed=args.seed, options=options,
        )  # fmt: skip
    right = np.where(answers < 0, np.nan, answers == test_set["y"][:, None]).mean(axis=0)
    rates = rates.mean(axis=0)
    some = [part[:100] for part in test]  # whose every state is kept at once
    energy = np.mean([harness.nanojoules(model, each, *some) for each in networks])
    spent = (time.process_time() - start) / 60
    print(
        f"{title}: accuracy {' '.join(f'{value:.4f}' for value in right)}; firing rate "
        f"{rates.mean():.3f}; {energy:.0f} nJ of synaptic operations a row, padding included; "
        f"{harness.number(networks[0])} parameters, {updates} updates; {spent:.1f} CPU minutes"
    )
    return right, rates


def rows(own, chosen):
    return {name: values[chosen] for name, values in own.items()}


def compare(args, trials):
    """Train networks of each kind of layer; print their accuracies and differences as a table."""
    found = {}
    for layer in args.compare:
        args.layer = layer
        measured = [train(args, *sets, f"{layer}, {title}") for title, sets in trials.items()]
        right, rates = np.mean(measured, axis=0)
        found[layer] = right
        cells = [layer, harness.interval(right).lstrip("+")]
        cells.append(harness.interval(right - found[args.compare[0]]) if len(found) > 1 else "")
        print("| " + " | ".join([*cells, f"{rates.mean():.3f}"]) + " |", flush=True)
    return right


def main():
    parser = harness.parser(__doc__, epochs=None, batch=32, rate=1e-2)
    add = parser.add_argument
    add("--updates", type=harness.count, default=1500, help="updates, unless --epochs is given")
    add("--layer", choices=snn.ALL_LAYERS, default="LIB", metavar="NAME")
    add("--compare", nargs="+", choices=snn.ALL_LAYERS, metavar="NAME", help="kinds of layers")
    add("--width", type=harness.count, default=64, help="neurons of each layer")
    add("--blocks", type=harness.count, default=3, help="layers")
    add("--strength", type=float, help="of the changes in training; 0 for none")
    add("--hold-out", type=float, metavar="SHARE", help="of the training rows, to be scored")
    add("--groups", metavar="NAME", help="leave out each group of rows in turn")
    add("--only", metavar="GROUP", help="leave out this one of the groups, and no other")
    pretrained.add_save(parser)
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.width = 2, 8
        train_set, test_set = made_up(64), made_up(32)
    elif args.data is None:
        harness.fail("--data must name a file: the first lines of this example say what it holds.")
    else:
        train_set, test_set = load(args.data)
    trials = {"all": (train_set, test_set)}
    if args.hold_out is not None:
        order = np.random.default_rng(args.seed).permutation(len(train_set["y"]))
        kept = round((1 - args.hold_out) * len(order))
        if not 0 < kept < len(order):
            harness.fail(f"--hold-out must be a share between 0 and 1; got {args.hold_out}.")
        trials = {"held out": (rows(train_set, order[:kept]), rows(train_set, order[kept:]))}
    if args.only is not None and not args.groups:
        harness.fail("--only needs --groups.")
    if args.groups:
        if args.groups not in train_set:
            harness.fail(f"--groups must be one of {sorted(train_set)}; got {args.groups}.")
        both = {name: np.concatenate([train_set[name], test_set[name]]) for name in test_set}
        groups = both[args.groups]
        trials = {
            f"without {group}": (rows(both, groups != group), rows(both, groups == group))
            for group in np.unique(groups)
            if args.only in (None, str(group))
        }
        if not trials:
            known = " ".join(map(str, np.unique(groups)))
            harness.fail(f"--only must be one of the groups {known}; got {args.only}.")
    if args.save and (len(trials) > 1 or args.compare or args.hold_out or (args.seeds or 1) > 1):
        harness.fail(
            "--save writes one network and its test: one seed, one group (--only), no --compare "
            "and no --hold-out."
        )
    if args.compare:
        args.seeds = args.seeds or 5
        if args.seeds < 2:
            harness.fail("--compare needs --seeds of 2 or more, since it gives intervals.")
        print(f"mean accuracy of the last {compare(args, trials).mean():.3f}")
        return
    results = np.mean([train(args, *sets, title)[0] for title, sets in trials.items()], axis=0)
    harness.over_seeds(args, lambda seed: results[seed - args.seed])


if __name__ == "__main__":
    main()
