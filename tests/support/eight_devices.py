"""Everything that needs eight devices; `test_devices.py` runs this file in a process that has them.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m pytest tests/support/eight_devices.py
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hlo import collectives
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import tracetorch_jax
from tracetorch_jax import checkpoint, functional, sharding, snn, spikes, training
from tracetorch_jax.functional.engines import fused, unroll
from tracetorch_jax.functional.engines.native import build

B, T, N = 8, 5, 4
XS = reference.inputs(B, T, N) * 2
LENGTHS = jnp.array([5, 0, 3, 2, 5, 1, 4, 5])
# Automatic axes take the same program, without its types: fewer layers tell the same.
ON_BOTH = ("LI", "LIB", "SLIT", "DRLIB", "DSRLITS")
HAS_KERNELS = build.why_not() is None
KINDS = {"explicit": AxisType.Explicit, "auto": AxisType.Auto}
BOTH = reference.first(KINDS)


def mesh_of(kind, sizes=(4, 2), names=("data", "model")):
    return jax.make_mesh(sizes, names, axis_types=(KINDS[kind],) * len(names))


def gradient(model, lengths=None):
    """Carry, outputs, and all gradients, of variables and inputs."""

    def run(variables, xs):
        return model.apply(variables, xs, seq_lengths=lengths)

    return jax.jit(lambda *args: value_and_grads(run, *args))


def value_and_grads(run, *args):
    """Result of `run`, and the gradients of a fixed random weighting of it, split as it is."""

    def weighted(*args):
        out = run(*args)
        parts = [
            (leaf * reference.inputs(*leaf.shape, seed=7 + i, dtype=leaf.dtype)).sum()
            for i, leaf in enumerate(jax.tree.leaves(out))
        ]
        return sum(parts), out

    gradients, out = jax.grad(weighted, tuple(range(len(args))), has_aux=True)(*args)
    return out, gradients


def test_there_are_eight_devices_and_axes_are_explicit_by_default():
    assert jax.device_count() == 8
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    assert mesh.axis_types == (AxisType.Explicit,) * 2


@pytest.mark.parametrize("engine", ["scan", "auto"])
@pytest.mark.parametrize("layer", reference.FEW)
def test_layers_equal_one_device_and_have_no_collective_in_the_loop(layer, engine):
    """Batch over data, neurons over model; and one reduction for each parameter."""
    cell, variables = reference.scrambled(layer, N)
    variables = reference.under(variables)
    run = gradient(snn.Unroll(cell, return_carry=True, engine=engine), LENGTHS)
    want = run(variables, XS)
    for kind in KINDS if layer in ON_BOTH else ["explicit"]:
        mesh = mesh_of(kind)
        with jax.set_mesh(mesh):
            args = sharding.shard((variables, XS), mesh, split_like((variables, XS)))
            compiled = run.lower(*args).compile()
            got = compiled(*args)
        inside, outside = collectives(compiled)
        assert not inside
        assert ("tracetorch_jax_" in compiled.as_text()) == (engine == "auto" and HAS_KERNELS)
        assert {name for name, _ in outside} == {"all-reduce"}
        reduced = sum(len(shapes) for _, shapes in outside)
        assert reduced == len(jax.tree.leaves(variables))
        reference.assert_trees_close(got, want, 2e-5)
        np.testing.assert_array_equal(got[0][1] != 0, want[0][1] != 0)
        assert got[0][1].sharding.is_equivalent_to(NamedSharding(mesh, P("data", None, "model")), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_between_neurons_communicates_only_where_neurons_are_split(kind):
    """With the batch split, each gradient is reduced once, after the loop: the kernel's too."""
    layer, variables = reference.scrambled("LIB", N)
    kernel = 0.5 * reference.inputs(N, N, seed=3)
    params = {"cell": variables["params"], "feedback": {"kernel": kernel}}
    variables = reference.under({"params": params})
    cell = snn.Recurrent(layer, nn.Dense(N, use_bias=False))
    run = gradient(snn.Unroll(cell, return_carry=True), LENGTHS)
    want = run(variables, XS)
    for axes, split in ((("data",), P("data")), (("data", "model"), P("data", None, "model"))):
        mesh = mesh_of(kind, (8,) if len(axes) == 1 else (4, 2), axes)
        with jax.set_mesh(mesh):
            args = sharding.shard(variables, mesh, P()), sharding.shard(XS, mesh, split)
            compiled = run.lower(*args).compile()
            got = compiled(*args)
        inside, outside = collectives(compiled)
        assert bool(inside) == ("model" in axes)
        if not inside:
            assert {name for name, _ in outside} == {"all-reduce"}
            assert sum(len(shapes) for _, shapes in outside) == len(jax.tree.leaves(variables))
        reference.assert_trees_close(got, want, 2e-5)


def split_like(tree):
    """Sequences over both axes of the mesh, vectors over model."""
    specs = {1: P("model"), 3: P("data", None, "model")}
    return jax.tree.map(lambda leaf: specs.get(leaf.ndim, P()), tree)


@pytest.mark.parametrize("engine", ["scan", "auto"])
def test_arrays_that_xla_splits_in_different_ways(engine):
    """Of two by two, where what does not go together fits all the same."""
    mesh = mesh_of("auto", (2,), ("data",))
    rows, neurons = P("data"), P(None, "data")
    places = [(neurons, rows, P("data")), (rows, neurons, P()), (P(), neurons, P("data"))]
    decay, state, xs = jnp.array([0.5, 10.0]), jnp.ones((2, 2)), reference.inputs(3, 2, 2)
    lengths = jnp.array([1, 3])

    def run(decay, state, xs, lengths):
        return functional.unroll(
            lambda p, s, x: (p * s + x, p * s), decay, state, xs,
            elementwise=True, seq_lengths=lengths, engine=engine,
        )  # fmt: skip

    def both(*args):
        return value_and_grads(lambda *real: run(*real, args[-1]), *args[:-1])

    want = both(decay, state, xs, lengths)
    for of_xs, of_state, of_decay in places:
        args = sharding.shard(
            (decay, state, xs, lengths), mesh, (of_decay, of_state, P(None, *of_xs), P("data"))
        )
        reference.assert_trees_close(jax.jit(both)(*args), want, 1e-5)
    for outs in ((rows, P(None, None, "data")), (neurons, P(None, "data"))):
        placed = tuple(NamedSharding(mesh, spec) for spec in outs)
        got = jax.jit(run, out_shardings=placed)(*sharding.shard(args, mesh, P()))
        reference.assert_trees_close(got, want[0], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_autodiff_reduces_at_every_step(kind):
    """That the test above can fail: what it looks for is found where it is known to be."""
    spec = snn.LIB(N).spec

    def loss(params, xs):
        carry = {"mem": jnp.zeros_like(xs[:, 0])}
        step = functools.partial(functional.step, spec, params)
        return jax.lax.scan(step, carry, jnp.moveaxis(xs, 1, 0))[1].sum()

    params = {"beta": jnp.full(N, 0.5), "threshold": jnp.ones(N)}
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        params = sharding.shard(params, mesh, P())
        xs = sharding.shard(XS, mesh, P("data"))
        inside, _ = collectives(jax.jit(jax.grad(loss)).lower(params, xs).compile())
    assert "all-reduce" in {name for name, _ in inside}


@pytest.mark.parametrize("kind", BOTH)
def test_a_training_step_reduces_each_gradient_once(kind):
    model = snn.Unroll(snn.Sequential([nn.Dense(6), snn.SLIT(6), nn.Dense(3)]))
    params = model.init(jax.random.key(0), XS)
    optimiser = optax.adam(1e-2)
    labels = jnp.arange(B) % 3

    def update(params, state, xs, labels):
        def loss(params):
            logits = model.apply(params, xs).mean(axis=1)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    with jax.numpy_dtype_promotion("standard"):
        state = optimiser.init(params)
        want = jax.jit(update)(params, state, XS, labels)
        mesh = mesh_of(kind, (8,), ("data",))
        with jax.set_mesh(mesh):
            args = sharding.shard((params, state), mesh, P())
            args += sharding.shard((XS, labels), mesh, P("data"))
            compiled = jax.jit(update).lower(*args).compile()
            got = compiled(*args)
    inside, outside = collectives(compiled)
    assert not inside
    assert {name for name, _ in outside} == {"all-reduce"}
    shapes = sorted(shape for _, shapes in outside for shape in shapes if shape != "f32[]")
    assert len(shapes) == len(jax.tree.leaves(params))
    reference.assert_trees_close((got[0], got[2]), (want[0], want[2]), 1e-4)


STACKS = {
    "norms": lambda: [nn.LayerNorm(), nn.Dense(N), snn.SLIB(N), nn.GroupNorm(2)],
    "function": lambda: [nn.Dense(6), snn.LIT(6), lambda x: 2 * x, snn.LI(6)],
    "residual": lambda: [snn.Residual([nn.Dense(N), snn.SRLITS(N)], merge="concatenate")],
    "batch norm": lambda: [nn.BatchNorm(use_running_average=False), snn.DLIB(N)],
    "Flax's cell": lambda: [nn.Dense(6), nn.GRUCell(6), snn.LIB(6)],
    "dropout": lambda: [snn.SLIB(N), nn.Dropout(0.5, deterministic=False), nn.Dense(3)],
    "embedding": lambda: [nn.Embed(7, 3), snn.LIB(3)],
}
THEIRS = ("dropout", "embedding")  # Flax's own refuse a split input on explicit axes


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "explicit") for name in STACKS]
    + [pytest.param(n, "auto", marks=pytest.mark.nightly) for n in ("norms", *THEIRS)],
)
def test_stacks_stay_split(name, kind):
    cell = snn.Sequential(STACKS[name]())
    model = snn.Unroll(cell)
    xs = jnp.abs(XS[..., 0]).astype(int) if name == "embedding" else XS
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(keys, xs)

    @jax.jit
    def run(variables, xs):
        def loss(params):
            rngs = {"dropout": jax.random.key(1)}
            variables_ = {**variables, "params": params}
            ys, _ = model.apply(
                variables_, xs, seq_lengths=LENGTHS, rngs=rngs, mutable=["batch_stats"]
            )
            return jnp.square(ys).mean(), ys

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    with jax.numpy_dtype_promotion("standard"):
        want = run(variables, xs)
        mesh = mesh_of(kind)
        with jax.set_mesh(mesh):
            args = sharding.shard(variables, mesh, P()), sharding.shard(xs, mesh, P("data"))
            if name in THEIRS and kind == "explicit":
                with pytest.raises(Exception, match="sharding"):
                    run(*args)
                return
            compiled = run.lower(*args).compile()
            got = compiled(*args)
    inside, outside = collectives(compiled)
    assert bool(inside) == (name == "Flax's cell")  # which is differentiated as plain scans are
    assert {name for name, _ in inside + outside} == {"all-reduce"}  # nobody gathers the batch
    reference.assert_trees_close(got, want, 1e-4)


@pytest.mark.parametrize("kind", BOTH)
def test_convolutions_stay_split(kind):
    model = snn.Unroll(
        snn.Sequential([nn.Conv(3, (3, 3)), snn.LIB(3), nn.ConvTranspose(2, (2, 2)), snn.LI(2)])
    )
    xs = reference.inputs(B, 3, 4, 4, 2)
    variables = model.init(jax.random.key(0), xs)
    run = gradient(model)
    want = run(variables, xs)
    mesh = mesh_of(kind, (8,), ("data",))
    with jax.set_mesh(mesh):
        args = sharding.shard(variables, mesh, P()), sharding.shard(xs, mesh, P("data"))
        compiled = run.lower(*args).compile()
        got = compiled(*args)
    inside, outside = collectives(compiled)
    assert {name for name, _ in inside + outside} == {"all-reduce"}
    reference.assert_trees_close(got, want, 1e-4)


WAYS = {
    "scan": (snn.SLITS(N), {"engine": "scan"}),
    "every state kept": (snn.SRLIT(N), {"checkpoint_every": 1}),
    "sqrt": (snn.DLIB(N), {"checkpoint_every": "sqrt"}),
    "parallel": (snn.SLIB(N), {"engine": "parallel"}),
    "all parallel": (snn.DSLI(N), {"engine": "parallel"}),
    "reverse": (snn.SLIT(N), {"reverse": True, "keep_order": True}),
    "channels first": (snn.RLITS(N, dim=-3, beta_rank=0), {}),
    "random": (snn.SLIB(N, spike=spikes.bernoulli(spikes.sigmoid(4.0))), {}),
}


@pytest.mark.parametrize("way", reference.first(WAYS, 5))
def test_every_way_of_running_on_explicit_axes(way):
    """With a carry that is split otherwise, and parameters that are whole."""
    cell, options = WAYS[way]
    model = snn.Unroll(cell, return_carry=True, **options)
    xs = reference.inputs(B, T, N, 3, 2) if cell.dim == -3 else XS
    variables = model.init({"params": jax.random.key(0), "spike": jax.random.key(1)}, xs)
    shape = (B, *xs.shape[2:])
    carry = {s: reference.inputs(*shape, seed=i) for i, s in enumerate(cell.spec.states)}

    def apply(variables, xs, carry):
        rngs = {"spike": jax.random.key(2)}
        return model.apply(variables, xs, carry, seq_lengths=LENGTHS, rngs=rngs)

    run = jax.jit(lambda *args: value_and_grads(apply, *args))
    want = run(variables, xs, carry)
    mesh = mesh_of("explicit")
    over_neurons = P(None, *["model" if axis == cell.dim % len(shape) else None
                             for axis in range(1, len(shape))])  # fmt: skip
    args = (
        sharding.shard(variables, mesh, P()),
        sharding.shard(xs, mesh, P("data")),
        sharding.shard(carry, mesh, over_neurons),
    )
    with jax.set_mesh(mesh):
        got = run(*args)
    reference.assert_trees_close(got, want, 2e-5)
    for gradient, value in zip(jax.tree.leaves(got[1]), jax.tree.leaves(args), strict=True):
        assert gradient.sharding.is_equivalent_to(value.sharding, value.ndim)


def test_types_suffice_where_no_mesh_is_set():
    cell, variables = reference.scrambled("RLIT", N)
    run = gradient(snn.Unroll(cell, return_carry=True), LENGTHS)
    args = reference.under(variables), XS
    mesh = mesh_of("explicit")
    got = run(*sharding.shard(args, mesh, split_like(args)))
    reference.assert_trees_close(got, run(*args), 2e-5)


@pytest.mark.parametrize("engine", reference.first(["scan", "auto", "pallas", "parallel"], 3))
def test_shard_map(engine, monkeypatch):
    """Every device runs its own part; gradients are summed over devices where JAX's types say."""
    pallas = engine == "pallas"
    if pallas:
        monkeypatch.setattr(unroll, "_kernel", lambda: (fused.why_not, fused.scan_fused))
        engine = "fused"
    cell, variables = reference.scrambled("LI" if engine == "parallel" else "RLIB", N)
    variables = reference.under(variables)

    def loss(engine, variables, xs, lengths):
        ys = snn.Unroll(cell, engine=engine).apply(variables, xs, seq_lengths=lengths)
        return jnp.square(ys).sum(axis=(1, 2))

    def split(**options):
        return jax.shard_map(
            functools.partial(loss, engine),
            mesh=mesh_of("auto", (8,), ("data",)),
            in_specs=(P(), P("data"), P("data")),
            out_specs=P("data"),
            **options,
        )

    whole = functools.partial(loss, "scan" if pallas else engine)
    want, got = (
        jax.jit(jax.value_and_grad(lambda v, xs, f=f: f(v, xs, LENGTHS).sum(), (0, 1)))(
            variables, XS
        )
        for f in (whole, split(check_vma=not pallas))
    )
    reference.assert_trees_close(got, want, 2e-5)
    if pallas:
        with pytest.raises(ValueError, match="`engine` 'fused' needs check_vma=False"):
            jax.jit(split())(variables, XS, LENGTHS)


@pytest.mark.parametrize("method", ["e-prop", "ottt"])
def test_online_gradients_of_every_device(method):
    """Summed over devices, as those of `jax.grad` are."""
    network = snn.Sequential([nn.Dense(N), snn.Recurrent(snn.LIB(N, threshold=0.3)), nn.Dense(2)])
    params = network.init(jax.random.key(0), None, XS[:, 0])["params"]

    def gradient(params, xs):
        init, step = training.online(network, method=method)

        def advance(state, x):
            state, out, gradient = step(params, state, x)
            return state, gradient(2 * out)

        xs = xs.swapaxes(0, 1)
        each = jax.lax.scan(advance, init(params, xs[0]), xs)[1]
        return jax.tree.map(lambda g: g.sum(0), each)

    specs = {"in_specs": (P(), P("data")), "out_specs": P()}
    split = jax.shard_map(gradient, mesh=mesh_of("auto", (8,), ("data",)), **specs)
    got, want = (jax.jit(f)(params, XS) for f in (split, gradient))
    reference.assert_trees_close(got, want, 2e-5)


def test_a_feedback_that_alone_varies_over_devices():
    cell = snn.Recurrent(snn.LIB(N, threshold=0.3))
    params = cell.init(jax.random.key(0), None, XS[:, 0])["params"]
    kernels = params["feedback"]["kernel"][None] * jnp.arange(8.0)[:, None, None]

    def loss(kernel, xs):
        own = {"cell": params["cell"], "feedback": {"kernel": kernel[0]}}
        return jnp.square(snn.Unroll(cell).apply({"params": {"cell": own}}, xs)).sum()[None]

    specs = {"in_specs": (P("data"), P()), "out_specs": P("data")}
    split = jax.shard_map(loss, mesh=mesh_of("auto", (8,), ("data",)), **specs)
    got, want = (
        jax.jit(jax.value_and_grad(lambda *args, f=f: f(*args).sum(), (0, 1)))(kernels, XS)
        for f in (split, jax.vmap(lambda kernel, xs: loss(kernel[None], xs), (0, None)))
    )
    reference.assert_trees_close(got, want, 2e-5)


def test_pallas_says_that_it_takes_no_split_arrays(monkeypatch):
    cell, variables = reference.scrambled("LIB", N)
    mesh = mesh_of("explicit")
    monkeypatch.setattr(unroll, "_kernel", lambda: (fused.why_not, fused.scan_fused))
    with pytest.raises(ValueError, match=r"not split over devices, not float32\[5,8@data,4\]"):
        snn.Unroll(cell, engine="fused").apply(
            reference.under(variables), sharding.shard(XS, mesh, P("data"))
        )


def test_steps_of_your_own():
    """One that mixes neurons, whose states take over from one another what they are split over."""

    def step(params, state, x):
        a = params * state["a"] + x
        return {"a": a, "b": state["b"] + state["a"], "c": state["b"].sum(0)}, a

    zeros = {"a": jnp.zeros((B, N)), "b": jnp.zeros((B, N)), "c": jnp.zeros(N)}
    xs = jnp.moveaxis(XS, 1, 0)
    run = jax.jit(lambda p, xs: functional.unroll(step, p, zeros, xs))
    half = jnp.array(0.5)
    mesh = mesh_of("explicit")
    with jax.set_mesh(mesh):
        got = run(half, sharding.shard(xs, mesh, P(None, "data")))
    reference.assert_trees_close(got, run(half, xs))
    assert tuple(got[0]["b"].sharding.spec) == ("data", None)


def test_arrays_that_do_not_go_together_are_named():
    mesh = mesh_of("explicit")
    xs = sharding.shard(jnp.moveaxis(XS, 1, 0), mesh, P(None, "data"))
    zeros = {"v": jnp.zeros((B, N))}

    def step(params, state, x):
        return {"v": params["w"] * state["v"] + x}, x

    def run(**changes):
        given = {"params": {"w": jnp.ones(N)}, "state": zeros, "xs": xs} | changes
        return functional.unroll(step, *given.values(), elementwise=True)

    with jax.set_mesh(mesh):
        other = sharding.shard(zeros, mesh, P("model"))
        message = r"`state\['v'\]` of shape \(8, 4\) is split over 'model' along axis -2, and `xs` "
        with pytest.raises(ValueError, match=message + "over 'data'"):
            run(state=other)
        twice = sharding.shard({"w": jnp.ones(N)}, mesh, P("data"))
        message = r"`params\['w'\]` of shape \(4,\) is split over 'data' along axis -1, and `xs` "
        with pytest.raises(ValueError, match=message + "over it along axis -2"):
            run(params=twice)
        late = sharding.shard(jnp.zeros((8, B, N)), mesh, P("data"))
        message = r"`xs` must not be split along time.*axis 0 of shape \(8, 8, 4\)"
        with pytest.raises(ValueError, match=message):
            run(xs=late)
        with pytest.raises(ValueError, match=message):
            functional.unroll(step, {"w": jnp.ones(N)}, zeros, late)


def test_recording_pieces_and_online_gradients_on_explicit_axes():
    model = snn.Unroll(snn.Sequential([nn.Dense(N), snn.RLIB(N)]), return_carry=True)
    params = model.init(jax.random.key(0), XS)["params"]
    carry = model.cell.initialize_carry(None, (B, N))
    xs = XS[:, :4]

    def loss(params, carry, xs):
        carry, ys = model.apply({"params": params}, xs, carry)
        return jnp.square(ys).mean(), carry

    def record(params, xs):
        return tracetorch_jax.record(model, {"params": params}, xs)[1]["cell/layers_1"].states

    init, step = training.online(snn.RLIB(N))

    def online(params, xs):
        own = params["cell"]["layers_1"]

        def advance(carry, x):
            state, total = carry
            state, out, gradient = step(own, state, x)
            return (state, jax.tree.map(jnp.add, total, gradient(2 * out))), out

        start = init(own, xs[:, 0]), jax.tree.map(jnp.zeros_like, own)
        return jax.lax.scan(advance, start, jnp.moveaxis(xs, 1, 0))[0][1]

    mesh = mesh_of("explicit")
    for function, *args in (
        (training.piecewise_value_and_grad(loss, 2), params, carry, xs),
        (training.piecewise_value_and_grad(loss, 2, truncate=True), params, carry, xs),
        (record, params, xs),
        (online, params, xs),
    ):
        function = jax.jit(function)
        want = function(*args)
        with jax.set_mesh(mesh):
            args[0] = sharding.shard(args[0], mesh, P())
            args[-1] = sharding.shard(args[-1], mesh, P("data"))
            reference.assert_trees_close(function(*args), want, 2e-5)


def test_a_population_split_over_devices():
    model = snn.Unroll(snn.Sequential([nn.Dense(N), snn.SLIT(N)]))
    params = jax.vmap(model.init, (0, None))(jax.random.split(jax.random.key(0), 8), XS)

    def loss(params, xs):
        return jnp.square(model.apply(params, xs)).mean()

    run = jax.jit(jax.vmap(jax.value_and_grad(loss), (0, None)))
    want = run(params, XS)
    mesh = mesh_of("auto", (8,), ("members",))
    args = sharding.shard(params, mesh, P("members")), sharding.shard(XS, mesh, P())
    compiled = run.lower(*args).compile()
    assert collectives(compiled) == ([], [])
    reference.assert_trees_close(compiled(*args), want, 2e-5)


def test_checkpoints_move_to_another_mesh(tmp_path):
    model = snn.Unroll(snn.Sequential([nn.Dense(8), snn.SLIB(8)]))
    params = model.init(jax.random.key(0), XS)["params"]
    optimiser = optax.adam(1e-2)
    with jax.numpy_dtype_promotion("standard"):
        state = {"params": params, "optimiser": optimiser.init(params), "key": jax.random.key(3)}
        rows = mesh_of("explicit", (8,), ("data",))
        over_data = {"kernel$": P(None, "data"), "bias$|raw_": P("data"), "key": P()}
        saved = sharding.shard(state, rows, sharding.partition_specs(state, over_data))
        path = checkpoint.save(tmp_path / "one", saved)

        for kind in KINDS:
            mesh = mesh_of(kind)
            rules = {"kernel$": P("data", "model"), "bias$|raw_": P("model"), "key": P()}
            specs = sharding.partition_specs(state, rules)
            zeros = jax.tree.map(jnp.zeros_like, {k: state[k] for k in ("params", "optimiser")})
            like = sharding.shard(zeros | {"key": jax.random.key(0)}, mesh, specs)
            got = checkpoint.restore(path, like=like)
            assert_same_numbers(got, state)
            for leaf, want in zip(jax.tree.leaves(got), jax.tree.leaves(like), strict=True):
                assert leaf.sharding == want.sharding
            # from shapes alone, without making the arrays first
            shapes = jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                jax.eval_shape(lambda: state),
                sharding.shardings(state, mesh, specs),
            )
            got = checkpoint.restore(path, like=shapes)
            assert_same_numbers(got, state)
            for leaf, want in zip(jax.tree.leaves(got), jax.tree.leaves(shapes), strict=True):
                assert leaf.sharding == want.sharding

        got = checkpoint.restore(path, like=state)  # on one device
        assert_same_numbers(got, state)
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(got)} == {1}
        got = checkpoint.restore(path, like=jax.eval_shape(lambda: state))
        assert_same_numbers(got, state)
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(got)} == {1}


def assert_same_numbers(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_parameters_are_made_where_they_belong():
    model = snn.Unroll(snn.Sequential([nn.Dense(8), snn.SLIB(8)]))
    mesh = mesh_of("explicit")
    rules = {"kernel$": P(None, "model"), "bias$|raw_": P("model")}
    shapes = jax.eval_shape(model.init, jax.random.key(0), XS)
    places = sharding.shardings(shapes, mesh, sharding.partition_specs(shapes, rules))
    with jax.set_mesh(mesh):
        params = jax.jit(model.init, out_shardings=places)(jax.random.key(0), XS)
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == places
    reference.assert_trees_close(params, model.init(jax.random.key(0), XS))


def test_what_does_not_divide_is_named_with_its_size():
    mesh = mesh_of("explicit")
    with pytest.raises(ValueError, match="'data' of size 4, 'model' of size 2") as error:
        sharding.shard({"xs": jnp.ones((10, 3)), "labels": jnp.ones(10)}, mesh, P("data"))
    assert "xs of shape (10, 3) has size 10 along axis 0, which 'data' cannot split in 4" in str(
        error.value
    )
    assert "labels of shape (10,)" in str(error.value)
    with pytest.raises(ValueError, match="axis 1, which 'data' and 'model' cannot split in 8"):
        sharding.shard(jnp.ones((8, 4)), mesh, P(None, ("data", "model")))
    with pytest.raises(ValueError, match="the array is to be split over 'batch'"):
        sharding.shard(jnp.ones((8, 4)), mesh, P("batch"))
    with pytest.raises(ValueError, match=r"the array of shape \(8,\) has fewer axes than"):
        sharding.shard(jnp.ones(8), mesh, P("data", "model"))


DELAYS = {
    "interpolated": lambda sigma: snn.Delay(N, 3, delay=(0.4, 1.0, 2.2, 2.9)),
    "exact": lambda sigma: snn.Delay(N, 3, delay=(0, 1, 2, 3), delay_learnable=False),
    "smooth": lambda sigma: snn.Delay(N, 3, sigma=sigma),
    # Without a bias, whose gradient may be reduced at the same time as the loop reduces, in another
    # order on each device: XLA on CPU then waits for ever now and then.
    "dense": lambda sigma: snn.DelayedDense(6, 3, use_bias=False, sigma=sigma),
    "rounded": lambda sigma: snn.DelayedDense(6, 3, use_bias=False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DELAYS)
def test_delays_stay_split(name, kind):
    """The batch over data; of a Delay also channels over model."""
    cell = DELAYS[name](1.5)
    run = gradient(snn.Unroll(cell, return_carry=True), LENGTHS)
    variables = snn.Unroll(cell).init(jax.random.key(0), XS)
    want = run(variables, XS)
    mesh = mesh_of(kind)
    dense = isinstance(cell, snn.DelayedDense)
    with jax.set_mesh(mesh):
        xs = sharding.shard(XS, mesh, P("data") if dense else P("data", None, "model"))
        own = sharding.shard(variables, mesh, P() if dense else P("model"))
        compiled = run.lower(own, xs).compile()
        got = compiled(own, xs)
    inside, outside = collectives(compiled)
    # What loops over the delays reduces a gradient once for each delay, whatever the steps are.
    assert not inside or name not in ("interpolated", "exact")
    assert {name for name, _ in inside + outside} <= {"all-reduce"}
    reference.assert_trees_close(got, want, 2e-5)
    spec = P("data") if dense else P("data", None, "model")
    assert got[0][1].sharding.is_equivalent_to(NamedSharding(mesh, spec), 3)
