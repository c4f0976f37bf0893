"""Python source as an import reads it: UTF-8, with or without a byte-order mark."""

import ast
import io
import tokenize

BYTE_ORDER_MARK = "\ufeff"
# What parsing raises beside SyntaxError: null bytes, lone surrogates, nesting that is too deep
UNPARSABLE = (ValueError, RecursionError, MemoryError)
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def parse_source(source: str) -> ast.Module:
    """The syntax tree of a source.

    Raises:
      SyntaxError: it is no Python.
      ValueError: it declares another encoding than UTF-8, or holds what UTF-8 cannot; or one of `UNPARSABLE`.
    """
    data = source.encode()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError as error:
        raise ValueError(str(error)) from error
    if encoding not in ("utf-8", "utf-8-sig"):
        raise ValueError(f"it declares the encoding {encoding}: use UTF-8")
    return ast.parse(data)


def docstring_of(node: ast.AST) -> ast.Constant | None:
    """The docstring of a module, class or function; None where there is none."""
    if not isinstance(node, _WITH_DOCSTRING) or ast.get_docstring(node, clean=False) is None:
        return None
    statement = node.body[0]
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    return statement.value
