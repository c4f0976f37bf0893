"""Constants of a source: read, and set without touching anything else."""

import pytest

from autoresearch_jax.engine.training_file import ConstantError, read_constants, set_constants

SOURCE = '''"""Doc."""
import os

DEPTH = 4  # layers
LR: float = 4e-2   # a comment that stays
BETAS = (0.9, 0.95)
PATTERN = 'SL'  ; FLAG = True
TOKENS = 2**19
NEGATIVE = -1.5
WIDTH = DEPTH * 64  # follows DEPTH
lower = 3
TWICE = 1
TWICE = 2


def f():
    DEPTH = 7
    return DEPTH
'''


def test_reads_literals_and_arithmetic_of_top_level_names():
    assert read_constants(SOURCE) == {
        "DEPTH": 4,
        "LR": 0.04,
        "BETAS": (0.9, 0.95),
        "PATTERN": "SL",
        "FLAG": True,
        "TOKENS": 524288,
        "NEGATIVE": -1.5,
        "TWICE": 2,
    }


def test_arithmetic_that_would_hang_is_left_out():
    assert read_constants("A = 9**9**9\nB = 1/0\nC = 3") == {"C": 3}


def test_arithmetic_below_a_minus_sign():
    assert read_constants("A = -2**3\nB = -(1 + 0.5)\nC = (1, -2.0)") == {"A": -8, "B": -1.5, "C": (1, -2.0)}


@pytest.mark.parametrize("expression", ["(-8) ** 0.5", "{[]: 1}", "{{}}", "((9**64)**64)**2", "0x1" + "0" * 4000])
def test_what_no_ledger_can_store_is_left_out(expression):
    assert read_constants(f"A = {expression}\nB = 3") == {"B": 3}


def test_what_the_parser_gives_up_on_is_a_syntax_error():
    assert read_constants("A = " + "1 + " * 600 + "1\nB = 3") == {"B": 3}
    for source in ("A = " + "-" * 200_000 + "1\n", "A = 1  # \0\n"):
        with pytest.raises(SyntaxError):
            read_constants(source)


def test_sets_values_and_nothing_else():
    edited = set_constants(SOURCE, {"DEPTH": 6, "LR": 0.028, "FLAG": False, "PATTERN": 'S"L', "TOKENS": 7})
    expected = (
        SOURCE.replace("DEPTH = 4  #", "DEPTH = 6  #")
        .replace("4e-2 ", "0.028 ")
        .replace("True", "False")
        .replace("'SL'", "'S\"L'")
        .replace("2**19", "7")
    )
    assert edited == expected


def test_setting_nothing_new_gives_the_same_text():
    assert set_constants(SOURCE, {"LR": 0.04, "DEPTH": 4}) == SOURCE


def test_types_count():
    assert "DEPTH = 4.0  # layers" in set_constants(SOURCE, {"DEPTH": 4.0})


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"GONE": 1}, "no top-level constant GONE; there are DEPTH, LR, BETAS, PATTERN, FLAG, TOKENS, NEGATIVE, WIDTH"),
        ({"TWICE": 1}, "the constant TWICE is set 2 times at top level; keep one"),
        ({"LR": float("nan")}, "LR cannot be set to nan: a constant is a finite number"),
    ],
)
def test_what_cannot_be_set(values, complaint):
    with pytest.raises(ConstantError) as caught:
        set_constants(SOURCE, values)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("source", "edited"),
    [
        ("A = 1\r\nB = (\r\n    2  # two\r\n)\r\n", "A = 7\r\nB = (\r\n    2  # two\r\n)\r\n"),
        ("B = (\n    2\n); A = 1  # one\nC = 3", "B = (\n    2\n); A = 7  # one\nC = 3"),
        ("C = 3\nA = (\n    1\n)", "C = 3\nA = 7"),
        ('"""A \x0c page\x0b."""\n\x0c\nA = 1\n', '"""A \x0c page\x0b."""\n\x0c\nA = 7\n'),
        ("@f\ndef g(): pass\n\nA: int = 1;\n", "@f\ndef g(): pass\n\nA: int = 7;\n"),
    ],
)
def test_line_ends_and_shared_lines_are_kept(source, edited):
    assert set_constants(source, {"A": 7}) == edited
