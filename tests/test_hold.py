"""`Unroll(cell, hold=K)` is the cell over an input of which each step is repeated K times."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

import tracetorch_jax as tt
from tracetorch_jax import export, interop, metrics, snn

K, T, B, N = 3, 2, 2, 4
RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
XS = reference.inputs(B, T, N) * 3
LENGTHS = jnp.array([2, 1])


def block(layer):
    return [nn.Dense(N), jnp.tanh, layer]


def convolutions():
    layers = [nn.Conv(2, (3, 3)), nn.BatchNorm(use_running_average=False, momentum=0.5)]
    return snn.Sequential([*layers, snn.LIB(2, threshold=0.3)])


def network():
    return snn.Sequential([nn.Dense(N), snn.SRLIB(N, threshold=0.3), nn.Dense(2), snn.LI(2)])


STACKS = {
    "a network": network,
    "a layer": lambda: snn.SLIB(N, threshold=0.3),
    "no layer": lambda: snn.Sequential([nn.Dense(N)]),
    "stacks in a stack": lambda: snn.Sequential(
        [snn.Sequential([snn.Sequential([nn.Dense(N)]), snn.LIB(N)]), *block(snn.LI(N))]
    ),
    "a residual stack": lambda: snn.Residual(block(snn.LIB(N, threshold=0.3))),
    "a residual stack in a stack": lambda: snn.Sequential(
        [snn.Residual([nn.Dense(N)], merge="concatenate"), snn.LIB(2 * N, threshold=0.3)]
    ),
    "recurrence": lambda: snn.Sequential([nn.Dense(N), snn.Recurrent(snn.LIB(N))]),
    "delays": lambda: snn.Sequential([nn.Dense(N), snn.DelayedDense(N, 3), snn.LIB(N)]),
    "Flax's own cell": lambda: snn.Sequential([nn.LayerNorm(), nn.GRUCell(N)]),
    "dropout": lambda: snn.Sequential([nn.Dropout(0.5, deterministic=False), *block(snn.LI(N))]),
    "convolutions": convolutions,
}
OPTIONS = {
    "time-major": {"time_major": True},
    "reversed": {"reverse": True},
    "reversed, in order": {"reverse": True, "keep_order": True},
}


def compare(cell, xs, lengths=None, **options):
    """Values, gradients of parameters and input, and what is measured, in both orders."""
    time = 0 if options.get("time_major") or xs.ndim == 2 else 1
    xs = jnp.swapaxes(xs, 0, 1) if options.get("time_major") else xs
    model = snn.Unroll(cell, return_carry=True, **options)
    variables = model.init(RNGS, jnp.nan_to_num(xs))

    def run(model, lengths, variables, xs):
        rngs = {"dropout": RNGS["dropout"]}
        return model.apply(variables, xs, seq_lengths=lengths, rngs=rngs, mutable=["batch_stats"])

    def held(variables, xs):
        return run(model.clone(hold=K), lengths, variables, xs)

    def repeated(variables, xs):
        longer = None if lengths is None else K * lengths
        return run(model, longer, variables, jnp.repeat(xs, K, axis=time))

    both = jax.jit(
        lambda *args: [reference.value_and_grads(way, *args) for way in (held, repeated)]
    )
    fast, slow = both(variables, xs)
    reference.assert_trees_close(fast, slow, 2e-5)
    (((_, ys), _), (_, of_xs)) = fast
    assert ys.shape[time] == K * T and np.any(ys) and np.any(of_xs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fast))


SOME = ("a network", "a residual stack in a stack", "convolutions")


@pytest.mark.slow
@pytest.mark.parametrize("stack", STACKS)
def test_it_is_each_step_repeated(stack):
    compare(STACKS[stack](), reference.inputs(B, T, 5, 5, 1) if stack == "convolutions" else XS)


@pytest.mark.slow
@pytest.mark.parametrize("stack", reference.some(STACKS, SOME))
def test_lengths_count_steps_of_the_input(stack):
    xs = reference.inputs(B, T, 5, 5, 1) if stack == "convolutions" else XS
    compare(STACKS[stack](), xs.at[1, 1:].set(jnp.nan), LENGTHS)


@pytest.mark.slow
def test_no_batch():
    compare(network(), XS[0], jnp.array(1))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_other_options(options):
    compare(network(), XS, LENGTHS, **OPTIONS[options])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, *OPTIONS.values()], ids=["plain", *OPTIONS])
def test_nnx_is_linen(options):
    def linear(features):
        return nnx.Linear(N, features, rngs=nnx.Rngs(0))

    layers = [linear(N), tt.nnx.SRLIB(N, threshold=0.3), linear(2), tt.nnx.LI(2)]
    model = snn.Unroll(network(), hold=K, **options)
    variables = model.init(RNGS, XS)
    other = tt.nnx.Unroll(tt.nnx.Sequential(layers), hold=K, **options)
    other = tt.nnx.from_linen(variables, other)
    for lengths in (None, LENGTHS):
        got, want = other(XS, None, lengths), model.apply(variables, XS, None, lengths)
        np.testing.assert_array_equal(got, want)


def watched(cell):
    """Outputs of each layer, ``[T, B, ...]``, by name."""
    model = snn.Unroll(cell, hold=K)
    variables = model.init(RNGS, XS)
    rngs = {"dropout": RNGS["dropout"]}
    _, seen = model.apply(variables, XS, rngs=rngs, capture_intermediates=True)
    return {
        name: own["__call__"][0]
        for name, own in seen["intermediates"]["cell"].items()
        if "__call__" in own
    }


@pytest.mark.slow
def test_what_is_in_front_runs_once():
    stack = snn.Sequential([nn.Dense(N), nn.LayerNorm(), *block(snn.LIB(N)), nn.Dense(2)])
    steps = {name: len(outputs) for name, outputs in watched(stack).items()}
    assert steps == {"layers_0": T, "layers_1": T, "layers_2": T, "layers_5": K * T}


@pytest.mark.slow
def test_dropout_in_front_draws_at_each_step():
    dropout = nn.Dropout(0.5, deterministic=False)
    seen = watched(snn.Sequential([nn.Dense(16), dropout, nn.Dense(N), snn.LI(N)]))
    first, second = seen["layers_1"][:2]  # of one step of the input
    assert len(seen["layers_0"]) == T and len(seen["layers_2"]) == K * T
    assert np.any((first == 0) != (second == 0))


@pytest.fixture(scope="class")
def variables():
    return snn.Unroll(network()).init(RNGS, XS)


@pytest.mark.slow
class TestWhatTakesAModel:
    """It sees the steps that layers take, and the input as it is given."""

    model, slow = snn.Unroll(network(), hold=K), snn.Unroll(network())
    longer = np.repeat(XS, K, axis=1)

    def test_record_and_diagnose(self, variables):
        class Model(nn.Module):
            hold: int

            def setup(self):
                after = [snn.Unroll(snn.SLIB(2, threshold=0.1), hold=hold) for hold in (1, 2)]
                self.runs = [snn.Unroll(network(), hold=self.hold), *after]

            def __call__(self, xs, seq_lengths):
                for run in self.runs:
                    xs = run(xs, None, seq_lengths)
                    seq_lengths = run.hold * seq_lengths
                return xs

        lengths = np.array([2, 1], np.uint8)
        more = K * lengths
        fast = tt.record(self.model, variables, XS, seq_lengths=lengths)
        slow = tt.record(self.slow, variables, self.longer, seq_lengths=more)
        reference.assert_trees_close(fast[0], slow[0])
        for path, recording in slow[1].items():
            reference.assert_trees_close(fast[1][path].states, recording.states)
        own = Model(K).init(RNGS, XS, lengths)
        for models, given in (
            ((self.model, self.slow), variables),
            ((Model(K), Model(1)), own),
        ):
            fast = tt.diagnose(models[0], given, XS, seq_lengths=lengths)
            slow = tt.diagnose(models[1], given, self.longer, seq_lengths=more)
            for a, b in zip(fast.layers, slow.layers, strict=True):
                assert (a.rate, a.dead, a.advice) == (b.rate, b.dead, b.advice)
                np.testing.assert_allclose(a.membrane, b.membrane, rtol=1e-4)

    def test_operations_in_front_count_once(self, variables):
        fast = metrics.synaptic_operations(self.model, variables, XS)
        slow = metrics.synaptic_operations(self.slow, variables, self.longer)
        assert K * fast["cell/layers_0"].dense == slow["cell/layers_0"].dense
        assert fast["cell/layers_2"] == slow["cell/layers_2"]

    def test_export(self, variables):
        want = self.model.apply(variables, XS)
        program = export.sequence(self.model, variables, f"b, t, {N}")
        np.testing.assert_allclose(program.call(XS), want, atol=1e-6)
        step = export.step(self.model, variables, f"b, {N}")
        carry = export.initial_carry(step, XS[:, 0])
        for t in range(K * T):
            carry, y = step.call(carry, XS[:, t // K])
            np.testing.assert_allclose(y, want[:, t], atol=1e-5)

    def test_nir(self, variables):
        pytest.importorskip("nir")
        graph = interop.to_nir(self.model, variables, input_shape=(N,))
        model, own = interop.from_nir(graph)
        np.testing.assert_array_equal(model.apply(own, XS), self.model.apply(variables, XS))
        assert interop.nir_mismatch(
            self.model, variables, XS, style="exact"
        ) == interop.nir_mismatch(self.slow, variables, self.longer, style="exact")

    def test_stateful(self):
        layers = [tt.nnx.Stateful(tt.nnx.SLIB(N), input_shape=(B, N)) for _ in range(2)]
        for _ in range(2):  # from the present states on
            got, want = layers[0].unroll(XS, hold=K), layers[1].unroll(self.longer)
            np.testing.assert_array_equal(got, want)
