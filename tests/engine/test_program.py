"""program.md: what is understood, and the line that each mistake is reported with."""

from pathlib import Path

import pytest
from fakes import PROGRAM

from autoresearch_jax.engine.constants_table import NO_CONSTANTS
from autoresearch_jax.engine.limits import Limit
from autoresearch_jax.engine.program import ProgramError, parse_program, read_program
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


TABLE = "| constant | values |\n|---|---|\n| X | 1 .. 2 |\n"


def cell(values: str) -> str:
    return f"## You may change\n\n| constant | values |\n|---|---|\n| X | {values} |\n"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1 .. 4", IntRange(1, 4)),
        ("1 .. 4 log", IntRange(1, 4, log=True)),
        ("-1.5 .. -1e-3", FloatRange(-1.5, -0.001)),
        ("'a, b', \"c\", d", Choices(("a, b", "c", "d"))),
        ("a\\|b, {[]}, -1", Choices(("a|b", "{[]}", -1))),
        ("1e-5 .. 1e-2 log", FloatRange(1e-5, 1e-2, log=True)),
        ("`0.0 .. 1.0`", FloatRange(0.0, 1.0)),
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
        ("7", "program.md:5: X: '7' is not two or more different values"),
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
        ("## Goal\n## Goal\n", "program.md:2: a second section 'Goal'; merge the two"),
        ("## You may change\n| name | range |\n|-|-|\n", "program.md:2: the table's columns must be constant | values"),
        (cell("1 .. 2") + "| X | 1 .. 3 |", "program.md:6: a second row for X; keep one"),
        (cell("1 .. 2") + "| a b | 1 .. 3 |", "program.md:6: 'a b' is not the name of a constant"),
        ("## Stop when\n\n- at dawn\n", "program.md:3: not understood: 'at dawn'; understood are \"100 exp"),
        ("## Stop when\n\n## Ideas\n", 'program.md:1: "Stop when" says nothing of when: write a list under it, or '),
        (
            "## Goal\n\nWe have 8 hours.\n\nStop when all 8 hours of it are gone for good.\n",
            "program.md:5: not underst",
        ),
        ("## Goal\n\n- Stop when\n  - 8 hours\n", "program.md:3: 'Stop when' is no section here: write ## Stop when"),
        ("## Goal\n\n| a | b |\n|---|---|\n| Stop when | 8 hours |\n", "program.md:5: 'Stop when' is no section"),
        ("## Goal\n\n## Limits\n\n- 8 hours\n", "program.md:5: '8 hours' in section \"Limits\" ends nothing: write ##"),
        ("## You may change\n\n| constant | values |\n| X | 1 .. 2 |\n", "program.md:3: no table: its second line"),
        ("## You may change\n\n| constant | values |\n|---|---|\n", "program.md:3: the table has no row"),
    ],
)
def test_a_page_that_is_not_understood(text, complaint):
    with pytest.raises(ProgramError) as caught:
        parse_program(text)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("constants", "complaint"),
    [
        (
            {"LR": 0.5, "PATTERN": "SL"},
            ":12: no constant DEPTH in the editable file; there are: LR, PATTERN",
        ),
        ({}, f":11: no constant LR in the editable file; {NO_CONSTANTS}"),
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
    page, constants = parse_program(PROGRAM), {**CONSTANTS, "DEPTH": 12}
    warnings = page.warnings(page.space(constants), constants)
    assert warnings == ["program.md:12: DEPTH is 12 now, outside 2 .. 8: once moved it never comes back"]


def test_a_missing_page_says_what_to_do(tmp_path: Path):
    with pytest.raises(ProgramError, match=r"nowhere.md: no such file: write one, or name it with --program"):
        read_program(tmp_path / "nowhere.md")


LIST = "- 30 experiments\n- 8 hours\n"
ITEMS = ["30 experiments", "8 hours"]


@pytest.mark.parametrize(
    "page",
    [
        f"# Stop when\n\n{LIST}",
        f"## Goal\n\n##Stop when\n{LIST}",
        f"Stop when\n---------\n\n{LIST}",
        f"## Goal\n\n**Stop when:**\n\n{LIST}",
        "## Goal\n\n**Stop when:** 30 experiments, or 8 hours\n",
        "## Goal\n\nLower it. More.\nStop when 30 experiments are over or 8 hours have passed.\n",
        "## Goal\n\nPlease stop the run after 30 experiments or 8 hours, or so.\n\nTry 8 or 9 layers.\n",
        "## Stop when\n\nThe first that holds:\n\n1. **30 experiments**\n2. `8 hours`\n",
        "## Stop when\n\n- [ ] 30 experiments\n- [x] _8 hours_\n",
        "## Stop when\n\n```\n30 experiments\n8 hours\n```\n",
        "## Stop when\n\n- any of\n\n    - 30 experiments\n    - 8 hours\n",
        f"```markdown\n## Goal\n\nLower it.\n\n## Stop when\n\n{LIST}```\n",
        f"    ## Stop when\n\n{LIST}",
        "> ## Stop when\n>\n> - 30 experiments\n> - 8 hours\n",
        f"<h2>Stop when</h2>\n\n{LIST}",
        "## Stop when\n\n| limit |\n|---|\n| 30 experiments |\n| 8 hours |\n",
        f"## Stopping criteria\n\n{LIST}",
        f"## Goal\n\nLower it.\n\n### End the run when one of the following is reached\n\n{LIST}",
        f"## Stop when\n\n{LIST}\n### Notes\n\nnone\n",
        "## Stop after 30 experiments or 8 hours\n\nI am up by then.\n",
    ],
)
def test_a_stopping_list_is_found_as_people_write_it(page):
    found = parse_program(page)
    assert [stop.words for stop in found.stops] == ITEMS
    assert [line for line in found.notices if "any of" not in line] == []


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_page_is_read_as_tools_write_it(tmp_path: Path, mark: str, break_: str):
    page = tmp_path / "program.md"
    text = PROGRAM.removeprefix("# A page\n\n")
    page.write_bytes((mark + text.replace("\n", break_)).encode())
    assert read_program(page) == parse_program(text, page)


def test_another_encoding_is_one_line(tmp_path: Path):
    page = tmp_path / "program.md"
    page.write_bytes(PROGRAM.encode("utf-16"))
    with pytest.raises(ProgramError, match=r"program.md: is not UTF-8 text .*: save it as UTF-8"):
        read_program(page)


@pytest.mark.parametrize(
    ("page", "notice"),
    [
        (f"## Stop when\n\n{LIST}- at dawn\n", 'program.md:5: "at dawn" is not understood and ends nothing'),
        (f"## Stop when\n\nAbout 7 hours.\n\n{LIST}", 'program.md:3: "About 7 hours" is not understood'),
        (f"## Stop when\n\nTomorrow morning.\n\n{LIST}", 'program.md:3: "Tomorrow morning." is not understood'),
        (f"## Stop when\n\n{LIST}\n## Notes\n\nmine\n", 'program.md:6: section "Notes" is none of Goal, '),
        (f"## Limits\n\n- 20 dollars\n\n## Stop when\n\n{LIST}", 'program.md:1: section "Limits" is none of'),
        (f"## Goal\n\nStop after 5 experiments.\n\n## Stop when\n\n{LIST}", "program.md:3: "),
    ],
)
def test_what_has_no_effect_is_noticed_and_the_rest_counts(page, notice):
    found = parse_program(page)
    assert [stop.words for stop in found.stops] == ITEMS
    (line,) = found.notices
    assert line.startswith(notice)


def test_items_of_an_unknown_section_are_named():
    (line,) = parse_program(f"## Limits\n\n- 20 dollars\n\n## Stop when\n\n{LIST}").notices
    assert line.endswith('"20 dollars" in it ends nothing')


@pytest.mark.parametrize(
    "page",
    [
        "## Goal\n\n```python\n# Goal\n## Stop when\nx = 1\n```\n",
        "## Ideas\n\n- Stop when the loss is flat.\n",
        "## Goal\n\nGo on until I stop you.\n",
        "## Ideas\n\n### Stop after 3 epochs\n\n### Stop at 8 hours?\n",
    ],
)
def test_a_page_may_have_no_stopping_list(page):
    with_list = f"{page}\n## Stop when\n\n{LIST}"
    assert [stop.words for stop in parse_program(with_list).stops] == ITEMS
    assert parse_program(with_list).notices == ()


def test_a_sentence_that_ends_nothing_is_noticed():
    (line,) = parse_program("## Goal\n\nStop when the loss is flat.\n").notices
    assert line.startswith('program.md:3: "Stop when the loss is flat." ends nothing')


@pytest.mark.parametrize(
    ("page", "line"),
    [
        ("# Night\n\nAt most 8 hours.\n\n## Goal\n\nLower it.\n", 3),
        ("# Night: 8 hours\n\n## Goal\n\nLower it.\n", 1),
        ("## Goal\n\nLower it below 0.9. At most 8 hours.\n", 3),
        ("## You must not change\n\n- Time: 8 hours\n", 3),
    ],
)
def test_a_limit_outside_the_stopping_list_is_noticed_where_there_is_no_list(page, line):
    found = parse_program(page)
    assert found.stops == ()
    (notice,) = found.notices
    assert notice.startswith(f"program.md:{line}: ")
    assert '8 hours" ends nothing' in notice
    assert parse_program(f"{page}\n## Stop when\n\n{LIST}").notices == ()


def test_a_limit_in_another_heading_is_refused_or_noticed():
    page = "## Goal\n\nLower it.\n\n## Budget: 8 hours\n\n- mine\n"
    with pytest.raises(ProgramError, match=r"program.md:5: '8 hours' in section .* ends nothing: write ## Stop when"):
        parse_program(page)
    (notice,) = parse_program(f"{page}\n## Stop when\n\n{LIST}").notices
    assert notice.endswith('"8 hours" in it ends nothing')


def test_a_list_in_a_comment_is_none():
    assert parse_program(f"## Goal\n\n<!--\n## Stop when\n\n{LIST}-->\n").stops == ()


@pytest.mark.parametrize(
    "page",
    [
        f"**You may change**\n\n{TABLE}",
        f"## Goal\n\n## Constants\n\n{TABLE}",
        f"## You may change\n\n```\n{TABLE}```\n",
        "## You may change\n\n" + "".join(f"    {line}\n" for line in TABLE.splitlines()),
        "## You may change\n\n| what | who |\n|---|---|\n| width | me |\n\n" + TABLE,
        TABLE.replace("constant | values", "**Constant** | Values | note | owner").replace("|---|---|", "|-|-|-|-|")
        + "\n## Goal\n",
    ],
)
def test_a_table_is_found_as_people_write_it(page):
    (row,) = parse_program(page).constants
    assert (row.name, row.values) == ("X", IntRange(1, 2))


# The headings of karpathy/autoresearch's program.md, with words of ours below them
ORIGINAL = """\
# autoresearch

## Setup

1. **A tag**: today's date.

## Experimentation

**What you CAN do:** edit `train.py`, for 5 minutes a run.

## Output format

```
val_bpb: 0.99
```

## Logging results

1. the commit

## The experiment loop

LOOP FOREVER: git commit, `uv run train.py`. After 10 minutes, kill it.
"""


def test_the_original_s_page_is_prose_for_agents_with_one_notice():
    found = parse_program(ORIGINAL)
    assert (found.constants, found.stops) == ((), ())
    (line,) = found.notices
    assert line.startswith('program.md:3: "Setup", "Experimentation", "Output format", "Logging results", "The exp')
    assert '"You may change"' in line
    assert '"Stop when"' in line
    assert line.endswith('"10 minutes" in it ends nothing')
    assert found.for_agents.endswith(ORIGINAL)
    assert "Change the file" in found.for_agents


def test_the_original_s_page_may_have_a_table_and_a_stopping_list_of_ours():
    found = parse_program(f"{ORIGINAL}\n## Notes\n\nmine\n\n## Stop when\n\n{LIST}\n## You may change\n\n{TABLE}")
    assert [row.name for row in found.constants] == ["X"]
    assert [stop.words for stop in found.stops] == ITEMS
    notes, original = found.notices
    assert 'section "Notes" is none of Goal' in notes
    assert '"Stop when"' not in original
    assert parse_program(f"## Stop when\n\n{LIST}").for_agents == f"## Stop when\n\n{LIST}"


def test_one_heading_of_the_original_makes_no_page():
    with pytest.raises(ProgramError, match="no section: the page is made of"):
        parse_program("# autoresearch\n\n## Setup\n\nHello.\n")
