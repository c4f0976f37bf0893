"""Python source as an import reads it: UTF-8, with or without a byte-order mark."""

import ast
import io
import tokenize
from functools import lru_cache

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


@lru_cache(maxsize=4)  # champion and candidate are looked at again and again
def shared_tree(source: str) -> ast.Module:
    """See `parse_source`; the tree is not to be changed."""
    return parse_source(source)


def docstring_of(node: ast.AST) -> ast.Constant | None:
    """The docstring of a module, class or function; None where there is none."""
    if not isinstance(node, _WITH_DOCSTRING) or ast.get_docstring(node, clean=False) is None:
        return None
    statement = node.body[0]
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    return statement.value


def without_hidden_text(source: str) -> str:
    """A source without its comments and docstrings, each line in its place: a program needs neither.

    What is left is all that a file could read of itself, beside its layout. A text that is no Python stays as it is,
    for the trace to say why.

    Raises:
      ValueError: it cannot be read, or declares another encoding than UTF-8; or one of `UNPARSABLE`.
    """
    text = io.StringIO(source.removeprefix(BYTE_ORDER_MARK), newline=None).read()  # with the line ends that Python sees
    try:
        tree = parse_source(text)
    except SyntaxError:
        return source
    lines = text.split("\n")
    spans = []  # first line, first character, last line, character after the last, all counted from 0
    for node in ast.walk(tree):
        if (place := docstring_of(node)) is not None:
            assert place.end_lineno is not None
            assert place.end_col_offset is not None
            first, last = place.lineno - 1, place.end_lineno - 1
            begin, end = (
                len(lines[row].encode()[:column].decode())
                for row, column in ((first, place.col_offset), (last, place.end_col_offset))
            )
            spans.append((first, begin, last, end, '"""'))
    docstrings = [(span[:2], span[2:4]) for span in spans]
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            (row, begin), (_, end) = token.start, token.end
            is_inside = any(start <= (row - 1, begin) < stop for start, stop in docstrings)
            if token.type == tokenize.COMMENT and not is_inside:
                spans.append((row - 1, begin, row - 1, end, ""))
    except (tokenize.TokenError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    for first, begin, last, end, instead in sorted(spans, reverse=True):
        blank = lines[first][:begin] + instead + "\n" * (last - first) + instead + lines[last][end:]
        lines[first : last + 1] = blank.split("\n")
    return "\n".join(lines)
