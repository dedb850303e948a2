"""A language model of bytes whose only memory are traces: it learns Shakespeare, then writes.

    python examples/byte_lm.py --data tinyshakespeare.npz
    python examples/byte_lm.py --layer SRLITS            what it is between blocks: spikes
    python examples/byte_lm.py --write 500 --temperature 0.8

The network reads one byte per step and says how likely each byte is to be the next. Each block adds
to a stream of values what its neurons make of it: leaky averages over half-lives from a third of a
step to 30 steps, through a nonlinearity, or, with a layer that fires, its spikes. The last tenth
of the text is for validation, on which a 4-gram model reaches 1.669 nats per byte and a small
transformer, trained on a CPU, 1.88. After training, the network runs one step at a time, on bytes
that it drew itself, the carry handed from step to step.

Without --data the text is fetched from Andrej Karpathy's char-rnn.
"""

import sys

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import losses, snn, training

SOURCE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


def network(vocabulary, width, blocks, layer, dropout, *, training=False):
    """A stack that takes one byte per step and gives the logits of the next."""

    def block():
        trace = snn.layer(layer, 2 * width, half_lives=(0.3, 30.0))
        nonlinear = [] if trace.spec.fires else [nn.gelu]
        return snn.Residual(
            [
                nn.LayerNorm(),
                nn.Dense(2 * width),
                trace,
                *nonlinear,
                nn.Dense(width),
                nn.Dropout(dropout, deterministic=not training),
            ]
        )

    return snn.Sequential(
        [
            nn.Embed(vocabulary, width),
            *(block() for _ in range(blocks)),
            nn.LayerNorm(),
            nn.Dense(vocabulary),
        ]
    )


def load(path):
    """The text as bytes."""
    if path is None:
        return np.frombuffer(harness.fetch(SOURCE, "tinyshakespeare.txt").read_bytes(), np.uint8)
    if path.suffix == ".npz":
        return harness.read(path, "Leave out --data to fetch the text.")["text"]
    if not path.exists():
        harness.fail(f"there is no {path}. Leave out --data to fetch the text.")
    return np.frombuffer(path.read_bytes(), np.uint8)


def train(args, seed, symbols, vocabulary, options):
    """Train on symbols; return the cell's variables."""
    learner = snn.Unroll(network(vocabulary, **options, training=True))
    steps = args.steps
    starts = np.arange(0, len(symbols) - 2 * steps - 1, steps)
    text = jnp.asarray(symbols, jnp.int32)
    first, key = jax.random.split(jax.random.key(seed))

    def loss(variables, starts, key):
        move, drop = jax.random.split(key)
        begin = starts + jax.random.randint(move, (), 0, steps)
        piece = text[begin[:, None] + jnp.arange(steps + 1)]
        logits = learner.apply(variables, piece[:, :-1], rngs={"dropout": drop})
        # The first bytes have too little before them to learn from.
        counted = jnp.broadcast_to(jnp.arange(steps) >= min(8, steps // 2), piece[:, 1:].shape)
        return losses.step_cross_entropy(logits, piece[:, 1:], mask=counted).mean()

    updates = training.num_updates(len(starts), args.batch, args.epochs)
    fitted = training.fit(
        loss,
        learner.init({"params": first, "dropout": first}, text[None, :steps]),
        training.adamw(args.rate, updates, weight_decay=args.weight_decay),
        starts,
        epochs=args.epochs,
        batch_size=args.batch,
        key=key,
        average=0.99,
        progress=f"byte_lm, seed {seed}",
    )
    return {"params": fitted.variables["params"]["cell"]}


def nats_per_byte(cell, variables, symbols, streams):
    """Cross-entropy of a text, read in so many streams at once, each from its own beginning."""
    model = snn.Unroll(cell, return_carry=True)
    variables = {"params": {"cell": variables["params"]}}

    @jax.jit
    def read(carry, piece):
        carry, logits = model.apply(variables, piece[:, :-1], carry)
        return carry, losses.step_cross_entropy(logits, piece[:, 1:]).mean()

    length = (len(symbols) - 1) // streams
    piece = min(length, 200)
    text = np.stack([symbols[i * length : (i + 1) * length + 1] for i in range(streams)])
    carry = cell.initialize_carry(None, (streams,))
    values = []
    for start in range(0, length - piece + 1, piece):
        carry, value = read(carry, text[:, start : start + piece + 1].astype(np.int32))
        values.append(float(value))
    return np.mean(values)


def write(cell, variables, alphabet, prompt, length, temperature, seed):
    """Read a prompt and go on with it, byte by byte, on the standard output."""

    @jax.jit
    def step(carry, symbol, key):
        carry, logits = cell.apply(variables, carry, symbol)
        return carry, jax.random.categorical(key, logits / temperature)

    known = [int(np.searchsorted(alphabet, byte)) for byte in prompt if byte in alphabet]
    known = known or [0]
    carry, key = cell.initialize_carry(None, ()), jax.random.key(seed)
    guess = None
    for i in range(len(known) + length):
        symbol = jnp.asarray(known[i], jnp.int32) if i < len(known) else guess
        sys.stdout.write(chr(alphabet[symbol]))
        sys.stdout.flush()
        carry, guess = step(carry, symbol, jax.random.fold_in(key, i))
    print()


def main():
    parser = harness.parser(__doc__, epochs=8, batch=32, rate=3e-3)
    parser.add_argument("--layer", choices=snn.ALL_LAYERS, default="LI", metavar="NAME")
    parser.add_argument("--width", type=int, default=256, help="neurons of each block")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=128, help="bytes of a training sequence")
    parser.add_argument("--write", type=int, default=300, help="bytes to write after training")
    parser.add_argument("--prompt", default="ROMEO:", help="what to go on with")
    parser.add_argument("--temperature", type=float, default=0.8)
    args = parser.parse_args()
    if not args.temperature > 0:
        harness.fail(f"--temperature must be greater than 0; got {args.temperature}.")
    text = load(args.data) if args.data or not args.smoke else np.frombuffer(
        b"To be, or not to be, that is the question. " * 100, np.uint8
    )  # fmt: skip
    options = {
        "width": args.width, "blocks": args.blocks, "layer": args.layer, "dropout": args.dropout
    }  # fmt: skip
    if args.smoke:
        text, args.epochs, args.batch, args.steps, args.write = text[:5000], 2, 8, 32, 40
        options.update(width=16, blocks=1)
    alphabet, symbols = np.unique(text, return_inverse=True)
    cut = len(symbols) * 9 // 10
    cell = network(len(alphabet), **options)

    def run(seed):
        variables = train(args, seed, symbols[:cut], len(alphabet), options)
        result = nats_per_byte(cell, variables, symbols[cut:], streams=32 if cut > 1e5 else 4)
        print(f"seed {seed}: {result:.4f} nats per byte, {result / np.log(2):.4f} bits")
        if args.write:
            write(
                cell, variables, alphabet, args.prompt.encode(), args.write, args.temperature, seed
            )
        return result

    harness.over_seeds(args, run, name="validation nats per byte")


if __name__ == "__main__":
    main()
