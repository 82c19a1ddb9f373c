"""Which responses may reach a grader that evaluates them as an expression.

Some reasoning-gym graders hand a model's response to SymPy's `parse_expr`, which evaluates it as Python: it
could run code, or hang the trainer with `9**9**9`. What passes here is arithmetic whose powers stay small.
Leaves out: whether the expression is right.
"""

from __future__ import annotations

import ast
from typing import Final

LONGEST: Final = 400
LARGEST_NUMBER: Final = 10**9
LARGEST_EXPONENT: Final = 100
FUNCTIONS: Final = frozenset(
    ["exp", "log", "sqrt", "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh"]
)
_OPERATORS: Final = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)


def is_arithmetic(text: str) -> bool:
    """Is `text` numbers, names, + - * / **, parentheses and calls of FUNCTIONS, and cheap to evaluate?

    Cheap: no power within a power, no call within a call, exponents plain numbers up to LARGEST_EXPONENT or
    their quotients.
    """
    if len(text) > LONGEST:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _allowed(tree.body, in_power=False, in_call=False)


def _allowed(node: ast.expr, *, in_power: bool, in_call: bool) -> bool:
    match node:
        case ast.Constant(value=bool()):
            return False
        case ast.Constant(value=int() | float() as value):
            return abs(value) <= LARGEST_NUMBER
        case ast.Name():
            return True
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _allowed(operand, in_power=in_power, in_call=in_call)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return not in_power and _is_exponent(exponent) and _allowed(base, in_power=True, in_call=in_call)
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _OPERATORS):
            return all(_allowed(side, in_power=in_power, in_call=in_call) for side in (left, right))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return not in_call and name in FUNCTIONS and _allowed(argument, in_power=in_power, in_call=True)
    return False


def _is_exponent(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=int() | float() as value):
            return abs(value) <= LARGEST_EXPONENT
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _is_exponent(operand)
        case ast.BinOp(left=ast.expr() as left, op=ast.Div(), right=right):
            return _is_exponent(left) and _is_exponent(right)
    return False
