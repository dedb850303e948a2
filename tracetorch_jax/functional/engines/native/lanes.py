"""Elementwise functions, from their jaxprs to LLVM IR on vectors."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from tracetorch_jax.functional.engines.native import polynomials

# A bfloat16 is a float32 between memory and memory.
ELEMENTS = {
    "float32": "float",
    "bfloat16": "float",
    "float64": "double",
    "bool": "i1",
    "int32": "i32",
    "int64": "i64",
}
# As what it lies in memory, where that differs.
STORED = {"bfloat16": "i16", "bool": "i8"}

_FLOAT = {"add": "fadd", "add_any": "fadd", "sub": "fsub", "mul": "fmul"}
_WHOLE = {"add": "add", "add_any": "add", "sub": "sub", "mul": "mul"}
_LOGIC = ("and", "or", "xor")
# Of real numbers, of whole ones, and of truths, whose one bit is no sign.
_COMPARE = {
    "gt": ("ogt", "sgt", "ugt"), "ge": ("oge", "sge", "uge"), "lt": ("olt", "slt", "ult"),
    "le": ("ole", "sle", "ule"), "eq": ("oeq", "eq", "eq"), "ne": ("une", "ne", "ne"),
}  # fmt: skip
_INTRINSICS = {"abs": "fabs", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil"}
_POLYNOMIALS: dict[str, Callable[..., str]] = {
    "exp": polynomials.exp,
    "exp2": polynomials.exp2,
    "expm1": polynomials.expm1,
    "log": polynomials.log,
    "log1p": polynomials.log1p,
    "logistic": polynomials.logistic,
    "tanh": polynomials.tanh,
}
# What changes no element, where all arrays have one shape or none.
_SAME = (
    "copy", "copy_p", "stop_gradient", "optimization_barrier", "broadcast_in_dim", "reshape",
)  # fmt: skip


class Untranslatable(Exception):
    """An operation that has no translation."""


class Body:
    """The text of one LLVM function, written line by line.

    Attributes:
        lines: what was written.
        block: the basic block that is being written.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.block = "entry"
        self._numbers = itertools.count()

    def op(self, text: str) -> str:
        """Write an instruction that has a result; return the result's name."""
        name = f"%v{next(self._numbers)}"
        self.do(f"{name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Write an instruction."""
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        """Begin a basic block."""
        self.lines.append(f"{name}:")
        self.block = name

    # Sizes and indices.

    def add(self, a: Any, b: Any) -> str:
        return self.op(f"add i64 {a}, {b}")

    def sub(self, a: Any, b: Any) -> str:
        return self.op(f"sub i64 {a}, {b}")

    def mul(self, a: Any, b: Any) -> str:
        return self.op(f"mul i64 {a}, {b}")

    def div(self, a: Any, b: Any) -> str:
        return self.op(f"sdiv i64 {a}, {b}")

    def smaller(self, a: Any, b: Any) -> str:
        return self.op(f"call i64 @llvm.smin.i64(i64 {a}, i64 {b})")

    def greater(self, a: Any, b: Any) -> str:
        return self.op(f"call i64 @llvm.smax.i64(i64 {a}, i64 {b})")

    def loop(
        self,
        start: Any,
        stop: Any,
        step: Any,
        body: Callable[[str, list[str]], Sequence[str] | None],
        carried: Sequence[tuple[str, str]] = (),
    ) -> list[str]:
        """Write ``for i in range(start, stop, step)``.

        Args:
            start: first index.
            stop: end of the range.
            step: greater than 0.
            body: writes an iteration; called with the index and the carried values, returns these
                as they are after the iteration.
            carried: types and first values of what goes from one iteration to the next.

        Returns:
            The carried values after the loop.
        """
        n = next(self._numbers)
        head, inside, end, before = f"head{n}", f"inside{n}", f"end{n}", self.block
        self.do(f"br label %{head}")
        self.label(head)
        at = len(self.lines)  # of the phis, whose second values are known after the body
        i, names = f"%i{n}", [f"%c{n}.{k}" for k in range(len(carried))]
        more = self.op(f"icmp slt i64 {i}, {stop}")
        self.do(f"br i1 {more}, label %{inside}, label %{end}")
        self.label(inside)
        new = body(i, names) or []
        following = self.add(i, step)
        phis = [f"  {i} = phi i64 [ {start}, %{before} ], [ {following}, %{self.block} ]"]
        phis += [
            f"  {name} = phi {type_} [ {first}, %{before} ], [ {later}, %{self.block} ]"
            for name, (type_, first), later in zip(names, carried, new, strict=True)
        ]
        self.do(f"br label %{head}")
        self.lines[at:at] = phis
        self.label(end)
        return names


class Lanes:
    """Writes an elementwise function for `width` neurons at once.

    Attributes:
        body: where to.
        width: number of lanes.
    """

    def __init__(self, body: Body, width: int) -> None:
        self.body, self.width = body, width

    def op(self, text: str) -> str:
        return self.body.op(text)

    def type(self, dtype: Any) -> str:
        """The LLVM type of a vector, such as ``<16 x float>``."""
        name = str(dtype)
        if name not in ELEMENTS:
            raise Untranslatable(f"values of {name}")
        return f"<{self.width} x {ELEMENTS[name]}>"

    def const(self, value: Any, dtype: Any) -> str:
        """A vector that holds one number in all lanes."""
        element = self.type(dtype).split()[-1].rstrip(">")
        if element == "i1":
            text = "true" if value else "false"
        elif element.startswith("i"):
            text = str(int(value))
        else:
            number = float(np.float32(value)) if element == "float" else float(value)
            text = f"0x{struct.unpack('>Q', struct.pack('>d', number))[0]:016X}"
        return f"<{', '.join([f'{element} {text}'] * self.width)}>"

    def run(self, function: Any, args: Sequence[str]) -> list[str]:
        """Write an elementwise function.

        Args:
            function: closed jaxpr, whose arguments and results have one shape.
            args: names of the vectors it is called with.

        Returns:
            Names of the results.

        Raises:
            Untranslatable: an operation that has no translation.
        """
        shape = function.jaxpr.invars[0].aval.shape
        return self._run(function.jaxpr, function.consts, args, shape)

    def _run(
        self, jaxpr: Any, consts: Sequence[Any], args: Sequence[str], shape: tuple[int, ...]
    ) -> list[str]:
        held = []
        for const in consts:
            if isinstance(const, jax.core.Tracer):
                raise Untranslatable("a traced value that it closes over")
            const = np.asarray(const)
            if const.shape:
                raise Untranslatable(f"a constant of shape {const.shape} that it closes over")
            held.append(self.const(const, const.dtype))
        scope = dict(
            zip(itertools.chain(jaxpr.constvars, jaxpr.invars), (*held, *args), strict=True)
        )
        halves: dict[Any, Callable[[], str]] = {}
        numbers: dict[Any, Any] = {}  # of arrays that hold one number

        def read(a: Any) -> str:
            if not isinstance(a, Literal):
                return scope[a]
            kind: Any = a.aval
            return self.const(a.val, kind.dtype)

        def number(a: Any) -> Any:
            return a.val if isinstance(a, Literal) else numbers.get(a)

        for eqn in _needed(jaxpr):
            name = eqn.primitive.name
            for v in eqn.outvars:
                if v.aval.shape not in ((), shape):
                    raise Untranslatable(f"{name} to shape {v.aval.shape}")
            known = [number(a) for a in eqn.invars]
            by = eqn.invars[1] if name == "div" else None
            if by is not None and not isinstance(by, Literal) and by in halves:
                kind = self.type(by.aval.dtype)
                outs = [self.op(f"fmul contract {kind} {read(eqn.invars[0])}, {halves[by]()}")]
            else:
                outs = self._apply(eqn, [read(a) for a in eqn.invars], known, shape)
            if name == "select_n" and (inverse := self._inverse(eqn, known[1:], read)):
                halves[eqn.outvars[0]] = inverse
            if name == "broadcast_in_dim" and known[0] is not None:
                numbers[eqn.outvars[0]] = known[0]
            scope.update(zip(eqn.outvars, outs, strict=True))
        return [read(a) for a in jaxpr.outvars]

    def _inverse(
        self, eqn: Any, cases: list[Any], read: Callable[[Any], str]
    ) -> Callable[[], str] | None:
        # JAX's derivative of `max` divides by 2 where both are equal and by 1 elsewhere. Division
        # is slow, and to multiply by a power of two gives the same bits.
        dtype = eqn.outvars[0].aval.dtype
        if not _is_real(dtype) or not all(c is not None and c in (0.5, 1, 2, 4) for c in cases):
            return None
        kind = self.type(dtype)
        first, second = (self.const(1 / float(c), dtype) for c in cases)
        which = eqn.invars[0]
        return lambda: self.op(
            f"select <{self.width} x i1> {read(which)}, {kind} {second}, {kind} {first}"
        )

    def _apply(self, eqn: Any, a: list[str], known: list[Any], shape: tuple[int, ...]) -> list[str]:
        name, params = eqn.primitive.name, eqn.params
        inner = params.get("call_jaxpr", params.get("jaxpr"))
        if inner is not None and name not in ("cond", "while", "scan"):
            return self._run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), a, shape)
        # A sum over no axes comes of tracing in a `jax.shard_map`.
        if name in _SAME or (name == "reduce_sum" and not params["axes"]):
            return a
        if not a:
            raise Untranslatable(name)
        dtype = eqn.invars[0].aval.dtype
        kind, mask = self.type(dtype), f"<{self.width} x i1>"
        real = _is_real(dtype)
        if name in _FLOAT:
            # Products and sums may be fused into one operation, as XLA does.
            verb = f"{_FLOAT[name]} contract" if real else _WHOLE[name]
            return [self.op(f"{verb} {kind} {a[0]}, {a[1]}")]
        if name in _COMPARE:
            ordered, whole, truth = _COMPARE[name]
            verb = f"fcmp {ordered}" if real else f"icmp {truth if kind == mask else whole}"
            return [self.op(f"{verb} {kind} {a[0]}, {a[1]}")]
        if name in _LOGIC and not real:
            return [self.op(f"{name} {kind} {a[0]}, {a[1]}")]
        if name == "not" and not real:
            return [self.op(f"xor {kind} {a[0]}, {self.const(-1, dtype)}")]
        if name == "select_n" and len(a) == 3 and kind == mask:
            kind = self.type(eqn.outvars[0].aval.dtype)
            return [self.op(f"select {mask} {a[0]}, {kind} {a[2]}, {kind} {a[1]}")]
        if name == "convert_element_type":
            return [self.convert(a[0], dtype, params["new_dtype"])]
        if name in ("max", "min"):
            return [self._extreme(name, known[1], a, kind, real)]
        if name == "clamp":
            least, x, most = a
            x = self._extreme("max", known[0], [x, least], kind, real)
            return [self._extreme("min", known[2], [x, most], kind, real)]
        if real:
            return [self._real(name, params, dtype, a, kind)]
        raise Untranslatable(f"{name} of {dtype}")

    def _real(self, name: str, params: Any, dtype: Any, a: list[str], kind: str) -> str:
        one, zero = self.const(1, dtype), self.const(0, dtype)
        mask = f"<{self.width} x i1>"
        if name == "div":
            return self.op(f"fdiv {kind} {a[0]}, {a[1]}")
        if name == "neg":
            return self.op(f"fneg {kind} {a[0]}")
        if name in _INTRINSICS:
            return self._intrinsic(_INTRINSICS[name], kind, a[0])
        if name == "round":
            ways = {"AWAY_FROM_ZERO": "round", "TO_NEAREST_EVEN": "roundeven"}
            return self._intrinsic(ways[params["rounding_method"].name], kind, a[0])
        if name == "rsqrt":
            return self.op(f"fdiv {kind} {one}, {self._intrinsic('sqrt', kind, a[0])}")
        if name in _POLYNOMIALS:
            return _POLYNOMIALS[name](self, dtype, a[0])
        if name == "square":
            return self.op(f"fmul contract {kind} {a[0]}, {a[0]}")
        if name == "one_minus_square":  # of the derivative of tanh, from jax 0.12 on
            # As a product, of which no digits are lost near 1.
            more, less = (self.op(f"{verb} {kind} {one}, {a[0]}") for verb in ("fadd", "fsub"))
            return self.op(f"fmul {kind} {more}, {less}")
        if name == "integer_pow":
            return self._power(params["y"], one, a[0], kind)
        if name == "sign":  # 0 and NaN stay as they are
            above, below = (self.op(f"fcmp {c} {kind} {a[0]}, {zero}") for c in ("ogt", "olt"))
            minus = self.const(-1, dtype)
            rest = self.op(f"select {mask} {below}, {kind} {minus}, {kind} {a[0]}")
            return self.op(f"select {mask} {above}, {kind} {one}, {kind} {rest}")
        if name == "is_finite":
            size = self._intrinsic("fabs", kind, a[0])
            return self.op(f"fcmp olt {kind} {size}, {self.const(np.inf, dtype)}")
        raise Untranslatable(name)

    def _intrinsic(self, name: str, kind: str, x: str) -> str:
        suffix = f"v{self.width}f{'64' if 'double' in kind else '32'}"
        return self.op(f"call {kind} @llvm.{name}.{suffix}({kind} {x})")

    def _power(self, y: int, one: str, x: str, kind: str) -> str:
        result, square = "", x
        for bit in bin(abs(y))[:1:-1]:
            if bit == "1":
                result = self.op(f"fmul {kind} {result}, {square}") if result else square
            square = self.op(f"fmul {kind} {square}, {square}")
        result = result or one
        return self.op(f"fdiv {kind} {one}, {result}") if y < 0 else result

    def _extreme(self, name: str, second: Any, a: list[str], kind: str, real: bool) -> str:
        """The greater or the lesser of two, of which the second may be a known number."""
        mask = f"<{self.width} x i1>"
        if not real:
            verb = ("u" if kind == mask else "s") + ("gt" if name == "max" else "lt")
            first = self.op(f"icmp {verb} {kind} {a[0]}, {a[1]}")
            return self.op(f"select {mask} {first}, {kind} {a[0]}, {kind} {a[1]}")
        # NaN on either side is kept, as in XLA. The unordered comparison takes the first operand
        # where it is NaN, and where the second one is, unless that is told apart.
        first = self.op(f"fcmp {'uge' if name == 'max' else 'ule'} {kind} {a[0]}, {a[1]}")
        if second is None or np.isnan(second):
            known = self.op(f"fcmp ord {kind} {a[1]}, {a[1]}")
            first = self.op(f"and {mask} {first}, {known}")
        return self.op(f"select {mask} {first}, {kind} {a[0]}, {kind} {a[1]}")

    def convert(self, value: str, old: Any, new: Any) -> str:
        """Values of one dtype as another."""
        old, new = str(old), str(new)
        before, after = self.type(old), self.type(new)
        mask = f"<{self.width} x i1>"
        if new == "bfloat16" and old == "float32":
            rounded = self.op(
                f"shl <{self.width} x i32> {self._upper_half(value)}, {self.const(16, 'int32')}"
            )
            return self.op(f"bitcast <{self.width} x i32> {rounded} to {after}")
        if before == after:
            return value
        whole_before, whole_after = (ELEMENTS[k].startswith("i") for k in (old, new))
        if old == "bool":
            return self.op(
                f"select {mask} {value}, {after} {self.const(1, new)}, {after} {self.const(0, new)}"
            )
        if new == "bool":
            zero, verb = self.const(0, old), "icmp ne" if whole_before else "fcmp une"
            return self.op(f"{verb} {before} {value}, {zero}")
        if whole_before and whole_after:
            return self.op(f"{'sext' if new == 'int64' else 'trunc'} {before} {value} to {after}")
        if whole_before:
            return self.op(f"sitofp {before} {value} to {after}")
        if whole_after:
            raise Untranslatable(f"convert_element_type from {old} to {new}")
        if new == "bfloat16":  # from float64
            narrow = self.op(f"fptrunc {before} {value} to {after}")
            return self.convert(narrow, "float32", new)
        return self.op(f"{'fpext' if new == 'float64' else 'fptrunc'} {before} {value} to {after}")

    # Memory.

    def _at(self, base: str, index: str, dtype: Any) -> tuple[str, str, int]:
        element = STORED.get(str(dtype), ELEMENTS[str(dtype)])
        place = self.op(f"getelementptr {element}, ptr {base}, i64 {index}")
        return place, f"<{self.width} x {element}>", jnp.dtype(dtype).itemsize

    def load(self, base: str, index: str, dtype: Any) -> str:
        """Neurons from `index` on of an array."""
        place, kind, size = self._at(base, index, dtype)
        value = self.op(f"load {kind}, ptr {place}, align {size}")
        if str(dtype) == "bool":
            return self.op(f"icmp ne {kind} {value}, zeroinitializer")
        if str(dtype) == "bfloat16":
            wide = f"<{self.width} x i32>"
            value = self.op(f"zext {kind} {value} to {wide}")
            value = self.op(f"shl {wide} {value}, {self.const(16, 'int32')}")
            return self.op(f"bitcast {wide} {value} to {self.type(dtype)}")
        return value

    def store(self, value: str, base: str, index: str, dtype: Any) -> None:
        """Write neurons from `index` on of an array of real numbers."""
        place, kind, size = self._at(base, index, dtype)
        if str(dtype) == "bfloat16":
            value = self.op(
                f"trunc <{self.width} x i32> {self._upper_half(value)} to <{self.width} x i16>"
            )
        self.body.do(f"store {kind} {value}, ptr {place}, align {size}")

    def _upper_half(self, value: str) -> str:
        """The bits of the nearest bfloat16, in the lower half of integers."""
        # With integers, since for `fptrunc` LLVM calls a function of a library for each lane.
        wide = f"<{self.width} x i32>"
        bits = self.op(f"bitcast <{self.width} x float> {value} to {wide}")
        sixteen = self.const(16, "int32")
        high = self.op(f"lshr {wide} {bits}, {sixteen}")
        odd = self.op(f"and {wide} {high}, {self.const(1, 'int32')}")
        up = self.op(f"add {wide} {odd}, {self.const(0x7FFF, 'int32')}")
        rounded = self.op(f"add {wide} {bits}, {up}")
        nan = self.op(f"fcmp uno <{self.width} x float> {value}, {value}")
        quiet = self.op(f"or {wide} {bits}, {self.const(0x400000, 'int32')}")
        rounded = self.op(f"select <{self.width} x i1> {nan}, {wide} {quiet}, {wide} {rounded}")
        return self.op(f"lshr {wide} {rounded}, {sixteen}")


def _needed(jaxpr: Any) -> Iterable[Any]:
    """The equations that the results depend on."""
    # A forward pass that is traced by `jax.vjp` also holds what only the backward pass needs.
    wanted = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if wanted.intersection(eqn.outvars):
            kept.append(eqn)
            wanted.update(v for v in eqn.invars if not isinstance(v, Literal))
    return reversed(kept)


def _is_real(dtype: Any) -> bool:
    return ELEMENTS.get(str(dtype)) in ("float", "double")


def untranslatable(function: Any) -> str | None:
    """What keeps an elementwise closed jaxpr from being translated, if anything does."""
    lanes = Lanes(Body(), 1)
    try:
        args = [lanes.const(0, v.aval.dtype) for v in function.jaxpr.invars]
        lanes.run(function, args)
    except Untranslatable as reason:
        return str(reason)
    return None
