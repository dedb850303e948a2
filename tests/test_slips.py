"""The commonest slips are answered with the rule, what was got, and the way out."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from flax import nnx as fnnx

import tracetorch_jax as tt
from tracetorch_jax import (
    decode,
    encode,
    export,
    functional,
    interop,
    losses,
    metrics,
    nnx,
    plot,
    record,
    snn,
    spikes,
    training,
)

matplotlib.use("Agg")

N = 4
KEY = jax.random.key(0)
X, XS = jnp.ones((2, N)), jnp.ones((2, 5, N))


def raises(error, *words):
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


class TestWithoutVariables:
    """A linen module is called by itself."""

    @pytest.mark.parametrize(
        "cell",
        [snn.LIB(N), snn.SLI(N), snn.flex.LIT(N), snn.Sequential([snn.LI(N)]),
         snn.Residual([snn.LI(N)])],
        ids=lambda cell: type(cell).__name__,
    )  # fmt: skip
    def test_a_cell(self, cell):
        way_out = ("holds no parameters", "model.init(key, carry, x)", "model.apply(variables, c")
        for args in ((X,), (None, X)):
            with raises(TypeError, type(cell).__name__, *way_out):
                cell(*args)
        with raises(TypeError, "holds no parameters"):
            cell.unroll(None, XS)

    def test_other_methods_and_unroll(self):
        with raises(TypeError, "LIB holds no parameters"):
            snn.LIB(N).parameters()
        with raises(TypeError, "Unroll holds no parameters", "model.apply(variables, xs)"):
            snn.Unroll(snn.LIB(N))(XS)
        try:
            snn.Unroll(snn.LIB(N))(XS)
        except TypeError as error:
            assert "carry" not in str(error)  # an Unroll takes none

    def test_the_carry_is_left_out(self):
        words = "`carry` and `x` are needed; got one", "cell(carry, x), with None for a carry"
        for cell in (snn.LIB(N), snn.Sequential([snn.LIB(N)]), snn.Residual([snn.LIB(N)])):
            with raises(TypeError, *words):
                cell.init(KEY, X)
            with raises(TypeError, "`carry` and `x` are needed; got none"):
                cell.init(KEY)
        for cell in (nnx.LIB(N), nnx.Sequential([nnx.LIB(N)]), nnx.Residual([nnx.LIB(N)])):
            with raises(TypeError, *words):
                cell(X)


def test_a_sequence_for_one_step():
    words = "must have the shape of one step", "A cell takes one step; Unroll(cell) runs a sequence"
    cell, carry = snn.LIB(N), snn.LIB(N).initialize_carry(None, (2, N))
    for xs in (XS, jnp.moveaxis(XS, 1, 0)):
        with raises(ValueError, *words):
            cell.init(KEY, carry, xs)
        with raises(ValueError, *words):
            nnx.LIB(N)(carry, xs)


@pytest.mark.parametrize(
    "cell",
    [snn.SLIB(N), snn.Sequential([nn.Dense(N), snn.LI(N)]), snn.Residual([snn.LI(N)])],
    ids=lambda cell: type(cell).__name__,
)
def test_variables_of_the_cell_and_of_its_unroll(cell):
    model = snn.Unroll(cell)
    of_model = model.init(KEY, XS)
    of_cell = {"params": of_model["params"]["cell"]}
    cell.apply(of_cell, None, X)
    with raises(ValueError, "`variables` must be those of the cell", '["params"]["cell"]'):
        cell.apply(of_model, None, X)
    with raises(ValueError, "`variables` must be those of the Unroll", '{"cell": variables'):
        model.apply(of_cell, XS)


def test_a_class_for_a_spike_function():
    words = "must be a function from u to spikes; got the class spikes.atan", "spikes.atan()"
    for family in (snn, snn.flex, nnx, nnx.flex):
        with raises(TypeError, "`spike` ", *words):
            family.LIB(N, spike=spikes.atan)
    with raises(TypeError, "`Threshold.spike` ", *words):
        snn.flex.Threshold(1.0, spike=spikes.atan)
    with raises(TypeError, "`spike` ", *words):
        params = {"beta": jnp.array(0.9), "threshold": jnp.array(1.0)}
        spec = functional.Spec(positive="spike")
        functional.step(spec, params, {"mem": X}, X, spike=spikes.atan)


def test_a_traced_value_for_a_spike_function():
    for make in (spikes.atan, spikes.sigmoid, spikes.triangular, spikes.smooth):
        with raises(TypeError, "must be known before tracing", "Create the spike function outside"):
            jax.jit(lambda slope, make=make: make(slope)(X))(2.0)


def linear(inputs, outputs):
    return fnnx.Linear(inputs, outputs, rngs=fnnx.Rngs(0))


class TestWhichLayer:
    """A width that does not fit is an error that says where."""

    def stacks(self):
        return {
            "layers_2` (LIB)": snn.Sequential([nn.Dense(N), snn.LI(N), snn.LIB(3)]),
            "layers_1/layers_2` (LI)": snn.Sequential(
                [snn.LI(N), snn.Residual([snn.LIB(N), nn.Dense(3), snn.LI(N)])]
            ),
            "layers_1` (function)": snn.Sequential([snn.LI(N), lambda x: x.reshape(7, 7)]),
        }

    def stacks_of_nnx(self):
        return {
            "layers_2` (LIB)": nnx.Sequential([linear(N, N), nnx.LI(N), nnx.LIB(3)]),
            "layers_1/layers_2` (LI)": nnx.Sequential(
                [nnx.LI(N), nnx.Residual([nnx.LIB(N), linear(N, 3), nnx.LI(N)])]
            ),
            "layers_2` (Linear)": nnx.Sequential([nnx.LI(N), nnx.LIB(N), linear(3, N)]),
        }

    def test_in_linen(self):
        for where, cell in self.stacks().items():
            for run in (
                lambda cell=cell: cell.init(KEY, None, X),
                lambda cell=cell: snn.Unroll(cell).init(KEY, XS),
            ):
                with raises((TypeError, ValueError), f"In layer `{where}."):
                    run()
        with raises(ValueError, "`input_shape` must", "In layer `layers_2` (LIB)"):
            next(iter(self.stacks().values())).initialize_carry(None, (2, N))

    def test_in_nnx(self):
        for where, cell in self.stacks_of_nnx().items():
            for run in (lambda cell=cell: cell(None, X), lambda cell=cell: nnx.Unroll(cell)(XS)):
                with raises((TypeError, ValueError), f"In layer `{where}."):
                    run()

    def test_dropout_of_what_is_split(self):
        """Flax's own refuses an input that is split over a mesh with explicit axes."""
        mesh = jax.make_mesh((1,), ("data",))
        model = snn.Unroll(snn.Sequential([snn.LI(N), nn.Dropout(0.5, deterministic=False)]))
        with jax.set_mesh(mesh):
            xs = jax.device_put(XS, jax.NamedSharding(mesh, jax.P("data")))
            keys = {"params": KEY, "dropout": KEY}
            words = "In layer `layers_1` (Dropout).", "AxisType.Auto"
            with raises(Exception, *words):
                model.init_with_output(keys, xs)


class TestTheOtherFrontEnd:
    def test_variables_of_what_holds_them(self):
        """Models of nnx are taken alone, see test_nnx_models.py."""
        model, variables = nnx.Unroll(nnx.LIB(N)), nnx.to_linen(nnx.Unroll(nnx.LIB(N)))
        for take in (
            lambda: record(model, variables, XS),
            lambda: tt.diagnose(model=model, variables=variables, xs=XS),
            lambda: export.sequence(model, {}, "b, t, 4"),
            lambda: interop.to_nir(model, variables, input_shape=(N,)),
            lambda: interop.to_torch(variables, model, XS),
            lambda: interop.to_torch({}, model=model),
            lambda: interop.initial_carry(variables, model, XS),
        ):
            with raises(TypeError, "`variables` must be left out", "flax.nnx", "some for Unroll"):
                take()
        for layer in (model, nnx.Stateful(nnx.LIB(N)), nnx.LIB):
            with raises(TypeError, "`layer` must be a trace layer; got "):
                training.online(layer)
        with raises(TypeError, "`model` must be a Flax module; got type"):
            record(snn.LIB, variables, XS)

    def test_one_model_of_both(self):
        for make, word in (
            (lambda: snn.Unroll(nnx.LIB(N)), "`cell` must be of flax.linen"),
            (lambda: nnx.Unroll(snn.LIB(N)), "`cell` must be of flax.nnx"),
            (
                lambda: snn.Sequential([nn.Dense(N), nnx.LIB(N)]),
                "`layers[1]` must be of flax.linen",
            ),
            (lambda: nnx.Sequential([nn.Dense(N)]), "`layers[0]` must be of flax.nnx"),
        ):
            with raises(TypeError, word):
                make()


def test_a_class_for_a_layer():
    for make, name, made in (
        (lambda: snn.Sequential([snn.LIB]), "layers[0]", "LIB(num_neurons, ...)"),
        (lambda: nnx.Sequential([nnx.LI(N), nnx.LIB]), "layers[1]", "LIB(num_neurons, ...)"),
        (lambda: snn.Residual([nn.Dense]), "layers[0]", "Dense(features, ...)"),
        (lambda: nnx.Sequential([fnnx.Linear]), "layers[0]", "Linear(in_features, ...)"),
        (lambda: snn.Unroll(snn.LIB), "cell", "LIB(num_neurons, ...)"),
    ):
        with raises(TypeError, f"`{name}` must be a layer; got the class", made):
            make()
    snn.Sequential([jnp.float32, snn.LI(N)])  # a class, but a function of one array


def test_unroll_of_what_is_no_cell():
    for make, words in (
        (lambda: snn.Unroll(snn.Unroll(snn.LIB(N))), "got Unroll of tracetorch_jax. That runs"),
        (lambda: nnx.Unroll(nnx.Unroll(nnx.LIB(N))), "got Unroll of tracetorch_jax. That runs"),
        (lambda: snn.Unroll(nn.RNN(snn.LIB(N))), "got RNN of flax. That runs over time by itself"),
        (lambda: snn.Unroll(nn.Sequential([nn.Dense(N)])), "got Sequential of flax. A Sequential"),
        (lambda: nnx.Unroll(linear(N, N)), "got Linear of flax. A Sequential of tracetorch_jax"),
    ):
        with raises(TypeError, "`cell` must be a cell", words):
            make()


def test_states_in_lists():
    cell = snn.LI(N)
    variables = cell.init(KEY, None, X)
    listed = cell.apply(variables, {"mem": np.ones((2, N)).tolist()}, X)
    np.testing.assert_array_equal(listed[1], cell.apply(variables, {"mem": X}, X)[1])
    for wrong, kind in (("a", "str"), (None, "NoneType"), ([[1.0], [1.0, 2.0]], "list")):
        with raises(TypeError, f"`carry['mem']` must be an array; got {kind}"):
            cell.apply(variables, {"mem": wrong}, X)


def test_no_lengths_of_no_sequences():
    model = nnx.Unroll(nnx.LI(N))
    assert model(XS[:0], seq_lengths=[]).shape == (0, 5, N)
    assert decode.count(XS[:0], seq_lengths=[]).shape == (0, N)
    with raises(TypeError, "`seq_lengths` must be integers; got dtype float32"):
        model(XS[:0], seq_lengths=jnp.ones(0))


LABELS = jnp.zeros(2, int)
TAKE_OUTPUTS = {
    "cross_entropy": lambda o: losses.cross_entropy(o, LABELS),
    "soft_cross_entropy": lambda o: losses.soft_cross_entropy(o, LABELS),
    "step_cross_entropy": lambda o: losses.step_cross_entropy(o, LABELS),
    "count_target": lambda o: losses.count_target(o, LABELS, correct=1, incorrect=0),
    "rate_target": lambda o: losses.rate_target(o, LABELS),
    "first_spike_cross_entropy": lambda o: losses.first_spike_cross_entropy(o, LABELS),
    "first_spike_target": lambda o: losses.first_spike_target(o, LABELS),
    "rate_penalty": lambda o: losses.rate_penalty(o, max_rate=0.1),
    "silence_penalty": lambda o: losses.silence_penalty(o, min_rate=0.1),
    **{name: getattr(decode, name) for name in decode.__all__},
    **{name: getattr(metrics, name) for name in ("spike_rate", "dead", "saturated")},
    "raster": plot.raster,
    "activity": plot.activity,
}


@pytest.mark.parametrize("name", TAKE_OUTPUTS)
def test_no_array(name):
    take = TAKE_OUTPUTS[name]
    for given, kind in ((None, "NoneType"), ({"mem": XS}, "dict"), ("a", "str")):
        with pytest.raises(TypeError, match=rf"`\w+` must be an array(,.*)?; got {kind}\b"):
            take(given)
    with pytest.raises(
        TypeError, match=r"`\w+` must be .* That is \(carry, outputs\), as return_c"
    ):
        take(({"mem": X}, XS))
    with pytest.raises(ValueError, match=r"`\w+` must be .*got shape \(3,\)"):
        take(jnp.ones(3))


def test_pairs_of_numbers_are_arrays():
    for pair in ((0.5, np.float32(0.2)), ([0.5, 1.0], np.ones(2))):
        assert encode.constant(pair, 3).shape == (*np.shape(pair)[:-1], 3, 2)


def test_no_labels_and_no_input():
    with raises(TypeError, "`labels` must be an array; got NoneType"):
        losses.cross_entropy(XS, None)
    with raises(TypeError, "`xs` must be an array; got NoneType"):
        nnx.Unroll(nnx.LIB(N))(None)
    for cell in (nnx.LIB(N), nnx.Sequential([linear(N, N)])):
        with raises(TypeError, "`x` must be an array; got NoneType", "cell(carry, x)"):
            cell(None, None)


class TestHalfLives:
    def counts(self, ax):
        return sum(patch.get_height() for patch in ax.patches)

    def test_of_what_record_gives(self):
        cell = snn.Sequential([snn.SLIB(N, alpha=0.5), snn.LI(N, beta=1.0, beta_learnable=False)])
        model = snn.Unroll(cell)
        _, layers = record(model, model.init(KEY, XS), XS)
        for given in (layers, layers["cell/layers_0"], layers["cell/layers_0"].parameters):
            assert self.counts(plot.half_lives(given)) == 2 * N  # alpha and beta
        assert self.counts(plot.half_lives(layers, before=layers)) == 4 * N
        with raises(ValueError, "`decays` must be decays strictly between 0 and 1; got none"):
            plot.half_lives(layers["cell/layers_1"])

    def test_of_something_else(self):
        with raises(ValueError, "must hold decays, not the raw parameters", "'raw_beta'"):
            plot.half_lives(snn.LI(N).init(KEY, None, X)["params"])
        with raises(TypeError, "`decays` must be an array; got LI", "record"):
            plot.half_lives(snn.LI(N))


def test_an_online_state_can_be_donated():
    layer = snn.SRLIB(N)
    params = layer.init(KEY, None, X)["params"]
    init, step = training.online(layer)
    state = init(params, X)
    assert len({x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)}) == len(
        jax.tree.leaves(state)
    )
    run = jax.jit(lambda params, state, x: step(params, state, x)[:2], donate_argnums=1)
    new, _ = run(params, state, X)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    run(params, new, X)


@pytest.mark.slow
def test_a_flax_without_nnx(tmp_path):
    """As flax 0.12.8 is with jax 0.12."""
    import subprocess
    import sys

    code = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "flax.nnx":
            raise AttributeError("module 'jax.experimental.hijax' has no attribute 'HiPrimitive'")
sys.meta_path.insert(0, Broken())
import jax, jax.numpy as jnp
from tracetorch_jax import snn
snn.Unroll(snn.LI(2)).init(jax.random.key(0), jnp.ones((1, 1, 2)))
try:
    import tracetorch_jax.nnx
except ImportError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"needs flax.nnx, which flax \S+ cannot import with jax", said.stdout)
    assert "Pairs that fit: jax 0.10.0" in said.stdout and "HiPrimitive" in said.stdout
