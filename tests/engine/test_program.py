"""program.md: what is understood, and the line that each mistake is reported with."""

from pathlib import Path

import pytest
from fakes import PROGRAM

from autoresearch_jax.engine.program import ProgramError, parse_program, read_program
from autoresearch_jax.engine.stopping import Limit, Target
from autoresearch_jax.proposers.space import Choices, FloatRange, IntRange

CONSTANTS = {"LR": 0.5, "DEPTH": 4, "PATTERN": "SL"}


def test_a_page_is_understood():
    program = parse_program(PROGRAM)
    assert [(row.name, row.values, row.line) for row in program.constants] == [
        ("LR", FloatRange(0.01, 1.0, log=True), 11),
        ("DEPTH", IntRange(2, 8), 12),
        ("PATTERN", Choices(("SL", "SSSL", "L")), 13),
    ]
    assert program.stops == (Limit("experiments", 8, "8 experiments"),)
    assert program.text == PROGRAM
    assert [row.name for row in program.space(CONSTANTS)] == ["LR", "DEPTH", "PATTERN"]


def cell(values: str) -> str:
    return f"## You may change\n\n| constant | values |\n|---|---|\n| X | {values} |\n"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1 .. 4", IntRange(1, 4)),
        ("1..4", IntRange(1, 4)),
        ("1 .. 4 log", IntRange(1, 4, log=True)),
        ("-1.5 .. -1e-3", FloatRange(-1.5, -0.001)),
        ("'a, b', \"c\", d", Choices(("a, b", "c", "d"))),
        ("a\\|b, {[]}, -1", Choices(("a|b", "{[]}", -1))),
        ("-1 .. 0.5", FloatRange(-1.0, 0.5)),
        ("1e-5 .. 1e-2 log", FloatRange(1e-5, 1e-2, log=True)),
        ("`0.0 .. 1.0`", FloatRange(0.0, 1.0)),
        ("1, 2.5, 4", Choices((1, 2.5, 4))),
        ("True, False", Choices((True, False))),
        ('"SL", SSSL', Choices(("SL", "SSSL"))),
    ],
)
def test_values_of_a_constant(text, values):
    assert parse_program(cell(text)).constants[0].values == values


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("4 .. 1", "program.md:5: X: '4 .. 1': the low end must be below the high end"),
        ("0 .. 1 log", "program.md:5: X: '0 .. 1 log': a log range must begin above 0"),
        ("1 .. 2 lag", "program.md:5: X: '1 .. 2 lag' is not a range; expected LOW .. HIGH, LOW .. HIGH log, "),
        ("a .. b", "program.md:5: X: 'a .. b' is not a range"),
        ("7", "program.md:5: X: '7' is not two or more different values"),
        ("7, 7", "program.md:5: X: '7, 7' is not two or more different values"),
        ("", "program.md:5: X: '' is not two or more different values"),
    ],
)
def test_values_that_are_not_understood(text, complaint):
    with pytest.raises(ProgramError) as caught:
        parse_program(cell(text))
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "program.md: no section: the page is made of ## Goal, ## You may change, "),
        ("# Stop when\n\n- 1 experiment\n", "program.md: no section"),
        (
            "# T\n\n## Gaol\n",
            "program.md:3: unknown section 'Gaol'; one of: Goal, You may change, You must not change, ",
        ),
        ("## Goal\n## Goal\n", "program.md:2: a second section 'Goal'; merge the two"),
        ("## You may change\n| name | range |\n|-|-|\n", "program.md:2: the table's columns must be constant | values"),
        (cell("1 .. 2") + "| X | 1 .. 3 |", "program.md:6: a second row for X; keep one"),
        (cell("1 .. 2") + "| a b | 1 .. 3 |", "program.md:6: 'a b' is not the name of a constant"),
        ("## Stop when\n\n- 8 hours\n- at dawn\n", "program.md:4: not understood: 'at dawn'; understood are \"100 exp"),
    ],
)
def test_a_page_that_is_not_understood(text, complaint):
    with pytest.raises(ProgramError) as caught:
        parse_program(text)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "stop"),
    [
        ("100 experiments", Limit("experiments", 100, "100 experiments")),
        ("1 experiment.", Limit("experiments", 1, "1 experiment")),
        ("1.5 hours", Limit("seconds", 5400, "1.5 hours")),
        ("90 Minutes", Limit("seconds", 5400, "90 Minutes")),
        ("20 dollars", Limit("dollars", 20, "20 dollars")),
        ("no keep in 40 experiments", Limit("since_keep", 40, "no keep in 40 experiments")),
        ("`val_bpb <= 0.97`", Target("val_bpb", "<=", 0.97)),
        ("accuracy >= 9e-1", Target("accuracy", ">=", 0.9)),
    ],
)
def test_stop_items(item, stop):
    assert parse_program(f"## Stop when\n\n- {item}\n").stops == (stop,)


@pytest.mark.parametrize(
    ("constants", "complaint"),
    [
        (
            {"LR": 0.5, "PATTERN": "SL"},
            ":12: no constant DEPTH at the top of the editable file; there are: LR, PATTERN",
        ),
        ({**CONSTANTS, "LR": 1}, ":11: LR is the whole number 1; give whole numbers, not 0.01 .. 1 log"),
        ({**CONSTANTS, "DEPTH": "deep"}, ":12: DEPTH is 'deep', which has no range; list its values instead"),
        ({**CONSTANTS, "DEPTH": (1, 2)}, ":12: DEPTH is (1, 2), which is not one number, string or truth value"),
    ],
)
def test_a_table_that_does_not_fit_the_file(constants, complaint):
    with pytest.raises(ProgramError) as caught:
        parse_program(PROGRAM).space(constants)
    assert str(caught.value) == "program.md" + complaint


def test_whole_ends_are_real_ones_for_a_real_constant():
    (row,) = parse_program(cell("0 .. 2")).space({"X": 0.5})
    assert row.values == FloatRange(0.0, 2.0)


def test_a_value_outside_its_range_is_a_warning():
    warnings = parse_program(PROGRAM).warnings({**CONSTANTS, "DEPTH": 12})
    assert warnings == ["program.md:12: DEPTH is 12 now, outside 2 .. 8: once moved it never comes back"]


def test_a_missing_page_says_what_to_do(tmp_path: Path):
    with pytest.raises(ProgramError, match=r"nowhere.md: no such file: write one, or name it with --program"):
        read_program(tmp_path / "nowhere.md")
