"""Arithmetic on text without evaluating it as a program."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

Number = int | float

_LONGEST = 500
"""Characters of an expression."""
_BITS = 4096
"""Of the largest whole number; more digits than that answer no question, and take time without end."""
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "·": "*", "^": "**"})

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def _round(value: Number, digits: int = 0) -> Number:
    # Python would work out ten to the power of the digits.
    if not -100 <= digits <= 100:
        raise ValueError("round takes -100 to 100 digits")
    return round(value, digits)


_CONSTANTS = {"pi": math.pi, "e": math.e}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "round": _round, "min": min, "max": max, "sqrt": math.sqrt, "floor": math.floor, "ceil": math.ceil,
    "exp": math.exp, "log": math.log, "log2": math.log2, "log10": math.log10, "sin": math.sin, "cos": math.cos,
    "tan": math.tan, "gcd": math.gcd, "lcm": math.lcm,
}  # fmt: skip


class CalculationError(Exception):
    """An expression that has no value; the message is for the model."""


def calculate(expression: str) -> str:
    """The value of an arithmetic expression: ``+ - * / // % ** ^``, brackets, pi, e, and the usual functions.

    Args:
        expression: As the model wrote it.

    Returns:
        The value in decimal; whole numbers exactly, others to 12 digits.

    Raises:
        CalculationError: It is no arithmetic, has no value, or is too large.
    """
    text = expression.strip().translate(_SIGNS)
    if not text:
        raise CalculationError("the expression is empty")
    if len(text) > _LONGEST:
        raise CalculationError(f"the expression is longer than {_LONGEST} characters")
    try:
        tree = ast.parse(text, mode="eval")
        value = _value(tree.body)
    # The parser gives up on deep nesting with MemoryError or RecursionError.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise CalculationError(f"cannot calculate this: {said or type(error).__name__}") from None
    except ZeroDivisionError:
        raise CalculationError("division by zero") from None
    except (OverflowError, TypeError) as error:
        raise CalculationError(str(error)) from None
    return _shown(value)


def _value(node: ast.AST) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _bounded(_UNARY[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            return _bounded(_power(left, right))
        if type(node.op) in _BINARY:
            return _bounded(_BINARY[type(node.op)](left, right))
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        if node.keywords:
            raise CalculationError(f"{node.func.id} takes no named arguments")
        return _bounded(_FUNCTIONS[node.func.id](*(_value(argument) for argument in node.args)))
    if isinstance(node, ast.Name):
        raise CalculationError(f"unknown name '{node.id}'")
    if isinstance(node, ast.Call):
        raise CalculationError(f"unknown function; there are {', '.join(sorted(_FUNCTIONS))}")
    raise CalculationError("only numbers, + - * / // % **, brackets and functions are understood")


def _power(base: Number, exponent: Number) -> Number:
    # Before it is computed: the result's size follows from its parts.
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and exponent * int(base).bit_length() > _BITS:
        raise CalculationError("the result is too large")
    result = base**exponent
    if isinstance(result, complex):
        raise CalculationError("the result is not a real number")
    return result


def _bounded(value: Any) -> Number:
    if isinstance(value, int) and value.bit_length() > _BITS:
        raise CalculationError("the result is too large")
    if isinstance(value, float) and not math.isfinite(value):
        raise CalculationError("the result is not a finite number")
    if not isinstance(value, int | float):
        raise CalculationError("the result is not a number")
    return value


def _shown(value: Number) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value) if isinstance(value, int) else f"{value:.12g}"
