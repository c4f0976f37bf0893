"""live.json: what those who watch a run read of its driver."""

import json
import math
import os
from itertools import pairwise

import pytest
from fakes import FakeTask, ScriptedProposer, moved
from ledgers import experiment_row

from autoresearch_jax.engine.live import MAX_CURVE_POINTS, MAX_LOG_LINES, Live, LiveWriter, Running, Waiting, read_live
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.proposers.base import ServiceDown


class Now:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Now:
    return Now()


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def writer(folder, clock) -> LiveWriter:
    return LiveWriter(folder, clock=clock)


def training(seconds: float, **more) -> dict:
    report = {"phase": "train", "elapsed_seconds": seconds, "budget_seconds": 60.0, "budget_steps": None}
    return {**report, "step": int(2 * seconds), "loss": 4.0 - seconds / 60, **more}


def test_a_driver_that_has_done_nothing_yet_is_there(folder, writer, clock):
    assert read_live(folder) == Live(os.getpid(), 1000.0)
    assert [path.name for path in folder.path.iterdir()] == ["live.json"], "nothing half-written is left"


def now(folder: RunFolder) -> list[tuple[int, str]]:
    """Experiments and runs that live.json has."""
    return [(one.experiment, one.run) for one in read_live(folder).trials]


def test_it_tells_experiment_run_report_and_curve_of_the_running_trial(folder, writer, clock):
    writer.begins(experiment_row(7, hypothesis="a\x1b[2J wider\nmodel", proposer="gemini"))
    (preparing,) = read_live(folder).trials
    assert preparing == Running(7, "gemini", "a wider model", report={"phase": "prepare"})
    writer.measures(experiment_row(7), 20, "run 2")
    for second in (1, 2, 3):
        clock.now += 1
        writer.progress(20, training(second))
    live = read_live(folder)
    (trial,) = live.trials
    assert (trial.experiment, trial.trial, trial.run, live.at) == (7, 20, "run 2", 1003.0)
    assert trial.report == training(3)
    assert trial.curve == tuple((float(second), 4.0 - second / 60) for second in (1, 2, 3))
    writer.measured(20)
    assert now(folder) == [(7, "")], "it is decided on"
    writer.measures(experiment_row(7), 21, "champion's run 3")
    writer.progress(20, training(4))
    (trial,) = read_live(folder).trials
    assert (trial.run, trial.curve, trial.report) == ("champion's run 3", (), {}), "what is over reports no more"
    writer.progress(21, training(1, budget_seconds=None, budget_steps=10))
    assert read_live(folder).trials[0].curve[0][0] == 2.0, "the step, of a budget in steps"
    writer.measured(21)
    writer.ends(7)
    assert now(folder) == []


def test_several_trials_begin_and_end_without_a_word_on_the_others(folder, writer, clock):
    rows = [experiment_row(number) for number in range(4)]
    for trial in (1, 2, 3):
        writer.begins(rows[trial])
        writer.measures(rows[trial], trial, "run 1")
        clock.now += 1
        writer.progress(trial, training(trial))
    writer.begins(experiment_row(9))
    assert now(folder) == [(1, "run 1"), (2, "run 1"), (3, "run 1"), (9, "")]
    writer.measured(2)
    writer.ends(2)
    writer.ends(8)
    assert now(folder) == [(1, "run 1"), (3, "run 1"), (9, "")]
    writer.measures(rows[1], 4, "champion's run 5")
    assert now(folder) == [(1, "run 1"), (3, "run 1"), (1, "champion's run 5")], "nothing is prepared meanwhile"
    assert [one.curve for one in read_live(folder).trials] == [((1.0, 4 - 1 / 60),), ((3.0, 3.95),), ()]
    writer.measures(rows[1], 1, "run 1")
    assert now(folder) == [(3, "run 1"), (1, "champion's run 5"), (1, "run 1")], "one that is run again begins anew"
    writer.clear()
    assert now(folder) == []


def test_progress_alone_is_written_twice_a_second_and_a_new_phase_at_once(folder, writer, clock):
    def report():
        return read_live(folder).trials[0].report

    writer.measures(experiment_row(1), 5, "run 1")
    writer.progress(5, {"phase": "compile"})
    assert report() == {"phase": "compile"}
    writer.progress(5, training(1))
    clock.now += 0.4
    writer.progress(5, training(2))
    assert report() == training(1)
    clock.now += 0.2
    writer.progress(5, training(3))
    assert report() == training(3)
    assert len(read_live(folder).trials[0].curve) == 3
    writer.waits(Waiting("503", 1000.0, 1060.0))
    assert read_live(folder).waiting == Waiting("503", 1000.0, 1060.0)
    writer.waits(None)
    assert read_live(folder).waiting is None


@pytest.mark.parametrize("points", [1, 1000])
def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends(folder, clock, points):
    writer = LiveWriter(folder, 0.0, clock)
    writer.measures(experiment_row(1), 1, "run 1")
    for number in range(points):
        writer.progress(1, training(number, loss=1.0))
    writer.says("at once")
    at = [x for x, _ in read_live(folder).trials[0].curve]
    assert (at[0], at[-1]) == (0.0, points - 1.0)
    assert min(points, MAX_CURVE_POINTS // 2) <= len(at) <= MAX_CURVE_POINTS
    gaps = {b - a for a, b in pairwise(at[:-1])}
    assert len(gaps) <= 1


def test_the_log_has_the_last_lines_with_their_times(folder, writer, clock):
    for number in range(MAX_LOG_LINES + 5):
        clock.now += 1
        writer.says(f"line\n{number}\x1b[31m")
    log = read_live(folder).log
    assert len(log) == MAX_LOG_LINES
    assert log[-1] == (clock.now, f"line {MAX_LOG_LINES + 4}")


def test_what_a_trial_reports_is_made_harmless(folder, writer):
    writer.measures(experiment_row(1), 1, "run 1")
    hostile = {"phase": "tr\x1b]0;ain\x07\nx", "loss": math.nan, "elapsed_seconds": math.inf, "n": 10**400, "list": [1]}
    writer.progress(1, {**hostile, "ok": True})
    (trial,) = read_live(folder).trials
    assert trial.report == {"phase": "tr x", "loss": None, "elapsed_seconds": None, "n": None, "ok": True}
    assert trial.curve == ()
    json.loads(folder.live.read_text(), parse_constant=pytest.fail)


WHOLE = {"pid": 1, "at": 1, "trials": [], "waiting": None, "log": [], "down": None}
TRIAL = {"experiment": 1, "proposer": "", "hypothesis": "", "trial": 0, "run": "", "report": {}, "curve": []}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"pid": 1',
        "\udcff",
        "[" * 100_000,
        '{"pid": 1e999}',
        *(
            json.dumps({**WHOLE, **change})
            for change in [
                {"at": 1e300},
                {"waiting": {"what": 3, "since": 1, "again_at": 1}},
                {"log": [[1, 2]]},
                *({"trials": [{**TRIAL, name: value}]} for name, value in [("curve", [[1]]), ("run", None)]),
            ]
        ),
    ],
)
def test_what_no_driver_wrote_is_read_as_nothing(folder, content):
    folder.live.write_text(json.dumps({**WHOLE, "trials": [TRIAL]}))
    assert now(folder) == [(1, "")]
    folder.live.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert read_live(folder) is None


def test_where_it_cannot_be_written_nothing_happens(tmp_path):
    writer = LiveWriter(RunFolder(tmp_path / "gone"))
    writer.begins(experiment_row(1))
    writer.says("still here")
    assert read_live(RunFolder(tmp_path / "gone")) is None


def test_a_new_driver_removes_what_an_earlier_one_left(folder, writer):
    with folder.lock():
        assert read_live(folder) is None


class Down(ScriptedProposer):
    """A service that does not answer twice."""

    times = 2

    def propose(self, brief):
        if self.times:
            self.times -= 1
            raise ServiceDown("503 from\nthe service", 0.05)
        return super().propose(brief)


def test_the_loop_tells_what_it_waits_for_and_that_it_is_over(bench):
    told = []
    bench.recorder.waits = lambda what, since, again_at: told.append((what, since, again_at))
    bench.recorder.resumes = lambda: told.append("over")
    bench.loop(FakeTask(), Down([moved(LR=0.1)]), max_experiments=1).run()
    (first, since, again_at), (second, still_since, later), over = told
    assert first == second == "503 from the service"
    assert since == still_since
    assert (again_at - since, later > again_at, over) == (pytest.approx(0.05), True, "over")
    down, back = bench.recorder.notices
    assert down.startswith("503 from the service: ")
    assert "answers again" in back
