"""How large a Python file is: its syntax nodes, and the bytes that it carries in literals."""

import ast
import io
from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache

from autoresearch_jax.assets.base import bytes_held
from autoresearch_jax.assets.python_constants import binding
from autoresearch_jax.python_source import BYTE_ORDER_MARK, UNPARSABLE, docstring_of, shared_tree

MAX_LITERAL_BYTES = 4096  # beyond the baseline's; an honest night adds a few hundred
USUAL_ARGUMENTS = 16  # of a call, by position
FREE_NAME_BYTES = 8192  # of names that the baseline does not have; the default file's have 2,500

# With these a source can run what does not count: its docstrings, its own file's comments, another file.
_RUNS_HIDDEN_TEXT = frozenset(
    ("exec", "eval", "compile", "open", "__doc__", "__file__", "__import__", "__builtins__", "__loader__", "__spec__")
)
_READS_SOURCES = frozenset(
    ("builtins", "code", "importlib", "inspect", "io", "linecache", "os", "pathlib", "runpy", "sys")
)


def syntax_nodes(source: str, values_of: Collection[str] = ()) -> int | None:
    """Nodes of Python's syntax tree, or None for a source that Python cannot parse or that can run hidden text.

    Lines and characters would reward denser formatting and shorter names. The tree has neither, nor comments, and
    docstrings are left out: to delete them would else be progress. A literal counts a node for each byte it holds,
    because a program in a string, executed, is no shorter than one in plain sight; one in a docstring or a comment
    would be, so what could execute or read such text has no count.

    Values of the top-level constants in `values_of` count one node each: to move them is what an optimizer does.
    """
    try:
        tree = shared_tree(source)
    except (SyntaxError, *UNPARSABLE):
        return None
    lines = list(io.StringIO(source.removeprefix(BYTE_ORDER_MARK), newline=""))  # as Python counts them
    counts, end = [_count(tree)], 0
    for statement in tree.body:
        first = min((node.lineno for node in getattr(statement, "decorator_list", ())), default=statement.lineno)
        if first > end:
            text = "".join(lines[first - 1 : statement.end_lineno])
            counts.append(_count_in(text, statement.col_offset, statement.end_col_offset))
        else:  # behind a semicolon, its line may begin within a string
            counts.append(_count_all(statement))
        end = statement.end_lineno or first
    if None in counts:
        return None
    blanked = [value for name, value in map(binding, tree.body) if name in values_of and value is not None]
    blanked_counts = [_count(node) for value in blanked for node in ast.walk(value)]
    return sum(filter(None, counts)) - sum(filter(None, blanked_counts)) + len(blanked)


@lru_cache(maxsize=512)  # most statements are the champion's
def _count_in(text: str, first_column: int, last_column: int | None) -> int | None:
    """What the nodes of a top-level statement count together; None if one may run hidden text.

    Args:
      text: its lines, which may hold further statements.
      first_column: where it begins in them, in bytes.
      last_column: where it ends.
    """
    columns = first_column, last_column
    (statement,) = (one for one in ast.parse(text).body if (one.col_offset, one.end_col_offset) == columns)
    return _count_all(statement)


def _count_all(statement: ast.stmt) -> int | None:
    counts = [_count(node) for node in ast.walk(statement)]
    return None if None in counts else sum(filter(None, counts))


def _count(node: ast.AST) -> int | None:
    """What a node counts by itself; None for one that may run hidden text."""
    if isinstance(node, ast.Constant):
        return max(1, bytes_held(node.value))
    if _may_run_hidden_text(node):
        return None
    if (docstring := docstring_of(node)) is not None:
        return -max(1, bytes_held(docstring.value))
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


def literal_bytes(source: str, baseline: str) -> int:
    """Bytes that a source carries in literals beyond those of the baseline; 0 for one that cannot be parsed.

    A value in a list, tuple, set or dict that is no literal counts one byte, as does each argument of a call after the
    sixteenth. New names count once there are more than FREE_NAME_BYTES of them. Docstrings and comments do not count:
    what runs is a text without them. What cannot be parsed is refused before it runs, see
    `python_source.without_hidden_text`.
    """
    try:
        (theirs, their_names), (ours, our_names) = _held_in(source), _held_in(baseline)
    except (SyntaxError, *UNPARSABLE):
        return 0
    held = sum(count * max(1, bytes_held(value)) for (_, value), count in (theirs - ours).items())
    return held + max(0, sum(map(bytes_held, their_names - our_names)) - FREE_NAME_BYTES)


def added_bytes(source: str, baseline: str) -> int:
    """Bytes of the lines that a source has more than the baseline: what it adds in literals and names is no more."""
    added = Counter(source.split("\n")) - Counter(baseline.split("\n"))
    return sum(count * len(line.encode("utf-8", "surrogatepass")) for line, count in added.items())


@lru_cache(maxsize=4)  # the baseline's is asked for with each candidate's
def _held_in(source: str) -> tuple[Counter[tuple[type | str, object]], frozenset[str]]:
    """What a source carries, and its names."""
    tree = shared_tree(source)
    return Counter(_carried(tree)), frozenset(_names(tree))


def _carried(tree: ast.Module) -> Iterator[tuple[type | str, object]]:
    """Values of literals with their types, and values in displays that are none."""
    docstrings = {id(docstring_of(node)) for node in ast.walk(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield type(node.value), node.value
        elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict | ast.Call):
            values = _elements(node)
            for value in values:
                if not isinstance(value, ast.Constant):
                    yield "element", None


def _elements(node: ast.List | ast.Tuple | ast.Set | ast.Dict | ast.Call) -> list[ast.expr]:
    """The values of a display; of a call's arguments those that are more than usual."""
    if isinstance(node, ast.Call):
        return node.args[USUAL_ARGUMENTS:]
    return node.values if isinstance(node, ast.Dict) else node.elts


def _names(tree: ast.Module) -> Iterator[str]:
    """Every name in a source: of variables, attributes, arguments, modules."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant):
            for _, field in ast.iter_fields(node):
                yield from (text for text in (field if isinstance(field, list) else [field]) if isinstance(text, str))
