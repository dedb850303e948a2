"""What takes a linen model and its variables takes a model of nnx alone, and gives the same."""

import dataclasses
import gc
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import reference
from flax import nnx

import tracetorch_jax as tt
from tracetorch_jax import (
    checkpoint,
    export,
    interop,
    metrics,
    plot,
    sharding,
    snn,
    spikes,
    training,
)
from tracetorch_jax import nnx as tnnx
from tracetorch_jax.__main__ import main
from tracetorch_jax._models import _FLAX, as_linen

matplotlib.use("Agg")

KEY = jax.random.key(0)
XS = 3 * reference.inputs(2, 6, 3)
BASE = {"threshold": 0.5}


def rngs():
    return nnx.Rngs(0)


def linear(inputs, outputs, **options):
    return nnx.Linear(inputs, outputs, rngs=rngs(), **options)


class OwnLinen(nn.Module):
    """What `Own` is in linen."""

    def setup(self):
        self.read = nn.Dense(4, use_bias=False)
        self.blocks = [snn.Unroll(snn.SLIB(4, **BASE)), snn.Unroll(snn.LI(4))]
        self.gain = self.param("gain", nn.initializers.ones, (1, 1, 4))

    def __call__(self, xs):
        return self.blocks[1](self.blocks[0](self.gain * self.read(xs)))


class Own(nnx.Module):
    """A class of the user's own, with a parameter of its own and layers in a list."""

    def __init__(self):
        self.read = linear(3, 4, use_bias=False)
        self.blocks = nnx.List([tnnx.Unroll(tnnx.SLIB(4, **BASE)), tnnx.Unroll(tnnx.LI(4))])
        self.gain = nnx.Param(jnp.ones((1, 1, 4)))

    def __call__(self, xs):
        for block in [lambda xs: self.gain[...] * self.read(xs), *self.blocks]:
            xs = block(xs)
        return xs


MODELS = {
    "stack": (
        lambda: snn.Unroll(snn.Sequential([nn.Dense(4), snn.SLIB(4, **BASE), jnp.abs])),
        lambda: tnnx.Unroll(tnnx.Sequential([linear(3, 4), tnnx.SLIB(4, **BASE), jnp.abs])),
    ),
    "residual": (
        lambda: snn.Unroll(snn.Residual([nn.Dense(3), snn.LIB(3, **BASE)])),
        lambda: tnnx.Unroll(tnnx.Residual([linear(3, 3), tnnx.LIB(3, **BASE)])),
    ),
    "flex": (
        lambda: snn.Unroll(snn.flex.DSLIB(3, reset="zero", pos_beta=0.8)),
        lambda: tnnx.Unroll(tnnx.flex.DSLIB(3, reset="zero", pos_beta=0.8)),
    ),
    "recurrent": (
        lambda: snn.Unroll(snn.Recurrent(snn.LIB(3, **BASE))),
        lambda: tnnx.Unroll(tnnx.Recurrent(tnnx.LIB(3, **BASE), rngs=rngs())),
    ),
    "cell": (lambda: snn.SLIB(3, beta_rank=0), lambda: tnnx.SLIB(3, beta_rank=0)),
    "own": (OwnLinen, Own),
}


def pair(name):
    """A model in linen, its variables, and the same in nnx."""
    linens, own = (make() for make in MODELS[name])
    inputs = (None, XS[:, 0]) if name == "cell" else (XS,)
    variables = linens.init(KEY, *inputs)
    return linens, variables, tnnx.from_linen(variables, own)


def run(program, *args):
    return program.call(*args)


def nodes(graph):
    return {name: vars(node) for name, node in graph.nodes.items()}


def variables_of(model):
    """What a function gave, be it variables or the model of nnx that has them."""
    return tnnx.to_linen(model) if isinstance(model, nnx.Module) else model


# Each takes what stands for the model: (model, variables) of linen, or (model,) of nnx.
TAKE = {
    "record": lambda *m: tt.record(*m, XS),
    "diagnose": lambda *m: tt.diagnose(*m, XS, loss=lambda ys: jnp.square(ys).mean()),
    "synaptic_operations": lambda *m: metrics.synaptic_operations(*m, XS),
    "sequence": lambda *m: run(export.sequence(*m, "b, t, 3", platforms=["cpu"]), XS),
    "step": lambda *m: run(
        program := export.step(*m, "b, 3", platforms=["cpu"]),
        export.initial_carry(program, XS[:, 0]),
        XS[:, 0],
    ),
    "to_nir": lambda *m: nodes(interop.to_nir(*m, input_shape=(3,))),
    "nir_mismatch": lambda *m: interop.nir_mismatch(*m, XS),
    "to_torch": lambda *m: interop.to_torch(*m[::-1], XS),
    "scale_to_rate": lambda *m: variables_of(training.scale_to_rate(*m, XS, tolerance=0.9)),
    "initial_carry": lambda *m: interop.initial_carry(*m[::-1], XS),
}
# What linen's model is refused for as well, in the same words.
REFUSED = {
    "recurrent": {"initial_carry", "scale_to_rate"},
    "cell": {"record", "diagnose", "synaptic_operations", "sequence", "scale_to_rate"},
    "own": {"step", "to_nir", "nir_mismatch", "initial_carry"},
    "stack": {"to_nir", "nir_mismatch"},
    "flex": {"synaptic_operations", "to_nir", "nir_mismatch", "to_torch", "scale_to_rate"},
}


def plain(found):
    """Arrays and numbers alone."""
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        fields = [f.name for f in dataclasses.fields(found) if f.compare]  # times differ
        return plain({name: getattr(found, name) for name in fields})
    if isinstance(found, tuple) and hasattr(found, "_fields"):
        return plain(found._asdict())
    if isinstance(found, dict):
        return {name: plain(each) for name, each in found.items()}
    if isinstance(found, (tuple, list)):
        return [plain(each) for each in found]
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("function", TAKE)
def test_takes_both(function, name):
    linens, variables, own = pair(name)
    take = TAKE[function]
    if function in REFUSED.get(name, ()):
        said = []
        for models in ((own,), (linens, variables)):
            with pytest.raises((TypeError, ValueError)) as error:
                take(*models)
            said.append((error.type, str(error.value).replace("OwnLinen", "Own")))
        assert said[0] == said[1]
        return
    got, want = (plain(take(*models)) for models in ((own,), (linens, variables)))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if isinstance(one, nn.Module):
            assert one == other
        elif not isinstance(one, str):
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


LAYERS_OF_FLAX = {
    "Linear": (lambda: nnx.Linear(4, 4, use_bias=False, rngs=rngs()), (4,)),
    "LinearGeneral": (
        lambda: nnx.LinearGeneral((4, 4), (2, 3), axis=(-2, -1), rngs=rngs()),
        (4, 4),
    ),
    "Conv": (lambda: nnx.Conv(4, 3, (3, 3), strides=2, padding=1, rngs=rngs()), (4, 4, 4)),
    "ConvTranspose": (
        lambda: nnx.ConvTranspose(4, 3, (2, 2), strides=2, padding="VALID", rngs=rngs()),
        (4, 4, 4),
    ),
    "Embed": (lambda: nnx.Embed(5, 4, rngs=rngs()), ()),
    "BatchNorm": (
        lambda: nnx.BatchNorm(4, use_running_average=True, epsilon=0.3, rngs=rngs()),
        (4,),
    ),
    "LayerNorm": (lambda: nnx.LayerNorm(4, epsilon=0.3, use_bias=False, rngs=rngs()), (4,)),
    "RMSNorm": (lambda: nnx.RMSNorm(4, epsilon=0.3, rngs=rngs()), (4,)),
    "PReLU": (lambda: nnx.PReLU(0.3), (4,)),
    "Dropout": (lambda: nnx.Dropout(0.5, deterministic=True), (4,)),
    "Sequential": (lambda: nnx.Sequential(nnx.Linear(4, 3, rngs=rngs()), jnp.tanh), (4,)),
}


@pytest.mark.parametrize("name", _FLAX)
def test_layers_of_flax(name):
    """Each, with other arguments than by default, is what it is in linen, and so are its values."""
    make, shape = LAYERS_OF_FLAX[name]
    own = make()
    scrambled = iter(range(99))
    for _, variable in nnx.iter_graph(own):
        if isinstance(variable, (nnx.Param, nnx.BatchStat)):
            seed = next(scrambled)
            variable.set_value(jnp.abs(reference.inputs(*variable.get_value().shape, seed=seed)))
    linens, variables = as_linen(own)
    assert type(linens) is getattr(nn, _FLAX[name])
    xs = jnp.array([0, 3, 4]) if name == "Embed" else reference.inputs(3, *shape)
    with jax.numpy_rank_promotion("allow"):  # Flax's own normalisation relies on it
        got, want = linens.apply(variables, xs), own(xs)
        np.testing.assert_array_equal(got, want)
        ours = linens.init({"params": KEY, "dropout": KEY}, xs)
    assert jax.tree.map(jnp.shape, dict(ours)) == jax.tree.map(jnp.shape, variables)


class Deep(nnx.Module):
    """Nested, with a layer that is shared, what linen has otherwise, and what draws numbers."""

    def __init__(self):
        self.b = linear(3, 3)
        self.a = self.b
        self.attention = nnx.MultiHeadAttention(1, 3, decode=False, rngs=rngs())
        self.norm = nnx.GroupNorm(3, num_groups=1, rngs=rngs())
        self.out = tnnx.Unroll(tnnx.LI(3))
        self.rngs = rngs()

    def __call__(self, xs):
        return self.out(self.norm(self.attention(self.b(self.a(xs)))))


class Nested(nnx.Module):
    def __init__(self):
        self.deep = Deep()

    def __call__(self, xs):
        return self.deep(xs)


class Cell(nnx.RNNCellBase):
    """A cell of the user's own."""

    num_feature_axes = 1

    def __init__(self):
        self.mix = linear(3, 3)

    def __call__(self, carry, x):
        carry = jnp.tanh(self.mix(x) + carry)
        return carry, carry

    def initialize_carry(self, input_shape, rngs=None):
        return jnp.zeros(input_shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "paths"),
    [
        (Nested, ["deep/out/cell"]),
        (lambda: tnnx.Unroll(tnnx.Sequential([Cell(), tnnx.LIB(3)])), ["cell/layers_1"]),
        (
            lambda: tnnx.Unroll(tnnx.Sequential([nnx.GRUCell(3, 4, rngs=rngs()), tnnx.LIB(4)])),
            ["cell/layers_1"],
        ),
    ],
    ids=["nested", "own cell", "cell of Flax"],
)
def test_code_of_nnx_runs_as_it_is(make, paths):
    """What linen has not, or has with other parameters."""
    own = make()
    with jax.numpy_rank_promotion("allow"):
        ys, layers = tt.record(own, XS)
        np.testing.assert_allclose(ys, own(XS), atol=1e-6)
        assert list(layers) == paths
        # With the parameters as an argument, so that none is kept as a constant.
        program = export.sequence(own, "b, t, 3", bake=False, platforms=["cpu"])
        doubled = jax.tree.map(lambda raw: 2 * raw, tnnx.to_linen(own))
        want = tnnx.from_linen(doubled, make())(XS)
        np.testing.assert_allclose(program.call(doubled, XS), want, atol=1e-6)


class Asks(nnx.Module):
    """Code that looks at what its layers are before it calls them."""

    def __init__(self):
        self.layers = nnx.List([linear(3, 4), tnnx.Unroll(tnnx.SLIB(4, **BASE))])
        self.read = linear(4, 4)

    def __call__(self, xs):
        for layer in self.layers:
            xs = 3 * layer(xs) if isinstance(layer, nnx.Linear) else layer(xs)
        return xs * getattr(self.read, "in_features", 1) + self.read(xs)


def test_code_that_asks_what_its_layers_are_gets_the_answer_of_nnx():
    model = Asks()
    out, recordings = tt.record(model, XS)
    np.testing.assert_array_equal(out, model(XS))
    assert [*recordings] == ["layers_1/cell"]


@pytest.mark.parametrize("read", [lambda own: own.bias, lambda own: getattr(own, "kernel", None)])
def test_code_that_reads_the_parameters_of_its_layers_is_refused(read):
    class Reads(Asks):
        def __call__(self, xs):
            read(self.read)
            return super().__call__(xs)

    with pytest.raises(TypeError, match=r"must not read `\w+` of its Linear. Make a model of"):
        tt.record(Reads(), XS)


class FeedsBack(nnx.Module):
    def __init__(self):
        self.mix = linear(3, 3)
        self.gain = nnx.Param(jnp.full((1, 3), 2.0))

    def __call__(self, ys):
        return self.gain[...] * self.mix(ys)


def test_code_of_nnx_feeds_back():
    own = tnnx.Unroll(tnnx.Recurrent(tnnx.LIB(3, **BASE), FeedsBack()))
    np.testing.assert_array_equal(tt.record(own, XS)[0], own(XS))
    own.cell.feedback.gain[...] *= -1
    np.testing.assert_array_equal(tt.record(own, XS)[0], own(XS))


def test_structures_that_are_equal_share_a_program():
    one, other = (as_linen(Own())[0] for _ in range(2))
    assert one == other and hash(one) == hash(other)
    wider = Own()
    wider.blocks[0].time_major = True
    assert one != as_linen(wider)[0]


class Gained(nnx.Module):
    """A module with a number that is not trained."""

    def __init__(self):
        self.gain = nnx.Variable(jnp.array(1.0))
        self.out = tnnx.Unroll(tnnx.LI(3))

    def __call__(self, xs):
        return self.out(self.gain[...] * xs)


def test_a_number_that_is_not_trained_is_not_kept_from_call_to_call():
    own = Gained()
    first = tt.diagnose(own, XS).layers[0].parameter_gradient
    own.gain[...] = jnp.array(2.0)
    np.testing.assert_allclose(
        tt.diagnose(own, XS).layers[0].parameter_gradient, 2 * first, rtol=1e-5
    )


class Reads(Own):
    def __call__(self, xs):
        return super().__call__(xs @ self.read.kernel[...])


class Holds(Own):
    def __init__(self):
        super().__init__()
        self.layers = nnx.Dict(first=linear(3, 3))


class Tied(nnx.Module):
    def __init__(self):
        self.read, self.write = linear(3, 3), linear(3, 3)
        self.write.kernel = self.read.kernel

    def __call__(self, xs):
        return self.write(self.read(xs))


class Stack(tnnx.Sequential):
    """A stack with a step of its own."""


class Trace(tnnx.TraceCell):
    """A trace layer of the user's own."""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tnnx.Stateful(tnnx.LI(3)), "got Stateful. Make a model of tracetorch_jax.snn"),
        (Tied, "got a shared `kernel` in Linear at 'write'. Make"),
        (lambda: tnnx.Unroll(Stack([tnnx.LI(3)])), "got Stack at 'cell'. Make"),
        (Holds, "got Dict at 'layers'. Make a model of tracetorch_jax.snn"),
        (
            lambda: nnx.Sequential(linear(3, 3), tnnx.Stateful(tnnx.LI(3))),
            "got Stateful at 'layers_1'. Make",
        ),
        (
            lambda: tnnx.Unroll(tnnx.Sequential([linear(3, 3, preferred_element_type=float)])),
            "`preferred_element_type` as it is by default.*in Linear at 'cell/layers_0'",
        ),
    ],
    ids=["stateful", "tied", "stack", "dict", "within", "argument"],
)
def test_what_linen_cannot_have(make, words):
    with pytest.raises(TypeError, match=f"`model` must .*{words}"):
        tt.record(make(), XS)


class Compiles(Own):
    def __call__(self, xs):
        return nnx.jit(lambda read, xs: read(xs))(self.read, xs)


class Runs(Own):
    def __init__(self):
        super().__init__()
        self.run = nnx.RNN(nnx.GRUCell(3, 3, rngs=rngs()))

    def __call__(self, xs):
        return super().__call__(self.run(xs))


@pytest.mark.parametrize("own", [Reads, Compiles, Runs])
def test_code_that_does_not_call_its_layers_alone(own):
    with pytest.raises((AttributeError, TypeError, ValueError)) as error:
        tt.record(own(), XS)
    said = "\n".join(error.value.__notes__)
    assert f"{own.__name__} of flax.nnx ran with modules of flax.linen" in said
    assert "tracetorch_jax.nnx.to_linen(model)" in said


def test_random_spikes_draw_from_rngs():
    random = spikes.bernoulli(spikes.sigmoid(4.0))
    own = tnnx.Unroll(tnnx.LIB(3, spike=random, rngs=rngs()))
    linens = snn.Unroll(snn.LIB(3, spike=random))
    keys = {"rngs": {"spike": KEY}}
    got, want = tt.record(own, XS, **keys), tt.record(linens, tnnx.to_linen(own), XS, **keys)
    np.testing.assert_array_equal(got[0], want[0])


def test_from_torch_fills_the_model():
    _, _, own = pair("stack")
    state_dict = interop.to_torch(own, XS)
    _, _, other = pair("stack")
    other.cell.layers[0].kernel[...] *= 0
    assert interop.from_torch(state_dict, other, XS) is other
    reference.assert_trees_close(tnnx.to_linen(other), tnnx.to_linen(own), 1e-6)
    with pytest.raises(ValueError, match="`state_dict` must fit `model`"):
        interop.from_torch({**state_dict, "0.weight": np.zeros((2, 2))}, other, XS)


def test_online_gradients():
    """Of a layer of nnx; parameters and gradients are states of nnx, or what linen has."""
    layer = tnnx.SLIB(3, beta_rank=0)
    linens = snn.SLIB(3, beta_rank=0)
    raw = tnnx.to_linen(layer)["params"]
    gradients = []
    for each, params in ((layer, nnx.state(layer, nnx.Param)), (layer, raw), (linens, raw)):
        init, step = training.online(each)
        state, _, gradient = step(params, init(params, XS[:, 0]), XS[:, 0])
        state, out, gradient = step(params, state, XS[:, 1])
        gradients.append(gradient(out + 1))
        assert jax.tree.structure(gradients[-1]) == jax.tree.structure(params)
    for each in gradients[:2]:
        for one, want in zip(jax.tree.leaves(each), jax.tree.leaves(gradients[2]), strict=True):
            np.testing.assert_array_equal(one, want)


def test_trees_of_nnx(tmp_path):
    """What takes trees of arrays takes a model's state."""
    own = pair("stack")[2]
    state = nnx.state(own)
    params = nnx.state(own, nnx.Param)
    again = checkpoint.restore(checkpoint.save(tmp_path / "it", state), like=state)
    reference.assert_trees_close(again, state, 0)
    with pytest.raises(ValueError, match=r"save nnx.state\(model\)"):
        checkpoint.save(tmp_path / "model", own)
    split = sharding.shard(state, jax.make_mesh((1,), ("data",)), jax.P())
    reference.assert_trees_close(split, state, 0)
    labels = training.parameter_labels(params)
    assert labels["cell"]["layers"][1]["raw_beta"].get_value() == "decay"
    assert plot.half_lives(own.cell.layers[1].parameters()) is not None


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    own = pair("stack")[2]
    checkpoint.save(tmp_path / "run", tnnx.to_linen(own))
    (tmp_path / "network_of_nnx.py").write_text(
        "import jax.numpy as jnp\n"
        "from flax import nnx\n"
        "from tracetorch_jax import nnx as snn\n"
        "def make():\n"
        "    dense = nnx.Linear(3, 4, rngs=nnx.Rngs(1))\n"
        "    layers = [dense, snn.SLIB(4, threshold=0.5), jnp.abs]\n"
        "    return snn.Unroll(snn.Sequential(layers))\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ["export", "network_of_nnx:make", "run", "it.program", "--shape", "b, t, 3"]
    assert main(command) == 0, capsys.readouterr().err
    np.testing.assert_allclose(export.load("it.program").call(XS), own(XS), atol=1e-6)


def test_statistics_change_as_in_a_call():
    """`record` is a call of the model; what only looks at it changes nothing."""
    norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs())
    layers = [linear(4, 8), norm, tnnx.LIB(8), linear(8, 3), tnnx.LI(3)]
    model = tnnx.Unroll(tnnx.Sequential(layers))
    xs = reference.inputs(2, 6, 4) + 1
    twin = nnx.clone(model)

    @nnx.jit
    def both(model, twin):
        losses = nnx.value_and_grad(lambda twin: jnp.square(tt.record(twin, xs)[0]).mean())
        return jnp.square(model(xs)).mean(), losses(twin)[0]

    ours, recorded = both(model, twin)
    own, other = model.cell.layers[1], twin.cell.layers[1]
    before = np.stack([own.mean[...], other.mean[...]])
    np.testing.assert_allclose(ours, recorded, rtol=1e-6)
    np.testing.assert_allclose(*before, rtol=1e-6)
    assert np.abs(before).max() > 0.1
    for look in (tt.diagnose, metrics.synaptic_operations, training.scale_to_rate):
        look(twin, xs)
    np.testing.assert_array_equal(before[1], other.mean[...])


def normalised():
    return tnnx.Unroll(tnnx.Sequential([linear(4, 8), nnx.BatchNorm(8, rngs=rngs()), tnnx.LIB(8)]))


def test_recording_sets_nothing_that_stays_as_it_is():
    """Parameters of outside of `jax.jit` or `jax.grad` can't be set within."""
    model = normalised()
    model.eval()
    xs = reference.inputs(2, 6, 4)
    outs = jax.jit(lambda xs: tt.record(model, xs)[0])(xs)
    np.testing.assert_array_equal(outs, model(xs))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        return tt.record(nnx.merge(graph, params, rest), xs)[0].sum()

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(loss)(params)))


@pytest.mark.parametrize(
    "look", [tt.record, tt.diagnose, metrics.synaptic_operations, training.scale_to_rate]
)
def test_no_program_keeps_a_model(look):
    model = normalised()
    kept = weakref.ref(model)
    look(model, reference.inputs(2, 6, 4) + 1)
    del model
    gc.collect()
    assert kept() is None
