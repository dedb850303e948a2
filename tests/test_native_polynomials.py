"""The functions of `polynomials`, with and without FMA, against NumPy's in a wider dtype."""

import ctypes
import functools
import re
import struct

import numpy as np
import pytest

from tracetorch_jax.functional.engines.native import polynomials

llvm = pytest.importorskip("llvmlite.binding")

LOOP = """
{declarations}
define void @run(ptr noalias %in, ptr noalias %out, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %from = getelementptr {element}, ptr %in, i64 %i
  %x = load {type}, ptr %from, align {size}
{body}
  %to = getelementptr {element}, ptr %out, i64 %i
  store {type} {result}, ptr %to, align {size}
  %next = add i64 %i, {width}
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %end
end:
  ret void
}}
"""
FUNCTIONS = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": lambda x: np.where(x < 0, np.exp(-abs(x)), 1) / (1 + np.exp(-abs(x))),
    "tanh": np.tanh,
}
ELEMENTS = {
    "float32": "float",
    "float64": "double",
    "int32": "i32",
    "int64": "i64",
    "bool": "i1",
}


class Lanes:
    def __init__(self, width):
        self.width, self.lines = width, []

    def op(self, text):
        self.lines.append(f"  %v{len(self.lines)} = {text}")
        return f"%v{len(self.lines) - 1}"

    def type(self, dtype):
        return f"<{self.width} x {ELEMENTS[dtype]}>"

    def const(self, value, dtype):
        if dtype.startswith("int"):
            text = str(int(value))
        else:
            (bits,) = struct.unpack(">Q", struct.pack(">d", np.dtype(dtype).type(value)))
            text = f"0x{bits:016X}"
        return f"<{', '.join([f'{ELEMENTS[dtype]} {text}'] * self.width)}>"


def ir(name, dtype, width):
    lanes = Lanes(width)
    result = getattr(polynomials, name)(lanes, dtype, "%x")
    calls = set(re.findall(r"call (<.*?>) (@[\w.]+)\(", "\n".join(lanes.lines)))
    assert {callee.split(".v")[0] for _, callee in calls} <= {"@llvm.fabs"}  # no library's
    return LOOP.format(
        declarations="\n".join(f"declare {kind} {callee}({kind})" for kind, callee in calls),
        element=ELEMENTS[dtype],
        type=lanes.type(dtype),
        size=np.dtype(dtype).itemsize,
        body="\n".join(lanes.lines),
        result=result,
        width=width,
    )


@functools.cache
def compiled(name, dtype, *, width=16, fma=True):
    """The function on arrays whose length is a multiple of `width`."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    if not fma:
        features |= {k: False for k in features if k.startswith(("fma", "avx512"))}
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name() if fma else "",
        features=features.flatten(),
        opt=3,
        reloc="pic",
        codemodel="default",
    )
    module = llvm.parse_assembly(ir(name, dtype, width))
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(
        engine.get_function_address("run")
    )

    def call(x):
        out = np.empty_like(x)
        run(x.ctypes.data, out.ctypes.data, x.size)
        return out

    call.engine = engine  # which holds the machine code
    return call


def call(name, values, dtype, **options):
    values = np.array(values, dtype)
    return compiled(name, dtype, **options)(np.resize(values, -(-values.size // 16) * 16))[
        : values.size
    ]


def around(values, dtype, each=40):
    """`values`, and as many numbers as `each` on both sides."""
    whole = "int32" if dtype == "float32" else "int64"
    bits = np.array(values, dtype).view(whole)[:, None]
    return (bits + np.arange(-each, each + 1, dtype=whole)).view(dtype).ravel()


# Around these numbers the rule changes by which a function is computed.
JOINTS = [
    *(s * (k + 0.5) * np.log(2) for k in range(20) for s in (-1, 1, 0.5, -0.5)),
    *(2.0**k * np.sqrt(2) + c for k in range(-20, 20) for c in (0, -1)),
    *(
        s * v
        for v in (0.55, 1.0, 2.0**-26, 2.0**-55, 1e-30, 9.0, 18.0, 36.0, 38.0)
        for s in (-1, 1)
    ),
]


@functools.cache
def sample(dtype):
    """Normal numbers of all sizes, more of them where results are, and those around `JOINTS`."""
    info, draw = np.finfo(dtype), np.random.default_rng(0)
    if dtype == "float32":
        spread = (np.arange(1 << 20, dtype=np.uint32) * 4096 + 1234).view(dtype)
    else:
        spread = draw.integers(0, 1 << 64, 1 << 16, dtype=np.uint64).view(dtype)
    ends = np.log(np.array([info.max, info.tiny], dtype))
    joints = around([*JOINTS, *ends, *-ends, *ends / np.log(2), info.max, info.tiny], dtype)
    near = [draw.uniform(-a, a, 1 << 15).astype(dtype) for a in (1, 10, -ends[1])]
    x = np.concatenate([spread, joints, *near])
    x = x[np.isfinite(x) & (abs(x) >= info.tiny)]
    return x[: x.size // 16 * 16]


@functools.cache
def exact(name, dtype):
    wide = np.float64 if dtype == "float32" else np.longdouble
    with np.errstate(all="ignore"):
        return FUNCTIONS[name](sample(dtype).astype(wide))


both = pytest.mark.parametrize("fma", [True, False], ids=["fma", "no_fma"])
each = pytest.mark.parametrize("name", FUNCTIONS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@both
@each
@dtypes
def test_within_two_ulp(name, dtype, fma):
    if dtype == "float64" and np.finfo(np.longdouble).nmant < 63:
        pytest.skip("NumPy has no wider dtype than float64 here")
    info, x, want = np.finfo(dtype), sample(dtype), exact(name, dtype)
    got = compiled(name, dtype, fma=fma)(x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    over = abs(want) >= np.ldexp(want.dtype.type(1), info.maxexp)
    under = abs(want) < info.tiny
    np.testing.assert_array_equal(got[over], np.sign(want[over]) * np.inf)
    assert (abs(got[under]) <= info.tiny * (1 + 2 * info.eps)).all()
    rest = ~(over | under | np.isnan(want) | (abs(want) > info.max))
    _, exponent = np.frexp(want[rest])
    ulp = np.ldexp(np.ones_like(want[rest]), exponent - 1 - info.nmant)
    error = abs(got[rest] - want[rest]) / ulp
    assert error.max() <= 2, (x[rest][error.argmax()], error.max())


INF, NAN = np.inf, np.nan
# Arguments and results: pairs, since 0.0 and -0.0 would be one key.
SPECIAL = {
    "exp": [
        (0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (1e+30, INF), (-1e+30, 0.0),
    ],
    "exp2": [
        (0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (10.0, 1024.0), (-3.0, 0.125),
        (1e+30, INF), (-1e+30, 0.0),
    ],
    "expm1": [
        (0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1.0), (1e+30, INF), (-1e+30, -1.0),
        (1e-30, 1e-30),
    ],
    "log": [
        (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (INF, INF), (-INF, NAN), (-1.0, NAN),
        (-1e-30, NAN),
    ],
    "log1p": [
        (0.0, 0.0), (-0.0, -0.0), (-1.0, -INF), (INF, INF), (-INF, NAN), (-1.5, NAN),
        (1e-30, 1e-30),
    ],
    "logistic": [
        (0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (1e+30, 1.0), (-1e+30, 0.0),
    ],
    "tanh": [
        (0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (1e+30, 1.0), (-1e+30, -1.0),
        (-1e-30, -1e-30),
    ],
}  # fmt: skip


@both
@each
@dtypes
def test_special_values(name, dtype, fma):
    x, want = zip(*SPECIAL[name], (NAN, NAN), (-NAN, NAN), strict=True)
    got, want = call(name, x, dtype, fma=fma), np.array(want, dtype)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[:-2]), np.signbit(want[:-2]))


@both
@each
@dtypes
def test_denormal_arguments_are_taken_for_themselves_or_for_zero(name, dtype, fma):
    tiny = float(np.finfo(dtype).tiny)
    for x, zero in ((tiny / 8, 0.0), (-tiny / 8, -0.0)):
        (got,), (flushed,) = call(name, [x], dtype, fma=fma), call(name, [zero], dtype, fma=fma)
        own = name == "log" and x < 0 and np.isnan(got)
        assert own or got == flushed or abs(got - flushed) <= tiny


ENDS = {
    "exp": lambda info: (np.log(info.max), np.log(info.tiny), 1e-7),
    "exp2": lambda info: (float(info.maxexp), float(info.minexp), 1e-7),
    "expm1": lambda info: (np.log(info.max), np.log(info.eps), -np.log(info.max), 1e-7),
    "log": lambda info: (info.max, info.tiny),
    "log1p": lambda info: (info.max, -1.0, 1e-7, -1e-7),
    "logistic": lambda info: (np.log(info.tiny), -np.log(info.eps), np.log(info.max)),
    "tanh": lambda info: (0.5 * np.log(info.eps), -0.5 * np.log(info.eps), 1e-7),
}


@both
@each
@dtypes
def test_monotone_at_the_ends(name, dtype, fma):
    for end in ENDS[name](np.finfo(dtype)):
        x = np.sort(around([end], dtype, each=3000))
        x = x[np.isfinite(x) & ((x > -1) | (name != "log1p"))]
        got = call(name, x, dtype, fma=fma)
        assert (got[1:] >= got[:-1]).all()


@each
@dtypes
@pytest.mark.parametrize("width", [1, 4, 8])
def test_the_number_of_lanes_changes_nothing(name, dtype, width):
    x = sample(dtype)[-(1 << 12) :]
    np.testing.assert_array_equal(compiled(name, dtype, width=width)(x), compiled(name, dtype)(x))
