"""Networks whose NIR graphs are executed by others, with scrambled parameters; graphs by hand."""

import functools
import gzip
import itertools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import nir
import numpy as np

from tracetorch_jax import snn

DATA = pathlib.Path(__file__).parents[1] / "data" / "nir"
SINGLE = tuple(name for name in snn.ALL_LAYERS if name[0] not in "AD")
NAMES = (*SINGLE, "stack", "residual")
N = 5


def fires(name):
    return name in SINGLE and not name.endswith("LI")


def scramble(variables, rng):
    """Parameters of every value, in the order of their names."""
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + rng.normal(0, 0.5, x.shape), x.dtype), variables
    )


@functools.cache
def case(name):
    """Model, variables and input ``[B, T, N]``."""
    rng = np.random.default_rng(sum(map(ord, name)))
    if name == "stack":
        cell = snn.Sequential([nn.Dense(8), snn.SRLITS(8), nn.Dense(6), snn.LIB(6), snn.SLI(6)])
    elif name == "residual":
        block = snn.Residual([snn.RLIT(N), nn.Dense(N, use_bias=False)])
        cell = snn.Sequential([nn.Dense(N), block, snn.LIB(N)])
    else:
        cell = snn.ALL_LAYERS[name](N)
    model = snn.Unroll(cell)
    xs = rng.normal(0.3, 1.5, (3, 40, N)).astype(np.float32)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 1, N)))
    return model, scramble(variables, rng), xs


@functools.partial(jax.jit, static_argnums=0)
def run(model, variables, xs):
    return model.apply(variables, xs)


def packed(name, folder):
    """A file of `tests/data/nir`, unpacked into a folder."""
    path = folder / f"{name}.nir"
    path.write_bytes(gzip.decompress((DATA / f"{name}.nir.gz").read_bytes()))
    return path


def full(value, n=3):
    return np.full(n, value, np.float32)


def chain(*nodes, shape=None):
    """A graph of nodes one after the other."""
    first = nodes[0].input_type["input"] if shape is None else np.array(shape)
    last = {"output": nodes[-1].output_type["output"]}
    named = {
        "input": nir.Input({"input": first}),
        **{f"n{i}": node for i, node in enumerate(nodes)},
        "output": nir.Output(last),
    }
    names = list(named)
    return nir.NIRGraph(named, list(itertools.pairwise(names)), type_check=False)
