"""Every engine against the reference vectors and against one another."""

import contextlib
import dataclasses
import importlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import AbstractMesh
from jax.test_util import check_grads

from tracetorch_jax import functional, snn
from tracetorch_jax.functional.engines import fused, targets, unroll
from tracetorch_jax.functional.engines.native import build
from tracetorch_jax.functional.engines.parallel import linear_recurrence

KERNELS = pytest.mark.skipif(build.why_not() is not None, reason=f"{build.why_not()}")


@pytest.mark.parametrize("layer", reference.each(reference.TRACETORCH))
def test_keeping_every_state_matches_tracetorch(layer, x64):
    assert reference.one_program(layer)
    for case in reference.one_program(layer):
        reference.check_case(case, "every state kept", "float64")


@KERNELS
@pytest.mark.parametrize("layer", reference.each(reference.TRACETORCH))
def test_kernels_of_a_cpu_match_tracetorch(layer, x64):
    for case in reference.one_program(layer):
        reference.check_case(case, "fused", "float64")


@pytest.mark.slow
@pytest.mark.parametrize("layer", reference.some(reference.TRACETORCH, reference.QUICK))
def test_pallas_matches_tracetorch(layer, x64, monkeypatch):
    monkeypatch.setattr(unroll, "_kernel", lambda: (fused.why_not, fused.scan_fused))
    for case in reference.one_program(layer):
        reference.check_case(case, "pallas", "float64")


@pytest.mark.parametrize(
    "layer", reference.each(n for n in reference.LINEAR if n in reference.TRACETORCH)
)
def test_parallel_matches_tracetorch(layer, x64):
    for case in reference.one_program(layer):
        reference.check_case(case, "parallel", "float64")


@pytest.mark.optimised
@pytest.mark.slow
@pytest.mark.parametrize("layer", reference.first(["SLITS", "LI", "DSRLIT"]))
def test_fused_and_scan_emit_the_same_spikes(layer):
    cell, variables = reference.scrambled(layer)
    xs, lengths = reference.inputs(13, 4, 3) * 2, jnp.array([13, 0, 5, 1])
    scan, fused = (
        reference.gradient(cell, lengths, engine=engine, checkpoint_every=5)(
            reference.under(variables), xs
        )
        for engine in ("scan", "fused")
    )
    reference.assert_trees_close(scan, fused, 1e-5)
    np.testing.assert_array_equal(scan[0][1] != 0, fused[0][1] != 0)


@pytest.fixture(scope="class")
def pallas():
    """`engine="fused"` by Pallas, which interprets its kernel on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unroll, "_kernel", lambda: (fused.why_not, fused.scan_fused))
        yield


@pytest.fixture(scope="class")
def blocks():
    """Cut for the interpreter as for a TPU."""
    target = dataclasses.replace(targets.INTERPRETER, rows=2, time_bytes=5000, ahead=6)
    jax.clear_caches()  # of what was traced for another target
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "INTERPRETER", target)
        yield
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.usefixtures("pallas", "blocks")
class TestTimeInBlocks:
    """The cut that a TPU needs, in the interpreter: blocks of rows and of time, groups."""

    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [((11, 150, 3), "float32")]
        + [
            pytest.param(shape, dtype, marks=pytest.mark.nightly)
            for shape, dtype in (
                ((11, 150, 3), "bfloat16"), ((1, 2, 3), "float32"), ((5, 3), "float32"),
                ((4, 2, 64, 3), "float32"),
            )
        ],
        ids=str,
    )  # fmt: skip
    def test_equals_scan(self, shape, dtype):
        cell, variables = reference.scrambled("SRLIT")
        xs = reference.inputs(*shape, dtype=dtype) * 2
        lengths = jnp.minimum(jnp.arange(shape[1]), shape[0]) if len(shape) > 2 else jnp.array(3)
        want, *others = (
            reference.gradient(cell, lengths, **options)(reference.under(variables), xs)
            for options in (
                {"engine": "scan"},
                {"engine": "fused"},
                {"engine": "fused", "checkpoint_every": 3},
            )
        )
        for got in others:
            reference.assert_trees_close(got, want, 1e-5 if dtype == "float32" else 1e-2)


ROUTES = {
    "mosaic_gpu": ("cuda", "custom_call @mosaic_gpu"),
    "triton": ("cuda", "custom_call @__gpu$xla.gpu.triton"),
    "tpu": ("tpu", "custom_call @tpu_custom_call"),
}
NEEDS_MOSAIC_GPU = pytest.mark.skipif(
    not targets.MOSAIC_GPU.available, reason="Mosaic GPU of this JAX cannot compile these kernels"
)


def through(*routes):
    """Parametrise with these of `ROUTES`."""
    marks = {"mosaic_gpu": NEEDS_MOSAIC_GPU}
    return pytest.mark.parametrize(
        "route", [pytest.param(route, marks=marks.get(route, ())) for route in routes]
    )


def lower(route, run, *args):
    """The text of a program for a device that is not here."""
    platform, _ = ROUTES[route]
    with pytest.MonkeyPatch.context() as patch, abstract_device(platform):
        if route == "triton" and targets.gpu() is not targets.TRITON:
            jax.clear_caches()  # of what was traced for Mosaic GPU
            patch.setattr(targets, "gpu", lambda: targets.TRITON)
        text = run.trace(*args).lower(lowering_platforms=(platform,)).as_text()
    if targets.gpu() is not targets.TRITON:
        jax.clear_caches()
    return text


# What Pallas says of its Triton backend from jax 0.12 on.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.usefixtures("pallas")
class TestFused:
    @through(*ROUTES)
    def test_it_is_one_kernel_in_each_direction(self, route):
        cell, variables = reference.scrambled("SLITS")
        run = reference.gradient(cell, engine="fused")
        text = lower(route, run, reference.under(variables), jnp.ones((20, 2, 3)))
        _, kernel = ROUTES[route]
        assert text.count(kernel) == 2
        assert "stablehlo.while" not in text

    @through(*ROUTES)
    @pytest.mark.parametrize(
        ("dtype", "every"),
        [("bfloat16", 16), pytest.param("float32", None, marks=pytest.mark.nightly)],
    )
    def test_long_padded_sequences_lower(self, route, dtype, every):
        cell, variables = reference.scrambled("SLITS", 250)
        xs = jnp.ones((1001, 65, 250), dtype)
        run = reference.gradient(cell, jnp.arange(65), engine="fused", checkpoint_every=every)
        assert ROUTES[route][1] in lower(route, run, reference.under(variables), xs)

    def test_blocks_of_rows_that_a_tpu_takes(self):
        """Eight rows at a time, or all of them: here 20, cut since a chunk is long."""
        cell, variables = reference.scrambled("SLITS", 20 * 128)
        xs = jnp.ones((800, 1, 20 * 128))
        run = reference.gradient(cell, engine="fused", checkpoint_every=200)
        lower("tpu", run, reference.under(variables), xs)

    @through(*ROUTES)
    @pytest.mark.parametrize("layer", reference.FEW)
    def test_every_layer_lowers(self, route, layer):
        cell, variables = reference.scrambled(layer)
        run = reference.gradient(cell, jnp.array([3, 20]), engine="fused")
        lower(route, run, reference.under(variables), jnp.ones((20, 2, 3)))

    @pytest.mark.parametrize(
        ("capability", "since", "removed", "part"),
        [("9.0", (), [], "mosaic_gpu"), ("12.0", (), [], "mosaic_gpu"),
         (None, (), [], "mosaic_gpu"),  # no card at all, as where a program is exported
         ("9.0", (99,), [], "triton"), ("9.0", (), ["mosaic_gpu"], "triton"),
         ("7.5", (), [], "triton"), ("8.9", (), [], "triton"),
         ("8.9", (), ["triton"], "mosaic_gpu"),
         ("gfx942", (), [], "triton"), ("gfx942", (), ["triton"], "triton")],
    )  # fmt: skip
    def test_which_part_of_pallas_a_card_takes(self, capability, since, removed, part, monkeypatch):
        card = types.SimpleNamespace()
        if capability is not None:
            card.compute_capability = capability
        monkeypatch.setattr(jax, "devices", lambda: [card])
        mosaic_gpu = dataclasses.replace(targets.MOSAIC_GPU, since=since)
        monkeypatch.setattr(targets, "MOSAIC_GPU", mosaic_gpu)
        for name in removed:
            monkeypatch.setitem(sys.modules, f"jax.experimental.pallas.{name}", None)
        assert targets.gpu().part == f"jax.experimental.pallas.{part}"

    @pytest.mark.parametrize("missing", [["triton"], ["mosaic_gpu"], ["tpu"], [*ROUTES]], ids=str)
    def test_each_device_needs_its_own_part_of_pallas_alone(self, missing, monkeypatch, request):
        """JAX has announced that it will remove the Triton part."""
        jax.clear_caches()  # of what was traced with other parts
        request.addfinalizer(jax.clear_caches)
        for part in missing:  # importing it raises
            monkeypatch.setitem(sys.modules, f"jax.experimental.pallas.{part}", None)
        for module in (targets, fused):
            monkeypatch.setattr(functional.engines, module.__name__.rpartition(".")[2], module)
            monkeypatch.delitem(sys.modules, module.__name__)
            importlib.import_module(module.__name__)
        cell, variables = reference.scrambled("SLIB", 5)
        xs = reference.inputs(7, 2, 5)
        got, want = (
            reference.gradient(cell, engine=engine)(reference.under(variables), xs)
            for engine in ("fused", "scan")
        )
        reference.assert_trees_close(got, want)
        for backend, parts in {"gpu": ["mosaic_gpu", "triton"], "tpu": ["tpu"]}.items():
            run = reference.gradient(cell, engine="fused")
            here = [part for part in parts if part not in missing]
            if not targets.MOSAIC_GPU.available:
                here = [part for part in here if part != "mosaic_gpu"]
            platform = ROUTES[parts[0]][0]
            if here:
                with abstract_device(platform):
                    lowered = run.trace(reference.under(variables), xs).lower(
                        lowering_platforms=(platform,)
                    )
                assert lowered.as_text().count(ROUTES[here[0]][1]) == 2
                continue
            words = rf"'fused' needs jax.experimental.pallas.{parts[-1]} on this device, which JAX"
            with monkeypatch.context() as patch, pytest.raises(ValueError, match=words):
                patch.setattr(jax, "default_backend", lambda backend=backend: backend)
                run(reference.under(variables), xs[:3])

    @NEEDS_MOSAIC_GPU
    @pytest.mark.parametrize("removed", [False, True])
    def test_steps_that_mosaic_gpu_does_not_know_take_triton(self, removed, monkeypatch):
        def step(params, state, x):
            state = params * state + jnp.floor(x)
            return state, state

        @jax.jit
        @jax.grad
        def run(params):
            return functional.unroll(step, params, *args, elementwise=True, engine="fused")[1].sum()

        args, start = (jnp.zeros((2, 3)), jnp.ones((4, 2, 3))), jnp.array(0.5)
        if removed:
            monkeypatch.setitem(sys.modules, targets.TRITON.part, None)
        with abstract_device("cuda"):
            traced = run.trace(start)
            if removed:
                with pytest.raises(NotImplementedError, match="floor"):
                    traced.lower(lowering_platforms=("cuda",))
            else:
                text = traced.lower(lowering_platforms=("cuda",)).as_text()
                assert text.count(ROUTES["triton"][1]) == 2
        run(start)  # here it is interpreted

    @pytest.mark.parametrize(
        "interpreter", ["Pallas", pytest.param("Mosaic GPU", marks=NEEDS_MOSAIC_GPU)]
    )
    @pytest.mark.parametrize(
        ("layer", "dtype", "every"),
        [("SLIB", "float32", 5)]
        + [
            pytest.param(layer, dtype, every, marks=pytest.mark.nightly)
            for layer in reference.QUICK
            for dtype, every in (("float32", 1), ("bfloat16", 4))
        ],
    )
    def test_the_kernel_of_mosaic_gpu_equals_scan(
        self, interpreter, layer, dtype, every, monkeypatch
    ):
        """In the interpreter of Pallas all but how it is called, in its own all of it."""
        target, interpret = targets.MOSAIC_GPU, contextlib.nullcontext
        if interpreter == "Pallas":
            make = targets.INTERPRETER.make
            target = dataclasses.replace(target, make=make, part=None, since=())
        else:
            mosaic = importlib.import_module(target.part)
            if not hasattr(mosaic, "force_gpu_interpret_mode"):
                pytest.skip("JAX can interpret it from 0.12 on")
            interpret = mosaic.force_gpu_interpret_mode
        cell, variables = reference.scrambled(layer)
        args = reference.under(variables), reference.inputs(12, 50, 3, dtype=dtype) * 2
        lengths = jnp.minimum(jnp.arange(50), 12)
        want = reference.gradient(cell, lengths, engine="scan", checkpoint_every=every)(*args)
        jax.clear_caches()  # of what was traced for the interpreter
        monkeypatch.setattr(targets, "INTERPRETER", target)
        with interpret():
            run = reference.gradient(cell, lengths, engine="fused", checkpoint_every=every)
            got = jax.block_until_ready(run(*args))
        jax.clear_caches()
        reference.assert_trees_close(got, want, 1e-5 if dtype == "float32" else 1e-2)

    def test_bfloat16_is_cast_within_the_kernel(self):
        """What is streamed is what was given, not a copy of twice its size."""
        cell, variables = reference.scrambled("LIB", 64)
        xs = jnp.ones((20, 2, 64), "bfloat16")
        run = reference.gradient(cell, engine="fused")
        jaxpr = str(jax.make_jaxpr(run)(reference.under(variables), xs))
        assert "bf16[20,1,128]" in jaxpr
        assert "f32[20,2,64]" not in jaxpr.replace("bf16[20,2,64]", "")

    def test_models_can_be_mapped_over(self):
        cell, variables = reference.scrambled("SLIB")
        xs = reference.inputs(3, 6, 2, 3) * 2
        stacked = jax.tree.map(lambda p: jnp.stack([p, p + 0.1, p - 0.1]), variables)
        results = [
            jax.vmap(reference.gradient(cell, engine=engine))(reference.under(stacked), xs)
            for engine in ("scan", "fused")
        ]
        reference.assert_trees_close(*results)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"elementwise": False}, "needs a step that is `elementwise`"),
            ({"xs": jnp.ones((5, 1, 3))}, r"inputs of the state's shape \(2, 3\).* not \(1, 3\)"),
            (
                {"xs": jnp.ones((5, 0, 3)), "state": jnp.zeros((0, 3))},
                r"at least one neuron, not of shape \(0, 3\)",
            ),
            ({"state": jnp.zeros((2, 3), int)}, "real-valued `state`"),
            ({"params": jnp.array(1)}, "real-valued `params`"),
            ({"step": lambda p, s, x: (s, s > 0)}, "real-valued outputs .* of bool"),
        ],
        ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
    )
    def test_what_it_cannot_do(self, change, words):
        arguments = {
            "step": lambda p, s, x: (p * s + x, s), "params": jnp.array(0.5),
            "state": jnp.zeros((2, 3)), "xs": jnp.ones((5, 2, 3)), "elementwise": True,
        }  # fmt: skip
        with pytest.raises(ValueError, match=words):
            functional.unroll(**(arguments | change), engine="fused")

    def test_random_spikes_are_refused(self):
        from tracetorch_jax import spikes

        layer = snn.LIB(3, spike=spikes.bernoulli(spikes.sigmoid(4.0)))
        model = snn.Unroll(layer, engine="fused")
        rngs = {"params": jax.random.key(0), "spike": jax.random.key(1)}
        with pytest.raises(ValueError, match="drawn at random"):
            model.init(rngs, jnp.ones((2, 4, 3)))


def abstract_device(platform):
    """Lower for a device that is not here."""
    kind, cores = {"cuda": ("NVIDIA H200", 132), "tpu": ("TPU v5e", 1)}[platform]
    options = {"device_kind": kind, "num_cores": cores}
    try:
        device = jax.sharding.AbstractDevice(**options)
    except TypeError:  # from jax 0.11 on it has to say which platform it belongs to
        device = jax.sharding.AbstractDevice(
            **options, platform="gpu" if platform == "cuda" else "tpu"
        )
    mesh = AbstractMesh((1,), ("x",), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


@pytest.mark.optimised
def test_a_step_of_bfloat16_writes_a_step_on_cpu():
    """XLA of jax 0.10 converts a whole bfloat16 buffer, forth and back, to write into it."""
    cell, variables = reference.scrambled("SRLIT", 64)
    xs = jnp.ones((50, 2, 64), "bfloat16")
    run = reference.gradient(cell, engine="scan")
    text = run.lower(reference.under(variables), xs).compile().as_text()
    loops = [block for block in text.split("\n\n") if "dynamic-update-slice(" in block]
    assert loops
    assert not [block for block in loops if "bf16[50,2,64]" in block]


@pytest.mark.parametrize("engine", ["scan", "fused", "parallel"])
def test_gradients_of_narrow_parameters(engine):
    """A sum over time in bfloat16 would end at 256."""
    step = functional.LayerStep(functional.Spec(membrane=functional.Trace(ema=False), bias=True))

    def run(bias):
        params = {"beta": jnp.zeros((), jnp.bfloat16), "bias": bias}
        state, xs = {"mem": jnp.zeros(1, jnp.bfloat16)}, jnp.zeros((1000, 1), jnp.bfloat16)
        _, ys = functional.unroll(step, params, state, xs, elementwise=True, engine=engine)
        return ys.astype(jnp.float32).sum()

    assert jax.grad(run)(jnp.zeros((), jnp.bfloat16)) == 1000


@pytest.mark.parametrize("engine", ["scan", "fused", "parallel"])
def test_an_empty_sequence_keeps_its_carry(engine):
    cell, variables = reference.scrambled("SLIB")
    carry = {name: jnp.ones((2, 3)) for name in cell.spec.states}
    model = snn.Unroll(cell, return_carry=True, engine=engine)
    xs, lengths = jnp.ones((2, 4, 3)), jnp.array([4, 0])

    def run(carry):
        return model.apply(reference.under(variables), xs, carry, seq_lengths=lengths)[0]

    last, pull_back = jax.vjp(run, carry)
    (gradient,) = pull_back(carry)
    for name, state in last.items():
        assert np.all(state[1] == 1) and np.all(gradient[name][1] == 1)


@pytest.mark.slow
class TestParallel:
    @pytest.mark.parametrize("layer", reference.each(reference.LINEAR))
    def test_equals_scan(self, layer):
        cell, variables = reference.scrambled(layer)
        xs, lengths = reference.inputs(13, 4, 3) * 2, jnp.array([13, 0, 5, 1])
        results = [
            reference.gradient(cell, lengths, engine=engine)(reference.under(variables), xs)
            for engine in ("scan", "parallel")
        ]
        reference.assert_trees_close(*results)

    @pytest.mark.parametrize("layer", sorted(set(reference.LAYERS) - set(reference.LINEAR)))
    def test_layers_without_anything_linear_are_refused(self, layer):
        cell, variables = reference.scrambled(layer)
        model = snn.Unroll(cell, engine="parallel")
        with pytest.raises(ValueError, match="'parallel' needs a trace that depends on the input"):
            model.apply(reference.under(variables), jnp.ones((2, 4, 3)))

    def test_a_users_step_is_refused(self):
        with pytest.raises(ValueError, match="needs a `LayerStep`"):
            functional.unroll(
                lambda p, s, x: (p * s + x, s), jnp.array(0.5), jnp.zeros(3), jnp.ones((5, 3)),
                elementwise=True, engine="parallel",
            )  # fmt: skip

    @pytest.mark.parametrize("length", [0, 1, 2, 7, 64])
    def test_recurrence(self, length, x64):
        xs = reference.inputs(length, 2, 3, dtype=np.float64)
        initial = reference.inputs(2, 3, seed=2, dtype=np.float64)
        run = jax.jit(linear_recurrence)
        for decay in (0.0, 0.9, 1.0):
            decays = jnp.full((1, 3), decay)
            got, y = run(decays, xs, initial), np.asarray(initial)
            for t in range(length):
                y = decay * y + np.asarray(xs)[t]
                np.testing.assert_allclose(got[t], y, rtol=1e-12, atol=1e-12)
            assert got.shape == xs.shape
            if length:
                check_grads(run, (decays, xs, initial), order=1, modes=["rev"], rtol=1e-3)

    def test_no_loop_is_left_of_a_leaky_integrator(self):
        cell, variables = reference.scrambled("DSLI")
        xs = jnp.ones((20, 2, 3))
        run = reference.gradient(cell, engine="parallel")
        assert "while" not in run.lower(reference.under(variables), xs).as_text()
