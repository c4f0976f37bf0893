"""What counts as length of a source, and what does not."""

import base64
import zlib

import pytest

from autoresearch_jax.engine.training_file import syntax_nodes

PLAIN = "def area(r):\n    return 3.14159 * r * r\n"


@pytest.mark.parametrize(
    "same",
    [
        "# a circle\n\ndef area(r):  # by its radius\n\n    return (3.14159 * r\n        * r)\n",
        'def area(r):\n    """Area of a circle."""\n    return 3.14159 * r * r\n',
        '"""Circles."""\ndef area(r):\n    return 3.14159 * r * r\n',
        "def area_of_a_circle(radius):\n    return 3.14159 * radius * radius\n",
    ],
)
def test_comments_layout_docstrings_and_names_do_not_count(same: str) -> None:
    assert syntax_nodes(same) == syntax_nodes(PLAIN)


def test_what_is_said_with_less_counts_less() -> None:
    nodes = syntax_nodes(PLAIN)
    assert nodes is not None
    assert nodes < (syntax_nodes(PLAIN + "import math\n") or 0)
    assert nodes > (syntax_nodes("def area(r):\n    return 3.14159 * r**2\n") or 0)


def test_a_program_packed_into_a_literal_is_no_shorter(tiny_source: str) -> None:
    nodes = syntax_nodes(tiny_source)
    assert nodes is not None
    packed = base64.b85encode(zlib.compress(tiny_source.encode(), 9))
    number = int.from_bytes(zlib.compress(tiny_source.encode(), 9), "big")
    for hidden in (f"run({tiny_source!r})", f"run(d({packed!r}))", f"run(d({hex(number)}))"):
        assert (syntax_nodes(hidden) or 0) > nodes


@pytest.mark.parametrize(
    "runs",
    [
        "exec(__doc__)",
        "print(build.__doc__)",
        "f = open",
        "import inspect",
        "from linecache import getlines",
        "import os.path",
    ],
)
def test_what_can_run_a_docstring_or_a_comment_has_no_count(runs: str) -> None:
    assert syntax_nodes(f'"""a = 1"""\n{runs}\n# b = 2\n') is None


def test_values_of_listed_constants_count_one_node_each() -> None:
    texts = ('P = "SSSL"\nN = 4\n', 'P = "L"\nN: int = 2**2\n', "P = ('S', 'L')\nN = 2**2\n")
    nodes = [syntax_nodes(text, {"P", "N"}) for text in texts]
    assert nodes[0] == nodes[2] == syntax_nodes("P = 0\nN = 0\n")
    assert nodes[1] == syntax_nodes("P = 0\nN: int = 0\n")
    assert syntax_nodes(texts[0], {"N"}) == syntax_nodes(texts[0]) > nodes[0]
    assert syntax_nodes("if X:\n    P = 'SSSL'\n", {"P"}) == syntax_nodes("if X:\n    P = 'SSSL'\n"), "not at top level"


@pytest.mark.parametrize("source", ["x = = 1", "x = '\0'", "(" * 10_000, "X = " + "-" * 200_000 + "1\n"])
def test_a_source_that_cannot_be_parsed_has_no_length(source: str) -> None:
    assert syntax_nodes(source) is None
