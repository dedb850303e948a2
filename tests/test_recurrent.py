"""Recurrence between neurons."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

import tracetorch_jax as tt
from tracetorch_jax import functional, snn, spikes

N = 4
XS = 2 * reference.inputs(3, 13, N)
LENGTHS = jnp.array([13, 5, 0])


def multiply(kernel, y):
    return y @ kernel


def recurrent(name, **kwargs):
    """A layer with a feedback, and parameters in which every part of both is at work."""
    layer, variables = reference.scrambled(name, N, **kwargs)
    feedback = {"kernel": 0.5 * reference.inputs(N, N, seed=3), "bias": jnp.arange(4.0) / 10}
    return snn.Recurrent(layer, nn.Dense(N)), {
        "params": {"cell": variables["params"], "feedback": feedback}
    }


def written_out(name, variables, xs, lengths):
    """The definition, as one loop over steps that asks for one step of the layer alone."""
    layer = getattr(snn, name)(N)
    own = {"params": variables["params"]["cell"]}
    kernel, bias = (variables["params"]["feedback"][part] for part in ("kernel", "bias"))
    carry, y, ys = layer.zeros(xs[:, 0].shape), jnp.zeros_like(xs[:, 0]), []
    for t in range(xs.shape[1]):
        new, out = layer.apply(own, carry, xs[:, t] + y @ kernel + bias[None])
        alive = (t < lengths)[:, None]
        carry = {state: jnp.where(alive, new[state], carry[state]) for state in new}
        y = jnp.where(alive, out, y)
        ys.append(jnp.where(alive, out, 0))
    return {"cell": carry, "prev_output": y}, jnp.stack(ys, 1)


@pytest.mark.parametrize("name", [*reference.each(("LI", "LIB", "SLITS", "DRLIT", "ALIB"))])
def test_it_is_the_layer_with_its_last_output_added_to_its_input(name):
    """Values, and gradients of every parameter and of the input, for every K."""
    cell, variables = recurrent(name)
    want, d_want = jax.jit(
        lambda v, xs: reference.value_and_grads(
            lambda v, xs: written_out(name, v, xs, LENGTHS), v, xs
        )
    )(variables, XS)
    for every in (1, 4, None):
        model = snn.Unroll(cell, return_carry=True, checkpoint_every=every)

        def run(v, xs, model=model):
            return model.apply(v, xs, seq_lengths=LENGTHS)

        got, (d_got, d_xs) = reference.value_and_grads(run, reference.under(variables), XS)
        reference.assert_trees_close(got, want)
        reference.assert_trees_close((reference.inner(d_got), d_xs), d_want, 1e-4)


def test_values_of_a_chain():
    """A spike of the first neuron reaches the second one step later."""
    cell = snn.Recurrent(snn.LIB(2, beta=1e-6), nn.Dense(2, use_bias=False))
    kernel = jnp.array([[0.0, 2.0], [0.0, 0.0]])
    variables = cell.init(jax.random.key(0), None, jnp.zeros((1, 2)))
    variables["params"]["feedback"]["kernel"] = kernel
    xs = jnp.zeros((1, 4, 2)).at[0, 1, 0].set(2.0)
    ys = snn.Unroll(cell).apply(reference.under(variables), xs)
    assert ys[0].tolist() == [[0, 0], [1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("name", reference.first(["LIB", "DSRLITS"]))
def test_a_stream_is_a_sequence(name):
    """As near as a Dense comes to itself, which sums in another order in another program."""
    cell, variables = recurrent(name)
    model = snn.Unroll(cell, return_carry=True)
    last, ys = model.apply(reference.under(variables), XS)
    carry, step, steps = cell.initialize_carry(None, XS[:, 0].shape), jax.jit(cell.apply), []
    for t in range(XS.shape[1]):
        carry, y = step(variables, carry, XS[:, t])
        steps.append(y)
    reference.assert_trees_close((carry, jnp.stack(steps, 1)), (last, ys))
    first, before = model.apply(reference.under(variables), XS[:, :6])
    second, after = model.apply(reference.under(variables), XS[:, 6:], first)
    reference.assert_trees_close((second, jnp.concatenate([before, after], 1)), (last, ys))
    reference.assert_trees_close(nn.RNN(cell).apply(reference.under(variables), XS), ys)


@pytest.mark.parametrize("name", reference.first(["LIB", "DSRLITS"]))
def test_nnx_is_linen_to_the_bit(name):
    cell, variables = recurrent(name)
    rngs = nnx.Rngs(0)
    own = tt.nnx.Recurrent(getattr(tt.nnx, name)(N), nnx.Linear(N, N, rngs=rngs))
    model = tt.nnx.from_linen(reference.under(variables), tt.nnx.Unroll(own))
    want = snn.Unroll(cell).apply(reference.under(variables), XS, seq_lengths=LENGTHS)
    np.testing.assert_array_equal(model(XS, seq_lengths=LENGTHS), want)
    step = own(None, XS[:, 0]), cell.apply(variables, None, XS[:, 0])
    jax.tree.map(np.testing.assert_array_equal, *step)
    d_model = nnx.grad(lambda model: (model(XS) ** 2).sum())(model)
    d_linen = jax.grad(lambda v: (snn.Unroll(cell).apply(reference.under(v), XS) ** 2).sum())(
        variables
    )["params"]
    assert d_linen["feedback"]["kernel"].any()
    decay = f"raw_{next(iter(own.cell.spec.parameters))}"
    for part, leaf in (("feedback", "kernel"), ("cell", decay)):
        np.testing.assert_array_equal(d_model["cell"][part][leaf][...], d_linen[part][leaf])


def test_by_default_a_matrix_without_bias_that_starts_weak():
    cell = snn.Recurrent(snn.LIB(N, param_dtype=jnp.float16))
    params = cell.init(jax.random.key(0), None, XS[:, 0].astype(jnp.float16))["params"]
    assert [*params["feedback"]] == ["kernel"] and params["feedback"]["kernel"].dtype == jnp.float16
    kernel = np.asarray(params["feedback"]["kernel"], float)
    np.testing.assert_allclose(kernel @ kernel.T, 0.09 * np.eye(N), atol=1e-3)
    same = tt.nnx.Recurrent(tt.nnx.LIB(N, param_dtype=jnp.float16), rngs=nnx.Rngs(0)).feedback
    assert same.kernel.dtype == jnp.float16 and same.bias is None
    kernel = np.asarray(same.kernel[...], float)
    np.testing.assert_allclose(kernel @ kernel.T, 0.09 * np.eye(N), atol=1e-3)
    assert cell == snn.Recurrent(snn.LIB(N, param_dtype=jnp.float16))  # one program for both


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, y):
        return nn.Dense(N)(jnp.tanh(nn.Dense(3)(y)))


@pytest.mark.parametrize(
    ("feedback", "layer", "shape"),
    [
        (Mlp(), snn.LIB(N), (2, 6, N)),
        (nn.Conv(2, (3, 3)), snn.SLIT(2), (2, 6, 5, 4, 2)),
        (nn.Conv(2, (3, 3)), snn.SLIT(2), (6, 5, 4, 2)),
        (nn.Sequential([nn.Dense(3), nn.LayerNorm(), nn.Dense(N)]), snn.LIT(N), (2, 6, N)),
    ],
)
@pytest.mark.slow
def test_any_module_feeds_back(feedback, layer, shape):
    """One that is no linear map, too: values and gradients are those of Flax's own loop."""
    cell = snn.Recurrent(layer, feedback)
    xs = reference.inputs(*shape)
    variables = snn.Unroll(cell).init(jax.random.key(0), xs)
    got, want = (
        reference.value_and_grads(run.apply, variables, xs)
        for run in (snn.Unroll(cell), nn.RNN(cell))
    )
    if len(shape) == 4:  # Flax's loop takes the first axis for the batch
        steps, carry = [], None
        for x in xs:
            carry, y = cell.apply(reference.inner(variables), carry, x)
            steps.append(y)
        np.testing.assert_array_equal(got[0], jnp.stack(steps))
    else:
        reference.assert_trees_close(got, want, 1e-4)


class Compact(nn.Module):
    """What feeds back is made of modules whose variables are elsewhere: here, and in a caller."""

    run: Any
    shared: Any

    @nn.compact
    def __call__(self, xs):
        inner = nn.Sequential([nn.Dense(N), nn.Dense(N), self.shared])
        feedback = nn.Sequential([nn.Dense(3), jnp.tanh, inner, self.shared])
        return self.run(snn.Recurrent(snn.LIB(N, threshold=0.3), feedback))(self.shared(xs))


def test_what_feeds_back_is_made_of_modules_of_others():
    xs = 2 * reference.inputs(2, 6, N)
    got, want = (Compact(run, nn.Dense(N)) for run in (snn.Unroll, nn.RNN))
    variables = got.init(jax.random.key(0), xs)
    assert len(variables["params"]) == 5
    got, want = (reference.value_and_grads(each.apply, variables, xs) for each in (got, want))
    reference.assert_trees_close(got, want, 1e-4)


@pytest.mark.parametrize(
    "inner", [nn.GRUCell(N), snn.Sequential([nn.Dense(N), snn.LIB(N), nn.Dense(3)])]
)
def test_another_cell_is_run_step_by_step(inner):
    cell = snn.Recurrent(inner, nn.Dense(3))
    xs = reference.inputs(2, 6, 3)
    model = snn.Unroll(cell, return_carry=True)
    variables = model.init(jax.random.key(0), xs)
    last, ys = model.apply(variables, xs)
    carry, steps = cell.initialize_carry(None, (2, 3)), []
    for t in range(6):
        carry, y = cell.apply(reference.inner(variables), carry, xs[:, t])
        steps.append(y)
    reference.assert_trees_close((last, ys), (carry, jnp.stack(steps, 1)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.uint8, jnp.bool_])
def test_types_of_input(dtype):
    """The output is of the input's type, the carry of that of the computation."""
    cell, variables = recurrent("LIT")
    xs = (XS > 0.3).astype(dtype) if dtype in (jnp.uint8, jnp.bool_) else XS.astype(dtype)
    last, ys = snn.Unroll(cell, return_carry=True).apply(reference.under(variables), xs)
    floating = jnp.issubdtype(dtype, jnp.floating)
    assert ys.dtype == (dtype if floating else jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(last)} == {jnp.dtype(jnp.float32)}
    carry, steps = None, []
    for t in range(XS.shape[1]):
        carry, y = cell.apply(variables, carry, xs[:, t])
        steps.append(y)
    np.testing.assert_array_equal(jnp.stack(steps, 1), ys)
    if floating:
        d_xs = jax.grad(
            lambda xs: snn.Unroll(cell).apply(reference.under(variables), xs).sum().astype(float)
        )(xs)
        assert d_xs.dtype == dtype and np.isfinite(np.asarray(d_xs, float)).all()


def test_random_spikes_are_fed_back():
    layer = snn.LIB(N, spike=spikes.bernoulli(spikes.atan(2.0)))
    cell = snn.Recurrent(layer, nn.Dense(N))
    variables = snn.Unroll(cell).init({"params": jax.random.key(0), "spike": jax.random.key(1)}, XS)
    _, recordings = tt.record(snn.Unroll(cell), variables, XS, rngs={"spike": jax.random.key(2)})
    seen = recordings["cell/cell"]
    before = np.concatenate([np.zeros((3, 1, N)), np.asarray(seen.outputs)[:, :-1]], 1)
    feedback = variables["params"]["cell"]["feedback"]
    want = np.asarray(XS) + before @ np.asarray(feedback["kernel"]) + np.asarray(feedback["bias"])
    np.testing.assert_allclose(np.asarray(seen.inputs), want, atol=1e-5)
    assert 0 < seen.outputs.mean() < 1


def test_padding_changes_nothing():
    cell, variables = recurrent("SLITS")

    def run(v, xs):
        return snn.Unroll(cell, return_carry=True).apply(
            reference.under(v), xs, seq_lengths=LENGTHS
        )

    padded = XS.at[1, 5:].set(jnp.nan).at[2].set(jnp.nan)
    got, want = (reference.value_and_grads(run, variables, xs) for xs in (padded, XS))
    reference.assert_trees_close(got, want)


class TestWhatSeesIt:
    model = snn.Unroll(snn.Sequential([nn.Dense(N), snn.Recurrent(snn.DRLIT(N)), snn.LI(N)]))

    def variables(self):
        return self.model.init(jax.random.key(0), XS)

    def test_record(self):
        variables = self.variables()
        ys, recordings = tt.record(self.model, variables, XS)
        np.testing.assert_allclose(ys, self.model.apply(variables, XS), atol=1e-6)
        assert [*recordings] == ["cell/layers_1/cell", "cell/layers_2"]
        seen = recordings["cell/layers_1/cell"]
        params = {"params": {"cell": variables["params"]["cell"]["layers_1"]["cell"]}}
        alone = snn.Unroll(seen.layer, engine="scan").apply(params, seen.inputs)
        np.testing.assert_array_equal(alone, seen.outputs)
        kernel = variables["params"]["cell"]["layers_1"]["feedback"]["kernel"]
        before = jnp.zeros_like(seen.outputs).at[:, 1:].set(seen.outputs[:, :-1])
        dense = variables["params"]["cell"]["layers_0"]
        want = XS @ dense["kernel"] + dense["bias"][None, None] + before @ kernel
        np.testing.assert_allclose(seen.inputs, want, atol=1e-5)
        assert {*seen.states} == {*seen.layer.spec.states}

    def test_diagnose(self):
        variables = self.variables()
        report = tt.diagnose(self.model, variables, XS).layers[0]
        spikes_ = tt.record(self.model, variables, XS)[1]["cell/layers_1/cell"].outputs
        assert report.path == "cell/layers_1/cell" and report.gradient > 0
        np.testing.assert_allclose(report.rate[0], (spikes_ > 0).mean(), rtol=1e-5)

    def test_operations_of_the_feedback_are_counted(self):
        variables = self.variables()
        counted = tt.metrics.synaptic_operations(self.model, variables, XS)
        spikes_ = tt.record(self.model, variables, XS)[1]["cell/layers_1/cell"].outputs
        events = np.count_nonzero(spikes_[:, :-1]) / 3  # what comes last is not fed back
        own = counted["cell/layers_1/feedback"]
        assert own.events == pytest.approx(events) and own.acs == pytest.approx(N * events)
        assert own.dense == 13 * N * N

    def test_labels_and_checkpoints(self, tmp_path):
        params = self.variables()["params"]
        labels = tt.training.parameter_labels(params)["cell"]["layers_1"]
        assert labels["feedback"] == {"kernel": "other"}
        assert labels["cell"]["raw_pos_beta"] == "decay"
        tt.checkpoint.save(tmp_path / "run", params)
        kept = tt.checkpoint.restore(tmp_path / "run", params)
        jax.tree.map(np.testing.assert_array_equal, kept, params)

    def test_exported_programs(self, tmp_path):
        variables = self.variables()
        whole = tt.export.sequence(self.model, variables, ("b", "t", N))
        np.testing.assert_allclose(whole.call(XS), self.model.apply(variables, XS), atol=1e-5)
        step = tt.export.step(self.model, variables, (3, N))
        carry = tt.export.initial_carry(step, XS[:, 0])
        steps = []
        for t in range(13):
            carry, y = step.call(carry, XS[:, t])
            steps.append(y)
        np.testing.assert_allclose(jnp.stack(steps, 1), whole.call(XS), atol=1e-5)

    def test_a_layer_with_a_state_of_its_own(self):
        rngs = nnx.Rngs(0)
        cell = tt.nnx.Recurrent(tt.nnx.LIB(N), rngs=rngs)
        want = tt.nnx.Unroll(cell)(XS)
        stateful = tt.nnx.Stateful(cell)
        got = jnp.stack([stateful(XS[:, t]) for t in range(13)], 1)
        np.testing.assert_array_equal(got, want)


class TestLayersWithinACell:
    """A cell of several layers is run step by step, and nobody says that all is well with them."""

    inner = snn.Recurrent(snn.Sequential([nn.Dense(N), snn.LIB(N)]), nn.Dense(N))

    def test_diagnose_says_that_it_does_not_see_them(self):
        model = snn.Unroll(snn.Sequential([self.inner, nn.Dense(2), snn.LI(2)]))
        diagnosis = tt.diagnose(model, model.init(jax.random.key(0), XS), XS)
        assert [report.path for report in diagnosis.layers] == ["cell/layers_2"]
        (problem,) = diagnosis.problems
        assert "cell/layers_0/cell/layers_1 (LIB) step by step" in problem

    def test_record_and_operations_say_what_to_do(self):
        model = snn.Unroll(self.inner)
        variables = model.init(jax.random.key(0), XS)
        with pytest.raises(ValueError, match=r"it runs cell/cell/layers_1 \(LIB\) step by step"):
            tt.record(model, variables, XS)
        with pytest.raises(ValueError, match="a Dense in front of a Recurrent"):
            tt.metrics.synaptic_operations(model, variables, XS)


@pytest.mark.optimised
@pytest.mark.slow
def test_the_gradient_keeps_what_that_of_the_layer_keeps():
    """Plain autodiff keeps every value within a step; here it is states, inputs and outputs."""
    layer, variables = reference.scrambled("DSRLIT", 64)
    xs = jnp.zeros((200, 8, 64))
    params = {"cell": layer.apply(variables, method="parameters"), "feedback": jnp.eye(64)}
    step = functional.RecurrentStep(functional.LayerStep(layer.spec, spikes.atan(2.0)), multiply)
    state = {"cell": dict.fromkeys(layer.spec.states, xs[0]), "prev_output": xs[0]}

    def temporary(run):
        gradient = jax.grad(lambda params, xs: run(params, xs)[1].sum(), (0, 1))
        compiled = jax.jit(gradient).lower(params, xs).compile()
        return compiled.memory_analysis().temp_size_in_bytes / xs.nbytes

    ours = temporary(lambda params, xs: functional.unroll(step, params, state, xs))
    plain = temporary(lambda params, xs: jax.lax.scan(lambda s, x: step(params, s, x), state, xs))
    assert ours < 6 and plain > 15


def test_one_program_for_layers_that_are_equal():
    """A feedback of Flax is compared by its fields, so nothing is compiled again."""
    variables = snn.Unroll(snn.Recurrent(snn.LIB(N))).init(jax.random.key(0), XS)
    snn.Unroll(snn.Recurrent(snn.LIB(N))).apply(variables, XS)
    seen = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *a, **k: seen.append(name))
    jnp.sin(jnp.zeros((3, 1, 2)))
    assert any("backend_compile" in name for name in seen)  # it does listen
    seen.clear()
    snn.Unroll(snn.Recurrent(snn.LIB(N))).apply(variables, XS)
    assert not any("backend_compile" in name for name in seen)


BAD = [
    (lambda: snn.Recurrent(nn.Dense(3)), TypeError, "`cell` must be a cell"),
    (lambda: snn.Recurrent(snn.Unroll(snn.LIB(3))), TypeError, "take its cell"),
    (
        lambda: snn.Recurrent(snn.LIB(3, dim=-3)),
        ValueError,
        r"`feedback` must be given for LIB with dim=-3",
    ),
    (lambda: snn.Recurrent(nn.GRUCell(3)), ValueError, "`feedback` must be given for GRUCell"),
    (lambda: snn.Recurrent(snn.LIB(3), snn.LIB(3)), TypeError, "without a state.*got LIB"),
    (lambda: snn.Recurrent(snn.LIB(3), jnp.tanh), TypeError, "`feedback` must be a module"),
    (lambda: snn.Recurrent(snn.LIB(3), nn.Dense), TypeError, "got the class Dense"),
    (
        lambda: snn.Recurrent(snn.LIB(3), nnx.Linear(3, 3, rngs=nnx.Rngs(0))),
        TypeError,
        "`feedback` must be of flax.linen",
    ),
    (lambda: tt.nnx.Recurrent(tt.nnx.LIB(3)), ValueError, "`rngs` is needed for the default"),
    (lambda: run(nn.Dense(3)), ValueError, r"`feedback` must give the shape.*\(3, 4\); got \(3"),
    (
        lambda: run(nn.Dropout(0.5, deterministic=False)),
        TypeError,
        "neither draw random numbers nor change variables.*Dropout does",
    ),
    (lambda: run(nn.BatchNorm(use_running_average=False)), TypeError, "BatchNorm does"),
    (lambda: run_nnx(nnx.Dropout(0.5, rngs=nnx.Rngs(0))), TypeError, "Dropout does"),
    (lambda: run_nnx(nnx.BatchNorm(N, rngs=nnx.Rngs(0))), TypeError, "BatchNorm does"),
    (lambda: run(nn.Dense(N), engine="fused"), ValueError, "'auto' or 'scan'.*got 'fused'"),
    (lambda: run(nn.Dense(N), engine="parallel"), ValueError, "'auto' or 'scan'"),
    (lambda: run(None, carry={"mem": 0}), ValueError, "must hold exactly.*lacks 'cell'"),
    (lambda: run(None, carry=jnp.zeros(3)), TypeError, "`carry` must be a dict"),
    (
        lambda: run(None, carry={"cell": {"mem": jnp.zeros((3, N))}, "prev_output": jnp.zeros(N)}),
        ValueError,
        r"`carry\['prev_output'\]` must have the shape",
    ),
    (lambda: functional.RecurrentStep(None, multiply), TypeError, "`step` must be a function"),
    (
        lambda: functional.unroll(
            functional.RecurrentStep(functional.LayerStep(functional.Spec()), multiply),
            {"beta": jnp.ones(())}, {"mem": jnp.zeros(3)}, XS[0],
        ),
        ValueError,
        "`params` of a recurrent step must hold exactly",
    ),
]  # fmt: skip


def run(feedback, carry=None, **kwargs):
    cell = snn.Recurrent(snn.LIB(N), feedback)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    model = snn.Unroll(cell, **kwargs)
    return model.init(keys, XS, carry)


def run_nnx(feedback):
    return tt.nnx.Unroll(tt.nnx.Recurrent(tt.nnx.LIB(N), feedback))(XS)


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_what_does_not_fit_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()
