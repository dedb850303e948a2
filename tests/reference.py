"""The reference vectors, and how to run a layer on them in each of the ways a user can."""

import dataclasses
import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tracetorch_jax import snn, spikes

DATA = pathlib.Path(__file__).parent / "data"
LAYERS = tuple(snn.ALL_LAYERS)
DUAL = tuple(name for name in LAYERS if name.startswith("D"))
FIRING = tuple(name for name in LAYERS if not name.endswith("LI"))

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
        """The layer with the case's parameters."""
        given = self.info["params"] == "given"
        values = self.group("param/") if given else {}
        values = {name: jnp.asarray(v) if v.ndim == 0 else v for name, v in values.items()}
        layer = getattr(family, self.layer)
        return layer(self.info["num_neurons"], **self.options(), **values, **kwargs)


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


def run_unroll(layer, raw, carry, xs, **options):
    model = snn.Unroll(layer, time_major=True, return_carry=True, **options)
    return model.apply({"params": {"cell": raw}}, xs, carry)


def run_rnn(layer, raw, carry, xs):
    model = nn.RNN(layer, time_major=True, return_carry=True)
    return model.apply({"params": {"cell": raw}}, xs, initial_carry=carry)


@functools.lru_cache(maxsize=1)
def _jitted_step(layer):
    return jax.jit(lambda raw, carry, x: layer.apply({"params": raw}, carry, x))


def run_steps(layer, raw, carry, xs, record=None):
    """One call per step; `record` collects the carries."""
    carry = layer.initialize_carry(None, xs.shape[1:]) if carry is None else carry
    step, ys = _jitted_step(layer), []
    for x in xs:
        carry, y = step(raw, carry, x)
        ys.append(y)
        if record is not None:
            record.append(carry)
    return carry, jnp.stack(ys)


WAYS = {"cell": run_steps, "unroll": run_unroll, "rnn": run_rnn}


def check_case(case, way, dtype, family=snn):
    """Compare output, last states and every gradient with the reference."""
    value_tol, grad_tol = TOLERANCE[dtype]
    cast = functools.partial(jax.tree.map, lambda a: jnp.asarray(a, dtype))
    layer = case.build(family, param_dtype=jnp.dtype(dtype))
    raw = cast({f"raw_{name}": v for name, v in case.group("raw/").items()})
    xs, weights = cast(case["x"]), cast(case["w"])
    carry = cast(case.group("init/"))
    if not carry:
        carry = layer.initialize_carry(None, xs.shape[1:])

    def forward(raw, carry, xs):
        return WAYS[way](layer, raw, carry, xs)

    (last, out), pullback = jax.vjp(forward, raw, carry, xs)
    label = f"{case.layer}/{case.name} through {way} of {family.__name__} in {dtype}"
    assert_close(out, case["out"], value_tol, f"{label}: out")
    for name, states in case.group("state/").items():
        assert_close(last[name], states[-1], value_tol, f"{label}: {name}")
    assert set(last) == set(case.group("state/"))

    zeros = jax.tree.map(jnp.zeros_like, last)
    d_raw, d_carry, d_xs = pullback((zeros, weights))
    assert_close(d_xs, case["grad/x"], grad_tol, f"{label}: grad x")
    for name, want in case.group("grad/raw/").items():
        assert_close(d_raw[f"raw_{name}"], want, grad_tol, f"{label}: grad {name}")
    for name, want in case.group("grad/init/").items():
        assert_close(d_carry[name], want, grad_tol, f"{label}: grad of initial {name}")
