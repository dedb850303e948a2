"""Which features work together: each combination is run.

`python tools/write_tables.py compatibility` puts the table into docs/compatibility.md; the tests
check that it is there as it is found.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pages
from flax import nnx as fnnx
from jax.sharding import PartitionSpec as P

from tracetorch_jax import diagnose, export, interop, nnx, record, sharding, snn, spikes
from tracetorch_jax.snn.flex import Decay, LeakyIntegrator, Threshold, Weight

PAGE = pages.DOCS / "compatibility.md"
BEGIN, END = "<!-- written by tools/write_tables.py -->\n", "<!-- end -->\n"
B, T, N = 2, 6, 4


@dataclasses.dataclass(frozen=True)
class Thing:
    """Something a user has: a cell, what it is given, and how it is made in nnx."""

    cell: Callable[[], Any]
    in_nnx: Callable[[], Any] | None = None
    shape: tuple[int, ...] = (N,)
    dtype: Any = jnp.float32
    lengths: tuple[int, ...] | None = None
    rngs: tuple[str, ...] = ()

    @functools.cached_property
    def model(self):
        return snn.Unroll(self.cell())

    @functools.cached_property
    def xs(self):
        values = np.random.default_rng(0).normal(size=(B, T, *self.shape)) * 3
        return jnp.asarray(values, self.dtype)

    @functools.cached_property
    def variables(self):
        return self.model.init({"params": jax.random.key(0), **self.keys}, self.xs)

    @property
    def keys(self):
        return {name: jax.random.key(1) for name in self.rngs}

    @property
    def options(self):
        options: dict[str, Any] = {"rngs": self.keys} if self.rngs else {}
        if self.lengths is not None:
            options["seq_lengths"] = jnp.array(self.lengths)
        return options

    @functools.cached_property
    def want(self):
        return self.model.apply(self.variables, self.xs, **self.options)

    def same(self, ys, tolerance=1e-5):
        """Raise unless a route gave what the model gives."""
        got, want = (np.asarray(y, np.float32) for y in (ys, self.want))
        np.testing.assert_allclose(got, want, atol=tolerance)


def linear(width):
    return fnnx.Linear(N, width, rngs=fnnx.Rngs(0))


def recurrent():
    return nnx.Recurrent(nnx.SLIB(N), rngs=fnnx.Rngs(0))


def flatten(x):
    return x.reshape(*x.shape[:-3], -1)


HALVES = {"pos_beta": 0.9, "neg_beta": 0.8}
WHOLE = {"delay": (0.0, 1.0, 3.0, 5.0), "delay_learnable": False}
RANDOM = {"spike": spikes.bernoulli(spikes.sigmoid(4.0))}
THINGS = {
    "`LI`, `SLI`": Thing(lambda: snn.SLI(N), lambda: nnx.SLI(N)),
    "`DLI`, `DSLI`": Thing(lambda: snn.DSLI(N, **HALVES), lambda: nnx.DSLI(N, **HALVES)),
    "single layers that fire, with `S`": Thing(lambda: snn.SRLITS(N), lambda: nnx.SRLITS(N)),
    "layers that fire, without `S`": Thing(lambda: snn.RLIT(N), lambda: nnx.RLIT(N)),
    "dual layers that fire": Thing(
        lambda: snn.DSRLITS(N, **HALVES), lambda: nnx.DSRLITS(N, **HALVES)
    ),
    "layers with `A`": Thing(lambda: snn.ASRLIT(N), lambda: nnx.ASRLIT(N)),
    "adaptation, in `flex`": Thing(
        lambda: LeakyIntegrator(
            N,
            pos_beta=Decay(0.9),
            pos_threshold=Threshold(1.0),
            rho=Decay(0.9),
            adapt_weight=Weight(1.0),
        ),
        lambda: nnx.flex.LeakyIntegrator(
            N,
            pos_beta=Decay(0.9),
            pos_threshold=Threshold(1.0),
            rho=Decay(0.9),
            adapt_weight=Weight(1.0),
        ),
    ),
    "`flex.LeakyIntegrator` beyond the named layers, with a bias": Thing(
        lambda: LeakyIntegrator(
            N, pos_beta=Decay(0.9), pos_threshold=Threshold(1.0), bias=Weight(0.1)
        ),
        lambda: nnx.flex.LeakyIntegrator(
            N, pos_beta=Decay(0.9), pos_threshold=Threshold(1.0), bias=Weight(0.1)
        ),
    ),
    '`reset="zero"`, binary': Thing(
        lambda: snn.SRLIB(N, reset="zero"), lambda: nnx.SRLIB(N, reset="zero")
    ),
    '`reset="zero"`, ternary': Thing(
        lambda: snn.SRLITS(N, reset="zero"), lambda: nnx.SRLITS(N, reset="zero")
    ),
    "parameters that are constants": Thing(
        lambda: snn.SLIB(N, beta_learnable=False), lambda: nnx.SLIB(N, beta_learnable=False)
    ),
    "stacks with Dense": Thing(
        lambda: snn.Sequential([nn.Dense(3), snn.SLIB(3)]),
        lambda: nnx.Sequential([linear(3), nnx.SLIB(3)]),
    ),
    "`Residual`": Thing(
        lambda: snn.Residual([nn.Dense(N), snn.SLIB(N)]),
        lambda: nnx.Residual([linear(N), nnx.SLIB(N)]),
    ),
    "`Recurrent`": Thing(lambda: snn.Recurrent(snn.SLIB(N)), recurrent),
    "`Delay`, in whole steps": Thing(
        lambda: snn.Sequential([snn.Delay(N, 5, **WHOLE), snn.SLIB(N)]),
        lambda: nnx.Sequential([nnx.Delay(N, 5, **WHOLE), nnx.SLIB(N)]),
    ),
    "`Delay`, learnt": Thing(
        lambda: snn.Sequential([snn.Delay(N, 5, delay=2.4), snn.SLIB(N)]),
        lambda: nnx.Sequential([nnx.Delay(N, 5, delay=2.4), nnx.SLIB(N)]),
    ),
    "`DelayedDense`": Thing(
        lambda: snn.Sequential([snn.DelayedDense(3, 5), snn.SLIB(3)]),
        lambda: nnx.Sequential([nnx.DelayedDense(N, 3, 5, rngs=fnnx.Rngs(0)), nnx.SLIB(3)]),
    ),
    "convolutions, channels last": Thing(
        lambda: snn.Sequential(
            [nn.Conv(3, (3, 3), padding=1), snn.SLIB(3), flatten, nn.Dense(2), snn.LI(2, ema=False)]
        ),
        lambda: nnx.Sequential(
            [
                fnnx.Conv(1, 3, (3, 3), padding=1, rngs=fnnx.Rngs(0)),
                nnx.SLIB(3),
                flatten,
                fnnx.Linear(48, 2, rngs=fnnx.Rngs(0)),
                nnx.LI(2, ema=False),
            ]
        ),
        shape=(4, 4, 1),
    ),
    "BatchNorm, measured": Thing(
        lambda: snn.Sequential([nn.BatchNorm(use_running_average=True), snn.SLIB(N)]),
        lambda: nnx.Sequential(
            [fnnx.BatchNorm(N, use_running_average=True, rngs=fnnx.Rngs(0)), nnx.SLIB(N)]
        ),
    ),
    "Flax's own cells": Thing(lambda: snn.Sequential([nn.GRUCell(N), snn.SLIB(N)])),
    "`seq_lengths`": Thing(lambda: snn.SLIB(N), lambda: nnx.SLIB(N), lengths=(6, 3)),
    "stochastic spikes": Thing(
        lambda: snn.SLIB(N, **RANDOM),
        lambda: nnx.SLIB(N, **RANDOM, rngs=fnnx.Rngs(0)),
        rngs=("spike",),
    ),
    "bfloat16 input": Thing(lambda: snn.SLIT(N), lambda: nnx.SLIT(N), dtype=jnp.bfloat16),
}


def through_rnn(thing):
    if thing.lengths is not None:
        raise ValueError("`flax.linen.RNN` computes beyond the end of a sequence, too.")
    if isinstance(thing.model.cell, snn.Sequential) and thing.model.cell.num_feature_axes > 1:
        raise ValueError("`flax.linen.RNN` takes axis 3 of [B, T, H, W, C] for time.")
    model = nn.RNN(
        thing.model.cell,
        variable_broadcast=("params", "batch_stats"),
        split_rngs={"params": False, "spike": True},
    )
    ys = model.apply(thing.variables, thing.xs, rngs=thing.keys or None)
    if not thing.rngs:
        thing.same(ys)


def through_nnx(thing):
    if thing.in_nnx is None:
        raise ValueError("Flax's GRUCell has other parameters in nnx than in linen.")
    model = nnx.from_linen(thing.variables, nnx.Unroll(thing.in_nnx()))
    options = {name: value for name, value in thing.options.items() if name != "rngs"}
    ys = model(thing.xs, **options)
    if not thing.rngs:  # whose numbers come from elsewhere
        thing.same(ys)
    assert jax.tree.structure(nnx.to_linen(model)["params"]) == jax.tree.structure(
        dict(thing.variables.get("params", {}))
    )


def through_engine(thing, engine):
    thing.same(thing.model.clone(engine=engine).apply(thing.variables, thing.xs, **thing.options))


def through_record(thing):
    ys, layers = record(thing.model, thing.variables, thing.xs, **thing.options)
    thing.same(ys)
    assert layers
    str(diagnose(thing.model, thing.variables, thing.xs, **thing.options))


def through_torch(thing):
    flat = {"3": (3, 4, 4)} if len(thing.shape) == 3 else None
    written = interop.to_torch(thing.variables, thing.model, thing.xs, flatten=flat)
    variables = interop.from_torch(written, thing.model, thing.xs, flatten=flat)
    thing.same(thing.model.apply(variables, thing.xs, **thing.options))


def through_nir(thing):
    graph = interop.to_nir(thing.model, thing.variables, input_shape=thing.shape)
    model, variables = interop.from_nir(graph)
    thing.same(model.apply(variables, thing.xs, **thing.options), 0)


def through_sequence(thing):
    program = export.sequence(
        thing.model,
        thing.variables,
        ("b", "t", *thing.shape),
        dtype=thing.dtype,
        rngs=thing.rngs,
        seq_lengths=None if thing.lengths is None else "b",
    )
    thing.same(program.call(thing.xs, **thing.options))


def through_step(thing):
    if thing.lengths is not None:
        raise ValueError("A stream has no end that is known beforehand.")
    program = export.step(
        thing.model, thing.variables, ("b", *thing.shape), dtype=thing.dtype, rngs=thing.rngs
    )
    step = jax.jit(program.call)
    carry = export.initial_carry(program, thing.xs[:, 0])
    ys = []
    for t in range(T):
        carry, y = step(carry, thing.xs[:, t], **thing.options)
        ys.append(y)
    if not thing.rngs:  # the same key at every step here
        thing.same(jnp.stack(ys, axis=1))


def through_mesh(thing):
    mesh = jax.make_mesh((1,), ("data",))
    with jax.set_mesh(mesh):
        xs = sharding.shard(thing.xs, mesh, P("data"))
        variables = sharding.shard(thing.variables, mesh, P())
        options = dict(thing.options)
        if thing.lengths is not None:
            options["seq_lengths"] = sharding.shard(options["seq_lengths"], mesh, P("data"))
        run = jax.jit(lambda variables, xs: thing.model.apply(variables, xs, **options))
        ys = run(variables, xs)
        assert "data" in str(ys.sharding.spec)
        thing.same(ys)


ROUTES: dict[str, Callable[[Thing], None]] = {
    "`flax.linen.RNN`": through_rnn,
    "nnx": through_nnx,
    "engine `parallel`": functools.partial(through_engine, engine="parallel"),
    "engine `fused`": functools.partial(through_engine, engine="fused"),
    "`record`, `diagnose`": through_record,
    "traceTorch weights": through_torch,
    "NIR, exactly": through_nir,
    "`export.sequence`": through_sequence,
    "`export.step`": through_step,
    "explicit mesh": through_mesh,
}


def attempt(thing, route):
    """None if it works, else what it says: the library's own error."""
    try:
        with jax.numpy_rank_promotion("allow"):  # Flax's own normalisation relies on it
            ROUTES[route](THINGS[thing])
    except (TypeError, ValueError) as error:
        if isinstance(error, jax.errors.JAXTypeError):
            raise
        return re.split(r"; |\. (?=[A-Z])", str(error).splitlines()[0])[0].rstrip(".")
    return None


def table():
    """The table, and what is said where the answer is no."""
    found = {thing: [attempt(thing, route) for route in ROUTES] for thing in THINGS}
    lines = [
        "| | " + " | ".join(ROUTES) + " |",
        "|---" * (len(ROUTES) + 1) + "|",
    ]
    reasons: list[str] = []
    for thing, answers in found.items():
        cells = []
        for answer in answers:
            if answer is None:
                cells.append("yes")
                continue
            if answer not in reasons:
                reasons.append(answer)
            cells.append(f"no ({reasons.index(answer) + 1})")
        lines.append(f"| {thing} | " + " | ".join(cells) + " |")
    numbered = [f"{i}. {reason}." for i, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *numbered]) + "\n"


def write():
    """Put the table into the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1])
