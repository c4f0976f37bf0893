"""What bench_start makes of a start: which one is right, and that its table has each kind."""

import importlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autoresearch_jax.engine.records import TrialRow
from autoresearch_jax.types import Status

SCRIPTS = Path(__file__).parent.parent / "scripts"
TRIAL = TrialRow(1, 0, 7, 10.0, 12.0, Status.OK, 1.0, {}, None, None)
GIVEN_BACK = replace(TRIAL, finished_at=None, status=None, value=None, interrupted_at=11.0)
CUT_OFF = replace(GIVEN_BACK, interrupted_at=None)
FAULT = "autoresearch run: program.md:3: 'at dawn' is not understood"

Judge = Callable[..., str]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("bench_start")


@pytest.fixture
def judge(bench: ModuleType) -> Judge:
    """What is wrong with lines that came at the times given."""

    def fault(lines: list[tuple[float, str]], trials: list[TrialRow], status: int, /, **start: Any) -> str:
        return bench.Came(lines, status, trials).fault(bench.Start("limits", "a start", "", **start))

    return fault


def test_the_table_has_forty_starts_and_each_kind_twice(bench: ModuleType) -> None:
    assert len(bench.STARTS) == 40
    kinds = Counter(start.kind for start in bench.STARTS)
    assert len(kinds) == 13
    assert min(kinds.values()) == 2
    assert len({(start.kind, start.tried) for start in bench.STARTS}) == 40


@pytest.mark.parametrize(
    ("lines", "trials", "status", "fault"),
    [
        ([FAULT], [], 1, ""),
        ([FAULT], [GIVEN_BACK], 1, ""),
        ([FAULT], [], 2, "exit status 2"),
        ([FAULT], [], 0, "exit status 0"),
        ([], [], 1, "no line has"),
        (["autoresearch run: something else"], [], 1, "no line has"),
        ([FAULT, "and how"], [], 1, "more than a line: and how"),
        ([FAULT], [TRIAL], 1, "something was measured"),
        ([FAULT], [CUT_OFF], 1, "something was measured"),
        (["Traceback (most recent call last):", FAULT], [], 1, "a traceback"),
    ],
)
def test_a_refusal(judge: Judge, lines: list[str], trials: list[TrialRow], status: int, fault: str) -> None:
    found = judge([(9.0, line) for line in lines], trials, status, named="not understood", status=1)
    assert bool(found) == bool(fault)
    assert fault in found


def test_a_notice_comes_before_the_first_trial(judge: Judge) -> None:
    shows = ("^ended: ",)
    ended = (20.0, "ended:  1 second reached")
    assert judge([(9.0, FAULT), ended], [TRIAL], 0, named="not understood", shows=shows) == ""
    assert "had begun" in judge([(10.5, FAULT), ended], [TRIAL], 0, named="not understood", shows=shows)
    assert "no line has" in judge([(9.0, FAULT)], [TRIAL], 0, named="not understood", shows=shows)
    assert "no line has" in judge([ended], [TRIAL], 0, named="not understood", shows=shows)


def test_a_limit_is_lost_where_the_run_goes_on_without_a_word(bench: ModuleType) -> None:
    start = bench.Start("limits", "a start", "", named="8 hours", limited=True)
    lines = {"said": [(9.0, "what ends the run: 8 hours")], "silent": [(9.0, "what ends the run: nothing")]}
    lost = {
        (words, len(trials)): bench.Came(lines[words], 0, trials).loses_limit(start)
        for words in lines
        for trials in ([], [TRIAL])
    }
    assert lost == {("said", 0): False, ("said", 1): False, ("silent", 0): False, ("silent", 1): True}


def test_a_command_is_called_as_a_new_user_has_it(bench: ModuleType, tmp_path: Path) -> None:
    place, begun = bench.Place(tmp_path, {"PATH": "/usr/bin:/bin"}), time.time()
    came = place.call("echo one; echo two >&2; exit 3", tmp_path, {})
    assert [line for _, line in came.lines] == ["one", "two"]
    assert begun <= came.lines[0][0] <= came.lines[1][0] <= time.time()
    assert (came.status, came.trials) == (3, [])
