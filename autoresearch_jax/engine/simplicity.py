"""How long a source is, in what a reader has to understand: nodes of its syntax tree."""

import ast
from collections.abc import Collection

from autoresearch_jax.engine.constants import binding

# With these a source can run what does not count: its docstrings, its own file's comments, another file.
_RUNS_HIDDEN_TEXT = frozenset(
    ("exec", "eval", "compile", "open", "__doc__", "__file__", "__import__", "__builtins__", "__loader__", "__spec__")
)
_READS_SOURCES = frozenset(
    ("builtins", "code", "importlib", "inspect", "io", "linecache", "os", "pathlib", "runpy", "sys")
)
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def syntax_nodes(source: str, values_of: Collection[str] = ()) -> int | None:
    """Nodes of Python's syntax tree, or None for a source that Python cannot parse or that can run hidden text.

    Lines and characters would reward denser formatting and shorter names. The tree has neither, nor comments, and
    docstrings are left out: to delete them would else be progress. A literal counts a node for each byte it holds,
    because a program in a string, executed, is no shorter than one in plain sight; one in a docstring or a comment
    would be, so what could execute or read such text has no count.

    Args:
      source: Python.
      values_of: top-level constants whose values count one node each, however they are written: to move them is what
        an optimizer does, and "L" in place of "SSSL" is no simpler.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # all that the parser has against a source
        return None
    counts = [_count(node) for node in ast.walk(tree)]
    if None in counts:
        return None
    blanked = [value for name, value in map(binding, tree.body) if name in values_of and value is not None]
    blanked_counts = [_count(node) for value in blanked for node in ast.walk(value)]
    return sum(filter(None, counts)) - sum(filter(None, blanked_counts)) + len(blanked)


def _count(node: ast.AST) -> int | None:
    """What a node counts by itself; None for one that may run hidden text."""
    if isinstance(node, ast.Constant):
        return max(1, _bytes_held(node.value))
    if _may_run_hidden_text(node):
        return None
    if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0].value  # type: ignore[attr-defined]
        return -max(1, _bytes_held(docstring.value))
    return 1


def _may_run_hidden_text(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _RUNS_HIDDEN_TEXT
        case ast.Import(names=names):
            return any(alias.name.partition(".")[0] in _READS_SOURCES for alias in names)
        case ast.ImportFrom(module=str(module)):
            return module.partition(".")[0] in _READS_SOURCES
    return False


def _bytes_held(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, int):
        return (value.bit_length() + 7) // 8
    return 1
