"""Programs that JAX has traced, as graphs of scalar operations, and these in JavaScript."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# How tightly operators bind, loosest first.
CHOICE, EITHER, BOTH, COMPARISON, SUM, PRODUCT, SIGN, ATOM = range(8)

OPERATORS = {
    "add": ("+", SUM),
    "sub": ("-", SUM),
    "mul": ("*", PRODUCT),
    "div": ("/", PRODUCT),
    "gt": (">", COMPARISON),
    "ge": (">=", COMPARISON),
    "lt": ("<", COMPARISON),
    "le": ("<=", COMPARISON),
    "eq": ("===", COMPARISON),
    "ne": ("!==", COMPARISON),
    "and": ("&&", BOTH),
    "or": ("||", EITHER),
}
FUNCTIONS = ("abs", "exp", "expm1", "log", "log1p", "log2", "max", "min", "sign", "sqrt", "tanh")
SIGNS = {"neg": "-", "not": "!"}
OTHERS = ("convert_element_type", "logistic", "select_n")
LOGICAL = ("and", "not", "or", "select_n")
# Calls of another program, of which the forward pass is taken.
CALLS = ("closed_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit")


@dataclasses.dataclass(frozen=True)
class Expression:
    """JavaScript, and how tightly its outermost operator binds."""

    text: str
    binding: int = ATOM

    def inside(self, binding: int) -> str:
        """The text, in parentheses unless it binds at least as tightly."""
        return self.text if self.binding >= binding else f"({self.text})"


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A value: an operation on others or, without operands, a name or number."""

    operation: str
    operands: tuple[Node, ...] = ()


class Graph:
    """Values in the order in which they are computed; what is computed twice is one node."""

    def __init__(self) -> None:
        self.order: list[Node] = []
        self._known: dict[tuple[Any, ...], Node] = {}

    def node(self, operation: str, *operands: Node) -> Node:
        """The node of an operation on others."""
        key = (operation, *operands)
        if key not in self._known:
            self._known[key] = Node(operation, operands)
            self.order.append(self._known[key])
        return self._known[key]

    def name(self, name: str) -> Node:
        """The node of an argument."""
        return self.node(name)

    def literal(self, value: Any) -> Node:
        """The node of a number."""
        return self.node(self.number(value))

    @staticmethod
    def number(value: Any) -> str:
        """A number in JavaScript.

        Example:
            >>> Graph.number(1.0), Graph.number(-0.1), Graph.number(float("inf"))
            ('1', '-0.1', 'Infinity')
        """
        if value in (True, False) and jnp.asarray(value).dtype == jnp.bool_:
            return "true" if value else "false"
        text = repr(float(value)).removesuffix(".0")
        return text.replace("inf", "Infinity").replace("nan", "NaN")

    def inline(self, jaxpr: Jaxpr, consts: Sequence[Node], inputs: Sequence[Node]) -> list[Node]:
        """Add a program, and the programs that it calls.

        Args:
            jaxpr: of scalars.
            consts: nodes of its constants.
            inputs: nodes of its inputs.

        Returns:
            Nodes of its outputs.

        Raises:
            NotImplementedError: an operation is not on scalars, or converts into what JavaScript
                does not have.
        """
        variables = itertools.chain(jaxpr.constvars, jaxpr.invars)
        scope = dict(zip(variables, (*consts, *inputs), strict=True))

        def read(atom: Any) -> Node:
            return self.literal(atom.val) if isinstance(atom, Literal) else scope[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            name = equation.primitive.name
            if name in CALLS:
                called = equation.params.get("call_jaxpr", equation.params.get("jaxpr"))
                outputs = self._call(called, operands)
            elif name == "convert_element_type":
                outputs = [self._convert(equation, operands[0])]
            else:
                _check(equation)
                outputs = [self.node(name, *operands)] * len(equation.outvars)
            scope.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _call(self, called: ClosedJaxpr, operands: Sequence[Node]) -> list[Node]:
        return self.inline(called.jaxpr, [self.literal(c) for c in called.consts], operands)

    def _convert(self, equation: Any, operand: Node) -> Node:
        """JavaScript has one kind of number, so that only booleans are converted."""
        old, new = equation.invars[0].aval.dtype, equation.params["new_dtype"]
        if old == new or (jnp.issubdtype(old, jnp.number) and jnp.issubdtype(new, jnp.floating)):
            return operand
        if old == jnp.bool_ and jnp.issubdtype(new, jnp.number):
            return self.node("convert_element_type", operand)
        raise NotImplementedError(
            f"`convert_element_type` is translated from booleans and to floats; got {old} to {new}."
        )

    def uses(self, results: Iterable[Node]) -> dict[Node, int]:
        """How often each value is used, for those that the results need."""
        count = collections.Counter(results)
        for node in reversed(self.order):
            if count[node]:
                count.update(node.operands)
        return +count


def _check(equation: Any) -> None:
    """Raise unless an operation is one of scalars, and of booleans where those are meant."""
    name = equation.primitive.name
    for atom in (*equation.invars, *equation.outvars):
        if atom.aval.shape:
            raise NotImplementedError(
                f"The operation `{name}` must be on scalars; got shape {atom.aval.shape}."
            )
    if name in LOGICAL and equation.invars[0].aval.dtype != jnp.bool_:
        raise NotImplementedError(
            f"The operation `{name}` must be on booleans; got {equation.invars[0].aval.dtype}."
        )


def expression(node: Node, operands: Sequence[Expression]) -> Expression:
    """A node in JavaScript.

    Operations stay in the order in which JAX has them, so that rounding is the same.

    Args:
        node: an operation, name or number.
        operands: JavaScript of what it operates on.

    Raises:
        NotImplementedError: the operation has no translation.
    """
    name = node.operation
    if not operands:
        return Expression(name, SIGN if name.startswith("-") else ATOM)
    if name in OPERATORS:
        sign, binding = OPERATORS[name]
        left, right = operands
        return Expression(f"{left.inside(binding)} {sign} {right.inside(binding + 1)}", binding)
    if name in FUNCTIONS:
        return Expression(f"Math.{name}({', '.join(operand.text for operand in operands)})")
    first = operands[0]
    if name == "select_n":
        chosen = [operand.inside(EITHER) for operand in (operands[2], operands[1])]
        return Expression(f"{first.inside(EITHER)} ? {' : '.join(chosen)}", CHOICE)
    if name == "convert_element_type":
        return Expression(f"{first.inside(EITHER)} ? 1 : 0", CHOICE)
    if name == "logistic":
        return Expression(f"1 / (1 + Math.exp(-{first.inside(ATOM)}))", PRODUCT)
    if name in SIGNS:
        return Expression(f"{SIGNS[name]}{first.inside(ATOM)}", SIGN)
    translated = sorted({*OPERATORS, *FUNCTIONS, *SIGNS, *OTHERS})
    raise NotImplementedError(
        f"The operation `{name}` has no translation into JavaScript; "
        f"those that have are {', '.join(translated)}."
    )
