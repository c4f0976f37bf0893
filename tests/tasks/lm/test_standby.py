"""The next trial's process, waiting beside a trial: it serves, disturbs nobody, is replaced, leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from lm_trials import MakeTask, run_trial
from marked_processes import MARK, comes_true, marked_processes

from autoresearch_jax.sandbox.process import JsonWorker
from autoresearch_jax.tasks.lm import standby
from autoresearch_jax.tasks.lm.device import WAITING_WORKER, start_worker
from autoresearch_jax.tasks.lm.standby import Workers
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Candidate, Measurement, Scalar, Status

START_SECONDS = 60.0


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

    def start(log_path: Path) -> JsonWorker:
        return start_worker("cpu", 1, log_path, environment=environment, compile_cache_dir=None)

    def start_waiting(log_path: Path) -> JsonWorker:
        nowhere = "none_such"  # a platform that nobody misses who takes no device
        return start_worker(
            nowhere, 1, log_path, environment=environment, compile_cache_dir=None, module=WAITING_WORKER
        )

    workers = Workers(start, start_waiting, tmp_path / "standby.log")
    yield workers
    workers.close()


def waiting(folder: Path) -> list[int]:
    """Process ids of what waits, guards left out."""
    return [pid for pid in marked_processes(str(folder)) if _argv(pid)[1:] == ["-m", WAITING_WORKER]]


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


def test_what_waits_touches_no_device_prints_to_the_trial_s_log_and_has_the_usual_priority(
    workers: Workers, patience: None, tmp_path: Path
) -> None:
    workers.start_standby()
    (pid,) = _after(lambda: waiting(tmp_path))
    workers.start_standby()
    assert waiting(tmp_path) == [pid]  # one is enough
    worker = workers.take(tmp_path / "trial.log")
    assert worker.receive(START_SECONDS) == {"event": "ready"}
    assert waiting(tmp_path) == [pid]
    if hasattr(os, "SCHED_IDLE"):
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    worker.send({"op": "devices"})  # fails, since there is no such platform: it had not been asked for before
    assert worker.receive(START_SECONDS)["event"] == "failed"
    worker.close()
    assert "none_such" in (tmp_path / "trial.log").read_text()
    assert (tmp_path / "standby.log").read_text() == ""


def test_one_that_died_while_it_waited_is_replaced(workers: Workers, tmp_path: Path) -> None:
    workers.start_standby()
    (pid,) = _after(lambda: waiting(tmp_path))
    os.kill(pid, signal.SIGKILL)
    assert comes_true(lambda: not waiting(tmp_path))
    _expect_another(workers, tmp_path)


def test_one_that_is_not_ready_is_not_waited_for(workers: Workers, tmp_path: Path) -> None:
    workers.start_standby()
    (pid,) = _after(lambda: waiting(tmp_path))
    os.kill(pid, signal.SIGSTOP)  # as where others want all of the machine's time
    _expect_another(workers, tmp_path)
    assert waiting(tmp_path) == []


def test_without_a_log_for_it_nothing_waits(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    environment = {**os.environ, MARK: str(tmp_path)}
    task = make_task(environment=environment)
    assert run_trial(task, tiny_source, tmp_path / "trial").status is Status.OK
    assert marked_processes(str(tmp_path)) == []


def test_what_waits_ends_with_its_driver(environment: Mapping[str, str], tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
from autoresearch_jax.tasks.lm import standby
from autoresearch_jax.tasks.lm.device import WAITING_WORKER, start_worker
worker = start_worker(
    "cpu", 1, Path({str(tmp_path / "log")!r}), environment=os.environ, compile_cache_dir=None, module=WAITING_WORKER
)
print(worker.receive(60.0), flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "{'event': 'waiting'}\n"
        assert len(marked_processes(str(tmp_path))) == 3  # driver, guard, what waits
        driver.kill()
    assert comes_true(lambda: not marked_processes(str(tmp_path)))


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
