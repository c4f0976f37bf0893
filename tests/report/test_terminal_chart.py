"""The chart in the terminal: fits, marks what was kept, and is not squashed by wild scores."""

import pytest

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.report.terminal_chart import CHAMPION, KEPT, NOT_KEPT, draw_scores, score_limits, whole_ticks
from autoresearch_jax.types import Metric, Status


def row(number: int, score: float | None, *, kept: bool = False) -> ExperimentRow:
    return ExperimentRow(
        id=number,
        kind=Kind.PROPOSAL,
        parent=None,
        parent_commit=None,
        proposer="",
        hypothesis="",
        category="",
        cost_dollars=0.0,
        constants={},
        created_at=0.0,
        program_hash=None,
        status=Status.CRASH if score is None else Status.OK,
        score=score,
        decision=Action.KEEP if kept else Action.DISCARD,
        reason="",
        commit=None,
        seconds=1.0,
    )


NIGHT = [
    row(0, 1.5, kept=True),
    row(1, 1.52),
    row(2, None),
    row(3, 1.4, kept=True),
    *(row(number, 1.41 + number / 1000) for number in range(4, 20)),
    row(20, 1.3, kept=True),
    row(21, 1.35),
]


def chart(rows, columns: int = 80, lines: int = 20, *, colours: bool = False) -> list[str]:
    return draw_scores(rows, Metric("val_bpb"), columns, lines, colours=colours).splitlines()


@pytest.mark.parametrize(("columns", "lines"), [(40, 12), (80, 24), (200, 50)])
def test_it_fits_and_has_a_mark_for_each_keep(columns, lines):
    drawn = chart(NIGHT, columns, lines)
    assert len(drawn) == lines
    assert max(map(len, drawn)) <= columns
    assert len(drawn[1]) == columns, "as wide as the terminal"
    title, *body = drawn
    assert (KEPT in title, NOT_KEPT in title, CHAMPION in title) == (True, True, True)
    assert "".join(body).count(KEPT) == 3
    assert drawn[-1].split() == ["val_bpb", "experiment"]


def test_an_experiment_that_was_kept_after_a_later_one_leaves_the_line_in_order():
    """As with several in flight: the rows are in the order in which they ended."""
    drawn = chart([row(0, 1.5, kept=True), row(7, 1.4, kept=True), row(5, 1.3, kept=True), row(9, 1.4), row(8, None)])
    lowest = next(line for line in reversed(drawn) if KEPT in line)
    before, after = lowest.strip().split(KEPT)
    assert before.strip("│ ") == "", "not back to 5"
    assert after.startswith("    "), "from 7 on, where the later one was kept"


def test_the_champions_score_is_a_step_line_to_the_end():
    levels = [line for line in chart(NIGHT, 80, 24)[1:] if KEPT in line]
    assert len(levels) == 3
    assert levels[0].index(KEPT) < levels[1].index(KEPT) < levels[2].index(KEPT), "lower scores are lower"
    assert levels[1].split(KEPT)[1].strip("│ ").rstrip("▖▗▘▝▌▐·▄▀▛▜▙▟ ") == ""


def test_wild_scores_are_counted_and_do_not_squash_the_axis():
    wild = [*NIGHT, row(22, 300.0), row(23, 1e30)]
    assert "(2 of 23 outside)" in chart(wild)[-1]
    assert chart(wild)[2].split("┤")[0] == chart(NIGHT)[2].split("┤")[0]
    assert score_limits([1.0, 1.01, 1.02, 1.03, 9.0], [9.0])[1] == 9.0, "what was kept is never left out"


def test_colours_are_there_only_where_they_are_wanted():
    assert "\x1b" not in "".join(chart(NIGHT))
    assert "\x1b[" in "".join(chart(NIGHT, colours=True))


def test_one_point_equal_points_and_single_trials_can_be_drawn():
    assert len(chart([row(7, 1.0, kept=True)])) == 20
    assert len(chart([row(number, 1.0) for number in range(5)])) == 20
    drawn = draw_scores([row(3, 2.0), row(9, 1.0)], None, 60, 20, colours=False).splitlines()
    assert "score" in drawn[-1]
    assert KEPT not in drawn[0]


@pytest.mark.parametrize(
    ("first", "last", "ticks"),
    [(0, 1, [0, 1]), (0, 20, list(range(0, 21, 5))), (7, 30, list(range(10, 31, 5))), (0, 1999, range(0, 2000, 200))],
)
def test_ticks_are_round_numbers(first, last, ticks):
    found = whole_ticks(first, last)
    assert found == list(found)
    assert len(found) <= 10
    assert set(ticks) <= set(found)
