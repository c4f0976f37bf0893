"""Trials run in their order, in the thread that waits for them."""

from pathlib import Path

import pytest
from executor_contract import ProcessMeasurer, check_answers

from autoresearch_jax.executors.base import LocalExecutor, Work
from autoresearch_jax.types import Candidate, Measurement, Scrutiny, Status


def work(seed: int) -> Work:
    return Work(Candidate("LR = 1\n", "a hash"), seed, Path("logs"), Path("snapshot"), Scrutiny.KEEP)


def test_trials_run_one_at_a_time_in_their_order():
    seen = []

    def measure(candidate, *, seed, **options):
        seen.append((seed, options["scrutiny"]))
        return Measurement(Status.OK, float(seed), seed)

    executor = LocalExecutor(measure)
    tickets = [executor.submit(work(seed)) for seed in (3, 4)]
    assert (executor.slots, seen) == (1, []), "nothing runs before it is waited for"
    found = [executor.next_finished(timeout=0) for _ in tickets]
    assert [finished.ticket for finished in found] == tickets
    assert [finished.result().value for finished in found] == [3.0, 4.0]
    assert seen == [(3, Scrutiny.KEEP), (4, Scrutiny.KEEP)]


def test_a_trial_that_is_cut_short_is_not_run_again():
    def measure(candidate, *, seed, **options):
        if seed == 3:
            raise KeyboardInterrupt
        return Measurement(Status.OK, 1.0, seed)

    executor = LocalExecutor(measure)
    executor.submit(work(3))
    with pytest.raises(KeyboardInterrupt):
        executor.next_finished()
    ticket = executor.submit(work(4))
    assert executor.next_finished().ticket == ticket
    with pytest.raises(IndexError):
        executor.next_finished()


def test_what_a_task_raises_is_an_answer_and_a_cancelled_trial_has_none():
    def measure(candidate, *, seed, **options):
        raise OSError(f"seed {seed}")

    executor = LocalExecutor(measure)
    cancelled, failing = executor.submit(work(3)), executor.submit(work(4))
    executor.cancel(cancelled)
    finished = executor.next_finished()
    executor.cancel(failing)
    assert (finished.ticket, finished.measurement) == (failing, None)
    with pytest.raises(OSError, match="seed 4"):
        finished.result()
    executor.submit(work(5))
    executor.close()
    with pytest.raises(IndexError):
        executor.next_finished()


def test_the_contract_is_kept(tmp_path):
    check_answers(lambda: LocalExecutor(ProcessMeasurer().measure), tmp_path)
