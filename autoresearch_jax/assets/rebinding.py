"""Sets constants in lines of a Python file, all else as it is. Its import takes a quarter of a second."""

import math
from collections.abc import Mapping

import libcst as cst

from autoresearch_jax.assets.base import ConstantError
from autoresearch_jax.types import Scalar


def rebound(lines: str, values: Mapping[str, Scalar]) -> str:
    """Lines with new values in them.

    Raises:
      ConstantError: they are beyond what libcst can read, such as a sum of thousands beside the constant.
    """
    try:
        module = cst.parse_module(lines)
        return module.with_changes(body=[_rebind(statement, values) for statement in module.body]).code
    except (cst.ParserSyntaxError, RecursionError, MemoryError) as error:
        names = ", ".join(values)
        raise ConstantError(f"{names}: no value can be set in a line like that: {type(error).__name__}") from error


def _rebind(
    statement: cst.SimpleStatementLine | cst.BaseCompoundStatement, values: Mapping[str, Scalar]
) -> cst.SimpleStatementLine | cst.BaseCompoundStatement:
    if not isinstance(statement, cst.SimpleStatementLine):
        return statement
    return statement.with_changes(body=[_rebind_one(part, values) for part in statement.body])


def _rebind_one(part: cst.BaseSmallStatement, values: Mapping[str, Scalar]) -> cst.BaseSmallStatement:
    target: cst.BaseExpression | None = None
    if isinstance(part, cst.Assign) and len(part.targets) == 1:
        target = part.targets[0].target
    elif isinstance(part, cst.AnnAssign):
        target = part.target
    if isinstance(target, cst.Name) and target.value in values:
        return part.with_changes(value=_literal(target.value, values[target.value]))
    return part


def _literal(name: str, value: Scalar) -> cst.BaseExpression:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConstantError(f"{name} cannot be set to {value}: a constant is a finite number")
    return cst.parse_expression(repr(value))
