"""The reference vectors, and how to run a layer on them in each of the ways a user can."""

import dataclasses
import functools
import json

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest

from tracetorch_jax import snn, spikes, training
from tracetorch_jax.functional.equations import equations

DATA = pages.DATA
LAYERS = tuple(snn.ALL_LAYERS)
TRACETORCH = tuple(name for name in LAYERS if not name.startswith("A"))  # with vectors
DUAL = tuple(name for name in LAYERS if name.startswith("D"))
FIRING = tuple(name for name in LAYERS if not name.endswith("LI"))
SYNAPTIC = tuple(name for name in LAYERS if "S" in name.split("LI")[0])
RECURRENT = tuple(name for name in LAYERS if "R" in name)

# Every two features of traceTorch's are together in one of these.
COVER = ("LI", "DSLI", "LIB", "DSRLIB", "RLIT", "DSLIT", "SLITS", "DRLITS")
QUICK = ("LI", "DSRLIB", "SLITS")


def each(layers, others=pytest.mark.nightly):
    """Layers as parameters: three in the quick tier, those of `COVER` in the next, then all."""
    marks = dict.fromkeys(COVER, pytest.mark.slow) | dict.fromkeys(QUICK, ())
    return [pytest.param(name, marks=marks.get(name, others)) for name in layers]


def some(values, kept):
    """Values as parameters: those that are kept in every tier, the others in the last."""
    return [pytest.param(v, marks=() if v in kept else pytest.mark.nightly) for v in values]


def first(values, number=1):
    """Values as parameters: the first of them in every tier, the others in the last."""
    return some(values, list(values)[:number])


# Three in every tier, all in the last: where a program takes seconds to compile.
FEW = some(LAYERS, QUICK)
EACH = each(LAYERS)  # for what knows steps rather than names
EVERY = each(LAYERS, pytest.mark.slow)  # where the layer itself is the subject: all from `test` on

# Greatest error relative to max(1, greatest magnitude), for values and for gradients.
TOLERANCE = {"float64": (1e-10, 1e-10), "float32": (2e-5, 1e-4)}


@dataclasses.dataclass(frozen=True)
class Case:
    layer: str
    info: dict
    arrays: dict

    def __getitem__(self, key):
        return self.arrays[key]

    def group(self, prefix):
        """Arrays below a prefix, by the rest of their names."""
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    @property
    def name(self):
        return self.info["name"]

    def options(self, *, zero_split="both"):
        """Arguments of the layer's constructor, parameters left at their defaults."""
        options = {"dim": self.info["dim"]}
        if self.layer in FIRING:
            options["spike"] = spikes.atan(self.info["surrogate"]["alpha"])
        if self.layer in DUAL:
            options["zero_split"] = zero_split
        return options

    def build(self, family=snn, **kwargs):
        """The layer with the case's parameters as values."""
        values = self.group("param/") if self.info["params"] == "given" else {}
        layer = getattr(family, self.layer)
        return layer(self.info["num_neurons"], **self.options(), **values, **kwargs)

    def build_default(self, family=snn, **kwargs):
        """The layer with parameters of the case's ranks, to be run with its raw parameters."""
        ranks = {f"{name}_rank": rank for name, rank in self.info["ranks"].items()}
        layer = getattr(family, self.layer)
        return layer(self.info["num_neurons"], **self.options(), **ranks, **kwargs)


@functools.cache
def cases(layer):
    """All cases of a layer."""
    with np.load(DATA / f"{layer}.npz") as z:
        meta = json.loads(str(z["meta"]))
        return [
            Case(
                layer,
                info,
                {k.split("/", 1)[1]: z[k] for k in z.files if k.startswith(info["name"] + "/")},
            )
            for info in meta["cases"]
        ]


def assert_close(got, want, tolerance, what):
    got, want = np.asarray(got, np.float64), np.asarray(want)
    assert got.shape == want.shape, (what, got.shape, want.shape)
    error = np.max(np.abs(got - want), initial=0) / max(1.0, np.max(np.abs(want), initial=0))
    assert error <= tolerance, f"{what}: error {error:.3g}"


# Each way of running a layer is one function to the last carry, the outputs and the gradients. All
# take and give NumPy arrays, so that nothing but the layer itself has to be compiled.


PADDED = (20, 3, 5)  # [T, B, N]: cases of this kind share one program


def _weighted(run, raw, carry, xs, weights):
    """Run, and gradients of ``sum(weights * out)``."""
    (last, out), pullback = jax.vjp(run, raw, carry, xs)
    zeros = jax.tree.map(jnp.zeros_like, last)
    return last, out, pullback((zeros, weights))


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("engine", "checkpoint_every", "unroll")
)
def through_unroll(layer, raw, carry, xs, weights, lengths=None, **options):
    model = snn.Unroll(layer, time_major=True, return_carry=True, **options)

    def run(raw, carry, xs):
        return model.apply({"params": {"cell": raw}}, xs, carry, seq_lengths=lengths)

    return _weighted(run, raw, carry, xs, weights)


@functools.partial(jax.jit, static_argnums=0)
def through_rnn(layer, raw, carry, xs, weights, lengths=None):
    model = nn.RNN(layer, time_major=True, return_carry=True)

    def run(raw, carry, xs):
        return model.apply({"params": {"cell": raw}}, xs, initial_carry=carry, seq_lengths=lengths)

    return _weighted(run, raw, carry, xs, weights)


@functools.partial(jax.jit, static_argnums=0)
def one_step(layer, raw, carry, x):
    return layer.apply({"params": raw}, carry, x)


@functools.partial(jax.jit, static_argnums=0)
def one_step_back(layer, raw, carry, x, cotangent):
    return jax.vjp(functools.partial(one_step, layer), raw, carry, x)[1](cotangent)


def carries_of(layer, raw, carry, xs):
    """Carries before the first and after every step, and the outputs, one call per step."""
    carries, ys = [carry], []
    for x in xs:
        carry, y = one_step(layer, raw, carry, x)
        carries.append(carry)
        ys.append(np.asarray(y))
    return carries, np.stack(ys)


def through_cell(layer, raw, carry, xs, weights, lengths=None):
    """One call per step, and backpropagation through time by hand.

    The first result holds the carries after every step rather than the last one.
    """
    steps = len(xs) if lengths is None else lengths[0]
    xs, weights = xs[:steps], weights[:steps]
    carries, out = carries_of(layer, raw, carry, xs)
    d_carry = {name: np.zeros_like(state) for name, state in carry.items()}
    d_raw = {name: np.zeros_like(value) for name, value in raw.items()}
    d_xs = []
    for t in reversed(range(len(xs))):
        d_step, d_carry, d_x = one_step_back(layer, raw, carries[t], xs[t], (d_carry, weights[t]))
        d_raw = {name: d_raw[name] + np.asarray(d_step[name]) for name in d_raw}
        d_xs.append(np.asarray(d_x))
    return carries[1:], out, (d_raw, d_carry, np.stack(d_xs[::-1]))


WAYS = {"cell": through_cell, "unroll": through_unroll, "rnn": through_rnn}

# What can be scanned without waiting for the layer's own output: synaptic traces, and LI.
LINEAR = ("LI", "DLI", *SYNAPTIC)
ENGINES = {
    "scan": {"engine": "scan"},
    "every state kept": {"engine": "scan", "checkpoint_every": 1},
    "fused": {"engine": "fused"},
    "pallas": {"engine": "fused", "unroll": 2},  # under a patch; a program of its own
    "parallel": {"engine": "parallel"},
}
WAYS |= {name: functools.partial(through_unroll, **options) for name, options in ENGINES.items()}


def arguments(case, dtype, family=snn):
    """The layer of a case and what it is run on.

    Vectors of parameters under the same spike function are padded to one size, with sequence
    lengths that say where the case itself ends: one program then serves them all.
    """
    raw = {f"raw_{name}": v.astype(dtype) for name, v in case.group("raw/").items()}
    zeros = {name: np.zeros_like(v[0]) for name, v in case.group("state/").items()}
    carry = {name: v.astype(dtype) for name, v in (zeros | case.group("init/")).items()}
    xs, weights = case["x"].astype(dtype), case["w"].astype(dtype)
    info, lengths = case.info, ()
    alpha = (info["surrogate"] or {"alpha": 2.0})["alpha"]
    if info["dim"] == -1 and set(info["ranks"].values()) == {1} and alpha == 2.0:
        lengths = (np.full(PADDED[1], info["T"], np.int32),)
        raw = {name: pad(v, PADDED[2:]) for name, v in raw.items()}
        carry = {name: pad(v, PADDED[1:]) for name, v in carry.items()}
        xs, weights = pad(xs, PADDED), pad(weights, PADDED)
        info = info | {"num_neurons": PADDED[2]}
    layer = dataclasses.replace(case, info=info).build_default(family, param_dtype=jnp.dtype(dtype))
    return layer, raw, carry, xs, weights, *lengths


def one_program(layer):
    """The cases of a layer that share one compiled program."""
    return [case for case in cases(layer) if len(arguments(case, "float64")) > 5]


def pad(array, shape):
    """Append zeros up to a shape."""
    return np.pad(array, [(0, new - old) for new, old in zip(shape, array.shape, strict=True)])


def crop(tree, *shape):
    """Undo `pad`."""
    return jax.tree.map(lambda a: np.asarray(a)[tuple(map(slice, shape[: np.ndim(a)]))], tree)


def check_case(case, way, dtype):
    """Compare output, states and every gradient with the reference."""
    value_tol, grad_tol = TOLERANCE[dtype]
    carries, out, gradients = WAYS[way](*arguments(case, dtype))
    step = case["x"].shape[1:]
    out, (d_raw, d_carry, d_xs) = crop(out, len(case["x"]), *step), gradients
    d_raw, d_xs = crop(d_raw, case.info["num_neurons"]), crop(d_xs, len(case["x"]), *step)
    carries, d_carry = crop(carries, *step), crop(d_carry, *step)

    label = f"{case.layer}/{case.name} through {way} in {dtype}"
    assert_close(out, case["out"], value_tol, f"{label}: out")
    for name, states in case.group("state/").items():
        if isinstance(carries, list):
            got = np.stack([carry[name] for carry in carries])
            assert_close(got, states, value_tol, f"{label}: {name} after every step")
        else:
            assert set(carries) == set(case.group("state/"))
            assert_close(carries[name], states[-1], value_tol, f"{label}: last {name}")
    assert_close(d_xs, case["grad/x"], grad_tol, f"{label}: grad x")
    for name, want in case.group("grad/raw/").items():
        assert_close(d_raw[f"raw_{name}"], want, grad_tol, f"{label}: grad {name}")
    for name, want in case.group("grad/init/").items():
        assert_close(d_carry[name], want, grad_tol, f"{label}: grad of initial {name}")


def scrambled(name, num_neurons=3, *, family=snn, seed=0, **kwargs):
    """A layer and parameters in which every part of it is at work."""
    layer = getattr(family, name)(num_neurons, **kwargs)
    rng = np.random.default_rng(seed)
    params = {}
    for p in layer.describe():
        low, high = {"sigmoid": (0.2, 0.95), "softplus": (0.2, 0.6), "none": (0.3, 1.2)}[
            p.constraint.name
        ]
        value = rng.uniform(low, high, p.shape)
        params[p.raw_name] = jnp.asarray(p.constraint.raw(value), layer.param_dtype)
    return layer, {"params": params}


def inputs(*shape, seed=1, dtype=np.float32):
    """Normal input in which a fifth is exactly 0."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape) * (rng.random(shape) > 0.2), dtype)


def under(variables, name="cell"):
    """A cell's variables as those of a module that holds it."""
    return {collection: {name: tree} for collection, tree in variables.items()}


def inner(variables, name="cell"):
    """The variables of a cell that a module holds: the inverse of `under`."""
    return {collection: tree[name] for collection, tree in variables.items()}


def assert_trees_close(got, want, tolerance=1e-5):
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    jax.tree.map(lambda a, b: assert_close(a, b, tolerance, "tree"), got, want)


def value_and_grads(run, *args):
    """Result of `run`, and the gradients of a fixed random weighting of it."""
    out, pullback = jax.vjp(run, *args)
    leaves, treedef = jax.tree.flatten(out)
    weights = [inputs(*leaf.shape, seed=7 + i, dtype=leaf.dtype) for i, leaf in enumerate(leaves)]
    return out, pullback(jax.tree.unflatten(treedef, weights))


def gradient(layer, lengths=None, **options):
    """A jitted function of variables and inputs: carry, outputs, and all gradients."""
    model = snn.Unroll(layer, time_major=True, return_carry=True, **options)

    def run(variables, xs):
        return model.apply(variables, xs, seq_lengths=lengths)

    return jax.jit(functools.partial(value_and_grads, run))


def check_equations(layer, variables):
    """Compare the text of a layer's equations with the layer, of one neuron and in float64."""
    values = {k: float(v[0]) for k, v in layer.apply(variables, method="parameters").items()}
    scope = values | dict.fromkeys(layer.spec.states, 0.0)
    scope |= {
        "pos": lambda v: max(v, 0.0), "neg": lambda v: min(v, 0.0), "spike": lambda u: float(u > 0)
    }  # fmt: skip
    carry, lines = None, "\n".join(equations(layer.spec))
    for x in np.random.default_rng(0).normal(0.4, 1.0, 30):
        exec(lines, scope | {"x": x}, kept := {})
        scope |= {k: kept.get(k, scope[k]) for k in layer.spec.states}
        carry, y = layer.apply(variables, carry, jnp.array([x]))
        np.testing.assert_allclose(y[0], kept["out"], rtol=1e-12)
    np.testing.assert_allclose([carry[k][0] for k in carry], [scope[k] for k in carry], rtol=1e-9)
    return scope


def check_online(layer, xs):
    """Compare gradients of the sum of squared outputs, as ``[T, B, N]`` runs and through time."""
    params = layer.init(jax.random.key(0), None, xs[0])["params"]
    init, step = training.online(layer)
    state, total = init(params, xs[0]), jax.tree.map(jnp.zeros_like, params)
    for x in xs:
        state, out, gradient = step(params, state, x)
        total = jax.tree.map(jnp.add, total, gradient(2 * out))
    model = snn.Unroll(layer, time_major=True)
    want = jax.grad(lambda p: (model.apply({"params": {"cell": p}}, xs) ** 2).sum())(params)
    assert_trees_close(total, want)
