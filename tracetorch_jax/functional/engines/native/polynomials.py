"""exp, log, tanh and related functions as LLVM IR on vectors, without a branch or a call.

Each function takes `lanes`, which writes instructions, the dtype ("float64", or else float32 is
meant) and the name of a vector, and returns the name of the result. Results are within 2 ulp of the
exact value, with fused multiply-add and without. Denormal results may be 0, and denormal arguments
may be taken for 0: XLA's threads flush such numbers.

The methods are those of Cody and Waite, "Software Manual for the Elementary Functions" (1980), and
of FDLIBM (Sun Microsystems, 1993), with selects for its branches. The coefficients are those of
``mpmath.chebyfit`` in 60 digits, called as the comments in `_Format` say.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

__all__ = ["exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh"]


class Lanes(Protocol):
    """What writes instructions."""

    width: int

    def op(self, text: str, /) -> str: ...
    def type(self, dtype: str, /) -> str: ...
    def const(self, value: float, dtype: str, /) -> str: ...


@dataclasses.dataclass(frozen=True)
class _Format:
    """Constants of a floating-point dtype; polynomials start with their constant term."""

    real: str
    integer: str  # of the same size
    mantissa: int  # bits of it
    bias: int  # of the exponent
    sign: int  # its bit
    root: int  # bits of sqrt(1 / 2)
    ln2: tuple[float, float]  # in two parts; to multiply the first by an exponent is exact
    least: float  # exp is a normal number from here
    most: float  # exp is finite to here
    # chebyfit(lambda r: (exp(r) - 1 - r) / r**2, [-0.3473, 0.3473], n)
    exp: tuple[float, ...]
    # chebyfit(lambda z: (2 * atanh(sqrt(z)) / sqrt(z) - 2) / z, [0, 0.02947], n)
    log: tuple[float, ...]
    # chebyfit(lambda z: (tanh(sqrt(z)) / sqrt(z) - 1) / z, [0, 0.3026], n)
    tanh: tuple[float, ...]

    def power(self, exponent: int) -> int:
        """Bits of a power of two."""
        return (self.bias + exponent) << self.mantissa

    @property
    def shift(self) -> float:
        """Added to a number, it leaves the nearest integer in the lowest bits."""
        return 1.5 * 2.0**self.mantissa

    @property
    def small(self) -> float:
        """1 - small rounds to 1; in smaller numbers, x is nearest to e^x - 1 and log(1 + x)."""
        return 2.0 ** -(self.mantissa + 3)

    @property
    def flat(self) -> float:
        """From here down, e^x - 1 rounds to -1."""
        return math.log(self.small)


_FLOAT32 = _Format(
    real="float32",
    integer="int32",
    mantissa=23,
    bias=127,
    sign=-(1 << 31),
    root=0x3F3504F3,
    ln2=(0.693138122558594, 9.05800061445916e-6),
    least=-87.3365447505531,
    most=88.72283172607422,
    exp=(
        0.5, 0.16666576305560638271, 0.041666553762567638397, 0.0083632927530306023112,
        0.00139263256181334621,
    ),
    log=(0.66666685095429068746, 0.39988757716604847003, 0.29580985929974422621),
    tanh=(
        -0.33333332005908134041, 0.13333113458732415705, -0.053909375641847945313,
        0.021309062328578619709, -0.0066096140128846229918,
    ),
)  # fmt: skip
_FLOAT64 = _Format(
    real="float64",
    integer="int64",
    mantissa=52,
    bias=1023,
    sign=-(1 << 63),
    root=0x3FE6A09E667F3BCD,
    ln2=(0.693147180369123816490, 1.90821492927058770002e-10),
    least=-708.396418532264106,
    most=709.782712893383973,
    exp=(
        0.50000000000000010417, 0.16666666666666667468, 0.041666666666623476764,
        0.0083333333333300117609, 0.0013888888917538295848, 0.00019841269863303223296,
        0.000024801520792572692843, 2.7557268072890098263e-6, 2.762032742826823816e-7,
        2.5100569275813682631e-8,
    ),
    log=(
        0.66666666666666697077, 0.39999999999898890514, 0.28571428626253837606,
        0.22222211089379496214, 0.18182892432536871201, 0.15331611722055007885,
        0.14617807153417324964,
    ),
    tanh=(
        -0.33333333333333332558, 0.13333333333332712905, -0.053968253967431738911,
        0.021869488493563038118, -0.0088632343954180955945, 0.003592110347096176598,
        -0.0014556615775702363613, 0.00058893480724470277213, -0.00023463104528300405602,
        0.000085107079273541127234, -0.000020598556673275166703,
    ),
)  # fmt: skip


class _Vector:
    """A vector of numbers, or of their bits, whose operators write instructions.

    A Python number stands for a vector that holds it in all lanes.
    """

    def __init__(self, lanes: Lanes, dtype: str, name: str) -> None:
        self.lanes, self.dtype, self.name = lanes, dtype, name
        self.format = _FLOAT64 if dtype.endswith("64") else _FLOAT32
        self.type = lanes.type(dtype)
        self.letter = "f" if dtype.startswith("float") else ""

    def write(self, text: str, dtype: str | None = None) -> _Vector:
        return _Vector(self.lanes, dtype or self.dtype, self.lanes.op(text))

    def like(self, value: _Vector | float) -> _Vector:
        if isinstance(value, _Vector):
            return value
        return _Vector(self.lanes, self.dtype, self.lanes.const(value, self.dtype))

    def apply(self, verb: str, other: _Vector | float) -> _Vector:
        return self.write(f"{verb} {self.type} {self.name}, {self.like(other).name}")

    def __add__(self, other: _Vector | float) -> _Vector:
        return self.apply(f"{self.letter}add", other)

    def __sub__(self, other: _Vector | float) -> _Vector:
        return self.apply(f"{self.letter}sub", other)

    def __mul__(self, other: _Vector | float) -> _Vector:
        return self.apply("fmul", other)

    def __truediv__(self, other: _Vector) -> _Vector:
        return self.apply("fdiv", other)

    def times(self, factor: _Vector | float, plus: _Vector | float) -> _Vector:
        """Product and sum, in one operation where the processor has it."""
        return self.apply("fmul contract", factor).apply("fadd contract", plus)

    def polynomial(self, coefficients: tuple[float, ...]) -> _Vector:
        """Polynomial of this, by Horner's rule."""
        value = self.like(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            value = value.times(self, coefficient)
        return value

    def choose(self, verb: str, bound: float, yes: _Vector | float, no: _Vector | float) -> _Vector:
        """`yes` where this compares so with `bound`, `no` elsewhere."""
        mask = self.write(f"fcmp {verb} {self.type} {self.name}, {self.like(bound).name}", "bool")
        yes, no = self.like(yes), self.like(no)
        return self.write(
            f"select {mask.type} {mask.name}, {self.type} {yes.name}, {self.type} {no.name}"
        )

    def size(self) -> _Vector:
        """Absolute value."""
        suffix = f"v{self.lanes.width}f{self.dtype[-2:]}"
        return self.write(f"call {self.type} @llvm.fabs.{suffix}({self.type} {self.name})")

    def bits(self) -> _Vector:
        return self._cast(self.format.integer)

    def number(self) -> _Vector:
        """The number that has these bits."""
        return self._cast(self.format.real)

    def _cast(self, dtype: str) -> _Vector:
        return self.write(f"bitcast {self.type} {self.name} to {self.lanes.type(dtype)}", dtype)


def _argument(lanes: Lanes, dtype: str, x: str) -> _Vector:
    return _Vector(lanes, "float64" if str(dtype) == "float64" else "float32", x)


def _exponent(shifted: _Vector) -> _Vector:
    """The integer in the lowest bits of a number to which `shift` was added, moved up."""
    return shifted.bits().apply("shl", shifted.format.mantissa)


def _reduce(x: _Vector) -> tuple[_Vector, _Vector, _Vector]:
    """Write x as n ln(2) + r: n, in the exponent's place, and the two parts of r, for `_rest`."""
    shifted = x.times(1 / math.log(2), x.format.shift)
    n = shifted - x.format.shift
    high, low = x.format.ln2
    return _exponent(shifted), n.times(-high, x), n * -low


def _rest(high: _Vector, low: _Vector | float) -> _Vector:
    """e^r - 1 - high for r = high + low, where low is small: r itself would lose bits."""
    r = high + low
    return (r * r).times(r.polynomial(r.format.exp), low)


def _power(x: _Vector, n: _Vector, r: _Vector, least: float, most: float) -> _Vector:
    """2^n (1 + r), where `x` is between `least` and `most`; else 0, infinity or NaN, by `x`."""
    result = x.choose("olt", least, 0.0, ((r + 1).bits() + n).number())
    return x.choose("ole", most, result, x * math.inf)


def _exp(x: _Vector) -> _Vector:
    n, high, low = _reduce(x)
    return _power(x, n, high + _rest(high, low), x.format.least, x.format.most)


def exp(lanes: Lanes, dtype: str, x: str) -> str:
    """e^x."""
    return _exp(_argument(lanes, dtype, x)).name


def exp2(lanes: Lanes, dtype: str, x: str) -> str:
    """2^x."""
    v = _argument(lanes, dtype, x)
    shifted = v + v.format.shift
    r = (v - (shifted - v.format.shift)) * math.log(2)
    # The last number before the first power of two that is infinite.
    most = (v.format.bias + 1) * (1 - 2.0 ** -(v.format.mantissa + 1))
    return _power(v, _exponent(shifted), r + _rest(r, -0.0), 1.0 - v.format.bias, most).name


def expm1(lanes: Lanes, dtype: str, x: str) -> str:
    """e^x - 1."""
    v = _argument(lanes, dtype, x)
    n, high, low = _reduce(v.choose("olt", v.format.flat, v.format.flat, v))
    # Half of it, since 2^n may be infinite where e^x is not.
    power = (n + v.format.power(-1)).number()
    half = power.times(_rest(high, low), power.times(high, power - 0.5))
    result = v.choose("ole", v.format.most, half + half, v * math.inf)
    return v.size().choose("olt", v.format.small, v, result).name


def tanh(lanes: Lanes, dtype: str, x: str) -> str:
    """Hyperbolic tangent."""
    v = _argument(lanes, dtype, x)
    z = v * v
    inner = (v * z).times(z.polynomial(v.format.tanh), v)
    # Further out, 1 - 2 e / (1 + e), where e = e^y = 2^n (1 + r).
    y = v.size() * -2.0
    n, high, low = _reduce(y.choose("olt", 2 * v.format.flat, 2 * v.format.flat, y))
    power = (n + v.format.power(0)).number()
    e = power.times(high + _rest(high, low), power)
    outer = (e / (e + 1)).times(-2.0, 1.0)
    sign = v.bits().apply("and", v.format.sign)
    return v.size().choose("olt", 0.55, inner, outer).bits().apply("or", sign).number().name


def logistic(lanes: Lanes, dtype: str, x: str) -> str:
    """1 / (1 + e^-x)."""
    v = _argument(lanes, dtype, x)
    e = _exp(v.size() * -1.0)
    # For e / (1 + e), e - e (e / (1 + e)): what is subtracted, and its error, is the smaller part.
    first = v.choose("olt", 0.0, e, 1.0)
    return first.times(e / (e + 1) * -1.0, first).name


def _log(u: _Vector, error: _Vector | None = None) -> _Vector:
    """log(u + error), where `u` is positive, normal and finite."""
    form = u.format
    # u = 2^k (1 + f), with 1 + f between sqrt(1 / 2) and sqrt(2).
    bits = u.bits() + (form.power(0) - form.root)
    fraction = (1 << form.mantissa) - 1
    biased = bits.apply("lshr", form.mantissa)
    shifted = biased.apply("or", form.power(form.mantissa) + (1 << form.mantissa - 1)).number()
    k = shifted - (form.shift + form.bias)
    f = (bits.apply("and", fraction) + form.root).number() - 1
    if error is not None:
        # 2^(1 - k), since 2^-k may be too small.
        scale = bits.like(form.power(form.bias + 1)) - bits.apply("and", ~fraction)
        f = f + error * 0.5 * scale.number()
    # log(1 + f) = 2 atanh(s) with s = f / (2 + f), of which f - f^2 / 2 is taken first.
    s = f / (f + 2)
    z = s * s
    half_square = f * f * 0.5
    high, low = form.ln2
    rest = s.times(half_square + z * z.polynomial(form.log), k * low)
    return k.times(high, f - (half_square - rest))


def log(lanes: Lanes, dtype: str, x: str) -> str:
    """Natural logarithm."""
    v = _argument(lanes, dtype, x)
    result = v.choose("olt", math.inf, _log(v), v)
    outside = v.choose("olt", 0.0, math.nan, -math.inf)
    return v.choose("olt", 2.0 ** (1 - v.format.bias), outside, result).name


def log1p(lanes: Lanes, dtype: str, x: str) -> str:
    """log(1 + x)."""
    v = _argument(lanes, dtype, x)
    u = v + 1
    # The difference is exact while it matters.
    result = v.choose("olt", math.inf, _log(u, v - (u - 1)), v)
    result = v.size().choose("olt", v.format.small, v, result)
    outside = u.choose("olt", 0.0, math.nan, -math.inf)
    return u.choose("ole", 0.0, outside, result).name
