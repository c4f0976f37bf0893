"""Top-level constants of a Python file, read and set in its text."""

import ast
import io
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from autoresearch_jax.assets.base import ConstantError, ConstantValue, same_value
from autoresearch_jax.python_source import shared_tree
from autoresearch_jax.types import Scalar

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
_LARGEST_EXPONENT = 64  # 2**19 is a constant; 9**9**9 would be a way to hang the driver
_MOST_BITS = 1023  # of a whole number, so that it is a float, too; Python refuses to print one of 15,000


def read_constants(source: str) -> dict[str, ConstantValue]:
    """Values of the top-level UPPER_CASE names: numbers, strings, truth values, None, and tuples of them.

    Arithmetic on numbers such as `2**19` counts as a number; any other expression is left out. A name that
    is bound again and again has its last value.

    Raises:
      SyntaxError: the source is not Python.
    """
    return _values(_parse(source))


def _values(statements: Sequence[ast.stmt]) -> dict[str, ConstantValue]:
    constants: dict[str, ConstantValue] = {}
    for statement in statements:
        name, expression = binding(statement)
        if name is None or expression is None:
            continue
        try:
            constants[name] = _evaluate(expression)
        except (ValueError, ArithmeticError, TypeError, RecursionError):  # {[]: 1} and a sum of 999 are expressions too
            constants.pop(name, None)
    return constants


def set_constants(source: str, values: Mapping[str, Scalar], *, anew: bool = False) -> str:
    """The source with new values for some of its constants; comments, spacing and all else stay as they are.

    A constant that has the value already is not touched unless `anew`, so setting nothing new gives the same text.

    Raises:
      ConstantError: a name is not bound at top level, or more than once, or the value cannot be written there.
      SyntaxError: the source is not Python.
    """
    statements = _parse(source)
    current = _values(statements)
    bound = [name for name, _ in map(binding, statements) if name is not None]
    for name in values:
        if name not in bound:
            raise ConstantError(f"no top-level constant {name}; there are {', '.join(dict.fromkeys(bound))}")
        if bound.count(name) > 1:
            raise ConstantError(f"the constant {name} is set {bound.count(name)} times at top level; keep one")
    new = {
        name: value
        for name, value in values.items()
        if anew or name not in current or not same_value(current[name], value)
    }
    lines = list(io.StringIO(source, newline=""))  # lines as Python counts them, with their own ends
    for first, last, names in reversed(_line_groups(statements)):
        if new.keys() & names:  # libcst takes 50 ms for a file of 800 lines, and nothing for these lines
            lines[first:last] = [_rebound("".join(lines[first:last]), new)]
    return "".join(lines)


def _rebound(lines: str, values: Mapping[str, Scalar]) -> str:
    """Lines with new values in them.

    Raises ConstantError if they are beyond what libcst can read, such as a sum of thousands beside the constant.
    """
    import libcst as cst  # takes a quarter of a second

    def literal(name: str) -> cst.BaseExpression:
        value = values[name]
        if isinstance(value, float) and not math.isfinite(value):
            raise ConstantError(f"{name} cannot be set to {value}: a constant is a finite number")
        return cst.parse_expression(repr(value))

    def rebind(part: cst.BaseSmallStatement) -> cst.BaseSmallStatement:
        target: cst.BaseExpression | None = None
        if isinstance(part, cst.Assign) and len(part.targets) == 1:
            target = part.targets[0].target
        elif isinstance(part, cst.AnnAssign):
            target = part.target
        if isinstance(target, cst.Name) and target.value in values:
            return part.with_changes(value=literal(target.value))
        return part

    def rebind_all(
        statement: cst.SimpleStatementLine | cst.BaseCompoundStatement,
    ) -> cst.SimpleStatementLine | cst.BaseCompoundStatement:
        if not isinstance(statement, cst.SimpleStatementLine):
            return statement
        return statement.with_changes(body=[rebind(part) for part in statement.body])

    try:
        module = cst.parse_module(lines)
        return module.with_changes(body=[rebind_all(statement) for statement in module.body]).code
    except (cst.ParserSyntaxError, RecursionError, MemoryError) as error:
        names = ", ".join(values)
        raise ConstantError(f"{names}: no value can be set in a line like that: {type(error).__name__}") from error


def _parse(source: str) -> Sequence[ast.stmt]:
    """Top-level statements, not to be changed; whatever the parser has against a source is a SyntaxError."""
    try:
        return shared_tree(source).body
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte in 3.11, brackets in brackets in ...
        raise SyntaxError(f"Python's parser gives up: {error}") from error


def _line_groups(statements: Sequence[ast.stmt]) -> list[tuple[int, int, set[str]]]:
    """First line, line after the last, and names bound, for statements that share no line with any other."""
    groups: list[tuple[int, int, set[str]]] = []
    for statement in statements:
        name, _ = binding(statement)
        names = set() if name is None else {name}
        first, last = statement.lineno - 1, statement.end_lineno or statement.lineno
        if groups and first < groups[-1][1]:
            before = groups.pop()
            first, names = before[0], before[2] | names
        groups.append((first, last, names))
    return groups


def binding(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    """Name and value of `NAME = value` or `NAME: type = value`; (None, None) for any other statement."""
    target: ast.expr | None = None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    if isinstance(target, ast.Name) and _NAME.fullmatch(target.id):
        assert isinstance(statement, ast.Assign | ast.AnnAssign)
        return target.id, statement.value
    return None, None


def blank_values(tree: ast.Module, names: Collection[str]) -> None:
    """Puts None in place of the values of some top-level constants, so that trees that differ in these are equal."""
    for statement in tree.body:
        name, value = binding(statement)
        if name in names and value is not None:
            assert isinstance(statement, ast.Assign | ast.AnnAssign)
            statement.value = ast.Constant(None)


def _evaluate(expression: ast.expr) -> ConstantValue:
    if isinstance(expression, ast.Tuple):
        items = [_evaluate(item) for item in expression.elts]
        if any(isinstance(item, tuple) for item in items):
            raise ValueError("a tuple of tuples")
        return tuple(items)  # type: ignore[arg-type]
    if isinstance(expression, ast.BinOp) and type(expression.op) in _ARITHMETIC:
        left, right = _number(expression.left), _number(expression.right)
        if isinstance(expression.op, ast.Pow) and abs(right) > _LARGEST_EXPONENT:
            raise ValueError("too large an exponent")
        value = _ARITHMETIC[type(expression.op)](left, right)  # (-8) ** 0.5 is complex
    elif isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.USub):
        value = -_number(expression.operand)
    else:
        value = ast.literal_eval(expression)
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError("too large a number")
    if value is None or isinstance(value, int | float | str | bool):
        return value
    raise ValueError(f"{type(value).__name__} is not a constant's type")


def _number(expression: ast.expr) -> float:
    value = _evaluate(expression)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError("not a number")


def settable_constants(source: str) -> dict[str, Scalar]:
    """Top-level constants that `set_constants` can set: bound once, to one value.

    Raises:
      SyntaxError: the source is not Python.
    """
    constants = read_constants(source)
    bound = [name for name, _ in map(binding, _parse(source)) if name is not None]
    return {
        name: value
        for name, value in constants.items()
        if bound.count(name) == 1
        and not isinstance(value, tuple)
        and not (isinstance(value, float) and not math.isfinite(value))
    }
