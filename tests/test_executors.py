"""Trials run in their order, in the thread that waits for them."""

from pathlib import Path

import pytest

from autoresearch_jax.executors import LocalExecutor, Work
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
    found = [executor.next_finished() for _ in tickets]
    assert [ticket for ticket, _ in found] == tickets
    assert [measurement.value for _, measurement in found] == [3.0, 4.0]
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
    assert executor.next_finished()[0] == ticket
