"""A language model of bytes whose memory are traces: it learns Shakespeare, then writes.

    python examples/byte_lm.py --data tinyshakespeare.npz
    python examples/byte_lm.py --layer LI                no neuron fires
    python examples/byte_lm.py --write 500 --temperature 0.8
    python examples/byte_lm.py --tune                    score the end of the training text

At each step the network reads the last eight bytes and says how likely each byte is to be the next.
Each of the eight is a row of a table, and so is the pair of the last two: the sum of these rows is
what a Dense layer would make of inputs that are 0 or 1. What is longer ago is in the traces alone.

With a layer that fires, spikes are all that goes from layer to layer: each layer reads those of all
layers below, and so does the readout. Without one (LI), each block adds to a stream of values what
it makes of it: leaky averages over half-lives from a third of a step to 30 steps, of which one half
gates the other.

The last tenth of the text is for the result, and --tune scores the last ninth of the rest instead:
settings are chosen with it. After training, the network runs one step at a time, on bytes that it
drew itself, and each step goes on from the carry of the step before.

Without --data the text is fetched from Andrej Karpathy's char-rnn.
"""

import sys
import time

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import losses, record, snn, training

SOURCE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
READ = 8  # bytes that a step sees


class Read(nn.Module):
    """Rows of tables for the last bytes, each by its place, and for the last two together."""

    vocabulary: int
    width: int

    @nn.compact
    def __call__(self, symbols):
        """From symbols ``[..., READ]``, the newest last, to ``[..., width]``."""
        symbols = symbols.astype(jnp.int32)  # a carry is made with numbers of any kind
        places = symbols + self.vocabulary * jnp.indices(symbols.shape)[-1]
        pairs = symbols[..., -2] * self.vocabulary + symbols[..., -1]
        single = nn.Embed(READ * self.vocabulary, self.width)(places).sum(axis=-2)
        return single + nn.Embed(self.vocabulary**2, self.width)(pairs)


def network(vocabulary, width, blocks, layer, dropout, *, training=False):
    """A stack that takes the last bytes at each step and gives the logits of the next."""

    def drop():
        return nn.Dropout(dropout, deterministic=not training)

    def spikes():
        return [nn.LayerNorm(), snn.layer(layer, width, half_lives=(0.3, 15.0))]

    def reader():
        return snn.Residual([drop(), nn.Dense(width), *spikes()], merge="concatenate")

    def block():
        averages = snn.layer(layer, 2 * width, half_lives=(0.3, 30.0))
        gated = [nn.Dense(2 * width), averages, nn.glu]
        return snn.Residual([nn.LayerNorm(), *gated, nn.Dense(width), drop()])

    if snn.layer(layer, width).spec.fires:
        hidden = [*spikes(), *(reader() for _ in range(blocks - 1)), drop()]
    else:
        hidden = [*(block() for _ in range(blocks)), nn.LayerNorm()]
    return snn.Sequential([Read(vocabulary, width), *hidden, nn.Dense(vocabulary)])


def windows(symbols):
    """The last READ symbols at each step, ``[T, READ]``; before the first they are 0."""
    padded = np.concatenate([np.zeros(READ - 1, symbols.dtype), symbols])
    return np.lib.stride_tricks.sliding_window_view(padded, READ)


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
    starts = np.arange(0, len(symbols) - 2 * steps, steps)
    text, seen = jnp.asarray(symbols, jnp.int32), jnp.asarray(windows(symbols), jnp.int32)
    first, key = jax.random.split(jax.random.key(seed))

    def loss(variables, starts, key):
        move, drop = jax.random.split(key)
        at = starts[:, None] + jax.random.randint(move, (), 0, steps) + jnp.arange(steps)
        logits = learner.apply(variables, seen[at], rngs={"dropout": drop})
        return losses.step_cross_entropy(logits, text[at + 1]).mean()

    updates = training.num_updates(len(starts), args.batch, args.epochs)
    fitted = training.fit(
        loss,
        learner.init({"params": first, "dropout": first}, seen[None, :steps]),
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
    def read(carry, seen, following):
        carry, logits = model.apply(variables, seen, carry)
        return carry, losses.step_cross_entropy(logits, following).mean()

    length = (len(symbols) - 1) // streams
    piece = min(length, 200)
    text = np.stack([symbols[i * length : (i + 1) * length + 1] for i in range(streams)])
    text = text.astype(np.int32)
    seen = np.stack([windows(stream) for stream in text])
    carry = cell.initialize_carry(None, (streams, READ))
    values = []
    for start in range(0, length - piece + 1, piece):
        end = start + piece
        carry, value = read(carry, seen[:, start:end], text[:, start + 1 : end + 1])
        values.append(float(value))
    return np.mean(values)


def firing_rate(cell, variables, symbols):
    """Spikes per neuron and step over a text, of either sign."""
    variables = {"params": {"cell": variables["params"]}}
    _, layers = record(snn.Unroll(cell), variables, windows(symbols)[None])
    return np.mean([float(jnp.mean(each.outputs != 0)) for each in layers.values()])


def write(cell, variables, alphabet, prompt, length, temperature, seed):
    """Read a prompt and go on with it, byte by byte, on the standard output."""

    @jax.jit
    def step(carry, seen, key):
        carry, logits = cell.apply(variables, carry, seen)
        return carry, jax.random.categorical(key, logits / temperature)

    known = [int(np.searchsorted(alphabet, byte)) for byte in prompt if byte in alphabet]
    known = known or [0]
    carry, key = cell.initialize_carry(None, (READ,)), jax.random.key(seed)
    seen, guess = np.zeros(READ, np.int32), None
    for i in range(len(known) + length):
        symbol = known[i] if i < len(known) else int(guess)
        sys.stdout.write(chr(alphabet[symbol]))
        sys.stdout.flush()
        seen = np.append(seen[1:], np.int32(symbol))
        carry, guess = step(carry, seen, jax.random.fold_in(key, i))
    print()


def main():
    parser = harness.parser(__doc__, epochs=2, batch=16, rate=3e-3)
    parser.add_argument("--layer", choices=snn.ALL_LAYERS, default="LIB", metavar="NAME")
    parser.add_argument("--width", type=harness.count, default=512, help="neurons of each layer")
    parser.add_argument("--blocks", type=harness.count, default=3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=128, help="bytes of a training sequence")
    parser.add_argument(
        "--tune", action="store_true", help="train on the first eight tenths, score the ninth"
    )
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
        options.update(width=16, blocks=2)
    alphabet, symbols = np.unique(text, return_inverse=True)
    cut = len(symbols) * 9 // 10
    if args.tune:
        symbols, cut = symbols[:cut], cut * 8 // 9
    cell = network(len(alphabet), **options)

    def run(seed):
        start = time.process_time()
        variables = train(args, seed, symbols[:cut], len(alphabet), options)
        held_out = symbols[cut:]
        result = nats_per_byte(cell, variables, held_out, streams=32 if cut > 1e5 else 4)
        number = harness.number(variables)
        rate = ""
        if snn.layer(args.layer, 1).spec.fires:
            rate = (
                f"{firing_rate(cell, variables, held_out[:5000]):.3f} spikes per neuron and step; "
            )
        print(
            f"seed {seed}: {result:.4f} nats per byte, {result / np.log(2):.4f} bits; {rate}"
            f"{number} parameters; {(time.process_time() - start) / 60:.1f} CPU minutes"
        )
        if args.write:
            write(
                cell, variables, alphabet, args.prompt.encode(), args.write, args.temperature, seed
            )
        return result

    harness.over_seeds(args, run, name="validation nats per byte")


if __name__ == "__main__":
    main()
