"""How the driver runs a trial's processes: ones that die, fail or hang, and the standby."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from lm_trials import MakeTask, measure_request, run_trial
from marked_processes import MARK, comes_true, marked_processes

from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.sandbox.priority import divides_by_session
from autoresearch_jax.sandbox.process import JsonWorker
from autoresearch_jax.tasks.lm import trial as standby
from autoresearch_jax.tasks.lm.cage import FileAccess
from autoresearch_jax.tasks.lm.config import TimeLimits
from autoresearch_jax.tasks.lm.device import STANDBY_WORKER, start_worker
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.tasks.lm.trial import TaskError, TrialRun, Workers
from autoresearch_jax.types import Budget, Candidate, CandidateUntouched, Measurement, Scalar, Status

# Does with each request what the next line of a file says, and writes down what was asked for.
WORKER = """
import json, os, sys, time
from pathlib import Path

def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)

def serve(request, way):
    snapshot, metrics = Path(request["snapshot_dir"]), {"training_seconds": 300.0, "wall_seconds": 1000.0}
    if way == "die untouched":
        print("F1129 05:53:55.8 124 flags.cc:234] Unknown flag", file=sys.stderr, flush=True)
        os._exit(1)
    if way == "fail untouched":
        return emit("failed", reason="Disallowed transfer")
    if way == "hang untouched":
        time.sleep(600)
    emit("phase", phase="startup")
    if way == "fail early":
        return emit("failed", reason="the dataset is gone")
    if way.startswith("full disk"):
        snapshot.with_name(f".{snapshot.name}.partial").mkdir()
        if way.endswith("judge"):
            snapshot.mkdir()
            emit("phase", phase="judge")
        return emit("failed", reason="no room", disk={"errno": 28, "path": str(snapshot.parent / "data")})
    if way == "unfit":
        return emit("unfit", reason="it was changed")
    if request["op"] == "measure":
        emit("phase", phase="train")
        if way == "stand still":
            time.sleep(600)
        if way == "die early":
            os._exit(3)
        emit("phase", phase="snapshot")
        if way == "slow disk":
            snapshot.with_name(f".{snapshot.name}.partial").mkdir()
            time.sleep(600)
        snapshot.mkdir()
    emit("phase", phase="judge", limit_seconds=0.1)
    if way == "hang":
        time.sleep(600)
    if way == "be killed":
        os.kill(os.getpid(), 9)
    if way == "die":
        os._exit(3)
    if way == "fail":
        return emit("failed", reason="a mistake of ours")
    emit("result", status="ok", value=1.5, error=None, snapshot=str(snapshot), metrics=metrics)

ways = Path("ways")
for line in sys.stdin:
    request = json.loads(line)
    way, *rest = ways.read_text().splitlines()
    ways.write_text(chr(10).join(rest))
    with open("asked", "a") as file:
        print(request["op"], os.getppid(), file=file)
    serve(request, way)
"""

START_SECONDS = 60.0


class Bench:
    """Runs one trial after the other in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.snapshot_dir = folder / "snapshot"
        self.reports: list[Mapping[str, Scalar]] = []

    def run(self, *ways: str, **limits: float) -> Measurement:
        (self.folder / "ways").write_text("\n".join(ways))
        request = measure_request(self.folder, seed=7, budget=Budget(steps=1), limits=TimeLimits(**limits))
        trial = TrialRun(
            request,
            facts={"num_params": 5},
            log_path=self.folder / "log",
            start_worker=self._start_worker,
            on_progress=self.reports.append,
        )
        return trial.run(self._start_worker())

    def asked(self) -> list[str]:
        """What the processes were asked for."""
        return [line.rpartition(" ")[0] for line in self._asked()]

    def num_processes(self) -> int:
        return len({line.rpartition(" ")[2] for line in self._asked()})

    def _asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def _start_worker(self) -> JsonWorker:
        command = [sys.executable, "-c", WORKER]
        return JsonWorker(command, environment=os.environ, cwd=self.folder, log_path=self.folder / "log")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_trial_that_nothing_befalls_is_judged_once(bench: Bench) -> None:
    measured = bench.run("go well")
    assert (measured.status, measured.value, measured.seed) == (Status.OK, 1.5, 7)
    assert measured.metrics.keys() == {"num_params", "training_seconds", "wall_seconds", "total_seconds"}
    assert float(measured.metrics["total_seconds"] or 0) < 1000
    assert measured.snapshot == bench.snapshot_dir
    assert bench.asked() == ["measure"]


@pytest.mark.parametrize("mishap", ["be killed", "fail"])
def test_what_befalls_the_judge_alone_costs_the_judging(mishap: str, bench: Bench) -> None:
    measured = bench.run(mishap, "go well")
    assert (measured.status, measured.value) == (Status.OK, 1.5)
    assert bench.asked() == ["measure", "judge again"]
    assert bench.num_processes() == 2
    assert [report["phase"] for report in bench.reports].count("train") == 1


@pytest.mark.parametrize(
    ("mishap", "status", "words"),
    [("be killed", Status.OOM, "was killed by SIGKILL"), ("die", Status.CRASH, "exited with status 3")],
)
def test_it_is_given_up_after_one_more_time(mishap: str, status: Status, words: str, bench: Bench) -> None:
    measured = bench.run(mishap, mishap, "go well")
    assert (measured.status, measured.value) == (status, None)
    assert words in (measured.error or "")
    assert "during judge, judged again; see " in (measured.error or "")
    assert measured.snapshot == bench.snapshot_dir
    with pytest.raises(TaskError, match="the trial process failed: a mistake of ours; see "):
        bench.run("fail", "fail", "go well")  # no fault of the candidate


def test_without_a_snapshot_there_is_nothing_to_judge_again(bench: Bench) -> None:
    measured = bench.run("die early", "go well")
    assert (measured.status, measured.snapshot, measured.metrics) == (Status.CRASH, None, {})
    assert (measured.error or "").startswith("the worker process exited with status 3 during train; see")
    with pytest.raises(TaskError, match="the dataset is gone"):
        bench.run("fail early", "go well")
    assert bench.asked() == ["measure", "measure"]


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("die untouched", "the worker process exited with status 1: Unknown flag; see "),
        ("fail untouched", "the trial process failed: Disallowed transfer; see "),
        ("hang untouched", "no answer within "),
    ],
)
@pytest.mark.parametrize("before", [(), ("die",)])
def test_a_process_that_had_not_read_the_programs_says_nothing_of_the_candidate(
    before: tuple[str, ...], way: str, words: str, bench: Bench
) -> None:
    (bench.folder / "log").write_text("F1129 05:53:55.8 124 flags.cc:234] words of an earlier trial\n")
    with pytest.raises(CandidateUntouched, match=words):
        bench.run(*before, way, startup=3.0 if way.startswith("hang") else START_SECONDS)
    assert bench.snapshot_dir.exists() == bool(before)  # it waits to be judged
    assert bench.run("go well").status is Status.OK


def test_a_variable_that_ends_each_trial_is_no_fault_of_the_candidate(
    make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_no_such_flag=1"}
    words = "exited with status 1: Unknown flag in XLA_FLAGS: --xla_no_such_flag"
    task = make_task(Budget(seconds=5.0), clock="attended", environment=environment)
    with pytest.raises(CandidateUntouched, match=f"{words}.*; see .*worker.log; it inherits .*XLA_FLAGS"):
        run_trial(task, tiny_source, tmp_path / "trial")
    with pytest.raises(CandidateUntouched, match=f"{words}.*; see .*reference.log; it inherits "):
        task.calibrate(None, tmp_path)


def test_a_variable_that_ends_each_process_is_no_fault_of_the_candidate(
    make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    task = make_task(environment={**os.environ, "JAX_TRANSFER_GUARD": "perhaps"})
    with pytest.raises(CandidateUntouched, match='exited with status 1: ValueError: Invalid value "perhaps" for JAX'):
        task.prepare(tiny_source, tmp_path)


def test_a_judge_that_takes_too_long_is_not_asked_again(bench: Bench) -> None:
    measured = bench.run("hang", "go well", judge=0.2)
    assert (measured.status, measured.error) == (Status.TIMEOUT, "judge took longer than 0.2 s")
    assert measured.snapshot == bench.snapshot_dir
    assert bench.asked() == ["measure"]


def test_a_program_that_never_ends_costs_what_it_may_take_and_little_more(bench: Bench) -> None:
    measured = bench.run("hang", "go well", judge_slack=0.1)
    words = "judge took too long: `logits` did not end within 0.2 s"
    assert (measured.status, measured.error) == (Status.TIMEOUT, words)
    assert bench.asked() == ["measure"]
    bench.snapshot_dir.rmdir()
    measured = bench.run("stand still", train_report=0.2)
    assert (measured.status, measured.error) == (Status.TIMEOUT, "train took too long: `step` did not end within 0.2 s")


def test_a_slow_disk_is_no_fault_of_the_candidate(bench: Bench) -> None:
    with pytest.raises(TaskError, match=f"the disk that holds {bench.folder} is slow") as caught:
        bench.run("slow disk", snapshot=0.2)
    assert "takes too long" in (disk_trouble(caught.value) or "")
    assert list(bench.folder.glob(".*.partial")) == []


def test_a_snapshot_that_is_there_is_judged_and_its_training_counted(bench: Bench) -> None:
    bench.snapshot_dir.mkdir()
    measured = bench.run("go well")
    assert (measured.status, measured.value) == (Status.OK, 1.5)
    assert 1000 < float(measured.metrics["total_seconds"] or 0) < 2000
    assert bench.asked() == ["judge again"]


def test_a_snapshot_that_is_there_and_unfit_makes_room(bench: Bench) -> None:
    bench.snapshot_dir.mkdir()
    (bench.snapshot_dir / "file").touch()
    measured = bench.run("unfit", "go well")
    assert (measured.status, measured.value) == (Status.OK, 1.5)
    assert float(measured.metrics["total_seconds"] or 0) < 1000
    assert bench.asked() == ["judge again", "measure"]
    assert bench.num_processes() == 1
    assert list(bench.snapshot_dir.iterdir()) == []


def test_a_trial_s_own_snapshot_that_is_damaged_is_told(bench: Bench) -> None:
    with pytest.raises(TaskError, match="the trial cannot be judged again: it was changed; see "):
        bench.run("die", "unfit", "go well")
    assert bench.snapshot_dir.exists()


@pytest.mark.parametrize("before", ["startup", "judge"])
def test_a_trial_that_the_disk_fails_says_so_at_once_and_leaves_nothing_half_written(before: str, bench: Bench) -> None:
    with pytest.raises(TaskError, match="the trial process failed: no room; see ") as caught:
        bench.run(f"full disk at {before}", "go well")
    assert (disk_trouble(caught.value) or "").startswith(f"{bench.folder}/data: the disk is full: ")
    assert bench.asked() == ["measure"]
    assert list(bench.folder.glob(".*.partial")) == []


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine, what waits becomes ready."""
    monkeypatch.setattr(standby, "PATIENCE_SECONDS", START_SECONDS)


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    return {**os.environ, MARK: str(tmp_path)}


@pytest.fixture
def workers(environment: Mapping[str, str], tmp_path: Path) -> Iterator[Workers]:
    """Real processes for trials; what waits prints to standby.log."""

    def starting(platform: str, **module: tuple[str, ...]) -> Callable[[Path], JsonWorker]:
        return partial(
            start_worker, platform, 1, environment=environment, compile_cache_dir=None, reach=FileAccess(), **module
        )

    # a standby does not miss the platform as long as it takes no device
    workers = Workers(starting("cpu"), starting("none_such", module=STANDBY_WORKER), tmp_path / "standby.log")
    yield workers
    workers.close()


def waiting(folder: Path) -> list[int]:
    """Process ids of what waits, guards left out."""
    return [pid for pid in marked_processes(str(folder)) if _argv(pid)[1:] == ["-m", *STANDBY_WORKER]]


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:  # gone meanwhile
        return []


def measured(
    task: LmTask,
    candidate: Candidate,
    folder: Path,
    on_progress: Callable[[Mapping[str, Scalar]], None] | None = None,
) -> Measurement:
    folder.mkdir()
    return task.measure(candidate, seed=0, log_dir=folder, snapshot_dir=folder / "snapshot", on_progress=on_progress)


@pytest.mark.slow
def test_a_trial_in_a_process_that_waited_is_as_any_other(
    make_task: MakeTask, tiny_source: str, environment: Mapping[str, str], patience: None, tmp_path: Path
) -> None:
    alone = run_trial(make_task(), tiny_source, tmp_path / "alone")
    task = make_task(standby=True, environment=environment)
    (tmp_path / "prepared").mkdir()
    candidate = task.prepare(tiny_source, tmp_path / "prepared")
    assert waiting(tmp_path) == []  # nothing is made ready before there is a trial
    first = measured(task, candidate, tmp_path / "first")
    (pid,) = waiting(tmp_path)
    at_work: list[list[int]] = []
    second = measured(task, candidate, tmp_path / "second", lambda report: at_work.append(waiting(tmp_path)))
    assert at_work[0] == [pid]
    assert len(at_work[-1]) == 2  # the one that waits for the third
    assert first.value == second.value == alone.value
    assert pid not in waiting(tmp_path)
    assert len(waiting(tmp_path)) == 1
    task.close()
    assert marked_processes(str(tmp_path)) == []


@pytest.mark.slow
def test_what_waits_touches_no_device_prints_to_the_trial_s_log_and_has_the_usual_priority(
    workers: Workers, patience: None, tmp_path: Path
) -> None:
    workers.warm_up()
    (pid,) = _after(lambda: waiting(tmp_path))
    workers.warm_up()
    assert waiting(tmp_path) == [pid]  # one is enough
    worker = workers.take(tmp_path / "trial.log")
    assert worker.receive(START_SECONDS) == {"event": "ready"}
    assert waiting(tmp_path) == [pid]
    if hasattr(os, "SCHED_IDLE"):
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    if divides_by_session():
        assert Path(f"/proc/{pid}/autogroup").read_text().endswith(" nice 0\n")
    worker.send({"op": "devices"})  # fails, since there is no such platform: it had not been asked for before
    assert worker.receive(START_SECONDS)["event"] == "failed"
    worker.close()
    assert "none_such" in (tmp_path / "trial.log").read_text()
    assert (tmp_path / "standby.log").read_text() == ""


def test_one_that_died_while_it_waited_is_replaced(workers: Workers, tmp_path: Path) -> None:
    workers.warm_up()
    (pid,) = _after(lambda: waiting(tmp_path))
    os.kill(pid, signal.SIGKILL)
    assert comes_true(lambda: not waiting(tmp_path))
    _expect_another(workers, tmp_path)


@pytest.mark.slow
def test_one_that_is_not_ready_is_not_waited_for(workers: Workers, tmp_path: Path) -> None:
    workers.warm_up()
    (pid,) = _after(lambda: waiting(tmp_path))
    os.kill(pid, signal.SIGSTOP)  # as where others want all of the machine's time
    _expect_another(workers, tmp_path)
    assert waiting(tmp_path) == []


def _expect_another(workers: Workers, tmp_path: Path) -> None:
    worker = workers.take(tmp_path / "trial.log")
    try:
        assert worker.receive(START_SECONDS) == {"event": "ready"}
        worker.send({"op": "devices"})
        assert worker.receive(START_SECONDS)["platform"] == "cpu"
    finally:
        worker.close()


def _after(find: Callable[[], list[int]]) -> list[int]:
    assert comes_true(lambda: bool(find()))
    return find()
