"""The kernels that a CPU runs for `engine="fused"` and, where it can, `"auto"`."""

import functools
import platform
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import functional, snn
from tracetorch_jax.functional.engines import unroll
from tracetorch_jax.functional.engines.native import build, header, primitive

HERE = sys.platform == "linux" and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(not HERE, reason=f"it needs {build.why_not()}")

KERNEL = "custom_call @tracetorch_jax_"


def elementwise(function):
    """A step that applies a function to its input."""
    return lambda params, state, x: (state, function(x))


def over_time(step, xs, params=None, engine="fused", **options):
    state = jnp.zeros(jax.tree.leaves(xs)[0].shape[1:], jnp.float32)
    return functional.unroll(step, params, state, xs, elementwise=True, engine=engine, **options)[1]


class TestEqualsScan:
    @pytest.mark.parametrize("layer", reference.EACH)
    def test_every_layer(self, layer):
        cell, variables = reference.scrambled(layer, 37)
        xs, lengths = reference.inputs(13, 4, 37) * 2, jnp.array([13, 0, 5, 1])
        want, *others = (
            reference.gradient(cell, lengths, **options)(reference.under(variables), xs)
            for options in (
                {"engine": "scan"},
                {"engine": "fused"},
                {"engine": "fused", "checkpoint_every": 3},
            )
        )
        for got in others:
            reference.assert_trees_close(got, want, 1e-5)

    @pytest.mark.parametrize(
        ("shape", "dim", "lengths"),
        [((9, 7), -1, None), ((9, 7), -1, 4), ((1, 2, 3), -1, [1, 0]), ((9, 2, 64), -1, [9, 3]),
         ((9, 2, 3, 5, 6), -1, [2, 9]), ((9, 2, 6, 4, 4), -3, None), ((9, 2, 6, 4, 4), -3, [5, 9]),
         ((9, 40, 600), -1, None)],
        ids=str,
    )  # fmt: skip
    def test_every_shape(self, shape, dim, lengths):
        cell, variables = reference.scrambled("SRLIT", 6 if len(shape) > 3 else shape[-1])
        cell = cell.clone(dim=dim)
        xs = reference.inputs(*shape) * 2
        lengths = lengths if lengths is None else jnp.array(lengths)
        scan, kernel = (
            reference.gradient(cell, lengths, engine=engine, checkpoint_every=4)(
                reference.under(variables), xs
            )
            for engine in ("scan", "fused")
        )
        reference.assert_trees_close(kernel, scan, 1e-5)

    @pytest.mark.parametrize("axes", [(1, 1, 1), (4, 1, 1), (1, 3, 5), (4, 3, 5), (4, 1, 5), (5,)])
    @pytest.mark.parametrize("lengths", [None, [6, 0, 3, 1]], ids=["", "lengths"])
    def test_parameters_of_every_shape(self, axes, lengths):
        lengths = lengths if lengths is None else jnp.array(lengths)

        def run(decay, xs, engine):
            state, ys = functional.unroll(
                lambda p, s, x: (p * s + x, p * s), decay, jnp.ones((4, 3, 5)), xs,
                elementwise=True, seq_lengths=lengths, engine=engine,
            )  # fmt: skip
            return (state**2).sum() + (ys**3).sum()

        decay = jnp.linspace(0.1, 0.9, np.prod(axes)).reshape(axes)
        xs = reference.inputs(6, 4, 3, 5)
        scan, kernel = (
            jax.value_and_grad(run, (0, 1))(decay, xs, engine) for engine in ("scan", "fused")
        )
        reference.assert_trees_close(kernel, scan, 1e-5)

    # Without spikes where states are narrow, since a membrane at its threshold may be rounded to
    # either side of it.
    @pytest.mark.parametrize(
        ("layer", "dtype", "tolerance"),
        [("DSLI", "bfloat16", 4e-2), ("DSLITS", "float32", 1e-5), ("DSLITS", "float64", 1e-12)],
    )
    def test_every_dtype(self, layer, dtype, tolerance, x64):
        cell, variables = reference.scrambled(layer, 21)
        xs = reference.inputs(17, 3, 21, dtype=dtype) * 2
        scan, kernel = (
            reference.gradient(cell.clone(dtype=dtype), engine=engine)(
                reference.under(variables), xs
            )
            for engine in ("scan", "fused")
        )
        reference.assert_trees_close(kernel, scan, tolerance)

    def test_narrow_inputs_are_read_as_they_are(self):
        cell, variables = reference.scrambled("LIB", 64)
        xs = jnp.ones((20, 2, 64), "bfloat16")
        text = (
            reference.gradient(cell, engine="fused").lower(reference.under(variables), xs).as_text()
        )
        assert "tensor<1x20x2x64xbf16>" in text
        assert "20x2x64xf32" not in text


SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 3.0, 1e-3, 30.0, -30.0, 1e5, np.inf, -np.inf, np.nan]
)
UNARY = [
    jnp.negative, jnp.abs, jnp.sign, jnp.floor, jnp.ceil, jnp.round, jnp.square, jnp.exp,
    jnp.expm1, jnp.tanh, jax.nn.sigmoid, jax.nn.relu, jnp.isfinite, jnp.isnan, jax.lax.rsqrt,
    lambda x: jnp.sqrt(jnp.abs(x)), lambda x: jnp.log(jnp.abs(x)), lambda x: jnp.log1p(jnp.abs(x)),
    lambda x: jnp.maximum(x, jnp.nan), lambda x: jax.lax.clamp(jnp.full_like(x, jnp.nan), x, x),
    lambda x: x**3, lambda x: x**-2, lambda x: jnp.clip(x, -0.7, 1.2), jax.nn.softplus,
    lambda x: jax.lax.round(x, jax.lax.RoundingMethod.AWAY_FROM_ZERO),
    lambda x: jnp.where((x > 0) & ~(x > 2) | (x == -1), x, -x), lambda x: x.astype("bfloat16"),
    lambda x: jnp.where(jnp.logical_xor(x > 0, x < 1), 1.0, 2.0),
    lambda x: (x > 0).astype(jnp.int32) * 3 - 1,
]  # fmt: skip
BINARY = [jnp.add, jnp.subtract, jnp.multiply, jnp.divide, jnp.maximum, jnp.minimum] + [
    lambda a, b, compare=compare: compare(a, b)
    for compare in (jnp.less, jnp.less_equal, jnp.greater, jnp.greater_equal, jnp.equal,
                    jnp.not_equal)
]  # fmt: skip


class TestOperations:
    """Each of them by itself, against JAX, where numbers are special."""

    @pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
    def test_of_one_number(self, dtype, x64):
        xs = jnp.asarray(SPECIAL[None], dtype)

        def step(params, state, x):
            return state, [f(x).astype(jnp.float64) for f in UNARY]

        got = over_time(step, xs)
        want = [f(xs[0]).astype(jnp.float64)[None] for f in UNARY]
        limit = {"bfloat16": 1e-2, "float32": 4e-7, "float64": 1e-15}[dtype]
        for number, (a, b) in enumerate(zip(got, want, strict=True)):
            np.testing.assert_allclose(a, b, limit, err_msg=str(number))
            if UNARY[number] is not jax.nn.relu:  # of 0 and -0 either may be the greater one
                np.testing.assert_array_equal(np.signbit(a[b == 0]), np.signbit(b[b == 0]))

    @pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
    def test_of_two_numbers(self, dtype, x64):
        first, second = (a.ravel()[None] for a in np.meshgrid(SPECIAL, SPECIAL))
        xs = jnp.asarray(first, dtype), jnp.asarray(second, dtype)

        def step(params, state, x):
            return state, [f(*x).astype(jnp.float64) for f in BINARY]

        got = over_time(step, xs)
        want = [f(xs[0][0], xs[1][0]).astype(jnp.float64)[None] for f in BINARY]
        limit = {"bfloat16": 1e-2, "float32": 1e-7, "float64": 1e-15}[dtype]
        for number, (a, b) in enumerate(zip(got, want, strict=True)):
            np.testing.assert_allclose(a, b, limit, err_msg=str(number))

    def test_of_two_truths(self):
        first, second = jnp.array([[False, False, True, True]]), jnp.array([[False, True] * 2])

        def step(params, state, x):
            compare = [f(*x).astype(jnp.float32) for f in BINARY[4:]]
            return state, [*compare, *(f(*x).astype(jnp.float32) for f in LOGIC)]

        got, want = (over_time(step, (first, second), engine=e) for e in ("fused", "scan"))
        np.testing.assert_array_equal(got, want)

    def test_whole_numbers_divided_by_one_of_two(self):
        def step(params, state, x):
            return state, jax.lax.div(x, jax.lax.select(x > 2, x * 0 + 1, x * 0 + 2)).astype(float)

        xs = jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
        with pytest.raises(ValueError, match="not div of int32"):
            over_time(step, xs)
        assert over_time(step, xs, engine="auto").tolist() == [[0, 0, 1, 3], [4, 5, 6, 7]]

    @pytest.mark.parametrize("dtype", ["int32", "bool"])
    def test_whole_numbers_and_truths_as_inputs(self, dtype):
        xs = jnp.asarray(np.arange(24).reshape(2, 12) % 3, dtype)

        def step(params, state, x):
            whole = x.astype(jnp.int32)
            return state, jnp.where(x, 1.0, 0.5) + (whole - 2 * whole).astype(jnp.float32)

        got, want = (over_time(step, xs, engine=engine) for engine in ("fused", "scan"))
        np.testing.assert_array_equal(got, want)


LOGIC = [jnp.logical_and, jnp.logical_or, jnp.logical_xor]


class TestSameBits:
    def run(self, monkeypatch, threads):
        monkeypatch.setattr(primitive, "_cores", lambda: threads)
        monkeypatch.setattr(primitive, "SMALL", 0)
        jax.clear_caches()
        for cache in (unroll._program, primitive._on_cpu):
            cache.cache_clear()
        cell, variables = reference.scrambled("SRLIT", 200)
        xs = reference.inputs(40, 12, 200)
        run = reference.gradient(cell, engine="fused")
        return jax.tree.map(np.asarray, run(reference.under(variables), xs))

    def test_with_any_number_of_threads(self, monkeypatch):
        one, *others = (self.run(monkeypatch, threads) for threads in (1, 2, 5))
        for other in others:
            jax.tree.map(np.testing.assert_array_equal, other, one)

    def test_called_from_many_threads_at_once(self):
        cell, variables = reference.scrambled("SLIB", 64)
        xs = reference.inputs(100, 16, 64)
        run = jax.jit(snn.Unroll(cell, time_major=True, engine="fused").apply)
        want, wrong = np.asarray(run(reference.under(variables), xs)), []

        def work():
            for _ in range(50):
                got = np.asarray(run(reference.under(variables), xs))
                wrong.extend([1] * (not np.array_equal(got, want)))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


class TestTransformations:
    def loss(self, engine, variables, xs, **options):
        cell = snn.SLIB(5)
        model = snn.Unroll(cell, time_major=True, engine=engine, **options)
        return jnp.square(model.apply(reference.under(variables), xs)).sum()

    def test_vmap_of_models_inputs_and_both(self):
        _, variables = reference.scrambled("SLIB", 5)
        xs = reference.inputs(3, 6, 2, 5) * 2
        stacked = jax.tree.map(lambda p: jnp.stack([p, p + 0.1, p - 0.1]), variables)
        for axes, args in {
            (0, 0): (stacked, xs), (None, 0): (variables, xs), (0, None): (stacked, xs[0]),
            (None, 2): (variables, jnp.moveaxis(xs, 0, 2)),
        }.items():  # fmt: skip
            scan, kernel = (
                jax.vmap(jax.value_and_grad(functools.partial(self.loss, engine), (0, 1)), axes)(
                    *args
                )
                for engine in ("scan", "fused")
            )
            reference.assert_trees_close(kernel, scan, 1e-5)

    def test_vmap_over_nothing(self):
        _, variables = reference.scrambled("SLIB", 5)
        run = jax.vmap(jax.grad(functools.partial(self.loss, "fused"), 1), (None, 0))
        assert run(variables, jnp.zeros((0, 6, 2, 5))).shape == (0, 6, 2, 5)

    def test_without_jit(self):
        _, variables = reference.scrambled("SLIB", 5)
        xs = reference.inputs(6, 2, 5)
        run = jax.grad(functools.partial(self.loss, "fused"))
        want = run(variables, xs)
        with jax.disable_jit():
            reference.assert_trees_close(run(variables, xs), want)

    def test_second_derivatives(self):
        cell, variables = reference.scrambled("SLI", 3)
        xs = reference.inputs(4, 2, 3)

        def loss(engine, xs):
            model = snn.Unroll(cell, time_major=True, engine=engine, checkpoint_every=1)
            return (model.apply(reference.under(variables), xs) ** 3).sum()

        scan, kernel = (
            jax.hessian(functools.partial(loss, engine))(xs) for engine in ("scan", "fused")
        )
        reference.assert_trees_close(kernel, scan, 1e-5)
        twice = jax.grad(lambda xs: (jax.grad(functools.partial(loss, "fused"))(xs) ** 2).sum())
        want = 2 * jnp.tensordot(scan, jax.grad(functools.partial(loss, "scan"))(xs), 3)
        reference.assert_trees_close(twice(xs), want, 1e-5)

    def test_checkpoint_and_scan_around_it(self):
        _, variables = reference.scrambled("SLIB", 5)
        xs = reference.inputs(3, 6, 2, 5) * 2

        def total(engine, xs):
            one = jax.checkpoint(lambda x: self.loss(engine, variables, x))
            return jax.lax.scan(lambda sum_, x: (sum_ + one(x), None), 0.0, xs)[0]

        scan, kernel = (
            jax.grad(functools.partial(total, engine))(xs) for engine in ("scan", "fused")
        )
        reference.assert_trees_close(kernel, scan, 1e-5)

    def test_a_program_that_leaves_the_process_has_no_kernel(self):
        _, variables = reference.scrambled("SLIB", 5)
        xs = reference.inputs(6, 2, 5)
        run = jax.jit(jax.grad(functools.partial(self.loss, "fused")))
        assert run.lower(variables, xs).as_text().count(KERNEL) == 2
        for platforms in (("cpu",), ("cpu", "cuda", "tpu")):
            exported = jax.export.export(run, platforms=platforms)(variables, xs)
            assert KERNEL not in exported.mlir_module()
        loaded = jax.export.deserialize(exported.serialize())
        reference.assert_trees_close(loaded.call(variables, xs), run(variables, xs))


def prints(x):
    jax.debug.print("{}", x[0])
    return x


class TestWhatItTakes:
    def program(self, step, xs, engine="auto"):
        return jax.jit(functools.partial(over_time, step, engine=engine)).lower(xs).as_text()

    def test_it_is_there(self):
        assert build.why_not() is None

    def test_more_steps_in_a_chunk_than_there_are(self):
        cell, variables = reference.scrambled("SLIB", 5)
        xs = reference.inputs(4, 2, 5)
        got, want = (
            reference.gradient(cell, engine="fused", checkpoint_every=every)(
                reference.under(variables), xs
            )
            for every in (10**12, 4)
        )
        jax.tree.map(np.testing.assert_array_equal, got, want)

    def test_a_step_knows_its_shape(self):
        step = elementwise(lambda x: x / x.size + x.shape[-1])
        got, want = (over_time(step, jnp.ones((3, 2, 5)), engine=e) for e in ("fused", "scan"))
        np.testing.assert_array_equal(got, want)

    def test_plain_numbers_beside_arrays(self):
        """They take the type of the arrays, as in every scan."""
        state, xs = jnp.zeros((2, 4), "bfloat16"), jnp.ones((3, 2, 4), "bfloat16")
        for step in (
            lambda p, s, x: (p * s + x, s),
            lambda p, s, x: (s, p * x.astype("bfloat16")),
        ):
            got, want = (
                functional.unroll(step, 0.5, state, xs, elementwise=True, engine=e)
                for e in ("fused", "scan")
            )
            assert [a.dtype for a in got] == [a.dtype for a in want] == [jnp.bfloat16] * 2
        scan, auto = (
            functional.unroll(step, 0.5, jnp.zeros(()), xs[:, 0, 0], elementwise=True, engine=e)
            for e in ("scan", "auto")
        )
        assert [a.dtype for a in auto] == [a.dtype for a in scan]

    def test_auto_takes_it(self):
        assert KERNEL in self.program(elementwise(jnp.tanh), jnp.ones((3, 4)))

    @pytest.mark.parametrize(
        ("step", "xs", "words"),
        [
            (elementwise(jnp.sin), jnp.ones((3, 4)), "operations that can be compiled, not sin"),
            (elementwise(lambda x: x * jnp.arange(4.0)), jnp.ones((3, 4)), "not iota"),
            (elementwise(lambda x: x), jnp.ones((3, 4), "float16"), "`xs` of .* not of float16"),
            (elementwise(lambda x: x), jnp.ones((3, 4), "uint8"), "`xs` of .* not of uint8"),
            (elementwise(lambda x: x > 0), jnp.ones((3, 4)), "real-valued outputs .* of bool"),
            (elementwise(lambda x: x[..., ::-1]), jnp.ones((3, 4)), "not rev"),
            (elementwise(lambda x: x.mean()), jnp.ones((3, 4)), r"the state's shape \(4,\), not"),
            (elementwise(lambda x: x - x.mean()), jnp.ones((3, 4)), "not reduce_sum"),
            (elementwise(prints), jnp.ones((3, 4)), "a step without effects"),
        ],
    )  # fmt: skip
    def test_what_it_cannot_do_is_scanned_or_refused(self, step, xs, words):
        assert KERNEL not in self.program(step, xs)
        with pytest.raises(ValueError, match=f"`engine` 'fused' needs .*{words}"):
            over_time(step, xs)

    @pytest.mark.parametrize("version", [None, "0.44.0"])
    def test_without_llvmlite(self, version, monkeypatch):
        import llvmlite

        if version is None:
            monkeypatch.setitem(sys.modules, "llvmlite", None)
        else:
            monkeypatch.setattr(llvmlite, "__version__", version)
        build.why_not.cache_clear()
        try:
            assert KERNEL not in self.program(elementwise(jnp.tanh), jnp.ones((3, 4)))
            words = f"'fused' needs the package llvmlite>=0.46 on a CPU.*{version or 'pip install'}"
            with pytest.raises(ValueError, match=words):
                over_time(elementwise(jnp.tanh), jnp.ones((3, 4)))
        finally:
            build.why_not.cache_clear()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda text: text.replace("API_MAJOR 0", "API_MAJOR 1"), "version 1 of"),
            (lambda text: text.replace("int64_t* dims;", ""), "no field dims in XLA_FFI_Buffer"),
            (lambda text: text.replace("struct XLA_FFI_CallFrame {", "struct Other {"), "no type"),
        ],
    )
    def test_another_interface_of_xla(self, change, words):
        path = f"{jax.ffi.include_dir()}/xla/ffi/api/c_api.h"
        with open(path) as file:
            text = file.read()
        assert header.parse(text) == header.header()
        with pytest.raises(header.UnknownHeader, match=words):
            header.parse(change(text))

    def test_fields_that_moved_are_found(self):
        with open(f"{jax.ffi.include_dir()}/xla/ffi/api/c_api.h") as file:
            text = file.read()
        moved = text.replace(
            "  void* data;\n  int64_t rank;", "  int32_t a;\n  void* data;\n  int64_t rank;"
        )
        before, after = header.header(), header.parse(moved)
        assert after.at("Buffer", "data") == before.at("Buffer", "data")  # in the gap before it
        moved = moved.replace("int32_t a;", "int64_t a;")
        assert header.parse(moved).at("Buffer", "data") == before.at("Buffer", "data") + 8


class TestObjects:
    """Compiled code, kept where JAX keeps its own."""

    TEXT = "define i64 @handler(ptr %frame) {{\n  ret i64 {}\n}}"

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        before = jax.config.jax_compilation_cache_dir
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
        yield tmp_path / "cache"
        jax.config.update("jax_compilation_cache_dir", before)

    def test_are_compiled_once(self, folder, monkeypatch):
        code = build._object(self.TEXT.format(1))
        monkeypatch.setattr(build, "_compile", None)
        assert build._object(self.TEXT.format(1)) == code
        assert [path.suffix for path in folder.iterdir()] == [".o"]

    def test_damaged_ones_are_compiled_again(self, folder):
        code = build._object(self.TEXT.format(2))
        (path,) = folder.iterdir()
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert build._object(self.TEXT.format(2)) == code
        path.write_bytes(b"")
        assert build._object(self.TEXT.format(2)) == code

    def test_a_folder_that_cannot_be_written_to_does_no_harm(self, folder):
        folder.write_text("a file")
        assert build._object(self.TEXT.format(3))

    def test_another_process_runs_what_is_there(self, folder):
        program = """
            import sys, jax, jax.numpy as jnp
            from tracetorch_jax import snn
            from tracetorch_jax.functional.engines.native import build
            jax.config.update("jax_compilation_cache_dir", sys.argv[1])
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
            if len(sys.argv) > 2:
                build._compile = None
            model = snn.Unroll(snn.LIB(4))
            xs = jnp.ones((2, 5, 4))
            variables = jax.jit(model.init)(jax.random.key(0), xs)
            print(jax.jit(jax.grad(lambda xs: model.apply(variables, xs).sum()))(xs).sum())
        """
        outs = [
            subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program), str(folder), *more],
                capture_output=True, text=True, check=True,
            ).stdout
            for more in ([], ["again"])
        ]  # fmt: skip
        assert outs[0] == outs[1] != ""
