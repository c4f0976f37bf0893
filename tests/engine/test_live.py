"""live.json: what those who watch a run read of its driver."""

import json
import math
import os
from itertools import pairwise

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.engine.live import MAX_CURVE_POINTS, MAX_LOG_LINES, Live, LiveWriter, Waiting, read_live
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


def test_it_tells_experiment_run_report_and_curve_of_the_running_trial(folder, writer, clock):
    writer.begins(7)
    assert (read_live(folder).experiment, read_live(folder).run) == (7, "")
    writer.begins(7, "run 2")
    for second in (1, 2, 3):
        clock.now += 1
        writer.progress(training(second))
    live = read_live(folder)
    assert (live.experiment, live.run, live.at) == (7, "run 2", 1003.0)
    assert live.report == training(3)
    assert live.curve == tuple((float(second), 4.0 - second / 60) for second in (1, 2, 3))
    writer.begins(7, "champion's run 3")
    assert (read_live(folder).curve, read_live(folder).report) == ((), {})
    writer.progress(training(1, budget_seconds=None, budget_steps=10))
    assert read_live(folder).curve[0][0] == 2.0, "the step, of a budget in steps"
    writer.ends()
    live = read_live(folder)
    assert (live.experiment, live.run, live.report, live.curve) == (None, "", {}, ())


def test_progress_alone_is_written_twice_a_second_and_a_new_phase_at_once(folder, writer, clock):
    writer.begins(1, "run 1")
    writer.progress({"phase": "compile"})
    assert read_live(folder).report == {"phase": "compile"}
    writer.progress(training(1))
    clock.now += 0.4
    writer.progress(training(2))
    assert read_live(folder).report == training(1)
    clock.now += 0.2
    writer.progress(training(3))
    assert read_live(folder).report == training(3)
    assert len(read_live(folder).curve) == 3
    writer.waits(Waiting("503", 1000.0, 1060.0))
    assert read_live(folder).waiting == Waiting("503", 1000.0, 1060.0)
    writer.waits(None)
    assert read_live(folder).waiting is None


@pytest.mark.parametrize("points", [1, 199, 200, 201, 1000])
def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends(folder, clock, points):
    writer = LiveWriter(folder, 0.0, clock)
    writer.begins(1, "run 1")
    for number in range(points):
        writer.progress(training(number, loss=1.0))
    writer.says("at once")
    at = [x for x, _ in read_live(folder).curve]
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
    writer.begins(1, "run 1")
    hostile = {"phase": "tr\x1b]0;ain\x07\nx", "loss": math.nan, "elapsed_seconds": math.inf, "n": 10**400, "list": [1]}
    writer.progress({**hostile, "ok": True})
    live = read_live(folder)
    assert live.report == {"phase": "tr x", "loss": None, "elapsed_seconds": None, "n": None, "ok": True}
    assert live.curve == ()
    json.loads(folder.live.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"pid": 1',
        "\udcff",
        "[" * 100_000,
        '{"pid": 1e999}',
        *(
            json.dumps({**json.loads(whole), name: value})
            for whole in ['{"pid":1,"at":1,"experiment":1,"run":"","report":{},"curve":[],"waiting":null,"log":[]}']
            for name, value in [
                ("at", "now"),
                ("at", 1e300),
                ("report", 3),
                ("curve", [[1]]),
                ("curve", {}),
                ("waiting", {"what": "x"}),
                ("waiting", {"what": 3, "since": 1, "again_at": 1}),
                ("run", None),
                ("log", [[1, 2]]),
            ]
        ),
    ],
)
def test_what_no_driver_wrote_is_read_as_nothing(folder, content):
    folder.live.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert read_live(folder) is None


def test_where_it_cannot_be_written_nothing_happens(tmp_path):
    writer = LiveWriter(RunFolder(tmp_path / "gone"))
    writer.begins(1)
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
