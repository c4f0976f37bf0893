"""A pool of workers on one host: the executor, the places of its workers, and two real trials beside each other."""

import os
import signal
import threading
from pathlib import Path

import pytest
from executor_contract import ProcessMeasurer, Trials, check_answers, check_running

from autoresearch_jax.errors import UsageError
from autoresearch_jax.executors.base import Work
from autoresearch_jax.executors.places import Place, divide_devices, divide_processors, processor_cores
from autoresearch_jax.executors.pool import PoolExecutor
from autoresearch_jax.types import Candidate, Measurement, Status

SMT = [(0, 8), (1, 9), (2, 10), (3, 11), (4, 12)]


def pool() -> PoolExecutor:
    return PoolExecutor([ProcessMeasurer(), ProcessMeasurer()])


def test_a_pool_keeps_the_contract(tmp_path: Path) -> None:
    check_answers(pool, tmp_path)
    check_running(pool, tmp_path)


def test_an_interrupt_leaves_trials_at_work(tmp_path: Path) -> None:
    trials = Trials(pool(), tmp_path)
    ticket = trials.submit("hang")
    assert trials.has_begun(1)
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        trials.executor.next_finished()
    assert trials.left()
    assert trials.executor.next_finished(0) is None
    trials.executor.cancel(ticket)
    assert trials.left() == []


def test_hundreds_of_trials_wait_their_turn() -> None:
    class Instant:
        def measure(self, candidate: Candidate, *, seed: int, **options: object) -> Measurement:
            return Measurement(Status.OK, float(seed), seed)

        def close(self) -> None:
            pass

    executor = PoolExecutor([Instant(), Instant()])
    tickets = [executor.submit(Work(Candidate("", ""), seed, Path("logs"), Path("snapshot"))) for seed in range(500)]
    found = [executor.next_finished() for _ in tickets]
    assert {finished.ticket: finished.result().seed for finished in found} == dict(
        zip(tickets, range(500), strict=True)
    )


def test_processors_are_divided_by_cores_and_alike() -> None:
    assert [sorted(place.cpus) for place in divide_processors(2, SMT)] == [[0, 1, 8, 9], [2, 3, 10, 11]]
    assert [sorted(place.cpus) for place in divide_processors(2, [(0, 2), (1,)])] == [[0], [1]]
    with pytest.raises(UsageError, match=r"--workers=6: there are 5 processor cores .*--workers=5"):
        divide_processors(6, SMT)
    own = os.sched_getaffinity(0)
    assert {cpu for core in processor_cores() for cpu in core} == own
    with Place(cpus=frozenset([min(own)])).taken():
        assert os.sched_getaffinity(0) == {min(own)}
    assert os.sched_getaffinity(0) == own


def test_each_worker_has_a_device_of_those_that_the_user_chose() -> None:
    places = divide_devices(None, "cuda", 2, {"CUDA_VISIBLE_DEVICES": "3, 5"})
    assert [dict(place.variables) for place in places] == [
        {"CUDA_VISIBLE_DEVICES": "3"},
        {"CUDA_VISIBLE_DEVICES": "5"},
    ]
    with pytest.raises(UsageError, match=r"--workers=2: there is 1 GPU .*--workers=1"):
        divide_devices(2, "cuda", 1, {})
    chips = divide_devices(4, "tpu", 4, {})
    assert [place.variables["TPU_VISIBLE_CHIPS"] for place in chips] == ["0", "1", "2", "3"]
    assert len({place.variables["TPU_PROCESS_PORT"] for place in chips}) == 4
